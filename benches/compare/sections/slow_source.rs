//! The `slow-source` section: a source that takes time to answer, with one request at a time, with the
//! requests that token_service sends by itself, and with shards.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::comparison::format_throughput;
use super::memory::peak_goal;
use crate::chart::{Chart, Curve, LegendPlace, YScale};
use crate::contender::Contender;
use crate::contender::token_service::TokenService;
use crate::documents::Figure;
use crate::environment::BenchEnvironment;
use crate::format::{format_count, format_number};
use crate::results::{BenchResults, Goal, RatioLimit};
use crate::rounds::run_rounds;
use crate::statistics::{ContenderSamples, Sample};
use crate::table::Table;
use crate::token_source::{SourceBehavior, TokenKind, TokenSource};

/// The measured times that the source takes to answer, in milliseconds.
const LATENCIES: [u32; 5] = [2, 20, 50, 100, 200];
/// The latencies that have a goal: the smallest and the largest one. They run all rounds.
const GOAL_LATENCIES: [u32; 2] = [2, 200];
/// The maximum number of rounds of the other latencies.
const MAX_ROUNDS: usize = 3;
/// The tokens of a page.
const PAGE_SIZE: u64 = 2_000;
/// The number of shards.
const SHARDS: u32 = 4;

/// The results at one latency of the source.
struct LatencyStep {
    /// The latency, in milliseconds.
    milliseconds: u32,
    /// One request at a time, the defaults, and shards.
    results: [ContenderSamples; 3],
}

/// Measures the section.
pub fn measure(env: &mut BenchEnvironment) -> Result<BenchResults> {
    let tokens = env.scale.slow_source;
    let mut steps = Vec::new();
    for milliseconds in LATENCIES {
        steps.push(measure_latency(env, milliseconds, tokens)?);
    }
    let mut table = table(&steps, tokens);
    table.chart = Some(chart(&steps));
    let mut results = BenchResults {
        tables: vec![table],
        ..BenchResults::default()
    };
    for step in &steps {
        results.goals.extend(step.goal(tokens));
        if step.milliseconds == 200 {
            let [one_request, defaults, shards] = &step.results;
            results.figures.extend([
                (Figure::SlowSourceOneRequest, one_request.format_rate()),
                (Figure::SlowSource, defaults.format_rate()),
                (Figure::SlowSourceShards, shards.format_rate()),
            ]);
        }
    }
    let runs_with_defaults = steps.iter().map(|step| &step.results[1]);
    let variant = format!("slow source, {} tokens", format_count(tokens));
    results.goals.push(peak_goal(&variant, runs_with_defaults));
    Ok(results)
}

fn measure_latency(
    env: &mut BenchEnvironment,
    milliseconds: u32,
    tokens: u64,
) -> Result<LatencyStep> {
    let behavior = SourceBehavior {
        latency: Duration::from_millis(milliseconds.into()),
        ..SourceBehavior::default()
    };
    let with_defaults = TokenService {
        source: Some(Arc::new(TokenSource::start(
            TokenKind::AllStored,
            behavior,
        )?)),
        page_size: Some(PAGE_SIZE),
        ..TokenService::default()
    };
    let one_at_a_time = TokenService {
        options: &["--fetch-concurrency", "1"],
        ..with_defaults.clone()
    };
    let sharded = TokenService {
        shards: Some(SHARDS),
        ..with_defaults.clone()
    };
    let contenders = [one_at_a_time, with_defaults, sharded]
        .map(|contender| (Contender::TokenService(contender), tokens));
    let rounds = if GOAL_LATENCIES.contains(&milliseconds) {
        env.scale.rounds
    } else {
        env.scale.rounds.min(MAX_ROUNDS)
    };
    let title = format!("slow source, {milliseconds} ms");
    let results = run_rounds(env, &title, rounds, &contenders)?;
    let Ok(results) = results.try_into() else {
        unreachable!("there is one result per contender")
    };
    Ok(LatencyStep {
        milliseconds,
        results,
    })
}

impl LatencyStep {
    /// Returns the goal, if this latency has one.
    fn goal(&self, tokens: u64) -> Option<Goal> {
        let [one_at_a_time, with_defaults, sharded] = &self.results;
        let (limit, reference) = match self.milliseconds {
            2 => (
                RatioLimit::AtLeast(0.98, "one request at a time"),
                one_at_a_time,
            ),
            200 => (
                RatioLimit::AtLeast(0.9, "four shards, `surplus` 0"),
                sharded,
            ),
            _ => return None,
        };
        Some(Goal::ratio(
            format!(
                "source that takes {} ms per answer, pages of {}, {} tokens",
                self.milliseconds,
                format_count(PAGE_SIZE),
                format_count(tokens)
            ),
            limit,
            [with_defaults, reference].map(format_throughput),
            with_defaults.ratio(reference, Sample::tokens_per_second),
        ))
    }
}

fn table(steps: &[LatencyStep], tokens: u64) -> Table {
    let mut table = Table::new(
        "Source that takes time to answer",
        format!(
            "Tokens per second of runs of {} tokens in pages of {}. The source delays each response by \
             the time in the first column, and no response waits for another one. Shards are {SHARDS} \
             processes at once, each with its part of the tokens. In each run the source served exactly \
             the requested number of tokens, so `surplus` was 0.",
            format_count(tokens),
            format_count(PAGE_SIZE)
        ),
        &["time per answer"],
    );
    if let Some(step) = steps.first() {
        let names = step.results.iter().map(|result| result.name.clone());
        table.header.extend(names);
    }
    table.header.push("peak of the default, MiB".to_owned());
    for step in steps {
        let rates = step.results.iter();
        let rates = rates.map(|result| result.throughput().to_string());
        let peak = step.results[1].median_range(|sample| sample.peak_mib);
        let cells = std::iter::once(format!("{} ms", step.milliseconds));
        table.add_row(cells.chain(rates).chain([format_number(peak.max, 1)]));
    }
    table
}

fn chart(steps: &[LatencyStep]) -> Chart {
    let names = ["one request at a time", "token_service", "four shards"];
    let curves = names.iter().enumerate().map(|(index, name)| {
        let rates = steps.iter().map(|step| &step.results[index]);
        Curve {
            values: rates.map(|result| result.throughput().median).collect(),
            ..Curve::new(*name)
        }
    });
    let labels = steps.iter().map(|step| format!("{} ms", step.milliseconds));
    Chart {
        file: "slow-source.svg",
        title: "Throughput against the time that the source takes to answer",
        unit: "tokens per second",
        x_axis: "time per answer, not to scale",
        labels: labels.collect(),
        scale: YScale::Linear,
        legend: LegendPlace::LowerLeft,
        curves: curves.collect(),
    }
}
