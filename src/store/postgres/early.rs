//! Opens connections while the first one is still logging in and checking the table.
//!
//! To a distant server this saves half of the time until all connections work. A server that is down
//! still sees one client: the others follow when the server has requested the first one's
//! authentication. They send the password after that one was accepted, so a wrong password is tried
//! once. They set up their sessions when the first one knows whether a pooler is in between.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::store::in_flight_log::{InFlightLog, SnapshotInterval};
use crate::store::postgres::connector::Connector;
use crate::store::postgres::known_servers::ServerFacts;
use crate::store::postgres::raw_connection::RawConnection;
use crate::store::postgres::wire::{ConnectionMonitor, HostAddress};

/// The progress of a run's first connection.
#[derive(Default)]
pub(super) struct FirstLogin {
    /// Cancelled when the server has requested authentication, and no other attempt can follow.
    pub(super) auth_requested: CancellationToken,
    /// Cancelled when the server has accepted the login.
    pub(super) is_accepted: CancellationToken,
    /// Cancelled when it is known whether a pooler is in between.
    pub(super) is_identified: CancellationToken,
    /// The address and the monitor of the latest attempt.
    attempt: Mutex<Option<(HostAddress, Arc<ConnectionMonitor>)>>,
}

impl FirstLogin {
    /// Records an attempt.
    pub(super) fn begin(&self, address: &HostAddress, monitor: &Arc<ConnectionMonitor>) {
        let mut attempt = self.attempt.lock().unwrap_or_else(PoisonError::into_inner);
        *attempt = Some((address.clone(), Arc::clone(monitor)));
    }

    /// Waits until the server has requested authentication; returns its address and the monitor.
    pub(super) async fn auth_requested(&self) -> Option<(HostAddress, Arc<ConnectionMonitor>)> {
        self.auth_requested.cancelled().await;
        let attempt = self.attempt.lock().unwrap_or_else(PoisonError::into_inner);
        attempt.clone()
    }
}

type EarlyResult = Result<(RawConnection, SnapshotInterval), Error>;

/// Connections that are being opened. Dropping this closes those that were not taken.
pub(super) struct EarlyConnections(tokio::sync::Mutex<JoinSet<Option<EarlyResult>>>);

impl EarlyConnections {
    /// Begins to open `count` connections beside the first one of `connector`.
    pub(super) fn open(connector: &Arc<Connector>, log: &Arc<InFlightLog>, count: usize) -> Self {
        let mut tasks = JoinSet::new();
        for _ in 0..count {
            let (connector, log) = (Arc::clone(connector), Arc::clone(log));
            tasks.spawn(async move {
                let (address, monitor) = connector.first.auth_requested().await?;
                let learn = |facts: &mut _| ServerFacts::learn_tls(facts, &monitor);
                connector.servers.learn(&address, learn);
                let from = log.tick();
                let connected = connector.connect_early(address).await;
                Some(connected.map(|raw| {
                    (
                        raw,
                        SnapshotInterval {
                            from,
                            to: log.tick(),
                        },
                    )
                }))
            });
        }
        Self(tokio::sync::Mutex::new(tasks))
    }

    /// Returns the next connection when it is ready, or why it failed; `None` if none is left.
    ///
    /// Cancel safe.
    pub(super) async fn next(&self) -> Option<EarlyResult> {
        self.0.lock().await.join_next().await?.ok().flatten()
    }
}
