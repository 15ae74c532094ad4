//! Short forms of the schedules; `long` plays many more.

use super::schedule::Plan;
use super::schedule_runner::play;
use crate::support::cluster::crashable;

/// The seed to repeat, or a new one, which is printed where a schedule fails.
pub fn seed() -> u64 {
    match std::env::var("TOKEN_SERVICE_FAULT_SEED") {
        Ok(text) => text.parse().expect("TOKEN_SERVICE_FAULT_SEED is a number"),
        Err(_) => fastrand::u64(..),
    }
}

#[test]
fn random_schedules() {
    let cluster = crashable();
    let first = seed();
    for seed in (0..5).map(|n| first.wrapping_add(n)) {
        play(&cluster, &Plan::random(seed));
    }
}

#[test]
fn a_few_crashes_in_a_row() {
    let cluster = crashable();
    let played = play(&cluster, &Plan::crashes(seed(), 4));
    assert!(played.crashes > 0);
}

#[test]
fn a_few_partitions_in_a_row() {
    play(&crashable(), &Plan::partitions(seed(), 4));
}

#[test]
fn signals_at_random_moments() {
    let cluster = crashable();
    let first = seed();
    for seed in (0..3).map(|n| first.wrapping_add(n)) {
        play(&cluster, &Plan::signals(seed));
    }
}
