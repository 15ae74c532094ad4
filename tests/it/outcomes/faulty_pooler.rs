//! A proxy between token_service and PostgreSQL that behaves like a faulty pooler: it leaves a
//! transaction open, or changes the command tag of an INSERT.

use std::io::{Read, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::database::Login;

/// The fault that the pooler injects into every connection.
#[derive(Clone, Copy)]
pub enum PoolerFault {
    /// Opens a transaction before the client's first statement.
    BeginAtStart,
    /// Opens a transaction after this number of INSERTs. The client must not pipeline.
    BeginAfterInserts(u64),
    /// Replaces the command tag of an INSERT.
    Tag(&'static str),
}

/// A running pooler, which serves until the test process ends.
pub struct FaultyPooler {
    port: u16,
    done: Arc<AtomicBool>,
}

impl FaultyPooler {
    /// Starts a pooler for the server at port `target` of 127.0.0.1.
    pub fn start(target: u16, fault: PoolerFault) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a loopback socket");
        let port = listener.local_addr().expect("its address").port();
        let done = Arc::new(AtomicBool::new(false));
        let is_done = Arc::clone(&done);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if let Ok(server) = TcpStream::connect(("127.0.0.1", target)) {
                    connect(client, server, fault, &is_done);
                }
            }
        });
        Self { port, done }
    }

    /// Returns a login that connects through the pooler.
    pub fn login(&self, login: &Login) -> Login {
        Login {
            port: self.port,
            ..login.clone()
        }
    }

    /// True if the fault has been injected.
    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::SeqCst)
    }
}

fn connect(client: TcpStream, server: TcpStream, fault: PoolerFault, done: &Arc<AtomicBool>) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let clone = |stream: &TcpStream| stream.try_clone().expect("a second handle");
    let (mut from, mut to) = (clone(&client), clone(&server));
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    let done = Arc::clone(done);
    std::thread::spawn(move || {
        // This ends with an error when either side disconnects.
        let _ = answers(&server, &client, fault, &done);
        let _ = client.shutdown(Shutdown::Both);
    });
}

/// Forwards the server's messages.
fn answers(
    mut server: &TcpStream,
    mut client: &TcpStream,
    fault: PoolerFault,
    done: &AtomicBool,
) -> std::io::Result<()> {
    let mut inserts = 0;
    let mut has_begun = false;
    let mut is_first = true;
    loop {
        let mut tag = [0];
        server.read_exact(&mut tag)?;
        // The byte that refuses TLS has no length. The first message of a connection is never a notice.
        if std::mem::take(&mut is_first) && tag == [b'N'] {
            client.write_all(&tag)?;
            continue;
        }
        let mut body = body(server)?;
        if tag == [b'C'] && body.starts_with(b"INSERT ") {
            inserts += 1;
            if let PoolerFault::Tag(text) = fault {
                body = [text.as_bytes(), b"\0"].concat();
                done.store(true, Ordering::SeqCst);
            }
        }
        let is_due = match fault {
            PoolerFault::BeginAtStart => true,
            PoolerFault::BeginAfterInserts(count) => inserts >= count,
            PoolerFault::Tag(_) => false,
        };
        if tag == [b'Z'] && is_due && !has_begun && !done.load(Ordering::SeqCst) {
            has_begun = true;
            if matches!(fault, PoolerFault::BeginAfterInserts(_)) {
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

/// Opens a transaction, and returns the body of `ReadyForQuery`.
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
