//! What every contender works with: a durable PostgreSQL with the seed's table, empty at the start of
//! each run and with nothing left to write of the run before, and the token sources.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use postgres::Client;

use super::calibrate::Best;
use super::contender::{PROCEDURE, Psycopg};
use super::machine::{Place, run};
use super::options::Scale;
use super::scratch::Scratch;
use super::server_time;
use super::supply::{Kind, Supply};
use super::support::database::{Database, Login, STANDARD_TABLE};
use super::support::postgres::{Server, ServerSetup};

/// Beyond the durable settings: no checkpoint and no vacuum comes in the middle of one contender's
/// run, and there is room for the largest number of sessions.
const CONF: &str = "max_wal_size = 8GB\ncheckpoint_timeout = 1h\nautovacuum = off\n\
    max_connections = 200\n";

/// The stage of all comparisons.
pub struct Stage {
    /// How much is done.
    pub scale: Scale,
    /// Tokens that the table takes.
    pub stored: Supply,
    /// Tokens of which the table refuses 28 %.
    pub mixed: Supply,
    /// Where runs may write.
    pub scratch: Scratch,
    /// The settings with which the rivals are at their best, once they were looked for.
    pub best: Option<Best>,
    /// Python's driver, once it was looked for; the reason where it cannot be had.
    pub psycopg: Option<Result<Psycopg, String>>,
    /// A superuser's connection.
    pub admin: Client,
    database: Database,
    server: Server,
    began: Instant,
}

impl Stage {
    /// Starts everything.
    pub fn set(scale: Scale) -> Result<Self> {
        let began = Instant::now();
        choose_disk()?;
        let scratch = Scratch::new()?;
        let server = Server::start(&ServerSetup {
            conf: CONF,
            ..ServerSetup::default()
        });
        for name in ["pgbench", "psql", "curl"] {
            let program = program(&server, name);
            let found = run(&program.to_string_lossy(), &["--version"]);
            ensure!(
                found.is_some(),
                "{name} is missing; on Debian and Ubuntu the packages postgresql and curl have it"
            );
        }
        let database = Database::on(&server)
            .with_sql(STANDARD_TABLE)
            .with_sql(PROCEDURE);
        Ok(Self {
            scale,
            stored: Supply::start(Kind::Stored)?,
            mixed: Supply::start(Kind::Mixed)?,
            scratch,
            best: None,
            psycopg: None,
            admin: database.admin(),
            database,
            server,
            began,
        })
    }

    /// Who owns the table.
    pub fn login(&self) -> &Login {
        &self.database
    }

    /// The source of these tokens.
    pub fn supply(&self, kind: Kind) -> &Supply {
        match kind {
            Kind::Stored => &self.stored,
            Kind::Mixed => &self.mixed,
        }
    }

    /// Where the database's files are.
    pub fn data(&self) -> &Path {
        self.server.sockets.parent().unwrap_or(&self.server.sockets)
    }

    /// The processor time of the server so far, in seconds.
    pub fn server_time(&self) -> Result<f64> {
        server_time::of(&self.data().join("data"))
    }

    /// A client program of PostgreSQL: beside the server's, or else wherever PATH has it.
    pub fn program(&self, name: &str) -> PathBuf {
        program(&self.server, name)
    }

    /// An empty table, empty folders, and nothing left to write.
    pub fn clear(&mut self) -> Result<()> {
        self.stored.clear();
        self.mixed.clear();
        self.scratch.clear()?;
        self.admin
            .batch_execute("TRUNCATE secret_tokens RESTART IDENTITY")?;
        self.admin.batch_execute("CHECKPOINT")?;
        Ok(())
    }

    /// Fails unless the table holds so many tokens.
    pub fn expect_rows(&mut self, expected: u64) -> Result<()> {
        let found = self
            .admin
            .query_one("SELECT count(*) FROM secret_tokens", &[])?;
        let found: i64 = found.get(0);
        ensure!(
            u64::try_from(found) == Ok(expected),
            "{found} tokens are in the table, and not {expected}"
        );
        Ok(())
    }

    /// Says on standard error what goes on.
    pub fn say(&self, text: &str) {
        eprintln!("[{:>5} s] {text}", self.began.elapsed().as_secs());
    }

    /// How long it has been going on, in minutes.
    pub fn minutes(&self) -> f64 {
        self.began.elapsed().as_secs_f64() / 60.0
    }
}

fn program(server: &Server, name: &str) -> PathBuf {
    let beside = server.programs.join(name);
    if beside.is_file() {
        beside
    } else {
        PathBuf::from(name)
    }
}

/// A database in memory is not durable, whatever its settings say: where temporary files are kept
/// there, the server's go where they outlive a restart.
fn choose_disk() -> Result<()> {
    let lasting = Path::new("/var/tmp");
    if !Place::of(&tempfile::env::temp_dir())?.is_memory() {
        return Ok(());
    }
    let on_disk = Place::of(lasting).is_ok_and(|place| !place.is_memory());
    ensure!(
        on_disk,
        "{} and {} are in memory, where nothing is durable: set TMPDIR to a folder on a disk",
        tempfile::env::temp_dir().display(),
        lasting.display()
    );
    let taken = tempfile::env::override_temp_dir(lasting);
    taken
        .map_err(|other| anyhow::anyhow!("temporary files are already kept in {}", other.display()))
        .context("choosing a disk")
}
