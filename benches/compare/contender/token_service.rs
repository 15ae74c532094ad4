//! token_service as a contender: the release binary with the settings that a comparison varies.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use rusqlite::Connection;

use crate::environment::BenchEnvironment;
use crate::measured_command::MeasuredCommand;
use crate::sql::{COUNT_TOKENS, CREATE_SQLITE_TABLE};
use crate::statistics::Sample;
use crate::token_source::{TokenKind, TokenSource};

/// The settings of a run of token_service. A setting that is `None` keeps its default.
#[derive(Clone, Debug, Default)]
pub struct TokenService {
    /// The port of a proxy in front of the server.
    pub port: Option<u16>,
    /// The SQLite file to store into. `None` means PostgreSQL.
    pub sqlite: Option<SqliteFile>,
    /// Fetch tokens of which the table rejects 28 %.
    pub some_rejected: bool,
    /// `--connections`.
    pub connections: Option<u32>,
    /// The format of a report to a file. `None` means `text` on standard output.
    pub report: Option<&'static str>,
    /// Discard standard output.
    pub discard_stdout: bool,
}

/// The place of an SQLite file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SqliteFile {
    /// On disk.
    OnDisk,
    /// In memory, where a sync costs nothing.
    InMemory,
}

impl TokenService {
    /// Returns the name for tables.
    pub fn name(&self) -> String {
        let mut name = "token_service".to_owned();
        match self.sqlite {
            Some(SqliteFile::OnDisk) => name.push_str(", SQLite file"),
            Some(SqliteFile::InMemory) => name.push_str(", SQLite in memory"),
            None => {}
        }
        if self.some_rejected {
            name.push_str(", 28 % rejected");
        }
        if let Some(connections) = self.connections {
            let _ = write!(name, ", {connections} connections");
        }
        name
    }

    /// Returns the command for `tokens` tokens.
    pub fn command(&self, env: &BenchEnvironment, tokens: u64) -> MeasuredCommand {
        let mut login = env.login().clone();
        login.port = self.port.unwrap_or(login.port);
        let database_url = match self.sqlite {
            None => login.url(),
            Some(file) => format!("sqlite:{}", sqlite_path(env, file).display()),
        };
        let mut command = MeasuredCommand::new(env!("CARGO_BIN_EXE_token_service"))
            .env("TOKEN_HOST", self.source(env).url())
            .env("DATABASE_URL", database_url)
            .arg(tokens.to_string());
        if !self.discard_stdout {
            command = command.stdout(&env.scratch.on_disk("report"));
        }
        if let Some(connections) = self.connections {
            command = command.arg("--connections").arg(connections.to_string());
        }
        if let Some(format) = self.report {
            let path = env.scratch.on_disk("report-file");
            command = command
                .arg("--report")
                .arg(format!("{format}={}", path.display()));
        }
        command
    }

    /// Creates the SQLite file with its table, if the run stores into one.
    pub fn prepare(&self, env: &BenchEnvironment) -> Result<()> {
        if let Some(file) = self.sqlite {
            Connection::open(sqlite_path(env, file))?.execute_batch(CREATE_SQLITE_TABLE)?;
        }
        Ok(())
    }

    /// Stores the tokens and compares the table with the tokens that the source served.
    pub fn run(&self, env: &mut BenchEnvironment, tokens: u64) -> Result<Sample> {
        self.prepare(env)?;
        let usage = self.command(env, tokens).run()?;
        let (served, rejected) = self.source(env).served();
        ensure!(
            served == tokens,
            "the source served {served} tokens, expected {tokens}"
        );
        let expected = tokens - rejected;
        if let Some(file) = self.sqlite {
            let connection = Connection::open(sqlite_path(env, file))?;
            let found: i64 = connection.query_row(COUNT_TOKENS, [], |row| row.get(0))?;
            ensure!(
                u64::try_from(found) == Ok(expected),
                "the SQLite table contains {found} tokens, expected {expected}"
            );
        } else {
            env.expect_rows(expected)?;
        }
        Ok(Sample::from_usage(&usage, tokens))
    }

    fn source<'a>(&self, env: &'a BenchEnvironment) -> &'a TokenSource {
        env.source(if self.some_rejected {
            TokenKind::SomeRejected
        } else {
            TokenKind::AllStored
        })
    }
}

fn sqlite_path(env: &BenchEnvironment, file: SqliteFile) -> PathBuf {
    match file {
        SqliteFile::OnDisk => env.scratch.on_disk("tokens.db"),
        SqliteFile::InMemory => env.scratch.in_memory("tokens.db"),
    }
}
