//! Tests that relations, types and servers which can never take a token are refused with exit code 5
//! before a token is requested.

use super::create_schema;
use super::incompatible_server::IncompatibleServer;
use super::refused_at_start::{assert_each_is_refused, error_of_check, wrong_refusal};
use crate::startup_errors::startup_error;
use crate::support::command::Command;
use crate::support::database::STANDARD_TABLE;

#[test]
fn relation_is_refused_when_it_cannot_be_written() {
    assert_each_is_refused(&[
        (
            "materialized view",
            "CREATE MATERIALIZED VIEW secret_tokens AS SELECT 'x'::text AS data",
            &["secret_tokens", "materialized view"],
        ),
        (
            "view with DISTINCT",
            "CREATE TABLE base (data text);
            CREATE VIEW secret_tokens AS SELECT DISTINCT data FROM base",
            &["secret_tokens", "view"],
        ),
        (
            "view of two tables",
            "CREATE TABLE base (data text); CREATE TABLE other (n int);
            CREATE VIEW secret_tokens AS SELECT data FROM base, other",
            &["secret_tokens", "view"],
        ),
        (
            "expression of a view",
            "CREATE TABLE base (data text);
            CREATE VIEW secret_tokens AS SELECT lower(data) AS data FROM base",
            &["data"],
        ),
        (
            "expression of a writable view",
            "CREATE TABLE base (data text, n int);
            CREATE VIEW secret_tokens AS SELECT lower(data) AS data, n FROM base",
            &["data"],
        ),
        (
            "view over a materialized view",
            "CREATE MATERIALIZED VIEW base AS SELECT 'x'::text AS data;
            CREATE VIEW secret_tokens AS SELECT data FROM base",
            &["secret_tokens"],
        ),
        (
            "generated column",
            "CREATE TABLE secret_tokens
            (n int, data text GENERATED ALWAYS AS ('x') STORED)",
            &["data"],
        ),
        (
            "sequence",
            "CREATE SEQUENCE secret_tokens",
            &["secret_tokens"],
        ),
        (
            "composite type",
            "CREATE TYPE secret_tokens AS (data text)",
            &["secret_tokens"],
        ),
    ]);
}

#[test]
fn foreign_table_is_refused_when_its_wrapper_cannot_write() {
    let database = super::database();
    let extension = format!(
        "CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
         GRANT USAGE ON FOREIGN SERVER files TO {owner};
         GRANT pg_read_server_files TO {owner}",
        owner = database.user
    );
    database.admin().batch_execute(&extension).unwrap();
    let table =
        "FOREIGN TABLE secret_tokens (data text) SERVER files OPTIONS (filename '/dev/null')";
    let partition = "FOREIGN TABLE part PARTITION OF secret_tokens DEFAULT
         SERVER files OPTIONS (filename '/dev/null')";
    create_schema(&database, "plain", &format!("CREATE {table}"));
    assert_eq!(
        wrong_refusal(&database, &["secret_tokens", "foreign table"]),
        None
    );
    let ddl = format!(
        "CREATE TABLE secret_tokens (data text) PARTITION BY LIST (data);
        CREATE {partition}"
    );
    create_schema(&database, "partitioned", &ddl);
    assert_eq!(wrong_refusal(&database, &["part", "foreign table"]), None);
}

