//! `--journal` and `replay` of what it holds: a page is in the journal before its first token is in
//! the table, nobody's tokens are overwritten, and a replay can be repeated.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::faults::through;
use crate::outages::{lock, lockable, locked, unlock, waiting_backend};
use crate::support::cluster::wait_until_disconnected;
use crate::support::command::{Command, Run};
use crate::support::database::{Database, Login};
use crate::support::journal::Journal;
use crate::support::proxy::{Fault, Point, Proxy, Scope};
use crate::support::report::Report;
use crate::support::snapshot::shows;
use crate::support::source::{Gate, Response, Source};

/// A run that keeps a journal.
pub fn journaled(source: &Source, database: &Login, journal: &Path) -> Command {
    let command = Command::new().source(source).database(database);
    let command = command.args(["--report", "ndjson", "--journal"]);
    command.arg(journal)
}

/// A replay of a file.
pub fn replay(file: &Path, database: &Login) -> Command {
    let command = Command::new().database(database).arg("replay").arg(file);
    command.args(["--report", "ndjson"])
}

/// Replays to the end; the report adds up.
#[track_caller]
pub fn replayed(file: &Path, database: &Login, code: i32) -> (Run, Report) {
    let run = replay(file, database).run().expect_code(code);
    let report = Report::of_run(&run);
    (run, report)
}

/// A journal whose run was killed while the first insert waited for a lock: everything in it is
/// unsettled. The lock is let go of again.
pub fn killed_in_the_middle(tokens: &[&str]) -> (Database, tempfile::TempDir) {
    let (database, mut admin) = locked();
    let folder = tempfile::tempdir().unwrap();
    let source = Source::responding([Response::tokens(tokens)]);
    let command = journaled(&source, &database, &folder.path().join("journal"));
    let running = command.arg(tokens.len().to_string()).spawn();
    waiting_backend(&mut admin);
    running.signal("KILL");
    assert_eq!(running.wait().signal, Some(9));
    unlock(&mut admin);
    // A test that takes the lock again must not meet the backend that was left behind.
    wait_until_disconnected(database.superuser());
    (database, folder)
}

#[test]
fn a_page_is_in_the_journal_before_its_first_token_is_in_the_table() {
    let (database, mut admin) = lockable();
    let gate = Gate::new();
    let source = Source::responding([
        Response::tokens(["aa", "b-b"]),
        Response::tokens(["cc", "dd"]).after(&gate),
    ]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let running = journaled(&source, &database, &path).arg("4").spawn();
    running.wait_for_stdout(|text| text.lines().count() == 2);
    lock(&mut admin);
    gate.open();
    waiting_backend(&mut admin);
    // Nothing of the second page can be in the table yet.
    assert_eq!(database.rows(), ["aa"]);
    assert_eq!(Journal::read(&path).received, ["aa", "b-b", "cc", "dd"]);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "it holds secrets");
    unlock(&mut admin);

    running.wait().expect_code(0);
    let journal = Journal::read(&path);
    let mut outcomes = journal.outcomes;
    outcomes.sort();
    let expected = [
        ("aa", "stored"),
        ("b-b", "rejected"),
        ("cc", "stored"),
        ("dd", "stored"),
    ];
    assert_eq!(
        outcomes,
        expected.map(|(token, status)| (token.to_owned(), status.to_owned()))
    );
    assert_eq!(journal.summary.unwrap()["stored"], 3);
}

#[test]
fn a_run_that_was_killed_is_replayed_and_replayed_again() {
    let (database, folder) = killed_in_the_middle(&["aa", "b-b", "cc", "cc"]);
    let path = folder.path().join("journal");
    let (run, report) = replayed(&path, &database, 0);
    assert_eq!(report.with_status("stored"), ["aa", "cc", "cc"]);
    assert_eq!(report.with_status("rejected"), ["b-b"]);
    assert_eq!(database.rows(), ["aa", "cc", "cc"]);
    shows!(run.stderr, @"4 requested, 4 received: 3 stored, 1 rejected in [seconds] s ([rate] tokens/s)");
    let before = contents(&database);
    let (_, report) = replayed(&path, &database, 0);
    assert_eq!(report.with_status("stored"), ["aa", "cc", "cc"]);
    assert_eq!(report.with_status("rejected"), ["b-b"]);
    assert_eq!(contents(&database), before, "nothing is stored again");
}

