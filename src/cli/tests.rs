//! Tests of the command line: parsing, help and errors.

#![allow(clippy::unwrap_used, clippy::too_many_lines)]

use std::path::PathBuf;
use std::time::Duration;

use tracing::level_filters::LevelFilter;

use crate::cli::options::*;
use crate::cli::table::{Opt, on};
use crate::cli::*;
use crate::error::exit::Exit;
use crate::pipeline::concurrency::Concurrency;
use crate::report::mask::Mask;

fn args(line: &str) -> Vec<OsString> {
    line.split(' ').map(OsString::from).collect()
}

fn parsed(line: &str) -> Cli {
    match parse(&args(line), false) {
        Ok(cli) => cli,
        Err(error) => panic!("{error:?}"),
    }
}

fn error(line: &str) -> Error {
    match parse(&args(line), false) {
        Err(ParseError::Invalid(error)) => error,
        Err(ParseError::Answer(text)) => panic!("{text}"),
        Ok(cli) => invalid_value(&cli).unwrap(),
    }
}

fn given(cli: &Cli) -> &Given {
    match &cli.command {
        None => &cli.run.0,
        Some(Command::Demo(args)) => &args.0,
        Some(Command::Replay(args)) => &args.options.0,
        Some(Command::Check(args)) => &args.options.0,
        other => panic!("{other:?}"),
    }
}

/// Returns the error of the first flag that its parser refuses.
fn invalid_value(cli: &Cli) -> Option<Error> {
    let given = given(cli);
    ROWS.iter().find_map(|row| {
        let mut values = given.values(row).iter();
        values.find_map(|value| {
            let rule = (row.check)(value).err()?;
            Some(error::invalid_flag(
                given,
                row,
                &rule,
                value.to_str().unwrap(),
            ))
        })
    })
}

/// Returns the values of an option on a command line.
fn values<T>(cli: &Cli, option: &Opt<T>) -> Vec<T> {
    let values = given(cli).values(&option.row).iter();
    values
        .map(|value| (option.parse)(value).ok().unwrap())
        .collect()
}

#[test]
fn command_definition_is_valid() {
    command().debug_assert();
}

#[test]
fn invalid_size_is_one_clear_error() {
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
        let error = error(&format!("token_service {size}"));
        assert_eq!(error.exit, Exit::Usage);
        assert_eq!(
            self::error(&format!("token_service demo {size}")).message,
            error.message
        );
        error.render(false)
    })
    .collect();
    insta::assert_snapshot!(all.join("\n"), @"
    error: SIZE must be a whole number of at least 1, such as 10, not `0`
    hint: see `token_service --help`
    error: SIZE must be a whole number of at least 1, such as 10, not `-1`
    hint: see `token_service --help`
    error: SIZE must be a whole number of at least 1, such as 10, not `1.5`
    hint: see `token_service --help`
    error: SIZE must be a whole number of at least 1, such as 10, not `ten`
    hint: see `token_service --help`
    error: SIZE must be at most 9223372036854775807, not `18446744073709551616`
    hint: see `token_service --help`
    error: SIZE must be at most 9223372036854775807, not `9223372036854775808`
    hint: see `token_service --help`
    ");
}

