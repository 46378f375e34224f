// The service graph: callers left, called right. Large meshes are drawn by namespace first; one
// namespace can be opened, with its neighbours drawn together.

import { el, lock, lockIcon, percent, millis, rate, svg } from "/dom.js";

const MAX_NODES = 80;
const LABELLED_EDGES = 24;
const WIDE = 180, HIGH = 46, SLIM = 22, GAP_X = 150, GAP_Y = 30;
const MAX_LAYERS = 7;
const view = { opened: "" };

const namespaceOf = (name) => (name.includes("/") ? name.split("/")[0] : name);

export function graphPage(overview, redraw) {
  const all = new Set(overview.edges.flatMap((edge) => [edge.src, edge.dst]));
  const namespaces = [...new Set([...all].map(namespaceOf))].sort();
  if (view.opened && !namespaces.includes(view.opened)) view.opened = "";
  const grouped = !view.opened && all.size > MAX_NODES;
  const links = merge(overview.edges, namer(grouped));
  const shown = busiest(links);
  const choice = el("select", { onchange: () => { view.opened = choice.value; redraw(); } },
    el("option", { value: "" }, "All"),
    namespaces.map((name) => el("option", { value: name, selected: name === view.opened }, name)));
  return [
    el("h1", {}, "Service graph"),
    cards(overview, all.size),
    el("div", { class: "tools" }, el("label", {}, "Namespace ", choice),
      el("span", { class: "found" }, note(grouped, shown.length, links.length))),
    links.length ? el("div", { class: "graph", tabindex: "0", role: "region", "aria-label": "Service graph, scrollable" }, draw(shown, grouped, redraw))
      : el("p", { class: "empty" }, "No traffic in this time. As soon as pods of the mesh talk, they appear here."),
    legend(),
    el("p", { class: "note" }, "The same as a table: ", el("a", { href: "#/edges" }, "Edges"), "."),
  ];
}

function cards(overview, nodes) {
  const requests = overview.services.reduce((sum, row) => sum + (row.rps ?? 0), 0);
  const connections = overview.workloads.reduce((sum, row) => sum + row.connections_s, 0);
  const secured = overview.edges.filter((edge) => edge.secured).length;
  const card = (term, value, tone) => el("div", { class: "card" }, el("dt", {}, term), el("dd", { class: tone }, value));
  return el("dl", { class: "cards" },
    card("Workloads talking", String(nodes)),
    card("Requests/s", rate(requests)),
    card("Connections/s", rate(connections)),
    card("Edges secured", overview.edges.length ? percent(secured / overview.edges.length) : "–"),
    card("Denials", String(overview.denials.reduce((sum, one) => sum + one.count, 0)),
      overview.denials.length ? "bad" : "good"));
}

function note(grouped, shown, all) {
  if (grouped) return "Drawn by namespace; choose one to open it.";
  return shown < all ? `The ${shown} busiest of ${all} arrows.` : "";
}

function namer(grouped) {
  if (grouped) return namespaceOf;
  if (!view.opened) return (name) => name;
  return (name) => (namespaceOf(name) === view.opened ? name : `${namespaceOf(name)}/*`);
}

function merge(edges, name) {
  const links = new Map();
  for (const edge of edges) {
    const [src, dst] = [name(edge.src), name(edge.dst)];
    if (view.opened && namespaceOf(src) !== view.opened && namespaceOf(dst) !== view.opened) continue;
    const key = `${src}\n${dst}`;
    const link = links.get(key) ?? { src, dst, secured: true, denied: 0, rps: 0, conns: 0, p95: null, parts: [] };
    links.set(key, link);
    link.secured &&= edge.secured;
    link.denied += edge.traffic.denied;
    link.rps += edge.traffic.rps ?? 0;
    link.conns += edge.traffic.connections_s;
    link.parts.push(edge.traffic);
  }
  for (const link of links.values()) {
    const requests = link.parts.filter((part) => part.rps !== null);
    const parts = (requests.length ? requests : link.parts).filter((part) => part.success !== null);
    const weight = (part) => (part.rps ?? part.connections_s) || 0.001;
    const total = parts.reduce((sum, part) => sum + weight(part), 0);
    link.success = parts.length ? parts.reduce((sum, part) => sum + part.success * weight(part), 0) / total : null;
    link.p95 = requests.reduce((most, part) => Math.max(most ?? 0, part.p95_ms ?? 0), null);
  }
  return [...links.values()];
}

function busiest(links) {
  const nodes = new Set();
  return [...links].sort((a, b) => b.rps - a.rps || b.conns - a.conns || (a.src < b.src ? -1 : 1))
    .filter((link) => {
      const more = [link.src, link.dst].filter((name) => !nodes.has(name));
      if (nodes.size + more.length > MAX_NODES) return false;
      more.forEach((name) => nodes.add(name));
      return true;
    });
}

