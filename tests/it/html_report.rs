//! The HTML report, read without a browser: it loads nothing, its numbers match the summary, tokens stay
//! text, and the size of its table is limited.

use std::fs;

use serde_json::Value;

use crate::support::command::{Command, Run};
use crate::support::database::{Database, Login};
use crate::support::report::Report;
use crate::support::source::{Response, Source};

/// Tokens that look like markup or code.
pub const HOSTILE_TOKENS: [&str; 8] = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "\"'><svg onload=alert(1)>",
    "]]></title></head>&lt;b&gt;",
    "javascript:alert(1)",
    "\u{202e}gnp.exe",
    "${alert(1)}`\\u003c",
];

/// A page with the `ndjson` report of the same run.
pub struct Page {
    /// Its HTML.
    pub text: String,
    /// Its rows: number of the status, token, attempts, milliseconds, reason.
    pub rows: Vec<Value>,
    /// The `ndjson` report.
    pub report: Report,
}

impl Page {
    pub fn of(run: &Run) -> Self {
        let read = |name| fs::read_to_string(run.path(name)).unwrap();
        let text = read("run.html");
        let start = "<script type=\"application/json\" id=\"rows\">";
        let (_, rows) = text.split_once(start).unwrap();
        let (rows, _) = rows.split_once("</script>").unwrap();
        Self {
            rows: serde_json::from_str(rows).unwrap(),
            report: Report::parse(&read("run.ndjson")),
            text,
        }
    }

    /// The text between two markers.
    fn between(&self, start: &str, end: &str) -> &str {
        let (_, rest) = self.text.split_once(start).expect(start);
        rest.split_once(end).expect(end).0
    }
}

/// Adds both reports to a command.
pub fn with_reports(command: Command) -> Command {
    command.args(["--report", "html=run.html", "--report", "ndjson=run.ndjson"])
}

/// Runs these tokens with both reports.
pub fn run(tokens: &[&str]) -> Run {
    let database = Database::standard();
    let source = Source::responding([Response::tokens(tokens)]);
    let command = Command::new().source(&source).database(&database);
    with_reports(command).arg(tokens.len().to_string()).run()
}

#[test]
fn page_loads_nothing() {
    let mut page = Page::of(&run(&["aa", "b-b"]));
    // The address of the source is text.
    let source = page.between("<dt>source</dt><dd>", "</dd>").to_owned();
    assert!(source.starts_with("http://127.0.0.1:"), "{source}");
    page.text = page.text.replace(&source, "");
    for mark in [
        "http:", "https:", "//", "url(", "@import", "src=", "href=", "<link", "<img", "<iframe",
    ] {
        let found: Vec<&str> = page.text.matches(mark).collect();
        let in_script = page
            .between("\"use strict\";", "</script>")
            .matches(mark)
            .count();
        // Comments of the script begin with two slashes, and contain no URL.
        let allowed = if mark == "//" { in_script } else { 0 };
        assert_eq!(found.len(), allowed, "{mark}");
    }
    let policy = page.between("http-equiv=\"Content-Security-Policy\" content=\"", "\"");
    let hashes = policy.matches("'sha256-").count();
    assert!(
        policy.starts_with("default-src 'none'; style-src 'sha256-"),
        "{policy}"
    );
    assert_eq!(hashes, 2, "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(
        page.text.matches("<script").count(),
        2,
        "the rows and the script of the page"
    );
}

#[test]
fn numbers_of_the_page_match_the_summary() {
    let run = with_reports(Command::new().args(["demo", "1500", "--report", "text"])).run();
    let page = Page::of(&run.expect_code(0));
    for status in ["stored", "rejected", "failed", "unknown", "not_attempted"] {
        let shown = page.between(&format!("data-count=\"{status}\">"), "<");
        let shown: u64 = shown.replace(',', "").parse().unwrap();
        assert_eq!(shown, page.report.count(status), "{status}");
    }
    let title = page.between("<title>", "</title>");
    assert!(
        title.starts_with("token_service: 1,500 tokens: "),
        "{title}"
    );
    let rejected = page.report.count("rejected");
    assert!(rejected > 0 && page.text.contains("secret_tokens_data_check</code>"));
    assert!(!page.text.contains("shows a part"));
    let mut rows: Vec<&str> = page
        .rows
        .iter()
        .map(|row| row[1].as_str().unwrap())
        .collect();
    let mut tokens: Vec<&str> = page
        .report
        .tokens
        .iter()
        .map(|t| t["token"].as_str().unwrap())
        .collect();
    rows.sort_unstable();
    tokens.sort_unstable();
    assert_eq!(rows, tokens);
    let latency = &page.report.summary["latency_ms"]["max"];
    assert!(latency.as_f64().unwrap() > 0.0 && page.text.contains("<svg class=\"chart\""));
}

