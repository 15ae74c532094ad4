//! Tests of the configuration through its public functions: settings, and messages for invalid input.

#![allow(clippy::unwrap_used, clippy::too_many_lines)]

use std::io::Write as _;
use std::time::Duration;

use secrecy::ExposeSecret;
use tracing::level_filters::LevelFilter;

use crate::cli::{self, CheckArgs, Command};
use crate::config::*;
use crate::error::exit::Exit;
use crate::fetch::RequestSettings;
use crate::fetch::http::HttpEndpoint;
use crate::observe::logging::LineFormat;
use crate::pipeline::concurrency::Concurrency;
use crate::report::{ReportSpec, text};
use crate::store::postgres::{Address, Host, SslMode, SslNegotiation, TargetSession};

/// The minimal environment of a run.
const MINIMAL: [(&str, &str); 4] = [
    ("TOKEN_HOST", "https://tokens.internal/issue?kind=a"),
    ("DB_HOST", "db.internal"),
    ("DB_USER", "tokens"),
    ("DB_NAME", "vault"),
];

fn env(more: &[(&str, &str)]) -> Env {
    MINIMAL.iter().chain(more).copied().collect()
}

fn bare(variables: &[(&str, &str)]) -> Env {
    variables.iter().copied().collect()
}

/// Returns the options of a command line.
fn given(line: &str) -> Given {
    let words = format!("token_service {line}");
    let words: Vec<_> = words.split_whitespace().map(Into::into).collect();
    cli::parse(&words, false).unwrap().run.0
}

/// Returns the arguments of `check`.
fn check_args(line: &str) -> CheckArgs {
    let words = format!("token_service check {line}");
    let words: Vec<_> = words.split_whitespace().map(Into::into).collect();
    match cli::parse(&words, false).unwrap().command {
        Some(Command::Check(args)) => args,
        other => panic!("{other:?}"),
    }
}

/// Loads the settings with the text of a configuration file.
fn with_file(yaml: &str, env: &Env) -> Result<RunSettings, Vec<Error>> {
    let mut file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    file.write_all(yaml.as_bytes()).unwrap();
    let flag = format!("--config {}", file.path().display());
    load(Purpose::Run, &given(&flag), env)
}

fn load_env(variables: &Env) -> Result<RunSettings, Vec<Error>> {
    load(Purpose::Run, &given(""), variables)
}

fn address(settings: &RunSettings) -> &Address {
    match &settings.store.target {
        DatabaseTarget::Postgres(address) => address,
        other => panic!("{other:?}"),
    }
}

fn host_addresses(address: &Address) -> Vec<String> {
    address.hosts.iter().map(Host::location).collect()
}

fn http(settings: &RunSettings) -> &HttpEndpoint {
    match &settings.source {
        SourceSettings::Http(endpoint) => endpoint,
        SourceSettings::BuiltIn | SourceSettings::Input(_) | SourceSettings::Nothing => {
            panic!("not an HTTP source")
        }
    }
}

/// Returns the messages about the errors in a configuration file.
fn file_error(yaml: &str) -> String {
    let (_, errors) = file::parse("token_service.yaml", yaml);
    assert!(!errors.is_empty(), "{yaml:?} was accepted");
    shown(&errors)
}

fn message(result: Result<RunSettings, Vec<Error>>) -> String {
    shown(&result.err().unwrap())
}

fn shown(errors: &[Error]) -> String {
    assert!(errors.iter().all(|error| error.exit == Exit::Usage));
    let texts: Vec<String> = errors.iter().map(|error| error.render(false)).collect();
    texts.join("\n")
}

#[test]
fn defaults_match_the_documentation() {
    let settings = load_env(&env(&[])).unwrap();
    assert_eq!(settings.size, 5);
    assert_eq!(settings.grace, Duration::from_secs(8));
    assert_eq!(settings.store.patience, Duration::from_secs(30));
    assert_eq!(settings.store.patience, Duration::from_secs(30));
    assert_eq!(settings.deadline, None);
    assert_eq!(settings.script, ScriptSource::Default);
    assert_eq!(settings.script_limits.max_operations, 0);
    assert_eq!(settings.script_limits.max_memory, 80 << 20);
    assert_eq!(
        (settings.store.connections, settings.store.pipeline),
        (None, None)
    );
    assert_eq!(settings.store.table.to_string(), "secret_tokens");
    assert_eq!(settings.store.column, "data");
    assert_eq!(
        settings.reports,
        [ReportSpec {
            format: &text::FORMAT,
            path: None,
            no_clobber: false,
        }]
    );
    let source = http(&settings);
    assert_eq!(source.url.as_str(), "https://tokens.internal/issue?kind=a");
    assert_eq!(settings.limits.page_size, 10_000);
    assert_eq!(settings.requests, RequestSettings::default());
    assert_eq!(
        (settings.limits.max_body, settings.limits.max_token),
        (32 << 20, 1 << 10)
    );
    assert_eq!(
        (settings.limits.retries, settings.limits.max_requests),
        (None, None)
    );
    assert!(settings.limits.top_up);
    assert_eq!(source.proxies.proxy_of(&source.url), Ok(None));
    let address = address(&settings);
    assert_eq!(host_addresses(address), ["db.internal:5432"]);
    assert_eq!(address.sslmode, SslMode::Require);
}

#[test]
fn flag_overrides_environment_which_overrides_file() {
    let yaml = "source: {page_size: 1}\nrun: {size: 11, patience: 1s}\n";
    let settings = with_file(yaml, &env(&[])).unwrap();
    assert_eq!(settings.size, 11);
    assert_eq!(settings.limits.page_size, 1);
    assert_eq!(settings.store.patience, Duration::from_secs(1));

    let variables = env(&[
        ("TOKEN_SERVICE_PAGE_SIZE", "2"),
        ("TOKEN_SERVICE_SIZE", "12"),
        ("TOKEN_SERVICE_PATIENCE", "2s"),
        ("TOKEN_SERVICE_GRACE", ""),
    ]);
    let settings = with_file(yaml, &variables).unwrap();
    assert_eq!(settings.size, 12);
    assert_eq!(settings.limits.page_size, 2);
    assert_eq!(settings.store.patience, Duration::from_secs(2));
    assert_eq!(settings.grace, Duration::from_secs(8));

    let settings = load(Purpose::Run, &given("13 --page-size 3"), &variables).unwrap();
    assert_eq!(settings.size, 13);
    assert_eq!(settings.limits.page_size, 3);
}

