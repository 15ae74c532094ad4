//! A server that is 20 ms away: what many requests in flight are worth.

use std::time::Duration;

use anyhow::Result;

use super::super::contender::Contender;
use super::super::delay::Delay;
use super::super::findings::{Bound, Findings, Goal};
use super::super::product::TokenService;
use super::super::rounds::alternate;
use super::super::series::{Sample, count};
use super::super::stage::Stage;
use super::distance::round_trip;
use super::{comparison, rate};

/// The distance.
const FAR: Duration = Duration::from_millis(20);
/// Connections of both.
pub const CONNECTIONS: u32 = 8;
/// What the first version stored at that distance, in tokens a second.
const FIRST_VERSION: f64 = 23.0;

/// Measures it.
pub fn measure(stage: &mut Stage) -> Result<Findings> {
    let tokens = stage.scale.far;
    let proxy = Delay::before(stage.login().port, FAR)?;
    let measured = round_trip(stage, proxy.port)?;
    let own = TokenService {
        port: Some(proxy.port),
        connections: Some(CONNECTIONS),
        ..TokenService::default()
    };
    let contenders = [
        Contender::TokenService(own),
        // A thread each, so that they connect at once.
        Contender::Pgbench {
            clients: CONNECTIONS,
            threads: CONNECTIONS,
            port: proxy.port,
        },
    ]
    .map(|contender| (contender, tokens));
    let all = alternate(stage, "far", stage.scale.rounds, &contenders)?;
    let (own, pgbench) = (&all[0], &all[1]);
    let work = format!("{} tokens, 20 ms round trip, 8 connections", count(tokens));
    let goals = vec![
        Goal::ratio(
            work.clone(),
            Bound::AtLeast(25.0, "pgbench with 8 clients"),
            [rate(own), rate(pgbench)],
            own.ratio(pgbench, Sample::rate),
        ),
        Goal::ratio(
            work,
            Bound::AtLeast(300.0, "the first version"),
            [rate(own), "23 tokens/s, measured then".to_owned()],
            own.rate().times(1.0 / FIRST_VERSION),
        ),
    ];
    let note = format!(
        "A proxy delays each byte by 10 ms in each direction. A measured round trip through it took \
         {} ms.",
        measured.times(1e3).show(2)
    );
    let title = format!("{} tokens, 20 ms round trip", count(tokens));
    Ok(Findings {
        goals,
        tables: vec![comparison(title, &note, &all, 0)],
        ..Findings::default()
    })
}
