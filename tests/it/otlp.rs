//! What an OpenTelemetry collector hears of a run, and that a run never suffers from its collector.

use std::collections::BTreeMap;

use crate::support::collector::{Collector, Span};
use crate::support::command::{Command, Run};
use crate::support::database::Database;
use crate::support::postgres::free_port;
use crate::support::report::Report;
use crate::support::source::{Gate, Response, Source};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

fn told(collector: &Collector) -> Command {
    Command::new().env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint())
}

fn counts(span: &Span) -> Vec<u64> {
    let names = ["stored", "rejected", "failed", "unknown", "not_attempted"];
    let names = names.map(|name| format!("token_service.tokens.{name}"));
    names.iter().map(|name| span.count(name)).collect()
}

/// The warnings on standard error.
fn warnings(run: &Run) -> Vec<&str> {
    let lines = run.stderr.lines().map(str::trim_start);
    lines.filter(|line| line.starts_with("WARN")).collect()
}

#[test]
fn a_run_tells_what_it_waited_for() {
    let (database, collector) = (Database::standard(), Collector::new());
    let source = Source::responding([
        Response::status(503).header("retry-after", "0"),
        Response::tokens(["sekret-aa", "sekretbb"]),
        Response::tokens(["sekretcc"]),
    ]);
    let command = told(&collector).source(&source).database(&database);
    let run = command
        .env("TRACEPARENT", format!("00-{TRACE}-{CALLER}-01"))
        .arg("3")
        .run()
        .expect_code(0);
    assert_eq!(warnings(&run), Vec::<&str>::new());

    let own = collector.span("run");
    assert_eq!((own.trace.as_str(), own.parent.as_str()), (TRACE, CALLER));
    assert_eq!(own.error, None);
    assert_eq!(own.count("process.exit.code"), 0);
    assert_eq!(own.count("token_service.tokens.requested"), 3);
    assert_eq!(own.count("token_service.tokens.received"), 3);
    assert_eq!(counts(&own), [2, 1, 0, 0, 0]);

    let requests = collector.spans_of("POST");
    let seen: Vec<_> = requests
        .iter()
        .map(|span| {
            (
                span.count("http.response.status_code"),
                span.count("token_service.tokens.requested"),
                span.count("token_service.tokens.received"),
                span.error.is_some(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [(503, 3, 0, true), (200, 3, 2, false), (200, 1, 1, false)]
    );
    assert_eq!(requests[0].attributes["error.type"], "http_status");
    assert_eq!(requests[0].attributes["url.full"], source.url());
    // The source can put its own spans beneath those of the requests.
    let carried: Vec<_> = source
        .requests()
        .iter()
        .map(|request| request.headers["traceparent"].to_str().unwrap().to_owned())
        .collect();
    let expected: Vec<_> = requests
        .iter()
        .map(|span| format!("00-{TRACE}-{}-01", span.id))
        .collect();
    assert_eq!(carried, expected);

    let pages = collector.spans_of("INSERT secret_tokens");
    let stored: Vec<_> = pages.iter().map(counts).collect();
    assert_eq!(stored, [[1, 1, 0, 0, 0], [1, 0, 0, 0, 0]]);
    let connections = collector.spans_of("connect");
    assert!(!connections.is_empty());
    let port = connections[0].count("server.port");
    assert_eq!(port, u64::from(database.port));

    for span in collector.spans() {
        assert_eq!(span.trace, TRACE, "{span:?}");
        assert!(span.from <= span.to, "{span:?}");
        if span.name != "run" {
            assert_eq!(span.parent, own.id, "{span:?}");
        }
    }
    for request in collector.requests() {
        let bytes = String::from_utf8_lossy(&request.body);
        assert!(!bytes.contains("sekret"), "{bytes}");
    }
}

#[test]
fn the_collectors_numbers_are_those_of_the_report() {
    let (database, collector) = (Database::standard(), Collector::new());
    let source = Source::responding([
        Response::tokens(["aa", "b-b"]),
        Response::tokens(["c-c", "dd"]),
    ]);
    let command = told(&collector).source(&source).database(&database);
    let run = command.args(["4", "--report", "ndjson"]).run();
    let report = Report::of_run(&run.expect_code(0));
    let by_status = collector.points("token_service.tokens");
    for status in ["stored", "rejected", "failed", "unknown", "not_attempted"] {
        let key = BTreeMap::from([("status".to_owned(), status.to_owned())]);
        assert_eq!(
            by_status[&key],
            report.count(status).to_string(),
            "{status}"
        );
    }
    for (name, key) in [
        ("token_service.exit_code", "exit_code"),
        ("token_service.tokens.requested", "requested"),
        ("token_service.tokens.received", "received"),
        ("token_service.requests", "requests"),
    ] {
        let reported = report.count(key).to_string();
        assert_eq!(collector.number(name), reported, "{name}");
    }
    let key = BTreeMap::from(
        [
            ("constraint", "secret_tokens_data_check"),
            ("sqlstate", "23514"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    assert_eq!(collector.points("token_service.rejected")[&key], "2");
    let latency = collector.histogram("token_service.commit.latency");
    assert_eq!(latency.count, 4);
    assert_eq!(latency.bucket_counts.iter().sum::<u64>(), 4);
    assert_eq!(
        latency.bucket_counts.len(),
        latency.explicit_bounds.len() + 1
    );
    let max = report.summary["latency_ms"]["max"].as_f64().unwrap() / 1000.0;
    assert!((latency.max.unwrap() - max).abs() < 1e-6, "{latency:?}");
    // Cumulative, as OpenTelemetry has it where nothing else is asked for.
    assert_eq!(collector.temporality("token_service.requests"), 2);

    let resource = collector.resource();
    assert_eq!(resource["service.name"], "token_service");
    assert_eq!(resource["service.version"], env!("CARGO_PKG_VERSION"));
    let run_id = report.summary["run_id"].as_str().unwrap();
    assert_eq!(resource["service.instance.id"], run_id);
}

#[test]
fn the_environment_names_service_headers_and_temporality() {
    let collector = Collector::new();
    let run = told(&collector)
        .env("OTEL_SERVICE_NAME", "nightly")
        .env(
            "OTEL_RESOURCE_ATTRIBUTES",
            "service.name=other,team=payments",
        )
        .env("OTEL_EXPORTER_OTLP_HEADERS", "X-Key=s3cr%65t,x-tenant=a")
        .env("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta")
        .args(["demo", "3", "--log-level", "trace"])
        .run()
        .expect_code(0);
    let resource = collector.resource();
    assert_eq!(resource["service.name"], "nightly");
    assert_eq!(resource["team"], "payments");
    assert_eq!(collector.temporality("token_service.requests"), 1);
    let requests = collector.requests();
    assert_eq!(requests.len(), 2);
    for request in requests {
        assert_eq!(request.headers["x-key"], "s3cret");
        assert_eq!(request.headers["x-tenant"], "a");
    }
    assert!(!run.stderr.contains("s3cr"), "{}", run.stderr);
}

#[test]
fn each_signal_can_go_elsewhere_or_nowhere() {
    let (traces, metrics) = (Collector::new(), Collector::new());
    let run = told(&traces)
        .env(
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
            format!("{}/v1/metrics", metrics.endpoint()),
        )
        .args(["demo", "3"])
        .run();
    run.expect_code(0);
    let paths = |collector: &Collector| {
        let requests = collector.requests().into_iter();
        requests.map(|request| request.target).collect::<Vec<_>>()
    };
    assert_eq!(paths(&traces), ["/v1/traces"]);
    assert_eq!(paths(&metrics), ["/v1/metrics"]);

    let metrics = Collector::new();
    let run = told(&metrics).env("OTEL_TRACES_EXPORTER", "none");
    run.args(["demo", "3"]).run().expect_code(0);
    assert_eq!(paths(&metrics), ["/v1/metrics"]);
}

#[test]
fn a_caller_that_records_nothing_is_followed() {
    let collector = Collector::new();
    let source = Source::responding([Response::tokens(["aa"])]);
    let database = Database::standard();
    let command = told(&collector).source(&source).database(&database);
    command
        .env("TRACEPARENT", format!("00-{TRACE}-{CALLER}-00"))
        .arg("1")
        .run()
        .expect_code(0);
    assert_eq!(collector.spans().len(), 0);
    assert_eq!(collector.number("token_service.exit_code"), "0");
    let carried = source.requests()[0].headers["traceparent"].clone();
    let carried = carried.to_str().unwrap();
    assert!(carried.starts_with(&format!("00-{TRACE}-")), "{carried}");
    assert!(carried.ends_with("-00"), "{carried}");
}

#[test]
fn without_a_collector_nothing_is_carried_to_the_source() {
    let source = Source::responding([Response::tokens(["aa"])]);
    let database = Database::standard();
    let command = Command::new().source(&source).database(&database);
    command
        .env("TRACEPARENT", format!("00-{TRACE}-{CALLER}-01"))
        .arg("1")
        .run()
        .expect_code(0);
    assert!(!source.requests()[0].headers.contains_key("traceparent"));
}

#[test]
fn a_disabled_sdk_tells_nothing() {
    let collector = Collector::responding([]);
    let command = told(&collector).env("OTEL_SDK_DISABLED", "true");
    let run = command.args(["demo", "3"]).run().expect_code(0);
    assert_eq!(warnings(&run), Vec::<&str>::new());
}

#[test]
fn a_run_whose_database_is_down_is_told_of_as_a_failure() {
    let collector = Collector::new();
    let source = Source::responding([]);
    let port = free_port();
    let url = format!("postgres://me:pw@127.0.0.1:{port}/db?sslmode=disable");
    let command = told(&collector).source(&source).env("DATABASE_URL", url);
    command.arg("3").run().expect_code(5);
    let own = collector.span("run");
    assert_eq!(own.error.as_deref(), Some("exit code 5"));
    assert_eq!(own.count("process.exit.code"), 5);
    assert!(!own.attributes.contains_key("token_service.tokens.stored"));
    let connect = collector.span("connect");
    assert_eq!(connect.attributes["error.type"], "db_connect");
    assert_eq!(collector.number("token_service.exit_code"), "5");
}

#[test]
fn a_mistake_in_a_script_is_told_of_too() {
    let collector = Collector::new();
    let command = told(&collector).file("mine.rhai", "let x = ;");
    let command = command.args(["demo", "1", "--script", "mine.rhai"]);
    command.run().expect_code(3);
    assert_eq!(collector.span("run").count("process.exit.code"), 3);
}

#[test]
fn a_stopped_run_still_tells() {
    let collector = Collector::new();
    let (gate, database) = (Gate::new(), Database::standard());
    let source = Source::responding([
        Response::tokens(["aa"]),
        Response::tokens(["bb"]).after(&gate),
    ]);
    let command = told(&collector).source(&source).database(&database);
    let running = command.arg("2").spawn();
    source.wait_for(2);
    running.signal("TERM");
    running.wait_for_stderr(|text| text.contains("stopping"));
    gate.open();
    running.wait().expect_code(143);
    let own = collector.span("run");
    assert_eq!(own.error.as_deref(), Some("exit code 143"));
    assert_eq!(collector.spans_of("POST").len(), 2);
}

#[test]
fn a_collector_that_cannot_be_reached_costs_one_warning() {
    let endpoint = format!("http://127.0.0.1:{}", free_port());
    let run = Command::new()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .args(["demo", "3"])
        .run()
        .expect_code(0);
    assert_eq!(run.stdout.lines().count(), 3);
    let said = warnings(&run);
    assert_eq!(said.len(), 1, "{}", run.stderr);
    assert!(said[0].contains("Connection refused"), "{said:?}");
}

#[test]
fn a_collector_that_never_answers_is_not_waited_for() {
    let gate = Gate::new();
    let collector = Collector::responding([Response::status(200).after(&gate).always()]);
    let run = told(&collector).args(["demo", "3"]).run().expect_code(0);
    assert_eq!(warnings(&run).len(), 1, "{}", run.stderr);
    gate.open();
}

#[test]
fn ctrl_c_ends_the_wait_for_a_collector_and_not_the_runs_success() {
    let gate = Gate::new();
    let collector = Collector::responding([Response::status(200).after(&gate).always()]);
    let running = told(&collector).args(["demo", "3"]).spawn();
    collector.wait_for(2);
    running.signal("INT");
    let run = running.wait().expect_code(0);
    assert_eq!(run.stdout.lines().count(), 3);
    // Two seconds later it would have been given up with a warning.
    assert_eq!(warnings(&run), Vec::<&str>::new());
    gate.open();
}

#[test]
fn a_busy_collector_is_asked_again() {
    let busy = Response::status(503).header("retry-after", "0");
    let collector = Collector::responding([busy, Response::status(200).always()]);
    let command = told(&collector).env("OTEL_METRICS_EXPORTER", "none");
    let run = command.args(["demo", "3"]).run().expect_code(0);
    assert_eq!(warnings(&run), Vec::<&str>::new());
    assert_eq!(collector.requests().len(), 2);
}

#[test]
fn what_a_collector_refuses_is_said() {
    let collector = Collector::responding([Response::status(401).always()]);
    let run = told(&collector).args(["demo", "3"]).run().expect_code(0);
    let said = warnings(&run);
    assert_eq!(said.len(), 1, "{}", run.stderr);
    assert!(said[0].contains("401 Unauthorized"), "{said:?}");

    // partial_success { rejected_spans: 2, error_message: "no\x1broom" }
    let partial = b"\x0a\x0b\x08\x02\x12\x07no\x1broom";
    let answer = Response::raw("application/x-protobuf", partial.as_slice());
    let collector = Collector::responding([answer.always()]);
    let command = told(&collector).env("OTEL_METRICS_EXPORTER", "none");
    let run = command.args(["demo", "3"]).run().expect_code(0);
    let said = warnings(&run);
    assert_eq!(said.len(), 1, "{}", run.stderr);
    assert!(
        said[0].contains("refused 2 of them: no\\u001broom"),
        "{said:?}"
    );
}

#[test]
fn what_makes_no_sense_is_complained_of_and_ends_no_run() {
    let run = Command::new()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317")
        .env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1/")
        .env("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc")
        .args(["demo", "1"])
        .run()
        .expect_code(0);
    let said = warnings(&run);
    assert_eq!(said.len(), 2, "{}", run.stderr);
    assert!(
        said[0].contains("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL must be http/protobuf"),
        "{said:?}"
    );
    assert!(
        said[1].contains("OTEL_EXPORTER_OTLP_ENDPOINT must be a URL"),
        "{said:?}"
    );
}
