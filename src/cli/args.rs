//! The arguments of each command. The options of the table come from `options`; arguments that belong to
//! one command only are written here.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgMatches, Args, FromArgMatches, Subcommand, ValueEnum};

use crate::cli::options::{
    FETCH_CONCURRENCY, INPUT, LISTEN, MAX_REQUESTS, NO_TOP_UP, RATE, RECEIPTS, REPEAT_REQUESTS,
    RETRIES, ROWS,
};
use crate::cli::table::{Row, Shape, on};
use crate::cli::value::{self, RunId};
use crate::observe::logging::LineFormat;

/// The options of a command, one of [`on`], as clap takes them: those of the table that apply to it.
#[derive(Clone, Debug)]
pub struct OptionArgs<const COMMAND: u16>(pub Given);

/// The arguments of a run.
pub type RunArgs = OptionArgs<{ on::RUN }>;
/// The arguments of `demo`.
pub type DemoArgs = OptionArgs<{ on::DEMO }>;
/// The arguments of `demo-source`.
pub type DemoSourceArgs = OptionArgs<{ on::DEMO_SOURCE }>;

/// The arguments of `serve`.
pub type ServeArgs = OptionArgs<{ on::SERVE }>;

/// The options that a command line gives, with their values as typed.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// The command, one of [`on`].
    pub command: u16,
    /// The values by the `id` of their row; a switch has `true`.
    values: BTreeMap<&'static str, Vec<OsString>>,
}

impl Given {
    /// Returns the values of an option; empty if it was not given.
    pub fn values(&self, row: &Row) -> &[OsString] {
        self.values.get(row.id).map_or(&[], Vec::as_slice)
    }
}

/// The help of `--receipts` in the commands about receipts.
const RECEIPTS_TABLE_HELP: &str =
    "The table of the receipts [default: token_receipts] [env: TOKEN_SERVICE_RECEIPTS]";

/// The help of `--listen` in `serve`.
const LISTEN_HELP: &str = "The address and port to listen on; other than loopback it needs TOKEN_SERVICE_SERVE_TOKEN or --no-auth \
     [default: 127.0.0.1:8080, or 0.0.0.0:$PORT if PORT is set] [env: TOKEN_SERVICE_LISTEN]";

fn rows_of(command: u16) -> impl Iterator<Item = &'static Row> {
    ROWS.iter().filter(move |row| row.on & command != 0)
}

