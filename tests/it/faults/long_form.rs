//! The long form, which `tests/faults` runs: enough of each fault for a figure that means something.
//! Nobody else runs it, for it takes minutes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::schedule::Plan;
use super::schedule_runner::{Played, play};
use super::schema_runs::play_schemas;
use super::short_form::seed;
use crate::support::cluster::Cluster;

/// So many faults of one kind are put into one run.
const A_RUN: usize = 10;

/// How many, or how many the environment says.
fn number(name: &str, usual: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is a number")),
        Err(_) => usual,
    }
}

/// What all runs came to.
#[derive(Default)]
struct Sum {
    runs: u64,
    crashes: u64,
    partitions: u64,
    signals: u64,
    acknowledged: u64,
    in_doubt: u64,
    resolved: u64,
    wrong_if_called_failed: u64,
    slowest: Duration,
    /// Why tokens stayed unknown.
    reasons: BTreeMap<String, u64>,
}

impl Sum {
    fn add(&mut self, played: &Played) {
        self.runs += 1;
        self.crashes += played.crashes;
        self.partitions += played.partitions;
        self.acknowledged += played.verified.acknowledged();
        self.in_doubt += played.verified.in_doubt.total;
        self.resolved += played.verified.in_doubt.stored + played.verified.in_doubt.absent;
        self.wrong_if_called_failed += played.verified.wrong_if_called_failed();
        let tokens = &played.verified.report.tokens;
        for token in tokens.iter().filter(|token| token["status"] == "unknown") {
            let reason = token["reason"].as_str().unwrap_or("none").to_owned();
            *self.reasons.entry(reason).or_default() += 1;
        }
        if let Some(lasted) = played.signalled {
            self.signals += 1;
            self.slowest = self.slowest.max(lasted);
        }
    }
}

/// Plays one plan after the other, each with a seed of its own, until there is enough. A server
/// is not used for ever, so that its folder stays small.
fn play_until(
    seed: &mut u64,
    sums: &mut [&mut Sum],
    plan: impl Fn(u64) -> Plan,
    enough: impl Fn(&Sum) -> bool,
) {
    let mut cluster = Cluster::new();
    let mut played_on = 0;
    let began = Instant::now();
    while !enough(sums[0]) {
        if played_on == 100 {
            cluster = Cluster::new();
            played_on = 0;
        }
        let played = play(&cluster, &plan(*seed));
        *seed = seed.wrapping_add(1);
        played_on += 1;
        for sum in &mut *sums {
            sum.add(&played);
        }
        if sums[0].runs.is_multiple_of(25) {
            let seconds = began.elapsed().as_secs();
            eprintln!("… {} runs in {seconds} s", sums[0].runs);
        }
    }
}

#[test]
#[ignore = "takes minutes; `tests/faults` runs it"]
fn every_report_is_true_under_many_faults() {
    let mut seed = seed();
    eprintln!("TOKEN_SERVICE_FAULT_SEED={seed}");
    let (crashes, partitions) = (
        number("TOKEN_SERVICE_FAULT_CRASHES", 300),
        number("TOKEN_SERVICE_FAULT_PARTITIONS", 300),
    );
    let (schedules, signals) = (
        number("TOKEN_SERVICE_FAULT_SCHEDULES", 500),
        number("TOKEN_SERVICE_FAULT_SIGNALS", 100),
    );
    let mut all = Sum::default();
    let (mut after_crashes, mut after_partitions, mut random, mut signalled) = (
        Sum::default(),
        Sum::default(),
        Sum::default(),
        Sum::default(),
    );
    play_until(
        &mut seed,
        &mut [&mut after_crashes, &mut all],
        |seed| Plan::crashes(seed, A_RUN),
        |sum| sum.crashes >= crashes,
    );
    play_until(
        &mut seed,
        &mut [&mut after_partitions, &mut all],
        |seed| Plan::partitions(seed, A_RUN),
        |sum| sum.partitions >= partitions,
    );
    play_until(
        &mut seed,
        &mut [&mut random, &mut all],
        Plan::random,
        |sum| sum.runs >= schedules,
    );
    play_until(
        &mut seed,
        &mut [&mut signalled, &mut all],
        Plan::signals,
        |sum| sum.signals >= signals,
    );
    for (reason, count) in &all.reasons {
        println!("{count} unknown: {reason}");
    }
    // Whatever is wrong has ended this with a panic: the zeros are what was verified in each run.
    println!(
        "{} crashes, {} acknowledged, 0 acknowledged tokens missing",
        after_crashes.crashes, after_crashes.acknowledged
    );
    let rate = 100.0 * share(all.resolved, all.in_doubt);
    println!(
        "{} in doubt, {rate:.1} % resolved, 0 resolved wrongly; treating them as failed would have got {} wrong",
        all.in_doubt, all.wrong_if_called_failed
    );
    println!(
        "{} partitions, 0 duplicate rows, 0 late commits after `failed`",
        after_partitions.partitions
    );
    println!(
        "{} random fault schedules: received = stored + rejected + failed + unknown + not_attempted in each, and equal to the table",
        random.runs
    );
    println!(
        "{} signals at random moments: slowest report {:.2} s",
        all.signals,
        all.slowest.as_secs_f64()
    );
    let schemas = number("TOKEN_SERVICE_FAULT_SCHEMAS", 300);
    let totals = play_schemas(seed, schemas);
    println!(
        "{} random schemas × faults: {} tokens misreported, {} twice",
        totals.runs, totals.misreported, totals.twice
    );
    totals.print_details();
    let lies = totals.misreported + totals.stopped;
    println!("{} fault runs, {lies} lies", all.runs + totals.runs);
    totals.check();
}

fn share(part: u64, whole: u64) -> f64 {
    let precise = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    if whole == 0 {
        1.0
    } else {
        precise(part) / precise(whole)
    }
}
