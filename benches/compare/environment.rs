//! The environment that all contenders share: a durable PostgreSQL server with an empty table, the
//! token sources and the scratch folders.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, ensure};
use postgres::Client;

use crate::command_output::command_output;
use crate::file_system::FileSystem;
use crate::options::Scale;
use crate::scratch_folders::ScratchFolders;
use crate::server_cpu::server_cpu_seconds;
use crate::sql::{COUNT_TOKENS, CREATE_STORE_PROCEDURE};
use crate::test_support::database::{Database, Login, STANDARD_TABLE};
use crate::test_support::postgres::{Server, ServerSetup};
use crate::token_source::{SourceBehavior, TokenKind, TokenSource};

/// Settings in addition to the durable ones of the test server.
///
/// They keep checkpoints and autovacuum out of the measured time.
const POSTGRESQL_CONF: &str =
    "max_wal_size = 8GB\ncheckpoint_timeout = 1h\nautovacuum = off\nmax_connections = ";
/// The connections that the server allows: more than twice those of the largest setting, because
/// token_service takes at most half of the free ones if it chooses their number itself.
pub const MAX_CONNECTIONS: u32 = 200;

/// The environment of the benchmark.
pub struct BenchEnvironment {
    /// The sizes and rounds of the measurements.
    pub scale: Scale,
    /// The folders for the files of the runs.
    pub scratch: ScratchFolders,
    stored_source: TokenSource,
    mixed_source: TokenSource,
    admin: Client,
    database: Database,
    server: Server,
    started: Instant,
}

impl BenchEnvironment {
    /// Starts the server and the sources.
    ///
    /// # Errors
    /// If a required program is missing or no durable disk is found.
    pub fn start(scale: Scale) -> Result<Self> {
        let started = Instant::now();
        choose_durable_temp_folder()?;
        let scratch = ScratchFolders::create()?;
        let server = Server::start(&ServerSetup {
            conf: &format!("{POSTGRESQL_CONF}{MAX_CONNECTIONS}\n"),
            ..ServerSetup::default()
        });
        for name in ["pgbench", "psql", "curl"] {
            let program = find_program(&server, name);
            let version = command_output(&program.to_string_lossy(), &["--version"]);
            ensure!(
                version.is_some(),
                "{name} is not installed\nhint: on Debian and Ubuntu, install the packages \
                 postgresql and curl"
            );
        }
        let database = Database::on(&server)
            .with_sql(STANDARD_TABLE)
            .with_receipts()
            .with_sql(CREATE_STORE_PROCEDURE);
        Ok(Self {
            scale,
            scratch,
            stored_source: TokenSource::start(TokenKind::AllStored, SourceBehavior::default())?,
            mixed_source: TokenSource::start(TokenKind::SomeRejected, SourceBehavior::default())?,
            admin: database.admin(),
            database,
            server,
            started,
        })
    }

    /// Returns the login of the role that owns the table.
    pub fn login(&self) -> &Login {
        &self.database
    }

    /// Returns the source of these tokens.
    pub fn source(&self, kind: TokenKind) -> &TokenSource {
        match kind {
            TokenKind::AllStored => &self.stored_source,
            TokenKind::SomeRejected => &self.mixed_source,
        }
    }

    /// Returns the folder that contains the data directory and the sockets of the server.
    pub fn server_folder(&self) -> &Path {
        self.server.sockets.parent().unwrap_or(&self.server.sockets)
    }

    /// Returns the version of the server.
    pub fn server_version(&mut self) -> Result<String> {
        let row = self.admin.query_one("SHOW server_version", &[])?;
        Ok(row.get(0))
    }

    /// Returns the CPU time that the server has used, in seconds.
    pub fn server_cpu_seconds(&self) -> Result<f64> {
        server_cpu_seconds(&self.server_folder().join("data"))
    }

    /// Returns the path of a PostgreSQL client program.
    pub fn program(&self, name: &str) -> PathBuf {
        find_program(&self.server, name)
    }

    /// Prepares the next run: empties the table and the folders, and makes a checkpoint.
    pub fn reset(&mut self) -> Result<()> {
        self.stored_source.reset();
        self.mixed_source.reset();
        self.scratch.clear()?;
        self.admin
            .batch_execute("TRUNCATE secret_tokens, token_receipts RESTART IDENTITY")?;
        self.admin.batch_execute("CHECKPOINT")?;
        Ok(())
    }

    /// Checks that the table contains `expected` tokens.
    ///
    /// # Errors
    /// If the number differs.
    pub fn expect_rows(&mut self, expected: u64) -> Result<()> {
        let found: i64 = self.admin.query_one(COUNT_TOKENS, &[])?.get(0);
        ensure!(
            u64::try_from(found) == Ok(expected),
            "the table contains {found} tokens, expected {expected}"
        );
        Ok(())
    }

    /// Prints a progress line with the elapsed time on standard error.
    pub fn print_progress(&self, text: &str) {
        eprintln!("[{:>5} s] {text}", self.started.elapsed().as_secs());
    }

    /// Returns the elapsed time in minutes.
    pub fn elapsed_minutes(&self) -> f64 {
        self.started.elapsed().as_secs_f64() / 60.0
    }
}

/// Finds a client program in the folder of the server programs, or else through `PATH`.
fn find_program(server: &Server, name: &str) -> PathBuf {
    let path = server.programs.join(name);
    if path.is_file() {
        path
    } else {
        PathBuf::from(name)
    }
}

/// Moves temporary files to `/var/tmp` if their default folder is in memory.
///
/// A database in memory is not durable, whatever its settings are.
fn choose_durable_temp_folder() -> Result<()> {
    let default = tempfile::env::temp_dir();
    if !FileSystem::containing(&default)?.is_in_memory() {
        return Ok(());
    }
    let durable = Path::new("/var/tmp");
    let is_on_disk =
        FileSystem::containing(durable).is_ok_and(|file_system| !file_system.is_in_memory());
    ensure!(
        is_on_disk,
        "{} and {} are in memory, so the database would not be durable\nhint: set TMPDIR to a \
         folder on disk",
        default.display(),
        durable.display()
    );
    tempfile::env::override_temp_dir(durable)
        .map_err(|current| {
            anyhow!(
                "the folder for temporary files is already set to {}",
                current.display()
            )
        })
        .context("cannot move temporary files to a disk")
}
