//! A throwaway server that tests may crash. The server of `postgres` is shared and must not crash.

use std::fs;
use std::ops::Deref;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::database::Login;
use super::postgres::{Server, ServerSetup, run_program};
use postgres::Client;

/// Turns fsync off: these tests crash processes, not the machine, and recovery stays fast.
const FAST_CONF: &str = "fsync = off\n";
/// The longest wait for a condition.
const TIMEOUT: Duration = Duration::from_mins(1);
/// The interval between two polls.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

static SHARED: LazyLock<Mutex<Cluster>> = LazyLock::new(|| Mutex::new(Cluster::new()));

/// A server that tests may crash; dereferences to its [`Server`].
pub struct Cluster(Server);

impl Deref for Cluster {
    type Target = Server;
    fn deref(&self) -> &Server {
        &self.0
    }
}

/// Locks the server that crash tests share, and starts it if it is stopped.
pub fn crashable() -> MutexGuard<'static, Cluster> {
    // A failed test may have left it stopped.
    let cluster = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if cluster.postmaster().is_none() {
        cluster.start();
    }
    cluster
}

impl Cluster {
    /// Starts a server.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn new() -> Self {
        Self(Server::start(&ServerSetup {
            conf: FAST_CONF,
            ..ServerSetup::default()
        }))
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn pg_ctl(&self, args: &[&str]) -> Result<(), String> {
        let mut command = self.account.command(&self.programs.join("pg_ctl"));
        command.arg("--pgdata").arg(self.data()).args(args);
        command.arg("--log").arg(self.dir.join("server.log"));
        run_program(command)
    }

    /// Stops the server; the mode `immediate` acts like a crash.
    pub fn stop(&self, mode: &str) {
        let stopped = self.pg_ctl(&["--wait", "--mode", mode, "stop"]);
        stopped.expect("the server stops");
    }

    /// Starts the server; retries while processes of a crashed server are still exiting.
    pub fn start(&self) {
        let end = Instant::now() + TIMEOUT;
        while let Err(why) = self.pg_ctl(&["--wait", "--timeout=60", "start"]) {
            assert!(Instant::now() < end, "{why}");
            thread::park_timeout(POLL_INTERVAL);
        }
    }

    /// Sets the next transaction id of the stopped server; the ids in between count as aborted.
    ///
    /// # Panics
    /// If `pg_resetwal` fails.
    pub fn set_next_xid(&self, xid: u32) {
        const XIDS_OF_A_SEGMENT: u32 = 1 << 20;
        const BYTES_OF_A_SEGMENT: usize = 256 * 1024;
        let segment = format!("pg_xact/{:04X}", xid / XIDS_OF_A_SEGMENT);
        let path = self.data().join(segment);
        fs::write(&path, vec![0; BYTES_OF_A_SEGMENT]).expect("a written file");
        self.account
            .chown(&path)
            .expect("a file that the server owns");
        let mut reset = self.account.command(&self.programs.join("pg_resetwal"));
        reset.arg("--next-transaction-id").arg(xid.to_string());
        reset.arg("--pgdata").arg(self.data());
        run_program(reset).unwrap_or_else(|why| panic!("{why}"));
    }

    /// The process id of the postmaster, if the server runs.
    pub fn postmaster(&self) -> Option<i32> {
        let text = fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        text.lines().next()?.trim().parse().ok()
    }

    /// Kills the postmaster; the other processes notice it and exit.
    pub fn kill_postmaster(&self) {
        let pid = self.postmaster().expect("a running server");
        kill(pid, "KILL");
        // A killed postmaster leaves its pid file behind.
        wait(
            || !PathBuf::from(format!("/proc/{pid}")).exists(),
            "the postmaster to exit",
        );
        let _ = fs::remove_file(self.data().join("postmaster.pid"));
    }

    /// Keeps the files after the server has stopped; returns their folder.
    pub fn keep_files(&self) -> PathBuf {
        fs::write(self.dir.join("keep"), "").expect("a written file");
        self.dir.clone()
    }
}

/// Sends a signal to a process of a throwaway server; false if the process has exited.
pub fn kill(pid: i32, signal: &str) -> bool {
    let status = Command::new("kill")
        .args([format!("-{signal}"), pid.to_string()])
        .stderr(Stdio::null())
        .status();
    status.expect("the kill command").success()
}

/// The backends that serve token_service in this database.
pub fn backends(client: &mut Client) -> Vec<i32> {
    try_backends(client).expect("the activity")
}

/// Like [`backends`], for a server that may crash meanwhile.
pub fn try_backends(client: &mut Client) -> Result<Vec<i32>, postgres::Error> {
    let found = client.query(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database()
         AND application_name LIKE 'token_service %' ORDER BY backend_start",
        &[],
    )?;
    Ok(found.iter().map(|row| row.get(0)).collect())
}

/// Waits until token_service has no backend in this database.
pub fn wait_until_disconnected(admin: &Login) {
    let mut client = admin.client();
    wait(|| backends(&mut client).is_empty(), "the backends to exit");
}

/// Polls until the condition holds.
///
/// # Panics
/// If it does not hold in time.
pub fn wait(mut condition: impl FnMut() -> bool, what: &str) {
    let end = Instant::now() + TIMEOUT;
    while !condition() {
        assert!(Instant::now() < end, "timed out waiting for {what}");
        thread::park_timeout(POLL_INTERVAL);
    }
}
