//! The SQL that creates the table of receipts, for psql or sqlite3. The program prints it and never runs it.

use std::fmt::Write as _;

use crate::error::escape::escape;
use crate::pipeline::identifier::{TableName, quote_identifier};

/// The longest name of a partitioned table in bytes: PostgreSQL cuts names at 63, and a partition adds 4.
pub const MAX_PARTITIONED_NAME: usize = 59;

/// The number of partitions, by the hash of the run.
const PARTITIONS: u32 = 16;

/// The first line, which says what the table is.
const PURPOSE: &str = "-- Receipts of token_service: a row for each attempt to store a token, in the token's own transaction.";

/// A table of receipts that is to be created.
#[derive(Clone, Debug)]
pub enum ReceiptsDdl {
    /// In PostgreSQL.
    Postgres {
        /// The table.
        receipts: TableName,
        /// True to partition it by the hash of the run.
        is_partitioned: bool,
        /// The rights to grant, if any.
        grants: Option<Grants>,
    },
    /// In an SQLite file.
    Sqlite {
        /// The table.
        receipts: TableName,
    },
}

/// The rights that a role needs for a run.
#[derive(Clone, Debug)]
pub struct Grants {
    /// The role.
    pub role: String,
    /// The table of the tokens.
    pub tokens: TableName,
    /// The column of the tokens.
    pub column: String,
}

impl ReceiptsDdl {
    /// Returns the statements, each with a semicolon.
    pub fn to_sql(&self) -> String {
        match self {
            Self::Sqlite { receipts } => sqlite(receipts),
            Self::Postgres {
                receipts,
                is_partitioned,
                grants,
            } => {
                let mut sql = postgres(receipts, *is_partitioned);
                if let Some(grants) = grants {
                    sql.push_str(&grants.to_sql(receipts));
                }
                sql
            }
        }
    }
}

fn sqlite(receipts: &TableName) -> String {
    format!(
        "{PURPOSE}
CREATE TABLE {} (
    run_id TEXT,
    shard INTEGER,
    position INTEGER,
    attempt INTEGER,
    -- The rows that the insert stored; NULL for a tombstone or a rejection.
    rows INTEGER,
    -- t: token, r: rejection, x: tombstone.
    kind TEXT NOT NULL,
    at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    PRIMARY KEY (run_id, shard, position, attempt)
) WITHOUT ROWID;
",
        receipts.to_sql()
    )
}

fn postgres(receipts: &TableName, is_partitioned: bool) -> String {
    let table = receipts.to_sql();
    let by = if is_partitioned {
        " PARTITION BY HASH (run_id)"
    } else {
        ""
    };
    let mut sql = format!(
        "{PURPOSE}
CREATE TABLE {table} (
    run_id uuid,
    shard int,
    position bigint,
    attempt int,
    -- The rows that the insert returned; NULL for a tombstone or a rejection.
    rows int,
    -- t: token, r: rejection, x: tombstone.
    kind \"char\" NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (run_id, shard, position, attempt)
){by};
"
    );
    let partitions = if is_partitioned { PARTITIONS } else { 0 };
    for number in 0..partitions {
        let partition = TableName {
            schema: receipts.schema.clone(),
            table: format!("{}_p{number:02}", receipts.table),
        };
        // Writing into a string cannot fail.
        let _ = writeln!(
            sql,
            "CREATE TABLE {} PARTITION OF {table} FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {number});",
            partition.to_sql()
        );
    }
    sql
}

