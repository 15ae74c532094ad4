//! Probes whether the source can be reached. It connects like a run, with the same proxies and
//! trusted certificates, and closes the connection without a request, which could cost tokens.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tower_layer::Layer;
use tower_service::Service;

use crate::error::Error;
use crate::error::probe::ProbeResult;
use crate::fetch::FetchLimits;
use crate::fetch::http::failure::Progress;
use crate::fetch::http::{HttpEndpoint, HttpSource};
use crate::runtime::url::display_url;

const LABEL: &str = "source";

/// Added to the total timeout, so that the connect timeout expires first and names the cause.
const EXTRA_TIME: Duration = Duration::from_secs(5);

/// Connects to the source without sending a request.
pub async fn reach(endpoint: &HttpEndpoint, limits: &FetchLimits) -> ProbeResult {
    let address = display_url(&endpoint.url);
    match connect(endpoint, limits).await {
        Err(error) => ProbeResult::error(LABEL, &address, error),
        Ok(took) => {
            let tls = match endpoint.url.scheme() {
                "https" => "TLS with a trusted certificate",
                _ => "no TLS",
            };
            let proxy = endpoint.proxy();
            let proxy = proxy.map(|proxy| format!(", through the proxy {proxy}"));
            let proxy = proxy.unwrap_or_default();
            let took = took.as_millis();
            let text =
                format!("{address}  {tls}, connected in {took} ms{proxy} (no token requested)");
            ProbeResult::ok(LABEL, text)
        }
    }
}

/// Connects, and returns how long it took.
async fn connect(endpoint: &HttpEndpoint, limits: &FetchLimits) -> Result<Duration, Error> {
    let connected = Arc::new(OnceLock::new());
    let http = HttpSource::with_layer(endpoint, limits, |builder| {
        builder
            .timeout(limits.connect_timeout.saturating_add(EXTRA_TIME))
            .connector_layer(ProbeLayer(Arc::clone(&connected)))
    })?;
    let started = Instant::now();
    let sent = http.client.head(http.url.clone()).send().await;
    match (connected.get(), sent) {
        (Some(at), _) => Ok(at.saturating_duration_since(started)),
        (None, Ok(_)) => Ok(started.elapsed()),
        (None, Err(error)) => Err(without_method(http.transport_error(error, Progress::Sent))),
    }
}

/// Removes the method from an error's causes: no request was sent.
fn without_method(mut error: Error) -> Error {
    for cause in &mut error.causes {
        if let Some(address) = cause.strip_prefix("POST ") {
            *cause = address.to_owned();
        }
    }
    error
}

/// Records when a connection is established, and closes it.
#[derive(Clone)]
struct ProbeLayer(Arc<OnceLock<Instant>>);

impl<S> Layer<S> for ProbeLayer {
    type Service = ProbeConnector<S>;

    fn layer(&self, connect: S) -> ProbeConnector<S> {
        ProbeConnector {
            connect,
            connected: Arc::clone(&self.0),
        }
    }
}

#[derive(Clone)]
struct ProbeConnector<S> {
    connect: S,
    connected: Arc<OnceLock<Instant>>,
}

impl<S, To> Service<To> for ProbeConnector<S>
where
    S: Service<To>,
    S::Future: Send + 'static,
    S::Error: From<ProbeStopped>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.connect.poll_ready(cx)
    }

    fn call(&mut self, to: To) -> Self::Future {
        let (connecting, connected) = (self.connect.call(to), Arc::clone(&self.connected));
        Box::pin(async move {
            drop(connecting.await?);
            let _ = connected.set(Instant::now());
            Err(S::Error::from(ProbeStopped))
        })
    }
}

/// The error that keeps the request from being sent.
#[derive(Debug)]
struct ProbeStopped;

impl fmt::Display for ProbeStopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the probe ended after connecting")
    }
}

impl std::error::Error for ProbeStopped {}
