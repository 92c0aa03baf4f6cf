// Charts as Mermaid reads and draws them, with the settings that it has by itself.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { no } from "../page.mjs";

const library = fileURLToPath(new URL("../node_modules/mermaid/dist/mermaid.min.js", import.meta.url));

export async function check(context, files, theme = "default") {
  for (const file of files) {
    const text = await readFile(file, "utf8");
    const { page, troubles } = await blank(context);
    const seen = await page.evaluate(draw, { text, theme });
    const asked = labels(text);
    const drawn = new Set(seen.labels);
    assert.deepEqual(asked.filter(label => !drawn.has(label)), [], `${file}: not drawn so; drawn: ${others(drawn, asked)}`);
    assert.equal(seen.labels.length, asked.length, `${file}: nodes`);
    assert.equal(seen.groups, count(text, /^ *subgraph /gm), `${file}: groups`);
    assert.equal(seen.edges, count(text, /^  \w+ (-->|==>|-\.->|-\.-o(\|"\d+"\|)?) \w+$/gm), `${file}: edges`);
    assert.deepEqual(seen.foreign, [], `${file}: elements that no chart has`);
    assert.ok(seen.contrast >= 4.5, `${file}: contrast ${seen.contrast.toFixed(2)} (${theme})`);
    no(troubles);
    await page.close();
  }
}

async function blank(context) {
  const page = await context.newPage();
  const troubles = [];
  page.on("pageerror", error => troubles.push(`script error: ${error.message}`));
  page.on("dialog", dialog => {
    troubles.push(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  page.on("request", request => troubles.push(`request: ${request.url()}`));
  await page.setContent("<!doctype html><body></body>");
  await page.addScriptTag({ path: library });
  return { page, troubles };
}

const count = (text, pattern) => [...text.matchAll(pattern)].length;

const others = (drawn, asked) => JSON.stringify([...drawn].filter(label => !asked.includes(label)));

/** For each node of `text` what stands in it, sorted. */
function labels(text) {
  const nodes = [...text.matchAll(/^ *(?!subgraph )(\w+)[[(]+"(.*)"[\])]+:::\w+$/gm)];
  const plain = label => label.replaceAll("<br/>", "").replace(/#(\d+);/g, (_, number) => String.fromCodePoint(number));
  return nodes.map(([, id, label]) => `${id}: ${plain(label)}`).sort();
}

/** In the page: refuses what Mermaid does not read or does not draw, and says what it drew. */
async function draw({ text, theme }) {
  mermaid.initialize({ startOnLoad: false, ...(theme === "default" ? {} : { theme }) });
  await mermaid.parse(text);
  const { svg } = await mermaid.render("chart", text);
  document.body.innerHTML = svg;
  const all = selector => [...document.querySelectorAll(selector)];
  const light = colour => colour.match(/[\d.]+/g).slice(0, 3).map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const contrast = node => {
    const ink = light(getComputedStyle(node.querySelector(".nodeLabel")).color);
    const ground = light(getComputedStyle(node.querySelector("rect, path, polygon")).fill);
    return (Math.max(ink, ground) + .05) / (Math.min(ink, ground) + .05);
  };
  const nodes = all("g.node");
  return {
    labels: nodes.map(node => {
      const id = node.id.replace(/^.*?flowchart-/, "").replace(/-\d+$/, "");
      return `${id}: ${node.querySelector(".nodeLabel").textContent}`;
    }).sort(),
    groups: all("g.cluster").length,
    edges: all("path.flowchart-link").length,
    foreign: all("body script, body img, body a, body iframe, .error-icon").map(element => element.outerHTML),
    contrast: Math.min(21, ...nodes.map(contrast)),
  };
}
