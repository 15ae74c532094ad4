//! The fake source of a pipeline test: one scripted response per request, in order. Bodies are parsed
//! and errors are created as for a real source.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use tokio::sync::mpsc::UnboundedSender;

use crate::command::test::virtual_clock::VirtualClock;
use crate::error::exit::Cause;
use crate::error::{Error, ErrorKind};
use crate::fetch::lines::LineParser;
use crate::fetch::{AnswerFuture, SourceAnswer, SourceRequest, TokenSource, error};
use crate::runtime::clock::Clock;
use crate::runtime::shutdown::Shutdown;

/// The address of the source in messages.
pub const ADDRESS: &str = "http://source.test/tokens";

/// One scripted response with its delay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FakeAnswer {
    /// The delay of the response.
    pub delay: Duration,
    /// The response.
    pub answer: FakeResponse,
}

impl FakeAnswer {
    /// Returns the body, if the response has one.
    pub fn body(&self) -> Option<&str> {
        match &self.answer {
            FakeResponse::Body(body, _) => Some(body),
            FakeResponse::Status(..) | FakeResponse::Refused => None,
        }
    }
}

/// A scripted response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FakeResponse {
    /// 200 with this body, which may end early.
    Body(String, BodyEnd),
    /// Another status.
    Status(StatusCode, Option<Duration>),
    /// Nothing: the connection is refused.
    Refused,
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEnd {
    /// Complete.
    Complete,
    /// The connection closes early.
    Cut,
    /// The body stalls until the timeout.
    Stalled,
}

/// A signal that arrives with a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interruption {
    /// The number of the request, from 1.
    pub after: usize,
    /// The signal.
    pub cause: Cause,
}

/// The requested sizes, in order.
pub type RequestedSizes = Arc<Mutex<Vec<u64>>>;

/// The fake source.
pub struct FakeSource {
    /// The responses.
    pub entries: Vec<FakeAnswer>,
    /// The signals to send.
    pub interruptions: Vec<Interruption>,
    /// The channel of the signals.
    pub signals: UnboundedSender<Cause>,
    /// The sizes requested so far.
    pub requested: RequestedSizes,
    /// `source.timeout`.
    pub timeout: Duration,
    /// `source.max_token`.
    pub max_token: usize,
    /// True if `source.idempotency_header` is set.
    pub sends_keys: bool,
    /// The virtual clock.
    pub clock: VirtualClock,
    /// The shutdown handle of the run.
    pub shutdown: Shutdown,
}

impl TokenSource for FakeSource {
    fn request<'a>(&'a self, request: SourceRequest<'a>) -> AnswerFuture<'a> {
        let count = request.count;
        Box::pin(async move {
            let number = {
                let mut requested = self
                    .requested
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                requested.push(count);
                requested.len()
            };
            let answer = self.answer(number, count).await;
            for one in self.interruptions.iter().filter(|one| one.after == number) {
                let _ = self.signals.send(one.cause);
                // The run handles the signal before the response.
                self.clock.when_idle().await;
            }
            answer
        })
    }

    fn sends_keys(&self) -> bool {
        self.sends_keys
    }
}

impl FakeSource {
    async fn answer(&self, number: usize, count: u64) -> SourceAnswer {
        let Some(entry) = self.entries.get(number - 1) else {
            let error = Error::of(
                ErrorKind::HttpConnect,
                "the test case has no answer for this request",
            );
            // Stops the run even if the script would catch the error.
            self.shutdown.stop_because(error.clone());
            return SourceAnswer::failed(error);
        };
        let is_late = entry.delay >= self.timeout;
        let is_stalled = matches!(entry.answer, FakeResponse::Body(_, BodyEnd::Stalled));
        let duration = if is_late || is_stalled {
            self.timeout
        } else {
            entry.delay
        };
        self.clock.sleep_until(self.clock.now() + duration).await;
        match &entry.answer {
            _ if is_late => {
                SourceAnswer::failed(error::timed_out(ADDRESS, self.timeout)).incomplete()
            }
            FakeResponse::Refused => SourceAnswer::failed(error::unreachable(ADDRESS)),
            FakeResponse::Status(status, retry_after) => {
                SourceAnswer::failed(error::status(ADDRESS, *status, *retry_after))
            }
            FakeResponse::Body(body, ending) => {
                let mut parser = LineParser::new(count, self.max_token).detecting_json();
                parser.feed(body.as_bytes());
                let error = match ending {
                    BodyEnd::Complete => None,
                    BodyEnd::Cut => Some(error::truncated(ADDRESS)),
                    BodyEnd::Stalled => Some(error::timed_out(ADDRESS, self.timeout)),
                };
                SourceAnswer::from_lines(parser, error, ADDRESS)
            }
        }
    }
}
