//! The entry point: parse, run, print one error, exit code; nothing else.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::panic::PanicHookInfo;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use jiff::Timestamp;
use token_service::cli::{self, Cli, Command, ParseError};
use token_service::command::{self, check, demo_source, merge, replay, run, test};
use token_service::config::{Env, Purpose, RunSettings};
use token_service::error::color::Color;
use token_service::error::diagnostic::Problem;
use token_service::error::exit::Exit;
use token_service::observe::logging;
use token_service::observe::logging::LineFormat;
use token_service::observe::metrics::file::MetricsFile;
use token_service::observe::progress::{ProgressDisplay, ProgressMode, StreamKinds};
use token_service::report::conclusion::Conclusion;
use token_service::report::metrics::metrics;
use token_service::runtime::{hardening, termination_log};
use token_service::{config, script};

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(crashed));
    let shielded = hardening::up();
    let args: Vec<OsString> = std::env::args_os().collect();
    let env = Env::of_process();
    let layout = cli::error_format(&args, &env);
    let color = |terminal: bool| terminal && env.allows_color();
    let done = match cli::parse(&args, color(io::stdout().is_terminal())) {
        Ok(cli) => command(&cli, &env),
        Err(ParseError::Answer(text)) => Ok(answer(&text)),
        Err(ParseError::Problem(problem)) => Err(vec![problem]),
    };
    let Done {
        exit,
        summary,
        details,
        problems,
    } = done.unwrap_or_else(Done::from);
    for line in summary.iter().chain(&details) {
        let _ = writeln!(io::stderr(), "{line}");
    }
    if let Err(error) = shielded {
        let _ = writeln!(
            io::stderr(),
            "warning: core dumps cannot be switched off: {error}"
        );
    }
    for problem in &problems {
        let text = match layout {
            LineFormat::Text => problem.render(color(io::stderr().is_terminal())),
            LineFormat::Json => problem.to_json(),
        };
        // Where standard error is closed, the exit code still tells.
        let _ = writeln!(io::stderr(), "{text}");
    }
    if let Some(word) = summary.or_else(|| problems.first().map(Problem::headline)) {
        leave_word(&word);
    }
    ExitCode::from(exit.code())
}

/// What became of a command, and what is to be said of it.
struct Done {
    exit: Exit,
    summary: Option<String>,
    /// What stands beneath the summary for whoever watches.
    details: Vec<String>,
    problems: Vec<Problem>,
}

impl Done {
    fn new(exit: Exit, problems: Vec<Problem>) -> Self {
        Self {
            exit,
            summary: None,
            details: Vec::new(),
            problems,
        }
    }
}

impl From<Vec<Problem>> for Done {
    fn from(problems: Vec<Problem>) -> Self {
        let exit = problems.first().map_or(Exit::Completed, |first| first.exit);
        Self::new(exit, problems)
    }
}

fn command(cli: &Cli, env: &Env) -> Result<Done, Vec<Problem>> {
    let alone = |problem| vec![problem];
    match &cli.command {
        Some(Command::Api(args)) => {
            let text = script::reference::print(args.format).map_err(alone)?;
            Ok(answer(&text))
        }
        Some(Command::Completions(args)) => Ok(answer(command::generate::completions(args.shell))),
        Some(Command::Man) => {
            let page = command::generate::man()
                .map_err(|error| alone(Problem::from(anyhow::Error::from(error))))?;
            Ok(answer(page))
        }
        Some(Command::Check(args)) => {
            let color = Color(io::stdout().is_terminal() && env.allows_color());
            let verdict = check::check(config::load_for_check(args, env), color);
            let exit = verdict.exit();
            let unwritten = answer(&verdict.lines).problems;
            let problems = verdict.problems.into_iter().chain(unwritten);
            Ok(Done::new(exit, problems.collect()))
        }
        Some(Command::Test(args)) => {
            let color = io::stdout().is_terminal() && env.allows_color();
            let exit = test::test(&test::TestSettings::of(args, color), &mut io::stdout())?;
            Ok(Done::new(exit, Vec::new()))
        }
        Some(Command::DemoSource(args)) => {
            demo_source::run(args, env, &mut io::stdout()).map_err(alone)?;
            Ok(Done::new(Exit::Completed, Vec::new()))
        }
        Some(Command::Demo(args)) => {
            let settings = config::load(Purpose::Demo, args, env).map_err(alone)?;
            start(&settings, env, |display| run::run(&settings, display)).map_err(alone)
        }
        Some(Command::Merge(args)) => {
            let settings = config::load_for_merge(args, env).map_err(alone)?;
            logging::start(settings.log, stderr_color(env), ProgressDisplay::blank());
            warn_of_variables(env);
            let done = measured(settings.metrics.as_deref(), settings.progress, || {
                merge::merge(&settings)
            });
            done.map_err(alone)
        }
        Some(Command::Replay(args)) => {
            let settings = config::load_for_replay(args, env).map_err(alone)?;
            let replay = |display: &ProgressDisplay| replay::replay(&settings, &args.file, display);
            start(&settings, env, replay).map_err(alone)
        }
        None => {
            let settings = config::load(Purpose::Run, &cli.run, env).map_err(alone)?;
            start(&settings, env, |display| run::run(&settings, display)).map_err(alone)
        }
    }
}

