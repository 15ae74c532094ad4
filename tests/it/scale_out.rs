//! Tests of scale-out with Docker Swarm: the replicas of a `replicated-job` share one SIZE by shard and
//! store in one PostgreSQL. Their reports are merged and compared with the table. `tests/scale-out`
//! runs the long form, which compares the throughput of several replicas with that of one.

use std::process;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use self::delay::Delay;
use crate::docker::mounted::MountedFolder;
use crate::docker::{Container, IMAGE, build_image, docker, docker_stdout, text};
use crate::support::cluster::wait;
use crate::support::command::Command;
use crate::support::database::Database;
use crate::support::report::Report;

#[path = "../../benches/compare/delay.rs"]
mod delay;

/// The shard of a task. The slots of a job start at 0; the engine shows the node's id for slot 0.
const SLOT: &str = "{{if eq .Task.Slot .Node.ID}}0{{else}}{{.Task.Slot}}{{end}}";

/// This engine as a swarm of one node on loopback. Dropping it restores the earlier state.
struct Swarm {
    is_ours: bool,
    /// An engine is in one swarm at a time.
    _alone: MutexGuard<'static, ()>,
}

static ALONE: Mutex<()> = Mutex::new(());

impl Swarm {
    fn join() -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let state = docker_stdout(&["info", "--format={{.Swarm.LocalNodeState}}"]);
        let is_ours = state != "active";
        if is_ours {
            let loopback = ["--advertise-addr=127.0.0.1", "--listen-addr=127.0.0.1:2377"];
            docker_stdout(&[&["swarm", "init"][..], &loopback].concat());
        }
        Self {
            is_ours,
            _alone: alone,
        }
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        if self.is_ours {
            docker(&["swarm", "leave", "--force"]);
        }
    }
}

/// A service that is removed when it is dropped.
struct SwarmService(String);

impl Drop for SwarmService {
    fn drop(&mut self) {
        docker(&["service", "rm", &self.0]);
    }
}

/// The settings of a replicated job.
struct ReplicatedJob<'a> {
    replicas: usize,
    size: u64,
    source: &'a str,
    database: &'a Database,
    page_size: u64,
    /// Failed tasks are started again, and continue their run by its receipts.
    is_retried: bool,
}

/// The reports of a job, and the rows that it added.
struct JobResult {
    reports: Vec<Report>,
    merged: Report,
    /// The number of rows that the job added to the table.
    rows: u64,
}

impl ReplicatedJob<'_> {
    fn run(&self) -> JobResult {
        let before = count(self.database);
        let out = MountedFolder::new();
        let mut env = vec![
            format!("TOKEN_HOST={}", self.source),
            format!("DATABASE_URL={}", self.database.url()),
            format!("TOKEN_SERVICE_SIZE={}", self.size),
            format!("TOKEN_SERVICE_PAGE_SIZE={}", self.page_size),
            format!("TOKEN_SERVICE_SHARD={SLOT}/{}", self.replicas),
            format!("TOKEN_SERVICE_REPORT=ndjson=/out/{SLOT}.ndjson"),
        ];
        let restart = if self.is_retried {
            env.push("TOKEN_SERVICE_RECEIPTS=token_receipts".to_owned());
            env.push("TOKEN_SERVICE_RUN_ID={{.Service.ID}}".to_owned());
            ["--restart-condition=on-failure", "--restart-max-attempts=3"]
        } else {
            ["--restart-condition=none", "--restart-max-attempts=0"]
        };
        let name = service_name();
        let service = SwarmService(name.clone());
        // `docker service create` does not end if a task of a job fails.
        let mut create = process::Command::new("timeout");
        create.args(["300", "docker", "service", "create", "--detach=false"]);
        create.args(["--quiet", "--no-resolve-image", "--mode=replicated-job"]);
        create
            .args(restart)
            .args(["--restart-delay=0s", "--network=host"]);
        create.args(["--read-only", "--cap-drop=ALL", "--limit-memory=64M"]);
        create.args([out.user(), format!("--name={name}")]);
        create.arg(format!("--replicas={}", self.replicas));
        create.arg(format!("--max-concurrent={}", self.replicas));
        let mount = format!("--mount=type=bind,src={},dst=/out", out.path("").display());
        create.arg(mount);
        create.args(env.iter().map(|variable| format!("--env={variable}")));
        let created = create.arg(IMAGE).output().expect("timeout and docker");
        let list = [
            "service",
            "ps",
            "--no-trunc",
            "--format={{.CurrentState}} {{.Error}}",
        ];
        let tasks = docker_stdout(&[&list[..], &[&name]].concat());
        let logs = docker(&["service", "logs", &name]);
        let why = format!("{tasks}\n{}\n{}", text(&created.stderr), text(&logs.stderr));
        assert!(created.status.success(), "{why}");
        drop(service);

        let file = |shard: usize| out.path(&format!("{shard}.ndjson"));
        let files: Vec<_> = (0..self.replicas).map(file).collect();
        let read = |file| Report::parse(&std::fs::read_to_string(file).expect(&why));
        let merge = Command::new().arg("merge").args(&files);
        let merge = merge.args(["--report", "ndjson"]).run();
        JobResult {
            merged: Report::of_run(&merge.expect_code(0)),
            reports: files.iter().map(read).collect(),
            rows: count(self.database) - before,
        }
    }
}

