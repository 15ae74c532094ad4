//! Makes a connection ready for use, and says clearly why it cannot be.
//!
//! One timeout covers name resolution, TCP, TLS, authentication and the first round trip, in which
//! the session is set up and the INSERT prepared.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use secrecy::ExposeSecret;
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode as Tls;
use tokio_postgres::error::Severity;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Config, Error, Row, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::sync::CancellationToken;

use super::super::name::{TableName, quote_identifier};
use super::super::sqlstate::{Class, class_of};
use super::super::{Options, tls};
use super::{Address, SslMode};
use crate::fault::{Fault, Kind, chain};

/// How long a silent peer is believed to be there.
const SILENT_PEER: Duration = Duration::from_secs(15);
/// How long a connection may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// Raises `synchronous_commit` to `on` where it is lower, never lowers it; names the limits; and
/// asks who the backend is.
const SET_UP: &str = "SELECT set_config('synchronous_commit', CASE \
     current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, \
     false), set_config('statement_timeout', $1, false), \
     current_setting('token_service.connection', true), pg_backend_pid(), \
     (SELECT backend_start::text FROM pg_stat_get_activity(pg_backend_pid())), \
     pg_postmaster_start_time()::text, txid_snapshot_xmax(txid_current_snapshot())";

/// The number that the next transaction will have at the least.
const HORIZON: &str = "SELECT txid_snapshot_xmax(txid_current_snapshot())";

/// Ends a backend, where it is still the same one; no row where it is gone.
const END_BACKEND: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
     WHERE pid = $1 AND backend_start::text = $2";

/// What `look` wants to know before a token is asked for.
const LOOK: &str = "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on', \
     has_column_privilege($1::text, $2::text, 'INSERT'), \
     (SELECT min(c.oid::regclass::text) FROM pg_attrdef a \
     JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = a.oid \
     JOIN pg_class c ON d.refclassid = 'pg_class'::regclass AND c.oid = d.refobjid \
     WHERE a.adrelid = $1::text::regclass \
     AND CASE c.relkind WHEN 'S' THEN NOT has_sequence_privilege(c.oid, 'USAGE, UPDATE') END), \
     has_column_privilege($1::text, $2::text, 'SELECT'), \
     (SELECT c.relkind IN ('r', 'p') AND NOT c.relhasrules AND NOT c.relrowsecurity \
     AND NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal) \
     FROM pg_class c WHERE c.oid = $1::text::regclass)";

/// Counts the rows of each value that are not older than the horizon. A row's transaction number has
/// 32 bits and wraps around; what lies up to half the circle ahead of the horizon is newer. Frozen
/// rows keep their number.
fn lookup_sql(table: &str, column: &str) -> String {
    format!(
        "SELECT {column}::text, count(*) FROM {table} WHERE {column} = ANY($1) \
         AND (xmin::text::int8 - ($2::int8 & 4294967295) + 4294967296) % 4294967296 < 2147483648 \
         GROUP BY 1"
    )
}

/// One backend of one server, for certain: process numbers are used again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct Backend {
    pid: i32,
    started: String,
    server_started: String,
}

/// How, and whether, the table can be asked for what was stored.
#[derive(Clone, Debug)]
pub(in crate::store) struct Lookup {
    /// The query; its parameters are the values and the horizon.
    pub(in crate::store) sql: String,
    /// True where the role may read the column.
    pub(in crate::store) may_select: bool,
    /// True where nothing can hide or change what is inserted.
    pub(in crate::store) plain: bool,
}

/// Makes connections to one server.
pub(super) struct Connector {
    pub(super) address: Address,
    /// The table as SQL.
    pub(super) table: String,
    /// The column's name, not quoted.
    pub(super) column: String,
    tls: MakeRustlsConnect,
    insert: String,
    lookup: String,
    statement_timeout: Duration,
    /// True once a pooler was met that takes no options.
    takes_no_options: AtomicBool,
}

/// A connection that is ready to insert.
pub(in crate::store) struct Link {
    client: Client,
    statement: Option<Statement>,
    backend: Option<Backend>,
    horizon: i64,
    insert: String,
    unprepared: AtomicBool,
    closed: CancellationToken,
    driver: Driver,
}

