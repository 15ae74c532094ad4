//! Throughput against round-trip time, for the chart.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::super::contender::Contender;
use super::super::delay::Delay;
use super::super::findings::{Curve, Findings, Table};
use super::super::product::TokenService;
use super::super::rounds::alternate;
use super::super::series::Spread;
use super::super::stage::Stage;
use super::super::support::database::Login;
use super::far::CONNECTIONS;

/// Round trips in milliseconds; at 0 there is no proxy.
pub const ROUND_TRIPS: [u32; 5] = [0, 1, 5, 20, 50];
/// The most rounds.
const ROUNDS: usize = 3;
/// Tokens a second that token_service is expected to store wherever the server is, to choose how many.
const EXPECTED: f64 = 10_000.0;
/// What a transaction takes on the local server, seen by a client that waits for it, in seconds.
const LOCAL: f64 = 0.0007;

/// Measures it.
pub fn measure(stage: &mut Stage) -> Result<Findings> {
    let mut curves: Vec<Curve> = Vec::new();
    let rounds = stage.scale.rounds.min(ROUNDS);
    let mut table = Table::new(
        "Throughput against round-trip time",
        format!(
            "Tokens per second, connecting included. token_service runs with its defaults and with 8 \
             connections, pgbench with 8 clients. {rounds} rounds. There is no proxy at 0 ms."
        ),
        &["round trip"],
    );
    for milliseconds in ROUND_TRIPS {
        let distance = Duration::from_millis(milliseconds.into());
        let proxy = (milliseconds > 0)
            .then(|| Delay::before(stage.login().port, distance))
            .transpose()?;
        let port = proxy
            .as_ref()
            .map_or(stage.login().port, |proxy| proxy.port);
        let contenders = contenders(stage, port, distance);
        let title = format!("distance {milliseconds} ms");
        let all = alternate(stage, &title, rounds, &contenders)?;
        let mut cells = vec![format!("{milliseconds} ms")];
        for (index, series) in all.iter().enumerate() {
            if curves.len() == index {
                table.head.push(series.name.clone());
                curves.push(Curve {
                    name: series.name.clone(),
                    points: Vec::new(),
                });
            }
            curves[index]
                .points
                .push((f64::from(milliseconds), series.rate().median));
            cells.push(series.rate().to_string());
        }
        table.row(cells);
    }
    Ok(Findings {
        tables: vec![table],
        curves,
        ..Findings::default()
    })
}

fn contenders(stage: &Stage, port: u16, distance: Duration) -> Vec<(Contender, u64)> {
    let tokens = (stage.scale.point * EXPECTED) as u64;
    let waits = f64::from(CONNECTIONS) / (distance.as_secs_f64() + LOCAL);
    let own = TokenService {
        port: Some(port),
        ..TokenService::default()
    };
    let eight = TokenService {
        connections: Some(CONNECTIONS),
        ..own.clone()
    };
    let pgbench = Contender::Pgbench {
        clients: CONNECTIONS,
        threads: CONNECTIONS,
        port,
    };
    vec![
        (Contender::TokenService(own), tokens),
        (Contender::TokenService(eight), tokens),
        (pgbench, (stage.scale.point * waits) as u64),
    ]
}

/// What a round trip to that port takes, a SELECT included, in seconds.
pub fn round_trip(stage: &Stage, port: u16) -> Result<Spread> {
    let login = Login {
        port,
        ..stage.login().clone()
    };
    let mut client = login.client();
    let mut times = Vec::new();
    for _ in 0..11 {
        let start = Instant::now();
        client.simple_query("SELECT 1")?;
        times.push(start.elapsed().as_secs_f64());
    }
    Ok(Spread::of(times))
}
