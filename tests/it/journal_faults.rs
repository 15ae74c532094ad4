//! Tests of journals and reports that a crash, a full disk or a user left incomplete or malformed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::journal::{killed_run, replay, run_replay};
use crate::outages::{locked_table, unlock, wait_for_blocked_backend};
use crate::support::command::{Command, binary};
use crate::support::database::Database;
use crate::support::journal::Journal;
use crate::support::report::Report;
use crate::support::snapshot::shows;
use crate::support::source::{Response, Source};

const HEADER: &str = r#"{"journal":{"version":1,"run_id":"018f0000-0000-7000-8000-000000000000","horizon":null,"table":"secret_tokens","column":"data"}}"#;

/// Writes a file in a new folder.
fn file(content: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.ndjson");
    fs::write(&path, content).unwrap();
    (folder, path)
}

/// Returns the error of a replay of this content. Asserts that it shows and stores no token.
#[track_caller]
fn replay_error(content: &str) -> String {
    let database = Database::standard();
    let (_folder, path) = file(content);
    let run = replay(&path, &database).run().expect_code(2);
    assert!(run.stdout.is_empty());
    assert!(!run.stderr.contains("s3cret"), "{}", run.stderr);
    assert!(database.rows().is_empty());
    run.error().to_owned()
}

#[test]
fn replay_ignores_a_torn_last_line() {
    let database = Database::standard();
    let received = r#"{"received":["aa","bb"]}"#;
    for torn in [
        r#"{"received":["cc","d"#,
        "\0\0\0\0",
        r#"{"token":"aa","sta"#,
    ] {
        let (_folder, path) = file(&format!("{HEADER}\n{received}\n{torn}"));
        let (run, report) = run_replay(&path, &database, 0);
        assert_eq!(report.with_status("stored"), ["aa", "bb"]);
        assert!(run.stderr.contains("the last line is incomplete"));
    }
    assert_eq!(database.rows(), ["aa", "bb"]);
}

