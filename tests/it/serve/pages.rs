//! Tests of the service's pages in Chromium, driven by chromedriver.
//!
//! They need a browser, so they are ignored by default: see tests/it/main.rs.

use std::fs;
use std::process::Command as Program;
use std::time::{Duration, Instant};

use fantoccini::Locator;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::browser::{LOW_CONTRAST, Window, in_browser};
use crate::html_report::HOSTILE_TOKENS;
use crate::serve::Service;
use crate::support::command::Command;
use crate::support::database::Database;
use crate::support::root;
use crate::support::source::{Gate, Response, Source};

/// The longest wait for a state of a page.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Keys as `WebDriver` encodes them.
const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";
const SELECT_ALL: &str = "\u{e009}a\u{e000}";

/// The package that contains axe-core 4.12.1, with the digest of its wheel.
const AXE_PACKAGE: &str = "axe-playwright-python==0.1.8 --hash=sha256:fdd263c998388f1a8e67cad02677e612d946248bd44d163be5e8650ea31f95f8";
/// The place of axe-core in the wheel.
const AXE_FILE: &str = "axe_playwright_python/axe.min.js";

/// A service with its database, its source and the folder of its reports.
struct Fixture {
    service: Service,
    source: Source,
    database: Database,
    _data: Option<TempDir>,
}

impl Fixture {
    /// Starts a service that keeps reports.
    fn keeping_reports(responses: impl IntoIterator<Item = Response>) -> Self {
        Self::new(responses, Some(tempfile::tempdir().unwrap()))
    }

    /// Starts a service that keeps reports if it has a folder for them.
    fn new(responses: impl IntoIterator<Item = Response>, data: Option<TempDir>) -> Self {
        Self::on(Database::standard(), responses, data)
    }

    /// Starts a service on this database.
    fn on(
        database: Database,
        responses: impl IntoIterator<Item = Response>,
        data: Option<TempDir>,
    ) -> Self {
        let source = Source::responding(responses);
        let folder = data.as_ref().map(|data| data.path().to_str().unwrap());
        let args = folder.map(|path| vec!["--data", path]).unwrap_or_default();
        Self {
            service: Service::start(&database.url(), &source.url(), &args),
            source,
            database,
            _data: data,
        }
    }

    /// Starts a service that needs a token.
    fn with_token(token: &str) -> Self {
        let (database, source) = (Database::standard(), Source::responding([]));
        let command = Command::new().database(&database).source(&source);
        Self {
            service: Service::of(command.env("TOKEN_SERVICE_SERVE_TOKEN", token)),
            source,
            database,
            _data: None,
        }
    }

    /// Opens this path in a browser.
    fn show<F: Future<Output = ()>>(&self, path: &str, test: impl FnOnce(Window) -> F) {
        in_browser(&self.service.url(path), test);
    }
}

/// Delivers two tokens, of which one is rejected, and a third one after the gate has opened.
fn two_tokens_before(gate: &Gate) -> [Response; 2] {
    let third = Response::tokens(["cc"]).after(gate);
    [Response::tokens(["aa", "b-b"]), third]
}

/// Returns what a script of the page returns; null while the page changes.
async fn evaluate(window: &Window, script: &str, arg: &str) -> Value {
    let value = window.client.execute(script, vec![json!(arg)]).await;
    value.unwrap_or_default()
}

