//! Storing: the writer's face. One transaction a token, many of them in flight.

use std::path::PathBuf;
use std::time::Duration;

pub mod postgres;

/// Where the tokens go and how; validated.
#[derive(Clone, Debug)]
pub struct Options {
    /// The database.
    pub target: Target,
    /// The table as configured: `name` or `schema.name`, a part in double quotes where it holds a
    /// dot. Always quoted as an identifier in SQL.
    pub table: String,
    /// The column, quoted as an identifier in SQL.
    pub column: String,
    /// The most connections of a run, at least 1.
    pub connections: usize,
    /// The most requests in flight on each connection, at least 1.
    pub pipeline: usize,
    /// The server's `statement_timeout` for each INSERT.
    pub statement_timeout: Duration,
    /// How long an outage in the middle of a run is waited out.
    pub patience: Duration,
}

/// The kinds of database.
#[derive(Clone, Debug)]
pub enum Target {
    /// A PostgreSQL server.
    Postgres(Box<postgres::Address>),
    /// An SQLite file.
    Sqlite(PathBuf),
    /// The demo's own table in memory, gone with the process.
    Demo,
}

/// stub
pub struct Store;
impl Store {
    /// stub
    pub fn store(&self, _pages: crate::stream::PageStream) -> crate::stream::OutcomeStream { crate::stream::outcomes(1).1 }
}
