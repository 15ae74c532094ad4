// The page of one run: follows its events, stops or replays it, and frames its report once it has ended.
import { byId, duration, element, escaped, grouped, isLimited, request, requested, setText, showProblem, startRun, stateLabel } from "./api.js";

const STATUSES = ["stored", "rejected", "failed", "unknown", "not_attempted"];
const ENDED = ["completed", "stopped", "interrupted"];
const CONCLUSIONS = {
  1: "a --fail-on condition holds",
  3: "the script ended with an error",
  4: "the source did not supply all tokens",
  5: "some tokens are not settled",
};
const FIRST_DELAY_MS = 500, LAST_DELAY_MS = 10_000;
// The time over which the rate is averaged.
const RATE_WINDOW_MS = 3000;

const { dataset } = byId("run");
const path = `/v1/runs/${encodeURIComponent(dataset.id)}`;
const canRunAsync = "canRunAsync" in dataset, keepsReports = "keepsReports" in dataset;
const stop = byId("stop"), replay = byId("replay"), confirmation = byId("confirmation");
const requestNote = byId("request-note");
const figures = new Map();
for (const figure of document.querySelectorAll("dd[data-figure]")) figures.set(figure.dataset.figure, figure);
const segments = [...document.querySelectorAll("#bar rect[data-status]")];

const wait = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const show = (id) => { byId(id).hidden = false; };

/** Hides an element; if it has the focus, the title gets it. */
function hide(target) {
  if (target.contains(document.activeElement)) byId("title").focus();
  target.hidden = true;
}

/** Sets the line that screen readers announce; it contains no numbers that change often. */
function announce(text, run) {
  const parts = run ? [stateLabel(run)] : [];
  if (text !== "") parts.push(element("span", text));
  const line = byId("status");
  const isSame = parts.length === line.children.length && parts.every((part, at) => part.isEqualNode(line.children[at]));
  if (!isSame) line.replaceChildren(...parts);
  document.title = `${run ? `${run.state}: ` : ""}Run ${dataset.id} – token_service`;
}

/** Describes the state in words. */
function description(run) {
  if (run.state === "queued") return "waits until another run has ended";
  if (run.state === "running") return stop.getAttribute("aria-disabled") === "true" ? "is being stopped" : "";
  const cause = run.summary?.aborted_by;
  const parts = [];
  if (cause) parts.push(`stopped by ${cause === "deadline" ? "the deadline" : cause}`);
  else if (run.exit_code in CONCLUSIONS) parts.push(CONCLUSIONS[run.exit_code]);
  if (run.exit_code !== undefined) parts.push(`exit code ${run.exit_code}`);
  return parts.join(", ");
}

function setFigure(name, text) {
  const figure = figures.get(name);
  figure.parentElement.hidden = false;
  setText(figure, text);
}

/** Shows the numbers of the run. */
function showTotals(run) {
  show("totals");
  setFigure("requested", requested(run));
  for (const name of ["received", ...STATUSES]) setFigure(name, grouped(run[name]));
  if (run.duration_ms !== undefined) setFigure("duration", duration(run.duration_ms));
  const { summary } = run;
  if (!summary) return;
  setFigure("rate", grouped(Math.floor(settled(run) * 1000 / Math.max(summary.duration_ms, 1))));
  setFigure("duration", duration(summary.duration_ms));
  setFigure("requests", grouped(summary.requests));
  for (const name of ["p50", "p99"]) {
    const value = summary.latency_ms?.[name];
    if (value > 0) setFigure(name, duration(value));
  }
}

const settled = (run) => run.stored + run.rejected;

/** Draws the share of each status; of input without a SIZE, among the received tokens. */
function showProgress(run) {
  const known = STATUSES.reduce((sum, status) => sum + run[status], 0);
  const total = Math.max(isLimited(run) ? run.requested : run.received, known, 1);
  let left = 0;
  for (const segment of segments) {
    const width = run[segment.dataset.status] * 100 / total;
    segment.setAttribute("x", left.toFixed(3));
    segment.setAttribute("width", width.toFixed(3));
    left += width;
  }
  const bar = byId("bar");
  const text = isLimited(run) ? `${grouped(known)} of ${grouped(run.requested)} tokens, ${Math.floor(left)} %` : `${grouped(known)} tokens`;
  if (isLimited(run)) {
    bar.setAttribute("aria-valuemax", total);
    bar.setAttribute("aria-valuenow", known);
  }
  bar.setAttribute("aria-valuetext", text);
  setText(byId("progress-text"), text);
}

/** Returns a part of a token whose blanks are visible. */
const blank = (text) => text === "" ? [] : [element("span", text, "blank")];

function tokenCell(token) {
  const cell = element("td", "", "token");
  const [, start, middle, end] = escaped(token).match(/^(\s*)(.*?)(\s*)$/su);
  cell.append(...blank(start), middle, ...blank(end));
  return cell;
}

let shownRejections = "";

