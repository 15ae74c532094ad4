//! Receipts in an SQLite file.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::support::command::Command;
use crate::support::report::Report;
use crate::support::snapshot::shows;
use crate::support::source::{Response, Source};

/// A file with the standard table, and with receipts if `ddl` creates them.
fn file(ddl: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.db");
    let table = "CREATE TABLE secret_tokens (data TEXT NOT NULL CHECK (data NOT LIKE '%-%'))";
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(&format!("{table}; {ddl}"))
        .unwrap();
    (folder, path)
}

const RECEIPTS: &str = "CREATE TABLE token_receipts (
    run_id TEXT, shard INTEGER, position INTEGER, attempt INTEGER, rows INTEGER, kind TEXT NOT NULL,
    at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (run_id, shard, position, attempt))";

fn run_command(source: &Source, path: &Path, size: usize) -> Command {
    Command::new()
        .source(source)
        .env("DATABASE_URL", format!("sqlite:{}", path.display()))
        .arg(size.to_string())
        .args(["--report", "ndjson", "--receipts", "token_receipts"])
}

#[test]
fn run_in_a_file_is_continued() {
    let (_folder, path) = file(RECEIPTS);
    let id = ["--run-id", "018f0000-0000-7000-8000-000000000003"];
    let source = Source::responding([Response::tokens(["aa", "b-b"]).clone()]);
    // The source has only two of four tokens.
    let run = run_command(&source, &path, 4)
        .args(id)
        .arg("--no-top-up")
        .run();
    let report = Report::of_run(&run.expect_code(4));
    assert_eq!(report.with_status("stored"), ["aa"]);
    let source = Source::responding([Response::tokens(["cc", "dd"])]);
    let run = run_command(&source, &path, 4).args(id).run().expect_code(0);
    let report = Report::of_run(&run);
    assert_eq!(source.sizes(), [2]);
    assert_eq!(
        (
            report.count("stored_before"),
            report.count("rejected_before")
        ),
        (1, 1)
    );
    let connection = Connection::open(&path).unwrap();
    let sql = "SELECT group_concat(kind || rows, ' ') FROM token_receipts WHERE kind = 't'";
    let kinds: String = connection.query_row(sql, [], |row| row.get(0)).unwrap();
    assert_eq!(kinds, "t1 t1 t1");
}

#[test]
fn missing_table_is_named_with_the_command_that_prints_it() {
    let (_folder, path) = file("");
    let source = Source::responding([]);
    let run = run_command(&source, &path, 1).run().expect_code(5);
    shows!(run.error(), @r#"
    error: the receipts table cannot be used
      caused by: no table "token_receipts" in the file
    hint: `token_service schema --sqlite --receipts token_receipts` prints its definition, for sqlite3; a run creates nothing; no token was requested
    "#);
    let (_folder, path) =
        file("CREATE TABLE token_receipts (run_id, shard, position, attempt, rows, kind)");
    let run = run_command(&source, &path, 1).run().expect_code(5);
    assert!(
        run.stderr
            .contains("the primary key (run_id, shard, position, attempt) is missing")
    );
}
