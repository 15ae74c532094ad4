//! Settles tokens in doubt by their receipts, writes the receipts of rejected tokens, and reads those of the
//! run's earlier processes.
//!
//! A token is in doubt when its reply was lost. A tombstone under the key of its receipt decides: if the
//! tombstone commits, the token's transaction never can. If the key is taken, the receipt says by whom.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Error as PostgresError;
use tokio_postgres::Row;
use tokio_postgres::error::DbError;
use tokio_postgres::types::{ToSql, Type};

use crate::error::{Error, ErrorKind};
use crate::pipeline::receipts::{Receipt, ReceiptKind, ReceiptLog};
use crate::pipeline::token::ReceiptKey;
use crate::store::connection::{ConnectionLost, Found, LookUpResult, Reply, UNCONFIRMED};
use crate::store::postgres::classify::is_error;
use crate::store::postgres::connector::Lookup;
use crate::store::postgres::insert_sql::{
    InsertForm, columns, durable_session, execute, insert_into, of_run,
};
use crate::store::postgres::raw_connection::{FenceResult, RawConnection};
use crate::store::postgres::receipts_table::ReceiptsTable;
use crate::store::receipts::{
    EarlierReceipts, MARK_ATTEMPT, ProcessStart, Receipts, mark_position,
};

/// How long a tombstone waits for the transaction of its token to end.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);
/// The pause before a tombstone is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// The number of tombstones under way on a direct connection.
const TOMBSTONES_UNDER_WAY: usize = 64;
/// The number of receipts in a page.
const PAGE_ROWS: usize = 10_000;
/// How long connections of an earlier process may take to end, which was just killed.
const SETTLE_TIME: Duration = Duration::from_secs(5);
/// The pause between two looks at those connections.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Counts the connections of a run's other processes.
///
/// `starts_with`, because a pooler may append the client's address to the name.
const OTHERS_SQL: &str = "SELECT count(*), min(pid) FROM pg_stat_activity \
     WHERE starts_with(application_name, $1) AND NOT starts_with(application_name, $2) \
     AND datname = current_database()";

/// The receipts of a run in a PostgreSQL table.
pub(in crate::store) struct PostgresReceipts {
    receipts: Receipts,
    table: ReceiptsTable,
    /// How tokens are inserted.
    pub(super) form: InsertForm,
    /// True if a row can go to a foreign server, which commits by itself.
    has_foreign: bool,
}

/// The reply to a tombstone.
enum TombstoneReply {
    /// It is committed.
    Committed,
    /// Another receipt has the key.
    Taken,
    /// The transaction of the token, or of another receipt with the key, has not ended.
    Locked,
    /// The server refused it, for this reason.
    Refused(&'static str),
}

impl PostgresReceipts {
    pub(super) fn new(
        receipts: Receipts,
        table: ReceiptsTable,
        form: InsertForm,
        has_foreign: bool,
    ) -> Self {
        Self {
            receipts,
            table,
            form,
            has_foreign,
        }
    }

    /// Returns true if the key of a receipt is taken, which says nothing about the token.
    pub(super) fn is_taken(&self, db: &DbError) -> bool {
        db.code().code() == "23505" && self.table.is_named(db.schema(), db.table())
    }

    /// Settles the tokens of a lost connection, within `patience`.
    ///
    /// Cancel safe: a tombstone whose reply is lost is found again.
    ///
    /// # Errors
    /// If the new connection was lost.
    pub(super) async fn settle(
        &self,
        keys: &[ReceiptKey],
        connection: &RawConnection,
        lookup: &Lookup,
        patience: Duration,
    ) -> Result<LookUpResult, ConnectionLost> {
        let give_up_at = Instant::now() + patience;
        let mut found: Vec<Option<Found>> = vec![None; keys.len()];
        loop {
            self.settle_once(keys, &mut found, connection, lookup)
                .await?;
            if found.iter().all(Option::is_some) || Instant::now() >= give_up_at {
                break;
            }
            sleep(RETRY_INTERVAL).await;
        }
        let is_stored = |found: &Option<Found>| *found == Some(Found::Stored);
        if lookup.has_standbys
            && found.iter().any(is_stored)
            && !connection.confirm_commits(lookup.confirm_timeout).await?
        {
            for found in found.iter_mut().filter(|found| is_stored(found)) {
                *found = Some(Found::Unknown(UNCONFIRMED));
            }
        }
        let open =
            Found::Unknown("the connection was lost, and its transaction did not end in time");
        let found = found.into_iter().map(|found| found.unwrap_or(open));
        Ok(LookUpResult::Found(found.collect()))
    }

