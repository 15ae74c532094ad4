//! What users invoke: a file or folder per command, and the dispatch to them.

pub(crate) mod audit;
pub(crate) mod check;
mod continuation;
pub(crate) mod demo_source;
pub(crate) mod find_files;
pub(crate) mod generate;
pub(crate) mod merge;
mod outcome;
pub(crate) mod prune;
pub(crate) mod replay;
pub(crate) mod run;
pub(crate) mod schema;
pub(crate) mod serve;
pub(crate) mod supervisor;
pub(crate) mod test;

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Instant;

use jiff::Timestamp;

use crate::cli::env::Env;
use crate::cli::{self, Cli, Command, ParseError, ReceiptsCommand};
pub use crate::command::outcome::CommandOutcome;
use crate::config::{MetricsSettings, Purpose, RunSettings};
use crate::error::Error;
use crate::error::color::Color;
use crate::error::exit::Exit;
use crate::observe::logging::{self, LogSettings};
use crate::observe::metrics::file::MetricsFile;
use crate::observe::progress::{ProgressDisplay, ProgressMode, StreamKinds};
use crate::report::conclusion::Conclusion;
use crate::report::metrics::metrics;
use crate::runtime::stdout::Stdout;
use crate::{config, script};

/// Parses a command line, the program's name first, and runs its command.
pub fn run(args: &[OsString], env: &Env) -> CommandOutcome {
    let outcome = match cli::parse(args, stdout_color(env)) {
        Ok(cli) => dispatch(&cli, env),
        Err(ParseError::Answer(text)) => Ok(print(&text)),
        Err(ParseError::Invalid(error)) => Err(vec![error]),
    };
    let mut outcome = outcome.unwrap_or_else(CommandOutcome::from);
    outcome.error_format = cli::error_format(args, env);
    outcome
}

fn dispatch(cli: &Cli, env: &Env) -> Result<CommandOutcome, Vec<Error>> {
    let alone = |error| vec![error];
    match &cli.command {
        Some(Command::Api(args)) => {
            let text = script::reference::print(args.format).map_err(alone)?;
            Ok(print(&text))
        }
        Some(Command::Completions(args)) => Ok(print(generate::completions(args.shell))),
        Some(Command::Man(args)) => {
            let page = generate::man(args.command.as_deref()).map_err(alone)?;
            Ok(print(page))
        }
        Some(Command::Check(args)) => {
            let color = Color(stdout_color(env));
            let report = check::check(config::load_for_check(args, env), color);
            let exit = report.exit();
            let printed = print(&report.lines);
            let exit = match exit {
                Exit::Completed => printed.exit,
                worse => worse,
            };
            let errors = report.errors.into_iter().chain(printed.errors);
            Ok(CommandOutcome::new(exit, errors.collect()))
        }
        Some(Command::Test(args)) => {
            let settings = test::TestSettings::of(args, stdout_color(env));
            let exit = test::test(&settings, &mut Stdout)?;
            Ok(CommandOutcome::new(exit, Vec::new()))
        }
        Some(Command::DemoSource(args)) => {
            let address = config::load_address(&args.0, env)?;
            demo_source::run(address, &mut Stdout).map_err(alone)?;
            Ok(CommandOutcome::new(Exit::Completed, Vec::new()))
        }
        Some(Command::Demo(args)) => {
            let settings = config::load(Purpose::Demo, &args.0, env)?;
            start(&settings, env, |display| run::run(&settings, display)).map_err(alone)
        }
        Some(Command::Serve(args)) => {
            let settings = config::load_for_serve(args, env)?;
            start_logging(settings.run.log, env);
            serve::serve(settings, &mut Stdout).map_err(alone)?;
            Ok(CommandOutcome::new(Exit::Completed, Vec::new()))
        }
        Some(Command::Merge(args)) => {
            let settings = config::load_for_merge(args, env)?;
            start_logging(settings.log, env);
            let merge = || merge::merge(&settings);
            measured(settings.metrics.as_ref(), settings.progress, merge).map_err(alone)
        }
        Some(Command::Schema(args)) => {
            let settings = config::load_for_schema(args, env)?;
            start_logging(settings.log, env);
            Ok(print(schema::schema(&settings)))
        }
        Some(Command::Audit(args)) => {
            let settings = config::load_for_audit(args, env)?;
            start_logging(settings.receipts.log, env);
            audit::audit(&settings, &mut Stdout).map_err(alone)
        }
        Some(Command::Receipts(args)) => {
            let ReceiptsCommand::Prune(args) = &args.command;
            let settings = config::load_for_prune(args, env)?;
            start_logging(settings.receipts.log, env);
            let exit = prune::prune(&settings, &mut Stdout).map_err(alone)?;
            Ok(CommandOutcome::new(exit, Vec::new()))
        }
        Some(Command::Replay(args)) => {
            let settings = config::load_for_replay(args, env)?;
            let replay = |display: &ProgressDisplay| replay::replay(&settings, &args.file, display);
            start(&settings, env, replay).map_err(alone)
        }
        None => {
            let settings = config::load(Purpose::Run, &cli.run.0, env)?;
            start(&settings, env, |display| run::run(&settings, display)).map_err(alone)
        }
    }
}