/// Waits until the visible text of an element contains this text.
async fn wait_for_text(window: &Window, selector: &str, text: &str) {
    let script = "const found = document.querySelector(arguments[0]);
        return found?.checkVisibility() ? found.textContent : null;";
    let end = Instant::now() + TIMEOUT;
    loop {
        let shown = evaluate(window, script, selector).await;
        if shown.as_str().is_some_and(|shown| shown.contains(text)) {
            return;
        }
        assert!(Instant::now() < end, "{selector}: {shown}, not `{text}`");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn is_visible(window: &Window, selector: &str) -> bool {
    let script = "return document.querySelector(arguments[0])?.checkVisibility() ?? false";
    evaluate(window, script, selector).await == json!(true)
}

/// Sends keys to the element that has the focus.
async fn press(window: &Window, keys: &str) {
    let focused = window.client.active_element().await.unwrap();
    focused.send_keys(keys).await.unwrap();
}

/// Returns the id of the element that has the focus.
async fn focused(window: &Window) -> String {
    let id = evaluate(window, "return document.activeElement.id", "").await;
    id.as_str().unwrap_or_default().to_owned()
}

/// Presses Tab until the element with this id has the focus.
async fn tab_to(window: &Window, id: &str) {
    for _ in 0..10 {
        if focused(window).await == id {
            return;
        }
        press(window, TAB).await;
    }
    panic!("Tab does not reach #{id}");
}

/// Types SIZE into the form and submits it, with the keyboard only.
async fn submit_size(window: &Window, size: &str) {
    tab_to(window, "size").await;
    press(window, &format!("{SELECT_ALL}{size}{ENTER}")).await;
}

/// Starts a run through the API, as the page's form does, and opens its page.
async fn start_run(window: &Window, fixture: &Fixture, size: u64) {
    let script = "return fetch(`/v1/runs?size=${arguments[0]}`, {method: 'POST', headers: {Prefer: 'respond-async'}})
        .then((response) => response.headers.get('Location').split('/').pop());";
    let id = evaluate(window, script, &size.to_string()).await;
    let path = format!("/runs/{}", id.as_str().expect("the id of the run"));
    let address = fixture.service.url(&path);
    window.client.goto(&address).await.unwrap();
}

/// Closes the window; asserts that the console has only failed requests with this status.
async fn close_with_status(window: Window, status: u16) {
    let expected = format!("the server responded with a status of {status} ");
    let messages = window.console().await;
    assert!(!messages.is_empty(), "no request failed with {status}");
    for message in messages {
        assert!(message.contains(&expected), "the console: {message}");
    }
    window.close().await;
}

#[test]
#[ignore = "needs Chromium and chromedriver; tests/run runs it if they are installed"]
fn browser_starts_run_by_keyboard_and_shows_it_until_its_report() {
    let gate = Gate::new();
    let fixture = Fixture::keeping_reports(two_tokens_before(&gate));
    fixture.show("/", async |window| {
        wait_for_text(&window, "#freshness", "No run yet").await;
        submit_size(&window, "3").await;

        wait_for_text(&window, "#status", "running").await;
        wait_for_text(&window, "#progress-text", "2 of 3 tokens, 66 %").await;
        wait_for_text(&window, "#rejected .token", "b-b").await;
        wait_for_text(&window, "#rejected", "23514 secret_tokens_data_check").await;
        let bar = "const bar = document.getElementById('bar'); return [...'now max'.split(' ')]
            .map((name) => bar.getAttribute(`aria-value${name}`)).join('/')";
        assert_eq!(evaluate(&window, bar, "").await, json!("2/3"));
        assert!(!is_visible(&window, "#report").await);

        gate.open();
        wait_for_text(&window, "#status", "completedexit code 0").await;
        wait_for_text(&window, "dd[data-figure=stored]", "2").await;
        wait_for_text(&window, "#report", "Download ndjson").await;
        for hidden in ["#stop", "#progress", "#rejections", "#no-report"] {
            assert!(!is_visible(&window, hidden).await, "{hidden}");
        }
        let frame = window.client.find(Locator::Css("#frame[src]")).await;
        let frame = frame.unwrap();
        let title = frame.attr("title").await.unwrap().unwrap();
        assert!(title.starts_with("Report of run "), "{title}");
        frame.enter_frame().await.unwrap();
        wait_for_text(&window, "h1", "3 tokens: 2 stored, 1 rejected").await;
        wait_for_text(&window, "#count", "3 rows").await;
        window.client.enter_parent_frame().await.unwrap();

        window.click("main a").await;
        wait_for_text(&window, "#rows", "completed").await;
        assert_eq!(window.count("#rows tr").await, 1);
        window.close().await;
    });
    assert_eq!(fixture.database.rows(), ["aa", "cc"]);
    assert_eq!(fixture.source.sizes(), [3, 1]);
}

#[test]
#[ignore = "needs Chromium and chromedriver; tests/run runs it if they are installed"]
fn browser_stops_run_only_after_confirmation() {
    let gate = Gate::new();
    let fixture = Fixture::new(two_tokens_before(&gate), None);
    fixture.show("/", async |window| {
        submit_size(&window, "3").await;
        wait_for_text(&window, "#progress-text", "2 of 3").await;

        window.click("#stop").await;
        wait_for_text(&window, "#confirmation", "Stop this run?").await;
        assert_eq!(focused(&window).await, "keep");
        press(&window, ENTER).await;
        assert!(!is_visible(&window, "#confirmation").await);
        assert_eq!(focused(&window).await, "stop");
        wait_for_text(&window, "#status", "running").await;

        press(&window, ENTER).await;
        tab_to(&window, "confirm").await;
        press(&window, ENTER).await;
        wait_for_text(&window, "#status", "stopped").await;
        wait_for_text(&window, "#status", "SIGTERM, exit code 143").await;
        assert_eq!(focused(&window).await, "title");
        // Without --data the figures and the rejections are all that remains.
        wait_for_text(&window, "#no-report", "--data DIR").await;
        wait_for_text(&window, "dd[data-figure=rejected]", "1").await;
        assert!(!is_visible(&window, "#report").await);
        window.close().await;
    });
    gate.open();
}

#[test]
#[ignore = "needs Chromium and chromedriver; tests/run runs it if they are installed"]
fn browser_shows_problem_at_field_when_size_is_invalid() {
    let fixture = Fixture::keeping_reports([]);
    fixture.show("/", async |window| {
        submit_size(&window, "0").await;
        wait_for_text(&window, "#size-problem[role=alert]", "Error: ").await;
        wait_for_text(&window, "#size-problem", "whole number of at least 1").await;
        assert_eq!(focused(&window).await, "size");
        assert_eq!(window.count("#size[aria-invalid=true]").await, 1);
        close_with_status(window, 400).await;
    });
}

#[test]
#[ignore = "needs Chromium and chromedriver; tests/run runs it if they are installed"]
fn browser_logs_in_with_token_and_out() {
    let fixture = Fixture::with_token("a-long-token");
    fixture.show("/runs/any", async |window| {
        wait_for_text(&window, "h1", "Log in").await;
        for (token, selector, text) in [
            ("another-token", "#token-error", "the token is not valid"),
            ("a-long-token", "header", "Log out"),
        ] {
            tab_to(&window, "token").await;
            press(&window, &format!("{token}{ENTER}")).await;
            wait_for_text(&window, selector, text).await;
        }
        wait_for_text(&window, "#freshness", "No run yet").await;
        window.click("header button").await;
        wait_for_text(&window, "h1", "Log in").await;
        close_with_status(window, 401).await;
    });
}

#[test]
#[ignore = "needs Chromium and chromedriver; tests/run runs it if they are installed"]
fn browser_says_that_run_is_unknown() {
    let fixture = Fixture::keeping_reports([]);
    fixture.show(
        "/runs/01981c4e-0000-7000-8000-000000000000",
        async |window| {
            wait_for_text(&window, "#status", "does not know this run").await;
            assert!(!is_visible(&window, "#run").await);
            close_with_status(window, 404).await;
        },
    );
}

/// Sets the color scheme and the width of a phone, or of a desktop.
async fn emulate(window: &Window, scheme: &str, width: u32) {
    window.narrow(width).await;
    let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
    window.emulate(features).await;
}

/// Calls `check` on the page of a running run, on its dialog, on its report and on the list of runs.
fn on_every_page(check: &impl AsyncFn(&Window)) {
    let gate = Gate::new();
    let fixture = Fixture::keeping_reports(two_tokens_before(&gate));
    fixture.show("/", async |window| {
        start_run(&window, &fixture, 3).await;
        wait_for_text(&window, "#rejected .token", "b-b").await;
        check(&window).await;
        window.click("#stop").await;
        check(&window).await;
        gate.open();
        wait_for_text(&window, "#report", "Download csv").await;
        check(&window).await;
        window.client.goto(&fixture.service.url("/")).await.unwrap();
        wait_for_text(&window, "#rows", "completed").await;
        check(&window).await;
        window.close().await;
    });
}

#[test]
#[ignore = "needs Chromium and chromedriver; tests/run runs it if they are installed"]
fn browser_pages_fit_a_phone_and_have_contrast_in_light_and_dark() {
    on_every_page(&assert_fits);
}

/// Asserts that the page does not scroll sideways, and that its texts have enough contrast.
async fn assert_fits(window: &Window) {
    for (scheme, width) in [("light", 390), ("dark", 820), ("dark", 1200)] {
        emulate(window, scheme, width).await;
        let overflow = "const wide = [...document.querySelectorAll('main *')].filter((element) =>
                element.getBoundingClientRect().right > innerWidth + 1);
            const scrolls = document.documentElement.scrollWidth > innerWidth;
            return [innerWidth, scrolls, wide.map((element) => element.outerHTML.slice(0, 80))]";
        let found = evaluate(window, overflow, "").await;
        assert_eq!(found, json!([width, false, []]), "{scheme}");
        let low = window.client.execute(LOW_CONTRAST, Vec::new()).await;
        assert_eq!(low.unwrap(), json!([]), "{scheme} {width}");
    }
}

#[test]
#[ignore = "needs Chromium and chromedriver; tests/run runs it if they are installed"]
fn browser_pages_have_no_accessibility_violations() {
    let axe = axe();
    on_every_page(&async |window: &Window| assert_accessible(window, &axe).await);
    Fixture::with_token("a-long-token").show("/", async |window| {
        wait_for_text(&window, "h1", "Log in").await;
        assert_accessible(&window, &axe).await;
        close_with_status(window, 401).await;
    });
}

/// Asserts that axe-core finds no violation, in light and dark, on a phone and on a desktop.
async fn assert_accessible(window: &Window, axe: &str) {
    for (scheme, width) in [("light", 390), ("dark", 1200)] {
        emulate(window, scheme, width).await;
        // The framed report is a document of its own, which its sandbox closes to axe-core.
        let script = format!(
            "{axe}; return axe.run(document, {{iframes: false}}).then((result) => result.violations.flatMap(
                ({{id, nodes}}) => nodes.map((node) => `${{id}}: ${{node.html}} ${{node.failureSummary}}`)))"
        );
        let found = window.client.execute(&script, Vec::new()).await;
        assert_eq!(found.unwrap(), json!([]), "{scheme} {width}");
    }
}

