// The pages that are tables: services, workloads, edges, denials, health.

import { age, bytes, el, health, lockIcon, millis, percent, rate, storyLink } from "/dom.js";
import { table } from "/tables.js";

const number = (title, key, show) => ({
  title, right: true, value: (row) => row[key], cell: (row) => show(row[key]),
});

export function goldenColumns(by) {
  return [
    { title: "Name", value: (row) => row.name, cell: (row) => (by ? storyLink(by, row.name) : row.name) },
    { title: "Success", right: true, value: (row) => row.success,
      cell: (row) => el("span", { class: health(row.success) }, percent(row.success)) },
    number("Requests/s", "rps", rate), number("p50", "p50_ms", millis),
    number("p95", "p95_ms", millis), number("p99", "p99_ms", millis),
    number("Connections/s", "connections_s", rate),
    { title: "Denied", right: true, value: (row) => row.denied,
      cell: (row) => el("span", { class: row.denied ? "bad" : "" }, String(row.denied)) },
    number("Sent/s", "sent_s", bytes), number("Received/s", "received_s", bytes),
  ];
}

export function servicesPage(overview) {
  return [
    el("h1", {}, "Services"),
    table("services", goldenColumns("service"), overview.services, { label: "Services" }),
    overview.routes.length > 0 && [
      el("h2", {}, "Routes"),
      table("routes", goldenColumns(), overview.routes, { label: "Routes" })],
    el("p", { class: "note" }, "Success and latency are of requests where a waypoint counts them, else of connections. A denial is a failure."),
  ];
}

export function workloadsPage(overview) {
  return [
    el("h1", {}, "Workloads"),
    table("workloads", goldenColumns("workload"), overview.workloads, { label: "Workloads" }),
    el("h2", {}, "Namespaces"),
    table("namespaces", goldenColumns(), overview.namespaces, { label: "Namespaces" }),
  ];
}

const named = (name) => (name.split("/").length === 2 ? storyLink("workload", name) : name);

export const edgeColumns = [
  { title: "From", value: (row) => row.src, cell: (row) => named(row.src) },
  { title: "To", value: (row) => row.dst, cell: (row) => named(row.dst) },
  { title: "Path", value: (row) => row.path },
  { title: "Secured", value: (row) => (row.secured ? "yes" : "no"),
    cell: (row) => el("span", { class: row.secured ? "good" : "warn" }, lockIcon(row.secured), row.secured ? " yes" : " no") },
  { title: "Success", right: true, value: (row) => row.traffic.success,
    cell: (row) => el("span", { class: health(row.traffic.success) }, percent(row.traffic.success)) },
  { title: "Requests/s", right: true, value: (row) => row.traffic.rps, cell: (row) => rate(row.traffic.rps) },
  { title: "p95", right: true, value: (row) => row.traffic.p95_ms, cell: (row) => millis(row.traffic.p95_ms) },
  { title: "Connections/s", right: true, value: (row) => row.traffic.connections_s, cell: (row) => rate(row.traffic.connections_s) },
  { title: "Client identity", value: (row) => row.src_identity || "none" },
  { title: "Server identity", value: (row) => row.dst_identity || "none" },
];

export function edgesPage(overview) {
  return [el("h1", {}, "Edges"), table("edges", edgeColumns, overview.edges, { label: "Edges" })];
}

export function denialTable(id, denials) {
  const now = Date.now() / 1000;
  return table(id, [
    { title: "Last", value: (row) => -row.last_at, cell: (row) => `${age(now - row.last_at)} ago` },
    { title: "Times", right: true, value: (row) => row.count },
    { title: "From", value: (row) => row.src || row.src_identity || "unknown" },
    { title: "To", value: (row) => row.dst || row.service || "unknown" },
    { title: "Decided by", value: (row) => row.policy || "not said by the other side" },
    { title: "Reason", wrap: true, value: (row) => row.reason },
    { title: "Last example", wrap: true, value: (row) => row.example },
  ], denials, { label: "Denials" });
}

