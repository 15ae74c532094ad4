//! Answers `/metrics` in the Prometheus text format. docs/monitoring.md explains the metrics.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;

use crate::command::serve::counts::{COMMIT_SECONDS, Counts, OUTCOMES, RUN_SECONDS};
use crate::command::serve::problem::ProblemDocument;
use crate::command::serve::service::Service;
use crate::observe::metrics::text::Exposition;
use crate::pipeline::numbers::Numbers;
use crate::pipeline::token::Status;
use crate::runtime::platform::ResidentMemory;

/// The statuses that a token of a run that goes on cannot leave.
const FINAL: [Status; 3] = [Status::Stored, Status::Rejected, Status::Unknown];

/// The metrics of the service
#[utoipa::path(get, path = "/metrics", tag = "health",
    responses(
        (status = 200, description = "The Prometheus text format", body = String, content_type = "text/plain"),
        (status = 401, description = "The request has no valid token", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub(super) async fn metrics(State(service): State<Arc<Service>>) -> Response {
    let content_type = [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (content_type, text(&service)).into_response()
}

fn text(service: &Service) -> String {
    let mut out = Exposition::new(&[]);
    let open = service.registry.open();
    let live: Vec<Numbers> = open.iter().filter_map(|run| run.live_numbers()).collect();
    {
        let counts = service.metrics.counts();
        counters_by_label(&counts, &live, &mut out);
        counters(&counts, &live, &mut out);
        counts.run_seconds.write(
            &mut out,
            "token_service_run_duration_seconds",
            "Duration of the runs that have ended",
            &RUN_SECONDS,
        );
        counts.commit_seconds.write(
            &mut out,
            "token_service_commit_latency_seconds",
            "Time from sending a token to its outcome, of the runs that have ended",
            &COMMIT_SECONDS,
        );
    }
    gauges(service, &mut out);
    out.into_text()
}

/// Writes the counters that have labels.
fn counters_by_label(counts: &Counts, live: &[Numbers], out: &mut Exposition) {
    out.family(
        "token_service_runs_total",
        "Runs that have ended, by outcome",
        "counter",
    );
    for outcome in OUTCOMES {
        let count = counts.runs.get(outcome).copied().unwrap_or_default();
        let labels = [("outcome", outcome.to_owned())];
        out.sample("token_service_runs_total", &labels, &count);
    }
    out.family(
        "token_service_tokens_total",
        "Received tokens, by status",
        "counter",
    );
    for status in Status::ALL {
        let of_live = live.iter().filter(|_| FINAL.contains(&status));
        let of_live: u64 = of_live.map(|numbers| numbers.of(status)).sum();
        let labels = [("status", status.as_str().to_owned())];
        let count = counts.tokens.of(status) + of_live;
        out.sample("token_service_tokens_total", &labels, &count);
    }
    let help = "Rejected tokens of the runs that have ended, by constraint and SQLSTATE";
    out.family("token_service_rejections_total", help, "counter");
    for ((constraint, sqlstate), count) in &counts.rejections {
        let labels = [
            ("constraint", constraint.clone()),
            ("sqlstate", sqlstate.clone()),
        ];
        out.sample("token_service_rejections_total", &labels, count);
    }
    out.family(
        "token_service_http_requests_total",
        "Requests to the service",
        "counter",
    );
    for ((method, route, status), count) in &counts.requests {
        let labels = [
            ("method", method.clone()),
            ("route", route.clone()),
            ("status", status.to_string()),
        ];
        out.sample("token_service_http_requests_total", &labels, count);
    }
}

/// Writes the counters without labels.
fn counters(counts: &Counts, live: &[Numbers], out: &mut Exposition) {
    let sum =
        |number: fn(&Numbers) -> u64| number(&counts.tokens) + live.iter().map(number).sum::<u64>();
    for (name, help, value) in [
        (
            "token_service_source_requests_total",
            "Requests to the token source",
            sum(|numbers| numbers.requests),
        ),
        (
            "token_service_source_tokens_total",
            "Tokens that the source delivered",
            sum(|numbers| numbers.received),
        ),
        (
            "token_service_source_surplus_tokens_total",
            "Tokens received in excess of a request, and dropped",
            sum(|numbers| numbers.surplus),
        ),
        (
            "token_service_source_short_runs_total",
            "Runs for which the source delivered less than requested",
            counts.short_runs,
        ),
        (
            "token_service_insert_retries_total",
            "INSERTs beyond the first of each token, of the runs that have ended",
            counts.tokens.retries,
        ),
    ] {
        out.family(name, help, "counter");
        out.sample(name, &[], &value);
    }
}

/// Writes what is so now.
fn gauges(service: &Service, out: &mut Exposition) {
    let mut gauge = |name: &str, help: &str, labels: &[(&'static str, String)], value: f64| {
        out.family(name, help, "gauge");
        out.sample(name, labels, &value);
    };
    let (running, queued) = service.places.taken();
    let load = service.store.load();
    #[expect(clippy::cast_precision_loss, reason = "the numbers are small")]
    let number = |count: usize| count as f64;
    for (name, help, value) in [
        ("token_service_runs_running", "Runs that go on", running),
        (
            "token_service_runs_queued",
            "Runs that wait for their turn",
            queued,
        ),
        (
            "token_service_max_runs",
            "Maximum number of runs at a time",
            service.settings.max_runs,
        ),
        (
            "token_service_max_queue",
            "Maximum number of runs that wait",
            service.settings.queue,
        ),
        (
            "token_service_database_connections_open",
            "Open connections that runs share",
            load.open,
        ),
        (
            "token_service_database_connections_wanted",
            "Connections to use now",
            load.wanted,
        ),
        (
            "token_service_database_tokens_queued",
            "Tokens that wait for a connection",
            load.queued,
        ),
    ] {
        gauge(name, help, &[], number(value));
    }
    let version = ("version", env!("CARGO_PKG_VERSION").to_owned());
    gauge(
        "token_service_build_info",
        "The version; always 1",
        &[version],
        1.0,
    );
    let started = Duration::try_from(
        service
            .metrics
            .started
            .duration_since(Timestamp::UNIX_EPOCH),
    );
    let started = started.unwrap_or_default().as_secs_f64();
    let help = "When the process started, in seconds since the Unix epoch";
    gauge("process_start_time_seconds", help, &[], started);
    let resident = ResidentMemory::open().and_then(|memory| memory.bytes());
    if let Some(bytes) = resident.and_then(|bytes| usize::try_from(bytes).ok()) {
        gauge(
            "process_resident_memory_bytes",
            "Memory of the process",
            &[],
            number(bytes),
        );
    }
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        gauge(
            "process_open_fds",
            "Open file descriptors",
            &[],
            number(entries.count()),
        );
    }
    let name = "token_service_ready";
    let help = "1 if the dependency could be used at the last check of readiness, else 0";
    out.family(name, help, "gauge");
    for (dependency, is_ready) in service.readiness.last() {
        let labels = [("dependency", dependency.to_owned())];
        out.sample(name, &labels, &u8::from(is_ready));
    }
}
