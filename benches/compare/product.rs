//! token_service itself as a contender: the release binary, started as a user starts it, with the
//! settings that a comparison is about.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use rusqlite::Connection;

use super::gauge::Task;
use super::series::Sample;
use super::stage::Stage;
use super::supply::Kind;

/// The table of an SQLite file.
const SQLITE: &str = "CREATE TABLE secret_tokens (
    id INTEGER PRIMARY KEY, data TEXT NOT NULL CHECK (data NOT LIKE '%-%'))";

/// How token_service is started; what is `None` is left to its defaults.
#[derive(Clone, Debug, Default)]
pub struct TokenService {
    /// The port of a proxy before the server.
    pub port: Option<u16>,
    /// Into an SQLite file: 'true' for one in memory, where the disk costs nothing.
    pub sqlite: Option<bool>,
    /// Tokens of which the table refuses 28 %.
    pub mixed: bool,
    /// `--connections`.
    pub connections: Option<u32>,
    /// `--pipeline`.
    pub pipeline: Option<u32>,
    /// `--page-size`.
    pub page_size: Option<u64>,
    /// A report's format, written to a path; without, `text` on standard output.
    pub report: Option<&'static str>,
    /// Standard output goes nowhere.
    pub silent: bool,
}

impl TokenService {
    /// What it is called in the tables.
    pub fn name(&self) -> String {
        let mut name = "token_service".to_owned();
        match self.sqlite {
            Some(false) => name.push_str(", SQLite file"),
            Some(true) => name.push_str(", SQLite in memory"),
            None => {}
        }
        if self.mixed {
            name.push_str(", 28 % rejected");
        }
        if let Some(connections) = self.connections {
            let _ = write!(name, ", {connections} connections");
        }
        if let Some(pipeline) = self.pipeline {
            let _ = write!(name, " × {pipeline} in flight");
        }
        if let Some(size) = self.page_size {
            let _ = write!(name, ", pages of {size}");
        }
        name
    }

    /// The command, for a database that is ready.
    pub fn task(&self, stage: &Stage, tokens: u64) -> Task {
        let kind = if self.mixed {
            Kind::Mixed
        } else {
            Kind::Stored
        };
        let mut login = stage.login().clone();
        login.port = self.port.unwrap_or(login.port);
        let url = match self.sqlite {
            None => login.url(),
            Some(_) => format!("sqlite:{}", self.file(stage).display()),
        };
        let mut task = Task::new(env!("CARGO_BIN_EXE_token_service"))
            .env("TOKEN_HOST", stage.supply(kind).url())
            .env("DATABASE_URL", url)
            .arg(tokens.to_string());
        if !self.silent {
            task = task.stdout(&stage.scratch.disk("report"));
        }
        let options = [
            ("--connections", self.connections.map(u64::from)),
            ("--pipeline", self.pipeline.map(u64::from)),
            ("--page-size", self.page_size),
        ];
        for (name, value) in options {
            if let Some(value) = value {
                task = task.arg(name).arg(value.to_string());
            }
        }
        if let Some(format) = self.report {
            let path = stage.scratch.disk("report-on-a-path");
            task = task
                .arg("--report")
                .arg(format!("{format}={}", path.display()));
        }
        task
    }

    /// Makes the SQLite file, where it is one.
    pub fn prepare(&self, stage: &Stage) -> Result<()> {
        if self.sqlite.is_some() {
            Connection::open(self.file(stage))?.execute_batch(SQLITE)?;
        }
        Ok(())
    }

    fn file(&self, stage: &Stage) -> PathBuf {
        match self.sqlite {
            Some(true) => stage.scratch.ram("tokens.db"),
            _ => stage.scratch.disk("tokens.db"),
        }
    }

    /// Runs it, and compares what the source gave with what is in the table.
    pub fn run(&self, stage: &mut Stage, tokens: u64) -> Result<Sample> {
        self.prepare(stage)?;
        let usage = self.task(stage, tokens).run()?;
        let kind = if self.mixed {
            Kind::Mixed
        } else {
            Kind::Stored
        };
        let (given, refused) = stage.supply(kind).given();
        ensure!(given == tokens, "the source gave {given} tokens");
        if self.sqlite.is_some() {
            let file = Connection::open(self.file(stage))?;
            let count = "SELECT count(*) FROM secret_tokens";
            let found: i64 = file.query_row(count, [], |row| row.get(0))?;
            ensure!(u64::try_from(found) == Ok(tokens - refused), "{found} rows");
        } else {
            stage.expect_rows(tokens - refused)?;
        }
        Ok(Sample::of(&usage, tokens))
    }
}
