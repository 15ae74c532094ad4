//! What an answer means for the token that was asked about, and for the connection.

use std::sync::Arc;

use tokio::time::Instant;
use tokio_postgres::error::DbError;

use super::super::answers::{Answer, Reply};
use super::super::handover::Waiting;
use super::super::link::{Link, is_error};
use super::super::refusal::every_insert_denied;
use super::super::sent::Span;
use super::{Asked, Lane};
use crate::store::doubt::{self, Flight};
use crate::store::job::Verdict;
use crate::store::sqlstate::{Class, Said, TRIES, class_of, is_unsent, pause};
use crate::token::Status;

impl Lane {
    /// Books the answer to what was asked foremost; false where it says that the connection is
    /// lost.
    pub(super) fn answered(&mut self, link: &Link, answer: Answer) -> bool {
        let flight = match self.ledger.pop_front() {
            None => return false,
            Some(Asked::Horizon(since)) => return self.horizon_moved(since, answer),
            Some(Asked::Insert(flight)) => flight,
        };
        let error = match answer {
            Ok(Reply::Rows(0)) => {
                flight.landed(&self.shared.sent, false);
                let detail = Arc::clone(&self.no_row);
                self.land(flight, Status::Rejected, Some(detail));
                return true;
            }
            Ok(_) => {
                let is_there = !self.shared.dry_run;
                flight.landed(&self.shared.sent, is_there);
                self.horizon.control = is_there.then(|| flight.token.clone());
                self.land(flight, Status::Stored, None);
                return true;
            }
            Err(error) => error,
        };
        let Some(db) = error.as_db_error() else {
            self.farewell = link
                .violation()
                .or_else(|| crate::fault::chain(&error).pop());
            self.ledger.push_front(Asked::Insert(flight));
            return false;
        };
        self.judged(link, flight, db)
    }

    fn horizon_moved(&mut self, since: u64, answer: Answer) -> bool {
        match answer {
            Ok(Reply::Horizon(number)) => {
                let to = self.shared.sent.mark();
                self.horizon.move_to(number, Span { from: since, to });
            }
            Ok(Reply::Rows(_)) => {}
            // The older horizon still holds.
            Err(error) => return error.as_db_error().is_some_and(is_error),
        }
        true
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
        let class = class_of(code, is_error(db), db.routine());
        if class != Class::Doubt {
            flight.landed(&self.shared.sent, false);
        }
        match class {
            Class::Rejected => self.land(flight, Status::Rejected, Some(detail)),
            Class::Retry if flight.tries < TRIES && !flight.job.is_stopping() => {
                self.waiting.push(Waiting {
                    due: Instant::now() + pause(flight.tries, fastrand::f64()),
                    flight,
                    detail,
                });
            }
            Class::Unprepared if flight.tries < TRIES => {
                // Somebody shares the backend after all.
                link.unprepare();
                self.horizon.backend = None;
                self.waiting.push(Waiting::now(flight, detail));
            }
            Class::ReadOnly if flight.tries < TRIES && !flight.job.is_stopping() => {
                self.leaving = true;
                self.waiting.push(Waiting::now(flight, detail));
            }
            Class::Failed | Class::ReadOnly | Class::Retry | Class::Unprepared => {
                self.land(flight, Status::Failed, Some(detail));
            }
            Class::Denied => {
                let verdict = Verdict {
                    status: Status::NotAttempted,
                    fault: every_insert_denied(code, detail.message.as_deref().unwrap_or_default()),
                    detail: Arc::clone(&detail),
                };
                flight.job.tell(&verdict.fault);
                self.shared.queue.condemn(verdict);
                self.land(flight, Status::Failed, Some(detail));
            }
            Class::Doubt if is_error(db) => {
                self.batch.flush();
                let message = detail.message.clone();
                let reason = "the database says that it does not know";
                doubt::give_up([flight], &self.shared.sent, reason, message);
            }
            Class::Doubt
                if self.horizon.backend.is_none()
                    && is_unsent(code, db.message())
                    && flight.tries < TRIES =>
            {
                flight.landed(&self.shared.sent, false);
                self.waiting.push(Waiting::now(flight, detail));
                return false;
            }
            Class::Doubt => {
                self.farewell = Some(format!("{} ({code})", db.message()));
                self.ledger.push_front(Asked::Insert(flight));
                return false;
            }
        }
        true
    }
}
