//! A TCP proxy between token_service and PostgreSQL that does what networks do: it cuts, swallows
//! replies, goes silent, delays, and leaves a server behind that goes on. It strikes at the n-th
//! commit that it sees or at the n-th byte, so that a fault can be repeated.

use std::collections::VecDeque;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::proxy_connection::{self, ProxyConnection};

/// How long a test waits for the proxy to see something.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is done to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Both sides are closed.
    Disconnect,
    /// Only the client's side is closed: the server has not heard of it and goes on.
    DisconnectClient,
    /// Nothing reaches the client any more; once the server has answered all, both sides are closed.
    DropReplies,
    /// Nothing is forwarded and nothing closed, until it is healed or cut.
    Partition,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Disconnect,
        Self::DisconnectClient,
        Self::DropReplies,
        Self::Partition,
    ];
}

/// When a fault strikes.
#[derive(Clone, Copy, Debug)]
pub enum Point {
    /// Instead of the server's confirmation of the n-th commit since the fault was armed.
    Commit(u64),
    /// Instead of the n-th message with which any transaction ends or a session begins.
    Ready(u64),
    /// After the n-th byte from the server since the fault was armed, in the middle of a message.
    Byte(u64),
}

/// Whom it strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The connection at whose point it was.
    One,
    /// Every connection.
    All,
}

pub(super) struct State {
    target: u16,
    refusing: bool,
    pub(super) partitioned: bool,
    pub(super) delay: Duration,
    pub(super) dawdle: Duration,
    pub(super) hurried: usize,
    commits: u64,
    answers: u64,
    armed: VecDeque<(Point, Fault, Scope)>,
    fired: usize,
    accepted: usize,
    pairs: Vec<Arc<ProxyConnection>>,
    over: bool,
}

pub(super) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called for each message from the server; the fault that strikes now, and how much of
    /// the message still passes. A partition has begun already.
    pub(super) fn passes(
        &self,
        pair: &Arc<ProxyConnection>,
        length: usize,
        [ready, commit]: [bool; 2],
    ) -> Option<(Fault, usize)> {
        let mut state = self.lock();
        state.commits += u64::from(commit);
        state.answers += u64::from(ready);
        self.changed.notify_all();
        let &mut (ref mut point, fault, scope) = state.armed.front_mut()?;
        let passed = match point {
            Point::Commit(left) => {
                *left = left.saturating_sub(u64::from(commit));
                (*left == 0).then_some(0)
            }
            Point::Ready(left) => {
                *left = left.saturating_sub(u64::from(ready));
                (*left == 0).then_some(0)
            }
            Point::Byte(left) => {
                let length = length as u64;
                let passed = usize::try_from((*left).min(length)).unwrap_or(0);
                *left -= passed as u64;
                (*left == 0).then_some(passed)
            }
        }?;
        state.armed.pop_front();
        // All before anybody hears of it: who waits for it may heal it at once.
        if fault == Fault::Partition {
            pair.suffer(fault);
        }
        if scope == Scope::All {
            state.partitioned |= fault == Fault::Partition;
            let others = state.pairs.iter();
            for other in others.filter(|other| !Arc::ptr_eq(other, pair)) {
                other.suffer(fault);
            }
        }
        state.fired += 1;
        Some((fault, passed))
    }
}

