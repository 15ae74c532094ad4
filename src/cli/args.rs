//! The arguments of each command. Arguments that several commands share are groups.

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

/// The arguments of a run; an argument that was not given is `None` or empty.
#[derive(Clone, Debug, Default, Args)]
pub struct RunArgs {
    /// Number of tokens, at least 1 [default: 5]
    #[arg(allow_negative_numbers = true, value_parser = value::size)]
    pub size: Option<u64>,
    /// The pipeline script [default: the built-in one]
    #[arg(long, value_name = "FILE", help_heading = "Run")]
    pub script: Option<PathBuf>,
    /// Write each received page to FILE and sync it before storing; `replay` reads it after a crash
    #[arg(long, value_name = "FILE", help_heading = "Run")]
    pub journal: Option<PathBuf>,
    /// Process shard I of N, with I from 0; /N takes I from Cloud Run or Kubernetes [default: from the
    /// platform, else 0/1]
    #[arg(long, value_name = "I/N", value_parser = value::shard, help_heading = "Run")]
    pub shard: Option<ShardArg>,
    /// Roll back each insert; the report shows what would have been stored
    #[arg(long, help_heading = "Run")]
    pub dry_run: bool,
    /// The time limits.
    #[command(flatten)]
    pub times: TimeArgs,
    /// Read tokens from FILE, one per line, or from standard input if FILE is -, instead of the source;
    /// SIZE then defaults to all of them
    #[arg(long, value_name = "FILE", help_heading = "Source")]
    #[arg(conflicts_with_all = ["max_requests", "no_top_up", "dangerously_repeat_requests"])]
    pub input: Option<PathBuf>,
    /// Maximum number of tokens per request [default: 10000]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = value::positive)]
    #[arg(help_heading = "Source")]
    pub page_size: Option<u64>,
    /// Maximum number of requests [default: no limit]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = value::positive)]
    #[arg(help_heading = "Source")]
    pub max_requests: Option<u64>,
    /// Do not request the missing tokens after a short delivery
    #[arg(long, help_heading = "Source")]
    pub no_top_up: bool,
    /// Repeat requests that the source may have served (after a timeout, a 500 or an incomplete
    /// response); tokens may be issued twice, and the first ones are lost
    #[arg(long, help_heading = "Source")]
    pub dangerously_repeat_requests: bool,
    /// The database options.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// The output options.
    #[command(flatten)]
    pub output: OutputArgs,
    /// The folder in which a script's `emit` may write files
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub out_dir: Option<PathBuf>,
    /// The options of every command.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// The time limits of a run or a replay.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Run")]
pub struct TimeArgs {
    /// Stop the run after DURATION, such as 10m; inserts in flight still settle
    #[arg(long, value_name = "DURATION", value_parser = value::positive_duration)]
    pub deadline: Option<Duration>,
    /// How long a stopped run may take to settle and report [default: 8s]
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub grace: Option<Duration>,
    /// How long to wait out an outage during a run [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub patience: Option<Duration>,
    /// How long to wait at startup for source and database [default: 0s]
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub wait: Option<Duration>,
}

/// The database options.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Database")]
pub struct DatabaseArgs {
    /// Maximum number of database connections [default: 16]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = value::count)]
    pub connections: Option<usize>,
    /// Inserts in flight per connection; always 1 behind a pooler [default: from the round-trip time, 16
    /// to 128]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = value::count)]
    pub pipeline: Option<usize>,
}

/// The output options, and the conditions under which a completed run fails.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    #[arg(long = "report", value_name = "FORMAT[=PATH]", value_parser = value::report)]
    #[arg(help = value::report_help())]
    #[allow(missing_docs, reason = "the help describes it")]
    pub reports: Vec<ReportSpec>,
    /// How reports show tokens: none in full, prefix the first characters, sha256 a digest [default:
    /// none]
    #[arg(long, value_name = "MASK", value_parser = value::mask)]
    pub mask: Option<Mask>,
    /// Exit with 1 if CONDITION holds at the end, such as rejected>0, stored<requested or
    /// stored<0.9*requested; repeatable
    #[arg(long, value_name = "CONDITION", value_parser = value::condition)]
    pub fail_on: Vec<Condition>,
    /// When to show progress on standard error: auto if it is a terminal and standard output is not,
    /// always (as lines if no bar can be drawn), or never [default: auto]
    #[arg(long, value_name = "WHEN", value_parser = value::progress)]
    pub progress: Option<ProgressMode>,
    /// Write the metrics of the run to FILE when it ends, in the Prometheus text format
    #[arg(long, value_name = "FILE")]
    pub metrics: Option<PathBuf>,
}

