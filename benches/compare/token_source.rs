//! The token source of all contenders.
//!
//! It answers `POST /tokens?size=N` with slices of a text that is generated in advance, to use little
//! CPU time. It counts the served tokens and records each request. It can answer late, and it can
//! refuse requests above a rate.

use std::convert::Infallible;
use std::net::TcpListener as StdTcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::task::spawn_blocking;

use crate::clock::monotonic_nanos;
use crate::rate_limiter::RateLimiter;

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

/// How a source answers. By default it answers each request at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct SourceBehavior {
    /// The time that each response takes. Responses do not wait for each other.
    pub latency: Duration,
    /// The requests per second that the source accepts. It refuses others with 429.
    pub rate_limit: Option<u32>,
}

/// A request that the source received.
#[derive(Clone, Copy, Debug)]
pub struct ReceivedRequest {
    /// The time of arrival on the monotonic clock, in nanoseconds.
    pub arrived: u64,
    /// Whether the source accepted the request.
    pub is_accepted: bool,
}

/// The state that the source shares with its connections.
#[derive(Debug)]
struct SourceState {
    text: Bytes,
    /// For each token, the number of rejected tokens before it.
    rejected_before: Vec<u32>,
    behavior: SourceBehavior,
    log: Mutex<SourceLog>,
}

/// What happened since the last reset, and what later responses depend on.
#[derive(Debug, Default)]
struct SourceLog {
    next: usize,
    served: u64,
    served_rejected: u64,
    requests: Vec<ReceivedRequest>,
    limiter: Option<RateLimiter>,
}

/// A running token source. It runs until the process exits.
#[derive(Debug)]
pub struct TokenSource {
    port: u16,
    state: Arc<SourceState>,
}

impl TokenSource {
    /// Generates the tokens and starts a thread that serves them.
    ///
    /// # Errors
    /// If the source cannot listen on the loopback interface.
    pub fn start(kind: TokenKind, behavior: SourceBehavior) -> Result<Self> {
        let listener = StdTcpListener::bind(("127.0.0.1", 0))
            .context("the token source cannot listen on 127.0.0.1")?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let (text, rejected_before) = generate_tokens(kind);
        let state = Arc::new(SourceState {
            text,
            rejected_before,
            behavior,
            log: Mutex::default(),
        });
        let server_state = Arc::clone(&state);
        let runtime = Builder::new_current_thread().enable_all().build()?;
        thread::spawn(move || runtime.block_on(accept_connections(listener, server_state)));
        let source = Self { port, state };
        source.reset();
        Ok(source)
    }

    /// Returns the URL of the source.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/tokens", self.port)
    }

    /// Prepares the next run: resets the counters, the recorded requests and the rate limit.
    pub fn reset(&self) {
        let mut log = self.state.log();
        *log = SourceLog {
            next: log.next,
            limiter: self.state.behavior.rate_limit.map(RateLimiter::new),
            ..SourceLog::default()
        };
    }

    /// Returns the number of served tokens, and how many of them the table rejects.
    pub fn served(&self) -> (u64, u64) {
        let log = self.state.log();
        (log.served, log.served_rejected)
    }

    /// Returns the requests since the last reset, in the order of arrival.
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        self.state.log().requests.clone()
    }

    /// Returns the time of the first request on the monotonic clock, in nanoseconds.
    pub fn first_request(&self) -> Option<u64> {
        Some(self.state.log().requests.first()?.arrived)
    }
}

impl SourceState {
    fn log(&self) -> MutexGuard<'_, SourceLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a request for `size` tokens and takes the tokens, or refuses the request.
    fn take_page(&self, size: usize) -> Option<Bytes> {
        let mut log = self.log();
        let arrived = monotonic_nanos();
        let limiter = log.limiter.as_mut();
        let is_accepted = limiter.is_none_or(|limiter| limiter.try_acquire(arrived));
        log.requests.push(ReceivedRequest {
            arrived,
            is_accepted,
        });
        if !is_accepted {
            return None;
        }
        let start = log.next % (TOKENS - size);
        let end = start + size;
        log.next += size;
        log.served += size as u64;
        log.served_rejected += u64::from(self.rejected_before[end] - self.rejected_before[start]);
        Some(self.text.slice(start * LINE_LENGTH..end * LINE_LENGTH))
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
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(respond(&request, &state).await) }
    });
    // An error means that the client closed the connection, which is no failure of the source.
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn respond(request: &Request<Incoming>, state: &SourceState) -> Response<Full<Bytes>> {
    let query = request.uri().query().unwrap_or_default();
    let size = query.strip_prefix("size=").and_then(|n| n.parse().ok());
    let page = state.take_page(size.unwrap_or(0).min(MAX_PAGE_SIZE));
    let latency = state.behavior.latency;
    if !latency.is_zero() {
        // A thread sleeps, because timers of tokio are rounded up to whole milliseconds.
        let _ = spawn_blocking(move || thread::sleep(latency)).await;
    }
    let is_accepted = page.is_some();
    let mut response = Response::new(Full::new(page.unwrap_or_default()));
    let headers = response.headers_mut();
    if is_accepted {
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        headers.insert(CONTENT_TYPE, text);
    } else {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    }
    response
}
