//! A PostgreSQL database for the writer: opens it, and makes its connections.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::error::{Error, ErrorKind};
use crate::store::StoreOptions;
use crate::store::connection::Database;
use crate::store::connection_count::{ConnectionCount, FreeConnections, MOST};
use crate::store::in_flight_log::{InFlightLog, SnapshotInterval};
use crate::store::pool::{Pool, connections_for, is_denied, is_wrong_password};
use crate::store::postgres::Address;
use crate::store::postgres::connect::FirstConnection;
use crate::store::postgres::connector::{Connector, reply_timeout};
use crate::store::postgres::early::EarlyConnections;
use crate::store::postgres::progress::ServerProgress;
use crate::store::postgres::raw_connection::{Backend, RawConnection};
use crate::store::postgres::receipts::SessionNames;
use crate::store::postgres::recheck::recheck;
use crate::store::postgres::shared::PostgresShared;
use crate::store::postgres::stall_monitor::watch;
use crate::store::postgres::writer_connection::PostgresConnection;
use crate::store::queue::Queue;
use crate::store::receipts::{EarlierReceipts, ProcessStart};

/// The longest wait for the reply to a query of the horizon.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(5);

/// A PostgreSQL database whose table was checked.
pub(in crate::store) struct PostgresDatabase {
    shared: Arc<PostgresShared>,
    /// The configured number of connections; `None` to find the best one.
    connections: Option<usize>,
    /// The most connections that are chosen.
    most_connections: usize,
    /// The expected number of tokens.
    expected: u64,
    /// The horizon and the backend of the first connection.
    horizon: i64,
    first_backend: Option<Backend>,
    early: EarlyConnections,
    /// The connection that queries the horizon of each run, if several runs share the store.
    control: Mutex<Option<RawConnection>>,
}

/// Makes the first connection, checks the table and starts the writers.
pub(in crate::store) async fn open(
    address: &Address,
    options: &StoreOptions,
    queue: &Arc<Queue>,
) -> Result<Pool<PostgresDatabase>, Error> {
    let connector = Arc::new(Connector::new(address, options)?);
    let log = Arc::new(InFlightLog::new(options.connections.unwrap_or(MOST)));
    let expected = usize::try_from(options.expected).unwrap_or(usize::MAX);
    // With several hosts, the first one that responds may not be the one that is used.
    let early_count = match address.hosts.len() {
        1 => {
            let unknown = || FreeConnections::default().share(options.processes);
            connections_for(expected, options.connections.unwrap_or_else(unknown)) - 1
        }
        _ => 0,
    };
    let early = EarlyConnections::open(&connector, &log, early_count);
    let FirstConnection {
        connection,
        lookup,
        receipts,
        catalog,
        is_shared,
        free_connections,
    } = tokio::select! {
        biased;
        () = queue.shutdown.stopping().cancelled() => Err(Error::of(
            ErrorKind::DbConnect,
            "the run was stopped before the database answered",
        )),
        first = connector.connect_first() => first,
    }?;
    tracing::debug!(is_shared, free_connections, "the database can be used");
    for warning in catalog.warnings(receipts.is_some()) {
        tracing::warn!("{warning}");
    }
    let free = FreeConnections {
        free: free_connections,
        is_pooled: is_shared,
    };
    let most_connections = free.share(options.processes);
    let most = options.connections.unwrap_or(most_connections);
    early.limit(early_count.min(most.saturating_sub(1))).await;
    let shared = Arc::new(PostgresShared {
        connector,
        queue: Arc::clone(queue),
        log: Arc::clone(&log),
        is_dry_run: options.dry_run,
        pipeline: options.pipeline.map(|depth| depth.max(1)),
        lookup,
        receipts,
        length_limit: catalog.length_limit(),
        catalog,
        progress: ServerProgress::new(),
        patience: options.patience,
    });
    let database = PostgresDatabase {
        connections: options.connections,
        most_connections,
        // A store of many runs may get more at any time.
        expected: if options.is_shared() {
            u64::MAX
        } else {
            options.expected
        },
        horizon: connection.horizon,
        first_backend: connection.backend().cloned(),
        early,
        control: Mutex::default(),
        shared: Arc::clone(&shared),
    };
    let snapshot = SnapshotInterval {
        from: 0,
        to: log.tick(),
    };
    let first = PostgresConnection::new(connection, shared, snapshot);
    Ok(Pool::start(database, first, log, queue, options))
}

