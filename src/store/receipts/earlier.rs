//! What the receipts of a run say about its earlier processes, and the marks that the processes leave.
//!
//! Each process of a run that the operator named leaves a mark: a receipt with attempt 0 at the position
//! −generation. The key makes the generation unique, so two processes never give the same position to two
//! different tokens.

use std::collections::HashMap;
use std::time::Duration;

use crate::error::{Error, ErrorKind};
use crate::pipeline::positions::PositionSet;
use crate::pipeline::receipts::{Receipt, ReceiptKind};
use crate::pipeline::token::ReceiptKey;

/// The attempt of a mark; tokens count theirs from 1.
pub(in super::super) const MARK_ATTEMPT: i32 = 0;

/// The number of request numbers of a generation.
const REQUESTS_PER_GENERATION: u64 = 1 << 22;
/// The most processes of a run: a position is a signed 64-bit integer.
const MAX_GENERATIONS: u64 = (1 << 31) / REQUESTS_PER_GENERATION - 1;

/// The beginning of a process of a run.
#[derive(Clone, Copy, Debug)]
pub struct ProcessStart {
    /// True if the process can repeat the requests of earlier ones, because their idempotency keys are
    /// honoured.
    pub is_keyed: bool,
    /// How long to wait for another process of the run to end.
    pub wait: Duration,
    /// True if earlier processes are known to be gone, so that their connections may be ended.
    pub is_alone: bool,
}

/// What earlier processes of a run left in its receipts.
#[derive(Clone, Debug, Default)]
pub struct EarlierReceipts {
    /// The positions of stored tokens.
    pub stored: PositionSet,
    /// The positions of rejected tokens.
    pub rejected: PositionSet,
    /// The positions of tokens that were committed without a row, which no look-up has found.
    pub without_row: PositionSet,
    /// All of these.
    pub settled: PositionSet,
    /// The next attempt of each position whose earlier attempts are impossible.
    pub attempts: HashMap<u64, u16>,
    /// The number of marks, and whether all of them say that requests can be repeated.
    marks: u64,
    is_keyed: bool,
    /// True if a token was made by the script.
    has_script_tokens: bool,
    /// The generation of this process, from 1.
    pub generation: u64,
}

impl EarlierReceipts {
    /// Creates the state before any receipt.
    pub(in super::super) fn new() -> Self {
        Self {
            is_keyed: true,
            generation: 1,
            ..Self::default()
        }
    }

    /// Adds the mark of a process.
    pub(in super::super) fn add_mark(&mut self, generation: u64, is_keyed: bool) {
        self.marks += 1;
        self.is_keyed &= is_keyed;
        self.generation = self.generation.max(generation + 1);
    }

    /// Adds the receipt with the highest attempt of its position; positions ascend.
    pub(in super::super) fn add(&mut self, receipt: Receipt) {
        let ReceiptKey { position, attempt } = receipt.key;
        self.has_script_tokens |= (position >> 32).is_multiple_of(REQUESTS_PER_GENERATION);
        self.generation = self.generation.max(2);
        let settled = match receipt.kind {
            ReceiptKind::Token { rows: 0 } => &mut self.without_row,
            ReceiptKind::Token { .. } => &mut self.stored,
            ReceiptKind::Rejected => &mut self.rejected,
            ReceiptKind::Tombstone => {
                self.attempts.insert(position, attempt.saturating_add(1));
                return;
            }
        };
        settled.push(position);
        self.settled.push(position);
    }

    /// Adds tokens that a journal records as stored or, if the flag is false, as rejected.
    pub fn add_recorded(&mut self, recorded: impl Iterator<Item = (u64, bool)>) {
        let new = recorded.filter(|(position, _)| !self.settled.contains(*position));
        let (stored, rejected): (Vec<_>, Vec<_>) = new.partition(|(_, is_stored)| *is_stored);
        let positions = |recorded: &[(u64, bool)]| {
            let positions = recorded.iter().map(|(position, _)| *position);
            positions.collect::<PositionSet>()
        };
        let (stored, rejected) = (positions(&stored), positions(&rejected));
        self.settled = self.settled.union(&stored).union(&rejected);
        self.stored = self.stored.union(&stored);
        self.rejected = self.rejected.union(&rejected);
    }

    /// Returns true if all requests of the run have keys that the source honours, so that their answers have
    /// the same positions again.
    pub fn is_repeatable(&self, start: ProcessStart) -> bool {
        start.is_keyed && self.is_keyed && (self.marks > 0 || self.generation == 1)
    }

