//! Tests of the OTLP export: the spans and metrics of a run, and that a collector cannot fail a run.

use std::collections::BTreeMap;

use crate::support::collector::{Collector, Span};
use crate::support::command::{Command, Run};
use crate::support::database::Database;
use crate::support::postgres::free_port;
use crate::support::report::Report;
use crate::support::source::{Gate, Response, Source};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

fn exporting_to(collector: &Collector) -> Command {
    Command::new().env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint())
}

fn counts(span: &Span) -> Vec<u64> {
    let names = ["stored", "rejected", "failed", "unknown", "not_attempted"];
    let names = names.map(|name| format!("token_service.tokens.{name}"));
    names.iter().map(|name| span.count(name)).collect()
}

/// Returns the warnings on standard error.
fn warnings(run: &Run) -> Vec<&str> {
    let lines = run.stderr.lines().map(str::trim_start);
    lines.filter(|line| line.starts_with("WARN")).collect()
}

#[test]
fn spans_cover_requests_inserts_and_connections() {
    let (database, collector) = (Database::standard(), Collector::new());
    let source = Source::responding([
        Response::status(503).header("retry-after", "0"),
        Response::tokens(["sekret-aa", "sekretbb"]),
        Response::tokens(["sekretcc"]),
    ]);
    let command = exporting_to(&collector).source(&source).database(&database);
    let run = command
        .env("TRACEPARENT", format!("00-{TRACE}-{CALLER}-01"))
        .arg("3")
        .run()
        .expect_code(0);
    assert_eq!(warnings(&run), Vec::<&str>::new());

    let run_span = collector.span("run");
    assert_eq!(
        (run_span.trace.as_str(), run_span.parent.as_str()),
        (TRACE, CALLER)
    );
    assert_eq!(run_span.error, None);
    assert_eq!(run_span.count("process.exit.code"), 0);
    assert_eq!(run_span.count("token_service.tokens.requested"), 3);
    assert_eq!(run_span.count("token_service.tokens.received"), 3);
    assert_eq!(counts(&run_span), [2, 1, 0, 0, 0]);

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
    // The source can attach its own spans to those of the requests.
    let propagated: Vec<_> = source
        .requests()
        .iter()
        .map(|request| request.headers["traceparent"].to_str().unwrap().to_owned())
        .collect();
    let expected: Vec<_> = requests
        .iter()
        .map(|span| format!("00-{TRACE}-{}-01", span.id))
        .collect();
    assert_eq!(propagated, expected);

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
            assert_eq!(span.parent, run_span.id, "{span:?}");
        }
    }
    for request in collector.requests() {
        let bytes = String::from_utf8_lossy(&request.body);
        assert!(!bytes.contains("sekret"), "{bytes}");
    }
}

#[test]
fn exported_metrics_match_the_report() {
    let (database, collector) = (Database::standard(), Collector::new());
    let source = Source::responding([
        Response::tokens(["aa", "b-b"]),
        Response::tokens(["c-c", "dd"]),
    ]);
    let command = exporting_to(&collector).source(&source).database(&database);
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
    // Cumulative is the default of OpenTelemetry.
    assert_eq!(collector.temporality("token_service.requests"), 2);

    let resource = collector.resource();
    assert_eq!(resource["service.name"], "token_service");
    assert_eq!(resource["service.version"], env!("CARGO_PKG_VERSION"));
    let run_id = report.summary["run_id"].as_str().unwrap();
    assert_eq!(resource["service.instance.id"], run_id);
}

