//! A server that ends TLS before a PostgreSQL that has none, as a load balancer does.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use super::certificates::Certificates;

/// Listens on 127.0.0.1 and ends TLS before the server at the port `target`; for as long as the test
/// process lives. If `direct`, TLS begins at once. If there are `protocols`, the client must name one.
pub fn start_tls_terminator(
    target: u16,
    certificates: &Certificates,
    direct: bool,
    protocols: &[&str],
) -> u16 {
    let acceptor = certificates.acceptor_for(protocols);
    let is_named = !protocols.is_empty();
    let (tell, port) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async move {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a socket");
            let _ = tell.send(listener.local_addr().expect("its address").port());
            while let Ok((mut client, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    if !direct {
                        let mut request = [0; 8];
                        client.read_exact(&mut request).await?;
                        client.write_all(b"S").await?;
                    }
                    let mut client = acceptor.accept(client).await?;
                    let named = client.get_ref().1.alpn_protocol() == Some(b"postgresql");
                    if is_named && !named {
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
