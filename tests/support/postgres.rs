//! Throwaway PostgreSQL servers: a shared one, started on first use, and others with their own
//! configuration. They run the installed programs with durable settings.
//!
//! A shell that waits for a pipe to close stops a server and removes its files. Rust drops no statics,
//! and a killed process drops nothing.

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
/// The programs that a usable folder must contain.
const PROGRAMS: [&str; 3] = ["initdb", "pg_ctl", "postgres"];
/// The variable that names the folder of the server programs.
const PG_BIN: &str = "TOKEN_SERVICE_PG_BIN";
/// Waits until the pipe closes, stops the server, and removes its files.
///
/// The removal is retried: if `initdb` was killed, a child of it may still write. A folder that
/// contains a file `keep` is kept.
const CLEANUP: &str = r#"cat; "$@"; [ -e "$0/keep" ] && exit
for try in $(seq 30); do rm -rf -- "$0" && break; sleep 1; done"#;
/// Ports below the ephemeral range of Linux (32768 to 60999).
const PORTS: Range<u16> = 10_000..30_000;
/// The number of ports to try: another process may take a free port first.
const PORT_ATTEMPTS: u32 = 5;

static SERVER: LazyLock<Result<Server, String>> =
    LazyLock::new(|| Server::try_start(&ServerSetup::default()));

/// A running server.
pub struct Server {
    /// The port on 127.0.0.1, also the suffix of the Unix socket.
    pub port: u16,
    /// The superuser's password.
    pub password: String,
    /// The folder of the Unix socket.
    pub sockets: PathBuf,
    /// The folder of the server programs, which often contains `psql` and `pgbench` as well.
    pub programs: PathBuf,
    /// The folder with data, sockets, log and password.
    pub dir: PathBuf,
    pub(super) account: Account,
    /// The shell that stops the server when its standard input closes.
    watchdog: Child,
}

/// The configuration of a server.
#[derive(Default)]
pub struct ServerSetup<'a> {
    /// Files in the data folder, readable by the server only.
    pub files: &'a [(&'a str, &'a str)],
    /// More lines of `postgresql.conf`.
    pub conf: &'a str,
    /// The whole `pg_hba.conf`; by default every connection needs a password.
    pub hba: Option<&'a str>,
    /// The superuser's password; random by default.
    pub password: Option<&'a str>,
    /// The primary, if this is a standby; its `hba` must allow `replication`.
    pub standby_of: Option<&'a Server>,
}

/// Returns the shared server; the first call starts it.
///
/// # Panics
/// If it cannot be started.
pub fn server() -> &'static Server {
    match &*SERVER {
        Ok(server) => server,
        Err(why) => panic!("{why}"),
    }
}

impl Drop for Server {
    /// Stops the server, and waits until its files are removed.
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

impl Server {
    /// Starts a server; dropping it stops the server.
    ///
    /// # Panics
    /// If it cannot be started.
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
        run_program(command).unwrap_or_else(|why| panic!("{why}"));
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

        let of_primary = setup.standby_of.map(|primary| primary.password.as_str());
        let password = of_primary.or(setup.password).map_or_else(
            || format!("admin-{:016x}", fastrand::u64(..)),
            ToOwned::to_owned,
        );
        let secret = dir.join("password");
        fs::write(&secret, &password).map_err(at(&secret))?;
        fs::create_dir(&sockets).map_err(at(&sockets))?;
        account.chown(&dir)?;

