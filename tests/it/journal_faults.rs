//! Journals and reports that a crash, a full disk or a user left in another state than whole.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::journal::{replay, replayed};
use crate::outages::{locked, unlock, waiting_backend};
use crate::support::command::{Command, binary};
use crate::support::database::Database;
use crate::support::journal::Journal;
use crate::support::report::Report;
use crate::support::snapshot::shows;
use crate::support::source::{Response, Source};

const HEADER: &str = r#"{"journal":{"version":1,"run_id":"018f0000-0000-7000-8000-000000000000","horizon":null,"table":"secret_tokens","column":"data"}}"#;

/// A file in a folder of its own.
fn file(content: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.ndjson");
    fs::write(&path, content).unwrap();
    (folder, path)
}

/// The error of a replay that reads nothing of the kind; no token is shown, and none is stored.
#[track_caller]
fn unreadable(content: &str) -> String {
    let database = Database::standard();
    let (_folder, path) = file(content);
    let run = replay(&path, &database).run().expect_code(2);
    assert!(run.stdout.is_empty());
    assert!(!run.stderr.contains("s3cret"), "{}", run.stderr);
    assert!(database.rows().is_empty());
    run.error().to_owned()
}

#[test]
fn a_torn_last_line_is_left_out() {
    let database = Database::standard();
    let received = r#"{"received":["aa","bb"]}"#;
    for torn in [
        r#"{"received":["cc","d"#,
        "\0\0\0\0",
        r#"{"token":"aa","sta"#,
    ] {
        let (_folder, path) = file(&format!("{HEADER}\n{received}\n{torn}"));
        let (run, report) = replayed(&path, &database, 0);
        assert_eq!(report.with_status("stored"), ["aa", "bb"]);
        assert!(run.stderr.contains("the last line is torn"));
    }
    assert_eq!(database.rows(), ["aa", "bb"]);
}