    /// Tries to settle each token that is not settled.
    async fn settle_once(
        &self,
        keys: &[ReceiptKey],
        found: &mut [Option<Found>],
        connection: &RawConnection,
        lookup: &Lookup,
    ) -> Result<(), ConnectionLost> {
        // A pooler may send statements to another server while a reply is outstanding.
        let under_way = match connection.backend() {
            Some(_) => TOMBSTONES_UNDER_WAY,
            None => 1,
        };
        let open = (0..keys.len()).filter(|index| found[*index].is_none());
        let open: Vec<usize> = open.collect();
        let sql = self.tombstone_sql();
        let open_keys: Vec<ReceiptKey> = open.iter().map(|index| keys[*index]).collect();
        let limit = lookup.query_timeout;
        let replies = open_keys
            .into_iter()
            .map(|key| timeout(limit, self.insert_tombstone(key, &sql, connection)));
        let replies: Vec<_> = stream::iter(replies).buffered(under_way).collect().await;
        let mut taken = Vec::new();
        for (index, reply) in open.into_iter().zip(replies) {
            let reply = reply.map_err(|_| ConnectionLost)??;
            found[index] = match reply {
                TombstoneReply::Committed if self.has_foreign => Some(Found::Unknown(
                    "the connection was lost, and a foreign server may have committed the row",
                )),
                TombstoneReply::Committed => Some(Found::Absent),
                TombstoneReply::Refused(reason) => Some(Found::Unknown(reason)),
                TombstoneReply::Locked => None,
                TombstoneReply::Taken => {
                    taken.push(index);
                    None
                }
            };
        }
        if taken.is_empty() {
            return Ok(());
        }
        let taken_keys: Vec<ReceiptKey> = taken.iter().map(|index| keys[*index]).collect();
        let read = timeout(lookup.query_timeout, self.find(&taken_keys, connection));
        let receipts = match read.await {
            Ok(Ok(receipts)) => receipts,
            Ok(Err(error)) if error.as_db_error().is_some_and(is_error) => HashMap::new(),
            Ok(Err(_)) | Err(_) => return Err(ConnectionLost),
        };
        for (index, key) in taken.into_iter().zip(taken_keys) {
            found[index] = Some(match receipts.get(&key) {
                Some(ReceiptKind::Token { rows: 1.. }) => Found::Stored,
                Some(ReceiptKind::Token { .. }) => {
                    Found::Unknown("the INSERT was committed without a row in the table")
                }
                // It was written before, and its reply was lost.
                Some(ReceiptKind::Tombstone) if !self.has_foreign => Found::Absent,
                _ => {
                    Found::Unknown("the connection was lost, and the token's receipt says nothing")
                }
            });
        }
        Ok(())
    }

    fn tombstone_sql(&self) -> String {
        // Set inside the statement, so that it ends with the transaction behind a pooler too.
        format!(
            "{} SELECT {}, $1, $2, NULL, 'x' FROM {}, \
             (SELECT set_config('lock_timeout', '{}', true)) AS lock (timeout) \
             WHERE is_durable AND timeout IS NOT NULL",
            insert_into(&self.receipts),
            of_run(&self.receipts),
            durable_session(),
            LOCK_TIMEOUT.as_millis(),
        )
    }

    /// Inserts a tombstone under a key.
    async fn insert_tombstone(
        &self,
        key: ReceiptKey,
        sql: &str,
        connection: &RawConnection,
    ) -> Result<TombstoneReply, ConnectionLost> {
        let (position, attempt) = columns(key);
        let params = [(&position as _, Type::INT8), (&attempt as _, Type::INT4)];
        let Err(error) = execute(&connection.client, sql, &params).await else {
            return Ok(TombstoneReply::Committed);
        };
        let Some(db) = error.as_db_error() else {
            return Err(ConnectionLost);
        };
        let code = db.code().code();
        if db.routine() == Some("SyncRepWaitForLSN") {
            return Ok(TombstoneReply::Refused(UNCONFIRMED));
        }
        if !is_error(db) {
            return Err(ConnectionLost);
        }
        tracing::debug!(code, "a tombstone was refused");
        Ok(match code {
            _ if self.is_taken(db) => TombstoneReply::Taken,
            "55P03" => TombstoneReply::Locked,
            _ if code.starts_with("40") => TombstoneReply::Locked,
            _ => TombstoneReply::Refused(
                "the connection was lost, and no tombstone could be written among the receipts",
            ),
        })
    }

