//! The CPU time of a PostgreSQL server: the postmaster, its live child processes, and the exited
//! ones, whose time the kernel adds to the postmaster.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// The fields of `/proc/PID/stat` that are used here; times are in clock ticks.
struct ProcStat {
    parent: u32,
    own_ticks: u64,
    exited_children_ticks: u64,
}

impl ProcStat {
    fn read(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The process name in parentheses may contain spaces. The fields after it start at number 3.
        let (_, rest) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            parent: u32::try_from(field(4)?).ok()?,
            own_ticks: field(14)? + field(15)?,
            exited_children_ticks: field(16)? + field(17)?,
        })
    }
}

/// Returns the CPU time that the server with this data directory has used, in seconds.
///
/// # Errors
/// If the server is not running.
pub fn server_cpu_seconds(data_directory: &Path) -> Result<f64> {
    let pid_file = data_directory.join("postmaster.pid");
    let text = fs::read_to_string(&pid_file)
        .with_context(|| format!("cannot read {}", pid_file.display()))?;
    let first_line = text.lines().next().unwrap_or_default();
    let postmaster: u32 = first_line
        .trim()
        .parse()
        .with_context(|| format!("{} holds no process id", pid_file.display()))?;
    let stat = ProcStat::read(postmaster).context("the PostgreSQL server is not running")?;
    let mut ticks = stat.own_ticks + stat.exited_children_ticks;
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok());
        let child = pid
            .and_then(ProcStat::read)
            .filter(|stat| stat.parent == postmaster);
        ticks += child.map_or(0, |stat| stat.own_ticks);
    }
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}
