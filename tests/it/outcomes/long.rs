//! Slow tests, which `tests/faults` runs.

use super::run_of;
use crate::support::cluster::Cluster;
use crate::support::command::Command;
use crate::support::database::{Database, STANDARD_TABLE};
use crate::support::report::Report;
use crate::support::source::Source;

/// The distance from the oldest transaction id to the one at which the server stops assigning ids.
const STOP: u32 = (1 << 31) - 3_000_000;

/// Starts a server that stops assigning transaction ids after `left` more.
///
/// A prepared transaction prevents autovacuum from moving this limit.
fn near_wraparound(left: u32) -> (Cluster, Database) {
    let cluster = Cluster::new();
    let database = Database::on(&cluster).with_sql(STANDARD_TABLE);
    let mut admin = database.admin();
    admin
        .batch_execute("ALTER SYSTEM SET max_prepared_transactions = 1")
        .unwrap();
    drop(admin);
    cluster.stop("fast");
    cluster.start();
    let mut admin = database.admin();
    admin
        .batch_execute("BEGIN; CREATE TABLE held (); PREPARE TRANSACTION 'held'; CHECKPOINT")
        .unwrap();
    let oldest = "SELECT min(datfrozenxid::text::bigint) FROM pg_database";
    let oldest: i64 = admin.query_one(oldest, &[]).unwrap().get(0);
    drop(admin);
    cluster.stop("fast");
    let oldest = u32::try_from(oldest).expect("a transaction id of a new server");
    cluster.set_next_xid(oldest + STOP - left);
    cluster.start();
    (cluster, database)
}

#[test]
#[ignore = "takes seconds; `tests/faults` runs it"]
fn tokens_fail_when_the_server_stops_to_avoid_wraparound() {
    let (_cluster, database) = near_wraparound(20);
    let tokens: Vec<String> = (0..100).map(|number| format!("a{number:03}")).collect();
    let run = run_of(&database, &tokens).run().expect_code(5);
    let report = Report::of_run(&run);
    assert_eq!(report.count("rejected"), 0, "{}", run.stdout);
    assert_eq!(report.count("unknown"), 0, "{}", run.stdout);
    assert!(report.count("failed") > 0, "{}", run.stdout);
    assert_eq!(report.with_status("stored"), database.rows());

    // The server assigns no transaction ids now, so no insert can succeed.
    let source = Source::generating(|size| size);
    let run = Command::new()
        .source(&source)
        .database(&database)
        .args(["5", "--patience", "1s"])
        .run()
        .expect_code(5);
    assert!(!run.stdout.contains("rejected"), "{}", run.stdout);
    let check = Command::new()
        .source(&source)
        .database(&database)
        .args(["check", "--connect"])
        .run();
    let says = check.stdout.contains("wraparound") || check.stderr.contains("wraparound");
    assert!(says, "{}{}", check.stdout, check.stderr);
    assert!(source.requests().is_empty(), "a token was requested");
}
