//! Tests of `token_service merge`, which joins the reports of several runs into one report.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::command::Command;
use crate::support::database::Database;
use crate::support::report::Report;
use crate::support::snapshot::shows;
use crate::support::source::{Response, Source};

/// Runs `command` with an ndjson report, and returns the path of the report.
fn write_report(dir: &Path, name: &str, command: Command, code: i32) -> PathBuf {
    let path = dir.join(name);
    let report = format!("ndjson={}", path.display());
    command.args(["--report", &report]).run().expect_code(code);
    path
}

/// Writes the report of a demo run with three tokens, of which one is rejected.
fn write_demo_report(dir: &Path, name: &str, args: &[&str]) -> PathBuf {
    let command = Command::new().file("tokens", "aa\nb-b\ncc\n");
    let command = command.args(["demo", "--input", "tokens"]).args(args);
    write_report(dir, name, command, 0)
}

fn merge(files: &[PathBuf]) -> Command {
    Command::new().arg("merge").args(files)
}

/// Returns a token of a report without its time.
fn without_time(token: &Value) -> String {
    let mut token = token.clone();
    token.as_object_mut().unwrap().remove("ms");
    token.to_string()
}

fn sorted(report: &Report) -> Vec<String> {
    let mut tokens: Vec<String> = report.tokens.iter().map(without_time).collect();
    tokens.sort();
    tokens
}

#[test]
fn merged_shard_reports_equal_the_report_of_one_run() {
    let dir = tempfile::tempdir().unwrap();
    let tokens: Vec<String> = (0..10)
        .map(|number| format!("t{number}{}", if number % 3 == 0 { "-" } else { "" }))
        .collect();
    let run = |database: &Database, args: &[&str]| {
        Command::new()
            .database(database)
            .file("tokens", tokens.join("\n"))
            .args(["--input", "tokens"])
            .args(args)
    };
    let one = write_report(dir.path(), "one", run(&Database::standard(), &[]), 0);
    let one = Report::parse(&fs::read_to_string(one).unwrap());
    let shared = Database::standard();
    let shards: Vec<PathBuf> = (0..4)
        .map(|index| {
            let part = format!("{index}/4");
            let command = run(&shared, &["--shard", &part]);
            write_report(dir.path(), &index.to_string(), command, 0)
        })
        .collect();
    let merged = merge(&shards)
        .args(["--report", "ndjson"])
        .run()
        .expect_code(0);
    shows!(merged.stderr, @"10 requested, 10 received: 6 stored, 4 rejected in [seconds] s ([rate] tokens/s)");
    let merged = Report::of_run(&merged);
    assert_eq!(sorted(&merged), sorted(&one));
    for key in ["requested", "received", "stored", "rejected", "exit_code"] {
        assert_eq!(merged.summary[key], one.summary[key], "{key}");
    }
    let slowest = merged
        .tokens
        .iter()
        .filter_map(|token| token["ms"].as_f64());
    let slowest = slowest.fold(0.0, f64::max);
    let max = merged.summary["latency_ms"]["max"].as_f64().unwrap();
    assert!(
        (max - slowest).abs() <= slowest * 0.02,
        "{max} of {slowest}"
    );
}

#[test]
fn merged_duration_spans_the_first_start_to_the_last_end() {
    let dir = tempfile::tempdir().unwrap();
    let run = |name: &str, begin: &str, took: u64, id: u64| {
        let path = dir.path().join(name);
        let text = format!(
            r#"{{"token":"{name}","status":"stored","attempts":3,"ms":2.0}}
{{"summary":{{"version":1,"run_id":"{id}","started_at":"{begin}","duration_ms":{took},"requested":2,"received":1,"requests":3,"surplus":4,"stored":1,"rejected":0,"failed":0,"unknown":0,"not_attempted":0,"exit_code":4,"issued_unseen":5,"latency_ms":{{"p50":2,"p95":2,"p99":2,"max":2}}}}}}
"#
        );
        fs::write(&path, text).unwrap();
        path
    };
    let files = [
        run("late", "2026-01-01T00:00:10Z", 500, 1),
        run("early", "2026-01-01T00:00:01.5Z", 8_000, 2),
    ];
    let merged = merge(&files)
        .args(["--report", "ndjson"])
        .run()
        .expect_code(4);
    let report = Report::of_run(&merged);
    assert_eq!(report.summary["started_at"], "2026-01-01T00:00:01.5Z");
    for (key, sum) in [
        ("duration_ms", 9_000),
        ("requested", 4),
        ("received", 2),
        ("requests", 6),
        ("surplus", 8),
        ("issued_unseen", 10),
        // Reports of older versions do not have it; the lines do.
        ("retries", 4),
    ] {
        assert_eq!(report.count(key), sum, "{key}");
    }
    // The tokens keep the order of the files on the command line.
    assert_eq!(report.tokens[0]["token"], "late");
}

