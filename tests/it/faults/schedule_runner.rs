//! Runs a schedule and verifies the result twice: right after the run, and once every held message has
//! arrived and no backend is left.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use postgres::Client;

use super::schedule::{FaultEvent, PartitionEnd, Schedule};
use super::{run_command, through};
use crate::receipts::{assert_committed_once, assert_receipts_agree};
use crate::support::cluster::{Cluster, kill, try_backends, wait, wait_until_disconnected};
use crate::support::command::{Run, Running};
use crate::support::database::Database;
use crate::support::pgbouncer::{Pooler, PoolerSetup};
use crate::support::proxy::{Fault, Point, Proxy, Scope};
use crate::support::source::Source;
use crate::support::verify::{Verified, rows, verify};

/// The interval between two polls.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// Attaches a partition to a table that is partitioned by ranges of its id.
///
/// Inserts that wait for the lock of the default partition fail afterwards.
pub const ATTACH_PARTITION: &str = "CREATE TABLE late (LIKE secret_tokens INCLUDING ALL);
    DO $do$ DECLARE first bigint; BEGIN
        SELECT least(greatest(80, last_value + 15), 2147483647) INTO first FROM secret_tokens_id_seq;
        EXECUTE format('ALTER TABLE secret_tokens ATTACH PARTITION late
            FOR VALUES FROM (%s) TO (MAXVALUE)', first); END $do$";

/// The result of a schedule.
pub struct ScheduleResult {
    pub verified: Verified,
    pub crashes: u64,
    pub partitions: u64,
    /// The time from the first signal to the exit, if there was a signal.
    pub signalled: Option<Duration>,
}

/// Runs a schedule and verifies its report.
///
/// # Panics
/// If the report is wrong; the seed is printed, and all files are kept.
pub fn run_schedule(cluster: &Cluster, schedule: &Schedule) -> ScheduleResult {
    let mut last_run = None;
    let result = catch_unwind(AssertUnwindSafe(|| {
        attempt(cluster, schedule, &mut last_run)
    }));
    result.unwrap_or_else(|panic| {
        let folder = cluster.keep_files();
        if let Some(run) = last_run {
            let _ = fs::write(folder.join("report.ndjson"), &run.stdout);
            let _ = fs::write(folder.join("log.ndjson"), &run.stderr);
        }
        eprintln!("TOKEN_SERVICE_FAULT_SEED={} repeats this:", schedule.seed);
        eprintln!(
            "{:?} {:?}",
            schedule.events,
            (schedule.connections, schedule.pipeline)
        );
        eprintln!(
            "the server's files and the report are kept in {}",
            folder.display()
        );
        resume_unwind(panic)
    })
}

fn attempt(cluster: &Cluster, schedule: &Schedule, last_run: &mut Option<Run>) -> ScheduleResult {
    if cluster.postmaster().is_none() {
        cluster.start();
    }
    let mut database = Database::on(cluster).with_sql(schedule.ddl);
    if schedule.with_receipts {
        database = database.with_receipts();
    }
    let pooler = schedule
        .is_pooled
        .then(|| Pooler::start(&database, &PoolerSetup::default()));
    let proxy = Proxy::to(pooler.as_ref().map_or(cluster.port, |it| it.login.port));
    proxy.delay(schedule.delay);
    let tokens = schedule.tokens.clone();
    let source = Source::generating_with(move |_| tokens.clone());
    let login = match (schedule.insert_only, schedule.with_receipts) {
        (true, true) => database.role_for_receipts(),
        (true, false) => database.role_with("INSERT"),
        (false, _) => (*database).clone(),
    };
    let mut command = run_command(&source, &through(&login, &proxy), schedule.tokens.len());
    if schedule.with_receipts {
        command = command.args(["--receipts", "token_receipts"]);
    }
    for (name, value) in [
        ("--connections", schedule.connections.to_string()),
        ("--pipeline", schedule.pipeline.to_string()),
        ("--patience", schedule.patience.to_owned()),
    ] {
        command = command.args([name, &value]);
    }
    let mut fault_run = FaultRun {
        running: command.spawn(),
        proxy,
        database,
        cluster,
        crashes: 0,
        partitions: 0,
        signalled: None,
        counts_ready_messages: false,
    };
    // An earlier fault would only end the run before a token is requested.
    fault_run.wait_for_transactions(1);
    for event in &schedule.events {
        if !fault_run.inject(*event) {
            break;
        }
    }
    let FaultRun {
        running,
        proxy,
        database,
        crashes,
        partitions,
        signalled,
        ..
    } = fault_run;
    let run = last_run.insert(running.wait());
    let signalled = signalled.map(|(at, code)| (at.elapsed(), code));
    let issued = source.issued();
    // The last crash may follow the last token.
    let superuser = database.superuser();
    wait(|| superuser.try_client().is_ok(), "the server");
    let first = verify(run, &issued, &[], &database);
    check_exit_code(run, &first, schedule, signalled.map(|(_, code)| code));
    let before = sorted(&database);
    // A backend without in-doubt tokens may be left; now it notices the disconnect.
    proxy.heal();
    wait(|| proxy.is_drained(), "the held messages");
    drop(proxy);
    drop(pooler);
    wait_until_disconnected(superuser);
    let verified = verify(run, &issued, &[], &database);
    if schedule.with_receipts {
        assert_committed_once(&database);
        assert_receipts_agree(&verified.report, &database);
    }
    // Unknown tokens may be committed late; the second verification has counted them.
    let is_open = verified.report.count("unknown") > 0;
    let after = sorted(&database);
    assert!(
        is_open || before == after,
        "a token was committed after the report"
    );
    ScheduleResult {
        verified,
        crashes,
        partitions,
        signalled: signalled.map(|(duration, _)| duration),
    }
}

fn sorted(database: &Database) -> Vec<String> {
    let mut rows = rows(database);
    rows.sort();
    rows
}

fn check_exit_code(run: &Run, verified: &Verified, schedule: &Schedule, signal: Option<i32>) {
    let report = &verified.report;
    let settled = report.count("stored") + report.count("rejected");
    let expected = if settled == schedule.tokens.len() as u64 {
        0
    } else {
        5
    };
    // The signal may arrive after the last token.
    let fits = run.code == Some(expected) || (signal.is_some() && run.code == signal);
    assert!(fits, "exit {:?}: {}", run.code, run.stderr);
}

/// A run in progress, with everything that its schedule affects.
pub struct FaultRun<'a> {
    pub running: Running,
    pub proxy: Proxy,
    pub database: Database,
    pub cluster: &'a Cluster,
    pub crashes: u64,
    pub partitions: u64,
    pub signalled: Option<(Instant, i32)>,
    /// Whether to count every ended transaction, and not only those that inserted one row.
    pub counts_ready_messages: bool,
}