impl Database for PostgresDatabase {
    type Connection = PostgresConnection;

    async fn connect(&self) -> Result<PostgresConnection, Error> {
        let shared = &self.shared;
        let address = &shared.connector.address;
        match self.early.next().await {
            Some(Ok((connection, snapshot))) => {
                let shared = Arc::clone(shared);
                return Ok(PostgresConnection::new(connection, shared, snapshot));
            }
            // The first connection may have found another address, or a new password.
            Some(Err(error)) if !is_denied(&error) => return Err(error),
            Some(Err(_)) | None => {}
        }
        loop {
            let password = address.password_version();
            let from = shared.log.tick();
            match shared.connector.connect().await {
                Ok(connection) => {
                    let to = shared.log.tick();
                    return Ok(PostgresConnection::new(
                        connection,
                        Arc::clone(shared),
                        SnapshotInterval { from, to },
                    ));
                }
                // A password in a file may be replaced soon: the refusal is not final.
                Err(error) if password.is_some() && is_wrong_password(&error) => {
                    if address.password_version() == password {
                        return Err(error.retryable());
                    }
                    tracing::info!("the password changed; reconnecting");
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn connection_count(&self) -> ConnectionCount {
        self.connections.map_or_else(
            || ConnectionCount::auto(self.most_connections, self.expected),
            ConnectionCount::fixed,
        )
    }

    fn reply_timeout(&self) -> Option<Duration> {
        Some(reply_timeout(self.shared.connector.statement_timeout))
    }

    fn loss(&self, token: &str) -> Option<&'static str> {
        self.shared.length_limit.loss(token)
    }

    async fn watch(&self) {
        watch(&self.shared).await;
    }

    fn horizon(&self) -> Option<i64> {
        Some(self.horizon)
    }

    async fn current_horizon(&self) -> Result<Option<i64>, Error> {
        let connector = &self.shared.connector;
        let mut control = self.control.lock().await;
        if let Some(connection) = &*control
            && let Ok(horizon) = timeout(CONTROL_TIMEOUT, connection.query_horizon()).await
            && let Ok(horizon) = horizon
        {
            return Ok(Some(horizon));
        }
        // It was lost, or this is the first run.
        *control = None;
        let connection = control.insert(connector.connect().await?);
        Ok(Some(connection.horizon))
    }

    async fn verify(&self) -> Result<bool, Error> {
        let FirstConnection {
            connection,
            catalog,
            ..
        } = self.shared.connector.connect_first().await?;
        connection.close().await;
        Ok(catalog.is_same(&self.shared.catalog))
    }

    fn waits_for(&self) -> Option<&'static str> {
        self.shared.progress.wait_clause()
    }

    async fn read_receipts(&self, start: Option<ProcessStart>) -> Result<EarlierReceipts, Error> {
        let shared = &self.shared;
        let Some(receipts) = &shared.receipts else {
            return Ok(EarlierReceipts::default());
        };
        let connector = &shared.connector;
        let connection = connector.connect().await?;
        let refused = |error| connector.refusal(&connection.host, &error);
        let names = SessionNames {
            run: &connector.run_name,
            own: &connector.application_name,
        };
        let earlier = receipts.begin(&connection, names, start, refused).await?;
        connection.close().await;
        Ok(earlier)
    }

    async fn recheck(
        &self,
        values: &[String],
        horizon: Option<i64>,
    ) -> Result<HashMap<String, u64>, Error> {
        recheck(&self.shared, self.first_backend.as_ref(), values, horizon).await
    }
}
