//! Runs the real binary with a clean environment, an empty folder and a hard time limit.
//!
//! Waiting uses the pipes and the exit of the process, never a sleep.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::database::Login;
use super::output_capture::OutputCapture;
use super::source::Source;
use super::time_limit;

/// The time after which a process is killed and the test fails.
const LIMIT: Duration = Duration::from_mins(1);

/// The binary under test.
pub fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_token_service"))
}

/// A builder for a `token_service` process.
pub struct Command {
    args: Vec<OsString>,
    envs: Vec<(OsString, OsString)>,
    stdin: Vec<u8>,
    /// The largest file that it can write, in KiB.
    file_limit: Option<u32>,
    dir: Arc<tempfile::TempDir>,
}

impl Command {
    /// A command without arguments, in an empty folder.
    pub fn new() -> Self {
        time_limit::start();
        let dir = tempfile::tempdir().expect("a folder");
        Self {
            args: Vec::new(),
            envs: Vec::new(),
            stdin: Vec::new(),
            file_limit: None,
            dir: Arc::new(dir),
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
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Adds arguments before the others.
    #[must_use]
    pub fn prepend_args(mut self, args: Vec<String>) -> Self {
        let args = args.into_iter().map(OsString::from);
        self.args.splice(0..0, args);
        self
    }

    /// Lets writes beyond this size of a file fail, as on a full disk.
    #[must_use]
    pub fn file_limit(mut self, kibibytes: u32) -> Self {
        self.file_limit = Some(kibibytes);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.envs.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Fetches from this source; over TLS it trusts the source's authority.
    #[must_use]
    pub fn source(self, source: &Source) -> Self {
        let command = self.env("TOKEN_HOST", source.url());
        match source.ca_file() {
            Some(file) => command.env("SSL_CERT_FILE", file),
            None => command,
        }
    }

    /// Stores in this database, named by `DATABASE_URL`.
    #[must_use]
    pub fn database(self, login: &Login) -> Self {
        self.env("DATABASE_URL", login.url())
    }

    /// Stores in this database, named by the `DB_*` variables.
    #[must_use]
    pub fn database_by_parts(self, login: &Login) -> Self {
        self.database_without_password(login)
            .env("DB_PASS", &login.password)
    }

    /// Stores in this database, named by the `DB_*` variables without `DB_PASS`.
    #[must_use]
    pub fn database_without_password(self, login: &Login) -> Self {
        self.env("DB_HOST", &login.host)
            .env("DB_PORT", login.port.to_string())
            .env("DB_USER", &login.user)
            .env("DB_NAME", &login.name)
    }

    /// Writes this configuration file into the folder and reads it.
    #[must_use]
    pub fn config(self, yaml: &str) -> Self {
        self.file("token_service.yaml", yaml)
            .args(["--config", "token_service.yaml"])
    }

    /// Sets standard input, which is empty by default.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Writes a file below the folder and creates its parent folders.
    #[must_use]
    pub fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        let path = self.dir().join(path);
        let parent = path.parent().expect("a path below the folder");
        fs::create_dir_all(parent).expect("a folder");
        fs::write(path, content).expect("a written file");
        self
    }

    /// Creates a symbolic link in the folder.
    #[must_use]
    pub fn link(self, path: &str, target: &str) -> Self {
        std::os::unix::fs::symlink(target, self.dir().join(path)).expect("a link");
        self
    }

    /// The folder it runs in; removed with the last of command, process and run.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Converts to the standard library's command, for settings that this builder lacks.
    pub fn std_command(&self) -> std::process::Command {
        let mut command = match self.file_limit {
            None => std::process::Command::new(binary()),
            Some(kibibytes) => {
                let script = "trap '' XFSZ; ulimit -f \"$1\"; shift; exec \"$@\"";
                let mut shell = std::process::Command::new("bash");
                shell.args(["-c", script, "bash", &kibibytes.to_string()]);
                shell.arg(binary());
                shell
            }
        };
        command.args(&self.args).current_dir(self.dir()).env_clear();
        // The developer's environment must not leak in: no proxy, token, colour or time zone.
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.dir());
        command.envs(self.envs.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts the process without waiting for it.
    pub fn spawn(self) -> Running {
        let mut child = self
            .std_command()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let pid = child.id();
        let stdout = OutputCapture::read(child.stdout.take().expect("a pipe"));
        let stderr = OutputCapture::read(child.stderr.take().expect("a pipe"));
        let mut stdin = child.stdin.take().expect("a pipe");
        let input = self.stdin;
        // In a thread, because a pipe's buffer is small. The program may leave input unread.
        std::thread::spawn(move || {
            let _ = stdin.write_all(&input);
        });
        let (sender, ended) = mpsc::channel();
        std::thread::spawn(move || {
            let _ = sender.send(child.wait().expect("an exit status"));
        });
        let limit = Instant::now() + LIMIT;
        Running {
            pid,
            stdout,
            stderr,
            ended,
            limit,
            status: None,
            dir: self.dir,
        }
    }

    /// Runs the process until it exits.
    pub fn run(self) -> Run {
        self.spawn().wait()
    }
}

/// A running process; dropping it kills the process.
pub struct Running {
    /// The process id.
    pub pid: u32,
    stdout: OutputCapture,
    stderr: OutputCapture,
    ended: Receiver<ExitStatus>,
    limit: Instant,
    status: Option<ExitStatus>,
    dir: Arc<tempfile::TempDir>,
}

impl Running {
    /// Sends a signal by name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        kill(self.pid, name);
    }

    /// Waits until standard output satisfies the predicate, and returns it.
    pub fn wait_for_stdout(&self, predicate: impl Fn(&str) -> bool) -> String {
        self.stdout.wait_for(self.limit, predicate)
    }

    /// Waits until standard error satisfies the predicate, and returns it.
    pub fn wait_for_stderr(&self, predicate: impl Fn(&str) -> bool) -> String {
        self.stderr.wait_for(self.limit, predicate)
    }

    /// Waits until the process exits.
    ///
    /// # Panics
    /// If it does not exit within the limit; it is then killed.
    pub fn wait(self) -> Run {
        let remaining = self.limit.saturating_duration_since(Instant::now());
        let ended = self.ended.recv_timeout(remaining);
        self.conclude(ended)
    }

    /// Waits until the process exits, and returns its peak memory in bytes.
    ///
    /// # Panics
    /// If the process ended before its memory was read.
    pub fn wait_with_peak_memory(self) -> (Run, u64) {
        let (run, peak) = self.wait_with_last_peak();
        assert!(peak > 0, "the kernel reports the peak");
        (run, peak)
    }

    /// Waits until the process exits, and returns its peak memory in bytes; 0 if it ended at once.
    ///
    /// The kernel's figure never falls, so the last reading before the exit is the peak.
    pub fn wait_with_last_peak(self) -> (Run, u64) {
        let mut peak = 0;
        loop {
            peak = peak_memory(self.pid).unwrap_or(peak);
            let ended = self.ended.recv_timeout(Duration::from_millis(1));
            let timed_out = Instant::now() > self.limit;
            if timed_out || !matches!(ended, Err(RecvTimeoutError::Timeout)) {
                return (self.conclude(ended), peak);
            }
        }
    }

    fn conclude(mut self, ended: Result<ExitStatus, RecvTimeoutError>) -> Run {
        match ended {
            Ok(status) => {
                self.status = Some(status);
                Run {
                    stdout: self.stdout.finish(),
                    stderr: self.stderr.finish(),
                    code: status.code(),
                    signal: status.signal(),
                    dir: Arc::clone(&self.dir),
                }
            }
            Err(RecvTimeoutError::Timeout) => panic!(
                "token_service did not end within {LIMIT:?} and was killed\nstdout: {}\nstderr: {}",
                self.stdout.text(),
                self.stderr.text()
            ),
            Err(RecvTimeoutError::Disconnected) => {
                panic!("the thread that waits for token_service is gone")
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The pid is still valid: the waiting thread has reported no exit.
        if self.status.is_none() && self.ended.try_recv().is_err() {
            kill(self.pid, "KILL");
        }
    }
}

/// The peak memory of a running process, in bytes.
pub fn peak_memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = peak.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

fn kill(pid: u32, signal: &str) {
    let status = std::process::Command::new("kill")
        .arg(format!("-{signal}"))
        .arg(pid.to_string())
        .stderr(Stdio::null())
        .status();
    // Signalling fails if the process has just exited; `wait` reports that.
    status.expect("the kill command");
}

/// A process that has exited.
pub struct Run {
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it, if any.
    pub signal: Option<i32>,
    dir: Arc<tempfile::TempDir>,
}

impl Run {
    /// Asserts the exit code; a failure shows both streams.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        let Self { stdout, stderr, .. } = &self;
        assert_eq!(self.code, Some(code), "stdout: {stdout}\nstderr: {stderr}");
        self
    }

    /// The path of a file in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Standard output with sorted lines, for runs without a fixed order.
    pub fn sorted(&self) -> String {
        let mut lines: Vec<&str> = self.stdout.lines().collect();
        lines.sort_unstable();
        lines.join("\n")
    }

    /// The only error on standard error, with the lines below it.
    ///
    /// # Panics
    /// If there is no error or more than one.
    #[track_caller]
    pub fn error(&self) -> &str {
        let count = self
            .stderr
            .lines()
            .filter(|line| line.starts_with("error:"));
        assert_eq!(count.count(), 1, "{}", self.stderr);
        let at = self.stderr.find("error:").expect("an error");
        self.stderr[at..].trim_end()
    }

    /// Exit code and both streams as one text, for a snapshot.
    pub fn transcript(&self) -> String {
        let code = self.code.map_or_else(
            || format!("signal {:?}", self.signal),
            |code| code.to_string(),
        );
        format!(
            "exit: {code}\n--- stdout\n{}--- stderr\n{}",
            self.stdout, self.stderr
        )
    }
}
