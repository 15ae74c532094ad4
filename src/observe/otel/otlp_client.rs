//! The way to the collector: OTLP over HTTP, as protobuf. A collector that cannot be reached costs a run
//! nothing but one warning.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Client, StatusCode};
use secrecy::ExposeSecret as _;

use crate::error::chain;
use crate::observe::otel::{OtelSettings, OtlpEndpoint};
use crate::pipeline::backoff::backoff;
use crate::runtime::http_client::{self, plain};

/// The most of an answer that is read, in bytes: it says how much was refused, and why.
const LARGEST_ANSWER: usize = 64 << 10;

/// Something that a collector takes.
pub(crate) trait OtlpSignal: Message {
    /// Its name, for people.
    const NAME: &'static str;
    /// What an answer refuses of it, with the collector's words.
    fn refused(answer: &[u8]) -> Option<(i64, String)>;
}

impl OtlpSignal for ExportTraceServiceRequest {
    const NAME: &'static str = "spans";

    fn refused(answer: &[u8]) -> Option<(i64, String)> {
        let partial = ExportTraceServiceResponse::decode(answer).ok()?;
        let partial = partial.partial_success?;
        Some((partial.rejected_spans, partial.error_message))
    }
}

impl OtlpSignal for ExportMetricsServiceRequest {
    const NAME: &'static str = "metrics";

    fn refused(answer: &[u8]) -> Option<(i64, String)> {
        let partial = ExportMetricsServiceResponse::decode(answer).ok()?;
        let partial = partial.partial_success?;
        Some((partial.rejected_data_points, partial.error_message))
    }
}

/// A collector, as an HTTP client sees it.
pub(crate) struct Collector {
    client: Client,
    /// True once it was said that something is not delivered.
    has_warned: AtomicBool,
    /// What was in the way last.
    hindrance: Mutex<Option<String>>,
}

/// Why something was not taken.
struct ExportError {
    cause: String,
    /// True where sending it again may help.
    is_passing: bool,
    /// How long the collector asks to be left alone.
    wait: Option<Duration>,
}

impl ExportError {
    fn lasting(cause: String) -> Self {
        Self {
            cause,
            is_passing: false,
            wait: None,
        }
    }
}

impl Collector {
    /// A client; nothing is connected yet. Where none can be made, that is said.
    pub(crate) fn new(settings: &OtelSettings) -> Option<Self> {
        let target = settings.traces.as_ref().or(settings.metrics.as_ref())?;
        // One client for both, which trusts the machine's certificates where either wants some.
        let targets = [&settings.traces, &settings.metrics];
        let mut targets = targets.into_iter().flatten();
        let strictest = targets.find(|target| target.url.scheme() == "https");
        let strictest = strictest.unwrap_or(target);
        match http_client::builder(&strictest.url, settings.proxy).build() {
            Ok(client) => Some(Self {
                client,
                has_warned: AtomicBool::new(false),
                hindrance: Mutex::default(),
            }),
            Err(error) => {
                let cause = chain(&error).join(": ");
                tracing::warn!(cause, "no OpenTelemetry collector can be reached");
                None
            }
        }
    }

    /// Delivers a message, again where that may help, for as long as `target` allows.
    pub(crate) async fn take<S: OtlpSignal>(&self, target: &OtlpEndpoint, message: &S) {
        let body = bytes::Bytes::from(message.encode_to_vec());
        let attempts = async {
            let mut failures = 0;
            while let Err(export_error) = self.post::<S>(target, body.clone()).await {
                self.hindered(Some(format!(
                    "{}: {}",
                    plain(&target.url),
                    export_error.cause
                )));
                if !export_error.is_passing {
                    return false;
                }
                failures += 1;
                let pause = backoff(failures, fastrand::f64());
                tokio::time::sleep(pause.max(export_error.wait.unwrap_or_default())).await;
            }
            self.hindered(None);
            true
        };
        let within = tokio::time::timeout(target.timeout, attempts).await;
        if !within.unwrap_or_default() {
            self.warn(S::NAME, target.timeout);
        }
    }

    fn hindered(&self, by: Option<String>) {
        let mut hindrance = self
            .hindrance
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *hindrance = by;
    }

    async fn post<S: OtlpSignal>(
        &self,
        target: &OtlpEndpoint,
        body: bytes::Bytes,
    ) -> Result<(), ExportError> {
        let mut request = self
            .client
            .post(target.url.clone())
            .header(CONTENT_TYPE, "application/x-protobuf");
        for (name, value) in &target.headers {
            let mut value =
                reqwest::header::HeaderValue::from_str(value.expose_secret()).map_err(|_| {
                    ExportError::lasting("a header holds what HTTP does not allow".to_owned())
                })?;
            value.set_sensitive(true);
            request = request.header(name, value);
        }
        let unreachable = |error: reqwest::Error| ExportError {
            cause: chain(&error.without_url()).join(": "),
            is_passing: true,
            wait: None,
        };
        let mut response = request.body(body).send().await.map_err(unreachable)?;
        let status = response.status();
        if !status.is_success() {
            let wait = response.headers().get(RETRY_AFTER);
            let wait = wait.and_then(|value| value.to_str().ok()?.trim().parse().ok());
            return Err(ExportError {
                cause: format!("it answered {status}"),
                // OTLP names these as the ones to send again for.
                is_passing: matches!(
                    status,
                    StatusCode::TOO_MANY_REQUESTS
                        | StatusCode::BAD_GATEWAY
                        | StatusCode::SERVICE_UNAVAILABLE
                        | StatusCode::GATEWAY_TIMEOUT
                ),
                wait: wait.map(Duration::from_secs),
            });
        }
        let mut answer = Vec::new();
        while answer.len() < LARGEST_ANSWER
            && let Ok(Some(chunk)) = response.chunk().await
        {
            answer.extend_from_slice(&chunk);
        }
        match S::refused(&answer) {
            Some((count, why)) if count > 0 => Err(ExportError::lasting(format!(
                "it refused {count} of them: {why}"
            ))),
            _ => Ok(()),
        }
    }

    /// Says once in a run that not all of `what` could be delivered `within` that time, and what was in
    /// the way.
    pub(crate) fn warn(&self, what: &'static str, within: Duration) {
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            let hindrance = self
                .hindrance
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let late = || match within {
                Duration::ZERO => "the run was stopped, and no time was left".to_owned(),
                _ => format!("there was no answer within {within:?}"),
            };
            let cause = hindrance.clone().unwrap_or_else(late);
            tracing::warn!(
                cause,
                hint = "the run and its report are whole; check OTEL_EXPORTER_OTLP_ENDPOINT",
                "the OpenTelemetry collector has not got all {what}"
            );
        }
    }

    /// Says the same of spans that came faster than they could be delivered.
    pub(crate) fn dropped(&self, spans: u64) {
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                spans,
                "spans were dropped: they came faster than the OpenTelemetry collector took them"
            );
        }
    }
}