/// The name of the service of this process.
fn service_name() -> String {
    format!("token_service_test_{}", std::process::id())
}

/// Counts the rows of the table.
fn count(database: &Database) -> u64 {
    let row = database
        .client()
        .query_one("SELECT count(*) FROM secret_tokens", &[]);
    let count: i64 = row.expect("a count").get(0);
    u64::try_from(count).expect("a count")
}

impl JobResult {
    fn sum(&self, key: &str) -> u64 {
        self.reports.iter().map(|report| report.count(key)).sum()
    }

    /// Asserts that reports and table agree, and that no token is missing or duplicated.
    fn assert_complete(&self, size: u64) {
        for key in ["requested", "received"] {
            assert_eq!(self.sum(key), size, "{key}");
        }
        for key in ["requested", "received", "stored", "rejected", "requests"] {
            assert_eq!(self.merged.count(key), self.sum(key), "{key}, merged");
        }
        assert_eq!(self.sum("stored") + self.sum("rejected"), size);
        assert_eq!(self.rows, self.sum("stored"), "rows in the table");
    }
}

/// Starts the token source of the demo in a container, and returns its port.
fn source() -> (Container, u16) {
    let listen = ["demo-source", "--listen", "127.0.0.1:0"];
    let container = Container::start(&["--network=host"], &listen);
    let line = container.wait_for_log_line("listening on ");
    let (_, port) = line
        .trim()
        .trim_end_matches("/tokens")
        .rsplit_once(':')
        .unwrap();
    (container, port.parse().unwrap())
}

#[test]
#[ignore = "builds the image; tests/run runs it if a Docker engine is available"]
fn docker_swarm_replicas_share_one_size() {
    build_image();
    let _swarm = Swarm::join();
    let (_source, port) = source();
    let url = format!("http://127.0.0.1:{port}/tokens");
    let job = ReplicatedJob {
        replicas: 4,
        size: 1003,
        source: &url,
        database: &Database::standard(),
        page_size: 10_000,
        is_retried: false,
    };
    let done = job.run();
    done.assert_complete(1003);
    let mut parts: Vec<u64> = done
        .reports
        .iter()
        .map(|report| report.count("requested"))
        .collect();
    parts.sort_unstable();
    assert_eq!(parts, [250, 251, 251, 251]);
}

/// A task is killed with SIGKILL in the middle, and the engine starts it again.
#[test]
#[ignore = "builds the image; tests/run runs it if a Docker engine is available"]
fn docker_swarm_continues_a_killed_task() {
    build_image();
    let _swarm = Swarm::join();
    let (_source, port) = source();
    let url = format!("http://127.0.0.1:{port}/tokens");
    let database = Database::standard().with_receipts();
    let size = 60_000;
    let job = ReplicatedJob {
        replicas: 2,
        size,
        source: &url,
        database: &database,
        page_size: 2_000,
        is_retried: true,
    };
    let done = std::thread::scope(|scope| {
        scope.spawn(|| kill_one_task(&database, 2_000));
        job.run()
    });
    let whole = |status: &str| {
        let before = |report: &Report| report.summary[&format!("{status}_before")].as_u64();
        done.sum(status) + done.reports.iter().filter_map(before).sum::<u64>()
    };
    let before = whole("stored") - done.sum("stored");
    assert!(before > 0, "the killed task had stored tokens");
    assert_eq!(done.sum("requested"), size);
    assert_eq!(whole("stored") + whole("rejected"), size);
    assert_eq!(done.rows, whole("stored"), "rows in the table");
    let twice = "SELECT count(*) - count(DISTINCT data) FROM secret_tokens";
    let twice: i64 = database.client().query_one(twice, &[]).unwrap().get(0);
    assert_eq!(twice, 0);
    println!(
        "a task killed and started again: {size} requested, {} stored + {} rejected, of these {before} \
         stored before the kill; {} rows, none twice",
        whole("stored"),
        whole("rejected"),
        done.rows
    );
}

