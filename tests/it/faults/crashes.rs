//! Servers that crash, restart or stay down, and commits that wait for a standby.

use super::{random_token_source, run_command, through};
use crate::support::cluster::{Cluster, backends, crashable, kill, wait};
use crate::support::database::{Database, STANDARD_TABLE};
use crate::support::proxy::{Fault, Point, Proxy, Scope};
use crate::support::verify::{Verified, verify};

/// Stores 2,000 tokens while the server crashes in this way; asserts that all are settled.
fn settles_all_tokens_during(crash: impl FnOnce(&Cluster, &Database)) -> Verified {
    let cluster = crashable();
    let database = Database::on(&cluster).with_sql(STANDARD_TABLE);
    let proxy = Proxy::to(cluster.port);
    let (issued, source) = random_token_source(2000);
    let running = run_command(&source, &through(&database, &proxy), issued.len()).spawn();
    // The tokens in flight stay in flight until the server has crashed.
    proxy.arm(Point::Commit(300), Fault::Partition, Scope::All);
    proxy.wait_for_injected(1);
    let mut observer = database.admin();
    crash(&cluster, &database);
    // The crash follows the signal later; without this wait the run could finish before it.
    wait(|| observer.simple_query("").is_err(), "the crash");
    proxy.heal();
    let run = running.wait().expect_code(0);
    let verified = verify(&run, &issued, &[], &database);
    let settled = verified.report.count("stored") + verified.report.count("rejected");
    assert_eq!(settled, 2000, "every token is settled");
    verified
}

#[test]
fn tokens_are_settled_when_a_backend_of_the_run_is_killed() {
    let verified = settles_all_tokens_during(|_, database| {
        let pid = backends(&mut database.admin())[0];
        assert!(kill(pid, "KILL"));
    });
    assert!(verified.in_doubt.total > 0);
}

/// The crash of one backend ends all backends, with 57P02 or without a message.
#[test]
fn tokens_are_settled_when_a_backend_of_another_session_is_killed() {
    settles_all_tokens_during(|_, database| {
        let mut other = database.admin();
        let pid = other.query_one("SELECT pg_backend_pid()", &[]);
        assert!(kill(pid.unwrap().get(0), "KILL"));
    });
}

#[test]
fn tokens_are_settled_when_the_server_stops_immediately_and_restarts() {
    settles_all_tokens_during(|cluster, _| {
        cluster.stop("immediate");
        cluster.start();
    });
}

#[test]
fn tokens_are_settled_when_the_server_restarts_cleanly() {
    settles_all_tokens_during(|cluster, _| {
        cluster.stop("fast");
        cluster.start();
    });
}

#[test]
fn tokens_are_settled_when_the_postmaster_is_killed() {
    settles_all_tokens_during(|cluster, _| {
        cluster.kill_postmaster();
        cluster.start();
    });
}

#[test]
fn unsent_tokens_fail_when_the_server_stays_down() {
    let cluster = crashable();
    let database = Database::on(&cluster).with_sql(STANDARD_TABLE);
    let proxy = Proxy::to(cluster.port);
    let (issued, source) = random_token_source(2000);
    let running = run_command(&source, &through(&database, &proxy), issued.len())
        // Few tokens in flight: sent tokens are in doubt, but this test is about unsent ones.
        .args(["--patience", "1s", "--pipeline", "16"])
        .spawn();
    proxy.arm(Point::Commit(300), Fault::Partition, Scope::All);
    proxy.wait_for_injected(1);
    cluster.stop("immediate");
    proxy.heal();
    let run = running.wait().expect_code(5);
    cluster.start();
    let verified = verify(&run, &issued, &[], &database);
    assert!(verified.report.count("failed") > 0, "{}", run.stderr);
    let error = run.error();
    assert!(error.contains("did not come back within 1s"), "{error}");
}

/// The commit is on the server's disk, and waits for a standby that never answers. The token is not
/// absent, but it is not stored before a standby has it.
#[test]
fn commit_that_waits_for_a_standby_is_stored_when_the_wait_ends() {
    let cluster = crashable();
    let database = Database::on(&cluster).with_sql(STANDARD_TABLE);
    let mut admin = database.admin();
    let (issued, source) = random_token_source(200);
    change_setting(
        &mut admin,
        "ALTER SYSTEM SET synchronous_standby_names = 'nobody'",
    );
    let running = run_command(&source, &database, issued.len()).spawn();
    // After the recovery the row is found, and its confirmation waits for the standby.
    let pid = backend_waiting_for_standby(&mut admin);
    assert!(kill(pid, "KILL"));
    let mut admin = reconnected(&database);
    backend_waiting_for_standby(&mut admin);
    change_setting(&mut admin, "ALTER SYSTEM RESET synchronous_standby_names");
    let run = running.wait().expect_code(0);
    let verified = verify(&run, &issued, &[], &database);
    assert!(verified.in_doubt.stored >= 1, "{:?}", verified.in_doubt);
    assert_eq!(verified.in_doubt.unknown, 0);
}

/// Connects as superuser once the server has recovered.
fn reconnected(database: &Database) -> postgres::Client {
    let mut found = None;
    wait(
        || {
            found = database.superuser().try_client().ok();
            found.is_some()
        },
        "the server to recover",
    );
    found.unwrap()
}

/// Runs this ALTER SYSTEM statement and reloads the configuration.
pub fn change_setting(admin: &mut postgres::Client, setting: &str) {
    admin.batch_execute(setting).unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").unwrap();
}

/// Waits until a commit waits for a standby; returns the process id of its backend.
pub fn backend_waiting_for_standby(admin: &mut postgres::Client) -> i32 {
    let mut found = None;
    wait(
        || {
            let waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'
                           AND datname = current_database() LIMIT 1";
            found = admin.query_opt(waiting, &[]).unwrap();
            found.is_some()
        },
        "a commit that waits for the standby",
    );
    found.unwrap().get(0)
}
