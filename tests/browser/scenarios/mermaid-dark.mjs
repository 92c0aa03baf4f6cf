// Charts on a dark page.
import { check as drawn } from "./mermaid.mjs";

export const check = (context, files) => drawn(context, files, "dark");
