//! What a scripted token source says: one answer a request, from a plain list of tokens to a body
//! that is cut short or never ends, held back until the test lets it go.

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

/// The body type of every answer; its error is what cuts a connection.
pub type Body = BoxBody<Bytes, Cut>;

/// Tells the server to drop the connection in the middle of a body.
#[derive(Debug)]
pub struct Cut;

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the test cuts this body")
    }
}

impl std::error::Error for Cut {}

impl From<Infallible> for Cut {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// Holds an answer back until the test opens it. Clones are the same gate.
#[derive(Clone, Debug)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    /// Lets every answer behind it go, now and later.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    pub(super) async fn passed(&self) {
        // The gate itself holds the sender, so the channel cannot close while somebody waits.
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

/// One declared answer.
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
    /// Sent, then the connection drops; the number is the length that the header promises.
    Cut(Bytes, usize),
    /// The same chunk again and again, until the client hangs up.
    Endless(Bytes),
    /// The same chunk so many times.
    Repeated(Bytes, usize),
    /// The same chunk without end, with this pause after each.
    Drip(Bytes, Duration),
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

    /// 200 with these tokens, one a line, as the real source answers.
    pub fn tokens<T: AsRef<str>>(tokens: impl IntoIterator<Item = T>) -> Self {
        let mut body = String::new();
        for token in tokens {
            body.push_str(token.as_ref());
            body.push('\n');
        }
        Self::raw("text/plain; charset=utf-8", body)
    }

    /// 200 with these bytes under that content type.
    pub fn raw(content_type: &str, body: impl Into<Bytes>) -> Self {
        Self::new(200, Content::Whole(body.into())).header("content-type", content_type)
    }

    /// This status with an empty body.
    pub fn status(status: u16) -> Self {
        Self::new(status, Content::Whole(Bytes::new()))
    }

    /// 200 that promises `length` bytes, sends these and drops the connection.
    pub fn cut(sent: impl Into<Bytes>, length: usize) -> Self {
        Self::new(200, Content::Cut(sent.into(), length))
            .header("content-type", "text/plain; charset=utf-8")
    }

    /// 200 with a body of this chunk without end.
    pub fn endless(chunk: impl Into<Bytes>) -> Self {
        Self::new(200, Content::Endless(chunk.into()))
            .header("content-type", "text/plain; charset=utf-8")
    }

    /// 200 with a body of this chunk so many times.
    pub fn repeated(chunk: impl Into<Bytes>, times: usize) -> Self {
        Self::new(200, Content::Repeated(chunk.into(), times))
            .header("content-type", "text/plain; charset=utf-8")
    }

    /// 200 with a body of this chunk again and again, a pause after each: never silent, never done.
    pub fn drip(chunk: impl Into<Bytes>, pause: Duration) -> Self {
        Self::new(200, Content::Drip(chunk.into(), pause))
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

    /// Holds the whole answer back until the gate is open; never opened, the source stays silent.
    #[must_use]
    pub fn after(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    /// Gives this answer to every further request too; it must be the last one declared.
    #[must_use]
    pub fn always(mut self) -> Self {
        self.always = true;
        self
    }

    pub(super) fn response(self) -> hyper::Response<Body> {
        let mut response = hyper::Response::builder().status(self.status);
        for (name, value) in &self.headers {
            response = response.header(name, value);
        }
        let body = match self.content {
            Content::Whole(bytes) => Full::new(bytes).map_err(Cut::from).boxed(),
            Content::Cut(bytes, length) => {
                response = response.header("content-length", length);
                let parts = stream::iter([Ok(Frame::data(bytes)), Err(Cut)]);
                // The pause lets the bytes reach the socket before the connection is dropped.
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
            Content::Drip(chunk, pause) => {
                let parts = stream::repeat(chunk).then(move |chunk| async move {
                    tokio::time::sleep(pause).await;
                    Ok(Frame::data(chunk))
                });
                BodyExt::boxed(StreamBody::new(Box::pin(parts)))
            }
        };
        response
            .body(body)
            .expect("a status and headers that HTTP allows")
    }
}
