//! The token source of a pipeline test: answers that are written down beforehand, one for each
//! request in order. They are cut into tokens, and told as failures, as those of a real source are.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use tokio::sync::mpsc::UnboundedSender;

use crate::command::test::virtual_clock::Virtual;
use crate::error::exit::Cause;
use crate::error::{Fault, Kind};
use crate::fetch::lines::LineParser;
use crate::fetch::{Answer, Answering, Source, error};
use crate::runtime::clock::Clock;
use crate::runtime::shutdown::Halt;

/// What messages call the source.
pub const ADDRESS: &str = "http://source.test/tokens";

/// One answer of the case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// How long it takes.
    pub delay: Duration,
    /// What it is.
    pub answer: Scripted,
}

/// What a source can answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scripted {
    /// 200 with this body, as far as it comes.
    Body(String, Ending),
    /// Another status.
    Status(StatusCode, Option<Duration>),
    /// Nothing: the connection is refused.
    Refused,
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
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
pub type Asked = Arc<Mutex<Vec<u64>>>;

/// The source.
pub struct Case {
    /// What it answers.
    pub entries: Vec<Entry>,
    /// The signals that arrive meanwhile.
    pub interruptions: Vec<Interruption>,
    /// Where they go.
    pub signals: UnboundedSender<Cause>,
    /// What is kept of the requests.
    pub asked: Asked,
    /// `source.timeout`.
    pub timeout: Duration,
    /// `source.max_token`.
    pub max_token: usize,
    /// The test's clock.
    pub clock: Virtual,
    /// The run's switch.
    pub halt: Halt,
}

impl Source for Case {
    fn request(&self, count: u64) -> Answering<'_> {
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

impl Case {
    async fn answer(&self, number: usize, count: u64) -> Answer {
        let Some(entry) = self.entries.get(number - 1) else {
            let fault = Fault::new(
                Kind::HttpConnect,
                "the test case has no answer for this request",
            );
            // Whatever the script would make of it, the case cannot go on.
            self.halt.stop_because(fault.clone());
            return Answer::failed(fault);
        };
        let too_late = entry.delay >= self.timeout;
        let is_silent = matches!(entry.answer, Scripted::Body(_, Ending::Silence));
        let takes = if too_late || is_silent {
            self.timeout
        } else {
            entry.delay
        };
        self.clock.at(self.clock.now() + takes).await;
        match &entry.answer {
            _ if too_late => Answer::failed(error::timed_out(ADDRESS, self.timeout)),
            Scripted::Refused => Answer::failed(error::unreachable(ADDRESS)),
            Scripted::Status(status, retry_after) => {
                Answer::failed(error::status(ADDRESS, *status, *retry_after))
            }
            Scripted::Body(body, ending) => {
                let mut parser = LineParser::new(count, self.max_token).watching_for_json();
                parser.feed(body.as_bytes());
                let fault = match ending {
                    Ending::Whole => None,
                    Ending::Cut => Some(error::broke_off(ADDRESS)),
                    Ending::Silence => Some(error::timed_out(ADDRESS, self.timeout)),
                };
                Answer::of(parser, fault, ADDRESS)
            }
        }
    }
}
