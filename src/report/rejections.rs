//! Counts rejected tokens by constraint and SQLSTATE.

use crate::pipeline::token::Outcome;

/// Maximum number of kinds; a trigger may invent a constraint for each token.
const MAX_KINDS: usize = 64;
/// The constraint of all other rejections.
const OTHER: &str = "other";

/// The number of rejections of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The constraint; empty if the database named none.
    pub constraint: Box<str>,
    /// The SQLSTATE; empty if the database did not reject the tokens.
    pub sqlstate: Box<str>,
    /// The number of tokens.
    pub count: u64,
}

/// Rejections by kind, in order of first occurrence. The names contain no token.
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
        // Shorter tokens are parts of common words, and not secret.
        let names_token = token.len() >= 8 && constraint.contains(token);
        if names_token {
            self.count(OTHER, sqlstate);
        } else {
            self.count(constraint, sqlstate);
        }
    }

    fn count(&mut self, constraint: &str, sqlstate: &str) {
        let is_same =
            |one: &&mut Rejection| *one.constraint == *constraint && *one.sqlstate == *sqlstate;
        if let Some(one) = self.0.iter_mut().find(is_same) {
            one.count += 1;
        } else if self.0.len() < MAX_KINDS || (constraint, sqlstate) == (OTHER, "") {
            self.0.push(Rejection {
                constraint: constraint.into(),
                sqlstate: sqlstate.into(),
                count: 1,
            });
        } else {
            self.count(OTHER, "");
        }
    }

    /// Returns all kinds.
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
    fn rejections_of_one_kind_are_counted_together() {
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
    fn constraint_that_contains_the_token_is_not_shown() {
        let all = counted([
            rejected("s3cret-token", "not s3cret-token", "P0001"),
            rejected("s3cret-tokem", "not s3cret-tokem", "P0001"),
        ]);
        assert_eq!(all, [("other".to_owned(), "P0001".to_owned(), 2)]);
    }

    #[test]
    fn number_of_kinds_is_limited() {
        let all = counted((0..1000).map(|n| rejected("aa", &format!("c{n}"), "P0001")));
        assert_eq!(all.len(), MAX_KINDS + 1);
        assert_eq!(
            all.last().map(|(name, _, count)| (name.as_str(), *count)),
            Some(("other", 936))
        );
    }
}
