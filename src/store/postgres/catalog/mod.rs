//! Facts from PostgreSQL's catalogs about the table, read once per run.
//!
//! They decide whose fault a failed INSERT is, whether one can succeed, and what a look-up proves.

mod expression;
mod length_limit;
mod obstacle;
mod scope;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde::Deserialize;

use crate::pipeline::identifier::TableName;
pub(super) use crate::store::postgres::catalog::expression::is_frame;
use crate::store::postgres::catalog::expression::{mentions, view_column};
pub(in crate::store) use crate::store::postgres::catalog::length_limit::LengthLimit;
pub(super) use crate::store::postgres::catalog::obstacle::Obstacle;
pub(super) use crate::store::postgres::catalog::scope::{Owner, Scope};

/// Returns the query for a plain table; `$1` is the relation as SQL, `$2` the column's name. For any other
/// relation its reply has no row.
pub(super) fn plain_table_sql() -> String {
    with_shared_parts(include_str!("plain_table.sql"))
}

/// Returns the query for any relation, which takes a new backend twice the time.
pub(super) fn any_relation_sql() -> String {
    with_shared_parts(include_str!("any_relation.sql"))
}

fn with_shared_parts(sql: &str) -> String {
    sql.replace("{server}", include_str!("server.sql").trim_end())
        .replace("{relation}", include_str!("relation.sql").trim_end())
}

/// The target table, and every relation that an INSERT into it can write to.
#[derive(Clone, Debug, Default, Deserialize)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent facts, as the server has them"
)]
pub(in crate::store) struct Catalog {
    /// Whether the role may INSERT into the column; `None` if there is no such column.
    pub(super) may_insert: Option<bool>,
    may_select: Option<bool>,
    may_select_xmin: Option<bool>,
    /// True if the cluster assigns no more transaction numbers.
    is_stopped: bool,
    /// True if `synchronous_standby_names` is set.
    pub(super) has_standbys: bool,
    /// The relation's object identifier.
    target: i64,
    /// The column's type, below any domains.
    kind: Option<BaseType>,
    /// True if the column's collation treats only identical bytes as equal.
    is_exact: bool,
    domains: Vec<Domain>,
    /// The partition keys of the target's ancestors.
    ancestors: Vec<PartitionKey>,
    relations: Vec<Relation>,
    #[serde(skip)]
    is_assumed: bool,
    /// The hash of the server's text.
    #[serde(skip)]
    fingerprint: u64,
    /// The column that receives the token, by relation.
    #[serde(skip)]
    token_columns: HashMap<i64, String>,
}

/// A type below any domains.
#[derive(Clone, Debug, Deserialize)]
struct BaseType {
    name: String,
    /// The name as SQL.
    title: String,
    is_builtin: bool,
    typmod: i32,
}

/// A domain of the token's column.
#[derive(Clone, Debug, Deserialize)]
struct Domain {
    name: String,
    functions: Vec<String>,
}

/// A relation that an INSERT can write to.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent facts, as the catalog has them"
)]
pub(super) struct Relation {
    oid: i64,
    schema: String,
    pub(super) name: String,
    /// `pg_class.relkind`.
    kind: String,
    is_logged: bool,
    is_partition: bool,
    parent: Option<i64>,
    takes_inserts: bool,
    may_select: bool,
    has_row_security: bool,
    /// The events of its rules, except SELECT.
    rules: Vec<String>,
    view: Option<View>,
    key: Option<PartitionKey>,
    /// Empty for partitions other than the target: an INSERT uses their root's defaults.
    columns: Vec<Column>,
    constraints: Vec<Constraint>,
    indexes: Vec<Index>,
    triggers: Vec<Trigger>,
    policies: Vec<Option<String>>,
}

#[derive(Clone, Debug, Deserialize)]
struct View {
    definition: String,
    reads: Vec<i64>,
}

#[derive(Clone, Debug, Deserialize)]
struct PartitionKey {
    columns: Vec<String>,
    expression: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Column {
    name: String,
    is_required: bool,
    identity: Option<String>,
    is_generated: bool,
    /// The default, or the expression of a generated column.
    value: Option<String>,
    #[serde(rename = "type")]
    kind: String,
    is_domain: bool,
    functions: Vec<String>,
    sequence: Option<Sequence>,
}

#[derive(Clone, Debug, Deserialize)]
struct Sequence {
    name: String,
    may_use: bool,
    is_exhausted: Option<bool>,
}

/// A CHECK or foreign key constraint.
#[derive(Clone, Debug, Deserialize)]
struct Constraint {
    name: String,
    columns: Vec<String>,
    functions: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Index {
    name: String,
    /// The key columns.
    keys: Vec<String>,
    /// The key columns and the included ones.
    columns: Vec<String>,
    expression: Option<String>,
    predicate: Option<String>,
    functions: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent facts, as the catalog has them"
)]
struct Trigger {
    name: String,
    is_before: bool,
    is_instead: bool,
    is_row: bool,
    /// The function with its argument types, as a CONTEXT shows it.
    function: String,
    /// The C symbol, for a trigger in C.
    symbol: Option<String>,
    sets_durability: bool,
}

impl Catalog {
    /// Parses the reply to one of the queries about `column`.
    ///
    /// # Errors
    /// If the reply is not what PostgreSQL gives.
    pub(super) fn parse(json: &str, column: &str) -> Result<Self, serde_json::Error> {
        let mut catalog: Self = serde_json::from_str(json)?;
        catalog.find_token_columns(column);
        let mut hasher = DefaultHasher::new();
        json.hash(&mut hasher);
        catalog.fingerprint = hasher.finish();
        Ok(catalog)
    }

