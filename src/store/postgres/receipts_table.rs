//! Facts about the receipts table, read once per run, and whether receipts can be trusted in it.

use serde::Deserialize;

use crate::error::Error;
use crate::store::connection::denied;
use crate::store::receipts::Receipts;

/// The query; `$1` is the table as SQL. Its reply has no row if there is no such table.
pub(super) const TABLE_SQL: &str = include_str!("receipts_table.sql");

/// The columns and their types.
const COLUMNS: [(&str, &str); 7] = [
    ("run_id", "uuid"),
    ("shard", "integer"),
    ("position", "bigint"),
    ("attempt", "integer"),
    ("rows", "integer"),
    ("kind", "\"char\""),
    ("at", "timestamp with time zone"),
];
/// The columns of the key, in alphabetical order.
const KEY: [&str; 4] = ["attempt", "position", "run_id", "shard"];

/// The receipts table as the server describes it.
#[derive(Clone, Debug, Deserialize)]
pub(in crate::store) struct ReceiptsTable {
    may_insert: bool,
    may_select: bool,
    /// The table and its partitions.
    relations: Vec<Relation>,
    columns: Vec<Column>,
    /// The columns of each unique index of four columns, in alphabetical order.
    keys: Vec<Option<Vec<String>>>,
}

#[derive(Clone, Debug, Deserialize)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent facts, as the catalog has them"
)]
struct Relation {
    schema: String,
    name: String,
    is_ordinary: bool,
    is_logged: bool,
    has_triggers: bool,
    has_rules: bool,
    has_row_security: bool,
}

#[derive(Clone, Debug, Deserialize)]
struct Column {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    is_required: bool,
}

impl ReceiptsTable {
    /// Parses the reply to [`TABLE_SQL`] and checks the table.
    ///
    /// # Errors
    /// If receipts in the table would prove nothing, or cannot be written.
    pub(super) fn parse(json: Option<&str>, receipts: &Receipts) -> Result<Self, Error> {
        let name = &receipts.table;
        let unusable =
            |why: String| denied("42P01", "the receipts table cannot be used").cause(why);
        let print = format!("`token_service schema --receipts {name}` prints its definition");
        let Some(json) = json else {
            let why = format!("no table {} in the database", name.to_sql());
            return Err(unusable(why).hint(format!("{print}, for psql; a run creates nothing")));
        };
        let table: Self = serde_json::from_str(json)
            .map_err(|error| unusable(format!("its description cannot be read: {error}")))?;
        if let Some(why) = table.obstacle() {
            return Err(unusable(format!("{name}: {why}")).hint(print));
        }
        if !(table.may_insert && table.may_select) {
            let why = format!("{name}: the role may not insert and read receipts");
            return Err(denied("42501", "the receipts table cannot be used")
                .cause(why)
                .hint(format!(
                    "GRANT INSERT, SELECT ON {} TO the role",
                    name.to_sql()
                )));
        }
        Ok(table)
    }

    /// Returns why receipts cannot be written to the table.
    fn obstacle(&self) -> Option<String> {
        for relation in &self.relations {
            let why = if !relation.is_ordinary {
                "not an ordinary table"
            } else if !relation.is_logged {
                "unlogged, so a crash of the server empties it"
            } else if relation.has_triggers {
                "a table with triggers"
            } else if relation.has_rules {
                "a table with rules"
            } else if relation.has_row_security {
                "a table with row security"
            } else {
                continue;
            };
            return Some(format!("{} is {why}", relation.name));
        }
        for (name, kind) in COLUMNS {
            match self.columns.iter().find(|column| column.name == name) {
                None => return Some(format!("the column {name} is missing")),
                Some(column) if column.kind != kind => {
                    let found = &column.kind;
                    return Some(format!("the column {name} is {found} instead of {kind}"));
                }
                Some(_) => {}
            }
        }
        let is_other = |column: &&Column| !COLUMNS.iter().any(|(name, _)| *name == column.name);
        let mut others = self.columns.iter().filter(is_other);
        if let Some(column) = others.find(|column| column.is_required) {
            return Some(format!("the column {} needs a value", column.name));
        }
        let is_key = |key: &Vec<String>| key.iter().eq(KEY);
        let has_key = self.keys.iter().flatten().any(is_key);
        (!has_key)
            .then(|| "the primary key (run_id, shard, position, attempt) is missing".to_owned())
    }

    /// Returns true if an error names this table or a partition of it.
    pub(super) fn is_named(&self, schema: Option<&str>, table: Option<&str>) -> bool {
        self.relations.iter().any(|known| {
            table == Some(known.name.as_str()) && schema.is_none_or(|name| name == known.schema)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::identifier::TableName;

    const TABLE: &str = r#"{"may_insert": true, "may_select": true, "relations": [
        {"schema": "app", "name": "token_receipts", "is_ordinary": true, "is_logged": true,
         "has_triggers": false, "has_rules": false, "has_row_security": false}],
        "columns": [{"name": "run_id", "type": "uuid", "is_required": true},
        {"name": "shard", "type": "integer", "is_required": true},
        {"name": "position", "type": "bigint", "is_required": true},
        {"name": "attempt", "type": "integer", "is_required": true},
        {"name": "rows", "type": "integer", "is_required": false},
        {"name": "kind", "type": "\"char\"", "is_required": true},
        {"name": "at", "type": "timestamp with time zone", "is_required": false}],
        "keys": [null, ["attempt", "position", "run_id", "shard"]]}"#;

    fn parse(json: &str) -> Result<ReceiptsTable, Error> {
        let receipts = Receipts::in_table(TableName::plain("token_receipts"));
        ReceiptsTable::parse(Some(json), &receipts)
    }

    #[test]
    fn table_that_proves_nothing_is_refused() {
        let table = parse(TABLE).unwrap();
        assert!(table.is_named(Some("app"), Some("token_receipts")));
        assert!(!table.is_named(Some("public"), Some("token_receipts")));
        assert!(!table.is_named(None, None));
        for (from, to, why) in [
            (r#""is_logged": true"#, r#""is_logged": false"#, "unlogged"),
            (
                r#""has_triggers": false"#,
                r#""has_triggers": true"#,
                "triggers",
            ),
            (
                r#""has_row_security": false"#,
                r#""has_row_security": true"#,
                "row security",
            ),
            (r#""has_rules": false"#, r#""has_rules": true"#, "rules"),
            (
                r#""is_ordinary": true"#,
                r#""is_ordinary": false"#,
                "not an ordinary",
            ),
            (
                r#""bigint""#,
                r#""integer""#,
                "position is integer instead of bigint",
            ),
            (
                r#""name": "rows""#,
                r#""name": "lines""#,
                "column rows is missing",
            ),
            (
                r#"["attempt", "position", "#,
                r#"["attempt", "at", "#,
                "primary key",
            ),
            (
                r#""may_select": true"#,
                r#""may_select": false"#,
                "may not insert and read",
            ),
            (
                r#""name": "at""#,
                r#""name": "more", "type": "text", "is_required": true}, {"name": "at""#,
                "more needs a value",
            ),
        ] {
            let error = parse(&TABLE.replace(from, to)).unwrap_err();
            assert!(error.causes[0].contains(why), "{:?}", error.causes);
        }
    }
}
