//! The DDL of a random schema.

use std::fmt::Write as _;

use super::schema_grammar::{Draft, DrawnToken, KEY};
use super::schema_kinds::{
    ColumnType, LastPartition, Leaf, Method, OtherObstacle, PartitionKey, RuleKind, TableKind,
    TokenConstraint, TriggerKind, ViewKind,
};

/// The rows that some tables hold before the run.
const OLDER_ROWS: usize = 20;

/// SQL for the class of a value.
fn class_of(value: &str) -> String {
    format!("substr({value}::text COLLATE \"C\", {}, 1)", KEY + 1)
}

/// SQL for the first hexadecimal digit of a value.
fn digit_of(value: &str) -> String {
    format!("substr({value}::text COLLATE \"C\", {}, 1)", KEY + 2)
}

impl Draft {
    fn add(&mut self, statement: &str) {
        if !statement.is_empty() {
            self.ddl.push_str(statement);
            self.ddl.push_str(";\n");
        }
    }

    pub(super) fn write(&mut self, tokens: &[DrawnToken]) {
        if self.column == ColumnType::Citext {
            self.admin_ddl.push_str("CREATE EXTENSION citext;\n");
        }
        self.add(self.column.ddl());
        if self.constraint == TokenConstraint::ForeignKey {
            let column = self.column.sql();
            self.add(&format!("CREATE TABLE allowed (data {column} UNIQUE)"));
            let listed: Vec<String> = tokens
                .iter()
                .filter(|token| token.text.as_bytes()[KEY] != b'f')
                .map(|token| format!("('{}')", token.text))
                .collect();
            let listed = listed.join(", ");
            self.add(&format!(
                "INSERT INTO allowed VALUES {listed} ON CONFLICT DO NOTHING"
            ));
            if self.obstacle == OtherObstacle::SequenceBehind {
                self.add(&format!(
                    "INSERT INTO allowed SELECT 'old' || i FROM generate_series(1, {OLDER_ROWS}) i"
                ));
            }
        }
        match self.kind {
            TableKind::Partitioned(key, method, last, leaf) => {
                self.write_partitioned(key, method, last, leaf);
            }
            TableKind::View(kind) => self.write_view(kind),
            TableKind::Inheritance => self.write_inheritance(),
            kind => {
                let unlogged = if kind == TableKind::Unlogged {
                    "UNLOGGED "
                } else {
                    ""
                };
                let columns = self.columns("PRIMARY KEY");
                self.add(&format!("CREATE {unlogged}TABLE secret_tokens ({columns})"));
            }
        }
        self.write_constraint();
        self.write_obstacle();
        match self.kind {
            TableKind::Rule(kind) => self.write_rule(kind),
            TableKind::Trigger(kind) => self.write_trigger("secret_tokens", kind),
            TableKind::RowSecurity => {
                let class = class_of("data");
                self.add("ALTER TABLE secret_tokens ENABLE ROW LEVEL SECURITY");
                self.add("ALTER TABLE secret_tokens FORCE ROW LEVEL SECURITY");
                self.add(&format!(
                    "CREATE POLICY writing ON secret_tokens FOR INSERT WITH CHECK ({class} <> 'w')"
                ));
                self.add(&format!(
                    "CREATE POLICY reading ON secret_tokens FOR SELECT USING ({class} <> 'b')"
                ));
            }
            _ => {}
        }
    }

