//! Tests of constraints, defaults, sequences and partitions on other columns: no token is at fault, so
//! none is rejected.

use super::{ALL_FAILED, BAD_FAILED, ExpectedStatus, FAILED, TableCase, case, check, check_within};

const CONSTRAINTS: &[TableCase] = &[
    case(
        "CHECK",
        "CREATE TABLE secret_tokens (data text, n int DEFAULT -1 CHECK (n > 0))",
        ALL_FAILED,
    ),
    case(
        "EXCLUDE",
        "CREATE TABLE secret_tokens (data text, n int DEFAULT 1, EXCLUDE (n WITH =));
        INSERT INTO secret_tokens VALUES ('x')",
        ALL_FAILED,
    ),
    case(
        "EXCLUDE of ranges",
        "CREATE TABLE secret_tokens (data text,
            r int4range DEFAULT '[1,3)', EXCLUDE USING gist (r WITH &&));
        INSERT INTO secret_tokens VALUES ('x')",
        ALL_FAILED,
    ),
    case(
        "foreign key",
        "CREATE TABLE tenants (id int PRIMARY KEY);
        CREATE TABLE secret_tokens (data text, tenant int DEFAULT 7 REFERENCES tenants)",
        ALL_FAILED,
    ),
    case(
        "deferred foreign key",
        "CREATE TABLE tenants (id int PRIMARY KEY);
        CREATE TABLE secret_tokens (data text, tenant int DEFAULT 7
            REFERENCES tenants DEFERRABLE INITIALLY DEFERRED)",
        ALL_FAILED,
    ),
    case(
        "UNIQUE with a constant default",
        "CREATE TABLE secret_tokens
            (data text, n int DEFAULT 1 UNIQUE);
        INSERT INTO secret_tokens VALUES ('x')",
        ALL_FAILED,
    ),
    case(
        "UNIQUE that includes the token",
        "CREATE TABLE secret_tokens
            (data text, n int DEFAULT 1);
        CREATE UNIQUE INDEX ON secret_tokens (n) INCLUDE (data);
        INSERT INTO secret_tokens VALUES ('x')",
        ALL_FAILED,
    ),
    case(
        "unique index of a constant",
        "CREATE TABLE secret_tokens (data text);
        CREATE UNIQUE INDEX ON secret_tokens ((1));
        INSERT INTO secret_tokens VALUES ('x')",
        ALL_FAILED,
    ),
    case(
        "domain with a bad default",
        "CREATE DOMAIN positive AS int CHECK (VALUE > 0);
        CREATE TABLE secret_tokens (data text, n positive DEFAULT -1)",
        ALL_FAILED,
    ),
    case(
        "domain of both columns with a bad default",
        "CREATE DOMAIN tok AS text
            CHECK (VALUE <> 'bad');
        CREATE TABLE secret_tokens (data tok, other tok DEFAULT 'bad')",
        ALL_FAILED,
    ),
    case(
        "varchar(n) with a long default",
        "CREATE TABLE secret_tokens
        (data text, other varchar(3) DEFAULT 'long')",
        ALL_FAILED,
    ),
    case(
        "NOT NULL and a trigger that empties the column",
        "CREATE TABLE secret_tokens
            (data text, n int NOT NULL DEFAULT 1);
        CREATE FUNCTION empty() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            NEW.n = NULL; RETURN NEW; END $$;
        CREATE TRIGGER empty BEFORE INSERT ON secret_tokens FOR EACH ROW
            EXECUTE FUNCTION empty()",
        ALL_FAILED,
    ),
    case(
        "CHECK of a view's base table",
        "CREATE TABLE base (tok text,
            n int DEFAULT -1 CHECK (n > 0));
        CREATE VIEW secret_tokens AS SELECT tok AS data FROM base",
        ALL_FAILED,
    ),
    case(
        "check option",
        "CREATE TABLE base (data text, n int DEFAULT 0);
        CREATE VIEW secret_tokens AS SELECT data FROM base WHERE n > 0 WITH CHECK OPTION",
        ALL_FAILED,
    ),
    case(
        "row security on a tenant",
        "CREATE TABLE secret_tokens (data text,
            tenant text DEFAULT 'another role');
        ALTER TABLE secret_tokens ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
        CREATE POLICY reading ON secret_tokens FOR SELECT USING (true);
        CREATE POLICY tenants ON secret_tokens FOR INSERT WITH CHECK (tenant = current_user)",
        ALL_FAILED,
    ),
    case(
        "row security without a policy",
        "CREATE TABLE secret_tokens (data text);
        ALTER TABLE secret_tokens ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        ALL_FAILED,
    ),
];

