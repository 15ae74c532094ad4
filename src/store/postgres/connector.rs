//! What connections to one database are made from, and why one cannot be made.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::ClientConfig;
use tokio_postgres::Error;

use crate::error::{Fault, chain};
use crate::observe::otel::Tracer;
use crate::store::StoreOptions;
use crate::store::identifier::quote_identifier;
use crate::store::postgres::Address;
use crate::store::postgres::catalog::Catalog;
use crate::store::postgres::tls;
use crate::store::postgres::wire::ProtocolViolation;
use crate::store::sqlstate::code_of;

/// How much longer than the statement's own timeout an answer is waited for.
const SLACK: Duration = Duration::from_secs(10);
/// As good as for ever, where the statement has no timeout.
const NO_LIMIT: Duration = Duration::from_hours(365 * 24);
/// Raises `synchronous_commit` to `on` where it is lower, never lowers it, until the end of the
/// transaction.
const RAISED_LOCALLY: &str = "set_config('synchronous_commit', CASE \
     current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, \
     true)";
/// Raises `client_min_messages` to `warning` in the same way: a commit that no standby confirmed is
/// told by a warning.
const WARNS_LOCALLY: &str = "set_config('client_min_messages', CASE \
     current_setting('client_min_messages') WHEN 'error' THEN 'warning' ELSE \
     current_setting('client_min_messages') END, true)";

/// Counts the rows of each value that are not older than the horizon. A row's transaction number has
/// 32 bits and wraps around; what lies up to half the circle ahead of the horizon is newer. Frozen
/// rows keep their number.
/// Without a horizon every row counts. Values are compared byte for byte, whatever the collation says.
pub(super) fn lookup_sql(table: &str, column: &str) -> String {
    format!(
        "SELECT {column}::text COLLATE \"C\", count(*) FROM {table} WHERE {column} = ANY($1) AND ($2 IS NULL \
         OR (xmin::text::int8 - ($2::int8 & 4294967295) + 4294967296) % 4294967296 < 2147483648) \
         GROUP BY 1"
    )
}

/// How, and whether, the table can be asked for what was stored.
#[derive(Clone, Debug)]
pub(in crate::store) struct Lookup {
    /// The query; its parameters are the values and the horizon.
    pub(in crate::store) sql: String,
    /// True if the role may read the column and `xmin`.
    pub(in crate::store) may_look: bool,
    /// Why a look-up by value proves nothing, as a clause; `None` if it does.
    pub(in crate::store) obscured_by: Option<&'static str>,
    /// True if commits wait for standbys: what is seen is not confirmed yet.
    pub(in crate::store) has_standbys: bool,
    /// The longest that a standby's confirmation is waited for.
    pub(in crate::store) confirms_within: Duration,
    /// The longest that the answer to a short question is waited for.
    pub(in crate::store) answers_within: Duration,
    /// The longest that the query is waited for; the server gives up sooner.
    pub(in crate::store) looks_within: Duration,
}

impl Lookup {
    /// Why no look-up by value can tell what a connection did that is gone.
    pub(in crate::store) fn obstacle(&self) -> Option<String> {
        let why = if self.may_look {
            self.obscured_by?
        } else {
            "without SELECT right on the column and xmin it cannot be looked up"
        };
        Some(format!("the connection was lost, and {why}"))
    }
}

/// Makes connections to the servers of one database.
pub(super) struct Connector {
    pub(super) address: Address,
    /// The table as SQL.
    pub(super) table: String,
    /// The column's name, not quoted.
    pub(super) column: String,
    pub(super) tls: Arc<ClientConfig>,
    /// The INSERT of a session that was set up.
    pub(super) insert: String,
    /// The INSERT of any other: durable by itself.
    pub(super) durable_insert: String,
    pub(super) lookup: String,
    /// How the server shows the connections of this run.
    pub(super) application: String,
    pub(super) statement_timeout: Duration,
    /// How long an outage is waited out.
    pub(super) patience: Duration,
    /// True while the server is asked about the table: only a lock on it keeps the answer back.
    pub(super) is_at_table: AtomicBool,
    /// True once a pooler was met that refuses the client's own startup option.
    pub(super) takes_no_mark: AtomicBool,
    /// Whether a Pgpool-II is at a place, as far as it was asked.
    pub(super) pgpools: Mutex<HashMap<String, bool>>,
    pub(super) tracer: Tracer,
}

