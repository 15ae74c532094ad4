//! The `growth` section: time per token and peak memory for increasing numbers of tokens.

use anyhow::{Context as _, Result};

use super::memory::constant_memory_goal;
use crate::contender::Contender;
use crate::contender::token_service::TokenService;
use crate::documents::{Figure, Figures};
use crate::environment::BenchEnvironment;
use crate::format::{format_count, format_number};
use crate::results::{BenchResults, Goal, RatioLimit};
use crate::rounds::run_rounds;
use crate::statistics::{ContenderSamples, MedianRange, Sample};
use crate::table::Table;

/// The number of tokens of the base step. At this size, start-up and connecting are negligible.
const BASE_TOKENS: u64 = 100_000;
/// The smallest step whose memory is compared with that of the largest step.
const MEMORY_BASE_TOKENS: u64 = 10_000;
/// The largest ratio that still counts as noise, for one long run on a shared machine.
const MAX_NOISE: f64 = 1.15;
/// The longest expected duration of a run, in seconds. Longer runs are left out.
const MAX_SECONDS: f64 = 900.0;

/// The runs with one number of tokens.
struct GrowthStep {
    tokens: u64,
    results: ContenderSamples,
}

impl GrowthStep {
    /// Returns the microseconds per token, after subtracting `startup` seconds from each run.
    fn time(&self, startup: f64) -> MedianRange {
        self.results
            .median_range(|sample| (sample.seconds - startup) * 1e6 / sample.tokens as f64)
    }

    /// Returns the CPU time of the client per token, in microseconds.
    fn client_cpu(&self) -> MedianRange {
        self.results
            .median_range(Sample::client_cpu_micros_per_token)
    }

    /// Returns the largest resident set, in MiB.
    fn peak(&self) -> MedianRange {
        self.results.median_range(|sample| sample.peak_mib)
    }
}

/// Measures the section.
pub fn measure(env: &mut BenchEnvironment) -> Result<BenchResults> {
    let one_token = run(env, 1, env.scale.rounds)?;
    let startup = one_token.median_range(|sample| sample.seconds).median;
    let mut steps: Vec<GrowthStep> = Vec::new();
    let mut omission = String::new();
    for (tokens, rounds) in env.scale.growth.clone() {
        let expected_micros = steps.last().map_or(0.0, |step| step.time(0.0).median);
        let seconds = expected_micros / 1e6 * tokens as f64;
        if seconds > MAX_SECONDS {
            let (tokens, minutes) = (format_count(tokens), seconds / 60.0);
            omission =
                format!(" {tokens} tokens are left out: they would take {minutes:.0} minutes.");
            env.print_progress(&format!("growth:{omission}"));
            break;
        }
        let results = run(env, tokens, rounds)?;
        steps.push(GrowthStep { tokens, results });
    }
    // The speed of the machine may change during the long runs, so the base step runs again after them.
    if let Some(index) = base_step(&steps) {
        let step = &steps[index];
        let repeated = run(env, step.tokens, step.results.samples.len())?;
        steps[index].results.samples.extend(repeated.samples);
    }
    Ok(BenchResults {
        goals: goals(&steps, startup)?,
        tables: vec![growth_table(&steps, startup, &omission)],
        figures: figures(&steps),
    })
}

fn figures(steps: &[GrowthStep]) -> Figures {
    let long = || steps.iter().filter(|step| step.tokens >= BASE_TOKENS);
    let format_peak = |step: &GrowthStep| format_number(step.peak().median, 1);
    let peaks = long().map(|step| {
        let (tokens, peak) = (format_count(step.tokens), format_peak(step));
        format!("{peak} MiB for {tokens} tokens")
    });
    let cpu = MedianRange::of(long().map(|step| step.client_cpu().median));
    let [min, max] = [cpu.min, cpu.max].map(|micros| format_number(micros, 1));
    let mut figures = Figures::from([
        (Figure::Peaks, peaks.collect::<Vec<_>>().join(", ")),
        (Figure::LongRunCpu, format!("{min} to {max}")),
    ]);
    if let Some(step) = steps.last() {
        let (tokens, peak) = (format_count(step.tokens), format_peak(step));
        figures.insert(Figure::LargestRun, format!("{tokens} tokens: {peak}"));
    }
    figures
}

fn run(env: &mut BenchEnvironment, tokens: u64, rounds: usize) -> Result<ContenderSamples> {
    let token_service = Contender::TokenService(TokenService {
        discard_stdout: true,
        ..TokenService::default()
    });
    let title = format!("growth, {}", format_count(tokens));
    let mut results = run_rounds(env, &title, rounds, &[(token_service, tokens)])?;
    results.pop().context("the growth section has no results")
}

/// Returns the index of the step that is compared with the largest one.
fn base_step(steps: &[GrowthStep]) -> Option<usize> {
    let (_, smaller) = steps.split_last()?;
    smaller.iter().rposition(|step| step.tokens <= BASE_TOKENS)
}

fn growth_table(steps: &[GrowthStep], startup: f64, omission: &str) -> Table {
    let mut table = Table::new(
        "Growth",
        format!(
            "Runs into PostgreSQL with the default report and standard output discarded. The fourth \
             column subtracts the time of a run of one token.{omission}"
        ),
        &[
            "tokens",
            "rounds",
            "µs per token, whole process",
            "µs per token, start-up subtracted",
            "client CPU, µs per token",
            "peak, MiB",
        ],
    );
    for step in steps {
        table.add_row([
            format_count(step.tokens),
            step.results.samples.len().to_string(),
            step.time(0.0).format(1),
            step.time(startup).format(1),
            step.client_cpu().format(1),
            format_number(step.peak().median, 1),
        ]);
    }
    table
}

fn goals(steps: &[GrowthStep], startup: f64) -> Result<Vec<Goal>> {
    let largest = steps.last().context("no growth step was measured")?;
    let memory_base = steps
        .iter()
        .find(|step| step.tokens >= MEMORY_BASE_TOKENS)
        .context("no growth step of 10,000 tokens was measured")?;
    let base = base_step(steps).context("no growth step below the largest was measured")?;
    let base = &steps[base];
    let (time, base_time) = (largest.time(startup), base.time(startup));
    let time_goal = Goal::ratio(
        format!("time per token, {} tokens", format_count(largest.tokens)),
        RatioLimit::AtMost(MAX_NOISE, "that of fewer tokens"),
        [
            format!("{} µs", time.format(1)),
            format!(
                "{} µs with {}",
                base_time.format(1),
                format_count(base.tokens)
            ),
        ],
        MedianRange::of([time.median / base_time.median]),
    );
    let memory_goal = constant_memory_goal(
        "PostgreSQL, text",
        [memory_base.tokens, largest.tokens],
        [memory_base.peak(), largest.peak()],
    );
    Ok(vec![time_goal, memory_goal])
}
