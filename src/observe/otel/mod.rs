//! Exports a run to an OpenTelemetry collector: spans during the run, metrics at its end. Off if the
//! environment names no collector. docs/observability.md lists everything that is exported.

mod batch;
mod otlp_client;
mod otlp_metrics;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::AggregationTemporality;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use secrecy::SecretString;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::error::exit::Exit;
use crate::observe::metrics::Metric;
use crate::observe::otel::otlp_client::Collector;
use crate::observe::otel::otlp_metrics::Period;
pub use crate::observe::trace::Tracer;
use crate::runtime::proxy::ProxyVariables;
use crate::runtime::url::display_url;

/// Name of the instrumentation scope.
const SCOPE: &str = "token_service";

/// The OpenTelemetry settings of the environment; validated.
#[derive(Clone, Debug, Default)]
pub struct OtelSettings {
    /// Endpoint for spans, if any.
    pub traces: Option<OtlpEndpoint>,
    /// Endpoint for metrics, if any.
    pub metrics: Option<OtlpEndpoint>,
    /// The `service.name`; `None` if `OTEL_RESOURCE_ATTRIBUTES` sets it.
    pub service: Option<String>,
    /// True for delta temporality, false for cumulative.
    pub is_delta: bool,
    /// The headers `traceparent` and `tracestate` of the process that started the run.
    pub parent: HashMap<String, String>,
    /// The variables that may name a proxy.
    pub proxies: ProxyVariables,
    /// Problems of these settings, logged when the run starts: they never fail a run.
    pub warnings: Vec<String>,
}

/// The endpoint of one kind of telemetry.
#[derive(Clone)]
pub struct OtlpEndpoint {
    /// Its URL, `http` or `https`, with the path.
    pub url: Url,
    /// Headers of each request; values may be secret.
    pub headers: Vec<(String, SecretString)>,
    /// Timeout of an export, retries included.
    pub timeout: Duration,
}

impl fmt::Debug for OtlpEndpoint {
    /// Omits the query of the URL, which may contain a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OtlpEndpoint")
            .field("url", &display_url(&self.url))
            .field("headers", &self.headers)
            .field("timeout", &self.timeout)
            .finish()
    }
}

/// Exports the telemetry of a run.
#[derive(Default)]
pub struct Telemetry(Option<ActiveTelemetry>);

struct ActiveTelemetry {
    collector: Arc<Collector>,
    settings: OtelSettings,
    resource: Arc<ResourceAttributesWithSchema>,
    started: SystemTime,
    tracer: Tracer,
    /// The task that exports spans, if traces are on.
    exporter: Option<JoinHandle<()>>,
    ending: CancellationToken,
}

impl Telemetry {
    /// Starts the export of a run, with the name of its root span; must be called within a runtime.
    pub fn begin(settings: Option<&OtelSettings>, name: &'static str, run_id: &str) -> Self {
        let Some(settings) = settings else {
            return Self::default();
        };
        for warning in &settings.warnings {
            tracing::warn!("{warning}");
        }
        let Some(collector) = Collector::new(settings) else {
            return Self::default();
        };
        let collector = Arc::new(collector);
        let resource = resource(settings, run_id);
        let attributes = Arc::new(ResourceAttributesWithSchema::from(&resource));
        let ending = CancellationToken::new();
        let mut tracer = Tracer::default();
        let exporter = settings.traces.clone().map(|endpoint| {
            let (span_queue, exporter) = batch::span_channel();
            let provider = SdkTracerProvider::builder()
                .with_resource(resource)
                .with_span_processor(span_queue)
                .build();
            let scope = InstrumentationScope::builder(SCOPE)
                .with_version(env!("CARGO_PKG_VERSION"))
                .build();
            tracer = Tracer::begin(provider.tracer_with_scope(scope), name, &settings.parent);
            let (collector, attributes) = (Arc::clone(&collector), Arc::clone(&attributes));
            tokio::spawn(exporter.run(collector, endpoint, attributes, ending.clone()))
        });
        Self(Some(ActiveTelemetry {
            collector,
            settings: settings.clone(),
            resource: attributes,
            started: SystemTime::now(),
            tracer,
            exporter,
            ending,
        }))
    }

    /// Returns the tracer of the run's spans.
    pub fn tracer(&self) -> Tracer {
        let active = self.0.as_ref();
        active.map_or_else(Tracer::default, |active| active.tracer.clone())
    }

    /// Exports the end of the run, and waits at most `within` for the export.
    pub async fn finish(self, ending: RunEnd, within: Duration) {
        let Some(active) = self.0 else {
            return;
        };
        let number = |(key, value)| KeyValue::new(key, i64::try_from(value).unwrap_or(i64::MAX));
        let attributes = ending.attributes.into_iter().map(number).collect();
        active.tracer.end(attributes, ending.exit.code());
        let collector = Arc::clone(&active.collector);
        if tokio::time::timeout(within, active.export(&ending.metrics))
            .await
            .is_err()
        {
            collector.warn("spans and metrics", within);
        }
    }
}

/// How a run ended.
pub struct RunEnd {
    /// Its exit code.
    pub exit: Exit,
    /// Its metrics.
    pub metrics: Vec<Metric>,
    /// The attributes of the root span: names and counts.
    pub attributes: Vec<(String, u64)>,
}

impl ActiveTelemetry {
    async fn export(self, metrics: &[Metric]) {
        self.ending.cancel();
        let spans = async {
            if let Some(exporter) = self.exporter {
                let _ = exporter.await;
            }
        };
        let numbers = async {
            if let Some(endpoint) = &self.settings.metrics {
                let period = Period {
                    from: self.started,
                    to: SystemTime::now(),
                    temporality: if self.settings.is_delta {
                        AggregationTemporality::Delta
                    } else {
                        AggregationTemporality::Cumulative
                    },
                };
                let message = otlp_metrics::message(&self.resource, metrics, period);
                self.collector.export(endpoint, "metrics", &message).await;
            }
        };
        tokio::join!(spans, numbers);
    }
}

/// Builds the resource from `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`.
fn resource(settings: &OtelSettings, run_id: &str) -> Resource {
    let mut builder = Resource::builder().with_attributes([
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", run_id.to_owned()),
    ]);
    if let Some(name) = &settings.service {
        builder = builder.with_service_name(name.clone());
    }
    builder.build()
}

/// Returns the span attribute that counts tokens, such as `token_service.tokens.stored`.
pub fn token_attribute(name: impl fmt::Display) -> String {
    format!("token_service.tokens.{name}")
}
