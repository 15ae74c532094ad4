//! Tests of repeated requests. A request that may have been served is repeated only with
//! `--dangerously-repeat-requests`, and never beyond the retry budget of the run.

use crate::support::command::{Command, Run};
use crate::support::database::Database;
use crate::support::report::Report;
use crate::support::source::{Response, Source};

/// Runs with an `ndjson` report, which is compared with the table.
#[track_caller]
pub fn run(source: &Source, config: &str, args: &[&str]) -> (Run, Report) {
    let database = Database::standard();
    let run = Command::new()
        .source(source)
        .database(&database)
        .config(config)
        .args(["--report", "ndjson"])
        .args(args)
        .run();
    let report = Report::of_run(&run);
    assert_eq!(report.with_status("stored"), database.rows());
    (run, report)
}

#[test]
fn request_that_may_have_been_served_is_repeated_when_allowed() {
    let source = Source::responding([
        Response::status(500),
        Response::truncated("aa\nbb\nc", 100),
        Response::tokens(["cc", "dd", "ee"]),
    ]);
    let args = ["5", "--dangerously-repeat-requests"];
    let (run, report) = run(&source, "source: {retries: 3}", &args);
    let run = run.expect_code(0);
    assert_eq!(report.count("received"), 5);
    assert_eq!(
        source.sizes(),
        [5, 5, 3],
        "received tokens are not requested again"
    );
    assert_eq!(report.count("requests"), 3);
    assert_eq!(
        report.count("issued_unseen"),
        8,
        "5 of the first, 3 of the second"
    );
    assert!(
        run.stderr.contains("8 perhaps issued unseen"),
        "{}",
        run.stderr
    );
}

#[test]
fn dangerous_repetition_stops_at_the_retry_limit() {
    let source = Source::responding([Response::status(500).always()]);
    let args = ["5", "--dangerously-repeat-requests"];
    let (run, report) = run(&source, "source: {retries: 2}", &args);
    run.expect_code(4);
    assert_eq!(source.sizes(), [5, 5, 5]);
    assert_eq!(report.count("issued_unseen"), 15);
}

/// Each request fails once and then succeeds, so ten pages use up a budget of one retry per request.
#[test]
fn run_repeats_no_more_requests_than_its_budget() {
    let busy = || Response::status(503).header("retry-after", "0");
    let mut answers = Vec::new();
    for page in 0..10 {
        answers.push(busy());
        answers.push(Response::tokens([format!("a{page}")]));
    }
    answers.push(busy());
    let source = Source::responding(answers);
    let config = "source: {retries: 1, concurrency: 1}";
    let (run, report) = run(&source, config, &["20", "--page-size", "1"]);
    let run = run.expect_code(4);
    assert_eq!(report.count("received"), 10);
    let error = run.error();
    assert!(
        error.contains("the run has used its retry budget of 10 requests"),
        "{error}"
    );
}
