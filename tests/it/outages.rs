//! A database that goes bad in the middle of a run: one error, and every received token is in the
//! report, in a state that is true.

use std::thread;
use std::time::{Duration, Instant};

use postgres::Client;

use crate::support::command::{Command, Running};
use crate::support::database::{Database, Login};
use crate::support::report::Report;
use crate::support::snapshot::shows;
use crate::support::source::{Gate, Response, Source};

/// The lock for which the table's CHECK waits. A trigger would leave every token in doubt unknown.
const LOCK: i32 = 7;

/// The seed's table, on which every INSERT waits for a lock that the test may hold.
pub fn locked() -> (Database, Client) {
    let (database, mut admin) = lockable();
    lock(&mut admin);
    (database, admin)
}

/// The same before the test holds the lock.
pub fn lockable() -> (Database, Client) {
    let database = Database::standard();
    let ddl = format!(
        "CREATE FUNCTION hold(text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
             PERFORM pg_advisory_xact_lock_shared({LOCK}); RETURN true; END $$;
         ALTER TABLE secret_tokens ADD CONSTRAINT hold CHECK (hold(data))"
    );
    database.client().batch_execute(&ddl).unwrap();
    let admin = database.admin();
    (database, admin)
}

pub fn lock(admin: &mut Client) {
    let lock = format!("SELECT pg_advisory_lock({LOCK})");
    admin.batch_execute(&lock).unwrap();
}

pub fn unlock(admin: &mut Client) {
    let unlock = format!("SELECT pg_advisory_unlock({LOCK})");
    admin.batch_execute(&unlock).unwrap();
}

/// The backend that waits for the lock, as soon as there is one; nobody announces it.
pub fn waiting_backend(admin: &mut Client) -> i32 {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let found = admin.query_opt(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()
             AND application_name LIKE 'token_service %' AND wait_event = 'advisory' LIMIT 1",
            &[],
        );
        if let Some(row) = found.unwrap() {
            return row.get(0);
        }
        assert!(Instant::now() < end, "no INSERT waits for the lock");
        thread::park_timeout(Duration::from_millis(10));
    }
}

fn start(source: &Source, database: &Login, size: &str) -> Running {
    Command::new()
        .source(source)
        .database(database)
        .args([size, "--report", "ndjson"])
        .spawn()
}

/// What is called stored is in the table; what is certainly not stored is not.
fn assert_true(report: &Report, database: &Database) {
    let rows = database.rows();
    for token in report.with_status("stored") {
        assert!(rows.contains(&token), "{token} is not in the table");
    }
    for status in ["rejected", "failed", "not_attempted"] {
        for token in report.with_status(status) {
            assert!(!rows.contains(&token), "{token} is {status} and stored");
        }
    }
    let unknown = report.with_status("unknown");
    for row in &rows {
        let known = report.with_status("stored").contains(row) || unknown.contains(row);
        assert!(known, "{row} is in the table and not reported as stored");
    }
}

