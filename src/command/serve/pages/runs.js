// The page of all runs: refreshes the table while the page is visible, and starts runs.
import { Problem, byId, element, grouped, request, requested, setText, showProblem, startRun, stateLabel } from "./api.js";

const INTERVAL_MS = 2000;
const MAX_ROWS = 200;

const form = byId("start"), size = byId("size"), button = byId("start-button"), problems = byId("size-problem");
const body = byId("rows"), freshness = byId("freshness");
const canRunAsync = "canRunAsync" in form.dataset;

// The rows by the ids of their runs: only changed cells are set, so focus and selection stay.
const rows = new Map();

function cell(row, label, className = "", name = "td") {
  const created = element(name, "", className);
  created.setAttribute("role", name === "th" ? "rowheader" : "cell");
  created.dataset.label = label;
  row.append(created);
  return created;
}

function createRow(id) {
  const row = element("tr");
  row.setAttribute("role", "row");
  const state = cell(row, "State", "wide");
  const name = cell(row, "Run", "wide", "th");
  name.scope = "row";
  const link = element("a");
  link.href = `/runs/${encodeURIComponent(id)}`;
  link.append(element("code", id));
  name.append(link);
  const started = cell(row, "Started", "wide");
  const numbers = ["Requested", "Stored", "Rejected", "Others", "Exit code"].map((label) => cell(row, label, "number"));
  return { row, state, started, numbers };
}

// Returns a time to the second, as the HTML report shows it.
function utcTime(rfc3339) {
  const time = element("time", rfc3339 ? `${rfc3339.slice(0, 19).replace("T", " ")} UTC` : "–");
  if (rfc3339) time.dateTime = rfc3339;
  return time;
}

function updateRow({ state, started, numbers }, run) {
  const label = stateLabel(run);
  if (!state.firstChild?.isEqualNode(label)) state.replaceChildren(label);
  const time = utcTime(run.started_at);
  if (!started.firstChild?.isEqualNode(time)) started.replaceChildren(time);
  const others = run.failed + run.unknown + run.not_attempted;
  const texts = [requested(run), grouped(run.stored), grouped(run.rejected), grouped(others), String(run.exit_code ?? "–")];
  texts.forEach((text, at) => setText(numbers[at], text));
}

function show(runs) {
  const shown = runs.slice(0, MAX_ROWS);
  const ids = new Set(shown.map((run) => run.id));
  for (const [id, { row }] of rows) {
    if (ids.has(id)) continue;
    row.remove();
    rows.delete(id);
  }
  shown.forEach((run, at) => {
    if (!rows.has(run.id)) rows.set(run.id, createRow(run.id));
    const entry = rows.get(run.id);
    updateRow(entry, run);
    if (body.children[at] !== entry.row) body.insertBefore(entry.row, body.children[at] ?? null);
  });
  const isCut = runs.length > MAX_ROWS;
  setText(freshness, runs.length === 0 ? "No run yet."
    : isCut ? `The newest ${grouped(MAX_ROWS)} of ${grouped(runs.length)} runs are listed.` : "");
}

let isRefreshing = false, timer;

async function refresh() {
  if (isRefreshing || document.hidden) return;
  isRefreshing = true;
  clearTimeout(timer);
  try {
    const response = await request("/v1/runs");
    show(await response.json());
  } catch (problem) {
    setText(freshness, `The list is not up to date: ${problem.message}. The page tries again.`);
  }
  isRefreshing = false;
  timer = setTimeout(refresh, INTERVAL_MS);
}

// The key of the attempt: a retry after a lost response attaches to the run that the first request started.
let key;

function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return `"${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}"`;
}

const setBusy = (isBusy) => button.setAttribute("aria-disabled", isBusy);

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (button.getAttribute("aria-disabled") === "true") return;
  setBusy(true);
  problems.replaceChildren();
  size.removeAttribute("aria-invalid");
  key ??= newKey();
  try {
    const path = `/v1/runs?size=${encodeURIComponent(size.value.trim())}`;
    await startRun(path, canRunAsync, { "Idempotency-Key": key });
  } catch (problem) {
    if (!(problem instanceof Problem) || problem.status !== 0) key = undefined;
    showProblem(problems, problem, "Error: ");
    if (problem.status === 400) size.setAttribute("aria-invalid", "true");
    size.focus();
    setBusy(false);
  }
});
size.addEventListener("input", () => { key = undefined; });

// The browser may restore the page, as it was, when the user goes back.
addEventListener("pageshow", (event) => {
  if (!event.persisted) return;
  key = undefined;
  setBusy(false);
});
document.addEventListener("visibilitychange", refresh);
refresh();
