//! An OpenTelemetry collector in the test process. It receives OTLP over HTTP on a loopback socket,
//! decodes it with OpenTelemetry's own messages, and keeps every request.

use std::collections::{BTreeMap, BTreeSet};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{HistogramDataPoint, Metric};
use opentelemetry_proto::tonic::trace::v1::Span as Message;
use prost::Message as _;

use super::source::{Request, Response, Source};

/// Attributes by name; the values are shown as text.
pub type Attributes = BTreeMap<String, String>;

/// A received span.
#[derive(Clone, Debug)]
pub struct Span {
    /// Its name.
    pub name: String,
    /// The ids in hexadecimal digits, as in `traceparent`.
    pub trace: String,
    pub id: String,
    pub parent: String,
    /// Its attributes.
    pub attributes: Attributes,
    /// The error message, if it failed.
    pub error: Option<String>,
    /// Nanoseconds since the epoch.
    pub from: u64,
    pub to: u64,
}

impl Span {
    /// An attribute that is a number.
    #[track_caller]
    pub fn count(&self, name: &str) -> u64 {
        let value = self.attributes.get(name);
        let value = value.unwrap_or_else(|| panic!("no {name}: {self:?}"));
        value.parse().expect("a number")
    }
}

/// A running collector; dropping it stops it.
pub struct Collector(Source);

impl Collector {
    /// Starts a collector that accepts every request.
    pub fn new() -> Self {
        Self::responding([Response::raw("application/x-protobuf", "").always()])
    }

    /// Starts a collector that gives these responses, one per request, in order.
    pub fn responding(responses: impl IntoIterator<Item = Response>) -> Self {
        Self(Source::responding(responses))
    }

