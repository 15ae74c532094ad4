//! What was typed: the commands, their options and their help. Nothing here looks at a file or at
//! the environment; `config` puts those together with what stands here.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use tracing::level_filters::LevelFilter;

use crate::condition::Condition;
use crate::config::{Env, Layout, values};
use crate::problem::Problem;
use crate::report::Spec;
use crate::report::mask::Mask;
use crate::testing;

mod complaint;

const EXAMPLES: &str = "\
Examples:
  token_service demo 10                          try it, nothing has to be set up
  token_service 1000                             fetch, store and report 1,000 tokens
  token_service 1000 --report ndjson=run.ndjson  report to a file
  token_service --script mine.rhai 1000          run a pipeline of your own
  token_service check mine.rhai                  look for mistakes without a run
  token_service test                             run the pipeline tests below this folder

Where the tokens come from and go to is set by the environment or by --config:
  TOKEN_HOST                        the token source's URL
  DATABASE_URL                      postgres://user@host/name or sqlite:PATH; or else
  DB_HOST DB_PORT DB_USER DB_NAME   the parts of a PostgreSQL address, with DB_SSLMODE
  DB_PASS, DB_PASS_FILE             the password, or the file that holds it
  MAX_TOKENS                        the largest SIZE that is accepted
Each option can be set as TOKEN_SERVICE_<NAME> too, such as TOKEN_SERVICE_PAGE_SIZE.

Exit codes:
  0         the run completed: SIZE tokens received, each stored or rejected
  1         it completed, but a --fail-on condition holds
  2         usage or configuration
  3         the script: does not compile, threw, or ran past a limit
  4         the source: unreachable, refused, or could not supply SIZE tokens
  5         the database: unreachable, or some token is failed, unknown or not_attempted
  130, 143  stopped by SIGINT, SIGTERM, after the report
  others    what the script chose by exit(N)";

/// The names of the commands, which a SIZE may have been meant to be.
const COMMANDS: [&str; 6] = ["demo", "replay", "check", "test", "api", "demo-source"];

const ABOUT: &str = "Fetches secret tokens over HTTP, stores each in a PostgreSQL transaction of its \
own, and reports what became of every one.";

/// The command line.
#[derive(Clone, Debug, Parser)]
#[command(name = "token_service", version, about = ABOUT, after_help = EXAMPLES)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub struct Cli {
    /// Another command than a run.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The run, where no other command is named.
    #[command(flatten)]
    pub run: RunArgs,
}

/// The commands beside a run.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// The same run against a built-in source and an embedded database, which leaves nothing behind
    Demo(RunArgs),
    /// Take a journal or an ndjson report, store what is safe to store again, look up what is in
    /// doubt, and report anew
    Replay(ReplayArgs),
    /// Compile and lint scripts and the configuration without running anything
    Check(CheckArgs),
    /// Run pipeline tests (*.test.yaml) on a source, a database and a clock of their own
    Test(TestArgs),
    /// Print the script API, generated from the engine
    Api(ApiArgs),
    /// Serve the demo's token source on its own until it is told to stop
    DemoSource(DemoSourceArgs),
}