fn start(
    settings: &RunSettings,
    env: &Env,
    work: impl FnOnce(&ProgressDisplay) -> Conclusion,
) -> Result<Done, Problem> {
    let streams = StreamKinds {
        stderr_draws: io::stderr().is_terminal() && env.allows_drawing(),
        stdout_is_terminal: io::stdout().is_terminal(),
        color: env.allows_color(),
    };
    let display = ProgressDisplay::of(settings.progress, streams);
    logging::start(settings.log, stderr_color(env), display.clone());
    warn_of_variables(env);
    measured(settings.metrics.as_deref(), settings.progress, || {
        let finished = work(&display);
        display.clear();
        finished
    })
}

/// A variable that is misspelt would leave its option at the default without a word.
fn warn_of_variables(env: &Env) {
    for sentence in config::options::misspelt(env) {
        tracing::warn!("{sentence}");
    }
}

fn stderr_color(env: &Env) -> bool {
    io::stderr().is_terminal() && env.allows_color()
}

/// Does what a run does, and leaves its numbers in the file at `path`, whatever way it ends.
fn measured(
    path: Option<&Path>,
    progress: ProgressMode,
    work: impl FnOnce() -> Conclusion,
) -> Result<Done, Problem> {
    let file = path.map(MetricsFile::open).transpose()?;
    let began = Instant::now();
    let finished = work();
    if let Some(file) = file {
        let summary = finished.summary.as_ref();
        let (took, ended) = (began.elapsed(), Timestamp::now());
        file.finish(&metrics(finished.exit, summary, took, ended));
    }
    Ok(Done {
        exit: finished.exit,
        details: match (&finished.summary, progress) {
            (Some(summary), ProgressMode::Always) => summary.breakdown(),
            (Some(summary), ProgressMode::Auto) if io::stderr().is_terminal() => {
                summary.breakdown()
            }
            _ => Vec::new(),
        },
        summary: finished.summary.map(|summary| summary.line()),
        problems: finished.problem.into_iter().collect(),
    })
}

/// Writes what was asked for to standard output.
fn answer(text: impl AsRef<[u8]>) -> Done {
    let mut stdout = io::stdout();
    match stdout
        .write_all(text.as_ref())
        .and_then(|()| stdout.flush())
    {
        Ok(()) => Done::new(Exit::Completed, Vec::new()),
        // Whoever closed the pipe has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            Done::new(Exit::Completed, Vec::new())
        }
        Err(error) => {
            let problem = Problem::new(Exit::Script, "standard output cannot be written");
            Done::from(vec![problem.cause(error.to_string())])
        }
    }
}

/// For whoever looks at the pod: best effort, for the exit code and standard error tell too.
fn leave_word(word: &str) {
    let _ = termination_log::leave(Path::new(termination_log::FILE), word);
}

/// A crash shows its place and nothing else: what was being worked on may be a token.
fn crashed(info: &PanicHookInfo) {
    let words = last_words(info);
    let _ = writeln!(io::stderr(), "{words}");
    leave_word(&words);
}

fn last_words(info: &PanicHookInfo) -> String {
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    format!("error: token_service crashed at {place}; this is a bug")
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn a_crash_shows_its_place_only() {
        let heard = Arc::new(Mutex::new(String::new()));
        let listening = Arc::clone(&heard);
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            *listening.lock().unwrap() = last_words(info);
        }));
        let crash = std::panic::catch_unwind(|| panic!("a token: {}", "s3cret"));
        std::panic::set_hook(before);
        assert!(crash.is_err());
        let words = heard.lock().unwrap().clone();
        assert!(
            words.starts_with("error: token_service crashed at src/main.rs:"),
            "{words}"
        );
        assert!(!words.contains("s3cret"));
    }
}
