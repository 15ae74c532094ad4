//! Tests of reports: every format, standard output and files, streaming, and write errors.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;

use serde_json::Value;

use crate::support::command::Command;
use crate::support::database::Database;
use crate::support::report::Report;
use crate::support::snapshot::{self, shows};
use crate::support::source::{Gate, Response, Source, token};

/// Returns a source with a stored token, one that the database rejects, and a malformed one.
fn three_tokens() -> Source {
    Source::responding([Response::tokens(["aa", "b-b", "c\tc"])])
}

fn report(format: &str) -> String {
    let database = Database::standard();
    let source = three_tokens();
    let command = Command::new().source(&source).database(&database);
    let run = command.args(["3", "--report", format]).run();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let lines = run.stderr.lines().count();
    assert_eq!(lines, 1, "more than the summary: {}", run.stderr);
    if format == "json" {
        run.stdout
    } else {
        run.sorted()
    }
}

#[test]
fn text_report_has_one_line_per_token() {
    insta::assert_snapshot!(report("text"), @r"
    rejected  b-b  23514 secret_tokens_data_check
    rejected  c\tc  control character
    stored    aa
    ");
}

#[test]
fn ndjson_report_has_one_object_per_token_and_a_summary() {
    shows!(report("ndjson"), @r#"
    {"summary":{"version":1,"run_id":"[uuid]","started_at":"[time]","duration_ms":[ms],"requested":3,"received":3,"requests":1,"surplus":0,"stored":1,"rejected":2,"failed":0,"unknown":0,"not_attempted":0,"exit_code":0,"latency_ms":{"p50":[ms],"p95":[ms],"p99":[ms],"max":[ms]}}}
    {"token":"aa","status":"stored","attempts":1,"ms":[ms]}
    {"token":"b-b","status":"rejected","attempts":1,"ms":[ms],"sqlstate":"23514","constraint":"secret_tokens_data_check","message":"new row for relation \"secret_tokens\" violates check constraint \"secret_tokens_data_check\""}
    {"token":"c\tc","status":"rejected","attempts":0,"ms":[ms],"reason":"control character"}
    "#);
}

#[test]
fn json_report_is_one_document_with_tokens_and_summary() {
    let text = report("json");
    let mut document: Value = serde_json::from_str(&text).unwrap();
    // The malformed token does not wait for the database, so the order may differ.
    let tokens = document["tokens"].as_array_mut().unwrap();
    tokens.sort_by_key(|token| token["token"].to_string());
    let pretty = serde_json::to_string_pretty(&document).unwrap();
    shows!(pretty, @r#"
    {
      "summary": {
        "duration_ms": [ms],
        "exit_code": 0,
        "failed": 0,
        "latency_ms": {
          "max": [ms],
          "p50": [ms],
          "p95": [ms],
          "p99": [ms]
        },
        "not_attempted": 0,
        "received": 3,
        "rejected": 2,
        "requested": 3,
        "requests": 1,
        "run_id": "[uuid]",
        "started_at": "[time]",
        "stored": 1,
        "surplus": 0,
        "unknown": 0,
        "version": 1
      },
      "tokens": [
        {
          "attempts": 1,
          "ms": [ms],
          "status": "stored",
          "token": "aa"
        },
        {
          "attempts": 1,
          "constraint": "secret_tokens_data_check",
          "message": "new row for relation \"secret_tokens\" violates check constraint \"secret_tokens_data_check\"",
          "ms": [ms],
          "sqlstate": "23514",
          "status": "rejected",
          "token": "b-b"
        },
        {
          "attempts": 0,
          "ms": [ms],
          "reason": "control character",
          "status": "rejected",
          "token": "c\tc"
        }
      ],
      "version": 1
    }
    "#);
}

#[test]
fn json_report_is_complete_when_no_token_was_received() {
    let database = Database::standard();
    let source = Source::responding([Response::status(500)]);
    let command = Command::new().source(&source).database(&database);
    let run = command.args(["--report", "json"]).run().expect_code(4);
    let document: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(document["tokens"], serde_json::json!([]));
    assert_eq!(document["summary"]["exit_code"], 4);
}

#[test]
fn report_file_is_partial_until_the_report_is_complete() {
    let database = Database::standard();
    let gate = Gate::new();
    let source = Source::responding([Response::tokens(["aa"]).after(&gate)]);
    let command = Command::new().source(&source).database(&database);
    let dir = command.dir().to_owned();
    let running = command
        .args(["1", "--report", "ndjson=run.ndjson"])
        .file("run.ndjson", "the last run's")
        .spawn();
    source.wait_for(1);
    assert!(dir.join("run.ndjson.partial").exists());
    let last = fs::read_to_string(dir.join("run.ndjson")).unwrap();
    assert_eq!(
        last, "the last run's",
        "the old report is kept until the new one is complete"
    );
    gate.open();
    let run = running.wait().expect_code(0);
    assert!(!run.path("run.ndjson.partial").exists());
    let report = Report::parse(&fs::read_to_string(run.path("run.ndjson")).unwrap());
    assert_eq!(report.with_status("stored"), ["aa"]);
    assert_eq!(run.stdout, "", "no report was requested there");
}

#[test]
fn reports_of_one_run_agree() {
    let database = Database::standard();
    let source = three_tokens();
    let command = Command::new().source(&source).database(&database);
    let run = command
        .args(["3", "--report", "text", "--report", "ndjson=run.ndjson"])
        .args(["--report", "json=run.json"])
        .run()
        .expect_code(0);
    let read = |name| fs::read_to_string(run.path(name)).unwrap();
    let ndjson = Report::parse(&read("run.ndjson"));
    let json: Value = serde_json::from_str(&read("run.json")).unwrap();
    assert_eq!(json["tokens"], Value::from(ndjson.tokens));
    assert_eq!(json["summary"], ndjson.summary);
    assert_eq!(run.stdout.lines().count(), 3);
}

#[test]
fn no_token_is_requested_when_the_report_cannot_be_written() {
    let database = Database::standard();
    let errors = ["missing/run.ndjson", "folder"].map(|path| {
        let source = Source::responding([]);
        let command = Command::new().source(&source).database(&database);
        fs::create_dir(command.dir().join("folder")).unwrap();
        let run = command
            .args(["5", "--report", &format!("ndjson={path}")])
            .run()
            .expect_code(2);
        assert!(source.requests().is_empty());
        run.error().to_owned()
    });
    insta::assert_snapshot!(errors.join("\n"), @"
    error: the report missing/run.ndjson cannot be written
      caused by: No such file or directory (os error 2)
    hint: check that its folder exists and is writable; no token was requested
    error: the report folder cannot be written
      caused by: it is a folder
    hint: check that its folder exists and is writable; no token was requested
    ");
}

#[test]
fn outcomes_are_reported_while_the_source_is_busy() {
    for format in ["text", "ndjson", "json", "csv", "yaml"] {
        let database = Database::standard();
        let gate = Gate::new();
        let source = Source::responding([
            Response::tokens(["aa", "bb"]),
            Response::tokens(["cc"]).after(&gate),
        ]);
        let command = Command::new().source(&source).database(&database);
        let running = command.args(["3", "--report", format]).spawn();
        let seen = running.wait_for_stdout(|text| text.contains("aa") && text.contains("bb"));
        assert!(!seen.contains("cc"));
        gate.open();
        running.wait().expect_code(0);
    }
}

/// `token_service 2 | head -1`: the pipe closes between two answers.
#[test]
fn run_ends_with_a_complete_summary_when_the_pipe_closes() {
    let database = Database::standard();
    let gate = Gate::new();
    let source = Source::responding([
        Response::tokens(["aa"]),
        Response::tokens(["bb"]).after(&gate),
    ]);
    let command = Command::new().source(&source).database(&database);
    let mut child = command
        .arg("2")
        .std_command()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    pipe.read_line(&mut first).unwrap();
    assert_eq!(first, "stored    aa\n");
    drop(pipe);
    gate.open();
    let mut stderr = String::new();
    let mut stderr_pipe = child.stderr.take().unwrap();
    stderr_pipe.read_to_string(&mut stderr).unwrap();
    let code = child.wait().unwrap().code();
    shows!(format!("exit: {code:?}\n{stderr}"), @"
    exit: Some(3)
    2 requested, 2 received in 2 requests: 2 stored, 0 rejected in [seconds] s ([rate] tokens/s)
    error: output_closed: standard output cannot be written any more
      caused by: Broken pipe (os error 32)
    hint: the summary above counts every token; use `--report` with a path to keep a report
    ");
    assert_eq!(database.rows(), ["aa", "bb"]);
}

#[test]
fn run_ends_with_a_complete_summary_when_the_disk_is_full() {
    let database = Database::standard();
    let source = Source::responding([Response::tokens(["aa"])]);
    let command = Command::new().source(&source).database(&database);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = command
        .arg("1")
        .std_command()
        .stdout(full)
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    snapshot::settings().bind(|| {
        let code = output.status.code();
        insta::assert_snapshot!(format!("exit: {code:?}\n{stderr}"), @"
        exit: Some(3)
        1 requested, 1 received in 1 request: 1 stored, 0 rejected in [seconds] s ([rate] tokens/s)
        error: output_closed: standard output cannot be written any more
          caused by: No space left on device (os error 28)
        hint: the summary above counts every token; use `--report` with a path to keep a report
        ");
    });
    assert_eq!(database.rows(), ["aa"]);
}

#[test]
fn other_report_is_complete_when_standard_output_is_full() {
    let database = Database::standard();
    let source = Source::generating(|asked| asked);
    let command = Command::new().source(&source).database(&database);
    let command = command.args(["300", "--report", "text", "--report", "ndjson=run.ndjson"]);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = command.std_command().stdout(full).output().unwrap();
    let report = fs::read_to_string(command.dir().join("run.ndjson")).unwrap();
    let report = Report::parse(&report);
    assert_eq!(report.count("received"), 300);
    // Tokens that were not sent when the write failed are not sent.
    let sent = report.count("not_attempted") == 0;
    let code = if sent { 3 } else { 5 };
    assert_eq!(output.status.code(), Some(code));
    assert_eq!(report.count("exit_code"), u64::from(code.unsigned_abs()));
    assert_eq!(report.with_status("stored"), database.rows());
}

#[test]
fn report_is_written_through_devices_and_links() {
    let command = || Command::new().args(["demo", "2"]);
    let run = command().args(["--report", "ndjson=/dev/stdout"]).run();
    assert_eq!(run.stdout.lines().count(), 3, "{}", run.stdout);
    let run = command()
        .args(["--report", "text", "--report", "ndjson=/dev/stderr"])
        .run()
        .expect_code(0);
    assert!(run.stderr.contains("{\"summary\":"), "{}", run.stderr);

    let linked = command();
    std::os::unix::fs::symlink("real.ndjson", linked.dir().join("link")).unwrap();
    std::fs::write(linked.dir().join("real.ndjson"), "old").unwrap();
    let run = linked
        .args(["--report", "ndjson=link"])
        .run()
        .expect_code(0);
    assert!(run.path("link").is_symlink(), "the link is kept");
    let text = std::fs::read_to_string(run.path("real.ndjson")).unwrap();
    assert!(text.contains("summary"), "{text}");
}

#[test]
fn report_file_is_readable_only_by_its_owner() {
    use std::os::unix::fs::PermissionsExt as _;
    let run = Command::new()
        .args(["demo", "2", "--report", "json=run.json"])
        .run()
        .expect_code(0);
    let mode = std::fs::metadata(run.path("run.json"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn existing_report_is_kept_with_no_clobber() {
    let run = Command::new()
        .file("run.ndjson", "kept")
        .args(["demo", "3", "--no-clobber", "--report", "ndjson=run.ndjson"])
        .run()
        .expect_code(2);
    shows!(run.stderr, @"
    error: the report run.ndjson exists already
    hint: give another path, move the file away, or leave out --no-clobber
    ");
    assert_eq!(run.stdout, "");
}

#[test]
fn report_that_appears_during_the_run_is_kept_with_no_clobber() {
    let command = Command::new();
    let theirs = command.dir().join("run.ndjson");
    let source = Source::generating_with(move |count| {
        fs::write(&theirs, "theirs\n").unwrap();
        (0..count).map(|_| token()).collect()
    });
    let database = Database::standard();
    let run = command
        .source(&source)
        .database(&database)
        .args(["3", "--report", "ndjson=run.ndjson"])
        .env("TOKEN_SERVICE_NO_CLOBBER", "true")
        .run();
    assert_ne!(run.code, Some(0), "{}", run.stderr);
    let read = |name| fs::read_to_string(run.path(name)).unwrap();
    assert_eq!(read("run.ndjson"), "theirs\n");
    assert!(read("run.ndjson.partial").contains("\"summary\""));
    let (_, error) = run.stderr.split_once("error:").unwrap();
    shows!(error, @"
     the report run.ndjson cannot be written any more
      caused by: File exists (os error 17)
    hint: the file appeared during the run; run.ndjson.partial is the complete report, so move it to another path
    ");
}
