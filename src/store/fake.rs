//! The fake database of pipeline tests, with predefined replies. Replies are classified and retried
//! like those of a real database.
//!
//! It sends one token after the other, so that tests are deterministic.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::error::{Error, ErrorKind};
use crate::pipeline::token::{Detail, Outcome, Status, Token};
use crate::runtime::clock::Clock;
use crate::store::outcome_batch::OutcomeBatch;
use crate::store::postgres::catalog::Catalog;
use crate::store::postgres::classify::{ErrorClass, ServerError, classify};
use crate::store::postgres::in_doubt::UNCONFIRMED;
use crate::store::postgres::{MAX_LOSSES, end_after_outage, every_insert_denied};
use crate::store::queue::{Chunk, ConsumerGuard, Queue, StoreEnd, StoreJob};
use crate::store::sqlstate::{MAX_TRIES, retry_delay, scrub};
use crate::store::{BackendFuture, StoreBackend, StoreOptions};

/// The reason of a token whose connection was lost.
const LOST: &str = "the connection was lost before the token was stored";

/// The replies of the fake database.
#[derive(Clone, Debug, Default)]
pub struct FakeReplies {
    /// Replies by token, one per attempt; the last one also applies to further attempts.
    pub replies: HashMap<String, Vec<FakeReply>>,
    /// Replies for all other tokens; if empty, they are stored.
    pub others: Vec<FakeReply>,
}

impl FakeReplies {
    fn reply(&self, token: &Token) -> FakeReply {
        let replies = self.replies.get(token.as_str()).unwrap_or(&self.others);
        let number = usize::from(token.attempts.saturating_sub(1));
        let reply = replies.get(number).or(replies.last());
        reply.cloned().unwrap_or_default()
    }
}

/// A reply to one INSERT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FakeReply {
    /// Delay before the reply.
    pub delay: Duration,
    /// The kind of reply.
    pub kind: ReplyKind,
}

/// The kinds of reply to an INSERT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ReplyKind {
    /// The INSERT is committed.
    #[default]
    Stored,
    /// The INSERT fails with an SQLSTATE, which is classified.
    Code(Box<FakeError>),
    /// The token is rejected without an SQLSTATE.
    Refused(String),
    /// The connection is lost; a lookup shows that the token is not stored.
    Lost,
    /// The connection is lost; a lookup shows that the token is stored.
    Found,
    /// The connection is lost, and a lookup is not possible.
    Unknown,
    /// The connection is lost, and reconnecting fails until patience expires.
    Down,
}

/// The fields of an error reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FakeError {
    /// The SQLSTATE.
    pub sqlstate: String,
    /// The severity, `ERROR` by default; others concern the connection.
    pub severity: Option<String>,
    /// The server function that raised it.
    pub routine: Option<String>,
    /// The table name.
    pub table: Option<String>,
    /// The column name.
    pub column: Option<String>,
    /// The constraint name.
    pub constraint: Option<String>,
    /// The primary message.
    pub message: Option<String>,
}

/// A token in flight.
struct FakeInFlight {
    token: Token,
    job: Arc<StoreJob>,
    sent: Instant,
    /// How often this store has sent it.
    tries: u32,
}

/// A token that is certainly not stored and waits for a retry.
struct FakeRetry {
    due: Instant,
    in_flight: FakeInFlight,
    detail: Arc<Detail>,
}

/// The task of the fake database.
pub(super) struct FakeWorker(JoinHandle<()>);

impl FakeWorker {
    pub(super) fn start(
        replies: FakeReplies,
        options: &StoreOptions,
        queue: &Arc<Queue>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let writer = FakeWriter {
            replies,
            patience: options.patience,
            catalog: Catalog::assumed(&options.table, &options.column),
            dry_run: options.dry_run,
            queue: Arc::clone(queue),
            clock,
            retries: Vec::new(),
            batch: OutcomeBatch::default(),
        };
        Self(tokio::spawn(writer.work()))
    }
}

impl StoreBackend for FakeWorker {
    fn recheck<'a>(
        &'a self,
        _: &'a [String],
        _: Option<i64>,
    ) -> BackendFuture<'a, Result<HashMap<String, u64>, Error>> {
        Box::pin(async { Ok(HashMap::new()) })
    }

    fn join(self: Box<Self>) -> BackendFuture<'static, ()> {
        Box::pin(async {
            let _ = self.0.await;
        })
    }
}

struct FakeWriter {
    replies: FakeReplies,
    patience: Duration,
    catalog: Catalog,
    dry_run: bool,
    queue: Arc<Queue>,
    clock: Arc<dyn Clock>,
    retries: Vec<FakeRetry>,
    batch: OutcomeBatch,
}

