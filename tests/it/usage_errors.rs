//! Errors on the command line and in the configuration: exit code 2 and one error on standard error. Unit
//! tests cover the rules themselves.

use crate::support::command::{Command, Run};
use crate::support::snapshot::shows;

/// The only error of a command that exits with 2.
#[track_caller]
fn usage_error(command: Command) -> String {
    let run: Run = command.run().expect_code(2);
    assert_eq!(run.stdout, "");
    assert!(run.stderr.starts_with("error:"), "{}", run.stderr);
    run.error().to_owned()
}

fn configured() -> Command {
    Command::new()
        .env("TOKEN_HOST", "http://127.0.0.1:9/tokens")
        .env("DATABASE_URL", "sqlite:tokens.db")
}

#[test]
fn size_is_refused_when_it_is_not_a_positive_whole_number() {
    for size in ["0", "-1", "1.5", "ten", ""] {
        let error = usage_error(configured().arg(size));
        assert!(error.contains(&format!("`{size}`")), "{error}");
        insta::allow_duplicates! {
            insta::assert_snapshot!(error.replace(&format!("`{size}`"), "VALUE"), @"
            error: SIZE must be a whole number of at least 1, such as 10, not VALUE
            hint: see `token_service --help`
            ");
        }
    }
}

#[test]
fn size_is_refused_when_it_is_too_large() {
    shows!(usage_error(configured().arg("18446744073709551616")), @"
    error: SIZE must be at most 9223372036854775807, not `18446744073709551616`
    hint: see `token_service --help`
    ");
}

#[test]
fn unknown_option_names_nearest_option() {
    shows!(usage_error(configured().arg("--pagesize=10")), @"
    error: unexpected argument '--pagesize' found
    hint: a similar argument exists: '--page-size'
    ");
}

#[test]
fn unknown_key_names_its_line_and_the_nearest_key() {
    let yaml = "source:\n  url: http://127.0.0.1:9/tokens\n  tiemout: 3s\n";
    shows!(usage_error(configured().config(yaml)), @"
    error: unknown key `tiemout` in `source`
      ╭▸ token_service.yaml:3:3
      │
    3 │   tiemout: 3s
      ╰╴  ━━━━━━━ did you mean `timeout`?
    ");
}

#[test]
fn misspelt_variable_causes_a_warning_and_foreign_variables_do_not() {
    let misspelt = "unknown variable TOKEN_SERVICE_PAGESIZE: did you mean TOKEN_SERVICE_PAGE_SIZE?";
    let command = |word| {
        Command::new()
            .arg(word)
            .env("TOKEN_SERVICE_PAGESIZE", "1")
            .env("TOKEN_SERVICE_REGION", "north")
            .env("TOKEN_PAGE_SIZES", "1")
    };
    let run = command("demo").run().expect_code(0);
    let warned = format!(" WARN {misspelt}\n");
    assert!(run.stderr.starts_with(&warned), "{}", run.stderr);
    assert_eq!(run.stderr.matches("WARN").count(), 1, "{}", run.stderr);
    let run = command("check").run().expect_code(0);
    assert_eq!(run.stderr, format!("warning: {misspelt}\n"));
}

#[test]
fn secret_is_refused_when_both_forms_are_set() {
    let command = Command::new()
        .env("TOKEN_HOST", "http://127.0.0.1:9/tokens")
        .env("DB_HOST", "127.0.0.1")
        .env("DB_USER", "tokens")
        .env("DB_NAME", "tokens")
        .env("DB_PASS", "canary")
        .env("DB_PASS_FILE", "password")
        .file("password", "canary");
    shows!(usage_error(command), @"
    error: DB_PASS and DB_PASS_FILE are both set
    hint: unset one of the two; DB_PASS_FILE keeps the secret out of the environment
    ");
}

#[test]
fn database_url_is_refused_together_with_its_parts() {
    shows!(usage_error(configured().env("DB_HOST", "127.0.0.1")), @"
    error: DATABASE_URL and DB_HOST are set together
    hint: unset the URL or the DB_* variables: the URL replaces all of them
    ");
}

#[test]
fn missing_source_names_the_variable_and_the_demo() {
    let command = Command::new().env("DATABASE_URL", "sqlite:tokens.db");
    shows!(usage_error(command), @"
    error: no token source is configured
    hint: set TOKEN_HOST to its URL, or `source.url` in the --config file; `token_service demo` needs no source
    ");
}

#[test]
fn missing_database_names_the_variables_and_the_demo() {
    let command = Command::new().env("TOKEN_HOST", "http://127.0.0.1:9/tokens");
    shows!(usage_error(command), @"
    error: no database is configured
    hint: set DATABASE_URL, or DB_HOST, DB_USER, DB_PASS and DB_NAME, or `database` in the --config file; `token_service demo` needs no database
    ");
}

#[test]
fn source_url_is_refused_when_it_contains_credentials() {
    let command = configured().env("TOKEN_HOST", "http://someone:canary@127.0.0.1:9/");
    let error = usage_error(command);
    assert!(!error.contains("canary"), "{error}");
    insta::assert_snapshot!(error, @"error: TOKEN_HOST must not contain credentials: set TOKEN_SERVICE_SOURCE_AUTHORIZATION or TOKEN_SERVICE_SOURCE_AUTHORIZATION_FILE instead");
}

#[test]
fn missing_configuration_file_is_reported() {
    shows!(usage_error(configured().args(["--config", "missing.yaml"])), @"
    error: cannot read the configuration file `missing.yaml`
      caused by: No such file or directory (os error 2)
    hint: set --config or TOKEN_SERVICE_CONFIG to a YAML file that this user can read
    ");
}

#[test]
fn unknown_report_format_is_refused() {
    shows!(usage_error(configured().args(["--report", "xml"])), @"
    error: --report must be one of text, ndjson, json, csv, yaml, html, each with =PATH for a file, not `xml`
    hint: see `token_service --help`
    ");
}

#[test]
fn errors_are_json_when_error_format_is_json() {
    let run = configured().args(["--error-format", "json", "0"]).run();
    let error: serde_json::Value = serde_json::from_str(&run.expect_code(2).stderr).unwrap();
    assert_eq!(error["exit_code"], 2);
    assert!(error["message"].is_string());
}

#[test]
fn all_mistakes_of_a_configuration_are_reported_at_once() {
    let yaml = "run:\n  szie: 5\n  grace: soon\nsorce: {}\n";
    let command = || {
        configured()
            .config(yaml)
            .args(["--page-size", "0", "ten"])
            .env("TOKEN_SERVICE_WAIT", "1")
    };
    shows!(command().run().expect_code(2).stderr, @"
    error: unknown key `szie` in `run`
      ╭▸ token_service.yaml:2:3
      │
    2 │   szie: 5
      ╰╴  ━━━━ did you mean `size`?
    error: `run.grace` must be a duration, such as 500ms, 20s or 10m
      ╭▸ token_service.yaml:3:10
      │
    3 │   grace: soon
      ╰╴         ━━━━
    error: unknown key `sorce`
      ╭▸ token_service.yaml:4:1
      │
    4 │ sorce: **
      ╰╴━━━━━ did you mean `source`?
    error: --page-size must be a whole number of at least 1, not `0`
    hint: see `token_service --help`
    error: SIZE must be a whole number of at least 1, such as 10, not `ten`
    hint: see `token_service --help`
    error: TOKEN_SERVICE_WAIT must have a unit, such as 500ms, 20s or 10m, not `1`
    ");
    let run = command().args(["--error-format", "json"]).run();
    let lines = run.expect_code(2).stderr;
    let errors = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let places: Vec<_> = errors
        .map(|error| (error["line"].clone(), error["exit_code"].clone()))
        .collect();
    assert_eq!(places.len(), 6, "{lines}");
    assert_eq!(places[0], (2.into(), 2.into()));
}
