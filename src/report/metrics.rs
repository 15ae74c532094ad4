//! The metrics and span attributes of a finished run.

use std::time::Duration;

use jiff::Timestamp;

use crate::error::exit::Exit;
use crate::observe::metrics::{Metric, MetricValue, Point};
use crate::observe::otel::status_attribute;
use crate::pipeline::token::Status;
use crate::report::summary::Summary;

/// Returns the metrics of a run that took `duration` and ended with `exit` at `ended`.
///
/// Without a summary there are no counts: zeros would be wrong.
pub fn metrics(
    exit: Exit,
    summary: Option<&Summary>,
    duration: Duration,
    ended: Timestamp,
) -> Vec<Metric> {
    let duration = summary.map_or(duration, |summary| {
        Duration::from_millis(summary.duration_ms)
    });
    let gauge = |name, unit, help, value| Metric {
        name,
        unit,
        help,
        value: MetricValue::Gauge(value),
    };
    let mut metrics = vec![
        gauge(
            "token_service.exit_code",
            "1",
            "Exit code of the run",
            f64::from(exit.code()),
        ),
        gauge(
            "token_service.run.duration",
            "s",
            "Duration of the run",
            duration.as_secs_f64(),
        ),
        gauge(
            "token_service.last_run.timestamp",
            "s",
            "Time at which the run ended, in seconds since the Unix epoch",
            Duration::try_from(ended.duration_since(Timestamp::UNIX_EPOCH))
                .unwrap_or_default()
                .as_secs_f64(),
        ),
    ];
    if let Some(summary) = summary {
        metrics.push(gauge(
            "token_service.dry_run",
            "1",
            "1 if all inserts were rolled back, else 0",
            f64::from(u8::from(summary.dry_run)),
        ));
        metrics.extend(counts(summary));
        metrics.push(Metric {
            name: "token_service.commit.latency",
            unit: "s",
            help: "Time from sending a token to its outcome",
            value: MetricValue::Latency(Box::new(summary.latencies.clone())),
        });
    }
    metrics
}

fn counts(summary: &Summary) -> impl Iterator<Item = Metric> {
    let by_status = Status::ALL.map(|status| Point {
        attributes: vec![("status", status.as_str().to_owned())],
        value: summary.counts.get(status),
    });
    let rejected = summary.rejections.all().iter().map(|rejection| Point {
        attributes: vec![
            ("constraint", rejection.constraint.to_string()),
            ("sqlstate", rejection.sqlstate.to_string()),
        ],
        value: rejection.count,
    });
    let one = |value| {
        vec![Point {
            attributes: Vec::new(),
            value,
        }]
    };
    let all = [
        (
            "token_service.tokens",
            "{token}",
            "Received tokens by status",
            Vec::from(by_status),
        ),
        (
            "token_service.rejected",
            "{token}",
            "Rejected tokens by constraint and SQLSTATE; both labels are empty if the database did not reject them",
            rejected.collect(),
        ),
        (
            "token_service.tokens.requested",
            "{token}",
            "Tokens requested by SIZE",
            one(summary.requested),
        ),
        (
            "token_service.tokens.received",
            "{token}",
            "Tokens received",
            one(summary.received),
        ),
        (
            "token_service.tokens.surplus",
            "{token}",
            "Tokens received in excess of a request, and dropped",
            one(summary.surplus),
        ),
        (
            "token_service.tokens.issued_unseen",
            "{token}",
            "Upper bound of the tokens issued in responses that were not received",
            one(summary.issued_unseen),
        ),
        (
            "token_service.requests",
            "{request}",
            "Requests sent to the token source",
            one(summary.requests),
        ),
        (
            "token_service.requests.top_ups",
            "{request}",
            "Requests for tokens that an earlier response did not deliver",
            one(summary.top_ups),
        ),
        (
            "token_service.requests.repeated",
            "{request}",
            "Requests that repeat a failed one",
            one(summary.repeated),
        ),
    ];
    all.into_iter().map(|(name, unit, help, points)| Metric {
        name,
        unit,
        help,
        value: MetricValue::Count(points),
    })
}

/// Returns the attributes of a run's span.
pub fn span_attributes(exit: Exit, summary: Option<&Summary>) -> Vec<(&'static str, u64)> {
    let mut all = vec![("process.exit.code", u64::from(exit.code()))];
    if let Some(summary) = summary {
        all.push(("token_service.tokens.requested", summary.requested));
        all.push(("token_service.tokens.received", summary.received));
        all.extend(
            Status::ALL.map(|status| (status_attribute(status), summary.counts.get(status))),
        );
    }
    all
}
