//! What refused tokens, counted: by the constraint and the SQLSTATE that the database named.

use crate::pipeline::token::Outcome;

/// So many kinds are told apart; a trigger may make up a constraint for each token.
const MOST: usize = 64;
/// What the others are counted as.
const OTHER: &str = "other";

/// Tokens that were rejected for the same reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The constraint; empty where the database named none.
    pub constraint: Box<str>,
    /// The SQLSTATE; empty where it was not the database that refused them.
    pub sqlstate: Box<str>,
    /// How many they are.
    pub count: u64,
}

/// Rejections by kind, in the order in which they first came. No token is among the names.
#[derive(Clone, Debug, Default)]
pub struct Rejections(Vec<Rejection>);

impl Rejections {
    /// Counts a rejected token.
    pub fn add(&mut self, outcome: &Outcome) {
        let detail = outcome.detail.as_deref();
        let constraint = detail.and_then(|detail| detail.constraint.as_deref());
        let sqlstate = detail.and_then(|detail| detail.sqlstate.as_deref());
        let (constraint, sqlstate) = (constraint.unwrap_or_default(), sqlstate.unwrap_or_default());
        let token = outcome.token.as_str();
        // Shorter tokens are parts of common words, and no secret.
        let names_token = token.len() >= 8 && constraint.contains(token);
        if names_token {
            self.count(OTHER, sqlstate);
        } else {
            self.count(constraint, sqlstate);
        }
    }

    fn count(&mut self, constraint: &str, sqlstate: &str) {
        let is_it =
            |one: &&mut Rejection| *one.constraint == *constraint && *one.sqlstate == *sqlstate;
        if let Some(one) = self.0.iter_mut().find(is_it) {
            one.count += 1;
        } else if self.0.len() < MOST || (constraint, sqlstate) == (OTHER, "") {
            self.0.push(Rejection {
                constraint: constraint.into(),
                sqlstate: sqlstate.into(),
                count: 1,
            });
        } else {
            self.count(OTHER, "");
        }
    }

    /// All of them.
    pub fn all(&self) -> &[Rejection] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::pipeline::token::{Detail, Status, Token};

    fn rejected(token: &str, constraint: &str, sqlstate: &str) -> Outcome {
        let detail = Detail {
            constraint: (!constraint.is_empty()).then(|| constraint.to_owned()),
            sqlstate: (!sqlstate.is_empty()).then(|| sqlstate.to_owned()),
            ..Detail::default()
        };
        Outcome::unsent(
            Token::new(token, None),
            Status::Rejected,
            Some(Arc::new(detail)),
        )
    }

    fn counted(outcomes: impl IntoIterator<Item = Outcome>) -> Vec<(String, String, u64)> {
        let mut rejections = Rejections::default();
        for outcome in outcomes {
            rejections.add(&outcome);
        }
        let all = rejections.all().iter();
        all.map(|one| {
            (
                one.constraint.to_string(),
                one.sqlstate.to_string(),
                one.count,
            )
        })
        .collect()
    }

    #[test]
    fn alike_ones_are_counted_together() {
        let all = counted([
            rejected("aa", "c", "23514"),
            rejected("bb", "", ""),
            rejected("cc", "c", "23514"),
            rejected("dd", "c", "23505"),
        ]);
        let row = |constraint: &str, sqlstate: &str, count| {
            (constraint.to_owned(), sqlstate.to_owned(), count)
        };
        assert_eq!(
            all,
            [row("c", "23514", 2), row("", "", 1), row("c", "23505", 1)]
        );
    }

    #[test]
    fn a_constraint_that_a_trigger_made_of_the_token_is_not_shown() {
        let all = counted([
            rejected("s3cret-token", "not s3cret-token", "P0001"),
            rejected("s3cret-tokem", "not s3cret-tokem", "P0001"),
        ]);
        assert_eq!(all, [("other".to_owned(), "P0001".to_owned(), 2)]);
    }

    #[test]
    fn there_are_only_so_many_kinds() {
        let all = counted((0..1000).map(|n| rejected("aa", &format!("c{n}"), "P0001")));
        assert_eq!(all.len(), MOST + 1);
        assert_eq!(
            all.last().map(|(name, _, count)| (name.as_str(), *count)),
            Some(("other", 936))
        );
    }
}