/// A run's arguments; whatever was not typed is `None` or empty.
#[derive(Clone, Debug, Default, Args)]
pub struct RunArgs {
    /// How many tokens, a whole number of at least 1 [default: 5]
    #[arg(allow_negative_numbers = true, value_parser = values::size)]
    pub size: Option<u64>,
    /// The pipeline script [default: the built-in one]
    #[arg(long, value_name = "FILE", help_heading = "Run")]
    pub script: Option<PathBuf>,
    /// End the run after this long, such as 10m; what is in flight is still settled
    #[arg(long, value_name = "DURATION", value_parser = values::limit, help_heading = "Run")]
    pub deadline: Option<Duration>,
    /// How long a stopped run may take to settle and report [default: 8s]
    #[arg(long, value_name = "DURATION", value_parser = values::duration, help_heading = "Run")]
    pub grace: Option<Duration>,
    /// How long an outage in the middle of a run is waited out [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = values::duration, help_heading = "Run")]
    pub patience: Option<Duration>,
    /// How long to wait at the start for source and database to come up [default: 0s]
    #[arg(long, value_name = "DURATION", value_parser = values::duration, help_heading = "Run")]
    pub wait: Option<Duration>,
    /// Write each received page to FILE, synced, before it is stored; `replay` takes it after a crash
    #[arg(long, value_name = "FILE", help_heading = "Run")]
    pub journal: Option<PathBuf>,
    /// End with 1 where this holds at the end, such as rejected>0, stored<requested or
    /// stored<0.9*requested; repeatable
    #[arg(long, value_name = "CONDITION", value_parser = values::condition, help_heading = "Run")]
    pub fail_on: Vec<Condition>,
    /// Try each insert and roll it back: the report says what would have been stored
    #[arg(long, help_heading = "Run")]
    pub dry_run: bool,
    /// The most tokens to ask for in one request [default: 10000]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = values::positive)]
    #[arg(help_heading = "Source")]
    pub page_size: Option<u64>,
    /// The most requests of a run [default: no limit]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = values::positive)]
    #[arg(help_heading = "Source")]
    pub max_requests: Option<u64>,
    /// Do not ask again for what a short delivery left out
    #[arg(long, help_heading = "Source")]
    pub no_top_up: bool,
    /// Repeat requests that the source may have served (after a time-out, a 500 or a cut answer):
    /// tokens may be issued twice, and the first ones are lost
    #[arg(long, help_heading = "Source")]
    pub dangerously_repeat_requests: bool,
    /// The most database connections [default: 16]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = values::count)]
    #[arg(help_heading = "Database")]
    pub connections: Option<usize>,
    /// The most inserts in flight on each connection; behind a pooler it is one [default: what the
    /// round trip needs, 16 to 128]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = values::count)]
    #[arg(help_heading = "Database")]
    pub pipeline: Option<usize>,
    /// text, ndjson, json, csv, yaml or html, on standard output or to PATH; repeatable [default:
    /// text]
    #[arg(long = "report", value_name = "FORMAT[=PATH]", value_parser = values::report)]
    #[arg(help_heading = "Output")]
    pub reports: Vec<Spec>,
    /// What reports show of a token: none masks nothing, prefix leaves its beginning, sha256 a
    /// digest [default: none]
    #[arg(long, value_name = "MASK", value_parser = values::mask, help_heading = "Output")]
    pub mask: Option<Mask>,
    /// The folder that a script's `emit` may write files in
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub out_dir: Option<PathBuf>,
    /// What every command takes.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// The arguments of `replay`.
#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    /// A journal, an ndjson report, or the .partial of one
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// What every command takes.
    #[command(flatten)]
    pub common: CommonArgs,
    /// End after this long, such as 10m; what is in flight is still settled
    #[arg(long, value_name = "DURATION", value_parser = values::limit, help_heading = "Run")]
    pub deadline: Option<Duration>,
    /// How long a stopped run may take to settle and report [default: 8s]
    #[arg(long, value_name = "DURATION", value_parser = values::duration, help_heading = "Run")]
    pub grace: Option<Duration>,
    /// How long an outage in the middle of a run is waited out [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = values::duration, help_heading = "Run")]
    pub patience: Option<Duration>,
    /// The most database connections [default: 16]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = values::count)]
    #[arg(help_heading = "Database")]
    pub connections: Option<usize>,
    /// The most inserts in flight on each connection; behind a pooler it is one [default: what the
    /// round trip needs, 16 to 128]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = values::count)]
    #[arg(help_heading = "Database")]
    pub pipeline: Option<usize>,
    /// text, ndjson, json, csv, yaml or html, on standard output or to PATH; repeatable [default:
    /// text]
    #[arg(long = "report", value_name = "FORMAT[=PATH]", value_parser = values::report)]
    #[arg(help_heading = "Output")]
    pub reports: Vec<Spec>,
    /// What reports show of a token: none masks nothing, prefix leaves its beginning, sha256 a
    /// digest [default: none]
    #[arg(long, value_name = "MASK", value_parser = values::mask, help_heading = "Output")]
    pub mask: Option<Mask>,
}