export function denialsPage(overview) {
  return [
    el("h1", {}, "Denials"),
    overview.denials.length ? denialTable("denials", overview.denials)
      : el("p", { class: "empty" }, "Nobody was turned away lately."),
    el("p", { class: "note" }, "Ask the ", el("a", { href: "#/simulator" }, "simulator"), " what policy would say about another request. ",
      el("code", {}, "meshnode tap --denied"), " shows denials as they happen."),
  ];
}

export function nodeTroubles(node) {
  const bad = [...node.not_ready];
  if (node.applied_revision < node.revision) bad.push(`kernel and workers are ${node.revision - node.applied_revision} revisions behind`);
  bad.push(...node.pods.filter((pod) => pod.state === "failed").map((pod) => `${pod.namespace}/${pod.name}: ${pod.reason}`));
  bad.push(...node.certificates.filter((one) => one.state === "expired" || one.state === "failed").map((one) => `${one.identity}: ${one.reason || one.state}`));
  bad.push(...node.problems.filter((one) => one.severity === "error").map((one) => `${one.subject || one.where}: ${one.message}`));
  return bad;
}

export function healthPage(overview) {
  const now = Date.now() / 1000;
  const pods = overview.nodes.flatMap((node) => node.pods.map((pod) => ({ ...pod, node: node.node })));
  const certificates = overview.nodes.flatMap((node) => node.certificates.map((one) => ({ ...one, node: node.node })));
  const problems = overview.nodes.flatMap((node) => node.problems.map((one) => ({ ...one, node: node.node })));
  const tone = { active: "good", valid: "good", pending: "warn", failed: "bad", expired: "bad", error: "bad", warning: "warn" };
  const state = (row, word) => el("span", { class: tone[word] }, word);
  return [
    el("h1", {}, "Health"),
    Object.entries(overview.missing).map(([origin, reason]) => el("p", { class: "bad" }, `${origin} does not answer: ${reason}`)),
    table("nodes", [
      { title: "Node", value: (row) => row.node },
      { title: "Ready", value: (row) => (row.ready ? "yes" : "no"), cell: (row) => el("span", { class: row.ready ? "good" : "bad" }, row.ready ? "yes" : "no") },
      { title: "Workers", right: true, value: (row) => row.workers_ready, cell: (row) => `${row.workers_ready} of ${row.workers}` },
      { title: "Revision", right: true, value: (row) => row.applied_revision },
      { title: "Troubles", wrap: true, value: (row) => nodeTroubles(row).join("; ") || "none" },
    ], overview.nodes, { label: "Nodes" }),
    el("h2", {}, "Enrolment"),
    table("pods", [
      { title: "Pod", value: (row) => `${row.namespace}/${row.name}` },
      { title: "State", value: (row) => row.state, cell: (row) => state(row, row.state) },
      { title: "Node", value: (row) => row.node },
      { title: "Identity", value: (row) => row.identity },
      { title: "Since", right: true, value: (row) => -row.since, cell: (row) => age(now - row.since) },
      { title: "Reason", wrap: true, value: (row) => row.reason },
    ], pods, { label: "Pods" }),
    el("h2", {}, "Certificates"),
    table("certificates", [
      { title: "Identity", value: (row) => row.identity },
      { title: "State", value: (row) => row.state, cell: (row) => state(row, row.state) },
      { title: "Node", value: (row) => row.node },
      { title: "Expires in", right: true, value: (row) => row.not_after, cell: (row) => (row.not_after ? age(row.not_after - now) : "–") },
      { title: "Reason", wrap: true, value: (row) => row.reason },
    ], certificates, { label: "Certificates" }),
    problems.length > 0 && [el("h2", {}, "Problems with objects"),
      table("problems", [
        { title: "Severity", value: (row) => row.severity, cell: (row) => state(row, row.severity) },
        { title: "Object", value: (row) => row.subject },
        { title: "Where", value: (row) => row.where },
        { title: "Problem", wrap: true, value: (row) => row.message },
      ], problems, { label: "Problems" })],
  ];
}
