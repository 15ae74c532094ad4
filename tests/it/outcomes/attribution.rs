//! Tests that a token is rejected when a constraint, type, index, partition or view refuses its column,
//! and that the run continues.

use super::{ABSENT, BAD_ABSENT, BAD_REJECTED, TableCase, case, check, run_of};
use crate::support::report::Report;

const CONSTRAINTS: &[TableCase] = &[
    case(
        "CHECK",
        "CREATE TABLE secret_tokens (data text CHECK (data <> 'bad'))",
        BAD_REJECTED,
    ),
    case(
        "CHECK of two columns",
        "CREATE TABLE secret_tokens (data text, n int DEFAULT 1,
        CHECK (n > 1 OR data <> 'bad'))",
        BAD_REJECTED,
    ),
    case(
        "UNIQUE",
        "CREATE TABLE secret_tokens (data text UNIQUE);
        INSERT INTO secret_tokens VALUES ('bad')",
        BAD_REJECTED,
    ),
    case(
        "deferred UNIQUE",
        "CREATE TABLE secret_tokens
            (data text UNIQUE DEFERRABLE INITIALLY DEFERRED);
        INSERT INTO secret_tokens VALUES ('bad')",
        BAD_REJECTED,
    ),
    case(
        "UNIQUE with another column",
        "CREATE TABLE secret_tokens
            (n int DEFAULT 1, data text, UNIQUE (n, data));
        INSERT INTO secret_tokens VALUES (1, 'bad')",
        BAD_REJECTED,
    ),
    case(
        "unique expression index",
        "CREATE TABLE secret_tokens (data text);
        CREATE UNIQUE INDEX ON secret_tokens (lower(data));
        INSERT INTO secret_tokens VALUES ('BAD')",
        BAD_REJECTED,
    ),
    case(
        "partial unique index",
        "CREATE TABLE secret_tokens (data text);
        CREATE UNIQUE INDEX ON secret_tokens (data) WHERE data LIKE 'b%';
        INSERT INTO secret_tokens VALUES ('bad')",
        BAD_REJECTED,
    ),
    case(
        "unique generated column",
        "CREATE TABLE secret_tokens (data text,
            folded text GENERATED ALWAYS AS (lower(data)) STORED UNIQUE);
        INSERT INTO secret_tokens VALUES ('BAD')",
        BAD_REJECTED,
    ),
    case(
        "EXCLUDE",
        "CREATE TABLE secret_tokens (data text, EXCLUDE (data WITH =));
        INSERT INTO secret_tokens VALUES ('bad')",
        BAD_REJECTED,
    ),
    case(
        "EXCLUDE of an expression",
        "CREATE TABLE secret_tokens
            (data text, EXCLUDE (lower(data) WITH =));
        INSERT INTO secret_tokens VALUES ('BAD')",
        BAD_REJECTED,
    ),
    case(
        "deferred EXCLUDE",
        "CREATE TABLE secret_tokens
            (data text, EXCLUDE (data WITH =) DEFERRABLE INITIALLY DEFERRED);
        INSERT INTO secret_tokens VALUES ('bad')",
        BAD_REJECTED,
    ),
    case(
        "foreign key",
        "CREATE TABLE known (data text PRIMARY KEY);
        INSERT INTO known VALUES ('aa'), ('cc');
        CREATE TABLE secret_tokens (data text REFERENCES known)",
        BAD_REJECTED,
    ),
    case(
        "deferred foreign key",
        "CREATE TABLE known (data text PRIMARY KEY);
        INSERT INTO known VALUES ('aa'), ('cc');
        CREATE TABLE secret_tokens
            (data text REFERENCES known DEFERRABLE INITIALLY DEFERRED)",
        BAD_REJECTED,
    ),
    case(
        "foreign key of two columns",
        "CREATE TABLE known (n int, data text,
            PRIMARY KEY (n, data));
        INSERT INTO known VALUES (1, 'aa'), (1, 'cc');
        CREATE TABLE secret_tokens (n int DEFAULT 1, data text,
            FOREIGN KEY (n, data) REFERENCES known)",
        BAD_REJECTED,
    ),
    case(
        "NOT NULL and a trigger that empties the token",
        "CREATE TABLE secret_tokens
            (data text NOT NULL);
        CREATE FUNCTION empty() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            NEW.data = nullif(NEW.data, 'bad'); RETURN NEW; END $$;
        CREATE TRIGGER empty BEFORE INSERT ON secret_tokens FOR EACH ROW
            EXECUTE FUNCTION empty()",
        BAD_REJECTED,
    ),
];

#[test]
fn token_is_rejected_when_a_constraint_on_its_column_refuses_it() {
    check(CONSTRAINTS);
}

