//! The one test binary: behaviour seen from outside.
//!
//! Tests whose path has `docker` in it need a Docker engine and are marked `#[ignore]`: libtest
//! cannot skip while it runs, and this way a run without an engine counts them as ignored, not as
//! passed. `tests/run` asks for them where an engine answers and says so loudly where none does.
//! The same holds for `browser`, Chromium and its chromedriver, and for `published`, the schemas that
//! platforms publish, which `tests/schemas` fetches.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::new_without_default,
    clippy::missing_panics_doc,
    reason = "tests fail by panicking, and their helpers are nobody's API"
)]

#[path = "../support/mod.rs"]
mod support;

mod browser;
mod check_and_api;
mod check_connect;
mod check_findings;
mod connections;
mod csv_and_yaml;
mod demo_source;
mod deploy;
mod docker;
mod dry_run;
mod examples;
mod fail_on;
mod faults;
mod hostile_source;
mod html_report;
mod input;
mod journal;
mod journal_again;
mod journal_faults;
mod kills;
mod library;
mod licences;
mod long_forms;
mod masks;
mod merge;
mod metrics;
mod multiple_hosts;
mod observability;
mod otlp;
mod outages;
mod pages;
mod path_conflicts;
mod pipeline_files;
mod pipeline_messages;
mod pipeline_tests;
mod pooler;
mod properties;
mod published;
mod readme;
mod reports;
mod retries;
mod rotation;
mod runs;
mod scale_out;
mod schema;
mod script_errors;
mod script_faults;
mod script_limits;
mod script_stand_ins;
mod scripts;
mod scripts_books;
mod scripts_stop;
mod secrets_stay_hidden;
mod server_messages;
mod shards;
mod signals;
mod source;
mod startup_errors;
mod support_works;
mod tables;
mod terminal;
mod termination;
mod tls;
mod tokens;
mod truth;
mod usage_errors;
mod waiting;
