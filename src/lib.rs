//! token_service fetches secret tokens from an HTTP source, stores each one in a PostgreSQL
//! transaction of its own, and reports every token with what became of it.
//!
//! Data takes one way through the house: `fetch → store → report`, joined by a Rhai script.
//! The binary is the product; this library exists so that tests and benches can reach its rooms.

pub mod cli;
pub mod command;
pub mod config;
pub mod error;
pub mod fetch;
pub mod fuzz;
pub mod journal;
pub mod observe;
pub mod pipeline;
pub mod report;
pub mod runtime;
pub mod script;
pub mod store;