/// Starts logging for a command without a display of progress.
fn start_logging(log: LogSettings, env: &Env) {
    logging::start(log, stderr_color(env), ProgressDisplay::blank());
    warn_of_misspelt_variables(env);
}

/// Starts logging and progress, and does the work of a run.
fn start(
    settings: &RunSettings,
    env: &Env,
    work: impl FnOnce(&ProgressDisplay) -> Conclusion,
) -> Result<CommandOutcome, Error> {
    let streams = StreamKinds {
        stderr_draws: io::stderr().is_terminal() && env.allows_drawing(),
        report_scrolls: io::stdout().is_terminal()
            && settings.reports.iter().any(|report| report.path.is_none()),
        color: env.allows_color(),
    };
    let display = ProgressDisplay::of(settings.progress, streams);
    logging::start(settings.log, stderr_color(env), display.clone());
    warn_of_misspelt_variables(env);
    measured(settings.metrics.as_ref(), settings.progress, || {
        let conclusion = work(&display);
        display.clear();
        conclusion
    })
}

/// Warns of misspelt variables, whose options would silently keep their defaults.
fn warn_of_misspelt_variables(env: &Env) {
    for sentence in config::suggestions::unknown_variables(env) {
        tracing::warn!("{sentence}");
    }
}

fn stdout_color(env: &Env) -> bool {
    io::stdout().is_terminal() && env.allows_color()
}

fn stderr_color(env: &Env) -> bool {
    io::stderr().is_terminal() && env.allows_color()
}

/// Does the work of a run and writes its metrics to a file, however it ends.
fn measured(
    metrics_file: Option<&MetricsSettings>,
    progress: ProgressMode,
    work: impl FnOnce() -> Conclusion,
) -> Result<CommandOutcome, Error> {
    let file = metrics_file.map(|to| MetricsFile::open(&to.path));
    let file = file.transpose()?;
    let started = Instant::now();
    let conclusion = work();
    let summary = conclusion.summary.as_ref();
    if let (Some(file), Some(to)) = (file, metrics_file) {
        let (took, ended) = (started.elapsed(), Timestamp::now());
        let metrics = metrics(conclusion.exit, summary, took, ended);
        file.finish(&metrics, &to.labels);
    }
    let is_watched = match progress {
        ProgressMode::Always => true,
        ProgressMode::Auto => io::stderr().is_terminal(),
        ProgressMode::Never => false,
    };
    let mut outcome = CommandOutcome::new(conclusion.exit, Vec::from_iter(conclusion.error));
    if let Some(summary) = summary {
        outcome.summary = Some(summary.line());
        outcome.details = if is_watched {
            summary.breakdown()
        } else {
            Vec::new()
        };
    }
    Ok(outcome)
}

/// Prints the text that a command produced to standard output.
fn print(text: impl AsRef<[u8]>) -> CommandOutcome {
    match Stdout.write_all(text.as_ref()) {
        Ok(()) => CommandOutcome::new(Exit::Completed, Vec::new()),
        // A reader that closes the pipe has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            CommandOutcome::new(Exit::Completed, Vec::new())
        }
        Err(error) => CommandOutcome::from(vec![unwritable_stdout(&error)]),
    }
}

/// Returns the error of a command whose standard output is full or closed.
pub(crate) fn unwritable_stdout(error: &io::Error) -> Error {
    Error::new(Exit::Script, "cannot write to standard output")
        .cause(error.to_string())
        .hint("free disk space, or redirect standard output to where it can be written")
}
