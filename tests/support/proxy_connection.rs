//! One connection through the proxy: four threads, two of which read and two write, so that a
//! delay holds up no other message and a silent side does not stop the other.

use std::io::{Read, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::proxy::{Fault, Shared};
use super::wire::{Framer, is_inserted, is_ready, wants_ready};

/// What a reader hands to a writer.
enum Item {
    Bytes(Instant, Vec<u8>),
    /// The fault comes when all before has been written.
    Suffer(Fault),
    /// The other side has ended.
    End,
}

/// What is done to a connection.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "they are independent")]
struct Flow {
    /// Nothing is forwarded.
    held: bool,
    /// Nothing from the server is forwarded.
    deaf: bool,
    /// The client was told that it is over, the server not.
    abandoned: bool,
    closed: bool,
    /// So many questions of the client are not answered.
    owed: u64,
    /// So many messages of the client are not yet forwarded.
    queued: u64,
    /// So many messages that end a transaction are not yet forwarded.
    ending: u64,
}

/// The two sockets of a connection.
pub(super) struct ProxyConnection {
    client: TcpStream,
    server: TcpStream,
    flow: Mutex<Flow>,
    changed: Condvar,
}

impl ProxyConnection {
    pub(super) fn new(client: TcpStream, server: TcpStream, held: bool) -> Arc<Self> {
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        Arc::new(Self {
            client,
            server,
            flow: Mutex::new(Flow {
                held,
                ..Flow::default()
            }),
            changed: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Flow> {
        self.flow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// True where nothing of the client is held back.
    pub(super) fn is_drained(&self) -> bool {
        let flow = self.lock();
        flow.closed || flow.queued == 0
    }

    pub(super) fn suffer(&self, fault: Fault) {
        let mut flow = self.lock();
        match fault {
            Fault::Disconnect => {
                drop(flow);
                self.close();
            }
            Fault::DisconnectClient => {
                flow.abandoned = true;
                drop(flow);
                let _ = self.client.shutdown(Shutdown::Both);
            }
            Fault::DropReplies => {
                flow.deaf = true;
                let quiet = flow.owed == 0;
                drop(flow);
                if quiet {
                    self.close();
                }
            }
            Fault::Partition => flow.held = true,
        }
    }

    pub(super) fn heal(&self) {
        self.lock().held = false;
        self.changed.notify_all();
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.server.shutdown(Shutdown::Both);
    }

    /// False where nothing is to be written any more.
    fn may_write(&self, due: Instant) -> bool {
        let mut flow = self.lock();
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if flow.closed || (!flow.held && left.is_zero()) {
                return !flow.closed;
            }
            let longest = if flow.held {
                Duration::from_mins(1)
            } else {
                left
            };
            let woken = self.changed.wait_timeout(flow, longest);
            flow = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Begins to forward.
pub(super) fn start(pair: &Arc<ProxyConnection>, shared: &Arc<Shared>) {
    let (up, to_server) = mpsc::channel();
    let (down, to_client) = mpsc::channel();
    for upwards in [true, false] {
        let (pair, shared) = (Arc::clone(pair), Arc::clone(shared));
        let sender = if upwards { up.clone() } else { down.clone() };
        std::thread::spawn(move || {
            if upwards {
                read_client(&pair, &shared, &sender);
            } else {
                read_server(&pair, &shared, &sender);
            }
            let _ = sender.send(Item::End);
        });
    }
    let (server_side, client_side) = (Arc::clone(pair), Arc::clone(pair));
    std::thread::spawn(move || write(&server_side, true, &to_server));
    std::thread::spawn(move || write(&client_side, false, &to_client));
}

fn read_client(pair: &ProxyConnection, shared: &Shared, to_server: &Sender<Item>) {
    let mut framer = Framer::of_client();
    read(&pair.client, |bytes| {
        let due = Instant::now() + shared.lock().delay;
        for message in framer.push(bytes) {
            let mut flow = pair.lock();
            flow.owed += u64::from(wants_ready(&message));
            flow.queued += 1;
            let hurried = flow.ending > 0;
            drop(flow);
            shared.lock().hurried += usize::from(hurried);
            let _ = to_server.send(Item::Bytes(due, message));
        }
        true
    });
}

fn read_server(pair: &Arc<ProxyConnection>, shared: &Shared, to_client: &Sender<Item>) {
    let mut framer = Framer::of_server();
    let mut inserted = false;
    read(&pair.server, |bytes| {
        let (delay, dawdle) = {
            let state = shared.lock();
            (state.delay, state.dawdle)
        };
        for mut message in framer.push(bytes) {
            let ready = is_ready(&message);
            let due = Instant::now() + delay + if ready { dawdle } else { Duration::ZERO };
            let commit = ready && inserted;
            inserted = is_inserted(&message);
            let mut flow = pair.lock();
            // The first one ends the start and answers no question.
            flow.owed = flow.owed.saturating_sub(u64::from(ready));
            flow.ending += u64::from(ready);
            let (deaf, gone, quiet) = (flow.deaf, flow.abandoned, flow.owed == 0);
            drop(flow);
            if deaf && quiet {
                pair.close();
            }
            if deaf || gone {
                continue;
            }
            if let Some((fault, passed)) = shared.passes(pair, message.len(), [ready, commit]) {
                // What meets a partition is not lost, but comes after it.
                if fault != Fault::Partition {
                    message.truncate(passed);
                    let _ = to_client.send(Item::Bytes(due, message));
                    let _ = to_client.send(Item::Suffer(fault));
                    if fault == Fault::Disconnect {
                        return false;
                    }
                    // Nothing that comes later may pass.
                    let mut flow = pair.lock();
                    flow.deaf |= fault == Fault::DropReplies;
                    flow.abandoned |= fault == Fault::DisconnectClient;
                    drop(flow);
                    continue;
                }
            }
            let _ = to_client.send(Item::Bytes(due, message));
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

fn write(pair: &ProxyConnection, upwards: bool, items: &Receiver<Item>) {
    let mut socket = if upwards { &pair.server } else { &pair.client };
    for item in items {
        match item {
            Item::Bytes(due, bytes) => {
                if !pair.may_write(due) {
                    return;
                }
                if !upwards {
                    let mut flow = pair.lock();
                    flow.ending = flow.ending.saturating_sub(u64::from(is_ready(&bytes)));
                }
                // Who does not listen any more is told by its own reader.
                let _ = socket.write_all(&bytes);
                if upwards {
                    pair.lock().queued -= 1;
                }
            }
            Item::Suffer(fault) => pair.suffer(fault),
            Item::End => {
                // The server is not told that an abandoned client has ended.
                if !upwards || !pair.lock().abandoned {
                    pair.may_write(Instant::now());
                    pair.close();
                }
                return;
            }
        }
    }
}
