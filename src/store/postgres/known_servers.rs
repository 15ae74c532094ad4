//! What a run has learned about servers, which spares later connections round trips.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::store::postgres::wire::{ConnectionMonitor, HostAddress};

/// What is known about the server at one address.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ServerFacts {
    /// Whether it accepts TLS.
    pub(super) accepts_tls: Option<bool>,
    /// True if it agreed on PostgreSQL's protocol (ALPN), so that TLS can start without a request.
    pub(super) agrees_on_protocol: bool,
    /// True if each connection has its own backend; false if a pooler shares it with other clients.
    pub(super) is_direct: Option<bool>,
    /// True for a Pgpool-II.
    pub(super) is_pgpool: Option<bool>,
}

impl ServerFacts {
    /// Adds what a connection's start has shown about TLS.
    pub(super) fn learn_tls(&mut self, monitor: &ConnectionMonitor) {
        self.accepts_tls = monitor.accepts_tls().or(self.accepts_tls);
        self.agrees_on_protocol |= monitor.agrees_on_protocol();
    }
}

/// The facts about each address.
#[derive(Default)]
pub(super) struct KnownServers(Mutex<HashMap<HostAddress, ServerFacts>>);

impl KnownServers {
    fn lock(&self) -> MutexGuard<'_, HashMap<HostAddress, ServerFacts>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what is known; nothing about an unknown address.
    pub(super) fn get(&self, address: &HostAddress) -> ServerFacts {
        self.lock().get(address).copied().unwrap_or_default()
    }

    /// Adds facts about an address.
    pub(super) fn learn(&self, address: &HostAddress, add: impl FnOnce(&mut ServerFacts)) {
        add(self.lock().entry(address.clone()).or_default());
    }

    /// Forgets an address: after a failure another server may be there.
    pub(super) fn forget(&self, address: &HostAddress) {
        self.lock().remove(address);
    }
}