/// Returns the text of axe-core; downloads it into the target folder at the first call.
fn axe() -> String {
    let folder = root().join("target/axe");
    let file = folder.join(AXE_FILE);
    if !file.exists() {
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("wanted"), AXE_PACKAGE).unwrap();
        let pip = "python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary :all: \
            --require-hashes -r wanted && python3 -m zipfile -e *.whl .";
        let shell = &mut Program::new("sh");
        let output = shell.args(["-c", pip]).current_dir(&folder).output();
        let output = output.unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        let is_done = output.status.success();
        assert!(is_done, "axe-core needs pip and a package index: {error}");
    }
    fs::read_to_string(file).expect("axe-core")
}

#[test]
#[ignore = "needs Chromium and chromedriver; tests/run runs it if they are installed"]
fn browser_shows_hostile_tokens_as_text() {
    let gate = Gate::new();
    let last = Response::tokens(["cc"]).after(&gate);
    let reject_all = "ALTER TABLE secret_tokens ADD CHECK (data = '')";
    let database = Database::standard().with_sql(reject_all);
    let responses = [Response::tokens(HOSTILE_TOKENS), last];
    let fixture = Fixture::on(database, responses, Some(tempfile::tempdir().unwrap()));
    fixture.show("/", async |window| {
        submit_size(&window, "9").await;
        wait_for_text(&window, "dd[data-figure=rejected]", "8").await;
        let mut shown = window.tokens().await;
        let mut expected = HOSTILE_TOKENS.map(|token| token.replace('\u{202e}', "\\u{202e}"));
        shown.sort();
        expected.sort();
        assert_eq!(shown, expected);
        assert_eq!(window.count("#rejected :not(tr, td, span)").await, 0);
        gate.open();
        wait_for_text(&window, "#status", "completed").await;
        window.close().await;
    });
}
