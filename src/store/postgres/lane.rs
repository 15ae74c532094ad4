//! One connection at work: it takes chunks, keeps up to `pipeline` INSERTs in flight, and reports
//! each answer.
//!
//! A server answers in the order in which it was asked. So the ledger of what is in flight is a
//! queue, and only the foremost answer is ever waited for.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Error;
use tokio_postgres::error::DbError;

use super::super::doubt::{self, Flight};
use super::super::job::{Batch, Chunk, Job, Verdict};
use super::super::sqlstate::{Class, Details, Said, class_of, scrub};
use super::connect::{Link, is_error};
use super::pool::Shared;
use crate::fault::{Fault, Kind};
use crate::token::{Detail, Status, Token};

/// How often a token is sent before it is `failed`.
const TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How much longer than the statement's own timeout an answer is waited for.
const SLACK: Duration = Duration::from_secs(10);
/// As good as for ever, where the statement has no timeout.
const NO_LIMIT: Duration = Duration::from_hours(365 * 24);

/// How a lane ended. Its tokens are accounted for in each case.
#[derive(Debug)]
pub(super) enum End {
    /// The queue is closed and empty, or nothing may be waited for.
    Finished,
    /// The connection was lost.
    Lost,
    /// It never had one.
    Unconnected,
}

/// A token that waits to be sent again.
struct Waiting {
    due: Instant,
    flight: Flight,
    detail: Arc<Detail>,
}

/// The lane's books: what was sent, and what is to be sent.
struct Lane {
    shared: Arc<Shared>,
    chunk: Option<Chunk>,
    ledger: VecDeque<Flight>,
    waiting: Vec<Waiting>,
    batch: Batch,
    details: Details,
    no_row: Arc<Detail>,
    /// Why the connection was lost.
    farewell: Option<String>,
}

/// The answer to an INSERT: the number of rows.
type Answer<'a> = Pin<Box<dyn Future<Output = Result<u64, Error>> + Send + 'a>>;

/// Works until the queue is closed and empty, or the connection is lost.
pub(super) async fn run(shared: Arc<Shared>, link: Option<Link>, chunk: Option<Chunk>) -> End {
    let Some(link) = (match link {
        Some(link) => Some(link),
        None => extra(&shared).await,
    }) else {
        return End::Unconnected;
    };
    let mut lane = Lane {
        shared,
        chunk,
        ledger: VecDeque::new(),
        waiting: Vec::new(),
        batch: Batch::default(),
        details: Details::default(),
        no_row: Detail::reason("the database stored no row: a trigger or a rule skipped it"),
        farewell: None,
    };
    let end = lane.work(&link).await;
    let aborted = lane.shared.queue.halt.aborting().is_cancelled();
    lane.wind_up(matches!(end, End::Lost));
    if !aborted && matches!(end, End::Finished) {
        link.close().await;
    }
    end
}

/// One more connection, where the server has one and it is still wanted.
async fn extra(shared: &Shared) -> Option<Link> {
    let attempt = tokio::select! {
        biased;
        () = shared.queue.halt.stopping().cancelled() => return None,
        () = shared.queue.over().cancelled() => return None,
        attempt = shared.connector.link() => attempt,
    };
    attempt
        .inspect_err(|fault| {
            tracing::debug!(
                cause = fault.causes.first(),
                "makes do with fewer connections"
            );
        })
        .ok()
}

