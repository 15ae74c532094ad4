//! The database of a pipeline test: what it says of each token is written down beforehand. What then
//! becomes of the token is decided as for a real one, by the same classes, tries and pauses.
//!
//! It works through the queue one token after the other, so that a test comes out the same each time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::error::{ErrorKind, Fault};
use crate::pipeline::token::{Detail, Outcome, Status, Token};
use crate::runtime::clock::Clock;
use crate::store::outcome_batch::OutcomeBatch;
use crate::store::postgres::catalog::Catalog;
use crate::store::postgres::classify::{ErrorClass, ServerError, classify};
use crate::store::postgres::in_doubt::UNCONFIRMED;
use crate::store::postgres::{MOST_LOSSES, every_insert_denied, gone};
use crate::store::queue::{Chunk, ConsumerGuard, Queue, StoreEnd, StoreJob};
use crate::store::sqlstate::{TRIES, pause, scrub};
use crate::store::{BackendFuture, StoreBackend, StoreOptions};

/// Why a token is not stored whose connection went.
const LOST: &str = "the connection was lost before the token was stored";

/// What the database says of each token.
#[derive(Clone, Debug, Default)]
pub struct FakeReplies {
    /// By the token: what it says to the first try, the second, and so on; the last one holds for
    /// all that follow.
    pub replies: HashMap<String, Vec<FakeReply>>,
    /// The same for every other token; where there is none, it is stored.
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

/// What it says to one INSERT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FakeReply {
    /// How long that takes.
    pub delay: Duration,
    /// What it is.
    pub says: ReplyKind,
}

/// What a database can say to an INSERT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ReplyKind {
    /// It is committed.
    #[default]
    Stored,
    /// It is refused with a code; who is at fault decides what that means.
    Code(Box<FakeError>),
    /// It is refused without a code.
    Refused(String),
    /// The connection is lost; the token is then found not to be in the table.
    Lost,
    /// The connection is lost; the token is then found in the table.
    Found,
    /// The connection is lost, and it cannot be found out.
    Unknown,
    /// The connection is lost, and there is no other until patience ends.
    Down,
}

/// The fields of an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FakeError {
    /// The five characters.
    pub sqlstate: String,
    /// `ERROR` if it is not given; anything else concerns the connection.
    pub severity: Option<String>,
    /// The server's function that raised it.
    pub routine: Option<String>,
    /// The table that it names.
    pub table: Option<String>,
    /// The column that it names.
    pub column: Option<String>,
    /// The constraint that refused the token.
    pub constraint: Option<String>,
    /// The primary message.
    pub message: Option<String>,
}

/// A token that was sent.
struct FakeInFlight {
    token: Token,
    job: Arc<StoreJob>,
    sent: Instant,
    /// How often this store sent it.
    tries: u32,
}

/// One that is certainly not stored and will be sent again.
struct FakeRetry {
    due: Instant,
    in_flight: FakeInFlight,
    detail: Arc<Detail>,
}

/// The task that takes chunks.
pub(super) struct FakeWorker(JoinHandle<()>);

impl FakeWorker {
    pub(super) fn start(
        script: FakeReplies,
        options: &StoreOptions,
        queue: &Arc<Queue>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let writer = FakeWriter {
            script,
            patience: options.patience,
            catalog: Catalog::assumed(&options.table, &options.column),
            dry_run: options.dry_run,
            queue: Arc::clone(queue),
            clock,
            waiting: Vec::new(),
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
    ) -> BackendFuture<'a, Result<HashMap<String, u64>, Fault>> {
        Box::pin(async { Ok(HashMap::new()) })
    }

    fn join(self: Box<Self>) -> BackendFuture<'static, ()> {
        Box::pin(async {
            let _ = self.0.await;
        })
    }
}

struct FakeWriter {
    script: FakeReplies,
    patience: Duration,
    catalog: Catalog,
    dry_run: bool,
    queue: Arc<Queue>,
    clock: Arc<dyn Clock>,
    waiting: Vec<FakeRetry>,
    batch: OutcomeBatch,
}

