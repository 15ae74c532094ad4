//! Tests of `--journal` and `replay`. A page is in the journal before its first token is in the table, a
//! journal with unsettled tokens is not overwritten, and a replay is idempotent.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::faults::through;
use crate::outages::{lock, lockable_table, locked_table, unlock, wait_for_blocked_backend};
use crate::support::cluster::wait_until_disconnected;
use crate::support::command::{Command, Run};
use crate::support::database::{Database, Login};
use crate::support::journal::Journal;
use crate::support::proxy::{Fault, Point, Proxy, Scope};
use crate::support::report::Report;
use crate::support::snapshot::shows;
use crate::support::source::{Gate, Response, Source};

/// Prepares a run that writes a journal.
pub fn run_with_journal(source: &Source, database: &Login, journal: &Path) -> Command {
    let command = Command::new().source(source).database(database);
    let command = command.args(["--report", "ndjson", "--journal"]);
    command.arg(journal)
}

/// Prepares a replay of a file.
pub fn replay(file: &Path, database: &Login) -> Command {
    let command = Command::new().database(database).arg("replay").arg(file);
    command.args(["--report", "ndjson"])
}

/// Replays a file, and parses the report of the replay.
#[track_caller]
pub fn run_replay(file: &Path, database: &Login, code: i32) -> (Run, Report) {
    let run = replay(file, database).run().expect_code(code);
    let report = Report::of_run(&run);
    (run, report)
}

/// Kills a run while its first insert waits for a lock, and releases the lock.
///
/// The journal in the returned folder holds only unsettled tokens.
pub fn killed_run(tokens: &[&str]) -> (Database, tempfile::TempDir) {
    let (database, mut admin) = locked_table();
    let folder = tempfile::tempdir().unwrap();
    let source = Source::responding([Response::tokens(tokens)]);
    let command = run_with_journal(&source, &database, &folder.path().join("journal"));
    let running = command.arg(tokens.len().to_string()).spawn();
    wait_for_blocked_backend(&mut admin);
    running.signal("KILL");
    assert_eq!(running.wait().signal, Some(9));
    unlock(&mut admin);
    // A test that takes the lock again must not find the backend of the killed run.
    wait_until_disconnected(database.superuser());
    (database, folder)
}

