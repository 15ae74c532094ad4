//! Relates what an error names (a constraint, an index, a partition key, a function) to the token.

use crate::store::postgres::catalog::expression::Risk;
use crate::store::postgres::catalog::expression::{names_function, risk_of};
use crate::store::postgres::catalog::{Catalog, PartitionKey, Relation};

/// What owns a function that an error's CONTEXT names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Owner {
    /// A trigger of the table.
    Trigger,
    /// An object that depends on the token: a constraint, an index, a generated column, a domain.
    Token,
    /// A default, or another object that does not depend on the token.
    Other,
}

/// What a constraint or an index depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Scope {
    /// The token's column, perhaps with others.
    Token,
    /// Other columns, one filled by a sequence.
    Sequence,
    /// Other columns.
    Other,
    /// The catalog has no object of that name.
    Unknown,
}

impl Catalog {
    /// Returns what a named constraint or unique index depends on.
    pub(in super::super) fn scope(&self, relation: &Relation, name: &str) -> Scope {
        if let Some(index) = relation.indexes.iter().find(|known| known.name == name) {
            let keys = &index.keys;
            return if keys.iter().any(|key| self.depends_on_token(relation, key))
                || self.mentions_token(relation, index.expression())
            {
                Scope::Token
            } else if keys.iter().any(|key| self.is_from_sequence(key)) {
                Scope::Sequence
            } else {
                Scope::Other
            };
        }
        match relation.constraints.iter().find(|known| known.name == name) {
            Some(known) if self.has_token(relation, &known.columns) => Scope::Token,
            Some(_) => Scope::Other,
            None => Scope::Unknown,
        }
    }

    /// Returns true if an index that refuses the length of its entry holds the token.
    pub(in super::super) fn is_indexed(&self, relation: &Relation, name: &str) -> bool {
        relation.indexes.iter().any(|known| {
            known.name == name
                && (self.has_token(relation, &known.columns)
                    || self.mentions_token(relation, known.expression()))
        })
    }

    fn is_from_sequence(&self, column: &str) -> bool {
        let columns = self.relations.iter().flat_map(|known| &known.columns);
        columns
            .filter(|known| known.name == column)
            .any(|known| known.sequence.is_some())
    }

    /// Returns true if the partition key of `relation` or of an ancestor includes the token.
    pub(in super::super) fn is_routed_by_token(&self, relation: &Relation) -> bool {
        let has_token = |relation: &Relation, key: &PartitionKey| {
            let expression = key.expression.as_deref().unwrap_or_default();
            self.has_token(relation, &key.columns) || self.mentions_token(relation, expression)
        };
        let mut next = Some(relation);
        while let Some(relation) = next {
            let keys = relation.key.iter();
            let above = if relation.oid == self.target {
                self.ancestors.as_slice()
            } else {
                &[]
            };
            if keys.chain(above).any(|key| has_token(relation, key)) {
                return true;
            }
            next = relation.parent.and_then(|parent| self.relation(parent));
        }
        false
    }

    /// Returns true for a partition below the target, which a stale route can reach.
    pub(in super::super) fn is_below_target(&self, relation: &Relation) -> bool {
        relation.is_partition && relation.oid != self.target
    }

    /// Returns true if the domain is the token column's and no other column could violate it.
    pub(in super::super) fn is_only_token_domain(&self, name: &str) -> bool {
        let is_token_domain = self.domains.iter().any(|domain| domain.name == name);
        let mut others = self.other_columns();
        is_token_domain
            && !others.any(|(relation, column)| {
                column.is_domain
                    && column.kind == name
                    && column.value.as_deref().is_some_and(|value| {
                        !(column.is_generated && self.mentions_token(relation, value))
                    })
            })
    }

    /// Returns what the other columns' values may raise, except those generated from the token.
    fn risk(&self) -> Risk {
        let risks = self.other_columns().map(|(relation, column)| {
            let Some(value) = column.value.as_deref() else {
                return match column.sequence {
                    Some(_) => Risk::Sequence,
                    None => Risk::None,
                };
            };
            if column.is_generated && self.mentions_token(relation, value) {
                Risk::None
            } else {
                risk_of(value)
            }
        });
        risks.max().unwrap_or(Risk::None)
    }

    /// Returns true if only the token can raise a class 22 error without a CONTEXT.
    pub(in super::super) fn is_only_token_raising(&self, code: &str, routine: &str) -> bool {
        const TOO_LARGE_FOR_COLUMN: [&str; 2] = ["int84", "int82"];
        match self.risk() {
            Risk::None => true,
            Risk::Sequence => !(code == "22003" && TOO_LARGE_FOR_COLUMN.contains(&routine)),
            Risk::Anything => false,
        }
    }

    /// Returns the owner of the function that a CONTEXT line names; `None` if the catalog has none.
    pub(in super::super) fn owner(&self, line: &str) -> Option<Owner> {
        let triggers = self.relations.iter().flat_map(|known| &known.triggers);
        if triggers
            .into_iter()
            .any(|it| names_function(line, &it.function))
        {
            return Some(Owner::Trigger);
        }
        let any = |functions: &[String]| {
            functions
                .iter()
                .any(|function| names_function(line, function))
        };
        let mut owner = None;
        let mut add = |functions: &[String], is_token: bool| {
            if any(functions) {
                // If several objects use the function, the token is not at fault.
                owner = match owner {
                    _ if !is_token => Some(Owner::Other),
                    None => Some(Owner::Token),
                    some => some,
                };
            }
        };
        for domain in &self.domains {
            add(&domain.functions, true);
        }
        for relation in &self.relations {
            for it in &relation.constraints {
                add(&it.functions, self.has_token(relation, &it.columns));
            }
            for it in &relation.indexes {
                let is_token = self.has_token(relation, &it.columns)
                    || self.mentions_token(relation, it.expression())
                    || self.mentions_token(relation, it.predicate.as_deref().unwrap_or_default());
                add(&it.functions, is_token);
            }
            for it in &relation.columns {
                let is_token = it.is_generated && self.depends_on_token(relation, &it.name);
                add(&it.functions, is_token);
            }
        }
        owner
    }

    /// Returns true if the C function is a trigger's of the table.
    pub(in super::super) fn is_trigger_symbol(&self, routine: &str) -> bool {
        let mut triggers = self.relations.iter().flat_map(|known| &known.triggers);
        triggers.any(|it| it.symbol.as_deref() == Some(routine))
    }

    /// Returns true if a row security policy mentions the token.
    pub(in super::super) fn is_policy_about_token(&self) -> bool {
        self.relations.iter().any(|relation| {
            let mut policies = relation.policies.iter().flatten();
            policies.any(|policy| self.mentions_token(relation, policy))
        })
    }

    /// Returns true if a view's condition, which its CHECK OPTION enforces, mentions the token.
    pub(in super::super) fn is_view_about_token(&self) -> bool {
        let bases: Vec<&Relation> = self.relations.iter().collect();
        self.relations.iter().any(|relation| {
            let definition = relation.view.as_ref().map(|view| &view.definition);
            let condition = definition.and_then(|text| text.rsplit_once(" WHERE "));
            condition.is_some_and(|(_, condition)| {
                bases
                    .iter()
                    .any(|base| self.mentions_token(base, condition))
            })
        })
    }
}
