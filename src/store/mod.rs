//! Storing: the writer's face. One transaction a token, many of them in flight.
//!
//! Pages go in, outcomes come out. Between them a pump cuts pages into chunks, and connections
//! (or the one thread of an SQLite file) take chunks from a shared queue.

#![allow(
    clippy::doc_markdown,
    reason = "PostgreSQL and SQLite are names of products, not of code"
)]
#![allow(
    clippy::result_large_err,
    reason = "a fault is made once a run, never once a token"
)]

mod coalesce;
pub mod fake;
pub mod identifier;
mod outcome_batch;
mod page_spans;
pub mod postgres;
mod queue;
mod sqlite;
pub mod sqlstate;

use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::error::probe::ProbeResult;
use crate::error::{ErrorKind, Fault};
use crate::observe::otel::Tracer;
use crate::pipeline::channel::{self, OutcomeStream, PageStream};
use crate::runtime::clock::Clock;
use crate::runtime::shutdown::Shutdown;
use crate::store::identifier::TableName;
use crate::store::page_spans::PageSpans;

/// Where the tokens go and how; validated.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The database.
    pub target: DatabaseTarget,
    /// The table, quoted as an identifier in SQL.
    pub table: TableName,
    /// The column, quoted as an identifier in SQL.
    pub column: String,
    /// The most connections of a run, at least 1.
    pub connections: usize,
    /// The most requests in flight on each connection, at least 1; `None` for what its round trip
    /// needs.
    pub pipeline: Option<usize>,
    /// How many tokens are likely to come: connections for them are made ahead.
    pub expected: u64,
    /// True where each INSERT is tried and rolled back.
    pub dry_run: bool,
    /// The server's `statement_timeout` for each INSERT; zero for none.
    pub statement_timeout: Duration,
    /// How long an outage in the middle of a run is waited out before the run gives up.
    pub patience: Duration,
    /// The run's name at the server (its connections' `application_name`), by which a later replay
    /// finds what is left of it.
    pub session: String,
    /// Begins the spans of connections and pages.
    pub tracer: Tracer,
}

/// The kinds of database.
#[derive(Clone, Debug)]
pub enum DatabaseTarget {
    /// A PostgreSQL server.
    Postgres(Box<postgres::Address>),
    /// An SQLite file.
    Sqlite(PathBuf),
    /// The demo's own table in memory, gone with the process.
    Demo,
}

/// An open database that stores tokens. It belongs to the runtime in which it was opened.
pub struct Store {
    producer: queue::ProducerGuard,
    backend: Box<dyn StoreBackend>,
    tracer: Tracer,
    table: Arc<str>,
}

/// What a backend gives in its own time.
type BackendFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What takes the chunks out of the queue and accounts for every token in them.
trait StoreBackend: Send + Sync {
    /// The number below which no transaction of this run lies, where there is such a number.
    fn horizon(&self) -> Option<i64> {
        None
    }

    /// What the database waits for, if it does not get on.
    fn waits_for(&self) -> Option<&'static str> {
        None
    }

    /// How many rows there are of each of `values`, none older than `horizon`.
    fn recheck<'a>(
        &'a self,
        values: &'a [String],
        horizon: Option<i64>,
    ) -> BackendFuture<'a, Result<HashMap<String, u64>, Fault>>;

    /// Waits until everything that was taken is accounted for; the queue must be closed.
    fn join(self: Box<Self>) -> BackendFuture<'static, ()>;
}

