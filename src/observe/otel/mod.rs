//! What a run tells an OpenTelemetry collector: its spans while it goes on, its numbers when it ends.
//! Off where the environment names no collector. docs/observability.md names everything that is told.

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
use crate::pipeline::token::Status;
use crate::runtime::http_client::plain;

/// Under which name spans and metrics are told.
const SCOPE: &str = "token_service";

/// What the environment says of a collector; validated.
#[derive(Clone, Debug, Default)]
pub struct OtelSettings {
    /// Where spans go, if anywhere.
    pub traces: Option<OtlpEndpoint>,
    /// Where metrics go, if anywhere.
    pub metrics: Option<OtlpEndpoint>,
    /// What `service.name` is; `None` where `OTEL_RESOURCE_ATTRIBUTES` says so.
    pub service: Option<String>,
    /// True where each run's numbers stand for themselves (delta temporality).
    pub is_delta: bool,
    /// The headers `traceparent` and `tracestate` of whoever started the run.
    pub parent: HashMap<String, String>,
    /// True to honour `HTTP_PROXY` and its kin.
    pub proxy: bool,
    /// What of the environment makes no sense, and what follows from it. It is said once the run
    /// begins: a collector is never worth a run.
    pub warnings: Vec<String>,
}

/// Where one kind of telemetry goes.
#[derive(Clone)]
pub struct OtlpEndpoint {
    /// Its address, `http` or `https`, with the path.
    pub url: Url,
    /// Headers of each request; values may be secret.
    pub headers: Vec<(String, SecretString)>,
    /// The longest that a delivery may take, repeats included.
    pub timeout: Duration,
}

impl fmt::Debug for OtlpEndpoint {
    /// Leaves out the address's query, which may hold a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target")
            .field("url", &plain(&self.url))
            .field("headers", &self.headers)
            .field("timeout", &self.timeout)
            .finish()
    }
}

/// What a run tells a collector, while it lasts.
#[derive(Default)]
pub struct Telemetry(Option<ActiveTelemetry>);

struct ActiveTelemetry {
    collector: Arc<Collector>,
    settings: OtelSettings,
    resource: Arc<ResourceAttributesWithSchema>,
    began: SystemTime,
    tracer: Tracer,
    /// The task that delivers spans, where there are any.
    delivery: Option<JoinHandle<()>>,
    ending: CancellationToken,
}

impl Telemetry {
    /// Begins to tell of a run, `what` it is; must be called within a runtime.
    pub fn begin(settings: Option<&OtelSettings>, what: &'static str, run_id: &str) -> Self {
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
        let told = Arc::new(ResourceAttributesWithSchema::from(&resource));
        let ending = CancellationToken::new();
        let mut tracer = Tracer::default();
        let delivery = settings.traces.clone().map(|target| {
            let (span_queue, delivery) = batch::way();
            let provider = SdkTracerProvider::builder()
                .with_resource(resource)
                .with_span_processor(span_queue)
                .build();
            let scope = InstrumentationScope::builder(SCOPE)
                .with_version(env!("CARGO_PKG_VERSION"))
                .build();
            tracer = Tracer::begin(provider.tracer_with_scope(scope), what, &settings.parent);
            let (collector, told) = (Arc::clone(&collector), Arc::clone(&told));
            tokio::spawn(delivery.run(collector, target, told, ending.clone()))
        });
        Self(Some(ActiveTelemetry {
            collector,
            settings: settings.clone(),
            resource: told,
            began: SystemTime::now(),
            tracer,
            delivery,
            ending,
        }))
    }

    /// What begins the run's spans.
    pub fn tracer(&self) -> Tracer {
        let active = self.0.as_ref();
        active.map_or_else(Tracer::default, |active| active.tracer.clone())
    }

    /// Tells how the run ended, and waits until all of it is delivered, or `within` has passed.
    pub async fn finish(self, ending: RunEnd, within: Duration) {
        let Some(active) = self.0 else {
            return;
        };
        let number = |(key, value)| KeyValue::new(key, i64::try_from(value).unwrap_or(i64::MAX));
        let attributes = ending.attributes.into_iter().map(number).collect();
        active.tracer.end(attributes, ending.exit.code());
        let collector = Arc::clone(&active.collector);
        if tokio::time::timeout(within, active.deliver(&ending.metrics))
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
    /// The attributes of the run's own span: names and counts.
    pub attributes: Vec<(&'static str, u64)>,
}

impl ActiveTelemetry {
    async fn deliver(self, metrics: &[Metric]) {
        self.ending.cancel();
        let spans = async {
            if let Some(delivery) = self.delivery {
                let _ = delivery.await;
            }
        };
        let numbers = async {
            if let Some(target) = &self.settings.metrics {
                let period = Period {
                    from: self.began,
                    to: SystemTime::now(),
                    temporality: if self.settings.is_delta {
                        AggregationTemporality::Delta
                    } else {
                        AggregationTemporality::Cumulative
                    },
                };
                let message = otlp_metrics::message(&self.resource, metrics, period);
                self.collector.take(target, &message).await;
            }
        };
        tokio::join!(spans, numbers);
    }
}

/// What the process is, as `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` name it.
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

/// The attribute that counts tokens with that outcome.
pub fn outcome(status: Status) -> &'static str {
    match status {
        Status::Stored => "token_service.tokens.stored",
        Status::Rejected => "token_service.tokens.rejected",
        Status::Failed => "token_service.tokens.failed",
        Status::Unknown => "token_service.tokens.unknown",
        Status::NotAttempted => "token_service.tokens.not_attempted",
    }
}
