//! The command line: commands, options and help. It reads no file; `config` merges it with the
//! environment and the file.

mod args;
pub(crate) mod env;
pub(crate) mod error;
pub(crate) mod help;
pub mod options;
pub mod table;
#[cfg(test)]
mod tests;
pub mod value;

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

pub use crate::cli::args::*;
use crate::cli::env::Env;
use crate::error::Error;
use crate::observe::logging::LineFormat;

/// The names of the commands, for suggestions.
pub(crate) const COMMANDS: [&str; 13] = [
    "demo",
    "serve",
    "replay",
    "merge",
    "check",
    "test",
    "schema",
    "audit",
    "receipts",
    "api",
    "demo-source",
    "completions",
    "man",
];

const ABOUT: &str = "Fetches secret tokens over HTTP, stores each one in its own PostgreSQL transaction, \
and reports every token with its outcome.";

/// The command line.
#[derive(Clone, Debug, Parser)]
#[command(name = "token_service", version, about = ABOUT, after_help = help::short(), after_long_help = help::of_run())]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub struct Cli {
    /// The command, unless it is a run.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The arguments of a run.
    #[command(flatten)]
    pub run: RunArgs,
}

/// The commands besides a run.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run with a built-in source and an embedded database
    ///
    /// The same run with nothing to set up: a built-in token source that delivers short, and an SQLite
    /// database with the same table. It leaves nothing behind.
    Demo(DemoArgs),
    /// Run the pipeline as an HTTP service
    ///
    /// `POST /v1/runs?size=N` starts a run and streams its report. /openapi.json describes the requests.
    Serve(ServeArgs),
    /// Settle what an earlier run left in a journal or an ndjson report
    ///
    /// Stores the tokens that are safe to store again, looks up those in doubt, and reports every token
    /// of FILE anew.
    Replay(ReplayArgs),
    /// Join the ndjson reports of several runs or shards into one report
    ///
    /// Takes a single report too, to write it in another format.
    Merge(MergeArgs),
    /// Check scripts and the configuration without running them
    ///
    /// Compiles and lints. With --connect it also connects to source and database, without requesting
    /// a token or writing a row.
    Check(CheckArgs),
    /// Run pipeline tests (*.test.yaml) with a fake source, database and clock
    Test(TestArgs),
    /// Print the SQL that creates the table of receipts
    ///
    /// Prints statements for psql or sqlite3, and connects to nothing.
    Schema(SchemaArgs),
    /// List runs by their receipts, or compare a run's receipts with its report or journal
    Audit(AuditArgs),
    /// Delete old receipts
    Receipts(ReceiptsArgs),
    /// Print the script API
    Api(ApiArgs),
    /// Serve the token source of the demo
    DemoSource(DemoSourceArgs),
    /// Print completions for a shell
    Completions(CompletionsArgs),
    /// Print the man page of the program or of one command
    Man(ManArgs),
}

/// Why there is no command to run.
#[derive(Clone, Debug)]
pub enum ParseError {
    /// `--help` or `--version`: the text for standard output, with a line break at its end. The exit
    /// status is 0.
    Answer(String),
    /// The command line is invalid.
    Invalid(Error),
}

/// Parses a command line, the program's name first. With `color` the help is styled.
pub fn parse(args: &[OsString], color: bool) -> Result<Cli, ParseError> {
    let asks = args.get(1).is_some_and(|word| word == "help");
    // `help demo` is `demo --help`, as in other programs with commands.
    let help = [
        &args[..1.min(args.len())],
        &args[2.min(args.len())..],
        &["--help".into()],
    ]
    .concat();
    // After a misspelt command, clap reports a later argument instead.
    let first = args.get(1).and_then(|word| word.to_str());
    if let Some(error) = first.and_then(error::misspelt_command) {
        return Err(ParseError::Invalid(error));
    }
    command()
        .try_get_matches_from(if asks { &help } else { args })
        .and_then(|matches| Cli::from_arg_matches(&matches))
        .map_err(|error| {
            // A command that consists of others shows its help if none follows.
            let is_incomplete = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
            if error.use_stderr() && !is_incomplete {
                return ParseError::Invalid(error::explain(&error, args));
            }
            let text = error.render();
            ParseError::Answer(if color {
                text.ansi().to_string()
            } else {
                text.to_string()
            })
        })
}

/// Returns the format of errors, even if the command line as a whole is invalid.
pub fn error_format(args: &[OsString], env: &Env) -> LineFormat {
    let mut typed = None;
    let mut args = args
        .iter()
        .skip(1)
        .filter_map(|arg| arg.to_str())
        .peekable();
    while let Some(arg) = args.next() {
        match arg.strip_prefix("--error-format") {
            Some("") => typed = args.peek().copied().or(typed),
            Some(value) => typed = value.strip_prefix('=').or(typed),
            None if arg == "--" => break,
            None => {}
        }
    }
    let variable = options::ERROR_FORMAT.row.variable_name();
    let set = variable.and_then(|name| env.get(&name).ok().flatten());
    typed
        .and_then(|text| value::line_format(text).ok())
        .or_else(|| set.and_then(|text| value::line_format(text).ok()))
        .unwrap_or_default()
}

/// Returns the command line as help, man pages and completions show it.
pub(crate) fn command() -> clap::Command {
    let program = with_short_help(Cli::command());
    program.mut_subcommands(|sub| described("", sub))
}

/// Adds the text below the options to a command, and to the commands that it consists of; `parent` is
/// the words before its name.
fn described(parent: &str, command: clap::Command) -> clap::Command {
    let name = format!("{parent}{}", command.get_name());
    let words = format!("{name} ");
    let command = with_short_help(command).mut_subcommands(|sub| described(&words, sub));
    match help::of_command(&name) {
        Some(text) => {
            let more = format!(
                "`token_service {name} --help` has every option, its variable and examples."
            );
            command.after_help(more).after_long_help(text)
        }
        None => command,
    }
}

/// Gives each option a help of one line for `-h`, and hides rare options there.
fn with_short_help(command: clap::Command) -> clap::Command {
    command.mut_args(|arg| {
        let Some(help) = arg.get_help().map(ToString::to_string) else {
            return arg;
        };
        let first = help.split([';', '[', ':']).next().unwrap_or_default();
        let first = first.split(", such as").next().unwrap_or_default();
        let short = first.trim_end().to_owned();
        let row = arg.get_long().and_then(options::row_of_flag);
        let is_rare = row.is_some_and(|row| row.is_rare);
        arg.help(short).long_help(help).hide_short_help(is_rare)
    })
}