impl Store {
    /// Connects once and looks at the table, its column and the right to insert into it, so that a
    /// dead or refusing database costs no token.
    ///
    /// # Errors
    /// [`ErrorKind::DbConnect`] where the database cannot be reached, or
    /// [`ErrorKind::DbDenied`] where it refuses; `retryable` where waiting
    /// may help.
    pub async fn open(
        options: StoreOptions,
        shutdown: Shutdown,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Fault> {
        let queue = queue::Queue::new(options.connections.max(1), shutdown, clock);
        let backend: Result<Box<dyn StoreBackend>, Fault> = match &options.target {
            DatabaseTarget::Postgres(address) => postgres::Pool::open(address, &options, &queue)
                .await
                .map(|pool| Box::new(pool) as _),
            DatabaseTarget::Sqlite(path) => {
                sqlite::SqliteWorker::open(Some(path), &options, &queue)
                    .await
                    .map(|worker| Box::new(worker) as _)
            }
            DatabaseTarget::Demo => sqlite::SqliteWorker::open(None, &options, &queue)
                .await
                .map(|worker| Box::new(worker) as _),
        };
        match backend {
            Ok(backend) => Ok(Self::on(queue, backend, &options)),
            Err(mut fault) => {
                fault.hint = Some(match fault.hint.take() {
                    Some(hint) => format!("{hint}; no token was asked for"),
                    None => "no token was asked for".to_owned(),
                });
                Err(fault)
            }
        }
    }

    /// A database that says what `script` has it say, on the current tokio runtime.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn scripted(
        script: fake::FakeReplies,
        options: &StoreOptions,
        shutdown: Shutdown,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let queue = queue::Queue::new(options.connections.max(1), shutdown, Arc::clone(&clock));
        let worker = fake::FakeWorker::start(script, options, &queue, clock);
        Self::on(queue, Box::new(worker), options)
    }

    fn on(
        queue: Arc<queue::Queue>,
        backend: Box<dyn StoreBackend>,
        options: &StoreOptions,
    ) -> Self {
        Self {
            producer: queue::ProducerGuard(queue),
            backend,
            tracer: options.tracer.clone(),
            table: options.table.to_string().into(),
        }
    }

    /// Starts storing at once, on the current tokio runtime, and returns immediately. Every token
    /// that `pages` gives comes out as one outcome, whatever happens; the fault that ended the
    /// pages or the store comes after the last of them.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn store(&self, pages: PageStream<Fault>) -> OutcomeStream<Fault> {
        let (sender, outcomes, stop) = channel::outcomes(queue::CREDIT);
        let queue = Arc::clone(&self.producer.0);
        let job = queue.job(sender, PageSpans::new(&self.tracer, &self.table));
        tokio::spawn(queue::pump(queue, job, stop, pages));
        outcomes
    }

    /// The number below which no transaction of this run lies; `None` where the database has none.
    pub fn horizon(&self) -> Option<i64> {
        self.backend.horizon()
    }

    /// What the database waits for, if it does not get on: a clause for people who watch the run.
    pub fn waits_for(&self) -> Option<&'static str> {
        self.backend.waits_for()
    }

    /// Looks how many rows there are of each of `values`, none of them older than `horizon`, after
    /// having ended whatever connections of the same session are left from before. `controls` are
    /// values that are known to have been stored and that nobody asks for otherwise: where one of
    /// them is not seen, a value that is not seen proves nothing.
    ///
    /// # Errors
    /// [`ErrorKind::DbDenied`] where the role may not look, or where the
    /// table does not show what was stored.
    pub async fn recheck(
        &self,
        values: &[String],
        controls: &[String],
        horizon: Option<i64>,
    ) -> Result<HashMap<String, u64>, Fault> {
        if values.is_empty() {
            return Ok(HashMap::new());
        }
        let asked = [controls, values].concat();
        let found = self.backend.recheck(&asked, horizon).await?;
        if controls
            .iter()
            .all(|value| found.get(value).is_some_and(|&count| count > 0))
        {
            Ok(found)
        } else {
            Err(cannot_look(NOT_SHOWN))
        }
    }

    /// Ends the connections cleanly, after all stores have ended; what is queued is still sent.
    pub async fn close(self) {
        drop(self.producer);
        self.backend.join().await;
    }
}

/// Whether the database could be used, its table, what its commits are worth and how many connections it
/// has: each a line. Nothing is written.
pub async fn inspect(options: &StoreOptions) -> Vec<ProbeResult> {
    match &options.target {
        DatabaseTarget::Postgres(address) => postgres::inspect(address, options).await,
        DatabaseTarget::Sqlite(path) => sqlite::inspect(path, options),
        DatabaseTarget::Demo => Vec::new(),
    }
}

/// Triggers and row level security may hide or change what is inserted, and somebody may have taken
/// rows away since.
const NOT_SHOWN: &str = "the table does not show what the run stored: its rows were taken away, or are hidden or changed";

/// Why a replay cannot see what was stored.
fn cannot_look(why: &str) -> Fault {
    let sqlstate = "42501".to_owned();
    let what = "it cannot be looked up what was stored before";
    Fault::new(ErrorKind::DbDenied { sqlstate }, what).cause(why)
}