/// Shows what ran, without credentials.
#[test]
fn header_says_what_ran() {
    let database = Database::standard();
    let source = Source::responding([Response::tokens(["aa"])]);
    let host = format!("{}?key=s3cret", source.url());
    let script = "report(store(fetch(SIZE)));";
    let run = with_reports(Command::new().env("TOKEN_HOST", host).database(&database))
        .env("TOKEN_SERVICE_SOURCE_AUTHORIZATION", "Bearer s3cret")
        .args(["1", "--script", "<b>mine.rhai"])
        .file("<b>mine.rhai", script)
        .run();
    let page = Page::of(&run.expect_code(0));
    let shown = |name: &str| {
        page.between(&format!("<dt>{name}</dt><dd>"), "</dd>")
            .to_owned()
    };
    assert_eq!(shown("source"), source.url());
    let Login {
        host,
        port,
        user,
        name,
        ..
    } = &*database;
    assert_eq!(shown("database"), format!("{host}:{port}/{name} as {user}"));
    assert_eq!(shown("table"), "secret_tokens, column data");
    assert_eq!(shown("script"), "&lt;b&gt;mine.rhai");
    assert_eq!(
        shown("run"),
        page.report.summary["run_id"].as_str().unwrap()
    );
    let started = page.report.summary["started_at"].as_str().unwrap();
    assert_eq!(
        shown("started"),
        format!("{} UTC", started[..19].replace('T', " "))
    );
    assert_eq!(
        shown("version"),
        format!("token_service {}", env!("CARGO_PKG_VERSION"))
    );
    assert!(!page.text.contains("s3cret"));
}

#[test]
fn header_of_replay_and_merge_names_their_files() {
    let database = Database::standard();
    let failed = "{\"token\":\"aa\",\"status\":\"failed\",\"attempts\":1,\"ms\":0.0}\n";
    let replay = Command::new().database(&database).file("failed", failed);
    let replay = with_reports(replay.args(["replay", "failed"])).run();
    let replay = replay.expect_code(0);
    let page = Page::of(&replay);
    assert!(page.text.contains("<dt>replayed file</dt><dd>failed</dd>"));
    assert!(page.text.contains("<dt>database</dt>"));
    let report = fs::read_to_string(replay.path("run.ndjson")).unwrap();
    let merge = Command::new().file("one", report).args(["merge", "one"]);
    let page = Page::of(&with_reports(merge).run().expect_code(0));
    assert!(page.text.contains("<dt>merged files</dt><dd>one</dd>"));
}

#[test]
fn page_counts_top_ups_and_retries_separately() {
    let database = Database::standard();
    let source = Source::responding([
        Response::tokens(["aa", "bb"]),
        Response::status(503),
        Response::tokens(["cc"]),
    ]);
    let command = Command::new().source(&source).database(&database);
    let page = Page::of(&with_reports(command).arg("3").run().expect_code(0));
    let requests = page.between("<dt>requests</dt><dd>", "</dd>");
    assert_eq!(requests, "3<small>1 to top up, 1 repeated</small>");
}

#[test]
fn tokens_stay_text() {
    let page = Page::of(&run(&HOSTILE_TOKENS));
    for markup in ["<img", "<svg onload", "<script>alert", "<!--", "\u{202e}"] {
        assert!(!page.text.contains(markup), "{markup}");
    }
    let mut shown: Vec<&str> = page
        .rows
        .iter()
        .map(|row| row[1].as_str().unwrap())
        .collect();
    let mut expected: Vec<String> = HOSTILE_TOKENS
        .map(|t| t.replace('\u{202e}', "\\u{202e}"))
        .into();
    shown.sort_unstable();
    expected.sort();
    assert_eq!(shown, expected);
}

/// The reason of a script appears in the table and among the causes.
#[test]
fn reasons_stay_text() {
    let database = Database::standard();
    let source = Source::responding([Response::tokens(["aa"])]);
    let command = Command::new().source(&source).database(&database);
    let script =
        "report(reject(fetch(SIZE), \"<img src=x onerror=alert(1)>\\u202e</title><!--\"));";
    let run = with_reports(command)
        .args(["1", "--script", "mine.rhai"])
        .file("mine.rhai", script)
        .run();
    let page = Page::of(&run.expect_code(0));
    for markup in ["<img", "<!--", "\u{202e}"] {
        assert!(!page.text.contains(markup), "{markup}");
    }
    assert!(page.text.contains("&lt;img src=x onerror=alert(1)&gt;"));
}

#[test]
fn page_is_complete_without_tokens() {
    let database = Database::standard();
    let source = Source::responding([Response::status(500)]);
    let command = Command::new().source(&source).database(&database);
    let run = command.args(["--report", "html"]).run().expect_code(4);
    assert!(run.stdout.starts_with("<!DOCTYPE html>"));
    assert!(run.stdout.ends_with("</html>\n"));
    for words in [
        "No token was received",
        "No token was sent",
        "the source did not supply all tokens",
        "5 perhaps issued unseen",
    ] {
        assert!(run.stdout.contains(words), "{words}");
    }
}

#[test]
fn masked_page_shows_no_token() {
    let run = with_reports(Command::new().args(["demo", "20", "--mask", "sha256"])).run();
    let page = Page::of(&run.expect_code(0));
    assert!(page.text.contains("Tokens are masked in this report."));
    let all_masked = |row: &Value| row[1].as_str().unwrap().starts_with("sha256:");
    assert!(page.rows.iter().all(all_masked));
}

/// The page states that its table is incomplete, and needs hardly more memory than a text report.
#[test]
fn table_and_memory_are_limited_in_a_long_run() {
    let measured = |report: &str| {
        let command = Command::new().args(["demo", "200000", "--report", report]);
        let (run, peak) = command.spawn().wait_with_peak_memory();
        (run.expect_code(0), peak)
    };
    let (_, lines) = measured("text=run.txt");
    let (run, page) = measured("html=run.html");
    let text = fs::read_to_string(run.path("run.html")).unwrap();
    assert!(text.contains("The table is incomplete; it has the first 100,000 of "));
    let rejected = text.matches("\n[1,").count();
    assert_eq!(rejected, 50_000, "as many as the table holds");
    let more = page.saturating_sub(lines);
    assert!(more < 4 << 20, "{lines} and {page} bytes");
}
