//! The metrics and span attributes of a finished run.

use std::time::Duration;

use jiff::Timestamp;

use crate::error::exit::Exit;
use crate::observe::metrics::{Metric, MetricValue, Point};
use crate::observe::otel::outcome;
use crate::pipeline::token::Status;
use crate::report::summary::Summary;

/// The metrics of a run that took `took` and ended with `exit` at `ended`. One that ended without a
/// summary, such as one whose database was down, has no counts: zeros would be a guess.
pub fn metrics(
    exit: Exit,
    summary: Option<&Summary>,
    took: Duration,
    ended: Timestamp,
) -> Vec<Metric> {
    let took = summary.map_or(took, |summary| Duration::from_millis(summary.duration_ms));
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
            "The exit code of the run",
            f64::from(exit.code()),
        ),
        gauge(
            "token_service.run.duration",
            "s",
            "How long the run took",
            took.as_secs_f64(),
        ),
        gauge(
            "token_service.last_run.timestamp",
            "s",
            "When the run ended, since the Unix epoch",
            Duration::try_from(ended.duration_since(Timestamp::UNIX_EPOCH))
                .unwrap_or_default()
                .as_secs_f64(),
        ),
    ];
    if let Some(summary) = summary {
        metrics.push(gauge(
            "token_service.dry_run",
            "1",
            "1 where whatever was inserted was rolled back, else 0",
            f64::from(u8::from(summary.dry_run)),
        ));
        metrics.extend(counts(summary));
        metrics.push(Metric {
            name: "token_service.commit.latency",
            unit: "s",
            help: "From sending a token to the server's verdict on it",
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
            "Received tokens by what became of them",
            Vec::from(by_status),
        ),
        (
            "token_service.rejected",
            "{token}",
            "Rejected tokens by what refused them; both labels are empty where it was no constraint of the database",
            rejected.collect(),
        ),
        (
            "token_service.tokens.requested",
            "{token}",
            "Tokens that the run was to get",
            one(summary.requested),
        ),
        (
            "token_service.tokens.received",
            "{token}",
            "Tokens that were received",
            one(summary.received),
        ),
        (
            "token_service.tokens.surplus",
            "{token}",
            "Tokens beyond what was asked for, which were dropped",
            one(summary.surplus),
        ),
        (
            "token_service.tokens.issued_unseen",
            "{token}",
            "The most tokens that the source may have issued in answers that never arrived",
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
            "Requests for what an earlier answer had left out",
            one(summary.top_ups),
        ),
        (
            "token_service.requests.repeated",
            "{request}",
            "Requests that were sent again after they had failed",
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

/// The attributes of a run's span: names and counts.
pub fn span_attributes(exit: Exit, summary: Option<&Summary>) -> Vec<(&'static str, u64)> {
    let mut all = vec![("process.exit.code", u64::from(exit.code()))];
    if let Some(summary) = summary {
        all.push(("token_service.tokens.requested", summary.requested));
        all.push(("token_service.tokens.received", summary.received));
        all.extend(Status::ALL.map(|status| (outcome(status), summary.counts.get(status))));
    }
    all
}
