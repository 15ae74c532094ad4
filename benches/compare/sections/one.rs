//! One token: nothing but starting, connecting and ending, against `curl` and `psql` for the same.

use anyhow::Result;

use super::super::contender::Contender;
use super::super::findings::{Bound, Findings, Goal, Table};
use super::super::product::TokenService;
use super::super::rounds::alternate;
use super::super::series::{Sample, Series};
use super::super::stage::Stage;

/// Measures it.
pub fn measure(stage: &mut Stage) -> Result<Findings> {
    let sqlite = TokenService {
        sqlite: Some(false),
        ..TokenService::default()
    };
    let contenders = [
        Contender::TokenService(TokenService::default()),
        Contender::CurlPsql,
        Contender::TokenService(sqlite),
    ]
    .map(|contender| (contender, 1));
    let all = alternate(stage, "one", stage.scale.short_rounds, &contenders)?;
    let (own, psql) = (&all[0], &all[1]);
    let seconds = |sample: &Sample| sample.seconds;
    let time = |series: &Series| format!("{} ms", series.spread(seconds).times(1e3).show(1));
    let goal = Goal::ratio(
        "SIZE = 1, whole process",
        Bound::AtMost(1.0, "curl | psql"),
        [time(own), time(psql)],
        own.ratio(psql, seconds),
    );
    let mut table = Table::new(
        "One token",
        format!(
            "From the start of the first process to the end of the last one. {} rounds.",
            stage.scale.short_rounds
        ),
        &["contender", "time, ms", "CPU, ms", "ratio"],
    );
    for series in &all {
        table.row([
            series.name.clone(),
            series.spread(seconds).times(1e3).show(1),
            series.spread(|sample| sample.cpu).times(1e3).show(1),
            series.ratio(own, seconds).show(2),
        ]);
    }
    Ok(Findings {
        goals: vec![goal],
        tables: vec![table],
        ..Findings::default()
    })
}
