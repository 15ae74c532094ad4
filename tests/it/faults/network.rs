//! What networks do: replies that are swallowed after the commit, connections that are cut in the
//! middle of a message, silence, delay, and a server that goes on alone.

use std::time::Duration;

use super::{holding, random_token_source, run_command, through};
use crate::outages::{unlock, waiting_backend};
use crate::support::cluster::{kill, wait, wait_until_disconnected};
use crate::support::command::Command;
use crate::support::database::{Database, Login};
use crate::support::proxy::{Fault, Point, Proxy, Scope};
use crate::support::source::{Response, Source};
use crate::support::verify::verify;

/// Case 5: what was committed and not confirmed is found, and nothing is sent twice.
#[test]
fn a_reply_that_is_dropped_after_the_commit_is_found_out() {
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
fn a_connection_that_is_cut_in_the_middle_of_a_message_costs_time_and_no_token() {
    let database = Database::standard();
    let proxy = Proxy::to(database.port);
    let (issued, source) = random_token_source(1000);
    for byte in [3000, 1234, 4321, 2777, 5001] {
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
fn silence_that_ends_and_delay_leave_no_doubt() {
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

/// Case 15 in the middle of a run: the connections stay open, and no answer comes on any of them.
#[test]
fn a_server_that_falls_silent_is_left_and_what_it_did_is_found_out() {
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

/// Case 6: the server has not heard that the client is gone, and its INSERT is still under way.
#[test]
fn a_server_that_was_left_behind_commits_nothing_late() {
    let (database, mut admin) = holding(Database::standard());
    let proxy = Proxy::to(database.port);
    let issued: Vec<String> = ["aa", "bb", "held", "cc", "dd"].map(String::from).into();
    let source = Source::responding([Response::tokens(&issued)]);
    let running = run_command(&source, &through(&database, &proxy), issued.len())
        .args(["--connections", "1"])
        .spawn();
    let left_behind = waiting_backend(&mut admin);
    proxy.inject(Fault::DisconnectClient);
    // It was fenced before it was looked up: it is gone although its lock was never given.
    wait(|| waiting_backend(&mut admin) != left_behind, "the fence");
    unlock(&mut admin);
    let run = running.wait().expect_code(0);
    verify(&run, &issued, &[], &database);
    proxy.heal();
    wait_until_disconnected(database.superuser());
    let verified = verify(&run, &issued, &[], &database);
    assert_eq!(verified.report.count("stored"), 5);
    assert!(verified.in_doubt.absent >= 1);
}

/// Nobody can tell what a backend that cannot be ended will do. And whoever waits for its end must
/// not lose the tokens when the run is aborted meanwhile.
#[test]
fn a_run_that_is_aborted_while_it_looks_up_reports_every_token() {
    let (database, mut admin) = holding(Database::standard());
    let proxy = Proxy::to(database.port);
    let issued: Vec<String> = ["aa", "bb", "held", "cc", "dd"].map(String::from).into();
    let source = Source::responding([Response::tokens(&issued)]);
    let running = run_command(&source, &through(&database, &proxy), issued.len())
        .args(["--connections", "1"])
        .spawn();
    let stopped = waiting_backend(&mut admin);
    assert!(kill(stopped, "STOP"));
    let before = proxy.accepted();
    proxy.inject(Fault::DisconnectClient);
    proxy.wait_for_accepted(before + 1);
    // It has seen the fence's first refusal once its own backend has asked for it.
    wait(
        || {
            let asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                         AND query LIKE '%pg_terminate_backend(pid)%' AND pid NOT IN ($1, pg_backend_pid())";
            let asked: i64 = admin.query_one(asked, &[&stopped]).unwrap().get(0);
            asked > 0
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

/// The second connection falls silent too, when it is asked to end the old backend.
#[test]
fn silence_while_it_looks_up_does_not_last_for_ever() {
    let database = Database::standard();
    let proxy = Proxy::to(database.port);
    let (issued, source) = random_token_source(100);
    proxy.arm(Point::Commit(20), Fault::DropReplies, Scope::One);
    // The session's beginning, its set-up, the statement; then the fence.
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

/// Case 15, at the start.
#[test]
fn a_server_that_accepts_and_stays_silent_costs_no_token() {
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
