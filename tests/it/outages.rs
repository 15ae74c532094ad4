//! Tests of a database that fails during a run. The run ends with one error, and its report holds every
//! received token with its true status.

use std::thread;
use std::time::{Duration, Instant};

use postgres::Client;

use crate::support::command::{Command, Running};
use crate::support::database::{Database, Login};
use crate::support::report::Report;
use crate::support::snapshot::shows;
use crate::support::source::{Gate, Response, Source};

/// The lock that the table's CHECK takes. With a trigger every in-doubt token would stay unknown.
const LOCK: i32 = 7;

/// Creates a table whose inserts wait for a lock, and takes the lock.
pub fn locked_table() -> (Database, Client) {
    let (database, mut admin) = lockable_table();
    lock(&mut admin);
    (database, admin)
}

/// Creates a table whose inserts wait for a lock, and does not take the lock.
pub fn lockable_table() -> (Database, Client) {
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

/// Waits until a backend of the run waits for the lock, and returns its process id.
///
/// It polls, because no event announces this.
pub fn wait_for_blocked_backend(admin: &mut Client) -> i32 {
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

/// Asserts that the table holds the stored tokens and none that is certainly not stored.
fn assert_report_matches_table(report: &Report, database: &Database) {
    let rows = database.rows();
    for token in report.with_status("stored") {
        assert!(rows.contains(&token), "{token} is not in the table");
    }
    for status in ["rejected", "failed", "not_attempted"] {
        for token in report.with_status(status) {
            assert!(
                !rows.contains(&token),
                "{token} is reported as {status} and is in the table"
            );
        }
    }
    let unknown = report.with_status("unknown");
    for row in &rows {
        let known = report.with_status("stored").contains(row) || unknown.contains(row);
        assert!(known, "{row} is in the table and not reported as stored");
    }
}

#[test]
fn run_ends_with_one_error_when_insert_is_revoked_during_the_run() {
    let database = Database::standard();
    let role = database.role_with("INSERT");
    let gate = Gate::new();
    let source = Source::responding([
        Response::tokens(["aa", "bb", "cc"]),
        Response::tokens(["dd", "ee", "ff", "gg"]).after(&gate),
    ]);
    // Three inserts are in flight at a time.
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
    assert_report_matches_table(&report, &database);
    shows!(run.stderr, @"
    7 requested, 7 received in 2 requests: 3 stored, 0 rejected, 3 failed, 1 not attempted in [seconds] s ([rate] tokens/s)
    error: db_denied: the database refuses every insert
      caused by: permission denied for table secret_tokens (42501)
    hint: check the table's definition and the role's rights; nothing more was sent
    ");
}

#[test]
fn no_token_is_lost_when_a_backend_is_terminated_during_the_run() {
    let (database, mut admin) = locked_table();
    let source = Source::responding([Response::tokens((0..100).map(|n| format!("a{n}")))]);
    let running = start(&source, &database, "100");
    let pid = wait_for_blocked_backend(&mut admin);
    admin
        .execute("SELECT pg_terminate_backend($1)", &[&pid])
        .unwrap();
    unlock(&mut admin);

    let run = running.wait();
    let report = Report::of_run(&run);
    assert_eq!(report.count("received"), 100);
    assert!(
        report.count("stored") > 0,
        "the run did not continue: {}",
        run.stderr
    );
    assert_report_matches_table(&report, &database);
    let settled = report.count("stored") + report.count("rejected");
    assert_eq!(run.code, Some(if settled == 100 { 0 } else { 5 }));
}

/// A stored row of this run shows that look-ups work, so no token stays unknown.
#[test]
fn in_doubt_tokens_are_looked_up_and_stored_once_when_the_connection_is_lost() {
    let (database, mut admin) = lockable_table();
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
    let pid = wait_for_blocked_backend(&mut admin);
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
        "each row once"
    );
}

#[test]
fn unsent_tokens_fail_when_the_database_stays_down() {
    let (database, mut admin) = locked_table();
    let source = Source::responding([Response::tokens((0..100).map(|n| format!("a{n}")))]);
    let running = Command::new()
        .source(&source)
        .database(&database)
        .args(["100", "--report", "ndjson", "--patience", "500ms"])
        .args(["--connections", "1", "--pipeline", "16"])
        .spawn();
    let pid = wait_for_blocked_backend(&mut admin);
    // These statements are separate: the limit takes effect when it is committed.
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
    assert_report_matches_table(&report, &database);
    let warnings = run.stderr.matches("; retrying").count();
    assert_eq!(warnings, 1, "one warning for all attempts: {}", run.stderr);
    shows!(run.error(), @r#"
        error: db_connect: the connection to the database was lost and did not come back within 500ms
          caused by: too many connections for database "[database]" (53300)
        hint: tokens that are `failed` are safe to store again; --patience waits longer
        "#);
}
