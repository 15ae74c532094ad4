//! The fake database of pipeline tests, with predefined replies. The writer and the rules are those of
//! a real database.
//!
//! It has one connection with one INSERT in flight, so that tests are deterministic.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::error::{Error, ErrorKind};
use crate::pipeline::token::{Detail, Token};
use crate::runtime::clock::Clock;
use crate::store::StoreOptions;
use crate::store::connection::{
    Connection, ConnectionLost, Database, ErrorClass, Found, LookUpResult, Reply,
};
use crate::store::in_flight::InDoubtSet;
use crate::store::in_flight_log::InFlightLog;
use crate::store::pool::Pool;
use crate::store::postgres::catalog::Catalog;
use crate::store::postgres::classify::{ServerError, classify};
use crate::store::queue::Queue;
use crate::store::sqlstate::scrub;

/// The replies of the fake database.
#[derive(Clone, Debug, Default)]
pub struct FakeReplies {
    /// Replies by token, one per attempt; the last one also applies to further attempts.
    pub replies: HashMap<String, Vec<FakeReply>>,
    /// Replies for all other tokens; if empty, they are stored.
    pub others: Vec<FakeReply>,
    /// The tokens with replies of their own that were sent. Clones share them.
    sent: Arc<Mutex<HashSet<String>>>,
}

impl FakeReplies {
    /// Returns the tokens with replies of their own that were sent.
    pub fn sent(&self) -> HashSet<String> {
        let sent = self.sent.lock();
        sent.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn reply(&self, token: &Token) -> FakeReply {
        if self.replies.contains_key(token.as_str()) {
            let sent = self.sent.lock();
            let mut sent = sent.unwrap_or_else(PoisonError::into_inner);
            sent.insert(token.as_str().to_owned());
        }
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

/// The fake database.
pub(super) struct FakeDatabase(Arc<FakeShared>);

struct FakeShared {
    replies: FakeReplies,
    catalog: Catalog,
    clock: Arc<dyn Clock>,
    /// True once a reply declared the database down.
    is_down: AtomicBool,
}

/// Starts the writer on the current tokio runtime.
pub(super) fn open(
    replies: FakeReplies,
    options: &StoreOptions,
    queue: &Arc<Queue>,
) -> Pool<FakeDatabase> {
    let shared = Arc::new(FakeShared {
        replies,
        catalog: Catalog::assumed(&options.table, &options.column),
        clock: Arc::clone(&queue.clock),
        is_down: AtomicBool::new(false),
    });
    let first = FakeConnection::new(&shared);
    let log = Arc::new(InFlightLog::new(1));
    Pool::start(FakeDatabase(shared), first, log, queue, options)
}

impl Database for FakeDatabase {
    type Connection = FakeConnection;

    async fn connect(&self) -> Result<FakeConnection, Error> {
        if self.0.is_down.load(Ordering::Relaxed) {
            let error = Error::of(ErrorKind::DbConnect, "the database cannot be reached");
            return Err(error.cause("the test case declares it down"));
        }
        Ok(FakeConnection::new(&self.0))
    }

    async fn recheck(&self, _: &[String], _: Option<i64>) -> Result<HashMap<String, u64>, Error> {
        Ok(HashMap::new())
    }
}

/// A connection to the fake database.
pub(super) struct FakeConnection {
    shared: Arc<FakeShared>,
    /// The reply that lost the connection.
    lost_by: Mutex<ReplyKind>,
}

impl FakeConnection {
    fn new(shared: &Arc<FakeShared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            lost_by: Mutex::default(),
        }
    }

    /// Classifies an error reply as if a server had sent it.
    fn error(&self, reply: FakeError, token: &Token) -> Reply {
        let is_error = |severity: &str| severity == "ERROR";
        let error = ServerError {
            code: &reply.sqlstate,
            is_error: reply.severity.as_deref().is_none_or(is_error),
            table: reply.table.as_deref(),
            column: reply.column.as_deref(),
            constraint: reply.constraint.as_deref(),
            routine: reply.routine.as_deref(),
            ..ServerError::default()
        };
        let class = classify(&error, &self.shared.catalog, token);
        let names = [error.constraint, error.table, error.column, None];
        let message = reply.message.as_deref();
        let message = message.map(|message| scrub(message, token.as_str(), &names));
        let detail = Detail {
            sqlstate: Some(reply.sqlstate),
            constraint: reply.constraint,
            reason: None,
            message,
        };
        Reply::Error(class, Arc::new(detail))
    }
}

impl Connection for FakeConnection {
    type Session = ReplyKind;

    async fn insert(&self, token: Token) -> Reply {
        let FakeReply { delay, kind } = self.shared.replies.reply(&token);
        if !delay.is_zero() {
            let clock = &self.shared.clock;
            clock.sleep_until(clock.now() + delay).await;
        }
        match kind {
            ReplyKind::Stored => Reply::Stored,
            ReplyKind::Refused(why) => Reply::Error(ErrorClass::Rejected, Detail::reason(why)),
            ReplyKind::Code(error) => self.error(*error, &token),
            ReplyKind::Lost | ReplyKind::Found | ReplyKind::Unknown | ReplyKind::Down => {
                let is_down = kind == ReplyKind::Down;
                self.shared.is_down.store(is_down, Ordering::Relaxed);
                *self.lost_by.lock().unwrap_or_else(PoisonError::into_inner) = kind;
                Reply::Lost(None)
            }
        }
    }

    async fn look_up(&self, lost: &InDoubtSet<ReplyKind>) -> Result<LookUpResult, ConnectionLost> {
        let found = match lost.session {
            ReplyKind::Lost => Found::Absent,
            ReplyKind::Found => Found::Stored,
            _ => {
                let reason =
                    "the connection was lost, and without SELECT right it cannot be looked up";
                return Ok(LookUpResult::Unprovable(reason.to_owned()));
            }
        };
        Ok(LookUpResult::Found(vec![found; lost.tokens.len()]))
    }

    fn into_session(self) -> ReplyKind {
        self.lost_by
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
