//! A database that cannot be used ends the run with exit code 5 and one error, before a token is
//! requested.

use std::path::Path;

use rusqlite::Connection;

use crate::support::command::{Command, Run};
use crate::support::database::{Database, Login, STANDARD_TABLE};
use crate::support::postgres::{Server, ServerSetup, free_port};
use crate::support::snapshot::shows;
use crate::support::source::{Response, Source};

/// The only error of a run that must request no token and not show `secret`.
#[track_caller]
pub fn startup_error(command: Command, secret: &str) -> String {
    let source = Source::responding([]);
    let run = command.source(&source).arg("5").run().expect_code(5);
    assert!(source.requests().is_empty(), "a token was requested");
    assert_eq!(run.stdout, "");
    assert!(run.stderr.starts_with("error:"), "{}", run.stderr);
    assert!(!run.stderr.contains(secret), "{}", run.stderr);
    run.error().to_owned()
}

#[track_caller]
fn error_for(login: &Login) -> String {
    startup_error(Command::new().database(login), &login.password)
}

#[test]
fn stopped_server_is_reported() {
    let login = Login {
        host: "127.0.0.1".to_owned(),
        port: free_port(),
        user: "tokens".to_owned(),
        password: "canary".to_owned(),
        name: "tokens".to_owned(),
    };
    shows!(error_for(&login), @"
    error: the database cannot be reached
      caused by: 127.0.0.1:[port]: Connection refused (os error 111)
    hint: check host and port in DATABASE_URL and that the server runs; no token was requested
    ");
}

#[test]
fn host_without_address_is_reported() {
    let command = Command::new()
        .env("DB_HOST", "nowhere.invalid")
        .env("DB_USER", "tokens")
        .env("DB_PASS", "canary")
        .env("DB_NAME", "tokens");
    let error = startup_error(command, "canary");
    // The resolver's message differs between machines.
    assert!(error.starts_with("error: "), "{error}");
    assert!(error.contains("nowhere.invalid:5432"), "{error}");
    assert!(error.contains("\nhint: check DB_HOST"), "{error}");
}

#[test]
fn wrong_password_is_reported() {
    let database = Database::standard();
    let login = Login {
        password: "canary".to_owned(),
        ..(*database).clone()
    };
    shows!(error_for(&login), @r#"
    error: the database refused the connection
      caused by: password authentication failed for user "[database]_owner" (28P01)
    hint: user and password in DATABASE_URL must match a role of 127.0.0.1:[port]; no token was requested
    "#);
}

#[test]
fn missing_password_is_reported() {
    let database = Database::standard();
    let error = startup_error(
        Command::new().database_without_password(&database),
        "owner-",
    );
    shows!(error, @"
    error: the database refused the connection
      caused by: 127.0.0.1:[port] asks for a password and none is configured
    hint: set DB_PASS or DB_PASS_FILE; no token was requested
    ");
}

#[test]
fn unknown_role_is_reported() {
    let database = Database::standard();
    let login = Login {
        user: "nobody".to_owned(),
        ..(*database).clone()
    };
    shows!(error_for(&login), @r#"
    error: the database refused the connection
      caused by: password authentication failed for user "nobody" (28P01)
    hint: user and password in DATABASE_URL must match a role of 127.0.0.1:[port]; no token was requested
    "#);
}

#[test]
fn unknown_database_is_reported() {
    let database = Database::standard();
    let login = Login {
        name: "elsewhere".to_owned(),
        ..(*database).clone()
    };
    shows!(error_for(&login), @r#"
    error: the database refused the connection
      caused by: database "elsewhere" does not exist (3D000)
    hint: the path in DATABASE_URL must name a database of 127.0.0.1:[port]; no token was requested
    "#);
}

#[test]
fn missing_table_is_reported() {
    let database = Database::new();
    shows!(error_for(&database), @r#"
    error: the table does not exist
      caused by: relation "secret_tokens" does not exist (42P01)
    hint: `database.table` must name a table of "[database]" at 127.0.0.1:[port], with its schema if that is not in the search path; no token was requested
    "#);
}

#[test]
fn connection_limit_of_role_is_reported() {
    let database = Database::standard();
    let role = database.role_with("INSERT");
    let few = format!("ALTER ROLE {} CONNECTION LIMIT 1", role.user);
    database.admin().batch_execute(&few).unwrap();
    let _only = role.client();
    shows!(error_for(&role), @r#"
    error: the database refused the connection
      caused by: too many connections for role "[database]_role" (53300)
    hint: role "[database]_role" has no connection left at 127.0.0.1:[port]: wait, or raise its limit with ALTER ROLE "[database]_role" CONNECTION LIMIT n; no token was requested
    "#);
}

#[test]
fn connection_limit_of_database_is_reported() {
    let database = Database::standard();
    let _only = database.client();
    let few = format!("ALTER DATABASE {} CONNECTION LIMIT 1", database.name);
    database.admin().batch_execute(&few).unwrap();
    shows!(error_for(&database), @r#"
    error: the database refused the connection
      caused by: too many connections for database "[database]" (53300)
    hint: database "[database]" has no connection left at 127.0.0.1:[port]: wait, or raise its limit with ALTER DATABASE "[database]" CONNECTION LIMIT n; no token was requested
    "#);
}

#[test]
fn connection_limit_of_server_is_reported() {
    let server = Server::start(&ServerSetup {
        conf: "max_connections = 3\nmax_wal_senders = 0\nsuperuser_reserved_connections = 0\n",
        ..ServerSetup::default()
    });
    let database = Database::on(&server).with_sql(STANDARD_TABLE);
    // The connections that created the table may still be closing.
    let mut all = Vec::new();
    while all.len() < 3 {
        all.extend(database.try_client());
    }
    shows!(error_for(&database), @"
    error: the database refused the connection
      caused by: sorry, too many clients already (53300)
    hint: 127.0.0.1:[port] has no connection left: wait, or raise max_connections; no token was requested
    ");
}

#[test]
fn missing_schema_is_reported() {
    let database = Database::standard();
    let command = Command::new().config("database: {table: vault.secret_tokens}");
    let error = startup_error(command.database(&database), &database.password);
    shows!(error, @r#"
    error: the table does not exist
      caused by: schema "vault" does not exist (3F000)
    hint: `database.table` must name a table of "[database]" at 127.0.0.1:[port], with its schema if that is not in the search path; no token was requested
    "#);
}

#[test]
fn missing_column_is_reported() {
    let database = Database::standard();
    let command = Command::new().config("database: {column: dta}");
    let error = startup_error(command.database(&database), &database.password);
    shows!(error, @r#"
    error: the column does not exist
      caused by: "secret_tokens" has no column "dta"
    hint: set `database.column` to a column of "secret_tokens"; no token was requested
    "#);
}

#[test]
fn column_of_a_wrong_type_is_reported() {
    let database = Database::from_ddl("CREATE TABLE secret_tokens (data integer)");
    shows!(error_for(&database), @r#"
    error: the column does not keep whole tokens
      caused by: column "data" of "secret_tokens" is of type integer
    hint: ALTER TABLE "secret_tokens" ALTER COLUMN "data" TYPE text, or set `database.column` to a column of type text or varchar; no token was requested
    "#);
}

#[test]
fn missing_insert_right_is_reported() {
    let database = Database::standard();
    shows!(error_for(&database.role_with("SELECT")), @r#"
    error: the database refuses inserts
      caused by: role "[database]_role" has no INSERT right on "secret_tokens", column "data"
    hint: GRANT INSERT ON "secret_tokens" TO "[database]_role"; no token was requested
    "#);
}

#[test]
fn missing_sequence_right_is_reported() {
    let database = Database::standard();
    let role = database.role_with("INSERT");
    let revoke = format!(
        "REVOKE ALL ON SEQUENCE secret_tokens_id_seq FROM {}",
        role.user
    );
    database.client().batch_execute(&revoke).unwrap();
    shows!(error_for(&role), @r#"
    error: the database refuses inserts
      caused by: role "[database]_role" has no USAGE right on sequence secret_tokens_id_seq
    hint: GRANT USAGE ON SEQUENCE secret_tokens_id_seq TO "[database]_role"; no token was requested
    "#);
}

#[test]
fn insert_right_is_sufficient() {
    let database = Database::standard();
    let source = Source::responding([Response::tokens(["aa", "b-b"])]);
    let role = database.role_with("INSERT");
    let command = Command::new().source(&source).database(&role);
    command.arg("2").run().expect_code(0);
    assert_eq!(database.rows(), ["aa"]);
}

#[test]
fn read_only_server_is_reported() {
    let database = Database::standard();
    let role = database.role_with("INSERT");
    database
        .admin()
        .batch_execute(&format!(
            "ALTER ROLE {} SET default_transaction_read_only = on",
            role.user
        ))
        .unwrap();
    shows!(error_for(&role), @"
    error: the database takes no writes
      caused by: 127.0.0.1:[port] is a standby or read-only
    hint: the host in DATABASE_URL must name the primary, and the role must not be set to read only; no token was requested
    ");
}

#[test]
fn server_without_tls_is_reported_when_tls_is_required() {
    let database = Database::standard();
    let url = format!("{}?sslmode=require", database.url());
    let error = startup_error(Command::new().env("DATABASE_URL", url), &database.password);
    shows!(error, @"
    error: the database offers no TLS
      caused by: 127.0.0.1:[port]: server does not support TLS
    hint: turn TLS on at 127.0.0.1:[port]; or, if the network is trusted, set sslmode=prefer in DATABASE_URL; no token was requested
    ");
    let parts = Command::new().database_by_parts(&database);
    let by_parts = startup_error(parts.env("DB_SSLMODE", "require"), &database.password);
    let setting = "set sslmode=prefer in DATABASE_URL";
    assert_eq!(by_parts, error.replace(setting, "set DB_SSLMODE=prefer"));
}

/// Creates an SQLite file with a table like the standard one.
fn sqlite(path: &Path) -> Connection {
    let file = Connection::open(path).unwrap();
    file.execute_batch(
        "CREATE TABLE secret_tokens (id INTEGER PRIMARY KEY,
         data TEXT NOT NULL CONSTRAINT no_dash CHECK (data NOT LIKE '%-%'))",
    )
    .unwrap();
    file
}

fn texts(file: &Connection, sql: &str) -> Vec<String> {
    let mut statement = file.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

#[test]
fn sqlite_file_keeps_its_schema() {
    let source = Source::responding([Response::tokens(["aa", "b-b", "cc"])]);
    let command = Command::new()
        .source(&source)
        .env("DATABASE_URL", "sqlite:tokens.db");
    let file = sqlite(&command.dir().join("tokens.db"));
    let schema = "SELECT sql FROM sqlite_schema ORDER BY name";
    let before = texts(&file, schema);
    let run: Run = command.arg("3").run().expect_code(0);
    insta::assert_snapshot!(run.stdout, @"
    stored    aa
    rejected  b-b  23514 no_dash
    stored    cc
    ");
    let stored = texts(&file, "SELECT data FROM secret_tokens ORDER BY id");
    assert_eq!(stored, ["aa", "cc"]);
    assert_eq!(texts(&file, schema), before);
}

#[test]
fn missing_sqlite_file_is_not_created() {
    let command = Command::new().env("DATABASE_URL", "sqlite:tokens.db");
    let path = command.dir().join("tokens.db");
    shows!(startup_error(command, "canary"), @"
    error: the database file does not exist
      caused by: no file tokens.db
    hint: sqlite:PATH must name an existing SQLite file with the table in it; no token was requested
    ");
    assert!(!path.exists());
}

#[test]
fn missing_table_in_sqlite_file_is_reported() {
    let command = Command::new().env("DATABASE_URL", "sqlite:tokens.db");
    let file = Connection::open(command.dir().join("tokens.db")).unwrap();
    file.execute_batch("CREATE TABLE other (a TEXT)").unwrap();
    shows!(startup_error(command, "canary"), @r#"
    error: the table does not exist
      caused by: no table "secret_tokens" in tokens.db
    hint: create it first: token_service never changes the schema of a database; no token was requested
    "#);
    assert_eq!(texts(&file, "SELECT name FROM sqlite_schema"), ["other"]);
}

#[test]
fn missing_column_in_sqlite_file_is_reported() {
    let command = Command::new().env("DATABASE_URL", "sqlite:tokens.db");
    let _file = sqlite(&command.dir().join("tokens.db"));
    let error = startup_error(command.config("database: {column: dta}"), "canary");
    shows!(error, @r#"
    error: the column does not exist
      caused by: no column "dta" in "secret_tokens"
    hint: the table has the columns id, data; no token was requested
    "#);
}

#[test]
fn file_that_is_not_a_database_is_reported() {
    let command = Command::new()
        .file(
            "tokens.db",
            "not a database, but long enough to be looked at as one",
        )
        .env("DATABASE_URL", "sqlite:tokens.db");
    shows!(startup_error(command, "canary"), @"
    error: the database file cannot be used
      caused by: tokens.db: file is not a database
    hint: sqlite:PATH must name an SQLite file that this user may read and write; no token was requested
    ");
}
