//! Plays a schedule against a run and verifies the end, twice: at once, and when whatever the
//! network held back has arrived and no backend is left.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use postgres::Client;

use super::schedule::{Heal, Plan, What};
use super::{run_command, through};
use crate::support::cluster::{Cluster, kill, try_backends, wait, wait_until_disconnected};
use crate::support::command::{Run, Running};
use crate::support::database::Database;
use crate::support::proxy::{Fault, Point, Proxy, Scope};
use crate::support::source::Source;
use crate::support::verify::{Verified, rows, verify};

/// How often a run is looked at.
const GLANCE: Duration = Duration::from_millis(1);

/// Attaches a partition to a table that is partitioned by ranges of its number. Inserts that wait for the
/// lock of the default partition fail afterwards.
pub const ATTACH: &str = "CREATE TABLE late (LIKE secret_tokens INCLUDING ALL);
    DO $do$ DECLARE first bigint; BEGIN
        SELECT least(greatest(80, last_value + 15), 2147483647) INTO first FROM secret_tokens_id_seq;
        EXECUTE format('ALTER TABLE secret_tokens ATTACH PARTITION late
            FOR VALUES FROM (%s) TO (MAXVALUE)', first); END $do$";

/// What a schedule came to.
pub struct Played {
    pub verified: Verified,
    pub crashes: u64,
    pub partitions: u64,
    /// From the first signal to the end of the process, where there was one.
    pub signalled: Option<Duration>,
}

/// Plays it.
///
/// # Panics
/// Where the report is not true; the seed is printed, and everything is kept.
pub fn play(cluster: &Cluster, plan: &Plan) -> Played {
    let mut kept = None;
    let played = catch_unwind(AssertUnwindSafe(|| attempt(cluster, plan, &mut kept)));
    played.unwrap_or_else(|panic| {
        let folder = cluster.keep();
        if let Some(run) = kept {
            let _ = fs::write(folder.join("report.ndjson"), &run.stdout);
            let _ = fs::write(folder.join("log.ndjson"), &run.stderr);
        }
        eprintln!("TOKEN_SERVICE_FAULT_SEED={} repeats this:", plan.seed);
        eprintln!("{:?} {:?}", plan.events, (plan.connections, plan.pipeline));
        eprintln!(
            "the server's files and the report are kept in {}",
            folder.display()
        );
        resume_unwind(panic)
    })
}

fn attempt(cluster: &Cluster, plan: &Plan, kept: &mut Option<Run>) -> Played {
    if cluster.postmaster().is_none() {
        cluster.start();
    }
    let database = Database::on(cluster).with_sql(plan.ddl);
    let proxy = Proxy::to(cluster.port);
    proxy.delay(plan.delay);
    let tokens = plan.tokens.clone();
    let source = Source::generating_with(move |_| tokens.clone());
    let login = if plan.insert_only {
        database.role_with("INSERT")
    } else {
        (*database).clone()
    };
    let mut command = run_command(&source, &through(&login, &proxy), plan.tokens.len());
    for (name, value) in [
        ("--connections", plan.connections.to_string()),
        ("--pipeline", plan.pipeline.to_string()),
        ("--patience", plan.patience.to_owned()),
    ] {
        command = command.args([name, &value]);
    }
    let mut stage = Stage {
        running: command.spawn(),
        proxy,
        database,
        cluster,
        crashes: 0,
        partitions: 0,
        signalled: None,
        counts_answers: false,
    };
    // Before that, a fault only ends the run before a token was asked for.
    stage.commits(1);
    for what in &plan.events {
        if !stage.happens(*what) {
            break;
        }
    }
    let Stage {
        running,
        proxy,
        database,
        crashes,
        partitions,
        signalled,
        ..
    } = stage;
    let run = kept.insert(running.wait());
    let signalled = signalled.map(|(at, code)| (at.elapsed(), code));
    let issued = source.issued();
    // The last crash may have come after the last token.
    let superuser = database.superuser();
    wait(|| superuser.try_client().is_ok(), "the server");
    let first = verify(run, &issued, &[], &database);
    judge_code(run, &first, plan, signalled.map(|(_, code)| code));
    let before = sorted(&database);
    // A backend of which nothing was in doubt may have been left behind: now it hears the end.
    proxy.heal();
    wait(|| proxy.is_drained(), "what was held back");
    drop(proxy);
    wait_until_disconnected(superuser);
    let verified = verify(run, &issued, &[], &database);
    // What is unknown may be: nobody could end its backend. The second look has counted it.
    let is_open = verified.report.count("unknown") > 0;
    let after = sorted(&database);
    assert!(is_open || before == after, "something was committed late");
    Played {
        verified,
        crashes,
        partitions,
        signalled: signalled.map(|(lasted, _)| lasted),
    }
}

fn sorted(database: &Database) -> Vec<String> {
    let mut rows = rows(database);
    rows.sort();
    rows
}

fn judge_code(run: &Run, verified: &Verified, plan: &Plan, signal: Option<i32>) {
    let report = &verified.report;
    let settled = report.count("stored") + report.count("rejected");
    let expected = if settled == plan.tokens.len() as u64 {
        0
    } else {
        5
    };
    // A signal may come when all is done, or after it.
    let fits = run.code == Some(expected) || (signal.is_some() && run.code == signal);
    assert!(fits, "exit {:?}: {}", run.code, run.stderr);
}

/// A run, and what its schedule needs.
pub struct Stage<'a> {
    pub running: Running,
    pub proxy: Proxy,
    pub database: Database,
    pub cluster: &'a Cluster,
    pub crashes: u64,
    pub partitions: u64,
    pub signalled: Option<(Instant, i32)>,
    /// Counts every transaction that the server ends, and not only those that inserted one row.
    pub counts_answers: bool,
}