// How far right a name stands: the longest way to it, or, where calls go in circles, the shortest.
function depths(names, links) {
  const next = new Map(names.map((name) => [name, []]));
  for (const link of links) if (link.src !== link.dst) next.get(link.src).push(link.dst);
  const called = new Set(links.filter((link) => link.src !== link.dst).map((link) => link.dst));
  const roots = names.filter((name) => !called.has(name));
  const depth = new Map(), open = new Set();
  const visit = (name, level) => {
    if (open.has(name) || level > MAX_LAYERS || (depth.get(name) ?? -1) >= level) return;
    depth.set(name, level);
    open.add(name);
    next.get(name).forEach((other) => visit(other, level + 1));
    open.delete(name);
  };
  roots.forEach((name) => visit(name, 0));
  if (depth.size === names.length && Math.max(...depth.values()) < MAX_LAYERS) return depth;
  depth.clear();
  let front = roots.length ? roots : names.slice(0, 1);
  while (depth.size < names.length) {
    for (let level = 0; front.length; level++) {
      front.forEach((name) => depth.set(name, level));
      front = [...new Set(front.flatMap((name) => next.get(name)))].filter((name) => !depth.has(name));
    }
    front = names.filter((name) => !depth.has(name)).slice(0, 1);
  }
  return depth;
}

// Columns of names. An arrow that passes a column gets a place of its own in it, so that it runs
// between the boxes and not behind them; `ways` holds these places per arrow.
function layers(links) {
  const names = [...new Set(links.flatMap((link) => [link.src, link.dst]))].sort();
  const depth = depths(names, links);
  const columns = Array.from({ length: Math.max(...depth.values()) + 1 }, () => []);
  for (const name of names) columns[depth.get(name)].push(name);
  const ways = new Map(), near = new Map(names.map((name) => [name, []]));
  links.forEach((link, index) => {
    const [from, to] = [depth.get(link.src), depth.get(link.dst)];
    const way = [link.src];
    for (let level = from + 1; level < to; level++) {
      const place = `${index}\n${level}`;
      columns[level].push(place);
      near.set(place, []);
      way.push(place);
    }
    way.push(link.dst);
    for (let step = 1; step < way.length; step++) {
      near.get(way[step - 1]).push(way[step]);
      near.get(way[step]).push(way[step - 1]);
    }
    ways.set(link, way);
  });
  const rank = new Map();
  const number = (column) => column.forEach((place, index) => rank.set(place, index - column.length / 2));
  columns.forEach(number);
  for (let sweep = 0; sweep < 6; sweep++) {
    for (const column of sweep % 2 ? [...columns].reverse() : columns) {
      const middles = new Map(column.map((place) => {
        const others = near.get(place);
        return [place, others.length ? others.reduce((sum, other) => sum + rank.get(other), 0) / others.length : rank.get(place)];
      }));
      column.sort((a, b) => middles.get(a) - middles.get(b) || (a < b ? -1 : 1));
      number(column);
    }
  }
  return { columns: columns.filter((column) => column.length), ways };
}

function draw(links, grouped, redraw) {
  const { columns, ways } = layers(links);
  const tall = (place) => (place.includes("\n") ? SLIM : HIGH) + GAP_Y;
  const heights = columns.map((column) => column.reduce((sum, place) => sum + tall(place), 0));
  const height = Math.max(...heights) + GAP_Y + 20;
  const width = Math.max(columns.length * (WIDE + GAP_X) - GAP_X + 60, 700);
  const spots = new Map(), bends = new Map();
  columns.forEach((column, x) => {
    let y = (height - heights[x] + GAP_Y) / 2;
    for (const place of column) {
      const spot = { x: 30 + x * (WIDE + GAP_X), y };
      if (place.includes("\n")) bends.set(place, { x: spot.x, y: y + SLIM / 2 });
      else spots.set(place, spot);
      y += tall(place);
    }
  });
  const ill = new Set(links.filter((link) => link.success !== null && link.success < 0.95).map((link) => link.dst));
  const passed = (link) => ways.get(link).slice(1, -1).map((place) => bends.get(place));
  const drawnEdges = links.map((link) => edge(link, spots, passed(link)));
  // Behind all arrows, so that none runs through another's words.
  const drawnWords = links.length <= LABELLED_EDGES ? links.map((link) => said(link, spots, passed(link))) : [];
  const drawnNodes = [...spots].map(([name, spot]) => node(name, spot, ill.has(name), grouped, redraw));
  const light = (name) => {
    for (const group of [drawnEdges, drawnWords])
      group.forEach((drawn, index) => drawn.classList.toggle("dim", Boolean(name) && links[index].src !== name && links[index].dst !== name));
    drawnNodes.forEach((drawn) => {
      const own = drawn.dataset.name;
      const near = !name || own === name || links.some((link) => (link.src === name && link.dst === own) || (link.dst === name && link.src === own));
      drawn.classList.toggle("dim", !near);
    });
  };
  for (const drawn of drawnNodes) {
    for (const event of ["mouseenter", "focus"]) drawn.addEventListener(event, () => light(drawn.dataset.name));
    for (const event of ["mouseleave", "blur"]) drawn.addEventListener(event, () => light(""));
  }
  return svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `${spots.size} workloads and ${links.length} arrows` },
    svg("defs", {}, svg("marker", { id: "tip", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto-start-reverse" },
      svg("path", { d: "M0 0 8 4 0 8z", fill: "context-stroke" }))),
    drawnEdges, drawnWords, drawnNodes);
}

