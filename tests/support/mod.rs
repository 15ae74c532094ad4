//! What the tests stand on: a throwaway PostgreSQL, a scripted token source and the real binary.
//!
//! Nothing here fakes the product; every part is a real socket, a real server or a real process.
#![allow(dead_code, reason = "a test uses what it needs of the support")]

pub mod answer;
pub mod books;
mod captured;
pub mod cluster;
pub mod collector;
pub mod command;
pub mod database;
pub mod guide;
pub mod journal;
pub mod limit;
pub mod manifest;
mod pair;
pub mod pgbouncer;
pub mod postgres;
pub mod proxy;
pub mod report;
pub mod rewriter;
pub mod scrape;
pub mod secure;
pub mod snapshot;
pub mod source;
pub mod terminal;
pub mod terminator;
pub mod tls;
pub mod verify;
pub mod wire;

/// The root of the checkout.
pub fn root() -> &'static std::path::Path {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
}
