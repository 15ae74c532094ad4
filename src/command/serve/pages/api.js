// Calls the API of the service and formats its values, for the scripts of both pages. Text is never set as
// markup.

/** The reason why a request failed: the problem that the service reports, or that it does not respond. */
export class Problem extends Error {
  constructor(status, { title, detail, causes, hint }) {
    super(detail ?? title ?? `the service responded with status ${status}`);
    this.status = status;
    this.causes = causes;
    this.hint = hint;
  }
}

/** Sends a request and returns its response; a session that has ended leads to the login form. */
export async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", credentials: "same-origin", ...options });
  } catch {
    throw new Problem(0, { detail: "the service does not respond" });
  }
  if (response.ok) return response;
  if (response.status === 401) {
    location.assign("/");
    await new Promise(() => {}); // The browser leaves the page.
  }
  const problem = await response.json().catch(() => ({}));
  throw new Problem(response.status, problem);
}

/** Starts a run by a POST to `path`, and opens its page. */
export async function startRun(path, canRunAsync, headers = {}) {
  const prefer = canRunAsync ? { Prefer: "respond-async" } : {};
  const response = await request(path, { method: "POST", headers: { ...headers, ...prefer } });
  const place = response.headers.get("Location") ?? "";
  const id = response.headers.get("Run-Id") ?? decodeURIComponent(place.split("/").pop());
  // The stream of the report, if there is one, ends here; the page of the run follows its events.
  location.assign(`/runs/${encodeURIComponent(id)}`);
}

export const byId = (id) => document.getElementById(id);

/** Creates an element with this text. */
export function element(name, text = "", className = "") {
  const created = document.createElement(name);
  created.textContent = text;
  if (className !== "") created.className = className;
  return created;
}

/** Sets the text of an element if it differs, so that a selection and a screen reader are not disturbed. */
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

// The characters that control, hide or reorder text, as the reports escape them.
const HOSTILE = /[\p{Cc}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\p{Noncharacter_Code_Point}\u{fff9}-\u{fffb}]/gu;
const SHORT_ESCAPES = { "\t": "\\t", "\n": "\\n", "\r": "\\r" };

/** Escapes hostile characters as the reports do. */
export const escaped = (text) => text.replace(
  HOSTILE,
  (character) => SHORT_ESCAPES[character] ?? `\\u{${character.codePointAt(0).toString(16)}}`,
);

/** Shows a problem, or the error of a run: the message, its causes and the hint. */
export function showProblem(region, { message, causes, hint }, prefix = "") {
  const lines = [prefix + message, ...(causes ?? []).map((cause) => `caused by: ${cause}`)];
  if (hint) lines.push(`hint: ${hint}`);
  region.replaceChildren(...lines.map((line) => element("p", escaped(line))));
}

/** Formats a whole number with commas between thousands. */
export const grouped = (number) => (number ?? 0).toLocaleString("en");

/** Formats milliseconds as the HTML report does. */
export function duration(milliseconds) {
  const [value, unit] = milliseconds >= 120_000 ? [milliseconds / 60_000, "min"]
    : milliseconds >= 1000 ? [milliseconds / 1000, "s"]
    : milliseconds > 0 && milliseconds < 0.1 ? [milliseconds * 1000, "µs"]
    : [milliseconds, "ms"];
  return `${Number(value.toFixed(value >= 100 ? 0 : 2))} ${unit}`;
}

/** Returns the requested number of tokens as text; input of unknown length has no limit. */
export const requested = (run) => isLimited(run) ? grouped(run.requested) : "unlimited";

/** Returns true if the run has a SIZE. */
export const isLimited = (run) => Number.isSafeInteger(run.requested);

/** Returns the state as a label; its color only repeats the text. */
export function stateLabel(run) {
  const hasFailed = run.state === "interrupted" || run.exit_code > 0;
  const isGood = run.state === "completed" && !hasFailed;
  return element("span", run.state, `state${hasFailed ? " bad" : isGood ? " good" : ""}`);
}
