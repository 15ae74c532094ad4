//! The long form of the fault tests, which `tests/faults` runs: enough faults of each kind for meaningful
//! figures. It takes minutes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::schedule::Schedule;
use super::schedule_runner::{ScheduleResult, run_schedule};
use super::schema_runs::run_schemas;
use super::short_form::seed;
use crate::support::cluster::Cluster;

/// The number of faults of one kind in one run.
const FAULTS_PER_RUN: usize = 10;

/// The number in this variable, or the default.
fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} must be a number")),
        Err(_) => default,
    }
}

/// The sums over many runs.
#[derive(Default)]
struct RunTotals {
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

impl RunTotals {
    fn add(&mut self, result: &ScheduleResult) {
        self.runs += 1;
        self.crashes += result.crashes;
        self.partitions += result.partitions;
        self.acknowledged += result.verified.acknowledged();
        self.in_doubt += result.verified.in_doubt.total;
        self.resolved += result.verified.in_doubt.stored + result.verified.in_doubt.absent;
        self.wrong_if_called_failed += result.verified.wrong_if_called_failed();
        let tokens = &result.verified.report.tokens;
        for token in tokens.iter().filter(|token| token["status"] == "unknown") {
            let reason = token["reason"].as_str().unwrap_or("none").to_owned();
            *self.reasons.entry(reason).or_default() += 1;
        }
        if let Some(lasted) = result.signalled {
            self.signals += 1;
            self.slowest = self.slowest.max(lasted);
        }
    }
}

/// Runs schedules with successive seeds until `is_enough` holds.
///
/// A server is replaced after 100 runs, so that its folder stays small.
fn run_schedules_until(
    seed: &mut u64,
    sums: &mut [&mut RunTotals],
    schedule: impl Fn(u64) -> Schedule,
    is_enough: impl Fn(&RunTotals) -> bool,
) {
    let mut cluster = Cluster::new();
    let mut runs_on_server = 0;
    let started = Instant::now();
    while !is_enough(sums[0]) {
        if runs_on_server == 100 {
            cluster = Cluster::new();
            runs_on_server = 0;
        }
        let result = run_schedule(&cluster, &schedule(*seed));
        *seed = seed.wrapping_add(1);
        runs_on_server += 1;
        for sum in &mut *sums {
            sum.add(&result);
        }
        if sums[0].runs.is_multiple_of(25) {
            let seconds = started.elapsed().as_secs();
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
    let mut all = RunTotals::default();
    let (mut after_crashes, mut after_partitions, mut random, mut signalled) = (
        RunTotals::default(),
        RunTotals::default(),
        RunTotals::default(),
        RunTotals::default(),
    );
    run_schedules_until(
        &mut seed,
        &mut [&mut after_crashes, &mut all],
        |seed| Schedule::crashes(seed, FAULTS_PER_RUN),
        |sum| sum.crashes >= crashes,
    );
    run_schedules_until(
        &mut seed,
        &mut [&mut after_partitions, &mut all],
        |seed| Schedule::partitions(seed, FAULTS_PER_RUN),
        |sum| sum.partitions >= partitions,
    );
    run_schedules_until(
        &mut seed,
        &mut [&mut random, &mut all],
        Schedule::random,
        |sum| sum.runs >= schedules,
    );
    run_schedules_until(
        &mut seed,
        &mut [&mut signalled, &mut all],
        Schedule::signals,
        |sum| sum.signals >= signals,
    );
    for (reason, count) in &all.reasons {
        println!("{count} unknown: {reason}");
    }
    // A violation panics, so each zero below was verified in every run.
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
    let with_receipts = run_with_receipts(&mut seed);
    let schemas = number("TOKEN_SERVICE_FAULT_SCHEMAS", 300);
    let totals = run_schemas(seed, schemas, false);
    let totals_with_receipts = run_schemas(seed, schemas, true);
    println!(
        "{} random schemas × faults: {} tokens misreported, {} twice",
        totals.runs, totals.misreported, totals.twice
    );
    totals.print_details();
    println!(
        "{} random schemas × faults with receipts: {} tokens misreported, {} twice",
        totals_with_receipts.runs, totals_with_receipts.misreported, totals_with_receipts.twice
    );
    totals_with_receipts.print_details();
    let wrong = totals.misreported + totals.stopped;
    let wrong = wrong + totals_with_receipts.misreported + totals_with_receipts.stopped;
    println!(
        "{} fault runs, {wrong} wrong reports",
        all.runs + with_receipts + totals.runs + totals_with_receipts.runs
    );
    totals.check();
    totals_with_receipts.check();
}

/// Runs schedules with receipts, over direct connections, for a role with INSERT alone, and behind a pooler;
/// returns their number.
fn run_with_receipts(seed: &mut u64) -> u64 {
    let goal = number("TOKEN_SERVICE_FAULT_IN_DOUBT", 20_000);
    let kinds = [
        ("over direct connections", false, false, goal / 2),
        ("for a role with INSERT alone", true, false, goal * 9 / 20),
        (
            "behind PgBouncer in transaction mode",
            false,
            true,
            goal / 20,
        ),
    ];
    let mut all = RunTotals::default();
    let mut lines = Vec::new();
    for (name, insert_only, is_pooled, part) in kinds {
        let mut of_kind = RunTotals::default();
        run_schedules_until(
            seed,
            &mut [&mut of_kind, &mut all],
            |seed| Schedule::with_receipts(seed, insert_only, is_pooled),
            |sum| sum.in_doubt >= part,
        );
        lines.push(format!("{} {name}", of_kind.in_doubt));
    }
    for (reason, count) in &all.reasons {
        println!("{count} unknown: {reason}");
    }
    let rate = 100.0 * share(all.resolved, all.in_doubt);
    println!(
        "with receipts: {} in doubt, {rate:.2} % resolved, 0 wrongly: {}",
        all.in_doubt,
        lines.join(", ")
    );
    all.runs
}

fn share(part: u64, whole: u64) -> f64 {
    let precise = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    if whole == 0 {
        1.0
    } else {
        precise(part) / precise(whole)
    }
}