    /// The value for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.0.port())
    }

    /// All received requests.
    pub fn requests(&self) -> Vec<Request> {
        self.0.requests()
    }

    /// Waits until this many requests have arrived.
    #[track_caller]
    pub fn wait_for(&self, requests: usize) {
        self.0.wait_for(requests);
    }

    /// The requests to this path.
    fn at(&self, path: &str) -> Vec<Request> {
        let mut requests = self.requests();
        requests.retain(|request| request.target == path);
        for request in &requests {
            assert_eq!(request.method, "POST");
            assert_eq!(request.headers["content-type"], "application/x-protobuf");
        }
        requests
    }

    fn trace_requests(&self) -> Vec<ExportTraceServiceRequest> {
        let requests = self.at("/v1/traces").into_iter();
        let decode = |request: Request| ExportTraceServiceRequest::decode(request.body);
        requests.map(|one| decode(one).expect("spans")).collect()
    }

    fn metric_requests(&self) -> Vec<ExportMetricsServiceRequest> {
        let requests = self.at("/v1/metrics").into_iter();
        let decode = |request: Request| ExportMetricsServiceRequest::decode(request.body);
        requests.map(|one| decode(one).expect("metrics")).collect()
    }

    /// All received spans.
    pub fn spans(&self) -> Vec<Span> {
        let trace_requests = self.trace_requests();
        let scopes = trace_requests
            .iter()
            .flat_map(|message| &message.resource_spans)
            .flat_map(|resource| &resource.scope_spans);
        scopes
            .flat_map(|scope| &scope.spans)
            .map(received_span)
            .collect()
    }

    /// The spans with this name.
    pub fn spans_of(&self, name: &str) -> Vec<Span> {
        let mut spans = self.spans();
        spans.retain(|span| span.name == name);
        spans
    }

    /// The only span with this name.
    #[track_caller]
    pub fn span(&self, name: &str) -> Span {
        let mut spans = self.spans_of(name);
        assert_eq!(spans.len(), 1, "{name}: {spans:?}");
        spans.remove(0)
    }

    fn metrics(&self) -> Vec<Metric> {
        let metric_requests = self.metric_requests().into_iter();
        metric_requests
            .flat_map(|message| message.resource_metrics)
            .flat_map(|resource| resource.scope_metrics)
            .flat_map(|scope| scope.metrics)
            .collect()
    }

    /// The names and units of all metrics.
    pub fn metric_names(&self) -> BTreeSet<(String, String)> {
        let metrics = self.metrics().into_iter();
        metrics.map(|metric| (metric.name, metric.unit)).collect()
    }

    /// The data points of a metric as text, by their attributes.
    #[track_caller]
    pub fn points(&self, name: &str) -> BTreeMap<Attributes, String> {
        let metric = self.metric(name);
        let points = match metric.data {
            Some(Data::Sum(sum)) => {
                assert!(sum.is_monotonic, "{name}");
                sum.data_points
            }
            Some(Data::Gauge(gauge)) => gauge.data_points,
            other => panic!("{name} is neither sum nor gauge: {other:?}"),
        };
        let value = |value| match value {
            Some(Number::AsInt(number)) => number.to_string(),
            Some(Number::AsDouble(number)) => number.to_string(),
            None => panic!("{name} has no number"),
        };
        let points = points.into_iter();
        points
            .map(|point| (attributes(&point.attributes), value(point.value)))
            .collect()
    }

    /// The only data point of a metric.
    #[track_caller]
    pub fn number(&self, name: &str) -> String {
        let points = self.points(name);
        assert_eq!(points.len(), 1, "{name}: {points:?}");
        points.into_values().collect()
    }

    /// The aggregation temporality of a sum: 1 for delta, 2 for cumulative.
    #[track_caller]
    pub fn temporality(&self, name: &str) -> i32 {
        match self.metric(name).data {
            Some(Data::Sum(sum)) => sum.aggregation_temporality,
            other => panic!("{name} is not a sum: {other:?}"),
        }
    }

    /// The only data point of a histogram.
    #[track_caller]
    pub fn histogram(&self, name: &str) -> HistogramDataPoint {
        match self.metric(name).data {
            Some(Data::Histogram(mut histogram)) => {
                assert_eq!(histogram.data_points.len(), 1, "{name}");
                histogram.data_points.remove(0)
            }
            other => panic!("{name} is not a histogram: {other:?}"),
        }
    }

    #[track_caller]
    fn metric(&self, name: &str) -> Metric {
        let mut metrics = self.metrics();
        metrics.retain(|metric| metric.name == name);
        assert_eq!(metrics.len(), 1, "{name}");
        metrics.remove(0)
    }

    /// The resource of the process, which spans and metrics share.
    #[track_caller]
    pub fn resource(&self) -> Attributes {
        let (trace_requests, metric_requests) = (self.trace_requests(), self.metric_requests());
        let of_spans = trace_requests
            .iter()
            .flat_map(|message| &message.resource_spans)
            .map(|spans| spans.resource.as_ref());
        let of_metrics = metric_requests
            .iter()
            .flat_map(|message| &message.resource_metrics)
            .map(|metrics| metrics.resource.as_ref());
        let resources = of_spans.chain(of_metrics);
        let resources: BTreeSet<Attributes> = resources
            .map(|resource| attributes(&resource.expect("a resource").attributes))
            .collect();
        assert_eq!(resources.len(), 1, "{resources:?}");
        resources.into_iter().next().expect("one resource")
    }
}

fn received_span(span: &Message) -> Span {
    let status = span.status.clone().unwrap_or_default();
    Span {
        name: span.name.clone(),
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        attributes: attributes(&span.attributes),
        // STATUS_CODE_ERROR
        error: (status.code == 2).then_some(status.message),
        from: span.start_time_unix_nano,
        to: span.end_time_unix_nano,
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[track_caller]
fn attributes(pairs: &[KeyValue]) -> Attributes {
    let mut all = Attributes::new();
    for pair in pairs {
        let value = pair.value.as_ref().map(text).unwrap_or_default();
        let before = all.insert(pair.key.clone(), value);
        assert_eq!(before, None, "{} occurs twice", pair.key);
    }
    all
}

fn text(value: &AnyValue) -> String {
    match &value.value {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(flag)) => flag.to_string(),
        other => format!("{other:?}"),
    }
}