#[test]
fn column_is_refused_when_its_type_is_not_text() {
    let database = super::database();
    let mut faults = Vec::new();
    let types = [
        "int",
        "numeric",
        "date",
        "timestamptz",
        "uuid",
        "bytea",
        "json",
        "jsonb",
        "inet",
        "bool",
        "text[]",
        "tsvector",
        "xml",
        "mood",
        "pair",
    ];
    for (number, name) in types.into_iter().enumerate() {
        let ddl = format!(
            "CREATE TYPE mood AS ENUM ('aa'); CREATE TYPE pair AS (a text, b text);
             CREATE TABLE secret_tokens (data {name})"
        );
        create_schema(&database, &format!("type_{number}"), &ddl);
        faults.extend(
            wrong_refusal(&database, &["data", "text"]).map(|fault| format!("{name}: {fault}")),
        );
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn column_is_refused_when_its_type_cuts_tokens() {
    assert_each_is_refused(&[
        (
            "name",
            "CREATE TABLE secret_tokens (data name)",
            &["data", "name"],
        ),
        (
            "\"char\"",
            "CREATE TABLE secret_tokens (data \"char\")",
            &["data", "char"],
        ),
        (
            "domain over name",
            "CREATE DOMAIN tok AS name; CREATE TABLE secret_tokens (data tok)",
            &["data", "name"],
        ),
        (
            "domain over a domain over name",
            "CREATE DOMAIN inner_tok AS name;
            CREATE DOMAIN tok AS inner_tok; CREATE TABLE secret_tokens (data tok)",
            &["data", "name"],
        ),
        (
            "name of a view's base table",
            "CREATE TABLE base (data name);
            CREATE VIEW secret_tokens AS SELECT data FROM base",
            &["data", "name"],
        ),
    ]);
}

#[test]
fn relation_is_refused_when_its_rows_do_not_survive_a_crash() {
    assert_each_is_refused(&[
        (
            "table",
            "CREATE UNLOGGED TABLE secret_tokens (data text)",
            &["UNLOGGED"],
        ),
        (
            "view",
            "CREATE UNLOGGED TABLE base (data text);
            CREATE VIEW secret_tokens AS SELECT data FROM base",
            &["base", "UNLOGGED"],
        ),
        (
            "view over a view",
            "CREATE UNLOGGED TABLE base (data text);
            CREATE VIEW inner_view AS SELECT data FROM base;
            CREATE VIEW secret_tokens AS SELECT data FROM inner_view",
            &["base", "UNLOGGED"],
        ),
        (
            "partition",
            "CREATE TABLE secret_tokens (data text) PARTITION BY LIST (data);
            CREATE UNLOGGED TABLE part PARTITION OF secret_tokens DEFAULT",
            &["UNLOGGED"],
        ),
        (
            "partition of a view's base table",
            "CREATE TABLE base (data text) PARTITION BY LIST (data);
            CREATE UNLOGGED TABLE part PARTITION OF base DEFAULT;
            CREATE VIEW secret_tokens AS SELECT data FROM base",
            &["UNLOGGED"],
        ),
    ]);
}

/// The error names the lock and blames no firewall.
#[test]
fn refusal_names_the_lock_when_another_session_holds_the_table() {
    let database = super::database().with_sql(STANDARD_TABLE);
    let mut holder = database.client();
    let mut held = holder.transaction().unwrap();
    held.batch_execute("LOCK TABLE secret_tokens").unwrap();
    let url = format!("{}?connect_timeout=1", database.url());
    let error = startup_error(Command::new().env("DATABASE_URL", url), &database.password);
    assert!(error.contains("lock on \"secret_tokens\""), "{error}");
    assert!(!error.contains("firewall"), "{error}");
}

#[test]
fn server_is_refused_when_it_is_not_postgresql() {
    let server = IncompatibleServer::with_version("13.0.0 (Multi-model)");
    let error = startup_error(Command::new().database(&server.login()), "canary");
    assert!(error.contains("PostgreSQL"), "{error}");
}

#[test]
fn server_is_refused_by_its_version_when_it_is_too_old() {
    for version in ["9.6.24", "11.22"] {
        let server = IncompatibleServer::with_version(version);
        let error = startup_error(Command::new().database(&server.login()), "canary");
        assert!(error.contains(version), "{error}");
        assert!(
            error.contains("PostgreSQL 1"),
            "the oldest supported version is not in {error}"
        );
    }
}

/// `check --connect` reports the same error without a run.
#[test]
fn check_names_the_server_when_it_is_not_postgresql() {
    let server = IncompatibleServer::with_version("13.0.0 (Multi-model)");
    let error = error_of_check(&server.login());
    assert!(error.contains("PostgreSQL"), "{error}");
}