/// Kills one task of the service with SIGKILL once the table has this many rows.
fn kill_one_task(database: &Database, rows: u64) {
    let filter = format!("label=com.docker.swarm.service.name={}", service_name());
    wait(|| count(database) >= rows, "rows of the job");
    let list = docker_stdout(&["ps", "--quiet", "--filter", &filter]);
    let task = list.lines().next().expect("a running task");
    docker_stdout(&["kill", "--signal=KILL", task]);
}

fn env_number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |text| text.parse().expect("a number"))
}

impl JobResult {
    /// Returns tokens per second from the first replica's start to the last one's end.
    ///
    /// This excludes the time in which the engine starts and stops the replicas.
    #[allow(clippy::cast_precision_loss, reason = "far from 2^53")]
    fn rate(&self) -> f64 {
        let time = |report: &Report| {
            let text = report.summary["started_at"].as_str().expect("a time");
            let began: Timestamp = text.parse().expect("a time");
            let began = began.as_millisecond();
            let lasted = i64::try_from(report.count("duration_ms")).expect("milliseconds");
            (began, began + lasted)
        };
        let times: Vec<(i64, i64)> = self.reports.iter().map(time).collect();
        let first = times.iter().map(|time| time.0).min().expect("a report");
        let last = times.iter().map(|time| time.1).max().expect("a report");
        self.sum("received") as f64 * 1000.0 / (last - first).max(1) as f64
    }

    fn print(&self, case: &str) {
        const KEYS: [&str; 4] = ["requested", "requests", "stored", "rejected"];
        let line = |[requested, requests, stored, rejected]: [u64; 4]| {
            format!(
                "{requested} requested in {requests} requests, {stored} stored + {rejected} rejected"
            )
        };
        let count = self.reports.len();
        for (shard, report) in self.reports.iter().enumerate() {
            let part = line(KEYS.map(|key| report.count(key)));
            println!("{case}: shard {shard}/{count}: {part}");
        }
        let sum = line(KEYS.map(|key| self.merged.count(key)));
        println!(
            "{case}: merged: {sum}; {} rows added to the table",
            self.rows
        );
    }
}

/// Formats the median, with minimum and maximum in parentheses.
fn median(mut all: Vec<f64>, decimals: usize) -> String {
    all.sort_unstable_by(f64::total_cmp);
    let (minimum, maximum) = (all[0], all[all.len() - 1]);
    let median = all[all.len() / 2];
    format!("{median:.decimals$} ({minimum:.decimals$}–{maximum:.decimals$})")
}

/// Runs with one replica and with several alternate, first with a near source and then with a distant
/// one.
///
/// The gain of several replicas depends on the bottleneck of one.
#[test]
#[ignore = "takes minutes"]
fn throughput_of_replicas_is_measured() {
    build_image();
    let _swarm = Swarm::join();
    let replicas = usize::try_from(env_number("TOKEN_SERVICE_REPLICAS", 4)).expect("a few");
    let size = env_number("TOKEN_SERVICE_SCALE_SIZE", 100_000);
    let rounds = env_number("TOKEN_SERVICE_ROUNDS", 5);
    let (_source, port) = source();
    let far = Delay::before(port, Duration::from_millis(200)).expect("a proxy");
    for (case, port, page_size) in [("near", port, 10_000), ("200 ms away", far.port, 2000)] {
        let url = format!("http://127.0.0.1:{port}/tokens");
        let database = Database::standard();
        let run = |replicas| {
            let job = ReplicatedJob {
                replicas,
                size,
                source: &url,
                database: &database,
                page_size,
                is_retried: false,
            };
            let done = job.run();
            done.assert_complete(size);
            done
        };
        let (mut alone, mut together, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..rounds {
            let (one, several) = if round % 2 == 0 {
                let one = run(1);
                (one, run(replicas))
            } else {
                let several = run(replicas);
                (run(1), several)
            };
            if round == 0 {
                several.print(case);
            }
            alone.push(one.rate());
            together.push(several.rate());
            ratios.push(several.rate() / one.rate());
        }
        println!(
            "{case}: {size} tokens in pages of {page_size}, medians of {rounds}: 1 replica {} tokens/s, \
             {replicas} replicas {} tokens/s, ratio {}",
            median(alone, 0),
            median(together, 0),
            median(ratios, 2)
        );
    }
}
