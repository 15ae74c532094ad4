//! Stores tokens: one transaction per token, many of them in flight.
//!
//! `queue` holds the received pages. Each `writer` claims tokens from it and sends them over one
//! connection; `pool` supervises the writers, and `orphans` resolves what a lost connection leaves.
//! `connection` defines what a database offers to them: `postgres`, `sqlite`, and the `fake` of
//! pipeline tests.

#![allow(
    clippy::doc_markdown,
    reason = "PostgreSQL and SQLite are product names"
)]

mod connection;
mod connection_count;
pub mod fake;
mod in_flight;
mod in_flight_log;
pub mod open_receipts;
mod orphans;
mod page_spans;
mod pool;
pub mod postgres;
mod queue;
mod rate_window;
pub mod receipts;
mod replies;
mod shared;
pub mod shared_store;
mod sqlite;
pub mod sqlstate;
mod writer;

use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::error::probe::ProbeResult;
use crate::error::{Error, ErrorKind};
use crate::observe::otel::Tracer;
use crate::pipeline::channel::{OutcomeStream, PageStream, WAKE_INTERVAL};
use crate::pipeline::identifier::TableName;
use crate::pipeline::receipts::ReceiptLog;
use crate::runtime::clock::Clock;
use crate::runtime::shutdown::Shutdown;
use crate::store::page_spans::PageSpans;
use crate::store::receipts::{EarlierReceipts, ProcessStart, Receipts};

/// The options of a store; validated.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The database.
    pub target: DatabaseTarget,
    /// The receipts of the tokens, if they are written.
    pub receipts: Option<Receipts>,
    /// The table, quoted as an identifier in SQL.
    pub table: TableName,
    /// The column, quoted as an identifier in SQL.
    pub column: String,
    /// Maximum number of connections, at least 1; `None` to find the best number while running.
    pub connections: Option<usize>,
    /// The number of processes that share the server, such as the shards of a run; 0 means 1.
    pub processes: u64,
    /// Maximum number of inserts in flight per connection; `None` to adapt it to the round trip.
    pub pipeline: Option<usize>,
    /// Expected number of tokens; connections for them are opened in advance.
    pub expected: u64,
    /// True to roll each INSERT back.
    pub dry_run: bool,
    /// The server's `statement_timeout` for each INSERT; zero for none.
    pub statement_timeout: Duration,
    /// How long the run waits for an outage to end before it gives up.
    pub patience: Duration,
    /// How long a connection without work stays open beside others; `None` for as long as the store.
    pub idle_limit: Option<Duration>,
    /// The connections' `application_name`, by which a replay finds leftover connections.
    pub session: String,
    /// Starts the spans of connections and pages.
    pub tracer: Tracer,
}

impl StoreOptions {
    /// Returns true if several runs share the store, so that it stays open without work.
    pub fn is_shared(&self) -> bool {
        self.idle_limit.is_some()
    }
}

/// The kinds of database.
#[derive(Clone, Debug)]
pub enum DatabaseTarget {
    /// A PostgreSQL server.
    Postgres(Box<postgres::Address>),
    /// An SQLite file.
    Sqlite(PathBuf),
    /// The demo's table in memory.
    Demo,
}

impl DatabaseTarget {
    /// Returns where the database is, without a password.
    pub fn location(&self) -> String {
        match self {
            Self::Postgres(address) => postgres::location(address, &address.hosts),
            Self::Sqlite(path) => format!("SQLite file {}", path.display()),
            Self::Demo => String::from("SQLite in memory"),
        }
    }
}

/// An open database that stores tokens. It must be used in the runtime in which it was opened.
pub struct Store {
    producer: queue::ProducerGuard,
    backend: Box<dyn StoreBackend>,
    table: Arc<str>,
    has_receipts: bool,
}

/// The connections of a store, and the tokens that wait for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreLoad {
    /// The number of open connections.
    pub open: usize,
    /// The number of connections to use now.
    pub wanted: usize,
    /// The number of tokens that no connection has taken.
    pub queued: usize,
}

/// The future of a backend's operation.
type BackendFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The writers of a database, which send an outcome for every token of the queue.
trait StoreBackend: Send + Sync {
    /// Returns the transaction id horizon: no transaction of this run has a lower id.
    fn horizon(&self) -> Option<i64> {
        None
    }