/// The task that moves bytes; it ends with its link.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Connector {
    /// Reads certificates and names; connects to nothing.
    pub(super) fn new(address: &Address, options: &Options) -> Result<Self, Fault> {
        let table = TableName::parse(&options.table).map_err(|error| {
            Fault::new(
                Kind::InvalidArgument {
                    argument: "table".to_owned(),
                    expected: "table or schema.table".to_owned(),
                },
                error,
            )
        })?;
        let (table, column) = (table.to_sql(), quote_identifier(&options.column));
        Ok(Self {
            tls: tls::connector(address)?,
            insert: format!("INSERT INTO {table} ({column}) VALUES ($1)"),
            lookup: lookup_sql(&table, &column),
            takes_no_options: AtomicBool::new(false),
            address: address.clone(),
            table,
            column: options.column.clone(),
            statement_timeout: options.statement_timeout,
        })
    }

    /// A new connection, set up and with the INSERT prepared.
    pub(super) async fn link(&self) -> Result<Link, Fault> {
        self.reach(false).await.map(|(link, _)| link)
    }

    /// The first connection; looks too whether the server takes writes, whether the role may insert,
    /// and how the table can be asked for what was stored.
    pub(super) async fn first_link(&self) -> Result<(Link, Lookup), Fault> {
        let (link, seen) = self.reach(true).await?;
        let mut lookup = Lookup {
            sql: self.lookup.clone(),
            may_select: false,
            plain: false,
        };
        if let Some(row) = seen {
            self.judge(&row)?;
            let is_true =
                |index| row.try_get::<_, Option<bool>>(index).ok().flatten() == Some(true);
            lookup.may_select = is_true(3);
            lookup.plain = is_true(4);
        }
        Ok((link, lookup))
    }

    async fn reach(&self, look: bool) -> Result<(Link, Option<Row>), Fault> {
        let limit = self.address.connect_timeout;
        match tokio::time::timeout(limit, self.connect(look)).await {
            Ok(reached) => reached.map_err(|error| self.refusal(&error)),
            Err(_) => Err(self.timed_out()),
        }
    }

    async fn connect(&self, look: bool) -> Result<(Link, Option<Row>), Error> {
        let first = match self.address.sslmode {
            _ if self.address.is_socket() => Tls::Disable,
            SslMode::Disable | SslMode::Allow => Tls::Disable,
            SslMode::Prefer => Tls::Prefer,
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => Tls::Require,
        };
        // libpq's second attempt: where `allow` is refused without TLS, and `prefer` with it.
        let second = match self.address.sslmode {
            _ if self.address.is_socket() => None,
            SslMode::Allow => Some(Tls::Require),
            SslMode::Prefer => Some(Tls::Disable),
            _ => None,
        };
        match (self.try_with(first, look).await, second) {
            (Err(error), Some(second)) if is_about_tls(&error) => {
                // The first refusal says more than that of a fallback.
                self.try_with(second, look).await.map_err(|_| error)
            }
            (result, _) => result,
        }
    }

    /// Connects, and once more without options where a pooler refuses them.
    async fn try_with(&self, mode: Tls, look: bool) -> Result<(Link, Option<Row>), Error> {
        match self.connect_with(mode, look).await {
            Err(error) if refuses_options(&error) && !self.sends_no_options() => {
                self.takes_no_options.store(true, Ordering::Relaxed);
                self.connect_with(mode, look).await
            }
            result => result,
        }
    }

    fn sends_no_options(&self) -> bool {
        self.takes_no_options.load(Ordering::Relaxed)
    }

    async fn connect_with(&self, mode: Tls, look: bool) -> Result<(Link, Option<Row>), Error> {
        let mut config = Config::new();
        config
            .host(&self.address.host)
            .port(self.address.port)
            .user(&self.address.user)
            .dbname(&self.address.name)
            .application_name("token_service")
            .ssl_mode(mode)
            .keepalives_idle(SILENT_PEER / 2)
            .keepalives_interval(SILENT_PEER / 5)
            .keepalives_retries(3)
            .tcp_user_timeout(SILENT_PEER);
        // A setting that travels with the connection: a backend that knows it is at its other end.
        // A pooler drops it or refuses it, and hides which backend does what.
        let mark = uuid::Uuid::now_v7().simple().to_string();
        if !self.sends_no_options() {
            config.options(format!("-c token_service.connection={mark}"));
        }
        if let Some(password) = &self.address.password {
            config.password(password.expose_secret());
        }
        let (client, mut connection) = config.connect(self.tls.clone()).await?;
        let closed = CancellationToken::new();
        let guard = closed.clone().drop_guard();
        let driver = tokio::spawn(async move {
            let _closes = guard;
            // Notices may hold what a trigger says of a row: nobody listens to them.
            while let Some(Ok(_)) = poll_fn(|cx| connection.poll_message(cx)).await {}
        });
        let mut link = Link {
            client,
            statement: None,
            backend: None,
            horizon: 0,
            insert: self.insert.clone(),
            unprepared: AtomicBool::new(false),
            closed,
            driver: Driver(driver),
        };
        let timeout = milliseconds(self.statement_timeout).to_string();
        let set_up = [(&timeout as _, Type::TEXT)];
        let looked = async {
            let params = [
                (&self.table as _, Type::TEXT),
                (&self.column as _, Type::TEXT),
            ];
            if look {
                link.client.query_typed(LOOK, &params).await.map(Some)
            } else {
                Ok(None)
            }
        };
        // All travel together: one round trip.
        let (set_up, prepared, looked) = tokio::join!(
            link.client.query_typed(SET_UP, &set_up),
            link.client.prepare_typed(&self.insert, &[Type::TEXT]),
            looked,
        );
        if let Some(row) = set_up?.first() {
            link.horizon = row.try_get(6)?;
            if row.try_get::<_, Option<&str>>(2)? == Some(mark.as_str()) {
                link.backend = backend_of(row)?;
            }
        }
        match prepared {
            Ok(statement) => link.statement = Some(statement),
            Err(error) if is_pooler(&error) => link.unprepared = AtomicBool::new(true),
            Err(error) => return Err(error),
        }
        let seen = looked?.and_then(|rows| rows.into_iter().next());
        Ok((link, seen))
    }
}

