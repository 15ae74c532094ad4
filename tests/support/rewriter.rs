//! A TCP proxy between token_service and PostgreSQL that changes messages of the server or adds its own.
//! It does not support TLS.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::wire::Framer;

/// The two streams of a connection through the proxy.
pub struct ProxyStreams<'a> {
    /// The stream to token_service.
    pub client: &'a mut TcpStream,
    /// The stream to PostgreSQL.
    pub server: &'a mut TcpStream,
}

/// Handles one message of the server; an error ends the connection.
pub type Rewrite = Box<dyn FnMut(Vec<u8>, ProxyStreams<'_>) -> io::Result<()> + Send>;

/// A running proxy.
pub struct Rewriter {
    /// Its port on 127.0.0.1.
    pub port: u16,
    stopped: Arc<AtomicBool>,
}

impl Rewriter {
    /// Starts a proxy to the server at this port.
    ///
    /// `begin` creates the handler of a connection from its number, counted from 0.
    pub fn to(target: u16, begin: impl Fn(usize) -> Rewrite + Send + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a loopback socket");
        let port = listener.local_addr().expect("its address").port();
        let stopped = Arc::new(AtomicBool::new(false));
        let is_stopped = Arc::clone(&stopped);
        thread::spawn(move || {
            for (number, client) in listener.incoming().enumerate() {
                if is_stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(("127.0.0.1", target)))
                else {
                    continue;
                };
                forward(client, server, begin(number));
            }
        });
        Self { port, stopped }
    }
}

impl Drop for Rewriter {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        // Wakes the accept loop.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn forward(mut client: TcpStream, mut server: TcpStream, mut rewrite: Rewrite) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (Ok(mut from_client), Ok(mut to_server)) = (client.try_clone(), server.try_clone()) else {
        return;
    };
    thread::spawn(move || {
        let _ = io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Both);
    });
    thread::spawn(move || {
        let mut framer = Framer::of_server();
        let mut chunk = vec![0; 64 * 1024];
        'reading: while let Ok(count @ 1..) = server.read(&mut chunk) {
            for message in framer.push(&chunk[..count]) {
                let streams = ProxyStreams {
                    client: &mut client,
                    server: &mut server,
                };
                if rewrite(message, streams).is_err() {
                    break 'reading;
                }
            }
        }
        let _ = client.flush();
        let _ = (
            client.shutdown(Shutdown::Both),
            server.shutdown(Shutdown::Both),
        );
    });
}
