// Names that try to be more than text, in the page and in the image.
import assert from "node:assert/strict";
import { no, open } from "../page.mjs";

export async function check(context, files) {
  for (const file of files) {
    const { page, troubles } = await open(context, file);
    assert.equal(await page.evaluate(() => window.hacked), undefined);
    assert.equal(await page.locator("img, iframe, object, foreignObject, a, [onload], [onerror], [onclick]").count(), 0);
    if (file.endsWith(".html")) {
      assert.equal(await page.locator("script").count(), 2, "data and behaviour");
      for (const cell of await page.locator(".band .n .t").all()) await cell.hover();
      await page.locator(".band .n").first().click();
      await page.fill("#search", "</script>");
      assert.match(await page.locator("#hits").innerText(), /^[1-9]\d* hits$/);
      const text = await page.locator("main").innerText();
      assert.ok(text.includes("</script><script>"), "the name is shown as it is");
      assert.ok(!/[\u202a-\u202e\u2066-\u2069\u0000]/.test(text), "but cannot turn the text around it");
    }
    assert.equal(await page.evaluate(() => window.hacked), undefined);
    no(troubles);
    await page.close();
  }
}
