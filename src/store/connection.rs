//! What a database offers so that the writer can store tokens in it.
//!
//! A connection sends INSERTs, says what each reply means, and looks up what a lost connection stored.
//! The rules about retries, tokens in doubt and outcomes are in `writer` and `pool`, once for all.

use std::collections::HashMap;
use std::future::{Future, pending, ready};
use std::iter::repeat;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, ErrorKind};
use crate::pipeline::receipts::Receipt;
use crate::pipeline::token::{Detail, Token};
use crate::store::connection_count::ConnectionCount;
use crate::store::in_flight::InDoubtSet;
use crate::store::receipts::{EarlierReceipts, ProcessStart};

/// A database to which connections can be made.
pub(super) trait Database: Send + Sync + Sized + 'static {
    /// Its connections.
    type Connection: Connection;

    /// Makes a connection.
    ///
    /// # Errors
    /// `retryable` if waiting may help.
    fn connect(&self) -> impl Future<Output = Result<Self::Connection, Error>> + Send;

    /// Returns how many connections to use.
    fn connection_count(&self) -> ConnectionCount {
        ConnectionCount::fixed(1)
    }

    /// Returns the longest wait for a reply; `None` if there is no limit.
    fn reply_timeout(&self) -> Option<Duration> {
        None
    }

    /// Returns why the database would accept the token but not store it completely.
    fn loss(&self, token: &str) -> Option<&'static str> {
        let _ = token;
        None
    }

    /// Watches the database until the run ends.
    fn watch(&self) -> impl Future<Output = ()> + Send {
        pending()
    }

    /// Returns the transaction id horizon: no transaction of this run has a lower id.
    fn horizon(&self) -> Option<i64> {
        None
    }

    /// Returns the transaction id horizon of a run that starts now.
    fn current_horizon(&self) -> impl Future<Output = Result<Option<i64>, Error>> + Send {
        ready(Ok(None))
    }

    /// Connects and checks the table again; returns false if it is not as it was.
    fn verify(&self) -> impl Future<Output = Result<bool, Error>> + Send {
        ready(Ok(true))
    }

    /// Returns what the database waits for, if it makes no progress.
    fn waits_for(&self) -> Option<&'static str> {
        None
    }

    /// Reads what earlier processes of the run left among its receipts, after they have ended. With a `start`
    /// it also marks the beginning of this one.
    fn read_receipts(
        &self,
        start: Option<ProcessStart>,
    ) -> impl Future<Output = Result<EarlierReceipts, Error>> + Send {
        let _ = start;
        ready(Ok(EarlierReceipts::default()))
    }

    /// Counts the rows of each of `values`, without rows older than `horizon`.
    fn recheck(
        &self,
        values: &[String],
        horizon: Option<i64>,
    ) -> impl Future<Output = Result<HashMap<String, u64>, Error>> + Send;
}

