//! Network faults: replies that are dropped after the commit, connections that break in the middle of a
//! message, partitions, delays, and backends that continue without their client.

use std::time::Duration;

use super::{random_token_source, run_command, through, with_held_tokens};
use crate::outages::{unlock, wait_for_blocked_backend};
use crate::support::cluster::{kill, wait, wait_until_disconnected};
use crate::support::command::Command;
use crate::support::database::{Database, Login};
use crate::support::proxy::{Fault, Point, Proxy, Scope};
use crate::support::source::{Response, Source};
use crate::support::verify::verify;

/// Tokens that were committed but not confirmed are found, and no token is sent twice.
#[test]
fn tokens_are_found_when_the_reply_to_their_commit_is_dropped() {
    let database = Database::standard();
    let proxy = Proxy::to(database.port);
    let (issued, source) = random_token_source(600);
    for commit in [1, 40, 90] {
        proxy.arm(Point::Commit(commit), Fault::DropReplies, Scope::One);
    }
    let run = run_command(&source, &through(&database, &proxy), issued.len())
        .args(["--connections", "2"])
        .run()
        .expect_code(0);
    assert_eq!(proxy.injected(), 3);
    let verified = verify(&run, &issued, &[], &database);
    assert!(verified.in_doubt.stored >= 3, "{:?}", verified.in_doubt);
    assert_eq!(verified.in_doubt.unknown, 0);
}

#[test]
fn no_token_is_lost_when_a_connection_breaks_inside_a_message() {
    let database = Database::standard();
    let proxy = Proxy::to(database.port);
    let (issued, source) = random_token_source(1000);
    for byte in [6000, 1234, 4321, 2777, 5001] {
        proxy.arm(Point::Byte(byte), Fault::Disconnect, Scope::One);
    }
    let run = run_command(&source, &through(&database, &proxy), issued.len())
        .args(["--connections", "2"])
        .run()
        .expect_code(0);
    assert_eq!(proxy.injected(), 5);
    let verified = verify(&run, &issued, &[], &database);
    assert_eq!(verified.in_doubt.unknown, 0);
}

#[test]
fn no_token_is_in_doubt_after_a_short_partition() {
    let database = Database::standard();
    let proxy = Proxy::to(database.port);
    let (issued, source) = random_token_source(1000);
    proxy.arm(Point::Commit(200), Fault::Partition, Scope::All);
    proxy.delay(Duration::from_millis(5));
    let running = run_command(&source, &through(&database, &proxy), issued.len()).spawn();
    proxy.wait_for_injected(1);
    proxy.heal();
    let run = running.wait().expect_code(0);
    let verified = verify(&run, &issued, &[], &database);
    assert_eq!(verified.in_doubt.total, 0);
}

/// The connections stay open, but no reply arrives on any of them.
#[test]
fn in_doubt_tokens_are_resolved_when_the_server_stops_responding() {
    let database = Database::standard();
    let proxy = Proxy::to(database.port);
    let (issued, source) = random_token_source(400);
    for commit in [50, 50] {
        proxy.arm(Point::Commit(commit), Fault::Partition, Scope::One);
    }
    let run = run_command(&source, &through(&database, &proxy), issued.len())
        .config("database: {statement_timeout: 1s}")
        .args(["--connections", "2"])
        .run()
        .expect_code(0);
    assert_eq!(proxy.injected(), 2);
    let verified = verify(&run, &issued, &[], &database);
    assert!(verified.in_doubt.total > 0);
    assert_eq!(verified.in_doubt.unknown, 0);
}

