// A page under test. Knows how to open a file and how to hear what goes wrong in it.
import assert from "node:assert/strict";
import { pathToFileURL } from "node:url";

/** Opens `file`; its `troubles` collects script errors, console errors, dialogs, and requests that leave the file. */
export async function open(context, file) {
  const page = await context.newPage();
  const troubles = [];
  const url = pathToFileURL(file).href;
  page.on("pageerror", error => troubles.push(`script error: ${error.message}`));
  page.on("console", message => {
    if (["error", "warning"].includes(message.type())) troubles.push(`console: ${message.text()}`);
  });
  page.on("dialog", dialog => {
    troubles.push(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  page.on("request", request => {
    if (request.url() !== url) troubles.push(`request: ${request.url()}`);
  });
  await page.goto(url, { waitUntil: "load", timeout: 120_000 });
  return { page, troubles };
}

export const no = troubles => assert.deepEqual(troubles, []);

/** The least contrast of any visible text in the page with what lies behind it, and which text that is. */
export const contrast = page => page.evaluate(() => {
  const parse = colour => {
    const [r, g, b, a = 1] = colour.match(/[\d.]+/g).map(Number);
    return { r, g, b, a };
  };
  const over = (top, below) => {
    const mix = channel => top[channel] * top.a + below[channel] * (1 - top.a);
    return { r: mix("r"), g: mix("g"), b: mix("b"), a: 1 };
  };
  const light = ({ r, g, b }) => [r, g, b].map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = element => {
    if (!element) return { r: 255, g: 255, b: 255, a: 1 };
    const own = parse(getComputedStyle(element).backgroundColor);
    return own.a === 1 ? own : over(own, behind(element.parentElement));
  };
  let worst = { ratio: 21, text: "" };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim();
    const element = walker.currentNode.parentElement;
    if (!text || element.closest("script,style,.away") || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const ground = behind(element);
    const ink = over(parse(element instanceof SVGElement ? style.fill : style.color), ground);
    const [high, low] = [light(ink), light(ground)].sort((a, b) => b - a);
    const ratio = (high + .05) / (low + .05);
    seen++;
    if (ratio < worst.ratio) worst = { ratio, text };
  }
  return { ...worst, seen };
});
