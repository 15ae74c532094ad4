//! Throwaway PostgreSQL servers: one that all tests share, started on first use, and others set up as
//! a test wants them. They run from the installed programs, with durable settings, and are gone with
//! the process, however that ends.
//!
//! Rust never drops statics, and a killed process drops nothing at all, so the end is left to a
//! shell that waits for a pipe to close and then stops the server and removes its files.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// The superuser of the throwaway server.
pub const SUPERUSER: &str = "postgres";
/// The server programs that a usable folder holds.
const PROGRAMS: [&str; 3] = ["initdb", "pg_ctl", "postgres"];
/// Names the folder of the server programs.
const PG_BIN: &str = "TOKEN_SERVICE_PG_BIN";
/// Waits for the pipe's end, stops the server, and removes its files; again where a process that was
/// killed in the middle of `initdb` left one that still writes.
/// A folder with a file `keep` in it is kept.
const END: &str = r#"cat; "$@"; [ -e "$0/keep" ] && exit
for try in $(seq 30); do rm -rf -- "$0" && break; sleep 1; done"#;
/// Below the ports that Linux gives to connections and to who asks for any (32768 to 60999).
const PORTS: Range<u16> = 10_000..30_000;
/// How many ports are tried: another process may take the free one before the server does.
const TRIES: u32 = 5;

static SERVER: LazyLock<Result<Server, String>> =
    LazyLock::new(|| Server::try_start(&ServerSetup::default()));

/// The running server.
pub struct Server {
    /// The port on 127.0.0.1, also the suffix of the Unix socket.
    pub port: u16,
    /// The superuser's password.
    pub password: String,
    /// The folder of the Unix socket.
    pub sockets: PathBuf,
    /// Where the server programs are; `psql` and `pgbench` are often beside them.
    pub programs: PathBuf,
    /// Data, sockets, log and password.
    pub dir: PathBuf,
    pub(super) account: Account,
    /// Its open standard input keeps the server alive.
    watchdog: Child,
}

/// What a server of a test's own differs in.
#[derive(Default)]
pub struct ServerSetup<'a> {
    /// Files in the data folder, readable by nobody else.
    pub files: &'a [(&'a str, &'a str)],
    /// More lines of `postgresql.conf`.
    pub conf: &'a str,
    /// All of `pg_hba.conf`; without, every connection needs a password.
    pub hba: Option<&'a str>,
    /// The superuser's password; without, a random one.
    pub password: Option<&'a str>,
    /// Begins as a standby of this server, which then needs `replication` in its `hba`.
    pub standby_of: Option<&'a Server>,
}

/// The server of this process; started by whoever asks first.
///
/// # Panics
/// Where it cannot be started; the message says why.
pub fn server() -> &'static Server {
    match &*SERVER {
        Ok(server) => server,
        Err(why) => panic!("{why}"),
    }
}

impl Drop for Server {
    /// Ends it, before the process does.
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

impl Server {
    /// A server of the test's own, gone when it is dropped.
    ///
    /// # Panics
    /// Where it cannot be started; the message says why.
    pub fn start(setup: &ServerSetup<'_>) -> Self {
        Self::try_start(setup).unwrap_or_else(|why| panic!("{why}"))
    }

    /// Runs `pg_ctl` with these arguments.
    pub fn pg_ctl(&self, args: &[&str]) {
        let mut command = self.account.command(&self.programs.join("pg_ctl"));
        command
            .arg("--pgdata")
            .arg(self.dir.join("data"))
            .args(args);
        output(command).unwrap_or_else(|why| panic!("{why}"));
    }

    fn try_start(setup: &ServerSetup<'_>) -> Result<Self, String> {
        let programs = programs()?;
        let account = Account::choose()?;
        let dir = tempfile::Builder::new()
            .prefix("token_service-pg.")
            .tempdir()
            .map_err(|e| format!("cannot make a folder for PostgreSQL: {e}"))?
            .keep();
        let data = dir.join("data");
        let sockets = dir.join("sockets");
        let watchdog = watchdog(&dir, &account, &programs.join("pg_ctl"), &data)?;

        let given = setup.standby_of.map(|primary| primary.password.as_str());
        let password = given.or(setup.password).map_or_else(
            || format!("admin-{:016x}", fastrand::u64(..)),
            ToOwned::to_owned,
        );
        let secret = dir.join("password");
        fs::write(&secret, &password).map_err(at(&secret))?;
        fs::create_dir(&sockets).map_err(at(&sockets))?;
        account.own(&dir)?;

        output(match setup.standby_of {
            Some(primary) => base_backup(&account, &programs, primary, &data),
            None => init(&account, &programs, &secret, &data),
        })?;
        if let Some(hba) = setup.hba {
            fs::write(data.join("pg_hba.conf"), hba).map_err(at(&data))?;
        }
        for (name, text) in setup.files {
            let file = data.join(name);
            fs::write(&file, text).map_err(at(&file))?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).map_err(at(&file))?;
        }
        account.own(&dir)?;

