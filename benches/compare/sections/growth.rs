//! Growth: what a token costs while their number grows by more than three orders of magnitude, and
//! what the largest run holds in memory.

use anyhow::{Context as _, Result};

use super::super::contender::Contender;
use super::super::findings::{Bound, Findings, Goal, Table};
use super::super::product::TokenService;
use super::super::rounds::alternate;
use super::super::series::{Sample, Series, Spread, count, number};
use super::super::stage::Stage;
use super::memory::flat;

/// From so many tokens on, starting and connecting no longer show.
const STEADY: u64 = 100_000;
/// What counts as noise, for a single long run on a shared machine.
const NOISE: f64 = 1.15;
/// A run that would take longer than so many seconds is left out.
const PATIENCE: f64 = 900.0;

/// The runs of one size.
struct Step {
    tokens: u64,
    series: Series,
}

impl Step {
    /// Microseconds a token, of a whole process or beyond the seconds that `start` took.
    fn time(&self, start: f64) -> Spread {
        let each = |sample: &Sample| (sample.seconds - start) * 1e6 / sample.tokens as f64;
        self.series.spread(each)
    }

    /// Processor time of the client, in microseconds a token.
    fn cpu(&self) -> Spread {
        let each = |sample: &Sample| sample.cpu * 1e6 / sample.tokens as f64;
        self.series.spread(each)
    }

    /// The largest resident set, in MiB.
    fn peak(&self) -> Spread {
        self.series.spread(|sample| sample.peak_mib)
    }
}

/// Measures it.
pub fn measure(stage: &mut Stage) -> Result<Findings> {
    let first = run(stage, 1, stage.scale.rounds)?;
    let start = first.spread(|sample| sample.seconds).median;
    let mut steps: Vec<Step> = Vec::new();
    let mut left_out = String::new();
    for (tokens, rounds) in stage.scale.growth.clone() {
        let expected = steps.last().map_or(0.0, |step| step.time(0.0).median / 1e6);
        let seconds = expected * tokens as f64;
        if seconds > PATIENCE {
            let (tokens, minutes) = (count(tokens), seconds / 60.0);
            left_out =
                format!(" {tokens} tokens are left out: they would take {minutes:.0} minutes.");
            stage.say(&format!("growth:{left_out}"));
            break;
        }
        let series = run(stage, tokens, rounds)?;
        steps.push(Step { tokens, series });
    }
    // Once more after the long runs, in which the machine itself may have changed its pace.
    if let Some(index) = steady(&steps) {
        let step = &steps[index];
        let again = run(stage, step.tokens, step.series.samples.len())?;
        steps[index].series.samples.extend(again.samples);
    }
    Ok(Findings {
        goals: goals(&steps, start)?,
        tables: vec![table(&steps, start, &left_out)],
        ..Findings::default()
    })
}

fn run(stage: &mut Stage, tokens: u64, rounds: usize) -> Result<Series> {
    let own = Contender::TokenService(TokenService {
        silent: true,
        ..TokenService::default()
    });
    let title = format!("growth, {}", count(tokens));
    let mut all = alternate(stage, &title, rounds, &[(own, tokens)])?;
    all.pop().context("one contender")
}

/// The step with which the largest is compared, where there is a smaller one.
fn steady(steps: &[Step]) -> Option<usize> {
    let (_, smaller) = steps.split_last()?;
    smaller.iter().rposition(|step| step.tokens <= STEADY)
}

fn table(steps: &[Step], start: f64, left_out: &str) -> Table {
    let mut table = Table::new(
        "Growth",
        format!(
            "Runs into PostgreSQL with the default report and standard output discarded. The fourth \
             column subtracts the time of a run of one token.{left_out}"
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
        table.row([
            count(step.tokens),
            step.series.samples.len().to_string(),
            step.time(0.0).show(1),
            step.time(start).show(1),
            step.cpu().show(1),
            number(step.peak().median, 1),
        ]);
    }
    table
}

fn goals(steps: &[Step], start: f64) -> Result<Vec<Goal>> {
    let most = steps.last().context("a size")?;
    let small = steps.iter().find(|step| step.tokens >= 10_000);
    let small = small.context("10,000 tokens")?;
    let base = &steps[steady(steps).context("a smaller size")?];
    let (time, base_time) = (most.time(start), base.time(start));
    let growth = Goal::ratio(
        format!("time per token, {} tokens", count(most.tokens)),
        Bound::AtMost(NOISE, "that of fewer tokens"),
        [
            format!("{} µs", time.show(1)),
            format!("{} µs with {}", base_time.show(1), count(base.tokens)),
        ],
        Spread::of([time.median / base_time.median]),
    );
    let memory = flat(
        "PostgreSQL, text",
        [small.tokens, most.tokens],
        [small.peak(), most.peak()],
    );
    Ok(vec![growth, memory])
}