impl Grants {
    fn to_sql(&self, receipts: &TableName) -> String {
        let (receipts, tokens) = (receipts.to_sql(), self.tokens.to_sql());
        let (role, column) = (quote_identifier(&self.role), quote_identifier(&self.column));
        // A name may contain a line break, which would end the comment.
        let in_comment = escape(&receipts);
        format!(
            "-- The rights of a run. A serial key also needs USAGE on its sequence.
GRANT INSERT ({column}) ON {tokens} TO {role};
GRANT INSERT, SELECT ON {receipts} TO {role};
-- Pruning needs DELETE. Grant it to another role, so that a run cannot delete its own receipts:
-- GRANT SELECT, DELETE ON {in_comment} TO another_role;
"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str) -> TableName {
        TableName::parse(name).unwrap()
    }

    #[test]
    fn postgres_table_has_the_columns_of_receipts() {
        let ddl = ReceiptsDdl::Postgres {
            receipts: table("token_receipts"),
            is_partitioned: false,
            grants: None,
        };
        insta::assert_snapshot!(ddl.to_sql(), @r#"
        -- Receipts of token_service: a row for each attempt to store a token, in the token's own transaction.
        CREATE TABLE "token_receipts" (
            run_id uuid,
            shard int,
            position bigint,
            attempt int,
            -- The rows that the insert returned; NULL for a tombstone or a rejection.
            rows int,
            -- t: token, r: rejection, x: tombstone.
            kind "char" NOT NULL,
            at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (run_id, shard, position, attempt)
        );
        "#);
    }

    #[test]
    fn partitioned_table_has_16_partitions_by_hash() {
        let ddl = ReceiptsDdl::Postgres {
            receipts: table("audit.Receipts"),
            is_partitioned: true,
            grants: None,
        };
        let sql = ddl.to_sql();
        let (_, partitions) = sql.split_once("\n)").unwrap();
        assert_eq!(partitions.lines().count(), 17);
        let shown: Vec<&str> = partitions
            .lines()
            .take(2)
            .chain(sql.lines().last())
            .collect();
        insta::assert_snapshot!(shown.join("\n"), @r#"
         PARTITION BY HASH (run_id);
        CREATE TABLE "audit"."Receipts_p00" PARTITION OF "audit"."Receipts" FOR VALUES WITH (MODULUS 16, REMAINDER 0);
        CREATE TABLE "audit"."Receipts_p15" PARTITION OF "audit"."Receipts" FOR VALUES WITH (MODULUS 16, REMAINDER 15);
        "#);
    }

    #[test]
    fn grants_quote_every_name() {
        let ddl = ReceiptsDdl::Postgres {
            receipts: table("\"r\n; DROP TABLE x; --\""),
            is_partitioned: false,
            grants: Some(Grants {
                role: r#"a "role""#.to_owned(),
                tokens: table("Vault.secret_tokens"),
                column: "the data".to_owned(),
            }),
        };
        let sql = ddl.to_sql();
        let (_, grants) = sql.split_once(");\n").unwrap();
        insta::assert_snapshot!(grants, @r#"
        -- The rights of a run. A serial key also needs USAGE on its sequence.
        GRANT INSERT ("the data") ON "Vault"."secret_tokens" TO "a ""role""";
        GRANT INSERT, SELECT ON "r
        ; DROP TABLE x; --" TO "a ""role""";
        -- Pruning needs DELETE. Grant it to another role, so that a run cannot delete its own receipts:
        -- GRANT SELECT, DELETE ON "r\n; DROP TABLE x; --" TO another_role;
        "#);
    }

    #[test]
    fn sqlite_accepts_its_table_and_sets_the_time() {
        let receipts = table("token_receipts");
        let sql = ReceiptsDdl::Sqlite { receipts }.to_sql();
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        connection.execute_batch(&sql).unwrap();
        let at: String = connection
            .query_row(
                "INSERT INTO token_receipts (run_id, shard, position, attempt, kind) \
                 VALUES ('r', 0, 1, 1, 'x') RETURNING at",
                [],
                |row| row.get(0),
            )
            .unwrap();
        assert!(at.parse::<jiff::Timestamp>().is_ok(), "{at}");
        let again = connection.execute(
            "INSERT INTO token_receipts (run_id, shard, position, attempt, kind) \
             VALUES ('r', 0, 1, 1, 't')",
            [],
        );
        assert!(again.is_err(), "the key is unique");
    }
}
