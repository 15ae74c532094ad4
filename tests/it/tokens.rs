//! Lines that are no proper token: rejected with a reason, escaped in every format, and never in
//! the way of the tokens around them.

use crate::support::command::{Command, Run};
use crate::support::database::Database;
use crate::support::report::Report;
use crate::support::snapshot::shows;
use crate::support::source::{Response, Source};

/// A source with this body, and what a run of `size` tokens makes of it and leaves in the table.
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

/// NUL, bad UTF-8, a colour, the same with the one-character form of its beginning, a bell and a
/// tab; two that are proper.
const HOSTILE: &[u8] = b"a\0b\n\xff\xfe\n\x1b[31mred\n\xc2\x9b31m\x7f\nok\n\x07\ta\nlast\n";

#[test]
fn what_no_token_can_be_is_rejected_with_a_reason_and_escaped_in_text() {
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
fn what_no_token_can_be_is_escaped_for_programs_and_comes_back_whole() {
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
    assert_eq!(report.token("a\0b")["attempts"], 0, "it was never sent");
    assert_eq!(report.token("\u{fffd}\u{fffd}")["reason"], "invalid UTF-8");
}

#[test]
fn marks_that_hide_or_turn_the_writing_are_escaped_in_text_and_stored_as_they_are() {
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
fn marks_that_hide_or_turn_the_writing_are_escaped_for_programs() {
    for format in ["ndjson", "json", "csv", "yaml"] {
        let (run, _) = run("\u{202e}drawkcab\na\u{200b}b\n", "2", &["--report", format]);
        let hostile = run.stdout.contains(['\u{202e}', '\u{200b}']);
        assert!(!hostile, "{format}: {}", run.stdout);
    }
}

#[test]
fn crlf_blank_lines_and_a_missing_last_line_feed_are_no_part_of_a_token() {
    let (run, rows) = run("aa\r\n\r\n\n  \t \nbb\n\ncc", "3", &[]);
    insta::assert_snapshot!(run.sorted(), @"
    stored    aa
    stored    bb
    stored    cc
    ");
    assert_eq!(rows, ["aa", "bb", "cc"]);
}

#[test]
fn a_line_that_is_too_long_is_rejected_and_shown_up_to_the_limit() {
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
fn text_beyond_ascii_is_stored_byte_for_byte() {
    let (run, rows) = run("grüße\n日本\n", "2", &[]);
    insta::assert_snapshot!(run.sorted(), @"
    stored    grüße
    stored    日本
    ");
    assert_eq!(rows, ["grüße", "日本"]);
}

#[test]
fn a_token_that_looks_like_sql_is_only_a_token() {
    let body = "'); DROP TABLE secret_tokens; --x\n$1\n\\x41\n";
    let (run, rows) = run(body, "3", &[]);
    shows!(run.sorted(), @r"
    rejected  '); DROP TABLE secret_tokens; --x  23514 secret_tokens_data_check
    stored    $1
    stored    \x41
    ");
    assert_eq!(rows, ["$1", "\\x41"]);
}
