//! token_service as a contender: the release binary with the settings that a comparison varies.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, ensure};
use rusqlite::Connection;

use crate::environment::BenchEnvironment;
use crate::measured_command::{MeasuredCommand, run_at_once};
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
    /// A source of the section, instead of one of the environment.
    pub source: Option<Arc<TokenSource>>,
    /// `--page-size`. It is not part of the name.
    pub page_size: Option<u64>,
    /// More options with their values.
    pub options: &'static [&'static str],
    /// Run this number of processes at once, each with its part of the tokens.
    pub shards: Option<u32>,
    /// The format of a report to a file. `None` means `text` on standard output.
    pub report: Option<&'static str>,
    /// Discard standard output.
    pub discard_stdout: bool,
    /// Write a receipt with each token.
    pub has_receipts: bool,
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
        if !self.options.is_empty() {
            let _ = write!(name, " {}", self.options.join(" "));
        }
        if let Some(shards) = self.shards {
            let _ = write!(name, ", {shards} shards");
        }
        if self.has_receipts {
            name.push_str(", with receipts");
        }
        name
    }

    /// Returns the command for `tokens` tokens. If there are several shards, it lacks `--shard`.
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
            .arg(tokens.to_string())
            .args(self.options);
        if self.has_receipts {
            command = command.arg("--receipts").arg("token_receipts");
        }
        if !self.discard_stdout {
            command = command.stdout(&env.scratch.on_disk("report"));
        }
        if let Some(page_size) = self.page_size {
            command = command.arg("--page-size").arg(page_size.to_string());
        }
        if let Some(format) = self.report {
            let path = env.scratch.on_disk("report-file");
            command = command
                .arg("--report")
                .arg(format!("{format}={}", path.display()));
        }
        command
    }

    /// Returns the commands of all shards.
    fn shard_commands(
        &self,
        env: &BenchEnvironment,
        tokens: u64,
        shards: u32,
    ) -> Vec<MeasuredCommand> {
        let command = |shard| {
            self.command(env, tokens)
                .arg("--shard")
                .arg(format!("{shard}/{shards}"))
                .stdout(&env.scratch.on_disk(&format!("report-{shard}")))
        };
        (0..shards).map(command).collect()
    }

    /// Resets the source of the section. If the run stores into an SQLite file, creates it.
    pub fn prepare(&self, env: &BenchEnvironment) -> Result<()> {
        self.source(env).reset();
        if let Some(file) = self.sqlite {
            Connection::open(sqlite_path(env, file))?.execute_batch(CREATE_SQLITE_TABLE)?;
        }
        Ok(())
    }

    /// Stores the tokens and compares the table with the tokens that the source served.
    pub fn run(&self, env: &mut BenchEnvironment, tokens: u64) -> Result<Sample> {
        self.prepare(env)?;
        let usage = match self.shards {
            Some(shards) => run_at_once(&self.shard_commands(env, tokens, shards))?,
            None => self.command(env, tokens).run()?,
        };
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

    fn source<'a>(&'a self, env: &'a BenchEnvironment) -> &'a TokenSource {
        let kind = if self.some_rejected {
            TokenKind::SomeRejected
        } else {
            TokenKind::AllStored
        };
        self.source.as_deref().unwrap_or_else(|| env.source(kind))
    }
}

fn sqlite_path(env: &BenchEnvironment, file: SqliteFile) -> PathBuf {
    match file {
        SqliteFile::OnDisk => env.scratch.on_disk("tokens.db"),
        SqliteFile::InMemory => env.scratch.in_memory("tokens.db"),
    }
}
