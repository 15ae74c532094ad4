//! The sweep: throughput over connections and requests in flight on each, near and far, and over page
//! sizes, so that defaults are chosen by measurement.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::contender::Contender;
use super::delay::Delay;
use super::findings::Table;
use super::machine::Machine;
use super::product::TokenService;
use super::rounds::alternate;
use super::series::{Series, Spread, count};
use super::stage::Stage;
use super::text;

const CONNECTIONS: [u32; 6] = [2, 4, 8, 16, 32, 64];
const PIPELINE: [u32; 7] = [1, 4, 8, 16, 32, 64, 128];
const PAGES: [u64; 5] = [1_000, 2_500, 10_000, 50_000, 100_000];
/// The round trip of the far case.
const FAR: Duration = Duration::from_millis(20);
/// The most tokens a second that are expected of any setting.
const EXPECTED: f64 = 15_000.0;
/// The rounds of each setting: what is looked for is large.
const ROUNDS: usize = 2;

/// Where the server is.
struct Case {
    name: &'static str,
    port: u16,
    round_trip: Duration,
}

/// Runs it, prints it and writes it to `path`.
///
/// # Errors
/// Where a run fails.
pub fn run(stage: &mut Stage, machine: &Machine, quick: bool, path: &Path) -> Result<()> {
    let proxy = Delay::before(stage.login().port, FAR)?;
    let cases = [
        Case {
            name: "local server",
            port: stage.login().port,
            round_trip: Duration::ZERO,
        },
        Case {
            name: "20 ms round trip",
            port: proxy.port,
            round_trip: FAR,
        },
    ];
    let mut tables = Vec::new();
    for case in &cases {
        tables.push(matrix(stage, case, quick)?);
    }
    tables.push(pages(stage, &cases, quick)?);
    let mut document = String::from(
        "# Sweep\n\nWritten by `cargo bench --locked -- --sweep`; do not edit. Tokens per second of \
         whole processes, medians. The best of each table is in bold.\n\n",
    );
    for (name, fact) in &machine.facts {
        let _ = writeln!(document, "- {name}: {fact}");
    }
    for table in &tables {
        print!("{}", text::columns(table));
        let _ = writeln!(document, "\n## {}\n\n{}", table.title, table.note);
        document.push_str(&text::markdown(table));
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, document)?;
    println!("\nwrote {}", path.display());
    Ok(())
}

fn matrix(stage: &mut Stage, case: &Case, quick: bool) -> Result<Table> {
    let every = if quick { 3 } else { 1 };
    let connections: Vec<u32> = CONNECTIONS.into_iter().step_by(every).collect();
    let pipelines: Vec<u32> = PIPELINE.into_iter().step_by(every).collect();
    let mut settings = Vec::new();
    for &connections in &connections {
        for &pipeline in &pipelines {
            let own = TokenService {
                port: Some(case.port),
                connections: Some(connections),
                pipeline: Some(pipeline),
                ..TokenService::default()
            };
            let tokens = tokens(stage, case, connections * pipeline);
            settings.push((Contender::TokenService(own), tokens));
        }
    }
    let rounds = stage.scale.rounds.min(ROUNDS);
    let all = alternate(stage, case.name, rounds, &settings)?;
    let head: Vec<String> = std::iter::once("connections".to_owned())
        .chain(
            pipelines
                .iter()
                .map(|pipeline| format!("{pipeline} in flight")),
        )
        .collect();
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    let title = format!("Connections and requests in flight, {}", case.name);
    let mut table = Table::new(title, "", &head);
    let best = best(&all);
    for (row, connections) in all.chunks(pipelines.len()).zip(connections) {
        let cells = row.iter().map(|series| cell(series.rate(), best));
        table.row(std::iter::once(connections.to_string()).chain(cells));
    }
    Ok(table)
}

/// With the default connections and requests in flight.
fn pages(stage: &mut Stage, cases: &[Case], quick: bool) -> Result<Table> {
    let sizes: Vec<u64> = PAGES
        .into_iter()
        .step_by(if quick { 2 } else { 1 })
        .collect();
    let mut table = Table::new(
        "Page sizes, default connections and requests in flight",
        "",
        &["page size"],
    );
    let mut rows: Vec<Vec<String>> = sizes.iter().map(|size| vec![count(*size)]).collect();
    for case in cases {
        let tokens = stage.scale.local;
        let settings: Vec<_> = sizes
            .iter()
            .map(|&size| {
                let own = TokenService {
                    port: Some(case.port),
                    page_size: Some(size),
                    ..TokenService::default()
                };
                (Contender::TokenService(own), tokens)
            })
            .collect();
        let rounds = stage.scale.rounds.min(ROUNDS);
        let all = alternate(stage, case.name, rounds, &settings)?;
        let best = best(&all);
        table.head.push(case.name.to_owned());
        for (row, series) in rows.iter_mut().zip(&all) {
            row.push(cell(series.rate(), best));
        }
    }
    table.rows = rows;
    Ok(table)
}

/// As many as take about as long with any setting: few in flight store few a second.
fn tokens(stage: &Stage, case: &Case, in_flight: u32) -> u64 {
    let round_trip = case.round_trip.as_secs_f64() + 0.001;
    let rate = (f64::from(in_flight) / round_trip).min(EXPECTED);
    (rate * stage.scale.point) as u64
}

fn best(all: &[Series]) -> f64 {
    all.iter()
        .map(|series| series.rate().median)
        .fold(0.0, f64::max)
}

fn cell(rate: Spread, best: f64) -> String {
    let text = count(rate.median as u64);
    if rate.median >= best {
        format!("**{text}**")
    } else {
        text
    }
}
