//! A TCP proxy that simulates network latency: it delays each byte in both directions.
//!
//! A delayed byte does not block the bytes after it. The proxy answers the TCP handshake itself, so the
//! handshake is not delayed.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// The size of the read buffer, in bytes.
const BUFFER_SIZE: usize = 64 * 1024;

/// A running proxy. Dropping it stops new connections.
pub struct Delay {
    /// The port on 127.0.0.1 where the proxy listens.
    pub port: u16,
    is_stopped: Arc<AtomicBool>,
}

impl Delay {
    /// Starts a proxy in front of the port `target` of 127.0.0.1, with this round-trip time.
    ///
    /// # Errors
    /// If the proxy cannot listen on the loopback interface.
    pub fn before(target: u16, round_trip: Duration) -> Result<Self> {
        let listener =
            TcpListener::bind(("127.0.0.1", 0)).context("the proxy cannot listen on 127.0.0.1")?;
        let port = listener.local_addr()?.port();
        let is_stopped = Arc::new(AtomicBool::new(false));
        let stop_flag = Arc::clone(&is_stopped);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if stop_flag.load(Ordering::Relaxed) {
                    return;
                }
                // If the server refuses the connection, `client` is closed at the end of this iteration.
                let _ = connect(&client, target, round_trip / 2);
            }
        });
        Ok(Self { port, is_stopped })
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts connections.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn connect(client: &TcpStream, target: u16, one_way: Duration) -> io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", target))?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    forward(client.try_clone()?, server.try_clone()?, one_way);
    forward(server, client.try_clone()?, one_way);
    Ok(())
}

/// Forwards one direction in two threads.
///
/// Threads are used because timers of tokio are rounded up to whole milliseconds.
fn forward(from: TcpStream, to: TcpStream, one_way: Duration) {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || read_chunks(from, &sender, one_way));
    thread::spawn(move || write_chunks(to, &receiver));
}

/// Bytes and the time at which they are due.
type DelayedChunk = (Instant, Vec<u8>);

fn read_chunks(mut from: TcpStream, to: &Sender<DelayedChunk>, one_way: Duration) {
    let mut buffer = vec![0; BUFFER_SIZE];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let due = Instant::now() + one_way;
        if to.send((due, buffer[..count].to_vec())).is_err() {
            return;
        }
    }
}

/// Writes each chunk when it is due, then shuts down the direction.
fn write_chunks(mut to: TcpStream, from: &Receiver<DelayedChunk>) {
    for (due, bytes) in from {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