#[test]
fn invalid_option_is_one_clear_error() {
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
        "rpelay run.journal --wait 1s",
        "--fail-on rejcted>0",
        "--password x",
        "--script",
        "--page-size 5 --page-size 6",
        "api --format rst",
    ]
    .iter()
    .map(|line| error(&format!("token_service {line}")).render(false))
    .collect();
    insta::assert_snapshot!(all.join("\n"), @"
    error: unexpected argument '--pagesize' found
    hint: a similar argument exists: '--page-size'
    error: --page-size must be a whole number of at least 1, not `0`
    hint: see `token_service --help`
    error: --connections must be auto, or a whole number from 1 to 10000, not `-3`
    hint: see `token_service --help`
    error: --deadline must have a unit, such as 500ms, 20s or 10m, not `20`
    hint: see `token_service --help`
    error: --deadline must be longer than 0, not `0s`
    hint: see `token_service --help`
    error: --grace must be a duration, such as 500ms, 20s or 10m, not `soon`
    hint: see `token_service --help`
    error: --report must be one of text, ndjson, json, csv, yaml, html, each with =PATH for a file (did you mean `html`?), not `htmll`
    hint: see `token_service --help`
    error: --report must be one of text, ndjson, json, csv, yaml, html, each with =PATH for a file (did you mean `json`?), not `jsn`
    hint: see `token_service --help`
    error: --report must name a path after `=`, or be `json` alone for standard output, not `json=`
    hint: see `token_service --help`
    error: --mask must be one of none, prefix, sha256, not `half`
    hint: see `token_service --help`
    error: --log-level must be one of off, error, warn, info, debug, trace, not `loud`
    hint: see `token_service --help`
    error: --error-format must be text or json, not `xml`
    hint: see `token_service --help`
    error: the command `demo` must come first
    hint: SIZE and options go after it: `token_service demo …`
    error: unexpected argument '6' found
    hint: see `token_service --help`
    error: the command `demo` must come first
    hint: SIZE and options go after it: `token_service demo …`
    error: unexpected argument '6' found
    hint: see `token_service demo --help`
    error: unknown command `dmeo`
    hint: did you mean `token_service demo`?
    error: unknown command `rpelay`
    hint: did you mean `token_service replay`?
    error: --fail-on must name one of requested, received, requests, surplus, stored, rejected, failed, unknown, not_attempted, retries, not `rejcted` (did you mean `rejected`?)
    hint: see `token_service --help`
    error: unexpected argument '--password' found
    hint: see `token_service --help`
    error: a value is required for '--script <FILE>' but none was supplied
    hint: see `token_service --help`
    error: the argument '--page-size <N>' cannot be used multiple times
    hint: see `token_service --help`
    error: invalid value 'rst' for '--format <FORMAT>' [possible values: md, json, d.rhai]
    hint: see `token_service api --help`
    ");
}

#[test]
fn every_option_sets_its_field() {
    let cli = parsed(
        "token_service 10 --config c.yaml --script s.rhai --report text --report ndjson=r.ndjson --mask sha256 --fail-on rejected>0 --metrics m.prom --metrics-label job=a --dry-run --journal j --wait 1s --connections 2 --pipeline 3 --page-size 4 --fetch-concurrency 2 --rate 10/s --retries 6 --max-requests 5 --no-top-up --dangerously-repeat-requests --no-clobber --shard 0/2 --progress never --deadline 10m --grace 0s --patience 1m --out-dir out --log-level debug --log-format json --error-format json --receipts r --run-id a",
    );
    assert!(cli.command.is_none());
    assert_eq!(values(&cli, &SIZE), [10]);
    assert_eq!(values(&cli, &CONFIG), [PathBuf::from("c.yaml")]);
    assert_eq!(values(&cli, &SCRIPT), [PathBuf::from("s.rhai")]);
    assert_eq!(values(&cli, &REPORT).len(), 2);
    assert_eq!(values(&cli, &MASK), [Mask::Sha256]);
    assert_eq!(values(&cli, &FAIL_ON), ["rejected>0".parse().unwrap()]);
    assert_eq!(values(&cli, &DRY_RUN), [true]);
    assert_eq!(values(&cli, &WAIT), [Duration::from_secs(1)]);
    assert_eq!(values(&cli, &CONNECTIONS), [Some(2)]);
    assert_eq!(values(&cli, &FETCH_CONCURRENCY), [Concurrency::Fixed(2)]);
    assert_eq!(values(&cli, &RATE), [Duration::from_millis(100)]);
    assert_eq!(values(&cli, &LOG_LEVEL), [LevelFilter::DEBUG]);
    // Every option of a run is on the command line above.
    let given = given(&cli);
    for row in ROWS.iter().filter(|row| row.on & on::RUN != 0) {
        // `--input` excludes the options of the source.
        let is_given = row.id != "INPUT";
        assert!(given.values(row).is_empty() != is_given, "{}", row.id);
    }
}