/// A running proxy; dropping it cuts every connection.
pub struct Proxy {
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    /// A proxy before the server at that port of 127.0.0.1.
    pub fn to(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a loopback socket");
        let port = listener.local_addr().expect("its address").port();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                target,
                refusing: false,
                partitioned: false,
                delay: Duration::ZERO,
                dawdle: Duration::ZERO,
                hurried: 0,
                commits: 0,
                answers: 0,
                armed: VecDeque::new(),
                fired: 0,
                accepted: 0,
                pairs: Vec::new(),
                over: false,
            }),
            changed: Condvar::new(),
        });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || accept(&listener, &serving));
        Self { port, shared }
    }

    /// Arms a fault, to strike after those that were armed before.
    pub fn arm(&self, point: Point, fault: Fault, scope: Scope) {
        self.shared.lock().armed.push_back((point, fault, scope));
    }

    /// Does it to every connection now.
    pub fn inject(&self, fault: Fault) {
        let mut state = self.shared.lock();
        state.partitioned |= fault == Fault::Partition;
        let pairs = state.pairs.clone();
        drop(state);
        for pair in pairs {
            pair.suffer(fault);
        }
    }

    /// Ends a partition: what was held back arrives.
    pub fn heal(&self) {
        let mut state = self.shared.lock();
        state.partitioned = false;
        let pairs = state.pairs.clone();
        drop(state);
        for pair in pairs {
            pair.heal();
        }
    }

    /// True where the server has been sent all that the clients sent.
    pub fn is_drained(&self) -> bool {
        let pairs = self.shared.lock().pairs.clone();
        pairs.iter().all(|pair| pair.is_drained())
    }

    /// Lets new connections through, while those of before stay as they are.
    pub fn accept_again(&self) {
        self.shared.lock().partitioned = false;
    }

    /// From now on each direction takes that long; what is under way is not overtaken.
    pub fn delay(&self, delay: Duration) {
        self.shared.lock().delay = delay;
    }

    /// From now on a message with which a transaction ends comes that much later than what it ends.
    pub fn delay_ready(&self, delay: Duration) {
        self.shared.lock().dawdle = delay;
    }

    /// How many messages the clients sent before the one with which the last transaction ended had
    /// come to them.
    pub fn sent_early(&self) -> usize {
        self.shared.lock().hurried
    }

    /// Closes every new connection at once, or no longer.
    pub fn refuse(&self, refusing: bool) {
        self.shared.lock().refusing = refusing;
    }

    /// Sends new connections to another server.
    pub fn retarget(&self, port: u16) {
        self.shared.lock().target = port;
    }

    /// How many commits the server has confirmed.
    pub fn commits(&self) -> u64 {
        self.shared.lock().commits
    }

    /// How many transactions the server has ended, whatever their result, and sessions it has begun.
    pub fn ready_messages(&self) -> u64 {
        self.shared.lock().answers
    }

    /// How many of the armed faults have struck.
    pub fn injected(&self) -> usize {
        self.shared.lock().fired
    }

    /// How many connections were made.
    pub fn accepted(&self) -> usize {
        self.shared.lock().accepted
    }

    /// Waits for that many commits.
    pub fn wait_for_commits(&self, count: u64) {
        self.wait("commits", |state| state.commits >= count);
    }

    /// Waits until that many of the armed faults have struck.
    pub fn wait_for_injected(&self, count: usize) {
        self.wait("faults", |state| state.fired >= count);
    }

    /// Waits until that many connections were made, those that were refused included.
    pub fn wait_for_accepted(&self, count: usize) {
        self.wait("connections", |state| state.accepted >= count);
    }

    fn wait(&self, what: &str, holds: impl Fn(&State) -> bool) {
        let end = Instant::now() + PATIENCE;
        let mut state = self.shared.lock();
        while !holds(&state) {
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the {what} waited for did not come");
            let woken = self.shared.changed.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.over = true;
        let pairs = std::mem::take(&mut state.pairs);
        drop(state);
        for pair in pairs {
            pair.close();
        }
        // Wakes the listener.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        let mut state = shared.lock();
        if state.over {
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
        // A server that is down refuses, and so does the proxy.
        let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else {
            continue;
        };
        let pair = ProxyConnection::new(client, server, held);
        let mut state = shared.lock();
        state.pairs.retain(|pair| !pair.is_closed());
        state.pairs.push(Arc::clone(&pair));
        drop(state);
        proxy_connection::start(&pair, shared);
    }
}