        let log = dir.join("server.log");
        let mut last = String::new();
        for _ in 0..TRIES {
            let port = free_port();
            configure(&data, &sockets, port, setup.conf)?;
            let mut start = account.command(&programs.join("pg_ctl"));
            start.arg("--pgdata").arg(&data).arg("--log").arg(&log);
            start.args(["--wait", "--timeout=60", "start"]);
            match output(start) {
                Ok(()) => {
                    return Ok(Self {
                        port,
                        password,
                        sockets,
                        programs,
                        dir,
                        account,
                        watchdog,
                    });
                }
                Err(why) => last = why,
            }
        }
        let log = fs::read_to_string(log).unwrap_or_default();
        Err(format!("PostgreSQL did not start: {last}\n{log}"))
    }
}

fn init(account: &Account, programs: &Path, secret: &Path, data: &Path) -> Command {
    let mut init = account.command(&programs.join("initdb"));
    init.arg("--pgdata").arg(data);
    init.arg("--pwfile").arg(secret);
    init.args(["--username", SUPERUSER, "--auth=scram-sha-256"]);
    init.args(["--encoding=UTF8", "--no-locale", "--no-sync"]);
    init
}

/// A copy that follows its primary.
fn base_backup(account: &Account, programs: &Path, primary: &Server, data: &Path) -> Command {
    let mut copy = account.command(&programs.join("pg_basebackup"));
    copy.env("PGPASSWORD", &primary.password);
    copy.arg("--pgdata").arg(data);
    copy.args(["--host=127.0.0.1", "--username", SUPERUSER]);
    copy.args(["--port", &primary.port.to_string()]);
    copy.args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync"]);
    copy
}

/// Settings of a server whose word counts: what it acknowledged survives a crash.
fn configure(data: &Path, sockets: &Path, port: u16, more: &str) -> Result<(), String> {
    let mut text = String::from("fsync = on\nsynchronous_commit = on\nfull_page_writes = on\n");
    text.push_str("max_connections = 100\nlisten_addresses = '127.0.0.1'\n");
    let _ = writeln!(text, "port = {port}");
    let _ = writeln!(text, "unix_socket_directories = '{}'", sockets.display());
    text.push_str(more);
    let file = data.join("throwaway.conf");
    fs::write(&file, text).map_err(at(&file))?;
    let main = data.join("postgresql.conf");
    let before = fs::read_to_string(&main).map_err(at(&main))?;
    let include = "include = 'throwaway.conf'\n";
    if before.ends_with(include) {
        return Ok(());
    }
    // Rewritten in place, so that the file stays the server account's.
    fs::write(&main, format!("{before}\n{include}")).map_err(at(&main))
}

/// A shell that waits until this process is gone, then stops the server and removes its files.
///
/// The pipe is closed by the kernel at any end of this process. A process group of its own keeps
/// the shell from being ended by the Ctrl-C that ends the tests.
fn watchdog(dir: &Path, account: &Account, pg_ctl: &Path, data: &Path) -> Result<Child, String> {
    let stop = {
        let mut stop = account.command(pg_ctl);
        stop.arg("--pgdata").arg(data);
        stop.args(["--mode=immediate", "--wait", "stop"]);
        stop
    };
    Command::new("sh")
        .args(["-c", END])
        .arg(dir)
        .arg(stop.get_program())
        .args(stop.get_args())
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("cannot start the shell that ends PostgreSQL: {e}"))
}

