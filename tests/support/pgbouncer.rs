//! A real PgBouncer on loopback in front of a throwaway server. A test can configure, kill and restart
//! it. It stops when its value is dropped or the test process exits.
//!
//! As with the servers, a shell that waits for a pipe to close stops it. The shell is PgBouncer's
//! parent, so it never signals a foreign process.

use std::cell::RefCell;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::database::{Database, Login};
use super::postgres::{Account, SUPERUSER, advice, free_port};
use postgres::{Client, SimpleQueryMessage};

/// The script of the supervising shell: it runs one command per line, and cleans up at the end.
const SUPERVISOR: &str = r#"
while read -r command; do
    case $command in
        start) "$@" </dev/null >/dev/null 2>&1 & pid=$! ;;
        kill) kill -KILL "$pid"; wait "$pid"; pid= ;;
    esac
    echo done
done 2>/dev/null
[ -z "$pid" ] || kill -KILL "$pid"
wait
rm -rf -- "$0""#;
/// The longest wait for a connection.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The interval between two attempts to connect.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// The number of ports to try: another process may take a free port first.
const PORT_ATTEMPTS: u32 = 3;
/// The user of the admin console.
const CONSOLE: &str = "console";

/// The configuration of a pooler.
pub struct PoolerSetup<'a> {
    /// `session`, `transaction` or `statement`.
    pub mode: &'a str,
    /// The maximum of connections to the server.
    pub size: u32,
    /// More lines of the section `[pgbouncer]`.
    pub lines: &'a str,
    /// The port of the server, if it differs from the database's.
    pub server: Option<u16>,
}

impl Default for PoolerSetup<'_> {
    fn default() -> Self {
        Self {
            mode: "transaction",
            size: 20,
            lines: "",
            server: None,
        }
    }
}

/// A running PgBouncer.
pub struct Pooler {
    /// The parameters of a connection through the pooler.
    pub login: Login,
    console: Login,
    /// A connection to the console; kept open because each connection counts as a client.
    console_client: RefCell<Option<Client>>,
    dir: PathBuf,
    supervisor: Child,
    commands: Option<ChildStdin>,
    replies: BufReader<ChildStdout>,
}

