// Making elements, and numbers for people. Text goes in as text: a name can never become markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.setAttribute("class", value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(9)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
}

export const el = (tag, attributes, ...children) =>
  fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);

export const percent = (share) =>
  share === null ? "–" : `${(share * 100).toFixed(share === 1 || share === 0 ? 0 : 2)} %`;
export const rate = (number) =>
  number === null ? "–" : number === 0 ? "0" : number < 10 ? number.toFixed(2) : number.toFixed(0);
export const millis = (number) =>
  number === null ? "–" : number >= 10000 ? `${(number / 1000).toFixed(1)} s` : `${+number.toPrecision(3)} ms`;
export function bytes(number) {
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (number < 1024) return `${unit === "B" ? Math.round(number) : number.toFixed(1)} ${unit}`;
    number /= 1024;
  }
  return `${number.toFixed(1)} TiB`;
}
export function age(seconds) {
  if (seconds < 0) return `in ${age(-seconds)}`;
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= 2 * size) return `${Math.floor(seconds / size)} ${unit}`;
  }
  return `${Math.max(0, Math.floor(seconds))} s`;
}
export const health = (share) =>
  share === null ? "" : share >= 0.99 ? "good" : share >= 0.95 ? "warn" : "bad";

export const storyLink = (by, name) =>
  el("a", { href: `#/${by}/${encodeURIComponent(name)}` }, name);

export function lock(secured, x, y) {
  const kind = secured ? "lock" : "open";
  const shackle = secured ? "M2.5 6V4a2.5 2.5 0 0 1 5 0v2" : "M2.5 6V4a2.5 2.5 0 0 1 4.6-1.3";
  return svg("g", { transform: `translate(${x} ${y})` },
    svg("title", {}, secured ? "identities verified" : "plain TCP, no identity"),
    svg("path", { class: kind, d: shackle }),
    svg("rect", { class: `${kind} body`, x: 1, y: 5.5, width: 8, height: 6, rx: 1.2 }));
}
export const lockIcon = (secured) =>
  svg("svg", { width: 12, height: 14, viewBox: "0 0 10 12", "aria-hidden": "true" }, lock(secured, 0, 0));