    /// Returns what the database waits for, if it makes no progress.
    fn waits_for(&self) -> Option<&'static str> {
        None
    }

    /// Counts the rows of each of `values`, without rows older than `horizon`.
    fn recheck<'a>(
        &'a self,
        values: &'a [String],
        horizon: Option<i64>,
    ) -> BackendFuture<'a, Result<HashMap<String, u64>, Error>>;

    /// As [`connection::Database::read_receipts`].
    fn read_receipts(
        &self,
        start: Option<ProcessStart>,
    ) -> BackendFuture<'_, Result<EarlierReceipts, Error>>;

    /// Returns how many connections there are, and how many tokens wait for one.
    fn load(&self) -> StoreLoad;

    /// Returns true if an error since the last call was no token's fault.
    fn take_doubt(&self) -> bool;

    /// As [`connection::Database::verify`].
    fn verify(&self) -> BackendFuture<'_, Result<bool, Error>>;

    /// As [`connection::Database::current_horizon`].
    fn current_horizon(&self) -> BackendFuture<'_, Result<Option<i64>, Error>>;

    /// Waits until every taken token has an outcome; the queue must be closed.
    fn join(self: Box<Self>) -> BackendFuture<'static, ()>;
}

impl Store {
    /// Connects once and checks the table, its column and the INSERT privilege, so that an unusable
    /// database costs no token.
    ///
    /// # Errors
    /// `ErrorKind::DbConnect` if the database cannot be reached, or `ErrorKind::DbDenied` if it
    /// refuses; `retryable` if waiting may help.
    pub async fn open(
        options: StoreOptions,
        shutdown: Shutdown,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Error> {
        let writers = options.connections.unwrap_or(connection_count::MOST);
        let queue = queue::Queue::new(writers, WAKE_INTERVAL, shutdown, clock);
        let backend: Result<Box<dyn StoreBackend>, Error> = match &options.target {
            DatabaseTarget::Postgres(address) => postgres::open(address, &options, &queue)
                .await
                .map(|pool| Box::new(pool) as _),
            DatabaseTarget::Sqlite(path) => sqlite::open(Some(path), &options, &queue)
                .await
                .map(|pool| Box::new(pool) as _),
            DatabaseTarget::Demo => sqlite::open(None, &options, &queue)
                .await
                .map(|pool| Box::new(pool) as _),
        };
        match backend {
            Ok(backend) => Ok(Self::with_backend(queue, backend, &options)),
            Err(error) => Err(before_first_token(error)),
        }
    }

    /// Creates a fake database that replies as `replies` defines, on the current tokio runtime.
    ///
    /// # Panics
    /// If called outside a tokio runtime.
    pub fn with_fake_replies(
        replies: fake::FakeReplies,
        options: &StoreOptions,
        shutdown: Shutdown,
        clock: Arc<dyn Clock>,
    ) -> Self {
        // A wait for more outcomes would take real time.
        let queue = queue::Queue::new(1, Duration::ZERO, shutdown, clock);
        let pool = fake::open(replies, options, &queue);
        Self::with_backend(queue, Box::new(pool), options)
    }

    fn with_backend(
        queue: Arc<queue::Queue>,
        backend: Box<dyn StoreBackend>,
        options: &StoreOptions,
    ) -> Self {
        Self {
            producer: queue::ProducerGuard(queue),
            backend,
            table: options.table.to_string().into(),
            has_receipts: options.receipts.is_some(),
        }
    }

    /// Starts storing on the current tokio runtime, and returns immediately.
    ///
    /// Every token of `pages` gets exactly one outcome. The error that ended the pages or the store
    /// follows the last outcome. When `run` stops, no further token is sent; when it aborts, replies are
    /// not waited for. The spans are those of `tracer`.
    ///
    /// # Panics
    /// If called outside a tokio runtime.
    pub fn store(
        &self,
        pages: PageStream<Error>,
        run: &Shutdown,
        tracer: &Tracer,
    ) -> OutcomeStream<Error> {
        let spans = PageSpans::new(tracer, &self.table);
        self.producer.0.store(pages, run, spans)
    }

    /// Returns the transaction id horizon of this run; `None` if the database has none.
    pub fn horizon(&self) -> Option<i64> {
        self.backend.horizon()
    }

    /// Returns how many connections there are, and how many tokens wait for one.
    pub fn load(&self) -> StoreLoad {
        self.backend.load()
    }

    /// Returns true if the store has ended, so that it stores no further token.
    pub fn has_ended(&self) -> bool {
        self.producer.0.has_ended()
    }

    /// Returns true if an error since the last call was no token's fault: the table may have changed.
    pub fn take_doubt(&self) -> bool {
        self.backend.take_doubt()
    }

    /// Connects and checks the table again; returns false if it is not as it was.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub async fn verify(&self) -> Result<bool, Error> {
        self.backend.verify().await.map_err(before_first_token)
    }

