"use strict";
// The table of tokens. Only the visible rows are in the document. Text is never set as markup.
(() => {
  const STATUSES = ["stored", "rejected", "failed", "unknown", "not_attempted"];
  // Sort order of the statuses: those that need attention come first.
  const RANK = [4, 3, 1, 0, 2];
  const MARGIN = 12, PRINTED = 1000;
  // The height of a row as in page.css: on a narrow screen the reason is under the token.
  const narrow = matchMedia("screen and (max-width: 900px)");
  const height = () => narrow.matches ? 80 : 32;
  const byId = (id) => document.getElementById(id);
  const rows = JSON.parse(byId("rows").textContent);
  for (const row of rows) row.push((row[1] + "\n" + row[4]).toLowerCase());
  const view = byId("view"), body = byId("body"), search = byId("search"), count = byId("count");
  const heads = [...document.querySelectorAll("th[data-key]")];
  const chips = [...document.querySelectorAll("button[data-status]")];
  const wanted = new Set(STATUSES.keys());
  let sorted = { key: "0", down: false }, order = [], found = [], shown = "", printing = false;

  const compare = (key) => key === 0
    ? (a, b) => RANK[a[0]] - RANK[b[0]]
    : (a, b) => (a[key] < b[key] ? -1 : a[key] > b[key] ? 1 : 0);

  function sort() {
    const by = compare(Number(sorted.key)), sign = sorted.down ? -1 : 1;
    order = rows.slice().sort((a, b) => sign * by(a, b));
    for (const head of heads) {
      const own = head.dataset.key === sorted.key;
      head.setAttribute("aria-sort", own ? (sorted.down ? "descending" : "ascending") : "none");
    }
    filter();
  }

  function filter() {
    const text = search.value.trim().toLowerCase();
    found = order.filter((row) => wanted.has(row[0]) && (text === "" || row[5].includes(text)));
    const all = rows.length.toLocaleString("en");
    count.textContent = found.length === rows.length ? `${all} rows` : `${found.length.toLocaleString("en")} of ${all} rows`;
    view.scrollTop = 0;
    shown = "";
    draw();
  }

  function part(className, text) {
    const span = document.createElement("span");
    span.className = className;
    span.textContent = text;
    return span;
  }

  // Blanks at the ends of a token are marked, because they would be invisible.
  function marked(token) {
    const [, start, middle, end] = token.match(/^(\s*)(.*?)(\s*)$/su);
    return [part("blank", start), middle, part("blank", end)].filter((text) => text.textContent !== "" && text !== "");
  }

  function line(row, number) {
    const tr = document.createElement("tr");
    tr.setAttribute("aria-rowindex", number + 2);
    const status = document.createElement("td");
    const dot = document.createElement("span");
    dot.className = "dot " + STATUSES[row[0]];
    status.append(dot, STATUSES[row[0]]);
    const cells = [row[1], row[2], row[3].toFixed(2), row[4]].map((text) => {
      const td = document.createElement("td");
      td.textContent = text;
      return td;
    });
    cells[0].className = "token";
    cells[0].title = row[1];
    cells[0].replaceChildren(...marked(row[1]));
    tr.append(status, ...cells);
    return tr;
  }

  function gap(count) {
    const tr = document.createElement("tr"), td = document.createElement("td");
    tr.className = "gap";
    tr.setAttribute("aria-hidden", "true");
    td.colSpan = 5;
    td.style.height = `${count * height()}px`;
    tr.append(td);
    return tr;
  }

  function put(from, to) {
    if (shown === `${from} ${to}`) return;
    shown = `${from} ${to}`;
    const lines = found.slice(from, to).map((row, index) => line(row, from + index));
    body.replaceChildren(gap(from), ...lines, gap(found.length - to));
    body.parentElement.setAttribute("aria-rowcount", found.length + 1);
  }

  function draw() {
    if (printing) return;
    const from = Math.max(0, Math.floor(view.scrollTop / height()) - MARGIN);
    const seen = Math.ceil(view.clientHeight / height()) || 20;
    put(from, Math.min(found.length, from + seen + 2 * MARGIN));
  }

  view.addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
  addEventListener("resize", draw);
  narrow.addEventListener("change", () => { shown = ""; draw(); });
  addEventListener("beforeprint", () => {
    printing = true;
    put(0, Math.min(found.length, PRINTED));
    body.lastChild.remove();
    byId("cut").hidden = found.length <= PRINTED;
  });
  addEventListener("afterprint", () => {
    printing = false;
    shown = "";
    byId("cut").hidden = true;
    draw();
  });
  search.addEventListener("input", filter);
  for (const chip of chips) {
    chip.addEventListener("click", () => {
      const status = STATUSES.indexOf(chip.dataset.status), on = !wanted.has(status);
      wanted[on ? "add" : "delete"](status);
      chip.setAttribute("aria-pressed", on);
      filter();
    });
  }
  for (const head of heads) {
    head.querySelector("button").addEventListener("click", () => {
      const { key } = head.dataset;
      // By default numbers descend and texts ascend.
      sorted = { key, down: sorted.key === key ? !sorted.down : key === "2" || key === "3" };
      sort();
    });
  }
  byId("tools").hidden = false;
  sort();
})();
