//! A token source in the test process, on a loopback socket. It gives declared responses or generates
//! tokens, and records its requests.
//!
//! Dropping it fails the test if a declared response was not used or a request had none.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use super::certificates::Certificates;
pub use super::response::{Gate, Response};

/// The longest wait for requests.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A received request.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method, such as `POST`.
    pub method: String,
    /// Path and query, such as `/tokens?size=5`.
    pub target: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The version, such as `HTTP/2.0`.
    pub version: String,
}

impl Request {
    /// The last `size=` of the query, if it is a number.
    pub fn size(&self) -> Option<u64> {
        let (_, query) = self.target.split_once('?')?;
        query
            .rsplit('&')
            .find_map(|pair| pair.strip_prefix("size=")?.parse().ok())
    }
}

/// Maps the requested number of tokens to the delivered tokens.
type Rule = Box<dyn FnMut(u64) -> Vec<String> + Send>;

/// Maps the number of a request, by its idempotency key, and its size to the delivered tokens.
type KeyedRule = Box<dyn Fn(u64, u64) -> Vec<String> + Send>;

/// How the source responds.
enum Behaviour {
    Responses(VecDeque<Response>),
    Generating(Rule),
    Keyed(KeyedRule, HashMap<u64, u64>),
}

struct SourceState {
    behaviour: Behaviour,
    requests: Vec<Request>,
    issued: Vec<String>,
    undeclared: usize,
    always_used: bool,
}

struct SourceShared {
    state: Mutex<SourceState>,
    arrived: Condvar,
}

