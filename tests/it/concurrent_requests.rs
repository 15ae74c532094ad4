//! Several requests to the source under way at a time, and the rate of requests, with real sockets.

use std::time::{Duration, Instant};

use crate::support::command::{Command, Run};
use crate::support::database::Database;
use crate::support::report::Report;
use crate::support::source::{Gate, Response, Source};

/// Prepares a run with one token per request.
fn run_of(size: usize, source: &Source) -> (Command, Database) {
    let database = Database::standard();
    let size = size.to_string();
    let command = Command::new().source(source).database(&database).args([
        size.as_str(),
        "--page-size",
        "1",
        "--report",
        "ndjson",
    ]);
    (command, database)
}

#[track_caller]
fn assert_complete(run: Run, database: &Database, size: u64, requests: u64) {
    let run = run.expect_code(0);
    let report = Report::of_run(&run);
    assert_eq!(report.with_status("stored"), database.rows());
    assert_eq!(report.count("stored"), size);
    assert_eq!(report.count("requests"), requests);
    assert_eq!(report.count("surplus"), 0);
}

#[test]
fn configured_number_of_requests_is_under_way_at_once() {
    let gate = Gate::new();
    let answer = |token: &str| Response::tokens([token]).after(&gate);
    let source = Source::responding(["a", "b", "c", "d"].map(answer));
    let (command, database) = run_of(4, &source);
    let running = command.args(["--fetch-concurrency", "4"]).spawn();
    // None is answered before all have arrived.
    source.wait_for(4);
    gate.open();
    assert_complete(running.wait(), &database, 4, 4);
}

#[test]
fn second_request_joins_when_the_first_was_answered() {
    let gate = Gate::new();
    let source = Source::responding([
        Response::tokens(["a"]),
        Response::tokens(["b"]).after(&gate),
        Response::tokens(["c"]).after(&gate),
    ]);
    let (command, database) = run_of(3, &source);
    let running = command.spawn();
    source.wait_for(3);
    gate.open();
    assert_complete(running.wait(), &database, 3, 3);
}

#[test]
fn retry_after_of_one_answer_delays_all_requests() {
    let (refused, others) = (Gate::new(), Gate::new());
    let busy = Response::status(429).header("retry-after", "1");
    let source = Source::responding([
        busy.after(&refused),
        Response::tokens(["a"]).after(&others),
        Response::tokens(["b"]),
        Response::tokens(["c"]),
    ]);
    let (command, database) = run_of(3, &source);
    let running = command.args(["--fetch-concurrency", "2"]).spawn();
    source.wait_for(2);
    let refused_at = Instant::now();
    refused.open();
    running.wait_for_stderr(|text| text.contains("retrying the request"));
    // A slot is free now, but nothing is sent before the time that the source asked for.
    others.open();
    source.wait_for(3);
    assert!(refused_at.elapsed() >= Duration::from_secs(1));
    assert_complete(running.wait(), &database, 3, 4);
}

#[test]
fn run_ends_with_the_pages_of_all_requests_when_one_fails() {
    let (first, second) = (Gate::new(), Gate::new());
    let source = Source::responding([
        Response::status(500).after(&first),
        Response::tokens(["a"]).after(&second),
    ]);
    let (command, database) = run_of(9, &source);
    let args = ["--fetch-concurrency", "2", "--log-level", "debug"];
    let running = command.args(args).spawn();
    source.wait_for(2);
    first.open();
    running.wait_for_stderr(|text| text.contains("request failed"));
    second.open();
    let run = running.wait().expect_code(4);
    let report = Report::of_run(&run);
    assert_eq!(report.count("issued_unseen"), 1);
    assert_eq!(report.with_status("stored"), ["a"]);
    assert_eq!(database.rows(), ["a"]);
}

#[test]
fn rate_limits_requests() {
    let mut issued = 0;
    let source = Source::generating_with(move |size| {
        issued += size;
        (0..size)
            .map(|number| format!("t{}", issued - number))
            .collect()
    });
    let (command, database) = run_of(4, &source);
    let run = command.args(["--rate", "4/s"]).run();
    assert!(Report::of_run(&run).count("duration_ms") >= 750);
    assert_complete(run, &database, 4, 4);
}
