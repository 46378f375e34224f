// A table that sorts, filters and turns pages, so that thousands of rows stay quick. What the
// reader chose is kept per table while the page is open.

import { el } from "/dom.js";

const PAGE_ROWS = 100;
const chosen = new Map();

// columns: {title, value(row) for sorting, cell(row) for showing, right, wrap}
export function table(id, columns, rows, { label, first = 0, descending = false, words } = {}) {
  const state = chosen.get(id) ?? { column: first, descending, filter: "", page: 0 };
  chosen.set(id, state);
  const text = words ?? ((row) => columns.map((column) => column.value(row)).join(" "));
  const found = el("span", { class: "found", role: "status" });
  const body = el("tbody");
  const pager = el("div", { class: "pager" });
  const heads = columns.map((column, index) => el("th", { scope: "col", class: column.right && "right" },
    el("button", { type: "button", onclick: () => sortBy(index) }, column.title)));
  const filter = el("input", {
    type: "search", value: state.filter, placeholder: "Filter…", "aria-label": `Filter ${label}`,
    oninput: () => { state.filter = filter.value; state.page = 0; draw(); },
  });

  function sortBy(index) {
    state.descending = state.column === index ? !state.descending : columns[index].right ?? false;
    state.column = index;
    draw();
  }
  function order(a, b) {
    const value = columns[state.column].value;
    const [x, y] = [value(a), value(b)];
    const less = x === null ? -1 : y === null ? 1 : x < y ? -1 : x > y ? 1 : 0;
    return x === y ? 0 : state.descending ? -less : less;
  }
  function turn(step) { state.page += step; draw(); }
  function draw() {
    const wanted = state.filter.trim().toLowerCase().split(/\s+/).filter(Boolean);
    const kept = rows.filter((row) => {
      if (!wanted.length) return true;
      const line = text(row).toLowerCase();
      return wanted.every((word) => line.includes(word));
    }).sort(order);
    const pages = Math.max(1, Math.ceil(kept.length / PAGE_ROWS));
    state.page = Math.min(Math.max(state.page, 0), pages - 1);
    const shown = kept.slice(state.page * PAGE_ROWS, (state.page + 1) * PAGE_ROWS);
    body.replaceChildren(...shown.map((row) => el("tr", {},
      columns.map((column) => el("td", { class: column.right ? "right" : column.wrap && "wrap" },
        column.cell ? column.cell(row) : String(column.value(row) ?? ""))))));
    heads.forEach((head, index) => head.setAttribute("aria-sort",
      index !== state.column ? "none" : state.descending ? "descending" : "ascending"));
    found.textContent = kept.length === rows.length ? (rows.length === 1 ? "1 row" : `${rows.length} rows`) : `${kept.length} of ${rows.length} rows`;
    pager.replaceChildren(...(pages < 2 ? [] : [
      el("button", { type: "button", disabled: state.page === 0, onclick: () => turn(-1) }, "Previous"),
      `Page ${state.page + 1} of ${pages}`,
      el("button", { type: "button", disabled: state.page === pages - 1, onclick: () => turn(1) }, "Next"),
    ]));
  }
  draw();
  return el("section", { "aria-label": label, "data-table": id },
    el("div", { class: "tools" }, filter, found),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${label}, scrollable` },
      el("table", {}, el("thead", {}, el("tr", {}, heads)), body)), pager);
}
