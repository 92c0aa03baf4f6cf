// Names and errors that try to be more than text, on the page of a run's timings.
import assert from "node:assert/strict";
import { no, open } from "../page.mjs";

export async function check(context, [file]) {
  const { page, troubles } = await open(context, file);
  assert.equal(await page.locator("img, iframe, object, foreignObject, a, [onload], [onerror], [onclick]").count(), 0);
  assert.equal(await page.locator("script").count(), 2, "data and behaviour");
  await page.locator("#slowest tbody tr").first().click();
  const text = await page.locator("body").innerText();
  assert.ok(text.includes("</script><script>"), "the name is shown as it is");
  assert.ok(!/[\u202a-\u202e\u2066-\u2069\u0000]/.test(text), "but cannot turn the text around it");
  assert.equal(await page.evaluate(() => window.hacked), undefined);
  no(troubles);
}
