//! Distance: a TCP proxy that delivers every byte so much later, in both directions, as a long line
//! does. It blocks nobody: what was read waits for its own moment, and more is read meanwhile. The
//! first handshake of TCP, which the proxy answers itself, is not delayed.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// The most that is read at once.
const CHUNK: usize = 64 * 1024;

/// A running proxy; dropped, it takes no more connections.
pub struct Delay {
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    over: Arc<AtomicBool>,
}

impl Delay {
    /// A proxy before that port of 127.0.0.1; `round_trip` is both ways together.
    pub fn before(target: u16, round_trip: Duration) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("a loopback socket")?;
        let port = listener.local_addr()?.port();
        let over = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&over);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                // Dropped where the server refuses it; the client hears that.
                let _ = connect(&client, target, round_trip / 2);
            }
        });
        Ok(Self { port, over })
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Wakes the listener.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn connect(client: &TcpStream, target: u16, one_way: Duration) -> io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", target))?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    carry(client.try_clone()?, server.try_clone()?, one_way);
    carry(server, client.try_clone()?, one_way);
    Ok(())
}

/// Carries one direction, in two threads: the runtime's own timer would round up to whole
/// milliseconds, and a thread's sleep does not.
fn carry(from: TcpStream, to: TcpStream, one_way: Duration) {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || read(from, &sender, one_way));
    thread::spawn(move || write(to, &receiver));
}

type Due = (Instant, Vec<u8>);

fn read(mut from: TcpStream, to: &Sender<Due>, one_way: Duration) {
    let mut chunk = vec![0; CHUNK];
    while let Ok(count @ 1..) = from.read(&mut chunk) {
        let due = Instant::now() + one_way;
        if to.send((due, chunk[..count].to_vec())).is_err() {
            return;
        }
    }
}

/// Ends the direction when the last bytes were delivered.
fn write(mut to: TcpStream, from: &Receiver<Due>) {
    for (due, bytes) in from {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
