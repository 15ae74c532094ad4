//! Makes a connection ready for use, and says clearly why it cannot be.
//!
//! One timeout a host covers name resolution, TCP, TLS, authentication and the set-up of the session.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::KeyValue;
use secrecy::ExposeSecret;
use tokio_postgres::config::SslMode as Tls;
use tokio_postgres::{Config, Error};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::sync::CancellationToken;

use super::super::name::quote_identifier;
use super::super::sqlstate::code_of;
use super::super::{Options, tls};
use super::catalog::Catalog;
use super::link::{Driver, Link};
use super::setup::Session;
use super::{Address, Host, SslMode};
use crate::fault::{Fault, chain};
use crate::telemetry::Tracer;

/// How long a silent peer is believed to be there.
const SILENT_PEER: Duration = Duration::from_secs(15);
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
/// Without a horizon every row counts.
fn lookup_sql(table: &str, column: &str) -> String {
    format!(
        "SELECT {column}::text, count(*) FROM {table} WHERE {column} = ANY($1) AND ($2 IS NULL \
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
    tls: MakeRustlsConnect,
    /// The INSERT of a session that was set up.
    pub(super) insert: String,
    /// The INSERT of any other: durable by itself.
    durable_insert: String,
    lookup: String,
    /// How the server shows the connections of this run.
    pub(super) application: String,
    pub(super) statement_timeout: Duration,
    /// How long an outage is waited out.
    patience: Duration,
    /// True while the server is asked about the table: only a lock on it keeps the answer back.
    pub(super) is_at_table: AtomicBool,
    /// True once a pooler was met that takes no options.
    takes_no_options: AtomicBool,
    tracer: Tracer,
}

impl Connector {
    /// Reads certificates and names; connects to nothing.
    pub(super) fn new(address: &Address, options: &Options) -> Result<Self, Fault> {
        let (table, column) = (options.table.to_sql(), quote_identifier(&options.column));
        Ok(Self {
            tls: tls::connector(address)?,
            insert: format!("INSERT INTO {table} ({column}) VALUES ($1)"),
            durable_insert: format!(
                "INSERT INTO {table} ({column}) SELECT $1 FROM (SELECT {RAISED_LOCALLY} AS level, \
                 {WARNS_LOCALLY} AS least) AS durable WHERE level IS NOT NULL AND least IS NOT NULL"
            ),
            lookup: lookup_sql(&table, &column),
            application: format!("token_service {}", options.session)
                .trim()
                .to_owned(),
            patience: options.patience,
            is_at_table: AtomicBool::new(false),
            takes_no_options: AtomicBool::new(false),
            address: address.clone(),
            table,
            column: options.column.clone(),
            statement_timeout: options.statement_timeout,
            tracer: options.tracer.clone(),
        })
    }

    /// A new connection, set up and with the INSERT prepared. It leads to a server that takes
    /// writes: a standby may not yet show what its primary has.
    pub(super) async fn link(&self) -> Result<Link, Fault> {
        self.reach(Aim::Insert).await.map(|(link, _)| link)
    }

    /// The first connection; looks too whether the server takes writes, whether the role may insert,
    /// and how the table can be asked for what was stored.
    pub(super) async fn first_link(&self) -> Result<(Link, Lookup, Catalog), Fault> {
        let (link, session) = self.reach(Aim::Look).await?;
        let catalog = session.catalog.unwrap_or_default();
        let lookup = Lookup {
            sql: catalog.base().map_or_else(
                || self.lookup.clone(),
                |(table, column)| lookup_sql(&table, &quote_identifier(&column)),
            ),
            may_look: catalog.may_look(),
            obscured_by: catalog.obscured_by(),
            has_standbys: catalog.has_standbys,
            confirms_within: self.patience,
            answers_within: self.address.connect_timeout,
            looks_within: silence(self.statement_timeout),
        };
        Ok((link, lookup, catalog))
    }

    /// One timeout covers everything that one host may take.
    pub(super) async fn reach_host(&self, host: &Host, aim: Aim) -> Result<Reached, Fault> {
        let span = self.tracer.ask("connect", || {
            vec![
                KeyValue::new("db.system.name", "postgresql"),
                KeyValue::new("db.namespace", self.address.name.clone()),
                KeyValue::new("server.address", host.name.clone()),
                KeyValue::new("server.port", i64::from(host.port)),
            ]
        });
        let limit = self.address.connect_timeout;
        let reached = match tokio::time::timeout(limit, self.connect(host, aim)).await {
            Ok(reached) => reached.map_err(|hitch| self.hitch(host, &hitch)),
            Err(_) => Err(self.timed_out(host)),
        };
        span.end(reached.as_ref().err());
        reached
    }

    async fn connect(&self, host: &Host, aim: Aim) -> Result<Reached, Hitch> {
        let first = match self.address.sslmode {
            _ if host.is_socket() => Tls::Disable,
            SslMode::Disable | SslMode::Allow => Tls::Disable,
            SslMode::Prefer => Tls::Prefer,
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => Tls::Require,
        };
        // libpq's second attempt: where `allow` is refused without TLS, and `prefer` with it.
        let second = match self.address.sslmode {
            _ if host.is_socket() => None,
            SslMode::Allow => Some(Tls::Require),
            SslMode::Prefer => Some(Tls::Disable),
            _ => None,
        };
        match (self.try_with(host, first, aim).await, second) {
            (Err(hitch), Some(second)) if hitch.is_about_tls() => {
                // The first refusal says more than that of a fallback.
                self.try_with(host, second, aim).await.map_err(|_| hitch)
            }
            (result, _) => result,
        }
    }

    /// Connects, and once more without options where a pooler refuses them.
    async fn try_with(&self, host: &Host, mode: Tls, aim: Aim) -> Result<Reached, Hitch> {
        match self.connect_with(host, mode, aim).await {
            Err(hitch) if hitch.refuses_options() && !self.sends_no_options() => {
                self.takes_no_options.store(true, Ordering::Relaxed);
                self.connect_with(host, mode, aim).await
            }
            result => result,
        }
    }

    fn sends_no_options(&self) -> bool {
        self.takes_no_options.load(Ordering::Relaxed)
    }

    async fn connect_with(&self, host: &Host, mode: Tls, aim: Aim) -> Result<Reached, Hitch> {
        let mut config = Config::new();
        config
            .host(&host.name)
            .port(host.port)
            .user(&self.address.user)
            .dbname(&self.address.name)
            .application_name(&self.application)
            .ssl_mode(mode)
            .channel_binding(self.address.channel_binding)
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
        if let Some(password) = self.address.password_for(host).map_err(Hitch::Password)? {
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
            host: host.clone(),
            client,
            statement: None,
            backend: None,
            horizon: 0,
            round_trip: Duration::MAX,
            insert: self.durable_insert.clone(),
            unprepared: AtomicBool::new(false),
            unheard: AtomicBool::new(false),
            closed,
            driver: Driver(driver),
        };
        let session = self.set_up(&mut link, &mark, aim).await?;
        Ok((link, session))
    }
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
pub(super) enum Aim {
    /// To insert.
    Insert,
    /// To insert, and to look first whether the table can be used.
    Look,
    /// To look around only: nothing is prepared.
    Inspect,
}

/// A connection, and what its server said when it was made.
pub(super) type Reached = (Link, Session);

/// Why a host will not do.
pub(super) enum Hitch {
    /// No connection, or none that can insert.
    Error(Error),
    /// It takes no writes.
    ReadOnly,
    /// It is no PostgreSQL that is supported; why.
    Foreign(String),
    /// The table is of no use.
    Table(Fault),
    /// The password cannot be read.
    Password(Fault),
}

impl From<Error> for Hitch {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Hitch {
    /// True where the other kind of connection, with or without TLS, may be let in.
    fn is_about_tls(&self) -> bool {
        let Self::Error(error) = self else {
            return false;
        };
        match error.as_db_error() {
            Some(db) => code_of(db.code().code(), db.message()).starts_with("28"),
            None => chain(error).iter().any(|cause| cause.contains("TLS")),
        }
    }

    /// True where a pooler takes no options at the start (PgBouncer says so with 08P01).
    fn refuses_options(&self) -> bool {
        let Self::Error(error) = self else {
            return false;
        };
        error
            .as_db_error()
            .is_some_and(|db| db.code().code() == "08P01" && db.message().contains("parameter"))
    }
}
