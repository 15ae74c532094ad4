//! Tests that `stored` needs a confirmation of the server, which must cover the whole token.

use super::faulty_pooler::{FaultyPooler, PoolerFault};
use super::{ExpectedStatus, TableCase, case, check, create_schema, mismatches, run_of, values};
use crate::support::database::STANDARD_TABLE;
use crate::support::report::Report;
use crate::support::verify::verify;

fn texts(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("a{number:03}")).collect()
}

#[test]
fn token_is_not_stored_when_a_pooler_hands_over_an_open_transaction() {
    let database = super::database().with_sql(STANDARD_TABLE);
    let pooler = FaultyPooler::start(database.port, PoolerFault::BeginAtStart);
    let tokens = texts(5);
    let run = run_of(&pooler.login(&database), &tokens).run();
    assert_eq!(run.code, Some(5), "{}", run.stderr);
    if !run.stdout.is_empty() {
        verify(&run, &tokens, &[], &database);
    }
    assert!(database.rows().is_empty());
}

#[test]
fn token_is_not_stored_when_a_transaction_is_left_open_during_the_run() {
    let database = super::database().with_sql(STANDARD_TABLE);
    let pooler = FaultyPooler::start(database.port, PoolerFault::BeginAfterInserts(20));
    let tokens = texts(60);
    let run = run_of(&pooler.login(&database), &tokens)
        .args(["--pipeline", "1"])
        .run();
    assert!(pooler.is_done(), "the pooler opened no transaction");
    verify(&run, &tokens, &[], &database);
}

/// A look-up decides whether the row exists. The tag alone is no evidence for a rejection.
#[test]
fn token_is_not_rejected_when_the_command_tag_cannot_be_read() {
    for tag in [
        "INSERT 0 -1",
        "",
        "INSERT",
        "INSERT 0 1x",
        "SELECT 0",
        "INSERT 0 18446744073709551617",
    ] {
        let database = super::database().with_sql(STANDARD_TABLE);
        let pooler = FaultyPooler::start(database.port, PoolerFault::Tag(tag));
        let tokens = texts(4);
        let run = run_of(&pooler.login(&database), &tokens).run();
        let verified = verify(&run, &tokens, &[], &database);
        assert_eq!(
            verified.report.count("rejected"),
            0,
            "{tag:?}: {}",
            run.stdout
        );
        assert_eq!(database.rows(), tokens, "{tag:?}");
    }
}

#[test]
fn token_is_unknown_when_the_command_tag_cannot_be_read_and_the_role_lacks_select() {
    for tag in ["INSERT 0 -1", "", "INSERT 0 0"] {
        let database = super::database().with_sql(STANDARD_TABLE);
        let role = database.role_with("INSERT");
        let pooler = FaultyPooler::start(database.port, PoolerFault::Tag(tag));
        let tokens = texts(2);
        let run = run_of(&pooler.login(&role), &tokens).run().expect_code(5);
        let verified = verify(&run, &tokens, &[], &database);
        assert_eq!(verified.report.with_status("unknown"), tokens, "{tag:?}");
    }
}

const STORED: &[ExpectedStatus] = &[("aa", "stored"), ("bb", "stored"), ("cc", "stored")];

