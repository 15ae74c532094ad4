//! A server that a closure handles connection by connection, for what no HTTP library does: it closes
//! connections early, speaks another protocol, or is a proxy.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// A server on loopback; it runs until the test process exits.
pub struct RawServer {
    /// Its port.
    pub port: u16,
    connections: Arc<AtomicUsize>,
}

impl RawServer {
    /// Starts a server; `handle` gets each connection and its number, from 1.
    pub fn start(handle: impl Fn(usize, TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a loopback socket");
        let port = listener.local_addr().expect("its address").port();
        let connections = Arc::new(AtomicUsize::new(0));
        let (handle, counted) = (Arc::new(handle), Arc::clone(&connections));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let number = counted.fetch_add(1, Ordering::SeqCst) + 1;
                let handle = Arc::clone(&handle);
                thread::spawn(move || handle(number, stream));
            }
        });
        Self { port, connections }
    }

    /// Its URL as a token source.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/tokens", self.port)
    }

    /// The number of connections so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Reads one request and returns its head; none if the client closed the connection.
pub fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("a head in UTF-8");
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.parse().expect("a length"))
    });
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).ok()?;
    Some(head)
}

/// Writes an answer with these tokens and further header lines, without `connection`.
pub fn answer(stream: &mut TcpStream, headers: &str, tokens: &[&str]) {
    let body = tokens.join("\n") + "\n";
    let length = body.len();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n{headers}\r\n");
    // The client may be gone; the test sees what it did.
    let _ = stream.write_all(format!("{head}{body}").as_bytes());
}
