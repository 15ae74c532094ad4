//! A TLS terminator in front of a PostgreSQL without TLS, like a load balancer.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use super::certificates::Certificates;

/// How a client may start TLS.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum TlsStart {
    /// By an `SSLRequest`.
    Requested,
    /// Without one.
    Direct,
    /// Both, as PostgreSQL from version 17.
    Either,
}

/// Starts a TLS terminator for the server at the port `target`, and returns its port.
///
/// It runs until the test process exits. If `protocols` is not empty, the client must negotiate one of
/// them by ALPN, except after a request.
pub fn start_tls_terminator(
    target: u16,
    certificates: &Certificates,
    start: TlsStart,
    protocols: &[&str],
) -> u16 {
    let acceptor = certificates.acceptor_for(protocols);
    let requires_alpn = !protocols.is_empty();
    let (sender, port) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async move {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a socket");
            let _ = sender.send(listener.local_addr().expect("its address").port());
            while let Ok((mut client, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let mut first = [0];
                    client.peek(&mut first).await?;
                    let is_direct = match start {
                        TlsStart::Requested => false,
                        TlsStart::Direct => true,
                        TlsStart::Either => first != [0],
                    };
                    if !is_direct {
                        let mut request = [0; 8];
                        client.read_exact(&mut request).await?;
                        client.write_all(b"S").await?;
                    }
                    let mut client = acceptor.accept(client).await?;
                    let negotiated = client.get_ref().1.alpn_protocol() == Some(b"postgresql");
                    if is_direct && requires_alpn && !negotiated {
                        return Ok(());
                    }
                    let mut server = TcpStream::connect(("127.0.0.1", target)).await?;
                    copy_bidirectional(&mut client, &mut server).await?;
                    Ok::<_, std::io::Error>(())
                });
            }
        });
    });
    port.recv().expect("a port")
}