function words(link) {
  const parts = [link.success === null ? "open" : percent(link.success)];
  if (link.p95 !== null) parts.push(`p95 ${millis(link.p95)}`);
  if (link.denied) parts.push(`${link.denied} denied`);
  return parts.join(" · ");
}

// The course of an arrow, and where its words stand.
function course(link, spots, passed) {
  const a = spots.get(link.src), b = spots.get(link.dst);
  if (link.src === link.dst) {
    const x = a.x + WIDE - 26;
    return { path: `M${x} ${a.y} C${x + 4} ${a.y - 24} ${x - 44} ${a.y - 24} ${x - 40} ${a.y}`, middle: null };
  }
  const from = { x: a.x + WIDE, y: a.y + HIGH / 2 };
  if (b.x <= a.x) { // back, or down the same column
    const to = { x: b.x + WIDE, y: b.y + HIGH / 2 + 8 };
    const out = Math.max(from.x, to.x) + 50 + Math.abs(from.y - to.y) / 8;
    return { path: `M${from.x} ${from.y} C${out} ${from.y} ${out} ${to.y} ${to.x} ${to.y}`,
      middle: { x: out - 14, y: (from.y + to.y) / 2 } };
  }
  const stops = [from, ...passed.flatMap((spot) => [spot, { x: spot.x + WIDE, y: spot.y }]), { x: b.x, y: b.y + HIGH / 2 }];
  let path = `M${from.x} ${from.y}`;
  for (let step = 1; step < stops.length; step++) {
    const [p, q] = [stops[step - 1], stops[step]];
    const bend = (q.x - p.x) / 2;
    path += p.y === q.y ? `L${q.x} ${q.y}` : `C${p.x + bend} ${p.y} ${q.x - bend} ${q.y} ${q.x} ${q.y}`;
  }
  const [p, q] = passed.length ? [passed[0], { x: passed[0].x + WIDE, y: passed[0].y }] : [from, stops.at(-1)];
  return { path, middle: { x: (p.x + q.x) / 2, y: (p.y + q.y) / 2 } };
}

function classes(link) {
  const fails = link.success !== null && link.success < 0.95;
  return ["edge", fails && "fails", !link.secured && "plain"].filter(Boolean).join(" ");
}

function edge(link, spots, passed) {
  return svg("g", { class: classes(link) },
    svg("title", {}, `${link.src} to ${link.dst}: ${words(link)}, ${link.secured ? "secured" : "plain TCP"}`),
    svg("path", { class: "wire", d: course(link, spots, passed).path, "marker-end": "url(#tip)" }));
}

// What stands at an arrow; its title says the same to those who do not see it.
function said(link, spots, passed) {
  const { middle } = course(link, spots, passed);
  return svg("g", { class: classes(link), "aria-hidden": "true" },
    middle && lock(link.secured, middle.x - 5, middle.y - 19),
    middle && svg("text", { x: middle.x, y: middle.y + 12, "text-anchor": "middle" }, words(link)));
}

function cut(text, most) {
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

function node(name, spot, ill, grouped, redraw) {
  const [namespace, own] = name.includes("/") ? [namespaceOf(name), name.slice(name.indexOf("/") + 1)] : ["", name];
  const folded = grouped || own === "*";
  const open = () => {
    if (folded) { view.opened = namespaceOf(name); redraw(); } else if (namespace) location.hash = `#/workload/${encodeURIComponent(name)}`;
  };
  const text = folded ? (grouped ? name : namespace) : own;
  const drawn = svg("g", {
    class: ill ? "node ill" : "node", transform: `translate(${spot.x} ${spot.y})`, tabindex: 0, role: "link",
    "aria-label": folded ? `Namespace ${namespaceOf(name)}` : `${name}${ill ? ", failing" : ""}`, onclick: open,
    onkeydown: (event) => { if (event.key === "Enter") open(); },
  },
  svg("title", {}, name),
  svg("rect", { width: WIDE, height: HIGH, rx: 8 }),
  svg("text", { x: 12, y: namespace || grouped ? 20 : 28 }, cut(text, 24)),
  svg("text", { class: "sub", x: 12, y: 36 }, cut(folded ? "namespace" : namespace, 28)));
  drawn.dataset.name = name;
  return drawn;
}

function legend() {
  return el("div", { class: "legend" },
    el("span", {}, lockIcon(true), " identities verified: mutual TLS, or the kernel inside a node"),
    el("span", {}, lockIcon(false), " plain TCP (dashed)"),
    el("span", { class: "bad" }, "red: under 95 % success"));
}
