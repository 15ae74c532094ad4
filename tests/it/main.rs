//! The test binary: tests of the program from outside.
//!
//! Tests with `docker` in their path need a Docker engine and are marked `#[ignore]`. libtest cannot skip
//! a test at run time, so a run without an engine counts them as ignored, not as passed. `tests/run`
//! runs them if an engine is available, and prints a message otherwise. The same applies to `browser`
//! (Chromium and chromedriver), `published` (schemas of platforms, which `tests/schemas` fetches) and
//! `promtool` (of Prometheus).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::new_without_default,
    clippy::missing_panics_doc,
    reason = "tests fail by panicking, and their helpers are not a public API"
)]

#[path = "../support/mod.rs"]
mod support;

mod architecture;
mod benchmarks;
mod book;
mod browser;
mod check_and_api;
mod check_connect;
mod check_findings;
mod concurrent_requests;
mod configuration;
mod connecting;
mod connection_count;
mod connections;
mod csv_and_yaml;
mod demo_source;
mod deploy;
mod docker;
mod dry_run;
mod examples;
mod fail_on;
mod faults;
mod hostile_scripts;
mod hostile_source;
mod html_report;
mod idempotency;
mod input;
mod journal;
mod journal_faults;
mod journal_reuse;
mod kills;
mod licences;
mod long_forms;
mod masks;
mod merge;
mod metrics;
mod multiple_hosts;
mod observability;
mod otlp;
mod outages;
mod outcomes;
mod output_files;
mod pages;
mod path_conflicts;
mod pipeline_files;
mod pipeline_messages;
mod pipeline_tests;
mod pooler;
mod properties;
mod published_schemas;
mod readme;
mod receipt_commands;
mod receipts;
mod report_schema;
mod reports;
mod retries;
mod rotation;
mod runs;
mod scale_out;
mod script_accounting;
mod script_api;
mod script_bounded_functions;
mod script_cancellation;
mod script_errors;
mod script_faults;
mod script_library;
mod script_limits;
mod script_slips;
mod secrets_stay_hidden;
mod serve;
mod server_messages;
mod server_texts;
mod shards;
mod signals;
mod source;
mod source_answers;
mod source_connections;
mod source_tls;
mod standard_output;
mod startup_errors;
mod tables;
mod terminal;
mod termination_message;
mod test_support;
mod tls;
mod tokens;
mod usage_errors;
mod waiting;