impl Stage<'_> {
    /// Makes it happen; false where the run has ended before.
    pub fn happens(&mut self, what: What) -> bool {
        match what {
            What::Net(point, fault, scope) => {
                let struck = self.strikes(point, fault, scope);
                self.partitions += u64::from(struck && fault == Fault::DisconnectClient);
                return struck;
            }
            What::Partition(gap, heal, pause) => {
                let point = if self.counts_answers {
                    Point::Ready(gap)
                } else {
                    Point::Commit(gap)
                };
                if !self.strikes(point, Fault::Partition, Scope::All) {
                    return false;
                }
                self.partitions += 1;
                thread::park_timeout(pause);
                match heal {
                    Heal::Late => self.proxy.heal(),
                    Heal::AfterGivingUp => {
                        self.proxy.inject(Fault::DisconnectClient);
                        self.proxy.heal();
                    }
                    Heal::AtTheEnd => {
                        self.proxy.inject(Fault::DisconnectClient);
                        self.proxy.accept_again();
                    }
                }
            }
            What::Kill(gap) => {
                return self.commits(gap) && self.kill_backend();
            }
            What::Terminate(gap) => {
                if !self.commits(gap) {
                    return false;
                }
                if let Some((mut admin, pid)) = self.backend() {
                    let _ = admin.execute("SELECT pg_terminate_backend($1)", &[&pid]);
                }
            }
            What::Cancel(gap) => {
                if !self.commits(gap) {
                    return false;
                }
                if let Some((mut admin, pid)) = self.backend() {
                    let _ = admin.execute("SELECT pg_cancel_backend($1)", &[&pid]);
                }
            }
            What::AttachPartition(gap) => {
                if !self.commits(gap) {
                    return false;
                }
                // It fails if a row of the default partition belongs to the new one.
                let client = self.database.try_client();
                let _ = client.and_then(|mut client| client.batch_execute(ATTACH));
            }
            What::Immediate(gap) => {
                if !self.commits(gap) {
                    return false;
                }
                self.cluster.stop("immediate");
                self.cluster.start();
                self.crashes += 1;
            }
            What::Restart(gap) => {
                if !self.commits(gap) {
                    return false;
                }
                self.cluster.stop("fast");
                self.cluster.start();
            }
            What::Away(gap, pause) => {
                if !self.commits(gap) {
                    return false;
                }
                self.proxy.refuse(true);
                self.proxy.inject(Fault::Disconnect);
                thread::park_timeout(pause);
                self.proxy.refuse(false);
            }
            What::Signal(gap, pause, name, twice) => {
                if !self.commits(gap) {
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

    fn is_over(&self) -> bool {
        !Path::new(&format!("/proc/{}", self.running.pid)).exists()
    }

    /// Waits for what is to come; false where the run ends first.
    pub fn until(&self, holds: impl Fn() -> bool) -> bool {
        let end = Instant::now() + Duration::from_mins(1);
        while !holds() {
            if self.is_over() {
                return false;
            }
            assert!(Instant::now() < end, "the run stands still");
            thread::park_timeout(GLANCE);
        }
        true
    }

    /// Waits for so many more transactions.
    pub fn commits(&self, gap: u64) -> bool {
        let seen = || {
            if self.counts_answers {
                self.proxy.ready_messages()
            } else {
                self.proxy.commits()
            }
        };
        let goal = seen() + gap;
        self.until(|| seen() >= goal)
    }

    fn strikes(&self, point: Point, fault: Fault, scope: Scope) -> bool {
        let goal = self.proxy.injected() + 1;
        self.proxy.arm(point, fault, scope);
        self.until(|| self.proxy.injected() >= goal)
    }

    fn kill_backend(&mut self) -> bool {
        if let Some((_, pid)) = self.backend() {
            self.crashes += u64::from(kill(pid, "KILL"));
            // Until the first process has heard of it, it lets connections in that it then ends.
            let process = format!("/proc/{pid}");
            wait(|| !Path::new(&process).exists(), "the backend's end");
        }
        true
    }

    /// A backend of the run, and a connection that saw it.
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
