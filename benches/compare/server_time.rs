//! The processor time of a PostgreSQL server: of its first process, of the children that are gone,
//! whose time the first has inherited, and of those that live.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// A process as `/proc/PID/stat` has it.
struct Stat {
    parent: u32,
    own: u64,
    inherited: u64,
}

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything; the fields behind it are numbered from 3.
        let (_, rest) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            parent: u32::try_from(field(4)?).ok()?,
            own: field(14)? + field(15)?,
            inherited: field(16)? + field(17)?,
        })
    }
}

/// So far, of the server with this data folder, in seconds.
///
/// # Errors
/// Where it does not run.
pub fn of(data: &Path) -> Result<f64> {
    let file = fs::read_to_string(data.join("postmaster.pid")).context("the server's process")?;
    let first = file.lines().next().unwrap_or_default();
    let first: u32 = first.trim().parse().context("the server's process")?;
    let stat = Stat::of(first).context("the server does not run")?;
    let mut ticks = stat.own + stat.inherited;
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok());
        let child = pid.and_then(Stat::of).filter(|stat| stat.parent == first);
        ticks += child.map_or(0, |stat| stat.own);
    }
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}
