//! The short form of the fault schedules; `long_form` runs many more.

use super::schedule::Schedule;
use super::schedule_runner::run_schedule;
use crate::support::cluster::crashable;

/// The seed of `TOKEN_SERVICE_FAULT_SEED`, or a random one, which is printed if a schedule fails.
pub fn seed() -> u64 {
    match std::env::var("TOKEN_SERVICE_FAULT_SEED") {
        Ok(text) => text
            .parse()
            .expect("TOKEN_SERVICE_FAULT_SEED must be a number"),
        Err(_) => fastrand::u64(..),
    }
}

#[test]
fn reports_are_true_under_random_faults() {
    let cluster = crashable();
    let first = seed();
    for seed in (0..5).map(|n| first.wrapping_add(n)) {
        run_schedule(&cluster, &Schedule::random(seed));
    }
}

#[test]
fn reports_are_true_when_the_server_crashes_repeatedly() {
    let cluster = crashable();
    let result = run_schedule(&cluster, &Schedule::crashes(seed(), 4));
    assert!(result.crashes > 0);
}

#[test]
fn reports_are_true_when_the_network_partitions_repeatedly() {
    run_schedule(&crashable(), &Schedule::partitions(seed(), 4));
}

#[test]
fn reports_are_true_when_the_run_is_signalled() {
    let cluster = crashable();
    let first = seed();
    for seed in (0..3).map(|n| first.wrapping_add(n)) {
        run_schedule(&cluster, &Schedule::signals(seed));
    }
}