impl FakeWriter {
    async fn work(mut self) {
        let queue = Arc::clone(&self.queue);
        let _guard = ConsumerGuard(Arc::clone(&queue));
        let mut closed = false;
        while !queue.shutdown.aborting().is_cancelled() {
            if let Some(FakeRetry {
                in_flight, detail, ..
            }) = self.take_due()
            {
                if in_flight.job.is_stopping() {
                    self.settle(in_flight, Status::Failed, Some(detail));
                } else {
                    self.send(in_flight).await;
                }
                continue;
            }
            self.batch.flush();
            if closed && self.retries.is_empty() {
                return;
            }
            let due = self.retries.iter().map(|retry| retry.due).min();
            tokio::select! {
                biased;
                () = queue.shutdown.aborting().cancelled() => {}
                // After a stop nothing may be sent, so no retry waits.
                () = queue.shutdown.stopping().cancelled(), if due.is_some() => self.fail_retries(),
                chunk = queue.chunks.recv(), if !closed => match chunk {
                    Ok(chunk) => {
                        queue.mark_taken(&chunk);
                        self.store(chunk).await;
                    }
                    Err(_) => closed = true,
                },
                () = self.clock.sleep_until(due.unwrap_or(self.clock.now())), if due.is_some() => {}
            }
        }
        self.fail_retries();
    }

    fn take_due(&mut self) -> Option<FakeRetry> {
        let now = self.clock.now();
        let is_due = |retry: &FakeRetry| retry.due <= now || retry.in_flight.job.is_stopping();
        let index = self.retries.iter().position(is_due)?;
        Some(self.retries.remove(index))
    }

    async fn store(&mut self, mut chunk: Chunk) {
        while !chunk.job.is_stopping()
            && !self.queue.shutdown.stopping().is_cancelled()
            && let Some(token) = chunk.take()
        {
            let in_flight = FakeInFlight {
                token,
                job: Arc::clone(&chunk.job),
                sent: self.clock.now(),
                tries: 0,
            };
            self.send(in_flight).await;
        }
        // Dropping the chunk reports its remaining tokens; settled ones must be sent first.
        self.batch.flush();
    }

    async fn send(&mut self, mut in_flight: FakeInFlight) {
        in_flight.tries += 1;
        in_flight.token.attempts = in_flight.token.attempts.saturating_add(1);
        in_flight.sent = self.clock.now();
        let FakeReply { delay, kind } = self.replies.reply(&in_flight.token);
        if !delay.is_zero() {
            self.batch.flush();
            let answered = tokio::select! {
                biased;
                () = self.queue.shutdown.aborting().cancelled() => false,
                () = self.clock.sleep_until(in_flight.sent + delay) => true,
            };
            if !answered {
                let why = "the run was aborted before the database answered";
                return self.settle(in_flight, Status::Unknown, Some(Detail::reason(why)));
            }
        }
        match kind {
            // A dry run rolls back, so there is no doubt.
            ReplyKind::Found | ReplyKind::Unknown if self.dry_run => self.lost(in_flight),
            ReplyKind::Lost => self.lost(in_flight),
            ReplyKind::Stored | ReplyKind::Found => self.settle(in_flight, Status::Stored, None),
            ReplyKind::Refused(why) => {
                self.settle(in_flight, Status::Rejected, Some(Detail::reason(why)));
            }
            ReplyKind::Code(error_reply) => self.settle_error(in_flight, *error_reply),
            ReplyKind::Unknown => {
                let why =
                    "the connection was lost, and without SELECT right it cannot be looked up";
                self.settle(in_flight, Status::Unknown, Some(Detail::reason(why)));
            }
            ReplyKind::Down => self.outage(in_flight).await,
        }
    }

    /// Retries a token whose connection was lost before it was stored.
    fn lost(&mut self, in_flight: FakeInFlight) {
        self.retry(in_flight, MAX_LOSSES, Duration::ZERO, Detail::reason(LOST));
    }