    /// Returns the number before that of the first request of this process, if it repeats none. It is also the
    /// number of the request to which the script's own tokens belong.
    pub fn first_request(&self) -> u64 {
        (self.generation - 1) * REQUESTS_PER_GENERATION
    }

    /// Returns an error if the run cannot be continued.
    ///
    /// # Errors
    /// If a script of the run made tokens of its own, or if the run had too many processes.
    pub(in super::super) fn check(&self) -> Result<(), Error> {
        if self.has_script_tokens {
            let why = "its script made or changed tokens, which a second process cannot tell apart";
            return Err(cannot_be_continued(why));
        }
        if self.generation > MAX_GENERATIONS {
            return Err(cannot_be_continued("it had too many processes"));
        }
        Ok(())
    }
}

fn cannot_be_continued(why: &str) -> Error {
    let kind = ErrorKind::InvalidArgument {
        argument: "run_id".to_owned(),
        expected: "a run that can be continued".to_owned(),
    };
    Error::of(kind, "the run cannot be continued")
        .cause(why)
        .hint("start a new run with another --run-id; `token_service audit` shows what this one stored")
}

/// Returns the position of a generation's mark.
pub(in super::super) fn mark_position(generation: u64) -> i64 {
    -i64::try_from(generation).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::token::position;

    const START: ProcessStart = ProcessStart {
        is_keyed: true,
        wait: Duration::ZERO,
        is_alone: false,
    };

    fn receipt(position: u64, attempt: u16, kind: ReceiptKind) -> Receipt {
        let key = ReceiptKey { position, attempt };
        Receipt { key, kind }
    }

    #[test]
    fn receipts_say_what_is_settled_and_which_attempt_is_next() {
        let mut earlier = EarlierReceipts::new();
        assert_eq!((earlier.generation, earlier.first_request()), (1, 0));
        for (line, attempt, kind) in [
            (1, 1, ReceiptKind::Token { rows: 1 }),
            (2, 1, ReceiptKind::Rejected),
            (3, 1, ReceiptKind::Token { rows: 0 }),
            (4, 2, ReceiptKind::Tombstone),
        ] {
            earlier.add(receipt(position(1, line), attempt, kind));
        }
        let at = |line| position(1, line);
        assert!(earlier.stored.contains(at(1)) && earlier.rejected.contains(at(2)));
        assert!(earlier.without_row.contains(at(3)));
        assert_eq!(earlier.settled.len(), 3);
        assert_eq!(earlier.attempts, HashMap::from([(at(4), 3)]));
        assert_eq!(earlier.generation, 2, "a process without a mark was here");
        assert!(
            !earlier.is_repeatable(START),
            "its requests may have had no keys"
        );
        earlier.check().unwrap();
    }

    #[test]
    fn requests_are_repeated_only_if_every_process_had_keys() {
        let mut earlier = EarlierReceipts::new();
        assert!(earlier.is_repeatable(START), "the first process");
        earlier.add_mark(1, true);
        earlier.add(receipt(position(1, 1), 1, ReceiptKind::Rejected));
        assert!(earlier.is_repeatable(START));
        assert_eq!(earlier.first_request(), REQUESTS_PER_GENERATION);
        let unkeyed = ProcessStart {
            is_keyed: false,
            ..START
        };
        assert!(!earlier.is_repeatable(unkeyed));
        earlier.add_mark(4, false);
        assert!(!earlier.is_repeatable(START));
        assert_eq!(earlier.generation, 5);
    }

    #[test]
    fn outcomes_of_a_journal_count_when_their_receipts_are_missing() {
        let mut earlier = EarlierReceipts::new();
        earlier.add(receipt(position(1, 2), 1, ReceiptKind::Token { rows: 1 }));
        let at = |line| position(1, line);
        earlier.add_recorded([(at(1), true), (at(2), true), (at(3), false)].into_iter());
        assert_eq!((earlier.stored.len(), earlier.rejected.len()), (2, 1));
        assert_eq!(earlier.settled.len(), 3);
        assert!(earlier.stored.contains(at(1)) && earlier.rejected.contains(at(3)));
    }

    #[test]
    fn run_with_tokens_of_its_script_is_not_continued() {
        for position in [position(0, 1), position(REQUESTS_PER_GENERATION, 9)] {
            let mut earlier = EarlierReceipts::new();
            earlier.add(receipt(position, 1, ReceiptKind::Rejected));
            assert!(earlier.check().is_err());
        }
        let mut earlier = EarlierReceipts::new();
        earlier.add_mark(MAX_GENERATIONS, true);
        assert!(earlier.check().is_err());
        assert!(position(MAX_GENERATIONS * REQUESTS_PER_GENERATION, 9) < i64::MAX as u64);
    }
}
