//! The token source of a pipeline test: answers that are written down beforehand, one for each
//! request in order. They are cut into tokens, and told as failures, as those of a real source are.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use tokio::sync::mpsc::UnboundedSender;

use crate::command::test::virtual_clock::VirtualClock;
use crate::error::exit::Cause;
use crate::error::{ErrorKind, Fault};
use crate::fetch::lines::LineParser;
use crate::fetch::{AnswerFuture, SourceAnswer, TokenSource, error};
use crate::runtime::clock::Clock;
use crate::runtime::shutdown::Shutdown;

/// What messages call the source.
pub const ADDRESS: &str = "http://source.test/tokens";

/// One answer of the case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FakeAnswer {
    /// How long it takes.
    pub delay: Duration,
    /// What it is.
    pub answer: FakeResponse,
}

/// What a source can answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FakeResponse {
    /// 200 with this body, as far as it comes.
    Body(String, BodyEnd),
    /// Another status.
    Status(StatusCode, Option<Duration>),
    /// Nothing: the connection is refused.
    Refused,
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEnd {
    /// As it should.
    Whole,
    /// The connection breaks.
    Cut,
    /// Nothing more comes until the time is up.
    Silence,
}

/// A signal that arrives as a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interruption {
    /// Which request, from 1.
    pub after: usize,
    /// Which signal.
    pub cause: Cause,
}

/// The sizes that were asked for, in order.
pub type RequestedSizes = Arc<Mutex<Vec<u64>>>;

/// The source.
pub struct FakeSource {
    /// What it answers.
    pub entries: Vec<FakeAnswer>,
    /// The signals that arrive meanwhile.
    pub interruptions: Vec<Interruption>,
    /// Where they go.
    pub signals: UnboundedSender<Cause>,
    /// What is kept of the requests.
    pub asked: RequestedSizes,
    /// `source.timeout`.
    pub timeout: Duration,
    /// `source.max_token`.
    pub max_token: usize,
    /// The test's clock.
    pub clock: VirtualClock,
    /// The run's switch.
    pub shutdown: Shutdown,
}

impl TokenSource for FakeSource {
    fn request(&self, count: u64) -> AnswerFuture<'_> {
        Box::pin(async move {
            let number = {
                let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
                asked.push(count);
                asked.len()
            };
            let answer = self.answer(number, count).await;
            for one in self.interruptions.iter().filter(|one| one.after == number) {
                let _ = self.signals.send(one.cause);
                // It is heard before the answer is.
                self.clock.quiet().await;
            }
            answer
        })
    }
}

impl FakeSource {
    async fn answer(&self, number: usize, count: u64) -> SourceAnswer {
        let Some(entry) = self.entries.get(number - 1) else {
            let fault = Fault::new(
                ErrorKind::HttpConnect,
                "the test case has no answer for this request",
            );
            // Whatever the script would make of it, the case cannot go on.
            self.shutdown.stop_because(fault.clone());
            return SourceAnswer::failed(fault);
        };
        let too_late = entry.delay >= self.timeout;
        let is_silent = matches!(entry.answer, FakeResponse::Body(_, BodyEnd::Silence));
        let takes = if too_late || is_silent {
            self.timeout
        } else {
            entry.delay
        };
        self.clock.sleep_until(self.clock.now() + takes).await;
        match &entry.answer {
            _ if too_late => SourceAnswer::failed(error::timed_out(ADDRESS, self.timeout)),
            FakeResponse::Refused => SourceAnswer::failed(error::unreachable(ADDRESS)),
            FakeResponse::Status(status, retry_after) => {
                SourceAnswer::failed(error::status(ADDRESS, *status, *retry_after))
            }
            FakeResponse::Body(body, ending) => {
                let mut parser = LineParser::new(count, self.max_token).detecting_json();
                parser.feed(body.as_bytes());
                let fault = match ending {
                    BodyEnd::Whole => None,
                    BodyEnd::Cut => Some(error::truncated(ADDRESS)),
                    BodyEnd::Silence => Some(error::timed_out(ADDRESS, self.timeout)),
                };
                SourceAnswer::from_lines(parser, fault, ADDRESS)
            }
        }
    }
}
