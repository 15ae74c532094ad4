//! Describes the machine: processor, memory, disk of the database, and the versions of the software.

use std::fs;
use std::io::{Seek as _, Write as _};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::command_output::command_output;
use crate::file_system::FileSystem;
use crate::format::format_number;
use crate::statistics::MedianRange;

/// The size of a WAL record that holds several commits, in bytes.
const RECORD_SIZE: usize = 8192;
/// The number of measured syncs.
const SYNCS: usize = 200;
/// The load average below which the machine counts as idle.
const IDLE_LOAD: f64 = 0.7;

/// The description of a machine.
pub struct Machine {
    /// Names and values, in order.
    pub facts: Vec<(&'static str, String)>,
}

impl Machine {
    /// Describes this machine; `server_version` and `data_folder` are those of the database server.
    ///
    /// # Errors
    /// If the file system of the data folder cannot be found or a sync of the disk fails.
    pub fn describe(server_version: &str, data_folder: &Path) -> Result<Self> {
        let cores = std::thread::available_parallelism()?;
        let file_system = FileSystem::containing(data_folder)?;
        let sync_micros = sync_seconds()? * 1e6;
        let commit = match command_output("git", &["status", "--porcelain"]) {
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
            ("Database's disk", file_system.to_string()),
            (
                "Sync of 8 KiB",
                format!("{} µs", format_number(sync_micros, 0)),
            ),
            (
                "PostgreSQL",
                format!("{server_version}, on the same machine, over loopback"),
            ),
            (
                "rustc",
                command_output("rustc", &["--version"]).unwrap_or_else(unknown),
            ),
            ("Load before", load().unwrap_or_else(unknown)),
        ];
        Ok(Self { facts })
    }

    /// Returns the value of a fact.
    pub fn fact(&self, name: &str) -> &str {
        let found = self.facts.iter().find(|(known, _)| *known == name);
        found.map_or("unknown", |(_, value)| value)
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
    Some(format!("{} GiB", format_number(kib / 1024.0 / 1024.0, 1)))
}

/// Returns the load average of the last minute.
fn load() -> Option<String> {
    let line = first_line("/proc/loadavg")?;
    let load: f64 = line.split(' ').next()?.parse().ok()?;
    let warning = if load < IDLE_LOAD {
        ""
    } else {
        ": the machine is busy and the figures are noisy"
    };
    Some(format!("{load}{warning}"))
}

fn commit() -> Result<String> {
    command_output("git", &["rev-parse", "--short=12", "HEAD"])
        .context("cannot determine the commit: git rev-parse failed")
}

fn first_line(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().next().map(ToOwned::to_owned)
}

/// Measures a sync of a small record on the disk that holds the database: the median, in seconds.
fn sync_seconds() -> Result<f64> {
    let mut file = tempfile::tempfile()?;
    // PostgreSQL overwrites recycled WAL segments, so the syncs must not grow the file.
    file.write_all(&vec![0; RECORD_SIZE * SYNCS])?;
    file.sync_all()?;
    file.rewind()?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        file.write_all(&[1; RECORD_SIZE])?;
        let start = Instant::now();
        file.sync_data()?;
        times.push(start.elapsed().as_secs_f64());
    }
    Ok(MedianRange::of(times).median)
}