#[test]
fn environment_sets_service_name_headers_and_temporality() {
    let collector = Collector::new();
    let run = exporting_to(&collector)
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
fn each_signal_has_its_own_endpoint_or_none() {
    let (traces, metrics) = (Collector::new(), Collector::new());
    let run = exporting_to(&traces)
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
    let run = exporting_to(&metrics).env("OTEL_TRACES_EXPORTER", "none");
    run.args(["demo", "3"]).run().expect_code(0);
    assert_eq!(paths(&metrics), ["/v1/metrics"]);
}

#[test]
fn unsampled_trace_context_is_propagated_without_spans() {
    let collector = Collector::new();
    let source = Source::responding([Response::tokens(["aa"])]);
    let database = Database::standard();
    let command = exporting_to(&collector).source(&source).database(&database);
    command
        .env("TRACEPARENT", format!("00-{TRACE}-{CALLER}-00"))
        .arg("1")
        .run()
        .expect_code(0);
    assert_eq!(collector.spans().len(), 0);
    assert_eq!(collector.number("token_service.exit_code"), "0");
    let propagated = source.requests()[0].headers["traceparent"].clone();
    let propagated = propagated.to_str().unwrap();
    assert!(
        propagated.starts_with(&format!("00-{TRACE}-")),
        "{propagated}"
    );
    assert!(propagated.ends_with("-00"), "{propagated}");
}

#[test]
fn trace_context_is_not_sent_without_a_collector() {
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
fn disabled_sdk_exports_nothing() {
    let collector = Collector::responding([]);
    let command = exporting_to(&collector).env("OTEL_SDK_DISABLED", "true");
    let run = command.args(["demo", "3"]).run().expect_code(0);
    assert_eq!(warnings(&run), Vec::<&str>::new());
}

#[test]
fn run_span_has_an_error_when_the_database_is_down() {
    let collector = Collector::new();
    let source = Source::responding([]);
    let port = free_port();
    let url = format!("postgres://me:pw@127.0.0.1:{port}/db?sslmode=disable");
    let command = exporting_to(&collector)
        .source(&source)
        .env("DATABASE_URL", url);
    command.arg("3").run().expect_code(5);
    let run_span = collector.span("run");
    assert_eq!(run_span.error.as_deref(), Some("exit code 5"));
    assert_eq!(run_span.count("process.exit.code"), 5);
    assert!(
        !run_span
            .attributes
            .contains_key("token_service.tokens.stored")
    );
    let connect = collector.span("connect");
    assert_eq!(connect.attributes["error.type"], "db_connect");
    assert_eq!(collector.number("token_service.exit_code"), "5");
}

/// The run ends while it opens more connections. That cancels them, which is no error.
#[test]
fn only_failed_operations_have_an_error_when_the_source_fails() {
    let (database, collector) = (Database::standard(), Collector::new());
    let source = Source::responding([Response::status(500).always()]);
    let command = exporting_to(&collector).source(&source).database(&database);
    command.args(["500"]).run().expect_code(4);
    let spans = collector.spans();
    assert_eq!(collector.span("run").error.as_deref(), Some("exit code 4"));
    for span in spans.iter().filter(|span| span.name != "run") {
        let error_type = span.attributes.get("error.type");
        assert_eq!(span.error.is_some(), error_type.is_some(), "{span:?}");
        assert_eq!(span.error.is_some(), span.name == "POST", "{span:?}");
    }
}

#[test]
fn run_span_is_exported_when_the_script_does_not_compile() {
    let collector = Collector::new();
    let command = exporting_to(&collector).file("mine.rhai", "let x = ;");
    let command = command.args(["demo", "1", "--script", "mine.rhai"]);
    command.run().expect_code(3);
    assert_eq!(collector.span("run").count("process.exit.code"), 3);
}

#[test]
fn spans_are_exported_when_a_signal_stops_the_run() {
    let collector = Collector::new();
    let (gate, database) = (Gate::new(), Database::standard());
    let source = Source::responding([
        Response::tokens(["aa"]),
        Response::tokens(["bb"]).after(&gate),
    ]);
    let command = exporting_to(&collector).source(&source).database(&database);
    let running = command.arg("2").spawn();
    source.wait_for(2);
    running.signal("TERM");
    running.wait_for_stderr(|text| text.contains("stopping"));
    gate.open();
    running.wait().expect_code(143);
    let run_span = collector.span("run");
    assert_eq!(run_span.error.as_deref(), Some("exit code 143"));
    assert_eq!(collector.spans_of("POST").len(), 2);
}

#[test]
fn run_warns_once_when_the_collector_is_unreachable() {
    let endpoint = format!("http://127.0.0.1:{}", free_port());
    let run = Command::new()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .args(["demo", "3"])
        .run()
        .expect_code(0);
    assert_eq!(run.stdout.lines().count(), 3);
    let lines = warnings(&run);
    assert_eq!(lines.len(), 1, "{}", run.stderr);
    assert!(lines[0].contains("Connection refused"), "{lines:?}");
}

#[test]
fn run_ends_when_the_collector_never_answers() {
    let gate = Gate::new();
    let collector = Collector::responding([Response::status(200).after(&gate).always()]);
    let run = exporting_to(&collector)
        .args(["demo", "3"])
        .run()
        .expect_code(0);
    assert_eq!(warnings(&run).len(), 1, "{}", run.stderr);
    gate.open();
}

#[test]
fn sigint_ends_the_export_and_keeps_the_exit_code() {
    let gate = Gate::new();
    let collector = Collector::responding([Response::status(200).after(&gate).always()]);
    let running = exporting_to(&collector).args(["demo", "3"]).spawn();
    collector.wait_for(2);
    running.signal("INT");
    let run = running.wait().expect_code(0);
    assert_eq!(run.stdout.lines().count(), 3);
    // Without the signal, the export ends with a warning after two seconds.
    assert_eq!(warnings(&run), Vec::<&str>::new());
    gate.open();
}

#[test]
fn export_is_retried_when_the_collector_is_busy() {
    let busy = Response::status(503).header("retry-after", "0");
    let collector = Collector::responding([busy, Response::status(200).always()]);
    let command = exporting_to(&collector).env("OTEL_METRICS_EXPORTER", "none");
    let run = command.args(["demo", "3"]).run().expect_code(0);
    assert_eq!(warnings(&run), Vec::<&str>::new());
    assert_eq!(collector.requests().len(), 2);
}

#[test]
fn run_warns_when_the_collector_refuses_data() {
    let collector = Collector::responding([Response::status(401).always()]);
    let run = exporting_to(&collector)
        .args(["demo", "3"])
        .run()
        .expect_code(0);
    let lines = warnings(&run);
    assert_eq!(lines.len(), 1, "{}", run.stderr);
    assert!(lines[0].contains("401 Unauthorized"), "{lines:?}");

    // partial_success { rejected_spans: 2, error_message: "no\x1broom" }
    let partial = b"\x0a\x0b\x08\x02\x12\x07no\x1broom";
    let answer = Response::raw("application/x-protobuf", partial.as_slice());
    let collector = Collector::responding([answer.always()]);
    let command = exporting_to(&collector).env("OTEL_METRICS_EXPORTER", "none");
    let run = command.args(["demo", "3"]).run().expect_code(0);
    let lines = warnings(&run);
    assert_eq!(lines.len(), 1, "{}", run.stderr);
    assert!(
        lines[0].contains("rejected 2 of them: no\\u001broom"),
        "{lines:?}"
    );
}

#[test]
fn invalid_otel_variables_cause_warnings_and_do_not_fail_the_run() {
    let run = Command::new()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317")
        .env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1/")
        .env("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc")
        .args(["demo", "1"])
        .run()
        .expect_code(0);
    let lines = warnings(&run);
    assert_eq!(lines.len(), 2, "{}", run.stderr);
    assert!(
        lines[0].contains("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL must be http/protobuf"),
        "{lines:?}"
    );
    assert!(
        lines[1].contains("OTEL_EXPORTER_OTLP_ENDPOINT must be a URL"),
        "{lines:?}"
    );
}
