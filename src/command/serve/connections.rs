//! Accepts the connections of a listener, and serves HTTP/1.1 and HTTP/2 on them, with limits of time and
//! size.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// How long the head of a request may take, and a connection may be idle.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// Largest number of open connections; others wait.
const MAX_CONNECTIONS: usize = 1024;
/// Largest number of requests at a time on an HTTP/2 connection.
const MAX_STREAMS: u32 = 128;
/// The bytes of a request's head.
const MAX_HEAD: usize = 64 << 10;
/// Pause after a failed `accept`.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time without data after which the peer of a connection is probed, and between probes.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long connections may take to end once no more requests are accepted.
const END_LIMIT: Duration = Duration::from_secs(1);

/// Serves requests until `ending` is cancelled, and then waits shortly for the answers under way.
pub(super) async fn serve(listener: TcpListener, router: Router, ending: CancellationToken) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let server = server();
    loop {
        let accept = async {
            let place = Arc::clone(&places).acquire_owned().await.ok()?;
            Some((listener.accept().await.ok()?.0, place))
        };
        let accepted = tokio::select! {
            () = ending.cancelled() => break,
            accepted = accept => accepted,
        };
        let Some((socket, place)) = accepted else {
            // Out of descriptors, for example: open connections will close.
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        if let Err(error) = set_up(&socket) {
            tracing::debug!(cause = %error, "the options of a connection cannot be set");
        }
        let service = TowerToHyperService::new(router.clone());
        let connection = server.serve_connection(TokioIo::new(socket), service);
        let connection = graceful.watch(connection.into_owned());
        tokio::spawn(async move {
            // A client that breaks the protocol or goes away is no event of ours.
            let _ = connection.await;
            drop(place);
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(END_LIMIT, graceful.shutdown()).await;
}

fn server() -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(MAX_HEAD);
    server
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .max_concurrent_streams(MAX_STREAMS);
    server
}

/// Sends small parts at once, and finds out when the client's host is gone.
fn set_up(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    #[cfg(target_os = "linux")]
    {
        sockopt::set_tcp_keepidle(socket, KEEP_ALIVE)?;
        sockopt::set_tcp_keepintvl(socket, KEEP_ALIVE)?;
    }
    Ok(())
}