    /// Reads the receipts of these keys.
    async fn find(
        &self,
        keys: &[ReceiptKey],
        connection: &RawConnection,
    ) -> Result<HashMap<ReceiptKey, ReceiptKind>, PostgresError> {
        let (positions, attempts): (Vec<i64>, Vec<i32>) = keys.iter().copied().map(columns).unzip();
        let sql = format!(
            "/*NO LOAD BALANCE*/ SELECT position, attempt, kind::text, rows FROM {} \
             WHERE (run_id, shard) = ({}) \
             AND (position, attempt) IN (SELECT * FROM unnest($1, $2))",
            self.receipts.table.to_sql(),
            of_run(&self.receipts),
        );
        let params = [
            (&positions as _, Type::INT8_ARRAY),
            (&attempts as _, Type::INT4_ARRAY),
        ];
        let _long = connection.monitor.allow_long_replies(0);
        let rows = connection.client.query_typed(&sql, &params).await?;
        let receipts = rows.iter().map(receipt_of_row);
        let receipts = receipts.collect::<Result<Vec<_>, PostgresError>>()?;
        let receipts = receipts.into_iter().flatten();
        Ok(receipts
            .map(|receipt| (receipt.key, receipt.kind))
            .collect())
    }

    /// Writes receipts that are not written with a token.
    pub(super) async fn write(&self, receipts: &[Receipt], connection: &RawConnection) -> Reply {
        let keys = receipts.iter().map(|receipt| columns(receipt.key));
        let (positions, attempts): (Vec<i64>, Vec<i32>) = keys.unzip();
        let kinds = receipts.iter().map(|receipt| receipt.kind.columns());
        let (kinds, rows): (Vec<&str>, Vec<Option<i32>>) = kinds.unzip();
        // A lost reply makes the writer send them again.
        let sql = format!(
            "{} SELECT {}, position, attempt, rows, kind::\"char\" FROM {}, \
             unnest($1, $2, $3, $4) AS new (position, attempt, rows, kind) \
             WHERE is_durable ON CONFLICT DO NOTHING",
            insert_into(&self.receipts),
            of_run(&self.receipts),
            durable_session(),
        );
        let params: [(&(dyn ToSql + Sync), Type); 4] = [
            (&positions, Type::INT8_ARRAY),
            (&attempts, Type::INT4_ARRAY),
            (&rows, Type::INT4_ARRAY),
            (&kinds, Type::TEXT_ARRAY),
        ];
        match execute(&connection.client, &sql, &params).await {
            Ok(_) => Reply::Stored,
            Err(error) => match error.as_db_error() {
                Some(db) if is_error(db) => {
                    let code = db.code().code();
                    ReceiptLog::warn_lost(receipts.len(), code);
                    Reply::Stored
                }
                _ => Reply::Lost(None),
            },
        }
    }

    /// Waits until other processes of the run have ended, and reads what they left. With a `start` it also
    /// marks the beginning of this one.
    pub(super) async fn begin(
        &self,
        connection: &RawConnection,
        names: SessionNames<'_>,
        start: Option<ProcessStart>,
        refused: impl Fn(PostgresError) -> Error,
    ) -> Result<EarlierReceipts, Error> {
        if connection.backend().is_some() {
            // A replay holds the lock of its file, so the process that wrote it is gone.
            let is_alone = start.is_none_or(|start| start.is_alone);
            let wait = start.map_or(Duration::ZERO, |start| start.wait);
            wait_for_others(connection, names, is_alone, wait, &refused).await?;
        }
        let mut earlier = self.read(connection).await.map_err(&refused)?;
        let Some(start) = start else {
            return Ok(earlier);
        };
        earlier.check()?;
        loop {
            match self.mark(connection, earlier.generation, start).await {
                Ok(()) => return Ok(earlier),
                Err(error) if error.as_db_error().is_some_and(|db| self.is_taken(db)) => {
                    // Another process began at the same time.
                    earlier.generation += 1;
                    earlier.check()?;
                }
                Err(error) => return Err(refused(error)),
            }
        }
    }