/// Whose account the server runs under: PostgreSQL refuses root.
pub(super) enum Account {
    Own,
    Postgres { through: Vec<&'static str> },
}

impl Account {
    pub(super) fn choose() -> Result<Self, String> {
        if text_of("id", &["-u"]).as_deref() != Some("0") {
            return Ok(Self::Own);
        }
        if text_of("id", &["-u", SUPERUSER]).is_none() {
            return Err(format!(
                "PostgreSQL refuses to run as root and there is no user {SUPERUSER:?}; {}",
                advice(PG_BIN)
            ));
        }
        let through = if text_of("setpriv", &["--version"]).is_some() {
            vec![
                "setpriv",
                "--reuid=postgres",
                "--regid=postgres",
                "--init-groups",
                "--",
            ]
        } else if text_of("runuser", &["--version"]).is_some() {
            vec!["runuser", "-u", "postgres", "--"]
        } else {
            vec![
                "su",
                "postgres",
                "-s",
                "/bin/sh",
                "-c",
                r#"exec "$0" "$@""#,
                "--",
            ]
        };
        Ok(Self::Postgres { through })
    }

    pub(super) fn own(&self, dir: &Path) -> Result<(), String> {
        if matches!(self, Self::Own) {
            return Ok(());
        }
        let mut chown = Command::new("chown");
        chown.args(["-R", SUPERUSER]).arg(dir);
        output(chown)
    }

    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = match self {
            Self::Own => Command::new(program),
            Self::Postgres { through } => {
                let mut command = Command::new(through[0]);
                command.args(&through[1..]).arg(program);
                command
            }
        };
        // The account may not be allowed to enter the checkout.
        command.current_dir("/").env("LC_ALL", "C");
        command
    }
}

/// The folder with the server programs.
fn programs() -> Result<PathBuf, String> {
    let usable = |dir: &PathBuf| PROGRAMS.iter().all(|program| dir.join(program).is_file());
    if let Some(dir) = std::env::var_os(PG_BIN).map(PathBuf::from) {
        return if usable(&dir) {
            Ok(dir)
        } else {
            Err(format!(
                "{PG_BIN} is {}, but that folder lacks one of {PROGRAMS:?}",
                dir.display()
            ))
        };
    }
    let named = text_of("pg_config", &["--bindir"]).map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    named
        .into_iter()
        .chain(std::env::split_paths(&path))
        .chain(packaged())
        .find(usable)
        .ok_or_else(|| {
            format!(
                "PostgreSQL's server programs {PROGRAMS:?} were not found; {}",
                advice(PG_BIN)
            )
        })
}

/// Where Debian's packages put the programs, which no PATH names; newest first.
fn packaged() -> Vec<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    versions.sort();
    versions.into_iter().rev().map(|(_, dir)| dir).collect()
}

/// What to do about a program that is missing, which the variable can name.
pub(super) fn advice(variable: &str) -> String {
    format!("the README's test command, `tests/run`, installs what is missing, or set {variable}")
}

/// Names the file in an error.
fn at(path: &Path) -> impl Fn(std::io::Error) -> String {
    move |error| format!("{}: {error}", path.display())
}

/// A port that nothing listens on, that nobody else here was given, and that the system gives nobody
/// of its own accord. For while a server is down, whoever knocks at its port must meet nobody: from
/// the system's own range it could be taken by a stranger, or by the caller's own end.
pub fn free_port() -> u16 {
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(fastrand::u16(..)));
    (0..PORTS.len())
        .map(|_| PORTS.start + NEXT.fetch_add(1, Ordering::Relaxed) % (PORTS.end - PORTS.start))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port on loopback")
}

/// What a program printed, where it exists and succeeded.
fn text_of(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// Runs a program to its end; what it said becomes the error where it fails.
///
/// It writes to files, not pipes: the server that `pg_ctl` leaves behind would hold a pipe open.
pub(super) fn output(mut command: Command) -> Result<(), String> {
    let said = tempfile::tempfile().map_err(|e| format!("cannot make a file: {e}"))?;
    let write = || said.try_clone().map(Stdio::from);
    let status = write()
        .and_then(|out| Ok((out, write()?)))
        .and_then(|(out, err)| {
            command
                .stdin(Stdio::null())
                .stdout(out)
                .stderr(err)
                .status()
        })
        .map_err(|e| format!("cannot run {command:?}: {e}"))?;
    if status.success() {
        return Ok(());
    }
    let mut text = String::new();
    let mut said = said;
    let _ = std::io::Seek::rewind(&mut said);
    let _ = std::io::Read::read_to_string(&mut said, &mut text);
    Err(format!("{command:?} ended with {status}:\n{text}"))
}
