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

#[test]
fn every_token_in_doubt_is_settled_by_its_receipt() {
    let cluster = crashable();
    let first = seed();
    for (number, (insert_only, is_pooled)) in
        (0..).zip([(false, false), (true, false), (false, true)])
    {
        let seed = first.wrapping_add(number);
        let result = run_schedule(
            &cluster,
            &Schedule::with_receipts(seed, insert_only, is_pooled),
        );
        let in_doubt = result.verified.in_doubt;
        assert_eq!(
            in_doubt.unknown, 0,
            "TOKEN_SERVICE_FAULT_SEED={seed}: {in_doubt:?}"
        );
    }
}
