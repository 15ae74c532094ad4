//! Every example does what its first comment says, against a scripted source and a real PostgreSQL.

use std::fs;
use std::path::PathBuf;

use crate::support::books::Books;
use crate::support::command::Command;
use crate::support::database::Database;
use crate::support::root;
use crate::support::source::{Answer, Request, Source};

use super::scripts_books::unwilling;

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

#[test]
fn every_example_passes_check() {
    let mut command = Command::new().arg("check");
    let mut expected = String::new();
    let mut names: Vec<PathBuf> = fs::read_dir(example(""))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "rhai"))
        .collect();
    names.sort();
    assert!(names.len() >= 4);
    for path in names {
        expected += &["ok    ", &path.display().to_string(), "\n"].concat();
        command = command.arg(path);
    }
    let run = command.run().expect_code(0);
    assert_eq!(run.stdout, expected);
    assert_eq!(run.stderr, "");
}

#[test]
fn classic_lines_prints_the_first_version_s_lines() {
    let source = Source::answers([Answer::tokens(["aa", "b-b", "cc"])]);
    let database = Database::seed();
    let run = run_of("classic_lines.rhai", 3, &source, &database).run();
    let run = run.expect_code(0);
    let mut lines: Vec<&str> = run.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["ERR: b-b", "OK : aa", "OK : cc"]);
    assert_eq!(database.rows(), ["aa", "cc"]);
    Books::of(&run).once_each();
}

#[test]
fn until_stored_goes_on_until_enough_are_stored() {
    let source = Source::answers([
        Answer::tokens(["aa", "b-b", "c-c"]),
        Answer::tokens(["dd", "e-e"]),
        Answer::tokens(["ff"]),
    ]);
    let database = Database::seed();
    let run = run_of("until_stored.rhai", 3, &source, &database).run();
    let books = Books::of(&run.expect_code(0)).once_each();
    assert_eq!(books.counts(), [3, 3, 0, 0, 0]);
    assert_eq!(books.count("requested"), 3);
    assert_eq!(database.rows(), ["aa", "dd", "ff"]);
    let sizes: Vec<_> = source.requests().iter().map(Request::size).collect();
    assert_eq!(sizes, [Some(3), Some(2), Some(1)]);
}

#[test]
fn until_stored_gives_up_where_everything_is_refused() {
    let source = Source::answers([Answer::tokens(["a-a", "b-b"]).always()]);
    let run = run_of("until_stored.rhai", 2, &source, &Database::seed()).run();
    let run = run.expect_code(3);
    assert!(
        run.stderr
            .contains("20 tokens in a row were not stored, 2 of 2 are missing")
    );
    let books = Books::of(&run);
    assert_eq!(books.counts(), [0, 20, 0, 0, 0]);
}

#[test]
fn retry_failed_stores_what_heals() {
    // The store itself tries five times; the second round of the script gets through.
    let source = Source::answers([Answer::tokens(["aa", "bb", "c-c"])]);
    let database = unwilling(7);
    let run = run_of("retry_failed.rhai", 3, &source, &database).run();
    let run = run.expect_code(0);
    let books = Books::of(&run).once_each();
    assert_eq!(books.counts(), [2, 1, 0, 0, 0]);
    assert_eq!(database.rows(), ["aa", "bb"]);
    assert!(
        run.stderr.contains("storing again what failed"),
        "{}",
        run.stderr
    );
    let bb = books
        .tokens
        .iter()
        .find(|token| token["token"] == "bb")
        .unwrap();
    assert_eq!(bb["attempts"], 8);
}

/// The cells of a CSV line in which every cell may be quoted.
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
fn csv_lines_are_read_back_as_they_were_meant() {
    let source = Source::answers([Answer::tokens([
        "aa", "=1+1", "q\"u,o", "b-b", "@x", "+y", "-z",
    ])]);
    let database = Database::seed();
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
