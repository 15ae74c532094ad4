//! Writes the Prometheus text format, version 0.0.4. All metrics are gauges or a summary, because the
//! next run's values replace them instead of adding to them.

use std::fmt::{Display, Write as _};

use crate::observe::metrics::{Metric, MetricValue};
use crate::pipeline::latency::{LatencyHistogram, QUANTILES};

/// Formats the metrics as the content of the file.
pub(crate) fn text(metrics: &[Metric]) -> String {
    let mut text = String::new();
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
        family(&mut text, &name, metric.help, kind);
        match &metric.value {
            MetricValue::Gauge(value) => sample(&mut text, &name, &[], value),
            MetricValue::Count(points) => {
                for point in points {
                    sample(&mut text, &name, &point.attributes, &point.value);
                }
            }
            MetricValue::Latency(latencies) => summary(&mut text, &name, latencies),
        }
    }
    let name = "token_service_build_info";
    family(&mut text, name, "The version that ran; always 1", "gauge");
    let version = ("version", env!("CARGO_PKG_VERSION").to_owned());
    sample(&mut text, name, &[version], &1);
    text
}

// Writing to a string cannot fail.
fn family(text: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn sample(text: &mut String, name: &str, labels: &[(&str, String)], value: &dyn Display) {
    let labels = labels.iter().map(|(label, value)| {
        let value = value.replace('\\', r"\\").replace('\n', r"\n");
        format!("{label}=\"{}\"", value.replace('"', "\\\""))
    });
    let labels: Vec<_> = labels.collect();
    let _ = match labels.as_slice() {
        [] => writeln!(text, "{name} {value}"),
        labels => writeln!(text, "{name}{{{}}} {value}", labels.join(",")),
    };
}

fn summary(text: &mut String, name: &str, latencies: &LatencyHistogram) {
    // Without values there are no percentiles.
    for (_, quantile) in QUANTILES.iter().filter(|_| !latencies.is_empty()) {
        let value = latencies.quantile(*quantile).as_secs_f64();
        sample(text, name, &[("quantile", quantile.to_string())], &value);
    }
    sample(
        text,
        &format!("{name}_sum"),
        &[],
        &latencies.sum().as_secs_f64(),
    );
    sample(text, &format!("{name}_count"), &[], &latencies.count());
}
