//! 10,000 tokens against what an operator would type and what a user would write, into PostgreSQL and
//! into an SQLite file.

use anyhow::Result;

use super::super::contender::Contender;
use super::super::findings::{Bound, Findings, Goal};
use super::super::product::TokenService;
use super::super::psycopg;
use super::super::rounds::alternate;
use super::super::series::{Sample, count};
use super::super::stage::Stage;
use super::{comparison, rate};

/// Measures it.
pub fn measure(stage: &mut Stage) -> Result<Findings> {
    let tokens = stage.scale.small;
    let python = psycopg::find(stage);
    let sqlite = TokenService {
        sqlite: Some(false),
        ..TokenService::default()
    };
    let mut contenders = vec![
        (Contender::TokenService(TokenService::default()), tokens),
        (Contender::CurlPsql, tokens),
        (Contender::TokenService(sqlite), tokens),
    ];
    let mut note = "`curl | psql` sends one INSERT per token over one connection. ".to_owned();
    match python {
        Some(python) => {
            note.push_str(&python.version);
            note.push_str(". ");
            contenders.push((Contender::Psycopg(python), tokens));
        }
        None => note.push_str("Python with psycopg 3 could not be installed here. "),
    }
    note.push_str("The SQLite file is synced at each commit.");
    let all = alternate(stage, "small", stage.scale.rounds, &contenders)?;
    let (own, psql) = (&all[0], &all[1]);
    let goal = Goal::ratio(
        format!("{} tokens, local server, whole process", count(tokens)),
        Bound::AtLeast(4.0, "curl | psql"),
        [rate(own), rate(psql)],
        own.ratio(psql, Sample::rate),
    );
    let title = format!("{} tokens, local server", count(tokens));
    Ok(Findings {
        goals: vec![goal],
        tables: vec![comparison(title, &note, &all, 0)],
        ..Findings::default()
    })
}
