//! Tests of triggers that raise exceptions. An exception is evidence against the token, unless its code
//! means a transient conflict. An error of another table is no evidence.

use std::fmt::Write as _;

use super::{
    ABSENT, BAD_ABSENT, BAD_FAILED, BAD_REJECTED, ExpectedStatus, TableCase, case, check,
    mismatches, run_of,
};
use crate::support::report::Report;

/// A trigger that raises the SQLSTATE that the token names.
const RAISING: &str = "CREATE TABLE secret_tokens (id serial PRIMARY KEY, data text NOT NULL);
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NEW.data ~ '^[0-9A-Z]{5}$' THEN
            RAISE EXCEPTION 'refused' USING ERRCODE = NEW.data; END IF;
        RETURN NEW; END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON secret_tokens FOR EACH ROW EXECUTE FUNCTION refuse()";

/// Runs with each code between two valid tokens, and asserts the status of the code.
#[track_caller]
fn assert_status_of_each(codes: &[&'static str], status: &'static str) {
    let database = super::database().with_sql(RAISING);
    let mut faults = String::new();
    for code in codes {
        let expected: [ExpectedStatus; 3] = [("aa", "stored"), (code, status), ("zz", "stored")];
        database
            .client()
            .batch_execute("TRUNCATE secret_tokens")
            .unwrap();
        let run = run_of(&database, expected.map(|(token, _)| token)).run();
        let mismatches = mismatches(&run, &expected, &super::HashMap::new(), &database);
        if !mismatches.is_empty() {
            let _ = writeln!(faults, "{code}:\n{mismatches}");
        } else if status == "failed" {
            let attempts = Report::of_run(&run).token(code)["attempts"].as_u64();
            if attempts < Some(2) {
                let _ = writeln!(faults, "{code}: {attempts:?} attempts");
            }
        }
    }
    assert!(faults.is_empty(), "{faults}");
}

#[test]
fn token_is_rejected_when_its_trigger_raises_insufficient_privilege() {
    assert_status_of_each(&["42501", "42P01", "42703", "28000", "3D000"], "rejected");
}

#[test]
fn token_is_rejected_when_its_trigger_raises_a_code_of_another_class() {
    assert_status_of_each(
        &[
            "50001", "38000", "21000", "0A000", "39000", "2F005", "P0001", "P0002", "P0004",
            "UE001", "HV000", "XX000", "58030", "25006", "25P02", "26000", "42P05", "54000",
            "01000", "00001",
        ],
        "rejected",
    );
}

#[test]
fn token_is_rejected_when_its_trigger_raises_a_connection_exception() {
    assert_status_of_each(&["08000", "08003", "08006", "08P01", "40003"], "rejected");
}

#[test]
fn token_is_rejected_when_its_trigger_raises_a_constraint_violation() {
    assert_status_of_each(
        &[
            "23502", "23503", "23505", "23514", "23P01", "22001", "2200H", "44000",
        ],
        "rejected",
    );
}

#[test]
fn token_is_retried_and_then_fails_when_its_trigger_raises_a_transient_code() {
    assert_status_of_each(
        &[
            "40001", "40P01", "40002", "55P03", "55000", "53300", "53100",
        ],
        "failed",
    );
}

#[test]
fn token_is_retried_and_then_fails_when_its_trigger_raises_operator_intervention() {
    assert_status_of_each(&["57014", "57P01", "57P02", "57P03"], "failed");
}

#[test]
fn run_continues_when_one_token_of_many_raises_insufficient_privilege() {
    let database = super::database().with_sql(RAISING);
    let mut tokens: Vec<String> = (0..2000).map(|number| format!("a{number}")).collect();
    tokens[1160] = "42501".to_owned();
    let run = run_of(&database, &tokens).run().expect_code(0);
    let report = Report::of_run(&run);
    assert_eq!(report.with_status("rejected"), ["42501"]);
    assert_eq!(report.count("stored"), 1999);
}

macro_rules! refusing {
    ($body:literal, $when:literal) => {
        concat!(
            "CREATE TABLE secret_tokens (id serial PRIMARY KEY, data text);
             CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF NEW.data = 'bad' THEN ",
            $body,
            "; END IF; RETURN NEW; END $$;
             CREATE ",
            $when,
            " EXECUTE FUNCTION refuse()"
        )
    };
    ($body:literal) => {
        refusing!(
            $body,
            "TRIGGER refuse BEFORE INSERT ON secret_tokens FOR EACH ROW"
        )
    };
}

/// The exception belongs to the trigger, wherever it is raised.
#[test]
fn token_is_rejected_when_a_trigger_of_its_table_raises() {
    const CASES: &[TableCase] = &[
        case(
            "BEFORE ROW",
            refusing!("RAISE EXCEPTION 'no'"),
            BAD_REJECTED,
        ),
        case(
            "AFTER ROW",
            refusing!(
                "RAISE EXCEPTION 'no'",
                "TRIGGER refuse AFTER INSERT ON secret_tokens FOR EACH ROW"
            ),
            BAD_REJECTED,
        ),
        case(
            "deferred constraint trigger",
            refusing!(
                "RAISE EXCEPTION 'no'",
                "CONSTRAINT TRIGGER refuse AFTER INSERT ON secret_tokens
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
            ),
            BAD_REJECTED,
        ),
        case("ASSERT", refusing!("ASSERT false"), BAD_REJECTED),
        case(
            "fields that name another table",
            refusing!(
                "RAISE EXCEPTION 'no' USING
            ERRCODE = '23505', TABLE = 'other', SCHEMA = 's', COLUMN = 'id', CONSTRAINT = 'c'"
            ),
            BAD_REJECTED,
        ),
        case(
            "nested function raises",
            concat!(
                "CREATE FUNCTION inner_refuse(text) RETURNS void
            LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'inner'; END $$;",
                refusing!("PERFORM inner_refuse(NEW.data)")
            ),
            BAD_REJECTED,
        ),
        case(
            "quoted function name",
            "CREATE TABLE secret_tokens (data text);
            CREATE FUNCTION \"Odd. Name\"() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.data = 'bad' THEN RAISE EXCEPTION 'no'; END IF; RETURN NEW; END $$;
            CREATE TRIGGER refuse BEFORE INSERT ON secret_tokens FOR EACH ROW
                EXECUTE FUNCTION \"Odd. Name\"()",
            BAD_REJECTED,
        ),
        case(
            "function in a schema outside the search path",
            "CREATE SCHEMA elsewhere;
            CREATE TABLE secret_tokens (data text);
            CREATE FUNCTION elsewhere.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.data = 'bad' THEN RAISE EXCEPTION 'no'; END IF; RETURN NEW; END $$;
            CREATE TRIGGER refuse BEFORE INSERT ON secret_tokens FOR EACH ROW
                EXECUTE FUNCTION elsewhere.refuse()",
            BAD_REJECTED,
        ),
        case(
            "trigger of a partition",
            "CREATE TABLE secret_tokens (data text)
                PARTITION BY LIST (data);
            CREATE TABLE part PARTITION OF secret_tokens DEFAULT;
            CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.data = 'bad' THEN RAISE EXCEPTION 'no'; END IF; RETURN NEW; END $$;
            CREATE TRIGGER refuse BEFORE INSERT ON part FOR EACH ROW EXECUTE FUNCTION refuse()",
            BAD_REJECTED,
        ),
        case(
            "INSTEAD OF trigger of a view",
            "CREATE TABLE base (data text);
            CREATE VIEW secret_tokens AS SELECT data FROM base;
            CREATE FUNCTION route() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.data = 'bad' THEN RAISE EXCEPTION 'no'; END IF;
                INSERT INTO base VALUES (NEW.data); RETURN NEW; END $$;
            CREATE TRIGGER route INSTEAD OF INSERT ON secret_tokens FOR EACH ROW
                EXECUTE FUNCTION route()",
            BAD_REJECTED,
        ),
        case(
            "trigger of a view's base table",
            "CREATE TABLE base (tok text);
            CREATE VIEW secret_tokens AS SELECT tok AS data FROM base;
            CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.tok = 'bad' THEN RAISE EXCEPTION 'no'; END IF; RETURN NEW; END $$;
            CREATE TRIGGER refuse BEFORE INSERT ON base FOR EACH ROW EXECUTE FUNCTION refuse()",
            BAD_REJECTED,
        ),
    ];
    check(CASES);
}

/// The outermost frame of an error inside a trigger function is that of the trigger.
#[test]
fn token_is_not_stored_and_run_continues_when_a_trigger_fails_on_it() {
    const CASES: &[TableCase] = &[
        case("cast", refusing!("PERFORM NEW.data::int"), BAD_ABSENT),
        case(
            "division",
            refusing!("PERFORM 1 / (length(NEW.data) - 3)"),
            BAD_ABSENT,
        ),
        case(
            "dynamic SQL",
            refusing!("EXECUTE format('SELECT %L::int', NEW.data)"),
            BAD_ABSENT,
        ),
        case("missing field", refusing!("NEW.nothing = 1"), BAD_ABSENT),
        case(
            "recursion",
            refusing!("INSERT INTO secret_tokens (data) VALUES (NEW.data)"),
            BAD_ABSENT,
        ),
        case(
            "SQL function",
            concat!(
                "CREATE FUNCTION inner_cast(t text) RETURNS int
            LANGUAGE sql VOLATILE AS $$ SELECT count(*)::int + t::int FROM pg_class GROUP BY t $$;",
                refusing!("PERFORM inner_cast(NEW.data)")
            ),
            BAD_ABSENT,
        ),
        case(
            "no RETURN",
            "CREATE TABLE secret_tokens (data text);
            CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.data <> 'bad' THEN RETURN NEW; END IF; END $$;
            CREATE TRIGGER refuse BEFORE INSERT ON secret_tokens FOR EACH ROW
                EXECUTE FUNCTION refuse()",
            BAD_ABSENT,
        ),
        case(
            "built-in trigger function",
            "CREATE TABLE secret_tokens (data text, v text);
            CREATE TRIGGER ts BEFORE INSERT ON secret_tokens FOR EACH ROW EXECUTE FUNCTION
                tsvector_update_trigger(v, 'pg_catalog.simple', data)",
            &[("aa", ABSENT), ("bad", ABSENT)],
        ),
    ];
    check(CASES);
}

#[test]
fn token_fails_when_a_trigger_writes_a_table_that_refuses() {
    const CASES: &[TableCase] = &[
        case(
            "CHECK",
            concat!(
                "CREATE TABLE audit (data text CHECK (data <> 'bad'));",
                refusing!("INSERT INTO audit VALUES (NEW.data)")
            ),
            BAD_FAILED,
        ),
        case(
            "NOT NULL",
            concat!(
                "CREATE TABLE audit (data text, who text NOT NULL);",
                refusing!("INSERT INTO audit (data) VALUES (NEW.data)")
            ),
            BAD_FAILED,
        ),
        case(
            "UNIQUE",
            concat!(
                "CREATE TABLE audit (data text UNIQUE);
            INSERT INTO audit VALUES ('bad');",
                refusing!("INSERT INTO audit VALUES (NEW.data)")
            ),
            BAD_FAILED,
        ),
        case(
            "foreign key",
            concat!(
                "CREATE TABLE known (data text PRIMARY KEY);
            CREATE TABLE audit (data text REFERENCES known);",
                refusing!("INSERT INTO audit VALUES (NEW.data)")
            ),
            BAD_FAILED,
        ),
        case(
            "no partition",
            concat!(
                "CREATE TABLE audit (data text) PARTITION BY LIST (data);",
                refusing!("INSERT INTO audit VALUES (NEW.data)")
            ),
            BAD_FAILED,
        ),
        case(
            "missing table",
            refusing!("INSERT INTO audit VALUES (NEW.data)"),
            BAD_FAILED,
        ),
        case(
            "exhausted sequence",
            concat!(
                "CREATE TABLE audit (id smallserial, data text);
            ALTER SEQUENCE audit_id_seq RESTART 32767; INSERT INTO audit (data) VALUES ('last');",
                refusing!("INSERT INTO audit (data) VALUES (NEW.data)")
            ),
            BAD_FAILED,
        ),
        case(
            "same name in another schema",
            concat!(
                "CREATE SCHEMA audits;
            CREATE TABLE audits.secret_tokens (data text,
                CONSTRAINT secret_tokens_data_check CHECK (data <> 'bad'));",
                refusing!("INSERT INTO audits.secret_tokens VALUES (NEW.data)")
            ),
            BAD_FAILED,
        ),
    ];
    check(CASES);
}

/// The trigger of another table raises between two frames of this table's trigger.
#[test]
fn token_is_not_stored_when_the_trigger_of_an_audit_table_raises() {
    const CASES: &[TableCase] = &[case(
        "trigger of the audit table",
        concat!(
            "CREATE TABLE audit (data text);
            CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                RAISE EXCEPTION 'the audit is closed'; END $$;
            CREATE TRIGGER audit_refuse BEFORE INSERT ON audit FOR EACH ROW
                EXECUTE FUNCTION audit_refuse();",
            refusing!("INSERT INTO audit VALUES (NEW.data)")
        ),
        BAD_ABSENT,
    )];
    check(CASES);
}

#[test]
fn token_fails_when_a_trigger_lacks_a_privilege() {
    let database = super::database()
        .with_sql("CREATE TABLE audit (data text)")
        .with_sql(refusing!("INSERT INTO audit VALUES (NEW.data)"));
    let role = database.role_with("INSERT, SELECT");
    let run = run_of(&role, ["aa", "bad", "cc"]).run();
    let mismatches = mismatches(&run, BAD_FAILED, &super::HashMap::new(), &database);
    assert!(mismatches.is_empty(), "{mismatches}");
}