    /// Returns true if the server said the same of the table at another time.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }

    /// Creates the catalog of a pipeline test.
    ///
    /// Only the names are known, so an error of class 22 or 23 without further fields is the
    /// token's error.
    pub(in crate::store) fn assumed(table: &TableName, column: &str) -> Self {
        let mut catalog = Self {
            is_assumed: true,
            relations: vec![Relation {
                schema: table.schema.clone().unwrap_or_default(),
                name: table.table.clone(),
                kind: "r".to_owned(),
                ..Relation::default()
            }],
            ..Self::default()
        };
        catalog.find_token_columns(column);
        catalog
    }

    /// Returns true for the catalog of a pipeline test.
    pub(super) fn is_assumed(&self) -> bool {
        self.is_assumed
    }

    /// Follows the column through views to their tables and partitions.
    fn find_token_columns(&mut self, column: &str) {
        let mut columns = HashMap::from([(self.target, column.to_owned())]);
        let mut pending = vec![self.target];
        while let Some(oid) = pending.pop() {
            let Some(name) = columns.get(&oid).cloned() else {
                continue;
            };
            let mut found = Vec::new();
            if let Some(view) = self.relation(oid).and_then(|known| known.view.as_ref())
                && let Some(base) = view_column(&view.definition, &name)
            {
                found.extend(view.reads.iter().map(|read| (*read, base.clone())));
            }
            let partitions = self.relations.iter().filter(|it| it.parent == Some(oid));
            found.extend(partitions.map(|it| (it.oid, name.clone())));
            for (oid, name) in found {
                columns.entry(oid).or_insert_with(|| {
                    pending.push(oid);
                    name
                });
            }
        }
        self.token_columns = columns;
    }

    fn relation(&self, oid: i64) -> Option<&Relation> {
        self.relations.iter().find(|known| known.oid == oid)
    }

    pub(super) fn target(&self) -> Option<&Relation> {
        self.relation(self.target)
    }

    /// Returns the relation that an error names.
    pub(super) fn named(&self, schema: Option<&str>, table: &str) -> Option<&Relation> {
        self.relations
            .iter()
            .find(|known| known.name == table && schema.is_none_or(|schema| known.schema == schema))
    }

    fn token_column(&self, relation: &Relation) -> Option<&str> {
        self.token_columns.get(&relation.oid).map(String::as_str)
    }

    fn is_token(&self, relation: &Relation, column: &str) -> bool {
        self.token_column(relation) == Some(column)
    }

    /// Returns true if the expression mentions the token's column, or the whole row.
    fn mentions_token(&self, relation: &Relation, expression: &str) -> bool {
        let column = self.token_column(relation);
        mentions(expression, |name| {
            Some(name) == column || name == relation.name
        })
    }

    /// Returns true if the column holds the token or is generated from it.
    pub(super) fn depends_on_token(&self, relation: &Relation, column: &str) -> bool {
        let generated = || {
            // Partitions list no columns; their generated columns are those of their root.
            let columns = self.relations.iter().flat_map(|known| &known.columns);
            let mut columns = columns.filter(|known| known.name == column && known.is_generated);
            columns.any(|known| {
                let value = known.value.as_deref().unwrap_or_default();
                self.mentions_token(relation, value)
            })
        };
        self.is_token(relation, column) || generated()
    }

    fn has_token(&self, relation: &Relation, columns: &[String]) -> bool {
        columns
            .iter()
            .any(|column| self.depends_on_token(relation, column))
    }

    /// Returns the columns that do not receive the token.
    fn other_columns(&self) -> impl Iterator<Item = (&Relation, &Column)> {
        self.relations.iter().flat_map(move |relation| {
            let columns = relation.columns.iter();
            let others = columns.filter(move |column| !self.is_token(relation, &column.name));
            others.map(move |column| (relation, column))
        })
    }

    /// Returns true if a row can go to a foreign server.
    pub(super) fn has_foreign(&self) -> bool {
        self.relations.iter().any(|relation| relation.kind == "f")
    }

