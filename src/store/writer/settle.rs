//! Applies the replies to tokens: settles them, or lets them wait to be sent again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::pipeline::token::{Detail, Status};
use crate::store::connection::{
    Database, ErrorClass, Found, Reply, RowlessReply, UNCONFIRMED, denied,
};
use crate::store::in_flight::{InFlight, RetryToken, report_unknown};
use crate::store::queue::StoreEnd;
use crate::store::sqlstate::{MAX_TRIES, RETRY_BACKOFF};
use crate::store::writer::{PendingRequest, Writer, WriterReply};

impl<D: Database> Writer<D> {
    /// Handles the reply to the first request; returns false if the connection is lost.
    pub(super) fn handle_reply(&mut self, reply: WriterReply) -> bool {
        match (self.requests.pop_front(), reply) {
            (Some(PendingRequest::Insert(in_flight)), WriterReply::Insert(reply)) => {
                self.handle_insert(in_flight, reply)
            }
            (Some(PendingRequest::Rowless(tokens)), WriterReply::Rowless(reply)) => {
                self.handle_rowless(tokens, reply)
            }
            (Some(PendingRequest::Receipts(receipts)), WriterReply::Receipts(reply)) => {
                let is_lost = matches!(reply, Reply::Lost(_));
                if is_lost {
                    self.shared.queue.receipts.put_back(receipts);
                }
                !is_lost
            }
            // Not possible: both queues grow together.
            (request, _) => {
                self.requests.extend(request);
                false
            }
        }
    }

    fn handle_insert(&mut self, in_flight: InFlight, reply: Reply) -> bool {
        match reply {
            Reply::Stored => {
                in_flight.mark_settled(&self.shared.log, true);
                self.shared.denials.store(0, Ordering::Relaxed);
                in_flight.report(Status::Stored, None, self.now);
                true
            }
            Reply::Rowless => {
                self.rowless.push(in_flight);
                true
            }
            Reply::Error(class, detail) => {
                in_flight.mark_settled(&self.shared.log, false);
                self.handle_error(in_flight, class, detail);
                true
            }
            Reply::NotForwarded(detail) if in_flight.tries < MAX_TRIES => {
                in_flight.mark_settled(&self.shared.log, false);
                self.retry_in(Duration::ZERO, in_flight, detail);
                false
            }
            Reply::NotForwarded(detail) => {
                let message = detail.message.as_deref().unwrap_or_default();
                let code = detail.sqlstate.as_deref().unwrap_or_default();
                self.lose(in_flight, Some(format!("{message} ({code})")))
            }
            Reply::Lost(reason) => self.lose(in_flight, reason),
        }
    }

    /// Keeps the token in doubt; returns false.
    fn lose(&mut self, in_flight: InFlight, reason: Option<String>) -> bool {
        self.close_reason = reason;
        self.requests.push_front(PendingRequest::Insert(in_flight));
        false
    }

    /// Settles a token that the database refused, or lets it wait.
    fn handle_error(&mut self, mut in_flight: InFlight, class: ErrorClass, detail: Arc<Detail>) {
        let is_stopping = self.is_stopping || in_flight.job.is_stopping();
        let may_retry = in_flight.tries < MAX_TRIES && !is_stopping;
        if matches!(class, ErrorClass::Failed | ErrorClass::Denied { .. }) {
            self.shared.is_doubtful.store(true, Ordering::Relaxed);
        }
        let settle = |status| (status, Some(Arc::clone(&detail)));
        let (status, detail) = match class {
            ErrorClass::Rejected => settle(Status::Rejected),
            ErrorClass::Retry | ErrorClass::Reroute if may_retry => {
                let wait = RETRY_BACKOFF.wait(in_flight.tries, self.shared.queue.clock.jitter());
                return self.retry_in(wait, in_flight, detail);
            }
            ErrorClass::Reroute if in_flight.tries >= MAX_TRIES => settle(Status::Rejected),
            // The sequence advances with each try, so tries do not count against the token.
            ErrorClass::KeyTaken if !is_stopping && self.may_wait_for_key(&mut in_flight) => {
                in_flight.tries -= 1;
                return self.retry_in(Duration::ZERO, in_flight, detail);
            }
            ErrorClass::Unprepared if in_flight.tries < MAX_TRIES => {
                return self.retry_in(Duration::ZERO, in_flight, detail);
            }
            ErrorClass::ReadOnly if may_retry => {
                self.is_draining = true;
                return self.retry_in(Duration::ZERO, in_flight, detail);
            }
            ErrorClass::Denied { all } if self.shared.record_denial(all) => {
                let end = store_end(&detail);
                in_flight.job.set_error(&end.error);
                self.shared.queue.fail_all(end);
                settle(Status::Failed)
            }
            ErrorClass::Failed
            | ErrorClass::ReadOnly
            | ErrorClass::Retry
            | ErrorClass::Reroute
            | ErrorClass::KeyTaken
            | ErrorClass::Denied { .. }
            | ErrorClass::Unprepared => settle(Status::Failed),
            ErrorClass::Unconfirmed => unknown(UNCONFIRMED, &detail),
            ErrorClass::Unreadable => unknown("the server's answer cannot be read", &detail),
            ErrorClass::InDoubt => {
                let reason = "the database cannot tell whether the token was stored";
                unknown(reason, &detail)
            }
        };
        in_flight.report(status, detail, self.now);
    }

    /// Returns true if the sequence may still produce a free key within `patience`.
    fn may_wait_for_key(&self, in_flight: &mut InFlight) -> bool {
        let since: Instant = *in_flight.key_taken_since.get_or_insert(in_flight.sent_at);
        self.now.saturating_duration_since(since) < self.shared.patience
    }

    /// Lets a token wait that is certainly not stored.
    fn retry_in(&mut self, wait: Duration, in_flight: InFlight, detail: Arc<Detail>) {
        self.waiting.push(RetryToken {
            due: self.now + wait,
            in_flight,
            detail,
        });
    }

    /// Settles tokens without a row; returns false if the connection is lost.
    fn handle_rowless(&mut self, tokens: Vec<InFlight>, reply: RowlessReply) -> bool {
        let log = &self.shared.log;
        for (mut in_flight, found) in Found::pair(tokens, reply.found) {
            let (status, detail) = match found {
                Found::Stored => (Status::Stored, None),
                Found::Absent => (Status::Rejected, Some(Arc::clone(&self.rowless_detail))),
                Found::Unknown(reason) => {
                    report_unknown([in_flight], log, reason, None, self.now);
                    continue;
                }
            };
            in_flight.mark_settled(log, status == Status::Stored);
            self.shared
                .queue
                .receipts
                .add_found(&mut in_flight.token, status);
            in_flight.report(status, detail, self.now);
        }
        !reply.is_lost
    }
}

/// Returns the outcome of a token that the reply leaves open.
fn unknown(reason: &str, error: &Detail) -> (Status, Option<Arc<Detail>>) {
    let detail = Detail {
        reason: Some(reason.to_owned()),
        message: error.message.clone(),
        ..Detail::default()
    };
    (Status::Unknown, Some(Arc::new(detail)))
}

/// Returns the end of a store whose every INSERT would be denied.
fn store_end(detail: &Arc<Detail>) -> StoreEnd {
    let code = detail.sqlstate.as_deref().unwrap_or_default();
    let message = detail.message.as_deref().unwrap_or("no message");
    StoreEnd {
        status: Status::NotAttempted,
        detail: Arc::clone(detail),
        error: denied(code, "the database refuses every insert")
            .cause(format!("{message} ({code})"))
            .hint("check the table's definition and the role's rights; nothing more was sent"),
    }
}
