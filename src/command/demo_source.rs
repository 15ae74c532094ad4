//! `token_service demo-source`: serves the demo's token source until a signal stops it, for compose
//! files and trials.

use std::io::{self, Write};
use std::net::SocketAddr;

use tokio::net::TcpListener;

use crate::command::unwritable_stdout;
use crate::error::Error;
use crate::error::exit::Exit;
use crate::fetch::demo;
use crate::runtime::{self, signals::Signals};

/// Serves on `address`, and prints the URL on `out` once it listens.
///
/// # Errors
/// The address cannot be used, or `out` cannot be written.
pub fn run(address: SocketAddr, out: &mut impl Write) -> Result<(), Error> {
    runtime::current_thread()?.block_on(async {
        let mut signals = Signals::listen()?;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| cannot_listen(address, &error))?;
        let address = listener
            .local_addr()
            .map_err(|error| cannot_listen(address, &error))?;
        if !address.ip().is_loopback() {
            // Logging is for runs. A closed standard error is ignored.
            let _ = writeln!(
                io::stderr(),
                "warning: other hosts can reach {address}, and no client has to authenticate; \
                 the tokens are random values for trials"
            );
        }
        let written =
            writeln!(out, "listening on http://{address}/tokens").and_then(|()| out.flush());
        match written {
            // A closed pipe is not an error.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                return Err(unwritable_stdout(&error));
            }
            _ => {}
        }
        tokio::select! {
            () = demo::serve(listener) => {}
            _ = signals.next() => {}
        }
        Ok(())
    })
}

fn cannot_listen(address: SocketAddr, error: &io::Error) -> Error {
    Error::new(Exit::Usage, format!("cannot listen on {address}"))
        .cause(error.to_string())
        .hint("set --listen to an address of this host and a free port; port 0 picks one")
}
