//! Every example does what its first comment says, with a scripted source and a real PostgreSQL.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde_json::Value;

use super::script_accounting::database_refusing_bb;
use crate::support::command::Command;
use crate::support::database::Database;
use crate::support::ledger::Ledger;
use crate::support::root;
use crate::support::source::{Request, Response, Source};

fn example(name: &str) -> PathBuf {
    root().join("examples").join(name)
}

fn run_of(name: &str, size: u64, source: &Source, database: &Database) -> Command {
    Command::new()
        .arg(size.to_string())
        .arg("--script")
        .arg(example(name))
        .args(["--report", "text", "--report", "ndjson=run.ndjson"])
        .source(source)
        .database(database)
}

/// The paths of all examples.
fn examples() -> Vec<PathBuf> {
    let entries = fs::read_dir(example("")).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|kind| kind == "rhai"));
    paths.sort();
    assert!(paths.len() >= 10, "{paths:?}");
    paths
}

#[test]
fn every_example_passes_check() {
    let names = examples();
    let run = Command::new().arg("check").args(&names).run();
    let run = run.expect_code(0);
    let ok = |name: &PathBuf| format!("ok    {}\n", name.display());
    assert_eq!(run.stdout, names.iter().map(ok).collect::<String>());
    assert_eq!(run.stderr, "");
}

#[test]
fn every_example_runs_in_the_demo() {
    for path in examples() {
        let run = Command::new()
            .args(["demo", "12", "--out-dir", "out", "--script"])
            .arg(&path)
            .args(["--report", "text", "--report", "ndjson=run.ndjson"])
            .run();
        let ledger = Ledger::of(&run).without_duplicates();
        let settled = ledger.count("stored") + ledger.count("rejected");
        assert_eq!(settled, ledger.count("received"), "{}", path.display());
        // The demo's tokens are random, so the canary may stop the run.
        let is_stopped = path == example("canary.rhai") && ledger.count("received") == 10;
        assert!(is_stopped || settled >= 12, "{}", path.display());
        run.expect_code(if is_stopped { 20 } else { 0 });
    }
}

#[test]
fn every_example_is_listed_in_the_index() {
    let index = fs::read_to_string(example("README.md")).unwrap();
    let mut rest = index.as_str();
    for path in examples() {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let entry = format!("**[{name}]({name}.rhai)**");
        let (_, after) = rest.split_once(&entry).expect(&entry);
        rest = after;
    }
    assert!(
        !rest.contains("\n**["),
        "an entry without an example: {rest}"
    );
}

#[test]
fn classic_lines_prints_the_lines_of_the_first_version() {
    let source = Source::responding([Response::tokens(["aa", "b-b", "cc"])]);
    let database = Database::standard();
    let run = run_of("classic_lines.rhai", 3, &source, &database).run();
    let run = run.expect_code(0);
    let mut lines: Vec<&str> = run.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["ERR: b-b", "OK : aa", "OK : cc"]);
    assert_eq!(database.rows(), ["aa", "cc"]);
    Ledger::of(&run).without_duplicates();
}

#[test]
fn until_stored_fetches_until_enough_tokens_are_stored() {
    let source = Source::responding([
        Response::tokens(["aa", "b-b", "c-c"]),
        Response::tokens(["dd", "e-e"]),
        Response::tokens(["ff"]),
    ]);
    let database = Database::standard();
    let run = run_of("until_stored.rhai", 3, &source, &database).run();
    let ledger = Ledger::of(&run.expect_code(0)).without_duplicates();
    assert_eq!(ledger.counts(), [3, 3, 0, 0, 0]);
    assert_eq!(ledger.count("requested"), 3);
    assert_eq!(database.rows(), ["aa", "dd", "ff"]);
    let sizes: Vec<_> = source.requests().iter().map(Request::size).collect();
    assert_eq!(sizes, [Some(3), Some(2), Some(1)]);
}

#[test]
fn until_stored_stops_when_every_token_is_rejected() {
    let source = Source::responding([Response::tokens(["a-a", "b-b"]).always()]);
    let run = run_of("until_stored.rhai", 2, &source, &Database::standard()).run();
    let run = run.expect_code(3);
    assert!(
        run.stderr
            .contains("20 tokens in a row were not stored, 2 of 2 are missing")
    );
    let ledger = Ledger::of(&run);
    assert_eq!(ledger.counts(), [0, 20, 0, 0, 0]);
}

#[test]
fn retry_failed_stores_tokens_when_the_database_recovers() {
    // `store` tries five times; the second round of the script succeeds.
    let source = Source::responding([Response::tokens(["aa", "bb", "c-c"])]);
    let database = database_refusing_bb(7);
    let run = run_of("retry_failed.rhai", 3, &source, &database).run();
    let run = run.expect_code(0);
    let ledger = Ledger::of(&run).without_duplicates();
    assert_eq!(ledger.counts(), [2, 1, 0, 0, 0]);
    assert_eq!(database.rows(), ["aa", "bb"]);
    assert!(
        run.stderr.contains("storing again what failed"),
        "{}",
        run.stderr
    );
    let bb = ledger
        .tokens
        .iter()
        .find(|token| token["token"] == "bb")
        .unwrap();
    assert_eq!(bb["attempts"], 8);
}

