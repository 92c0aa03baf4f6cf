// Pages that are too large to be drawn at once: all bands are closed, each is drawn when it is opened.
import assert from "node:assert/strict";
import { no, open } from "../page.mjs";

export async function check(context, files) {
  for (const file of files) {
    const { page, troubles } = await open(context, file);
    const bands = await page.locator(".band").count();
    assert.ok(bands > 0);
    assert.equal(await page.locator(".band[open], .band svg").count(), 0, "nothing is drawn before it is asked for");
    await page.locator("summary").last().click();
    await page.locator(".band[open] .row").first().waitFor();
    const rows = await page.locator(".band[open] .row").count();
    assert.ok(rows >= 40, `${rows} rows`);
    await page.locator(".band[open] .row").last().locator(".n").first().click();
    assert.match(await page.locator("#details").innerText(), /^fetch/);
    // The last node of the plan, by its key.
    const key = await page.evaluate(() => JSON.parse(document.getElementById("data").textContent).nodes.at(-1)[4]);
    await page.fill("#search", key);
    await page.getByText("1 hit", { exact: true }).first().waitFor();
    await page.fill("#search", "split");
    assert.match(await page.locator("#hits").innerText(), /^\d{4,} hits$/);
    assert.ok(await page.locator(".band[open]").count() <= 14, "a search does not open everything");
    no(troubles);
    await page.close();
  }
}
