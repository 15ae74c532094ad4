//! Detects, before a token is requested, that no INSERT can succeed or be reliable.

use crate::store::postgres::catalog::expression::view_column;
use crate::store::postgres::catalog::{BaseType, Catalog, Column, Relation};

/// Why no INSERT into the table can succeed, or none is reliable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Obstacle {
    /// The relation, or this partition, takes no inserts; its kind.
    Unwritable(Option<String>, &'static str),
    /// The column does not exist.
    NoColumn,
    /// The column is generated, or a system column.
    Generated,
    /// The role may not insert.
    MayNotInsert,
    /// The role may not use this sequence.
    MayNotUse(String),
    /// This relation is UNLOGGED.
    Unlogged(String),
    /// The column's type does not keep tokens unchanged.
    Lossy(String),
    /// This column of this relation is NOT NULL without a default.
    Required(String, String),
    /// This partitioned table has no partition.
    NoPartition(String),
    /// This sequence is exhausted.
    Exhausted(String),
    /// Row security is enabled for this relation, and no policy allows the role to insert.
    NoPolicy(String),
    /// The cluster assigns no more transaction numbers until it is vacuumed.
    Wraparound,
}

impl Catalog {
    /// Returns why no INSERT can succeed, or none is reliable.
    pub(in super::super) fn obstacle(&self) -> Option<Obstacle> {
        let target = self.target()?;
        let what = match target.kind.as_str() {
            "m" => Some("a materialized view"),
            "S" => Some("a sequence"),
            "i" | "I" => Some("an index"),
            "c" => Some("a composite type"),
            "t" => Some("a TOAST table"),
            "v" if !self.is_writable(target) => Some("a view that takes no inserts"),
            "f" if !target.takes_inserts => Some("a foreign table that takes no inserts"),
            _ => None,
        };
        if let Some(what) = what {
            return Some(Obstacle::Unwritable(None, what));
        }
        if let Some(partition) = self.unwritable_partition() {
            let what = "a foreign table that takes no inserts";
            return Some(Obstacle::Unwritable(Some(partition.name.clone()), what));
        }
        match self.may_insert {
            None => return Some(Obstacle::NoColumn),
            Some(false) => return Some(Obstacle::MayNotInsert),
            Some(true) => {}
        }
        let receives_token = |column: &&Column| self.is_token(target, &column.name);
        match target.columns.iter().find(receives_token) {
            None => return Some(Obstacle::Generated),
            Some(column) if column.is_generated || column.identity.as_deref() == Some("a") => {
                return Some(Obstacle::Generated);
            }
            Some(_) => {}
        }
        if let Some(kind) = &self.kind
            && !kind.keeps_tokens()
        {
            return Some(Obstacle::Lossy(kind.title.clone()));
        }
        if let Some(relation) = self
            .relations
            .iter()
            .find(|it| !it.is_logged && matches!(it.kind.as_str(), "r" | "p" | "m"))
        {
            return Some(Obstacle::Unlogged(relation.name.clone()));
        }
        let sequences = || {
            let columns = self.other_columns();
            columns.filter_map(|(_, column)| column.sequence.as_ref())
        };
        if let Some(sequence) = sequences().find(|sequence| !sequence.may_use) {
            return Some(Obstacle::MayNotUse(sequence.name.clone()));
        }
        let is_closed =
            |it: &&Relation| it.has_row_security && it.policies.is_empty() && !it.is_partition;
        if let Some(relation) = self.relations.iter().find(is_closed) {
            return Some(Obstacle::NoPolicy(relation.name.clone()));
        }
        if self.is_stopped {
            return Some(Obstacle::Wraparound);
        }
        let is_rerouted = self.relations.iter().any(|relation| {
            relation.rules.iter().any(|event| event == "insert")
                || relation
                    .triggers
                    .iter()
                    .any(|it| it.is_row && (it.is_before || it.is_instead))
        });
        if is_rerouted {
            // Its effect on the row is unknown.
            return None;
        }
        if let Some(sequence) = sequences().find(|it| it.is_exhausted == Some(true)) {
            return Some(Obstacle::Exhausted(sequence.name.clone()));
        }
        let required = self.other_columns().find(|(relation, column)| {
            // A view's columns are those of its table.
            relation.kind != "v"
                && column.is_required
                && column.value.is_none()
                && column.identity.is_none()
                && !column.is_generated
                && !self.has_view_default(&column.name)
        });
        if let Some((relation, column)) = required {
            return Some(Obstacle::Required(
                relation.name.clone(),
                column.name.clone(),
            ));
        }
        let is_leaf = |relation: &Relation| relation.kind != "p" && relation.is_partition;
        if let Some(root) = self.relations.iter().find(|relation| relation.kind == "p")
            && !self.relations.iter().any(is_leaf)
        {
            return Some(Obstacle::NoPartition(root.name.clone()));
        }
        None
    }

    /// Returns true if a view gives the table's column a default.
    fn has_view_default(&self, column: &str) -> bool {
        self.relations.iter().any(|relation| {
            relation.view.as_ref().is_some_and(|view| {
                relation.columns.iter().any(|known| {
                    known.value.is_some()
                        && view_column(&view.definition, &known.name).as_deref() == Some(column)
                })
            })
        })
    }

    /// Returns a read-only foreign partition, if every partition is one.
    fn unwritable_partition(&self) -> Option<&Relation> {
        let is_leaf = |relation: &&Relation| relation.is_partition && relation.kind != "p";
        let mut leaves = self.relations.iter().filter(is_leaf);
        let is_unwritable = |it: &Relation| it.kind == "f" && !it.takes_inserts;
        let first = leaves.next()?;
        (is_unwritable(first) && leaves.all(is_unwritable)).then_some(first)
    }

    fn is_writable(&self, view: &Relation) -> bool {
        view.takes_inserts
            && view.view.as_ref().is_none_or(|it| {
                let bases = it.reads.iter().filter_map(|oid| self.relation(*oid));
                // A view that forwards its rows needs a base that takes them.
                view.rules.iter().any(|event| event == "insert")
                    || view.triggers.iter().any(|trigger| trigger.is_instead)
                    || bases.into_iter().any(|base| base.takes_inserts)
            })
    }
}

impl BaseType {
    /// Returns true if the type keeps accepted text unchanged, or the loss is predictable.
    fn keeps_tokens(&self) -> bool {
        const EXTENSION: &str = "citext";
        if self.is_builtin {
            ["text", "varchar", "bpchar"].contains(&self.name.as_str())
        } else {
            self.name == EXTENSION
        }
    }
}
