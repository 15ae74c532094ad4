//! The token source of all contenders: `POST /tokens?size=N` is answered with slices of a text that
//! was made beforehand, so that the source costs next to nothing. It counts what it gave, so that each
//! run can be checked against the table, and notes when it was first asked.

use std::convert::Infallible;
use std::net::TcpListener as Listener;
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

use super::gauge::monotonic;

/// So many tokens there are; they come again and again.
const TOKENS: usize = 500_000;
/// The most in one answer, as with the real source.
const MOST: usize = 455_902;
/// A token and its line break.
const LINE: usize = 23;

const BASE64URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// The character that the table's check refuses, and what stands in for it.
const REFUSED: u8 = b'-';
const HARMLESS: u8 = b'_';

/// Which tokens there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The table takes all of them.
    Stored,
    /// Real ones: the table refuses about 28 %.
    Mixed,
}

struct Shared {
    text: Bytes,
    /// How many of the tokens before each are refused by the table.
    refused: Vec<u32>,
    at: AtomicUsize,
    given: AtomicU64,
    given_refused: AtomicU64,
    first: AtomicU64,
}

/// A running source; it ends with the process.
pub struct Supply {
    port: u16,
    shared: Arc<Shared>,
}

impl Supply {
    /// Makes the tokens and serves them from a thread of its own.
    pub fn start(kind: Kind) -> Result<Self> {
        let listener = Listener::bind(("127.0.0.1", 0)).context("a loopback socket")?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let (text, refused) = make(kind);
        let shared = Arc::new(Shared {
            text,
            refused,
            at: AtomicUsize::new(0),
            given: AtomicU64::new(0),
            given_refused: AtomicU64::new(0),
            first: AtomicU64::new(0),
        });
        let serving = Arc::clone(&shared);
        let runtime = Builder::new_current_thread().enable_all().build()?;
        std::thread::spawn(move || runtime.block_on(accept(listener, serving)));
        Ok(Self { port, shared })
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/tokens", self.port)
    }

    /// Forgets what it gave and when.
    pub fn clear(&self) {
        let Shared {
            given,
            given_refused,
            first,
            ..
        } = &*self.shared;
        for number in [given, given_refused, first] {
            number.store(0, Ordering::Relaxed);
        }
    }

    /// How many tokens it gave, and how many of them the table refuses.
    pub fn given(&self) -> (u64, u64) {
        (
            self.shared.given.load(Ordering::Relaxed),
            self.shared.given_refused.load(Ordering::Relaxed),
        )
    }

    /// When it was first asked, on the machine's monotonic clock.
    pub fn first_asked(&self) -> Option<u64> {
        Some(self.shared.first.load(Ordering::Relaxed)).filter(|time| *time > 0)
    }
}

/// All tokens, a line each, and the running count of those that are refused.
fn make(kind: Kind) -> (Bytes, Vec<u32>) {
    let mut text = Vec::with_capacity(TOKENS * LINE);
    let mut refused = Vec::with_capacity(TOKENS + 1);
    let mut count = 0;
    for _ in 0..TOKENS {
        refused.push(count);
        let start = text.len();
        let mut bits = fastrand::u128(..);
        for place in 0..LINE - 1 {
            // 16 bytes are 21 characters and two bits.
            let digit = if place < 21 {
                bits & 63
            } else {
                (bits & 3) << 4
            };
            bits >>= 6;
            let character = BASE64URL[usize::try_from(digit).unwrap_or(0)];
            text.push(match (kind, character) {
                (Kind::Stored, REFUSED) => HARMLESS,
                _ => character,
            });
        }
        count += u32::from(text[start..].contains(&REFUSED));
        text.push(b'\n');
    }
    refused.push(count);
    (text.into(), refused)
}

async fn accept(listener: Listener, shared: Arc<Shared>) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            tokio::spawn(serve(stream, Arc::clone(&shared)));
        }
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(&request, &shared);
        async move { Ok::<_, Infallible>(answer) }
    });
    // A client that hangs up has what it wanted.
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn answer(request: &Request<Incoming>, shared: &Shared) -> Response<Full<Bytes>> {
    let now = monotonic();
    let (never, relaxed) = (0, Ordering::Relaxed);
    let _ = shared.first.compare_exchange(never, now, relaxed, relaxed);
    let query = request.uri().query().unwrap_or_default();
    let size = query.strip_prefix("size=").and_then(|n| n.parse().ok());
    let size = size.unwrap_or(0).min(MOST);
    let from = shared.at.fetch_add(size, relaxed) % (TOKENS - size);
    let refused = shared.refused[from + size] - shared.refused[from];
    shared.given.fetch_add(size as u64, relaxed);
    shared.given_refused.fetch_add(refused.into(), relaxed);
    let text = shared.text.slice(from * LINE..(from + size) * LINE);
    let mut response = Response::new(Full::new(text));
    response.headers_mut().insert(
        hyper::header::CONTENT_TYPE,
        hyper::header::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}
