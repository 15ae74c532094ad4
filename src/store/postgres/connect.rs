//! Makes a connection ready for use, and says clearly why it cannot be.
//!
//! One timeout covers TCP, TLS, authentication and the set-up of the session with one address.

use crate::store::postgres::connector::refuses_options;
use crate::store::postgres::connector::{
    ConnectError, ConnectPurpose, Connector, Lookup, SessionFacts, lookup_sql, silence,
};
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use secrecy::ExposeSecret;
use tokio_postgres::Config;
use tokio_postgres::config::SslMode as Tls;
use tokio_util::sync::CancellationToken;

use crate::error::Fault;
use crate::store::identifier::quote_identifier;
use crate::store::postgres::catalog::Catalog;
use crate::store::postgres::connection::{Connection, DriverTask};

use crate::store::postgres::wire::{
    ConnectionMonitor, HostAddress, MonitoredStream, MonitoredTls, Socket,
};
use crate::store::postgres::{Host, SslMode, SslNegotiation};

impl Connector {
    /// A new connection, set up and with the INSERT prepared. It leads to a server that takes
    /// writes: a standby may not yet show what its primary has.
    pub(super) async fn connection(&self) -> Result<Connection, Fault> {
        self.reach(ConnectPurpose::Insert)
            .await
            .map(|(connection, _)| connection)
    }

    /// The first connection; looks too whether the server takes writes, whether the role may insert,
    /// and how the table can be asked for what was stored.
    pub(super) async fn first_connection(&self) -> Result<(Connection, Lookup, Catalog), Fault> {
        let (connection, session) = self.reach(ConnectPurpose::Look).await?;
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
        Ok((connection, lookup, catalog))
    }

    /// Connects to one address of a host within the time that one address may take.
    pub(super) async fn reach_endpoint(
        &self,
        host: &Host,
        endpoint: &HostAddress,
        purpose: ConnectPurpose,
    ) -> Result<NewConnection, Fault> {
        let limit = self.address.connect_timeout;
        // What an earlier attempt left of it says nothing of this one.
        self.is_at_table.store(false, Ordering::Relaxed);
        match tokio::time::timeout(limit, self.connect(host, endpoint, purpose)).await {
            Ok(reached) => {
                reached.map_err(|connect_error| self.connect_error(host, &connect_error))
            }
            Err(_) => Err(self.timed_out(host)),
        }
    }

    async fn connect(
        &self,
        host: &Host,
        endpoint: &HostAddress,
        purpose: ConnectPurpose,
    ) -> Result<NewConnection, ConnectError> {
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
        match (self.try_with(host, endpoint, first, purpose).await, second) {
            (Err(connect_error), Some(second)) if connect_error.is_about_tls() => {
                // The first refusal says more than that of a fallback.
                let second = self.try_with(host, endpoint, second, purpose).await;
                second.map_err(|_| connect_error)
            }
            (result, _) => result,
        }
    }

    /// Connects and sets the session up. If the startup options are refused, connects once more
    /// without the client's own one.
    async fn try_with(
        &self,
        host: &Host,
        endpoint: &HostAddress,
        mode: Tls,
        purpose: ConnectPurpose,
    ) -> Result<NewConnection, ConnectError> {
        // A setting that travels with the connection: a backend that knows it is at its other end.
        // A pooler drops it or refuses it, and hides which backend does what.
        let mark = uuid::Uuid::now_v7().simple().to_string();
        let mut opened = self
            .open(host, endpoint, mode, self.sends_mark().then_some(&mark))
            .await;
        if self.sends_mark() && opened.as_ref().is_err_and(ConnectError::refuses_options) {
            opened = self.open(host, endpoint, mode, None).await;
            let refused = opened.as_ref().is_err_and(ConnectError::refuses_options);
            self.takes_no_mark.store(!refused, Ordering::Relaxed);
        }
        let mut connection = opened.map_err(|connect_error| match connect_error {
            ConnectError::Error(error)
                if self.address.startup_options.is_some() && refuses_options(&error) =>
            {
                ConnectError::Options(error)
            }
            connect_error => connect_error,
        })?;
        match self.set_up(&mut connection, &mark, purpose).await {
            Ok(seen) => Ok((connection, seen)),
            Err(connect_error) => Err(match connection.monitor.violation() {
                Some(violation) => ConnectError::Violation(violation.clone()),
                None => connect_error,
            }),
        }
    }

    fn sends_mark(&self) -> bool {
        !self.takes_no_mark.load(Ordering::Relaxed)
    }

    /// Makes a connection, with `mark` as a setting of it.
    async fn open(
        &self,
        host: &Host,
        endpoint: &HostAddress,
        mode: Tls,
        mark: Option<&String>,
    ) -> Result<Connection, ConnectError> {
        let address = &self.address;
        let mut config = Config::new();
        config
            .user(&address.user)
            .dbname(&address.name)
            .application_name(&self.application)
            .ssl_mode(mode)
            .channel_binding(address.channel_binding);
        if address.sslnegotiation == SslNegotiation::Direct {
            config.ssl_negotiation(tokio_postgres::config::SslNegotiation::Direct);
        }
        let mark = mark.map(|mark| format!("-c token_service.connection={mark}"));
        let options: Vec<&str> = [address.startup_options.as_deref(), mark.as_deref()]
            .into_iter()
            .flatten()
            .collect();
        if !options.is_empty() {
            config.options(options.join(" "));
        }
        if let Some(password) = address.password_for(host).map_err(ConnectError::Password)? {
            config.password(password.expose_secret());
        }
        let monitor = Arc::new(ConnectionMonitor::new(address.require_auth.clone()));
        let socket = Socket::connect(endpoint).await.map_err(ConnectError::Io)?;
        let local_port = socket.local_port();
        let asks_for_tls =
            mode != Tls::Disable && address.sslnegotiation == SslNegotiation::Postgres;
        let stream = MonitoredStream::new(socket, &monitor, asks_for_tls);
        let tls = MonitoredTls::new(&self.tls, &host.name, &monitor);
        let connected = config.connect_raw(stream, tls).await;
        let (client, mut connection) = connected.map_err(|error| match monitor.violation() {
            Some(violation) => ConnectError::Violation(violation.clone()),
            None => ConnectError::Error(error),
        })?;
        let closed = CancellationToken::new();
        let guard = closed.clone().drop_guard();
        let driver = tokio::spawn(async move {
            let _closes = guard;
            while let Some(Ok(_)) = poll_fn(|cx| connection.poll_message(cx)).await {}
        });
        Ok(Connection {
            host: host.clone(),
            client,
            monitor,
            local_port,
            statement: None,
            backend: None,
            horizon: 0,
            round_trip: Duration::MAX,
            insert: self.durable_insert.clone(),
            unprepared: AtomicBool::new(false),
            unreported: AtomicBool::new(false),
            closed,
            driver: DriverTask(driver),
        })
    }
}

/// A connection, and what its server said when it was made.
pub(super) type NewConnection = (Connection, SessionFacts);
