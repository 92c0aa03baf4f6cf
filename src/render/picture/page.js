"use strict";
// The page's behaviour. Knows nodes by their number in the data; what is drawn already carries these numbers.
(() => {
  const plan = JSON.parse(document.getElementById("data").textContent);
  const bands = [...document.querySelectorAll(".band")];
  const panel = document.getElementById("details");
  const search = document.getElementById("search");
  const hits = document.getElementById("hits");
  const OPENED_AT_ONCE = 12; // a search for "split" must not draw a thousand bands

  const NAMED = 3; // images in the details of a step

  // Nodes.
  const KIND = 0, STATE = 1, SUBJECT = 2, WANTED = 3, KEY = 4, SIZE = 5;
  const kind = n => plan.kinds[plan.nodes[n][KIND]];
  const state = n => plan.states[plan.nodes[n][STATE]];
  const subject = n => plan.subjects[plan.nodes[n][SUBJECT]];
  const images = n => plan.wanted[plan.nodes[n][WANTED]];
  const name = n => `${kind(n)} ${subject(n)}`;

  let outputs; // the consumers of each node, made when first asked
  const consumers = () => {
    if (!outputs) {
      outputs = plan.nodes.map(() => []);
      plan.inputs.forEach((inputs, n) => inputs.forEach(input => outputs[input].push(n)));
    }
    return outputs;
  };

  /** All that is reached from `node` by `next`, without itself. */
  const reached = (node, next) => {
    const seen = new Set([node]);
    for (const n of seen) next[n].forEach(m => seen.add(m));
    seen.delete(node);
    return seen;
  };

  /** The band that draws `node`. */
  const bandOf = node => {
    let [low, high] = [0, plan.bands.length];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (plan.bands[middle] <= node) low = middle; else high = middle;
    }
    return low;
  };

  // What is lit: null, or a set of nodes.
  let lit = null, chosen = null;

  const numbers = text => (text ?? "").split(" ").filter(Boolean).map(Number);
  const nodesOf = cell => numbers(cell.dataset.n ?? cell.dataset.g);
  const isLit = list => !lit || list.some(n => lit.has(n));

  /** Shows in one drawn band what is lit. */
  const light = band => {
    for (const cell of band.querySelectorAll(".n")) {
      cell.classList.toggle("on", lit !== null && isLit(nodesOf(cell)));
      cell.classList.toggle("chosen", chosen !== null && cell.dataset.n === String(chosen));
    }
    const above = band.querySelector(".row, .n"); // cells lie on top of lines
    for (const line of band.querySelectorAll(".e[data-a]")) {
      const on = lit !== null && isLit(numbers(line.dataset.a)) && isLit(numbers(line.dataset.b));
      line.classList.toggle("on", on);
      if (on) above.before(line); // and lit lines on top of those that share their way
    }
    for (const row of band.querySelectorAll(".row")) row.classList.toggle("on", row.querySelector(".n.on") !== null);
  };

  /** The markup of a band, in which what is repeated is one character. */
  const written = text => text.replace(/[\ue000-\uf8ff]/g, letter => plan.repeated[letter.charCodeAt(0) - 0xe000]);

  /** Draws a band that was closed until now, and gives its cells names and a place among the keys. */
  const draw = band => {
    if (band.dataset.drawn) return;
    band.dataset.drawn = "1";
    const inert = band.querySelector(":scope > script");
    if (inert) {
      band.querySelector(".sheet").innerHTML = written(inert.textContent);
      inert.remove();
    }
    const heading = band.querySelector("summary b").textContent;
    band.querySelector("svg").setAttribute("aria-label", `Steps of ${heading}`);
    band.querySelectorAll(".n").forEach((cell, place) => {
      const list = nodesOf(cell);
      cell.setAttribute("tabindex", place === 0 ? "0" : "-1");
      cell.setAttribute("role", "button");
      const more = list.length > 1 ? ` and ${list.length - 1} more` : "";
      cell.setAttribute("aria-label", `${name(list[0])}${more}, ${state(list[0])[0]}`);
    });
    if (lit) light(band);
  };

  const open = number => {
    draw(bands[number]);
    bands[number].open = true;
  };

  /** Lights `set`, or everything for null; says in each band's line how many of its nodes are in it. */
  const show = (set, node, word) => {
    lit = set;
    chosen = node;
    document.body.classList.toggle("dimmed", set !== null);
    document.body.classList.toggle("linked", node !== null);
    const counts = new Map();
    for (const n of set ?? []) {
      const band = bandOf(n);
      counts.set(band, (counts.get(band) ?? 0) + 1);
    }
    bands.forEach((band, number) => {
      const count = counts.get(number) ?? 0;
      band.classList.toggle("on", count > 0);
      band.querySelector("summary em").textContent = count ? `${count} ${word(count)}` : "";
    });
    return counts;
  };

  const relight = () => bands.filter(band => band.dataset.drawn).forEach(light);

  // Details.
  const element = (tag, text, className) => {
    const made = document.createElement(tag);
    made.textContent = text;
    if (className) made.className = className;
    return made;
  };

  const facts = n => {
    const row = plan.nodes[n];
    const [, planned, reason] = state(n);
    const names = images(n).slice(0, NAMED).map(i => plan.images[i][0]).join(", ");
    const more = images(n).length > NAMED ? ` and ${images(n).length - NAMED} more` : "";
    const run = plan.measured[n];
    const found = [
      ["state", `${planned}: ${reason}`], ["size", row[SIZE]], ["key", row[KEY], "mono"],
      [images(n).length === 1 ? "image" : `${images(n).length} images`, names + more, "", more && "wide"],
    ];
    if (run) {
      found.push(["outcome", run.outcome, run.outcome === "failed" ? "wrong" : ""]);
      found.push(["took", run.took], ["started after", run.started], ["cpu time", run.cpu], ["bytes", run.bytes]);
      for (const [count, value] of Object.entries(run.counts)) found.push([count.replaceAll("_", " "), String(value)]);
      found.push(["error", run.error, "wrong", "wide"]);
    }
    return found.filter(([, value]) => value);
  };

  const describe = list => {
    panel.replaceChildren();
    if (list.length === 0) {
      panel.append(element("p", "Point at a step for its details. Click it to see what it needs and who needs it. Esc clears."));
      return;
    }
    const [n] = list;
    const title = element("h2", kind(n));
    title.append(element("code", subject(n)));
    if (list.length > 1) title.append(element("code", `and ${list.length - 1} more`));
    const grid = document.createElement("dl");
    const needs = chosen === n ? [["needs", `${reached(n, plan.inputs).size} steps`],
      ["needed by", `${reached(n, consumers()).size} steps`]] : [];
    for (const [term, value, className, wide] of [...facts(n), ...needs]) {
      const pair = document.createElement("div");
      if (wide) pair.className = wide;
      pair.append(element("dt", term), element("dd", value, className));
      grid.append(pair);
    }
    panel.append(title, grid);
  };

  // Choosing and searching.
  const clear = () => {
    search.value = "";
    hits.textContent = "";
    show(null, null, () => "");
    relight();
    describe([]);
  };

  const choose = list => {
    const [n] = list;
    const set = reached(n, plan.inputs);
    for (const m of reached(n, consumers())) set.add(m);
    set.add(n);
    search.value = "";
    hits.textContent = "";
    show(set, n, () => "linked");
    open(bandOf(n));
    relight();
    describe([n]);
  };

  /** The nodes that every word of `text` fits: by kind, state, reason, subject, key, or an image that wants them. */
  const find = text => {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const tests = words.map(word => {
      const fits = value => value.toLowerCase().includes(word);
      const named = plan.images.map(image => image.some(fits));
      const wanted = plan.wanted.map(list => list.some(i => named[i]));
      const kinds = plan.kinds.map(fits), subjects = plan.subjects.map(fits);
      const states = plan.states.map(texts => texts.some(fits));
      return row => kinds[row[KIND]] || states[row[STATE]] || subjects[row[SUBJECT]] || wanted[row[WANTED]] || fits(row[KEY]);
    });
    const found = new Set();
    plan.nodes.forEach((row, n) => tests.every(test => test(row)) && found.add(n));
    return found;
  };

  const seek = () => {
    if (!search.value.trim()) return clear();
    const found = find(search.value);
    hits.textContent = found.size === 1 ? "1 hit" : `${found.size} hits`;
    const counts = show(found, null, count => count === 1 ? "hit" : "hits");
    [...counts.keys()].sort((a, b) => a - b).slice(0, OPENED_AT_ONCE).forEach(open);
    relight();
    describe([]);
  };

  // Keys: one cell of a band is in the tab order, arrows go on from there.
  const step = (cell, key) => {
    const cells = [...cell.closest(".band").querySelectorAll(".n")];
    const box = cell.getBoundingClientRect();
    const aside = { ArrowLeft: -1, ArrowRight: 1 }[key];
    const below = { ArrowUp: -1, ArrowDown: 1 }[key];
    let next = cells[cells.indexOf(cell) + aside];
    if (below) {
      const column = cells.filter(other => other.getBoundingClientRect().left === box.left);
      next = column[column.indexOf(cell) + below];
    }
    if (!next) return;
    cell.setAttribute("tabindex", "-1");
    next.setAttribute("tabindex", "0");
    next.focus();
  };

  const cellOf = event => event.target instanceof Element ? event.target.closest(".band .n") : null;
  const point = event => {
    const cell = cellOf(event);
    if (cell) describe(nodesOf(cell));
  };
  const main = document.querySelector("main");
  main.addEventListener("pointerover", point);
  main.addEventListener("focusin", point);
  main.addEventListener("pointerout", () => describe(chosen === null ? [] : [chosen]));
  main.addEventListener("click", event => {
    const cell = cellOf(event);
    if (cell) choose(nodesOf(cell));
  });
  main.addEventListener("keydown", event => {
    const cell = cellOf(event);
    if (!cell) return;
    if (event.key === "Enter" || event.key === " ") choose(nodesOf(cell));
    else if (event.key.startsWith("Arrow")) step(cell, event.key);
    else return;
    event.preventDefault();
  });
  main.addEventListener("toggle", event => event.target.open && draw(event.target), true);
  document.addEventListener("keydown", event => event.key === "Escape" && clear());
  search.addEventListener("input", seek);

  // Light and dark.
  const root = document.documentElement, button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const label = () => { button.textContent = isDark() ? "Light" : "Dark"; };
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    label();
  });
  system.addEventListener("change", label);

  label();
  bands.filter(band => band.open).forEach(draw);
  describe([]);
})();
