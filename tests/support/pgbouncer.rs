//! A real PgBouncer on loopback before a throwaway server, set up as a test wants it. It can be
//! killed and started again, and is gone with its value or with the process, however that ends.
//!
//! As with the servers, the end is left to a shell that waits for a pipe to close. It is PgBouncer's
//! parent, so that it never signals a process that is not its own.

use std::cell::RefCell;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use postgres::{Client, SimpleQueryMessage};

use super::database::{Database, Login};
use super::postgres::{Account, SUPERUSER, advice, free_port};

/// Obeys a word a line and says when it is done; at the end nothing is left.
const KEEPER: &str = r#"
while read -r word; do
    case $word in
        start) "$@" </dev/null >/dev/null 2>&1 & pid=$! ;;
        kill) kill -KILL "$pid"; wait "$pid"; pid= ;;
    esac
    echo done
done 2>/dev/null
[ -z "$pid" ] || kill -KILL "$pid"
wait
rm -rf -- "$0""#;
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is asked whether it is up.
const GLANCE: Duration = Duration::from_millis(5);
/// How many ports are tried: another process may take the free one first.
const TRIES: u32 = 3;
/// Who may give orders on the console.
const CONSOLE: &str = "console";

/// How a pooler is set up.
pub struct PoolerSetup<'a> {
    /// `session`, `transaction` or `statement`.
    pub mode: &'a str,
    /// The most connections to the server.
    pub size: u32,
    /// More lines of the section `[pgbouncer]`.
    pub lines: &'a str,
    /// The port that it takes for the server's, where that is not the database's own.
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
    /// The database as it is reached through the pooler.
    pub login: Login,
    console: Login,
    /// A connection to the console, so that none comes and goes: each counts as a client.
    orders: RefCell<Option<Client>>,
    dir: PathBuf,
    keeper: Child,
    words: Option<ChildStdin>,
    said: BufReader<ChildStdout>,
}

impl Pooler {
    /// A pooler before the server of this database, for its owner.
    ///
    /// # Panics
    /// Where it cannot be started; the message says why.
    pub fn start(database: &Database, setup: &PoolerSetup<'_>) -> Self {
        Self::try_start(database, setup).unwrap_or_else(|why| panic!("{why}"))
    }

    /// Kills it: clients and servers hear nothing but the end of their connections.
    pub fn kill(&mut self) {
        self.order("kill");
    }

    /// Starts it again where it was.
    pub fn restart(&mut self) {
        self.order("start");
        assert!(self.is_up(), "{}", self.log());
    }

    /// Gives an order on the console, such as `PAUSE`, and waits until it is carried out.
    pub fn run_console_command(&self, order: &str) {
        self.ask_console(order);
    }

    /// How many clients wait for a connection to the server.
    pub fn waiting_clients(&self) -> u64 {
        let pools = self.ask_console("SHOW POOLS");
        let of = |pool: &SimpleQueryMessage| match pool {
            SimpleQueryMessage::Row(row) if row.get("database") == Some(&self.login.name) => {
                row.get("cl_waiting")?.parse::<u64>().ok()
            }
            _ => None,
        };
        pools.iter().filter_map(of).sum()
    }

    fn ask_console(&self, order: &str) -> Vec<SimpleQueryMessage> {
        let mut orders = self.orders.borrow_mut();
        let console = orders.as_mut().expect("it is up");
        console.simple_query(order).expect("it obeys")
    }

    fn try_start(database: &Database, setup: &PoolerSetup<'_>) -> Result<Self, String> {
        let program = program()?;
        let account = Account::choose()?;
        let dir = tempfile::Builder::new()
            .prefix("token_service-pgbouncer.")
            .tempdir()
            .map_err(|e| format!("cannot make a folder for PgBouncer: {e}"))?
            .keep();
        let mut keeper = keeper(&program, &account, &dir)?;
        let login = (**database).clone();
        let console = Login {
            user: CONSOLE.to_owned(),
            password: format!("console-{:016x}", fastrand::u64(..)),
            name: "pgbouncer".to_owned(),
            ..login.clone()
        };
        let mut pooler = Self {
            words: keeper.stdin.take(),
            said: BufReader::new(keeper.stdout.take().expect("a pipe")),
            login,
            console,
            orders: RefCell::new(None),
            dir,
            keeper,
        };
        for _ in 0..TRIES {
            let port = free_port();
            pooler.login.port = port;
            pooler.console.port = port;
            pooler.write("users", &pooler.users());
            pooler.write(
                "ini",
                &pooler.ini(setup, setup.server.unwrap_or(database.port)),
            );
            account.own(&pooler.dir)?;
            pooler.order("start");
            if pooler.is_up() {
                return Ok(pooler);
            }
            pooler.order("kill");
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

    fn order(&mut self, word: &str) {
        let words = self.words.as_mut().expect("a pipe");
        writeln!(words, "{word}").expect("the keeper listens");
        let mut said = String::new();
        self.said.read_line(&mut said).expect("the keeper answers");
        assert_eq!(said, "done\n", "{word}");
    }

    /// True once it lets its own console in, whose password no other process knows.
    fn is_up(&self) -> bool {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Ok(console) = self.console.try_client() {
                self.orders.replace(Some(console));
                return true;
            }
            thread::park_timeout(GLANCE);
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
        drop(self.words.take());
        let _ = self.keeper.wait();
    }
}

/// The shell that starts and ends it.
fn keeper(program: &Path, account: &Account, dir: &Path) -> Result<Child, String> {
    let mut keeper = Command::new("sh");
    keeper.args(["-c", KEEPER]).arg(dir).arg(program);
    // It refuses root too.
    if matches!(account, Account::Postgres { .. }) {
        keeper.args(["-u", SUPERUSER]);
    }
    keeper
        .arg(dir.join("ini"))
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("cannot start the shell that keeps PgBouncer: {e}"))
}

/// The program. Debian's package puts it where only root's PATH leads.
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
