//! A PostgreSQL connection for the writer: sends INSERTs, classifies the replies, and keeps what a
//! look-up needs if the connection is lost.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tokio_postgres::Error as PostgresError;
use tokio_postgres::error::DbError;

use crate::error::chain;
use crate::pipeline::receipts::Receipt;
use crate::pipeline::token::{Detail, ReceiptKey, Token};
use crate::store::connection::{
    Connection, ConnectionLost, ErrorClass, Found, LookUpResult, Reply, RowlessReply,
};
use crate::store::in_flight::InDoubtSet;
use crate::store::in_flight_log::SnapshotInterval;
use crate::store::postgres::classify::{ServerError, classify, is_error};
use crate::store::postgres::insert_sql::InsertForm;
use crate::store::postgres::look_up::{self, LostSession};
use crate::store::postgres::raw_connection::RawConnection;
use crate::store::postgres::shared::PostgresShared;
use crate::store::postgres::xid_horizon::{LookUpScope, XidHorizon};
use crate::store::sqlstate::{DetailCache, ServerDetail, is_not_forwarded};

/// A connection that stores tokens.
pub(in crate::store) struct PostgresConnection {
    raw: RawConnection,
    shared: Arc<PostgresShared>,
    state: Mutex<WriterState>,
}

/// What changes with each reply.
struct WriterState {
    horizon: XidHorizon,
    details: DetailCache,
    /// The horizon before the first token without a row that is not looked up yet.
    rowless_since: Option<LookUpScope>,
}

