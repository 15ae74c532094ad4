//! `check --connect` reports whether a run could use the source and the database. It consumes no token and
//! writes no row.

use std::ffi::OsStr;
use std::net::TcpListener;

use crate::support::cluster::crashable;
use crate::support::command::{Command, Run};
use crate::support::database::{Database, HOSTILE_TABLE, Login, STANDARD_TABLE};
use crate::support::pgbouncer::{Pooler, PoolerSetup};
use crate::support::postgres::{SUPERUSER, Server, ServerSetup, free_port, server};
use crate::support::snapshot::shows;
use crate::support::source::{Source, refused_url};
use crate::support::tls_server::{CERTIFICATES, OPEN, PASSWORD, tls_server};

/// A source that would deliver tokens; `check` must not request one.
fn source() -> Source {
    Source::generating(|size| size)
}

fn check(source: &Source) -> Command {
    Command::new().source(source).args(["check", "--connect"])
}

/// A check with this URL of a source.
fn check_at(url: impl AsRef<OsStr>) -> Command {
    Command::new()
        .env("TOKEN_HOST", url)
        .args(["check", "--connect"])
}

/// The output of a check of this database, which must exit with `code`.
#[track_caller]
fn check_database(login: &Login, code: i32) -> String {
    let source = source();
    let run = check(&source).database(login).run().expect_code(code);
    assert!(source.requests().is_empty(), "a token was requested");
    assert!(!run.stderr.contains(&login.password), "{}", run.stderr);
    notable_lines(&run)
}