impl FaultRun<'_> {
    /// Injects an event; false if the run ends before it.
    pub fn inject(&mut self, event: FaultEvent) -> bool {
        match event {
            FaultEvent::Proxy(point, fault, scope) => {
                let is_injected = self.inject_at(point, fault, scope);
                self.partitions += u64::from(is_injected && fault == Fault::DisconnectClient);
                return is_injected;
            }
            FaultEvent::Partition(gap, heal, pause) => {
                let point = if self.counts_ready_messages {
                    Point::Ready(gap)
                } else {
                    Point::Commit(gap)
                };
                if !self.inject_at(point, Fault::Partition, Scope::All) {
                    return false;
                }
                self.partitions += 1;
                thread::park_timeout(pause);
                match heal {
                    PartitionEnd::Heal => self.proxy.heal(),
                    PartitionEnd::DisconnectThenHeal => {
                        self.proxy.inject(Fault::DisconnectClient);
                        self.proxy.heal();
                    }
                    PartitionEnd::HealAfterRun => {
                        self.proxy.inject(Fault::DisconnectClient);
                        self.proxy.accept_again();
                    }
                }
            }
            FaultEvent::KillBackend(gap) => {
                return self.wait_for_transactions(gap) && self.kill_backend();
            }
            FaultEvent::TerminateBackend(gap) => {
                if !self.wait_for_transactions(gap) {
                    return false;
                }
                if let Some((mut admin, pid)) = self.backend() {
                    let _ = admin.execute("SELECT pg_terminate_backend($1)", &[&pid]);
                }
            }
            FaultEvent::CancelStatement(gap) => {
                if !self.wait_for_transactions(gap) {
                    return false;
                }
                if let Some((mut admin, pid)) = self.backend() {
                    let _ = admin.execute("SELECT pg_cancel_backend($1)", &[&pid]);
                }
            }
            FaultEvent::AttachPartition(gap) => {
                if !self.wait_for_transactions(gap) {
                    return false;
                }
                // It fails if a row of the default partition belongs to the new one.
                let client = self.database.try_client();
                let _ = client.and_then(|mut client| client.batch_execute(ATTACH_PARTITION));
            }
            FaultEvent::Crash(gap) => {
                if !self.wait_for_transactions(gap) {
                    return false;
                }
                self.cluster.stop("immediate");
                self.cluster.start();
                self.crashes += 1;
            }
            FaultEvent::Restart(gap) => {
                if !self.wait_for_transactions(gap) {
                    return false;
                }
                self.cluster.stop("fast");
                self.cluster.start();
            }
            FaultEvent::RefuseConnections(gap, pause) => {
                if !self.wait_for_transactions(gap) {
                    return false;
                }
                self.proxy.refuse(true);
                self.proxy.inject(Fault::Disconnect);
                thread::park_timeout(pause);
                self.proxy.refuse(false);
            }
            FaultEvent::Signal(gap, pause, name, twice) => {
                if !self.wait_for_transactions(gap) {
                    return false;
                }
                thread::park_timeout(pause);
                let code = if name == "TERM" { 143 } else { 130 };
                self.signalled = Some((Instant::now(), code));
                self.running.signal(name);
                if twice {
                    thread::park_timeout(pause);
                    self.running.signal(name);
                }
                return false;
            }
        }
        true
    }

    fn has_exited(&self) -> bool {
        !Path::new(&format!("/proc/{}", self.running.pid)).exists()
    }

    /// Waits until the condition holds; false if the run ends first.
    pub fn wait_until(&self, condition: impl Fn() -> bool) -> bool {
        let end = Instant::now() + Duration::from_mins(1);
        while !condition() {
            if self.has_exited() {
                return false;
            }
            assert!(Instant::now() < end, "the run makes no progress");
            thread::park_timeout(POLL_INTERVAL);
        }
        true
    }

    /// Waits for this many more transactions; false if the run ends first.
    pub fn wait_for_transactions(&self, gap: u64) -> bool {
        let seen = || {
            if self.counts_ready_messages {
                self.proxy.ready_messages()
            } else {
                self.proxy.commits()
            }
        };
        let goal = seen() + gap;
        self.wait_until(|| seen() >= goal)
    }

    fn inject_at(&self, point: Point, fault: Fault, scope: Scope) -> bool {
        let goal = self.proxy.injected() + 1;
        self.proxy.arm(point, fault, scope);
        self.wait_until(|| self.proxy.injected() >= goal)
    }

    fn kill_backend(&mut self) -> bool {
        if let Some((_, pid)) = self.backend() {
            self.crashes += u64::from(kill(pid, "KILL"));
            // Until the postmaster notices the crash, it accepts connections and then ends them.
            let process = format!("/proc/{pid}");
            wait(|| !Path::new(&process).exists(), "the backend to exit");
        }
        true
    }

    /// A superuser connection, and the process id of a backend of the run.
    fn backend(&self) -> Option<(Client, i32)> {
        let superuser = self.database.superuser();
        let mut seen = None;
        wait(
            || {
                let found = superuser.try_client().and_then(|mut admin| {
                    let pids = try_backends(&mut admin)?;
                    Ok((admin, pids))
                });
                seen = found.ok();
                seen.is_some()
            },
            "the server",
        );
        let (admin, pids) = seen?;
        Some((admin, *pids.first()?))
    }
}