impl FakeWriter {
    async fn work(mut self) {
        let queue = Arc::clone(&self.queue);
        let _taker = ConsumerGuard(Arc::clone(&queue));
        let mut closed = false;
        while !queue.shutdown.aborting().is_cancelled() {
            if let Some(FakeRetry {
                in_flight, detail, ..
            }) = self.due()
            {
                if in_flight.job.is_stopping() {
                    self.settle(in_flight, Status::Failed, Some(detail));
                } else {
                    self.send(in_flight).await;
                }
                continue;
            }
            self.batch.flush();
            if closed && self.waiting.is_empty() {
                return;
            }
            let due = self.waiting.iter().map(|waiting| waiting.due).min();
            tokio::select! {
                biased;
                () = queue.shutdown.aborting().cancelled() => {}
                // What waits for its time waits no longer where nothing may be sent.
                () = queue.shutdown.stopping().cancelled(), if due.is_some() => self.fail_waiting(),
                chunk = queue.inbox.recv(), if !closed => match chunk {
                    Ok(chunk) => {
                        queue.taken(&chunk);
                        self.store(chunk).await;
                    }
                    Err(_) => closed = true,
                },
                () = self.clock.at(due.unwrap_or(self.clock.now())), if due.is_some() => {}
            }
        }
        self.fail_waiting();
    }

    fn due(&mut self) -> Option<FakeRetry> {
        let now = self.clock.now();
        let is_due =
            |waiting: &FakeRetry| waiting.due <= now || waiting.in_flight.job.is_stopping();
        let index = self.waiting.iter().position(is_due)?;
        Some(self.waiting.remove(index))
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
        // The chunk reports what is left of it; what was settled must come first.
        self.batch.flush();
    }

    async fn send(&mut self, mut in_flight: FakeInFlight) {
        in_flight.tries += 1;
        in_flight.token.attempts = in_flight.token.attempts.saturating_add(1);
        in_flight.sent = self.clock.now();
        let FakeReply { delay, says } = self.script.reply(&in_flight.token);
        if !delay.is_zero() {
            self.batch.flush();
            let answered = tokio::select! {
                biased;
                () = self.queue.shutdown.aborting().cancelled() => false,
                () = self.clock.at(in_flight.sent + delay) => true,
            };
            if !answered {
                let why = "the run was aborted before the answer came";
                return self.settle(in_flight, Status::Unknown, Some(Detail::reason(why)));
            }
        }
        match says {
            // What would have been taken back is in no doubt.
            ReplyKind::Found | ReplyKind::Unknown if self.dry_run => self.lost(in_flight),
            ReplyKind::Lost => self.lost(in_flight),
            ReplyKind::Stored | ReplyKind::Found => self.settle(in_flight, Status::Stored, None),
            ReplyKind::Refused(why) => {
                self.settle(in_flight, Status::Rejected, Some(Detail::reason(why)));
            }
            ReplyKind::Code(refusal) => self.judged(in_flight, *refusal),
            ReplyKind::Unknown => {
                let why =
                    "the connection was lost, and without SELECT right it cannot be looked up";
                self.settle(in_flight, Status::Unknown, Some(Detail::reason(why)));
            }
            ReplyKind::Down => self.down(in_flight).await,
        }
    }

    /// The connection went, and the token is not in the table.
    fn lost(&mut self, in_flight: FakeInFlight) {
        self.again(in_flight, MOST_LOSSES, Duration::ZERO, Detail::reason(LOST));
    }

