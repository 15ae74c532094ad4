//! Runs: streamed, asynchronous, repeated by their key, resumed, followed and stopped.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;

use reqwest::Method;
use serde_json::json;

use super::{Service, database};
use crate::support::collector::Collector;
use crate::support::command::Command;
use crate::support::database::Database;
use crate::support::response::{Gate, Response};
use crate::support::source::Source;

const TEXT: (&str, &str) = ("content-type", "text/plain");

#[test]
fn report_streams_and_ends_with_the_summary() {
    let (database, source) = (database(), Source::generating(|size| size));
    let service = Service::on(&database, &source, &[]);
    let answer = service.run("?size=5", &[]).expect(200);
    assert_eq!(answer.headers["content-type"], "application/x-ndjson");
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert_eq!(answer.headers["x-accel-buffering"], "no");
    let id = &answer.headers["run-id"];
    assert_eq!(answer.headers["location"], format!("/v1/runs/{id}"));
    let lines = answer.lines();
    assert_eq!(lines.len(), 6);
    let summary = answer.summary();
    assert_eq!(summary["run_id"], *id);
    assert_eq!(
        (&summary["stored"], &summary["exit_code"]),
        (&json!(5), &json!(0))
    );
    let mut tokens: Vec<&str> = lines[..5]
        .iter()
        .map(|line| line["token"].as_str().unwrap())
        .collect();
    tokens.sort_unstable();
    let mut rows = database.rows();
    rows.sort_unstable();
    assert_eq!(tokens, rows);
    let run = service
        .send(Method::GET, &format!("/v1/runs/{id}"), &[], "")
        .expect(200)
        .json();
    assert_eq!(
        (&run["state"], &run["stored"]),
        (&json!("completed"), &json!(5))
    );
    assert_eq!(run["summary"], summary);
}

#[test]
fn first_outcomes_arrive_before_the_run_ends() {
    let gate = Gate::new();
    let first = Response::tokens(["aa", "bb"]);
    let second = Response::tokens(["cc"]).after(&gate);
    let source = Source::responding([first, second]);
    let service = Service::on(&database(), &source, &["--fetch-concurrency", "1"]);
    let mut socket = TcpStream::connect(service.address()).unwrap();
    let request = "POST /v1/runs?size=3 HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n";
    socket.write_all(request.as_bytes()).unwrap();
    let mut lines = BufReader::new(socket).lines();
    let found = lines
        .by_ref()
        .map(Result::unwrap)
        .filter(|line| line.contains("\"token\""));
    assert_eq!(found.take(2).count(), 2);
    gate.open();
    let rest: Vec<String> = lines
        .map_while(Result::ok)
        .take_while(|line| line != "0")
        .collect();
    let rest = rest.join("\n");
    assert!(
        rest.contains("\"cc\"") && rest.contains("\"summary\""),
        "{rest}"
    );
}

#[test]
fn asynchronous_run_is_followed_by_its_location() {
    let (database, source) = (database(), Source::generating(|size| size));
    let service = Service::on(&database, &source, &[]);
    let id = service.start_run("?size=7");
    let run = service.wait_for_end(&id);
    assert_eq!(
        (&run["state"], &run["stored"]),
        (&json!("completed"), &json!(7))
    );
    let report = service
        .send(Method::GET, &format!("/v1/runs/{id}/report"), &[], "")
        .expect(200);
    assert_eq!(report.lines().len(), 8);
    let list = service
        .send(Method::GET, "/v1/runs", &[], "")
        .expect(200)
        .json();
    assert_eq!(list[0]["id"], id);
    assert!(list[0].get("summary").is_none());
}

