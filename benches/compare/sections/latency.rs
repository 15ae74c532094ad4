//! The `latency` section: throughput against round-trip time, for the chart.

use std::time::Duration;

use anyhow::Result;

use crate::contender::Contender;
use crate::contender::token_service::TokenService;
use crate::delay::Delay;
use crate::environment::BenchEnvironment;
use crate::results::{BenchResults, Curve};
use crate::rounds::run_rounds;
use crate::table::Table;

/// The measured round-trip times, in milliseconds.
const ROUND_TRIPS: [u32; 5] = [0, 1, 5, 20, 50];
/// The maximum number of rounds.
const MAX_ROUNDS: usize = 3;
/// The number of connections of the contenders that do not use their defaults.
const CONNECTIONS: u32 = 8;
/// The expected throughput of token_service, in tokens per second.
const EXPECTED_RATE: f64 = 10_000.0;
/// The duration of a transaction on the local server, as a client sees it, in seconds.
const LOCAL_TRANSACTION: f64 = 0.0007;

/// Measures the section.
pub fn measure(env: &mut BenchEnvironment) -> Result<BenchResults> {
    let mut curves: Vec<Curve> = Vec::new();
    let rounds = env.scale.rounds.min(MAX_ROUNDS);
    let mut table = Table::new(
        "Throughput against round-trip time",
        format!(
            "Tokens per second, connecting included. token_service runs with its defaults and with 8 \
             connections, pgbench with 8 clients. {rounds} rounds. There is no proxy at 0 ms."
        ),
        &["round trip"],
    );
    for milliseconds in ROUND_TRIPS {
        let round_trip = Duration::from_millis(milliseconds.into());
        let proxy = (milliseconds > 0)
            .then(|| Delay::before(env.login().port, round_trip))
            .transpose()?;
        let port = proxy.as_ref().map_or(env.login().port, |proxy| proxy.port);
        let contenders = contenders(env, port, round_trip);
        let title = format!("latency {milliseconds} ms");
        let results = run_rounds(env, &title, rounds, &contenders)?;
        let mut cells = vec![format!("{milliseconds} ms")];
        for (index, result) in results.iter().enumerate() {
            if curves.len() == index {
                table.header.push(result.name.clone());
                curves.push(Curve {
                    name: result.name.clone(),
                    points: Vec::new(),
                });
            }
            curves[index]
                .points
                .push((f64::from(milliseconds), result.throughput().median));
            cells.push(result.throughput().to_string());
        }
        table.add_row(cells);
    }
    Ok(BenchResults {
        tables: vec![table],
        curves,
        ..BenchResults::default()
    })
}

/// Returns the contenders with their numbers of tokens.
fn contenders(env: &BenchEnvironment, port: u16, round_trip: Duration) -> Vec<(Contender, u64)> {
    let tokens = (env.scale.point_seconds * EXPECTED_RATE) as u64;
    let pgbench_rate = f64::from(CONNECTIONS) / (round_trip.as_secs_f64() + LOCAL_TRANSACTION);
    let with_defaults = TokenService {
        port: Some(port),
        ..TokenService::default()
    };
    let with_few_connections = TokenService {
        connections: Some(CONNECTIONS),
        ..with_defaults.clone()
    };
    let pgbench = Contender::Pgbench {
        clients: CONNECTIONS,
        threads: CONNECTIONS,
        port,
    };
    vec![
        (Contender::TokenService(with_defaults), tokens),
        (Contender::TokenService(with_few_connections), tokens),
        (pgbench, (env.scale.point_seconds * pgbench_rate) as u64),
    ]
}