impl SourceShared {
    /// Ignores poisoning: a panic of a test must not hide the state of the source.
    fn lock(&self) -> MutexGuard<'_, SourceState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running source; dropping it stops it.
pub struct Source {
    address: SocketAddr,
    shared: Arc<SourceShared>,
    certificates: Option<(Certificates, tempfile::NamedTempFile)>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Source {
    /// Starts a source that gives these responses, one per request, in order.
    pub fn responding(responses: impl IntoIterator<Item = Response>) -> Self {
        Self::start(Behaviour::Responses(responses.into_iter().collect()), None)
    }

    /// Starts a source that delivers `rule(n)` random tokens for `size=n`.
    pub fn generating(rule: impl Fn(u64) -> u64 + Send + 'static) -> Self {
        Self::generating_with(random_tokens(rule))
    }

    /// Starts a source that delivers the tokens of `rule(n)` for `size=n`.
    pub fn generating_with(rule: impl FnMut(u64) -> Vec<String> + Send + 'static) -> Self {
        Self::start(Behaviour::Generating(Box::new(rule)), None)
    }

    /// Starts a source that honours idempotency keys: it delivers the tokens of `rule(number, size)`, where the
    /// number is at the end of the key, and refuses another size for the same key.
    pub fn keyed(rule: impl Fn(u64, u64) -> Vec<String> + Send + 'static) -> Self {
        Self::start(Behaviour::Keyed(Box::new(rule), HashMap::new()), None)
    }

    /// Like [`Self::responding`], over TLS, with HTTP/2 if the client offers it.
    pub fn responding_over_tls(responses: impl IntoIterator<Item = Response>) -> Self {
        Self::with_certificates(Certificates::new(), responses)
    }

    /// Like [`Self::responding_over_tls`], with these certificates.
    pub fn with_certificates(
        certificates: Certificates,
        responses: impl IntoIterator<Item = Response>,
    ) -> Self {
        let responses = Behaviour::Responses(responses.into_iter().collect());
        Self::start(responses, Some(certificates))
    }

    /// Like [`Self::generating`], over TLS, with HTTP/2 if the client offers it.
    pub fn generating_over_tls(rule: impl Fn(u64) -> u64 + Send + 'static) -> Self {
        let rule = Behaviour::Generating(Box::new(random_tokens(rule)));
        Self::start(rule, Some(Certificates::new()))
    }

    fn start(behaviour: Behaviour, certificates: Option<Certificates>) -> Self {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a loopback socket");
        listener
            .set_nonblocking(true)
            .expect("a non-blocking socket");
        let address = listener.local_addr().expect("the socket's address");
        let certificates = certificates.map(|certificates| {
            let file = tempfile::NamedTempFile::new().expect("a file");
            std::fs::write(file.path(), &certificates.ca_pem).expect("a written file");
            (certificates, file)
        });
        let acceptor = certificates
            .as_ref()
            .map(|(certificates, _)| certificates.acceptor());
        let state = SourceState {
            behaviour,
            requests: Vec::new(),
            issued: Vec::new(),
            undeclared: 0,
            always_used: false,
        };
        let shared = Arc::new(SourceShared {
            state: Mutex::new(state),
            arrived: Condvar::new(),
        });
        let (stop, stopped) = oneshot::channel();
        let serving = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("a runtime").block_on(async move {
                let listener = TcpListener::from_std(listener).expect("a listening socket");
                tokio::select! {
                    () = accept(listener, acceptor, serving) => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            address,
            shared,
            certificates,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Its URL; over TLS with the host name of the certificate.
    pub fn url(&self) -> String {
        if self.certificates.is_some() {
            format!("https://localhost:{}/tokens", self.port())
        } else {
            format!("http://127.0.0.1:{}/tokens", self.port())
        }
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Over TLS: the file with the authority to trust, for `SSL_CERT_FILE`.
    pub fn ca_file(&self) -> Option<&Path> {
        self.certificates.as_ref().map(|(_, file)| file.path())
    }

    /// All requests so far, in order of arrival.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.lock().requests.clone()
    }

    /// The `size` of each request, in order of arrival.
    pub fn sizes(&self) -> Vec<u64> {
        self.requests().iter().filter_map(Request::size).collect()
    }

    /// Every generated token, in order; empty for declared responses.
    pub fn issued(&self) -> Vec<String> {
        self.shared.lock().issued.clone()
    }

    /// Waits until this many requests have arrived.
    ///
    /// # Panics
    /// If they do not arrive in time.
    pub fn wait_for(&self, requests: usize) {
        let end = Instant::now() + TIMEOUT;
        let mut state = self.shared.lock();
        while state.requests.len() < requests {
            let remaining = end.saturating_duration_since(Instant::now());
            let arrived = state.requests.len();
            assert!(
                !remaining.is_zero(),
                "timed out waiting for {requests} requests; {arrived} arrived"
            );
            let woken = self.shared.arrived.wait_timeout(state, remaining);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn unmet_expectation(&self) -> Option<String> {
        let state = self.shared.lock();
        let targets: Vec<&str> = state.requests.iter().map(|r| r.target.as_str()).collect();
        let unused = match &state.behaviour {
            Behaviour::Responses(remaining) => remaining
                .iter()
                .filter(|it| !(it.always && state.always_used))
                .count(),
            Behaviour::Generating(_) | Behaviour::Keyed(..) => 0,
        };
        if unused > 0 {
            Some(format!(
                "{unused} declared responses were not used; requests: {targets:?}"
            ))
        } else if state.undeclared > 0 {
            Some(format!(
                "{} requests had no declared response; requests: {targets:?}",
                state.undeclared
            ))
        } else {
            None
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        // A second panic during unwinding would abort the whole test binary.
        if std::thread::panicking() {
            return;
        }
        assert!(!matches!(ended, Some(Err(_))), "the token source panicked");
        if let Some(problem) = self.unmet_expectation() {
            panic!("the token source: {problem}");
        }
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<SourceShared>) {
    loop {
        // An accept error concerns one client only.
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            match tls {
                None => serve(stream, shared).await,
                // The handshake fails if the client rejects the certificate, as some tests expect.
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream, shared).await;
                    }
                }
            }
        });
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    shared: Arc<SourceShared>,
) {
    let service = service_fn(move |request| respond(request, Arc::clone(&shared)));
    // Truncated bodies and clients that disconnect cause errors; tests provoke both.
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn respond(
    request: hyper::Request<Incoming>,
    shared: Arc<SourceShared>,
) -> Result<hyper::Response<super::response::Body>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    let request = Request {
        method: head.method.to_string(),
        target: head
            .uri
            .path_and_query()
            .map_or_else(String::new, ToString::to_string),
        headers: head.headers,
        body,
        version: format!("{:?}", head.version),
    };
    let response = shared.lock().next(request);
    shared.arrived.notify_all();
    if let Some(gate) = &response.gate {
        gate.wait().await;
    }
    Ok(response.into_http())
}

impl SourceState {
    fn next(&mut self, request: Request) -> Response {
        let size = request.size();
        let key = request.headers.get("idempotency-key");
        let key = key.and_then(|key| key.to_str().ok()?.rsplit('-').next()?.parse().ok());
        self.requests.push(request);
        match &mut self.behaviour {
            Behaviour::Generating(rule) => {
                let Some(size) = size else {
                    return Response::status(400).body("size is missing\n");
                };
                let tokens = rule(size);
                let response = Response::tokens(&tokens);
                self.issued.extend(tokens);
                response
            }
            Behaviour::Keyed(rule, sizes) => {
                let (Some(number), Some(size)) = (key, size) else {
                    return Response::status(400).body("size or key is missing\n");
                };
                if *sizes.entry(number).or_insert(size) != size {
                    return Response::status(422).body("another size for the same key\n");
                }
                let tokens = rule(number, size);
                let response = Response::tokens(&tokens);
                self.issued.extend(tokens);
                response
            }
            Behaviour::Responses(remaining) => {
                if let Some(last) = remaining.front().filter(|response| response.always) {
                    self.always_used = true;
                    return last.clone();
                }
                remaining.pop_front().unwrap_or_else(|| {
                    self.undeclared += 1;
                    Response::status(500).body("the test declared no response for this request\n")
                })
            }
        }
    }
}

/// Generates as many random tokens as the rule says.
fn random_tokens(rule: impl Fn(u64) -> u64) -> impl FnMut(u64) -> Vec<String> {
    move |size| (0..rule(size)).map(|_| token()).collect()
}

/// 16 random bytes in unpadded URL-safe base64: 22 characters, the last of them of two bits.
pub fn token() -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = fastrand::u128(..);
    let digit = |value: u128| char::from(ALPHABET[usize::try_from(value & 63).unwrap_or(0)]);
    let mut token: String = (0..21)
        .map(|place| digit(bits >> (122 - 6 * place)))
        .collect();
    token.push(digit(bits << 4));
    token
}

/// A URL with a port that nothing listens on.
pub fn refused_url() -> String {
    format!("http://127.0.0.1:{}/tokens", super::postgres::free_port())
}
