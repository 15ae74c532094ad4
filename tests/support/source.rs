//! A token source in the test's own process, on a real loopback socket: it gives the answers that
//! the test declared, or makes tokens and under-delivers as the real one does, and remembers what
//! it was asked. It complains when it is dropped with an answer unused or one request too many.

use std::collections::VecDeque;
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

/// How long `wait_for` waits before it says that the requests did not come.
const PATIENCE: Duration = Duration::from_secs(30);

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// Such as `POST`.
    pub method: String,
    /// Path and query, such as `/tokens?size=5`.
    pub target: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// Such as `HTTP/2.0`.
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

/// From how many tokens were asked for to those that are delivered.
type Rule = Box<dyn FnMut(u64) -> Vec<String> + Send>;

/// How the source decides what to say.
enum Script {
    Answers(VecDeque<Response>),
    Generating(Rule),
}

struct State {
    script: Script,
    requests: Vec<Request>,
    issued: Vec<String>,
    undeclared: usize,
    used: bool,
}

struct Shared {
    state: Mutex<State>,
    came: Condvar,
}

impl Shared {
    /// A panic of one test thread must not hide what the source has to say.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running source; dropping it stops it.
pub struct Source {
    address: SocketAddr,
    shared: Arc<Shared>,
    certificates: Option<(Certificates, tempfile::NamedTempFile)>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Source {
    /// Gives these answers, one a request, in this order.
    pub fn responding(answers: impl IntoIterator<Item = Response>) -> Self {
        Self::start(Script::Answers(answers.into_iter().collect()), false)
    }

    /// Answers `size=n` with `rule(n)` random tokens.
    pub fn generating(rule: impl Fn(u64) -> u64 + Send + 'static) -> Self {
        Self::generating_with(random(rule))
    }

    /// Answers `size=n` with the tokens of `rule(n)`.
    pub fn generating_with(rule: impl FnMut(u64) -> Vec<String> + Send + 'static) -> Self {
        Self::start(Script::Generating(Box::new(rule)), false)
    }

    /// `answers` over TLS, with HTTP/2 where the client offers it.
    pub fn responding_over_tls(answers: impl IntoIterator<Item = Response>) -> Self {
        Self::start(Script::Answers(answers.into_iter().collect()), true)
    }

    /// `generating` over TLS, with HTTP/2 where the client offers it.
    pub fn generating_over_tls(rule: impl Fn(u64) -> u64 + Send + 'static) -> Self {
        Self::start(Script::Generating(Box::new(random(rule))), true)
    }

    fn start(script: Script, tls: bool) -> Self {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a loopback socket");
        listener
            .set_nonblocking(true)
            .expect("a non-blocking socket");
        let address = listener.local_addr().expect("the socket's address");
        let certificates = tls.then(|| {
            let certificates = Certificates::new();
            let file = tempfile::NamedTempFile::new().expect("a file");
            std::fs::write(file.path(), &certificates.ca_pem).expect("a written file");
            (certificates, file)
        });
        let acceptor = certificates
            .as_ref()
            .map(|(certificates, _)| certificates.acceptor());
        let state = State {
            script,
            requests: Vec::new(),
            issued: Vec::new(),
            undeclared: 0,
            used: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            came: Condvar::new(),
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

    /// Where it listens; over TLS by name, as the certificate has it.
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

    /// What it was asked so far, in order of arrival.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.lock().requests.clone()
    }

    /// How many tokens each request asked for, in order of arrival.
    pub fn sizes(&self) -> Vec<u64> {
        self.requests().iter().filter_map(Request::size).collect()
    }

    /// Every token that it made and handed out, in order; empty for declared answers.
    pub fn issued(&self) -> Vec<String> {
        self.shared.lock().issued.clone()
    }

    /// Waits until this many requests have come.
    ///
    /// # Panics
    /// Where they do not come within half a minute.
    pub fn wait_for(&self, requests: usize) {
        let end = Instant::now() + PATIENCE;
        let mut state = self.shared.lock();
        while state.requests.len() < requests {
            let left = end.saturating_duration_since(Instant::now());
            let came = state.requests.len();
            assert!(
                !left.is_zero(),
                "waited for {requests} requests, {came} came"
            );
            let woken = self.shared.came.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn complaint(&self) -> Option<String> {
        let state = self.shared.lock();
        let asked: Vec<&str> = state.requests.iter().map(|r| r.target.as_str()).collect();
        let unused = match &state.script {
            Script::Answers(left) => left.iter().filter(|a| !(a.always && state.used)).count(),
            Script::Generating(_) => 0,
        };
        if unused > 0 {
            Some(format!(
                "{unused} declared answers were not used; it was asked {asked:?}"
            ))
        } else if state.undeclared > 0 {
            Some(format!(
                "{} requests had no declared answer; it was asked {asked:?}",
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
        // A second panic while one unwinds would abort the whole test binary.
        if std::thread::panicking() {
            return;
        }
        assert!(!matches!(ended, Some(Err(_))), "the token source panicked");
        if let Some(complaint) = self.complaint() {
            panic!("the token source: {complaint}");
        }
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    loop {
        // A client that is gone before it is accepted is its own affair.
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            match tls {
                None => serve(stream, shared).await,
                // A client that distrusts the certificate hangs up: that is what it is tested for.
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream, shared).await;
                    }
                }
            }
        });
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, shared: Arc<Shared>) {
    let service = service_fn(move |request| answer(request, Arc::clone(&shared)));
    // Ends with an error at each cut body and each client that hangs up: both are wanted.
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(
    request: hyper::Request<Incoming>,
    shared: Arc<Shared>,
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
    let answer = shared.lock().next(request);
    shared.came.notify_all();
    if let Some(gate) = &answer.gate {
        gate.passed().await;
    }
    Ok(answer.response())
}

impl State {
    fn next(&mut self, request: Request) -> Response {
        let size = request.size();
        self.requests.push(request);
        match &mut self.script {
            Script::Generating(rule) => {
                let Some(size) = size else {
                    return Response::status(400).body("size is missing\n");
                };
                let tokens = rule(size);
                let answer = Response::tokens(&tokens);
                self.issued.extend(tokens);
                answer
            }
            Script::Answers(left) => {
                if let Some(last) = left.front().filter(|answer| answer.always) {
                    self.used = true;
                    return last.clone();
                }
                left.pop_front().unwrap_or_else(|| {
                    self.undeclared += 1;
                    Response::status(500).body("the test declared no answer for this request\n")
                })
            }
        }
    }
}

/// As many random tokens as the rule says.
fn random(rule: impl Fn(u64) -> u64) -> impl FnMut(u64) -> Vec<String> {
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

/// A URL on which nothing listens.
pub fn refused_url() -> String {
    format!("http://127.0.0.1:{}/tokens", super::postgres::free_port())
}
