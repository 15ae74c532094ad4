//! A throwaway server that tests may crash: the one of `postgres` is shared and must live.

use std::fs;
use std::ops::Deref;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use postgres::Client;

use super::database::Login;
use super::postgres::{Server, ServerSetup, output};

/// Processes die in these tests, and no machine does: what a process has written stays. So a crash
/// does not cost seconds in which all files are synced.
const FAST: &str = "fsync = off\n";
/// How long a server may take to come back.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often what nobody announces is looked for.
const GLANCE: Duration = Duration::from_millis(10);

static SHARED: LazyLock<Mutex<Cluster>> = LazyLock::new(|| Mutex::new(Cluster::new()));

/// A server of its own; dereferences to what is known of it.
pub struct Cluster(Server);

impl Deref for Cluster {
    type Target = Server;
    fn deref(&self) -> &Server {
        &self.0
    }
}

/// The server that tests of crashes share, one after the other; it runs.
pub fn crashable() -> MutexGuard<'static, Cluster> {
    // A test that failed may have left it down.
    let cluster = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if cluster.postmaster().is_none() {
        cluster.start();
    }
    cluster
}

impl Cluster {
    /// A running server.
    ///
    /// # Panics
    /// Where it cannot be started.
    pub fn new() -> Self {
        Self(Server::start(&ServerSetup {
            conf: FAST,
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
        output(command)
    }

    /// Stops it: `fast`, or `immediate` as in a crash.
    pub fn stop(&self, mode: &str) {
        let stopped = self.pg_ctl(&["--wait", "--mode", mode, "stop"]);
        stopped.expect("it stops");
    }

    /// Starts it again; after a crash the old processes may still be about to end.
    pub fn start(&self) {
        let end = Instant::now() + PATIENCE;
        while let Err(why) = self.pg_ctl(&["--wait", "--timeout=60", "start"]) {
            assert!(Instant::now() < end, "{why}");
            thread::park_timeout(GLANCE);
        }
    }

    /// Sets the next transaction id of the stopped server. What lies between is taken for aborted.
    ///
    /// # Panics
    /// If `pg_resetwal` fails.
    pub fn set_next_xid(&self, xid: u32) {
        const XIDS_OF_A_SEGMENT: u32 = 1 << 20;
        const BYTES_OF_A_SEGMENT: usize = 256 * 1024;
        let segment = format!("pg_xact/{:04X}", xid / XIDS_OF_A_SEGMENT);
        let path = self.data().join(segment);
        fs::write(&path, vec![0; BYTES_OF_A_SEGMENT]).expect("a written file");
        self.account.own(&path).expect("a file of the server's");
        let mut reset = self.account.command(&self.programs.join("pg_resetwal"));
        reset.arg("--next-transaction-id").arg(xid.to_string());
        reset.arg("--pgdata").arg(self.data());
        output(reset).unwrap_or_else(|why| panic!("{why}"));
    }

    /// The first process of the server, where it runs.
    pub fn postmaster(&self) -> Option<i32> {
        let text = fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        text.lines().next()?.trim().parse().ok()
    }

    /// Kills the first process; the others notice and end.
    pub fn kill_postmaster(&self) {
        let pid = self.postmaster().expect("it runs");
        kill(pid, "KILL");
        // The file stays, and would say that it still runs.
        wait(
            || !PathBuf::from(format!("/proc/{pid}")).exists(),
            "its end",
        );
        let _ = fs::remove_file(self.data().join("postmaster.pid"));
    }

    /// Keeps its files after its end, and says where.
    pub fn keep(&self) -> PathBuf {
        fs::write(self.dir.join("keep"), "").expect("a written file");
        self.dir.clone()
    }
}

/// Sends a signal by name to a process of a throwaway server; false where it is gone.
pub fn kill(pid: i32, signal: &str) -> bool {
    let status = Command::new("kill")
        .args([format!("-{signal}"), pid.to_string()])
        .stderr(Stdio::null())
        .status();
    status.expect("the kill command").success()
}

/// The backends of the token_service that is connected to this database.
pub fn backends(client: &mut Client) -> Vec<i32> {
    try_backends(client).expect("the activity")
}

/// The same, where the server may crash meanwhile.
pub fn try_backends(client: &mut Client) -> Result<Vec<i32>, postgres::Error> {
    let found = client.query(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database()
         AND application_name LIKE 'token_service %' ORDER BY backend_start",
        &[],
    )?;
    Ok(found.iter().map(|row| row.get(0)).collect())
}

/// Waits until no backend of a token_service is left in this database, over a new connection.
pub fn wait_until_disconnected(admin: &Login) {
    let mut client = admin.client();
    wait(
        || backends(&mut client).is_empty(),
        "the end of its backends",
    );
}

/// Waits for what nobody announces.
///
/// # Panics
/// Where it does not come.
pub fn wait(mut holds: impl FnMut() -> bool, what: &str) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        thread::park_timeout(GLANCE);
    }
}
