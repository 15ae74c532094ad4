//! The settings of the connections to one database, and the reasons why connecting fails.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustls::ClientConfig;
use tokio_postgres::Error as PostgresError;

use crate::error::{Error, chain};
use crate::observe::otel::Tracer;
use crate::pipeline::identifier::quote_identifier;
use crate::store::StoreOptions;
use crate::store::pool::connections_for;
use crate::store::postgres::catalog::Catalog;
use crate::store::postgres::first_login::FirstLogin;
use crate::store::postgres::insert_sql::InsertSql;
use crate::store::postgres::known_servers::KnownServers;
use crate::store::postgres::receipts_table::ReceiptsTable;
use crate::store::postgres::tls;
use crate::store::postgres::wire::{HostAddress, ProtocolViolation};
use crate::store::postgres::{Address, Host};
use crate::store::receipts::Receipts;
use crate::store::sqlstate::connect_sqlstate;

/// The extra time for a reply beyond the statement timeout.
const REPLY_SLACK: Duration = Duration::from_secs(10);
/// What the server keeps of an `application_name`, in bytes.
const MAX_NAME: usize = 63;
/// Practically no limit, if there is no statement timeout.
const NO_LIMIT: Duration = Duration::from_hours(365 * 24);
/// Returns the SQL that counts the rows of each value not older than the horizon.
///
/// A row's XID has 32 bits and wraps around: up to half the range ahead of the horizon is newer.
/// Frozen rows keep their XID. Without a horizon every row counts. Values are compared byte for
/// byte, whatever the collation.
pub(super) fn lookup_sql(table: &str, column: &str) -> String {
    format!(
        "SELECT {column}::text COLLATE \"C\", count(*) FROM {table} WHERE {column} = ANY($1) AND ($2 IS NULL \
         OR (xmin::text::int8 - ($2::int8 & 4294967295) + 4294967296) % 4294967296 < 2147483648) \
         GROUP BY 1"
    )
}

/// How to look up stored tokens in the table, and whether that proves anything.
#[derive(Clone, Debug)]
pub(in crate::store) struct Lookup {
    /// The query; its parameters are the values and the XID horizon.
    pub(in crate::store) sql: String,
    /// True if the role may read the column and `xmin`.
    pub(in crate::store) may_look_up: bool,
    /// Why a look-up by value proves nothing, as a clause; `None` if it is reliable.
    pub(in crate::store) obstacle: Option<&'static str>,
    /// True if commits wait for standbys: a visible row may be unconfirmed.
    pub(in crate::store) has_standbys: bool,
    /// The longest wait for a standby's confirmation.
    pub(in crate::store) confirm_timeout: Duration,
    /// The longest wait for the reply to a short query.
    pub(in crate::store) control_timeout: Duration,
    /// The longest wait for the look-up; the server times out earlier.
    pub(in crate::store) query_timeout: Duration,
}

