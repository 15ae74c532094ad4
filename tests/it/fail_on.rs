//! `--fail-on`: a completed run exits with 1 if a condition holds.

use crate::support::command::Command;
use crate::support::database::Database;
use crate::support::report::Report;
use crate::support::snapshot::shows;
use crate::support::source::{Response, Source};

/// A run of three tokens, of which the table rejects one.
fn run_with(args: &[&str]) -> Command {
    let source = Source::responding([Response::tokens(["aa", "b-b", "cc"])]);
    let command = Command::new()
        .source(&source)
        .database(&Database::standard());
    // The source must respond until the test ends.
    std::mem::forget(source);
    command.arg("3").args(args)
}

#[test]
fn run_exits_with_1_when_a_condition_holds() {
    let args = [
        "--fail-on",
        "failed>0",
        "--fail-on",
        "stored < 0.9 * requested",
    ];
    let run = run_with(&args).args(["--report", "ndjson"]).run();
    let run = run.expect_code(1);
    shows!(run.stderr, @"
    3 requested, 3 received in 1 request: 2 stored, 1 rejected in [seconds] s ([rate] tokens/s)
    error: the condition `stored<0.9*requested` of --fail-on holds
      caused by: stored is 2, requested is 3
    hint: the run and its report are complete
    ");
    let report = Report::of_run(&run);
    assert_eq!(report.summary["exit_code"], 1);
    assert_eq!(report.tokens.len(), 3);
}

#[test]
fn run_exits_with_0_when_no_condition_holds() {
    let run = run_with(&["--fail-on", "rejected>1"]).run();
    assert!(!run.expect_code(0).stderr.contains("--fail-on"));
}

#[test]
fn retries_are_counted_in_conditions_and_in_the_map_of_a_script() {
    let yaml = "- name: a
  script: a.rhai
  size: 3
  options: {fail_on: ['retries==3']}
  source: [tokens: [aa, bb, cc]]
  store: {aa: [{sqlstate: '40001'}, {sqlstate: '40001'}, stored], bb: [{sqlstate: '40001'}, stored]}
  expect: {exit: 1, stdout: \"\\n\\n\\n3\"}
";
    let run = Command::new()
        .args(["test", "a.test.yaml"])
        .file("a.test.yaml", yaml)
        .file(
            "a.rhai",
            "emit(`${report(store(fetch(SIZE)), |o| \"\").retries}`);",
        )
        .run();
    assert_eq!(run.code, Some(0), "{}{}", run.stdout, run.stderr);
}

#[test]
fn other_exit_codes_win_over_fail_on() {
    let source = Source::responding([Response::tokens(["aa"]), Response::tokens([""; 0]).always()]);
    let command = Command::new()
        .source(&source)
        .database(&Database::standard());
    let run = command.args(["2", "--fail-on", "stored<requested"]).run();
    run.expect_code(4);

    let script = "report(store(fetch(SIZE))); exit(7);";
    let command = run_with(&["--fail-on", "rejected>0", "--script", "mine.rhai"]);
    command.file("mine.rhai", script).run().expect_code(7);
}

#[test]
fn variable_and_file_set_conditions() {
    let variable = run_with(&[]).env("TOKEN_SERVICE_FAIL_ON", "failed>0, rejected>0");
    assert!(
        variable
            .run()
            .expect_code(1)
            .stderr
            .contains("`rejected>0`")
    );
    let file = run_with(&[]).config("run: {fail_on: ['rejected>0']}");
    file.run().expect_code(1);
    let overridden = run_with(&["--fail-on", "failed>0"]).config("run: {fail_on: ['rejected>0']}");
    overridden.run().expect_code(0);
}

#[test]
fn invalid_condition_is_refused_before_the_run() {
    let run = Command::new().args(["demo", "--fail-on", "stord<1"]).run();
    shows!(run.expect_code(2).stderr, @"
    error: --fail-on must name one of requested, received, requests, surplus, stored, rejected, failed, unknown, not_attempted, retries, not `stord` (did you mean `stored`?)
    hint: see `token_service demo --help`
    ");
    let file = "run:\n  fail_on: [rejected>0, 'stored<90%']\n";
    let run = Command::new().arg("demo").config(file).run();
    shows!(run.expect_code(2).stderr, @"
    error: `run.fail_on[1]` must have plain numbers of at most 9 digits, such as 0 or 0.9
      ╭▸ token_service.yaml:2:25
      │
    2 │   fail_on: [rejected>0, 'stored<90%']
      ╰╴                        ━━━━━━━━━━━━
    ");
}
