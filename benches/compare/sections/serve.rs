//! The `serve` section: runs of the service over kept connections, compared with the command.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use crate::contender::Contender;
use crate::contender::token_service::TokenService;
use crate::environment::BenchEnvironment;
use crate::format::{format_count, format_number};
use crate::results::{BenchResults, Goal, RatioLimit};
use crate::service::{Service, ServiceClient};
use crate::statistics::{ContenderSamples, MedianRange, Sample};
use crate::table::Table;
use crate::token_source::{SourceBehavior, TokenKind, TokenSource};

/// The runs of one token whose median is a sample.
const SMALL_RUNS: usize = 200;
/// The clients that start runs of one token at a time.
const CLIENTS: usize = 8;
/// The event streams that wait.
const STREAMS: usize = 200;
/// The longest median of a run of one token, in milliseconds.
const MAX_MILLIS: f64 = 3.0;
/// The fewest runs per second.
const MIN_RUNS: f64 = 400.0;
/// The largest memory with waiting streams, in MiB.
const MAX_MEMORY: f64 = 64.0;

/// Measures the section.
pub fn measure(env: &mut BenchEnvironment) -> Result<BenchResults> {
    env.reset()?;
    let service = Service::start(env, env.source(TokenKind::AllStored), &[])?;
    let latencies = one_token(env, &service)?;
    let rates = runs_per_second(env, &service)?;
    let [command, streamed] = streamed(env, &service)?;
    drop(service);
    let memory = waiting_streams(env)?;
    let ratio = streamed.ratio(&command, Sample::tokens_per_second);
    let tokens = format_count(env.scale.local);
    let goals = vec![
        Goal::figure(
            "service: SIZE = 1 over a kept connection",
            "median ≤ 3 ms",
            format!("{} ms", latencies.format(2)),
            latencies.median <= MAX_MILLIS,
        ),
        Goal::figure(
            format!("service: runs of one token, {CLIENTS} clients"),
            "≥ 400 runs/s",
            format!("{} runs/s", rates.format(0)),
            rates.median >= MIN_RUNS,
        ),
        Goal::ratio(
            format!("service: {tokens} tokens, streamed"),
            RatioLimit::AtLeast(0.95, "the command"),
            [&streamed, &command].map(|result| format!("{} tokens/s", result.throughput())),
            ratio,
        ),
        Goal::figure(
            format!("service: memory with {STREAMS} waiting event streams"),
            "≤ 64 MiB",
            format!("{} MiB", format_number(memory, 1)),
            memory <= MAX_MEMORY,
        ),
    ];
    let mut table = Table::new(
        "Service",
        format!(
            "Each client keeps one connection and reads whole reports. A sample of the first row is the \
             median of {SMALL_RUNS} runs; the second row is over some seconds. The service keeps its \
             database connections; the command connects each time."
        ),
        &["measurement", "result"],
    );
    for (name, result) in [
        ("SIZE = 1, one client, ms", latencies.format(2)),
        ("SIZE = 1, 8 clients, runs/s", rates.format(0)),
        ("streamed, tokens/s", streamed.throughput().to_string()),
        ("the command, tokens/s", command.throughput().to_string()),
        ("streamed, to the command", ratio.format(2)),
        (
            "memory with 200 waiting event streams, MiB",
            format_number(memory, 1),
        ),
    ] {
        table.add_row([name.to_owned(), result]);
    }
    Ok(BenchResults {
        goals,
        tables: vec![table],
        ..BenchResults::default()
    })
}

/// Returns the times of a run of one token over a kept connection, in milliseconds.
fn one_token(env: &BenchEnvironment, service: &Service) -> Result<MedianRange> {
    let mut client = service.connect()?;
    let mut medians = Vec::new();
    for round in 0..=env.scale.rounds {
        let mut times = Vec::new();
        for _ in 0..SMALL_RUNS {
            let started = Instant::now();
            expect_lines(client.run(1)?, 2)?;
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
        // The first round warms up.
        if round > 0 {
            medians.push(MedianRange::of(times).median);
        }
    }
    let latencies = MedianRange::of(medians);
    env.print_progress(&format!("serve: SIZE = 1 in {} ms", latencies.format(2)));
    Ok(latencies)
}

/// Returns the runs of one token per second of several clients.
fn runs_per_second(env: &BenchEnvironment, service: &Service) -> Result<MedianRange> {
    let duration = Duration::from_secs_f64(env.scale.pgbench_seconds);
    let mut rates = Vec::new();
    for _ in 0..env.scale.rounds {
        let (runs, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
        let started = Instant::now();
        thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|_| scope.spawn(|| keep_running(service, &runs, &is_over)))
                .collect();
            thread::sleep(duration);
            is_over.store(true, Ordering::Relaxed);
            for client in clients {
                client.join().map_err(|_| anyhow!("a client panicked"))??;
            }
            anyhow::Ok(())
        })?;
        let runs = runs.load(Ordering::Relaxed) as f64;
        rates.push(runs / started.elapsed().as_secs_f64());
    }
    let rates = MedianRange::of(rates);
    env.print_progress(&format!("serve: {} runs/s", rates.format(0)));
    Ok(rates)
}

fn keep_running(service: &Service, runs: &AtomicU64, is_over: &AtomicBool) -> Result<()> {
    let mut client = service.connect()?;
    while !is_over.load(Ordering::Relaxed) {
        expect_lines(client.run(1)?, 2)?;
        runs.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Runs many tokens by the command and by the service, in turns.
fn streamed(env: &mut BenchEnvironment, service: &Service) -> Result<[ContenderSamples; 2]> {
    let tokens = env.scale.local;
    let command = Contender::TokenService(TokenService::default());
    let samples = |name: &str| ContenderSamples {
        name: name.to_owned(),
        samples: Vec::new(),
    };
    let mut results = [samples("the command"), samples("the service")];
    let mut client = service.connect()?;
    for _ in 0..env.scale.rounds {
        results[0].samples.push(command.run(env, tokens)?);
        env.reset()?;
        let sample = stream(&mut client, tokens)?;
        env.expect_rows(tokens)?;
        results[1].samples.push(sample);
        let rates = results
            .each_ref()
            .map(|result| result.throughput().to_string());
        env.print_progress(&format!("serve: {tokens} tokens, {}", rates.join(" and ")));
    }
    Ok(results)
}

fn stream(client: &mut ServiceClient, tokens: u64) -> Result<Sample> {
    let started = Instant::now();
    expect_lines(client.run(tokens)?, tokens + 1)?;
    Ok(Sample {
        tokens,
        seconds: started.elapsed().as_secs_f64(),
        client_cpu: 0.0,
        server_cpu: 0.0,
        peak_mib: 0.0,
    })
}

/// Returns the memory of a service whose clients wait for the events of a run that waits for its source.
fn waiting_streams(env: &BenchEnvironment) -> Result<f64> {
    let behavior = SourceBehavior {
        latency: Duration::from_hours(1),
        ..SourceBehavior::default()
    };
    let source = TokenSource::start(TokenKind::AllStored, behavior)?;
    let service = Service::start(env, &source, &[])?;
    let id = service.connect()?.start_run(1)?;
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let mut stream = service.connect()?;
        stream.follow(&id)?;
        streams.push(stream);
    }
    let memory = service.memory_mib()?;
    env.print_progress(&format!("serve: {memory:.1} MiB with {STREAMS} streams"));
    Ok(memory)
}

fn expect_lines(found: u64, expected: u64) -> Result<()> {
    ensure!(
        found == expected,
        "the report has {found} lines, expected {expected}"
    );
    Ok(())
}
