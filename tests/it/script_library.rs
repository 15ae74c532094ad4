//! Tests of the script library in `scripts/lib`: what each module does, and that scripts can import it
//! from any folder, also from a mounted one.

use std::fs;
use std::os::unix::fs::symlink;

use super::script_accounting::database_refusing_bb;
use crate::support::command::Command;
use crate::support::database::Database;
use crate::support::ledger::{Ledger, database_command, demo_command, error_text};
use crate::support::root;
use crate::support::source::{Response, Source};

/// Returns what a script prints that imports all modules.
#[track_caller]
fn output_of(script: &str) -> String {
    let imports: String = [
        "arguments",
        "backoff",
        "batches",
        "breaker",
        "cells",
        "stats",
    ]
    .map(|name| format!("import \"lib/{name}\" as {name};\n"))
    .concat();
    demo_command(3, &format!("{imports}{script} exit(0);"))
        .run()
        .expect_code(0)
        .stdout
}

#[test]
fn check_reports_nothing_for_the_shipped_scripts() {
    let mut command = Command::new().arg("check");
    for folder in ["scripts", "scripts/lib", "examples"] {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|kind| kind == "rhai") {
                command = command.arg(path);
            }
        }
    }
    let run = command.run().expect_code(0);
    assert_eq!(run.stderr, "");
    assert!(run.stdout.lines().all(|line| line.starts_with("ok    ")));
    assert!(run.stdout.contains("lib/stats.rhai"), "{}", run.stdout);
}