    /// Books the server's verdict on a token.
    fn judged(&mut self, in_flight: FakeInFlight, refusal: FakeError) {
        let error = ServerError {
            code: &refusal.sqlstate,
            is_error: refusal
                .severity
                .as_deref()
                .is_none_or(|severity| severity == "ERROR"),
            schema: None,
            table: refusal.table.as_deref(),
            column: refusal.column.as_deref(),
            datatype: None,
            constraint: refusal.constraint.as_deref(),
            routine: refusal.routine.as_deref(),
            context: None,
        };
        let class = classify(&error, &self.catalog, &in_flight.token);
        let names = [
            refusal.constraint.as_deref(),
            refusal.table.as_deref(),
            refusal.column.as_deref(),
            None,
        ];
        let message = refusal.message.as_ref();
        let message = message.map(|message| scrub(message, in_flight.token.as_str(), &names));
        let detail = Arc::new(Detail {
            sqlstate: Some(refusal.sqlstate),
            constraint: refusal.constraint,
            reason: None,
            message,
        });
        match class {
            ErrorClass::Rejected => self.settle(in_flight, Status::Rejected, Some(detail)),
            ErrorClass::Retry | ErrorClass::Reroute | ErrorClass::KeyTaken => {
                let wait = pause(in_flight.tries, self.clock.jitter());
                self.again(in_flight, TRIES, wait, detail);
            }
            // Another connection, or an unprepared statement.
            ErrorClass::ReadOnly | ErrorClass::Unprepared => {
                self.again(in_flight, TRIES, Duration::ZERO, detail);
            }
            ErrorClass::Failed | ErrorClass::Denied { all: false } => {
                self.settle(in_flight, Status::Failed, Some(detail));
            }
            ErrorClass::Denied { all: true } => {
                let code = detail.sqlstate.as_deref().unwrap_or_default();
                let message = detail.message.as_deref().unwrap_or("it gave no reason");
                let verdict = StoreEnd {
                    status: Status::NotAttempted,
                    fault: every_insert_denied(code, message),
                    detail: Arc::clone(&detail),
                };
                in_flight.job.tell(&verdict.fault);
                self.queue.fail_all(verdict);
                self.settle(in_flight, Status::Failed, Some(detail));
            }
            ErrorClass::Unconfirmed => self.unknown(in_flight, UNCONFIRMED, &detail),
            ErrorClass::Doubt | ErrorClass::Unreadable => {
                self.unknown(
                    in_flight,
                    "the database does not know whether it was stored",
                    &detail,
                );
            }
        }
    }

    /// Reports a token whose fate the database leaves open.
    fn unknown(&mut self, in_flight: FakeInFlight, reason: &str, detail: &Detail) {
        let detail = Detail {
            reason: Some(reason.to_owned()),
            ..detail.clone()
        };
        self.settle(in_flight, Status::Unknown, Some(Arc::new(detail)));
    }

    /// Sends it again after `wait`, unless that was done often enough.
    fn again(&mut self, in_flight: FakeInFlight, tries: u32, wait: Duration, detail: Arc<Detail>) {
        if in_flight.tries >= tries || in_flight.job.is_stopping() {
            return self.settle(in_flight, Status::Failed, Some(detail));
        }
        self.waiting.push(FakeRetry {
            due: self.clock.now() + wait,
            in_flight,
            detail,
        });
    }

    /// The database is gone, and with it what is known of the token that was sent last.
    async fn down(&mut self, in_flight: FakeInFlight) {
        self.batch.flush();
        tokio::select! {
            biased;
            () = self.queue.shutdown.aborting().cancelled() => {}
            () = self.clock.at(self.clock.now() + self.patience) => {}
        }
        let fault = Fault::new(ErrorKind::DbConnect, "the database cannot be reached");
        let verdict = gone(fault.cause("the test case has it down"), self.patience);
        let waiting = self.waiting.iter().map(|waiting| &waiting.in_flight.job);
        for job in waiting.chain([&in_flight.job]) {
            job.tell(&verdict.fault);
        }
        self.queue.fail_all(verdict);
        if self.dry_run {
            self.settle(in_flight, Status::Failed, Some(Detail::reason(LOST)));
        } else {
            let why = "the connection was lost, and there was no other to look it up";
            self.settle(in_flight, Status::Unknown, Some(Detail::reason(why)));
        }
        self.fail_waiting();
    }

    fn fail_waiting(&mut self) {
        for waiting in std::mem::take(&mut self.waiting) {
            self.settle(waiting.in_flight, Status::Failed, Some(waiting.detail));
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