#[test]
fn tokens_fail_when_a_constraint_on_another_column_refuses_them() {
    check(CONSTRAINTS);
}

#[test]
fn tokens_fail_when_a_default_raises() {
    const CASES: &[TableCase] = &[
        case(
            "division",
            "CREATE TABLE secret_tokens (data text, n int DEFAULT 1 / 0)",
            ALL_FAILED,
        ),
        case(
            "function that raises",
            "CREATE FUNCTION refuse() RETURNS int LANGUAGE plpgsql AS $$
                BEGIN RAISE EXCEPTION 'no default'; END $$;
            CREATE TABLE secret_tokens (data text, n int DEFAULT refuse())",
            ALL_FAILED,
        ),
        case(
            "function that raises beside a trigger of a similar name",
            "CREATE FUNCTION refuse() RETURNS int LANGUAGE plpgsql AS $$
                BEGIN RAISE EXCEPTION 'no default'; END $$;
            CREATE TABLE secret_tokens (data text, n int DEFAULT refuse());
            CREATE FUNCTION refuse2() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN RETURN NEW; END $$;
            CREATE TRIGGER refuse BEFORE INSERT ON secret_tokens FOR EACH ROW
                EXECUTE FUNCTION refuse2()",
            ALL_FAILED,
        ),
        case(
            "missing setting",
            "CREATE TABLE secret_tokens
            (data text, tenant text DEFAULT current_setting('app.tenant'))",
            ALL_FAILED,
        ),
        case(
            "overflow",
            "CREATE TABLE secret_tokens
            (data text, n smallint DEFAULT 100000 + length(current_user))",
            ALL_FAILED,
        ),
        case(
            "CHECK of another column that raises",
            "CREATE FUNCTION ok(int) RETURNS bool
                LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
            CREATE TABLE secret_tokens (data text, n int DEFAULT 1 CHECK (ok(n)))",
            ALL_FAILED,
        ),
    ];
    check(CASES);
}

#[test]
fn tokens_fail_when_the_sequence_of_their_key_is_exhausted() {
    const LAST: &[ExpectedStatus] = &[("aa", "stored"), ("bb", FAILED), ("cc", FAILED)];
    const CASES: &[TableCase] = &[
        case(
            "serial",
            "CREATE TABLE secret_tokens (id serial PRIMARY KEY, data text);
            ALTER SEQUENCE secret_tokens_id_seq RESTART 2147483647",
            LAST,
        ),
        case(
            "smallserial",
            "CREATE TABLE secret_tokens (id smallserial PRIMARY KEY, data text);
            ALTER SEQUENCE secret_tokens_id_seq RESTART 32767",
            LAST,
        ),
        case(
            "identity",
            "CREATE TABLE secret_tokens
                (id smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, data text);
            ALTER TABLE secret_tokens ALTER id RESTART 32767",
            LAST,
        ),
        case(
            "wider sequence",
            "CREATE SEQUENCE ids START 2147483647;
            CREATE TABLE secret_tokens (id int DEFAULT nextval('ids'), data text)",
            LAST,
        ),
        case(
            "descending",
            "CREATE SEQUENCE ids INCREMENT -1 MINVALUE 1 START 1 MAXVALUE 9;
            CREATE TABLE secret_tokens (id int DEFAULT nextval('ids'), data text)",
            LAST,
        ),
        case(
            "cycle over keys that are all taken",
            "CREATE SEQUENCE ids MAXVALUE 2 CYCLE;
            CREATE TABLE secret_tokens (id int PRIMARY KEY DEFAULT nextval('ids'), data text);
            INSERT INTO secret_tokens (data) VALUES ('x')",
            LAST,
        ),
    ];
    check(CASES);
}

