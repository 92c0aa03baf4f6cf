// The page of a run's timings: a run of three images on four workers, and one with as many spans as a record may have.
import assert from "node:assert/strict";
import { contrast, no, open } from "../page.mjs";

export async function check(context, [usual, large]) {
  const { page, troubles } = await open(context, usual);
  await whole(page);
  await critical(page);
  await details(page);
  await keys(page);
  await least(page);
  await zoom(page);
  await sorting(page);
  await themes(page);
  await narrow(page);
  no(troubles);
  await page.close();
  await quick(context, large);
}

const group = (page, name) => page.locator(`[data-group="${name}"]`);
const bars = locator => locator.locator("rect[data-n]");
const details_text = page => page.locator("#details").innerText();

/** Everything that the page promises is there, on one time axis. */
async function whole(page) {
  assert.equal(await page.locator("h1").innerText(), "3 images in 7.24 s");
  assert.equal(await group(page, "workers").locator(".lane").count(), 4);
  assert.equal(await group(page, "network").locator(".lane").count(), 3, "so many downloads at once");
  assert.equal(await bars(group(page, "network")).count(), 10, "a transfer each");
  assert.equal(await bars(group(page, "barrier")).count(), 3);
  const plot = await page.locator("#plot").boundingBox();
  for (const id of ["cpu", "network", "disk"]) {
    const area = await page.locator(`#${id}`).boundingBox();
    assert.ok(Math.abs(area.x - plot.x) < 2 && Math.abs(area.width - plot.width) < 2, `${id} has the same axis`);
  }
  const last = await bars(group(page, "barrier")).last().boundingBox();
  assert.ok(last.x + last.width <= plot.x + plot.width + 1, "nothing lies beyond the end");
  assert.match(await page.locator(".facts").innerText(), /2027-01-15 08:00:00 UTC/);
}

/** The parts of the chain lie one after the other and end with a tag. */
async function critical(page) {
  const boxes = await bars(group(page, "critical")).evaluateAll(all => all.map(bar => bar.getBoundingClientRect().toJSON()));
  assert.ok(boxes.length >= 6);
  for (let i = 1; i < boxes.length; i++) assert.ok(boxes[i].left >= boxes[i - 1].right - 1, `part ${i} overlaps`);
  const rows = await page.locator("#chain tbody th").allInnerTexts();
  assert.match(rows[0], /^fetch /);
  assert.match(rows.at(-1), /^tag /);
}

async function details(page) {
  assert.ok(await page.locator("#details").isHidden());
  await bars(group(page, "network")).nth(2).hover();
  const text = await details_text(page);
  for (const part of [/^fetch /, /from – to/, /alone/, /bytes/, /wanted by/, /finished/]) assert.match(text, part);
  assert.ok(await page.locator("#slowest tr.lit").count() >= 1, "its row is lit as well");
  await page.locator("h1").hover();
  assert.ok(await page.locator("#details").isHidden());
  await page.locator("#chain tbody tr").last().click();
  await page.locator("h1").hover();
  assert.match(await details_text(page), /^tag /, "what was chosen stays");
  await page.keyboard.press("Escape");
  assert.ok(await page.locator("#details").isHidden());
}

async function keys(page) {
  await page.locator("#plot").focus();
  await page.keyboard.press("ArrowRight");
  const first = await details_text(page);
  assert.match(first, /^fetch /);
  await page.keyboard.press("ArrowRight");
  assert.notEqual(await details_text(page), first);
  await page.keyboard.press("ArrowDown");
  assert.match(await details_text(page), /^(split|write|encode)/, "a worker's bar");
  await page.keyboard.press("Escape");
}

async function least(page) {
  const shown = () => page.locator("#slowest tbody tr:visible").count();
  const all = await shown();
  await page.selectOption("#least", "1000000");
  assert.ok(await shown() < all);
  assert.ok(await page.locator(".lane rect.off").count() > 0);
  await page.selectOption("#least", "0");
  assert.equal(await shown(), all);
  assert.equal(await page.locator(".lane rect.off").count(), 0);
}

