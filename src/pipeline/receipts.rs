//! Receipts as plain values, and the log of those that are not written in the transaction of a token: those of
//! rejected tokens, and what a look-up found about tokens that were committed without a row. The writers write
//! these in batches.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::pipeline::token::{Outcome, ReceiptKey, Status, Token};

/// What a receipt says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiptKind {
    /// `t`: the token was committed, with this number of rows.
    Token {
        /// The number of rows of the table that the INSERT added.
        rows: i32,
    },
    /// `r`: the token was rejected.
    Rejected,
    /// `x`: the attempt is impossible.
    Tombstone,
}

impl ReceiptKind {
    /// Returns the values of the columns `kind` and `rows`.
    pub fn columns(self) -> (&'static str, Option<i32>) {
        match self {
            Self::Token { rows } => ("t", Some(rows)),
            Self::Rejected => ("r", None),
            Self::Tombstone => ("x", None),
        }
    }

    /// Returns the kind with these values; `None` if no receipt has them.
    fn of_columns(kind: &str, rows: Option<i32>) -> Option<Self> {
        match kind {
            "t" => Some(Self::Token {
                rows: rows.unwrap_or_default(),
            }),
            "r" => Some(Self::Rejected),
            "x" => Some(Self::Tombstone),
            _ => None,
        }
    }
}

/// A receipt of a run and its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The key.
    pub key: ReceiptKey,
    /// What it says.
    pub kind: ReceiptKind,
}

impl Receipt {
    /// Returns the receipt with the values of these columns; `None` if no run of this program wrote it.
    pub fn of_columns(position: i64, attempt: i64, kind: &str, rows: Option<i32>) -> Option<Self> {
        let key = ReceiptKey {
            position: position.try_into().ok()?,
            attempt: attempt.try_into().ok()?,
        };
        let kind = ReceiptKind::of_columns(kind, rows)?;
        Some(Self { key, kind })
    }
}

/// The number of receipts in one statement.
const BATCH: usize = 256;

/// The receipts that wait to be written; clones of its `Arc` share them.
#[derive(Debug, Default)]
pub struct ReceiptLog {
    waiting: Mutex<Vec<Receipt>>,
}

impl ReceiptLog {
    /// Adds the receipt of an outcome, if it needs one.
    ///
    /// Losing it is safe: a later process of the run sends the token again, and it is rejected again.
    pub fn add_outcome(&self, outcome: &Outcome) {
        let key = outcome.token.receipt;
        if outcome.status == Status::Rejected && key.position != 0 {
            self.add(Receipt {
                key,
                kind: ReceiptKind::Rejected,
            });
        }
    }

    /// Adds what a look-up found about a token that was committed without a row, under the key of the next
    /// attempt: the receipt in its own transaction says only that there was no row.
    pub fn add_found(&self, token: &mut Token, status: Status) {
        if token.receipt.position == 0 {
            return;
        }
        token.receipt.attempt = token.receipt.attempt.saturating_add(1);
        // The receipt of a rejected token follows from its outcome.
        if status == Status::Stored {
            self.add(Receipt {
                key: token.receipt,
                kind: ReceiptKind::Token { rows: 1 },
            });
        }
    }

    /// Adds a receipt.
    fn add(&self, receipt: Receipt) {
        self.lock().push(receipt);
    }

    /// Warns that `count` receipts are lost.
    pub fn warn_lost(count: usize, cause: &str) {
        tracing::warn!(
            cause,
            tokens = count,
            "receipts of rejected tokens could not be written; a continued run would request as many tokens \
             again"
        );
    }

    /// Puts receipts back that could not be written.
    pub fn put_back(&self, receipts: Vec<Receipt>) {
        self.lock().extend(receipts);
    }

    /// Takes a batch if one is full; with `is_due` also a smaller one.
    pub fn take(&self, is_due: bool) -> Option<Vec<Receipt>> {
        let mut waiting = self.lock();
        if waiting.is_empty() || !is_due && waiting.len() < BATCH {
            return None;
        }
        let rest = waiting.len().saturating_sub(BATCH);
        Some(waiting.split_off(rest))
    }

    /// Returns how many receipts wait.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Returns true if no receipt waits.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Receipt>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receipts_are_taken_in_full_batches_until_they_are_due() {
        let log = ReceiptLog::default();
        for position in 0..=BATCH as u64 {
            let mut token = Token::new("aa", None);
            token.receipt = ReceiptKey::first(position);
            log.add_outcome(&Outcome::unsent(token.clone(), Status::Rejected, None));
            log.add_outcome(&Outcome::unsent(token, Status::Stored, None));
        }
        assert_eq!(log.take(false).unwrap().len(), BATCH);
        assert!(log.is_empty(), "a token without a position has no receipt");
        log.add_outcome(&Outcome::unsent(
            Token::new("bb", None),
            Status::Rejected,
            None,
        ));
        assert_eq!(log.take(true), None);
    }
}