impl Lane {
    async fn work(&mut self, link: &Link) -> End {
        let shared = Arc::clone(&self.shared);
        let queue = &shared.queue;
        let silence = if shared.statement_timeout.is_zero() {
            NO_LIMIT
        } else {
            shared.statement_timeout + SLACK
        };
        let mut aborting = pin!(queue.halt.aborting().cancelled());
        let mut timer = pin!(tokio::time::sleep(silence));
        let mut heard = Instant::now();
        let mut answers = VecDeque::with_capacity(shared.pipeline);
        let mut closed = false;
        loop {
            if answers.is_empty() {
                heard = Instant::now();
            }
            self.fill(link, &mut answers);
            let idle = answers.is_empty();
            if closed && idle && self.chunk.is_none() && self.waiting.is_empty() {
                return End::Finished;
            }
            let due = self.waiting.iter().map(|waiting| waiting.due).min();
            let room = !closed && self.chunk.is_none() && answers.len() < shared.pipeline;
            tokio::select! {
                biased;
                () = &mut aborting => return End::Finished,
                answer = foremost(&mut answers), if !idle => {
                    heard = Instant::now();
                    let mut next = Some(answer);
                    while let Some(answer) = next {
                        if !self.answered(link, answer) {
                            return End::Lost;
                        }
                        next = arrived(&mut answers);
                    }
                    self.batch.flush();
                }
                chunk = queue.inbox.recv(), if room => match chunk {
                    Ok(chunk) => {
                        queue.taken(&chunk);
                        self.chunk = Some(chunk);
                    }
                    Err(_) => closed = true,
                },
                () = until(due), if due.is_some() && answers.len() < shared.pipeline => {}
                () = link.ended(), if idle => return End::Lost,
                () = &mut timer, if !idle => {
                    if heard.elapsed() >= silence {
                        self.farewell = Some("the server fell silent".to_owned());
                        return End::Lost;
                    }
                    timer.as_mut().reset(heard + silence);
                }
            }
        }
    }

