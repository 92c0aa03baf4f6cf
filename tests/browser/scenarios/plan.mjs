// The page of five images on one base, of which two share a layer beyond it.
import assert from "node:assert/strict";
import { contrast, no, open } from "../page.mjs";

export async function check(context, [file]) {
  const { page, troubles } = await open(context, file);
  assert.equal(await page.locator(".band").count(), 5);
  assert.equal(await page.locator(".band[open] svg").count(), 5, "bands of a small plan are open");
  await details(page);
  await search(page);
  await click(page);
  await keys(page);
  await themes(page);
  no(troubles);
}

const band = (page, name) => page.locator(".band").filter({ has: page.locator("summary b", { hasText: name }) });
const cell = (page, name, row, kind) =>
  band(page, name).locator(".row").nth(row).locator(`.n[aria-label^="${kind} "]`).first();
const opacity = locator => locator.evaluate(element => Number(getComputedStyle(element).opacity));

async function details(page) {
  await cell(page, "webapp", 2, "fetch").hover();
  const text = await page.locator("#details").innerText();
  for (const part of [/fetch/, /sha256:[0-9a-f]{64}/, /needed: /, /31\.2 MB/, /key/, /webapp:latest/]) assert.match(text, part);
}

async function search(page) {
  await page.fill("#search", "node:22 fetch");
  // The base's two blobs, and the second blob of the layer that it shares with webapp.
  assert.equal(await page.locator("#hits").innerText(), "3 hits");
  assert.equal(await opacity(cell(page, "webapp", 0, "fetch")), 1);
  assert.ok(await opacity(cell(page, "webapp", 0, "split")) < .5, "what is not found is dimmed");
  assert.ok(await opacity(cell(page, "nginx", 1, "fetch")) < .5);
  await page.fill("#search", "no such thing");
  assert.equal(await page.locator("#hits").innerText(), "0 hits");
  await page.keyboard.press("Escape");
  assert.equal(await page.inputValue("#search"), "");
  assert.equal(await opacity(cell(page, "nginx", 1, "fetch")), 1);
}

async function click(page) {
  // The layer `python` is drawn with python:3.13, and jobs:v7 needs it, too.
  await cell(page, "python", 1, "write").click();
  for (const kind of ["fetch", "split", "encode", "finalize"]) {
    assert.equal(await opacity(cell(page, "python", 1, kind)), 1, kind);
  }
  assert.ok(await opacity(cell(page, "python", 2, "write")) < .5, "another layer");
  const ghosts = band(page, "jobs").locator(".n.ghost");
  assert.ok(await opacity(ghosts.nth(0)) < .5, "the base, drawn with webapp");
  assert.equal(await opacity(ghosts.nth(1)), 1, "the layer that is drawn with python");
  assert.equal(await opacity(band(page, "jobs").locator('.n[aria-label^="tag "]')), 1);
  assert.ok(await opacity(band(page, "nginx").locator('.n[aria-label^="tag "]')) < .5);
  assert.equal(await band(page, "jobs").locator("summary em").innerText(), "4 linked");
  const text = await page.locator("#details").innerText();
  assert.match(text, /needs\s+2 steps/);
  assert.match(text, /needed by\s+10 steps/);
  await page.keyboard.press("Escape");
  assert.equal(await opacity(cell(page, "python", 2, "write")), 1);
}

async function keys(page) {
  await band(page, "webapp").locator('.n[tabindex="0"]').focus();
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("ArrowDown");
  const focused = page.locator(".n:focus");
  assert.match(await focused.getAttribute("aria-label"), /^split /);
  assert.match(await page.locator("#details").innerText(), /^split/);
  await page.keyboard.press("Enter");
  assert.equal(await page.locator(".n.chosen").count(), 1);
  await page.keyboard.press("Escape");
  assert.equal(await page.locator(".n.chosen").count(), 0);
}

async function themes(page) {
  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const seen = [];
  await cell(page, "webapp", 2, "fetch").hover();
  for (const [scheme, chosen] of [["light", false], ["dark", false], ["light", true], ["dark", true]]) {
    await page.emulateMedia({ colorScheme: scheme });
    if (chosen) await page.click("#theme");
    seen.push(await ground());
    const worst = await contrast(page);
    assert.ok(worst.seen > 100, "texts were looked at");
    assert.ok(worst.ratio >= 4.5, `${scheme}, chosen: ${chosen}: ${worst.ratio.toFixed(2)} for ${JSON.stringify(worst.text)}`);
  }
  const [light, dark] = seen;
  assert.notEqual(light, dark);
  assert.deepEqual(seen, [light, dark, dark, light], "the button chooses against the system");
}