#[test]
fn report_resumes_after_any_line() {
    let (database, source) = (database(), Source::generating(|size| size));
    let service = Service::on(&database, &source, &[]);
    let answer = service.run("?size=9", &[]).expect(200);
    let (id, all) = (&answer.headers["run-id"], answer.lines());
    for after in [0, 1, 5, 9, 10] {
        let path = format!("/v1/runs/{id}/report?after={after}");
        let rest = service
            .send(Method::GET, &path, &[], "")
            .expect(200)
            .lines();
        assert_eq!(rest, all[after..], "{after}");
    }
    let path = format!("/v1/runs/{id}/report?after=11");
    insta::assert_snapshot!(service.send(Method::GET, &path, &[], "").problem(), @r"
    410 Gone
    the report has only 10 lines
    `after` is the number of lines that were read of this run's report
    ");
}

#[test]
fn body_is_the_input() {
    let database = Database::standard();
    let source = Source::generating(|_| 0);
    let service = Service::on(&database, &source, &[]);
    let mut body = b"aa\nb-b\n\xffbad\ncc".to_vec();
    let answer = service
        .send(Method::POST, "/v1/runs", &[TEXT], body.clone())
        .expect(200);
    let summary = answer.summary();
    assert_eq!(
        [
            &summary["requested"],
            &summary["stored"],
            &summary["rejected"],
            &summary["requests"]
        ],
        [&json!(4), &json!(2), &json!(2), &json!(0)]
    );
    let lines = answer.lines();
    let invalid = lines
        .iter()
        .find(|line| line["reason"].is_string())
        .unwrap();
    assert_eq!(invalid["status"], "rejected");
    body.truncate(3);
    let answer = service
        .send(Method::POST, "/v1/runs?size=5", &[TEXT], body)
        .expect(200);
    assert_eq!(answer.summary()["exit_code"], 4, "fewer tokens than SIZE");
}

#[test]
fn same_key_gives_the_same_run() {
    let (database, source) = (database(), Source::generating(|size| size));
    let service = Service::on(&database, &source, &[]);
    let key = [("idempotency-key", "nightly-1")];
    let first = service.run("?size=4", &key).expect(200);
    let again = service.run("?size=4", &key).expect(200);
    assert_eq!(first.headers["run-id"], again.headers["run-id"]);
    assert_eq!(first.text, again.text);
    assert_eq!(database.rows().len(), 4);
    let path = "/v1/runs?size=5";
    insta::assert_snapshot!(service.send(Method::POST, path, &key, "").problem(), @r"
    422 Unprocessable Entity
    the idempotency key belongs to a request with other parameters
    use a new key for a new run
    ");
    let other = service
        .run("?size=5", &[("idempotency-key", "nightly-2")])
        .expect(200);
    assert_ne!(first.headers["run-id"], other.headers["run-id"]);
}

#[test]
fn request_attaches_to_the_run_of_its_key_while_that_goes_on() {
    let gate = Gate::new();
    let source = Source::responding([Response::tokens(["aa"]).after(&gate)]);
    let service = Service::on(&database(), &source, &[]);
    let key = ("idempotency-key", "k");
    let headers = [key, ("prefer", "respond-async")];
    let accepted = service
        .send(Method::POST, "/v1/runs?size=1", &headers, "")
        .expect(202);
    source.wait_for(1);
    let again = service
        .send(Method::POST, "/v1/runs?size=1", &headers, "")
        .expect(202);
    assert_eq!(accepted.json()["id"], again.json()["id"]);
    gate.open();
    let report = service.run("?size=1", &[key]).expect(200);
    assert_eq!(
        report.headers["run-id"],
        accepted.json()["id"].as_str().unwrap()
    );
    assert_eq!(report.summary()["stored"], 1);
    assert_eq!(source.requests().len(), 1);
}

#[test]
fn events_show_progress_and_then_the_summary() {
    let gate = Gate::new();
    let first = Response::tokens(["aa", "b-b"]);
    let second = Response::tokens(["cc"]).after(&gate);
    let source = Source::responding([first, second]);
    let args = ["--fetch-concurrency", "1"];
    let service = Service::on(&Database::standard(), &source, &args);
    let id = service.start_run("?size=3");
    let mut socket = TcpStream::connect(service.address()).unwrap();
    let request = format!("GET /v1/runs/{id}/events HTTP/1.1\r\nhost: localhost\r\n\r\n");
    socket.write_all(request.as_bytes()).unwrap();
    let mut lines = BufReader::new(socket).lines().map(Result::unwrap);
    let seen = lines
        .by_ref()
        .find(|line| line.starts_with("data:") && line.contains("\"rejected\":1"));
    let seen = seen.unwrap();
    assert!(seen.contains("\"state\":\"running\""), "{seen}");
    assert!(seen.contains("\"latest_rejections\":[{"), "{seen}");
    gate.open();
    assert!(lines.any(|line| line == "event: summary"));
    let data = lines.find(|line| line.starts_with("data:")).unwrap();
    assert!(data.contains("\"summary\":{"), "{data}");
    // A client that comes late gets the summary at once.
    let late = service
        .send(Method::GET, &format!("/v1/runs/{id}/events"), &[], "")
        .expect(200);
    assert!(late.text.starts_with("event: summary\n"), "{}", late.text);
    let beyond = [("last-event-id", "99")];
    service
        .send(Method::GET, &format!("/v1/runs/{id}/events"), &beyond, "")
        .expect(410);
}

#[test]
fn stopped_run_settles_what_it_received() {
    let gate = Gate::new();
    let first = Response::tokens(["aa", "bb"]);
    let second = Response::tokens(["cc"]).after(&gate);
    let source = Source::responding([first, second]);
    let service = Service::on(&database(), &source, &["--fetch-concurrency", "1"]);
    let id = service.start_run("?size=3");
    source.wait_for(2);
    service.wait_for_state(&id, |run| run["stored"] == 2);
    let path = format!("/v1/runs/{id}");
    service.send(Method::DELETE, &path, &[], "").expect(202);
    gate.open();
    let run = service.wait_for_end(&id);
    assert_eq!(
        (&run["state"], &run["exit_code"]),
        (&json!("stopped"), &json!(143))
    );
    assert_eq!(run["summary"]["aborted_by"], "SIGTERM");
    assert_eq!(run["stored"], 2);
}

#[test]
fn script_of_the_service_runs_and_its_errors_end_only_their_run() {
    let database = database();
    let source = Source::generating(|size| size);
    let script = "if SIZE == 13 { throw \"no\"; }\nlet sum = report(store(fetch(SIZE)));\n";
    let command = Command::new()
        .database(&database)
        .source(&source)
        .file("mine.rhai", script)
        .args(["--script", "mine.rhai"]);
    let service = Service::of(command);
    let failed = service.run("?size=13", &[]).expect(200);
    assert_eq!(failed.summary()["exit_code"], 3);
    let path = format!("/v1/runs/{}", failed.headers["run-id"]);
    let run = service.send(Method::GET, &path, &[], "").expect(200).json();
    assert_eq!(run["error"]["causes"][0], "at mine.rhai:1:17");
    assert_eq!(
        service.run("?size=3", &[]).expect(200).summary()["exit_code"],
        0
    );
}

#[test]
fn changed_script_is_used_if_it_has_no_mistakes() {
    let database = database();
    let source = Source::generating(|size| size);
    let command = Command::new()
        .database(&database)
        .source(&source)
        .file("mine.rhai", "report(store(fetch(1)));\n")
        .args(["--script", "mine.rhai"]);
    let script = command.dir().join("mine.rhai");
    let service = Service::of(command);
    let received = || service.run("?size=9", &[]).expect(200).summary()["received"].clone();
    assert_eq!(received(), 1);
    std::fs::write(&script, "report(stroe(fetch(2)));\n").unwrap();
    assert_eq!(received(), 1, "the script with a mistake is not used");
    service
        .process()
        .wait_for_stderr(|text| text.contains("the changed script cannot be used"));
    std::fs::write(&script, "report(store(fetch(3)));\n").unwrap();
    assert_eq!(received(), 3);
}

#[test]
fn masked_reports_hide_tokens() {
    let database = database();
    let source = Source::responding([Response::tokens(["s3cret-token-value"])]);
    let command = Command::new()
        .database(&database)
        .source(&source)
        .config("serve: {mask: sha256}\n");
    let service = Service::of(command);
    let answer = service.run("?size=1", &[]).expect(200);
    assert!(!answer.text.contains("s3cret"), "{}", answer.text);
    assert_eq!(answer.lines()[0]["masked"], true);
    assert_eq!(database.rows(), ["s3cret-token-value"]);
}

#[test]
fn spans_of_a_run_belong_to_the_trace_of_its_request() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const CALLER: &str = "00f067aa0ba902b7";
    let (database, collector) = (database(), Collector::new());
    let source = Source::generating(|size| size);
    let command = Command::new()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint())
        .database(&database)
        .source(&source);
    let service = Service::of(command);
    let parent = format!("00-{TRACE}-{CALLER}-01");
    let answer = service
        .run("?size=2", &[("traceparent", &parent)])
        .expect(200);
    assert_eq!(answer.summary()["stored"], 2);
    service.run("?size=1", &[]).expect(200);
    service.stop().expect_code(0);
    let spans = collector.spans_of("run");
    let parents: Vec<(&str, &str)> = spans
        .iter()
        .map(|span| (span.trace.as_str(), span.parent.as_str()))
        .collect();
    assert_eq!(parents.len(), 2);
    assert!(parents.contains(&(TRACE, CALLER)), "{parents:?}");
    assert_eq!(
        parents
            .iter()
            .filter(|(_, parent)| parent.is_empty())
            .count(),
        1
    );
    let inserts = collector.spans_of("POST");
    assert!(
        inserts.iter().any(|span| span.trace == TRACE),
        "the source's request"
    );
}