#[test]
fn page_is_journaled_before_its_first_token_is_stored() {
    let (database, mut admin) = lockable_table();
    let gate = Gate::new();
    let source = Source::responding([
        Response::tokens(["aa", "b-b"]),
        Response::tokens(["cc", "dd"]).after(&gate),
    ]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let running = run_with_journal(&source, &database, &path).arg("4").spawn();
    running.wait_for_stdout(|text| text.lines().count() == 2);
    lock(&mut admin);
    gate.open();
    wait_for_blocked_backend(&mut admin);
    // No token of the second page can be in the table yet.
    assert_eq!(database.rows(), ["aa"]);
    assert_eq!(Journal::read(&path).received, ["aa", "b-b", "cc", "dd"]);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "the journal holds secrets");
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
fn replay_is_idempotent_when_the_run_was_killed() {
    let (database, folder) = killed_run(&["aa", "b-b", "cc", "cc"]);
    let path = folder.path().join("journal");
    let (run, report) = run_replay(&path, &database, 0);
    assert_eq!(report.with_status("stored"), ["aa", "cc", "cc"]);
    assert_eq!(report.with_status("rejected"), ["b-b"]);
    assert_eq!(database.rows(), ["aa", "cc", "cc"]);
    shows!(run.stderr, @"4 requested, 4 received: 3 stored, 1 rejected in [seconds] s ([rate] tokens/s)");
    let before = rows_with_ids(&database);
    let (_, report) = run_replay(&path, &database, 0);
    assert_eq!(report.with_status("stored"), ["aa", "cc", "cc"]);
    assert_eq!(report.with_status("rejected"), ["b-b"]);
    assert_eq!(
        rows_with_ids(&database),
        before,
        "the second replay stores nothing"
    );
}

/// Reads the rows with their ids.
pub fn rows_with_ids(database: &Database) -> Vec<(i32, String)> {
    let found = database
        .client()
        .query("SELECT id, data FROM secret_tokens ORDER BY id", &[]);
    let rows = found.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[test]
fn replay_settles_tokens_when_earlier_replays_were_killed() {
    let (database, folder) = killed_run(&["aa", "b-b", "cc"]);
    let path = folder.path().join("journal");
    let mut admin = database.admin();
    for _ in 0..2 {
        lock(&mut admin);
        let running = replay(&path, &database).spawn();
        wait_for_blocked_backend(&mut admin);
        running.signal("KILL");
        assert_eq!(running.wait().signal, Some(9));
        unlock(&mut admin);
    }
    let (_, report) = run_replay(&path, &database, 0);
    assert_eq!(report.with_status("stored"), ["aa", "cc"]);
    assert_eq!(report.with_status("rejected"), ["b-b"]);
    assert_eq!(database.rows(), ["aa", "cc"]);
}

#[test]
fn replay_reports_every_token_when_it_is_stopped_before_the_look_up() {
    let (database, folder) = killed_run(&["aa", "bb"]);
    let path = folder.path().join("journal");
    let drop = "ALTER TABLE secret_tokens DROP CONSTRAINT hold";
    database.client().batch_execute(drop).unwrap();
    // Five answers set up the first connection. The look-up has its own connection.
    let proxy = Proxy::to(database.port);
    proxy.arm(Point::Ready(7), Fault::Partition, Scope::All);
    let login = through(&database, &proxy);
    let running = replay(&path, &login).spawn();
    proxy.wait_for_injected(1);
    running.signal("TERM");
    let run = running.wait().expect_code(143);
    assert_eq!(Report::of_run(&run).with_status("unknown"), ["aa", "bb"]);
    let (_, report) = run_replay(&path, &database, 0);
    assert_eq!(report.with_status("stored"), ["aa", "bb"]);
    assert_eq!(database.rows(), ["aa", "bb"]);
}

/// A missing row proves nothing if a policy may hide it or a trigger may change it.
#[test]
fn unknown_token_is_sent_again_only_when_a_look_up_proves_it_absent() {
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
        let (_, report) = run_replay(&path, &role, code);
        assert_eq!(report.with_status(status), ["aa"], "{ddl}");
        assert_eq!(
            rows_with_ids(&database).len(),
            usize::from(status == "stored"),
            "{ddl}"
        );
    }
}

/// A token with NUL cannot be looked up, because it cannot be sent to the server.
#[test]
fn malformed_token_does_not_block_other_tokens() {
    let database = Database::standard();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report");
    let lines = [
        r#"{"token":"a\u0000a","status":"not_attempted"}"#,
        r#"{"token":"bb","status":"unknown","attempts":1,"ms":1.5}"#,
    ];
    std::fs::write(&path, lines.join("\n")).unwrap();
    let (_, report) = run_replay(&path, &database, 0);
    assert_eq!(report.with_status("stored"), ["bb"]);
    assert_eq!(report.count("rejected"), 1);
    assert_eq!(database.rows(), ["bb"]);
}

/// A missing row proves nothing if row security hides rows or another client deletes them.
#[test]
fn replay_stores_nothing_when_stored_rows_are_not_visible() {
    let hidden = "ALTER TABLE secret_tokens ENABLE ROW LEVEL SECURITY;
        CREATE POLICY blind ON secret_tokens FOR INSERT WITH CHECK (true)";
    let deleted = "DELETE FROM secret_tokens";
    for (change, why) in [
        (hidden, "row security may hide rows"),
        (deleted, "does not show rows that the run stored"),
    ] {
        let database = Database::standard();
        let role = database.role_with("INSERT, SELECT");
        let rows = "INSERT INTO secret_tokens (data) VALUES ('aa'), ('bb')";
        database.client().batch_execute(rows).unwrap();
        database.client().batch_execute(change).unwrap();
        let before = rows_with_ids(&database);
        let lines = [
            r#"{"token":"aa","status":"stored","attempts":1,"ms":1.5}"#,
            r#"{"token":"bb","status":"unknown","attempts":1,"ms":1.5}"#,
        ];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report");
        std::fs::write(&path, lines.join("\n")).unwrap();
        let (run, report) = run_replay(&path, &role, 5);
        assert_eq!(report.with_status("unknown"), ["bb"]);
        assert_eq!(rows_with_ids(&database), before);
        assert!(run.stderr.contains(why), "{}", run.stderr);
    }
}

#[test]
fn journal_is_not_overwritten_when_it_holds_unsettled_tokens() {
    let (database, folder) = killed_run(&["aa"]);
    let path = folder.path().join("journal");
    let before = std::fs::read(&path).unwrap();
    let source = Source::responding([]);
    let run = run_with_journal(&source, &database, &path).arg("1").run();
    assert!(source.requests().is_empty(), "no token was requested");
    shows!(run.expect_code(2).stderr, @"
    error: the journal [dir]/journal cannot be used
      caused by: it contains unsettled tokens of an earlier run
    hint: settle them with `token_service replay [dir]/journal`, then the file can be used again
    ");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn file_is_not_overwritten_when_it_is_not_a_journal() {
    let database = Database::standard();
    let source = Source::responding([]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("thesis.txt");
    std::fs::write(&path, "ten years of work\n").unwrap();
    let run = run_with_journal(&source, &database, &path).arg("1").run();
    run.expect_code(2);
    assert_eq!(std::fs::read(&path).unwrap(), b"ten years of work\n");
}

#[test]
fn journal_is_refused_when_another_process_uses_it() {
    let (database, mut admin) = locked_table();
    let source = Source::responding([Response::tokens(["aa"])]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let running = run_with_journal(&source, &database, &path).arg("1").spawn();
    wait_for_blocked_backend(&mut admin);

    let other = Source::responding([]);
    let second = run_with_journal(&other, &database, &path).arg("1").run();
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
fn journal_is_overwritten_when_its_tokens_are_settled() {
    let database = Database::standard();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    for token in ["aa", "b-b"] {
        let source = Source::responding([Response::tokens([token])]);
        let run = run_with_journal(&source, &database, &path).arg("1").run();
        run.expect_code(0);
        assert_eq!(Journal::read(&path).received, [token]);
    }
}

#[test]
fn replay_is_refused_when_the_table_differs() {
    let (database, folder) = killed_run(&["aa"]);
    let path = folder.path().join("journal");
    let ddl = "CREATE TABLE other (id SERIAL PRIMARY KEY, data text NOT NULL)";
    database.client().batch_execute(ddl).unwrap();
    let command = replay(&path, &database).config("database: {table: other}");
    shows!(command.run().expect_code(2).stderr, @"
    error: the journal belongs to a different table than the configured one
      caused by: the run used table secret_tokens, column data
      caused by: the configuration has table other, column data
    hint: set `database.table` and `database.column` to those of the run
    ");
    // Unnecessary quotes do not make it another table.
    let command = replay(&path, &database).config("database: {table: '\"secret_tokens\"'}");
    command.run().expect_code(0);
    assert_eq!(database.rows(), ["aa"]);
}

/// Without a look-up, the replay sends only tokens that are certainly not stored.
#[test]
fn in_doubt_token_stays_unknown_when_the_role_lacks_select() {
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
    let (run, report) = run_replay(&path, &role, 5);
    assert_eq!(report.with_status("unknown"), ["aa"]);
    assert_eq!(report.with_status("stored"), ["bb", "cc", "dd"]);
    assert_eq!(
        database.rows(),
        ["bb", "cc"],
        "dd is reported as stored and is not sent"
    );
    shows!(run.stderr, @r#"
     WARN cannot look up what was stored before cause="the role may not read the column and xmin" hint="GRANT SELECT (\"data\", xmin) ON \"secret_tokens\" TO \"[database]_role\""
    4 requested, 4 received: 3 stored, 0 rejected, 1 unknown in [seconds] s ([rate] tokens/s)
    error: 1 received token is neither stored nor rejected
    hint: `failed` and `not_attempted` tokens are safe to send again; look for `unknown` ones in the table first
    "#);
}