impl Connector {
    /// Reads certificates and names; connects to nothing.
    pub(super) fn new(address: &Address, options: &StoreOptions) -> Result<Self, Fault> {
        let (table, column) = (options.table.to_sql(), quote_identifier(&options.column));
        Ok(Self {
            tls: Arc::new(tls::client_config(address)?),
            insert: format!("INSERT INTO {table} ({column}) VALUES ($1)"),
            durable_insert: format!(
                "INSERT INTO {table} ({column}) SELECT $1 FROM (SELECT {RAISED_LOCALLY} AS level, \
                 {WARNS_LOCALLY} AS least) AS durable WHERE level IS NOT NULL AND least IS NOT NULL"
            ),
            lookup: lookup_sql(&table, &column),
            application: format!("token_service {}", options.session)
                .trim()
                .to_owned(),
            takes_no_mark: AtomicBool::new(false),
            pgpools: Mutex::default(),
            patience: options.patience,
            is_at_table: AtomicBool::new(false),
            address: address.clone(),
            table,
            column: options.column.clone(),
            statement_timeout: options.statement_timeout,
            tracer: options.tracer.clone(),
        })
    }
}

/// What a server said when a connection to it was set up.
pub(super) struct SessionFacts {
    /// True if others share the backend.
    pub(super) is_shared: bool,
    /// What the first connection looks at.
    pub(super) catalog: Option<Catalog>,
}

/// How long an answer is waited for that may take the server this long.
pub(super) fn silence(statement_timeout: Duration) -> Duration {
    if statement_timeout.is_zero() {
        NO_LIMIT
    } else {
        statement_timeout.saturating_add(SLACK)
    }
}

/// What a connection is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectPurpose {
    /// To insert.
    Insert,
    /// To insert, and to look first whether the table can be used.
    Look,
    /// To look around only: nothing is prepared.
    Inspect,
}

/// Why a host will not do.
pub(super) enum ConnectError {
    /// No connection, or none that can insert.
    Error(Error),
    /// The server refuses the startup options that the address gives.
    Options(Error),
    /// No name resolution, or no connection below TLS.
    Io(io::Error),
    /// The server broke a rule of the protocol, or exceeded a limit.
    Violation(ProtocolViolation),
    /// It takes no writes.
    ReadOnly,
    /// It is no PostgreSQL that is supported; why.
    Foreign(String),
    /// The table is of no use.
    Table(Fault),
    /// The password cannot be read.
    Password(Fault),
}

impl From<Error> for ConnectError {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl ConnectError {
    /// True where the other kind of connection, with or without TLS, may be let in.
    pub(super) fn is_about_tls(&self) -> bool {
        let Self::Error(error) = self else {
            return false;
        };
        match error.as_db_error() {
            Some(db) => code_of(db.code().code(), db.message()).starts_with("28"),
            None => chain(error).iter().any(|cause| cause.contains("TLS")),
        }
    }

    pub(super) fn refuses_options(&self) -> bool {
        matches!(self, Self::Error(error) if refuses_options(error))
    }
}

/// True if a server or a pooler ended the start of a session because of the startup options.
pub(super) fn refuses_options(error: &Error) -> bool {
    error
        .as_db_error()
        .is_some_and(|db| names_options(db.code().code(), db.message()))
}

/// True if a refusal at connect is about options. Each pooler has its own code and words:
/// `PgBouncer` "unsupported startup parameter" (08P01), RDS Proxy "doesn't support command-line
/// options" (0A000).
fn names_options(code: &str, message: &str) -> bool {
    const WORDS: [&str; 3] = ["option", "parameter", "command-line"];
    // The names of roles and databases stand in these.
    let is_other = ["28", "3D", "53"]
        .iter()
        .any(|class| code_of(code, message).starts_with(class));
    let message = message.to_lowercase();
    !is_other && WORDS.iter().any(|word| message.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_startup_options_are_recognized_in_the_words_of_each_pooler() {
        for (code, message) in [
            ("08P01", "unsupported startup parameter: options"),
            (
                "08P01",
                "unsupported startup parameter in options: token_service.connection",
            ),
            (
                "0A000",
                "Feature not supported: RDS Proxy currently doesn’t support command-line options.",
            ),
            ("42704", "unrecognized configuration parameter \"a.b\""),
            ("58000", "startup options are not supported"),
        ] {
            assert!(names_options(code, message), "{message}");
        }
        for (code, message) in [
            (
                "28P01",
                "password authentication failed for user \"options\"",
            ),
            ("3D000", "database \"parameter\" does not exist"),
            ("08P01", "SASL authentication failed"),
            ("57P03", "the database system is starting up"),
        ] {
            assert!(!names_options(code, message), "{message}");
        }
    }
}