impl Pooler {
    /// Starts a pooler for this database and its owner.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(database: &Database, setup: &PoolerSetup<'_>) -> Self {
        Self::try_start(database, setup).unwrap_or_else(|why| panic!("{why}"))
    }

    /// Kills the process; clients and servers only see that their connections close.
    pub fn kill(&mut self) {
        self.send_command("kill");
    }

    /// Restarts it on the same port.
    pub fn restart(&mut self) {
        self.send_command("start");
        assert!(self.wait_until_up(), "{}", self.log());
    }

    /// Runs a command such as `PAUSE` on the console, and waits until it is done.
    pub fn run_console_command(&self, command: &str) {
        self.query_console(command);
    }

    /// The number of clients that wait for a connection to the server.
    pub fn waiting_clients(&self) -> u64 {
        let pools = self.query_console("SHOW POOLS");
        let of = |pool: &SimpleQueryMessage| match pool {
            SimpleQueryMessage::Row(row) if row.get("database") == Some(&self.login.name) => {
                row.get("cl_waiting")?.parse::<u64>().ok()
            }
            _ => None,
        };
        pools.iter().filter_map(of).sum()
    }

    fn query_console(&self, command: &str) -> Vec<SimpleQueryMessage> {
        let mut client = self.console_client.borrow_mut();
        let console = client.as_mut().expect("a running PgBouncer");
        console.simple_query(command).expect("an accepted command")
    }

    fn try_start(database: &Database, setup: &PoolerSetup<'_>) -> Result<Self, String> {
        let program = program()?;
        let account = Account::choose()?;
        let dir = tempfile::Builder::new()
            .prefix("token_service-pgbouncer.")
            .tempdir()
            .map_err(|e| format!("cannot make a folder for PgBouncer: {e}"))?
            .keep();
        let mut supervisor = start_supervisor(&program, &account, &dir)?;
        let login = (**database).clone();
        let console = Login {
            user: CONSOLE.to_owned(),
            password: format!("console-{:016x}", fastrand::u64(..)),
            name: "pgbouncer".to_owned(),
            ..login.clone()
        };
        let mut pooler = Self {
            commands: supervisor.stdin.take(),
            replies: BufReader::new(supervisor.stdout.take().expect("a pipe")),
            login,
            console,
            console_client: RefCell::new(None),
            dir,
            supervisor,
        };
        for _ in 0..PORT_ATTEMPTS {
            let port = free_port();
            pooler.login.port = port;
            pooler.console.port = port;
            pooler.write("users", &pooler.users());
            pooler.write(
                "ini",
                &pooler.ini(setup, setup.server.unwrap_or(database.port)),
            );
            account.chown(&pooler.dir)?;
            pooler.send_command("start");
            if pooler.wait_until_up() {
                return Ok(pooler);
            }
            pooler.send_command("kill");
        }
        Err(format!("PgBouncer did not start:\n{}", pooler.log()))
    }

    fn users(&self) -> String {
        let line = |login: &Login| format!("\"{}\" \"{}\"\n", login.user, login.password);
        [&self.login, &self.console].map(line).concat()
    }

    fn ini(&self, setup: &PoolerSetup<'_>, server: u16) -> String {
        let (name, port, dir) = (&self.login.name, self.login.port, self.dir.display());
        let PoolerSetup {
            mode, size, lines, ..
        } = setup;
        format!(
            "[databases]
{name} = host=127.0.0.1 port={server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
logfile = {dir}/log
auth_type = scram-sha-256
auth_file = {dir}/users
admin_users = {CONSOLE}
pool_mode = {mode}
default_pool_size = {size}
server_login_retry = 0.1
{lines}
"
        )
    }

    fn send_command(&mut self, command: &str) {
        let commands = self.commands.as_mut().expect("a pipe");
        writeln!(commands, "{command}").expect("a running supervisor");
        let mut reply = String::new();
        self.replies.read_line(&mut reply).expect("a reply");
        assert_eq!(reply, "done\n", "{command}");
    }

    /// Waits until it accepts a connection to its console; false on a timeout.
    ///
    /// Only this process knows the console's password, so the connection proves who listens.
    fn wait_until_up(&self) -> bool {
        let end = Instant::now() + TIMEOUT;
        while Instant::now() < end {
            if let Ok(console) = self.console.try_client() {
                self.console_client.replace(Some(console));
                return true;
            }
            thread::park_timeout(POLL_INTERVAL);
        }
        false
    }

    fn write(&self, name: &str, text: &str) {
        let file = self.dir.join(name);
        fs::write(&file, text).expect("a written file");
        // It holds passwords.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("its mode");
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        drop(self.commands.take());
        let _ = self.supervisor.wait();
    }
}

/// Starts the shell that supervises PgBouncer.
fn start_supervisor(program: &Path, account: &Account, dir: &Path) -> Result<Child, String> {
    let mut supervisor = Command::new("sh");
    supervisor.args(["-c", SUPERVISOR]).arg(dir).arg(program);
    // PgBouncer refuses to run as root.
    if matches!(account, Account::Postgres { .. }) {
        supervisor.args(["-u", SUPERUSER]);
    }
    supervisor
        .arg(dir.join("ini"))
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("cannot start the shell that supervises PgBouncer: {e}"))
}

/// Finds the program; Debian installs it in a folder that only root's PATH contains.
fn program() -> Result<PathBuf, String> {
    if let Some(program) = std::env::var_os("TOKEN_SERVICE_PGBOUNCER").map(PathBuf::from) {
        return if program.is_file() {
            Ok(program)
        } else {
            Err(format!(
                "TOKEN_SERVICE_PGBOUNCER is {}, but there is no such file",
                program.display()
            ))
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|dir| dir.join("pgbouncer"))
        .find(|program| program.is_file())
        .ok_or_else(|| {
            format!(
                "PgBouncer's program pgbouncer was not found; {}",
                advice("TOKEN_SERVICE_PGBOUNCER")
            )
        })
}
