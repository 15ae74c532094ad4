//! Runs a command and tells what the operating system counted of it: time, processor time, memory.
//!
//! Between the harness and the command stands a small process of this same binary. The kernel counts
//! the memory of whoever forks into the peak of the child, so the fork must not come from the
//! harness, which holds the token source; and when the harness is gone, however it ended, that
//! process ends the command and all that it started.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result, bail};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike as _};
use rustix::process::{Signal, getpgrp, kill_process_group};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// The argument that makes this binary the process in between.
pub const WORD: &str = "gauge";

/// What the operating system counted.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Usage {
    /// When the command was started, on the machine's monotonic clock, in nanoseconds.
    pub started: u64,
    /// From before its start to after its end, in seconds.
    pub wall: f64,
    /// Processor time of it and of all that it waited for, in user and kernel mode, in seconds.
    pub cpu: f64,
    /// The largest memory that one of these processes had resident, in KiB.
    pub peak_kib: u64,
    code: Option<i32>,
    signal: Option<i32>,
}

/// A command to be measured.
#[derive(Clone, Debug)]
pub struct Task {
    program: OsString,
    args: Vec<OsString>,
    envs: Vec<(OsString, OsString)>,
    stdout: PathBuf,
}

impl Task {
    /// The bare program with nothing of the caller's environment but PATH and HOME.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let kept = ["PATH", "HOME"].map(|name| Some((name.into(), std::env::var_os(name)?)));
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            envs: kept.into_iter().flatten().collect(),
            stdout: PathBuf::from("/dev/null"),
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        let args = args.into_iter().map(|arg| arg.as_ref().to_owned());
        self.args.extend(args);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.envs.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Sends standard output to this file; without, nowhere.
    #[must_use]
    pub fn stdout(mut self, file: &Path) -> Self {
        file.clone_into(&mut self.stdout);
        self
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// Where it cannot be started or does not end with 0; with what it said last.
    pub fn run(&self) -> Result<Usage> {
        let name = self.program.display();
        let mut said = tempfile::tempfile().context("a file for standard error")?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg(WORD)
            .arg(&self.stdout)
            .arg(&self.program)
            .args(&self.args)
            .env_clear()
            .envs(self.envs.iter().map(|(name, value)| (name, value)))
            // Of its own, so that the group can be ended as a whole.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(said.try_clone()?)
            .spawn()
            .with_context(|| format!("{name} cannot be measured"))?;
        let alive = child.stdin.take();
        let mut figures = String::new();
        if let Some(mut stdout) = child.stdout.take() {
            stdout.read_to_string(&mut figures)?;
        }
        child.wait()?;
        drop(alive);
        let mut error = String::new();
        said.rewind()?;
        said.read_to_string(&mut error)?;
        let lines: Vec<&str> = error.trim_end().lines().collect();
        let last = lines[lines.len().saturating_sub(12)..].join("\n");
        let Ok(usage) = serde_json::from_str::<Usage>(&figures) else {
            bail!("{name} could not be run: {last}");
        };
        match (usage.code, usage.signal) {
            (Some(0), _) => Ok(usage),
            (Some(code), _) => bail!("{name} ended with exit code {code}: {last}"),
            (None, signal) => bail!("{name} was ended by signal {signal:?}: {last}"),
        }
    }
}

/// What the process in between does.
///
/// # Errors
/// Where the command cannot be started.
pub fn stand_between(mut args: impl Iterator<Item = OsString>) -> Result<()> {
    let stdout = args.next().context("the file for standard output")?;
    let program = args.next().context("the program")?;
    thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        let _ = kill_process_group(getpgrp(), Signal::KILL);
    });
    let stdout = File::create(&stdout).with_context(|| stdout.display().to_string())?;
    let mut command = Command::new(&program);
    command.args(args).stdin(Stdio::null()).stdout(stdout);
    let started = monotonic();
    let status = command
        .status()
        .with_context(|| format!("{} cannot be started", program.display()))?;
    let wall = monotonic() - started;
    let counted = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let seconds = |time: TimeVal| time.num_microseconds() as f64 / 1e6;
    let usage = Usage {
        started,
        wall: wall as f64 / 1e9,
        cpu: seconds(counted.user_time()) + seconds(counted.system_time()),
        peak_kib: u64::try_from(counted.max_rss())?,
        code: status.code(),
        signal: status.signal(),
    };
    serde_json::to_writer(io::stdout(), &usage)?;
    Ok(())
}

/// The machine's monotonic clock, the same for all processes, in nanoseconds.
pub fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
