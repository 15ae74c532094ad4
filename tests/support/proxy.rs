//! A TCP proxy between token_service and PostgreSQL that injects network faults: closed connections,
//! dropped replies, partitions and delays. A fault is bound to the n-th commit, message or byte, so it
//! can be repeated.

use std::collections::VecDeque;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::proxy_connection::{self, ProxyConnection};

/// The longest wait for an event.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A fault that is injected into a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Both sides are closed.
    Disconnect,
    /// Only the client's side is closed; the server's side stays open.
    DisconnectClient,
    /// Replies are dropped; once the server has answered every request, both sides are closed.
    DropReplies,
    /// Nothing is forwarded and nothing is closed, until the partition ends.
    Partition,
}

/// The point at which a fault is injected.
#[derive(Clone, Copy, Debug)]
pub enum Point {
    /// In place of the server's confirmation of the n-th commit since the fault was armed.
    Commit(u64),
    /// In place of the n-th `ReadyForQuery`, with which a transaction ends or a session begins.
    Ready(u64),
    /// After the n-th byte from the server since the fault was armed, in the middle of a message.
    Byte(u64),
}

/// The connections that a fault affects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The connection that reached the point.
    One,
    /// Every connection.
    All,
}

pub(super) struct ProxyState {
    target: u16,
    refusing: bool,
    pub(super) partitioned: bool,
    pub(super) delay: Duration,
    pub(super) ready_delay: Duration,
    pub(super) sent_early: usize,
    commits: u64,
    ready_messages: u64,
    armed: VecDeque<(Point, Fault, Scope)>,
    injected: usize,
    accepted: usize,
    connections: Vec<Arc<ProxyConnection>>,
    stopped: bool,
}

pub(super) struct ProxyShared {
    state: Mutex<ProxyState>,
    changed: Condvar,
}

impl ProxyShared {
    pub(super) fn lock(&self) -> MutexGuard<'_, ProxyState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a message of the server; returns the fault that is due and the bytes that still pass.
    ///
    /// A partition has already begun when this returns.
    pub(super) fn count_message(
        &self,
        connection: &Arc<ProxyConnection>,
        length: usize,
        [ready, commit]: [bool; 2],
    ) -> Option<(Fault, usize)> {
        let mut state = self.lock();
        state.commits += u64::from(commit);
        state.ready_messages += u64::from(ready);
        self.changed.notify_all();
        let &mut (ref mut point, fault, scope) = state.armed.front_mut()?;
        let passed = match point {
            Point::Commit(remaining) => {
                *remaining = remaining.saturating_sub(u64::from(commit));
                (*remaining == 0).then_some(0)
            }
            Point::Ready(remaining) => {
                *remaining = remaining.saturating_sub(u64::from(ready));
                (*remaining == 0).then_some(0)
            }
            Point::Byte(remaining) => {
                let length = length as u64;
                let passed = usize::try_from((*remaining).min(length)).unwrap_or(0);
                *remaining -= passed as u64;
                (*remaining == 0).then_some(passed)
            }
        }?;
        state.armed.pop_front();
        // Applied before the count of faults grows: a test that waits for it may heal it at once.
        if fault == Fault::Partition {
            connection.inject(fault);
        }
        if scope == Scope::All {
            state.partitioned |= fault == Fault::Partition;
            let others = state.connections.iter();
            for other in others.filter(|other| !Arc::ptr_eq(other, connection)) {
                other.inject(fault);
            }
        }
        state.injected += 1;
        Some((fault, passed))
    }
}

/// A running proxy; dropping it closes every connection.
pub struct Proxy {
    /// Its port on 127.0.0.1.
    pub port: u16,
    shared: Arc<ProxyShared>,
}

impl Proxy {
    /// Starts a proxy to the server at this port of 127.0.0.1.
    pub fn to(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a loopback socket");
        let port = listener.local_addr().expect("its address").port();
        let shared = Arc::new(ProxyShared {
            state: Mutex::new(ProxyState {
                target,
                refusing: false,
                partitioned: false,
                delay: Duration::ZERO,
                ready_delay: Duration::ZERO,
                sent_early: 0,
                commits: 0,
                ready_messages: 0,
                armed: VecDeque::new(),
                injected: 0,
                accepted: 0,
                connections: Vec::new(),
                stopped: false,
            }),
            changed: Condvar::new(),
        });
        let shared_with_thread = Arc::clone(&shared);
        std::thread::spawn(move || accept(&listener, &shared_with_thread));
        Self { port, shared }
    }

