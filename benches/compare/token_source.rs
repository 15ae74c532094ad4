//! The token source of all contenders.
//!
//! It answers `POST /tokens?size=N` with slices of a text that is generated in advance, to use little
//! CPU time. It counts the served tokens and records the time of the first request.

use std::convert::Infallible;
use std::net::TcpListener as StdTcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;

use crate::clock::monotonic_nanos;

/// The number of generated tokens. They are served repeatedly.
const TOKENS: usize = 500_000;
/// The maximum number of tokens per response, that of the real source.
const MAX_PAGE_SIZE: usize = 455_902;
/// The length of a token and its line break, in bytes.
const LINE_LENGTH: usize = 23;

const BASE64URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// The character that the table's check constraint rejects.
const REJECTED_CHARACTER: u8 = b'-';
/// The character that replaces it if the table must store all tokens.
const STORED_CHARACTER: u8 = b'_';

/// The tokens that a source serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// The table stores all tokens.
    AllStored,
    /// The table rejects about 28 % of the tokens, as with the real source.
    SomeRejected,
}

/// The state that the source shares with its connections.
struct SourceState {
    text: Bytes,
    /// For each token, the number of rejected tokens before it.
    rejected_before: Vec<u32>,
    next: AtomicUsize,
    served: AtomicU64,
    served_rejected: AtomicU64,
    first_request: AtomicU64,
}

/// A running token source. It runs until the process exits.
pub struct TokenSource {
    port: u16,
    state: Arc<SourceState>,
}

impl TokenSource {
    /// Generates the tokens and starts a thread that serves them.
    ///
    /// # Errors
    /// If the source cannot listen on the loopback interface.
    pub fn start(kind: TokenKind) -> Result<Self> {
        let listener = StdTcpListener::bind(("127.0.0.1", 0))
            .context("the token source cannot listen on 127.0.0.1")?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let (text, rejected_before) = generate_tokens(kind);
        let state = Arc::new(SourceState {
            text,
            rejected_before,
            next: AtomicUsize::new(0),
            served: AtomicU64::new(0),
            served_rejected: AtomicU64::new(0),
            first_request: AtomicU64::new(0),
        });
        let server_state = Arc::clone(&state);
        let runtime = Builder::new_current_thread().enable_all().build()?;
        std::thread::spawn(move || runtime.block_on(accept_connections(listener, server_state)));
        Ok(Self { port, state })
    }

    /// Returns the URL of the source.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/tokens", self.port)
    }

    /// Resets the counters and the time of the first request.
    pub fn reset(&self) {
        let SourceState {
            served,
            served_rejected,
            first_request,
            ..
        } = &*self.state;
        for number in [served, served_rejected, first_request] {
            number.store(0, Ordering::Relaxed);
        }
    }

    /// Returns the number of served tokens, and how many of them the table rejects.
    pub fn served(&self) -> (u64, u64) {
        (
            self.state.served.load(Ordering::Relaxed),
            self.state.served_rejected.load(Ordering::Relaxed),
        )
    }

    /// Returns the time of the first request on the monotonic clock, in nanoseconds.
    pub fn first_request(&self) -> Option<u64> {
        Some(self.state.first_request.load(Ordering::Relaxed)).filter(|time| *time > 0)
    }
}

/// Generates all tokens, one per line, and the running count of the rejected ones.
fn generate_tokens(kind: TokenKind) -> (Bytes, Vec<u32>) {
    let mut text = Vec::with_capacity(TOKENS * LINE_LENGTH);
    let mut rejected_before = Vec::with_capacity(TOKENS + 1);
    let mut rejected = 0;
    for _ in 0..TOKENS {
        rejected_before.push(rejected);
        let start = text.len();
        let mut bits = fastrand::u128(..);
        for position in 0..LINE_LENGTH - 1 {
            // Base64 encodes 16 bytes as 21 characters of 6 bits and one of 2 bits.
            let digit = if position < 21 {
                bits & 63
            } else {
                (bits & 3) << 4
            };
            bits >>= 6;
            let character = BASE64URL[usize::try_from(digit).unwrap_or(0)];
            text.push(match (kind, character) {
                (TokenKind::AllStored, REJECTED_CHARACTER) => STORED_CHARACTER,
                _ => character,
            });
        }
        rejected += u32::from(text[start..].contains(&REJECTED_CHARACTER));
        text.push(b'\n');
    }
    rejected_before.push(rejected);
    (text.into(), rejected_before)
}

async fn accept_connections(listener: StdTcpListener, state: Arc<SourceState>) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            tokio::spawn(serve_connection(stream, Arc::clone(&state)));
        }
    }
}

async fn serve_connection(stream: TcpStream, state: Arc<SourceState>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = respond(&request, &state);
        async move { Ok::<_, Infallible>(response) }
    });
    // An error means that the client closed the connection, which is no failure of the source.
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn respond(request: &Request<Incoming>, state: &SourceState) -> Response<Full<Bytes>> {
    let now = monotonic_nanos();
    let (unset, relaxed) = (0, Ordering::Relaxed);
    let _ = state
        .first_request
        .compare_exchange(unset, now, relaxed, relaxed);
    let query = request.uri().query().unwrap_or_default();
    let size = query.strip_prefix("size=").and_then(|n| n.parse().ok());
    let size = size.unwrap_or(0).min(MAX_PAGE_SIZE);
    let start = state.next.fetch_add(size, relaxed) % (TOKENS - size);
    let end = start + size;
    let rejected = state.rejected_before[end] - state.rejected_before[start];
    state.served.fetch_add(size as u64, relaxed);
    state.served_rejected.fetch_add(rejected.into(), relaxed);
    let page = state.text.slice(start * LINE_LENGTH..end * LINE_LENGTH);
    let mut response = Response::new(Full::new(page));
    response.headers_mut().insert(
        hyper::header::CONTENT_TYPE,
        hyper::header::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}
