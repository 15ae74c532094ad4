//! The start: from the moment in which the process is asked of the operating system to the moment in
//! which the source has read the head of its first request. By then token_service has compiled and
//! checked the script, connected the database and looked at its table.

use anyhow::{Context as _, Result};

use super::super::contender::libpq;
use super::super::findings::{Findings, Goal, Table};
use super::super::gauge::{Task, Usage};
use super::super::product::TokenService;
use super::super::series::Spread;
use super::super::stage::Stage;

/// How soon the first request should be there, in milliseconds.
const SOON: f64 = 10.0;

/// Measures it.
pub fn measure(stage: &mut Stage) -> Result<Findings> {
    let (mut sqlite, mut postgres) = (Vec::new(), Vec::new());
    let (mut psql, mut version) = (Vec::new(), Vec::new());
    let file = TokenService {
        sqlite: Some(false),
        ..TokenService::default()
    };
    for _ in 0..stage.scale.short_rounds {
        sqlite.push(until_asked(stage, &file)?);
        postgres.push(until_asked(stage, &TokenService::default())?);
        let login = stage.login();
        let nothing = libpq(Task::new(stage.program("psql")), login, login.port);
        psql.push(wall(&nothing.args(["-Xqc", ""]).run()?));
        let own = Task::new(env!("CARGO_BIN_EXE_token_service"));
        version.push(wall(&own.arg("--version").run()?));
    }
    let mut table = Table::new(
        "Start-up time",
        format!(
            "From before the process starts until its first request arrives at the source, with the \
             database connected and checked. The last two rows are whole processes, for comparison. \
             {} rounds.",
            stage.scale.short_rounds
        ),
        &["what", "ms"],
    );
    let (sqlite, postgres) = (Spread::of(sqlite), Spread::of(postgres));
    for (what, times) in [
        (
            "token_service, SQLite file, until the first request",
            sqlite,
        ),
        (
            "token_service, PostgreSQL, until the first request",
            postgres,
        ),
        ("psql that connects and ends", Spread::of(psql)),
        ("token_service --version", Spread::of(version)),
    ] {
        table.row([what.to_owned(), times.show(1)]);
    }
    stage.say(&format!(
        "start: SQLite {} ms, PostgreSQL {} ms",
        sqlite.show(1),
        postgres.show(1)
    ));
    let goal = |store: &str, time: Spread| {
        let work = format!("ready to send the first request, {store} connected");
        let measured = format!("{} ms", time.show(1));
        Goal::figure(work, "≤ 10 ms", measured, time.median <= SOON)
    };
    Ok(Findings {
        goals: vec![goal("SQLite", sqlite), goal("PostgreSQL", postgres)],
        tables: vec![table],
        ..Findings::default()
    })
}

/// In milliseconds.
fn until_asked(stage: &mut Stage, own: &TokenService) -> Result<f64> {
    stage.clear()?;
    own.prepare(stage)?;
    let usage = own.task(stage, 1).run()?;
    let asked = stage.stored.first_asked().context("the source was asked")?;
    Ok((asked - usage.started) as f64 / 1e6)
}

fn wall(usage: &Usage) -> f64 {
    usage.wall * 1e3
}
