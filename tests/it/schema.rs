//! docs/report.schema.json, against what real runs write: every status, every format that it speaks of,
//! and what it must not let pass.

use std::fs;

use jsonschema::Validator;
use serde_json::{Value, json};

use crate::outages::{locked, unlock, waiting_backend};
use crate::support;
use crate::support::command::{Command, Run};
use crate::support::database::Database;
use crate::support::report::Report;
use crate::support::source::{Gate, Response, Source};

/// A part of the schema, or all of it.
struct Schema(Validator);

impl Schema {
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
    fn takes(&self, value: &Value) {
        let errors: Vec<String> = self.0.iter_errors(value).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{value:#}\n{}", errors.join("\n"));
    }

    #[track_caller]
    fn refuses(&self, value: &Value) {
        assert!(!self.0.is_valid(value), "{value:#}");
    }
}

/// Asks for every format that the schema speaks of.
fn reporting(command: Command) -> Command {
    command.args(["--report", "ndjson=run.ndjson"]).args([
        "--report",
        "json=run.json",
        "--report",
        "yaml=run.yaml",
    ])
}

/// Validates all reports of a run, and gives one of them.
#[track_caller]
fn validated(run: &Run) -> Report {
    let read = |name| fs::read_to_string(run.path(name)).unwrap();
    let (line, document) = (Schema::of("line"), Schema::of("document"));
    let ndjson = read("run.ndjson");
    for text in ndjson.lines() {
        line.takes(&serde_json::from_str(text).unwrap());
    }
    document.takes(&serde_json::from_str(&read("run.json")).unwrap());
    document.takes(&serde_yaml::from_str(&read("run.yaml")).unwrap());
    Report::parse(&ndjson)
}

/// Stored, rejected by the table and for its form, then refused with the right to INSERT gone: `failed`
/// where it was sent, `not_attempted` where not.
fn revoked() -> Run {
    let database = Database::standard();
    let role = database.role_with("INSERT");
    let gate = Gate::new();
    let source = Source::responding([
        Response::tokens(["aa", "b-b", "c\tc", "dd"]),
        Response::tokens(["ee", "ff", "gg", "hh"]).after(&gate),
    ]);
    let command = Command::new().source(&source).database(&role);
    let running = reporting(command)
        .args(["8", "--report", "text"])
        .args(["--connections", "1", "--pipeline", "3"])
        .spawn();
    running.wait_for_stdout(|text| text.lines().count() == 4);
    let revoke = format!("REVOKE INSERT ON secret_tokens FROM {}", role.user);
    database.client().batch_execute(&revoke).unwrap();
    gate.open();
    running.wait().expect_code(5)
}

/// The deadline comes while the inserts wait for a lock.
fn in_doubt() -> Run {
    let (database, mut admin) = locked();
    let source = Source::responding([Response::tokens(["aa"])]);
    let command = Command::new().source(&source).database(&database);
    let running = reporting(command)
        .args(["1", "--deadline", "1s", "--grace", "1s"])
        .spawn();
    waiting_backend(&mut admin);
    let run = running.wait().expect_code(5);
    unlock(&mut admin);
    run
}

#[test]
fn every_status_is_valid() {
    let (refused, doubtful) = (validated(&revoked()), validated(&in_doubt()));
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
fn masked_dry_replayed_and_empty_reports_are_valid() {
    let run = reporting(Command::new().args(["demo", "20", "--mask", "sha256"]))
        .run()
        .expect_code(0);
    assert_eq!(validated(&run).tokens[0]["masked"], true);
    let run = reporting(Command::new().args(["demo", "20", "--dry-run"]));
    assert_eq!(
        validated(&run.run().expect_code(0)).summary["dry_run"],
        true
    );

    let database = Database::standard();
    let source = Source::responding([Response::status(500)]);
    let run = reporting(Command::new().source(&source).database(&database))
        .run()
        .expect_code(4);
    assert_eq!(validated(&run).summary["issued_unseen"], 5);

    let replay = Command::new()
        .database(&database)
        .file("old.ndjson", "{\"token\":\"aa\",\"status\":\"failed\"}\n")
        .args(["replay", "old.ndjson"]);
    let run = reporting(replay).run().expect_code(0);
    assert_eq!(validated(&run).count("stored"), 1);
}

/// Every change to a valid object that readers must not have to reckon with.
#[test]
fn a_key_too_many_or_too_few_is_not_valid() {
    let run = reporting(Command::new().args(["demo", "3"])).run();
    let text = fs::read_to_string(run.expect_code(0).path("run.json")).unwrap();
    let whole: Value = serde_json::from_str(&text).unwrap();
    let schema = Schema::of("document");
    schema.takes(&whole);
    let mut tried = 0;
    for place in ["", "/tokens/0", "/summary", "/summary/latency_ms"] {
        let object = whole.pointer(place).unwrap().as_object().unwrap();
        for key in object.keys() {
            let mut changed = whole.clone();
            let value = object_at(&mut changed, place).remove(key).unwrap();
            let optional = ["sqlstate", "constraint", "message"].contains(&key.as_str());
            if !optional {
                schema.refuses(&changed);
            }
            let other = if value.is_string() {
                json!(1)
            } else {
                json!("1")
            };
            object_at(&mut changed, place).insert(key.clone(), other);
            schema.refuses(&changed);
            let mut changed = whole.clone();
            object_at(&mut changed, place).insert(format!("{key}_"), value);
            schema.refuses(&changed);
            tried += 1;
        }
    }
    assert!(tried > 25, "{tried}");
}

fn object_at<'a>(value: &'a mut Value, place: &str) -> &'a mut serde_json::Map<String, Value> {
    value.pointer_mut(place).unwrap().as_object_mut().unwrap()
}

#[test]
fn values_that_cannot_be_are_not_valid() {
    let schema = Schema::of("token");
    let token = json!({"token": "aa", "status": "stored", "attempts": 1, "ms": 0.5});
    schema.takes(&token);
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
        schema.refuses(&wrong);
    }
    schema.refuses(&json!({"token": "aa", "status": "not_attempted", "attempts": 1, "ms": 0}));
    Schema::of("line").refuses(&json!({"summary": {}, "token": "aa"}));
}
