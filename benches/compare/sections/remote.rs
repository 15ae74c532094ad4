//! The `remote` section: a server with a round-trip time of 20 ms.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::comparison::{comparison_table, format_throughput};
use crate::contender::Contender;
use crate::contender::token_service::TokenService;
use crate::delay::Delay;
use crate::documents::{Figure, Figures};
use crate::environment::BenchEnvironment;
use crate::format::format_count;
use crate::results::{BenchResults, Goal, RatioLimit};
use crate::rounds::run_rounds;
use crate::statistics::{MedianRange, Sample};
use crate::test_support::database::Login;

/// The simulated round-trip time.
const ROUND_TRIP: Duration = Duration::from_millis(20);
/// The number of times that the round-trip time is measured.
const ROUND_TRIP_SAMPLES: usize = 11;
/// The number of connections of both contenders.
const CONNECTIONS: u32 = 8;
/// The throughput of the first version at this round-trip time, in tokens per second.
const FIRST_VERSION_RATE: f64 = 23.0;

/// Measures the section.
pub fn measure(env: &mut BenchEnvironment) -> Result<BenchResults> {
    let tokens = env.scale.remote;
    let proxy = Delay::before(env.login().port, ROUND_TRIP)?;
    let round_trip = measure_round_trip(env, proxy.port)?;
    let token_service = TokenService {
        port: Some(proxy.port),
        options: &["--connections", "8"],
        ..TokenService::default()
    };
    let contenders = [
        Contender::TokenService(token_service),
        // One thread per client, so that the clients connect concurrently.
        Contender::Pgbench {
            clients: CONNECTIONS,
            threads: CONNECTIONS,
            port: proxy.port,
        },
    ]
    .map(|contender| (contender, tokens));
    let results = run_rounds(env, "remote", env.scale.rounds, &contenders)?;
    let (token_service, pgbench) = (&results[0], &results[1]);
    let work = format!(
        "{} tokens, 20 ms round trip, 8 connections",
        format_count(tokens)
    );
    let goals = vec![
        Goal::ratio(
            work.clone(),
            RatioLimit::AtLeast(35.0, "pgbench with 8 clients"),
            [format_throughput(token_service), format_throughput(pgbench)],
            token_service.ratio(pgbench, Sample::tokens_per_second),
        ),
        Goal::ratio(
            work,
            RatioLimit::AtLeast(300.0, "the first version"),
            [
                format_throughput(token_service),
                "23 tokens/s, measured earlier".to_owned(),
            ],
            token_service.throughput().scaled(1.0 / FIRST_VERSION_RATE),
        ),
    ];
    let note = format!(
        "A proxy delays each byte by 10 ms in each direction. A measured round trip through it took \
         {} ms.",
        round_trip.scaled(1e3).format(2)
    );
    let title = format!("{} tokens, 20 ms round trip", format_count(tokens));
    Ok(BenchResults {
        goals,
        tables: vec![comparison_table(title, &note, &results, 0)],
        figures: Figures::from([
            (Figure::Remote, token_service.format_rate()),
            (Figure::RemotePgbench, pgbench.format_rate()),
        ]),
    })
}

/// Measures the duration of a `SELECT 1` through that port, in seconds.
fn measure_round_trip(env: &BenchEnvironment, port: u16) -> Result<MedianRange> {
    let login = Login {
        port,
        ..env.login().clone()
    };
    let mut client = login.client();
    let mut times = Vec::new();
    for _ in 0..ROUND_TRIP_SAMPLES {
        let start = Instant::now();
        client.simple_query("SELECT 1")?;
        times.push(start.elapsed().as_secs_f64());
    }
    Ok(MedianRange::of(times))
}
