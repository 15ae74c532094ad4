//! Servers that crash, restart and stay away; and commits that wait for a standby.

use super::{random_token_source, run_command, through};
use crate::support::cluster::{Cluster, backends, crashable, kill, wait};
use crate::support::database::{Database, STANDARD_TABLE};
use crate::support::proxy::{Fault, Point, Proxy, Scope};
use crate::support::verify::{Verified, verify};

/// Stores some thousand tokens while the server suffers this; all are settled afterwards.
fn survives(crash: impl FnOnce(&Cluster, &Database)) -> Verified {
    let cluster = crashable();
    let database = Database::on(&cluster).with_sql(STANDARD_TABLE);
    let proxy = Proxy::to(cluster.port);
    let (issued, source) = random_token_source(2000);
    let running = run_command(&source, &through(&database, &proxy), issued.len()).spawn();
    // Whatever is in flight now stays in flight until the server has crashed.
    proxy.arm(Point::Commit(300), Fault::Partition, Scope::All);
    proxy.wait_for_injected(1);
    let mut bystander = database.admin();
    crash(&cluster, &database);
    // A signal takes its time; a run that went on meanwhile would have seen no crash.
    wait(|| bystander.simple_query("").is_err(), "the crash");
    proxy.heal();
    let run = running.wait().expect_code(0);
    let verified = verify(&run, &issued, &[], &database);
    let settled = verified.report.count("stored") + verified.report.count("rejected");
    assert_eq!(settled, 2000, "time, but no token");
    verified
}

/// Case 1.
#[test]
fn a_backend_of_its_own_that_is_killed() {
    let verified = survives(|_, database| {
        let pid = backends(&mut database.admin())[0];
        assert!(kill(pid, "KILL"));
    });
    assert!(verified.in_doubt.total > 0);
}

/// Case 2: the crash of any backend ends all of them, with 57P02 or without a word.
#[test]
fn a_backend_of_somebody_else_that_is_killed() {
    survives(|_, database| {
        let mut other = database.admin();
        let pid = other.query_one("SELECT pg_backend_pid()", &[]);
        assert!(kill(pid.unwrap().get(0), "KILL"));
    });
}

/// Case 3.
#[test]
fn a_server_that_is_stopped_at_once_and_started_again() {
    survives(|cluster, _| {
        cluster.stop("immediate");
        cluster.start();
    });
}

#[test]
fn a_server_that_is_restarted_in_good_order() {
    survives(|cluster, _| {
        cluster.stop("fast");
        cluster.start();
    });
}

#[test]
fn a_server_whose_first_process_is_killed() {
    survives(|cluster, _| {
        cluster.kill_postmaster();
        cluster.start();
    });
}

#[test]
fn a_server_that_stays_away_longer_than_patience_fails_what_is_not_stored() {
    let cluster = crashable();
    let database = Database::on(&cluster).with_sql(STANDARD_TABLE);
    let proxy = Proxy::to(cluster.port);
    let (issued, source) = random_token_source(2000);
    let running = run_command(&source, &through(&database, &proxy), issued.len())
        // Few in flight: what was sent is in doubt, and this is about what was not.
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

/// Case 7: the commit is on this server's disk and waits for a standby that never answers. It is not
/// absent, and not stored either before a standby has it.
#[test]
fn commit_that_waits_for_a_standby_is_stored_once_the_wait_ends() {
    let cluster = crashable();
    let database = Database::on(&cluster).with_sql(STANDARD_TABLE);
    let mut admin = database.admin();
    let (issued, source) = random_token_source(200);
    change_setting(
        &mut admin,
        "ALTER SYSTEM SET synchronous_standby_names = 'nobody'",
    );
    let running = run_command(&source, &database, issued.len()).spawn();
    // The server has to recover first; then the row is found, and its confirmation waits.
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

/// A connection as superuser, once the server has recovered.
fn reconnected(database: &Database) -> postgres::Client {
    let mut found = None;
    wait(
        || {
            found = database.superuser().try_client().ok();
            found.is_some()
        },
        "the server that recovers",
    );
    found.unwrap()
}

pub fn change_setting(admin: &mut postgres::Client, setting: &str) {
    admin.batch_execute(setting).unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").unwrap();
}

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