impl ReplayArgs {
    /// The same as the arguments of a run.
    pub fn as_run(&self) -> RunArgs {
        RunArgs {
            common: self.common.clone(),
            deadline: self.deadline,
            grace: self.grace,
            patience: self.patience,
            connections: self.connections,
            pipeline: self.pipeline,
            reports: self.reports.clone(),
            mask: self.mask,
            ..RunArgs::default()
        }
    }
}

/// The arguments of `demo-source`.
#[derive(Clone, Debug, Args)]
pub struct DemoSourceArgs {
    /// The address and port to listen on; port 0 is any that is free [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR", value_parser = values::address)]
    pub listen: Option<SocketAddr>,
}

/// What every command that reads the configuration takes.
#[derive(Clone, Debug, Default, Args)]
pub struct CommonArgs {
    /// The configuration file (YAML)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// off, error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL", value_parser = values::level, help_heading = "Messages")]
    pub log_level: Option<LevelFilter>,
    /// text or json, on standard error [default: text]
    #[arg(long, value_name = "LAYOUT", value_parser = values::layout, help_heading = "Messages")]
    pub log_format: Option<Layout>,
    /// text or json, on standard error [default: text]
    #[arg(long, value_name = "LAYOUT", value_parser = values::layout, help_heading = "Messages")]
    pub error_format: Option<Layout>,
}

/// The arguments of `check`.
#[derive(Clone, Debug, Default, Args)]
pub struct CheckArgs {
    /// The scripts [default: the one that a run would take]
    #[arg(value_name = "SCRIPT")]
    pub scripts: Vec<PathBuf>,
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
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = values::count)]
    pub jobs: Option<usize>,
    /// How long a case may take in real time, whatever its own clock says
    #[arg(long, value_name = "DURATION", value_parser = values::limit, default_value = "10s")]
    pub timeout: Duration,
    /// text or json, on standard error [default: text]
    #[arg(long, value_name = "LAYOUT", value_parser = values::layout)]
    pub error_format: Option<Layout>,
}