#[test]
fn tokens_are_stored_when_the_sequence_of_their_key_is_behind_its_rows() {
    const STORED: &[ExpectedStatus] = &[
        ("aa", "stored"),
        ("bb", "stored"),
        ("cc", "stored"),
        ("dd", "stored"),
        ("ee", "stored"),
        ("ff", "stored"),
    ];
    const CASES: &[TableCase] = &[
        case(
            "serial",
            "CREATE TABLE secret_tokens (id serial PRIMARY KEY, data text);
            INSERT INTO secret_tokens SELECT i, 'old' FROM generate_series(1, 4) i",
            STORED,
        ),
        case(
            "identity",
            "CREATE TABLE secret_tokens
                (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, data text);
            INSERT INTO secret_tokens SELECT i, 'old' FROM generate_series(1, 4) i",
            STORED,
        ),
        case(
            "farther than a token is tried",
            "CREATE TABLE secret_tokens
                (id serial PRIMARY KEY, data text);
            INSERT INTO secret_tokens SELECT i, 'old' FROM generate_series(1, 40) i",
            STORED,
        ),
        case(
            "partitioned by hash of the key",
            "CREATE TABLE secret_tokens
                (id serial PRIMARY KEY, data text) PARTITION BY HASH (id);
            CREATE TABLE part_0 PARTITION OF secret_tokens FOR VALUES WITH (MODULUS 2, REMAINDER 0);
            CREATE TABLE part_1 PARTITION OF secret_tokens FOR VALUES WITH (MODULUS 2, REMAINDER 1);
            INSERT INTO secret_tokens SELECT i, 'old' FROM generate_series(1, 4) i",
            STORED,
        ),
        case(
            "cycle with a free key",
            "CREATE SEQUENCE ids MAXVALUE 9 START 8 CYCLE;
            CREATE TABLE secret_tokens (id int PRIMARY KEY DEFAULT nextval('ids'), data text);
            INSERT INTO secret_tokens VALUES (1, 'old'), (2, 'old')",
            STORED,
        ),
    ];
    check_within("20s", CASES);
}

#[test]
fn tokens_fail_when_no_partition_takes_another_column() {
    const CASES: &[TableCase] = &[
        case(
            "range of a time",
            "CREATE TABLE secret_tokens
                (data text, created_at timestamptz DEFAULT now()) PARTITION BY RANGE (created_at);
            CREATE TABLE old PARTITION OF secret_tokens
                FOR VALUES FROM ('2001-01-01') TO ('2002-01-01')",
            ALL_FAILED,
        ),
        case(
            "no default",
            "CREATE TABLE secret_tokens (data text, tenant int)
                PARTITION BY LIST (tenant);
            CREATE TABLE part PARTITION OF secret_tokens FOR VALUES IN (1)",
            ALL_FAILED,
        ),
        case(
            "partition of a partition",
            "CREATE TABLE secret_tokens
                (data text, created_at timestamptz DEFAULT now()) PARTITION BY LIST (data);
            CREATE TABLE part PARTITION OF secret_tokens DEFAULT PARTITION BY RANGE (created_at)",
            ALL_FAILED,
        ),
        case(
            "constraint of a partition itself",
            "CREATE TABLE parent (data text, n int DEFAULT 1)
                PARTITION BY LIST (n);
            CREATE TABLE secret_tokens PARTITION OF parent FOR VALUES IN (2)",
            ALL_FAILED,
        ),
    ];
    check(CASES);
}

/// NOT NULL of a partition concerns only the tokens of that partition.
#[test]
fn only_the_tokens_of_a_partition_fail_when_its_other_column_has_no_value() {
    const CASES: &[TableCase] = &[case(
        "NOT NULL of one partition",
        "CREATE TABLE secret_tokens (data text, n int) PARTITION BY LIST (data);
         CREATE TABLE part PARTITION OF secret_tokens FOR VALUES IN ('bad');
         CREATE TABLE rest PARTITION OF secret_tokens DEFAULT;
         ALTER TABLE part ALTER n SET NOT NULL",
        BAD_FAILED,
    )];
    check(CASES);
}

#[test]
fn tokens_fail_when_an_index_on_another_column_cannot_hold_its_default() {
    let huge: String = (0..6000).map(|_| fastrand::alphanumeric()).collect();
    let ddl = format!(
        "CREATE TABLE secret_tokens (data text, other text DEFAULT '{huge}');
        CREATE INDEX ON secret_tokens (other)"
    );
    let cases = [TableCase {
        name: "index",
        ddl: ddl.leak(),
        expected: ALL_FAILED,
    }];
    check(&cases);
}
