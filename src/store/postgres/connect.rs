//! Makes connections and sets up their sessions.
//!
//! One timeout covers TCP, TLS, authentication and the set-up of the session for each address.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Context;
use std::time::Duration;

use secrecy::ExposeSecret;
use tokio_postgres::Config;
use tokio_postgres::config::SslMode as Tls;
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::pipeline::identifier::quote_identifier;
use crate::store::postgres::catalog::Catalog;
use crate::store::postgres::connector::refuses_options;
use crate::store::postgres::connector::{
    Attempt, ConnectError, ConnectPurpose, Connector, Lookup, SessionFacts, lookup_sql,
    reply_timeout,
};
use crate::store::postgres::insert_sql::InsertForm;
use crate::store::postgres::raw_connection::{DriverTask, RawConnection};
use crate::store::postgres::receipts::PostgresReceipts;
use crate::store::postgres::wire::{
    ConnectionMonitor, HostAddress, LoginSequence, MonitoredStream, MonitoredTls, Socket,
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
        let receipts = self.receipts.clone().zip(session.receipts_table);
        let receipts = receipts.map(|(receipts, table)| {
            let form = if session.needs_transaction {
                InsertForm::InTransaction
            } else {
                InsertForm::WithReceipt
            };
            PostgresReceipts::new(receipts, table, form, catalog.has_foreign())
        });
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
            receipts,
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
        let attempt = Attempt {
            host,
            endpoint,
            purpose,
            is_checking_table: AtomicBool::new(false),
            tries_direct_tls: AtomicBool::new(false),
        };
        let limit = self.address.connect_timeout;
        // Boxed: it is large, and every caller would contain it.
        let connecting = Box::pin(self.connect_with_fallback(&attempt));
        let result = tokio::time::timeout(limit, connecting).await;
        if !matches!(result, Ok(Ok(_))) {
            self.servers.forget(endpoint);
        }
        match result {
            Ok(result) => result.map_err(|connect_error| self.connect_error(host, &connect_error)),
            Err(_) if attempt.is_checking_table.into_inner() => Err(self.reply_timed_out()),
            Err(_) => {
                if attempt.tries_direct_tls.into_inner() {
                    self.refuses_direct_tls.store(true, Ordering::Relaxed);
                }
                Err(self.connect_timed_out(host))
            }
        }
    }

    async fn connect_with_fallback(
        &self,
        attempt: &Attempt<'_>,
    ) -> Result<NewConnection, ConnectError> {
        let negotiation = self.address.sslnegotiation;
        if self.may_start_tls_directly(attempt) {
            attempt.tries_direct_tls.store(true, Ordering::Relaxed);
            let start = TlsStart::last(Tls::Require, SslNegotiation::Direct);
            match self.connect_with(attempt, start).await {
                Err(connect_error) if connect_error.precedes_session() => {
                    tracing::debug!("the server accepts TLS on request only");
                    self.refuses_direct_tls.store(true, Ordering::Relaxed);
                }
                result => return result,
            }
            attempt.tries_direct_tls.store(false, Ordering::Relaxed);
        }
        // As libpq: `allow` falls back to TLS, and `prefer` to no TLS.
        let (first_mode, second_mode) = match self.address.sslmode {
            _ if attempt.host.is_socket() => (Tls::Disable, None),
            SslMode::Disable => (Tls::Disable, None),
            SslMode::Allow => (Tls::Disable, Some(Tls::Require)),
            SslMode::Prefer if self.servers.get(attempt.endpoint).accepts_tls == Some(false) => {
                (Tls::Disable, None)
            }
            SslMode::Prefer => (Tls::Prefer, Some(Tls::Disable)),
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => (Tls::Require, None),
        };
        let Some(second_mode) = second_mode else {
            let start = TlsStart::last(first_mode, negotiation);
            return self.connect_with(attempt, start).await;
        };
        let start = TlsStart {
            mode: first_mode,
            negotiation,
            has_fallback: true,
        };
        match self.connect_with(attempt, start).await {
            // Without TLS a second attempt would be the same as the first.
            Err(connect_error)
                if connect_error.may_depend_on_tls()
                    && !(first_mode == Tls::Prefer
                        && self.servers.get(attempt.endpoint).accepts_tls == Some(false)) =>
            {
                // The first error is more helpful than that of the fallback.
                let start = TlsStart::last(second_mode, negotiation);
                let fallback = self.connect_with(attempt, start).await;
                fallback.map_err(|_| connect_error)
            }
            result => result,
        }
    }

    /// Returns true if TLS is required, and the server is known to accept its direct start.
    fn may_start_tls_directly(&self, attempt: &Attempt<'_>) -> bool {
        let is_required = matches!(
            self.address.sslmode,
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull
        );
        is_required
            && !attempt.host.is_socket()
            && self.address.sslnegotiation == SslNegotiation::Postgres
            && !self.refuses_direct_tls.load(Ordering::Relaxed)
            && self.servers.get(attempt.endpoint).agrees_on_protocol
    }

    /// Connects and sets up the session.
    async fn connect_with(
        &self,
        attempt: &Attempt<'_>,
        start: TlsStart,
    ) -> Result<NewConnection, ConnectError> {
        let (mut connection, mut marker) = self.open_with_marker(attempt, start).await?;
        let mut session = self
            .identify_and_set_up(&mut connection, &marker, attempt)
            .await;
        if matches!(session, Err(ConnectError::Pooler)) {
            // Ends the connection, and so the pooler's use of what was prepared.
            drop(connection);
            (connection, marker) = self.open_with_marker(attempt, start).await?;
            session = self
                .identify_and_set_up(&mut connection, &marker, attempt)
                .await;
        }
        match session {
            Ok(session) => Ok((connection, session)),
            Err(connect_error) => Err(match connection.monitor.violation() {
                Some(violation) => ConnectError::Violation(violation.clone()),
                None => connect_error,
            }),
        }
    }

    async fn identify_and_set_up(
        &self,
        connection: &mut RawConnection,
        marker: &str,
        attempt: &Attempt<'_>,
    ) -> Result<SessionFacts, ConnectError> {
        if attempt.purpose == ConnectPurpose::InsertEarly {
            self.first.is_identified.cancelled().await;
        }
        self.set_up(connection, marker, attempt).await
    }

    /// Connects; returns the marker that identifies the backend.
    ///
    /// If the startup options are refused, connects once more without the one that the client adds.
    async fn open_with_marker(
        &self,
        attempt: &Attempt<'_>,
        start: TlsStart,
    ) -> Result<(RawConnection, String), ConnectError> {
        // A custom setting in the startup packet: a backend that knows it is connected directly. A
        // pooler drops or refuses it.
        let marker = uuid::Uuid::now_v7().simple().to_string();
        let mut opened = self
            .open(attempt, start, self.sends_marker().then_some(&marker))
            .await;
        if self.sends_marker() && opened.as_ref().is_err_and(ConnectError::refuses_options) {
            opened = self.open(attempt, start, None).await;
            let refused = opened.as_ref().is_err_and(ConnectError::refuses_options);
            self.refuses_marker.store(!refused, Ordering::Relaxed);
        }
        let connection = opened.map_err(|connect_error| match connect_error {
            ConnectError::Server(error)
                if self.address.startup_options.is_some() && refuses_options(&error) =>
            {
                ConnectError::StartupOptions(error)
            }
            connect_error => connect_error,
        })?;
        Ok((connection, marker))
    }

    /// Returns false once a pooler has refused the startup option.
    pub(super) fn sends_marker(&self) -> bool {
        !self.refuses_marker.load(Ordering::Relaxed)
    }

    /// Returns which login waits for this one, and for which this one waits.
    fn login_sequence(&self, purpose: ConnectPurpose, start: TlsStart) -> LoginSequence {
        let first = &self.first;
        let requested = Some(first.auth_requested.clone());
        match purpose {
            ConnectPurpose::InsertEarly => LoginSequence {
                may_log_in: Some(first.is_accepted.clone()),
                ..LoginSequence::default()
            },
            ConnectPurpose::InsertAndCheck if !start.has_fallback => LoginSequence {
                auth_requested: requested,
                ..LoginSequence::default()
            },
            ConnectPurpose::InsertAndCheck if start.mode == Tls::Prefer => LoginSequence {
                auth_requested_without_tls: requested,
                ..LoginSequence::default()
            },
            _ => LoginSequence::default(),
        }
    }

    /// Connects with `marker` as a startup option.
    async fn open(
        &self,
        attempt: &Attempt<'_>,
        start: TlsStart,
        marker: Option<&String>,
    ) -> Result<RawConnection, ConnectError> {
        let (address, host) = (&self.address, attempt.host);
        let mut config = Config::new();
        config
            .user(&address.user)
            .dbname(&address.name)
            .application_name(&self.application_name)
            .ssl_mode(start.mode)
            .channel_binding(address.channel_binding);
        let is_direct = start.negotiation == SslNegotiation::Direct;
        if is_direct {
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
        let login = self.login_sequence(attempt.purpose, start);
        let monitor = Arc::new(ConnectionMonitor::new(address.require_auth.clone(), login));
        let is_first = attempt.purpose == ConnectPurpose::InsertAndCheck;
        if is_first {
            self.first.begin(attempt.endpoint, &monitor);
        }
        let socket = Socket::connect(attempt.endpoint).await;
        let socket = socket.map_err(ConnectError::Io)?;
        let local_port = socket.local_port();
        let reply_threshold = socket.reply_threshold().map(Arc::new);
        let asks_for_tls = start.mode != Tls::Disable && !is_direct;
        let stream = MonitoredStream::new(socket, &monitor, asks_for_tls);
        let tls = MonitoredTls::new(&self.tls, &host.name, &monitor, is_direct);
        let connected = config.connect_raw(stream, tls).await;
        self.servers
            .learn(attempt.endpoint, |facts| facts.learn_tls(&monitor));
        let (client, mut connection) = connected.map_err(|error| match monitor.violation() {
            Some(violation) => ConnectError::Violation(violation.clone()),
            None => ConnectError::Server(error),
        })?;
        if is_first {
            self.first.auth_requested.cancel();
            self.first.is_accepted.cancel();
        }
        let closed = CancellationToken::new();
        let guard = closed.clone().drop_guard();
        let threshold = reply_threshold.clone();
        let driver = tokio::spawn(async move {
            let _closes = guard;
            let mut check = pin!(tokio::time::sleep(Duration::ZERO));
            let mut next = |cx: &mut Context<'_>| {
                let message = connection.poll_message(cx);
                if let Some(threshold) = &threshold {
                    threshold.poll_delay(cx, check.as_mut());
                }
                message
            };
            while let Some(Ok(_)) = poll_fn(&mut next).await {}
        });
        Ok(RawConnection {
            host: host.clone(),
            endpoint: attempt.endpoint.clone(),
            client,
            round_trip: monitor.round_trip(),
            monitor,
            local_port,
            statement: None,
            backend: None,
            horizon: 0,
            sql: Arc::clone(&self.sql),
            unprepared: AtomicBool::new(false),
            awaits_reply: AtomicBool::new(false),
            closed,
            reply_threshold,
            driver: DriverTask(driver),
        })
    }
}

/// How a connection starts TLS.
#[derive(Clone, Copy)]
struct TlsStart {
    mode: Tls,
    negotiation: SslNegotiation,
    /// True if another attempt may follow that starts differently.
    has_fallback: bool,
}

impl TlsStart {
    /// The last attempt.
    fn last(mode: Tls, negotiation: SslNegotiation) -> Self {
        Self {
            mode,
            negotiation,
            has_fallback: false,
        }
    }
}

/// A connection and the facts that its set-up found.
pub(super) type NewConnection = (RawConnection, SessionFacts);

/// The first connection, and what it found.
pub(super) struct FirstConnection {
    pub(super) connection: RawConnection,
    pub(super) lookup: Lookup,
    /// The receipts, if they are written.
    pub(super) receipts: Option<PostgresReceipts>,
    pub(super) catalog: Catalog,
    /// True if a pooler shares the backend with other clients.
    pub(super) is_shared: bool,
    /// How many connections the run can have, this one included; `None` if that is unknown.
    pub(super) free_connections: Option<u32>,
}