impl TestArgs {
    /// The same as settings.
    pub fn settings(&self, color: bool) -> testing::Settings {
        testing::Settings {
            paths: self.paths.clone(),
            filter: self.filter.clone(),
            update: self.update,
            junit: self.junit.clone(),
            jobs: self.jobs,
            timeout: self.timeout,
            color,
        }
    }
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

/// Why there is nothing to run.
#[derive(Clone, Debug)]
pub enum Refusal {
    /// `--help` or `--version`: the text for standard output, with a line break at its end; the
    /// process ends with 0.
    Answer(String),
    /// What was typed makes no sense.
    Problem(Problem),
}

/// Reads a command line, the program's name first. With `color` the help is styled.
pub fn parse(args: &[OsString], color: bool) -> Result<Cli, Refusal> {
    let command = with_variables(Cli::command());
    command
        .try_get_matches_from(args)
        .and_then(|matches| Cli::from_arg_matches(&matches))
        .map_err(|error| {
            if error.use_stderr() {
                return Refusal::Problem(complaint::explain(&error));
            }
            let text = error.render();
            Refusal::Answer(if color {
                text.ansi().to_string()
            } else {
                text.to_string()
            })
        })
}

/// How errors are to be shown, found even where the command line as a whole makes no sense.
pub fn error_format(args: &[OsString], env: &Env) -> Layout {
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
    let set = env.get("TOKEN_SERVICE_ERROR_FORMAT").ok().flatten();
    typed
        .and_then(|text| values::layout(text).ok())
        .or_else(|| set.and_then(|text| values::layout(text).ok()))
        .unwrap_or_default()
}

/// The variable that stands for an option: `TOKEN_SERVICE_PAGE_SIZE` for `page-size`.
pub fn variable(option: &str) -> String {
    format!("TOKEN_SERVICE_{}", option.replace('-', "_").to_uppercase())
}

/// Names each option's variable in its help. clap's own `env` is not used, because it would take an
/// empty variable for a value and would blame the option for what the variable holds.
fn with_variables(command: clap::Command) -> clap::Command {
    let describe = |arg: clap::Arg| {
        let name = match arg.get_long() {
            Some("help" | "version") => return arg,
            Some(name) => variable(name),
            None if arg.get_id() == "size" => variable("size"),
            None => return arg,
        };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        arg.help(format!("{help} [env: {name}]"))
    };
    command
        .mut_args(describe)
        .mut_subcommands(move |sub| match sub.get_name() {
            // Their options have no variables.
            "api" | "test" => sub,
            _ => sub.mut_args(describe),
        })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    fn typed(line: &str) -> Cli {
        match parse(&words(line), false) {
            Ok(cli) => cli,
            Err(refusal) => panic!("{refusal:?}"),
        }
    }

    fn problem(line: &str) -> Problem {
        match parse(&words(line), false) {
            Err(Refusal::Problem(problem)) => problem,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        with_variables(Cli::command()).debug_assert();
    }

    #[test]
    fn a_size_that_makes_no_sense_is_one_clear_error() {
        let all: Vec<String> = [
            "0",
            "-1",
            "1.5",
            "ten",
            "18446744073709551616",
            "9223372036854775808",
        ]
        .iter()
        .map(|size| {
            let problem = problem(&format!("token_service {size}"));
            assert_eq!(problem.exit, Exit::Usage);
            assert_eq!(
                self::problem(&format!("token_service demo {size}")).message,
                problem.message
            );
            problem.render(false)
        })
        .collect();
        insta::assert_snapshot!(all.join("\n"), @"
        error: SIZE must be a whole number of at least 1, such as 10, not `0`
        hint: `token_service --help` shows what can be typed
        error: SIZE must be a whole number of at least 1, such as 10, not `-1`
        hint: `token_service --help` shows what can be typed
        error: SIZE must be a whole number of at least 1, such as 10, not `1.5`
        hint: `token_service --help` shows what can be typed
        error: SIZE must be a whole number of at least 1, such as 10, not `ten`
        hint: `token_service --help` shows what can be typed
        error: SIZE must be at most 9223372036854775807, not `18446744073709551616`
        hint: `token_service --help` shows what can be typed
        error: SIZE must be at most 9223372036854775807, not `9223372036854775808`
        hint: `token_service --help` shows what can be typed
        ");
    }

    #[test]
    fn an_option_that_makes_no_sense_is_one_clear_error() {
        let all: Vec<String> = [
            "--pagesize 5",
            "--page-size 0",
            "--connections -3",
            "--deadline 20",
            "--deadline 0s",
            "--grace soon",
            "--report htmll",
            "--report jsn",
            "--report json=",
            "--mask half",
            "--log-level loud",
            "--error-format xml",
            "5 demo",
            "5 6",
            "--page-size 5 demo",
            "demo 5 6",
            "dmeo",
            "--password x",
            "--script",
            "--page-size 5 --page-size 6",
            "api --format rst",
        ]
        .iter()
        .map(|line| problem(&format!("token_service {line}")).render(false))
        .collect();
        insta::assert_snapshot!(all.join("\n"), @"
        error: unexpected argument '--pagesize' found
        hint: a similar argument exists: '--page-size'
        error: --page-size must be a whole number of at least 1, not `0`
        hint: `token_service --help` shows what can be typed
        error: --connections must be a whole number from 1 to 10000, not `-3`
        hint: `token_service --help` shows what can be typed
        error: --deadline must have a unit, such as 500ms, 20s or 10m, not `20`
        hint: `token_service --help` shows what can be typed
        error: --deadline must be longer than 0, not `0s`
        hint: `token_service --help` shows what can be typed
        error: --grace must be a duration, such as 500ms, 20s or 10m, not `soon`
        hint: `token_service --help` shows what can be typed
        error: --report must be one of text, ndjson, json, csv, yaml, html, each with =PATH for a file (did you mean `html`?), not `htmll`
        hint: `token_service --help` shows what can be typed
        error: --report must be one of text, ndjson, json, csv, yaml, html, each with =PATH for a file (did you mean `json`?), not `jsn`
        hint: `token_service --help` shows what can be typed
        error: --report must name a path after `=`, or be `json` alone for standard output, not `json=`
        hint: `token_service --help` shows what can be typed
        error: --mask must be one of none, prefix, sha256, not `half`
        hint: `token_service --help` shows what can be typed
        error: --log-level must be one of off, error, warn, info, debug, trace, not `loud`
        hint: `token_service --help` shows what can be typed
        error: --error-format must be text or json, not `xml`
        hint: `token_service --help` shows what can be typed
        error: the command `demo` must come first
        hint: SIZE and options go after it: `token_service demo …`
        error: unexpected argument '6' found
        hint: `token_service --help` shows what can be typed
        error: the command `demo` must come first
        hint: SIZE and options go after it: `token_service demo …`
        error: unexpected argument '6' found
        hint: `token_service --help` shows what can be typed
        error: no command is called `dmeo`
        hint: did you mean `token_service demo`?
        error: unexpected argument '--password' found
        hint: `token_service --help` shows what can be typed
        error: a value is required for '--script <FILE>' but none was supplied
        hint: `token_service --help` shows what can be typed
        error: the argument '--page-size <N>' cannot be used multiple times
        hint: `token_service --help` shows what can be typed
        error: invalid value 'rst' for '--format <FORMAT>' [possible values: md, json, d.rhai]
        hint: `token_service --help` shows what can be typed
        ");
    }

    #[test]
    fn every_option_reaches_its_field() {
        let cli = typed(
            "token_service 10 --config c.yaml --script s.rhai --report text --report ndjson=r.ndjson --mask sha256 --fail-on rejected>0 --dry-run --journal j --wait 1s --connections 2 --pipeline 3 --page-size 4 --max-requests 5 --no-top-up --deadline 10m --grace 0s --patience 1m --out-dir out --log-level debug --log-format json --error-format json",
        );
        let run = cli.run;
        assert!(cli.command.is_none());
        assert_eq!(run.size, Some(10));
        assert_eq!(run.common.config, Some("c.yaml".into()));
        assert_eq!(run.script, Some("s.rhai".into()));
        assert_eq!(run.reports.len(), 2);
        assert_eq!(run.mask, Some(Mask::Sha256));
        assert_eq!(run.fail_on, ["rejected>0".parse().unwrap()]);
        assert!(run.dry_run);
        assert_eq!(run.journal, Some("j".into()));
        assert_eq!(run.wait, Some(Duration::from_secs(1)));
        assert_eq!((run.connections, run.pipeline), (Some(2), Some(3)));
        assert_eq!((run.page_size, run.max_requests), (Some(4), Some(5)));
        assert!(run.no_top_up);
        assert_eq!(run.deadline, Some(Duration::from_mins(10)));
        assert_eq!(run.grace, Some(Duration::ZERO));
        assert_eq!(run.patience, Some(Duration::from_mins(1)));
        assert_eq!(run.out_dir, Some("out".into()));
        assert_eq!(run.common.log_level, Some(LevelFilter::DEBUG));
        assert_eq!(run.common.log_format, Some(Layout::Json));
        assert_eq!(run.common.error_format, Some(Layout::Json));
    }

    #[test]
    fn the_commands_take_their_arguments() {
        let demo = typed("token_service demo 10 --report json").command;
        assert!(matches!(demo, Some(Command::Demo(run)) if run.size == Some(10)));
        let check = typed("token_service check a.rhai b.rhai --config c.yaml").command;
        assert!(matches!(check, Some(Command::Check(check)) if check.scripts.len() == 2));
        let api = typed("token_service api --format d.rhai").command;
        assert!(matches!(api, Some(Command::Api(api)) if api.format == ApiFormat::Definitions));
    }

    #[test]
    fn the_error_format_is_known_whatever_else_is_wrong() {
        let none = Env::default();
        let json: Env = [("TOKEN_SERVICE_ERROR_FORMAT", "json")]
            .into_iter()
            .collect();
        for (line, env, expected) in [
            ("token_service ten", &none, Layout::Text),
            ("token_service ten --error-format json", &none, Layout::Json),
            (
                "token_service --error-format=json --bad",
                &none,
                Layout::Json,
            ),
            (
                "token_service demo -1 --error-format=json",
                &none,
                Layout::Json,
            ),
            ("token_service ten", &json, Layout::Json),
            ("token_service ten --error-format text", &json, Layout::Text),
            ("token_service --error-format", &none, Layout::Text),
            ("token_service --error-format xml", &json, Layout::Json),
        ] {
            assert_eq!(error_format(&words(line), env), expected, "{line}");
        }
    }

    #[test]
    fn help_names_options_variables_and_exit_codes() {
        let help = |line: &str| match parse(&words(line), false) {
            Err(Refusal::Answer(text)) => text,
            other => panic!("{other:?}"),
        };
        let mut command = with_variables(Cli::command()).term_width(100);
        insta::assert_snapshot!(command.render_help(), @"
        Fetches secret tokens over HTTP, stores each in a PostgreSQL transaction of its own, and reports
        what became of every one.

        Usage: token_service [OPTIONS] [SIZE]
               token_service <COMMAND>

        Commands:
          demo         The same run against a built-in source and an embedded database, which leaves nothing
                       behind
          replay       Take a journal or an ndjson report, store what is safe to store again, look up what
                       is in doubt, and report anew
          check        Compile and lint scripts and the configuration without running anything
          test         Run pipeline tests (*.test.yaml) on a source, a database and a clock of their own
          api          Print the script API, generated from the engine
          demo-source  Serve the demo's token source on its own until it is told to stop

        Arguments:
          [SIZE]  How many tokens, a whole number of at least 1 [default: 5] [env: TOKEN_SERVICE_SIZE]

        Options:
              --config <FILE>  The configuration file (YAML) [env: TOKEN_SERVICE_CONFIG]
          -h, --help           Print help
          -V, --version        Print version

        Run:
              --script <FILE>        The pipeline script [default: the built-in one] [env:
                                     TOKEN_SERVICE_SCRIPT]
              --deadline <DURATION>  End the run after this long, such as 10m; what is in flight is still
                                     settled [env: TOKEN_SERVICE_DEADLINE]
              --grace <DURATION>     How long a stopped run may take to settle and report [default: 8s]
                                     [env: TOKEN_SERVICE_GRACE]
              --patience <DURATION>  How long an outage in the middle of a run is waited out [default: 30s]
                                     [env: TOKEN_SERVICE_PATIENCE]
              --wait <DURATION>      How long to wait at the start for source and database to come up
                                     [default: 0s] [env: TOKEN_SERVICE_WAIT]
              --journal <FILE>       Write each received page to FILE, synced, before it is stored; `replay`
                                     takes it after a crash [env: TOKEN_SERVICE_JOURNAL]
              --fail-on <CONDITION>  End with 1 where this holds at the end, such as rejected>0,
                                     stored<requested or stored<0.9*requested; repeatable [env:
                                     TOKEN_SERVICE_FAIL_ON]
              --dry-run              Try each insert and roll it back: the report says what would have been
                                     stored [env: TOKEN_SERVICE_DRY_RUN]

        Source:
              --page-size <N>                The most tokens to ask for in one request [default: 10000]
                                             [env: TOKEN_SERVICE_PAGE_SIZE]
              --max-requests <N>             The most requests of a run [default: no limit] [env:
                                             TOKEN_SERVICE_MAX_REQUESTS]
              --no-top-up                    Do not ask again for what a short delivery left out [env:
                                             TOKEN_SERVICE_NO_TOP_UP]
              --dangerously-repeat-requests  Repeat requests that the source may have served (after a
                                             time-out, a 500 or a cut answer): tokens may be issued twice,
                                             and the first ones are lost [env:
                                             TOKEN_SERVICE_DANGEROUSLY_REPEAT_REQUESTS]

        Database:
              --connections <N>  The most database connections [default: 16] [env:
                                 TOKEN_SERVICE_CONNECTIONS]
              --pipeline <N>     The most inserts in flight on each connection; behind a pooler it is one
                                 [default: what the round trip needs, 16 to 128] [env:
                                 TOKEN_SERVICE_PIPELINE]

        Output:
              --report <FORMAT[=PATH]>  text, ndjson, json, csv, yaml or html, on standard output or to
                                        PATH; repeatable [default: text] [env: TOKEN_SERVICE_REPORT]
              --mask <MASK>             What reports show of a token: none masks nothing, prefix leaves its
                                        beginning, sha256 a digest [default: none] [env: TOKEN_SERVICE_MASK]
              --out-dir <DIR>           The folder that a script's `emit` may write files in [env:
                                        TOKEN_SERVICE_OUT_DIR]

        Messages:
              --log-level <LEVEL>      off, error, warn, info, debug or trace [default: info] [env:
                                       TOKEN_SERVICE_LOG_LEVEL]
              --log-format <LAYOUT>    text or json, on standard error [default: text] [env:
                                       TOKEN_SERVICE_LOG_FORMAT]
              --error-format <LAYOUT>  text or json, on standard error [default: text] [env:
                                       TOKEN_SERVICE_ERROR_FORMAT]

        Examples:
          token_service demo 10                          try it, nothing has to be set up
          token_service 1000                             fetch, store and report 1,000 tokens
          token_service 1000 --report ndjson=run.ndjson  report to a file
          token_service --script mine.rhai 1000          run a pipeline of your own
          token_service check mine.rhai                  look for mistakes without a run
          token_service test                             run the pipeline tests below this folder

        Where the tokens come from and go to is set by the environment or by --config:
          TOKEN_HOST                        the token source's URL
          DATABASE_URL                      postgres://user@host/name or sqlite:PATH; or else
          DB_HOST DB_PORT DB_USER DB_NAME   the parts of a PostgreSQL address, with DB_SSLMODE
          DB_PASS, DB_PASS_FILE             the password, or the file that holds it
          MAX_TOKENS                        the largest SIZE that is accepted
        Each option can be set as TOKEN_SERVICE_<NAME> too, such as TOKEN_SERVICE_PAGE_SIZE.

        Exit codes:
          0         the run completed: SIZE tokens received, each stored or rejected
          1         it completed, but a --fail-on condition holds
          2         usage or configuration
          3         the script: does not compile, threw, or ran past a limit
          4         the source: unreachable, refused, or could not supply SIZE tokens
          5         the database: unreachable, or some token is failed, unknown or not_attempted
          130, 143  stopped by SIGINT, SIGTERM, after the report
          others    what the script chose by exit(N)
        ");
        assert!(help("token_service demo --help").contains("TOKEN_SERVICE_PAGE_SIZE"));
        assert!(help("token_service --version").starts_with("token_service "));
    }
}
