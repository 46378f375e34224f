// The policy simulator: a question like `meshnode authz check`, answered by an agent.

import { el } from "/dom.js";
import { table } from "/tables.js";

const kept = { src: "", dst: "", port: "80", method: "", path: "", host: "", headers: "", token: "" };

export function simulatorPage(overview, ask) {
  const names = [...new Set([...overview.workloads.map((row) => row.name), ...overview.services.map((row) => row.name),
    ...overview.nodes.flatMap((node) => node.pods.map((pod) => `${pod.namespace}/${pod.name}`))])].sort();
  const field = (name, title, more = {}, wide = false) => el("label", { class: wide && "wide" }, title,
    el(more.rows ? "textarea" : "input", { name, value: kept[name], autocomplete: "off", spellcheck: "false", ...more,
      oninput: (event) => { kept[name] = event.target.value; } }, more.rows ? kept[name] : null));
  const answer = el("div", { id: "answer", "aria-live": "polite" });
  const form = el("form", { class: "sim", onsubmit: async (event) => {
    event.preventDefault();
    answer.replaceChildren(el("p", {}, "Asking…"));
    try {
      answer.replaceChildren(...verdict(await ask(question())).flat(9).filter(Boolean));
    } catch (error) {
      answer.replaceChildren(el("p", { class: "bad" }, error.message));
    }
  } },
  el("datalist", { id: "names" }, names.map((name) => el("option", { value: name }))),
  field("src", "From", { list: "names", required: true, placeholder: "namespace/name" }),
  field("dst", "To", { list: "names", required: true, placeholder: "namespace/name" }),
  field("port", "Port", { type: "number", min: 1, max: 65535, required: true }),
  field("method", "Method, for a request", { placeholder: "GET" }),
  field("path", "Path", { placeholder: "/" }),
  field("host", "Host", { placeholder: "the service's own name" }),
  field("headers", "Headers, one NAME: VALUE per line", { rows: 3 }, true),
  field("token", "JWT, sent as bearer token", { rows: 2 }, true),
  el("div", { class: "wide" }, el("button", { class: "primary", type: "submit" }, "Judge")));
  return [el("h1", {}, "Policy simulator"),
    el("p", { class: "note" }, "Says what policy would decide, and by which rule. Nothing is sent. With a method, path, host, header or token the question is about a request, else about a connection."),
    form, answer];
}

function question() {
  const asked = { src: kept.src.trim(), dst: kept.dst.trim(), port: Number(kept.port), request: null };
  if (kept.method || kept.path || kept.host || kept.headers.trim() || kept.token.trim()) {
    const headers = kept.headers.split("\n").filter((line) => line.trim()).map((line) => {
      const at = line.indexOf(":");
      if (at < 1) throw new Error(`Header “${line}”: write NAME: VALUE`);
      return [line.slice(0, at).trim(), line.slice(at + 1).trim()];
    });
    asked.request = { method: kept.method || "GET", path: kept.path || "/", host: kept.host, headers,
      token: kept.token.trim(), at: Date.now() / 1000 };
  }
  return asked;
}

const ruleText = (ref) => (ref ? `${ref.kind} ${ref.policy}${ref.rule === null ? "" : ` rule[${ref.rule}]`}` : "");

function verdict(found) {
  const by = found.decided_by ? ` by ${ruleText(found.decided_by)}` : "";
  const party = (one) => [one.workload, one.address, one.identity || "no identity (plaintext)"].filter(Boolean).join(", ");
  return [
    el("p", { class: `verdict ${found.allowed ? "good" : "bad"}` }, `${found.allowed ? "Allowed" : "Denied"}${by} (${found.decision})`),
    el("p", {}, `From ${party(found.src)}`), el("p", {}, `To ${party(found.dst)}, port ${found.port}`),
    found.waypoint && el("p", {}, `Judged by waypoint ${found.waypoint}`),
    found.dry_run.map((ref) => el("p", { class: "warn" }, `Would be denied by ${ruleText(ref)} (dry run)`)),
    found.steps.length > 0 && [el("h2", {}, "In this order"), table("steps", [
      { title: "Step", right: true, value: (row) => row.number },
      { title: "Rule", value: (row) => row.what }, { title: "Action", value: (row) => row.action },
      { title: "Result", value: (row) => row.result }, { title: "Detail", wrap: true, value: (row) => row.detail },
      { title: "Decided", value: (row) => (row.decided ? "this one" : "") },
    ], found.steps.map((step, index) => ({ ...step, number: index + 1 })), { label: "Steps" })],
  ];
}
