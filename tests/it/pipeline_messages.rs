//! Tests of the output of `token_service test`: failed cases, JUnit XML, and the reports that `--update`
//! rewrites.

use std::fs;

use quick_junit::Report;

use crate::support::command::{Command, Run};
use crate::support::root;
use crate::support::snapshot::shows;

fn test() -> Command {
    Command::new().arg("test")
}

/// Runs a test file, and returns the run and its output without the last line.
fn case(yaml: &str) -> (Run, String) {
    let script = "loop { try { fetch_once(1); } catch (e) { log_info(e.kind); } }";
    let command = test().file("catch.rhai", script);
    let run = command.file("a.test.yaml", yaml).run();
    let shown = run.stdout.clone();
    let (lines, _) = shown.trim_end().rsplit_once('\n').unwrap_or(("", ""));
    (run, lines.to_owned())
}

#[test]
fn failed_case_shows_a_diff_when_the_script_changes() {
    let read = |name: &str| fs::read_to_string(root().join("examples").join(name)).unwrap();
    let script = read("retry_failed.rhai");
    let changed = script.replace("    outcomes = store(failed);\n", "");
    assert_ne!(script, changed);
    let run = test()
        .file("retry_failed.rhai", changed)
        .file("retry_failed.test.yaml", read("retry_failed.test.yaml"))
        .run()
        .expect_code(1);
    shows!(run.stdout, @"
    FAIL  retry_failed: stores a token again after its connections were lost
          retry_failed.test.yaml:12:5
          report: - expected, + got
            stored    aa
            stored    bb
          - stored    cc
          + failed    cc  the connection was lost before the token was stored
          exit: expected 0, got 5
          counts.stored: expected 3, got 2
          counts.failed: expected 0, got 1
    FAIL  retry_failed: exits with 5 if a token still fails after the last wait
          retry_failed.test.yaml:28:5
          slept: expected 6s 100ms, got 100ms
    ok    retry_failed: does not send an unknown token again
    1 passed, 2 failed in [seconds] s
    ");
    assert_eq!(run.stderr, "");
}

#[test]
fn every_failed_expectation_is_shown() {
    let (run, shown) = case(
        "- name: all of them
  size: 2
  source:
    - tokens: [aa, bb]
    - tokens: [cc]
  expect:
    exit: 4
    counts: {stored: 1, rejected: 1}
    report: |
      stored    aa
      stored    bb \u{20}
    stdout: ''
    stderr: [\"a needle\"]
    slept: 1s
    files: {a.txt: x}
",
    );
    assert_eq!(run.code, Some(1));
    shows!(shown, @"
    FAIL  a: all of them
          a.test.yaml:9:5
          report: - expected, + got
            stored    aa
          - stored    bb··
          + stored    bb
          stdout: - expected, + got
          + stored    aa
          + stored    bb
          files.a.txt: the script did not write this file
          exit: expected 4, got 0
          counts.stored: expected 1, got 2
          counts.rejected: expected 1, got 0
          slept: expected 1s, got 0s
          stderr: expected `a needle` in
            2 requested, 2 received in 1 request: 2 stored, 0 rejected in [seconds] s ([rate] tokens/s)
          source: the case has 2 answers, but the run sent only 1; set `requests: 1` if this is expected
    ");
}

#[test]
fn long_diff_shows_context_lines() {
    let report: Vec<String> = (1..=40)
        .map(|n| format!("      stored    t{n}\n"))
        .collect();
    let report = report.concat().replace("t20\n", "u20\n");
    let (_, shown) = case(&format!(
        "- name: long\n  size: 40\n  source: [count: 40]\n  expect:\n    report: |\n{report}"
    ));
    shows!(shown, @"
    FAIL  a: long
          a.test.yaml:5:5
          report: - expected, + got
            …
            stored    t17
            stored    t18
            stored    t19
          - stored    u20
          + stored    t20
            stored    t21
            stored    t22
            stored    t23
    ");
}

#[test]
fn case_fails_when_a_request_has_no_answer() {
    let (_, shown) = case(
        "- name: one too many
  size: 3
  source:
    - tokens: [aa]
    - tokens: [bb]
- name: caught by the script
  script: catch.rhai
- name: one too few
  size: 1
  source:
    - tokens: [aa]
    - tokens: [bb]
- name: one too few, which is meant
  size: 1
  source:
    - tokens: [aa]
    - tokens: [bb]
  expect: {requests: 1}
",
    );
    shows!(shown, @"
    FAIL  a: one too many
          a.test.yaml:1:3
          the run sent request 3, for 1 token, but the case has only 2 answers
    FAIL  a: caught by the script
          a.test.yaml:6:3
          the run sent request 1, for 1 token, but the case has only 0 answers
    FAIL  a: one too few
          a.test.yaml:12:7
          source: the case has 2 answers, but the run sent only 1; set `requests: 1` if this is expected
    ok    a: one too few, which is meant
    ");
}

#[test]
fn case_fails_when_an_endless_script_exceeds_the_timeout() {
    let yaml = "- name: computes for ever
  script: loop.rhai
  options: {deadline: 1s}
- name: computes for ever while it words its lines
  script: words.rhai
  size: 1
  source: [count: 1]
";
    let run = test()
        .file("loop.rhai", "loop {}")
        .file(
            "words.rhai",
            "report(store(fetch(SIZE)), |outcome| loop {});",
        )
        .file("a.test.yaml", yaml)
        .args(["--timeout", "300ms"])
        .run()
        .expect_code(1);
    shows!(run.stdout, @"
    FAIL  a: computes for ever
          a.test.yaml:1:3
          the case did not end within 300ms of real time, perhaps because of an infinite loop; `--timeout` sets the limit
    FAIL  a: computes for ever while it words its lines
          a.test.yaml:4:3
          the case did not end within 300ms of real time, perhaps because of an infinite loop; `--timeout` sets the limit
    0 passed, 2 failed in [seconds] s
    ");
}

#[test]
fn script_that_exceeds_a_limit_ends_before_the_timeout() {
    let yaml = "- name: within its operations
  script: loop.rhai
  options: {max_operations: 10000}
  expect: {exit: 3, stderr: [the script ran past a limit]}
- name: calls itself for ever
  script: deep.rhai
  expect: {exit: 3, stderr: [functions call each other more than 64 levels deep]}
- name: writes for ever
  script: flood.rhai
  expect: {exit: 3, stderr: [standard output cannot be written any more]}
- name: sleeps for ever
  script: sleeper.rhai
  options: {deadline: 10h}
  expect: {exit: 3, slept: 10h}
";
    let run = test()
        .file("loop.rhai", "loop {}")
        .file("deep.rhai", "fn f(n) { f(n + 1) }\nf(0);\n")
        .file(
            "flood.rhai",
            "let s = \"x\"; for i in 0..18 { s += s; }\nloop { emit(s); }",
        )
        .file("sleeper.rhai", "loop { sleep(\"7m\"); }")
        .file("a.test.yaml", yaml)
        .run();
    assert_eq!(run.code, Some(0), "{}", run.stdout);
}

#[test]
fn results_are_written_as_junit_xml() {
    let yaml = "- name: passes & <is> \"quoted\"
  size: 1
  source: [count: 1]
- name: \"fails \\e[31m\"
  size: 1
  source: [count: 1]
  expect:
    report: |
      rejected  t1  <&>
- name: waits
  skip: for ]]> better days
";
    let run = test()
        .file("b/a.test.yaml", yaml)
        .args(["--junit", "out.xml"])
        .run();
    let run = run.expect_code(1);
    assert!(!run.stdout.contains('\u{1b}'), "{}", run.stdout);
    let xml = fs::read_to_string(run.path("out.xml")).unwrap();
    let read = Report::deserialize_from_str(&xml).expect("well-formed");
    assert_eq!((read.tests, read.failures, read.skipped), (3, 1, 1));
    shows!(without_times(&xml), @r#"
    <?xml version="1.0" encoding="UTF-8"?>
    <testsuites tests="3" skipped="1" failures="1" errors="0" time="[time]">
        <testsuite name="b/a.test.yaml" tests="3" skipped="1" errors="0" failures="1" time="[time]">
            <testcase name="passes &amp; &lt;is&gt; &quot;quoted&quot;" classname="b/a" time="[time]" file="b/a.test.yaml" line="1"/>
            <testcase name="fails �[31m" classname="b/a" time="[time]" file="b/a.test.yaml" line="8">
                <failure message="report: - expected, + got">      b/a.test.yaml:8:5
          report: - expected, + got
          - rejected  t1  &lt;&amp;&gt;
          + stored    t1
    </failure>
            </testcase>
            <testcase name="waits" classname="b/a" time="[time]" file="b/a.test.yaml" line="10">
                <skipped message="for ]]&gt; better days"/>
            </testcase>
        </testsuite>
    </testsuites>
    "#);
}

/// Replaces every time in the document.
fn without_times(xml: &str) -> String {
    let mut parts = xml.split("time=\"");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        let (_, rest) = part.split_once('"').unwrap();
        format!("{text}time=\"[time]\"{rest}")
    })
}

#[test]
fn last_line_is_equal_when_expected_text_is_a_prefix() {
    let (_, shown) = case(
        "- name: shorter
  size: 2
  source: [count: 2]
  expect:
    report: |
      stored    t1
",
    );
    shows!(shown, @"
    FAIL  a: shorter
          a.test.yaml:5:5
          report: - expected, + got
            stored    t1
          + stored    t2
    ");
}

#[test]
fn junit_keeps_tabs() {
    let yaml = "- name: tabs
  size: 1
  source: [count: 1]
  script: tabs.rhai
  expect: {report: none}
";
    let script = "report(store(fetch(SIZE)), |outcome| outcome.status + \"\\t\" + outcome.token);";
    let run = test()
        .file("tabs.rhai", script)
        .file("a.test.yaml", yaml)
        .args(["--junit", "out.xml"])
        .run()
        .expect_code(1);
    let xml = fs::read_to_string(run.path("out.xml")).unwrap();
    assert!(xml.contains("+ stored&#9;t1"), "{xml}");
}

#[test]
fn case_fails_when_a_token_of_store_never_comes() {
    let yaml = "- name: misspelt
  size: 2
  source:
    - tokens: [aa, bb]
  store:
    ab: lost
    aa: stored
    ba: lost
- name: never sent, but received
  size: 2
  source:
    - tokens: [aa, bb]
  script: reject.rhai
  store: {bb: lost, made: stored}
  expect: {counts: {rejected: 2, stored: 1}}
";
    let script = "report(reject(fetch(SIZE), \"no\")); report(store([\"made\"]));";
    let run = test()
        .file("reject.rhai", script)
        .file("a.test.yaml", yaml)
        .run()
        .expect_code(1);
    shows!(run.stdout, @"
    FAIL  a: misspelt
          a.test.yaml:6:5
          store: the run never had the token `ab`
          a.test.yaml:8:5
          store: the run never had the token `ba`
    ok    a: never sent, but received
    1 passed, 1 failed in [seconds] s
    ");
}

#[test]
fn update_rewrites_every_value_that_it_can() {
    let yaml = "\u{feff}# a comment
- name: wrong   # beside its name
  size: 2
  source:
    - tokens: [aa, bb]
    - tokens: [cc]
  script: files.rhai
  expect:
    report: |   # kept
      stored    aa
    # between
    counts: {stored: 1, failed: 2}
    exit: 4
    slept: 1s   # not long
    requests: [2, 2]
    reports:
      csv: none
    stdout: none
    stderr: all of it
    files:
      a.txt: old

- name: exit code is not there
  size: 1
  source: [tokens: [aa]]
  script: exit.rhai
  expect: {counts: {rejected: 1}}
- name: right
  size: 1
  source: [tokens: [aa]]
  expect: {report: stored    aa}
";
    let files = "report(store(fetch(SIZE))); sleep(\"2s\"); emit(\"one\\ntwo\", \"a.txt\"); emit(\"new\", \"b c.txt\"); exit(7);";
    let command = || {
        test()
            .file("files.rhai", files)
            .file("exit.rhai", "report(store(fetch(SIZE))); exit(3);")
    };
    let run = command().file("a.test.yaml", yaml).arg("--update").run();
    let run = run.expect_code(0);
    shows!(run.stdout, @"
    ok    a: wrong (report, stdout, reports.csv, files.a.txt, files.b c.txt, exit, counts.stored, counts.failed, slept, requests, stderr updated)
    ok    a: exit code is not there (exit, counts.stored, counts.rejected updated)
    ok    a: right
    3 passed, 0 failed in [seconds] s
    ");
    let written = fs::read_to_string(run.path("a.test.yaml")).unwrap();
    shows!(written, @r#"
    ﻿# a comment
    - name: wrong   # beside its name
      size: 2
      source:
        - tokens: [aa, bb]
        - tokens: [cc]
      script: files.rhai
      expect:
        report: |   # kept
          stored    aa
          stored    bb
        # between
        counts: {stored: 2, failed: 0}
        exit: 7
        slept: 2s   # not long
        requests: [2]
        reports:
          csv: |
            token,status,attempts,ms,sqlstate,constraint,reason,message
            aa,stored,1,0,,,,
            bb,stored,1,0,,,,
        stdout: |
          stored    aa
          stored    bb
        stderr: |
          2 requested, 2 received in 1 request: 2 stored, 0 rejected in [seconds] s ([rate] tokens/s)
        files:
          "b c.txt": |
            new
          a.txt: |
            one
            two

    - name: exit code is not there
      size: 1
      source: [tokens: [aa]]
      script: exit.rhai
      expect: {exit: 3, counts: {stored: 1, rejected: 0}}
    - name: right
      size: 1
      source: [tokens: [aa]]
      expect: {report: stored    aa}
    "#);
    assert!(written.starts_with('\u{feff}'));
    let again = command().file("a.test.yaml", written.as_str()).run();
    assert_eq!(again.code, Some(0), "{}", again.stdout);
    let same = command()
        .file("a.test.yaml", written.as_str())
        .arg("--update")
        .run();
    assert_eq!(
        fs::read_to_string(same.path("a.test.yaml")).unwrap(),
        written
    );
}

#[test]
fn update_names_what_it_cannot_change() {
    let yaml = "- name: anchor
  size: 1
  source: &source [tokens: [aa]]
  expect: &expect {exit: 4, stderr: [a needle]}
- name: alias
  size: 1
  source: *source
  expect: *expect
- name: no expectation
  size: 1
  source: [tokens: []]
- name: in part
  size: 1
  source: *source
  expect:
    counts: {stored: 2}
    files: {a.txt: x}
    requests:
      - 7
";
    let run = test().file("a.test.yaml", yaml).arg("--update").run();
    let run = run.expect_code(1);
    shows!(run.stdout, @"
    FAIL  a: anchor
          a.test.yaml:4:20
          exit: expected 4, got 0
          stderr: expected `a needle` in
            1 requested, 1 received in 1 request: 1 stored, 0 rejected in [seconds] s ([rate] tokens/s)
          not updated: exit: an anchor or alias shares it with other values
          not updated: stderr: change it by hand
    FAIL  a: alias
          a.test.yaml:8:11
          exit: expected 4, got 0
          stderr: expected `a needle` in
            1 requested, 1 received in 1 request: 1 stored, 0 rejected in [seconds] s ([rate] tokens/s)
          not updated: exit: it is behind an alias, or in a form that cannot be rewritten
          not updated: stderr: change it by hand
    FAIL  a: no expectation
          a.test.yaml:9:3
          the run sent request 2, for 1 token, but the case has only 1 answer
    FAIL  a: in part
          a.test.yaml:17:13
          files.a.txt: the script did not write this file
          requests: expected [7], got [1]
          updated: counts.stored
          not updated: files.a.txt: change it by hand
          not updated: requests: it is behind an alias, or in a form that cannot be rewritten
    0 passed, 4 failed in [seconds] s
    ");
    let written = fs::read_to_string(run.path("a.test.yaml")).unwrap();
    assert_eq!(written, yaml.replace("stored: 2", "stored: 1"));
}
