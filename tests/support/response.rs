//! The HTTP responses of the scripted token source: complete bodies, bodies that break off and bodies
//! without end. A [`Gate`] holds a response back until the test opens it.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use tokio::sync::watch;

/// The body type of every response; its error makes the server drop the connection.
pub type Body = BoxBody<Bytes, BodyDropped>;

/// The error that makes the server drop the connection in the middle of a body.
#[derive(Debug)]
pub struct BodyDropped;

impl fmt::Display for BodyDropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the test drops the connection in this body")
    }
}

impl std::error::Error for BodyDropped {}

impl From<Infallible> for BodyDropped {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// Holds responses back until the test opens it; clones share one state.
#[derive(Clone, Debug)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    /// Creates a closed gate.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    /// Releases every response that waits for it, now and later.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    pub(super) async fn wait(&self) {
        // The gate holds the sender, so the channel cannot close during the wait.
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

/// A declared response.
#[derive(Clone, Debug)]
pub struct Response {
    status: u16,
    headers: Vec<(String, String)>,
    content: Content,
    pub(super) gate: Option<Gate>,
    pub(super) always: bool,
}

#[derive(Clone, Debug)]
enum Content {
    Whole(Bytes),
    /// Sent before the connection drops; the number is the value of Content-Length.
    Truncated(Bytes, usize),
    /// The same chunk, repeated until the client disconnects.
    Endless(Bytes),
    /// The same chunk, this many times.
    Repeated(Bytes, usize),
    /// The same chunk without end, with this pause after each one.
    Slow(Bytes, Duration),
}

impl Response {
    fn new(status: u16, content: Content) -> Self {
        Self {
            status,
            headers: Vec::new(),
            content,
            gate: None,
            always: false,
        }
    }

    /// 200 with these tokens, one per line, like the real source.
    pub fn tokens<T: AsRef<str>>(tokens: impl IntoIterator<Item = T>) -> Self {
        let mut body = String::new();
        for token in tokens {
            body.push_str(token.as_ref());
            body.push('\n');
        }
        Self::raw("text/plain; charset=utf-8", body)
    }

    /// 200 with these bytes and this content type.
    pub fn raw(content_type: &str, body: impl Into<Bytes>) -> Self {
        Self::new(200, Content::Whole(body.into())).header("content-type", content_type)
    }

    /// This status with an empty body.
    pub fn status(status: u16) -> Self {
        Self::new(status, Content::Whole(Bytes::new()))
    }

    /// 200 with a Content-Length of `length`; sends these bytes and drops the connection.
    pub fn truncated(sent: impl Into<Bytes>, length: usize) -> Self {
        Self::new(200, Content::Truncated(sent.into(), length))
            .header("content-type", "text/plain; charset=utf-8")
    }

    /// 200 with an endless body of this chunk.
    pub fn endless(chunk: impl Into<Bytes>) -> Self {
        Self::new(200, Content::Endless(chunk.into()))
            .header("content-type", "text/plain; charset=utf-8")
    }

    /// 200 with a body that repeats this chunk `times` times.
    pub fn repeated(chunk: impl Into<Bytes>, times: usize) -> Self {
        Self::new(200, Content::Repeated(chunk.into(), times))
            .header("content-type", "text/plain; charset=utf-8")
    }

    /// 200 with an endless body that pauses after each chunk.
    pub fn slow(chunk: impl Into<Bytes>, pause: Duration) -> Self {
        Self::new(200, Content::Slow(chunk.into(), pause))
            .header("content-type", "text/plain; charset=utf-8")
    }

    /// Adds a header, such as `retry-after`.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Replaces the body, such as an error page under a status.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.content = Content::Whole(body.into());
        self
    }

    /// Holds the whole response back until the gate opens.
    #[must_use]
    pub fn after(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    /// Repeats this response for every further request; it must be the last one declared.
    #[must_use]
    pub fn always(mut self) -> Self {
        self.always = true;
        self
    }

    pub(super) fn into_http(self) -> hyper::Response<Body> {
        let mut response = hyper::Response::builder().status(self.status);
        for (name, value) in &self.headers {
            response = response.header(name, value);
        }
        let body = match self.content {
            Content::Whole(bytes) => Full::new(bytes).map_err(BodyDropped::from).boxed(),
            Content::Truncated(bytes, length) => {
                response = response.header("content-length", length);
                let parts = stream::iter([Ok(Frame::data(bytes)), Err(BodyDropped)]);
                // The yield lets the bytes reach the socket before the connection drops.
                let parts = parts.then(|part| async move {
                    if part.is_err() {
                        tokio::task::yield_now().await;
                    }
                    part
                });
                BodyExt::boxed(StreamBody::new(Box::pin(parts)))
            }
            Content::Endless(chunk) => {
                let parts = stream::repeat(chunk).map(|chunk| Ok(Frame::data(chunk)));
                BodyExt::boxed(StreamBody::new(parts))
            }
            Content::Repeated(chunk, times) => {
                let parts = stream::repeat(chunk).take(times);
                BodyExt::boxed(StreamBody::new(parts.map(|chunk| Ok(Frame::data(chunk)))))
            }
            Content::Slow(chunk, pause) => {
                let parts = stream::repeat(chunk).then(move |chunk| async move {
                    tokio::time::sleep(pause).await;
                    Ok(Frame::data(chunk))
                });
                BodyExt::boxed(StreamBody::new(Box::pin(parts)))
            }
        };
        response.body(body).expect("a valid status and headers")
    }
}