#[test]
fn merged_exit_code_is_the_worst_of_all() {
    let dir = tempfile::tempdir().unwrap();
    let good = write_demo_report(dir.path(), "good", &[]);
    let source = Source::responding([Response::tokens(["aa"]), Response::tokens([""; 0]).always()]);
    let command = Command::new()
        .source(&source)
        .database(&Database::standard());
    let short = write_report(dir.path(), "short", command.arg("2"), 4);
    let chosen = Command::new().args(["demo", "1", "--script", "mine.rhai"]);
    let chosen = chosen.file("mine.rhai", "report(store(fetch(SIZE))); exit(7);");
    let chosen = write_report(dir.path(), "chosen", chosen, 7);
    let condition = write_demo_report(dir.path(), "condition", &[]);

    let run = merge(&[good.clone(), short.clone()]).run().expect_code(4);
    assert!(
        run.stderr.contains("delivered 4 of 5 tokens"),
        "{}",
        run.stderr
    );
    merge(&[short, good.clone(), chosen]).run().expect_code(7);
    let both = [good, condition];
    merge(&both).run().expect_code(0);
    let held = merge(&both).env("TOKEN_SERVICE_FAIL_ON", "received>=6");
    assert!(held.run().expect_code(1).stderr.contains("received is 6"));
}

#[test]
fn merged_report_is_written_in_any_format_and_masked() {
    let dir = tempfile::tempdir().unwrap();
    let files = [
        write_demo_report(dir.path(), "a", &[]),
        write_demo_report(dir.path(), "b", &[]),
    ];
    let masked = [
        write_demo_report(dir.path(), "c", &["--mask", "sha256"]),
        write_demo_report(dir.path(), "d", &["--mask", "sha256"]),
    ];
    let run = merge(&files)
        .args(["--report", "json=all.json", "--report", "csv=all.csv"])
        .args(["--report", "yaml=all.yaml", "--report", "html=all.html"])
        .run()
        .expect_code(0);
    let json: Value =
        serde_json::from_str(&fs::read_to_string(run.path("all.json")).unwrap()).unwrap();
    assert_eq!(json["tokens"].as_array().unwrap().len(), 6);
    assert_eq!(
        fs::read_to_string(run.path("all.csv"))
            .unwrap()
            .lines()
            .count(),
        7
    );
    let page = fs::read_to_string(run.path("all.html")).unwrap();
    assert!(page.contains("Commit latency") && !page.contains("Outcomes over time"));

    let counted = merge(&files).args(["--metrics", "all.prom"]).run();
    let counted = counted.expect_code(0);
    let numbers = fs::read_to_string(counted.path("all.prom")).unwrap();
    assert!(
        numbers.contains("token_service_tokens_received 6\n"),
        "{numbers}"
    );

    let hidden = merge(&files).args(["--mask", "prefix", "--report", "ndjson"]);
    let hidden = Report::of_run(&hidden.run().expect_code(0));
    assert!(hidden.tokens.iter().all(|token| token["masked"] == true));
    // Masked tokens are not masked again: the result would match no token.
    let stays = merge(&masked).args(["--mask", "prefix", "--report", "ndjson"]);
    let stays = Report::of_run(&stays.run().expect_code(0));
    let before = fs::read_to_string(&masked[0]).unwrap();
    let first = stays.tokens[0]["token"].as_str().unwrap();
    assert!(stays.tokens[0]["masked"] == true && before.contains(first));
}