    /// Returns the column's length limit.
    pub(in crate::store) fn length_limit(&self) -> LengthLimit {
        const HEADER: i32 = 4;
        let Some(kind) = &self.kind else {
            return LengthLimit::Any;
        };
        let most = usize::try_from(kind.typmod - HEADER).ok();
        match (kind.name.as_str(), most) {
            ("varchar", Some(most)) => LengthLimit::Varchar(most),
            ("bpchar", most) => LengthLimit::Char(most),
            _ => LengthLimit::Any,
        }
    }

    /// Returns true if the role may read the column and `xmin`.
    pub(in crate::store) fn may_look_up(&self) -> bool {
        match self.base_column() {
            Some((base, _)) => base.may_select,
            None => self.may_select == Some(true) && self.may_select_xmin == Some(true),
        }
    }

    /// Returns the table as SQL, and the column's name, in which a view's rows can be looked up.
    ///
    /// A view does not show which transaction wrote a row.
    pub(super) fn base_sql(&self) -> Option<(String, String)> {
        let (base, column) = self.base_column()?;
        let table = TableName {
            schema: Some(base.schema.clone()),
            table: base.name.clone(),
        };
        Some((table.to_sql(), column.to_owned()))
    }

    fn base_column(&self) -> Option<(&Relation, &str)> {
        if self.target()?.kind != "v" {
            return None;
        }
        let is_table = |it: &&Relation| matches!(it.kind.as_str(), "r" | "p") && !it.is_partition;
        let mut tables = self.relations.iter().filter(is_table);
        let table = tables.next()?;
        // With several tables it is unknown which one holds the token.
        match tables.next() {
            None => Some((table, self.token_column(table)?)),
            Some(_) => None,
        }
    }

    /// Returns true if a missing value proves that no row was stored.
    ///
    /// Nothing may change, hide, move or remove a row, and equality must be exact.
    pub(in crate::store) fn proves_absence(&self) -> bool {
        let is_plain = |relation: &Relation| {
            matches!(relation.kind.as_str(), "r" | "p")
                && relation.is_logged
                && relation.rules.is_empty()
                && !relation.has_row_security
                && !relation.triggers.iter().any(|trigger| trigger.is_row)
        };
        let kind = self.kind.as_ref();
        self.is_exact
            && kind.is_some_and(|kind| {
                kind.is_builtin && ["text", "varchar", "bpchar"].contains(&kind.name.as_str())
            })
            && !self.relations.is_empty()
            && self.relations.iter().all(is_plain)
    }

    /// Returns why a look-up by value proves nothing, as a clause; `None` if it is reliable.
    pub(in crate::store) fn lookup_obstacle(&self) -> Option<&'static str> {
        let any = |is: &dyn Fn(&Relation) -> bool| self.relations.iter().any(is);
        if any(&|it| it.kind == "f") {
            Some("rows of a foreign table do not show who wrote them")
        } else if any(&|it| it.kind == "v") {
            Some("a view may hide or change rows")
        } else if any(&|it| it.has_row_security) {
            Some("row security may hide rows")
        } else if any(&|it| !it.rules.is_empty()) {
            Some("rules may change or redirect rows")
        } else if any(&|it| it.triggers.iter().any(|trigger| trigger.is_row)) {
            Some("row triggers may change or remove rows")
        } else if !self.is_exact {
            Some("the column's collation makes different values equal")
        } else if !self.proves_absence() {
            Some("the column's type makes different values equal")
        } else {
            None
        }
    }

    /// Returns warnings about the table for the operator of a run with or without receipts.
    pub(super) fn warnings(&self, has_receipts: bool) -> Vec<String> {
        let changes = |it: &Relation| {
            !it.rules.is_empty() || it.triggers.iter().any(|trigger| trigger.is_row)
        };
        let may_change = (!has_receipts && self.relations.iter().any(changes)).then(|| {
            "triggers or rules of the table may change or remove rows: tokens that a lost connection \
             leaves in doubt stay unknown"
                .to_owned()
        });
        self.durability_warning()
            .into_iter()
            .chain(may_change)
            .collect()
    }

    /// Returns why a commit may be less durable than the session requests.
    pub(super) fn durability_warning(&self) -> Option<String> {
        let triggers = self.durability_triggers();
        (!triggers.is_empty()).then(|| {
            format!(
                "a trigger mentions synchronous_commit ({}): a commit that is not waited for can be lost \
                 after it was reported as stored",
                triggers.join(", ")
            )
        })
    }

    /// Returns the triggers whose functions mention `synchronous_commit`.
    fn durability_triggers(&self) -> Vec<&str> {
        let triggers = self.relations.iter().flat_map(|known| &known.triggers);
        let mut names: Vec<&str> = triggers
            .filter(|it| it.sets_durability)
            .map(|it| it.name.as_str())
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

impl Index {
    fn expression(&self) -> &str {
        self.expression.as_deref().unwrap_or_default()
    }
}