    /// Sends as many tokens as there is room for.
    fn fill<'a>(&mut self, link: &'a Link, answers: &mut VecDeque<Answer<'a>>) {
        while answers.len() < self.shared.pipeline && !link.is_closed() {
            let Some((mut token, job, tries)) = self.next_token() else {
                break;
            };
            token.attempts = token.attempts.saturating_add(1);
            let sent = token.clone();
            let mut answer: Answer<'a> = Box::pin(async move { link.insert(sent.as_str()).await });
            // The first poll writes the request. Nobody needs waking for an answer before it is
            // the foremost.
            let first = answer
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()));
            answers.push_back(match first {
                Poll::Pending => answer,
                Poll::Ready(result) => Box::pin(std::future::ready(result)),
            });
            self.ledger.push_back(Flight {
                token,
                job,
                sent: Instant::now(),
                tries: tries + 1,
            });
        }
        self.batch.flush();
    }

    /// The next token to send, whose it is, and how often it was sent.
    fn next_token(&mut self) -> Option<(Token, Arc<Job>, u32)> {
        loop {
            if let Some(Waiting { flight, detail, .. }) = self.due() {
                if flight.job.is_stopping() {
                    self.land(flight, Status::Failed, Some(detail));
                    continue;
                }
                return Some((flight.token, flight.job, flight.tries));
            }
            if let Some(chunk) = &mut self.chunk
                && !chunk.job.is_stopping()
                && let Some(token) = chunk.take()
            {
                return Some((token, Arc::clone(&chunk.job), 0));
            }
            // A chunk that may not be sent any more reports itself when it is dropped.
            self.chunk = None;
            let chunk = self.shared.queue.inbox.try_recv().ok()?;
            self.shared.queue.taken(&chunk);
            self.chunk = Some(chunk);
        }
    }

    /// A waiting token whose time has come, or whose job waits for nothing.
    fn due(&mut self) -> Option<Waiting> {
        if self.waiting.is_empty() {
            return None;
        }
        let now = Instant::now();
        let index = self
            .waiting
            .iter()
            .position(|waiting| waiting.due <= now || waiting.flight.job.is_stopping())?;
        Some(self.waiting.swap_remove(index))
    }

    fn land(&mut self, flight: Flight, status: Status, detail: Option<Arc<Detail>>) {
        let (job, outcome) = flight.land(status, detail);
        self.batch.push(&job, outcome);
    }

    /// Books the answer to the foremost token; false where it says that the connection is lost.
    fn answered(&mut self, link: &Link, answer: Result<u64, Error>) -> bool {
        let Some(flight) = self.ledger.pop_front() else {
            return false;
        };
        let error = match answer {
            Ok(0) => {
                let detail = Arc::clone(&self.no_row);
                self.land(flight, Status::Rejected, Some(detail));
                return true;
            }
            Ok(_) => {
                self.land(flight, Status::Stored, None);
                return true;
            }
            Err(error) => error,
        };
        let Some(db) = error.as_db_error() else {
            self.farewell = crate::fault::chain(&error).pop();
            self.ledger.push_front(flight);
            return false;
        };
        self.judged(link, flight, db)
    }

    /// Books the server's verdict on a token; false where it concerns the connection.
    fn judged(&mut self, link: &Link, flight: Flight, db: &DbError) -> bool {
        let code = db.code().code();
        let detail = self.details.of(
            &Said {
                code,
                constraint: db.constraint(),
                message: db.message(),
                names: [db.constraint(), db.table(), db.column(), db.datatype()],
            },
            flight.token.as_str(),
        );
        match class_of(code, is_error(db), db.routine()) {
            Class::Rejected => self.land(flight, Status::Rejected, Some(detail)),
            Class::Retry if flight.tries < TRIES && !flight.job.is_stopping() => {
                // Full jitter: tokens that got into each other's way must not meet again.
                let most = LONGEST_PAUSE.min(FIRST_PAUSE * 2_u32.pow(flight.tries));
                self.waiting.push(Waiting {
                    due: Instant::now() + most.mul_f64(fastrand::f64()),
                    flight,
                    detail,
                });
            }
            Class::Unprepared if flight.tries < TRIES => {
                link.unprepare();
                self.waiting.push(Waiting {
                    due: Instant::now(),
                    flight,
                    detail,
                });
            }
            Class::Failed | Class::Retry | Class::Unprepared => {
                self.land(flight, Status::Failed, Some(detail));
            }
            Class::Denied => {
                let verdict = Verdict {
                    status: Status::NotAttempted,
                    fault: denied(code, detail.message.as_deref().unwrap_or_default()),
                    detail: Arc::clone(&detail),
                };
                self.shared.queue.condemn(&flight.job, verdict);
                self.land(flight, Status::NotAttempted, Some(detail));
            }
            Class::Doubt if is_error(db) => {
                self.batch.flush();
                doubt::settle([flight], &detail);
            }
            Class::Doubt => {
                self.farewell = Some(format!("{} ({code})", db.message()));
                self.ledger.push_front(flight);
                return false;
            }
        }
        true
    }

    /// Accounts for every token that the lane still holds.
    fn wind_up(&mut self, lost: bool) {
        let queue = Arc::clone(&self.shared.queue);
        self.settle(lost);
        while let Some(Waiting { flight, detail, .. }) = self.waiting.pop() {
            self.land(flight, Status::Failed, Some(detail));
        }
        self.batch.flush();
        if queue.halt.aborting().is_cancelled() {
            self.chunk = None;
            queue.close();
            queue.clear();
        } else if let Some(chunk) = self.chunk.take() {
            queue.give_back(chunk);
        }
    }

    /// Settles what was sent and not answered.
    fn settle(&mut self, lost: bool) {
        self.batch.flush();
        if self.ledger.is_empty() {
            return;
        }
        let detail = Arc::new(Detail {
            reason: Some(if lost {
                "the connection was lost before the answer came".to_owned()
            } else {
                "the run was aborted before the answer came".to_owned()
            }),
            message: self.farewell.take().map(|why| scrub(&why, "", &[])),
            ..Detail::default()
        });
        doubt::settle(self.ledger.drain(..), &detail);
    }
}

impl Drop for Lane {
    /// Even a lane that panics or is dropped in mid-flight accounts for what it sent.
    fn drop(&mut self) {
        self.settle(true);
    }
}

/// The fault that ends the run where every token would meet the same verdict.
fn denied(code: &str, message: &str) -> Fault {
    Fault::new(
        Kind::DbDenied {
            sqlstate: code.to_owned(),
        },
        "the database refuses every insert",
    )
    .cause(format!("{message} ({code})"))
    .hint("`token_service check --connect` looks at the table and the role's rights")
}

/// Waits for the foremost answer.
async fn foremost(answers: &mut VecDeque<Answer<'_>>) -> Result<u64, Error> {
    std::future::poll_fn(|cx| match answers.front_mut() {
        Some(answer) => {
            let result = std::task::ready!(answer.as_mut().poll(cx));
            answers.pop_front();
            Poll::Ready(result)
        }
        None => Poll::Pending,
    })
    .await
}

/// The foremost answer, if it is here already.
fn arrived(answers: &mut VecDeque<Answer<'_>>) -> Option<Result<u64, Error>> {
    let foremost = answers.front_mut()?;
    match foremost
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(result) => {
            answers.pop_front();
            Some(result)
        }
        Poll::Pending => None,
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