/// The server answers `INSERT 0 0`, and the row exists.
#[test]
fn token_is_stored_when_a_trigger_or_rule_routes_its_row_and_a_look_up_finds_it() {
    const CASES: &[TableCase] = &[
        case("inheritance", "CREATE TABLE secret_tokens (id serial, data text);
            CREATE TABLE child () INHERITS (secret_tokens);
            CREATE FUNCTION route() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                INSERT INTO child VALUES (NEW.*); RETURN NULL; END $$;
            CREATE TRIGGER route BEFORE INSERT ON secret_tokens FOR EACH ROW
                EXECUTE FUNCTION route()", STORED),
        case("inheritance by the token's first letter", "CREATE TABLE secret_tokens (data text);
            CREATE TABLE child_a () INHERITS (secret_tokens);
            CREATE TABLE child_other () INHERITS (secret_tokens);
            CREATE FUNCTION route() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.data LIKE 'a%' THEN INSERT INTO child_a VALUES (NEW.data);
                ELSE INSERT INTO child_other VALUES (NEW.data); END IF; RETURN NULL; END $$;
            CREATE TRIGGER route BEFORE INSERT ON secret_tokens FOR EACH ROW
                EXECUTE FUNCTION route()", STORED),
        case("INSTEAD OF trigger that returns NULL", "CREATE TABLE base (tok text);
            CREATE VIEW secret_tokens AS SELECT tok AS data FROM base;
            CREATE FUNCTION route() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                INSERT INTO base VALUES (NEW.data); RETURN NULL; END $$;
            CREATE TRIGGER route INSTEAD OF INSERT ON secret_tokens FOR EACH ROW
                EXECUTE FUNCTION route()", STORED),
        case("rule that selects a function", "CREATE TABLE base (tok text);
            CREATE VIEW secret_tokens AS SELECT tok AS data FROM base;
            CREATE FUNCTION put(text) RETURNS void LANGUAGE sql AS $$ INSERT INTO base VALUES ($1) $$;
            CREATE RULE route AS ON INSERT TO secret_tokens DO INSTEAD SELECT put(NEW.data)",
            STORED),
        case("rule that inserts", "CREATE TABLE base (tok text);
            CREATE VIEW secret_tokens AS SELECT tok AS data FROM base;
            CREATE RULE route AS ON INSERT TO secret_tokens DO INSTEAD
                INSERT INTO base VALUES (NEW.data)", STORED),
        case("conditional rules", "CREATE TABLE secret_tokens (data text);
            CREATE TABLE child () INHERITS (secret_tokens);
            CREATE RULE route AS ON INSERT TO secret_tokens WHERE NEW.data < 'bc' DO INSTEAD
                INSERT INTO child VALUES (NEW.data)", STORED),
    ];
    check(CASES);
}

/// The server answers `INSERT 0 0`, and the row does not exist.
#[test]
fn token_is_rejected_when_a_trigger_or_rule_skips_it_and_a_look_up_does_not_find_it() {
    const CASES: &[TableCase] = &[
        case("trigger", "CREATE TABLE secret_tokens (data text);
            CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.data = 'bad' THEN RETURN NULL; END IF; RETURN NEW; END $$;
            CREATE TRIGGER skip BEFORE INSERT ON secret_tokens FOR EACH ROW EXECUTE FUNCTION skip()",
            super::BAD_REJECTED),
        case("conditional rule", "CREATE TABLE secret_tokens (data text);
            CREATE RULE skip AS ON INSERT TO secret_tokens WHERE NEW.data = 'bad' DO INSTEAD NOTHING",
            super::BAD_REJECTED),
        case("DO INSTEAD NOTHING", "CREATE TABLE secret_tokens (data text);
            CREATE RULE skip AS ON INSERT TO secret_tokens DO INSTEAD NOTHING",
            &[("aa", "rejected|failed"), ("bb", "rejected|failed")]),
        case("DO INSTEAD UPDATE", "CREATE TABLE base (data text);
            CREATE TABLE secret_tokens (data text);
            CREATE RULE route AS ON INSERT TO secret_tokens DO INSTEAD
                UPDATE base SET data = NEW.data", &[("aa", "rejected"), ("bb", "rejected")]),
        case("row moved where no look-up sees it", "CREATE TABLE archive (data text);
            CREATE TABLE secret_tokens (data text);
            CREATE FUNCTION route() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                INSERT INTO archive VALUES (NEW.data); RETURN NULL; END $$;
            CREATE TRIGGER route BEFORE INSERT ON secret_tokens FOR EACH ROW
                EXECUTE FUNCTION route()", &[("aa", "rejected"), ("bb", "rejected")]),
    ];
    check(CASES);
}

/// A trigger that skips duplicates leaves an older equal row, which does not belong to this token.
#[test]
fn token_is_not_stored_when_only_an_older_equal_row_is_found() {
    let ddl = "CREATE TABLE secret_tokens (data text);
        INSERT INTO secret_tokens VALUES ('bad');
        CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF EXISTS (SELECT FROM secret_tokens WHERE data = NEW.data) THEN RETURN NULL; END IF;
            RETURN NEW; END $$;
        CREATE TRIGGER skip BEFORE INSERT ON secret_tokens FOR EACH ROW EXECUTE FUNCTION skip()";
    let database = super::database();
    create_schema(&database, "older", ddl);
    let run = run_of(&database, ["aa", "bad", "cc", "cc"]).run();
    let report = Report::of_run(&run);
    assert_eq!(report.count("stored"), 2, "{}", run.stdout);
    assert_eq!(report.with_status("stored"), ["aa", "cc"]);
    let rows = values(&database, super::ROWS);
    assert!(rows.values().all(|count| *count == 1), "{rows:?}");
}

#[test]
fn token_is_unknown_when_its_row_is_routed_and_the_role_lacks_select() {
    let database = super::database().with_sql(
        "CREATE TABLE secret_tokens (data text);
         CREATE TABLE child () INHERITS (secret_tokens);
         CREATE FUNCTION route() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
             INSERT INTO child VALUES (NEW.*); RETURN NULL; END $$;
         CREATE TRIGGER route BEFORE INSERT ON secret_tokens FOR EACH ROW
             EXECUTE FUNCTION route()",
    );
    let role = database.role_with("INSERT");
    let tokens = texts(3);
    let run = run_of(&role, &tokens).run().expect_code(5);
    assert_eq!(Report::of_run(&run).with_status("unknown"), tokens);
    assert_eq!(database.rows(), tokens);
}

/// The column would keep only a part of the token, and a stored token must be whole.
#[test]
fn token_is_rejected_when_its_column_would_cut_it() {
    const CASES: &[TableCase] = &[
        case(
            "varchar(n) and blanks",
            "CREATE TABLE secret_tokens (data varchar(3))",
            &[("abc", "stored"), ("abd  ", "rejected"), ("ab ", "stored")],
        ),
        case(
            "domain over varchar(n) and blanks",
            "CREATE DOMAIN tok AS varchar(3);
            CREATE TABLE secret_tokens (data tok)",
            &[
                ("abc", "stored"),
                ("abd  ", "rejected"),
                ("abe ", "rejected"),
            ],
        ),
        case(
            "varchar(n) of a view's base table",
            "CREATE TABLE base (tok varchar(3));
            CREATE VIEW secret_tokens AS SELECT tok AS data FROM base",
            &[("abc", "stored"), ("abd  ", "rejected")],
        ),
        case(
            "char(n) and blanks",
            "CREATE TABLE secret_tokens (data char(3))",
            &[
                ("abc", "stored"),
                ("abd  ", "rejected"),
                ("ab ", "rejected"),
                ("ac", "stored"),
            ],
        ),
        case(
            "varchar(n) that a trigger fills from text",
            "CREATE TABLE secret_tokens (data text);
            CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                PERFORM NEW.data::varchar(3); RETURN NEW; END $$;
            CREATE TRIGGER cut BEFORE INSERT ON secret_tokens FOR EACH ROW EXECUTE FUNCTION cut()",
            &[("abc", "stored"), ("abd  ", "stored")],
        ),
    ];
    check(CASES);
}

/// A domain over `name` keeps 63 bytes. It is refused at start, or a longer token is not stored.
#[test]
fn token_is_not_stored_when_a_domain_over_name_would_cut_it() {
    let database = super::database();
    create_schema(
        &database,
        "names",
        "CREATE DOMAIN tok AS name; CREATE TABLE secret_tokens (data tok)",
    );
    let long = "n".repeat(70);
    let run = run_of(&database, [&long]).run();
    if !run.stdout.is_empty() {
        assert_eq!(Report::of_run(&run).count("stored"), 0, "{}", run.stdout);
    }
    assert!(values(&database, super::ROWS).is_empty());
}

/// Columns with a looser comparison still keep the bytes of a token.
#[test]
fn token_is_stored_whole_when_its_column_compares_loosely() {
    const CASES: &[TableCase] = &[
        case(
            "non-deterministic collation",
            "CREATE COLLATION loose
                (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
            CREATE TABLE secret_tokens (data text COLLATE loose)",
            &[("aa", "stored"), ("AA", "stored")],
        ),
        case(
            "unique with a non-deterministic collation",
            "CREATE COLLATION loose
                (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
            CREATE TABLE secret_tokens (data text COLLATE loose UNIQUE)",
            &[("aa", "stored"), ("AA", "rejected")],
        ),
        case(
            "citext",
            "CREATE EXTENSION citext SCHEMA public;
            CREATE TABLE secret_tokens (data citext)",
            &[("aa", "stored"), ("AA", "stored")],
        ),
        case(
            "unique citext",
            "CREATE TABLE secret_tokens (data citext UNIQUE)",
            &[("aa", "stored"), ("AA", "rejected")],
        ),
    ];
    check(CASES);
}

/// A warning does not decide the status of a token, whatever its text.
#[test]
fn token_is_stored_when_a_trigger_raises_a_warning() {
    let database = super::database();
    for (number, level) in ["WARNING", "NOTICE", "INFO", "LOG"].into_iter().enumerate() {
        let ddl = format!(
            "CREATE TABLE secret_tokens (data text);
             CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 RAISE {level} 'canceling wait for synchronous replication' USING
                     DETAIL = 'The transaction has already committed locally, but might not'
                         ' have been replicated to the standby.'; RETURN NEW; END $$;
             CREATE TRIGGER warn BEFORE INSERT ON secret_tokens FOR EACH ROW EXECUTE FUNCTION warn()"
        );
        create_schema(&database, &format!("warning_{number}"), &ddl);
        let run = run_of(&database, ["aa", "bb", "cc"]).run();
        let mismatches = mismatches(&run, STORED, &super::HashMap::new(), &database);
        assert!(mismatches.is_empty(), "{level}: {mismatches}");
    }
}
