//! Writes the Prometheus text format, version 0.0.4. All metrics of a run's file are gauges or a summary,
//! because the next run's values replace them instead of adding to them.

use std::fmt::{Display, Write as _};

use crate::error::escape::is_hostile;
use crate::observe::metrics::{Metric, MetricLabel, MetricValue};
use crate::pipeline::latency::{LatencyHistogram, QUANTILES};

/// Formats the metrics as the content of the file; each sample has these labels besides its own.
pub(crate) fn text(metrics: &[Metric], labels: &[MetricLabel]) -> String {
    let mut out = Exposition::new(labels);
    for metric in metrics {
        // `token_service.run.duration` in `s` is `token_service_run_duration_seconds`.
        let unit = if metric.unit == "s" { "_seconds" } else { "" };
        let name = metric.name.replace('.', "_") + unit;
        let kind = match &metric.value {
            // Without samples it is omitted, such as rejections by constraint if there are none.
            MetricValue::Count(points) if points.is_empty() => continue,
            MetricValue::Gauge(_) | MetricValue::Count(_) => "gauge",
            MetricValue::Latency(_) => "summary",
        };
        out.family(&name, metric.help, kind);
        match &metric.value {
            MetricValue::Gauge(value) => out.sample(&name, &[], value),
            MetricValue::Count(points) => {
                for point in points {
                    out.sample(&name, &point.attributes, &point.value);
                }
            }
            MetricValue::Latency(latencies) => out.summary(&name, latencies),
        }
    }
    let name = "token_service_build_info";
    out.family(name, "The version that ran; always 1", "gauge");
    let version = ("version", env!("CARGO_PKG_VERSION").to_owned());
    out.sample(name, &[version], &1);
    out.into_text()
}

/// The text so far, and the labels of every sample.
pub(crate) struct Exposition<'a> {
    text: String,
    labels: &'a [MetricLabel],
}

impl<'a> Exposition<'a> {
    /// Creates an empty text, each of whose samples will have these labels.
    pub(crate) fn new(labels: &'a [MetricLabel]) -> Self {
        Self {
            text: String::new(),
            labels,
        }
    }

    /// Returns the text.
    pub(crate) fn into_text(self) -> String {
        self.text
    }

    // Writing to a string cannot fail.
    /// Begins a metric, whose samples follow.
    pub(crate) fn family(&mut self, name: &str, help: &str, kind: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Adds a sample.
    pub(crate) fn sample(&mut self, name: &str, labels: &[(&str, String)], value: &dyn Display) {
        let own = labels.iter().map(|(name, value)| (*name, value));
        let given = self.labels.iter();
        let given = given.map(|label| (label.name.as_str(), &label.value));
        let labels = own
            .chain(given)
            .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)));
        let labels: Vec<_> = labels.collect();
        let _ = match labels.as_slice() {
            [] => writeln!(self.text, "{name} {value}"),
            labels => writeln!(self.text, "{name}{{{}}} {value}", labels.join(",")),
        };
    }

    fn summary(&mut self, name: &str, latencies: &LatencyHistogram) {
        // Without values there are no percentiles.
        for (_, quantile) in QUANTILES.iter().filter(|_| !latencies.is_empty()) {
            let value = latencies.quantile(*quantile).as_secs_f64();
            self.sample(name, &[("quantile", quantile.to_string())], &value);
        }
        let sum = latencies.sum().as_secs_f64();
        self.sample(&format!("{name}_sum"), &[], &sum);
        self.sample(&format!("{name}_count"), &[], &latencies.count());
    }
}

/// Escapes the value of a label. The format has escapes for three characters only, so a backslash that
/// escapes another character is itself escaped.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for character in value.chars() {
        match character {
            '\\' => text.push_str(r"\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str(r"\n"),
            hostile if is_hostile(hostile) => {
                text.push('\\');
                text.extend(hostile.escape_default());
            }
            plain => text.push(plain),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_labels_are_escaped() {
        let label = MetricLabel {
            name: "job".to_owned(),
            value: "a\"b\\c\nd\u{1b}e\u{202e}ü".to_owned(),
        };
        let text = text(&[], &[label]);
        let sample = text.lines().last().unwrap();
        let (_, labels) = sample.split_once(',').unwrap();
        assert_eq!(labels, r#"job="a\"b\\c\nd\\u{1b}e\\u{202e}ü"} 1"#);
    }
}
