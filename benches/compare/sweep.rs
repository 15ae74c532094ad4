//! The sweep: throughput for combinations of connections and inserts in flight, and for page sizes.
//!
//! The default settings are chosen from its tables.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::contender::Contender;
use crate::contender::token_service::TokenService;
use crate::delay::Delay;
use crate::environment::BenchEnvironment;
use crate::format::format_count;
use crate::machine::Machine;
use crate::rounds::run_rounds;
use crate::statistics::{ContenderSamples, MedianRange};
use crate::table::Table;

const CONNECTIONS: [u32; 6] = [2, 4, 8, 16, 32, 64];
const PIPELINES: [u32; 7] = [1, 4, 8, 16, 32, 64, 128];
const PAGE_SIZES: [u64; 5] = [1_000, 2_500, 10_000, 50_000, 100_000];
/// The round-trip time of the remote server.
const REMOTE_ROUND_TRIP: Duration = Duration::from_millis(20);
/// The highest expected throughput of all settings, in tokens per second.
const MAX_EXPECTED_RATE: f64 = 15_000.0;
/// The maximum number of rounds. Two are enough, because the differences are large.
const MAX_ROUNDS: usize = 2;

/// A server that the sweep measures.
struct SweepServer {
    name: &'static str,
    port: u16,
    round_trip: Duration,
}

/// Runs the sweep, prints its tables and writes them to `path`.
///
/// # Errors
/// If a run fails or `path` cannot be written.
pub fn run(env: &mut BenchEnvironment, machine: &Machine, quick: bool, path: &Path) -> Result<()> {
    let proxy = Delay::before(env.login().port, REMOTE_ROUND_TRIP)?;
    let servers = [
        SweepServer {
            name: "local server",
            port: env.login().port,
            round_trip: Duration::ZERO,
        },
        SweepServer {
            name: "20 ms round trip",
            port: proxy.port,
            round_trip: REMOTE_ROUND_TRIP,
        },
    ];
    let mut tables = Vec::new();
    for server in &servers {
        tables.push(measure_connections(env, server, quick)?);
    }
    tables.push(measure_page_sizes(env, &servers, quick)?);
    let mut document = String::from(
        "# Sweep\n\nWritten by `cargo bench --locked -- --sweep`; do not edit. Tokens per second of \
         whole processes, medians. The best value of each table is in bold.\n\n",
    );
    for (name, value) in &machine.facts {
        let _ = writeln!(document, "- {name}: {value}");
    }
    for table in &tables {
        print!("{}", table.to_columns());
        let _ = writeln!(document, "\n## {}\n\n{}", table.title, table.note);
        document.push_str(&table.to_markdown());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, document)?;
    println!("\nwrote {}", path.display());
    Ok(())
}

/// Measures all combinations of connections and inserts in flight.
fn measure_connections(
    env: &mut BenchEnvironment,
    server: &SweepServer,
    quick: bool,
) -> Result<Table> {
    let step = if quick { 3 } else { 1 };
    let connections: Vec<u32> = CONNECTIONS.into_iter().step_by(step).collect();
    let pipelines: Vec<u32> = PIPELINES.into_iter().step_by(step).collect();
    let mut contenders = Vec::new();
    for &connections in &connections {
        for &pipeline in &pipelines {
            let token_service = TokenService {
                port: Some(server.port),
                connections: Some(connections),
                pipeline: Some(pipeline),
                ..TokenService::default()
            };
            let tokens = choose_tokens(env, server, connections * pipeline);
            contenders.push((Contender::TokenService(token_service), tokens));
        }
    }
    let rounds = env.scale.rounds.min(MAX_ROUNDS);
    let results = run_rounds(env, server.name, rounds, &contenders)?;
    let header: Vec<String> = std::iter::once("connections".to_owned())
        .chain(
            pipelines
                .iter()
                .map(|pipeline| format!("{pipeline} in flight")),
        )
        .collect();
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let title = format!("Connections and inserts in flight, {}", server.name);
    let mut table = Table::new(title, "", &header);
    let best = best_rate(&results);
    for (row, connections) in results.chunks(pipelines.len()).zip(connections) {
        let cells = row
            .iter()
            .map(|result| format_rate(result.throughput(), best));
        table.add_row(std::iter::once(connections.to_string()).chain(cells));
    }
    Ok(table)
}

/// Measures the page sizes with the default connections and inserts in flight.
fn measure_page_sizes(
    env: &mut BenchEnvironment,
    servers: &[SweepServer],
    quick: bool,
) -> Result<Table> {
    let sizes: Vec<u64> = PAGE_SIZES
        .into_iter()
        .step_by(if quick { 2 } else { 1 })
        .collect();
    let mut table = Table::new(
        "Page sizes, default connections and inserts in flight",
        "",
        &["page size"],
    );
    let mut rows: Vec<Vec<String>> = sizes.iter().map(|size| vec![format_count(*size)]).collect();
    for server in servers {
        let tokens = env.scale.local;
        let contenders: Vec<_> = sizes
            .iter()
            .map(|&size| {
                let token_service = TokenService {
                    port: Some(server.port),
                    page_size: Some(size),
                    ..TokenService::default()
                };
                (Contender::TokenService(token_service), tokens)
            })
            .collect();
        let rounds = env.scale.rounds.min(MAX_ROUNDS);
        let results = run_rounds(env, server.name, rounds, &contenders)?;
        let best = best_rate(&results);
        table.header.push(server.name.to_owned());
        for (row, result) in rows.iter_mut().zip(&results) {
            row.push(format_rate(result.throughput(), best));
        }
    }
    table.rows = rows;
    Ok(table)
}

/// Chooses the number of tokens so that all settings take about the same time.
fn choose_tokens(env: &BenchEnvironment, server: &SweepServer, in_flight: u32) -> u64 {
    let round_trip = server.round_trip.as_secs_f64() + 0.001;
    let expected_rate = (f64::from(in_flight) / round_trip).min(MAX_EXPECTED_RATE);
    (expected_rate * env.scale.point_seconds) as u64
}

fn best_rate(results: &[ContenderSamples]) -> f64 {
    results
        .iter()
        .map(|result| result.throughput().median)
        .fold(0.0, f64::max)
}

fn format_rate(rate: MedianRange, best: f64) -> String {
    let text = format_count(rate.median as u64);
    if rate.median >= best {
        format!("**{text}**")
    } else {
        text
    }
}
