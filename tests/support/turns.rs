//! A TCP proxy that records a client's turns. A turn is what the client sends before it waits for the
//! server, so the turns of a connection are its round trips. The proxy can hold back a login.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::time_limit;
use super::wire::Framer;

/// The password messages of a SCRAM login.
const SCRAM_MESSAGES: usize = 2;

/// The turns of one connection: the names of the messages in each.
#[derive(Clone, Default)]
struct ConnectionTurns {
    turns: Vec<Vec<&'static str>>,
    is_waiting: bool,
}

#[derive(Default)]
struct TurnState {
    connections: Vec<ConnectionTurns>,
    holds_first_login: bool,
}

#[derive(Default)]
struct TurnShared {
    state: Mutex<TurnState>,
    changed: Condvar,
}

impl TurnShared {
    fn lock(&self) -> MutexGuard<'_, TurnState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running proxy; its connections last until the test process exits.
pub struct TurnProxy {
    /// Its port on 127.0.0.1.
    pub port: u16,
    shared: Arc<TurnShared>,
}

impl TurnProxy {
    /// Starts a proxy that forwards the n-th connection, from 0, to the port `target(n)`.
    pub fn to_each(target: impl Fn(usize) -> u16 + Send + 'static) -> Self {
        time_limit::start();
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a loopback socket");
        let port = listener.local_addr().expect("its address").port();
        let shared = Arc::new(TurnShared::default());
        let of_thread = Arc::clone(&shared);
        std::thread::spawn(move || {
            for (number, client) in listener.incoming().flatten().enumerate() {
                let server = TcpStream::connect(("127.0.0.1", target(number)));
                forward(number, &client, &server.expect("the server"), &of_thread);
            }
        });
        Self { port, shared }
    }

    /// Starts a proxy to one port.
    pub fn to(target: u16) -> Self {
        Self::to_each(move |_| target)
    }

    /// Holds back the server's answer to the password of the first connection.
    pub fn hold_first_login(&self) {
        self.shared.lock().holds_first_login = true;
    }

    /// Forwards the answer that was held back.
    pub fn release_first_login(&self) {
        self.shared.lock().holds_first_login = false;
        self.shared.changed.notify_all();
    }

    /// Waits until the first login is held back and `count` connections have sent a startup message.
    pub fn wait_for_startups(&self, count: usize) {
        let has_started =
            |it: &&ConnectionTurns| it.turns.iter().flatten().any(|it| *it == "startup");
        let mut state = self.shared.lock();
        while state.connections.iter().filter(has_started).count() < count
            || !has_sent_password(&state)
        {
            let woken = self.shared.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Returns the turns of the first connection that follow its first INSERT.
    pub fn turns_after_insert(&self) -> Vec<String> {
        let state = self.shared.lock();
        let turns = state
            .connections
            .first()
            .into_iter()
            .flat_map(|it| &it.turns);
        let after = turns.skip_while(|turn| !turn.contains(&"execute")).skip(1);
        after.map(|turn| turn.join(", ")).collect()
    }

    /// Returns the turns of each connection, one per line, up to the first INSERT.
    pub fn turns(&self) -> Vec<String> {
        let state = self.shared.lock();
        let texts = state.connections.iter().map(|connection| {
            let turns = connection.turns.iter();
            let start = turns.take_while(|turn| !turn.contains(&"execute"));
            let lines = start.map(|turn| turn.join(", "));
            lines
                // A connection without tokens only closes its statement.
                .filter(|line| !line.is_empty() && line != "end")
                .collect::<Vec<_>>()
                .join("\n")
        });
        texts.collect()
    }
}

fn forward(number: usize, client: &TcpStream, server: &TcpStream, shared: &Arc<TurnShared>) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    shared.lock().connections.push(ConnectionTurns::default());
    for upwards in [true, false] {
        let clone = |socket: &TcpStream| socket.try_clone().expect("a socket");
        let (client, server, shared) = (clone(client), clone(server), Arc::clone(shared));
        std::thread::spawn(move || {
            if upwards {
                let mut names = MessageNames::new();
                copy(&client, &server, |bytes| {
                    let names = names.push(bytes);
                    let mut state = shared.lock();
                    let connection = &mut state.connections[number];
                    if !connection.is_waiting {
                        connection.turns.push(Vec::new());
                        connection.is_waiting = true;
                    }
                    if let Some(turn) = connection.turns.last_mut() {
                        turn.extend(names);
                    }
                    shared.changed.notify_all();
                });
            } else {
                copy(&server, &client, |_| {
                    let mut state = shared.lock();
                    while number == 0 && state.holds_first_login && has_sent_password(&state) {
                        let woken = shared.changed.wait(state);
                        state = woken.unwrap_or_else(PoisonError::into_inner);
                    }
                    state.connections[number].is_waiting = false;
                });
            }
            let _ = (
                client.shutdown(Shutdown::Both),
                server.shutdown(Shutdown::Both),
            );
        });
    }
}

fn has_sent_password(state: &TurnState) -> bool {
    let first = state.connections[0].turns.iter().flatten();
    first.filter(|name| **name == "password").count() == SCRAM_MESSAGES
}

fn copy(mut from: &TcpStream, mut to: &TcpStream, mut before: impl FnMut(&[u8])) {
    let mut chunk = vec![0; 64 * 1024];
    while let Ok(count) = from.read(&mut chunk) {
        if count == 0 {
            return;
        }
        before(&chunk[..count]);
        if to.write_all(&chunk[..count]).is_err() {
            return;
        }
    }
}

/// Names the messages that a client sends, except those that continue another.
struct MessageNames {
    framer: Framer,
    is_tls: bool,
}

impl MessageNames {
    fn new() -> Self {
        Self {
            framer: Framer::of_client(),
            is_tls: false,
        }
    }

    fn push(&mut self, bytes: &[u8]) -> Vec<&'static str> {
        const HANDSHAKE: u8 = 0x16;
        // A handshake comes first, or after the request for it.
        self.is_tls |= bytes.first() == Some(&HANDSHAKE) && self.framer.is_untyped();
        if self.is_tls {
            return vec!["TLS"];
        }
        let messages = self.framer.push(bytes);
        let names = messages.iter().filter_map(|message| name(message));
        names.collect()
    }
}

fn name(message: &[u8]) -> Option<&'static str> {
    Some(match message {
        [0, 0, 0, 8, ..] => "request for TLS",
        [0, ..] => "startup",
        [b'p', ..] => "password",
        [b'P', _, _, _, _, 0, ..] => "query",
        [b'P', ..] => "prepare",
        [b'Q', ..] => "simple query",
        // Of a named statement.
        [b'B', _, _, _, _, 0, first, ..] if *first != 0 => "execute",
        [b'C', ..] => "close",
        [b'X', ..] => "end",
        _ => return None,
    })
}
