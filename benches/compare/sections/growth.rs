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

/// Measures it.
pub fn measure(stage: &mut Stage) -> Result<Findings> {
    let own = Contender::TokenService(TokenService {
        silent: true,
        ..TokenService::default()
    });
    let first = run(stage, &own, 1, stage.scale.rounds)?;
    let start = first.spread(|sample| sample.seconds).median;
    let mut table = Table::new(
        "Growth",
        "Into PostgreSQL with the default report, standard output going nowhere. The last time \
         leaves out what a run of one token takes.",
        &[
            "tokens",
            "rounds",
            "µs a token, whole process",
            "µs a token beyond the first",
            "peak, MiB",
        ],
    );
    let mut all = Vec::new();
    let mut expected = 0.0;
    for (tokens, rounds) in stage.scale.growth.clone() {
        let each = tokens as f64;
        if each * expected > PATIENCE {
            let minutes = each * expected / 60.0;
            let why = format!("left out: it would take {minutes:.0} minutes here");
            stage.say(&format!("growth, {}: {why}", count(tokens)));
            table.row([count(tokens), "0".to_owned(), why]);
            continue;
        }
        let series = run(stage, &own, tokens, rounds)?;
        let whole = series.spread(|sample| sample.seconds * 1e6 / each);
        let beyond = series.spread(|sample| (sample.seconds - start) * 1e6 / each);
        expected = whole.median / 1e6;
        table.row([
            count(tokens),
            rounds.to_string(),
            whole.show(1),
            beyond.show(1),
            number(series.spread(|sample| sample.peak_mib).median, 1),
        ]);
        all.push((tokens, beyond, series));
    }
    Ok(Findings {
        goals: goals(&all)?,
        tables: vec![table],
        ..Findings::default()
    })
}

fn run(stage: &mut Stage, own: &Contender, tokens: u64, rounds: usize) -> Result<Series> {
    let title = format!("growth, {}", count(tokens));
    let mut all = alternate(stage, &title, rounds, &[(own.clone(), tokens)])?;
    all.pop().context("one contender")
}

fn goals(all: &[(u64, Spread, Series)]) -> Result<Vec<Goal>> {
    let (most, beyond, largest) = all.last().context("a size")?;
    let peak = |series: &Series| series.spread(|sample: &Sample| sample.peak_mib);
    let (small, _, smaller) = all
        .iter()
        .find(|(size, ..)| *size >= 10_000)
        .context("10,000")?;
    let memory = flat(
        "PostgreSQL, text",
        [*small, *most],
        [peak(smaller), peak(largest)],
    );
    let steady = all
        .iter()
        .rfind(|(size, ..)| *size <= STEADY && size < most);
    let (base, steady, _) = steady.context("a smaller size")?;
    let time = |spread: &Spread| format!("{} µs", spread.show(1));
    let ratio = Spread::of([beyond.median / steady.median]);
    let growth = Goal::ratio(
        format!("time a token, {} tokens", count(*most)),
        Bound::AtMost(NOISE, "that of fewer tokens"),
        [
            time(beyond),
            format!("{} with {}", time(steady), count(*base)),
        ],
        ratio,
    );
    Ok(vec![growth, memory])
}
