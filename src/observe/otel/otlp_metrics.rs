//! Converts the metrics of a run to OTLP.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
    ResourceMetrics, ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;

use crate::observe::metrics::{self, MetricValue, Point};
use crate::observe::otel::SCOPE;
use crate::pipeline::latency::LatencyHistogram;

/// Upper bounds of the histogram's buckets, in seconds: a commit takes between 0.1 ms and a minute.
const BOUNDS: [f64; 18] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0,
];

/// The time range of the metrics, and their temporality.
#[derive(Clone, Copy)]
pub(crate) struct Period {
    pub(crate) from: SystemTime,
    pub(crate) to: SystemTime,
    pub(crate) temporality: AggregationTemporality,
}

/// Builds the export request.
pub(crate) fn message(
    resource: &ResourceAttributesWithSchema,
    metrics: &[metrics::Metric],
    period: Period,
) -> ExportMetricsServiceRequest {
    let scope = InstrumentationScope {
        name: SCOPE.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let one = |metric: &metrics::Metric| Metric {
        name: metric.name.to_owned(),
        description: metric.help.to_owned(),
        unit: metric.unit.to_owned(),
        metadata: Vec::new(),
        data: Some(data(&metric.value, period)),
    };
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(Resource {
                attributes: resource.attributes.0.clone(),
                ..Resource::default()
            }),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(scope),
                metrics: metrics.iter().map(one).collect(),
                schema_url: String::new(),
            }],
            schema_url: resource.schema_url.clone().unwrap_or_default(),
        }],
    }
}

fn data(value: &MetricValue, period: Period) -> Data {
    match value {
        MetricValue::Count(points) => Data::Sum(Sum {
            data_points: points.iter().map(|point| count(point, period)).collect(),
            aggregation_temporality: period.temporality.into(),
            is_monotonic: true,
        }),
        MetricValue::Gauge(value) => Data::Gauge(Gauge {
            data_points: vec![NumberDataPoint {
                time_unix_nano: nanos(period.to),
                value: Some(Number::AsDouble(*value)),
                ..NumberDataPoint::default()
            }],
        }),
        MetricValue::Latency(latencies) => Data::Histogram(Histogram {
            data_points: vec![histogram(latencies, period)],
            aggregation_temporality: period.temporality.into(),
        }),
    }
}

fn count(point: &Point, period: Period) -> NumberDataPoint {
    let attribute = |(key, value): &(&str, String)| KeyValue {
        key: (*key).to_owned(),
        value: Some(AnyValue {
            value: Some(Any::StringValue(value.clone())),
        }),
        ..KeyValue::default()
    };
    NumberDataPoint {
        attributes: point.attributes.iter().map(attribute).collect(),
        start_time_unix_nano: nanos(period.from),
        time_unix_nano: nanos(period.to),
        value: Some(Number::AsInt(
            i64::try_from(point.value).unwrap_or(i64::MAX),
        )),
        ..NumberDataPoint::default()
    }
}

fn histogram(latencies: &LatencyHistogram, period: Period) -> HistogramDataPoint {
    let mut buckets = vec![0; BOUNDS.len() + 1];
    for (latency, count) in latencies.recorded() {
        buckets[BOUNDS.partition_point(|&bound| bound < latency.as_secs_f64())] += count;
    }
    let extreme = |latency: Duration| (!latencies.is_empty()).then_some(latency.as_secs_f64());
    let least = latencies.recorded().next().map(|(latency, _)| latency);
    HistogramDataPoint {
        start_time_unix_nano: nanos(period.from),
        time_unix_nano: nanos(period.to),
        count: latencies.count(),
        sum: Some(latencies.sum().as_secs_f64()),
        bucket_counts: buckets,
        explicit_bounds: BOUNDS.to_vec(),
        min: least.and_then(extreme),
        max: extreme(latencies.quantile(1.0)),
        ..HistogramDataPoint::default()
    }
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_counts_in_the_first_bucket_whose_bound_it_does_not_exceed() {
        let mut latencies = LatencyHistogram::default();
        // One below all bounds, one between two, and one above all.
        for micros in [50, 700, 90_000_000] {
            latencies.record(Duration::from_micros(micros));
        }
        let period = Period {
            from: UNIX_EPOCH,
            to: UNIX_EPOCH + Duration::from_secs(90),
            temporality: AggregationTemporality::Delta,
        };
        let point = histogram(&latencies, period);
        let filled: Vec<_> = (0..)
            .zip(&point.bucket_counts)
            .filter(|(_, count)| **count > 0)
            .map(|(index, count)| (index, *count))
            .collect();
        assert_eq!(filled, [(0, 1), (3, 1), (BOUNDS.len(), 1)]);
        assert_eq!(point.count, 3);
        assert!((point.min.unwrap() - 0.000_05).abs() < 1e-6, "{point:?}");
        assert!(point.max.unwrap() >= 90.0, "{point:?}");
        let none = histogram(&LatencyHistogram::default(), period);
        assert_eq!((none.count, none.min, none.max), (0, None, None));
    }
}
