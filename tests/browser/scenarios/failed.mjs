// The page of a run in which one step failed and took others with it.
import assert from "node:assert/strict";
import { contrast, no, open } from "../page.mjs";

export async function check(context, [file]) {
  const { page, troubles } = await open(context, file);
  assert.match(await page.locator("h1").innerText(), /1 step failed/);
  assert.match(await page.locator("header p").innerText(), /1 failed, 7 cancelled/);
  const failed = page.locator(".band .n.failed");
  assert.equal(await failed.count(), 1);
  await failed.hover();
  const text = await page.locator("#details").innerText();
  for (const part of [/outcome\s+failed/, /error\s+the tar does not match/, /took\s+\d/, /objects new\s+\d/]) assert.match(text, part);
  assert.ok(await page.locator(".band .e.critical").count() >= 7, "the chain that decides the time is bold");
  await page.fill("#search", "cancelled");
  assert.equal(await page.locator("#hits").innerText(), "7 hits");
  await page.keyboard.press("Escape");
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    await failed.hover();
    const worst = await contrast(page);
    assert.ok(worst.ratio >= 4.5, `${colorScheme}: ${worst.ratio.toFixed(2)} for ${JSON.stringify(worst.text)}`);
  }
  no(troubles);
}