    /// Reads the receipts of the run and its shard, in pages: of each position the one with the highest
    /// attempt.
    async fn read(&self, connection: &RawConnection) -> Result<EarlierReceipts, PostgresError> {
        let sql = format!(
            "/*NO LOAD BALANCE*/ SELECT DISTINCT ON (position) position, attempt, kind::text, rows \
             FROM {} WHERE (run_id, shard) = ({}) AND position > $1 \
             ORDER BY position, attempt DESC LIMIT {PAGE_ROWS}",
            self.receipts.table.to_sql(),
            of_run(&self.receipts),
        );
        let mut earlier = EarlierReceipts::new();
        let mut last = i64::MIN;
        loop {
            let _long = connection.monitor.allow_long_replies(0);
            let params = [(&last as _, Type::INT8)];
            let rows = connection.client.query_typed(&sql, &params).await?;
            for row in &rows {
                last = row.try_get(0)?;
                if last < 0 {
                    let is_keyed: Option<i32> = row.try_get(3)?;
                    earlier.add_mark(last.unsigned_abs(), is_keyed == Some(1));
                } else if let Some(receipt) = receipt_of_row(row)? {
                    earlier.add(receipt);
                }
            }
            if rows.len() < PAGE_ROWS {
                return Ok(earlier);
            }
        }
    }

    async fn mark(
        &self,
        connection: &RawConnection,
        generation: u64,
        start: ProcessStart,
    ) -> Result<(), PostgresError> {
        let sql = format!(
            "{} SELECT {}, $1, {MARK_ATTEMPT}, $2, 'x' FROM {} WHERE is_durable",
            insert_into(&self.receipts),
            of_run(&self.receipts),
            durable_session(),
        );
        let (position, is_keyed) = (mark_position(generation), i32::from(start.is_keyed));
        let params = [(&position as _, Type::INT8), (&is_keyed as _, Type::INT4)];
        execute(&connection.client, &sql, &params).await.map(drop)
    }
}

/// The names of a run's connections.
#[derive(Clone, Copy)]
pub(super) struct SessionNames<'a> {
    /// What the names of all processes begin with.
    pub(super) run: &'a str,
    /// The name of this process.
    pub(super) own: &'a str,
}

/// Waits until no other process of the run is connected.
async fn wait_for_others(
    connection: &RawConnection,
    names: SessionNames<'_>,
    is_alone: bool,
    wait: Duration,
    refused: &impl Fn(PostgresError) -> Error,
) -> Result<(), Error> {
    let give_up_at = Instant::now() + wait.max(SETTLE_TIME);
    let mut is_logged = false;
    loop {
        if is_alone {
            let ended = connection.end_others_of(names.run, names.own).await;
            if ended.map_err(refused)? == FenceResult::Gone {
                return Ok(());
            }
        }
        let params = [(&names.run as _, Type::TEXT), (&names.own as _, Type::TEXT)];
        let rows = connection.query_sessions(OTHERS_SQL, &params).await;
        let rows = rows.map_err(refused)?;
        let row = rows.first();
        let count: i64 = row.map_or(Ok(0), |row| row.try_get(0)).map_err(refused)?;
        if count == 0 {
            return Ok(());
        }
        if Instant::now() >= give_up_at {
            let pid: Option<i32> = row.and_then(|row| row.try_get(1).ok().flatten());
            return Err(in_use(count, pid));
        }
        if !std::mem::replace(&mut is_logged, true) {
            tracing::info!(
                connections = count,
                "waiting for another process of the run to end"
            );
        }
        sleep(POLL_INTERVAL).await;
    }
}

fn in_use(connections: i64, pid: Option<i32>) -> Error {
    let of_pid = pid.map_or_else(String::new, |pid| format!(", among them backend {pid}"));
    Error::of(
        ErrorKind::DbConnect,
        "another process with this run id and shard is connected to the database",
    )
    .cause(match connections {
        1 => format!("1 of its connections is open{of_pid}"),
        many => format!("{many} of its connections are open{of_pid}"),
    })
    .hint(
        "wait until it has ended, for example with --wait 5m, or give this run another --run-id; no token \
         was requested",
    )
}

/// Reads position, attempt, kind and rows; `None` if no run of this program wrote the receipt.
fn receipt_of_row(row: &Row) -> Result<Option<Receipt>, PostgresError> {
    let (position, attempt): (i64, i32) = (row.try_get(0)?, row.try_get(1)?);
    let (kind, rows) = (row.try_get(2)?, row.try_get(3)?);
    Ok(Receipt::of_columns(position, attempt.into(), kind, rows))
}
