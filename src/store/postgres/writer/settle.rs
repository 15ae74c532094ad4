//! What an answer means for the token that was asked about, and for the connection.

use std::sync::Arc;

use tokio::time::Instant;
use tokio_postgres::error::DbError;

use crate::pipeline::token::{Detail, Status};
use crate::store::postgres::classify::{ErrorClass, ServerError, classify, is_error};
use crate::store::postgres::connect_error::every_insert_denied;
use crate::store::postgres::connection::Connection;
use crate::store::postgres::in_doubt::{self, InFlight, RowlessCommits, UNCONFIRMED};
use crate::store::postgres::inflight::SnapshotInterval;
use crate::store::postgres::replies::{ReplyResult, ServerReply};
use crate::store::postgres::retry_set::RetryToken;
use crate::store::postgres::writer::{PendingRequest, Writer};
use crate::store::queue::StoreEnd;
use crate::store::sqlstate::{ServerDetail, TRIES, is_unsent, pause};

impl Writer {
    /// Books the answer to what was asked foremost; false where it says that the connection is
    /// lost.
    pub(crate) fn answered(&mut self, connection: &Connection, answer: ReplyResult) -> bool {
        let in_flight = match self.ledger.pop_front() {
            None => return false,
            Some(PendingRequest::Horizon(since)) => return self.horizon_moved(since, answer),
            Some(PendingRequest::Rowless(rowless)) => return self.rowless_seen(rowless, answer),
            Some(PendingRequest::Insert(in_flight)) => in_flight,
        };
        self.shared.progress.answered();
        let error = match answer {
            Ok(ServerReply::Rows(0)) => {
                self.no_row(in_flight);
                return true;
            }
            Ok(_) => {
                let is_there = !self.shared.dry_run;
                in_flight.settled(&self.shared.sent, is_there);
                if is_there {
                    self.horizon.acknowledge(&in_flight.token);
                    self.shared.sent.acknowledged(&in_flight.token);
                    self.shared.progress.stored();
                }
                self.settle(in_flight, Status::Stored, None);
                return true;
            }
            Err(error) => error,
        };
        let Some(db) = error.as_db_error() else {
            self.close_reason = connection
                .violation()
                .or_else(|| crate::error::chain(&error).pop());
            self.ledger.push_front(PendingRequest::Insert(in_flight));
            return false;
        };
        self.judged(connection, in_flight, db)
    }

    fn horizon_moved(&mut self, since: u64, answer: ReplyResult) -> bool {
        match answer {
            Ok(ServerReply::Horizon(number)) => {
                let to = self.shared.sent.mark();
                self.horizon
                    .move_to(number, SnapshotInterval { from: since, to });
            }
            Ok(_) => {}
            // The older horizon still holds.
            Err(error) => return error.as_db_error().is_some_and(is_error),
        }
        true
    }

    /// The INSERT was committed, and stored no row under the table's name. Whether it stored one
    /// elsewhere shows by looking.
    fn no_row(&mut self, in_flight: InFlight) {
        if self.shared.dry_run {
            in_flight.settled(&self.shared.sent, false);
            let detail = Arc::clone(&self.no_row);
            return self.settle(in_flight, Status::Rejected, Some(detail));
        }
        if !self.shared.lookup.may_look {
            let reason = "the database stored no row under the table's name, and without SELECT right \
                          on the column and xmin it cannot be looked up where it went";
            self.batch.flush();
            return in_doubt::give_up([in_flight], &self.shared.sent, reason, None);
        }
        match &mut self.rowless {
            Some(rowless) => rowless.in_flights.push(in_flight),
            None => {
                self.rowless = Some(RowlessCommits {
                    in_flights: vec![in_flight],
                    // Older than the transactions of all that are answered from now on.
                    number: self.horizon.number,
                    asked: self.horizon.asked,
                    looked: 0,
                });
            }
        }
    }

    /// Books what a look-up saw of tokens without a row; false where the connection is lost.
    fn rowless_seen(&mut self, rowless: RowlessCommits, answer: ReplyResult) -> bool {
        self.batch.flush();
        match answer {
            Ok(ServerReply::Counts(counts)) => {
                in_doubt::settle_rowless(rowless, &counts, &self.shared.sent, &self.no_row);
                true
            }
            Ok(_) => false,
            Err(error) => {
                let reason = "the database stored no row under the table's name, and it could not be \
                              looked up where it went";
                let is_alive = error.as_db_error().is_some_and(is_error);
                in_doubt::give_up(rowless.in_flights, &self.shared.sent, reason, None);
                is_alive
            }
        }
    }

