//! token_service fetches secret tokens over HTTP, stores each one in its own PostgreSQL transaction, and
//! reports every token with its outcome.
//!
//! Tokens flow one way, `fetch → store → report`; a Rhai script connects the three. The binary is the
//! product. This library exports what the binary, tests, benchmarks and fuzz targets need, and nothing
//! else.

mod cli;
mod command;
mod config;
mod error;
mod fetch;
pub mod fuzz;
mod journal;
mod observe;
mod pipeline;
mod report;
mod runtime;
mod script;
mod store;

pub use cli::env::Env;
pub use command::generate::{keys_table, options_table};
pub use command::{CommandOutcome, run};
pub use runtime::{hardening, termination_log};
pub use script::reference::primitives_table;

/// The parts of a pipeline, from which the benchmarks build runs with and without a script.
pub mod parts {
    pub use crate::config::ScriptLimits;
    pub use crate::error::Error;
    pub use crate::fetch::http::{HttpEndpoint, HttpSource};
    pub use crate::fetch::{FetchLimits, Fetcher};
    pub use crate::observe::number::grouped;
    pub use crate::observe::otel::Tracer;
    pub use crate::observe::run_context::RunContext;
    pub use crate::pipeline::identifier::TableName;
    pub use crate::report::ledger::Ledger;
    pub use crate::report::{ReportFormat, ReportSpec, Reports, text};
    pub use crate::runtime::clock::{Clock, SystemClock};
    pub use crate::runtime::shutdown::Shutdown;
    pub use crate::script::api::emit_files::Emitter;
    pub use crate::script::finish::run_and_drain;
    pub use crate::script::host::{HostParts, ScriptHost};
    pub use crate::script::{STACK_SIZE, Script, ScriptSettings};
    pub use crate::store::{DatabaseTarget, Store, StoreOptions};
}
