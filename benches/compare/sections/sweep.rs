//! The `sweep` section: the connections that token_service chooses while running, compared with fixed
//! settings and with pgbench at several round-trip times.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::comparison::format_throughput;
use super::memory::peak_goal;
use crate::chart::{Chart, Curve, LegendPlace, YScale};
use crate::contender::Contender;
use crate::contender::token_service::TokenService;
use crate::delay::Delay;
use crate::documents::Figure;
use crate::environment::{BenchEnvironment, MAX_CONNECTIONS};
use crate::format::format_count;
use crate::results::{BenchResults, Goal, RatioLimit};
use crate::rounds::run_rounds;
use crate::statistics::{ContenderSamples, MedianRange};
use crate::table::Table;

/// The measured round-trip times, in milliseconds.
const ROUND_TRIPS: [u32; 5] = [0, 1, 5, 20, 50];
/// The maximum number of rounds.
const MAX_ROUNDS: usize = 3;
/// The options of the settings. The first one has none: it chooses its connections while running.
const SETTINGS: [&[&str]; 10] = [
    &[],
    &["--connections", "4"],
    &["--connections", "8"],
    &["--connections", "16"],
    &["--connections", "32"],
    &["--connections", "48"],
    &["--connections", "64"],
    &["--connections", "16", "--pipeline", "64"],
    &["--connections", "32", "--pipeline", "16"],
    &["--connections", "64", "--pipeline", "8"],
];
/// The setting with as many connections as pgbench.
const EIGHT_CONNECTIONS: usize = 2;
/// The number of connections and threads of pgbench.
const CLIENTS: u32 = 8;
/// The duration of a transaction on the local server, as a client sees it, in seconds.
const LOCAL_TRANSACTION: f64 = 0.0007;

/// The results at one round-trip time.
struct SweepStep {
    /// The round-trip time, in milliseconds.
    milliseconds: u32,
    /// The results of the settings, in the order of `SETTINGS`, then that of pgbench.
    results: Vec<ContenderSamples>,
}

impl SweepStep {
    /// Returns the run that chooses its connections itself.
    fn auto(&self) -> &ContenderSamples {
        &self.results[0]
    }

    /// Returns the fixed setting with the highest median.
    fn best_fixed(&self) -> Result<&ContenderSamples> {
        let fixed = self.results[1..SETTINGS.len()].iter();
        let rate = |result: &ContenderSamples| result.throughput().median;
        let best = fixed.max_by(|a, b| rate(a).total_cmp(&rate(b)));
        best.context("there is no fixed setting")
    }

    /// Returns the ratios of the run that chooses to the best fixed setting, computed per round.
    ///
    /// The best setting of a round is the fastest one in the other rounds: the fastest in the same round
    /// would be the luckiest one.
    fn ratio_to_best(&self) -> Result<MedianRange> {
        let auto = &self.auto().samples;
        let fixed = &self.results[1..SETTINGS.len()];
        let ratios = auto.iter().enumerate().map(|(round, own)| {
            let elsewhere = |result: &ContenderSamples| {
                let samples = result.samples.iter().enumerate();
                let others = samples.filter(|(other, _)| *other != round || auto.len() == 1);
                MedianRange::of(others.map(|(_, sample)| sample.tokens_per_second())).median
            };
            let best = fixed
                .iter()
                .max_by(|a, b| elsewhere(a).total_cmp(&elsewhere(b)));
            let best = best.context("there is no fixed setting")?;
            Ok(own.tokens_per_second() / best.samples[round].tokens_per_second())
        });
        Ok(MedianRange::of(ratios.collect::<Result<Vec<_>>>()?))
    }

    fn goal(&self) -> Result<Goal> {
        let best = self.best_fixed()?;
        let place = match self.milliseconds {
            0 => "local server".to_owned(),
            milliseconds => format!("{milliseconds} ms round trip"),
        };
        let (_, options) = best.name.split_once(' ').unwrap_or_default();
        Ok(Goal::ratio(
            format!("connections chosen while running, {place}"),
            RatioLimit::AtLeast(0.95, "the best fixed setting"),
            [
                format_throughput(self.auto()),
                format!("{} with `{options}`", format_throughput(best)),
            ],
            self.ratio_to_best()?,
        ))
    }
}

/// Measures the section.
pub fn measure(env: &mut BenchEnvironment) -> Result<BenchResults> {
    let rounds = env.scale.rounds.min(MAX_ROUNDS);
    let mut steps = Vec::new();
    for milliseconds in ROUND_TRIPS {
        let round_trip = Duration::from_millis(milliseconds.into());
        let proxy = (milliseconds > 0)
            .then(|| Delay::before(env.login().port, round_trip))
            .transpose()?;
        let port = proxy.as_ref().map_or(env.login().port, |proxy| proxy.port);
        let contenders = contenders(env, port, round_trip);
        let title = format!("sweep {milliseconds} ms");
        let results = run_rounds(env, &title, rounds, &contenders)?;
        steps.push(SweepStep {
            milliseconds,
            results,
        });
    }
    let mut goals = steps
        .iter()
        .map(SweepStep::goal)
        .collect::<Result<Vec<_>>>()?;
    let auto_runs = steps.iter().map(SweepStep::auto);
    goals.push(peak_goal("connections chosen while running", auto_runs));
    let mut sweep_table = sweep_table(&steps, env.scale.sweep, rounds)?;
    sweep_table.chart = Some(connections_chart(&steps));
    let mut round_trip_table = round_trip_table(&steps);
    round_trip_table.chart = Some(round_trip_chart(&steps));
    let mut results = BenchResults {
        goals,
        tables: vec![round_trip_table, sweep_table],
        ..BenchResults::default()
    };
    for step in steps.iter().filter(|step| step.milliseconds == 20) {
        let eight = &step.results[EIGHT_CONNECTIONS];
        results.figures.extend([
            (Figure::SweepChosen, step.auto().format_rate()),
            (Figure::SweepEight, eight.format_rate()),
        ]);
    }
    Ok(results)
}