/// The rows with their numbers.
pub fn contents(database: &Database) -> Vec<(i32, String)> {
    let found = database
        .client()
        .query("SELECT id, data FROM secret_tokens ORDER BY id", &[]);
    let rows = found.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[test]
fn a_replay_that_is_killed_is_replayed() {
    let (database, folder) = killed_in_the_middle(&["aa", "b-b", "cc"]);
    let path = folder.path().join("journal");
    let mut admin = database.admin();
    for _ in 0..2 {
        lock(&mut admin);
        let running = replay(&path, &database).spawn();
        waiting_backend(&mut admin);
        running.signal("KILL");
        assert_eq!(running.wait().signal, Some(9));
        unlock(&mut admin);
    }
    let (_, report) = replayed(&path, &database, 0);
    assert_eq!(report.with_status("stored"), ["aa", "cc"]);
    assert_eq!(report.with_status("rejected"), ["b-b"]);
    assert_eq!(database.rows(), ["aa", "cc"]);
}

#[test]
fn replay_reports_every_token_when_it_is_stopped_before_it_could_look() {
    let (database, folder) = killed_in_the_middle(&["aa", "bb"]);
    let path = folder.path().join("journal");
    let drop = "ALTER TABLE secret_tokens DROP CONSTRAINT hold";
    database.client().batch_execute(drop).unwrap();
    // The first connection is set up in four answers; the look-up has one of its own.
    let proxy = Proxy::to(database.port);
    proxy.arm(Point::Ready(6), Fault::Partition, Scope::All);
    let login = through(&database, &proxy);
    let running = replay(&path, &login).spawn();
    proxy.wait_for_injected(1);
    running.signal("TERM");
    let run = running.wait().expect_code(143);
    assert_eq!(Report::of_run(&run).with_status("unknown"), ["aa", "bb"]);
    let (_, report) = replayed(&path, &database, 0);
    assert_eq!(report.with_status("stored"), ["aa", "bb"]);
    assert_eq!(database.rows(), ["aa", "bb"]);
}

/// A look-up that misses a value proves nothing if rows may be hidden or changed.
#[test]
fn replay_sends_an_unknown_token_again_only_when_a_look_up_proves_it_absent() {
    let hides = "ALTER TABLE secret_tokens ENABLE ROW LEVEL SECURITY;
        CREATE POLICY blind ON secret_tokens FOR INSERT WITH CHECK (true)";
    let changes = "CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            NEW.data = upper(NEW.data); RETURN NEW; END $$;
        CREATE TRIGGER change BEFORE INSERT ON secret_tokens FOR EACH ROW EXECUTE FUNCTION change()";
    let audits = "CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RETURN NULL; END $$;
        CREATE TRIGGER audit AFTER INSERT ON secret_tokens FOR EACH ROW EXECUTE FUNCTION audit()";
    let checks = "ALTER TABLE secret_tokens ADD CHECK (length(data) < 99)";
    for (ddl, status, code) in [
        (hides, "unknown", 5),
        (changes, "unknown", 5),
        (audits, "unknown", 5),
        (checks, "stored", 0),
    ] {
        let database = Database::standard();
        let role = database.role_with("INSERT, SELECT");
        database.client().batch_execute(ddl).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report");
        std::fs::write(
            &path,
            r#"{"token":"aa","status":"unknown","attempts":1,"ms":1.5}"#,
        )
        .unwrap();
        let (_, report) = replayed(&path, &role, code);
        assert_eq!(report.with_status(status), ["aa"], "{ddl}");
        assert_eq!(
            contents(&database).len(),
            usize::from(status == "stored"),
            "{ddl}"
        );
    }
}

/// The server cannot be asked for it, and the other tokens do not suffer for that.
#[test]
fn a_token_whose_form_is_refused_does_not_hold_up_the_others() {
    let database = Database::standard();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report");
    let lines = [
        r#"{"token":"a\u0000a","status":"not_attempted"}"#,
        r#"{"token":"bb","status":"unknown","attempts":1,"ms":1.5}"#,
    ];
    std::fs::write(&path, lines.join("\n")).unwrap();
    let (_, report) = replayed(&path, &database, 0);
    assert_eq!(report.with_status("stored"), ["bb"]);
    assert_eq!(report.count("rejected"), 1);
    assert_eq!(database.rows(), ["bb"]);
}

/// What is not seen proves nothing where it is hidden, or where others take rows away.
#[test]
fn a_replay_that_cannot_see_what_was_stored_stores_nothing() {
    let hidden = "ALTER TABLE secret_tokens ENABLE ROW LEVEL SECURITY;
        CREATE POLICY blind ON secret_tokens FOR INSERT WITH CHECK (true)";
    let taken = "DELETE FROM secret_tokens";
    for (change, why) in [
        (hidden, "row security may hide rows"),
        (taken, "does not show what the run stored"),
    ] {
        let database = Database::standard();
        let role = database.role_with("INSERT, SELECT");
        let rows = "INSERT INTO secret_tokens (data) VALUES ('aa'), ('bb')";
        database.client().batch_execute(rows).unwrap();
        database.client().batch_execute(change).unwrap();
        let before = contents(&database);
        let lines = [
            r#"{"token":"aa","status":"stored","attempts":1,"ms":1.5}"#,
            r#"{"token":"bb","status":"unknown","attempts":1,"ms":1.5}"#,
        ];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report");
        std::fs::write(&path, lines.join("\n")).unwrap();
        let (run, report) = replayed(&path, &role, 5);
        assert_eq!(report.with_status("unknown"), ["bb"]);
        assert_eq!(contents(&database), before);
        assert!(run.stderr.contains(why), "{}", run.stderr);
    }
}

#[test]
fn a_journal_with_unsettled_tokens_is_not_overwritten() {
    let (database, folder) = killed_in_the_middle(&["aa"]);
    let path = folder.path().join("journal");
    let before = std::fs::read(&path).unwrap();
    let source = Source::responding([]);
    let run = journaled(&source, &database, &path).arg("1").run();
    assert!(source.requests().is_empty(), "no token was asked for");
    shows!(run.expect_code(2).stderr, @"
    error: the journal [dir]/journal cannot be used
      caused by: it holds tokens of a run that did not settle all of them
    hint: `token_service replay [dir]/journal` settles them, and then it can be used again
    ");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn a_file_that_is_no_journal_is_not_overwritten() {
    let database = Database::standard();
    let source = Source::responding([]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("thesis.txt");
    std::fs::write(&path, "ten years of work\n").unwrap();
    let run = journaled(&source, &database, &path).arg("1").run();
    run.expect_code(2);
    assert_eq!(std::fs::read(&path).unwrap(), b"ten years of work\n");
}

#[test]
fn a_journal_in_use_is_neither_written_nor_replayed() {
    let (database, mut admin) = locked();
    let source = Source::responding([Response::tokens(["aa"])]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let running = journaled(&source, &database, &path).arg("1").spawn();
    waiting_backend(&mut admin);

    let other = Source::responding([]);
    let second = journaled(&other, &database, &path).arg("1").run();
    shows!(second.expect_code(2).stderr, @"
    error: the journal [dir]/journal cannot be used
      caused by: another process is using it
    hint: wait until that run has ended, or name another file
    ");
    let early = replay(&path, &database).run().expect_code(2);
    assert!(early.error().contains("another process is using it"));

    unlock(&mut admin);
    running.wait().expect_code(0);
    assert_eq!(database.rows(), ["aa"]);
}

#[test]
fn a_journal_whose_tokens_are_all_settled_is_overwritten() {
    let database = Database::standard();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    for token in ["aa", "b-b"] {
        let source = Source::responding([Response::tokens([token])]);
        let run = journaled(&source, &database, &path).arg("1").run();
        run.expect_code(0);
        assert_eq!(Journal::read(&path).received, [token]);
    }
}

#[test]
fn a_replay_into_another_table_is_refused() {
    let (database, folder) = killed_in_the_middle(&["aa"]);
    let path = folder.path().join("journal");
    let ddl = "CREATE TABLE other (id SERIAL PRIMARY KEY, data text NOT NULL)";
    database.client().batch_execute(ddl).unwrap();
    let command = replay(&path, &database).config("database: {table: other}");
    shows!(command.run().expect_code(2).stderr, @"
    error: the journal belongs to another table than the one configured
      caused by: its run stored in secret_tokens, column data
      caused by: configured is other, column data
    hint: set `database.table` and `database.column` to what the run had
    ");
    // The same name in quotes that it does not need is no other table.
    let command = replay(&path, &database).config("database: {table: '\"secret_tokens\"'}");
    command.run().expect_code(0);
    assert_eq!(database.rows(), ["aa"]);
}

/// Nobody knows what was stored, so only what was certainly not sent may be sent.
#[test]
fn without_the_right_to_look_nothing_in_doubt_is_sent() {
    let database = Database::standard();
    let role = database.role_with("INSERT");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report");
    let lines = [
        r#"{"token":"aa","status":"unknown","attempts":1,"ms":1.0}"#,
        r#"{"token":"bb","status":"failed","attempts":1,"ms":1.0}"#,
        r#"{"token":"cc","status":"not_attempted"}"#,
        r#"{"token":"dd","status":"stored","attempts":1}"#,
    ];
    std::fs::write(&path, lines.join("\n")).unwrap();
    let (run, report) = replayed(&path, &role, 5);
    assert_eq!(report.with_status("unknown"), ["aa"]);
    assert_eq!(report.with_status("stored"), ["bb", "cc", "dd"]);
    assert_eq!(database.rows(), ["bb", "cc"], "dd is another database's");
    shows!(run.stderr, @r#"
     WARN it cannot be looked up what was stored before cause="the role may not read the column and xmin" hint="GRANT SELECT (\"data\", xmin) ON \"secret_tokens\" TO \"[database]_role\""
    4 requested, 4 received: 3 stored, 0 rejected, 1 unknown in [seconds] s ([rate] tokens/s)
    error: 1 received token is neither stored nor rejected
    hint: `failed` and `not_attempted` tokens are safe to send again; look for `unknown` ones in the table first
    "#);
}
