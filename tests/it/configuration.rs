//! Configurations and inputs as they occur: byte order marks, line breaks in secrets, words for booleans,
//! devices without end, numbers that overflow, misspelt variables.

use std::process::Stdio;

use crate::support::command::{Command, Run};
use crate::support::database::Database;
use crate::support::snapshot::shows;
use crate::support::source::{Response, Source};

/// A run against nothing, which ends with an error of the configuration.
fn configured() -> Command {
    Command::new()
        .env("TOKEN_HOST", "http://127.0.0.1:9/tokens")
        .env("DATABASE_URL", "sqlite:tokens.db")
}

#[track_caller]
fn usage_error(command: Command) -> String {
    let run: Run = command.run().expect_code(2);
    assert_eq!(run.stdout, "");
    run.stderr
}

#[test]
fn byte_order_mark_is_ignored() {
    let database = Database::standard();
    let source = Source::responding([Response::tokens(["aa"])]);
    let run = Command::new()
        .source(&source)
        .database_without_password(&database)
        .file("password", format!("\u{feff}{}\r\n", database.password))
        .env("DB_PASS_FILE", "password")
        .config("\u{feff}source: {page_size: 1}\r\nrun: {size: 1}\r\n")
        .run();
    run.expect_code(0);
    assert_eq!(source.sizes(), [1]);
    assert_eq!(database.rows(), ["aa"]);
    let utf_16: Vec<u8> = "\u{feff}run: {}"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let command = configured().config("").file("token_service.yaml", utf_16);
    shows!(usage_error(command), @"
    error: cannot read the configuration file `token_service.yaml`
      caused by: it is UTF-16 text, not UTF-8
    hint: set --config or TOKEN_SERVICE_CONFIG to a YAML file that this user can read
    ");
}

#[test]
fn line_break_at_the_end_of_a_secret_is_not_part_of_it() {
    let database = Database::standard();
    for end in ["\n", "\r\n"] {
        let source = Source::responding([Response::tokens(["aa"])]);
        let run = Command::new()
            .source(&source)
            .database_without_password(&database)
            .env("DB_PASS", format!("{}{end}", database.password))
            .env(
                "TOKEN_SERVICE_SOURCE_AUTHORIZATION",
                format!("Bearer key{end}"),
            )
            .arg("1")
            .run();
        run.expect_code(0);
        assert_eq!(source.requests()[0].headers["authorization"], "Bearer key");
    }
}

#[test]
fn booleans_have_the_same_words_in_the_environment_and_the_file() {
    let is_dry = |command: Command| {
        let run = command.run().expect_code(0);
        run.stderr.contains("dry run")
    };
    for (word, expected) in [
        ("TRUE", true),
        ("True", true),
        ("yes", true),
        ("On", true),
        ("1", true),
        ("FALSE", false),
        ("No", false),
        ("off", false),
        ("0", false),
    ] {
        let demo = || Command::new().args(["demo", "1"]);
        let in_env = demo().env("TOKEN_SERVICE_DRY_RUN", word);
        assert_eq!(is_dry(in_env), expected, "{word} in the environment");
        let in_file = demo().config(&format!("run: {{dry_run: {word}}}"));
        assert_eq!(is_dry(in_file), expected, "{word} in the file");
    }
    let wrong = [
        usage_error(configured().env("TOKEN_SERVICE_DRY_RUN", "maybe")),
        usage_error(configured().config("run: {dry_run: 2}")),
    ];
    shows!(wrong.join("\n"), @"
    error: TOKEN_SERVICE_DRY_RUN must be true or false, not `maybe`

    error: `run.dry_run` must be true or false, not a number
      ╭▸ token_service.yaml:1:16
      │
    1 │ run: {dry_run: 2}
      ╰╴               ━
    ");
}

#[test]
fn value_that_begins_with_a_dash_is_an_error_about_the_value() {
    let lines = [
        "--deadline -1s",
        "--grace -1",
        "--page-size -1",
        "--retries -1",
        "--connections -3",
        "--report -json",
        "--shard -1/2",
        "--mask --fail-on",
        "demo --patience -5s",
        "replay run.journal --wait -1s",
        "check --log-level -1",
        "demo-source --listen -1",
        "test --timeout -1s",
        "test --jobs -1",
        "merge run.ndjson --fail-on -1",
        "1 --journal -1",
        "replay run.journal --metrics -x",
    ];
    let errors = lines.map(|line| {
        let run = configured().args(line.split(' ')).run();
        run.expect_code(2).stderr
    });
    shows!(errors.join("\n"), @"
    error: --deadline must be a duration, such as 500ms, 20s or 10m, not `-1s`
    hint: see `token_service --help`

    error: --grace must be a duration, such as 500ms, 20s or 10m, not `-1`
    hint: see `token_service --help`

    error: --page-size must be a whole number of at least 1, not `-1`
    hint: see `token_service --help`

    error: --retries must be a whole number of at least 0, not `-1`
    hint: see `token_service --help`

    error: --connections must be auto, or a whole number from 1 to 10000, not `-3`
    hint: see `token_service --help`

    error: --report must be one of text, ndjson, json, csv, yaml, html, each with =PATH for a file (did you mean `json`?), not `-json`
    hint: see `token_service --help`

    error: --shard must be I/N with I from 0 to N - 1, such as 0/4, or /N, not `-1/2`
    hint: see `token_service --help`

    error: --mask must be one of none, prefix, sha256, not `--fail-on`
    hint: see `token_service --help`

    error: --patience must be a duration, such as 500ms, 20s or 10m, not `-5s`
    hint: see `token_service demo --help`

    error: --wait must be a duration, such as 500ms, 20s or 10m, not `-1s`
    hint: see `token_service replay --help`

    error: --log-level must be one of off, error, warn, info, debug, trace, not `-1`
    hint: see `token_service check --help`

    error: --listen must be an address and a port, such as 127.0.0.1:[port] or 0.0.0.0:8080, not `-1`
    hint: see `token_service demo-source --help`

    error: --timeout must be a duration, such as 500ms, 20s or 10m, not `-1s`
    hint: see `token_service test --help`

    error: --jobs must be a whole number from 1 to 10000, not `-1`
    hint: see `token_service test --help`

    error: --fail-on must compare two numbers of the summary, such as rejected>0 or stored<0.9*requested, not `-1`
    hint: see `token_service merge --help`

    error: --journal must be a path, not `-1`
    hint: write ./-1 for a file of this name; see `token_service --help`

    error: --metrics must be a path, not `-x`
    hint: write ./-x for a file of this name; see `token_service replay --help`
    ");
}

#[test]
fn numbers_sizes_and_durations_that_overflow_are_refused() {
    let yaml = "\
source:
  max_token: 18446744073709551615
  max_body: 99999999999EiB
  retries: 4294967296
  timeout: 99999999999999999999s
  page_size: 18446744073709551616
script:
  max_memory: 18446744073709551615
  max_operations: 99999999999999999999999
run:
  deadline: 600000000000y
";
    shows!(usage_error(configured().config(yaml)), @"
    error: `source.max_token` must be at most 1PiB
      ╭▸ token_service.yaml:2:14
      │
    2 │   max_token: 18446744073709551615
      ╰╴             ━━━━━━━━━━━━━━━━━━━━
    error: `source.max_body` must be at most 1PiB
      ╭▸ token_service.yaml:3:13
      │
    3 │   max_body: 99999999999EiB
      ╰╴            ━━━━━━━━━━━━━━
    error: `source.retries` must be a smaller number
      ╭▸ token_service.yaml:4:12
      │
    4 │   retries: 4294967296
      ╰╴           ━━━━━━━━━━
    error: `source.timeout` must be at most a year
      ╭▸ token_service.yaml:5:12
      │
    5 │   timeout: 99999999999999999999s
      ╰╴           ━━━━━━━━━━━━━━━━━━━━━
    error: `source.page_size` must be a smaller number
      ╭▸ token_service.yaml:6:14
      │
    6 │   page_size: 18446744073709551616
      ╰╴             ━━━━━━━━━━━━━━━━━━━━
    error: `script.max_memory` must be at most 1PiB
      ╭▸ token_service.yaml:8:15
      │
    8 │   max_memory: 18446744073709551615
      ╰╴              ━━━━━━━━━━━━━━━━━━━━
    error: `script.max_operations` must be a smaller number
      ╭▸ token_service.yaml:9:19
      │
    9 │   max_operations: 99999999999999999999999
      ╰╴                  ━━━━━━━━━━━━━━━━━━━━━━━
    error: `run.deadline` must be at most a year
       ╭▸ token_service.yaml:11:13
       │
    11 │   deadline: 600000000000y
       ╰╴            ━━━━━━━━━━━━━
    ");
}

#[test]
fn deep_nesting_is_refused_with_its_place() {
    let errors = ["[{", "[", "{a: ", "- "].map(|open| {
        let error =
            usage_error(configured().config(&format!("script: {{vars: {}", open.repeat(45_000))));
        assert!(error.len() < 2000, "{} bytes", error.len());
        error
    });
    shows!(errors.join("\n"), @r#"
    error: the configuration file is not valid YAML
      ╭▸ token_service.yaml:1:79
      │
    1 │ script: ****** ************************************************************************************************************************…
      ╰╴                                                                              ━ more than 64 levels are nested

    error: the configuration file is not valid YAML
      ╭▸ token_service.yaml:1:79
      │
    1 │ script: ****** ************************************************************************************************************************…
      ╰╴                                                                              ━ more than 64 levels are nested

    error: the configuration file is not valid YAML
      ╭▸ token_service.yaml:1:264
      │
    1 │ …** *** *** *** *** *** *** *** *** *** *** *** *** *** *** *** *** *** *** *** *** *** *** *** *** *** *** *** *** *** *** *** *** ***…
      ╰╴                                                    ━ more than 64 levels are nested

    error: the configuration file is not valid YAML
      ╭▸ token_service.yaml:1:16
      │
    1 │ script: ****** * * * * * * * * * * * * * * * * * * * * * * * * * * * * * * * * * * * * * * * * * * * * * * * * * * * * * * * * * * * * …
      ╰╴               ━ "-" is only valid inside a block
    "#);
}

/// With a cost that grows with the square of the size, this test would take many minutes.
#[test]
fn large_file_of_mistakes_is_reported_up_to_a_limit() {
    let keys: Vec<String> = (0..50_000)
        .map(|number| format!("key_{number}: 1\n"))
        .collect();
    let deep: Vec<String> = (0..100).map(|depth| " ".repeat(depth) + "a:\n").collect();
    let twice = "a: 1\n".repeat(100_000);
    for yaml in [keys.concat(), deep.concat(), twice] {
        let error = usage_error(configured().config(&yaml));
        let count = error.matches("error: ").count();
        assert!((1..=100).contains(&count), "{count} errors");
    }
}

#[test]
fn device_without_end_is_refused() {
    let zero = "/dev/zero";
    let errors = [
        usage_error(configured().env("TOKEN_SERVICE_CONFIG", zero)),
        usage_error(configured().env("TOKEN_SERVICE_SOURCE_AUTHORIZATION_FILE", zero)),
        configured()
            .args(["merge", zero])
            .run()
            .expect_code(2)
            .stderr,
        usage_error(
            Command::new()
                .args(["test", "endless.test.yaml"])
                .link("endless.test.yaml", zero),
        ),
    ];
    shows!(errors.join("\n"), @"
    error: cannot read the configuration file `/dev/zero`
      caused by: it is larger than 1.0 MiB
    hint: set --config or TOKEN_SERVICE_CONFIG to a YAML file that this user can read

    error: cannot read `/dev/zero`, the file that TOKEN_SERVICE_SOURCE_AUTHORIZATION_FILE names
      caused by: it is larger than 64.0 KiB
    hint: the file must exist, be text, and be readable by this user

    error: /dev/zero cannot be merged
      caused by: line 1 is longer than 64 MiB
    hint: merge takes complete ndjson reports, each of a different run

    error: the test file endless.test.yaml cannot be read
      caused by: it is larger than 16.0 MiB
    ");
    let database = Database::standard();
    let run = Command::new()
        .database(&database)
        .args(["--input", zero])
        .run();
    shows!(run.expect_code(4).error(), @"
    error: short_supply: the input is not a list of tokens: `/dev/zero`
      caused by: a line is longer than 32 MiB
    hint: --input expects one token per line
    ");
}

#[test]
fn misspelt_variable_is_named_when_a_setting_is_missing() {
    let host = ("TOKEN_HOST", "http://127.0.0.1:9/tokens");
    let errors = [
        &[
            ("TOKEN_HOTS", "http://127.0.0.1:9/tokens"),
            ("DATABASE_URL", "sqlite:tokens.db"),
        ][..],
        &[host, ("DATABSE_URL", "sqlite:tokens.db")],
        &[
            host,
            ("DB_HOST", "db"),
            ("DB_USER", "u"),
            ("DB_DATABASE", "d"),
        ],
    ]
    .map(|variables| {
        let set = |command: Command, (name, value): &(&str, &str)| command.env(name, value);
        usage_error(variables.iter().fold(Command::new(), set))
    });
    shows!(errors.join("\n"), @"
    error: no token source is configured
    hint: TOKEN_HOTS is set: did you mean TOKEN_HOST?

    error: no database is configured
    hint: DATABSE_URL is set: did you mean DATABASE_URL?

    error: the database's name is missing
    hint: DB_DATABASE is set: did you mean DB_NAME?
    ");
}

#[test]
fn misspelt_password_causes_a_warning() {
    let database = Database::standard();
    let run = Command::new()
        .env("TOKEN_HOST", "http://127.0.0.1:9/tokens")
        .database_without_password(&database)
        .env("DB_PASSWORD", &database.password)
        .run();
    let warning = " WARN unknown variable DB_PASSWORD: did you mean DB_PASS?\n";
    let run = run.expect_code(5);
    assert!(run.stderr.starts_with(warning), "{}", run.stderr);
}

#[test]
fn url_of_the_source_is_refused_when_it_cannot_be_meant() {
    let errors = [
        "http:/tokens.internal",
        "https//tokens.internal",
        "ftp://tokens.internal",
        "http://",
        "\"https://tokens.internal\"",
        "https://${TOKEN_HOST}/issue",
        "https://tokens internal",
        "https://tokens.internal:99999",
    ]
    .map(|url| usage_error(configured().env("TOKEN_HOST", url)));
    shows!(errors.join("\n"), @"
    error: TOKEN_HOST must have `://` after the scheme

    error: TOKEN_HOST must have `://` after the scheme

    error: TOKEN_HOST must be an http or https URL

    error: TOKEN_HOST must be a URL such as https://tokens.internal/issue: empty host

    error: TOKEN_HOST must not contain quotation marks; `docker run --env-file`, for example, keeps them

    error: TOKEN_HOST must name a host; variables and placeholders are not expanded here

    error: TOKEN_HOST must not contain blanks or line breaks

    error: TOKEN_HOST must be a URL such as https://tokens.internal/issue: invalid port number
    ");
}

#[test]
fn reports_and_journals_are_refused_as_input() {
    for format in ["text", "json", "ndjson", "csv", "yaml", "html", "journal"] {
        let database = Database::standard();
        let command = Command::new().database(&database);
        let path = command.dir().join("earlier");
        let output = match format {
            "journal" => vec!["--journal".to_owned(), path.display().to_string()],
            format => vec![
                "--report".to_owned(),
                format!("{format}={}", path.display()),
            ],
        };
        Command::new()
            .args(["demo", "3"])
            .args(output)
            .run()
            .expect_code(0);
        let run = command.args(["--input", "earlier"]).run().expect_code(4);
        assert!(database.rows().is_empty(), "{format}");
        assert!(
            run.error()
                .contains("the input is not a list of tokens: `earlier`"),
            "{format}: {}",
            run.error()
        );
        assert!(
            !run.error().contains("http_protocol"),
            "{format}: {}",
            run.error()
        );
    }
}

#[test]
fn compressed_and_foreign_inputs_are_refused() {
    let utf_16: Vec<u8> = "aa\nbb\n"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let inputs: [&[u8]; 4] = [
        b"\x1f\x8b\x08\0\0\0\0\0\0\x03KL\xe4JJ\xe2\x02\0",
        &utf_16,
        b"[\"aa\",\"bb\"]\n",
        b"{\n  \"tokens\": [\n",
    ];
    let errors = inputs.map(|input| {
        let database = Database::standard();
        let command = Command::new().database(&database).stdin(input);
        let run = command.args(["--input", "-"]).run().expect_code(4);
        assert!(database.rows().is_empty());
        run.error().to_owned()
    });
    shows!(errors.join("\n\n"), @"
    error: short_supply: the input is not a list of tokens: standard input
      caused by: it begins like gzip data
    hint: --input expects one token per line

    error: short_supply: the input is not a list of tokens: standard input
      caused by: it begins like UTF-16 text
    hint: --input expects one token per line

    error: short_supply: the input is not a list of tokens: standard input
      caused by: it begins like a JSON document
    hint: --input expects one token per line

    error: short_supply: the input is not a list of tokens: standard input
      caused by: it begins like a JSON document
    hint: --input expects one token per line
    ");
}

#[test]
fn named_pipe_is_read_to_its_end() {
    let database = Database::standard();
    let command = Command::new().database(&database);
    let pipe = command.dir().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let command = command.args(["--input", "pipe"]);
    let mut child = command.std_command().stdout(Stdio::null()).spawn().unwrap();
    std::fs::write(&pipe, "aa\nbb\n").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(database.rows(), ["aa", "bb"]);
}