/// Returns the contenders with their numbers of tokens.
fn contenders(env: &BenchEnvironment, port: u16, round_trip: Duration) -> Vec<(Contender, u64)> {
    let token_services = SETTINGS.map(|options| {
        let token_service = TokenService {
            port: Some(port),
            options,
            ..TokenService::default()
        };
        (Contender::TokenService(token_service), env.scale.sweep)
    });
    let pgbench = Contender::Pgbench {
        clients: CLIENTS,
        threads: CLIENTS,
        port,
    };
    let pgbench_rate = f64::from(CLIENTS) / (round_trip.as_secs_f64() + LOCAL_TRANSACTION);
    let pgbench_tokens = (env.scale.pgbench_seconds * pgbench_rate) as u64;
    let mut contenders = Vec::from(token_services);
    contenders.push((pgbench, pgbench_tokens));
    contenders
}

/// Returns the results that the chart of round-trip times shows: the settings of general interest.
fn shown_results(step: &SweepStep) -> [&ContenderSamples; 3] {
    [0, EIGHT_CONNECTIONS, SETTINGS.len()].map(|index| &step.results[index])
}

fn round_trip_table(steps: &[SweepStep]) -> Table {
    let mut table = Table::new(
        "Throughput against round-trip time",
        "Tokens per second, connecting included. token_service runs with its defaults and with 8 \
         connections, pgbench with 8 clients. There is no proxy at 0 ms.",
        &["round trip"],
    );
    let names = steps.first().into_iter().flat_map(shown_results);
    table.header.extend(names.map(|result| result.name.clone()));
    for step in steps {
        let rates = shown_results(step).map(|result| result.throughput().to_string());
        let round_trip = format!("{} ms", step.milliseconds);
        table.add_row(std::iter::once(round_trip).chain(rates));
    }
    table
}

fn sweep_table(steps: &[SweepStep], tokens: u64, rounds: usize) -> Result<Table> {
    let mut table = Table::new(
        "Connections chosen while running",
        format!(
            "Tokens per second of runs of {} tokens, by round-trip time; medians of {rounds} rounds. \
             The first row chooses its connections while running. The others have fixed ones, three of \
             them also fixed inserts in flight. The server allows {MAX_CONNECTIONS} connections. A run \
             that chooses takes at most half of the free ones, which is more than any setting here. \
             The last row compares it, in each round, with the setting that was the fastest in the \
             other rounds: the fastest of the same round would be the luckiest.",
            format_count(tokens)
        ),
        &["setting"],
    );
    let round_trips = steps.iter().map(|step| format!("{} ms", step.milliseconds));
    table.header.extend(round_trips);
    for (index, options) in SETTINGS.iter().enumerate() {
        let name = match options {
            [] => "chosen while running".to_owned(),
            options => options.join(" "),
        };
        let rates = steps.iter().map(|step| step.results[index].format_rate());
        table.add_row(std::iter::once(name).chain(rates));
    }
    let mut ratios = vec!["chosen, to the best fixed setting".to_owned()];
    for step in steps {
        ratios.push(step.ratio_to_best()?.format(2));
    }
    table.add_row(ratios);
    Ok(table)
}

fn round_trip_chart(steps: &[SweepStep]) -> Chart {
    let mut curves: Vec<Curve> = Vec::new();
    for step in steps {
        for (index, result) in shown_results(step).into_iter().enumerate() {
            if curves.len() == index {
                curves.push(Curve::new(result.name.clone()));
            }
            curves[index].values.push(result.throughput().median);
        }
    }
    let labels = steps.iter().map(|step| format!("{} ms", step.milliseconds));
    Chart {
        file: "throughput.svg",
        title: "Throughput against round-trip time",
        unit: "tokens per second",
        x_axis: "round-trip time, not to scale",
        labels: labels.collect(),
        scale: YScale::Logarithmic,
        legend: LegendPlace::LowerLeft,
        curves,
    }
}

/// Shows one curve per round-trip time over the settings without `--pipeline`. The run that chooses its
/// connections is a mark at the right.
fn connections_chart(steps: &[SweepStep]) -> Chart {
    let is_shown = |options: &[&str]| matches!(options, [_, _]);
    let curves = steps.iter().map(|step| {
        let fixed = SETTINGS.iter().zip(&step.results);
        let fixed = fixed.filter(|(options, _)| is_shown(options));
        Curve {
            values: fixed
                .map(|(_, result)| result.throughput().median)
                .collect(),
            mark: Some(step.auto().throughput().median),
            ..Curve::new(format!("{} ms", step.milliseconds))
        }
    });
    let labels = SETTINGS.iter().filter(|options| is_shown(options));
    let labels = labels.filter_map(|options| options.last());
    let labels = labels.copied().chain(["chosen"]).map(str::to_owned);
    Chart {
        file: "connections.svg",
        title: "Throughput against connections, by round-trip time",
        unit: "tokens per second",
        x_axis: "connections: fixed, and chosen while running",
        labels: labels.collect(),
        scale: YScale::Linear,
        legend: LegendPlace::LowerRight,
        curves: curves.collect(),
    }
}