        run_program(match setup.standby_of {
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
        account.chown(&dir)?;

        let log = dir.join("server.log");
        let mut last = String::new();
        for _ in 0..PORT_ATTEMPTS {
            let port = free_port();
            configure(&data, &sockets, port, setup.conf)?;
            let mut start = account.command(&programs.join("pg_ctl"));
            start.arg("--pgdata").arg(&data).arg("--log").arg(&log);
            start.args(["--wait", "--timeout=60", "start"]);
            match run_program(start) {
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

/// The command that copies a primary to a standby, which follows it.
fn base_backup(account: &Account, programs: &Path, primary: &Server, data: &Path) -> Command {
    let mut copy = account.command(&programs.join("pg_basebackup"));
    copy.env("PGPASSWORD", &primary.password);
    copy.arg("--pgdata").arg(data);
    copy.args(["--host=127.0.0.1", "--username", SUPERUSER]);
    copy.args(["--port", &primary.port.to_string()]);
    copy.args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync"]);
    copy
}

/// Writes durable settings: an acknowledged commit survives a crash.
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
    // Rewritten in place, so the server's account keeps owning the file.
    fs::write(&main, format!("{before}\n{include}")).map_err(at(&main))
}

/// Starts the shell that stops the server and removes its files when this process exits.
///
/// The kernel closes the pipe however this process exits. A separate process group protects the shell
/// from the Ctrl-C that stops the tests.
fn watchdog(dir: &Path, account: &Account, pg_ctl: &Path, data: &Path) -> Result<Child, String> {
    let stop = {
        let mut stop = account.command(pg_ctl);
        stop.arg("--pgdata").arg(data);
        stop.args(["--mode=immediate", "--wait", "stop"]);
        stop
    };
    Command::new("sh")
        .args(["-c", CLEANUP])
        .arg(dir)
        .arg(stop.get_program())
        .args(stop.get_args())
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("cannot start the shell that stops PostgreSQL: {e}"))
}

/// The account that the server runs under; PostgreSQL refuses root.
pub(super) enum Account {
    Current,
    Postgres { through: Vec<&'static str> },
}

impl Account {
    pub(super) fn choose() -> Result<Self, String> {
        if text_of("id", &["-u"]).as_deref() != Some("0") {
            return Ok(Self::Current);
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

    pub(super) fn chown(&self, dir: &Path) -> Result<(), String> {
        if matches!(self, Self::Current) {
            return Ok(());
        }
        let mut chown = Command::new("chown");
        chown.args(["-R", SUPERUSER]).arg(dir);
        run_program(chown)
    }

    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = match self {
            Self::Current => Command::new(program),
            Self::Postgres { through } => {
                let mut command = Command::new(through[0]);
                command.args(&through[1..]).arg(program);
                command
            }
        };
        // The account may have no access to the checkout.
        command.current_dir("/").env("LC_ALL", "C");
        command
    }
}

/// Finds the folder with the server programs.
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

/// The folders of Debian's packages, which no PATH contains; newest first.
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

/// The hint for a missing program, which this variable can name.
pub(super) fn advice(variable: &str) -> String {
    format!("run `tests/run`, which installs missing programs, or set {variable}")
}

/// Adds the path of a file to an error.
fn at(path: &Path) -> impl Fn(std::io::Error) -> String {
    move |error| format!("{}: {error}", path.display())
}

/// Returns a port that nothing listens on and that no other caller gets.
///
/// It is outside the ephemeral range. While a server is down, a connection to its port must fail. An
/// ephemeral port could belong to another process, or to the client's own end of the connection.
pub fn free_port() -> u16 {
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(fastrand::u16(..)));
    (0..PORTS.len())
        .map(|_| PORTS.start + NEXT.fetch_add(1, Ordering::Relaxed) % (PORTS.end - PORTS.start))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port on loopback")
}

/// The standard output of a program, if it exists and succeeds.
fn text_of(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// Runs a program; if it fails, its output becomes the error.
///
/// The output goes to a file: the server that `pg_ctl` starts would keep a pipe open.
pub(super) fn run_program(mut command: Command) -> Result<(), String> {
    let captured = tempfile::tempfile().map_err(|e| format!("cannot make a file: {e}"))?;
    let write = || captured.try_clone().map(Stdio::from);
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
    let mut captured = captured;
    let _ = std::io::Seek::rewind(&mut captured);
    let _ = std::io::Read::read_to_string(&mut captured, &mut text);
    Err(format!("{command:?} ended with {status}:\n{text}"))
}
