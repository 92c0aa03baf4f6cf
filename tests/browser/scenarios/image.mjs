// SVG files as a page shows them with <img>: well-formed, and of the size that they say.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";

export async function check(context, files) {
  const page = await context.newPage();
  for (const file of files) {
    const text = await readFile(file, "utf8");
    const [, width, height] = text.match(/^<svg [^>]*width="(\d+)" height="(\d+)"/);
    const got = await page.evaluate(async text => {
      const parsed = new DOMParser().parseFromString(text, "image/svg+xml");
      const error = parsed.querySelector("parsererror")?.textContent ?? null;
      const image = new Image();
      image.src = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" }));
      await image.decode();
      document.body.replaceChildren(document.importNode(parsed.documentElement, true));
      const { x, y, width, height } = document.querySelector("svg").getBBox();
      const drawn = [x, y, x + width, y + height].map(Math.round);
      return { error, drawn, width: image.naturalWidth, height: image.naturalHeight, texts: parsed.querySelectorAll("text").length };
    }, text);
    assert.equal(got.error, null, file);
    assert.deepEqual([got.width, got.height], [Number(width), Number(height)], file);
    assert.deepEqual(got.drawn, [0, 0, got.width, got.height], `${file}: all of the picture is inside, and fills it`);
    assert.ok(got.texts > 10, file);
  }
}