    /// Books the server's verdict on a token; false where it concerns the connection.
    fn judged(&mut self, connection: &Connection, mut in_flight: InFlight, db: &DbError) -> bool {
        let code = db.code().code();
        let detail = self.details.of(
            &ServerDetail {
                code,
                constraint: db.constraint(),
                message: db.message(),
                names: [db.constraint(), db.table(), db.column(), db.datatype()],
            },
            in_flight.token.as_str(),
        );
        let class = classify(&ServerError::of(db), &self.shared.catalog, &in_flight.token);
        if class != ErrorClass::Doubt {
            in_flight.settled(&self.shared.sent, false);
        }
        let may_retry = in_flight.tries < TRIES && !in_flight.job.is_stopping();
        match class {
            ErrorClass::Rejected => self.settle(in_flight, Status::Rejected, Some(detail)),
            ErrorClass::Retry | ErrorClass::Reroute if may_retry => {
                self.waiting.push(RetryToken {
                    due: Instant::now() + pause(in_flight.tries, fastrand::f64()),
                    in_flight,
                    detail,
                });
            }
            ErrorClass::Reroute if in_flight.tries >= TRIES => {
                self.settle(in_flight, Status::Rejected, Some(detail));
            }
            // The sequence advances with each try: that it is behind is no fault of the token, and the
            // tries do not count.
            ErrorClass::KeyTaken
                if in_flight
                    .taken_since
                    .get_or_insert(in_flight.sent)
                    .elapsed()
                    < self.shared.patience
                    && !in_flight.job.is_stopping() =>
            {
                in_flight.tries -= 1;
                self.waiting.push(RetryToken::now(in_flight, detail));
            }
            ErrorClass::Unprepared if in_flight.tries < TRIES => {
                // Somebody shares the backend after all.
                connection.unprepare();
                self.horizon.backend = None;
                self.waiting.push(RetryToken::now(in_flight, detail));
            }
            ErrorClass::ReadOnly if may_retry => {
                self.leaving = true;
                self.waiting.push(RetryToken::now(in_flight, detail));
            }
            ErrorClass::Denied { all } if self.shared.progress.denied(all) => {
                let verdict = StoreEnd {
                    status: Status::NotAttempted,
                    fault: every_insert_denied(code, detail.message.as_deref().unwrap_or_default()),
                    detail: Arc::clone(&detail),
                };
                in_flight.job.tell(&verdict.fault);
                self.shared.queue.fail_all(verdict);
                self.settle(in_flight, Status::Failed, Some(detail));
            }
            ErrorClass::Failed
            | ErrorClass::ReadOnly
            | ErrorClass::Retry
            | ErrorClass::Reroute
            | ErrorClass::KeyTaken
            | ErrorClass::Denied { .. }
            | ErrorClass::Unprepared => self.settle(in_flight, Status::Failed, Some(detail)),
            ErrorClass::Unconfirmed => {
                self.shared.progress.unconfirmed(in_flight.sent);
                self.unknown(in_flight, UNCONFIRMED, &detail);
            }
            ErrorClass::Unreadable => {
                self.unknown(in_flight, "the server's answer cannot be read", &detail);
            }
            ErrorClass::Doubt if is_error(db) => {
                in_flight.settled(&self.shared.sent, false);
                let reason = "the database does not know whether it was stored";
                self.unknown(in_flight, reason, &detail);
            }
            ErrorClass::Doubt
                if self.horizon.backend.is_none()
                    && is_unsent(code, db.message())
                    && in_flight.tries < TRIES =>
            {
                in_flight.settled(&self.shared.sent, false);
                self.waiting.push(RetryToken::now(in_flight, detail));
                return false;
            }
            ErrorClass::Doubt => {
                self.close_reason = Some(format!("{} ({code})", db.message()));
                self.ledger.push_front(PendingRequest::Insert(in_flight));
                return false;
            }
        }
        true
    }

    /// Reports a token whose fate the server's answer leaves open.
    fn unknown(&mut self, in_flight: InFlight, reason: &str, said: &Detail) {
        let detail = Detail {
            reason: Some(reason.to_owned()),
            message: said.message.clone(),
            ..Detail::default()
        };
        self.settle(in_flight, Status::Unknown, Some(Arc::new(detail)));
    }
}