#[test]
fn every_option_has_a_variable() {
    let settings = load_env(&env(&[
        ("TOKEN_SERVICE_SIZE", "7"),
        ("TOKEN_SERVICE_SCRIPT", "mine.rhai"),
        ("TOKEN_SERVICE_REPORT", "text, ndjson=run.ndjson"),
        ("TOKEN_SERVICE_CONNECTIONS", "2"),
        ("TOKEN_SERVICE_PIPELINE", "3"),
        ("TOKEN_SERVICE_MAX_REQUESTS", "4"),
        ("TOKEN_SERVICE_NO_TOP_UP", "true"),
        ("TOKEN_SERVICE_DEADLINE", "10m"),
        ("TOKEN_SERVICE_GRACE", "500ms"),
        ("TOKEN_SERVICE_OUT_DIR", "out"),
        ("TOKEN_SERVICE_LOG_LEVEL", "debug"),
        ("TOKEN_SERVICE_LOG_FORMAT", "json"),
        ("TOKEN_SERVICE_ERROR_FORMAT", "json"),
    ]))
    .unwrap();
    assert_eq!(settings.size, 7);
    assert_eq!(settings.script, ScriptSource::File("mine.rhai".into()));
    assert_eq!(settings.reports[1].path, Some("run.ndjson".into()));
    assert_eq!(
        (settings.store.connections, settings.store.pipeline),
        (Some(2), Some(3))
    );
    assert_eq!(settings.limits.max_requests, Some(4));
    assert!(!settings.limits.top_up);
    assert_eq!(settings.deadline, Some(Duration::from_mins(10)));
    assert_eq!(settings.grace, Duration::from_millis(500));
    assert_eq!(settings.out_dir, Some("out".into()));
    assert_eq!(settings.log.level, LevelFilter::DEBUG);
    assert_eq!(settings.log.format, LineFormat::Json);
}

#[test]
fn all_keys_of_the_file_are_read() {
    let settings = with_file(
        r#"
source:
  url: http://tokens.internal/issue
  headers: {X-Tenant: blue, Authorization: Bearer abc}
  timeout: 20s
  connect_timeout: 500ms
  page_size: 100
  concurrency: 3
  rate: 6/m
  idempotency_header: Idempotency-Key
  retries: 0
  max_body: 16MiB
  max_token: 64
database:
  host: db.internal
  port: 6432
  user: tokens
  password: hunter2
  name: vault
  sslmode: verify-full
  sslrootcert: /ca.pem
  sslcert: /c.pem
  sslkey: /k.pem
  sslnegotiation: direct
  require_auth: scram-sha-256
  target_session_attrs: any
  table: app.tokens
  column: token
  connections: 4
  pipeline: 5
  statement_timeout: 1m
  connect_timeout: 2s
run: {script: mine.rhai, size: 9, deadline: 1h, grace: 1s, patience: 0s}
reports: [text, "ndjson=run.ndjson"]
script:
  vars: {tenant: blue, limits: [1, 2.5, null, true], nested: {a: -1}}
  max_operations: 1000
  max_memory: 16MiB
  env_prefix: APP_
"#,
        &bare(&[("APP_COLOUR", "blue"), ("TOKEN_X", "hidden")]),
    )
    .unwrap();
    let source = http(&settings);
    assert_eq!(source.headers.len(), 2);
    assert_eq!(source.headers[0].0, "authorization");
    assert_eq!(source.headers[0].1.initial().expose_secret(), "Bearer abc");
    assert_eq!(settings.limits.timeout, Duration::from_secs(20));
    assert_eq!(settings.limits.connect_timeout, Duration::from_millis(500));
    assert_eq!(
        (settings.limits.page_size, settings.limits.retries),
        (100, Some(0))
    );
    assert_eq!(settings.requests.concurrency, Concurrency::Fixed(3));
    assert_eq!(settings.requests.interval, Duration::from_secs(10));
    assert_eq!(
        settings.requests.idempotency_header.as_deref(),
        Some("idempotency-key")
    );
    assert_eq!(
        (settings.limits.max_body, settings.limits.max_token),
        (16 << 20, 64)
    );
    let address = address(&settings);
    assert_eq!(address.hosts[0].port, 6432);
    assert_eq!(
        address.password.as_ref().unwrap().initial().expose_secret(),
        "hunter2"
    );
    assert_eq!(address.sslmode, SslMode::VerifyFull);
    assert_eq!(address.sslkey, Some("/k.pem".into()));
    assert_eq!(address.sslnegotiation, SslNegotiation::Direct);
    let require_auth = address.require_auth.as_ref().unwrap();
    assert_eq!(require_auth.as_str(), "scram-sha-256");
    assert_eq!(address.target_session, TargetSession::Any);
    assert_eq!(address.connect_timeout, Duration::from_secs(2));
    assert_eq!(settings.store.table.to_string(), "app.tokens");
    assert_eq!(settings.store.statement_timeout, Duration::from_mins(1));
    assert_eq!(settings.reports.len(), 2);
    assert_eq!(
        serde_json::Value::Object(settings.vars.clone()),
        serde_json::json!({"tenant": "blue", "limits": [1, 2.5, null, true], "nested": {"a": -1}})
    );
    assert_eq!(settings.script_limits.max_operations, 1000);
    assert_eq!(settings.script_limits.max_memory, 16 << 20);
    assert_eq!(settings.env.len(), 1);
    assert_eq!(settings.env["APP_COLOUR"], "blue");
}

#[test]
fn empty_file_or_section_keeps_defaults() {
    for yaml in [
        "",
        "# nothing yet\n",
        "source:\ndatabase:\n  port:\nrun: ~\nreports:\nscript:\n  vars:\n",
    ] {
        let settings = with_file(yaml, &env(&[])).unwrap();
        assert_eq!(settings.size, 5, "{yaml:?}");
    }
}

#[test]
fn demo_ignores_source_and_database_settings() {
    let wrong = bare(&[
        ("TOKEN_HOST", "ftp://nowhere"),
        ("DATABASE_URL", "nonsense"),
        ("DB_HOST", "db.internal"),
        ("DB_PASS_FILE", "/nowhere"),
        ("TOKEN_SERVICE_PAGE_SIZE", "3"),
    ]);
    let settings = load(Purpose::Demo, &given(""), &wrong).unwrap();
    assert!(matches!(settings.store.target, DatabaseTarget::Demo));
    assert!(matches!(settings.source, SourceSettings::BuiltIn));
    assert_eq!(settings.limits.page_size, 3);
}

#[test]
fn script_does_not_see_collector_headers() {
    let variables = env(&[
        ("OTEL_EXPORTER_OTLP_HEADERS", "key=s3cret"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "key=s3cret"),
        ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "key=s3cret"),
        ("OTEL_SERVICE_NAME", "mine"),
    ]);
    let settings = with_file("script: {env_prefix: OTEL_}\n", &variables).unwrap();
    let seen: Vec<_> = settings.env.keys().collect();
    assert_eq!(seen, ["OTEL_SERVICE_NAME"]);
}

