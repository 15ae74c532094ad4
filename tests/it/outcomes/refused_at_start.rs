//! Tests that a table which can never take a token is refused with exit code 5 before a token is
//! requested. `check --connect` reports the same error.

use super::{TableCase, case, check, create_schema};
use crate::support::command::Command;
use crate::support::database::{Database, Login};
use crate::support::source::Source;

/// The name of a case, its table, and texts that the error must contain.
pub type Refusal = (&'static str, &'static str, &'static [&'static str]);

/// Returns the first line of the error of `check --connect`.
pub fn error_of_check(login: &Login) -> String {
    let source = Source::generating(|size| size);
    let run = Command::new()
        .source(&source)
        .database(login)
        .args(["check", "--connect"])
        .run();
    assert!(source.requests().is_empty(), "check requested a token");
    if run.code != Some(5) {
        return format!("exit {:?}: {}", run.code, run.stdout);
    }
    run.error().lines().next().unwrap_or_default().to_owned()
}

/// Runs with a working source, and describes what is wrong with the refusal of the table.
///
/// Returns `None` if the run refuses the table as expected and `check --connect` agrees.
pub fn wrong_refusal(database: &Database, texts: &[&str]) -> Option<String> {
    let source = Source::generating(|size| size);
    let run = Command::new()
        .source(&source)
        .database(database)
        .args(["2", "--report", "ndjson", "--patience", "1s"])
        .run();
    if !source.requests().is_empty() {
        return Some(format!(
            "a token was requested: exit {:?}, {}",
            run.code, run.stdout
        ));
    }
    if run.code != Some(5) || !run.stdout.is_empty() {
        return Some(format!("exit {:?}: {}", run.code, run.stderr));
    }
    let error = run.error();
    if let Some(missing) = texts.iter().find(|words| !error.contains(**words)) {
        return Some(format!("{missing:?} is not in {error}"));
    }
    let (first, checked) = (error.lines().next(), error_of_check(database));
    (first != Some(&*checked))
        .then(|| format!("check reports {checked}; the run reports {first:?}"))
}

/// Asserts that a run refuses each table, and panics with a list of the others.
#[track_caller]
pub fn assert_each_is_refused(refusals: &[Refusal]) {
    let database = super::database();
    let mut faults = Vec::new();
    for (number, (name, ddl, texts)) in refusals.iter().enumerate() {
        create_schema(&database, &format!("refused_{number}"), ddl);
        faults.extend(wrong_refusal(&database, texts).map(|fault| format!("{name}: {fault}")));
    }
    let failed_cases = faults.len();
    assert!(
        faults.is_empty(),
        "{failed_cases} of {} failed:\n{}",
        refusals.len(),
        faults.join("\n")
    );
}

#[test]
fn table_is_refused_when_another_column_needs_a_value() {
    assert_each_is_refused(&[
        (
            "NOT NULL",
            "CREATE TABLE secret_tokens (data text, tenant int NOT NULL)",
            &["tenant", "ALTER TABLE"],
        ),
        (
            "primary key",
            "CREATE TABLE secret_tokens (id int PRIMARY KEY, data text)",
            &["id", "ALTER TABLE"],
        ),
        (
            "domain",
            "CREATE DOMAIN needed AS int NOT NULL;
            CREATE TABLE secret_tokens (data text, tenant needed)",
            &["tenant"],
        ),
        (
            "NOT NULL beside a trigger that fires after",
            "CREATE TABLE secret_tokens
                (data text, tenant int NOT NULL);
            CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                RETURN NULL; END $$;
            CREATE TRIGGER note AFTER INSERT ON secret_tokens FOR EACH ROW
                EXECUTE FUNCTION note()",
            &["tenant"],
        ),
        (
            "NOT NULL of a partitioned table",
            "CREATE TABLE secret_tokens
                (data text, tenant int NOT NULL) PARTITION BY HASH (data);
            CREATE TABLE part PARTITION OF secret_tokens FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
            &["tenant"],
        ),
    ]);
}

