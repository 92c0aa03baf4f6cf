// Runs one scenario of the browser's tests: node run.mjs SCENARIO FILE...
// A scenario is a module in scenarios/ with a function `check(browser, files)`; it throws if what it saw is wrong.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { chromium } from "playwright-core";

const [scenario, ...files] = process.argv.slice(2);
const { check } = await import(`./scenarios/${scenario}.mjs`);
const profile = await mkdtemp(join(tmpdir(), "cfs-dag-browser-"));
const context = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM,
  headless: true,
  viewport: { width: 1360, height: 900 },
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});
try {
  await check(context, files.map(file => resolve(file)));
} finally {
  await context.close();
  await rm(profile, { recursive: true, force: true });
}
