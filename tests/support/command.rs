//! The real binary as a user starts it: a clean environment, a folder of its own, a hard time limit.
//!
//! The limit and the waiting rest on the process's own pipes and its end, never on a sleep.

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

/// After this long a process is killed and the test fails.
const LIMIT: Duration = Duration::from_mins(1);

/// The binary under test.
pub fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_token_service"))
}

/// A command line of `token_service` in the making.
pub struct Command {
    args: Vec<OsString>,
    envs: Vec<(OsString, OsString)>,
    stdin: Vec<u8>,
    dir: Arc<tempfile::TempDir>,
}

impl Command {
    /// The bare program, in an empty folder.
    pub fn new() -> Self {
        time_limit::start();
        let dir = tempfile::tempdir().expect("a folder");
        Self {
            args: Vec::new(),
            envs: Vec::new(),
            stdin: Vec::new(),
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

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.envs.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Fetches from this source and, over TLS, trusts its authority.
    #[must_use]
    pub fn source(self, source: &Source) -> Self {
        let command = self.env("TOKEN_HOST", source.url());
        match source.ca_file() {
            Some(file) => command.env("SSL_CERT_FILE", file),
            None => command,
        }
    }

    /// Stores in this database, told by `DATABASE_URL`.
    #[must_use]
    pub fn database(self, login: &Login) -> Self {
        self.env("DATABASE_URL", login.url())
    }

    /// Stores in this database, told by the `DB_*` of the first version.
    #[must_use]
    pub fn database_by_parts(self, login: &Login) -> Self {
        self.database_without_password(login)
            .env("DB_PASS", &login.password)
    }

    /// Those of the `DB_*` that are no secret.
    #[must_use]
    pub fn database_without_password(self, login: &Login) -> Self {
        self.env("DB_HOST", &login.host)
            .env("DB_PORT", login.port.to_string())
            .env("DB_USER", &login.user)
            .env("DB_NAME", &login.name)
    }

    /// Reads this configuration file, which stands in its folder.
    #[must_use]
    pub fn config(self, yaml: &str) -> Self {
        self.file("token_service.yaml", yaml)
            .args(["--config", "token_service.yaml"])
    }

    /// Gives it this on standard input; without, standard input is empty.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Writes a file below its folder, with the folders on the way.
    #[must_use]
    pub fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        let path = self.dir().join(path);
        let parent = path.parent().expect("a path below the folder");
        fs::create_dir_all(parent).expect("a folder");
        fs::write(path, content).expect("a written file");
        self
    }

    /// The folder it runs in, removed with the last of command, process and run.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The standard library's command, for what this builder has no word for, such as a closed pipe.
    pub fn std_command(&self) -> std::process::Command {
        let mut command = std::process::Command::new(binary());
        command.args(&self.args).current_dir(self.dir()).env_clear();
        // Nothing of the developer's: no proxy, no token, no colour, no time zone.
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.dir());
        command.envs(self.envs.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts it and goes on.
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
        // In a thread, since a pipe holds little; a program that does not read all of it may.
        std::thread::spawn(move || {
            let _ = stdin.write_all(&input);
        });
        let (tell, ended) = mpsc::channel();
        std::thread::spawn(move || {
            let _ = tell.send(child.wait().expect("the process is ours to wait for"));
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

    /// Runs it to its end.
    pub fn run(self) -> Run {
        self.spawn().wait()
    }
}

/// A process that runs; dropping it kills it.
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

    /// Waits until standard output satisfies the test, and gives what it was then.
    pub fn wait_for_stdout(&self, what: impl Fn(&str) -> bool) -> String {
        self.stdout.wait_for(self.limit, what)
    }

    /// Waits until standard error satisfies the test, and gives what it was then.
    pub fn wait_for_stderr(&self, what: impl Fn(&str) -> bool) -> String {
        self.stderr.wait_for(self.limit, what)
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// Where it does not end within the limit; it is killed then.
    pub fn wait(self) -> Run {
        let left = self.limit.saturating_duration_since(Instant::now());
        let ended = self.ended.recv_timeout(left);
        self.conclude(ended)
    }

    /// Waits for its end, and gives the most memory that it held, in bytes. The kernel's figure never
    /// falls; what it was a moment before the end, after the last report was written, counts.
    pub fn wait_with_peak_memory(self) -> (Run, u64) {
        let mut peak = 0;
        loop {
            peak = peak_memory(self.pid).unwrap_or(peak);
            let ended = self.ended.recv_timeout(Duration::from_millis(1));
            let is_over = Instant::now() > self.limit;
            if is_over || !matches!(ended, Err(RecvTimeoutError::Timeout)) {
                assert!(peak > 0, "the kernel tells the peak");
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
            Err(RecvTimeoutError::Disconnected) => panic!("nobody waits for token_service"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Still ours: only `wait` and the waiting thread reap it, and neither has said so.
        if self.status.is_none() && self.ended.try_recv().is_err() {
            kill(self.pid, "KILL");
        }
    }
}

/// The most memory that a living process has held, in bytes.
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
    // A process that has just ended cannot be signalled; its `wait` tells.
    status.expect("the kill command");
}

/// What a process did.
pub struct Run {
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// Its exit code; none where a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    dir: Arc<tempfile::TempDir>,
}

impl Run {
    /// Fails with everything it said unless it ended with this code.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        let Self { stdout, stderr, .. } = &self;
        assert_eq!(self.code, Some(code), "stdout: {stdout}\nstderr: {stderr}");
        self
    }

    /// A file in the folder it ran in.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The lines of standard output in the order of their bytes, for runs whose order is open.
    pub fn sorted(&self) -> String {
        let mut lines: Vec<&str> = self.stdout.lines().collect();
        lines.sort_unstable();
        lines.join("\n")
    }

    /// The one error on standard error and what stands beneath it.
    ///
    /// # Panics
    /// Where there is none, or more than one.
    #[track_caller]
    pub fn error(&self) -> &str {
        let count = self
            .stderr
            .lines()
            .filter(|line| line.starts_with("error:"));
        assert_eq!(count.count(), 1, "{}", self.stderr);
        let at = self.stderr.find("error:").expect("just counted");
        self.stderr[at..].trim_end()
    }

    /// Exit code and both streams as one text for a snapshot, with `snapshot::settings`.
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