impl Lookup {
    /// Returns why a look-up cannot resolve the tokens of a lost connection.
    pub(in crate::store) fn unavailable_reason(&self) -> Option<String> {
        let why = if self.may_look_up {
            self.obstacle?
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
    /// The column's name, unquoted.
    pub(super) column: String,
    pub(super) tls: Arc<ClientConfig>,
    /// The statements that insert a token.
    pub(super) sql: Arc<InsertSql>,
    /// The receipts, if they are written.
    pub(super) receipts: Option<Receipts>,
    /// The query that looks up tokens by value.
    pub(super) lookup: String,
    /// What the `application_name` of all processes of this run begins with.
    pub(super) run_name: String,
    /// The `application_name` of this run's connections.
    pub(super) application_name: String,
    /// True if more than one connection may be needed.
    pub(super) needs_several: bool,
    pub(super) statement_timeout: Duration,
    /// How long reconnecting may take during an outage.
    pub(super) patience: Duration,
    /// True once a pooler refused the startup option that the client adds.
    pub(super) refuses_marker: AtomicBool,
    /// True once a direct TLS start failed that the server seemed to accept.
    pub(super) refuses_direct_tls: AtomicBool,
    pub(super) servers: KnownServers,
    /// The progress of the first connection, for which the early ones wait.
    pub(super) first: FirstLogin,
    pub(super) tracer: Tracer,
}

impl Connector {
    /// Reads the certificates; makes no connection.
    pub(super) fn new(address: &Address, options: &StoreOptions) -> Result<Self, Error> {
        let (table, column) = (options.table.to_sql(), quote_identifier(&options.column));
        let run_name = match &options.receipts {
            Some(receipts) => format!("token_service {}/{}/", receipts.run_id, receipts.shard),
            None => format!("token_service {}", options.session)
                .trim()
                .to_owned(),
        };
        // With receipts, several processes may follow each other.
        let mut application_name = match &options.receipts {
            Some(_) => format!("{run_name}{:04x}", fastrand::u16(..)),
            None => run_name.clone(),
        };
        application_name.truncate(MAX_NAME);
        Ok(Self {
            tls: Arc::new(tls::client_config(address)?),
            sql: Arc::new(InsertSql::new(&table, &column, options.receipts.as_ref())),
            receipts: options.receipts.clone(),
            lookup: lookup_sql(&table, &column),
            application_name,
            run_name,
            refuses_marker: AtomicBool::new(false),
            refuses_direct_tls: AtomicBool::new(false),
            servers: KnownServers::default(),
            first: FirstLogin::default(),
            patience: options.patience,
            address: address.clone(),
            table,
            column: options.column.clone(),
            needs_several: options.is_shared()
                || connections_for(
                    usize::try_from(options.expected).unwrap_or(usize::MAX),
                    options.connections.unwrap_or(usize::MAX),
                ) > 1,
            statement_timeout: options.statement_timeout,
            tracer: options.tracer.clone(),
        })
    }
}

/// The facts that the set-up of a session found.
pub(super) struct SessionFacts {
    /// True if a pooler shares the backend with other clients.
    pub(super) is_shared: bool,
    /// The catalog, loaded by the first connection only.
    pub(super) catalog: Option<Catalog>,
    /// The receipts table, loaded by the first connection only.
    pub(super) receipts_table: Option<ReceiptsTable>,
    /// True if the token and its receipt need a statement each.
    pub(super) needs_transaction: bool,
    /// How many connections the run can have, the first one included; `None` if that is unknown, and
    /// for every other connection.
    pub(super) free_connections: Option<u32>,
}

/// Returns the longest wait for the reply to a statement with this timeout.
pub(super) fn reply_timeout(statement_timeout: Duration) -> Duration {
    if statement_timeout.is_zero() {
        NO_LIMIT
    } else {
        statement_timeout.saturating_add(REPLY_SLACK)
    }
}

/// What a connection is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectPurpose {
    /// INSERTs.
    Insert,
    /// INSERTs; opened while the first connection is being made, and waits for its progress.
    InsertEarly,
    /// INSERTs, after a check of the table.
    InsertAndCheck,
    /// Inspection only: nothing is prepared.
    Inspect,
}

/// One attempt to connect to an address of a host.
pub(super) struct Attempt<'a> {
    pub(super) host: &'a Host,
    pub(super) endpoint: &'a HostAddress,
    pub(super) purpose: ConnectPurpose,
    /// True while the table is being checked: a reply that does not arrive then means a lock.
    pub(super) is_checking_table: AtomicBool,
    /// True while TLS starts without a request that the configuration does not forbid.
    pub(super) tries_direct_tls: AtomicBool,
}

/// Why a connection to a host fails.
pub(super) enum ConnectError {
    /// The server refused the connection, or its set-up failed.
    Server(PostgresError),
    /// The server refuses the startup options of the address.
    StartupOptions(PostgresError),
    /// Name resolution or the connection below TLS failed.
    Io(io::Error),
    /// The server broke a rule of the protocol, or exceeded a limit.
    Violation(ProtocolViolation),
    /// The server accepts no writes.
    ReadOnly,
    /// The server is not a supported PostgreSQL, with the reason.
    Unsupported(String),
    /// The table cannot be used.
    Table(Error),
    /// The password cannot be read.
    Password(Error),
    /// A pooler has taken the place of a server, after a statement was prepared on its backend.
    Pooler,
}

impl From<PostgresError> for ConnectError {
    fn from(error: PostgresError) -> Self {
        Self::Server(error)
    }
}

impl ConnectError {
    /// Returns true if the same server may accept the connection with, or without, TLS.
    pub(super) fn may_depend_on_tls(&self) -> bool {
        let Self::Server(error) = self else {
            return false;
        };
        match error.as_db_error() {
            Some(db) => connect_sqlstate(db.code().code(), db.message()).starts_with("28"),
            None => chain(error).iter().any(|cause| cause.contains("TLS")),
        }
    }

    /// Returns true if the server did not speak PostgreSQL's protocol at all.
    pub(super) fn precedes_session(&self) -> bool {
        match self {
            Self::Server(error) => error.as_db_error().is_none(),
            Self::Violation(violation) => *violation == ProtocolViolation::Unreadable,
            _ => false,
        }
    }

    pub(super) fn refuses_options(&self) -> bool {
        matches!(self, Self::Server(error) if refuses_options(error))
    }
}

/// Returns true if the startup options made a server or pooler refuse the session.
pub(super) fn refuses_options(error: &PostgresError) -> bool {
    error
        .as_db_error()
        .is_some_and(|db| is_about_options(db.code().code(), db.message()))
}

/// Returns true if a refusal at connect is about startup options.
///
/// Each pooler has its own code and text: `PgBouncer` "unsupported startup parameter" (08P01), RDS
/// Proxy "doesn't support command-line options" (0A000).
fn is_about_options(code: &str, message: &str) -> bool {
    const WORDS: [&str; 3] = ["option", "parameter", "command-line"];
    // These messages contain names of roles and databases.
    let is_about_names = ["28", "3D", "53"]
        .iter()
        .any(|class| connect_sqlstate(code, message).starts_with(class));
    let message = message.to_lowercase();
    !is_about_names && WORDS.iter().any(|word| message.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn startup_option_refusals_of_each_pooler_are_recognized() {
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
            assert!(is_about_options(code, message), "{message}");
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
            assert!(!is_about_options(code, message), "{message}");
        }
    }
}
