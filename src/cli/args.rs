//! The arguments of each command. What several commands take stands once, in a group of its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tracing::level_filters::LevelFilter;

use crate::cli::value;
use crate::cli::value::ShardArg;
use crate::observe::logging::LineFormat;
use crate::observe::progress::ProgressMode;
use crate::report::ReportSpec;
use crate::report::fail_on::Condition;
use crate::report::mask::Mask;

/// A run's arguments; whatever was not typed is `None` or empty.
#[derive(Clone, Debug, Default, Args)]
pub struct RunArgs {
    /// How many tokens, a whole number of at least 1 [default: 5]
    #[arg(allow_negative_numbers = true, value_parser = value::size)]
    pub size: Option<u64>,
    /// The pipeline script [default: the built-in one]
    #[arg(long, value_name = "FILE", help_heading = "Run")]
    pub script: Option<PathBuf>,
    /// Write each received page to FILE, synced, before it is stored; `replay` takes it after a crash
    #[arg(long, value_name = "FILE", help_heading = "Run")]
    pub journal: Option<PathBuf>,
    /// Take this run's part where N runs share SIZE, I from 0; without I the platform says which one
    /// it is [default: what Cloud Run or Kubernetes say, else 0/1]
    #[arg(long, value_name = "I/N", value_parser = value::shard, help_heading = "Run")]
    pub shard: Option<ShardArg>,
    /// Try each insert and roll it back: the report says what would have been stored
    #[arg(long, help_heading = "Run")]
    pub dry_run: bool,
    /// How long it may take.
    #[command(flatten)]
    pub times: TimeArgs,
    /// Take the tokens from FILE, one a line, or from standard input where it is -, instead of the
    /// source; SIZE then defaults to all of them
    #[arg(long, value_name = "FILE", help_heading = "Source")]
    #[arg(conflicts_with_all = ["max_requests", "no_top_up", "dangerously_repeat_requests"])]
    pub input: Option<PathBuf>,
    /// The most tokens to ask for in one request [default: 10000]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = value::positive)]
    #[arg(help_heading = "Source")]
    pub page_size: Option<u64>,
    /// The most requests of a run [default: no limit]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = value::positive)]
    #[arg(help_heading = "Source")]
    pub max_requests: Option<u64>,
    /// Do not ask again for what a short delivery left out
    #[arg(long, help_heading = "Source")]
    pub no_top_up: bool,
    /// Repeat requests that the source may have served (after a time-out, a 500 or a cut answer):
    /// tokens may be issued twice, and the first ones are lost
    #[arg(long, help_heading = "Source")]
    pub dangerously_repeat_requests: bool,
    /// How the database is used.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// What comes out.
    #[command(flatten)]
    pub output: OutputArgs,
    /// The folder that a script's `emit` may write files in
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub out_dir: Option<PathBuf>,
    /// What every command takes.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// How long a run, or the replay of one, may take.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Run")]
pub struct TimeArgs {
    /// End after this long, such as 10m; what is in flight is still settled
    #[arg(long, value_name = "DURATION", value_parser = value::limit)]
    pub deadline: Option<Duration>,
    /// How long a stopped run may take to settle and report [default: 8s]
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub grace: Option<Duration>,
    /// How long an outage in the middle of a run is waited out [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub patience: Option<Duration>,
    /// How long to wait at the start for source and database to come up [default: 0s]
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub wait: Option<Duration>,
}

/// How the database is used.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Database")]
pub struct DatabaseArgs {
    /// The most database connections [default: 16]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = value::count)]
    pub connections: Option<usize>,
    /// The most inserts in flight on each connection; behind a pooler it is one [default: what the
    /// round trip needs, 16 to 128]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = value::count)]
    pub pipeline: Option<usize>,
}

/// What comes out, and when that is a failure.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// text, ndjson, json, csv, yaml or html, on standard output or to PATH; repeatable [default:
    /// text]
    #[arg(long = "report", value_name = "FORMAT[=PATH]", value_parser = value::report)]
    pub reports: Vec<ReportSpec>,
    /// What reports show of a token: none masks nothing, prefix leaves its beginning, sha256 a
    /// digest [default: none]
    #[arg(long, value_name = "MASK", value_parser = value::mask)]
    pub mask: Option<Mask>,
    /// End with 1 where this holds at the end, such as rejected>0, stored<requested or
    /// stored<0.9*requested; repeatable
    #[arg(long, value_name = "CONDITION", value_parser = value::condition)]
    pub fail_on: Vec<Condition>,
    /// Show how far the run has come on standard error: auto where that is a terminal and standard
    /// output none, always in lines where no bar can be drawn, or never [default: auto]
    #[arg(long, value_name = "WHEN", value_parser = value::progress)]
    pub progress: Option<ProgressMode>,
    /// Write what the run came to into FILE when it ends, as Prometheus text for a collector
    #[arg(long, value_name = "FILE")]
    pub metrics: Option<PathBuf>,
}

