//! CSV and YAML reports: independent parsers read them for any token, and no CSV cell is a formula.

use std::fs;

use serde_json::Value;

use crate::support::command::{Command, Run};
use crate::support::database::Database;
use crate::support::report::Report;
use crate::support::snapshot::shows;
use crate::support::source::{Response, Source};

/// Texts that parsers may misread.
const TRICKY: [&str; 20] = [
    "no",
    "~",
    "null",
    "1e3",
    "0x1F",
    "12:30:45",
    "2026-01-01",
    "a: b",
    "- a",
    "#a",
    "a #b",
    "{a: b}",
    "[a",
    "&a *b !c",
    "%a",
    "'a' \"b\"",
    "a\\n\\",
    "a,b;c",
    "😀\u{e000}",
    "\u{202e}a\u{feff}\u{2028}b\u{ffff}\u{fffe}",
];

fn command(source: &Source, database: &Database, size: usize) -> Command {
    let command = Command::new().source(source).database(database);
    command.arg(size.to_string())
}

/// A run of these tokens with a report of this format and an `ndjson` report.
fn run(tokens: &[&str], format: &str) -> (Run, Report) {
    let database = Database::standard();
    let source = Source::responding([Response::tokens(tokens)]);
    let run = command(&source, &database, tokens.len())
        .args(["--report", format, "--report", "ndjson=run.ndjson"])
        .run()
        .expect_code(0);
    let report = Report::parse(&fs::read_to_string(run.path("run.ndjson")).unwrap());
    (run, report)
}

/// Parses CSV, and returns sorted rows of column names and cells.
fn table(text: &str) -> Vec<Vec<(String, String)>> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().unwrap().clone();
    let mut rows: Vec<Vec<(String, String)>> = reader
        .records()
        .map(|record| {
            let record = record.unwrap();
            let cells = header.iter().zip(record.iter());
            cells.map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
        })
        .collect();
    rows.sort();
    rows
}

#[test]
fn csv_has_a_header_and_one_line_per_token() {
    let (run, _) = run(&["aa", "b-b", "c\tc"], "csv");
    let (header, rows) = run.stdout.split_once('\n').unwrap();
    assert_eq!(
        header,
        "token,status,attempts,ms,sqlstate,constraint,reason,message"
    );
    let mut rows: Vec<&str> = rows.lines().collect();
    rows.sort_unstable();
    let rows: Vec<String> = rows.iter().map(|row| without_time(row)).collect();
    insta::assert_snapshot!(rows.join("\n"), @r#"
    aa,stored,1,[ms],,,,
    b-b,rejected,1,[ms],23514,secret_tokens_data_check,,"new row for relation ""secret_tokens"" violates check constraint ""secret_tokens_data_check"""
    c\tc,rejected,0,[ms],,,control character,
    "#);
}

/// A CSV line with a placeholder for its fourth cell, which is a time.
fn without_time(row: &str) -> String {
    let mut cells: Vec<&str> = row.splitn(5, ',').collect();
    assert!(cells[3].parse::<f64>().is_ok(), "{row}");
    cells[3] = "[ms]";
    cells.join(",")
}

#[test]
fn csv_cells_are_quoted_and_never_formulas() {
    let tokens = [
        "=cmd|'/c calc'!A0",
        "+1",
        "-1",
        "@SUM(A1)",
        "a,b",
        "say \"hi\"",
        "a=b",
        "\u{202e}=1",
        "＝1+1",
        "＋1",
        "－1",
        "＠SUM(A1)",
        " =1+1",
    ];
    let (run, report) = run(&tokens, "csv");
    assert!(!run.stdout.contains('\u{202e}'), "{}", run.stdout);
    let cells: Vec<String> = table(&run.stdout)
        .into_iter()
        .map(|row| row[0].1.clone())
        .collect();
    assert_eq!(
        cells,
        [
            "' =1+1",
            "'+1",
            "'-1",
            "'=cmd|'/c calc'!A0",
            "'@SUM(A1)",
            "'＋1",
            "'－1",
            "'＝1+1",
            "'＠SUM(A1)",
            "\\u{202e}=1",
            "a,b",
            "a=b",
            "say \"hi\"",
        ]
    );
    assert_eq!(report.tokens.len(), tokens.len());
}

#[test]
fn csv_reasons_are_never_formulas() {
    let database = Database::standard();
    let source = Source::responding([Response::tokens(["aa"])]);
    let run = command(&source, &database, 1)
        .args(["--report", "csv", "--script", "mine.rhai"])
        .file("mine.rhai", "report(reject(fetch(SIZE), \"=1+1\"));")
        .run()
        .expect_code(0);
    let reason = &table(&run.stdout)[0][6];
    assert_eq!(*reason, ("reason".to_owned(), "'=1+1".to_owned()));
}

#[test]
fn csv_agrees_with_ndjson() {
    let (run, report) = run(&["aa", "b-b", "c\tc", "dd"], "csv");
    let cell = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.replace('\t', "\\t"),
        number => number.as_f64().unwrap().to_string(),
    };
    let mut expected: Vec<Vec<(String, String)>> = report
        .tokens
        .iter()
        .map(|token| {
            let keys = [
                "token",
                "status",
                "attempts",
                "ms",
                "sqlstate",
                "constraint",
                "reason",
                "message",
            ];
            keys.map(|key| (key.to_owned(), cell(&token[key]))).into()
        })
        .collect();
    expected.sort();
    assert_eq!(table(&run.stdout), expected);
}

