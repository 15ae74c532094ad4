//! Tests of malformed tokens. They are rejected with a reason, escaped in every format, and do not affect
//! other tokens.

use crate::support::command::{Command, Run};
use crate::support::database::Database;
use crate::support::report::Report;
use crate::support::snapshot::shows;
use crate::support::source::{Response, Source};

/// Runs for `size` tokens against a source with this body. Returns the run and the rows.
fn run(body: impl Into<bytes::Bytes>, size: &str, args: &[&str]) -> (Run, Vec<String>) {
    let source = Source::responding([Response::raw("text/plain", body)]);
    let database = Database::standard();
    let run = Command::new()
        .source(&source)
        .database(&database)
        .arg(size)
        .args(args)
        .run()
        .expect_code(0);
    (run, database.rows())
}

/// Tokens with NUL, invalid UTF-8, a colour sequence with ESC and with CSI, and bell and tab; two are
/// valid.
const HOSTILE: &[u8] = b"a\0b\n\xff\xfe\n\x1b[31mred\n\xc2\x9b31m\x7f\nok\n\x07\ta\nlast\n";

#[test]
fn malformed_token_is_rejected_with_a_reason_and_escaped_in_text() {
    let (run, rows) = run(HOSTILE, "7", &[]);
    insta::assert_snapshot!(run.sorted(), @r"
    rejected  \u{1b}[31mred  control character
    rejected  \u{7}\ta  control character
    rejected  \u{9b}31m\u{7f}  control character
    rejected  a\u{0}b  control character
    rejected  ��  invalid UTF-8
    stored    last
    stored    ok
    ");
    assert_eq!(rows, ["last", "ok"]);
}

#[test]
fn malformed_token_is_escaped_and_parses_back_in_machine_formats() {
    for format in ["ndjson", "json", "csv", "yaml"] {
        let (run, _) = run(HOSTILE, "7", &["--report", format]);
        let control = |c: char| c.is_control() && c != '\n';
        assert!(!run.stdout.contains(control), "{format}: {:?}", run.stdout);
    }
    let (run, _) = run(HOSTILE, "7", &["--report", "ndjson"]);
    let report = Report::of_run(&run);
    assert_eq!(
        report.with_status("rejected"),
        [
            "\u{7}\ta",
            "\u{1b}[31mred",
            "a\0b",
            "\u{9b}31m\u{7f}",
            "\u{fffd}\u{fffd}"
        ]
    );
    assert_eq!(report.token("a\0b")["reason"], "control character");
    assert_eq!(
        report.token("a\0b")["attempts"],
        0,
        "the token was never sent"
    );
    assert_eq!(report.token("\u{fffd}\u{fffd}")["reason"], "invalid UTF-8");
}

#[test]
fn invisible_and_bidi_characters_are_escaped_in_text_and_stored_unchanged() {
    let (run, rows) = run(
        "\u{202e}drawkcab\n=cmd|'/c calc'!A0\na\u{200b}b\n",
        "3",
        &[],
    );
    insta::assert_snapshot!(run.sorted(), @r"
    stored    =cmd|'/c calc'!A0
    stored    \u{202e}drawkcab
    stored    a\u{200b}b
    ");
    assert_eq!(
        rows,
        ["=cmd|'/c calc'!A0", "a\u{200b}b", "\u{202e}drawkcab"]
    );
}

#[test]
fn invisible_and_bidi_characters_are_escaped_in_machine_formats() {
    for format in ["ndjson", "json", "csv", "yaml"] {
        let (run, _) = run("\u{202e}drawkcab\na\u{200b}b\n", "2", &["--report", format]);
        let hostile = run.stdout.contains(['\u{202e}', '\u{200b}']);
        assert!(!hostile, "{format}: {}", run.stdout);
    }
}

#[test]
fn crlf_blank_lines_and_a_missing_last_newline_are_ignored() {
    let (run, rows) = run("aa\r\n\r\n\n  \t \nbb\n\ncc", "3", &[]);
    insta::assert_snapshot!(run.sorted(), @"
    stored    aa
    stored    bb
    stored    cc
    ");
    assert_eq!(rows, ["aa", "bb", "cc"]);
}

#[test]
fn line_is_rejected_and_truncated_when_it_is_too_long() {
    let body = format!("12345678\n123456789\n{}\nok\n", "x".repeat(100_000));
    let config = ["--config", "limits.yaml", "--report", "ndjson"];
    let source = Source::responding([Response::raw("text/plain", body)]);
    let database = Database::standard();
    let run = Command::new()
        .source(&source)
        .database(&database)
        .file("limits.yaml", "source: {max_token: 8B}")
        .arg("4")
        .args(config)
        .run()
        .expect_code(0);
    let report = Report::of_run(&run);
    assert_eq!(report.with_status("stored"), ["12345678", "ok"]);
    assert_eq!(report.with_status("rejected"), ["12345678", "xxxxxxxx"]);
    assert_eq!(report.token("xxxxxxxx")["reason"], "too long");
    assert_eq!(database.rows(), ["12345678", "ok"]);
}

#[test]
fn non_ascii_text_is_stored_unchanged() {
    let (run, rows) = run("grüße\n日本\n", "2", &[]);
    insta::assert_snapshot!(run.sorted(), @"
    stored    grüße
    stored    日本
    ");
    assert_eq!(rows, ["grüße", "日本"]);
}

#[test]
fn sql_in_a_token_is_not_executed() {
    let body = "'); DROP TABLE secret_tokens; --x\n$1\n\\x41\n";
    let (run, rows) = run(body, "3", &[]);
    shows!(run.sorted(), @r"
    rejected  '); DROP TABLE secret_tokens; --x  23514 secret_tokens_data_check
    stored    $1
    stored    \x41
    ");
    assert_eq!(rows, ["$1", "\\x41"]);
}