impl<const COMMAND: u16> Args for OptionArgs<COMMAND> {
    fn augment_args(command: clap::Command) -> clap::Command {
        let of_source = [
            &FETCH_CONCURRENCY.row,
            &RATE.row,
            &RETRIES.row,
            &MAX_REQUESTS.row,
            &NO_TOP_UP.row,
            &REPEAT_REQUESTS.row,
        ];
        command.args(rows_of(COMMAND).map(|row| match row.id {
            id if id == LISTEN.row.id && COMMAND == on::SERVE => row.to_arg().help(LISTEN_HELP),
            id if id == INPUT.row.id => {
                row.to_arg().conflicts_with_all(of_source.map(|row| row.id))
            }
            // To a run the option also says that receipts are written.
            id if id == RECEIPTS.row.id && COMMAND & (on::SCHEMA | on::RECEIPTS) != 0 => {
                row.to_arg().help(RECEIPTS_TABLE_HELP)
            }
            _ => row.to_arg(),
        }))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl<const COMMAND: u16> FromArgMatches for OptionArgs<COMMAND> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let values_of = |row: &Row| match row.shape {
            Shape::Switch if matches.get_flag(row.id) => vec![OsString::from("true")],
            Shape::Switch => Vec::new(),
            _ => {
                let raw = matches.get_raw(row.id).into_iter().flatten();
                raw.map(ToOwned::to_owned).collect()
            }
        };
        Ok(Self(Given {
            command: COMMAND,
            values: rows_of(COMMAND)
                .map(|row| (row.id, values_of(row)))
                .collect(),
        }))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The arguments of `replay`.
#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    /// A journal, an ndjson report or its .partial
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The options.
    #[command(flatten)]
    pub options: OptionArgs<{ on::REPLAY }>,
}

/// The arguments of `merge`.
#[derive(Clone, Debug, Args)]
pub struct MergeArgs {
    /// Complete ndjson reports, each of a different run
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// The options; tokens that are masked in the files stay masked.
    #[command(flatten)]
    pub options: OptionArgs<{ on::MERGE }>,
}

/// The arguments of `schema`.
#[derive(Clone, Debug, Args)]
pub struct SchemaArgs {
    /// Partition the table by the hash of the run's id
    #[arg(long)]
    pub partitioned: bool,
    /// Print the table for SQLite
    #[arg(long, conflicts_with_all = ["partitioned", "role"])]
    pub sqlite: bool,
    /// Also print the rights that the role NAME needs for a run
    #[arg(long, value_name = "NAME", value_parser = value::role)]
    pub role: Option<String>,
    /// The options.
    #[command(flatten)]
    pub options: OptionArgs<{ on::SCHEMA }>,
}

/// The arguments of `audit`.
#[derive(Clone, Debug, Args)]
pub struct AuditArgs {
    /// The id of a run, as --run-id takes it [default: all runs]
    #[arg(value_name = "RUN", value_parser = value::run_id)]
    pub run: Option<RunId>,
    /// Compare the receipts with an ndjson report
    #[arg(long, value_name = "FILE", conflicts_with = "journal")]
    pub report: Option<PathBuf>,
    /// Compare the receipts with a journal
    #[arg(long, value_name = "FILE")]
    pub journal: Option<PathBuf>,
    /// The format of the result
    #[arg(long, value_enum, default_value_t = AuditFormat::Text)]
    pub format: AuditFormat,
    /// The options.
    #[command(flatten)]
    pub options: OptionArgs<{ on::AUDIT }>,
}

/// The formats of an audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AuditFormat {
    /// Columns, and at most 20 positions
    Text,
    /// One object
    Json,
    /// One object per line
    Ndjson,
    /// A header, and one line per shard or position
    Csv,
}

/// The arguments of `receipts`.
#[derive(Clone, Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct ReceiptsArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ReceiptsCommand,
}

/// The commands that change receipts.
#[derive(Clone, Debug, Subcommand)]
pub enum ReceiptsCommand {
    /// Delete the receipts of old runs
    ///
    /// Deletes whole runs whose newest receipt is older than AGE, 10,000 rows per transaction. A run
    /// whose receipts are deleted cannot be continued.
    Prune(PruneArgs),
}

/// The arguments of `receipts prune`.
#[derive(Clone, Debug, Args)]
pub struct PruneArgs {
    /// Delete runs without a receipt within AGE, such as 30d
    #[arg(long, value_name = "AGE", allow_hyphen_values = true, value_parser = value::age)]
    pub older_than: Duration,
    /// Delete only the run with this id, as --run-id takes it, if it is old enough
    #[arg(long, value_name = "RUN", value_parser = value::run_id)]
    pub run: Option<RunId>,
    /// The options.
    #[command(flatten)]
    pub options: OptionArgs<{ on::PRUNE }>,
}

/// The arguments of `check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Scripts, and folders to search for *.rhai [default: the configured script]
    #[arg(value_name = "SCRIPT")]
    pub scripts: Vec<PathBuf>,
    /// The options.
    #[command(flatten)]
    pub options: OptionArgs<{ on::CHECK }>,
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
    /// Write the actual values of failed cases into their files
    #[arg(long)]
    pub update: bool,
    /// Also write the results to FILE, as JUnit XML
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// How many cases run at a time [default: one per processor]
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = value::count)]
    pub jobs: Option<usize>,
    /// The real time that a case may take; its virtual clock does not count
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = value::positive_duration, default_value = "10s")]
    pub timeout: Duration,
    /// text or json, on standard error [default: text]
    #[arg(long, value_name = "LAYOUT", allow_hyphen_values = true, value_parser = value::line_format)]
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
    /// The command, such as merge or receipts-prune [default: the program itself]
    #[arg(value_name = "COMMAND")]
    pub command: Option<String>,
}
