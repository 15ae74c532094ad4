//! Tests of `--shard`: several runs share one SIZE. An option or the platform sets the shard of a run.

use crate::support::command::Command;
use crate::support::database::Database;
use crate::support::report::Report;
use crate::support::snapshot::shows;
use crate::support::source::Source;

#[test]
fn shard_sizes_add_up_to_size() {
    let source = Source::generating(|size| size);
    let database = Database::standard();
    let parts: Vec<u64> = (0..4)
        .map(|index| {
            let run = Command::new()
                .source(&source)
                .database(&database)
                .args(["11", "--report", "ndjson", "--shard", &format!("{index}/4")])
                .run()
                .expect_code(0);
            Report::of_run(&run).count("requested")
        })
        .collect();
    assert_eq!(parts, [3, 3, 3, 2]);
    assert_eq!(source.sizes(), [3, 3, 3, 2]);
    assert_eq!(source.issued().len(), 11);
}

#[test]
fn shard_is_read_from_the_variables_of_the_platform() {
    let requested = |variables: &[(&str, &str)]| {
        let mut command = Command::new().args(["demo", "10", "--report", "ndjson"]);
        for (name, value) in variables {
            command = command.env(name, value);
        }
        Report::of_run(&command.run().expect_code(0)).count("requested")
    };
    let cloud_run = [("CLOUD_RUN_TASK_INDEX", "3"), ("CLOUD_RUN_TASK_COUNT", "4")];
    assert_eq!(requested(&cloud_run), 2);
    let only = [("CLOUD_RUN_TASK_INDEX", "0"), ("CLOUD_RUN_TASK_COUNT", "1")];
    assert_eq!(requested(&only), 10);
    let kubernetes = [("JOB_COMPLETION_INDEX", "0"), ("TOKEN_SERVICE_SHARD", "/4")];
    assert_eq!(requested(&kubernetes), 3);
    // The setting of the operator overrides that of the platform.
    let both = [cloud_run[0], cloud_run[1], ("TOKEN_SERVICE_SHARD", "0/1")];
    assert_eq!(requested(&both), 10);
}

#[test]
fn shard_sends_no_request_when_its_part_is_empty() {
    let source = Source::generating(|size| size);
    let run = Command::new()
        .source(&source)
        .env("DATABASE_URL", "postgres://tokens@127.0.0.1:1/none")
        .args([
            "2",
            "--shard",
            "2/3",
            "--report",
            "ndjson",
            "--report",
            "html=page.html",
        ])
        .run()
        .expect_code(0);
    shows!(run.stderr, @"
     INFO nothing to do: this shard's part of SIZE is 0
    0 requested, 0 received: 0 stored, 0 rejected in [seconds] s
    ");
    assert_eq!(Report::of_run(&run).count("requested"), 0);
    assert!(run.path("page.html").exists());
    assert!(source.requests().is_empty());
}

#[test]
fn shards_split_an_input_without_overlap() {
    let database = Database::standard();
    let tokens: Vec<String> = (0..10).map(|number| format!("t{number}")).collect();
    for index in 0..3 {
        Command::new()
            .database(&database)
            .file("tokens", tokens.join("\n"))
            .config(&format!("run: {{shard: {index}/3}}"))
            .args(["--input", "tokens"])
            .run()
            .expect_code(0);
    }
    assert_eq!(database.rows(), tokens);
}

#[test]
fn error_explains_an_invalid_or_incomplete_shard() {
    let shown = |variables: &[(&str, &str)]| {
        let mut command = Command::new().args(["demo", "10"]);
        for (name, value) in variables {
            command = command.env(name, value);
        }
        command.run().expect_code(2).stderr
    };
    let all = [
        shown(&[("TOKEN_SERVICE_SHARD", "4/4")]),
        shown(&[("TOKEN_SERVICE_SHARD", "/4")]),
        shown(&[("JOB_COMPLETION_INDEX", "1")]),
        shown(&[("JOB_COMPLETION_INDEX", "4"), ("TOKEN_SERVICE_SHARD", "/4")]),
        shown(&[
            ("JOB_COMPLETION_INDEX", "one"),
            ("TOKEN_SERVICE_SHARD", "/4"),
        ]),
        shown(&[("CLOUD_RUN_TASK_INDEX", "1")]),
        shown(&[("CLOUD_RUN_TASK_INDEX", "4"), ("CLOUD_RUN_TASK_COUNT", "4")]),
    ];
    shows!(all.join("\n"), @"
    error: TOKEN_SERVICE_SHARD must be I/N with I from 0 to N - 1, such as 0/4, or /N, not `4/4`

    error: the shard /4 has no index
    hint: write I/4, or set CLOUD_RUN_TASK_INDEX or JOB_COMPLETION_INDEX to the index

    error: JOB_COMPLETION_INDEX is set, but the number of completions that share SIZE is not
    hint: set TOKEN_SERVICE_SHARD=/N to the Job's `completions`, or 0/1 if each pod is to fetch SIZE tokens

    error: shard 4 of 4 does not exist; shards count from 0
    hint: set the number of shards to the platform's number of tasks

    error: JOB_COMPLETION_INDEX must be a whole number of at least 0, not `one`

    error: only one of CLOUD_RUN_TASK_INDEX and CLOUD_RUN_TASK_COUNT is set
    hint: Cloud Run sets both; --shard I/N overrides them

    error: shard 4 of 4 does not exist; shards count from 0
    hint: set the number of shards to the platform's number of tasks
    ");
}
