//! Tests of pipeline test files: how they are found and selected, and the errors of invalid ones.

use crate::support::command::Command;
use crate::support::snapshot::shows;

fn test() -> Command {
    Command::new().arg("test")
}

/// Returns the errors of these invalid test files.
#[track_caller]
fn errors_of(texts: &[&str]) -> String {
    let files = texts.iter().enumerate();
    let command = files.fold(test(), |command, (at, yaml)| {
        command.file(&format!("{at:02}.test.yaml"), yaml)
    });
    // A valid file beside them is not run.
    let run = command.file("valid.test.yaml", "- name: a\n").run();
    let run = run.expect_code(2);
    assert_eq!(run.stdout, "");
    run.stderr
}

#[test]
fn invalid_key_or_value_names_its_position() {
    let errors = errors_of(&[
        "- name: a\n  expct: {}\n",
        "- name: a\n  expect:\n    cuonts: {stored: 2}\n",
        "- name: a\n  source:\n    - {connect: refsued}\n",
        "- name: a\n  source: [tokens: [1.50]]\n",
        "- name: a\n  store:\n    a: [stored, losst]\n",
        "- name: a\n  store:\n    a: {sqlstate: 235}\n",
        "- name: a\n  store:\n    a: stored\n    a: lost\n",
        "- name: a\n  signals:\n    - {name: KILL, at: 1s}\n",
        "- name: a\n  expect:\n    slept: 2\n",
        "- name: a\n  options:\n    fail_on: [sotred<1]\n",
        "- name: a\n  options: {dry_run: perhaps}\n",
        "- name: a\n  expect:\n    requests: many\n",
        "name: a\n",
        "- name: a\n\tsize: 3\n",
        "",
    ]);
    shows!(errors, @r#"
    error: unknown key `expct`
      ╭▸ 00.test.yaml:2:3
      │
    2 │   expct: {}
      ╰╴  ━━━━━ did you mean `expect`?
    error: unknown key `cuonts` in `expect`
      ╭▸ 01.test.yaml:3:5
      │
    3 │     cuonts: {stored: 2}
      ╰╴    ━━━━━━ did you mean `counts`?
    error: `source[0].connect` must be refused
      ╭▸ 02.test.yaml:3:17
      │
    3 │     - {connect: refsued}
      ╰╴                ━━━━━━━
    error: `source[0].tokens[0]` must be text: put it in quotes, not a number
      ╭▸ 03.test.yaml:2:21
      │
    2 │   source: [tokens: [1.50]]
      ╰╴                    ━━━━
    error: `store.a[1]` must be one of stored, lost, found, unknown, down, a mapping such as {sqlstate: "23514"}, or a list of these, one per attempt
      ╭▸ 04.test.yaml:3:17
      │
    3 │     a: [stored, losst]
      ╰╴                ━━━━━
    error: `store.a.sqlstate` must be a five-character SQLSTATE in quotes, such as "23514"
      ╭▸ 05.test.yaml:3:19
      │
    3 │     a: {sqlstate: 235}
      ╰╴                  ━━━
    error: duplicate key `a` in `store`
      ╭▸ 06.test.yaml:4:5
      │
    4 │     a: lost
      ╰╴    ━ already set above
    error: `signals[0].name` must be TERM, INT, HUP or QUIT
      ╭▸ 07.test.yaml:3:14
      │
    3 │     - {name: KILL, at: 1s}
      ╰╴             ━━━━
    error: `expect.slept` must have a unit, such as 500ms, 20s or 10m
      ╭▸ 08.test.yaml:3:12
      │
    3 │     slept: 2
      ╰╴           ━
    error: `options.fail_on[0]` must name one of requested, received, requests, surplus, stored, rejected, failed, unknown, not_attempted, retries, not `sotred` (did you mean `stored`?)
      ╭▸ 09.test.yaml:3:15
      │
    3 │     fail_on: [sotred<1]
      ╰╴              ━━━━━━━━
    error: `options.dry_run` must be true or false, not text
      ╭▸ 10.test.yaml:2:22
      │
    2 │   options: {dry_run: perhaps}
      ╰╴                     ━━━━━━━
    error: `expect.requests` must be a whole number or a list of the requested sizes, not text
      ╭▸ 11.test.yaml:3:15
      │
    3 │     requests: many
      ╰╴              ━━━━
    error: the file must be a list, not a mapping
      ╭▸ 12.test.yaml:1:1
      │
    1 │ name: a
      ╰╴━━━━━━━
    error: the test file is not valid YAML
      ╭▸ 13.test.yaml:1:9
      │
    1 │ - name: a
      ╰╴        ━ while scanning a plain scalar, found a tab
    hint: indent YAML with spaces, not tabs
    error: the test file has no cases
     ─▸ 14.test.yaml:1:1
    hint: write a list of cases, each with a `name`; see docs/testing.md
    "#);
}

#[test]
fn conflicting_keys_name_their_position() {
    let errors = errors_of(&[
        "- size: 3\n",
        "- name: a\n  source:\n    - {tokens: [a], status: 503}\n",
        "- name: a\n  source:\n    - {status: 200}\n",
        "- name: a\n  source:\n    - {delay: 1s}\n",
        "- name: a\n  source:\n    - {retry_after: 1s, tokens: [a]}\n",
        "- name: a\n  source:\n    - {cut: true, timeout: true}\n",
        "- name: a\n  source:\n    - {cut: true, connect: refused}\n",
        "- name: a\n  store:\n    a: {constraint: x}\n",
        "- name: a\n  store:\n    a: {reject: x, sqlstate: \"23514\"}\n",
        "- name: a\n  store:\n    a: []\n",
        "- name: a\n  signals:\n    - {name: TERM}\n",
        "- name: a\n  signals:\n    - {at: 1s}\n",
        "- name: a\n  env: {MAX_TOKENS: none}\n",
    ]);
    shows!(errors, @r#"
    error: the case has no `name`
      ╭▸ 00.test.yaml:1:3
      │
    1 │ - size: 3
      ╰╴  ━
    error: an answer cannot have both `tokens` and `status`
      ╭▸ 01.test.yaml:3:21
      │
    3 │     - {tokens: [a], status: 503}
      ╰╴                    ━━━━━━
    error: `status` must be an HTTP status other than 200; `tokens` answers 200
      ╭▸ 02.test.yaml:3:8
      │
    3 │     - {status: 200}
      ╰╴       ━━━━━━
    error: an answer needs `tokens`, `count`, `body`, `status`, `timeout`, `cut` or `connect`
      ╭▸ 03.test.yaml:3:7
      │
    3 │     - {delay: 1s}
      ╰╴      ━
    error: `retry_after` requires a `status`, such as 503
      ╭▸ 04.test.yaml:3:8
      │
    3 │     - {retry_after: 1s, tokens: [a]}
      ╰╴       ━━━━━━━━━━━
    error: an answer cannot have both `cut` and `timeout`
      ╭▸ 05.test.yaml:3:19
      │
    3 │     - {cut: true, timeout: true}
      ╰╴                  ━━━━━━━
    error: an answer cannot have both `connect` and `cut`
      ╭▸ 06.test.yaml:3:8
      │
    3 │     - {cut: true, connect: refused}
      ╰╴       ━━━
    error: `severity`, `routine`, `table`, `column`, `constraint` and `message` require a `sqlstate`
      ╭▸ 07.test.yaml:3:8
      │
    3 │     a: {constraint: x}
      ╰╴       ━
    error: a reply cannot have both `sqlstate` and `reject`
      ╭▸ 08.test.yaml:3:8
      │
    3 │     a: {reject: x, sqlstate: "23514"}
      ╰╴       ━
    error: the list needs at least one reply
      ╭▸ 09.test.yaml:3:5
      │
    3 │     a: []
      ╰╴    ━
    error: a signal needs either `after_requests` or `at`
      ╭▸ 10.test.yaml:3:7
      │
    3 │     - {name: TERM}
      ╰╴      ━
    error: a signal needs a `name`: TERM, INT, HUP or QUIT
      ╭▸ 11.test.yaml:3:7
      │
    3 │     - {at: 1s}
      ╰╴      ━
    error: MAX_TOKENS must be a whole number of at least 1, not `none`
      ╭▸ 12.test.yaml:1:3
      │
    1 │ - name: a
      ╰╴  ━
    "#);
}

#[test]
fn key_without_a_value_and_second_name_are_errors() {
    let errors = errors_of(&[
        "- name: a\n  expect:\n",
        "- name: a\n  expect:\n    report:\n    counts: {stored: }\n",
        "- name: a\n  expect: {reports: {csv: }, stderr: []}\n",
        "- name: a\n  size:\n  source:\n    - {tokens: [a], delay: }\n",
        "- name: a\n  store:\n    a: {sqlstate: \"23514\", constraint: }\n",
        "- name: a\n- name: b\n- name: a\n",
        "- name: a\n  expect: {reports: {}}\n",
    ]);
    shows!(errors, @r#"
    error: `expect` has no value: give it one, or remove the key
      ╭▸ 00.test.yaml:2:3
      │
    2 │   expect:
      ╰╴  ━━━━━━
    error: `expect.report` has no value: give it one, or remove the key
      ╭▸ 01.test.yaml:3:5
      │
    3 │     report:
      ╰╴    ━━━━━━
    error: `expect.counts.stored` has no value: give it one, or remove the key
      ╭▸ 01.test.yaml:4:14
      │
    4 │     counts: {stored: }
      ╰╴             ━━━━━━
    error: `expect.reports.csv` has no value: give it one, or remove the key
      ╭▸ 02.test.yaml:2:22
      │
    2 │   expect: {reports: {csv: }, stderr: []}
      ╰╴                     ━━━
    error: `expect.stderr` needs at least one part
      ╭▸ 02.test.yaml:2:38
      │
    2 │   expect: {reports: {csv: }, stderr: []}
      ╰╴                                     ━━
    error: `size` has no value: give it one, or remove the key
      ╭▸ 03.test.yaml:2:3
      │
    2 │   size:
      ╰╴  ━━━━
    error: `source[0].delay` has no value: give it one, or remove the key
      ╭▸ 03.test.yaml:4:21
      │
    4 │     - {tokens: [a], delay: }
      ╰╴                    ━━━━━
    error: `store.a.constraint` has no value: give it one, or remove the key
      ╭▸ 04.test.yaml:3:28
      │
    3 │     a: {sqlstate: "23514", constraint: }
      ╰╴                           ━━━━━━━━━━
    error: two cases have the name `a`
      ╭▸ 05.test.yaml:3:3
      │
    3 │ - name: a
      ╰╴  ━━━━ the case in line 1 has it
    error: `expect.reports` needs at least one format
      ╭▸ 06.test.yaml:2:21
      │
    2 │   expect: {reports: {}}
      ╰╴                    ━━
    "#);
}

#[test]
fn byte_order_mark_of_a_test_file_is_skipped() {
    let run = test()
        .file(
            "a.test.yaml",
            "\u{feff}- name: a\n  size: 1\n  source: [count: 1]\n",
        )
        .run();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
}

#[test]
fn errors_are_json_when_error_format_is_json() {
    let run = test()
        .file("a.test.yaml", "- name: a\n  expct: {}\n")
        .args(["--error-format", "json"])
        .run()
        .expect_code(2);
    shows!(run.stderr, @r#"{"severity":"error","message":"unknown key `expct`","file":"a.test.yaml","line":2,"column":3,"end_column":8,"label":"did you mean `expect`?","exit_code":2}"#);
}

#[test]
fn test_command_fails_when_no_case_is_selected() {
    let run = test().run().expect_code(2);
    shows!(run.stderr, @"
    error: no pipeline tests in .
    hint: pass test files, or folders that contain *.test.yaml files
    ");
    let run = test().arg("none").run().expect_code(2);
    shows!(run.stderr, @"
    error: cannot search none for pipeline tests
      caused by: No such file or directory (os error 2)
    ");
    let run = test()
        .file("a.test.yaml", "- name: a\n")
        .args(["--filter", "b: "])
        .run()
        .expect_code(2);
    shows!(run.stderr, @"
    error: no case has `b: ` in its name
    hint: `--filter` selects from 1 case by `FILE: NAME`
    ");
}

#[test]
fn test_files_are_found_recursively_in_order_and_filtered_by_name() {
    let one = "- name: one\n  size: 1\n  source: [count: 1]\n- name: two\n  skip: not now\n";
    let command = || {
        test()
            .file("b/x.test.yaml", one)
            .file("b/deep/y.test.yaml", one)
            .file("a.test.yaml", one)
            .file("b/.hidden/z.test.yaml", "no")
            .file("target/z.test.yaml", "no")
            .file("b/other.yaml", "no")
    };
    shows!(command().run().expect_code(0).stdout, @"
    ok    a: one
    skip  a: two (not now)
    ok    b/deep/y: one
    skip  b/deep/y: two (not now)
    ok    b/x: one
    skip  b/x: two (not now)
    3 passed, 0 failed, 3 skipped in [seconds] s
    ");
    let run = command()
        .args(["b", "a.test.yaml", "--filter", "y: one"])
        .run();
    shows!(run.expect_code(0).stdout, @"
    ok    deep/y: one
    1 passed, 0 failed in [seconds] s
    ");
}
