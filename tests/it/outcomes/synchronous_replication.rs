//! Tests that a commit without the confirmation of a synchronous standby is not `stored`, however its
//! wait ends.

use std::sync::MutexGuard;

use postgres::Client;

use super::run_of;
use crate::faults::crashes::{backend_waiting_for_standby, change_setting};
use crate::support::cluster::{Cluster, crashable, wait};
use crate::support::command::{Command, Run};
use crate::support::database::{Database, STANDARD_TABLE};
use crate::support::report::Report;
use crate::support::source::Source;
use crate::support::verify::verify;

/// A server that waits for a synchronous standby that does not exist. Dropping it ends the wait.
struct MissingStandby {
    database: Database,
    admin: Client,
    _cluster: MutexGuard<'static, Cluster>,
}

impl MissingStandby {
    fn new() -> Self {
        let cluster = crashable();
        let database = Database::on(&cluster).with_sql(STANDARD_TABLE);
        let mut admin = database.admin();
        admin
            .batch_execute("SET synchronous_commit = local")
            .unwrap();
        change_setting(
            &mut admin,
            "ALTER SYSTEM SET synchronous_standby_names = '*'",
        );
        let mut server = Self {
            database,
            admin,
            _cluster: cluster,
        };
        server.wait_until_commits_wait();
        server
    }

    /// Commits until a commit waits, because each process of the server applies the setting by itself.
    fn wait_until_commits_wait(&mut self) {
        let mut probe = self.database.admin();
        let pid = probe.query_one("SELECT pg_backend_pid()", &[]).unwrap();
        let pid: i32 = pid.get(0);
        let probing = std::thread::spawn(move || {
            let commit = "SELECT pg_logical_emit_message(true, 'probe', '')";
            while probe.batch_execute(commit).is_ok() {}
        });
        wait(|| self.is_waiting(pid), "a commit that waits");
        let end = "SELECT pg_terminate_backend($1)";
        self.admin.execute(end, &[&pid]).unwrap();
        probing.join().unwrap();
    }

    fn is_waiting(&mut self, pid: i32) -> bool {
        let waiting = "SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'SyncRep'";
        self.admin.query_opt(waiting, &[&pid]).unwrap().is_some()
    }

    /// Removes the setting, so that commits do not wait any more.
    fn reset_setting(&mut self) {
        change_setting(
            &mut self.admin,
            "ALTER SYSTEM RESET synchronous_standby_names",
        );
    }

    fn run(&self, tokens: &[String]) -> Command {
        run_of(&self.database, tokens)
    }
}

impl Drop for MissingStandby {
    fn drop(&mut self) {
        self.reset_setting();
    }
}

fn texts(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("a{number}")).collect()
}

/// Asserts that no token is stored, and that the run ends with 5 and names the missing confirmation.
#[track_caller]
fn assert_unconfirmed(mut server: MissingStandby, run: Run, tokens: &[String]) {
    server.reset_setting();
    let run = run.expect_code(5);
    let verified = verify(&run, tokens, &[], &server.database);
    assert_eq!(verified.acknowledged(), 0, "{}", run.stdout);
    assert!(verified.report.count("unknown") > 0, "{}", run.stdout);
    assert_eq!(verified.report.count("rejected"), 0, "{}", run.stdout);
    let says = run.stderr.contains("synchronous") && run.stderr.contains("standby");
    assert!(says, "{}", run.stderr);
}

#[test]
fn tokens_are_unknown_and_run_ends_when_no_synchronous_standby_confirms() {
    let server = MissingStandby::new();
    let tokens = texts(3);
    let run = server
        .run(&tokens)
        .config("database: {statement_timeout: 1s}")
        .run();
    assert_unconfirmed(server, run, &tokens);
}

#[test]
fn token_is_unknown_when_its_wait_for_a_standby_is_cancelled() {
    let mut server = MissingStandby::new();
    let tokens = texts(1);
    let running = server.run(&tokens).spawn();
    let pid = backend_waiting_for_standby(&mut server.admin);
    let cancel = "SELECT pg_cancel_backend($1)";
    server.admin.execute(cancel, &[&pid]).unwrap();
    let run = running.wait();
    assert_unconfirmed(server, run, &tokens);
}

#[test]
fn token_is_unknown_when_its_wait_is_cancelled_and_the_role_suppresses_warnings() {
    let mut server = MissingStandby::new();
    let tokens = texts(1);
    let role = &server.database.user;
    let quiet = format!("ALTER ROLE {role} SET client_min_messages = error");
    server.admin.batch_execute(&quiet).unwrap();
    let running = server.run(&tokens).spawn();
    let pid = backend_waiting_for_standby(&mut server.admin);
    let cancel = "SELECT pg_cancel_backend($1)";
    server.admin.execute(cancel, &[&pid]).unwrap();
    let run = running.wait();
    assert_unconfirmed(server, run, &tokens);
}

/// The row of the terminated backend becomes visible, and no standby has it.
#[test]
fn token_is_unknown_when_its_backend_is_terminated_in_the_wait_for_a_standby() {
    let mut server = MissingStandby::new();
    let tokens = texts(1);
    let running = server
        .run(&tokens)
        .config("database: {statement_timeout: 1s}")
        .spawn();
    let pid = backend_waiting_for_standby(&mut server.admin);
    let end = "SELECT pg_terminate_backend($1)";
    server.admin.execute(end, &[&pid]).unwrap();
    let run = running.wait();
    assert_unconfirmed(server, run, &tokens);
}

/// A fence that terminates the backend would make the unconfirmed row visible.
#[test]
fn waiting_backend_is_not_terminated_when_the_run_gives_up() {
    let mut server = MissingStandby::new();
    let tokens = texts(1);
    let running = server
        .run(&tokens)
        .config("database: {statement_timeout: 1s}")
        .spawn();
    let pid = backend_waiting_for_standby(&mut server.admin);
    let run = running.wait();
    assert!(server.is_waiting(pid), "{}", run.stderr);
    assert!(server.database.rows().is_empty());
    assert_unconfirmed(server, run, &tokens);
}

/// The server stops waiting without a warning, because the setting requires no confirmation any more.
#[test]
fn tokens_are_stored_when_synchronous_replication_is_turned_off() {
    let mut server = MissingStandby::new();
    let tokens = texts(3);
    let running = server.run(&tokens).spawn();
    backend_waiting_for_standby(&mut server.admin);
    server.reset_setting();
    let run = running.wait().expect_code(0);
    assert_eq!(Report::of_run(&run).with_status("stored"), tokens);
}

#[test]
fn check_warns_when_no_synchronous_standby_is_connected() {
    let server = MissingStandby::new();
    let source = Source::generating(|size| size);
    let run = Command::new()
        .source(&source)
        .database(&server.database)
        .args(["check", "--connect"])
        .run()
        .expect_code(0);
    assert!(
        run.stdout.contains("synchronous_standby_names"),
        "{}",
        run.stdout
    );
    assert!(run.stdout.contains("warn"), "{}", run.stdout);
}