/// A timeout as the server's settings have it: zero is none, and so nothing else may become zero.
fn milliseconds(timeout: Duration) -> i32 {
    if timeout.is_zero() {
        return 0;
    }
    i32::try_from(timeout.as_millis()).map_or(i32::MAX, |most| most.max(1))
}

/// True where the other kind of connection, with or without TLS, may be let in.
fn is_about_tls(error: &Error) -> bool {
    match error.as_db_error() {
        Some(db) => db.code().code().starts_with("28"),
        None => chain(error).iter().any(|cause| cause.contains("TLS")),
    }
}

/// True where a pooler takes no options at the start (PgBouncer says so with 08P01).
fn refuses_options(error: &Error) -> bool {
    error
        .as_db_error()
        .is_some_and(|db| db.code().code() == "08P01" && db.message().contains("parameter"))
}

fn backend_of(row: &Row) -> Result<Option<Backend>, Error> {
    let started: Option<String> = row.try_get(4)?;
    Ok(match started {
        Some(started) => Some(Backend {
            pid: row.try_get(3)?,
            started,
            server_started: row.try_get(5)?,
        }),
        None => None,
    })
}

fn is_pooler(error: &Error) -> bool {
    error
        .as_db_error()
        .is_some_and(|db| class_of(db.code().code(), true, None) == Class::Unprepared)
}

/// True where the server's verdict concerns the statement and not the connection.
pub(super) fn is_error(db: &tokio_postgres::error::DbError) -> bool {
    db.parsed_severity().map_or_else(
        || db.severity() == "ERROR",
        |severity| severity == Severity::Error,
    )
}

impl Link {
    /// Sends an INSERT of `text` when first polled; resolves, after the transaction's end, to the
    /// number of rows.
    pub(super) async fn insert(&self, text: &str) -> Result<u64, Error> {
        match &self.statement {
            Some(statement) if !self.unprepared.load(Ordering::Relaxed) => {
                self.client.execute_raw(statement, [text]).await
            }
            _ => {
                let params = [(&text as _, Type::TEXT)];
                self.client.execute_typed(&self.insert, &params).await
            }
        }
    }

    /// The backend at the other end; `None` where a pooler hides it.
    pub(in crate::store) fn backend(&self) -> Option<&Backend> {
        self.backend.as_ref()
    }

    /// The horizon at the time of connecting.
    pub(super) fn horizon(&self) -> i64 {
        self.horizon
    }

    /// Asks for the horizon when first polled: no transaction that is sent afterwards has an older
    /// number.
    pub(super) async fn ask_horizon(&self) -> Result<i64, Error> {
        let rows = self.client.query_typed(HORIZON, &[]).await?;
        match rows.first() {
            Some(row) => row.try_get(0),
            None => Ok(self.horizon),
        }
    }

    /// Tells `old` to end; true where it is gone.
    pub(in crate::store) async fn end_backend(&self, old: &Backend) -> Result<bool, Error> {
        let same_server = self
            .backend()
            .is_some_and(|own| own.server_started == old.server_started);
        if !same_server {
            return Ok(true);
        }
        let params = [(&old.pid as _, Type::INT4), (&old.started as _, Type::TEXT)];
        let rows = self.client.query_typed(END_BACKEND, &params).await?;
        Ok(rows.is_empty())
    }

    /// How many rows there are of each of `values` that are not older than `horizon`.
    pub(in crate::store) async fn count(
        &self,
        sql: &str,
        values: &[&str],
        horizon: i64,
    ) -> Result<HashMap<String, i64>, Error> {
        let params = [
            (&values as _, Type::TEXT_ARRAY),
            (&horizon as _, Type::INT8),
        ];
        let rows = self.client.query_typed(sql, &params).await?;
        rows.iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect()
    }

    /// From now on does without the prepared statement.
    pub(super) fn unprepare(&self) {
        self.unprepared.store(true, Ordering::Relaxed);
    }

    /// True where nothing can be sent any more.
    pub(in crate::store) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Resolves when the connection has ended.
    pub(super) async fn ended(&self) {
        self.closed.cancelled().await;
    }

    /// Takes leave of the server. A link that is dropped instead just hangs up.
    pub(super) async fn close(self) {
        drop(self.statement);
        drop(self.client);
        let mut driver = self.driver;
        let _ = tokio::time::timeout(GOODBYE, &mut driver.0).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_never_becomes_none_by_rounding() {
        assert_eq!(milliseconds(Duration::ZERO), 0);
        assert_eq!(milliseconds(Duration::from_micros(1)), 1);
        assert_eq!(milliseconds(Duration::from_secs(30)), 30_000);
        assert_eq!(milliseconds(Duration::MAX), i32::MAX);
    }
}