/// Splits a CSV line whose cells may be quoted.
fn cells(line: &str) -> Vec<String> {
    let mut cells = vec![String::new()];
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                cells.last_mut().unwrap().push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(String::new()),
            char => cells.last_mut().unwrap().push(char),
        }
    }
    assert!(!quoted, "{line}");
    cells
}

#[test]
fn csv_lines_are_valid_csv_without_formulas() {
    let source = Source::responding([Response::tokens([
        "aa", "=1+1", "q\"u,o", "b-b", "@x", "+y", "-z",
    ])]);
    let database = Database::standard();
    let run = run_of("csv_lines.rhai", 7, &source, &database).run();
    let run = run.expect_code(0);
    let mut lines = run.stdout.lines();
    assert_eq!(lines.next(), Some("token,stored,constraint"));
    let mut rows: Vec<Vec<String>> = lines.map(cells).collect();
    rows.sort();
    let refused = "secret_tokens_data_check";
    let expected = [
        ["'+y", "true", ""],
        ["'-z", "false", refused],
        ["'=1+1", "true", ""],
        ["'@x", "true", ""],
        ["aa", "true", ""],
        ["b-b", "false", refused],
        ["q\"u,o", "true", ""],
    ];
    assert_eq!(rows, expected);
    assert_eq!(database.rows(), ["+y", "=1+1", "@x", "aa", "q\"u,o"]);
}

#[test]
fn circuit_breaker_stops_when_batches_are_rejected() {
    let source = Source::responding([Response::tokens(["a-a", "b-b"]).always()]);
    let run = run_of("circuit_breaker.rhai", 1000, &source, &Database::standard())
        .config("script: {vars: {batch: 2}}\nsource: {concurrency: 1}")
        .run();
    let run = run.expect_code(5);
    assert!(
        run.stderr
            .contains("nothing was stored of 3 batches in a row"),
        "{}",
        run.stderr
    );
    let ledger = Ledger::of(&run);
    assert_eq!(ledger.count("rejected"), 6);
    // At most eight pages are fetched ahead.
    assert!(ledger.count("received") <= 22, "{}", ledger.summary);
}

#[test]
fn quarantine_holds_the_rejected_tokens_and_is_private() {
    let source = Source::responding([Response::tokens(["aa", "b-b", "c\"-c"])]);
    let run = run_of("quarantine.rhai", 3, &source, &Database::standard())
        .args(["--out-dir", "aside"])
        .run();
    let run = run.expect_code(0);
    let file = run.path("aside/quarantine.ndjson");
    let text = fs::read_to_string(&file).unwrap();
    let quarantined = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let ledger = Ledger::of(&run).without_duplicates();
    let quarantined: Vec<Value> = quarantined.collect();
    let rejected: Vec<Value> = ledger
        .with_status("rejected")
        .into_iter()
        .cloned()
        .collect();
    assert_eq!(rejected.len(), 2);
    // The same objects as in the report.
    assert_eq!(quarantined, rejected);
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn constraint_stats_follow_the_report() {
    let source = Source::responding([Response::tokens(["aa", "b-b", "c-c", "dd"])]);
    let run = run_of("constraint_stats.rhai", 4, &source, &Database::standard()).run();
    let run = run.expect_code(0);
    assert_eq!(
        run.stdout.lines().last(),
        Some("secret_tokens_data_check: 2 of 4 (50.0 %)")
    );
    assert_eq!(run.stdout.lines().count(), 5);
}

#[test]
fn markdown_report_is_one_table_for_any_tokens() {
    let source = Source::responding([Response::tokens(["a|b", "\\|c", "b-b", "<i>", "[x](y)"])]);
    let run = run_of("markdown_report.rhai", 5, &source, &Database::standard()).run();
    let run = run.expect_code(0);
    assert_eq!(run.stdout.lines().count(), 7);
    for row in run.stdout.lines() {
        let plain = row.replace("\\\\", "").replace("\\|", "");
        assert_eq!(plain.matches('|').count(), 5, "{row}");
        assert!(plain.starts_with("| ") && plain.ends_with(" |"), "{row}");
    }
}

#[test]
fn canary_consumes_ten_tokens_when_every_token_is_rejected() {
    let source = Source::responding([Response::tokens((0..10).map(|n| format!("{n}-"))).always()]);
    let run = run_of("canary.rhai", 1000, &source, &Database::standard()).run();
    let run = run.expect_code(20);
    assert!(
        run.stderr
            .contains("only 0 of the first 10 tokens were stored"),
        "{}",
        run.stderr
    );
    assert_eq!(
        Ledger::of(&run).without_duplicates().counts(),
        [0, 10, 0, 0, 0]
    );
    assert_eq!(source.requests().len(), 1);
}

#[test]
fn progress_log_reports_the_percentage() {
    let source = Source::responding([Response::tokens((0..20).map(|n| format!("t{n}")))]);
    let run = run_of("progress_log.rhai", 20, &source, &Database::standard()).run();
    let run = run.expect_code(0);
    let lines: Vec<&str> = run
        .stderr
        .lines()
        .filter(|line| line.contains("progress"))
        .collect();
    assert_eq!(lines.len(), 10);
    assert!(lines[9].contains(" percent=100.0 "), "{}", lines[9]);
}