#[test]
fn a_right_that_is_revoked_in_the_middle_ends_the_run_with_one_error() {
    let database = Database::standard();
    let role = database.role_with("INSERT");
    let gate = Gate::new();
    let source = Source::responding([
        Response::tokens(["aa", "bb", "cc"]),
        Response::tokens(["dd", "ee", "ff", "gg"]).after(&gate),
    ]);
    // The first three are sent in one write.
    let running = Command::new()
        .source(&source)
        .database(&role)
        .args([
            "7",
            "--report",
            "ndjson",
            "--connections",
            "1",
            "--pipeline",
            "3",
        ])
        .spawn();
    running.wait_for_stdout(|text| text.lines().count() == 3);
    let revoke = format!("REVOKE INSERT ON secret_tokens FROM {}", role.user);
    database.client().batch_execute(&revoke).unwrap();
    gate.open();

    let run = running.wait().expect_code(5);
    let report = Report::of_run(&run);
    assert_eq!(report.with_status("stored"), ["aa", "bb", "cc"]);
    assert_eq!(
        report.with_status("failed"),
        ["dd", "ee", "ff"],
        "sent, and refused"
    );
    assert_eq!(report.with_status("not_attempted"), ["gg"], "never sent");
    assert_true(&report, &database);
    shows!(run.stderr, @"
    7 requested, 7 received in 2 requests: 3 stored, 0 rejected, 3 failed, 1 not attempted in [seconds] s ([rate] tokens/s)
    error: db_denied: the database refuses every insert
      ╭▸ scripts/default.rhai:3:1
      │
    3 │ report(store(fetch(SIZE)));
      ╰╴━━━━━━
      caused by: permission denied for table secret_tokens (42501)
    hint: look at the table's definition and the role's rights; nothing more was sent
    ");
}

#[test]
fn a_connection_that_is_cut_in_the_middle_loses_no_token() {
    let (database, mut admin) = locked();
    let source = Source::responding([Response::tokens((0..100).map(|n| format!("a{n}")))]);
    let running = start(&source, &database, "100");
    let pid = waiting_backend(&mut admin);
    admin
        .execute("SELECT pg_terminate_backend($1)", &[&pid])
        .unwrap();
    unlock(&mut admin);

    let run = running.wait();
    let report = Report::of_run(&run);
    assert_eq!(report.count("received"), 100);
    assert!(report.count("stored") > 0, "it went on: {}", run.stderr);
    assert_true(&report, &database);
    let settled = report.count("stored") + report.count("rejected");
    assert_eq!(run.code, Some(if settled == 100 { 0 } else { 5 }));
}

/// A stored token of the same run shows that the table can be looked up, so nothing stays in doubt.
#[test]
fn what_a_cut_connection_left_in_doubt_is_looked_up_and_stored_once() {
    let (database, mut admin) = lockable();
    let gate = Gate::new();
    let tokens: Vec<String> = (0..50).map(|n| format!("a{n:02}")).collect();
    let source = Source::responding([
        Response::tokens(["a"]),
        Response::tokens(&tokens).after(&gate),
    ]);
    let running = start(&source, &database, "51");
    running.wait_for_stdout(|text| text.lines().count() == 1);
    lock(&mut admin);
    gate.open();
    let pid = waiting_backend(&mut admin);
    admin
        .execute("SELECT pg_terminate_backend($1)", &[&pid])
        .unwrap();
    unlock(&mut admin);

    let run = running.wait().expect_code(0);
    let report = Report::of_run(&run);
    assert_eq!(report.count("stored"), 51);
    assert_eq!(
        database.rows(),
        report.with_status("stored"),
        "each of them once"
    );
}

#[test]
fn a_database_that_does_not_come_back_fails_what_was_not_sent() {
    let (database, mut admin) = locked();
    let source = Source::responding([Response::tokens((0..100).map(|n| format!("a{n}")))]);
    let running = Command::new()
        .source(&source)
        .database(&database)
        .args(["100", "--report", "ndjson", "--patience", "500ms"])
        .args(["--connections", "1", "--pipeline", "16"])
        .spawn();
    let pid = waiting_backend(&mut admin);
    // One after the other: the limit counts once it is committed.
    let shut = format!("ALTER DATABASE {} CONNECTION LIMIT 0", database.name);
    admin.batch_execute(&shut).unwrap();
    admin
        .execute("SELECT pg_terminate_backend($1)", &[&pid])
        .unwrap();

    let run = running.wait().expect_code(5);
    let open = format!("ALTER DATABASE {} CONNECTION LIMIT -1", database.name);
    admin.batch_execute(&open).unwrap();
    let report = Report::of_run(&run);
    assert_eq!(report.count("received"), 100);
    assert!(report.count("failed") > 0, "{}", run.stderr);
    assert_eq!(report.count("stored"), 0);
    assert_true(&report, &database);
    let told = run.stderr.matches("trying again").count();
    assert_eq!(told, 1, "once, however often it was tried: {}", run.stderr);
    shows!(run.error(), @r#"
        error: db_connect: the connection to the database was lost and did not come back within 500ms
          ╭▸ scripts/default.rhai:3:1
          │
        3 │ report(store(fetch(SIZE)));
          ╰╴━━━━━━
          caused by: too many connections for database "[database]" (53300)
        hint: tokens that are `failed` are safe to store again; --patience waits longer
        "#);
}
