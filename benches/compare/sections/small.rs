//! The `small` section: 10,000 tokens into PostgreSQL and into an SQLite file, compared with
//! `curl | psql` and with a Python program.

use anyhow::Result;

use super::comparison::{comparison_table, format_throughput};
use crate::contender::Contender;
use crate::contender::psycopg::Psycopg;
use crate::contender::token_service::{SqliteFile, TokenService};
use crate::environment::BenchEnvironment;
use crate::format::format_count;
use crate::results::{BenchResults, Goal, RatioLimit};
use crate::rounds::run_rounds;
use crate::statistics::Sample;

/// Measures the section.
pub fn measure(env: &mut BenchEnvironment) -> Result<BenchResults> {
    let tokens = env.scale.small;
    let psycopg = Psycopg::find_or_install(env);
    let sqlite = TokenService {
        sqlite: Some(SqliteFile::OnDisk),
        ..TokenService::default()
    };
    let mut contenders = vec![
        (Contender::TokenService(TokenService::default()), tokens),
        (Contender::CurlPsql, tokens),
        (Contender::TokenService(sqlite), tokens),
    ];
    let mut note = "`curl | psql` sends one INSERT per token over one connection. ".to_owned();
    match psycopg {
        Some(psycopg) => {
            note.push_str(&psycopg.versions);
            note.push_str(". ");
            contenders.push((Contender::Psycopg(psycopg), tokens));
        }
        None => note.push_str("Python with psycopg 3 could not be installed. "),
    }
    note.push_str("The SQLite file is synced at each commit.");
    let results = run_rounds(env, "small", env.scale.rounds, &contenders)?;
    let (token_service, psql) = (&results[0], &results[1]);
    let goal = Goal::ratio(
        format!(
            "{} tokens, local server, whole process",
            format_count(tokens)
        ),
        RatioLimit::AtLeast(4.0, "curl | psql"),
        [format_throughput(token_service), format_throughput(psql)],
        token_service.ratio(psql, Sample::tokens_per_second),
    );
    let title = format!("{} tokens, local server", format_count(tokens));
    Ok(BenchResults {
        goals: vec![goal],
        tables: vec![comparison_table(title, &note, &results, 0)],
        ..BenchResults::default()
    })
}