#[test]
fn a_torn_line_in_the_middle_is_an_error_with_its_place() {
    let middle = format!("{HEADER}\n{{\"received\":[\"s3cret\n{{\"received\":[\"bb\"]}}\n");
    shows!(unreadable(&middle), @"
    error: [dir]/run.ndjson cannot be replayed
      caused by: [dir]/run.ndjson:2:1: the line is neither a token, a page, a run nor a summary
    hint: replay takes a journal, an ndjson report, or the .partial of one
    ");
}

#[test]
fn a_status_that_does_not_exist_is_an_error_with_its_place() {
    let line = "{\"token\":\"aa\",\"status\":\"s3cret\"}\n";
    shows!(unreadable(line), @"
    error: [dir]/run.ndjson cannot be replayed
      caused by: [dir]/run.ndjson:1:1: the token has a status that does not exist
    hint: replay takes a journal, an ndjson report, or the .partial of one
    ");
}

#[test]
fn a_journal_of_another_version_is_refused() {
    let newer = HEADER.replace("\"version\":1", "\"version\":2");
    let error = unreadable(&format!("{newer}\n{{\"received\":[\"s3cret\"]}}\n"));
    assert!(error.contains(":1:1: the journal has a form"), "{error}");
}

#[test]
fn reports_of_other_forms_are_refused() {
    let json = "{\"version\": 1, \"tokens\": [\n{\"token\":\"s3cret\",\"status\":\"failed\"}\n], \"summary\": {}}\n";
    for other in [
        json,
        "stored    s3cret\n",
        "stored    s3cret\nrejected  s3cret  23514\n",
        "{}",
        "[]",
        "null",
    ] {
        let error = unreadable(other);
        assert!(error.contains("run.ndjson:1:1:"), "{other}: {error}");
    }
}

#[test]
fn a_file_that_is_missing_or_a_folder_is_refused() {
    let database = Database::standard();
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().join("none"), folder.path().to_owned()] {
        let run = replay(&path, &database).run().expect_code(2);
        assert!(run.error().contains("cannot be replayed"), "{}", run.stderr);
    }
}

/// A crash between making the file and writing its first line.
#[test]
fn an_empty_journal_holds_nothing() {
    let database = Database::standard();
    for content in ["", "{\"jour"] {
        let (_folder, path) = file(content);
        let (_, report) = replayed(&path, &database, 0);
        assert_eq!(report.count("received"), 0);
    }
}

#[test]
fn a_complete_report_is_replayed_without_storing_anything_twice() {
    let database = Database::standard();
    let source = Source::responding([Response::tokens(["aa", "b-b", "cc"])]);
    let run = Command::new()
        .source(&source)
        .database(&database)
        .args(["3", "--report", "ndjson=run.ndjson"])
        .run()
        .expect_code(0);
    let (_, report) = replayed(&run.path("run.ndjson"), &database, 0);
    assert_eq!(report.with_status("stored"), ["aa", "cc"]);
    assert_eq!(report.with_status("rejected"), ["b-b"]);
    assert_eq!(database.rows(), ["aa", "cc"]);
}

/// The report of a run that a lost connection left with `unknown`: the lock is held until the run
/// has given up, and let go of only then, so that the row is committed after the report was written.
#[test]
fn what_a_report_left_unknown_is_looked_up() {
    let (database, mut admin) = locked();
    let source = Source::responding([Response::tokens(["aa", "bb"])]);
    let running = Command::new()
        .source(&source)
        .database(&database)
        .args(["2", "--deadline", "2s", "--grace", "1s"])
        .args(["--report", "ndjson=run.ndjson"])
        .spawn();
    waiting_backend(&mut admin);
    let run = running.wait().expect_code(5);
    unlock(&mut admin);
    let path = run.path("run.ndjson");
    let before = Report::parse(&fs::read_to_string(&path).unwrap());
    assert_eq!(before.with_status("unknown"), ["aa", "bb"]);
    for _ in 0..2 {
        let (_, report) = replayed(&path, &database, 0);
        assert_eq!(report.with_status("stored"), ["aa", "bb"]);
        assert_eq!(database.rows(), ["aa", "bb"], "each of them once");
    }
}

#[test]
fn the_partial_of_a_report_is_replayed() {
    let database = Database::standard();
    let insert = "INSERT INTO secret_tokens (data) VALUES ('aa'), ('bb')";
    database.client().batch_execute(insert).unwrap();
    let lines = [
        r#"{"token":"aa","status":"stored","attempts":1,"ms":1.5}"#,
        r#"{"token":"bb","status":"unknown","attempts":1,"ms":1.5}"#,
        r#"{"token":"c-c","status":"rejected","attempts":1,"ms":1.5,"sqlstate":"23514"}"#,
        r#"{"token":"dd","status":"unknown","attempts":1,"ms":1.5}"#,
        r#"{"token":"ee","sta"#,
    ];
    let (_folder, path) = file(&lines.join("\n"));
    for _ in 0..2 {
        let (_, report) = replayed(&path, &database, 0);
        assert_eq!(report.with_status("stored"), ["aa", "bb", "dd"]);
        assert_eq!(report.with_status("rejected"), ["c-c"]);
        assert_eq!(report.token("c-c")["sqlstate"], "23514");
        assert_eq!(database.rows(), ["aa", "bb", "dd"]);
    }
}

/// A limit on the size of files stands for a full disk: it fails a write in the middle.
#[test]
fn nothing_is_stored_that_the_journal_has_no_room_for() {
    let database = Database::standard();
    // There is room for one page, and what becomes of its tokens waits in memory for the next.
    let page = |letter: char| (0..400).map(move |n| format!("{letter}{n:018}"));
    let source = Source::responding([Response::tokens(page('a')), Response::tokens(page('b'))]);
    let command = Command::new()
        .source(&source)
        .database(&database)
        .args(["1200", "--page-size", "400", "--journal", "journal"])
        .args(["--report", "ndjson"]);
    let run = limited(&command, 12);
    assert_eq!(run.status.code(), Some(5), "{}", text(&run.stderr));
    let report = Report::parse(&text(&run.stdout));
    let journal = Journal::read(&command.dir().join("journal"));
    let rows = database.rows();
    assert!(rows.len() < 1200);
    for row in &rows {
        assert!(
            journal.received.contains(row),
            "{row} is not in the journal"
        );
    }
    assert_eq!(report.with_status("stored"), rows);
    let left = &report.tokens[report.tokens.len() - 1];
    assert_eq!(left["status"], "not_attempted");
    let stderr = text(&run.stderr);
    assert_eq!(stderr.matches("error:").count(), 1, "{stderr}");
    assert!(stderr.contains("nothing is stored that is not in the journal"));
    // What is whole in it can be replayed, and no half line stands in its middle.
    let (_, again) = replayed(&command.dir().join("journal"), &database, 0);
    assert_eq!(again.count("rejected"), 0);
    assert_eq!(again.with_status("stored"), database.rows());
}

/// What was written of it is kept under the name that is said.
#[test]
fn a_report_that_the_disk_has_no_room_for_says_where_its_beginning_is() {
    let database = Database::standard();
    let tokens: Vec<String> = (0..1200).map(|n| format!("{n:018}")).collect();
    let source = Source::responding([Response::tokens(&tokens)]);
    let command = Command::new().source(&source).database(&database).args([
        "1200",
        "--report",
        "ndjson=run.ndjson",
    ]);
    let run = limited(&command, 12);
    let stderr = text(&run.stderr);
    assert!(stderr.contains("the report run.ndjson cannot be written any more"));
    let hint = stderr.lines().last().unwrap();
    shows!(hint, @"hint: make room: run.ndjson.partial holds what was written until then; of a run that keeps a `--journal`, `token_service replay` writes the whole report");
    let partial = fs::read_to_string(command.dir().join("run.ndjson.partial")).unwrap();
    assert!(partial.lines().count() > 10);
    assert!(!command.dir().join("run.ndjson").exists());
}

#[test]
fn a_journal_that_cannot_be_begun_costs_no_token() {
    let database = Database::standard();
    for (place, why) in [("none/journal", "No such file"), (".", "Is a directory")] {
        let source = Source::responding([]);
        let run = Command::new()
            .source(&source)
            .database(&database)
            .args(["3", "--journal", place])
            .run()
            .expect_code(2);
        assert!(run.error().contains(why), "{}", run.stderr);
        let hint = "hint: name a file in a folder that may be written to; no token was asked for";
        assert!(run.stderr.contains(hint), "{}", run.stderr);
    }
    if Path::new("/dev/full").exists() {
        let source = Source::responding([]);
        let command = Command::new().source(&source).database(&database);
        std::os::unix::fs::symlink("/dev/full", command.dir().join("journal")).unwrap();
        let run = command.args(["3", "--journal", "journal"]).run();
        let run = run.expect_code(2);
        assert!(run.error().contains("no regular file"), "{}", run.stderr);
        let replayed = replay(Path::new("/dev/full"), &database).run();
        assert!(replayed.expect_code(2).error().contains("no regular file"));
    }
}

/// Runs it with files of at most so many KiB; what goes beyond fails like on a full disk.
fn limited(command: &Command, kibibytes: u32) -> std::process::Output {
    let raw = command.std_command();
    let mut shell = std::process::Command::new("bash");
    let words = "trap '' XFSZ; ulimit -f \"$1\"; shift; exec \"$@\"";
    shell.args(["-c", words, "bash"]).arg(kibibytes.to_string());
    shell.arg(binary()).args(raw.get_args());
    shell.current_dir(command.dir()).env_clear();
    for (name, value) in raw.get_envs() {
        if let Some(value) = value {
            shell.env(name, value);
        }
    }
    shell.stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