    /// Returns the transaction id horizon of a run that starts now; `None` if the database has none.
    ///
    /// # Errors
    /// `ErrorKind::DbConnect` if the database cannot be reached.
    pub async fn current_horizon(&self) -> Result<Option<i64>, Error> {
        let horizon = self.backend.current_horizon().await;
        horizon.map_err(before_first_token)
    }

    /// Returns what the database waits for, if it makes no progress; a clause for the progress display.
    pub fn waits_for(&self) -> Option<&'static str> {
        self.backend.waits_for()
    }

    /// Counts the rows of each of `values`, without rows older than `horizon`.
    ///
    /// It first terminates leftover connections of the same session. `controls` are values that are
    /// known to be stored: if one of them is missing, a missing value proves nothing.
    ///
    /// # Errors
    /// `ErrorKind::DbDenied` if the role may not read the table, or if stored rows are not visible.
    pub async fn recheck(
        &self,
        values: &[String],
        controls: &[String],
        horizon: Option<i64>,
    ) -> Result<HashMap<String, u64>, Error> {
        if values.is_empty() {
            return Ok(HashMap::new());
        }
        let all = [controls, values].concat();
        let found = self.backend.recheck(&all, horizon).await?;
        if controls
            .iter()
            .all(|value| found.get(value).is_some_and(|&count| count > 0))
        {
            Ok(found)
        } else {
            Err(recheck_denied(ROWS_NOT_VISIBLE))
        }
    }

    /// Reads what earlier processes of the run left among its receipts, after they have ended. With a `start`
    /// it also marks the beginning of this one.
    ///
    /// # Errors
    /// `ErrorKind::DbConnect` if another process of the run is still connected, or the database is lost;
    /// `ErrorKind::InvalidArgument` if the run cannot be continued.
    pub async fn read_receipts(
        &self,
        start: Option<ProcessStart>,
    ) -> Result<EarlierReceipts, Error> {
        self.backend.read_receipts(start).await
    }

    /// Returns where the receipts of rejected tokens are collected, if receipts are written.
    pub fn receipt_log(&self) -> Option<Arc<ReceiptLog>> {
        let queue = &self.producer.0;
        self.has_receipts.then(|| Arc::clone(&queue.receipts))
    }

    /// Sends what is queued, and closes the connections gracefully.
    pub async fn close(self) {
        let receipts = self.receipt_log();
        drop(self.producer);
        self.backend.join().await;
        let lost = receipts.map_or(0, |receipts| receipts.len());
        if lost > 0 {
            ReceiptLog::warn_lost(lost, "no connection was left");
        }
    }
}

/// Adds to an error that it cost no token.
fn before_first_token(mut error: Error) -> Error {
    error.hint = Some(match error.hint.take() {
        Some(hint) => format!("{hint}; no token was requested"),
        None => "no token was requested".to_owned(),
    });
    error
}

/// Probes the connection, the table, the durability of commits and the free connections, read-only.
pub async fn inspect(options: &StoreOptions) -> Vec<ProbeResult> {
    match &options.target {
        DatabaseTarget::Postgres(address) => postgres::inspect(address, options).await,
        DatabaseTarget::Sqlite(path) => sqlite::inspect(path, options),
        DatabaseTarget::Demo => Vec::new(),
    }
}

/// Triggers, row-level security or later deletes can make inserted rows invisible.
const ROWS_NOT_VISIBLE: &str =
    "the table does not show rows that the run stored: they were deleted, hidden or changed";

/// Returns the error of a re-check that is not possible.
fn recheck_denied(why: &str) -> Error {
    let sqlstate = "42501".to_owned();
    let what = "cannot look up what was stored before";
    Error::of(ErrorKind::DbDenied { sqlstate }, what).cause(why)
}
