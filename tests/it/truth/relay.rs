//! A relay between token_service and PostgreSQL that does what a broken pooler does: it leaves a
//! transaction open, or changes the command tag of an INSERT.

use std::io::{Read, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::database::Login;

/// What the relay does to every connection.
#[derive(Clone, Copy)]
pub enum Trick {
    /// Opens a transaction before the client's first statement.
    BeginAtStart,
    /// Opens a transaction after so many INSERTs. The client must not send ahead.
    BeginAfterInserts(u64),
    /// Gives this command tag instead of the one of an INSERT.
    Tag(&'static str),
}

/// A running relay. It serves until the test process ends.
pub struct Relay {
    port: u16,
    done: Arc<AtomicBool>,
}

impl Relay {
    /// A relay before the server at that port of 127.0.0.1.
    pub fn before(target: u16, trick: Trick) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a loopback socket");
        let port = listener.local_addr().expect("its address").port();
        let done = Arc::new(AtomicBool::new(false));
        let is_done = Arc::clone(&done);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if let Ok(server) = TcpStream::connect(("127.0.0.1", target)) {
                    connect(client, server, trick, &is_done);
                }
            }
        });
        Self { port, done }
    }

    /// The database as it is reached through the relay.
    pub fn login(&self, login: &Login) -> Login {
        Login {
            port: self.port,
            ..login.clone()
        }
    }

    /// True once the trick has been played.
    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::SeqCst)
    }
}

fn connect(client: TcpStream, server: TcpStream, trick: Trick, done: &Arc<AtomicBool>) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let clone = |stream: &TcpStream| stream.try_clone().expect("a second handle");
    let (mut from, mut to) = (clone(&client), clone(&server));
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    let done = Arc::clone(done);
    std::thread::spawn(move || {
        // Ends with an error when either side hangs up.
        let _ = answers(&server, &client, trick, &done);
        let _ = client.shutdown(Shutdown::Both);
    });
}

/// Forwards the server's messages.
fn answers(
    mut server: &TcpStream,
    mut client: &TcpStream,
    trick: Trick,
    done: &AtomicBool,
) -> std::io::Result<()> {
    let mut inserts = 0;
    let mut begun = false;
    let mut is_first = true;
    loop {
        let mut tag = [0];
        server.read_exact(&mut tag)?;
        // The one byte that refuses TLS has no length. No notice is a connection's first message.
        if std::mem::take(&mut is_first) && tag == [b'N'] {
            client.write_all(&tag)?;
            continue;
        }
        let mut body = body(server)?;
        if tag == [b'C'] && body.starts_with(b"INSERT ") {
            inserts += 1;
            if let Trick::Tag(text) = trick {
                body = [text.as_bytes(), b"\0"].concat();
                done.store(true, Ordering::SeqCst);
            }
        }
        let is_due = match trick {
            Trick::BeginAtStart => true,
            Trick::BeginAfterInserts(count) => inserts >= count,
            Trick::Tag(_) => false,
        };
        if tag == [b'Z'] && is_due && !begun && !done.load(Ordering::SeqCst) {
            begun = true;
            if matches!(trick, Trick::BeginAfterInserts(_)) {
                done.store(true, Ordering::SeqCst);
            }
            body = begin(server)?;
        }
        let length = u32::try_from(body.len() + 4).expect("a short message");
        client.write_all(&[&tag, &length.to_be_bytes()[..], &body].concat())?;
    }
}

fn body(mut server: &TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 4];
    server.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length).saturating_sub(4);
    let mut body = vec![0; usize::try_from(length).unwrap_or(0)];
    server.read_exact(&mut body)?;
    Ok(body)
}

/// Opens a transaction, and gives the status byte with which the server is ready.
fn begin(mut server: &TcpStream) -> std::io::Result<Vec<u8>> {
    let mut writer = server;
    writer.write_all(b"Q\0\0\0\x0aBEGIN\0")?;
    loop {
        let mut tag = [0];
        server.read_exact(&mut tag)?;
        let body = body(server)?;
        if tag == [b'Z'] {
            return Ok(body);
        }
    }
}