#[test]
fn token_is_rejected_when_the_type_of_its_column_refuses_it() {
    const CASES: &[TableCase] = &[
        case(
            "domain",
            "CREATE DOMAIN tok AS text CHECK (VALUE <> 'bad');
            CREATE TABLE secret_tokens (data tok)",
            BAD_REJECTED,
        ),
        case(
            "domain over a domain",
            "CREATE DOMAIN inner_tok AS text CHECK (VALUE <> 'bad');
            CREATE DOMAIN tok AS inner_tok; CREATE TABLE secret_tokens (data tok)",
            BAD_REJECTED,
        ),
        case(
            "varchar(n)",
            "CREATE TABLE secret_tokens (data varchar(2))",
            BAD_REJECTED,
        ),
        case(
            "domain over varchar(n)",
            "CREATE DOMAIN tok AS varchar(2);
            CREATE TABLE secret_tokens (data tok)",
            BAD_REJECTED,
        ),
    ];
    check(CASES);
}

const PARTITIONS_AND_VIEWS: &[TableCase] = &[
    case(
        "no partition for its value",
        "CREATE TABLE secret_tokens (data text)
            PARTITION BY LIST (data);
        CREATE TABLE part PARTITION OF secret_tokens FOR VALUES IN ('aa', 'cc')",
        BAD_REJECTED,
    ),
    case(
        "no partition for an expression of it",
        "CREATE TABLE secret_tokens (data text)
            PARTITION BY LIST (left(data, 1));
        CREATE TABLE part PARTITION OF secret_tokens FOR VALUES IN ('a', 'c')",
        BAD_REJECTED,
    ),
    case(
        "no range for its value",
        "CREATE TABLE secret_tokens (data text)
            PARTITION BY RANGE (data);
        CREATE TABLE low PARTITION OF secret_tokens FOR VALUES FROM (MINVALUE) TO ('b');
        CREATE TABLE high PARTITION OF secret_tokens FOR VALUES FROM ('c') TO (MAXVALUE)",
        BAD_REJECTED,
    ),
    case(
        "no partition for its hash",
        "CREATE TABLE secret_tokens (data text)
            PARTITION BY HASH (data);
        CREATE TABLE half PARTITION OF secret_tokens FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
        &[
            ("aa", "rejected|stored"),
            ("bb", "rejected|stored"),
            ("cc", "rejected|stored"),
            ("dd", "rejected|stored"),
            ("ee", "rejected|stored"),
            ("ff", "rejected|stored"),
        ],
    ),
    case(
        "no partition of a partition",
        "CREATE TABLE secret_tokens
            (n int DEFAULT 1, data text) PARTITION BY RANGE (n);
        CREATE TABLE part PARTITION OF secret_tokens DEFAULT PARTITION BY LIST (data);
        CREATE TABLE leaf PARTITION OF part FOR VALUES IN ('aa', 'cc')",
        BAD_REJECTED,
    ),
    case(
        "constraint of a partition itself",
        "CREATE TABLE parent (data text)
            PARTITION BY LIST (data);
        CREATE TABLE secret_tokens PARTITION OF parent FOR VALUES IN ('aa', 'cc')",
        BAD_REJECTED,
    ),
    case(
        "CHECK of a partition",
        "CREATE TABLE secret_tokens (data text)
            PARTITION BY LIST (data);
        CREATE TABLE part PARTITION OF secret_tokens (CHECK (data <> 'bad')) DEFAULT",
        BAD_REJECTED,
    ),
    case(
        "CHECK of a partition with columns in another order",
        "CREATE TABLE secret_tokens
            (n int, data text) PARTITION BY LIST (data);
        CREATE TABLE part (junk int, data text, n int, CHECK (data <> 'bad'));
        ALTER TABLE part DROP junk;
        ALTER TABLE secret_tokens ATTACH PARTITION part DEFAULT",
        BAD_REJECTED,
    ),
    case(
        "UNIQUE of a partitioned table",
        "CREATE TABLE secret_tokens (data text UNIQUE)
            PARTITION BY LIST (data);
        CREATE TABLE part PARTITION OF secret_tokens DEFAULT;
        INSERT INTO secret_tokens VALUES ('bad')",
        BAD_REJECTED,
    ),
    case(
        "view that renames the column",
        "CREATE TABLE base
            (tok text CHECK (tok <> 'bad'));
        CREATE VIEW secret_tokens AS SELECT tok AS data FROM base",
        BAD_REJECTED,
    ),
    case(
        "view over a view",
        "CREATE TABLE base (tok text CHECK (tok <> 'bad'));
        CREATE VIEW inner_view AS SELECT tok AS t FROM base;
        CREATE VIEW secret_tokens AS SELECT t AS data FROM inner_view",
        BAD_REJECTED,
    ),
    case(
        "check option",
        "CREATE TABLE base (data text);
        CREATE VIEW secret_tokens AS SELECT data FROM base WHERE data <> 'bad'
            WITH CHECK OPTION",
        BAD_REJECTED,
    ),
    case(
        "row security",
        "CREATE TABLE secret_tokens (data text);
        ALTER TABLE secret_tokens ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
        CREATE POLICY reading ON secret_tokens FOR SELECT USING (true);
        CREATE POLICY writing ON secret_tokens FOR INSERT WITH CHECK (data <> 'bad')",
        BAD_REJECTED,
    ),
];

