//! What a run came to, as metrics. Their names stand here once, as docs/observability.md explains them.

pub mod file;
mod text;

use std::time::Duration;

use jiff::Timestamp;

use crate::error::exit::Exit;
use crate::pipeline::token::Status;
use crate::report::summary::{Latencies, Summary};

/// One metric of a finished run.
#[derive(Clone, Debug)]
pub struct Metric {
    /// Its name in OpenTelemetry's spelling, such as `token_service.run.duration`.
    pub name: &'static str,
    /// Its unit by UCUM: `s`, `{token}`; `1` for a number that counts nothing.
    pub unit: &'static str,
    /// What it says, one sentence without a full stop.
    pub help: &'static str,
    /// What it came to.
    pub value: Value,
}

/// What a metric came to.
#[derive(Clone, Debug)]
pub enum Value {
    /// Counts, which only grow while a run lasts; one for each set of attributes.
    Count(Vec<Point<u64>>),
    /// A number that means itself.
    Gauge(f64),
    /// How long something took, many times over.
    Latency(Box<Latencies>),
}

/// A number with its attributes.
#[derive(Clone, Debug)]
pub struct Point<T> {
    /// Names and values.
    pub attributes: Vec<(&'static str, String)>,
    /// The number.
    pub value: T,
}

/// The metrics of a run that took `took` and ended with `exit` at `ended`. One that ended without a
/// summary, such as one whose database was down, has no counts: zeros would be a guess.
pub fn of(exit: Exit, summary: Option<&Summary>, took: Duration, ended: Timestamp) -> Vec<Metric> {
    let took = summary.map_or(took, |summary| Duration::from_millis(summary.duration_ms));
    let gauge = |name, unit, help, value| Metric {
        name,
        unit,
        help,
        value: Value::Gauge(value),
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
            value: Value::Latency(Box::new(summary.latencies.clone())),
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
        value: Value::Count(points),
    })
}