/// A check of the definition of the column alone would refuse these tables.
#[test]
fn table_is_used_when_another_column_gets_its_value_elsewhere() {
    const STORED: &[super::ExpectedStatus] = &[("aa", "stored"), ("bb", "stored")];
    const CASES: &[TableCase] = &[
        case(
            "BEFORE trigger",
            "CREATE TABLE secret_tokens (data text, tenant int NOT NULL);
            CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                NEW.tenant = 1; RETURN NEW; END $$;
            CREATE TRIGGER fill BEFORE INSERT ON secret_tokens FOR EACH ROW
                EXECUTE FUNCTION fill()",
            STORED,
        ),
        case(
            "BEFORE trigger of the partition",
            "CREATE TABLE secret_tokens
                (data text, tenant int NOT NULL) PARTITION BY LIST (data);
            CREATE TABLE part PARTITION OF secret_tokens DEFAULT;
            CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                NEW.tenant = 1; RETURN NEW; END $$;
            CREATE TRIGGER fill BEFORE INSERT ON part FOR EACH ROW EXECUTE FUNCTION fill()",
            STORED,
        ),
        case(
            "default of a domain",
            "CREATE DOMAIN tenants AS int DEFAULT 1;
            CREATE TABLE secret_tokens (data text, tenant tenants NOT NULL)",
            STORED,
        ),
        case(
            "identity",
            "CREATE TABLE secret_tokens
            (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, data text)",
            STORED,
        ),
        case(
            "generated",
            "CREATE TABLE secret_tokens (data text,
            size int NOT NULL GENERATED ALWAYS AS (length(data)) STORED)",
            STORED,
        ),
        case(
            "default of a view",
            "CREATE TABLE base (tok text, tenant int NOT NULL);
            CREATE VIEW secret_tokens AS SELECT tok AS data, tenant FROM base;
            ALTER VIEW secret_tokens ALTER tenant SET DEFAULT 1",
            STORED,
        ),
        case(
            "rule",
            "CREATE TABLE base (tok text, tenant int NOT NULL);
            CREATE VIEW secret_tokens AS SELECT tok AS data, tenant FROM base;
            CREATE RULE route AS ON INSERT TO secret_tokens DO INSTEAD
                INSERT INTO base VALUES (NEW.data, 1)",
            STORED,
        ),
        case(
            "dropped column",
            "CREATE TABLE secret_tokens (gone int NOT NULL, data text);
            ALTER TABLE secret_tokens DROP gone",
            STORED,
        ),
        case(
            "sequence that cycles",
            "CREATE SEQUENCE ids MAXVALUE 3 CYCLE;
            SELECT setval('ids', 3);
            CREATE TABLE secret_tokens (id int PRIMARY KEY DEFAULT nextval('ids'), data text)",
            STORED,
        ),
        case(
            "partition of this day",
            "CREATE TABLE secret_tokens
                (data text, created_at timestamptz DEFAULT now()) PARTITION BY RANGE (created_at);
            CREATE TABLE part PARTITION OF secret_tokens
                FOR VALUES FROM ('2001-01-01') TO (MAXVALUE)",
            STORED,
        ),
    ];
    check(CASES);
}

#[test]
fn table_is_refused_when_the_sequence_of_its_key_is_exhausted() {
    assert_each_is_refused(&[
        (
            "serial",
            "CREATE TABLE secret_tokens (id serial PRIMARY KEY, data text);
            SELECT setval('secret_tokens_id_seq', 2147483647)",
            &["secret_tokens_id_seq", "ALTER SEQUENCE"],
        ),
        (
            "smallserial",
            "CREATE TABLE secret_tokens (id smallserial PRIMARY KEY, data text);
            SELECT setval('secret_tokens_id_seq', 32767)",
            &["secret_tokens_id_seq"],
        ),
        (
            "identity",
            "CREATE TABLE secret_tokens
                (id smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, data text);
            SELECT setval('secret_tokens_id_seq', 32767)",
            &["secret_tokens_id_seq"],
        ),
        (
            "descending",
            "CREATE SEQUENCE ids INCREMENT -1 MINVALUE 1 MAXVALUE 9;
            SELECT setval('ids', 1);
            CREATE TABLE secret_tokens (id int DEFAULT nextval('ids'), data text)",
            &["ids"],
        ),
    ]);
}

#[test]
fn table_is_refused_when_it_has_no_partition() {
    assert_each_is_refused(&[
        (
            "range",
            "CREATE TABLE secret_tokens (data text, created_at timestamptz DEFAULT now())
            PARTITION BY RANGE (created_at)",
            &["secret_tokens", "partition"],
        ),
        (
            "list of the token",
            "CREATE TABLE secret_tokens (data text) PARTITION BY LIST (data)",
            &["secret_tokens", "partition"],
        ),
        (
            "second level",
            "CREATE TABLE secret_tokens (data text) PARTITION BY LIST (data);
            CREATE TABLE part PARTITION OF secret_tokens DEFAULT PARTITION BY LIST (data)",
            &["partition"],
        ),
    ]);
}