impl PostgresConnection {
    /// Wraps a connection whose horizon was queried during `snapshot`.
    pub(super) fn new(
        raw: RawConnection,
        shared: Arc<PostgresShared>,
        snapshot: SnapshotInterval,
    ) -> Self {
        let horizon = XidHorizon::new(raw.horizon, snapshot);
        let hidden = shared.connector.address.password_to_hide(&raw.host);
        Self {
            raw,
            shared,
            state: Mutex::new(WriterState {
                horizon,
                details: DetailCache::hiding(hidden),
                rowless_since: None,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, WriterState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns true if the backend is known and serves only this connection.
    fn is_direct(&self) -> bool {
        self.raw.backend().is_some() && !self.raw.is_unprepared()
    }

    /// Sends an INSERT that is not the prepared statement alone.
    async fn send_unusual(
        &self,
        token: &Token,
        is_horizon_due: bool,
    ) -> Result<u64, PostgresError> {
        let insert = async {
            if self.shared.is_dry_run {
                self.raw.insert_and_roll_back(token).await
            } else {
                self.raw.insert(token, self.shared.form()).await
            }
        };
        if is_horizon_due {
            // Both are sent at once, in this order.
            tokio::join!(biased; self.advance_horizon(), insert).1
        } else {
            insert.await
        }
    }

    /// Queries the horizon ahead of an INSERT.
    ///
    /// If that fails, the older horizon stays valid.
    async fn advance_horizon(&self) -> Result<(), PostgresError> {
        let from = self.shared.log.tick();
        let xid = self.raw.query_horizon().await?;
        let to = self.shared.log.tick();
        self.state()
            .horizon
            .advance(xid, SnapshotInterval { from, to });
        Ok(())
    }

    fn stored(&self, token: &Token) -> Reply {
        if !self.shared.is_dry_run {
            // Behind a pooler there are no look-ups.
            if self.is_direct() {
                self.state().horizon.acknowledge(token);
            }
            self.shared.log.record_acknowledged(token);
            self.shared.progress.record_commit();
        }
        Reply::Stored
    }

    fn rowless(&self) -> Reply {
        if self.shared.is_dry_run {
            let reason = "the database stored no row: a trigger or rule skipped or redirected it";
            return Reply::Error(ErrorClass::Rejected, Detail::reason(reason));
        }
        let mut state = self.state();
        // Older than the transaction of every later reply.
        let scope = state.horizon.scope();
        state.rowless_since.get_or_insert(scope);
        Reply::Rowless
    }

    /// Classifies the server's error about a token.
    fn error(&self, token: &Token, db: &DbError, sent_at: Instant) -> Reply {
        let code = db.code().code();
        if let Some(receipts) = &self.shared.receipts
            && receipts.is_taken(db)
        {
            // It says nothing about the token: its receipt does.
            return Reply::Lost(Some("a receipt of the token exists already".to_owned()));
        }
        let server_detail = ServerDetail {
            code,
            constraint: db.constraint(),
            message: db.message(),
            names: [db.constraint(), db.table(), db.column(), db.datatype()],
        };
        let detail = self.state().details.get(&server_detail, token.as_str());
        let class = classify(&ServerError::of(db), &self.shared.catalog, token);
        match class {
            ErrorClass::InDoubt if is_error(db) => {}
            ErrorClass::InDoubt if !self.is_direct() && is_not_forwarded(code, db.message()) => {
                return Reply::NotForwarded(detail);
            }
            ErrorClass::InDoubt => {
                let message = self.shared.connector.redact(&self.raw.host, db.message());
                return Reply::Lost(Some(format!("{message} ({code})")));
            }
            // A pooler shares the backend after all.
            ErrorClass::Unprepared => self.raw.unprepare(),
            // The receipt tells more than the reply.
            ErrorClass::Unreadable if self.shared.receipts.is_some() => {
                return Reply::Lost(Some("the server's answer cannot be read".to_owned()));
            }
            ErrorClass::Unconfirmed => self.shared.progress.record_unconfirmed(sent_at),
            _ => {}
        }
        Reply::Error(class, detail)
    }
}

impl Connection for PostgresConnection {
    type Session = LostSession;

    /// Returns 1 behind a pooler.
    ///
    /// PgBouncer before 1.21 may assign a server to the next client while replies to the last one
    /// are outstanding.
    fn pipeline(&self, connections: usize) -> usize {
        if !self.is_direct() || self.shared.form() == InsertForm::InTransaction {
            return 1;
        }
        self.shared
            .pipeline
            .unwrap_or_else(|| pipeline_for(self.raw.round_trip, connections))
    }

    fn await_replies(&self, count: usize) {
        if let Some(threshold) = &self.raw.reply_threshold {
            threshold.set(count, self.shared.form());
        }
    }

    async fn insert(&self, token: Token) -> Reply {
        let sent_at = Instant::now();
        let is_horizon_due = self.is_direct() && self.state().horizon.begin_insert();
        let is_usual = !is_horizon_due && !self.shared.is_dry_run;
        // Each INSERT in flight has a future: it stays small without the unusual cases.
        let rows = match (self.shared.form(), self.raw.prepared().filter(|_| is_usual)) {
            (InsertForm::Plain, Some(statement)) => {
                let value = [token.as_str()];
                self.raw.client.execute_raw(statement, value).await
            }
            (InsertForm::WithReceipt, Some(statement)) => {
                self.raw.insert_with_receipt(statement, &token).await
            }
            _ => Box::pin(self.send_unusual(&token, is_horizon_due)).await,
        };
        self.state().horizon.end_insert();
        self.shared.progress.record_reply();
        let error = match rows {
            Ok(0) => return self.rowless(),
            Ok(_) => return self.stored(&token),
            Err(error) => error,
        };
        match error.as_db_error() {
            Some(db) => self.error(&token, db, sent_at),
            None => Reply::Lost(self.raw.violation().or_else(|| chain(&error).pop())),
        }
    }

    async fn look_up_rowless(&self, tokens: Vec<Token>) -> RowlessReply {
        let unknown = |reason, is_lost| RowlessReply {
            found: vec![Found::Unknown(reason); tokens.len()],
            is_lost,
        };
        let lookup = &self.shared.lookup;
        let scope = self.state().rowless_since.take();
        let Some(scope) = scope.filter(|_| lookup.may_look_up) else {
            return unknown(
                "the INSERT added no row to the table, and without SELECT right on the column and xmin \
                 it cannot be looked up where the row is",
                false,
            );
        };
        match look_up::rowless(&tokens, scope, &self.raw, lookup, &self.shared.log).await {
            Ok(found) => RowlessReply {
                found,
                is_lost: false,
            },
            Err(error) => {
                let is_alive = error.as_db_error().is_some_and(is_error);
                let reason =
                    "the INSERT added no row to the table, and the look-up of the row failed";
                unknown(reason, !is_alive)
            }
        }
    }

    async fn look_up(
        &self,
        lost: &InDoubtSet<LostSession>,
    ) -> Result<LookUpResult, ConnectionLost> {
        let shared = &self.shared;
        match &shared.receipts {
            Some(receipts) => {
                let keys = lost.tokens.iter().map(|it| it.token.receipt);
                let keys: Vec<ReceiptKey> = keys.collect();
                receipts
                    .settle(&keys, &self.raw, &shared.lookup, shared.patience)
                    .await
            }
            None => look_up::in_doubt(lost, &self.raw, &shared.lookup, &shared.log).await,
        }
    }

    async fn write_receipts(&self, receipts: Vec<Receipt>) -> Reply {
        match &self.shared.receipts {
            Some(table) => table.write(&receipts, &self.raw).await,
            None => Reply::Stored,
        }
    }

    async fn begin_after_look_up(&self) -> Result<(), ConnectionLost> {
        let limit = self.shared.lookup.control_timeout;
        match timeout(limit, self.advance_horizon()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(ConnectionLost),
        }
    }

    fn into_session(self) -> LostSession {
        let is_direct = self.is_direct();
        let state = self
            .state
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        LostSession {
            had_open_transaction: self.raw.had_open_transaction(),
            backend: self.raw.backend.filter(|_| is_direct),
            horizon: state.horizon,
        }
    }

    fn is_closed(&self) -> bool {
        self.raw.is_closed()
    }

    /// Returns true if the next reply may belong to an earlier request.
    fn is_used_up(&self) -> bool {
        self.raw.awaits_reply()
    }

    async fn closed(&self) {
        self.raw.closed().await;
    }

    async fn close(self) {
        self.raw.close().await;
    }
}

/// Returns how many requests in flight keep one of several connections with this round trip busy.
///
/// More would only delay each token and put more of them in doubt on a loss.
fn pipeline_for(round_trip: Duration, connections: usize) -> usize {
    /// What a connection needs beside a nearby server: fewer if many connections keep that busy.
    const NEARBY: (usize, usize) = (8, 16);
    const NEARBY_TOTAL: usize = 256;
    /// What a server commits in a millisecond at most, which the round trip delays.
    const PER_MILLISECOND: usize = 64;
    const MAX: usize = 128;
    let connections = connections.max(1);
    let milliseconds = usize::try_from(round_trip.as_millis()).unwrap_or(usize::MAX);
    let nearby = (NEARBY_TOTAL / connections).clamp(NEARBY.0, NEARBY.1);
    let delayed = milliseconds.saturating_mul(PER_MILLISECOND) / connections;
    nearby.saturating_add(delayed).min(MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipeline_grows_with_round_trip() {
        let after = |milliseconds| pipeline_for(Duration::from_millis(milliseconds), 32);
        assert_eq!([0, 1, 2, 5, 20, 400].map(after), [8, 10, 12, 18, 48, 128]);
        assert_eq!(pipeline_for(Duration::MAX, 32), 128);
        let of = |connections| pipeline_for(Duration::ZERO, connections);
        assert_eq!([0, 1, 16, 20, 64].map(of), [16, 16, 16, 12, 8]);
    }
}
