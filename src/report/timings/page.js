"use strict";
// The page's behaviour. Knows nodes by their place in the data; what is drawn already carries these places.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const [NAME, CLASS, ID, IMAGES, REASON, START, END, OWN, CPU, BYTES, OUTCOME, ERROR, CHAIN] = Array(13).keys();
  const at = id => document.getElementById(id);
  const plot = at("plot"), scroll = at("scroll"), panel = at("details"), cursor = at("cursor"), ticks = at("ticks");
  const MOST = 16; // bars are drawn for at most so many times the page's width

  // Numbers as people read them; as in the text for terminals.
  const digits = value => value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0);
  const time = us => {
    if (!us) return "-";
    if (us < 1e3) return `${us} µs`;
    if (us < 1e6) return `${digits(us / 1e3)} ms`;
    if (us < 99.95e6) return `${digits(us / 1e6)} s`;
    const seconds = Math.round(us / 1e6);
    return `${Math.floor(seconds / 60)} m ${String(seconds % 60).padStart(2, "0")} s`;
  };
  const size = bytes => {
    if (bytes < 1000) return `${bytes} B`;
    let unit = 0;
    for (bytes /= 1000; bytes >= 999.5 && unit < 5; unit++) bytes /= 1000;
    return `${digits(bytes)} ${["kB", "MB", "GB", "TB", "PB", "EB"][unit]}`;
  };
  const axisTime = us => !us ? "0" : us >= 1e6 ? `${us / 1e6} s` : us >= 1e3 ? `${us / 1e3} ms` : `${us} µs`;

  // Details.
  const element = (tag, text, cls) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (cls) made.className = cls;
    return made;
  };
  const show = n => {
    const node = data.nodes[n];
    const title = element("h3");
    title.append(element("i", "", node[CLASS]), node[NAME], element("code", node[ID]));
    const list = element("dl");
    const add = (name, value, cls) => {
      const pair = element("div");
      pair.append(element("dt", name), element("dd", value, cls));
      list.append(pair);
    };
    add("from – to", `${time(node[START])} – ${time(node[END])}`);
    add("took", time(node[END] - node[START]));
    add("alone", time(node[OWN]));
    if (node[CPU]) add("work", time(node[CPU]));
    if (node[BYTES]) add("bytes", size(node[BYTES]));
    add("outcome", node[OUTCOME], node[OUTCOME] === "finished" ? "" : "bad");
    add("why", node[REASON]);
    add("wanted by", node[IMAGES]);
    if (node[CHAIN]) {
      const [from, to, waited, win] = node[CHAIN];
      add("on the critical path", `${time(to - from)}, waited ${time(waited)}`);
      add("one second free wins", time(win));
    }
    if (node[ERROR]) add("error", node[ERROR], "bad");
    panel.replaceChildren(title, list);
    panel.hidden = false;
  };

  // What is lit: one node, in all its bars and rows.
  const carriers = new Map();
  for (const carrier of document.querySelectorAll("[data-n]")) {
    const n = Number(carrier.dataset.n);
    if (!carriers.has(n)) carriers.set(n, []);
    carriers.get(n).push(carrier);
  }
  let lit = null, chosen = null;
  const mark = (n, on) => {
    for (const carrier of carriers.get(n) ?? []) {
      carrier.classList.toggle("lit", on);
      if (carrier.parentNode.localName === "svg") carrier.parentNode.classList.toggle("lit", on);
    }
  };
  const light = n => {
    if (n === lit) return;
    if (lit !== null) mark(lit, false);
    lit = n;
    document.body.classList.toggle("dim", n !== null);
    if (n === null) panel.hidden = true;
    else {
      mark(n, true);
      show(n);
    }
  };
  const numberOf = target => {
    const carrier = target instanceof Element ? target.closest("[data-n]") : null;
    return carrier ? Number(carrier.dataset.n) : null;
  };
  document.addEventListener("pointerover", event => light(numberOf(event.target) ?? chosen));
  document.addEventListener("click", event => {
    if (event.target.closest("button, select, label, aside")) return;
    chosen = numberOf(event.target);
    light(chosen);
  });
  document.addEventListener("keydown", event => {
    if (event.key === "Escape") light(chosen = null);
  });

  // Arrow keys go from bar to bar.
  let place = null;
  const shown = lane => [...lane.querySelectorAll("rect[data-n]:not(.off)")];
  const middle = bar => {
    const box = bar.getBoundingClientRect();
    return box.left + box.width / 2;
  };
  plot.addEventListener("keydown", event => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!step) return;
    event.preventDefault();
    const lanes = [...plot.querySelectorAll(".lane")].map(shown).filter(bars => bars.length > 0);
    if (!lanes.length) return;
    let lane = lanes.findIndex(bars => bars.includes(place));
    if (lane < 0) place = lanes[0][0];
    else if (step[0]) {
      const from = middle(place);
      lane = Math.min(Math.max(lane + step[0], 0), lanes.length - 1);
      place = lanes[lane].reduce((a, b) => Math.abs(middle(b) - from) < Math.abs(middle(a) - from) ? b : a);
    } else {
      const bars = lanes[lane];
      place = bars[Math.min(Math.max(bars.indexOf(place) + step[1], 0), bars.length - 1)];
    }
    const view = scroll.getBoundingClientRect(), x = middle(place);
    if (x < view.left || x > view.right) scroll.scrollLeft += x - view.left - view.width / 2;
    light(chosen = Number(place.dataset.n));
  });

  // The least time that a node must have taken to be drawn in full.
  at("least").addEventListener("change", event => {
    const least = Number(event.target.value);
    for (const [n, all] of carriers) {
      const off = data.nodes[n][OWN] < least;
      for (const carrier of all) {
        if (carrier.localName === "tr") carrier.hidden = off;
        else carrier.classList.toggle("off", off);
      }
    }
  });

  // Zoom: one width. Names are shown where they have room, and the axis gets finer.
  let zoom = 1;
  const SVG = "http://www.w3.org/2000/svg";
  const line = (name, attributes) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const names = [...plot.querySelectorAll(".lane svg > text")].map(text => [text, text.textContent]);
  /** A name in so many letters: in full, without a size, the end of a long one, the kind alone, or nothing. */
  const inShort = (name, letters) => {
    const [kind, ...rest] = name.split(" "), about = rest[0] ?? "";
    const choices = [name, `${kind} ${about}`];
    const tail = letters - kind.length - 2;
    if (rest.length === 1 && tail >= 6) choices.push(`${kind} …${about.slice(-tail)}`);
    return [...choices, kind].find(choice => choice.length <= letters) ?? "";
  };
  const roundStep = least => {
    const power = 10 ** Math.floor(Math.log10(Math.max(least, 1)));
    return [1, 2, 5, 10].map(factor => factor * power).find(step => step >= least);
  };
  /** Names of bars that begin left of what is seen move into it. */
  const stay = () => {
    const width = plot.clientWidth || plot.getBoundingClientRect().width;
    for (const [text] of names) {
      const bar = text.parentNode, share = name => parseFloat(bar.getAttribute(name)) / 100 * width;
      const room = share("width") - text.textContent.length * 6.3 - 10;
      const hidden = Math.max(scroll.scrollLeft - share("x"), 0);
      text.setAttribute("x", 5 + Math.max(Math.min(hidden, room), 0));
    }
  };
  let waiting = false;
  scroll.addEventListener("scroll", () => {
    if (!waiting) requestAnimationFrame(() => { waiting = false; stay(); });
    waiting = true;
  });
  const fit = () => {
    const width = plot.clientWidth || plot.getBoundingClientRect().width;
    for (const [text, name] of names) {
      const room = parseFloat(text.parentNode.getAttribute("width")) / 100 * width;
      text.textContent = inShort(name, (room - 10) / 6.3);
    }
    stay();
    const step = roundStep(data.wall / (width / 110)), all = [];
    const [top, height] = [24, ticks.dataset.height];
    for (let us = 0; us <= data.wall; us += step) {
      const x = `${us / data.wall * 100}%`;
      all.push(line("line", { x1: x, x2: x, y1: top, y2: height }));
      if (us / data.wall * width > width - 40) continue;
      const text = line("text", { x, dx: 3, y: 14 });
      text.textContent = axisTime(Math.round(us));
      all.push(text);
    }
    ticks.replaceChildren(...all);
  };
  const zoomTo = (wanted, around) => {
    const view = scroll.clientWidth;
    around ??= view / 2;
    const moment = (scroll.scrollLeft + around) / (view * zoom);
    zoom = Math.min(Math.max(wanted, 1), MOST);
    plot.style.width = `${zoom * 100}%`;
    plot.dataset.zoom = zoom;
    scroll.scrollLeft = moment * view * zoom - around;
    fit();
  };
  at("in").addEventListener("click", () => zoomTo(zoom * 2));
  at("out").addEventListener("click", () => zoomTo(zoom / 2));
  at("fit").addEventListener("click", () => zoomTo(1));
  scroll.addEventListener("wheel", event => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    zoomTo(zoom * 2 ** (-event.deltaY / 200), event.clientX - scroll.getBoundingClientRect().left);
  }, { passive: false });
  new ResizeObserver(fit).observe(scroll);
  plot.addEventListener("pointermove", event => {
    const x = event.clientX - plot.getBoundingClientRect().left;
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    cursor.setAttribute("visibility", "visible");
  });
  plot.addEventListener("pointerleave", () => cursor.setAttribute("visibility", "hidden"));

  // The table sorts by any column: numbers first downwards, names first upwards.
  const table = at("slowest");
  table.tHead.addEventListener("click", event => {
    const head = event.target.closest("th");
    if (!head) return;
    const column = head.cellIndex, body = table.tBodies[0];
    const number = body.rows[0]?.cells[column].dataset.v !== undefined;
    const was = head.getAttribute("aria-sort");
    const down = was ? was === "ascending" : number;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = row => number ? Number(row.cells[column].dataset.v) : row.cells[column].textContent;
    const compare = (a, b) => number ? key(a) - key(b) : key(a).localeCompare(key(b));
    body.append(...[...body.rows].sort((a, b) => down ? compare(b, a) : compare(a, b)));
  });

  // Light and dark.
  const theme = at("theme");
  const isDark = () => (document.documentElement.dataset.theme ??
    (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const label = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
  theme.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    label();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
  label();

  fit();
})();
