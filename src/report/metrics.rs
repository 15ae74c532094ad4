//! The metrics and span attributes of a finished run.

use std::cmp::Reverse;
use std::time::Duration;

use jiff::Timestamp;

use crate::error::exit::Exit;
use crate::observe::metrics::{Metric, MetricValue, Point};
use crate::observe::otel::token_attribute;
use crate::pipeline::numbers::{NUMBERS, Number};
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
        Duration::from_millis(summary.duration_ms())
    });
    let ended = Duration::try_from(ended.duration_since(Timestamp::UNIX_EPOCH));
    let ended = ended.unwrap_or_default().as_secs_f64();
    let mut metrics = Vec::new();
    let mut add = |name, unit, help, value| {
        metrics.push(Metric {
            name,
            unit,
            help,
            value,
        });
    };
    let code = MetricValue::Gauge(exit.code().into());
    add("token_service.exit_code", "1", "Exit code of the run", code);
    let duration = MetricValue::Gauge(duration.as_secs_f64());
    add(
        "token_service.run.duration",
        "s",
        "Duration of the run",
        duration,
    );
    let help = "Time at which the run ended, in seconds since the Unix epoch";
    add(
        "token_service.last_run.timestamp",
        "s",
        help,
        MetricValue::Gauge(ended),
    );
    let Some(summary) = summary else {
        return metrics;
    };
    let dry_run = MetricValue::Gauge(u8::from(summary.dry_run).into());
    let help = "1 if all inserts were rolled back, else 0";
    add("token_service.dry_run", "1", help, dry_run);
    let by_status = Status::ALL.map(|status| Point {
        attributes: vec![("status", status.as_str().to_owned())],
        value: summary.numbers.of(status),
    });
    let help = "Received tokens by status";
    add(
        "token_service.tokens",
        "{token}",
        help,
        MetricValue::Count(by_status.into()),
    );
    let rejected = summary.rejections.all().iter().map(|rejection| Point {
        attributes: vec![
            ("constraint", rejection.constraint.to_string()),
            ("sqlstate", rejection.sqlstate.to_string()),
        ],
        value: rejection.count,
    });
    let help = "Rejected tokens by constraint and SQLSTATE; both labels are empty if the database did not reject them";
    add(
        "token_service.rejected",
        "{token}",
        help,
        MetricValue::Count(rejected.collect()),
    );
    let mut rows: Vec<_> = NUMBERS.iter().collect();
    // Tokens come before requests.
    rows.sort_by_key(|row| Reverse(row.unit));
    for row in rows {
        if let Some(name) = row.metric {
            let value = row.of(&summary.numbers);
            let attributes = Vec::new();
            let point = MetricValue::Count(vec![Point { attributes, value }]);
            add(name, row.unit, row.help, point);
        }
    }
    let help = "Time from sending a token to its outcome";
    let latencies = MetricValue::Latency(Box::new(summary.latencies.clone()));
    add("token_service.commit.latency", "s", help, latencies);
    metrics
}

/// Returns the attributes of a run's span.
pub fn span_attributes(exit: Exit, summary: Option<&Summary>) -> Vec<(String, u64)> {
    let code = ("process.exit.code".to_owned(), exit.code().into());
    let rows = NUMBERS.iter().filter(|row| row.in_span);
    let numbers = summary.into_iter().flat_map(|summary| {
        let number = |row: &Number| (token_attribute(row.name), row.of(&summary.numbers));
        rows.clone().map(number)
    });
    [code].into_iter().chain(numbers).collect()
}