/// The server has not noticed the disconnect of the client, and its INSERT still runs.
#[test]
fn orphaned_backend_commits_nothing_late() {
    let (database, mut admin) = with_held_tokens(Database::standard());
    let proxy = Proxy::to(database.port);
    let issued: Vec<String> = ["aa", "bb", "held", "cc", "dd"].map(String::from).into();
    let source = Source::responding([Response::tokens(&issued)]);
    let running = run_command(&source, &through(&database, &proxy), issued.len())
        .args(["--connections", "1"])
        .spawn();
    let orphan = wait_for_blocked_backend(&mut admin);
    proxy.inject(Fault::DisconnectClient);
    // The fence ended the backend before the look-up, although it never got its lock.
    wait(
        || wait_for_blocked_backend(&mut admin) != orphan,
        "the fence",
    );
    unlock(&mut admin);
    let run = running.wait().expect_code(0);
    verify(&run, &issued, &[], &database);
    proxy.heal();
    wait_until_disconnected(database.superuser());
    let verified = verify(&run, &issued, &[], &database);
    assert_eq!(verified.report.count("stored"), 5);
    assert!(verified.in_doubt.absent >= 1);
}

/// A backend that cannot be terminated may still commit. If the run is aborted while it waits for this
/// backend, it must still report the tokens.
#[test]
fn every_token_is_reported_when_the_run_is_aborted_during_a_look_up() {
    let (database, mut admin) = with_held_tokens(Database::standard());
    let proxy = Proxy::to(database.port);
    let issued: Vec<String> = ["aa", "bb", "held", "cc", "dd"].map(String::from).into();
    let source = Source::responding([Response::tokens(&issued)]);
    let running = run_command(&source, &through(&database, &proxy), issued.len())
        .args(["--connections", "1"])
        .spawn();
    let stopped = wait_for_blocked_backend(&mut admin);
    assert!(kill(stopped, "STOP"));
    let before = proxy.accepted();
    proxy.inject(Fault::DisconnectClient);
    proxy.wait_for_accepted(before + 1);
    // Waits until a backend of the run has tried to terminate the stopped one.
    wait(
        || {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                         AND query LIKE '%pg_terminate_backend(pid)%' AND pid NOT IN ($1, pg_backend_pid())";
            let count: i64 = admin.query_one(sql, &[&stopped]).unwrap().get(0);
            count > 0
        },
        "the fence",
    );
    running.signal("TERM");
    running.wait_for_stderr(|text| text.contains("stopping"));
    running.signal("TERM");
    let run = running.wait();
    assert!(kill(stopped, "CONT"));
    unlock(&mut admin);
    wait_until_disconnected(database.superuser());
    let run = run.expect_code(143);
    let verified = verify(&run, &issued, &[], &database);
    assert!(verified.report.count("unknown") >= 1, "{}", run.stderr);
}

/// The second connection gets no reply either, when it terminates the old backend.
#[test]
fn look_up_is_retried_when_the_server_stops_responding() {
    let database = Database::standard();
    let proxy = Proxy::to(database.port);
    let (issued, source) = random_token_source(100);
    proxy.arm(Point::Commit(20), Fault::DropReplies, Scope::One);
    // The replies to startup, session settings and statement precede the one to the fence.
    proxy.arm(Point::Ready(4), Fault::Partition, Scope::One);
    let url = through(&database, &proxy).url() + "?connect_timeout=1";
    let run = run_command(&source, &database, issued.len())
        .env("DATABASE_URL", url)
        .args(["--connections", "1"])
        .run()
        .expect_code(0);
    assert_eq!(proxy.injected(), 2);
    let verified = verify(&run, &issued, &[], &database);
    assert_eq!(verified.in_doubt.unknown, 0);
}

#[test]
fn no_token_is_requested_when_the_server_accepts_but_does_not_respond() {
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let login = Login {
        host: "127.0.0.1".to_owned(),
        port: silent.local_addr().unwrap().port(),
        user: "tokens".to_owned(),
        password: "canary".to_owned(),
        name: "tokens".to_owned(),
    };
    let source = Source::responding([]);
    let run = Command::new()
        .source(&source)
        .env("DATABASE_URL", login.url() + "?connect_timeout=1")
        .arg("3")
        .run()
        .expect_code(5);
    assert!(source.requests().is_empty());
    assert!(
        run.error().contains("did not answer within 1s"),
        "{}",
        run.error()
    );
}