    /// Arms a fault; faults are injected in the order in which they were armed.
    pub fn arm(&self, point: Point, fault: Fault, scope: Scope) {
        self.shared.lock().armed.push_back((point, fault, scope));
    }

    /// Injects a fault into every connection now.
    pub fn inject(&self, fault: Fault) {
        let mut state = self.shared.lock();
        state.partitioned |= fault == Fault::Partition;
        let connections = state.connections.clone();
        drop(state);
        for connection in connections {
            connection.inject(fault);
        }
    }

    /// Ends a partition, and forwards the messages that it held back.
    pub fn heal(&self) {
        let mut state = self.shared.lock();
        state.partitioned = false;
        let connections = state.connections.clone();
        drop(state);
        for connection in connections {
            connection.heal();
        }
    }

    /// Whether every message of the clients has been forwarded.
    pub fn is_drained(&self) -> bool {
        let connections = self.shared.lock().connections.clone();
        connections.iter().all(|connection| connection.is_drained())
    }

    /// Forwards new connections again, while partitioned ones stay partitioned.
    pub fn accept_again(&self) {
        self.shared.lock().partitioned = false;
    }

    /// Delays both directions from now on; messages stay in order.
    pub fn delay(&self, delay: Duration) {
        self.shared.lock().delay = delay;
    }

    /// Delays each `ReadyForQuery` further from now on.
    pub fn delay_ready(&self, delay: Duration) {
        self.shared.lock().ready_delay = delay;
    }

    /// The number of messages that clients sent before they received the previous `ReadyForQuery`.
    pub fn sent_early(&self) -> usize {
        self.shared.lock().sent_early
    }

    /// Sets whether new connections are closed at once.
    pub fn refuse(&self, refusing: bool) {
        self.shared.lock().refusing = refusing;
    }

    /// The number of commits that the server has confirmed.
    pub fn commits(&self) -> u64 {
        self.shared.lock().commits
    }

    /// The number of `ReadyForQuery` messages: one per ended transaction and one per new session.
    pub fn ready_messages(&self) -> u64 {
        self.shared.lock().ready_messages
    }

    /// The number of armed faults that were injected.
    pub fn injected(&self) -> usize {
        self.shared.lock().injected
    }

    /// The number of accepted connections.
    pub fn accepted(&self) -> usize {
        self.shared.lock().accepted
    }

    /// Waits for this many commits.
    pub fn wait_for_commits(&self, count: u64) {
        self.wait("commits", |state| state.commits >= count);
    }

    /// Waits until this many armed faults were injected.
    pub fn wait_for_injected(&self, count: usize) {
        self.wait("faults", |state| state.injected >= count);
    }

    /// Waits for this many accepted connections, including refused ones.
    pub fn wait_for_accepted(&self, count: usize) {
        self.wait("connections", |state| state.accepted >= count);
    }

    fn wait(&self, what: &str, condition: impl Fn(&ProxyState) -> bool) {
        let end = Instant::now() + TIMEOUT;
        let mut state = self.shared.lock();
        while !condition(&state) {
            let remaining = end.saturating_duration_since(Instant::now());
            assert!(!remaining.is_zero(), "timed out waiting for {what}");
            let woken = self.shared.changed.wait_timeout(state, remaining);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.stopped = true;
        let connections = std::mem::take(&mut state.connections);
        drop(state);
        for connection in connections {
            connection.close();
        }
        // Wakes the accept loop.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn accept(listener: &TcpListener, shared: &Arc<ProxyShared>) {
    for client in listener.incoming() {
        let mut state = shared.lock();
        if state.stopped {
            return;
        }
        state.accepted += 1;
        shared.changed.notify_all();
        let (target, refusing, held) = (state.target, state.refusing, state.partitioned);
        drop(state);
        let Ok(client) = client else { continue };
        if refusing {
            continue;
        }
        // If the server is down, the proxy closes the connection.
        let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else {
            continue;
        };
        let connection = ProxyConnection::new(client, server, held);
        let mut state = shared.lock();
        state
            .connections
            .retain(|connection| !connection.is_closed());
        state.connections.push(Arc::clone(&connection));
        drop(state);
        proxy_connection::start(&connection, shared);
    }
}
