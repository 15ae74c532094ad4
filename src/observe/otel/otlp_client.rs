//! Client of the collector: OTLP over HTTP with protobuf. A failed export only logs one warning.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Client, StatusCode};
use secrecy::ExposeSecret as _;

use crate::error::chain;
use crate::observe::otel::{OtelSettings, OtlpEndpoint};
use crate::pipeline::backoff::Backoff;
use crate::runtime::http_client::{self, retry_after};
use crate::runtime::url::display_url;

/// Limit of an answer, in bytes. It contains how much was rejected, and why.
const MAX_ANSWER: usize = 64 << 10;

/// A client of a collector.
pub(crate) struct Collector {
    client: Client,
    /// True once a warning was logged.
    has_warned: AtomicBool,
    /// The error of the last attempt.
    last_error: Mutex<Option<String>>,
}

/// Why an export failed.
struct ExportError {
    cause: String,
    /// True if a retry may succeed.
    is_transient: bool,
    /// The collector's `Retry-After`.
    retry_after: Option<Duration>,
}

impl Collector {
    /// Creates a client, without connecting. Logs a warning if it cannot be created.
    pub(crate) fn new(settings: &OtelSettings) -> Option<Self> {
        let endpoint = settings.traces.as_ref().or(settings.metrics.as_ref())?;
        // One client for both endpoints; it loads certificates if either uses https.
        let endpoints = [&settings.traces, &settings.metrics];
        let mut endpoints = endpoints.into_iter().flatten();
        let strictest = endpoints.find(|endpoint| endpoint.url.scheme() == "https");
        let strictest = strictest.unwrap_or(endpoint);
        match http_client::builder(&strictest.url, &settings.proxies).build() {
            Ok(client) => Some(Self {
                client,
                has_warned: AtomicBool::new(false),
                last_error: Mutex::default(),
            }),
            Err(error) => {
                let cause = chain(&error).join(": ");
                tracing::warn!(cause, "cannot create the OpenTelemetry client");
                None
            }
        }
    }

    /// Exports a message that contains `what`, with retries, within the endpoint's timeout.
    pub(crate) async fn export(
        &self,
        endpoint: &OtlpEndpoint,
        what: &'static str,
        message: &impl Message,
    ) {
        let body = bytes::Bytes::from(message.encode_to_vec());
        let attempts = async {
            let mut failures = 0;
            while let Err(export_error) = self.post(endpoint, body.clone()).await {
                self.set_last_error(Some(format!(
                    "{}: {}",
                    display_url(&endpoint.url),
                    export_error.cause
                )));
                if !export_error.is_transient {
                    return false;
                }
                failures += 1;
                let wait = Backoff::default().wait(failures, fastrand::f64());
                tokio::time::sleep(wait.max(export_error.retry_after.unwrap_or_default())).await;
            }
            self.set_last_error(None);
            true
        };
        let within = tokio::time::timeout(endpoint.timeout, attempts).await;
        if !within.unwrap_or_default() {
            self.warn(what, endpoint.timeout);
        }
    }

    fn set_last_error(&self, error: Option<String>) {
        let mut last_error = self
            .last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *last_error = error;
    }

    async fn post(&self, endpoint: &OtlpEndpoint, body: bytes::Bytes) -> Result<(), ExportError> {
        let mut request = self
            .client
            .post(endpoint.url.clone())
            .header(CONTENT_TYPE, "application/x-protobuf");
        for (name, value) in &endpoint.headers {
            // The configuration accepts only values that HTTP allows.
            if let Ok(mut value) = HeaderValue::from_str(value.expose_secret()) {
                value.set_sensitive(true);
                request = request.header(name, value);
            }
        }
        let unreachable = |error: reqwest::Error| ExportError {
            cause: chain(&error.without_url()).join(": "),
            is_transient: true,
            retry_after: None,
        };
        let mut response = request.body(body).send().await.map_err(unreachable)?;
        let status = response.status();
        if !status.is_success() {
            return Err(ExportError {
                cause: format!("it answered {status}"),
                // The statuses that OTLP declares retryable.
                is_transient: matches!(
                    status,
                    StatusCode::TOO_MANY_REQUESTS
                        | StatusCode::BAD_GATEWAY
                        | StatusCode::SERVICE_UNAVAILABLE
                        | StatusCode::GATEWAY_TIMEOUT
                ),
                retry_after: retry_after(response.headers(), SystemTime::now()),
            });
        }
        let mut answer = Vec::new();
        while answer.len() < MAX_ANSWER
            && let Ok(Some(chunk)) = response.chunk().await
        {
            answer.extend_from_slice(&chunk);
        }
        // The answer to metrics has the same fields.
        let answer = ExportTraceServiceResponse::decode(answer.as_slice());
        match answer.ok().and_then(|answer| answer.partial_success) {
            Some(partial) if partial.rejected_spans > 0 => Err(ExportError {
                cause: format!(
                    "it rejected {} of them: {}",
                    partial.rejected_spans, partial.error_message
                ),
                is_transient: false,
                retry_after: None,
            }),
            _ => Ok(()),
        }
    }

    /// Logs, once per run, that `what` could not be exported `within` that time, with the last error.
    pub(crate) fn warn(&self, what: &'static str, within: Duration) {
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            let last_error = self
                .last_error
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let late = || match within {
                Duration::ZERO => "the run was stopped, and no time was left".to_owned(),
                _ => format!("there was no answer within {within:?}"),
            };
            let cause = last_error.clone().unwrap_or_else(late);
            tracing::warn!(
                cause,
                hint = "the run and its report are complete; check OTEL_EXPORTER_OTLP_ENDPOINT",
                "the OpenTelemetry collector did not receive all {what}"
            );
        }
    }

    /// Logs, once per run, that spans were dropped because the queue was full.
    pub(crate) fn warn_dropped(&self, spans: u64) {
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                spans,
                "spans were dropped: the OpenTelemetry collector accepts them too slowly"
            );
        }
    }
}
