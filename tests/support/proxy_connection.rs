//! One connection through the proxy. Two threads read and two write: a delay holds up no other message,
//! and a silent side does not block the other one.

use std::io::{Read, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::proxy::{Fault, ProxyShared};
use super::wire::{Framer, is_inserted, is_ready, wants_ready};

/// An item that a reader passes to a writer.
enum QueueItem {
    Bytes(Instant, Vec<u8>),
    /// A fault, injected once all earlier items are written.
    Inject(Fault),
    /// The other side has closed its stream.
    End,
}

/// The state of a connection.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "they are independent")]
struct FlowState {
    /// Nothing is forwarded.
    paused: bool,
    /// No message of the server is forwarded.
    drops_replies: bool,
    /// The client's side is closed, the server's side is open.
    client_closed: bool,
    closed: bool,
    /// Requests of the client that the server has not answered.
    unanswered: u64,
    /// Messages of the client that are not yet forwarded.
    queued: u64,
    /// `ReadyForQuery` messages that are not yet forwarded.
    queued_ready: u64,
}

/// A connection through the proxy: its two sockets and its state.
pub(super) struct ProxyConnection {
    client: TcpStream,
    server: TcpStream,
    flow: Mutex<FlowState>,
    changed: Condvar,
}

impl ProxyConnection {
    pub(super) fn new(client: TcpStream, server: TcpStream, paused: bool) -> Arc<Self> {
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        Arc::new(Self {
            client,
            server,
            flow: Mutex::new(FlowState {
                paused,
                ..FlowState::default()
            }),
            changed: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, FlowState> {
        self.flow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Whether every message of the client has been forwarded.
    pub(super) fn is_drained(&self) -> bool {
        let flow = self.lock();
        flow.closed || flow.queued == 0
    }

    pub(super) fn inject(&self, fault: Fault) {
        let mut flow = self.lock();
        match fault {
            Fault::Disconnect => {
                drop(flow);
                self.close();
            }
            Fault::DisconnectClient => {
                flow.client_closed = true;
                drop(flow);
                let _ = self.client.shutdown(Shutdown::Both);
            }
            Fault::DropReplies => {
                flow.drops_replies = true;
                let is_idle = flow.unanswered == 0;
                drop(flow);
                if is_idle {
                    self.close();
                }
            }
            Fault::Partition => flow.paused = true,
        }
    }

    pub(super) fn heal(&self) {
        self.lock().paused = false;
        self.changed.notify_all();
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.server.shutdown(Shutdown::Both);
    }

    /// Waits until `due` and until the connection is not paused; false if it is closed.
    fn may_write(&self, due: Instant) -> bool {
        let mut flow = self.lock();
        loop {
            let remaining = due.saturating_duration_since(Instant::now());
            if flow.closed || (!flow.paused && remaining.is_zero()) {
                return !flow.closed;
            }
            let longest = if flow.paused {
                Duration::from_mins(1)
            } else {
                remaining
            };
            let woken = self.changed.wait_timeout(flow, longest);
            flow = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Starts the threads that forward messages.
pub(super) fn start(connection: &Arc<ProxyConnection>, shared: &Arc<ProxyShared>) {
    let (up, to_server) = mpsc::channel();
    let (down, to_client) = mpsc::channel();
    for upwards in [true, false] {
        let (connection, shared) = (Arc::clone(connection), Arc::clone(shared));
        let sender = if upwards { up.clone() } else { down.clone() };
        std::thread::spawn(move || {
            if upwards {
                read_client(&connection, &shared, &sender);
            } else {
                read_server(&connection, &shared, &sender);
            }
            let _ = sender.send(QueueItem::End);
        });
    }
    let (server_side, client_side) = (Arc::clone(connection), Arc::clone(connection));
    std::thread::spawn(move || write(&server_side, true, &to_server));
    std::thread::spawn(move || write(&client_side, false, &to_client));
}

fn read_client(connection: &ProxyConnection, shared: &ProxyShared, to_server: &Sender<QueueItem>) {
    let mut framer = Framer::of_client();
    read(&connection.client, |bytes| {
        let due = Instant::now() + shared.lock().delay;
        for message in framer.push(bytes) {
            let mut flow = connection.lock();
            flow.unanswered += u64::from(wants_ready(&message));
            flow.queued += 1;
            let is_early = flow.queued_ready > 0;
            drop(flow);
            shared.lock().sent_early += usize::from(is_early);
            let _ = to_server.send(QueueItem::Bytes(due, message));
        }
        true
    });
}

fn read_server(
    connection: &Arc<ProxyConnection>,
    shared: &ProxyShared,
    to_client: &Sender<QueueItem>,
) {
    let mut framer = Framer::of_server();
    let mut inserted = false;
    read(&connection.server, |bytes| {
        let (delay, ready_delay) = {
            let state = shared.lock();
            (state.delay, state.ready_delay)
        };
        for mut message in framer.push(bytes) {
            let ready = is_ready(&message);
            let due = Instant::now() + delay + if ready { ready_delay } else { Duration::ZERO };
            let commit = ready && inserted;
            inserted = is_inserted(&message);
            let mut flow = connection.lock();
            // The first one ends the startup and answers no request.
            flow.unanswered = flow.unanswered.saturating_sub(u64::from(ready));
            flow.queued_ready += u64::from(ready);
            let (drops, is_closed, is_idle) =
                (flow.drops_replies, flow.client_closed, flow.unanswered == 0);
            drop(flow);
            if drops && is_idle {
                connection.close();
            }
            if drops || is_closed {
                continue;
            }
            if let Some((fault, passed)) =
                shared.count_message(connection, message.len(), [ready, commit])
            {
                // A partition loses no message: this one is forwarded when the partition ends.
                if fault != Fault::Partition {
                    message.truncate(passed);
                    let _ = to_client.send(QueueItem::Bytes(due, message));
                    let _ = to_client.send(QueueItem::Inject(fault));
                    if fault == Fault::Disconnect {
                        return false;
                    }
                    // No later message may pass.
                    let mut flow = connection.lock();
                    flow.drops_replies |= fault == Fault::DropReplies;
                    flow.client_closed |= fault == Fault::DisconnectClient;
                    drop(flow);
                    continue;
                }
            }
            let _ = to_client.send(QueueItem::Bytes(due, message));
        }
        true
    });
}

fn read(mut socket: &TcpStream, mut take: impl FnMut(&[u8]) -> bool) {
    let mut chunk = vec![0; 64 * 1024];
    while let Ok(count) = socket.read(&mut chunk) {
        if count == 0 || !take(&chunk[..count]) {
            return;
        }
    }
}

fn write(connection: &ProxyConnection, upwards: bool, items: &Receiver<QueueItem>) {
    let mut socket = if upwards {
        &connection.server
    } else {
        &connection.client
    };
    for item in items {
        match item {
            QueueItem::Bytes(due, bytes) => {
                if !connection.may_write(due) {
                    return;
                }
                if !upwards {
                    let mut flow = connection.lock();
                    flow.queued_ready = flow
                        .queued_ready
                        .saturating_sub(u64::from(is_ready(&bytes)));
                }
                // A failed write needs no handling: the reader of that side sees the end.
                let _ = socket.write_all(&bytes);
                if upwards {
                    connection.lock().queued -= 1;
                }
            }
            QueueItem::Inject(fault) => connection.inject(fault),
            QueueItem::End => {
                // If only the client's side was closed, the server's side stays open.
                if !upwards || !connection.lock().client_closed {
                    connection.may_write(Instant::now());
                    connection.close();
                }
                return;
            }
        }
    }
}