/// A connection to a database.
pub(super) trait Connection: Send + Sync + Sized + 'static {
    /// What a look-up over another connection needs to know about this one.
    type Session: Send + Sync + 'static;

    /// Returns the most INSERTs in flight, at least 1, if the run uses this many connections.
    fn pipeline(&self, connections: usize) -> usize {
        let _ = connections;
        1
    }

    /// Notes that `count` replies, at least 1, must arrive before the writer sends more. All of them are
    /// outstanding.
    fn await_replies(&self, count: usize) {
        let _ = count;
    }

    /// Sends an INSERT of `token` when first polled; resolves when its transaction has ended.
    fn insert(&self, token: Token) -> impl Future<Output = Reply> + Send;

    /// Looks up tokens that were committed without a row; its results are in their order.
    fn look_up_rowless(&self, tokens: Vec<Token>) -> impl Future<Output = RowlessReply> + Send {
        let found = vec![Found::Absent; tokens.len()];
        async {
            RowlessReply {
                found,
                is_lost: false,
            }
        }
    }

    /// Writes receipts that are not written with a token; replies with an error only if the connection was
    /// lost.
    fn write_receipts(&self, receipts: Vec<Receipt>) -> impl Future<Output = Reply> + Send {
        drop(receipts);
        ready(Reply::Stored)
    }

    /// Looks up which tokens of a lost connection were stored. Afterwards the lost connection cannot
    /// store any more.
    ///
    /// Cancel safe if this connection is not used afterwards.
    fn look_up(
        &self,
        lost: &InDoubtSet<Self::Session>,
    ) -> impl Future<Output = Result<LookUpResult, ConnectionLost>> + Send;

    /// Notes that all rows settled so far are older than what this connection will store.
    fn begin_after_look_up(&self) -> impl Future<Output = Result<(), ConnectionLost>> + Send {
        ready(Ok(()))
    }

    /// Returns what a look-up needs to know about this lost connection.
    fn into_session(self) -> Self::Session;

    /// Returns true if nothing can be sent any more.
    fn is_closed(&self) -> bool {
        false
    }

    /// Returns true if the connection must be replaced; called while nothing is in flight.
    fn is_used_up(&self) -> bool {
        false
    }

    /// Waits until the connection is closed.
    fn closed(&self) -> impl Future<Output = ()> + Send {
        pending()
    }

    /// Closes the connection gracefully.
    fn close(self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// The reply to an INSERT.
#[derive(Debug)]
pub(super) enum Reply {
    /// Committed; in a dry run, rolled back.
    Stored,
    /// Committed, but the table got no row.
    Rowless,
    /// Refused; the connection can be used further.
    Error(ErrorClass, Arc<Detail>),
    /// Not forwarded to a server by a pooler, which closes the connection.
    NotForwarded(Arc<Detail>),
    /// None: the connection was lost for this reason, if it is known.
    Lost(Option<String>),
}

/// The result of a look-up of tokens that were committed without a row.
pub(super) struct RowlessReply {
    /// The result for each token.
    pub(super) found: Vec<Found>,
    /// True if the connection was lost.
    pub(super) is_lost: bool,
}

/// The result of a look-up for one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It is stored.
    Stored,
    /// It is certainly not stored.
    Absent,
    /// It cannot be determined, for this reason.
    Unknown(&'static str),
}

impl Found {
    /// Pairs tokens with the results of a look-up; a token without a result stays unknown.
    pub(super) fn pair<T>(tokens: Vec<T>, results: Vec<Self>) -> impl Iterator<Item = (T, Self)> {
        let missing = Self::Unknown("the look-up did not cover the token");
        tokens
            .into_iter()
            .zip(results.into_iter().chain(repeat(missing)))
    }
}

/// The result of a look-up for the tokens of a lost connection.
pub(super) enum LookUpResult {
    /// The result for each token.
    Found(Vec<Found>),
    /// The look-up proves nothing, for this reason.
    Unprovable(String),
}

/// The new connection was lost too.
pub(super) struct ConnectionLost;

/// What an error means for the token of the INSERT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ErrorClass {
    /// The token is refused and would be refused again.
    Rejected,
    /// Not stored because of other transactions or the server's state: worth a retry.
    Retry,
    /// Not stored because the partitions changed: worth a retry, then refused.
    Reroute,
    /// Not stored because a sequence produced a key that is taken: worth a retry at once, as often
    /// as it takes.
    KeyTaken,
    /// Not stored, and a retry would not help now.
    Failed,
    /// Not stored, because the server is read-only: another host may accept it.
    ReadOnly,
    /// The prepared statement does not exist, because of a pooler: send it unprepared.
    Unprepared,
    /// Not stored because a right or an object is missing.
    Denied {
        /// True if the statement itself is refused, so every INSERT would be.
        all: bool,
    },
    /// Committed on the primary, but not confirmed by its synchronous standby.
    Unconfirmed,
    /// The server's reply cannot be read.
    Unreadable,
    /// Unknown whether the token was stored.
    InDoubt,
}

/// Committed on the primary, but the wait for its synchronous standby ended early.
pub(super) const UNCONFIRMED: &str =
    "committed on the primary, not confirmed by its synchronous standby";

/// Returns the error of a database that refused an operation with this SQLSTATE.
pub(super) fn denied(sqlstate: &str, message: &str) -> Error {
    let sqlstate = sqlstate.to_owned();
    Error::of(ErrorKind::DbDenied { sqlstate }, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_stays_unknown_when_look_up_returns_too_few_results() {
        let pairs: Vec<_> = Found::pair(vec!["aa", "bb"], vec![Found::Stored]).collect();
        assert_eq!(pairs[0], ("aa", Found::Stored));
        assert!(matches!(pairs[1], ("bb", Found::Unknown(_))));
    }
}
