//! The `start` section: the time from the start of the process until the source receives the first
//! request.
//!
//! Before the first request, token_service compiles and checks the script, connects to the database
//! and checks the table.

use anyhow::{Context as _, Result};

use crate::contender::token_service::{SqliteFile, TokenService};
use crate::contender::with_libpq_login;
use crate::environment::BenchEnvironment;
use crate::measured_command::{MeasuredCommand, ResourceUsage};
use crate::results::{BenchResults, Goal};
use crate::statistics::MedianRange;
use crate::table::Table;
use crate::token_source::TokenKind;

/// The maximum time until the first request, in milliseconds.
const MAX_MILLIS: f64 = 10.0;

/// Measures the section.
pub fn measure(env: &mut BenchEnvironment) -> Result<BenchResults> {
    let (mut sqlite, mut postgres) = (Vec::new(), Vec::new());
    let (mut psql, mut version) = (Vec::new(), Vec::new());
    let sqlite_run = TokenService {
        sqlite: Some(SqliteFile::OnDisk),
        ..TokenService::default()
    };
    for _ in 0..env.scale.short_rounds {
        sqlite.push(millis_until_request(env, &sqlite_run)?);
        postgres.push(millis_until_request(env, &TokenService::default())?);
        let login = env.login();
        let empty_psql =
            with_libpq_login(MeasuredCommand::new(env.program("psql")), login, login.port);
        psql.push(wall_millis(&empty_psql.args(["-Xqc", ""]).run()?));
        let token_service = MeasuredCommand::new(env!("CARGO_BIN_EXE_token_service"));
        version.push(wall_millis(&token_service.arg("--version").run()?));
    }
    let mut table = Table::new(
        "Start-up time",
        format!(
            "From before the process starts until its first request arrives at the source, with the \
             database connected and checked. The last two rows are whole processes, for comparison. \
             {} rounds.",
            env.scale.short_rounds
        ),
        &["measurement", "ms"],
    );
    let (sqlite, postgres) = (MedianRange::of(sqlite), MedianRange::of(postgres));
    for (name, times) in [
        (
            "token_service, SQLite file, until the first request",
            sqlite,
        ),
        (
            "token_service, PostgreSQL, until the first request",
            postgres,
        ),
        ("psql that connects and exits", MedianRange::of(psql)),
        ("token_service --version", MedianRange::of(version)),
    ] {
        table.add_row([name.to_owned(), times.format(1)]);
    }
    env.print_progress(&format!(
        "start: SQLite {} ms, PostgreSQL {} ms",
        sqlite.format(1),
        postgres.format(1)
    ));
    let goal = |store: &str, time: MedianRange| {
        let work = format!("ready to send the first request, {store} connected");
        let measured = format!("{} ms", time.format(1));
        Goal::figure(work, "≤ 10 ms", measured, time.median <= MAX_MILLIS)
    };
    Ok(BenchResults {
        goals: vec![goal("SQLite", sqlite), goal("PostgreSQL", postgres)],
        tables: vec![table],
        ..BenchResults::default()
    })
}

/// Runs token_service and returns the time until the first request, in milliseconds.
fn millis_until_request(env: &mut BenchEnvironment, token_service: &TokenService) -> Result<f64> {
    env.reset()?;
    token_service.prepare(env)?;
    let usage = token_service.command(env, 1).run()?;
    let request = env.source(TokenKind::AllStored).first_request();
    let request = request.context("the source received no request")?;
    Ok((request - usage.started) as f64 / 1e6)
}

fn wall_millis(usage: &ResourceUsage) -> f64 {
    usage.wall * 1e3
}
