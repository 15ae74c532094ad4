//! Runs a command and measures its wall time, CPU time and peak memory.
//!
//! The harness starts the command through a small wrapper process of the same binary, for two reasons:
//! - The kernel includes the memory of the forking process in the peak of its child. The harness is
//!   large, because it holds the tokens of the source.
//! - If the harness exits or is killed, the wrapper kills the command and its child processes.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::{self, ScopedJoinHandle};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike as _};
use rustix::process::{Signal, getpgrp, kill_process_group};
use serde::{Deserialize, Serialize};

use crate::clock::monotonic_nanos;

/// The first argument that makes this binary the wrapper process.
pub const WRAPPER_ARG: &str = "measure-command";
/// The number of lines of standard error that an error message includes.
const ERROR_LINES: usize = 12;

/// The resource usage of a command.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ResourceUsage {
    /// The start of the command on the monotonic clock, in nanoseconds.
    pub started: u64,
    /// The time from before the start until after the exit, in seconds.
    pub wall: f64,
    /// User and system CPU time of the command and its child processes, in seconds.
    pub cpu: f64,
    /// The largest resident set of one of these processes, in KiB.
    pub peak_kib: u64,
    exit_code: Option<i32>,
    signal: Option<i32>,
}

impl ResourceUsage {
    /// Combines the usage of two commands that ran at the same time.
    fn with(self, other: &Self) -> Self {
        let end = |usage: &Self| usage.started as f64 / 1e9 + usage.wall;
        let started = self.started.min(other.started);
        Self {
            started,
            wall: end(&self).max(end(other)) - started as f64 / 1e9,
            cpu: self.cpu + other.cpu,
            peak_kib: self.peak_kib.max(other.peak_kib),
            ..self
        }
    }
}

/// A command to measure.
#[derive(Clone, Debug)]
pub struct MeasuredCommand {
    program: OsString,
    args: Vec<OsString>,
    envs: Vec<(OsString, OsString)>,
    stdout: PathBuf,
}

impl MeasuredCommand {
    /// Creates a command that inherits only `PATH` and `HOME` and discards its standard output.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let inherited = ["PATH", "HOME"].map(|name| Some((name.into(), std::env::var_os(name)?)));
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            envs: inherited.into_iter().flatten().collect(),
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

    /// Writes standard output to a file.
    #[must_use]
    pub fn stdout(mut self, file: &Path) -> Self {
        file.clone_into(&mut self.stdout);
        self
    }

    /// Runs the command until it exits.
    ///
    /// # Errors
    /// If the command cannot be started or its exit status is not 0. The error includes the last
    /// lines of its standard error.
    pub fn run(&self) -> Result<ResourceUsage> {
        let name = self.program.display();
        let mut stderr = tempfile::tempfile().context("cannot create a file for standard error")?;
        let mut wrapper = Command::new(std::env::current_exe()?)
            .arg(WRAPPER_ARG)
            .arg(&self.stdout)
            .arg(&self.program)
            .args(&self.args)
            .env_clear()
            .envs(self.envs.iter().map(|(name, value)| (name, value)))
            // The wrapper kills its own process group, which must not contain the harness.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr.try_clone()?)
            .spawn()
            .with_context(|| format!("cannot start the process that measures {name}"))?;
        let keep_alive = wrapper.stdin.take();
        let mut json = String::new();
        if let Some(mut stdout) = wrapper.stdout.take() {
            stdout.read_to_string(&mut json)?;
        }
        wrapper.wait()?;
        drop(keep_alive);
        let mut error = String::new();
        stderr.rewind()?;
        stderr.read_to_string(&mut error)?;
        let lines: Vec<&str> = error.trim_end().lines().collect();
        let error = lines[lines.len().saturating_sub(ERROR_LINES)..].join("\n");
        let Ok(usage) = serde_json::from_str::<ResourceUsage>(&json) else {
            bail!("cannot run {name}: {error}");
        };
        match (usage.exit_code, usage.signal) {
            (Some(0), _) => Ok(usage),
            (Some(code), _) => bail!("{name} failed with exit code {code}: {error}"),
            (None, Some(signal)) => bail!("{name} was terminated by signal {signal}: {error}"),
            (None, None) => bail!("{name} ended without an exit code: {error}"),
        }
    }
}

/// Runs commands at once, and returns their usage as one: the time from the start of the first one to
/// the exit of the last one, the sum of the CPU time, and the largest peak.
///
/// # Errors
/// If there is no command, or one of them fails.
pub fn run_at_once(commands: &[MeasuredCommand]) -> Result<ResourceUsage> {
    let results: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = commands
            .iter()
            .map(|command| scope.spawn(|| command.run()))
            .collect();
        threads.into_iter().map(ScopedJoinHandle::join).collect()
    });
    let mut combined: Option<ResourceUsage> = None;
    for result in results {
        let usage = result.map_err(|_| anyhow!("the thread of a command panicked"))??;
        combined = Some(combined.map_or(usage, |other| other.with(&usage)));
    }
    combined.context("there is no command to run")
}

/// Runs as the wrapper process: runs the command and prints its resource usage as JSON.
///
/// # Errors
/// If the command cannot be started.
pub fn run_wrapper(mut args: impl Iterator<Item = OsString>) -> Result<()> {
    let stdout = args
        .next()
        .context("the file for standard output is missing")?;
    let program = args.next().context("the program is missing")?;
    // Standard input ends when the harness exits.
    thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        let _ = kill_process_group(getpgrp(), Signal::KILL);
    });
    let stdout =
        File::create(&stdout).with_context(|| format!("cannot create {}", stdout.display()))?;
    let mut command = Command::new(&program);
    command.args(args).stdin(Stdio::null()).stdout(stdout);
    let started = monotonic_nanos();
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let wall = monotonic_nanos() - started;
    let children = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let seconds = |time: TimeVal| time.num_microseconds() as f64 / 1e6;
    let usage = ResourceUsage {
        started,
        wall: wall as f64 / 1e9,
        cpu: seconds(children.user_time()) + seconds(children.system_time()),
        peak_kib: u64::try_from(children.max_rss())?,
        exit_code: status.code(),
        signal: status.signal(),
    };
    serde_json::to_writer(io::stdout(), &usage)?;
    Ok(())
}
