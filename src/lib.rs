//! token_service fetches secret tokens from an HTTP source, stores each one in a PostgreSQL
//! transaction of its own, and reports every token with what became of it.
//!
//! Data takes one way through the house: `fetch → store → report`, joined by a Rhai script.
//! The binary is the product; this library exists so that tests and benches can reach its rooms.

pub mod check;
pub mod cli;
mod client;
pub mod clock;
pub mod condition;
pub mod config;
pub mod demo_source;
pub mod escape;
pub mod exit;
pub mod fault;
pub mod fetch;
pub mod finding;
pub mod fuzz;
pub mod halt;
pub mod journal;
pub mod logging;
pub mod merge;
pub mod metrics;
pub mod paint;
pub mod problem;
pub mod replay;
pub mod report;
pub mod run;
pub mod screen;
pub mod script;
pub mod secret;
pub mod shard;
pub mod shield;
pub mod store;
pub mod stream;
pub mod supervise;
pub mod telemetry;
pub mod termination;
pub mod testing;
pub mod token;
pub mod verdict;
mod walk;
