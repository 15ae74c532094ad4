//! Can the source be reached? A connection is made as a run makes it, through the same proxies and with
//! the same certificates trusted, and given up before anything is asked over it: any request might cost
//! a token.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tower_layer::Layer;
use tower_service::Service;

use crate::error::Fault;
use crate::error::probe::ProbeResult;
use crate::fetch::FetchLimits;
use crate::fetch::http::{HttpEndpoint, HttpSource, builder};
use crate::runtime::http_client::plain;

const WHAT: &str = "source";

/// How much longer than connecting the whole may take: connecting gives up first, in better words.
const SLACK: Duration = Duration::from_secs(5);

/// Connects to the source and asks it for nothing.
pub async fn reach(endpoint: &HttpEndpoint, limits: &FetchLimits) -> ProbeResult {
    let address = plain(&endpoint.url);
    match attempt(endpoint, limits).await {
        Err(fault) => ProbeResult::fault(WHAT, &address, fault),
        Ok(took) => {
            let tls = match endpoint.url.scheme() {
                "https" => "TLS with a trusted certificate",
                _ => "no TLS",
            };
            let proxy = if endpoint.proxy {
                ", through a proxy where the environment says so"
            } else {
                ""
            };
            let took = took.as_millis();
            let words =
                format!("{address}  {tls}, connected in {took} ms{proxy} (no token asked for)");
            ProbeResult::fine(WHAT, words)
        }
    }
}

/// How long connecting took.
async fn attempt(endpoint: &HttpEndpoint, limits: &FetchLimits) -> Result<Duration, Fault> {
    let connected = Arc::new(OnceLock::new());
    let builder = builder(endpoint, limits)?
        .timeout(limits.connect_timeout.saturating_add(SLACK))
        .connector_layer(ProbeLayer(Arc::clone(&connected)));
    let http = HttpSource::of(builder, endpoint, limits)?;
    let begun = Instant::now();
    let sent = http.client.head(http.url.clone()).send().await;
    match (connected.get(), sent) {
        (Some(at), _) => Ok(at.saturating_duration_since(begun)),
        (None, Ok(_)) => Ok(begun.elapsed()),
        (None, Err(error)) => Err(unposted(http.failure(error))),
    }
}

/// The fault of a request that never was one.
fn unposted(mut fault: Fault) -> Fault {
    for cause in &mut fault.causes {
        if let Some(address) = cause.strip_prefix("POST ") {
            *cause = address.to_owned();
        }
    }
    fault
}

/// Notes when a connection was made, and gives it up.
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

/// Keeps the request from being sent.
#[derive(Debug)]
struct ProbeStopped;

impl fmt::Display for ProbeStopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection was only tried")
    }
}

impl std::error::Error for ProbeStopped {}
