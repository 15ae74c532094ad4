//! On what was measured: the processor, the memory, the disk below the database, and the versions of
//! all parts, as the machine itself tells them.

use std::fs;
use std::io::{Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};

use super::series::{Spread, number};
use super::stage::Stage;

/// What a log record of some commits may be, in bytes.
const RECORD: usize = 8192;
/// How often the disk is asked to keep one.
const SYNCS: usize = 200;

/// Below so many processes that want to run a machine is quiet.
const QUIET: f64 = 0.7;

/// A description, a line a fact.
pub struct Machine {
    /// Names and facts, in order.
    pub facts: Vec<(&'static str, String)>,
}

impl Machine {
    /// Looks around.
    pub fn describe(stage: &mut Stage) -> Result<Self> {
        let server = stage.admin.query_one("SHOW server_version", &[])?;
        let server: String = server.get(0);
        let cores = std::thread::available_parallelism()?;
        let place = Place::of(stage.data())?;
        let sync = sync_time()? * 1e6;
        let commit = match run("git", &["status", "--porcelain"]) {
            Some(changes) if changes.is_empty() => commit()?,
            Some(_) => format!("{}, with changes", commit()?),
            None => "unknown".to_owned(),
        };
        let unknown = || "unknown".to_owned();
        let facts = vec![
            (
                "Date",
                jiff::Timestamp::now()
                    .strftime("%Y-%m-%d %H:%M UTC")
                    .to_string(),
            ),
            ("Commit", commit),
            ("Processor", format!("{}, {cores} cores", processor())),
            ("Memory", memory().unwrap_or_else(unknown)),
            (
                "Kernel",
                first_line("/proc/sys/kernel/osrelease").unwrap_or_else(unknown),
            ),
            ("Database's disk", place.to_string()),
            ("Sync of 8 KiB", format!("{} µs", number(sync, 0))),
            (
                "PostgreSQL",
                format!("{server}, on the same machine, over loopback"),
            ),
            (
                "rustc",
                run("rustc", &["--version"]).unwrap_or_else(unknown),
            ),
            ("Load before", load().unwrap_or_else(unknown)),
        ];
        Ok(Self { facts })
    }

    /// A fact by its name.
    pub fn fact(&self, name: &str) -> &str {
        let found = self.facts.iter().find(|(known, _)| *known == name);
        found.map_or("unknown", |(_, fact)| fact)
    }
}

/// A file system.
pub struct Place {
    kind: String,
    device: String,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on {}", self.kind, self.device)
    }
}

impl Place {
    /// The file system that a path lies on.
    pub fn of(path: &Path) -> Result<Self> {
        let path = path.canonicalize()?;
        let mounts = fs::read_to_string("/proc/self/mounts").context("the list of mounts")?;
        let mut best: Option<(PathBuf, Self)> = None;
        for line in mounts.lines() {
            let mut words = line.split(' ');
            let (Some(device), Some(point), Some(kind)) =
                (words.next(), words.next(), words.next())
            else {
                continue;
            };
            // The last of equal ones is mounted over the others.
            let deeper = |(other, _): &(PathBuf, Self)| other.as_os_str().len() <= point.len();
            if path.starts_with(point) && best.as_ref().is_none_or(deeper) {
                let (kind, device) = (kind.to_owned(), device.to_owned());
                best = Some((PathBuf::from(point), Self { kind, device }));
            }
        }
        Ok(best.context("no mount holds it")?.1)
    }

    /// True where nothing outlives the machine, and a sync does nothing.
    pub fn is_memory(&self) -> bool {
        self.kind == "tmpfs" || self.kind == "ramfs"
    }
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == "model name").then(|| value.trim().to_owned())
    });
    model.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

fn memory() -> Option<String> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kib: f64 = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?
        .trim()
        .trim_end_matches("kB")
        .trim()
        .parse()
        .ok()?;
    Some(format!("{} GiB", number(kib / 1024.0 / 1024.0, 1)))
}

/// How many processes wanted to run, over the last minute.
fn load() -> Option<String> {
    let line = first_line("/proc/loadavg")?;
    let load: f64 = line.split(' ').next()?.parse().ok()?;
    let busy = if load < QUIET {
        ""
    } else {
        ": the machine is busy and the figures are noisy"
    };
    Some(format!("{load}{busy}"))
}

fn commit() -> Result<String> {
    run("git", &["rev-parse", "--short=12", "HEAD"]).context("the commit")
}

fn first_line(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().next().map(ToOwned::to_owned)
}

/// What a program says, where it exists and succeeds.
pub fn run(program: &str, args: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command.args(args).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = command.output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// How long the disk of temporary files, and of the database, takes to keep a small record: a median,
/// in seconds.
fn sync_time() -> Result<f64> {
    let mut file = tempfile::tempfile()?;
    // As a log is written: over what is there already, so that the file does not grow.
    file.write_all(&vec![0; RECORD * SYNCS])?;
    file.sync_all()?;
    file.rewind()?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        file.write_all(&[1; RECORD])?;
        let start = Instant::now();
        file.sync_data()?;
        times.push(start.elapsed().as_secs_f64());
    }
    Ok(Spread::of(times).median)
}
