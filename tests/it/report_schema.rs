//! Validates the reports of real runs against docs/report.schema.json, with every status and in every
//! format that the schema covers. Also checks that the schema refuses malformed reports.

use std::fs;

use jsonschema::Validator;
use serde_json::{Value, json};

use crate::outages::{locked_table, unlock, wait_for_blocked_backend};
use crate::support;
use crate::support::command::{Command, Run};
use crate::support::database::Database;
use crate::support::report::Report;
use crate::support::source::{Gate, Response, Source};

/// A validator for one definition of the schema.
struct ReportSchema(Validator);

impl ReportSchema {
    fn of(name: &str) -> Self {
        let text = fs::read_to_string(support::root().join("docs/report.schema.json")).unwrap();
        let mut schema: Value = serde_json::from_str(&text).unwrap();
        jsonschema::meta::validate(&schema).unwrap();
        let schema = schema.as_object_mut().unwrap();
        schema.remove("anyOf").unwrap();
        schema.insert("$ref".to_owned(), format!("#/$defs/{name}").into());
        let schema = Value::from(schema.clone());
        let options = jsonschema::options().should_validate_formats(true);
        Self(options.build(&schema).unwrap())
    }

    #[track_caller]
    fn assert_valid(&self, value: &Value) {
        let errors: Vec<String> = self.0.iter_errors(value).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{value:#}\n{}", errors.join("\n"));
    }

    #[track_caller]
    fn assert_invalid(&self, value: &Value) {
        assert!(!self.0.is_valid(value), "{value:#}");
    }
}

/// Requests a report in every format that the schema covers.
fn with_all_reports(command: Command) -> Command {
    command.args(["--report", "ndjson=run.ndjson"]).args([
        "--report",
        "json=run.json",
        "--report",
        "yaml=run.yaml",
    ])
}

/// Validates all reports of a run, and returns the ndjson one.
#[track_caller]
fn validate_reports(run: &Run) -> Report {
    let read = |name| fs::read_to_string(run.path(name)).unwrap();
    let (line, document) = (ReportSchema::of("line"), ReportSchema::of("document"));
    let ndjson = read("run.ndjson");
    for text in ndjson.lines() {
        line.assert_valid(&serde_json::from_str(text).unwrap());
    }
    document.assert_valid(&serde_json::from_str(&read("run.json")).unwrap());
    document.assert_valid(&serde_yaml::from_str(&read("run.yaml")).unwrap());
    Report::parse(&ndjson)
}

/// Runs with a page of stored and rejected tokens, and a second page after INSERT was revoked.
///
/// The tokens of the second page are `failed` if they were sent, and `not_attempted` otherwise.
fn run_with_revoked_insert() -> Run {
    let database = Database::standard();
    let role = database.role_with("INSERT");
    let gate = Gate::new();
    let source = Source::responding([
        Response::tokens(["aa", "b-b", "c\tc", "dd"]),
        Response::tokens(["ee", "ff", "gg", "hh"]).after(&gate),
    ]);
    let command = Command::new().source(&source).database(&role);
    let running = with_all_reports(command)
        .args(["8", "--report", "text"])
        .args(["--connections", "1", "--pipeline", "3"])
        .spawn();
    running.wait_for_stdout(|text| text.lines().count() == 4);
    let revoke = format!("REVOKE INSERT ON secret_tokens FROM {}", role.user);
    database.client().batch_execute(&revoke).unwrap();
    gate.open();
    running.wait().expect_code(5)
}

/// Runs until the deadline passes while the insert waits for a lock.
fn run_into_doubt() -> Run {
    let (database, mut admin) = locked_table();
    let source = Source::responding([Response::tokens(["aa"])]);
    let command = Command::new().source(&source).database(&database);
    let running = with_all_reports(command)
        .args(["1", "--deadline", "1s", "--grace", "1s"])
        .spawn();
    wait_for_blocked_backend(&mut admin);
    let run = running.wait().expect_code(5);
    unlock(&mut admin);
    run
}

#[test]
fn reports_with_every_status_are_valid() {
    let (refused, doubtful) = (
        validate_reports(&run_with_revoked_insert()),
        validate_reports(&run_into_doubt()),
    );
    for (report, status) in [
        (&refused, "stored"),
        (&refused, "rejected"),
        (&refused, "failed"),
        (&refused, "not_attempted"),
        (&doubtful, "unknown"),
    ] {
        assert_ne!(report.count(status), 0, "{status}: {:?}", report.tokens);
    }
    assert_eq!(doubtful.summary["aborted_by"], "deadline");
}

#[test]
fn masked_dry_run_replay_and_empty_reports_are_valid() {
    let run = with_all_reports(Command::new().args(["demo", "20", "--mask", "sha256"]))
        .run()
        .expect_code(0);
    assert_eq!(validate_reports(&run).tokens[0]["masked"], true);
    let run = with_all_reports(Command::new().args(["demo", "20", "--dry-run"]));
    assert_eq!(
        validate_reports(&run.run().expect_code(0)).summary["dry_run"],
        true
    );

    let database = Database::standard();
    let source = Source::responding([Response::status(500)]);
    let run = with_all_reports(Command::new().source(&source).database(&database))
        .run()
        .expect_code(4);
    assert_eq!(validate_reports(&run).summary["issued_unseen"], 5);

    let replay = Command::new()
        .database(&database)
        .file("old.ndjson", "{\"token\":\"aa\",\"status\":\"failed\"}\n")
        .args(["replay", "old.ndjson"]);
    let run = with_all_reports(replay).run().expect_code(0);
    assert_eq!(validate_reports(&run).count("stored"), 1);
}

/// Applies every change to a valid report that a reader need not handle.
#[test]
fn report_is_invalid_when_a_key_is_missing_or_unknown() {
    let run = with_all_reports(Command::new().args(["demo", "3"])).run();
    let text = fs::read_to_string(run.expect_code(0).path("run.json")).unwrap();
    let whole: Value = serde_json::from_str(&text).unwrap();
    let schema = ReportSchema::of("document");
    schema.assert_valid(&whole);
    let mut tried = 0;
    for pointer in ["", "/tokens/0", "/summary", "/summary/latency_ms"] {
        let object = whole.pointer(pointer).unwrap().as_object().unwrap();
        for key in object.keys() {
            let mut changed = whole.clone();
            let value = object_at(&mut changed, pointer).remove(key).unwrap();
            let optional = ["sqlstate", "constraint", "message"].contains(&key.as_str());
            if !optional {
                schema.assert_invalid(&changed);
            }
            let other = if value.is_string() {
                json!(1)
            } else {
                json!("1")
            };
            object_at(&mut changed, pointer).insert(key.clone(), other);
            schema.assert_invalid(&changed);
            let mut changed = whole.clone();
            object_at(&mut changed, pointer).insert(format!("{key}_"), value);
            schema.assert_invalid(&changed);
            tried += 1;
        }
    }
    assert!(tried > 25, "{tried}");
}

fn object_at<'a>(value: &'a mut Value, pointer: &str) -> &'a mut serde_json::Map<String, Value> {
    value.pointer_mut(pointer).unwrap().as_object_mut().unwrap()
}

#[test]
fn report_is_invalid_when_a_value_is_impossible() {
    let schema = ReportSchema::of("token");
    let token = json!({"token": "aa", "status": "stored", "attempts": 1, "ms": 0.5});
    schema.assert_valid(&token);
    for (key, value) in [
        ("status", json!("lost")),
        ("attempts", json!(0)),
        ("attempts", json!(-1)),
        ("attempts", json!(1.5)),
        ("ms", json!(-0.1)),
        ("sqlstate", json!("23514")),
        ("reason", json!("it is stored")),
        ("masked", json!(false)),
        ("dry_run", json!(false)),
    ] {
        let mut wrong = token.clone();
        wrong[key] = value;
        schema.assert_invalid(&wrong);
    }
    schema
        .assert_invalid(&json!({"token": "aa", "status": "not_attempted", "attempts": 1, "ms": 0}));
    ReportSchema::of("line").assert_invalid(&json!({"summary": {}, "token": "aa"}));
}