#[test]
fn proxy_is_used_when_environment_sets_one() {
    let proxy = |name, value| {
        let settings = load_env(&env(&[(name, value)])).unwrap();
        let source = http(&settings);
        source.proxies.proxy_of(&source.url).unwrap()
    };
    for name in ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        let found = proxy(name, "http://proxy.internal:3128").unwrap();
        assert_eq!(found.variable, name);
    }
    // The source uses https.
    assert_eq!(proxy("HTTP_PROXY", "ftp://s3cret"), None);
    let invalid = load_env(&env(&[("HTTPS_PROXY", "ftp://s3cret")]));
    insta::assert_snapshot!(message(invalid), @"
    error: HTTPS_PROXY must be the URL of a proxy with the scheme http, https, socks4, socks4a, socks5 or socks5h
    hint: such as http://proxy.internal:3128; NO_PROXY lists hosts that need no proxy
    ");
}

#[test]
fn missing_setting_is_named() {
    let all = [
        message(load_env(&bare(&[]))),
        message(load_env(&bare(&[("TOKEN_HOST", "a")]))),
        message(load_env(&bare(&[("TOKEN_HOST", "a"), ("DB_USER", "u")]))),
        message(load_env(&bare(&[
            ("TOKEN_HOST", "a"),
            ("DB_HOST", "h"),
            ("DB_USER", ""),
        ]))),
        message(load_env(&bare(&[
            ("TOKEN_HOST", "a"),
            ("DB_HOST", "h"),
            ("DB_USER", "u"),
        ]))),
    ];
    insta::assert_snapshot!(all.join("\n"), @"
    error: no token source is configured
    hint: set TOKEN_HOST to its URL, or `source.url` in the --config file; `token_service demo` needs no source
    error: no database is configured
    hint: set DATABASE_URL, or DB_HOST, DB_USER, DB_PASS and DB_NAME, or `database` in the --config file; `token_service demo` needs no database
    error: no database is configured
    hint: set DATABASE_URL, or DB_HOST, DB_USER, DB_PASS and DB_NAME, or `database` in the --config file; `token_service demo` needs no database
    error: the database's host is missing
    hint: set DB_HOST, or `database.host` in the file
    error: the database's name is missing
    hint: set DB_NAME, or `database.name` in the file
    error: the database's user is missing
    hint: set DB_USER, or `database.user` in the file
    error: the database's name is missing
    hint: set DB_NAME, or `database.name` in the file
    error: the database's name is missing
    hint: set DB_NAME, or `database.name` in the file
    ");
}

#[test]
fn contradicting_settings_are_named() {
    let all = [
        message(load_env(&env(&[(
            "DATABASE_URL",
            "postgres://u:hunter2@h/n",
        )]))),
        message(load_env(&bare(&[
            ("TOKEN_HOST", "a"),
            ("DATABASE_URL_FILE", "Cargo.toml"),
            ("DB_PASS", "hunter2"),
        ]))),
        message(load_env(&env(&[
            ("DB_PASS", "hunter2"),
            ("DB_PASS_FILE", "/run/pass"),
        ]))),
        message(load_env(&env(&[
            ("TOKEN_SERVICE_SOURCE_AUTHORIZATION", "Bearer hunter2"),
            ("TOKEN_SERVICE_SOURCE_AUTHORIZATION_FILE", "/run/pass"),
        ]))),
        message(load_env(&env(&[("TOKEN_SERVICE_REPORT", "text,json")]))),
        message(load_env(&env(&[("TOKEN_SERVICE_REPORT", "text=a,json=a")]))),
        message(load_env(&env(&[
            ("MAX_TOKENS", "100"),
            ("TOKEN_SERVICE_SIZE", "101"),
        ]))),
    ];
    insta::assert_snapshot!(all.join("\n"), @"
    error: DATABASE_URL and DB_HOST, DB_USER, DB_NAME are set together
    hint: unset the URL or the DB_* variables: the URL replaces all of them
    error: DATABASE_URL_FILE and DB_PASS are set together
    hint: unset the URL or the DB_* variables: the URL replaces all of them
    error: DB_PASS and DB_PASS_FILE are both set
    hint: unset one of the two; DB_PASS_FILE keeps the secret out of the environment
    error: TOKEN_SERVICE_SOURCE_AUTHORIZATION and TOKEN_SERVICE_SOURCE_AUTHORIZATION_FILE are both set
    hint: unset one of the two; TOKEN_SERVICE_SOURCE_AUTHORIZATION_FILE keeps the secret out of the environment
    error: two reports would be written to standard output
    hint: give one of them a path, such as --report json=run.json
    error: two reports would be written to `a`
    hint: give each report a path of its own
    error: SIZE 101 exceeds MAX_TOKENS, which is 100
    hint: set SIZE to at most 100, or raise MAX_TOKENS
    ");
}

#[test]
fn url_in_file_excludes_parts() {
    let filters = vec![(r"/\S*/\.tmp\w+\.yaml", "[FILE]")];
    insta::with_settings!({filters => filters}, {
        let all = [
            message(with_file("source: {url: a}\ndatabase:\n  url: postgres://u:hunter2@h/n\n", &bare(&[("DB_HOST", "h")]))),
            message(with_file("source: {url: a}\ndatabase:\n  host: h\n  url: postgres://u:hunter2@h/n\n", &bare(&[]))),
        ];
        insta::assert_snapshot!(all.join("\n"), @"
        error: DB_HOST cannot be combined with `database.url` of the file
          ╭▸ [FILE]:3:3
          │
        3 │   url: ************************
          ╰╴  ━━━
        hint: set DATABASE_URL to replace the file's database, or replace `url` by its parts
        error: `database` has both `url` and `host`
          ╭▸ [FILE]:4:3
          │
        4 │   url: ************************
          ╰╴  ━━━
        hint: keep the URL or the parts: the URL replaces all of them
        ");
    });
    let yaml =
        "source: {url: a}\ndatabase: {host: h, user: u, name: n, sslmode: disable, table: t}\n";
    let settings = with_file(yaml, &bare(&[("DATABASE_URL", "postgres://me@other/db")])).unwrap();
    assert_eq!(host_addresses(address(&settings)), ["other:5432"]);
    assert_eq!(address(&settings).sslmode, SslMode::Require);
    assert_eq!(settings.store.table.to_string(), "t");
    let settings = with_file(yaml, &bare(&[("DB_HOST", "other"), ("DB_PORT", "1")])).unwrap();
    assert_eq!(host_addresses(address(&settings)), ["other:1"]);
    assert_eq!(address(&settings).sslmode, SslMode::Disable);
}

#[test]
fn invalid_host_says_what_to_set() {
    let error = |host: &str| {
        let text = message(load_env(&bare(&[
            MINIMAL[0],
            ("DB_HOST", host),
            MINIMAL[2],
            MINIMAL[3],
        ])));
        assert!(!text.contains("hunter2"), "{text}");
        text
    };
    let all = [
        "postgres://u:hunter2@h/d",
        "u:hunter2@h",
        "\"db.internal\"",
        "${DB_HOST}",
        "a,db:5432",
        "[::1]:5432",
        "a,,b",
    ]
    .map(error);
    insta::assert_snapshot!(all.join("\n"), @"
    error: the database's hosts cannot be used: a host name is expected, not a URL
    hint: set DATABASE_URL to a URL, or DB_HOST to the name of a host
    error: the database's hosts cannot be used: a host name is expected, not a URL
    hint: set DATABASE_URL to a URL, or DB_HOST to the name of a host
    error: the database's hosts cannot be used: a host contains a quotation mark
    hint: remove the quotation marks; `docker run --env-file`, for example, keeps them
    error: the database's hosts cannot be used: a host is a placeholder or a variable that was not expanded
    hint: set DB_HOST to the name of a host; variables are not expanded here
    error: the database's hosts cannot be used: a host contains a port
    hint: set DB_PORT to the port, or to one for each host, separated by commas
    error: the database's hosts cannot be used: a host contains a port
    hint: set DB_PORT to the port, or to one for each host, separated by commas
    error: the database's hosts cannot be used: a host in the list is empty
    hint: set, for example, DB_HOST=a,b with DB_PORT=5432 or DB_PORT=5432,5433
    ");
    for (host, expected) in [
        ("[::1]", "[::1]:5432"),
        ("fe80::1", "[fe80::1]:5432"),
        ("/cloudsql/p:r:1", "/cloudsql/p:r:1/.s.PGSQL.5432"),
    ] {
        let settings = load_env(&bare(&[
            MINIMAL[0],
            ("DB_HOST", host),
            MINIMAL[2],
            MINIMAL[3],
        ]))
        .unwrap();
        assert_eq!(host_addresses(address(&settings)), [expected]);
    }
}

#[test]
fn keys_of_libpq_parameters_are_checked() {
    let errors = [
        file_error("database:\n  sslnegotiation: tls\n"),
        file_error("database:\n  require_auth: scram\n"),
        file_error("database:\n  require_auth: md5,!none\n"),
        file_error("database:\n  require_auth: [md5]\n"),
        file_error("database:\n  target_session_attrs: standby\n"),
        file_error("database:\n  target_session_attrs: writable\n"),
        file_error("database:\n  ssl_negotiation: direct\n"),
        file_error("database:\n  required_auth: md5\n"),
        file_error("database:\n  target_session_attr: any\n"),
    ];
    insta::assert_snapshot!(errors.join("\n"), @"
    error: `database.sslnegotiation` must be postgres or direct
      ╭▸ token_service.yaml:2:19
      │
    2 │   sslnegotiation: tls
      ╰╴                  ━━━
    error: `database.require_auth` must be a list of password, md5, gss, sspi, scram-sha-256, oauth, none, each with `!` before it to exclude it
      ╭▸ token_service.yaml:2:17
      │
    2 │   require_auth: scram
      ╰╴                ━━━━━
    error: `database.require_auth` must be a list of methods that all have `!` or all have none
      ╭▸ token_service.yaml:2:17
      │
    2 │   require_auth: md5,!none
      ╰╴                ━━━━━━━━━
    error: `database.require_auth` must be a single value, not a list
      ╭▸ token_service.yaml:2:17
      │
    2 │   require_auth: [md5]
      ╰╴                ━━━━━
    error: `database.target_session_attrs` must be any, read-write or primary: a server that takes no writes cannot store tokens
      ╭▸ token_service.yaml:2:25
      │
    2 │   target_session_attrs: standby
      ╰╴                        ━━━━━━━
    error: `database.target_session_attrs` must be any, read-write or primary
      ╭▸ token_service.yaml:2:25
      │
    2 │   target_session_attrs: writable
      ╰╴                        ━━━━━━━━
    error: unknown key `ssl_negotiation` in `database`
      ╭▸ token_service.yaml:2:3
      │
    2 │   ssl_negotiation: direct
      ╰╴  ━━━━━━━━━━━━━━━ did you mean `sslnegotiation`?
    error: unknown key `required_auth` in `database`
      ╭▸ token_service.yaml:2:3
      │
    2 │   required_auth: md5
      ╰╴  ━━━━━━━━━━━━━ did you mean `require_auth`?
    error: unknown key `target_session_attr` in `database`
      ╭▸ token_service.yaml:2:3
      │
    2 │   target_session_attr: any
      ╰╴  ━━━━━━━━━━━━━━━━━━━ did you mean `target_session_attrs`?
    ");
}

#[test]
fn direct_negotiation_in_the_file_needs_compulsory_tls() {
    let yaml = "database:\n  sslnegotiation: direct\n";
    let settings = with_file(yaml, &env(&[])).unwrap();
    assert_eq!(address(&settings).sslnegotiation, SslNegotiation::Direct);
    let weak = with_file(yaml, &env(&[("DB_SSLMODE", "prefer")]));
    let weak = message(weak);
    let (_, shown) = weak.split_once(".yaml:").unwrap();
    assert!(weak.starts_with("error: sslnegotiation=direct"), "{weak}");
    insta::assert_snapshot!(shown, @"
    2:3
      │
    2 │   sslnegotiation: direct
      ╰╴  ━━━━━━━━━━━━━━
    hint: set DB_SSLMODE, or `database.sslmode` in the file
    ");
}

#[test]
fn system_authorities_verify_the_name_unless_a_mode_is_set() {
    let yaml = "database: {sslrootcert: system}";
    let settings = with_file(yaml, &env(&[])).unwrap();
    assert_eq!(address(&settings).sslmode, SslMode::VerifyFull);
    let settings = with_file(yaml, &env(&[("DB_SSLMODE", "require")])).unwrap();
    assert_eq!(address(&settings).sslmode, SslMode::Require);
}

#[test]
fn password_file_is_pgpassfile_or_in_the_home_folder() {
    let passfile = |variables: &[(&str, &str)]| {
        let settings = load_env(&env(variables)).unwrap();
        address(&settings).passfile.clone()
    };
    assert_eq!(passfile(&[]), None);
    let home = ("HOME", "/home/app");
    assert_eq!(passfile(&[home]), Some("/home/app/.pgpass".into()));
    let named = [home, ("PGPASSFILE", "/run/pgpass")];
    assert_eq!(passfile(&named), Some("/run/pgpass".into()));
    let url = [
        MINIMAL[0],
        ("DATABASE_URL", "postgres://u@h/d?passfile=mine"),
        ("PGPASSFILE", "/run/pgpass"),
    ];
    let settings = load_env(&bare(&url)).unwrap();
    assert_eq!(address(&settings).passfile, Some("mine".into()));
}

#[test]
fn invalid_values_name_their_variable() {
    let all: Vec<String> = [
        ("DB_PORT", "abc"),
        ("DB_PORT", "0"),
        ("DB_SSLMODE", "maybe"),
        ("TOKEN_HOST", "ftp://tokens.internal"),
        ("TOKEN_HOST", "https://me:hunter2@tokens.internal"),
        ("TOKEN_HOST", "https://"),
        ("MAX_TOKENS", "many"),
        ("TOKEN_SERVICE_SIZE", "-1"),
        ("TOKEN_SERVICE_DEADLINE", "20"),
        ("TOKEN_SERVICE_REPORT", "csb"),
        ("TOKEN_SERVICE_NO_TOP_UP", "maybe"),
        ("TOKEN_SERVICE_FETCH_CONCURRENCY", "9"),
        ("TOKEN_SERVICE_FETCH_CONCURRENCY", "0"),
        ("TOKEN_SERVICE_RATE", "10"),
        ("TOKEN_SERVICE_RATE", "0/s"),
        ("TOKEN_SERVICE_RATE", "10/d"),
        ("TOKEN_SERVICE_LOG_LEVEL", "\u{1b}[31m"),
        (
            "TOKEN_SERVICE_SOURCE_AUTHORIZATION",
            "Bearer hunter2\r\nX: y",
        ),
        ("TOKEN_SERVICE_CONFIG", "/nowhere/at/all.yaml"),
        ("DB_PASS_FILE", "/nowhere/pass"),
    ]
    .iter()
    .map(|pair| {
        let text = message(load_env(&env(&[*pair])));
        assert!(!text.contains("hunter2"), "{text}");
        text
    })
    .collect();
    insta::assert_snapshot!(all.join("\n"), @r"
    error: DB_PORT must be a port from 1 to 65535, not `abc`
    error: DB_PORT must be a port from 1 to 65535, not `0`
    error: DB_SSLMODE must be one of disable, allow, prefer, require, verify-ca, verify-full, not `maybe`
    error: TOKEN_HOST must be an http or https URL
    error: TOKEN_HOST must not contain credentials: set TOKEN_SERVICE_SOURCE_AUTHORIZATION or TOKEN_SERVICE_SOURCE_AUTHORIZATION_FILE instead
    error: TOKEN_HOST must be a URL such as https://tokens.internal/issue: empty host
    error: MAX_TOKENS must be a whole number of at least 1, not `many`
    error: TOKEN_SERVICE_SIZE must be a whole number of at least 1, such as 10, not `-1`
    error: TOKEN_SERVICE_DEADLINE must have a unit, such as 500ms, 20s or 10m, not `20`
    error: TOKEN_SERVICE_REPORT must be one of text, ndjson, json, csv, yaml, html, each with =PATH for a file (did you mean `csv`?), not `csb`
    error: TOKEN_SERVICE_NO_TOP_UP must be true or false, not `maybe`
    error: TOKEN_SERVICE_FETCH_CONCURRENCY must be auto, or a whole number from 1 to 8, not `9`
    error: TOKEN_SERVICE_FETCH_CONCURRENCY must be auto, or a whole number from 1 to 8, not `0`
    error: TOKEN_SERVICE_RATE must be a number of requests per second, minute or hour, such as 10/s, 100/m or 500/h, not `10`
    error: TOKEN_SERVICE_RATE must be a number of requests per second, minute or hour, such as 10/s, 100/m or 500/h, not `0/s`
    error: TOKEN_SERVICE_RATE must be a number of requests per second, minute or hour, such as 10/s, 100/m or 500/h, not `10/d`
    error: TOKEN_SERVICE_LOG_LEVEL must be one of off, error, warn, info, debug, trace, not `\u{1b}[31m`
    error: TOKEN_SERVICE_SOURCE_AUTHORIZATION must not contain control characters
    hint: it is the value of the Authorization header, one line such as `Bearer …`
    error: cannot read the configuration file `/nowhere/at/all.yaml`
      caused by: No such file or directory (os error 2)
    hint: set --config or TOKEN_SERVICE_CONFIG to a YAML file that this user can read
    error: cannot read `/nowhere/pass`, the file that DB_PASS_FILE names
      caused by: No such file or directory (os error 2)
    hint: the file must exist, be text, and be readable by this user
    ");
}

#[test]
fn database_urls_are_parsed() {
    let with = |url: &str| load_env(&bare(&[("TOKEN_HOST", "a"), ("DATABASE_URL", url)]));
    let path = |url: &str| match with(url).unwrap().store.target {
        DatabaseTarget::Sqlite(path) => path,
        other => panic!("{other:?}"),
    };
    assert_eq!(path("sqlite:tokens.db"), PathBuf::from("tokens.db"));
    assert_eq!(
        path("sqlite:///var/tokens.db"),
        PathBuf::from("/var/tokens.db")
    );
    let settings = with("postgresql://me:hunter2@127.0.0.1:6000/vault").unwrap();
    assert_eq!(address(&settings).hosts[0].port, 6000);
    assert_eq!(address(&settings).sslmode, SslMode::Prefer);
    let all: Vec<String> = ["sqlite:", "mysql://u:hunter2@h/n", "hunter2"]
        .iter()
        .map(|url| message(with(url)))
        .collect();
    insta::assert_snapshot!(all.join("\n"), @"
    error: DATABASE_URL names no file
    hint: write sqlite:PATH, such as sqlite:tokens.db
    error: DATABASE_URL is not a valid database URL
      caused by: the URL does not begin with postgres://, postgresql:// or sqlite:
    hint: write postgres://user:password@host:5432/name, or sqlite:PATH
    error: DATABASE_URL is not a valid database URL
      caused by: the URL does not begin with postgres://, postgresql:// or sqlite:
    hint: write postgres://user:password@host:5432/name, or sqlite:PATH
    ");
    assert!(!message(with("postgres://u:hunter2@[/n")).contains("hunter2"));
}

#[test]
fn sslmode_defaults_to_prefer_on_loopback_and_sockets() {
    for (host, expected) in [
        ("localhost", SslMode::Prefer),
        ("127.0.0.1", SslMode::Prefer),
        ("::1", SslMode::Prefer),
        ("/cloudsql/project", SslMode::Prefer),
        ("db.internal", SslMode::Require),
        ("10.0.0.1", SslMode::Require),
        ("localhost,/run/pg", SslMode::Prefer),
        ("localhost,db.internal", SslMode::Require),
    ] {
        let variables: Env = env(&[("DB_HOST", host)]);
        assert_eq!(
            address(&load_env(&variables).unwrap()).sslmode,
            expected,
            "{host}"
        );
    }
}

#[test]
fn several_hosts_have_one_port_or_one_each() {
    let yaml = "source: {url: a}\ndatabase: {host: 'a, b', port: '1,2', user: u, name: n}\n";
    let from_file = with_file(yaml, &bare(&[])).unwrap();
    assert_eq!(host_addresses(address(&from_file)), ["a:1", "b:2"]);
    let with = |host, port| load_env(&env(&[("DB_HOST", host), ("DB_PORT", port)]));
    assert_eq!(
        host_addresses(address(&with("a,b", "7").unwrap())),
        ["a:7", "b:7"]
    );
    insta::assert_snapshot!(message(with("a,b", "1,2,3")), @"
    error: the database's hosts cannot be used: 3 ports do not go with 2 hosts: give one for all, or one for each
    hint: set, for example, DB_HOST=a,b with DB_PORT=5432 or DB_PORT=5432,5433
    ");
    insta::assert_snapshot!(message(with("a,,b", "1")), @"
    error: the database's hosts cannot be used: a host in the list is empty
    hint: set, for example, DB_HOST=a,b with DB_PORT=5432 or DB_PORT=5432,5433
    ");
}

#[test]
fn url_without_scheme_means_https() {
    for (text, url) in [
        ("tokens.internal", "https://tokens.internal/"),
        (
            "tokens.internal:8443/issue?a=b#c",
            "https://tokens.internal:8443/issue?a=b",
        ),
        ("http://127.0.0.1:1/x", "http://127.0.0.1:1/x"),
    ] {
        let settings = load_env(&env(&[("TOKEN_HOST", text)])).unwrap();
        assert_eq!(http(&settings).url.as_str(), url);
    }
}

#[test]
fn max_tokens_lowers_default_size_and_accepts_equal_size() {
    let settings = load_env(&env(&[("MAX_TOKENS", "3")])).unwrap();
    assert_eq!(settings.size, 3);
    assert!(load_env(&env(&[("MAX_TOKENS", "3"), ("TOKEN_SERVICE_SIZE", "3")])).is_ok());
}

#[test]
fn secrets_are_read_from_files_and_never_shown() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"hunter2 \r\n").unwrap();
    let path = file.path().to_str().unwrap();
    let settings = load_env(&env(&[
        ("DB_PASS_FILE", path),
        ("TOKEN_SERVICE_SOURCE_AUTHORIZATION", "Bearer hunter3"),
        ("TOKEN_HOST", "https://h/?key=hunter4"),
        ("TOKEN_ALIAS", "Bearer hunter3"),
        ("TOKEN_COPY", "hunter2 "),
        ("TOKEN_COLOUR", "blue"),
    ]))
    .unwrap();
    assert_eq!(
        address(&settings)
            .password
            .as_ref()
            .unwrap()
            .initial()
            .expose_secret(),
        "hunter2 "
    );
    let headers = &http(&settings).headers;
    assert_eq!(headers[0].0, "authorization");
    assert_eq!(headers[0].1.initial().expose_secret(), "Bearer hunter3");
    assert_eq!(settings.env.keys().collect::<Vec<_>>(), ["TOKEN_COLOUR"]);
    let shown = format!("{settings:?}");
    assert!(!shown.contains("hunter"), "{shown}");

    let empty = tempfile::NamedTempFile::new().unwrap();
    let text = message(load_env(&env(&[(
        "DB_PASS_FILE",
        empty.path().to_str().unwrap(),
    )])));
    assert!(text.contains("caused by: it is empty"), "{text}");
}

#[test]
fn color_follows_environment() {
    assert!(bare(&[("NO_COLOR", "")]).allows_color());
    assert!(!bare(&[("NO_COLOR", "1")]).allows_color());
    assert!(!bare(&[("TERM", "dumb")]).allows_color());
}

#[cfg(unix)]
#[test]
fn variable_that_is_not_utf8_is_named() {
    use std::os::unix::ffi::OsStringExt;
    let broken = std::ffi::OsString::from_vec(vec![0xff]);
    let variables: Env = [("TOKEN_HOST", broken)].into_iter().collect();
    assert_eq!(
        message(load_env(&variables)),
        "error: TOKEN_HOST is not valid UTF-8"
    );
}

#[test]
fn check_needs_no_source_or_database() {
    let checked = load_for_check(&check_args(""), &bare(&[]));
    assert!(checked.errors.is_empty());
    assert_eq!(checked.scripts, [ScriptSource::Default]);
    let args = check_args("a.rhai");
    let checked = load_for_check(&args, &env(&[("TOKEN_SERVICE_SCRIPT", "b.rhai")]));
    assert_eq!(checked.scripts, [ScriptSource::File("a.rhai".into())]);
    let checked = load_for_check(&args, &bare(&[("DB_HOST", "h"), ("MAX_TOKENS", "x")]));
    let messages: Vec<&str> = checked
        .errors
        .iter()
        .map(|error| error.message.as_str())
        .collect();
    assert_eq!(messages.len(), 3, "{messages:?}");
    assert_eq!(messages[0], "the database's user is missing");
    assert_eq!(messages[1], "the database's name is missing");
    assert!(
        messages[2].starts_with("MAX_TOKENS must be"),
        "{messages:?}"
    );
}

#[test]
fn unknown_keys_are_marked() {
    let all = [
        file_error("source:\n  url: https://tokens.internal\n  tiemout: 3s\n"),
        file_error("run:\n  size: 5\nsorce: {}\n"),
        file_error("script:\n  vars:\n    tabel: 1\n  tabel: 2\n"),
        file_error("database: {port: 5, tabel: x}\n"),
        file_error("source:\n  # über\n  'tiemout': 3s\n"),
        file_error("database:\n  journal: 1\n"),
        file_error("run:\n  size: 1\n  size: 2\n"),
        file_error("source:\r\n  pagesize: 3\r\n"),
        file_error("script: {vars: {a: {b: 1, b: 2}}}\n"),
        file_error("run: {out_dir: x}\n"),
        file_error("top_up: false\n"),
        file_error("run:\n  page_size: 5\n"),
    ];
    insta::assert_snapshot!(all.join("\n\n"), @"
    error: unknown key `tiemout` in `source`
      ╭▸ token_service.yaml:3:3
      │
    3 │   tiemout: 3s
      ╰╴  ━━━━━━━ did you mean `timeout`?

    error: unknown key `sorce`
      ╭▸ token_service.yaml:3:1
      │
    3 │ sorce: **
      ╰╴━━━━━ did you mean `source`?

    error: unknown key `tabel` in `script`
      ╭▸ token_service.yaml:4:3
      │
    4 │   tabel: *
      ╰╴  ━━━━━ no such key
    hint: known keys: vars, max_operations, max_memory, env_prefix

    error: unknown key `tabel` in `database`
      ╭▸ token_service.yaml:1:21
      │
    1 │ database: {port: 5, tabel: x}
      ╰╴                    ━━━━━ did you mean `table`?

    error: unknown key `tiemout` in `source`
      ╭▸ token_service.yaml:3:3
      │
    3 │   'tiemout': 3s
      ╰╴  ━━━━━━━━━ did you mean `timeout`?

    error: unknown key `journal` in `database`
      ╭▸ token_service.yaml:2:3
      │
    2 │   journal: *
      ╰╴  ━━━━━━━ this is `run.journal`

    error: duplicate key `size` in `run`
      ╭▸ token_service.yaml:3:3
      │
    3 │   size: 2
      ╰╴  ━━━━ already set above

    error: unknown key `pagesize` in `source`
      ╭▸ token_service.yaml:2:3
      │
    2 │   pagesize: 3
      ╰╴  ━━━━━━━━ did you mean `page_size`?

    error: duplicate key `b` in `script.vars.a`
      ╭▸ token_service.yaml:1:27
      │
    1 │ script: {vars: {a: {b: 1, b: 2}}}
      ╰╴                          ━ already set above

    error: unknown key `out_dir` in `run`
      ╭▸ token_service.yaml:1:7
      │
    1 │ run: {out_dir: **
      ╰╴      ━━━━━━━ this is --out-dir or TOKEN_SERVICE_OUT_DIR

    error: unknown key `top_up`
      ╭▸ token_service.yaml:1:1
      │
    1 │ top_up: *****
      ╰╴━━━━━━ this is --no-top-up or TOKEN_SERVICE_NO_TOP_UP

    error: unknown key `page_size` in `run`
      ╭▸ token_service.yaml:2:3
      │
    2 │   page_size: *
      ╰╴  ━━━━━━━━━ this is `source.page_size`
    ");
}

#[test]
fn idempotency_header_is_checked() {
    let all = [
        file_error("source:\n  idempotency_header: Idempotency Key\n"),
        file_error("source:\n  idempotency_header: Content-Type\n"),
        message(load_text(
            Purpose::Run,
            "token_service.yaml",
            "source:\n  headers: {X-Request: a}\n  idempotency_header: X-Request\n",
        )),
    ];
    insta::assert_snapshot!(all.join("\n\n"), @r"
    error: `source.idempotency_header` must be a header name: letters, digits and `-`
      ╭▸ token_service.yaml:2:23
      │
    2 │   idempotency_header: Idempotency Key
      ╰╴                      ━━━━━━━━━━━━━━━

    error: `source.idempotency_header` must not be a header that the program sets, such as content-type or authorization
      ╭▸ token_service.yaml:2:23
      │
    2 │   idempotency_header: Content-Type
      ╰╴                      ━━━━━━━━━━━━

    error: `source.headers` sets the header `x-request` too
      ╭▸ token_service.yaml:3:3
      │
    3 │   idempotency_header: X-Request
      ╰╴  ━━━━━━━━━━━━━━━━━━
    hint: each request has a key of its own: remove it from the headers
    ");
}

#[test]
fn invalid_values_are_marked() {
    let all = [
        file_error("source:\n  timeout: 10\n"),
        file_error("source:\n  timeout: soon # or later\n"),
        file_error("source:\n  max_body: lots\n"),
        file_error("database: {port: 70000, host: h}\n"),
        file_error("database:\n  sslmode: maybe\n"),
        file_error("database:\n  table: a.b.c\n"),
        file_error("run:\n  size: -1\n"),
        file_error("run: 5\n"),
        file_error("- a\n"),
        file_error("reports:\n  - text\n  - jsn\n"),
        file_error("reports: text\n"),
        file_error("script: {vars: [1]}\n"),
        file_error("script:\n  vars:\n    a: .nan\n    b: 1\n"),
        file_error("script: {vars: {a: 18446744073709551615}}\n"),
        file_error("script: {env_prefix: ''}\n"),
        file_error("source:\n  page_size: [1]\n"),
        file_error("source:\n\turl: x\n"),
        file_error("source: {}\n---\nrun: {}\n"),
        file_error("a: ["),
        file_error("run:\n  fail_on: [rejected>0\n  size: 5\n"),
        file_error("run: {size: 5\nsource:\n"),
    ];
    insta::assert_snapshot!(all.join("\n\n"), @"
    error: `source.timeout` must have a unit, such as 500ms, 20s or 10m
      ╭▸ token_service.yaml:2:12
      │
    2 │   timeout: 10
      ╰╴           ━━

    error: `source.timeout` must be a duration, such as 500ms, 20s or 10m
      ╭▸ token_service.yaml:2:12
      │
    2 │   timeout: soon # or later
      ╰╴           ━━━━

    error: `source.max_body` must be a size of at least 1 byte, such as 1KiB or 16MiB
      ╭▸ token_service.yaml:2:13
      │
    2 │   max_body: lots
      ╰╴            ━━━━

    error: `database.port` must be a port from 1 to 65535
      ╭▸ token_service.yaml:1:18
      │
    1 │ database: {port: 70000, host: h}
      ╰╴                 ━━━━━

    error: `database.sslmode` must be one of disable, allow, prefer, require, verify-ca, verify-full
      ╭▸ token_service.yaml:2:12
      │
    2 │   sslmode: maybe
      ╰╴           ━━━━━

    error: `database.table` must be a table or schema.table: it has more than two parts; put a part that contains a dot in double quotes
      ╭▸ token_service.yaml:2:10
      │
    2 │   table: a.b.c
      ╰╴         ━━━━━

    error: `run.size` must be a whole number of at least 1, such as 10
      ╭▸ token_service.yaml:2:9
      │
    2 │   size: -1
      ╰╴        ━━

    error: `run` must be a mapping of keys, not a number
      ╭▸ token_service.yaml:1:6
      │
    1 │ run: 5
      ╰╴     ━

    error: the file must be a mapping of keys, not a list
      ╭▸ token_service.yaml:1:1
      │
    1 │ * *
      ╰╴━━━

    error: `reports[1]` must be one of text, ndjson, json, csv, yaml, html, each with =PATH for a file (did you mean `json`?)
      ╭▸ token_service.yaml:3:5
      │
    3 │   - jsn
      ╰╴    ━━━

    error: `reports` must be a list, not text
      ╭▸ token_service.yaml:1:10
      │
    1 │ reports: text
      ╰╴         ━━━━

    error: `script.vars` must be a mapping of plain values, lists and mappings, not a list
      ╭▸ token_service.yaml:1:16
      │
    1 │ script: {vars: [1]}
      ╰╴               ━━━

    error: `script.vars.a` must be a finite number
      ╭▸ token_service.yaml:3:8
      │
    3 │     a: .nan
      ╰╴       ━━━━

    error: `script.vars.a` must be at most 9223372036854775807; quote it to keep it as text
      ╭▸ token_service.yaml:1:20
      │
    1 │ script: {vars: {a: 18446744073709551615}}
      ╰╴                   ━━━━━━━━━━━━━━━━━━━━

    error: `script.env_prefix` must not be empty
      ╭▸ token_service.yaml:1:22
      │
    1 │ script: {env_prefix: ''}
      ╰╴                     ━━

    error: `source.page_size` must be a single value, not a list
      ╭▸ token_service.yaml:2:14
      │
    2 │   page_size: [1]
      ╰╴             ━━━

    error: the configuration file is not valid YAML
      ╭▸ token_service.yaml:2:2
      │
    2 │     url: *
      ╰╴    ━ tabs disallowed within this context (block indentation)
    hint: indent YAML with spaces, not tabs

    error: the configuration file is not valid YAML
      ╭▸ token_service.yaml:3:1
      │
    3 │ run: **
      ╰╴━ the file has more than one document

    error: the configuration file is not valid YAML
      ╭▸ token_service.yaml:1:4
      │
    1 │ a: *
      ╰╴   ━ unclosed bracket '['

    error: the configuration file is not valid YAML
      ╭▸ token_service.yaml:3:7
      │
    3 │   size: 5
      ╰╴      ━ illegal placement of ':' indicator

    error: the configuration file is not valid YAML
      ╭▸ token_service.yaml:2:7
      │
    2 │ source:
      ╰╴      ━ while parsing a flow mapping, did not find expected ',' or '}'
    ");
}

#[test]
fn all_mistakes_are_reported_with_their_places() {
    let file = "run:\n  szie: 5\n  grace: soon\nsource: {timeout: 10, tiemout: 3s}\nreports: [txt, jsn]\nmask: none\n";
    let variables = env(&[("TOKEN_SERVICE_PATIENCE", "1"), ("DB_PORT", "x")]);
    let filters = vec![(r"/\S*/\.tmp\w+\.yaml", "[FILE]")];
    insta::with_settings!({filters => filters}, {
        insta::assert_snapshot!(message(with_file(file, &variables)), @"
        error: unknown key `szie` in `run`
          ╭▸ [FILE]:2:3
          │
        2 │   szie: 5
          ╰╴  ━━━━ did you mean `size`?
        error: `run.grace` must be a duration, such as 500ms, 20s or 10m
          ╭▸ [FILE]:3:10
          │
        3 │   grace: soon
          ╰╴         ━━━━
        error: `source.timeout` must have a unit, such as 500ms, 20s or 10m
          ╭▸ [FILE]:4:19
          │
        4 │ source: {timeout: 10, tiemout: 3s}
          ╰╴                  ━━
        error: unknown key `tiemout` in `source`
          ╭▸ [FILE]:4:23
          │
        4 │ source: {timeout: 10, tiemout: 3s}
          ╰╴                      ━━━━━━━ did you mean `timeout`?
        error: `reports[0]` must be one of text, ndjson, json, csv, yaml, html, each with =PATH for a file (did you mean `text`?)
          ╭▸ [FILE]:5:11
          │
        5 │ reports: [txt, jsn]
          ╰╴          ━━━
        error: `reports[1]` must be one of text, ndjson, json, csv, yaml, html, each with =PATH for a file (did you mean `json`?)
          ╭▸ [FILE]:5:16
          │
        5 │ reports: [txt, jsn]
          ╰╴               ━━━
        error: unknown key `mask`
          ╭▸ [FILE]:6:1
          │
        6 │ mask: ****
          ╰╴━━━━ this is `run.mask`
        error: TOKEN_SERVICE_PATIENCE must have a unit, such as 500ms, 20s or 10m, not `1`
        error: DB_PORT must be a port from 1 to 65535, not `x`
        ");
    });
}

#[test]
fn shown_line_redacts_secrets() {
    let all = [
        file_error("database: postgres://u:hunter2@h/n\n"),
        file_error("database: {password: hunter2, tabel: x}\n"),
        file_error("database: {tabel: x, url: 'postgres://u:hunter2@h/n'}\n"),
        file_error("source: {headers: {authorization: [hunter2]}}\n"),
        file_error("source:\n  headers:\n    authorization: {Bearer: hunter2}\n"),
        file_error("source:\n  headers: hunter2\n"),
        file_error("source:\n  headers:\n    a b: hunter2\n"),
        file_error("source:\n  url: https://u:hunter2@h\n"),
        file_error("database:\n  password: |\n    hunter2\n   x: y\n"),
        file_error("database:\n  password: \"über hunter2\n  tabel: x\n"),
        file_error("database:\n  password: [hunter2]\n"),
    ];
    for text in &all {
        assert!(!text.contains("hunter2"), "{text}");
    }
    insta::assert_snapshot!(all.join("\n\n"), @"
    error: `database` must be a mapping of keys, not text
      ╭▸ token_service.yaml:1:11
      │
    1 │ database: ************************
      ╰╴          ━━━━━━━━━━━━━━━━━━━━━━━━

    error: unknown key `tabel` in `database`
      ╭▸ token_service.yaml:1:31
      │
    1 │ database: {password: ******** tabel: x}
      ╰╴                              ━━━━━ did you mean `table`?

    error: unknown key `tabel` in `database`
      ╭▸ token_service.yaml:1:12
      │
    1 │ database: {tabel: x, url: ***************************
      ╰╴           ━━━━━ did you mean `table`?

    error: `source.headers.authorization` must be a single value, not a list
      ╭▸ token_service.yaml:1:35
      │
    1 │ source: {headers: *************** ***********
      ╰╴                                  ━━━━━━━━━

    error: `source.headers.authorization` must be a single value, not a mapping
      ╭▸ token_service.yaml:3:20
      │
    3 │     ************** ******** ********
      ╰╴                   ━━━━━━━━━━━━━━━━━

    error: `source.headers` must be a mapping of keys, not text
      ╭▸ token_service.yaml:2:12
      │
    2 │   headers: *******
      ╰╴           ━━━━━━━

    error: `source.headers` must be a header name: letters, digits and `-`
      ╭▸ token_service.yaml:3:5
      │
    3 │     * ** *******
      ╰╴    ━━━

    error: `source.url` must not contain credentials: set TOKEN_SERVICE_SOURCE_AUTHORIZATION or TOKEN_SERVICE_SOURCE_AUTHORIZATION_FILE instead
      ╭▸ token_service.yaml:2:8
      │
    2 │   url: *******************
      ╰╴       ━━━━━━━━━━━━━━━━━━━

    error: the configuration file is not valid YAML
      ╭▸ token_service.yaml:4:4
      │
    4 │    x: *
      ╰╴   ━ while parsing a block mapping, did not find expected key

    error: the configuration file is not valid YAML
      ╭▸ token_service.yaml:2:13
      │
    2 │   password: ***** *******
      ╰╴            ━ unclosed quote

    error: `database.password` must be text, not a list
      ╭▸ token_service.yaml:2:13
      │
    2 │   password: *********
      ╰╴            ━━━━━━━━━
    ");
}