    /// The column definitions of the table; `key` is the constraint of its id.
    fn columns(&mut self, key: &str) -> String {
        let (data, obstacle) = (self.column.sql(), self.obstacle);
        let mut columns = format!("\n    id serial {key},\n    data {data} NOT NULL");
        if self.constraint == TokenConstraint::Check {
            columns.push_str(r#" CHECK (data::text COLLATE "C" NOT LIKE '%-%')"#);
        }
        columns.push_str(",\n    created_at timestamptz NOT NULL DEFAULT now()");
        columns.push_str(",\n    day date NOT NULL DEFAULT current_date");
        match obstacle {
            OtherObstacle::Harmless => {
                // A foreign partition does not generate values.
                columns.push_str(",\n    origin text NOT NULL DEFAULT 'token_service'");
            }
            OtherObstacle::UniqueTenant => {
                columns.push_str(",\n    tenant int NOT NULL DEFAULT 1 UNIQUE");
            }
            OtherObstacle::TenantWithoutDefault | OtherObstacle::TenantFilledByTrigger => {
                columns.push_str(",\n    tenant int NOT NULL");
            }
            OtherObstacle::TenantWithoutRow => {
                self.add("CREATE TABLE tenants (id int PRIMARY KEY)");
                columns.push_str(",\n    tenant int DEFAULT 7 REFERENCES tenants");
            }
            OtherObstacle::DefaultRaises => {
                self.add("CREATE SEQUENCE defaults");
                self.add(
                    "CREATE FUNCTION origin() RETURNS text LANGUAGE plpgsql AS $$ BEGIN
                         IF nextval('defaults') % 11 = 0 THEN RAISE EXCEPTION 'no origin'; END IF;
                         RETURN 'known'; END $$",
                );
                columns.push_str(",\n    origin text DEFAULT origin()");
            }
            OtherObstacle::DefaultOverflows => {
                self.add("CREATE SEQUENCE numbers START 32747");
                columns.push_str(",\n    number smallint DEFAULT nextval('numbers')");
            }
            _ => {}
        }
        columns
    }

    fn write_constraint(&mut self) {
        self.add(match self.constraint {
            TokenConstraint::None | TokenConstraint::Check => "",
            TokenConstraint::Unique => "ALTER TABLE secret_tokens ADD UNIQUE (data)",
            TokenConstraint::DeferredUnique => {
                "ALTER TABLE secret_tokens ADD UNIQUE (data) DEFERRABLE INITIALLY DEFERRED"
            }
            TokenConstraint::UniqueLower => {
                "CREATE UNIQUE INDEX ON secret_tokens (lower(data::text))"
            }
            TokenConstraint::Exclude => {
                "ALTER TABLE secret_tokens ADD EXCLUDE USING btree (data WITH =)"
            }
            TokenConstraint::ForeignKey => {
                "ALTER TABLE secret_tokens ADD FOREIGN KEY (data) REFERENCES allowed (data)"
            }
        });
    }

    fn write_obstacle(&mut self) {
        match self.obstacle {
            OtherObstacle::TenantFilledByTrigger => {
                let class = class_of("NEW.data");
                self.function(
                    "fill",
                    &format!("IF {class} <> 'n' THEN NEW.tenant := 1; END IF; RETURN NEW;"),
                );
                self.trigger("fill", "BEFORE INSERT", "secret_tokens");
            }
            OtherObstacle::AuditTable => {
                self.add(
                    "CREATE TABLE audit (number serial CHECK (number % 9 <> 0), token_id int)",
                );
                self.add("GRANT INSERT ON audit TO PUBLIC");
                self.function(
                    "audit",
                    "INSERT INTO audit (token_id) VALUES (NEW.id); RETURN NULL;",
                );
                self.trigger("audit", "AFTER INSERT", "secret_tokens");
            }
            OtherObstacle::SequenceExhausted => {
                self.add("ALTER SEQUENCE secret_tokens_id_seq RESTART 2147483637");
            }
            _ => {}
        }
    }

    pub(super) fn older_rows(&self, tokens: &[DrawnToken], has_equal_rows: bool) -> String {
        if self.obstacle == OtherObstacle::SequenceBehind {
            return format!(
                "INSERT INTO secret_tokens (id, data)
                     SELECT i, 'old' || i FROM generate_series(1, {OLDER_ROWS}) i"
            );
        }
        let fits = matches!(
            self.kind,
            TableKind::Plain
                | TableKind::Partitioned(
                    _,
                    _,
                    LastPartition::Ordinary | LastPartition::Default,
                    Leaf::Ordinary | Leaf::Foreign
                )
        );
        if !has_equal_rows || !fits || self.obstacle != OtherObstacle::None {
            return String::new();
        }
        let ordinary = tokens.iter().filter(|it| it.text.as_bytes()[KEY] == b'a');
        let values: Vec<String> = ordinary
            .take(3)
            .map(|token| format!("('{}')", token.text))
            .collect();
        let values = values.join(", ");
        format!("INSERT INTO secret_tokens (data) VALUES {values}")
    }

    fn function(&mut self, name: &str, body: &str) {
        self.add(&format!(
            "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 {body} END $$"
        ));
    }

    fn trigger(&mut self, name: &str, event: &str, table: &str) {
        self.add(&format!(
            "CREATE TRIGGER {name} {event} ON {table} FOR EACH ROW EXECUTE FUNCTION {name}()"
        ));
    }

    fn write_trigger(&mut self, table: &str, kind: TriggerKind) {
        let class = class_of("NEW.data");
        match kind {
            TriggerKind::ChangesAll => {
                self.function("change", "NEW.data := NEW.data || '!'; RETURN NEW;");
                self.trigger("change", "BEFORE INSERT", table);
            }
            TriggerKind::ChangesSome => {
                self.function(
                    "change",
                    &format!(
                        "IF {class} = 'c' THEN NEW.data := NEW.data || '!'; END IF; RETURN NEW;"
                    ),
                );
                self.trigger("change", "BEFORE INSERT", table);
            }
            TriggerKind::Skips => {
                self.function(
                    "skip",
                    &format!("IF {class} = 's' THEN RETURN NULL; END IF; RETURN NEW;"),
                );
                self.trigger("skip", "BEFORE INSERT", table);
            }
            TriggerKind::Raises(code) => {
                self.raising(code);
                self.trigger("refuse", "BEFORE INSERT", table);
            }
            TriggerKind::RaisesAtCommit(code) => {
                self.raising(code);
                self.add(&format!(
                    "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON {table}
                         DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()"
                ));
            }
            TriggerKind::Doubles => {
                self.function(
                    "double",
                    &format!(
                        "IF pg_trigger_depth() = 1 THEN
                             INSERT INTO {table} (data) VALUES (NEW.data); END IF; RETURN NULL;"
                    ),
                );
                self.trigger("double", "AFTER INSERT", table);
            }
            TriggerKind::EndsItsBackend => {
                self.function(
                    "die",
                    &format!(
                        "IF {class} = 'x' THEN PERFORM pg_terminate_backend(pg_backend_pid());
                             PERFORM pg_sleep(1); END IF; RETURN NEW;"
                    ),
                );
                self.trigger("die", "BEFORE INSERT", table);
            }
        }
    }

    fn raising(&mut self, code: &str) {
        let class = class_of("NEW.data");
        self.function(
            "refuse",
            &format!(
                "IF {class} = 'x' THEN
                     RAISE EXCEPTION 'refused' USING ERRCODE = '{code}'; END IF; RETURN NEW;"
            ),
        );
    }

    fn write_rule(&mut self, kind: RuleKind) {
        let class = class_of("NEW.data");
        let column = self.column.sql();
        self.add(&format!("CREATE TABLE elsewhere (data {column})"));
        self.add("GRANT SELECT, INSERT ON elsewhere TO PUBLIC");
        let into = "INSERT INTO elsewhere (data) VALUES (NEW.data)";
        let action = match kind {
            RuleKind::AlsoLogs => format!("DO ALSO {into}"),
            RuleKind::RedirectsAll => format!("DO INSTEAD {into}"),
            RuleKind::RedirectsSome => format!("WHERE {class} = 'o' DO INSTEAD {into}"),
            RuleKind::NothingForSome => format!("WHERE {class} = 's' DO INSTEAD NOTHING"),
        };
        self.add(&format!(
            "CREATE RULE routing AS ON INSERT TO secret_tokens {action}"
        ));
    }

    fn write_inheritance(&mut self) {
        let columns = self.columns("");
        self.add(&format!("CREATE TABLE secret_tokens ({columns})"));
        for child in ["even", "odd"] {
            self.add(&format!("CREATE TABLE {child} () INHERITS (secret_tokens)"));
            self.add(&format!("GRANT SELECT, INSERT ON {child} TO PUBLIC"));
        }
        self.function(
            "route",
            "IF NEW.id % 2 = 0 THEN INSERT INTO even VALUES (NEW.*);
                 ELSE INSERT INTO odd VALUES (NEW.*); END IF; RETURN NULL;",
        );
        self.trigger("route", "BEFORE INSERT", "secret_tokens");
    }

    fn write_view(&mut self, kind: ViewKind) {
        let column = self.column.sql();
        let unlogged = if kind == ViewKind::OverUnlogged {
            "UNLOGGED "
        } else {
            ""
        };
        let check = if self.constraint == TokenConstraint::Check {
            r#" CHECK (secret::text COLLATE "C" NOT LIKE '%-%')"#
        } else {
            ""
        };
        self.add(&format!(
            "CREATE {unlogged}TABLE base (id serial PRIMARY KEY, secret {column} NOT NULL{check})"
        ));
        self.add("GRANT SELECT, INSERT ON base TO PUBLIC");
        let class = class_of("secret");
        let rest = match kind {
            ViewKind::CheckOption => format!(" WHERE {class} <> 'w' WITH CHECK OPTION"),
            ViewKind::HidesSome => format!(" WHERE {class} <> 'b'"),
            _ => String::new(),
        };
        self.add(&format!(
            "CREATE VIEW secret_tokens AS SELECT id, secret AS data FROM base{rest}"
        ));
        let result = match kind {
            ViewKind::InsteadOf => "NEW",
            ViewKind::InsteadOfReturnsNull => "NULL",
            _ => return,
        };
        self.function(
            "store",
            &format!("INSERT INTO base (secret) VALUES (NEW.data); RETURN {result};"),
        );
        self.trigger("store", "INSTEAD OF INSERT", "secret_tokens");
    }

    fn write_partitioned(
        &mut self,
        key: PartitionKey,
        method: Method,
        last: LastPartition,
        leaf: Leaf,
    ) {
        let columns = self.columns("");
        let digit = digit_of("data");
        let (by, bounds) = match (method, key) {
            (Method::List, PartitionKey::Id) => (
                "LIST ((id % 3))".to_owned(),
                ["IN (0)", "IN (1)", "IN (2)"].map(String::from),
            ),
            (Method::List, PartitionKey::Token) => (
                format!("LIST (({digit}))"),
                ["01234567", "89abAB", "cdefCDEF"].map(|digits| {
                    let digits: Vec<String> = digits.chars().map(|d| format!("'{d}'")).collect();
                    format!("IN ({})", digits.join(", "))
                }),
            ),
            (Method::List, PartitionKey::CreatedAt) => (
                "LIST (day)".to_owned(),
                [
                    "IN ('2001-01-01')".to_owned(),
                    "IN ('2001-01-02')".to_owned(),
                    // The current date is not known when the schema is drawn.
                    "IN (TODAY)".to_owned(),
                ],
            ),
            (Method::Range, PartitionKey::Id) => (
                "RANGE (id)".to_owned(),
                [
                    "FROM (MINVALUE) TO (40)",
                    "FROM (40) TO (80)",
                    "FROM (80) TO (MAXVALUE)",
                ]
                .map(String::from),
            ),
            (Method::Range, PartitionKey::Token) => (
                "RANGE (data)".to_owned(),
                [
                    "FROM (MINVALUE) TO ('0040')",
                    "FROM ('0040') TO ('0080')",
                    "FROM ('0080') TO (MAXVALUE)",
                ]
                .map(String::from),
            ),
            (Method::Range, PartitionKey::CreatedAt) => (
                "RANGE (created_at)".to_owned(),
                [
                    "FROM ('2000-01-01') TO ('2001-01-01')",
                    "FROM ('2001-01-01') TO ('2002-01-01')",
                    "FROM ('2002-01-01') TO (MAXVALUE)",
                ]
                .map(String::from),
            ),
            (Method::Hash, key) => {
                let column = match key {
                    PartitionKey::Id => "id",
                    PartitionKey::Token => "data",
                    PartitionKey::CreatedAt => "created_at",
                };
                (
                    format!("HASH ({column})"),
                    [0, 1, 2].map(|rest| format!("WITH (MODULUS 3, REMAINDER {rest})")),
                )
            }
        };
        self.add(&format!(
            "CREATE TABLE secret_tokens ({columns}) PARTITION BY {by}"
        ));
        let [first, second, third] = bounds;
        self.partition(
            "first",
            &first,
            leaf == Leaf::Foreign && method != Method::Hash,
        );
        // With a date as its key, every row belongs to the last partition, if it exists.
        let all_in_last = key == PartitionKey::CreatedAt && method != Method::Hash;
        self.partition("second", &second, leaf == Leaf::Foreign && !all_in_last);
        match last {
            LastPartition::Missing => {}
            LastPartition::Default => {
                self.add("CREATE TABLE last PARTITION OF secret_tokens DEFAULT");
            }
            LastPartition::Ordinary => {
                self.partition("last", &third, leaf == Leaf::Foreign && all_in_last);
            }
        }
        let special = if all_in_last && last != LastPartition::Missing {
            "last"
        } else {
            "second"
        };
        match leaf {
            Leaf::Ordinary | Leaf::Foreign => {}
            Leaf::Changes => self.write_trigger(special, TriggerKind::ChangesAll),
            Leaf::Skips => self.write_trigger(special, TriggerKind::Skips),
            Leaf::Raises => self.write_trigger(special, TriggerKind::Raises("P0001")),
        }
    }

    fn partition(&mut self, name: &str, bound: &str, is_foreign: bool) {
        if is_foreign {
            if !self.admin_ddl.contains("postgres_fdw") {
                self.admin_ddl.push_str(
                    "CREATE EXTENSION postgres_fdw;
CREATE SERVER loopback FOREIGN DATA WRAPPER postgres_fdw
    OPTIONS (host '127.0.0.1', port '{port}', dbname '{name}');
GRANT USAGE ON FOREIGN SERVER loopback TO PUBLIC;
CREATE USER MAPPING FOR PUBLIC SERVER loopback OPTIONS (user '{user}', password '{password}');\n",
                );
            }
            self.add(&format!("CREATE TABLE {name}_remote (LIKE secret_tokens)"));
        }
        let (kind, server) = if is_foreign {
            let options = format!(" SERVER loopback OPTIONS (table_name '{name}_remote')");
            ("FOREIGN TABLE", options)
        } else {
            ("TABLE", String::new())
        };
        let partition =
            format!("CREATE {kind} {name} PARTITION OF secret_tokens FOR VALUES {bound}{server}");
        if bound.contains("TODAY") {
            // Includes tomorrow, for a test that runs at midnight.
            let days = "quote_literal(current_date) || ', ' || quote_literal(current_date + 1)";
            let partition = partition
                .replace('\'', "''")
                .replace("TODAY", &format!("' || {days} || '"));
            let mut block = String::new();
            let _ = write!(block, "DO $do$ BEGIN EXECUTE '{partition}'; END $do$");
            self.add(&block);
        } else {
            self.add(&partition);
        }
    }
}
