//! The demo's token source: an HTTP server that under-delivers like the real source. Its tokens are
//! random values. Each answer is made while it is read, so an unread answer takes little memory.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::error::{Error, ErrorKind};
use crate::fetch::http::HttpEndpoint;

/// Largest number of tokens in one answer; the same as at the real source.
const MAX_TOKENS: u64 = 455_902;
/// The path that issues tokens.
pub const PATH: &str = "/tokens";

/// Pause after a failed `accept`.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a connection may make no progress: no new request, and no part of an answer read.
const IDLE_LIMIT: Duration = Duration::from_mins(1);
/// Largest number of open connections; others wait.
const MAX_CONNECTIONS: usize = 512;
/// Largest number of requests at a time on an HTTP/2 connection.
const MAX_STREAMS: u32 = 32;
/// The bytes of a request's head, and of an answer that wait to be read.
const BUFFER: usize = 16 * 1024;
/// The number of tokens in one part of an answer.
const TOKENS_PER_FRAME: u64 = 256;
/// The length of a token's line: 16 bytes in Base64, and a line feed.
const LINE: u64 = 23;

/// The header with which a client makes sure that a repeated request gives the same tokens.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// The longest key.
const MAX_KEY: usize = 255;
/// The number of keys that the source remembers; an older one is forgotten.
const MAX_KEYS: usize = 10_000;

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
    let url = format!("http://{address}{PATH}");
    let url = url.parse();
    let url = url.map_err(|error| cannot(io::Error::other(error)))?;
    Ok(HttpEndpoint::new(url))
}

/// Serves requests on `listener`; never returns.
pub async fn serve(listener: TcpListener) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let keys = Arc::new(Mutex::new(IssuedKeys::default()));
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else {
            return;
        };
        let Ok((socket, _)) = listener.accept().await else {
            // Out of descriptors, for example: open connections will close.
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let keys = Arc::clone(&keys);
        tokio::spawn(async move {
            serve_connection(socket, IDLE_LIMIT, keys).await;
            drop(permit);
        });
    }
}

/// Serves one connection until it closes, or makes no progress for `idle_limit`.
async fn serve_connection(socket: TcpStream, idle_limit: Duration, keys: SharedKeys) {
    let progress = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&progress);
    let service = service_fn(move |request| {
        let answer = answer(&request, &counter, &keys);
        async { Ok::<_, Infallible>(answer) }
    });
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(idle_limit)
        .max_buf_size(BUFFER);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_send_buf_size(BUFFER);
    let connection = server.serve_connection(TokioIo::new(socket), service);
    let mut seen = 0;
    let idle = async {
        loop {
            tokio::time::sleep(idle_limit).await;
            let now = progress.load(Ordering::Relaxed);
            if std::mem::replace(&mut seen, now) == now {
                return;
            }
        }
    };
    tokio::select! {
        _ = connection => {}
        () = idle => {}
    }
}

/// Answers a request; only a POST to [`PATH`] issues tokens.
fn answer(
    request: &Request<Incoming>,
    progress: &Arc<AtomicU64>,
    keys: &Mutex<IssuedKeys>,
) -> Response<AnswerBody> {
    progress.fetch_add(1, Ordering::Relaxed);
    let size = request.uri().query().and_then(requested_size);
    let key = request.headers().get(IDEMPOTENCY_KEY);
    let refused = |status, text| (status, AnswerBody::text(text));
    let (status, body) = match (request.uri().path(), request.method(), size) {
        (PATH, &Method::POST, Some(_)) if key.is_some_and(|key| key.len() > MAX_KEY) => refused(
            StatusCode::BAD_REQUEST,
            "the idempotency key is longer than 255 bytes\n",
        ),
        (PATH, &Method::POST, Some(size)) => match issue(key, size, keys) {
            Some(issued) => (StatusCode::OK, AnswerBody::tokens(issued, progress)),
            None => refused(
                StatusCode::UNPROCESSABLE_ENTITY,
                "the idempotency key was used with another size\n",
            ),
        },
        (PATH, &Method::POST, None) => refused(
            StatusCode::BAD_REQUEST,
            "size=N is missing, or is no whole number of at least 1\n",
        ),
        (PATH, ..) => refused(StatusCode::METHOD_NOT_ALLOWED, "only POST issues tokens\n"),
        _ => refused(StatusCode::NOT_FOUND, "tokens are at /tokens\n"),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("POST"));
    }
    response
}