async function zoom(page) {
  const width = async () => (await page.locator("#plot").boundingBox()).width;
  const ticks = () => page.locator("#ticks text").count();
  const [before, coarse] = [await width(), await ticks()];
  await page.click("#in");
  await page.click("#in");
  assert.ok(Math.abs(await width() / before - 4) < .05);
  assert.ok(await ticks() > coarse * 2, "the axis gets finer");
  for (let i = 0; i < 6; i++) await page.click("#in");
  assert.ok(await width() / before < 17, "to a limit");
  const view = await page.locator("#scroll").boundingBox();
  const name = await group(page, "network").locator("text", { hasText: "42.0 MB" }).boundingBox();
  assert.ok(name.x >= view.x && name.x < view.x + view.width, "the name of a long bar stays in sight");
  await page.click("#fit");
  assert.ok(Math.abs(await width() - before) < 1);
}

async function sorting(page) {
  const column = n => page.locator(`#slowest tbody tr > :nth-child(${n})`);
  const numbers = async n => column(n).evaluateAll(cells => cells.map(cell => Number(cell.dataset.v)));
  const is = (list, wrong) => assert.ok(list.every((v, i) => !i || !wrong(list[i - 1], v)), list.join(" "));
  is(await numbers(3), (a, b) => a < b);
  await page.locator("#slowest th button", { hasText: "bytes" }).click();
  is(await numbers(6), (a, b) => a < b);
  await page.locator("#slowest th button", { hasText: "bytes" }).click();
  is(await numbers(6), (a, b) => a > b);
  assert.equal(await page.locator('#slowest th[aria-sort="ascending"]').count(), 1);
  await page.locator("#slowest th button", { hasText: "node" }).click();
  is(await column(1).allInnerTexts(), (a, b) => a.localeCompare(b) > 0);
}

/** The least contrast of a name with the bar under it. */
const names = page => page.evaluate(() => {
  const light = colour => colour.match(/[\d.]+/g).slice(0, 3).map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const texts = [...document.querySelectorAll(".lane text")].filter(text => text.textContent);
  const ratios = texts.map(text => {
    const both = [text, text.previousElementSibling].map(element => light(getComputedStyle(element).fill));
    const [high, low] = both.sort((a, b) => b - a);
    return [(high + .05) / (low + .05), text.textContent];
  });
  return ratios.sort((a, b) => a[0] - b[0])[0];
});

async function themes(page) {
  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const seen = [];
  for (const [scheme, chosen] of [["light", false], ["dark", false], ["light", true], ["dark", true]]) {
    await page.emulateMedia({ colorScheme: scheme });
    if (chosen) await page.click("#theme");
    await page.locator("#chain tbody tr").first().hover();
    seen.push(await ground());
    const [ratio, text] = await names(page);
    assert.ok(ratio >= 4.5, `${scheme}: ${ratio.toFixed(2)} for the name ${text}`);
    // Names lie on bars, which the general look takes for no ground.
    const style = await page.addStyleTag({ content: ".lane text { display: none }" });
    const worst = await contrast(page);
    await style.evaluate(element => element.remove());
    assert.ok(worst.seen > 100, "texts were looked at");
    assert.ok(worst.ratio >= 4.5, `${scheme}, chosen: ${chosen}: ${worst.ratio.toFixed(2)} for ${worst.text}`);
  }
  const [light, dark] = seen;
  assert.notEqual(light, dark);
  assert.deepEqual(seen, [light, dark, dark, light], "the button chooses against the system");
}

/** On a small screen tables scroll by themselves; the page never does sideways. */
async function narrow(page) {
  const before = page.viewportSize();
  await page.setViewportSize({ width: 420, height: 800 });
  const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.ok(over <= 0, `${over} pixels stick out`);
  await page.setViewportSize(before);
}

async function quick(context, file) {
  const began = performance.now();
  const { page, troubles } = await open(context, file);
  await page.locator("#plot").hover();
  await page.click("#in");
  assert.ok(performance.now() - began < 20_000, "on a slow machine that has other work");
  const count = await bars(group(page, "workers")).count();
  assert.ok(count > 1000 && count < 13_000, `${count} bars`);
  no(troubles);
}
