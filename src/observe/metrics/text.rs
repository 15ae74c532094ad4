//! Writes the Prometheus text format, version 0.0.4. All metrics are gauges or a summary, because the
//! next run's values replace them instead of adding to them.

use prometheus::proto::{
    Gauge, LabelPair, Metric as Sample, MetricFamily, MetricType, Quantile, Summary,
};
use prometheus::{Error, TextEncoder};

use crate::observe::metrics::{Metric, MetricValue};
use crate::pipeline::latency::LatencyHistogram;

/// The percentiles of the report, and the maximum.
const QUANTILES: [f64; 4] = [0.5, 0.95, 0.99, 1.0];

/// Formats the metrics as the content of the file.
pub(crate) fn text(metrics: &[Metric]) -> Result<String, Error> {
    let build = sample(
        &[("version", env!("CARGO_PKG_VERSION").to_owned())],
        gauge(1.0),
    );
    let build = family(
        "token_service_build_info".to_owned(),
        "The version that ran; always 1",
        MetricType::GAUGE,
        vec![build],
    );
    // Metrics without samples are omitted, such as rejections by constraint if there are none.
    let families = metrics.iter().map(of).chain([build]);
    let families: Vec<_> = families
        .filter(|one| !one.get_metric().is_empty())
        .collect();
    TextEncoder::new().encode_to_string(&families)
}

fn of(metric: &Metric) -> MetricFamily {
    let (kind, samples) = match &metric.value {
        MetricValue::Gauge(value) => (MetricType::GAUGE, vec![sample(&[], gauge(*value))]),
        MetricValue::Count(points) => {
            #[expect(
                clippy::cast_precision_loss,
                reason = "the format has no other numbers; 2^53 tokens are out of reach"
            )]
            let samples = points
                .iter()
                .map(|point| sample(&point.attributes, gauge(point.value as f64)));
            (MetricType::GAUGE, samples.collect())
        }
        MetricValue::Latency(latencies) => {
            let mut only = Sample::from_label(Vec::new());
            only.set_summary(summary(latencies));
            (MetricType::SUMMARY, vec![only])
        }
    };
    family(name(metric), metric.help, kind, samples)
}

/// Returns `token_service_run_duration_seconds` for `token_service.run.duration` in `s`.
fn name(metric: &Metric) -> String {
    let name = metric.name.replace('.', "_");
    match metric.unit {
        "s" => name + "_seconds",
        _ => name,
    }
}

fn family(name: String, help: &str, kind: MetricType, samples: Vec<Sample>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name);
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(samples);
    family
}

fn sample(attributes: &[(&str, String)], gauge: Gauge) -> Sample {
    let labels = attributes.iter().map(|(name, value)| {
        let mut label = LabelPair::default();
        label.set_name((*name).to_owned());
        label.set_value(value.clone());
        label
    });
    let mut sample = Sample::from_label(labels.collect());
    sample.set_gauge(gauge);
    sample
}

fn gauge(value: f64) -> Gauge {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    gauge
}

fn summary(latencies: &LatencyHistogram) -> Summary {
    let mut summary = Summary::default();
    summary.set_sample_count(latencies.count());
    summary.set_sample_sum(latencies.sum().as_secs_f64());
    let quantiles = QUANTILES.map(|at| {
        let mut quantile = Quantile::default();
        quantile.set_quantile(at);
        quantile.set_value(latencies.quantile(at).as_secs_f64());
        quantile
    });
    // Without values there are no percentiles.
    if latencies.count() > 0 {
        summary.set_quantile(quantiles.into());
    }
    summary
}
