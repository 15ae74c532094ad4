//! The demo's token source: a real HTTP server on loopback that under-delivers as the real source
//! does. What it hands out are random values that open nothing.

use std::convert::Infallible;
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;

use crate::error::{ErrorKind, Fault};
use crate::fetch::http::HttpEndpoint;

/// The most tokens in one answer, as the real source has it.
const MOST: u64 = 455_902;

/// How long it waits after it could not take a connection.
const BREATH: Duration = Duration::from_millis(100);

/// Starts the source on a free loopback port, on the current runtime; it lives as long as that. Gives
/// where it is asked.
pub async fn start() -> Result<HttpEndpoint, Fault> {
    let cannot = |error: io::Error| {
        Fault::new(
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
    Ok(HttpEndpoint {
        url: url
            .parse()
            .map_err(|error| cannot(io::Error::other(error)))?,
        headers: Vec::new(),
        proxy: false,
    })
}

/// Answers on `listener`, for ever.
pub async fn serve(listener: TcpListener) {
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            // No descriptor is left, say: those that are open will end.
            tokio::time::sleep(BREATH).await;
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
    let size = request.uri().query().and_then(size_of);
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

fn size_of(query: &str) -> Option<u64> {
    url::form_urlencoded::parse(query.as_bytes())
        .find(|(name, _)| name == "size")
        .and_then(|(_, value)| value.parse().ok())
}

/// Every other answer, by chance, leaves out up to a fifth of what was asked for.
fn delivered(size: u64) -> u64 {
    let size = size.min(MOST);
    let left_out = if fastrand::bool() {
        fastrand::u64(0..=size.div_ceil(5))
    } else {
        0
    };
    size.saturating_sub(left_out).max(size.min(1))
}

fn tokens(count: u64) -> String {
    let mut body = String::new();
    for _ in 0..count {
        push_token(&mut body, fastrand::u128(..));
        body.push('\n');
    }
    body
}

/// Sixteen bytes in unpadded URL-safe base64 (RFC 4648, section 5): 21 characters of six bits and
/// one of two.
fn push_token(text: &mut String, bits: u128) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    for index in 0..21_u32 {
        let six = (bits >> (122 - 6 * index)) & 63;
        text.push(char::from(ALPHABET[six as usize]));
    }
    text.push(char::from(ALPHABET[((bits & 3) << 4) as usize]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_sixteen_bytes_in_url_safe_base64() {
        let mut text = String::new();
        push_token(&mut text, 0);
        push_token(&mut text, u128::MAX);
        assert_eq!(text, "AAAAAAAAAAAAAAAAAAAAAA_____________________w");
    }

    #[test]
    fn it_never_delivers_nothing_nor_too_much() {
        for size in [1_u64, 5, 100] {
            for _ in 0..1000 {
                assert!((size - size.div_ceil(5)..=size).contains(&delivered(size)));
                assert!(delivered(size) >= 1);
            }
        }
        assert!(delivered(u64::MAX) <= MOST);
    }
}