/// The arguments of `replay`.
#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    /// A journal, an ndjson report, or the .partial of one
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// How long it may take.
    #[command(flatten)]
    pub times: TimeArgs,
    /// How the database is used.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// What comes out.
    #[command(flatten)]
    pub output: OutputArgs,
    /// What every command takes.
    #[command(flatten)]
    pub common: CommonArgs,
}

impl ReplayArgs {
    /// The same as the arguments of a run.
    pub fn as_run(&self) -> RunArgs {
        RunArgs {
            times: self.times.clone(),
            database: self.database.clone(),
            output: self.output.clone(),
            common: self.common.clone(),
            ..RunArgs::default()
        }
    }
}

/// The arguments of `merge`.
#[derive(Clone, Debug, Args)]
pub struct MergeArgs {
    /// Whole ndjson reports, each of another run
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// What comes out; tokens that are masked already stay so.
    #[command(flatten)]
    pub output: OutputArgs,
    /// What every command takes.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// The arguments of `demo-source`.
#[derive(Clone, Debug, Args)]
pub struct DemoSourceArgs {
    /// The address and port to listen on; port 0 is any that is free [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR", value_parser = value::address)]
    pub listen: Option<SocketAddr>,
}

/// What every command that reads the configuration takes.
#[derive(Clone, Debug, Default, Args)]
pub struct CommonArgs {
    /// The configuration file (YAML)
    #[arg(long, value_name = "FILE", help_heading = "Run")]
    pub config: Option<PathBuf>,
    /// off, error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL", value_parser = value::level, help_heading = "Messages")]
    pub log_level: Option<LevelFilter>,
    /// text or json, on standard error [default: text]
    #[arg(long, value_name = "LAYOUT", value_parser = value::layout, help_heading = "Messages")]
    pub log_format: Option<LineFormat>,
    /// text or json, on standard error [default: text]
    #[arg(long, value_name = "LAYOUT", value_parser = value::layout, help_heading = "Messages")]
    pub error_format: Option<LineFormat>,
}

/// The arguments of `check`.
#[derive(Clone, Debug, Default, Args)]
pub struct CheckArgs {
    /// The scripts, and folders that are searched for *.rhai [default: the one that a run would take]
    #[arg(value_name = "SCRIPT")]
    pub scripts: Vec<PathBuf>,
    /// Connect to source and database too, and say whether a run could use them; no token is asked
    /// for and no row written
    #[arg(long)]
    pub connect: bool,
    /// What every command takes.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// The arguments of `test`.
#[derive(Clone, Debug, Default, Args)]
pub struct TestArgs {
    /// Test files, and folders that are searched for them [default: the current folder]
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Run only the cases with TEXT in `FILE: NAME`
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    /// Write the reports of cases that fail into their files
    #[arg(long)]
    pub update: bool,
    /// Write the outcome to FILE too, as JUnit XML
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// How many cases run at a time [default: as many as there are processors]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = value::count)]
    pub jobs: Option<usize>,
    /// How long a case may take in real time, whatever its own clock says
    #[arg(long, value_name = "DURATION", value_parser = value::limit, default_value = "10s")]
    pub timeout: Duration,
    /// text or json, on standard error [default: text]
    #[arg(long, value_name = "LAYOUT", value_parser = value::layout)]
    pub error_format: Option<LineFormat>,
}

/// The arguments of `api`.
#[derive(Clone, Copy, Debug, Args)]
pub struct ApiArgs {
    /// The form of the reference
    #[arg(long, value_enum, default_value_t = ApiFormat::Md)]
    pub format: ApiFormat,
}

/// The forms in which the script API is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ApiFormat {
    /// Markdown for people
    Md,
    /// The engine's metadata
    Json,
    /// Definitions for editors
    #[value(name = "d.rhai")]
    Definitions,
}

/// The arguments of `completions`.
#[derive(Clone, Copy, Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// The arguments of `man`.
#[derive(Clone, Debug, Args)]
pub struct ManArgs {
    /// The command [default: the program itself]
    #[arg(value_name = "COMMAND")]
    pub command: Option<String>,
}
