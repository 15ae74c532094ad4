//! How far a run's first connection is, which the other connections wait for.

use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

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