#[test]
fn inconsistent_reports_are_refused_without_output() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let good = write_demo_report(dir.path(), "good", &[]);
    let text = fs::read_to_string(&good).unwrap();
    let made = |name: &str, text: String| {
        fs::write(path(name), text).unwrap();
        path(name)
    };
    let lines: Vec<&str> = text.lines().collect();
    let journaled = ["--journal", path("journal").to_str().unwrap()].map(String::from);
    let journaled: Vec<&str> = journaled.iter().map(String::as_str).collect();
    write_demo_report(dir.path(), "journaled", &journaled);
    let all = [
        vec![good.clone(), path("missing")],
        vec![made("cut", lines[..3].join("\n"))],
        vec![made("torn", text[..text.len() - 9].to_owned())],
        vec![made("lost", lines[1..].join("\n"))],
        vec![made("twice", format!("{text}{}\n", lines[0]))],
        vec![made("other", String::from("hello\n"))],
        vec![path("journal")],
        vec![good.clone(), good.clone()],
        vec![
            good.clone(),
            write_demo_report(dir.path(), "masked", &["--mask", "prefix"]),
        ],
        vec![good, write_demo_report(dir.path(), "dry", &["--dry-run"])],
    ]
    .map(|files| {
        let run = merge(&files).args(["--report", "text", "--report", "json=all.json"]);
        let run = run.run().expect_code(2);
        assert_eq!(run.stdout, "", "no part of a report is written");
        assert!(!run.path("all.json").exists() && !run.path("all.json.partial").exists());
        let dir = format!("{}/", dir.path().display());
        run.stderr.replace(&dir, "")
    });
    shows!(all.join("\n"), @"
    error: missing cannot be merged
      caused by: No such file or directory (os error 2)
    hint: merge takes complete ndjson reports, each of a different run

    error: cut cannot be merged
      caused by: it has no summary: its run was interrupted or is still running
    hint: `token_service replay` settles the tokens of an interrupted run and writes a complete report

    error: torn cannot be merged
      caused by: it has no summary: its run was interrupted or is still running
    hint: `token_service replay` settles the tokens of an interrupted run and writes a complete report

    error: lost cannot be merged
      caused by: its summary has 2 stored tokens, but its lines have 1
    hint: merge takes complete ndjson reports, each of a different run

    error: twice cannot be merged
      caused by: twice:5:1: a line follows the summary
    hint: merge takes complete ndjson reports, each of a different run

    error: other cannot be merged
      caused by: other:1:1: the line is neither a token, a page, a run nor a summary
    hint: merge takes complete ndjson reports, each of a different run

    error: journal cannot be merged
      caused by: journal:1:1: it is a journal, not a report
    hint: `token_service replay` settles its tokens and writes a report

    error: good cannot be merged
      caused by: good already contains this run or a replay of it
    hint: merge takes complete ndjson reports, each of a different run

    error: masked cannot be merged
      caused by: masked:1:1: masked and unmasked tokens cannot be merged
    hint: merge takes complete ndjson reports, each of a different run

    error: dry cannot be merged
      caused by: dry:1:1: tokens of a dry run and of a real run cannot be merged
    hint: merge takes complete ndjson reports, each of a different run
    ");
}

/// A pipe can be read only once, so the merge checks its consistency while it reads.
#[test]
fn report_is_merged_from_a_pipe() {
    let dir = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(write_demo_report(dir.path(), "good", &[])).unwrap();
    let piped = |text: &str| Command::new().args(["merge", "/dev/stdin"]).stdin(text);
    let run = piped(&text).run().expect_code(0);
    assert_eq!(run.stdout.lines().count(), 3);
    piped(&text[..text.len() - 9]).run().expect_code(2);
}

#[test]
fn merge_refuses_a_run_together_with_its_replay() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::standard();
    let source = Source::responding([Response::tokens(["aa", "b-b"])]);
    let command = Command::new().source(&source).database(&database).arg("2");
    let run = write_report(dir.path(), "run", command, 0);
    let replay = |file: &Path, name: &str| {
        let command = Command::new().database(&database).arg("replay").arg(file);
        write_report(dir.path(), name, command, 0)
    };
    let first = replay(&run, "first");
    let second = replay(&first, "second");
    merge(std::slice::from_ref(&second)).run().expect_code(0);
    for pair in [[&run, &first], [&run, &second], [&second, &first]] {
        let run = merge(&pair.map(Clone::clone)).run().expect_code(2);
        assert!(
            run.stderr
                .contains("already contains this run or a replay of it"),
            "{}",
            run.stderr
        );
    }
}
