//! Support for the tests: throwaway PostgreSQL servers, a scripted token source and the real binary.
//!
//! Nothing fakes the product: every part is a real socket, a real server or a real process.

pub mod certificates;
pub mod cluster;
pub mod collector;
pub mod command;
pub mod database;
pub mod doc_blocks;
pub mod http;
pub mod journal;
pub mod ledger;
pub mod manifest;
mod output_capture;
pub mod pgbouncer;
pub mod postgres;
pub mod proxy;
mod proxy_connection;
pub mod raw_server;
pub mod report;
pub mod response;
pub mod rewriter;
pub mod scrape;
pub mod snapshot;
pub mod source;
pub mod terminal;
pub mod time_limit;
pub mod tls_server;
pub mod tls_terminator;
pub mod turns;
pub mod verify;
pub mod wire;

/// Returns the root of the checkout.
pub fn root() -> &'static std::path::Path {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
}