    /// Classifies the server's error and settles or retries the token.
    fn settle_error(&mut self, in_flight: FakeInFlight, error_reply: FakeError) {
        let error = ServerError {
            code: &error_reply.sqlstate,
            is_error: error_reply
                .severity
                .as_deref()
                .is_none_or(|severity| severity == "ERROR"),
            schema: None,
            table: error_reply.table.as_deref(),
            column: error_reply.column.as_deref(),
            datatype: None,
            constraint: error_reply.constraint.as_deref(),
            routine: error_reply.routine.as_deref(),
            context: None,
        };
        let class = classify(&error, &self.catalog, &in_flight.token);
        let names = [
            error_reply.constraint.as_deref(),
            error_reply.table.as_deref(),
            error_reply.column.as_deref(),
            None,
        ];
        let message = error_reply.message.as_ref();
        let message = message.map(|message| scrub(message, in_flight.token.as_str(), &names));
        let detail = Arc::new(Detail {
            sqlstate: Some(error_reply.sqlstate),
            constraint: error_reply.constraint,
            reason: None,
            message,
        });
        match class {
            ErrorClass::Rejected => self.settle(in_flight, Status::Rejected, Some(detail)),
            ErrorClass::Retry | ErrorClass::Reroute | ErrorClass::KeyTaken => {
                let wait = retry_delay(in_flight.tries, self.clock.jitter());
                self.retry(in_flight, MAX_TRIES, wait, detail);
            }
            // Another connection, or an unprepared statement.
            ErrorClass::ReadOnly | ErrorClass::Unprepared => {
                self.retry(in_flight, MAX_TRIES, Duration::ZERO, detail);
            }
            ErrorClass::Failed | ErrorClass::Denied { all: false } => {
                self.settle(in_flight, Status::Failed, Some(detail));
            }
            ErrorClass::Denied { all: true } => {
                let code = detail.sqlstate.as_deref().unwrap_or_default();
                let message = detail.message.as_deref().unwrap_or("no message");
                let end = StoreEnd {
                    status: Status::NotAttempted,
                    fault: every_insert_denied(code, message),
                    detail: Arc::clone(&detail),
                };
                in_flight.job.set_fault(&end.fault);
                self.queue.fail_all(end);
                self.settle(in_flight, Status::Failed, Some(detail));
            }
            ErrorClass::Unconfirmed => self.unknown(in_flight, UNCONFIRMED, &detail),
            ErrorClass::InDoubt | ErrorClass::Unreadable => {
                self.unknown(
                    in_flight,
                    "the database cannot tell whether the token was stored",
                    &detail,
                );
            }
        }
    }

    /// Settles a token as `unknown`.
    fn unknown(&mut self, in_flight: FakeInFlight, reason: &str, detail: &Detail) {
        let detail = Detail {
            reason: Some(reason.to_owned()),
            ..detail.clone()
        };
        self.settle(in_flight, Status::Unknown, Some(Arc::new(detail)));
    }

    /// Schedules a retry after `wait`, unless the limit is reached.
    fn retry(&mut self, in_flight: FakeInFlight, tries: u32, wait: Duration, detail: Arc<Detail>) {
        if in_flight.tries >= tries || in_flight.job.is_stopping() {
            return self.settle(in_flight, Status::Failed, Some(detail));
        }
        self.retries.push(FakeRetry {
            due: self.clock.now() + wait,
            in_flight,
            detail,
        });
    }

    /// Simulates an outage: waits for patience to expire, then fails all tokens.
    async fn outage(&mut self, in_flight: FakeInFlight) {
        self.batch.flush();
        tokio::select! {
            biased;
            () = self.queue.shutdown.aborting().cancelled() => {}
            () = self.clock.sleep_until(self.clock.now() + self.patience) => {}
        }
        let fault = Error::of(ErrorKind::DbConnect, "the database cannot be reached");
        let end = end_after_outage(fault.cause("the test case declares it down"), self.patience);
        let jobs = self.retries.iter().map(|retry| &retry.in_flight.job);
        for job in jobs.chain([&in_flight.job]) {
            job.set_fault(&end.fault);
        }
        self.queue.fail_all(end);
        if self.dry_run {
            self.settle(in_flight, Status::Failed, Some(Detail::reason(LOST)));
        } else {
            let why = "the connection was lost, and no new one could be made to look the token up";
            self.settle(in_flight, Status::Unknown, Some(Detail::reason(why)));
        }
        self.fail_retries();
    }

    fn fail_retries(&mut self) {
        for retry in std::mem::take(&mut self.retries) {
            self.settle(retry.in_flight, Status::Failed, Some(retry.detail));
        }
        self.batch.flush();
    }

    fn settle(&mut self, in_flight: FakeInFlight, status: Status, detail: Option<Arc<Detail>>) {
        let outcome = Outcome {
            elapsed: self.clock.now().saturating_duration_since(in_flight.sent),
            token: in_flight.token,
            status,
            detail,
        };
        self.batch.push(&in_flight.job, outcome);
    }
}