#[test]
fn yaml_is_one_document_with_tokens_and_summary() {
    let database = Database::standard();
    let source = Source::responding([Response::tokens(["aa"]), Response::tokens(["b-b"])]);
    // One after the other, so the order is fixed.
    let run = command(&source, &database, 2)
        .args(["--report", "yaml", "--script", "mine.rhai"])
        .file(
            "mine.rhai",
            "report(store(fetch(1))); report(store(fetch(1)));",
        )
        .run()
        .expect_code(0);
    shows!(run.stdout, @r#"
    version: 1
    tokens:
    - token: "aa"
      status: "stored"
      attempts: 1
      ms: [ms]
    - token: "b-b"
      status: "rejected"
      attempts: 1
      ms: [ms]
      sqlstate: "23514"
      constraint: "secret_tokens_data_check"
      message: "new row for relation \"secret_tokens\" violates check constraint \"secret_tokens_data_check\""
    summary:
      version: 1
      run_id: "[uuid]"
      started_at: "[time]"
      duration_ms: [ms]
      requested: 2
      received: 2
      requests: 2
      surplus: 0
      stored: 1
      rejected: 1
      failed: 0
      unknown: 0
      not_attempted: 0
      exit_code: 0
      latency_ms: {p50: [ms], p95: [ms], p99: [ms], max: [ms]}
    "#);
}

#[test]
fn yaml_preserves_any_token() {
    let (run, report) = run(&TRICKY, "yaml");
    let hostile = |c: char| c.is_control() && c != '\n' || "\u{202e}\u{feff}\u{2028}".contains(c);
    assert!(!run.stdout.contains(hostile), "{:?}", run.stdout);
    let document: Value = serde_yaml::from_str(&run.stdout).unwrap();
    assert_eq!(document["version"], 1);
    assert_eq!(document["tokens"], Value::from(report.tokens.clone()));
    assert_eq!(document["summary"], report.summary);
    let mut seen: Vec<&str> = report
        .tokens
        .iter()
        .map(|token| token["token"].as_str().unwrap())
        .collect();
    let mut expected = TRICKY.to_vec();
    seen.sort_unstable();
    expected.sort_unstable();
    assert_eq!(seen, expected);
}

#[test]
fn csv_and_yaml_are_complete_without_tokens() {
    let [csv, yaml] = ["csv", "yaml"].map(|format| {
        let database = Database::standard();
        let source = Source::responding([Response::status(500)]);
        let run = command(&source, &database, 5).args(["--report", format]);
        run.run().expect_code(4).stdout
    });
    assert_eq!(
        csv,
        "token,status,attempts,ms,sqlstate,constraint,reason,message\n"
    );
    let document: Value = serde_yaml::from_str(&yaml).unwrap();
    assert_eq!(document["tokens"], serde_json::json!([]));
    assert_eq!(document["summary"]["exit_code"], 4);
}