#[test]
fn commands_parse_their_arguments() {
    let demo = parsed("token_service demo 10 --report json").command;
    assert!(matches!(demo, Some(Command::Demo(_))));
    assert_eq!(values(&parsed("token_service demo 10"), &SIZE), [10]);
    let check = parsed("token_service check a.rhai b.rhai --config c.yaml").command;
    assert!(matches!(check, Some(Command::Check(check)) if check.scripts.len() == 2));
    let api = parsed("token_service api --format d.rhai").command;
    assert!(matches!(api, Some(Command::Api(api)) if api.format == ApiFormat::Definitions));
}

#[test]
fn error_format_is_found_in_invalid_command_lines() {
    let none = Env::default();
    let json: Env = [("TOKEN_SERVICE_ERROR_FORMAT", "json")]
        .into_iter()
        .collect();
    for (line, env, expected) in [
        ("token_service ten", &none, LineFormat::Text),
        (
            "token_service ten --error-format json",
            &none,
            LineFormat::Json,
        ),
        (
            "token_service --error-format=json --bad",
            &none,
            LineFormat::Json,
        ),
        (
            "token_service demo -1 --error-format=json",
            &none,
            LineFormat::Json,
        ),
        ("token_service ten", &json, LineFormat::Json),
        (
            "token_service ten --error-format text",
            &json,
            LineFormat::Text,
        ),
        ("token_service --error-format", &none, LineFormat::Text),
        ("token_service --error-format xml", &json, LineFormat::Json),
    ] {
        assert_eq!(error_format(&args(line), env), expected, "{line}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "the snapshot of the help is long")]
fn help_names_options_variables_and_exit_codes() {
    let help = |line: &str| match parse(&args(line), false) {
        Err(ParseError::Answer(text)) => text,
        other => panic!("{other:?}"),
    };
    let mut command = command().term_width(100);
    insta::assert_snapshot!(command.render_long_help(), @"
    Fetches secret tokens over HTTP, stores each one in its own PostgreSQL transaction, and reports
    every token with its outcome.

    Usage: token_service [OPTIONS] [SIZE]
           token_service <COMMAND>

    Commands:
      demo         Run with a built-in source and an embedded database
      serve        Run the pipeline as an HTTP service
      replay       Settle what an earlier run left in a journal or an ndjson report
      merge        Join the ndjson reports of several runs or shards into one report
      check        Check scripts and the configuration without running them
      test         Run pipeline tests (*.test.yaml) with a fake source, database and clock
      schema       Print the SQL that creates the table of receipts
      audit        List runs by their receipts, or compare a run's receipts with its report or journal
      receipts     Delete old receipts
      api          Print the script API
      demo-source  Serve the token source of the demo
      completions  Print completions for a shell
      man          Print the man page of the program or of one command

    Arguments:
      [SIZE]
              Number of tokens, at least 1 [default: 5] [env: TOKEN_SERVICE_SIZE]

    Options:
      -h, --help
              Print help (see a summary with '-h')

      -V, --version
              Print version

    Run:
          --script <FILE>
              The pipeline script [default: the built-in one] [env: TOKEN_SERVICE_SCRIPT]

          --journal <FILE>
              Write each received page to FILE and sync it before storing; `replay` reads it after a
              crash [env: TOKEN_SERVICE_JOURNAL]

          --shard <I/N>
              Process shard I of N, with I from 0; /N takes I from Cloud Run or Kubernetes [default:
              from the platform, else 0/1] [env: TOKEN_SERVICE_SHARD]

          --dry-run
              Roll back each insert; the report shows what would have been stored [env:
              TOKEN_SERVICE_DRY_RUN]

          --deadline <DURATION>
              Stop the run after DURATION, such as 10m; inserts in flight still settle [env:
              TOKEN_SERVICE_DEADLINE]

          --grace <DURATION>
              How long a stopped run may take to settle and report [default: 8s] [env:
              TOKEN_SERVICE_GRACE]

          --patience <DURATION>
              How long to wait out an outage of source or database during a run [default: 30s] [env:
              TOKEN_SERVICE_PATIENCE]

          --wait <DURATION>
              How long to wait at startup for source and database [default: 0s] [env:
              TOKEN_SERVICE_WAIT]

          --run-id <ID>
              The id of the run; with the id of an earlier run, continue that one from its receipts
              [default: with receipts the execution on Cloud Run, else a new UUID] [env:
              TOKEN_SERVICE_RUN_ID]

          --config <FILE>
              The configuration file (YAML) [env: TOKEN_SERVICE_CONFIG]

    Source:
          --input <FILE>
              Read tokens from FILE, one per line, or from standard input if FILE is -, instead of the
              source; SIZE then defaults to all of them [env: TOKEN_SERVICE_INPUT]

          --page-size <N>
              Maximum number of tokens per request [default: 10000] [env: TOKEN_SERVICE_PAGE_SIZE]

          --fetch-concurrency <N>
              Requests under way at a time, at most 8; auto starts with one, adds more while the source
              does not slow down, and halves them when it refuses [default: auto] [env:
              TOKEN_SERVICE_FETCH_CONCURRENCY]

          --rate <N/s>
              Maximum rate of requests, repeated ones included, such as 10/s, 100/m or 500/h [default:
              no limit] [env: TOKEN_SERVICE_RATE]

          --retries <N>
              How often a request is repeated that was certainly not served; ten times as many per run
              [default: 3; an outage, a 429 or a 503 is waited out for --patience] [env:
              TOKEN_SERVICE_RETRIES]

          --max-requests <N>
              Maximum number of requests [default: no limit] [env: TOKEN_SERVICE_MAX_REQUESTS]

          --no-top-up
              Do not request the missing tokens after a short delivery [env: TOKEN_SERVICE_NO_TOP_UP]

          --dangerously-repeat-requests
              Repeat requests that the source may have served (after a timeout, a 500 or an incomplete
              response); tokens may be issued twice, and the first ones are lost [env:
              TOKEN_SERVICE_DANGEROUSLY_REPEAT_REQUESTS]

    Database:
          --connections <N>
              Maximum number of database connections; auto finds the best number while the run goes on
              [default: auto] [env: TOKEN_SERVICE_CONNECTIONS]

          --pipeline <N>
              Inserts in flight per connection; always 1 behind a pooler [default: from the round-trip
              time and the connections, 8 to 128] [env: TOKEN_SERVICE_PIPELINE]

          --receipts <TABLE>
              Store each token together with a receipt in TABLE, which `schema` prints; then every doubt
              can be settled, and the run can be continued [default: no receipts] [env:
              TOKEN_SERVICE_RECEIPTS]

    Output:
          --report <FORMAT[=PATH]>
              text, ndjson, json, csv, yaml or html, on standard output or to PATH; repeatable [default:
              text] [env: TOKEN_SERVICE_REPORT]

          --no-clobber
              Refuse to replace an existing report [env: TOKEN_SERVICE_NO_CLOBBER]

          --mask <MASK>
              How reports show tokens: none in full, prefix the first characters, sha256 a digest
              [default: none] [env: TOKEN_SERVICE_MASK]

          --fail-on <CONDITION>
              Exit with 1 if CONDITION holds at the end, such as rejected>0, stored<requested or
              stored<0.9*requested; repeatable [env: TOKEN_SERVICE_FAIL_ON]

          --progress <WHEN>
              When to show progress on standard error: auto if it is a terminal and no report scrolls on
              it, always (as lines if no bar can be drawn), or never [default: auto] [env:
              TOKEN_SERVICE_PROGRESS]

          --metrics <FILE>
              Write the metrics of the run to FILE when it ends, in the Prometheus text format [env:
              TOKEN_SERVICE_METRICS]

          --metrics-label <NAME=VALUE>
              Add a label to all metrics of the file, such as job=nightly, so that the files of several
              jobs do not collide; repeatable [env: TOKEN_SERVICE_METRICS_LABEL]

          --out-dir <DIR>
              The folder in which a script's `emit` may write files [env: TOKEN_SERVICE_OUT_DIR]

    Messages:
          --log-level <LEVEL>
              off, error, warn, info, debug or trace [default: info] [env: TOKEN_SERVICE_LOG_LEVEL]

          --log-format <LAYOUT>
              text or json, on standard error [default: text] [env: TOKEN_SERVICE_LOG_FORMAT]

          --error-format <LAYOUT>
              text or json, on standard error [default: text] [env: TOKEN_SERVICE_ERROR_FORMAT]

    Examples:
      token_service demo 10                          try it with nothing to set up
      token_service 1000                             fetch, store and report 1,000 tokens
      token_service 1000 --report ndjson=run.ndjson  report to a file
      token_service --script mine.rhai 1000          run another script
      token_service --input tokens.txt               read the tokens from a file
      token_service check mine.rhai                  check a script without running it
      token_service check --connect                  check whether source and database can be used
      token_service test                             run the pipeline tests of this folder
      token_service serve                            run the pipeline as an HTTP service

    Source and database, set by the environment or by the file of --config:
      TOKEN_HOST                                 the token source's URL; https:// if it names no scheme
      DATABASE_URL                               postgres://user@host/name or sqlite:PATH; or instead
      DB_HOST DB_PORT DB_USER DB_NAME            the parts of a PostgreSQL address, with DB_SSLMODE
      DB_PASS, DB_PASS_FILE                      the password, or the file that holds it
      MAX_TOKENS                                 the largest SIZE that is accepted
      HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY  the proxy to the source, as for curl
      SSL_CERT_FILE                              the authorities to trust instead of the system's
      TOKEN_SERVICE_<NAME>                       an option, such as TOKEN_SERVICE_PAGE_SIZE

    Exit codes:
      0                the run completed: SIZE tokens received, each stored or rejected
      1                it completed, but a --fail-on condition holds
      2                usage or configuration
      3                the script does not compile, threw an error, or exceeded a limit
      4                the source is unreachable, refused, or did not deliver SIZE tokens
      5                the database is unreachable, or a token is failed, unknown or not_attempted
      129-131, 143     stopped by SIGHUP, SIGINT, SIGQUIT, SIGTERM, after the report
      with --deadline  5 if a token is unsettled, else 4 if SIZE was not reached, else 3
      others           set by the script with exit(N)
    ");
    insta::assert_snapshot!(command.render_help(), @"
    Fetches secret tokens over HTTP, stores each one in its own PostgreSQL transaction, and reports
    every token with its outcome.

    Usage: token_service [OPTIONS] [SIZE]
           token_service <COMMAND>

    Commands:
      demo         Run with a built-in source and an embedded database
      serve        Run the pipeline as an HTTP service
      replay       Settle what an earlier run left in a journal or an ndjson report
      merge        Join the ndjson reports of several runs or shards into one report
      check        Check scripts and the configuration without running them
      test         Run pipeline tests (*.test.yaml) with a fake source, database and clock
      schema       Print the SQL that creates the table of receipts
      audit        List runs by their receipts, or compare a run's receipts with its report or journal
      receipts     Delete old receipts
      api          Print the script API
      demo-source  Serve the token source of the demo
      completions  Print completions for a shell
      man          Print the man page of the program or of one command

    Arguments:
      [SIZE]  Number of tokens, at least 1

    Options:
      -h, --help     Print help (see more with '--help')
      -V, --version  Print version

    Run:
          --script <FILE>        The pipeline script
          --journal <FILE>       Write each received page to FILE and sync it before storing
          --dry-run              Roll back each insert
          --deadline <DURATION>  Stop the run after DURATION
          --config <FILE>        The configuration file (YAML)

    Source:
          --input <FILE>  Read tokens from FILE, one per line, or from standard input if FILE is -,
                          instead of the source

    Output:
          --report <FORMAT[=PATH]>  text, ndjson, json, csv, yaml or html, on standard output or to PATH
          --fail-on <CONDITION>     Exit with 1 if CONDITION holds at the end

    Try it: `token_service demo 10`. Configure it: TOKEN_HOST and DATABASE_URL, or --config FILE.
    `token_service --help` has every option, its variable, examples and exit codes.
    ");
    assert!(help("token_service demo --help").contains("TOKEN_SERVICE_PAGE_SIZE"));
    assert!(help("token_service --version").starts_with("token_service "));
}