#[test]
fn cells_are_escaped_for_csv_and_markdown() {
    let script = r#"
        print(cells::csv_line(["a", "q\"u,o", 1, 2.5, true, ()]));
        print(cells::csv_line(["=1+1", "+1", "-1", "@x", "\tx", "x=1", ""]));
        print(cells::markdown_head(["a", "b|c"]));
        print(cells::markdown_line(["x|y", "*b* _i_ `c` <t> [l] \\ e", "two\nlines", ()]));"#;
    insta::assert_snapshot!(output_of(script), @r#"
    "a","q""u,o","1","2.5","true",""
    "'=1+1","'+1","'-1","'@x","'	x","x=1",""
    | a | b\|c |
    | --- | --- |
    | x\|y | \*b\* \_i\_ \`c\` \<t> \[l] \\ e | two lines |  |
    "#);
}

#[test]
fn backoff_steps_double_up_to_the_maximum() {
    let script = "
        print(backoff::steps(5, 100, 1000));
        print(backoff::steps(2, 5, 1));
        print(backoff::steps(0, 100, 1000));";
    assert_eq!(
        output_of(script),
        "[100, 200, 400, 800, 1000]\n[1, 1]\n[]\n"
    );
}

#[test]
fn settle_stores_failed_tokens_again_when_the_error_passes() {
    // `store` itself tries five times; the second round succeeds.
    let source = Source::responding([Response::tokens(["aa", "bb", "c-c"])]);
    let database = database_refusing_bb(7);
    let script = "import \"lib/backoff\" as backoff;
        let summary = backoff::settle(store(fetch(SIZE)), 3);
        log_info(`${summary.stored} of ${summary.requested}`);";
    let run = database_command(3, script, &source, &database)
        .run()
        .expect_code(0);
    assert_eq!(
        Ledger::of(&run).without_duplicates().counts(),
        [2, 1, 0, 0, 0]
    );
    assert_eq!(database.rows(), ["aa", "bb"]);
    assert!(run.stderr.contains("2 of 3"), "{}", run.stderr);
    assert!(
        run.stderr.contains("storing again what failed"),
        "{}",
        run.stderr
    );
}

#[test]
fn settle_leaves_tokens_failed_when_its_rounds_are_used_up() {
    let source = Source::responding([Response::tokens(["aa", "bb", "c-c"])]);
    let script = "import \"lib/backoff\" as backoff; backoff::settle(store(fetch(SIZE)), 1);";
    let run = database_command(3, script, &source, &database_refusing_bb(99))
        .run()
        .expect_code(5);
    assert_eq!(
        Ledger::of(&run).without_duplicates().counts(),
        [1, 1, 1, 0, 0]
    );
}

#[test]
fn batches_have_the_given_size_and_the_last_one_holds_the_rest() {
    let script = r#"
        print(batches::of([1, 2, 3, 4, 5], 2));
        print(batches::of([1, 2], 2));
        print(batches::of([], 2));
        let seen = [];
        let count = batches::each(tokens(["a", "b", "c"]), 2, |batch| {
            print(batch);
            reject(batch, "seen");
        });
        print(count);
        print(batches::each(tokens(["d", "e"]), 2, |batch| reject(batch, "seen")));"#;
    let shown = output_of(script);
    let shown: Vec<&str> = shown
        .lines()
        .filter(|line| !line.starts_with("rejected"))
        .collect();
    assert_eq!(
        shown,
        [
            "[[1, 2], [3, 4], [5]]",
            "[[1, 2]]",
            "[]",
            "[\"a\", \"b\"]",
            "[\"c\"]",
            "2",
            "1"
        ]
    );
}

#[test]
fn breaker_opens_when_consecutive_pages_fail() {
    let script = r"
        let state = breaker::closed(2);
        for stored in [0, 1, 0, 0, 0, 1] {
            state = breaker::after(state, #{stored: stored, failed: 1});
            print(breaker::is_open(state));
        }";
    assert_eq!(
        output_of(script),
        "false\nfalse\nfalse\ntrue\ntrue\nfalse\n"
    );
    // In a run the open breaker stops further requests.
    let source = Source::responding([Response::tokens(["a-a", "b-b"]).always()]);
    let script = "import \"lib/breaker\" as breaker;
        let state = breaker::closed(3);
        for page in fetch(SIZE, #{page_size: 2}).pages() {
            let outcomes = store(page);
            report(outcomes);
            state = breaker::after(state, outcomes.counts);
            if breaker::is_open(state) { throw \"three pages in a row returned no tokens\"; }
        }";
    let run = database_command(1000, script, &source, &Database::standard())
        .args(["--fetch-concurrency", "1"])
        .run()
        .expect_code(5);
    assert!(error_text(&run).contains("three pages in a row returned no tokens"));
    let ledger = Ledger::of(&run);
    assert_eq!(ledger.count("rejected"), 6);
    assert!(ledger.count("received") <= 12, "{}", ledger.summary);
}

#[test]
fn statistics_are_computed_correctly() {
    let script = r#"
        print(stats::percent(1, 3)); print(stats::percent(2, 3)); print(stats::percent(3, 3));
        print(stats::percent(0, 0) == 0.0);
        print(stats::sum(#{a: 1}, #{a: 2, b: 3}));
        print(stats::mean([1, 2, 4.5])); print(stats::mean([]) == ());
        print(stats::percentile([4, 1, 3, 2], 50)); print(stats::percentile([4, 1, 3, 2], 51));
        print(stats::percentile([4, 1, 3, 2], 0)); print(stats::percentile([1.5], 99));
        print(stats::percentile([], 50) == ());
        print(stats::count_by(store(["aa", "b-b", "c-c"]), |outcome| outcome.constraint));"#;
    let shown = output_of(script);
    let shown: Vec<&str> = shown
        .lines()
        .filter(|line| !line.contains("ed  "))
        .collect();
    insta::assert_snapshot!(shown.join("\n"), @r#"
    33.3
    66.7
    100.0
    true
    #{"a": 3, "b": 3}
    2.5
    true
    2
    3
    1
    1.5
    true
    #{"secret_tokens_data_check": 2}
    "#);
}

#[test]
fn script_imports_the_library_unless_its_folder_has_the_module() {
    let script = "import \"lib/stats\" as stats; print(stats::percent(1, 2)); exit(0);";
    let in_folder = |command: Command| command.args(["demo", "1", "--script", "in/mine.rhai"]);
    // The folder has no library.
    let run = in_folder(Command::new().file("in/mine.rhai", script)).run();
    assert_eq!(run.expect_code(0).stdout, "50.0\n");
    // The folder has other modules.
    let command = Command::new()
        .file("in/lib/other.rhai", "")
        .file("in/mine.rhai", script);
    assert_eq!(in_folder(command).run().expect_code(0).stdout, "50.0\n");
    // The folder has a module of that name.
    let command = Command::new()
        .file("in/lib/stats.rhai", "fn percent(a, b) { \"mine\" }")
        .file("in/mine.rhai", script);
    assert_eq!(in_folder(command).run().expect_code(0).stdout, "mine\n");
    // If that module does not compile, the library does not replace it.
    let command = Command::new()
        .file("in/lib/stats.rhai", "fn percent(")
        .file("in/mine.rhai", script);
    let run = in_folder(command).run().expect_code(3);
    assert!(
        run.stderr.contains("in/lib/stats.rhai:1:12"),
        "{}",
        run.stderr
    );
    // A module of the script can import the library too.
    let command = Command::new()
        .file(
            "in/own.rhai",
            "import \"lib/stats.rhai\" as stats; fn half() { stats::percent(1, 2) }",
        )
        .file(
            "in/mine.rhai",
            "import \"own\" as own; print(own::half()); exit(0);",
        );
    assert_eq!(in_folder(command).run().expect_code(0).stdout, "50.0\n");
}

#[test]
fn library_formats_outcomes_after_the_script_has_ended() {
    let source = Source::responding([Response::tokens(["a|a", "bb", "c-c"])]);
    let script = "import \"lib/cells\" as cells;
        report(store(fetch(SIZE)), |outcome| cells::markdown_line([outcome.token, outcome.status]));";
    let run = database_command(3, script, &source, &database_refusing_bb(99))
        .run()
        .expect_code(5);
    insta::assert_snapshot!(run.sorted(), @r"
    | a\|a | stored |
    | bb | failed |
    | c-c | rejected |
    ");
    Ledger::of(&run).without_duplicates();
}

#[test]
fn error_in_the_library_shows_its_position_and_caller() {
    let script = "import \"lib/stats\" as stats;\nstats::percent(\"a\", 2);";
    let run = demo_command(1, script).run().expect_code(3);
    insta::assert_snapshot!(error_text(&run), @"
    error: `*` cannot be applied to string and float
       ╭▸ scripts/lib/stats.rhai:16:11
       │
    16 │     (part * 1000.0 / whole).round() / 10.0
       ╰╴          ━
      called from mine.rhai:2:8 in `percent`
    ");
}

/// Writes files as Kubernetes mounts a `ConfigMap`: each one links into `..data`, which links to the
/// folder of the current version.
fn config_map(command: Command, files: &[(&str, &str)]) -> Command {
    let mut command = command;
    for (path, text) in files {
        command = command.file(&format!("mount/..2026_01_01/{path}"), text);
    }
    let mount = command.dir().join("mount");
    symlink("..2026_01_01", mount.join("..data")).unwrap();
    let mut tops: Vec<&str> = files
        .iter()
        .map(|(path, _)| path.split('/').next().unwrap())
        .collect();
    tops.dedup();
    for top in tops {
        symlink(format!("..data/{top}"), mount.join(top)).unwrap();
    }
    command
}

#[test]
fn script_imports_modules_from_a_config_map() {
    let mine = "import \"lib/own\" as own; import \"flat\" as flat; import \"lib/stats\" as stats;
        print(own::two() + flat::one()); print(stats::percent(1, 2)); exit(0);";
    let files = [
        ("flat.rhai", "fn one() { 1 }"),
        (
            "lib/own.rhai",
            "import \"flat\" as flat; fn two() { flat::one() + 1 }",
        ),
        ("mine.rhai", mine),
    ];
    let command = config_map(Command::new(), &files);
    let run = command
        .args(["demo", "1", "--script", "mount/mine.rhai"])
        .run();
    assert_eq!(run.expect_code(0).stdout, "3\n50.0\n");
    let command = config_map(Command::new(), &files);
    let run = command
        .args(["check", "mount/mine.rhai"])
        .run()
        .expect_code(0);
    assert_eq!(run.stdout, "ok    mount/mine.rhai\n");
    // A link that leads out of the mounted folder is refused.
    let command = config_map(Command::new(), &files).file("secret.rhai", "fn one() { 1 }");
    let flat = command.dir().join("mount/flat.rhai");
    fs::remove_file(&flat).unwrap();
    symlink("../secret.rhai", &flat).unwrap();
    let run = command
        .args(["demo", "1", "--script", "mount/mine.rhai"])
        .run();
    let run = run.expect_code(3);
    assert!(
        run.stderr.contains("a symbolic link leads out"),
        "{}",
        run.stderr
    );
}