#[test]
fn token_is_rejected_when_its_partition_or_view_refuses_it() {
    check(PARTITIONS_AND_VIEWS);
}

/// If an expression raises an error, the error names no constraint. The token is not stored. The
/// catalog may or may not suffice as evidence.
#[test]
fn token_is_not_stored_and_run_continues_when_an_expression_over_it_raises() {
    const RAISING: &str = "CREATE FUNCTION ok(t text) RETURNS bool IMMUTABLE LANGUAGE plpgsql
        AS $$ BEGIN IF t = 'bad' THEN RAISE EXCEPTION 'refused'; END IF; RETURN true; END $$;";
    const CASES: &[(&str, &str)] = &[
        (
            "CHECK",
            "CREATE TABLE secret_tokens (data text CHECK (ok(data)))",
        ),
        (
            "CHECK that divides",
            "CREATE TABLE secret_tokens
            (data text CHECK (1 / (length(data) - 3) < 9))",
        ),
        (
            "domain",
            "CREATE DOMAIN tok AS text CHECK (ok(VALUE));
            CREATE TABLE secret_tokens (data tok)",
        ),
        (
            "index",
            "CREATE TABLE secret_tokens (data text); CREATE INDEX ON secret_tokens (ok(data))",
        ),
        (
            "index predicate",
            "CREATE TABLE secret_tokens (data text);
            CREATE INDEX ON secret_tokens (data) WHERE ok(data)",
        ),
        (
            "generated column",
            "CREATE TABLE secret_tokens (data text,
            good bool GENERATED ALWAYS AS (ok(data)) STORED)",
        ),
        (
            "partition key",
            "CREATE TABLE secret_tokens (data text) PARTITION BY LIST (ok(data));
            CREATE TABLE part PARTITION OF secret_tokens DEFAULT",
        ),
        (
            "policy",
            "CREATE TABLE secret_tokens (data text);
            ALTER TABLE secret_tokens ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
            CREATE POLICY reading ON secret_tokens FOR SELECT USING (true);
            CREATE POLICY writing ON secret_tokens FOR INSERT WITH CHECK (ok(data))",
        ),
    ];
    let ddl: Vec<String> = CASES
        .iter()
        .map(|(_, ddl)| format!("{RAISING}{ddl}"))
        .collect();
    let cases: Vec<TableCase> = CASES
        .iter()
        .zip(&ddl)
        .map(|((name, _), ddl)| TableCase {
            name,
            ddl: ddl.clone().leak(),
            expected: BAD_ABSENT,
        })
        .collect();
    check(&cases);
}

#[test]
fn huge_token_is_rejected_when_an_index_on_its_column_cannot_hold_it() {
    let database = super::database();
    let huge: String = (0..6000).map(|_| fastrand::alphanumeric()).collect();
    for (number, index) in ["(data)", "(lower(data))", "USING gin ((ARRAY[data]))"]
        .into_iter()
        .enumerate()
    {
        let ddl = format!(
            "CREATE TABLE secret_tokens (data text);
            CREATE INDEX ON secret_tokens {index}"
        );
        super::create_schema(&database, &format!("index_{number}"), &ddl);
        let run = run_of(&database, ["aa", &huge, "cc"])
            .config("source: {max_token: 64KiB}")
            .run()
            .expect_code(0);
        let report = Report::of_run(&run);
        assert_eq!(report.with_status("stored"), ["aa", "cc"], "{index}");
        assert_eq!(report.with_status("rejected"), [huge.as_str()], "{index}");
    }
}

/// The constraint covers the column of the token and another column.
#[test]
fn token_is_not_stored_when_a_whole_row_constraint_refuses_it() {
    const CASES: &[TableCase] = &[case(
        "whole row",
        "CREATE TABLE secret_tokens (data text, n int, CHECK (secret_tokens IS NOT NULL))",
        &[("aa", ABSENT), ("bb", ABSENT)],
    )];
    check(CASES);
}
