//! The options: a row for each. The command line, the environment, the configuration file, the cases of
//! pipeline tests, the help, the completions and docs/configuration.md follow from it.
//!
//! A new option is a row here, and one use: `layers.get(&PAGE_SIZE)`. Keys of the file that are no flags
//! have rows in `config::keys`.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tracing::level_filters::LevelFilter;

use crate::cli::table::Shape::{List, Text};
use crate::cli::table::Unset::{Described, Value};
use crate::cli::table::on::{
    self, CASE, CHECK, CONFIGURED, DEMO_SOURCE, REPLAY, REPORTS, RUN, RUNS, SCHEMA, SERVE, SETTLES,
    STARTS,
};
use crate::cli::table::{Row, flag, options, switch};
use crate::cli::value::{self, ParseResult, RunId, ShardArg};
use crate::observe::logging::LineFormat;
use crate::observe::metrics::MetricLabel;
use crate::observe::progress::ProgressMode;
use crate::pipeline::concurrency::Concurrency;
use crate::pipeline::identifier::TableName;
use crate::report::fail_on::Condition;
use crate::report::mask::Mask;
use crate::report::{FORMAT_NAMES, ReportSpec};

options! {
    /// Number of tokens, at least 1
    SIZE: u64 = value::size,
        Row { key: "run.size", unset: Value("5"), on: RUNS, ..flag("SIZE", "N") };
    /// The pipeline script
    SCRIPT: PathBuf = path,
        Row {
            key: "run.script", shape: Text, group: "Run",
            unset: Described("the built-in one"), on: STARTS, ..flag("script", "FILE")
        };
    /// Write each received page to FILE and sync it before storing; `replay` reads it after a crash
    JOURNAL: PathBuf = path,
        Row {
            key: "run.journal", shape: Text, group: "Run", on: RUNS,
            ..flag("journal", "FILE")
        };
    /// Process shard I of N, with I from 0; /N takes I from Cloud Run or Kubernetes
    SHARD: ShardArg = value::shard,
        Row {
            key: "run.shard", group: "Run", unset: Described("from the platform, else 0/1"),
            is_rare: true, on: RUNS, ..flag("shard", "I/N")
        };
    /// Roll back each insert; the report shows what would have been stored
    DRY_RUN: bool = value::switch,
        Row { key: "run.dry_run", group: "Run", on: STARTS | CASE, ..switch("dry-run") };
    /// Stop the run after DURATION, such as 10m; inserts in flight still settle
    DEADLINE: Duration = value::positive_duration,
        Row {
            key: "run.deadline", group: "Run", on: SETTLES | SERVE | CASE,
            ..flag("deadline", "DURATION")
        };
    /// How long a stopped run may take to settle and report
    GRACE: Duration = value::duration,
        Row {
            key: "run.grace", group: "Run", unset: Value("8s"), is_rare: true,
            on: SETTLES | SERVE | CASE, ..flag("grace", "DURATION")
        };
    /// How long to wait out an outage of source or database during a run
    PATIENCE: Duration = value::duration,
        Row {
            key: "run.patience", group: "Run", unset: Value("30s"), is_rare: true,
            on: SETTLES | SERVE | CASE, ..flag("patience", "DURATION")
        };
    /// How long to wait at startup for source and database
    WAIT: Duration = value::duration,
        Row {
            key: "run.wait", group: "Run", unset: Value("0s"), is_rare: true, on: SETTLES | SERVE,
            ..flag("wait", "DURATION")
        };
    /// Read tokens from FILE, one per line, or from standard input if FILE is -, instead of the source;
    /// SIZE then defaults to all of them
    INPUT: PathBuf = path,
        Row { shape: Text, group: "Source", on: RUNS, ..flag("input", "FILE") };
    /// Maximum number of tokens per request
    PAGE_SIZE: u64 = value::positive,
        Row {
            key: "source.page_size", group: "Source", unset: Value("10000"), is_rare: true,
            on: STARTS | CASE, ..flag("page-size", "N")
        };
    /// Requests under way at a time, at most 8; auto starts with one, adds more while the source does not
    /// slow down, and halves them when it refuses
    FETCH_CONCURRENCY: Concurrency = value::concurrency,
        Row {
            key: "source.concurrency", group: "Source", unset: Value("auto"), is_rare: true,
            on: STARTS, ..flag("fetch-concurrency", "N")
        };
    /// Maximum rate of requests, repeated ones included, such as 10/s, 100/m or 500/h
    RATE: Duration = value::rate,
        Row {
            key: "source.rate", group: "Source", unset: Described("no limit"), is_rare: true,
            on: STARTS | CASE, ..flag("rate", "N/s")
        };
    /// How often a request is repeated that was certainly not served; ten times as many per run
    RETRIES: u32 = value::number,
        Row {
            key: "source.retries", group: "Source",
            unset: Described("3; an outage, a 429 or a 503 is waited out for --patience"),
            is_rare: true, on: STARTS | CASE, ..flag("retries", "N")
        };
    /// Maximum number of requests
    MAX_REQUESTS: u64 = value::positive,
        Row {
            group: "Source", unset: Described("no limit"), is_rare: true, on: STARTS | CASE,
            ..flag("max-requests", "N")
        };
    /// Do not request the missing tokens after a short delivery
    NO_TOP_UP: bool = value::switch,
        Row { group: "Source", is_rare: true, on: STARTS | CASE, ..switch("no-top-up") };
    /// Repeat requests that the source may have served (after a timeout, a 500 or an incomplete
    /// response); tokens may be issued twice, and the first ones are lost
    REPEAT_REQUESTS: bool = value::switch,
        Row {
            group: "Source", is_rare: true, on: STARTS | CASE,
            ..switch("dangerously-repeat-requests")
        };
    /// Maximum number of database connections; auto finds the best number while the run goes on
    CONNECTIONS: Option<usize> = value::count_or_auto,
        Row {
            key: "database.connections", group: "Database", unset: Value("auto"),
            is_rare: true, on: SETTLES | SERVE, ..flag("connections", "N")
        };
    /// Inserts in flight per connection; always 1 behind a pooler
    PIPELINE: usize = value::count,
        Row {
            key: "database.pipeline", group: "Database",
            unset: Described("from the round-trip time and the connections, 8 to 128"),
            is_rare: true, on: SETTLES | SERVE,
            ..flag("pipeline", "N")
        };
    /// Store each token together with a receipt in TABLE, which `schema` prints; then every doubt can be
    /// settled, and the run can be continued
    RECEIPTS: TableName = TableName::parse,
        Row {
            key: "database.receipts", group: "Database", unset: Described("no receipts"),
            is_rare: true, on: RUN | SERVE | REPLAY | CHECK | SCHEMA | on::RECEIPTS, ..flag("receipts", "TABLE")
        };
    /// The id of the run; with the id of an earlier run, continue that one from its receipts
    RUN_ID: RunId = value::run_id,
        Row {
            group: "Run", unset: Described("with receipts the execution on Cloud Run, else a new UUID"),
            is_rare: true, on: RUN, ..flag("run-id", "ID")
        };
    /// {values}, on standard output or to PATH; repeatable
    REPORT: ReportSpec = value::report,
        Row {
            key: "reports", shape: List, group: "Output", unset: Value("text"),
            values: &FORMAT_NAMES, on: REPORTS,
            ..flag("report", "FORMAT[=PATH]")
        };
    /// Refuse to replace an existing report
    NO_CLOBBER: bool = value::switch,
        Row { group: "Output", is_rare: true, on: REPORTS, ..switch("no-clobber") };
    /// How reports show tokens: none in full, prefix the first characters, sha256 a digest
    MASK: Mask = value::mask,
        Row {
            key: "run.mask", group: "Output", unset: Value("none"),
            values: &["none", "prefix", "sha256"], is_rare: true, on: REPORTS | SERVE,
            ..flag("mask", "MASK")
        };
    /// Exit with 1 if CONDITION holds at the end, such as rejected>0, stored<requested or
    /// stored<0.9*requested; repeatable
    FAIL_ON: Condition = value::condition,
        Row {
            key: "run.fail_on", shape: List, group: "Output", on: REPORTS | SERVE | CASE,
            ..flag("fail-on", "CONDITION")
        };
    /// When to show progress on standard error: auto if it is a terminal and no report scrolls on it,
    /// always (as lines if no bar can be drawn), or never
    PROGRESS: ProgressMode = value::progress,
        Row {
            key: "run.progress", group: "Output", unset: Value("auto"),
            values: &["auto", "always", "never"], is_rare: true, on: REPORTS,
            ..flag("progress", "WHEN")
        };
    /// Write the metrics of the run to FILE when it ends, in the Prometheus text format
    METRICS: PathBuf = path,
        Row {
            key: "run.metrics", shape: Text, group: "Output", is_rare: true, on: REPORTS,
            ..flag("metrics", "FILE")
        };
    /// Add a label to all metrics of the file, such as job=nightly, so that the files of several jobs
    /// do not collide; repeatable
    METRICS_LABEL: MetricLabel = value::metric_label,
        Row {
            key: "run.metrics_label", shape: List, group: "Output", is_rare: true, on: REPORTS,
            ..flag("metrics-label", "NAME=VALUE")
        };
    /// The folder in which a script's `emit` may write files
    OUT_DIR: PathBuf = path,
        Row {
            shape: Text, group: "Output", is_rare: true, on: RUNS, ..flag("out-dir", "DIR")
        };
    /// The configuration file (YAML)
    CONFIG: PathBuf = path,
        Row { shape: Text, group: "Run", on: CONFIGURED, ..flag("config", "FILE") };
    /// off, error, warn, info, debug or trace
    LOG_LEVEL: LevelFilter = value::level,
        Row {
            group: "Messages", unset: Value("info"),
            values: &["off", "error", "warn", "info", "debug", "trace"], is_rare: true,
            on: CONFIGURED,
            ..flag("log-level", "LEVEL")
        };
    /// text or json, on standard error
    LOG_FORMAT: LineFormat = value::line_format,
        Row {
            group: "Messages", unset: Value("text"), values: &["text", "json"],
            is_rare: true, on: CONFIGURED, ..flag("log-format", "LAYOUT")
        };
    /// text or json, on standard error
    ERROR_FORMAT: LineFormat = value::line_format,
        Row {
            group: "Messages", unset: Value("text"), values: &["text", "json"],
            is_rare: true, on: CONFIGURED, ..flag("error-format", "LAYOUT")
        };
    /// Also connect to source and database and report whether a run could use them; requests no token
    /// and writes no row
    CONNECT: bool = value::switch,
        Row { on: CHECK, ..switch("connect") };
    /// The address and port to listen on; port 0 picks a free one
    LISTEN: SocketAddr = value::address,
        Row {
            key: "serve.listen", group: "Service",
            unset: Value("127.0.0.1:8080"), on: DEMO_SOURCE | SERVE, ..flag("listen", "ADDR")
        };
    /// A second address for /metrics, /healthz and /readyz, where they need no token
    ADMIN_LISTEN: SocketAddr = value::address,
        Row {
            key: "serve.admin_listen", group: "Service", unset: Described("none"),
            on: SERVE, ..flag("admin-listen", "ADDR")
        };
    /// Maximum number of runs at a time
    MAX_RUNS: usize = value::count,
        Row {
            key: "serve.max_runs", group: "Service", unset: Value("4"), on: SERVE,
            ..flag("max-runs", "N")
        };
    /// Maximum number of runs that wait for their turn; further ones are refused with 429
    QUEUE: u32 = value::number,
        Row {
            key: "serve.queue", group: "Service", unset: Value("16"), on: SERVE,
            ..flag("queue", "N")
        };
    /// The folder that keeps reports and journals across restarts
    DATA: PathBuf = path,
        Row {
            key: "serve.data", shape: Text, group: "Service",
            unset: Described("the last 100 summaries are kept in memory"), on: SERVE,
            ..flag("data", "DIR")
        };
    /// Let everyone who can reach the address start runs and see tokens, because something in front
    /// of it authenticates
    NO_AUTH: bool = value::switch,
        Row { key: "serve.no_auth", group: "Service", on: SERVE, ..switch("no-auth") };
}

#[allow(clippy::unnecessary_wraps, reason = "has the signature of a parser")]
pub(crate) fn path(raw: &OsStr) -> ParseResult<PathBuf> {
    Ok(PathBuf::from(raw))
}

/// Returns the row of the option that has this flag.
pub fn row_of_flag(flag: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.flag == flag)
}
