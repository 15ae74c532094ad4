//! `token_service demo-source`: the demo's token source as a server of its own, for compose files and
//! trials. It runs until it is told to stop, which is its normal end.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::runtime::Builder;

use crate::cli::{self, DemoSourceArgs, value};
use crate::config::Env;
use crate::error::diagnostic::Problem;
use crate::error::exit::Exit;
use crate::fetch::demo;
use crate::runtime::signals::Signals;

/// Where it listens if nothing is said: nobody but this machine can reach it.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// Serves where `args` or the environment say until SIGINT or SIGTERM; says on `out` where, as soon as
/// it can be asked.
///
/// # Errors
/// Where it cannot listen there.
pub fn run(args: &DemoSourceArgs, env: &Env, out: &mut impl Write) -> Result<(), Problem> {
    let set = env.parse(&cli::variable("listen"), value::address)?;
    let address = args.listen.or(set).unwrap_or(LISTEN);
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime cannot be started")?;
    runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| cannot_listen(address, &error))?;
        let address = listener
            .local_addr()
            .map_err(|error| cannot_listen(address, &error))?;
        let said = writeln!(out, "listening on http://{address}/tokens").and_then(|()| out.flush());
        match said {
            // Whoever closed the pipe does not want to know.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                let problem = Problem::new(Exit::Script, "standard output cannot be written");
                return Err(problem.cause(error.to_string()));
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

fn cannot_listen(address: SocketAddr, error: &io::Error) -> Problem {
    Problem::new(Exit::Usage, format!("cannot listen on {address}"))
        .cause(error.to_string())
        .hint("--listen names an address of this machine and a free port, such as 127.0.0.1:0 for any")
}
