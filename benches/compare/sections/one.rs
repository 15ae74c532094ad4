//! The `one` section: the duration of a whole process that stores one token.

use anyhow::Result;

use crate::contender::Contender;
use crate::contender::token_service::{SqliteFile, TokenService};
use crate::environment::BenchEnvironment;
use crate::results::{BenchResults, Goal, RatioLimit};
use crate::rounds::run_rounds;
use crate::statistics::{ContenderSamples, Sample};
use crate::table::Table;

/// Measures the section.
pub fn measure(env: &mut BenchEnvironment) -> Result<BenchResults> {
    let sqlite = TokenService {
        sqlite: Some(SqliteFile::OnDisk),
        ..TokenService::default()
    };
    let contenders = [
        Contender::TokenService(TokenService::default()),
        Contender::CurlPsql,
        Contender::TokenService(sqlite),
    ]
    .map(|contender| (contender, 1));
    let results = run_rounds(env, "one", env.scale.short_rounds, &contenders)?;
    let (token_service, psql) = (&results[0], &results[1]);
    let seconds = |sample: &Sample| sample.seconds;
    let format_millis = |samples: &ContenderSamples, figure: fn(&Sample) -> f64| {
        samples.median_range(figure).scaled(1e3).format(1)
    };
    let goal = Goal::ratio(
        "SIZE = 1, whole process",
        RatioLimit::AtMost(1.0, "curl | psql"),
        [token_service, psql].map(|samples| format!("{} ms", format_millis(samples, seconds))),
        token_service.ratio(psql, seconds),
    );
    let mut table = Table::new(
        "One token",
        format!(
            "From the start of the first process to the exit of the last one. {} rounds.",
            env.scale.short_rounds
        ),
        &["contender", "time, ms", "CPU, ms", "ratio"],
    );
    for result in &results {
        table.add_row([
            result.name.clone(),
            format_millis(result, seconds),
            format_millis(result, |sample| sample.client_cpu),
            result.ratio(token_service, seconds).format(2),
        ]);
    }
    Ok(BenchResults {
        goals: vec![goal],
        tables: vec![table],
        ..BenchResults::default()
    })
}