/// Both outputs, without the lines of a check that found no problem.
fn notable_lines(run: &Run) -> String {
    const USUAL: [&str; 4] = [
        "ok    scripts/default.rhai",
        "source    ok ",
        "commit    ok    synchronous_commit is on",
        "limit     ok    up to ",
    ];
    let lines = run.stdout.lines().chain(run.stderr.lines());
    let lines = lines.filter(|line| !USUAL.iter().any(|usual| line.starts_with(usual)));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn check_changes_nothing_when_source_and_database_are_usable() {
    let database = Database::standard();
    let source = source();
    let run = check(&source).database(&database).run().expect_code(0);
    shows!(run.transcript(), @"
    exit: 0
    --- stdout
    ok    scripts/default.rhai
    source    ok    http://127.0.0.1:[port]/tokens  no TLS, connected in [ms] ms (no token requested)
    database  ok    127.0.0.1:[port]/[database] as [database]_owner  PostgreSQL [version], no TLS, primary
    table     ok    secret_tokens.data  INSERT yes, SELECT yes, check secret_tokens_data_check
    commit    ok    synchronous_commit is on
    limit     ok    up to [count] connections of [count] free
    --- stderr
    ");
    assert!(source.requests().is_empty(), "a token was requested");
    assert!(database.rows().is_empty());
    let sql = "SELECT last_value, is_called FROM secret_tokens_id_seq";
    let row = database.client().query_one(sql, &[]).unwrap();
    let sequence: (i64, bool) = (row.get(0), row.get(1));
    assert_eq!(sequence, (1, false), "the sequence has not advanced");
}

#[test]
fn variable_enables_connect() {
    let (database, source) = (Database::standard(), source());
    let check = Command::new()
        .source(&source)
        .database(&database)
        .arg("check");
    let run = check.env("TOKEN_SERVICE_CONNECT", "true").run();
    assert_eq!(run.expect_code(0).stdout.lines().count(), 6);
}

#[test]
fn source_fails_when_it_is_down() {
    let database = Database::standard();
    let run = check_at(refused_url()).database(&database).run();
    let run = run.expect_code(4);
    shows!(run.transcript(), @"
    exit: 4
    --- stdout
    ok    scripts/default.rhai
    source    FAIL  http://127.0.0.1:[port]/tokens  the token source cannot be reached
    database  ok    127.0.0.1:[port]/[database] as [database]_owner  PostgreSQL [version], no TLS, primary
    table     ok    secret_tokens.data  INSERT yes, SELECT yes, check secret_tokens_data_check
    commit    ok    synchronous_commit is on
    limit     ok    up to [count] connections of [count] free
    --- stderr
    error: the token source cannot be reached
      caused by: http://127.0.0.1:[port]/tokens: Connection refused (os error 111)
    hint: check TOKEN_HOST or source.url, and that the source is up
    ");
}

#[test]
fn exit_code_is_5_when_source_and_database_are_down() {
    let url = format!("postgres://me:{PASSWORD}@127.0.0.1:{}/db", free_port());
    let command = || check_at(refused_url()).env("DATABASE_URL", &url);
    let run = command().run().expect_code(5);
    shows!(run.transcript(), @"
    exit: 5
    --- stdout
    ok    scripts/default.rhai
    source    FAIL  http://127.0.0.1:[port]/tokens  the token source cannot be reached
    database  FAIL  127.0.0.1:[port]/db as me  the database cannot be reached
    --- stderr
    error: the token source cannot be reached
      caused by: http://127.0.0.1:[port]/tokens: Connection refused (os error 111)
    hint: check TOKEN_HOST or source.url, and that the source is up
    error: the database cannot be reached
      caused by: 127.0.0.1:[port]: Connection refused (os error 111)
    hint: check host and port in DATABASE_URL and that the server runs
    ");
    let json = command().args(["--error-format", "json"]).run();
    let json = json.expect_code(5);
    assert_eq!(json.stdout.lines().count(), 3, "{}", json.stdout);
    shows!(json.stderr, @r#"
    {"severity":"error","message":"the token source cannot be reached","kind":"http_connect","causes":["http://127.0.0.1:[port]/tokens: Connection refused (os error 111)"],"hint":"check TOKEN_HOST or source.url, and that the source is up","exit_code":4}
    {"severity":"error","message":"the database cannot be reached","kind":"db_connect","causes":["127.0.0.1:[port]: Connection refused (os error 111)"],"hint":"check host and port in DATABASE_URL and that the server runs","exit_code":5}
    "#);
}

#[test]
fn source_over_tls_fails_when_its_certificate_is_not_trusted() {
    let database = Database::standard();
    let source = Source::generating_over_tls(|size| size);
    let trusted = check(&source).database(&database).run().expect_code(0);
    shows!(trusted.stdout.lines().nth(1).unwrap(), @"source    ok    https://localhost:[port]/tokens  TLS with a trusted certificate, connected in [ms] ms (no token requested)");
    let run = check_at(source.url()).database(&database).run();
    let run = run.expect_code(4);
    shows!(run.stdout.lines().nth(1).unwrap(), @"source    FAIL  https://localhost:[port]/tokens  the token source's certificate is not trusted");
    shows!(run.stderr, @"
    error: the token source's certificate is not trusted
      caused by: https://localhost:[port]/tokens: invalid peer certificate: UnknownIssuer
    hint: set `source.tls.ca` or SSL_CERT_FILE to the certificate of its authority
    ");
    assert!(source.requests().is_empty(), "a token was requested");
}

/// The source accepts connections and sends nothing.
#[test]
fn source_fails_when_it_does_not_respond() {
    let database = Database::standard();
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("https://{}/tokens", silent.local_addr().unwrap());
    let run = check_at(url)
        .config("source: {connect_timeout: 200ms}")
        .database(&database)
        .run()
        .expect_code(4);
    shows!(run.stderr, @"
    error: the token source cannot be reached
      caused by: https://127.0.0.1:[port]/tokens: operation timed out
    hint: check TOKEN_HOST or source.url, and that the source is up
    ");
}

#[test]
fn keys_and_passwords_are_hidden() {
    let database = Database::standard();
    let port = source().port();
    for host in [
        format!("http://127.0.0.1:{port}/tokens?key=canary-2"),
        format!("https://127.0.0.1:{port}/tokens?key=canary-2"),
    ] {
        let run = check_at(host)
            .env("TOKEN_SERVICE_SOURCE_AUTHORIZATION", "canary-3")
            .database(&database)
            .run();
        let all = run.transcript();
        assert!(all.contains("127.0.0.1"), "{all}");
        assert!(!all.contains("canary"), "{all}");
        assert!(!all.contains(&database.password), "{all}");
    }
}

#[test]
fn missing_rights_and_missing_objects_are_reported() {
    let database = Database::standard();
    shows!(check_database(&database.role_with("INSERT"), 0), @r#"
    database  ok    127.0.0.1:[port]/[database] as [database]_role  PostgreSQL [version], no TLS, primary
    table     warn  secret_tokens.data  INSERT yes, SELECT no, check secret_tokens_data_check: tokens that a lost connection leaves in doubt stay unknown; GRANT SELECT ("data", xmin) ON "secret_tokens" TO "[database]_role"
    "#);
    shows!(check_database(&database.role_with("SELECT"), 5), @r#"
    database  ok    127.0.0.1:[port]/[database] as [database]_role  PostgreSQL [version], no TLS, primary
    table     FAIL  secret_tokens.data  the database refuses inserts
    error: the database refuses inserts
      caused by: role "[database]_role" has no INSERT right on "secret_tokens", column "data"
    hint: GRANT INSERT ON "secret_tokens" TO "[database]_role"
    "#);
    shows!(check_database(&Database::new(), 5), @r#"
    database  ok    127.0.0.1:[port]/[database] as [database]_owner  PostgreSQL [version], no TLS, primary
    table     FAIL  secret_tokens.data  the table does not exist
    error: the table does not exist
      caused by: relation "secret_tokens" does not exist (42P01)
    hint: `database.table` must name a table of "[database]" at 127.0.0.1:[port], with its schema if that is not in the search path
    "#);
    let other = Database::from_ddl("CREATE TABLE secret_tokens (id int, token text)");
    shows!(check_database(&other, 5), @r#"
    database  ok    127.0.0.1:[port]/[database] as [database]_owner  PostgreSQL [version], no TLS, primary
    table     FAIL  secret_tokens.data  the column does not exist
    error: the column does not exist
      caused by: "secret_tokens" has no column "data"
    hint: set `database.column` to a column of "secret_tokens"
    "#);
    let numbers = Database::from_ddl("CREATE TABLE secret_tokens (data int)");
    shows!(check_database(&numbers, 5), @r#"
    database  ok    127.0.0.1:[port]/[database] as [database]_owner  PostgreSQL [version], no TLS, primary
    table     FAIL  secret_tokens.data  the column does not keep whole tokens
    error: the column does not keep whole tokens
      caused by: column "data" of "secret_tokens" is of type integer
    hint: ALTER TABLE "secret_tokens" ALTER COLUMN "data" TYPE text, or set `database.column` to a column of type text or varchar
    "#);
    let mut wrong = Database::standard();
    wrong.set_password("canary-9");
    shows!(check_database(&wrong, 5), @r#"
    database  FAIL  127.0.0.1:[port]/[database] as [database]_owner  the database refused the connection
    error: the database refused the connection
      caused by: password authentication failed for user "[database]_owner" (28P01)
    hint: user and password in DATABASE_URL must match a role of 127.0.0.1:[port]
    "#);
}

#[test]
fn constraints_and_triggers_are_reported() {
    shows!(check_database(&Database::from_ddl(HOSTILE_TABLE), 0), @"
    database  ok    127.0.0.1:[port]/[database] as [database]_owner  PostgreSQL [version], no TLS, primary
    table     warn  secret_tokens.data  INSERT yes, SELECT yes, check secret_tokens_data_check, unique secret_tokens_data_key: row triggers may change or remove rows, so tokens that a lost connection leaves in doubt stay unknown
    ");
    let many =
        "CREATE TABLE secret_tokens (data text PRIMARY KEY, CONSTRAINT a CHECK (data <> 'a'),
        CONSTRAINT b CHECK (data <> 'b'), CONSTRAINT c CHECK (data <> 'c'),
        CONSTRAINT d CHECK (data <> 'd'))";
    shows!(check_database(&Database::from_ddl(many), 0), @"
    database  ok    127.0.0.1:[port]/[database] as [database]_owner  PostgreSQL [version], no TLS, primary
    table     ok    secret_tokens.data  INSERT yes, SELECT yes, check a, check b, check c and 2 more
    ");
}

#[test]
fn table_fails_when_it_is_locked_longer_than_connect_timeout() {
    let database = Database::standard();
    let mut blocker = database.client();
    let mut transaction = blocker.transaction().unwrap();
    transaction
        .batch_execute("LOCK TABLE secret_tokens")
        .unwrap();
    let source = source();
    let url = format!("{}?connect_timeout=2", database.url());
    let run = check(&source).env("DATABASE_URL", url).run().expect_code(5);
    shows!(notable_lines(&run), @r#"
    database  ok    127.0.0.1:[port]/[database] as [database]_owner  PostgreSQL [version], no TLS, primary
    table     FAIL  secret_tokens.data  the database did not answer in time
    error: the database did not answer in time
      caused by: no answer within 2s
    hint: another session may hold a lock on "secret_tokens"
    "#);
}

#[test]
fn synchronous_commit_off_and_fsync_off_cause_warnings() {
    let database = Database::standard();
    let asynchronous = format!(
        "ALTER DATABASE {} SET synchronous_commit = off",
        database.name
    );
    database.admin().batch_execute(&asynchronous).unwrap();
    shows!(check_database(&database, 0), @"
    database  ok    127.0.0.1:[port]/[database] as [database]_owner  PostgreSQL [version], no TLS, primary
    table     ok    secret_tokens.data  INSERT yes, SELECT yes, check secret_tokens_data_check
    commit    warn  synchronous_commit is off on the server: a run uses on for its own inserts
    ");
    let cluster = crashable();
    let database = Database::on(&cluster).with_sql(STANDARD_TABLE);
    shows!(check_database(&database, 0), @"
    database  ok    127.0.0.1:[port]/[database] as [database]_owner  PostgreSQL [version], no TLS, primary
    table     ok    secret_tokens.data  INSERT yes, SELECT yes, check secret_tokens_data_check
    commit    warn  fsync is off on the server: a power cut may lose stored tokens; turn it on
    ");
}

#[test]
fn connection_limits_are_reported() {
    let database = Database::standard();
    let source = source();
    let check = |name: &str, value: &str| {
        let check = check(&source).database(&database).env(name, value);
        check.run().expect_code(0)
    };
    let limit = |run: Run| run.stdout.lines().last().unwrap().to_owned();
    shows!(limit(check("TOKEN_SERVICE_CONNECTIONS", "500")), @"limit     warn  [count] free, and a run takes up to 500: it would use fewer; raise max_connections, or set --connections [count]");
    let owner = &database.user;
    let few = format!("ALTER ROLE {owner} CONNECTION LIMIT 5");
    database.admin().batch_execute(&few).unwrap();
    // The count is exact, because no other session has this role.
    assert!(limit(check("TOKEN_SERVICE_CONNECTIONS", "5")).ends_with("5 connections of 5 free"));
    shows!(limit(check("TOKEN_SERVICE_CONNECTIONS", "6")), @"limit     warn  5 free, and a run takes up to 6: it would use fewer; raise the CONNECTION LIMIT of role [database]_owner, or set --connections 5");
    let _one = database.client();
    let few = format!(
        "ALTER ROLE {owner} CONNECTION LIMIT -1; ALTER DATABASE {} CONNECTION LIMIT 1",
        database.name
    );
    database.superuser().client().batch_execute(&few).unwrap();
    shows!(check_database(&database, 5), @r#"
    database  FAIL  127.0.0.1:[port]/[database] as [database]_owner  the database refused the connection
    error: the database refused the connection
      caused by: too many connections for database "[database]" (53300)
    hint: database "[database]" has no connection left at 127.0.0.1:[port]: wait, or raise its limit with ALTER DATABASE "[database]" CONNECTION LIMIT n
    "#);
}

#[test]
fn database_over_tls_is_reported_with_its_mode() {
    let (source, tls_server) = (source(), tls_server());
    let outcome = |url: String| {
        let check = check(&source).file("ca.pem", &tls_server.certificates.ca_pem);
        let run = check.env("DATABASE_URL", url).run();
        assert!(!run.transcript().contains(PASSWORD));
        let line = run.stdout.lines().nth(2).unwrap_or_default().to_owned();
        format!("{line}\n{}", run.stderr)
    };
    let open = tls_server.url("localhost", OPEN);
    let outcomes = [
        outcome(format!("{open}?sslmode=verify-full&sslrootcert=ca.pem")),
        outcome(format!("{open}?sslmode=prefer")),
        outcome(format!("{open}?sslmode=disable")),
        outcome(format!("{open}?sslmode=verify-full")),
        outcome(format!(
            "{}?sslmode=require",
            tls_server.url("localhost", CERTIFICATES)
        )),
    ];
    shows!(outcomes.join(""), @r#"
    database  ok    localhost:[port]/open as tokens  PostgreSQL [version], TLS 1.3 verify-full, primary
    database  ok    localhost:[port]/open as tokens  PostgreSQL [version], TLS 1.3 prefer, primary
    database  ok    localhost:[port]/open as tokens  PostgreSQL [version], no TLS, primary
    database  FAIL  localhost:[port]/open as tokens  the database's certificate is not trusted
    error: the database's certificate is not trusted
      caused by: localhost:[port]: invalid peer certificate: UnknownIssuer
    hint: set sslrootcert to the certificate of the authority that issued it
    database  FAIL  localhost:[port]/certificates as tokens  the database refused the connection
    error: the database refused the connection
      caused by: connection requires a valid client certificate (28000)
    hint: set sslcert and sslkey to a certificate for "tokens", of an authority that localhost:[port] trusts
    "#);
}

#[test]
fn read_only_server_fails_and_unix_socket_succeeds() {
    let read_only = Server::start(&ServerSetup {
        conf: "default_transaction_read_only = on\n",
        ..ServerSetup::default()
    });
    let login = Login {
        host: "127.0.0.1".to_owned(),
        port: read_only.port,
        user: SUPERUSER.to_owned(),
        password: read_only.password.clone(),
        name: "postgres".to_owned(),
    };
    shows!(check_database(&login, 5), @"
    database  FAIL  127.0.0.1:[port]/postgres as postgres  the database takes no writes
    error: the database takes no writes
      caused by: 127.0.0.1:[port] is a standby or read-only
    hint: the host in DATABASE_URL must name the primary, and the role must not be set to read only
    ");
    let database = Database::standard();
    let source = source();
    let run = check(&source)
        .database_by_parts(&database)
        .env("DB_HOST", &server().sockets)
        .run()
        .expect_code(0);
    assert!(
        run.stdout.contains("over a Unix socket, primary"),
        "{}",
        run.stdout
    );
}

#[test]
fn pooler_is_reported() {
    let database = Database::standard();
    let pooler = Pooler::start(&database, &PoolerSetup::default());
    shows!(check_database(&pooler.login, 0), @"
    database  ok    127.0.0.1:[port]/[database] as [database]_owner  PostgreSQL [version], through a pooler, sslmode prefer, primary
    table     ok    secret_tokens.data  INSERT yes, SELECT yes, check secret_tokens_data_check
    limit     ok    the pooler limits the connections: see its max_client_conn
    ");
    let missing = Database::new();
    let pooler = Pooler::start(&missing, &PoolerSetup::default());
    shows!(check_database(&pooler.login, 5), @r#"
    database  ok    127.0.0.1:[port]/[database] as [database]_owner  PostgreSQL [version], through a pooler, sslmode prefer, primary
    table     FAIL  secret_tokens.data  the table does not exist
    limit     ok    the pooler limits the connections: see its max_client_conn
    error: the table does not exist
      caused by: relation "secret_tokens" does not exist (42P01)
    hint: `database.table` must name a table of "[database]" at 127.0.0.1:[port], with its schema if that is not in the search path
    "#);
    assert!(database.rows().is_empty());
}

#[test]
fn sqlite_file_is_checked_without_changes() {
    let source = source();
    let command = || check(&source).env("DATABASE_URL", "sqlite:tokens.db");
    let missing = command().run().expect_code(5);
    shows!(notable_lines(&missing), @"
    database  FAIL  sqlite:tokens.db  the database file does not exist
    error: the database file does not exist
      caused by: no file tokens.db
    hint: sqlite:PATH must name an existing SQLite file with the table in it
    ");
    let text = command().file("tokens.db", "no database, but long enough to be looked at");
    shows!(notable_lines(&text.run().expect_code(5)), @"
    database  FAIL  sqlite:tokens.db  the database file cannot be used
    error: the database file cannot be used
      caused by: tokens.db: file is not a database
    hint: sqlite:PATH must name an SQLite file that this user may read and write
    ");

    let create = |ddl: &str| {
        let command = command();
        let file = rusqlite::Connection::open(command.dir().join("tokens.db")).unwrap();
        file.execute_batch(ddl).unwrap();
        (command, file)
    };
    let (valid, file) = create("CREATE TABLE secret_tokens (data TEXT)");
    let run = valid.run().expect_code(0);
    shows!(notable_lines(&run), @"
    database  ok    sqlite:tokens.db  SQLite [version]
    table     ok    secret_tokens.data  INSERT yes, SELECT yes
    commit    ok    a run uses synchronous = full
    ");
    let journal = file.pragma_query_value(None, "journal_mode", |row| row.get::<_, String>(0));
    assert_eq!(journal.unwrap(), "delete", "the journal mode is unchanged");
    let (empty, _) = create("CREATE TABLE other (data TEXT)");
    shows!(notable_lines(&empty.run().expect_code(5)), @r#"
    database  ok    sqlite:tokens.db  SQLite [version]
    table     FAIL  secret_tokens.data  the table does not exist
    commit    ok    a run uses synchronous = full
    error: the table does not exist
      caused by: no table "secret_tokens" in tokens.db
    hint: create it first: token_service never changes the schema of a database
    "#);
    let (view, _) = create("CREATE VIEW secret_tokens AS SELECT 1 AS data");
    shows!(notable_lines(&view.run().expect_code(5)), @"
    database  ok    sqlite:tokens.db  SQLite [version]
    table     FAIL  secret_tokens.data  the database file cannot be used
    commit    ok    a run uses synchronous = full
    error: the database file cannot be used
      caused by: tokens.db: cannot modify secret_tokens because it is a view
    hint: sqlite:PATH must name an SQLite file that this user may read and write
    ");
}

#[test]
fn nothing_is_connected_when_the_configuration_is_incomplete_or_invalid() {
    let neither = Command::new().args(["check", "--connect"]).run();
    shows!(neither.expect_code(2).transcript(), @"
    exit: 2
    --- stdout
    ok    scripts/default.rhai
    --- stderr
    error: no token source is configured
    hint: set TOKEN_HOST to its URL, or `source.url` in the --config file; `token_service demo` needs no source
    error: no database is configured
    hint: set DATABASE_URL, or DB_HOST, DB_USER, DB_PASS and DB_NAME, or `database` in the --config file; `token_service demo` needs no database
    ");
    let source = source();
    let no_database = check(&source).run().expect_code(2);
    shows!(no_database.transcript(), @"
    exit: 2
    --- stdout
    ok    scripts/default.rhai
    --- stderr
    error: no database is configured
    hint: set DATABASE_URL, or DB_HOST, DB_USER, DB_PASS and DB_NAME, or `database` in the --config file; `token_service demo` needs no database
    ");
    let invalid = check(&source).config("source: {tiemout: 3s}").run();
    shows!(invalid.expect_code(2).transcript(), @"
    exit: 2
    --- stdout
    ok    scripts/default.rhai
    --- stderr
    error: unknown key `tiemout` in `source`
      ╭▸ token_service.yaml:1:10
      │
    1 │ source: {tiemout: 3s}
      ╰╴         ━━━━━━━ did you mean `timeout`?
    ");
    let input = Command::new()
        .env("TOKEN_SERVICE_INPUT", "tokens.txt")
        .database(&Database::standard())
        .args(["check", "--connect"])
        .run()
        .expect_code(0);
    shows!(input.stdout.lines().nth(1).unwrap(), @"source    ok    not used: tokens come from --input");
}

#[test]
fn exit_code_of_the_source_wins_when_a_script_is_invalid() {
    let (database, source) = (Database::standard(), source());
    let command = |url: &str| {
        let command = check_at(url).database(&database);
        command
            .file("mine.rhai", "stroe(1);")
            .arg("mine.rhai")
            .run()
    };
    let script_only = command(&source.url()).expect_code(3);
    assert_eq!(
        script_only.stdout.lines().count(),
        5,
        "{}",
        script_only.stdout
    );
    command(&refused_url()).expect_code(4);
}
