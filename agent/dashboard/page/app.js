// The page's frame: asks for numbers every few seconds, chooses the page by the address, keeps the
// reader's place. What needs no numbers (the simulator) is drawn once and left alone.

import { el } from "/dom.js";
import { graphPage } from "/graph.js";
import { denialsPage, edgesPage, healthPage, nodeTroubles, servicesPage, workloadsPage } from "/views.js";
import { storyPage } from "/story.js";
import { simulatorPage } from "/simulator.js";

const EVERY_MS = 5000;
const main = document.getElementById("main");
const status = document.getElementById("status");
const since = document.getElementById("since");
const state = { overview: null, story: null, paused: false, secret: "", asked: 0, drawn: "", window: 900 };

function takeSecret() {
  const given = new URLSearchParams(location.hash.slice(1)).get("secret");
  if (given) {
    sessionStorage.setItem("secret", given);
    history.replaceState(null, "", "#/graph");
  }
  state.secret = sessionStorage.getItem("secret") ?? "";
}

async function ask(path, body) {
  const response = await fetch(path, {
    method: body ? "POST" : "GET", body: body && JSON.stringify(body),
    headers: { "X-Meshnode-Secret": state.secret },
  });
  const found = await response.json();
  if (!response.ok) throw new Error(found.error?.message ?? `HTTP ${response.status}`);
  return found;
}

function place() {
  const [, page = "graph", name = ""] = location.hash.split("/");
  return { page, name: decodeURIComponent(name) };
}

async function refresh() {
  const turn = ++state.asked;
  const { page, name } = place();
  try {
    const overview = await ask(`/api/overview?seconds=${since.value}`);
    const story = page === "service" || page === "workload"
      ? await ask(`/api/story?by=${page}&name=${encodeURIComponent(name)}&seconds=${state.window}`) : null;
    if (turn !== state.asked) return; // a later question overtook this one
    Object.assign(state, { overview, story });
    status.className = "";
    status.textContent = summary(overview);
    draw();
  } catch (error) {
    if (turn !== state.asked) return;
    status.className = "bad";
    status.textContent = `No answer: ${error.message}`;
  }
}

function summary(overview) {
  const answered = Object.keys(overview.origins).length;
  const missing = Object.keys(overview.missing).length;
  const reach = Math.min(...Object.values(overview.origins));
  return `${answered === 1 ? "1 agent or waypoint" : `${answered} agents and waypoints`} answered for the last ${Math.round(reach)} s${missing ? `; ${missing} did not` : ""}. Read at ${new Date().toLocaleTimeString()}.`;
}

function draw() {
  const { page } = place();
  const overview = state.overview;
  if (!overview || (page === "simulator" && state.drawn === location.hash)) return;
  const busy = main.contains(document.activeElement) && document.activeElement !== main;
  if (busy && state.drawn === location.hash) return; // never take a field or place from a reader
  const pages = {
    graph: () => graphPage(overview, redraw), services: () => servicesPage(overview),
    workloads: () => workloadsPage(overview), edges: () => edgesPage(overview),
    denials: () => denialsPage(overview), health: () => healthPage(overview),
    simulator: () => simulatorPage(overview, (question) => ask("/api/authz", question)),
    service: () => story(overview), workload: () => story(overview),
  };
  const made = (pages[page] ?? (() => [el("h1", {}, "No such page"), el("p", {}, el("a", { href: "#/graph" }, "To the graph"))]))();
  if (!made) return;
  main.replaceChildren(...made.flat(9).filter(Boolean));
  state.drawn = location.hash;
  document.title = `${main.querySelector("h1")?.textContent ?? "meshnode"} · meshnode`;
  counts(overview);
}

function story(overview) {
  return state.story && storyPage(state.story, overview.history, (seconds) => {
    state.window = seconds;
    state.drawn = "";
    document.activeElement?.blur();
    refresh();
  });
}

function redraw() { state.drawn = ""; draw(); }

function counts(overview) {
  const show = (id, number) => {
    const mark = document.getElementById(id);
    mark.hidden = number === 0;
    mark.textContent = String(number);
  };
  show("denial-count", overview.denials.length);
  show("health-count", overview.nodes.reduce((sum, node) => sum + nodeTroubles(node).length, 0) + Object.keys(overview.missing).length);
}

function turnTo() {
  const { page } = place();
  for (const link of document.querySelectorAll("nav a")) {
    if ([`#/${page}`, `#/${page}s`].includes(link.getAttribute("href"))) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  state.story = null;
  state.drawn = "";
  document.activeElement?.blur();
  draw();
  main.focus({ preventScroll: true });
  scrollTo(0, 0);
  refresh();
}

function theme(choice) {
  const root = document.documentElement;
  if (choice) root.dataset.theme = choice;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const button = document.getElementById("theme");
  button.textContent = dark ? "Light" : "Dark";
  button.setAttribute("aria-label", dark ? "Use light colours" : "Use dark colours");
  return dark;
}

document.getElementById("theme").addEventListener("click", () => {
  const next = theme() ? "light" : "dark";
  localStorage.setItem("theme", next);
  theme(next);
});
document.getElementById("pause").addEventListener("click", (event) => {
  state.paused = !state.paused;
  event.target.setAttribute("aria-pressed", String(state.paused));
  event.target.textContent = state.paused ? "Go on" : "Pause";
});
document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });
since.addEventListener("change", () => { redraw(); refresh(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => theme());
addEventListener("hashchange", turnTo);
setInterval(() => { if (!state.paused && !document.hidden) refresh(); }, EVERY_MS);

takeSecret();
theme(localStorage.getItem("theme"));
if (!location.hash) history.replaceState(null, "", "#/graph");
turnTo();
