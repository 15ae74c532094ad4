//! Makes connections and sets up their sessions.
//!
//! One timeout covers TCP, TLS, authentication and the set-up of the session for each address.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use secrecy::ExposeSecret;
use tokio_postgres::Config;
use tokio_postgres::config::SslMode as Tls;
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::store::identifier::quote_identifier;
use crate::store::postgres::catalog::Catalog;
use crate::store::postgres::connector::refuses_options;
use crate::store::postgres::connector::{
    ConnectError, ConnectPurpose, Connector, Lookup, SessionFacts, lookup_sql, reply_timeout,
};
use crate::store::postgres::raw_connection::{DriverTask, RawConnection};
use crate::store::postgres::wire::{
    ConnectionMonitor, HostAddress, MonitoredStream, MonitoredTls, Socket,
};
use crate::store::postgres::{Host, SslMode, SslNegotiation};

impl Connector {
    /// Makes a connection with the session set up and the INSERT prepared.
    ///
    /// The server accepts writes: a standby may not yet show what its primary committed.
    pub(super) async fn connect(&self) -> Result<RawConnection, Error> {
        self.connect_to_any_host(ConnectPurpose::Insert)
            .await
            .map(|(connection, _)| connection)
    }

    /// Makes the first connection, and checks the table, the role's rights and how stored tokens
    /// can be looked up.
    pub(super) async fn connect_first(&self) -> Result<FirstConnection, Error> {
        let (connection, session) = self
            .connect_to_any_host(ConnectPurpose::InsertAndCheck)
            .await?;
        let catalog = session.catalog.unwrap_or_default();
        let lookup = Lookup {
            sql: catalog.base_sql().map_or_else(
                || self.lookup.clone(),
                |(table, column)| lookup_sql(&table, &quote_identifier(&column)),
            ),
            may_look_up: catalog.may_look_up(),
            obstacle: catalog.lookup_obstacle(),
            has_standbys: catalog.has_standbys,
            confirm_timeout: self.patience,
            control_timeout: self.address.connect_timeout,
            query_timeout: reply_timeout(self.statement_timeout),
        };
        Ok(FirstConnection {
            connection,
            lookup,
            catalog,
            is_shared: session.is_shared,
            free_connections: session.free_connections,
        })
    }

    /// Connects to one address of a host within `connect_timeout`.
    pub(super) async fn connect_to_endpoint(
        &self,
        host: &Host,
        endpoint: &HostAddress,
        purpose: ConnectPurpose,
    ) -> Result<NewConnection, Error> {
        let limit = self.address.connect_timeout;
        // An earlier attempt may have left it set.
        self.is_checking_table.store(false, Ordering::Relaxed);
        match tokio::time::timeout(limit, self.connect_with_fallback(host, endpoint, purpose)).await
        {
            Ok(result) => result.map_err(|connect_error| self.connect_error(host, &connect_error)),
            Err(_) => Err(self.connect_timed_out(host)),
        }
    }

    async fn connect_with_fallback(
        &self,
        host: &Host,
        endpoint: &HostAddress,
        purpose: ConnectPurpose,
    ) -> Result<NewConnection, ConnectError> {
        let first_mode = match self.address.sslmode {
            _ if host.is_socket() => Tls::Disable,
            SslMode::Disable | SslMode::Allow => Tls::Disable,
            SslMode::Prefer => Tls::Prefer,
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => Tls::Require,
        };
        // As libpq: `allow` falls back to TLS, and `prefer` to no TLS.
        let second_mode = match self.address.sslmode {
            _ if host.is_socket() => None,
            SslMode::Allow => Some(Tls::Require),
            SslMode::Prefer => Some(Tls::Disable),
            _ => None,
        };
        match (
            self.connect_with(host, endpoint, first_mode, purpose).await,
            second_mode,
        ) {
            (Err(connect_error), Some(second_mode)) if connect_error.may_depend_on_tls() => {
                // The first error is more helpful than that of the fallback.
                let fallback = self
                    .connect_with(host, endpoint, second_mode, purpose)
                    .await;
                fallback.map_err(|_| connect_error)
            }
            (result, _) => result,
        }
    }

    /// Connects and sets up the session.
    ///
    /// If the startup options are refused, connects once more without the one that the client adds.
    async fn connect_with(
        &self,
        host: &Host,
        endpoint: &HostAddress,
        mode: Tls,
        purpose: ConnectPurpose,
    ) -> Result<NewConnection, ConnectError> {
        // A custom setting in the startup packet: a backend that knows it is connected directly. A
        // pooler drops or refuses it.
        let marker = uuid::Uuid::now_v7().simple().to_string();
        let mut opened = self
            .open(host, endpoint, mode, self.sends_marker().then_some(&marker))
            .await;
        if self.sends_marker() && opened.as_ref().is_err_and(ConnectError::refuses_options) {
            opened = self.open(host, endpoint, mode, None).await;
            let refused = opened.as_ref().is_err_and(ConnectError::refuses_options);
            self.refuses_marker.store(!refused, Ordering::Relaxed);
        }
        let mut connection = opened.map_err(|connect_error| match connect_error {
            ConnectError::Server(error)
                if self.address.startup_options.is_some() && refuses_options(&error) =>
            {
                ConnectError::StartupOptions(error)
            }
            connect_error => connect_error,
        })?;
        match self.set_up(&mut connection, &marker, purpose).await {
            Ok(session) => Ok((connection, session)),
            Err(connect_error) => Err(match connection.monitor.violation() {
                Some(violation) => ConnectError::Violation(violation.clone()),
                None => connect_error,
            }),
        }
    }

    fn sends_marker(&self) -> bool {
        !self.refuses_marker.load(Ordering::Relaxed)
    }

    /// Connects with `marker` as a startup option.
    async fn open(
        &self,
        host: &Host,
        endpoint: &HostAddress,
        mode: Tls,
        marker: Option<&String>,
    ) -> Result<RawConnection, ConnectError> {
        let address = &self.address;
        let mut config = Config::new();
        config
            .user(&address.user)
            .dbname(&address.name)
            .application_name(&self.application_name)
            .ssl_mode(mode)
            .channel_binding(address.channel_binding);
        if address.sslnegotiation == SslNegotiation::Direct {
            config.ssl_negotiation(tokio_postgres::config::SslNegotiation::Direct);
        }
        let marker = marker.map(|marker| format!("-c token_service.connection={marker}"));
        let options: Vec<&str> = [address.startup_options.as_deref(), marker.as_deref()]
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
            None => ConnectError::Server(error),
        })?;
        let closed = CancellationToken::new();
        let guard = closed.clone().drop_guard();
        let driver = tokio::spawn(async move {
            let _closes = guard;
            while let Some(Ok(_)) = poll_fn(|cx| connection.poll_message(cx)).await {}
        });
        Ok(RawConnection {
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
            awaits_reply: AtomicBool::new(false),
            closed,
            driver: DriverTask(driver),
        })
    }
}

/// A connection and the facts that its set-up found.
pub(super) type NewConnection = (RawConnection, SessionFacts);

/// The first connection, and what it found.
pub(super) struct FirstConnection {
    pub(super) connection: RawConnection,
    pub(super) lookup: Lookup,
    pub(super) catalog: Catalog,
    /// True if a pooler shares the backend with other clients.
    pub(super) is_shared: bool,
    /// How many connections the role can use, this one included; `None` if that is unknown.
    pub(super) free_connections: Option<u32>,
}
