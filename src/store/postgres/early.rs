//! Opens connections while the first one is still logging in and checking the table.
//!
//! To a distant server this saves half of the time until all connections work. A server that is down
//! still sees one client: the others follow when the server has requested the first one's
//! authentication. They send the password after that one was accepted, so a wrong password is tried
//! once. They set up their sessions when the first one knows whether a pooler is in between.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::{AbortHandle, JoinSet};

use crate::error::Error;
use crate::store::in_flight_log::{InFlightLog, SnapshotInterval};
use crate::store::postgres::connector::Connector;
use crate::store::postgres::known_servers::ServerFacts;
use crate::store::postgres::raw_connection::RawConnection;

type EarlyResult = Result<(RawConnection, SnapshotInterval), Error>;

/// Connections that are being opened. Dropping this closes those that were not taken.
pub(super) struct EarlyConnections {
    tasks: tokio::sync::Mutex<JoinSet<Option<EarlyResult>>>,
    handles: Vec<AbortHandle>,
    /// Those that were ready when the number was limited.
    ready: Mutex<Vec<EarlyResult>>,
}

impl EarlyConnections {
    /// Begins to open `count` connections beside the first one of `connector`.
    pub(super) fn open(connector: &Arc<Connector>, log: &Arc<InFlightLog>, count: usize) -> Self {
        let mut tasks = JoinSet::new();
        let mut handles = Vec::with_capacity(count);
        for _ in 0..count {
            let (connector, log) = (Arc::clone(connector), Arc::clone(log));
            handles.push(tasks.spawn(async move {
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
            }));
        }
        Self {
            tasks: tokio::sync::Mutex::new(tasks),
            handles,
            ready: Mutex::default(),
        }
    }

    /// Closes all but `count` of them.
    pub(super) async fn limit(&self, count: usize) {
        let mut tasks = self.tasks.lock().await;
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(connected) = tasks.try_join_next() {
            ready.extend(connected.ok().flatten());
        }
        ready.truncate(count);
        let unfinished = self.handles.iter().filter(|task| !task.is_finished());
        unfinished
            .skip(count - ready.len())
            .for_each(AbortHandle::abort);
    }

    /// Returns the next connection when it is ready, or why it failed; `None` if none is left.
    ///
    /// Cancel safe.
    pub(super) async fn next(&self) -> Option<EarlyResult> {
        let mut tasks = self.tasks.lock().await;
        let ready = self
            .ready
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        if ready.is_some() {
            return ready;
        }
        loop {
            match tasks.join_next().await? {
                Err(error) if error.is_cancelled() => {}
                connected => return connected.ok().flatten(),
            }
        }
    }
}