/// The arguments of `replay`.
#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    /// A journal, an ndjson report or its .partial
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The time limits.
    #[command(flatten)]
    pub times: TimeArgs,
    /// The database options.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// The output options.
    #[command(flatten)]
    pub output: OutputArgs,
    /// The options of every command.
    #[command(flatten)]
    pub common: CommonArgs,
}

impl ReplayArgs {
    /// Returns the equivalent arguments of a run.
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
    /// Complete ndjson reports, each of a different run
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// The output options; tokens that are masked in the files stay masked.
    #[command(flatten)]
    pub output: OutputArgs,
    /// The options of every command.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// The arguments of `demo-source`.
#[derive(Clone, Debug, Args)]
pub struct DemoSourceArgs {
    /// The address and port to listen on; port 0 picks a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR", value_parser = value::address)]
    pub listen: Option<SocketAddr>,
}

/// The options of every command that reads the configuration.
#[derive(Clone, Debug, Default, Args)]
pub struct CommonArgs {
    /// The configuration file (YAML)
    #[arg(long, value_name = "FILE", help_heading = "Run")]
    pub config: Option<PathBuf>,
    /// off, error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL", value_parser = value::level, help_heading = "Messages")]
    pub log_level: Option<LevelFilter>,
    /// text or json, on standard error [default: text]
    #[arg(long, value_name = "LAYOUT", value_parser = value::line_format, help_heading = "Messages")]
    pub log_format: Option<LineFormat>,
    /// text or json, on standard error [default: text]
    #[arg(long, value_name = "LAYOUT", value_parser = value::line_format, help_heading = "Messages")]
    pub error_format: Option<LineFormat>,
}

/// The arguments of `check`.
#[derive(Clone, Debug, Default, Args)]
pub struct CheckArgs {
    /// Scripts, and folders to search for *.rhai [default: the configured script]
    #[arg(value_name = "SCRIPT")]
    pub scripts: Vec<PathBuf>,
    /// Also connect to source and database and report whether a run could use them; requests no token
    /// and writes no row
    #[arg(long)]
    pub connect: bool,
    /// The options of every command.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// The arguments of `test`.
#[derive(Clone, Debug, Default, Args)]
pub struct TestArgs {
    /// Test files, and folders to search for them [default: the current folder]
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Run only the cases with TEXT in `FILE: NAME`
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    /// Write the actual reports of failed cases into their files
    #[arg(long)]
    pub update: bool,
    /// Also write the results to FILE, as JUnit XML
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// How many cases run at a time [default: one per processor]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = value::count)]
    pub jobs: Option<usize>,
    /// The real time that a case may take; its virtual clock does not count
    #[arg(long, value_name = "DURATION", value_parser = value::positive_duration, default_value = "10s")]
    pub timeout: Duration,
    /// text or json, on standard error [default: text]
    #[arg(long, value_name = "LAYOUT", value_parser = value::line_format)]
    pub error_format: Option<LineFormat>,
}

/// The arguments of `api`.
#[derive(Clone, Copy, Debug, Args)]
pub struct ApiArgs {
    /// The format of the reference
    #[arg(long, value_enum, default_value_t = ApiFormat::Md)]
    pub format: ApiFormat,
}

/// The formats in which the script API is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ApiFormat {
    /// Markdown
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
