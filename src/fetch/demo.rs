//! The demo's token source: an HTTP server on loopback that under-delivers like the real source.
//! Its tokens are random values.

use std::convert::Infallible;
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;

use crate::error::{Error, ErrorKind};
use crate::fetch::http::HttpEndpoint;

/// Largest number of tokens in one answer; the same as at the real source.
const MAX_TOKENS: u64 = 455_902;

/// Pause after a failed `accept`.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Starts the source on a free loopback port and returns its endpoint.
///
/// It runs until the current runtime ends.
pub async fn start() -> Result<HttpEndpoint, Error> {
    let cannot = |error: io::Error| {
        Error::of(
            ErrorKind::HttpConnect,
            "the demo's token source cannot listen on loopback",
        )
        .cause(error.to_string())
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    tokio::spawn(serve(listener));
    let url = format!("http://{address}/tokens");
    let url = url.parse();
    let url = url.map_err(|error| cannot(io::Error::other(error)))?;
    Ok(HttpEndpoint::new(url))
}

/// Serves requests on `listener`; never returns.
pub async fn serve(listener: TcpListener) {
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            // Out of descriptors, for example: open connections will close.
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        tokio::spawn(async move {
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(socket), service_fn(answer))
                .await;
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let size = request.uri().query().and_then(requested_size);
    let mut response = if let Some(size) = size {
        Response::new(Full::from(tokens(delivered(size))))
    } else {
        let mut refusal = Response::new(Full::from("size=N is missing\n"));
        *refusal.status_mut() = StatusCode::BAD_REQUEST;
        refusal
    };
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    Ok(response)
}

fn requested_size(query: &str) -> Option<u64> {
    url::form_urlencoded::parse(query.as_bytes())
        .find(|(name, _)| name == "size")
        .and_then(|(_, value)| value.parse().ok())
}

/// Returns how many tokens to send: half of the answers, at random, omit up to a fifth of `size`.
fn delivered(size: u64) -> u64 {
    let size = size.min(MAX_TOKENS);
    let omitted = if fastrand::bool() {
        fastrand::u64(0..=size.div_ceil(5))
    } else {
        0
    };
    size.saturating_sub(omitted).max(size.min(1))
}

fn tokens(count: u64) -> String {
    let mut body = String::new();
    for _ in 0..count {
        let random = fastrand::u128(..).to_be_bytes();
        BASE64_URL_SAFE_NO_PAD.encode_string(random, &mut body);
        body.push('\n');
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_has_between_one_and_the_requested_tokens() {
        for size in [1_u64, 5, 100] {
            for _ in 0..1000 {
                assert!((size - size.div_ceil(5)..=size).contains(&delivered(size)));
                assert!(delivered(size) >= 1);
            }
        }
        assert!(delivered(u64::MAX) <= MAX_TOKENS);
    }
}
