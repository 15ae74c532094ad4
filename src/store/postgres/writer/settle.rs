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
    pub(crate) fn answered(&mut self, link: &Connection, answer: ReplyResult) -> bool {
        let flight = match self.ledger.pop_front() {
            None => return false,
            Some(PendingRequest::Horizon(since)) => return self.horizon_moved(since, answer),
            Some(PendingRequest::Rowless(rowless)) => return self.rowless_seen(rowless, answer),
            Some(PendingRequest::Insert(flight)) => flight,
        };
        self.shared.progress.answered();
        let error = match answer {
            Ok(ServerReply::Rows(0)) => {
                self.no_row(flight);
                return true;
            }
            Ok(_) => {
                let is_there = !self.shared.dry_run;
                flight.landed(&self.shared.sent, is_there);
                if is_there {
                    self.horizon.acknowledge(&flight.token);
                    self.shared.sent.acknowledged(&flight.token);
                    self.shared.progress.stored();
                }
                self.land(flight, Status::Stored, None);
                return true;
            }
            Err(error) => error,
        };
        let Some(db) = error.as_db_error() else {
            self.farewell = link
                .violation()
                .or_else(|| crate::error::chain(&error).pop());
            self.ledger.push_front(PendingRequest::Insert(flight));
            return false;
        };
        self.judged(link, flight, db)
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
    fn no_row(&mut self, flight: InFlight) {
        if self.shared.dry_run {
            flight.landed(&self.shared.sent, false);
            let detail = Arc::clone(&self.no_row);
            return self.land(flight, Status::Rejected, Some(detail));
        }
        if !self.shared.lookup.may_look {
            let reason = "the database stored no row under the table's name, and without SELECT right \
                          on the column and xmin it cannot be looked up where it went";
            self.batch.flush();
            return in_doubt::give_up([flight], &self.shared.sent, reason, None);
        }
        match &mut self.rowless {
            Some(rowless) => rowless.flights.push(flight),
            None => {
                self.rowless = Some(RowlessCommits {
                    flights: vec![flight],
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
                in_doubt::give_up(rowless.flights, &self.shared.sent, reason, None);
                is_alive
            }
        }
    }

    /// Books the server's verdict on a token; false where it concerns the connection.
    fn judged(&mut self, link: &Connection, mut flight: InFlight, db: &DbError) -> bool {
        let code = db.code().code();
        let detail = self.details.of(
            &ServerDetail {
                code,
                constraint: db.constraint(),
                message: db.message(),
                names: [db.constraint(), db.table(), db.column(), db.datatype()],
            },
            flight.token.as_str(),
        );
        let class = classify(&ServerError::of(db), &self.shared.catalog, &flight.token);
        if class != ErrorClass::Doubt {
            flight.landed(&self.shared.sent, false);
        }
        let may_retry = flight.tries < TRIES && !flight.job.is_stopping();
        match class {
            ErrorClass::Rejected => self.land(flight, Status::Rejected, Some(detail)),
            ErrorClass::Retry | ErrorClass::Reroute if may_retry => {
                self.waiting.push(RetryToken {
                    due: Instant::now() + pause(flight.tries, fastrand::f64()),
                    flight,
                    detail,
                });
            }
            ErrorClass::Reroute if flight.tries >= TRIES => {
                self.land(flight, Status::Rejected, Some(detail));
            }
            // The sequence advances with each try: that it is behind is no fault of the token, and the
            // tries do not count.
            ErrorClass::KeyTaken
                if flight.taken_since.get_or_insert(flight.sent).elapsed()
                    < self.shared.patience
                    && !flight.job.is_stopping() =>
            {
                flight.tries -= 1;
                self.waiting.push(RetryToken::now(flight, detail));
            }
            ErrorClass::Unprepared if flight.tries < TRIES => {
                // Somebody shares the backend after all.
                link.unprepare();
                self.horizon.backend = None;
                self.waiting.push(RetryToken::now(flight, detail));
            }
            ErrorClass::ReadOnly if may_retry => {
                self.leaving = true;
                self.waiting.push(RetryToken::now(flight, detail));
            }
            ErrorClass::Denied { all } if self.shared.progress.denied(all) => {
                let verdict = StoreEnd {
                    status: Status::NotAttempted,
                    fault: every_insert_denied(code, detail.message.as_deref().unwrap_or_default()),
                    detail: Arc::clone(&detail),
                };
                flight.job.tell(&verdict.fault);
                self.shared.queue.condemn(verdict);
                self.land(flight, Status::Failed, Some(detail));
            }
            ErrorClass::Failed
            | ErrorClass::ReadOnly
            | ErrorClass::Retry
            | ErrorClass::Reroute
            | ErrorClass::KeyTaken
            | ErrorClass::Denied { .. }
            | ErrorClass::Unprepared => self.land(flight, Status::Failed, Some(detail)),
            ErrorClass::Unconfirmed => {
                self.shared.progress.unconfirmed(flight.sent);
                self.unknown(flight, UNCONFIRMED, &detail);
            }
            ErrorClass::Unreadable => {
                self.unknown(flight, "the server's answer cannot be read", &detail);
            }
            ErrorClass::Doubt if is_error(db) => {
                flight.landed(&self.shared.sent, false);
                let reason = "the database does not know whether it was stored";
                self.unknown(flight, reason, &detail);
            }
            ErrorClass::Doubt
                if self.horizon.backend.is_none()
                    && is_unsent(code, db.message())
                    && flight.tries < TRIES =>
            {
                flight.landed(&self.shared.sent, false);
                self.waiting.push(RetryToken::now(flight, detail));
                return false;
            }
            ErrorClass::Doubt => {
                self.farewell = Some(format!("{} ({code})", db.message()));
                self.ledger.push_front(PendingRequest::Insert(flight));
                return false;
            }
        }
        true
    }

    /// Reports a token whose fate the server's answer leaves open.
    fn unknown(&mut self, flight: InFlight, reason: &str, said: &Detail) {
        let detail = Detail {
            reason: Some(reason.to_owned()),
            message: said.message.clone(),
            ..Detail::default()
        };
        self.land(flight, Status::Unknown, Some(Arc::new(detail)));
    }
}