function showRejections(records = []) {
  const json = JSON.stringify(records);
  if (records.length === 0 || json === shownRejections) return;
  shownRejections = json;
  show("rejections");
  byId("rejected").replaceChildren(...records.map((record) => {
    const row = element("tr");
    const why = [record.sqlstate, record.constraint ?? record.reason ?? record.message];
    row.append(tokenCell(record.token), element("td", escaped(why.filter(Boolean).join(" "))));
    return row;
  }));
}

let latest, samples = [];

/** Shows how many tokens are settled per second; also if no event arrives. */
function showRate() {
  if (!latest || latest.state !== "running") return;
  const now = performance.now();
  samples.push({ now, settled: settled(latest) });
  while (samples.length > 2 && now - samples[1].now >= RATE_WINDOW_MS) samples.shift();
  const [first] = samples, seconds = (now - first.now) / 1000;
  if (seconds >= 0.2) setFigure("rate", grouped(Math.round((settled(latest) - first.settled) / seconds)));
}

function showRun(run) {
  latest = run;
  const isActive = !ENDED.includes(run.state);
  announce(description(run), run);
  showTotals(run);
  showProgress(run);
  showRejections(run.latest_rejections);
  showRate();
  if (isActive) {
    show("progress");
    stop.hidden = false;
    if (requestNote) requestNote.hidden = false;
  }
  if (run.error) {
    show("failure");
    showProblem(byId("failure-text"), run.error);
  }
}

/** Follows the events until the stream ends; returns the run if it has ended. */
function followEvents(onOpen) {
  return new Promise((resolve) => {
    const events = new EventSource(`${path}/events`);
    const end = (run) => {
      events.close();
      resolve(run);
    };
    events.addEventListener("open", onOpen);
    events.addEventListener("progress", (event) => showRun(JSON.parse(event.data)));
    events.addEventListener("summary", (event) => {
      const run = JSON.parse(event.data);
      showRun(run);
      end(run);
    });
    // The caller reconnects: it learns from the status of a request why the stream ended.
    events.addEventListener("error", () => end());
  });
}

/** Follows the run until it has ended; reconnects with backoff. */
async function follow() {
  let delay = FIRST_DELAY_MS;
  for (;;) {
    try {
      const response = await request(path);
      const run = await response.json();
      showRun(run);
      if (ENDED.includes(run.state)) return finish(run);
      const ended = await followEvents(() => { delay = FIRST_DELAY_MS; });
      if (ended) return finish(ended);
    } catch (problem) {
      if (problem.status === 404) return showUnknown();
      announce(`The page reconnects: ${problem.message}.`);
    }
    samples = [];
    await wait(delay);
    delay = Math.min(2 * delay, LAST_DELAY_MS);
  }
}

function showUnknown() {
  announce("The service does not know this run. Without --data it keeps the last 100 runs until it ends.");
  hide(byId("run"));
  if (confirmation.open) confirmation.close();
}

/** Shows an ended run: no progress, and the report if the service has it. */
async function finish(run) {
  if (confirmation.open) confirmation.close();
  for (const target of [stop, requestNote, byId("progress")]) {
    if (target) hide(target);
  }
  byId("problem").replaceChildren();
  if (run.state === "interrupted") {
    // The rejections are those before the interruption, which the numbers may not contain.
    hide(byId("rejections"));
    show("replay-note");
    show("replay");
    return; // The replay has the report.
  }
  if (run.replayed_by) showReplay(run.replayed_by);
  try {
    if (!keepsReports || !await hasReport()) return show("no-report");
  } catch (problem) {
    return showProblem(byId("problem"), problem, "Error: ");
  }
  byId("frame").src = byId("frame").dataset.src;
  hide(byId("rejections"));
  show("report");
}

function showReplay(id) {
  const link = byId("replayed").querySelector("a");
  link.href = `/runs/${encodeURIComponent(id)}`;
  setText(link.firstChild, id);
  show("replayed");
}

/** Returns true if the service has the report; reads only the status of the response. */
async function hasReport() {
  const controller = new AbortController();
  try {
    await request(`${path}/report?format=html`, { signal: controller.signal });
    return true;
  } catch (problem) {
    if (problem.status === 410) return false;
    throw problem;
  } finally {
    controller.abort();
  }
}

/** Calls `action` at a click, at most once at a time; shows why it failed. */
function onClick(button, action) {
  button.addEventListener("click", async () => {
    if (button.getAttribute("aria-disabled") === "true") return;
    byId("problem").replaceChildren();
    try {
      await action();
    } catch (problem) {
      button.removeAttribute("aria-disabled");
      showProblem(byId("problem"), problem, "Error: ");
    }
  });
}

onClick(stop, async () => confirmation.showModal());
byId("keep").addEventListener("click", () => confirmation.close());
onClick(byId("confirm"), async () => {
  confirmation.close();
  await request(path, { method: "DELETE" });
  stop.setAttribute("aria-disabled", "true");
  if (latest) announce(description(latest), latest);
});
onClick(replay, async () => {
  replay.setAttribute("aria-disabled", "true");
  await startRun(`${path}/replay`, canRunAsync);
});
// The browser may restore the page, as it was, when the user goes back.
addEventListener("pageshow", (event) => {
  if (event.persisted) replay.removeAttribute("aria-disabled");
});

setInterval(showRate, 1000);
follow();
