//! Receipts tables that prove nothing, or cannot be written: they are refused before a token is requested.

use super::run_command;
use crate::support::command::Command;
use crate::support::database::Database;
use crate::support::snapshot::shows;
use crate::support::source::Source;

/// The error of a run with this database.
fn refused(database: &Database) -> String {
    let source = Source::responding([]);
    let run = run_command(&source, database, 5).run().expect_code(5);
    run.error().to_owned()
}

#[test]
fn missing_table_is_named_with_the_command_that_prints_it() {
    shows!(refused(&Database::standard()), @r#"
    error: the receipts table cannot be used
      caused by: no table "token_receipts" in the database
    hint: `token_service schema --receipts token_receipts` prints its definition, for psql; a run creates nothing; no token was requested
    "#);
}

#[test]
fn table_that_proves_nothing_is_refused() {
    for (ddl, why) in [
        ("ALTER TABLE token_receipts SET UNLOGGED", "unlogged"),
        (
            "ALTER TABLE token_receipts ENABLE ROW LEVEL SECURITY",
            "row security",
        ),
        (
            "ALTER TABLE token_receipts DROP CONSTRAINT token_receipts_pkey",
            "primary key",
        ),
        (
            "ALTER TABLE token_receipts DROP COLUMN rows",
            "column rows is missing",
        ),
        (
            "ALTER TABLE token_receipts ADD more int NOT NULL",
            "more needs a value",
        ),
        (
            "ALTER TABLE token_receipts ALTER position TYPE int",
            "position is integer",
        ),
        (
            "CREATE RULE r AS ON INSERT TO token_receipts DO ALSO NOTHING",
            "a table with rules",
        ),
        (
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER t BEFORE INSERT ON token_receipts FOR EACH ROW EXECUTE FUNCTION f()",
            "a table with triggers",
        ),
        (
            "ALTER TABLE token_receipts RENAME TO real; CREATE VIEW token_receipts AS SELECT * FROM real",
            "not an ordinary table",
        ),
    ] {
        let database = Database::standard().with_receipts().with_sql(ddl);
        let error = refused(&database);
        assert!(error.contains(why), "{ddl}: {error}");
    }
}

#[test]
fn missing_right_is_named_with_its_grant() {
    let database = Database::standard().with_receipts();
    let role = database.role_with("INSERT");
    let source = Source::responding([]);
    let run = run_command(&source, &role, 5).run().expect_code(5);
    shows!(run.error(), @r#"
    error: the receipts table cannot be used
      caused by: token_receipts: the role may not insert and read receipts
    hint: GRANT INSERT, SELECT ON "token_receipts" TO the role; no token was requested
    "#);
}

#[test]
fn check_looks_at_the_receipts_table() {
    let database = Database::standard();
    let check = || {
        let command = Command::new()
            .database(&database)
            .env("TOKEN_HOST", "http://127.0.0.1:9");
        command
            .args(["check", "--connect", "--receipts", "token_receipts"])
            .run()
    };
    let missing = check();
    assert!(missing.stdout.contains("receipts"), "{}", missing.stdout);
    let cause = "no table \"token_receipts\"";
    assert!(missing.stderr.contains(cause), "{}", missing.stderr);
    database
        .client()
        .batch_execute(crate::support::database::RECEIPTS_TABLE)
        .unwrap();
    let found = check();
    let row = "token_receipts  INSERT yes, SELECT yes";
    assert!(found.stdout.contains(row), "{}", found.stdout);
    // A trigger no longer leaves tokens in doubt.
    assert!(!found.stdout.contains("stay unknown"), "{}", found.stdout);
}
