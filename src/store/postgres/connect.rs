//! Makes a connection ready for use, and says clearly why it cannot be.
//!
//! One timeout covers name resolution, TCP, TLS, authentication and the first round trip, in which
//! the session is set up and the INSERT prepared.

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

/// Raises `synchronous_commit` to `on` where it is lower, never lowers it; names the limits.
const SET_UP: &str = "SELECT set_config('synchronous_commit', CASE \
     current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, \
     false), set_config('statement_timeout', $1, false)";

/// What `look` wants to know before a token is asked for.
const LOOK: &str = "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on', \
     has_column_privilege($1::text, $2::text, 'INSERT'), \
     (SELECT min(c.oid::regclass::text) FROM pg_attrdef a \
     JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = a.oid \
     JOIN pg_class c ON d.refclassid = 'pg_class'::regclass AND c.oid = d.refobjid \
     WHERE a.adrelid = $1::text::regclass \
     AND CASE c.relkind WHEN 'S' THEN NOT has_sequence_privilege(c.oid, 'USAGE, UPDATE') END)";

/// Makes connections to one server.
pub(super) struct Connector {
    pub(super) address: Address,
    /// The table as SQL.
    pub(super) table: String,
    /// The column's name, not quoted.
    pub(super) column: String,
    tls: MakeRustlsConnect,
    insert: String,
    statement_timeout: Duration,
}

/// A connection that is ready to insert.
pub(super) struct Link {
    client: Client,
    statement: Option<Statement>,
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

    /// The first connection; looks too whether the server takes writes and the role may insert.
    pub(super) async fn first_link(&self) -> Result<Link, Fault> {
        let (link, seen) = self.reach(true).await?;
        match seen {
            Some(row) => self.judge(&row).map(|()| link),
            None => Ok(link),
        }
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
        match (self.connect_with(first, look).await, second) {
            (Err(error), Some(second)) if is_about_tls(&error) => {
                // The first refusal says more than that of a fallback.
                self.connect_with(second, look).await.map_err(|_| error)
            }
            (result, _) => result,
        }
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
        set_up?;
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

    /// From now on does without the prepared statement.
    pub(super) fn unprepare(&self) {
        self.unprepared.store(true, Ordering::Relaxed);
    }

    /// True where nothing can be sent any more.
    pub(super) fn is_closed(&self) -> bool {
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
