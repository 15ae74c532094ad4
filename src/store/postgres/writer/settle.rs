//! Applies the server's replies to tokens and to the connection.

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
use crate::store::sqlstate::{MAX_TRIES, ServerDetail, is_not_forwarded, retry_delay};

impl Writer {
    /// Handles the reply to the first request; returns false if the connection is lost.
    pub(crate) fn handle_reply(&mut self, connection: &Connection, reply: ReplyResult) -> bool {
        let in_flight = match self.requests.pop_front() {
            None => return false,
            Some(PendingRequest::Horizon(snapshot_from)) => {
                return self.handle_horizon(snapshot_from, reply);
            }
            Some(PendingRequest::Rowless(rowless)) => return self.handle_rowless(rowless, reply),
            Some(PendingRequest::Insert(in_flight)) => in_flight,
        };
        self.shared.progress.record_reply();
        let error = match reply {
            Ok(ServerReply::Rows(0)) => {
                self.handle_no_row(in_flight);
                return true;
            }
            Ok(_) => {
                let is_stored = !self.shared.dry_run;
                in_flight.mark_settled(&self.shared.in_flight_log, is_stored);
                if is_stored {
                    self.horizon.acknowledge(&in_flight.token);
                    self.shared
                        .in_flight_log
                        .record_acknowledged(&in_flight.token);
                    self.shared.progress.record_commit();
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
            self.requests.push_front(PendingRequest::Insert(in_flight));
            return false;
        };
        self.handle_error(connection, in_flight, db)
    }

    fn handle_horizon(&mut self, snapshot_from: u64, reply: ReplyResult) -> bool {
        match reply {
            Ok(ServerReply::Horizon(xid)) => {
                let to = self.shared.in_flight_log.tick();
                self.horizon.advance(
                    xid,
                    SnapshotInterval {
                        from: snapshot_from,
                        to,
                    },
                );
            }
            Ok(_) => {}
            // The older horizon stays valid.
            Err(error) => return error.as_db_error().is_some_and(is_error),
        }
        true
    }

    /// Handles an INSERT that committed without a row in the table.
    ///
    /// A look-up shows whether the row was stored elsewhere.
    fn handle_no_row(&mut self, in_flight: InFlight) {
        if self.shared.dry_run {
            in_flight.mark_settled(&self.shared.in_flight_log, false);
            let detail = Arc::clone(&self.no_row_detail);
            return self.settle(in_flight, Status::Rejected, Some(detail));
        }
        if !self.shared.lookup.may_look_up {
            let reason = "the INSERT added no row to the table, and without SELECT right on the column \
                          and xmin it cannot be looked up where the row is";
            self.batch.flush();
            return in_doubt::give_up([in_flight], &self.shared.in_flight_log, reason, None);
        }
        match &mut self.rowless {
            Some(rowless) => rowless.tokens.push(in_flight),
            None => {
                self.rowless = Some(RowlessCommits {
                    tokens: vec![in_flight],
                    // Older than the transaction of every later reply.
                    xid: self.horizon.xid,
                    snapshot: self.horizon.snapshot,
                    lookup_tick: 0,
                });
            }
        }
    }

    /// Handles the look-up of tokens without a row; returns false if the connection is lost.
    fn handle_rowless(&mut self, rowless: RowlessCommits, reply: ReplyResult) -> bool {
        self.batch.flush();
        match reply {
            Ok(ServerReply::Counts(counts)) => {
                in_doubt::settle_rowless(
                    rowless,
                    &counts,
                    &self.shared.in_flight_log,
                    &self.no_row_detail,
                );
                true
            }
            Ok(_) => false,
            Err(error) => {
                let reason =
                    "the INSERT added no row to the table, and the look-up of the row failed";
                let is_alive = error.as_db_error().is_some_and(is_error);
                in_doubt::give_up(rowless.tokens, &self.shared.in_flight_log, reason, None);
                is_alive
            }
        }
    }

    /// Handles the server's error about a token; returns false if it concerns the connection.
    fn handle_error(
        &mut self,
        connection: &Connection,
        mut in_flight: InFlight,
        db: &DbError,
    ) -> bool {
        let code = db.code().code();
        let detail = self.details.get(
            &ServerDetail {
                code,
                constraint: db.constraint(),
                message: db.message(),
                names: [db.constraint(), db.table(), db.column(), db.datatype()],
            },
            in_flight.token.as_str(),
        );
        let class = classify(&ServerError::of(db), &self.shared.catalog, &in_flight.token);
        if class != ErrorClass::InDoubt {
            in_flight.mark_settled(&self.shared.in_flight_log, false);
        }
        let may_retry = in_flight.tries < MAX_TRIES && !in_flight.job.is_stopping();
        match class {
            ErrorClass::Rejected => self.settle(in_flight, Status::Rejected, Some(detail)),
            ErrorClass::Retry | ErrorClass::Reroute if may_retry => {
                self.waiting.push(RetryToken {
                    due: Instant::now() + retry_delay(in_flight.tries, fastrand::f64()),
                    in_flight,
                    detail,
                });
            }
            ErrorClass::Reroute if in_flight.tries >= MAX_TRIES => {
                self.settle(in_flight, Status::Rejected, Some(detail));
            }
            // The sequence advances with each try, so tries do not count against the token.
            ErrorClass::KeyTaken
                if in_flight
                    .key_taken_since
                    .get_or_insert(in_flight.sent_at)
                    .elapsed()
                    < self.shared.patience
                    && !in_flight.job.is_stopping() =>
            {
                in_flight.tries -= 1;
                self.waiting
                    .push(RetryToken::immediately(in_flight, detail));
            }
            ErrorClass::Unprepared if in_flight.tries < MAX_TRIES => {
                // A pooler shares the backend after all.
                connection.unprepare();
                self.horizon.backend = None;
                self.waiting
                    .push(RetryToken::immediately(in_flight, detail));
            }
            ErrorClass::ReadOnly if may_retry => {
                self.is_draining = true;
                self.waiting
                    .push(RetryToken::immediately(in_flight, detail));
            }
            ErrorClass::Denied { all } if self.shared.progress.record_denial(all) => {
                let end = StoreEnd {
                    status: Status::NotAttempted,
                    fault: every_insert_denied(code, detail.message.as_deref().unwrap_or_default()),
                    detail: Arc::clone(&detail),
                };
                in_flight.job.set_fault(&end.fault);
                self.shared.queue.fail_all(end);
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
                self.shared.progress.record_unconfirmed(in_flight.sent_at);
                self.settle_unknown(in_flight, UNCONFIRMED, &detail);
            }
            ErrorClass::Unreadable => {
                self.settle_unknown(in_flight, "the server's answer cannot be read", &detail);
            }
            ErrorClass::InDoubt if is_error(db) => {
                in_flight.mark_settled(&self.shared.in_flight_log, false);
                let reason = "the database cannot tell whether the token was stored";
                self.settle_unknown(in_flight, reason, &detail);
            }
            ErrorClass::InDoubt
                if self.horizon.backend.is_none()
                    && is_not_forwarded(code, db.message())
                    && in_flight.tries < MAX_TRIES =>
            {
                in_flight.mark_settled(&self.shared.in_flight_log, false);
                self.waiting
                    .push(RetryToken::immediately(in_flight, detail));
                return false;
            }
            ErrorClass::InDoubt => {
                self.close_reason = Some(format!("{} ({code})", db.message()));
                self.requests.push_front(PendingRequest::Insert(in_flight));
                return false;
            }
        }
        true
    }

    /// Reports a token as `unknown` because the server's reply leaves it open.
    fn settle_unknown(&mut self, in_flight: InFlight, reason: &str, error_detail: &Detail) {
        let detail = Detail {
            reason: Some(reason.to_owned()),
            message: error_detail.message.clone(),
            ..Detail::default()
        };
        self.settle(in_flight, Status::Unknown, Some(Arc::new(detail)));
    }
}
