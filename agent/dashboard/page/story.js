// The page of one workload or service: numbers, their course, neighbours, and sentences.

import { bytes, el, health, millis, percent, rate, svg } from "/dom.js";
import { table } from "/tables.js";
import { denialTable, edgeColumns } from "/views.js";

const WIDE = 300, HIGH = 64;

const WINDOWS = [[900, "15 minutes"], [3600, "hour"], [21600, "6 hours"], [86400, "day"], [604800, "week"]];

function timeSpan(story, history, choose) {
  if (!history) return el("p", { class: "note" }, "Of the last 15 minutes, as far as the agents remember.");
  const options = WINDOWS.map(([seconds, text]) =>
    el("option", { value: seconds, selected: seconds === story.window_s }, text));
  const select = el("select", { id: "window", onchange: () => choose(Number(select.value)) }, options);
  const source = story.window_s > 900 ? `from Prometheus (${history}); denials of the last 15 minutes` : "as far as the agents remember";
  return el("p", { class: "note" }, el("label", {}, "Of the last ", select), ` ${source}.`);
}

// `choose` is told how many seconds back the reader wants to look.
export function storyPage(story, history = "", choose = () => {}) {
  const golden = story.golden;
  const card = (term, value, tone) => el("div", { class: "card" }, el("dt", {}, term), el("dd", { class: tone }, value));
  const beats = story.course;
  return [
    el("h1", {}, `${story.by === "service" ? "Service" : "Workload"} ${story.name}`),
    el("dl", { class: "cards" },
      card("Success", percent(golden.success), health(golden.success)),
      card("Requests/s", rate(golden.rps)),
      card("p50", millis(golden.p50_ms)), card("p95", millis(golden.p95_ms)), card("p99", millis(golden.p99_ms)),
      card("Connections/s", rate(golden.connections_s)),
      card("Denied", String(golden.denied), golden.denied ? "bad" : "")),
    timeSpan(story, history, choose),
    el("div", { class: "sparks" },
      spark(`Ended ${story.unit}, failures in red`, beats.map((beat) => beat.per_s), beats.map((beat) => beat.failed_per_s), (most) => `${rate(most)}/s`),
      spark("Bytes both ways", beats.map((beat) => beat.bytes_per_s), null, (most) => `${bytes(most)}/s`)),
    story.text && [el("h2", {}, "What the mesh makes of it"), el("pre", {}, story.text)],
    el("h2", {}, "Called by"),
    neighbours("callers", story.callers),
    story.by === "workload" && [el("h2", {}, "Calls"), neighbours("callees", story.callees)],
    story.denials.length > 0 && [el("h2", {}, "Denials"), denialTable("story-denials", story.denials)],
  ];
}

function neighbours(id, rows) {
  if (!rows.length) return el("p", { class: "empty" }, "Nobody in this time.");
  return table(`story-${id}`, edgeColumns, rows, { label: id === "callers" ? "Callers" : "Called workloads" });
}

function spark(title, values, failures, show) {
  const most = Math.max(...values, 0);
  const x = (index) => (index / Math.max(values.length - 1, 1)) * WIDE;
  const y = (value) => HIGH - 3 - (most ? value / most : 0) * (HIGH - 8);
  const line = (numbers) => numbers.map((value, index) => `${index ? "L" : "M"}${x(index).toFixed(1)} ${y(value).toFixed(1)}`).join("");
  const drawn = svg("svg", { class: "spark", viewBox: `0 0 ${WIDE} ${HIGH}`, preserveAspectRatio: "none", role: "img",
    "aria-label": `${title}: at most ${show(most)}, now ${show(values.at(-1) ?? 0)}` },
  svg("path", { class: "area", d: `${line(values)}L${WIDE} ${HIGH}L0 ${HIGH}Z` }),
  svg("path", { class: "all", d: line(values), "vector-effect": "non-scaling-stroke" }),
  failures && failures.some(Boolean) && svg("path", { class: "fail", d: line(failures), "vector-effect": "non-scaling-stroke" }));
  return el("figure", {}, el("figcaption", {}, `${title}, at most ${show(most)}`), drawn);
}