fn requested_size(query: &str) -> Option<u64> {
    url::form_urlencoded::parse(query.as_bytes())
        .find(|(name, _)| name == "size")
        .and_then(|(_, value)| value.parse().ok())
        .filter(|size| *size > 0)
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

/// The tokens of an answer, which can be made again.
#[derive(Clone, Copy)]
struct Issued {
    /// The requested number of tokens.
    size: u64,
    /// The number of tokens.
    delivered: u64,
    /// The seed of their values.
    seed: u64,
}

/// The answers to the last requests with an idempotency key.
#[derive(Default)]
struct IssuedKeys {
    issued: HashMap<HeaderValue, Issued>,
    /// The keys, oldest first.
    order: VecDeque<HeaderValue>,
}

type SharedKeys = Arc<Mutex<IssuedKeys>>;

impl IssuedKeys {
    /// Returns what was issued for a key, or remembers `new`.
    fn of(&mut self, key: &HeaderValue, new: Issued) -> Issued {
        if let Some(issued) = self.issued.get(key) {
            return *issued;
        }
        if self.order.len() == MAX_KEYS
            && let Some(oldest) = self.order.pop_front()
        {
            self.issued.remove(&oldest);
        }
        self.order.push_back(key.clone());
        self.issued.insert(key.clone(), new);
        new
    }
}

/// Issues tokens, the same ones for the same key; returns `None` if its size was another one.
fn issue(key: Option<&HeaderValue>, size: u64, keys: &Mutex<IssuedKeys>) -> Option<Issued> {
    let new = Issued {
        size,
        delivered: delivered(size),
        seed: fastrand::u64(..),
    };
    let Some(key) = key else { return Some(new) };
    let mut keys = keys.lock().unwrap_or_else(PoisonError::into_inner);
    Some(keys.of(key, new)).filter(|issued| issued.size == size)
}

/// The body of an answer; tokens are made when the connection has room for them.
struct AnswerBody {
    text: &'static str,
    /// The number of tokens that are not made yet.
    tokens: u64,
    /// Makes their values.
    random: fastrand::Rng,
    /// Counts the parts that were made.
    progress: Option<Arc<AtomicU64>>,
}

impl AnswerBody {
    fn text(text: &'static str) -> Self {
        Self {
            text,
            tokens: 0,
            random: fastrand::Rng::with_seed(0),
            progress: None,
        }
    }

    fn tokens(issued: Issued, progress: &Arc<AtomicU64>) -> Self {
        Self {
            text: "",
            tokens: issued.delivered,
            random: fastrand::Rng::with_seed(issued.seed),
            progress: Some(Arc::clone(progress)),
        }
    }

    fn next_frame(&mut self) -> Option<Bytes> {
        if let Some(progress) = &self.progress {
            progress.fetch_add(1, Ordering::Relaxed);
        }
        if !self.text.is_empty() {
            return Some(Bytes::from_static(
                std::mem::take(&mut self.text).as_bytes(),
            ));
        }
        let count = self.tokens.min(TOKENS_PER_FRAME);
        self.tokens -= count;
        (count > 0).then(|| tokens(count, &mut self.random).into())
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.next_frame().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.text.is_empty() && self.tokens == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.text.len() as u64 + self.tokens * LINE)
    }
}

fn tokens(count: u64, random: &mut fastrand::Rng) -> String {
    let mut body = String::new();
    for _ in 0..count {
        let random = random.u128(..).to_be_bytes();
        BASE64_URL_SAFE_NO_PAD.encode_string(random, &mut body);
        body.push('\n');
    }
    body
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

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

    fn issued(delivered: u64) -> Issued {
        Issued {
            size: delivered,
            delivered,
            seed: 1,
        }
    }

    fn text(mut body: AnswerBody) -> String {
        let mut text = String::new();
        while let Some(frame) = body.next_frame() {
            text += std::str::from_utf8(&frame).unwrap();
        }
        text
    }

    #[test]
    fn same_key_and_size_give_the_same_tokens() {
        let keys = Mutex::default();
        let key = |number: usize| HeaderValue::try_from(format!("key-{number}")).unwrap();
        let tokens = |number, size| {
            let issued = issue(Some(&key(number)), size, &keys)?;
            Some(text(AnswerBody::tokens(issued, &Arc::default())))
        };
        let first = tokens(0, 1000).unwrap();
        assert_eq!(tokens(0, 1000).as_ref(), Some(&first));
        assert_eq!(tokens(0, 999), None, "the size differs");
        assert_ne!(tokens(1, 1000).as_ref(), Some(&first));
        let without_key = || issue(None, 1000, &keys).unwrap().seed;
        assert_ne!(without_key(), without_key());
        // Old keys are forgotten, so memory is bounded.
        for number in 2..=MAX_KEYS {
            tokens(number, 1);
        }
        assert_ne!(tokens(0, 1000).as_ref(), Some(&first));
        assert_eq!(keys.lock().unwrap().issued.len(), MAX_KEYS);
    }

    #[test]
    fn body_has_the_announced_length() {
        for count in [1, TOKENS_PER_FRAME, 1000] {
            let mut body = AnswerBody::tokens(issued(count), &Arc::default());
            let announced = body.size_hint().exact().unwrap();
            let mut text = String::new();
            while let Some(frame) = body.next_frame() {
                text += std::str::from_utf8(&frame).unwrap();
            }
            assert_eq!(text.len() as u64, announced);
            assert_eq!(text.lines().count() as u64, count);
        }
    }

    /// Connects to a server that closes idle connections soon, and sends this text. The task ends when
    /// the server has closed the connection.
    async fn connected(text: &str) -> (TcpStream, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (socket, _) = listener.accept().await.unwrap();
            serve_connection(socket, Duration::from_millis(50), Arc::default()).await;
        });
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(text.as_bytes()).await.unwrap();
        (client, server)
    }

    #[tokio::test]
    async fn connection_without_progress_is_closed() {
        let headers = "HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n";
        let post = |size: u64| format!("POST {PATH}?size={size} {headers}{{}}");
        for text in [String::new(), String::from("POST /tok"), post(5)] {
            let (_client, server) = connected(&text).await;
            server.await.unwrap();
        }
        // Nor is an answer kept that is not read; the kernel holds a part of it.
        let (mut client, server) = connected(&post(MAX_TOKENS)).await;
        server.await.unwrap();
        let mut read = Vec::new();
        let _ = client.read_to_end(&mut read).await;
        assert!(
            (read.len() as u64) < MAX_TOKENS * LINE / 2,
            "{}",
            read.len()
        );
    }
}