#[test]
fn replay_fails_with_a_position_when_a_line_in_the_middle_is_torn() {
    let middle = format!("{HEADER}\n{{\"received\":[\"s3cret\n{{\"received\":[\"bb\"]}}\n");
    shows!(replay_error(&middle), @"
    error: [dir]/run.ndjson cannot be replayed
      caused by: [dir]/run.ndjson:2:1: the line is neither a token, a page, a run nor a summary
      caused by: 1 page is whole, with 1 token: line 3
    hint: nothing was changed: restore the file from a copy; without one, `sed '2d' [dir]/run.ndjson > rest.journal` leaves out line 2, and a replay of rest.journal settles all other tokens
    ");
}

#[test]
fn replay_fails_with_a_position_when_a_status_does_not_exist() {
    let line = "{\"token\":\"aa\",\"status\":\"s3cret\"}\n";
    shows!(replay_error(line), @"
    error: [dir]/run.ndjson cannot be replayed
      caused by: [dir]/run.ndjson:1:1: the token has an unknown status
    hint: replay takes a journal, an ndjson report, or the .partial of one
    ");
}

#[test]
fn journal_is_refused_when_its_version_is_newer() {
    let newer = HEADER.replace("\"version\":1", "\"version\":3");
    let error = replay_error(&format!("{newer}\n{{\"received\":[\"s3cret\"]}}\n"));
    assert!(error.contains(":1:1: the journal has a form"), "{error}");
}

/// A line that ends with a line feed was written whole, so a crash did not tear it.
#[test]
fn line_with_a_line_feed_is_damaged_and_not_torn() {
    for damaged in [
        r#"{"received":["s3cret","d"#,
        "\0\0\0\0",
        r#"{"token":"aa","sta"#,
    ] {
        let error = replay_error(&format!("{HEADER}\n{damaged}\n"));
        assert!(error.contains("run.ndjson:2:1: "), "{error}");
        assert!(error.contains("no page is whole"), "{error}");
    }
}

/// Flips bits of the journal of a real run: one bit of each byte, of the bits that tokens have.
#[test]
fn flipped_bit_of_a_real_journal_stores_nothing_and_changes_no_byte() {
    let (database, folder) = killed_run(&["aa", "bb"]);
    let path = folder.path().join("journal");
    let journal = fs::read(&path).unwrap();
    // The killed run may have stored a token.
    let before = database.rows();
    for position in 0..journal.len() {
        let mut flipped = journal.clone();
        flipped[position] ^= 1 << (position % 7);
        fs::write(&path, &flipped).unwrap();
        let run = replay(&path, &database).run().expect_code(2);
        assert!(run.stdout.is_empty());
        assert_eq!(fs::read(&path).unwrap(), flipped);
    }
    assert_eq!(database.rows(), before);
    fs::write(&path, &journal).unwrap();
    let (_, report) = run_replay(&path, &database, 0);
    assert_eq!(report.with_status("stored"), ["aa", "bb"]);
}

#[test]
fn damaged_page_is_named_and_the_way_out_settles_the_others() {
    let (database, folder) = killed_run(&["aa", "bb"]);
    let path = folder.path().join("journal");
    let journal = fs::read_to_string(&path).unwrap();
    let (header, page) = journal.split_once('\n').unwrap();
    let damaged = page.replace("aa", "ab");
    fs::write(&path, format!("{header}\n{damaged}{page}")).unwrap();
    let run = replay(&path, &database).run().expect_code(2);
    shows!(run.error(), @"
    error: [dir]/journal cannot be replayed
      caused by: [dir]/journal:2:1: the line does not match its checksum, so it was changed after it was written
      caused by: 1 page is whole, with 2 tokens: line 3
    hint: nothing was changed: restore the file from a copy; without one, `sed '2d' [dir]/journal > rest.journal` leaves out line 2, and a replay of rest.journal settles all other tokens
    ");
    let (_, command) = run.stderr.split_once('`').unwrap();
    let (command, _) = command.split_once('`').unwrap();
    let mut shell = std::process::Command::new("sh");
    let done = shell.args(["-c", command]).current_dir(folder.path());
    assert!(done.status().unwrap().success());
    let (_, report) = run_replay(&folder.path().join("rest.journal"), &database, 0);
    assert_eq!(report.with_status("stored"), ["aa", "bb"]);
}

#[test]
fn file_of_two_runs_is_refused() {
    let received = r#"{"received":["aa"]}"#;
    let report = r#"{"token":"aa","status":"failed","attempts":1,"ms":1.0}"#;
    let summary = r#"{"summary":{"run_id":"018f0000-0000-7000-8000-000000000000","requested":1,"received":1,"requests":1,"surplus":0,"stored":0,"rejected":0,"failed":1,"unknown":0,"not_attempted":0}}"#;
    let errors = [
        [HEADER, received, HEADER, received].join("\n"),
        [report, HEADER, received].join("\n"),
        [report, summary, report, summary].join("\n"),
        [received, report].join("\n"),
    ]
    .map(|content| replay_error(&format!("{content}\n")));
    shows!(errors.join("\n"), @"
    error: [dir]/run.ndjson cannot be replayed
      caused by: [dir]/run.ndjson:3:1: a second header follows the journal of another run
    hint: replay the file of each run by itself: split this one before the line
    error: [dir]/run.ndjson cannot be replayed
      caused by: [dir]/run.ndjson:2:1: the header of a journal follows a report
    hint: replay the file of each run by itself: split this one before the line
    error: [dir]/run.ndjson cannot be replayed
      caused by: [dir]/run.ndjson:3:1: a line follows the summary of another run
    hint: replay the file of each run by itself: split this one before the line
    error: [dir]/run.ndjson cannot be replayed
      caused by: [dir]/run.ndjson:1:1: the header of the journal is missing
    hint: replay takes a journal, an ndjson report, or the .partial of one
    ");
}

/// A replay ends the sessions whose name begins with the run id.
#[test]
fn run_id_that_is_no_uuid_is_refused() {
    let short = HEADER.replace("018f0000-0000-7000-8000-000000000000", "01");
    let error = replay_error(&format!("{short}\n"));
    assert!(error.contains(":1:1: the run id is not a UUID"), "{error}");
    let upper = HEADER.replace("018f", "018F");
    assert!(replay_error(&format!("{upper}\n")).contains("not a UUID"));
}

#[test]
fn report_is_refused_when_its_format_is_not_ndjson() {
    let json = "{\"version\": 1, \"tokens\": [\n{\"token\":\"s3cret\",\"status\":\"failed\"}\n], \"summary\": {}}\n";
    for other in [
        json,
        "stored    s3cret\n",
        "stored    s3cret\nrejected  s3cret  23514\n",
        "{}",
        "[]",
        "null",
    ] {
        let error = replay_error(other);
        assert!(error.contains("run.ndjson:1:1:"), "{other}: {error}");
    }
}

#[test]
fn replay_fails_when_the_file_is_missing_or_a_folder() {
    let database = Database::standard();
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().join("none"), folder.path().to_owned()] {
        let run = replay(&path, &database).run().expect_code(2);
        assert!(run.error().contains("cannot be replayed"), "{}", run.stderr);
    }
}

/// A crash may follow the creation of the file, before its first line is written.
#[test]
fn empty_journal_holds_no_token() {
    let database = Database::standard();
    for content in ["", "{\"jour"] {
        let (_folder, path) = file(content);
        let (_, report) = run_replay(&path, &database, 0);
        assert_eq!(report.count("received"), 0);
    }
}

#[test]
fn complete_report_is_replayed_without_duplicates() {
    let database = Database::standard();
    let source = Source::responding([Response::tokens(["aa", "b-b", "cc"])]);
    let run = Command::new()
        .source(&source)
        .database(&database)
        .args(["3", "--report", "ndjson=run.ndjson"])
        .run()
        .expect_code(0);
    let (_, report) = run_replay(&run.path("run.ndjson"), &database, 0);
    assert_eq!(report.with_status("stored"), ["aa", "cc"]);
    assert_eq!(report.with_status("rejected"), ["b-b"]);
    assert_eq!(database.rows(), ["aa", "cc"]);
}

/// The lock is released when the run has ended, so the rows are committed after the report is written.
#[test]
fn unknown_tokens_of_a_report_are_looked_up() {
    let (database, mut admin) = locked_table();
    let source = Source::responding([Response::tokens(["aa", "bb"])]);
    let running = Command::new()
        .source(&source)
        .database(&database)
        .args(["2", "--deadline", "2s", "--grace", "1s"])
        .args(["--report", "ndjson=run.ndjson"])
        .spawn();
    wait_for_blocked_backend(&mut admin);
    let run = running.wait().expect_code(5);
    unlock(&mut admin);
    let path = run.path("run.ndjson");
    let before = Report::parse(&fs::read_to_string(&path).unwrap());
    assert_eq!(before.with_status("unknown"), ["aa", "bb"]);
    for _ in 0..2 {
        let (_, report) = run_replay(&path, &database, 0);
        assert_eq!(report.with_status("stored"), ["aa", "bb"]);
        assert_eq!(database.rows(), ["aa", "bb"], "each row once");
    }
}

#[test]
fn partial_report_is_replayed() {
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
        let (_, report) = run_replay(&path, &database, 0);
        assert_eq!(report.with_status("stored"), ["aa", "bb", "dd"]);
        assert_eq!(report.with_status("rejected"), ["c-c"]);
        assert_eq!(report.token("c-c")["sqlstate"], "23514");
        assert_eq!(database.rows(), ["aa", "bb", "dd"]);
    }
}

/// A file size limit simulates a full disk: it lets a write fail halfway.
#[test]
fn tokens_are_not_stored_when_the_journal_cannot_hold_them() {
    let database = Database::standard();
    // The file has room for one page. Its outcomes are buffered until the next page is written.
    let page = |letter: char| (0..400).map(move |n| format!("{letter}{n:018}"));
    let source = Source::responding([Response::tokens(page('a')), Response::tokens(page('b'))]);
    let command = Command::new()
        .source(&source)
        .database(&database)
        .args(["1200", "--page-size", "400", "--fetch-concurrency", "1"])
        .args(["--journal", "journal", "--report", "ndjson"]);
    let run = run_with_file_limit(&command, 12);
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
    let last = &report.tokens[report.tokens.len() - 1];
    assert_eq!(last["status"], "not_attempted");
    let stderr = text(&run.stderr);
    assert_eq!(stderr.matches("error:").count(), 1, "{stderr}");
    assert!(stderr.contains("tokens are stored only after they are in the journal"));
    // The journal can be replayed, so no line in its middle is torn.
    let (_, again) = run_replay(&command.dir().join("journal"), &database, 0);
    assert_eq!(again.count("rejected"), 0);
    assert_eq!(again.with_status("stored"), database.rows());
}

/// The `.partial` file that the error names keeps what was written.
#[test]
fn error_names_the_partial_report_when_the_disk_is_full() {
    let database = Database::standard();
    let tokens: Vec<String> = (0..1200).map(|n| format!("{n:018}")).collect();
    let source = Source::responding([Response::tokens(&tokens)]);
    let command = Command::new().source(&source).database(&database).args([
        "1200",
        "--report",
        "ndjson=run.ndjson",
    ]);
    let run = run_with_file_limit(&command, 12);
    let stderr = text(&run.stderr);
    assert!(stderr.contains("the report run.ndjson cannot be written any more"));
    let hint = stderr.lines().last().unwrap();
    shows!(hint, @"hint: free disk space; run.ndjson.partial has the report up to the error, and `token_service replay` writes the complete report from a `--journal`");
    let partial = fs::read_to_string(command.dir().join("run.ndjson.partial")).unwrap();
    assert!(partial.lines().count() > 10);
    assert!(!command.dir().join("run.ndjson").exists());
}

#[test]
fn no_token_is_requested_when_the_journal_cannot_be_created() {
    let database = Database::standard();
    for (path, why) in [("none/journal", "No such file"), (".", "Is a directory")] {
        let source = Source::responding([]);
        let run = Command::new()
            .source(&source)
            .database(&database)
            .args(["3", "--journal", path])
            .run()
            .expect_code(2);
        assert!(run.error().contains(why), "{}", run.stderr);
        let hint = "hint: name a file in a writable folder; no token was requested";
        assert!(run.stderr.contains(hint), "{}", run.stderr);
    }
    if Path::new("/dev/full").exists() {
        let source = Source::responding([]);
        let command = Command::new().source(&source).database(&database);
        std::os::unix::fs::symlink("/dev/full", command.dir().join("journal")).unwrap();
        let run = command.args(["3", "--journal", "journal"]).run();
        let run = run.expect_code(2);
        assert!(run.error().contains("not a regular file"), "{}", run.stderr);
        let replayed = replay(Path::new("/dev/full"), &database).run();
        assert!(
            replayed
                .expect_code(2)
                .error()
                .contains("not a regular file")
        );
    }
}

/// Runs a command with a file size limit; a write beyond it fails as on a full disk.
fn run_with_file_limit(command: &Command, kibibytes: u32) -> std::process::Output {
    let raw = command.std_command();
    let mut shell = std::process::Command::new("bash");
    let script = "trap '' XFSZ; ulimit -f \"$1\"; shift; exec \"$@\"";
    shell
        .args(["-c", script, "bash"])
        .arg(kibibytes.to_string());
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
