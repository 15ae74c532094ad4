//! The ledger of a run. Every received token is in exactly one place: in a stream, in an open entry of
//! the ledger, or in the reports.
//!
//! `stored`, `rejected` and `unknown` are written at once. `failed` and `not_attempted` stay open,
//! because the script may send the token again; that removes the entry until the next outcome. Open
//! entries are written at the end. So each token is reported once, with its last status, and memory use
//! is bounded.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Error;
use crate::pipeline::latency::LatencyHistogram;
use crate::pipeline::numbers::Numbers;
use crate::pipeline::receipts::ReceiptLog;
use crate::pipeline::token::{Detail, Outcome, ReceiptKey, Status, Token, TokenDefect, position};
use crate::report::Reports;
use crate::report::rejections::Rejections;

/// The identifier of an open entry.
pub type EntryId = u64;

/// The number of recently written tokens to remove from a script's messages.
const RECENT: usize = 64;

/// The number of written outcomes between two updates of the numbers that others see.
const UPDATE_INTERVAL: u64 = 64;

/// The numbers of a ledger for others: they can be read while the ledger waits for the reader of a report.
pub type ShownNumbers = Arc<Mutex<Numbers>>;

/// The status of every token until it is written to the reports.
pub struct Ledger {
    reports: Reports,
    written: Numbers,
    shown: ShownNumbers,
    latencies: LatencyHistogram,
    rejections: Rejections,
    open: BTreeMap<EntryId, Outcome>,
    by_text: HashMap<Box<str>, Vec<EntryId>>,
    recent: VecDeque<Token>,
    next: EntryId,
    created: u64,
    /// The number of the request to which the script's own tokens belong.
    script_request: u64,
    /// Where the receipts of rejected tokens are collected, if receipts are written.
    receipts: Option<Arc<ReceiptLog>>,
    not_stored: Arc<Detail>,
    error: Option<Error>,
}

impl Ledger {
    /// Creates an empty ledger that writes to `reports`.
    pub fn new(reports: Reports) -> Self {
        Self {
            reports,
            written: Numbers::default(),
            shown: ShownNumbers::default(),
            latencies: LatencyHistogram::default(),
            rejections: Rejections::default(),
            open: BTreeMap::new(),
            by_text: HashMap::new(),
            recent: VecDeque::new(),
            next: 0,
            created: 0,
            script_request: 0,
            receipts: None,
            not_stored: Detail::reason("the script did not store it"),
            error: None,
        }
    }

    /// Collects the receipts of rejected tokens in `log`; `script_request` is the number of the request to
    /// which tokens belong that the script makes.
    pub fn set_receipts(&mut self, log: Arc<ReceiptLog>, script_request: u64) {
        self.receipts = Some(log);
        self.script_request = script_request;
        self.reports.has_receipts = true;
    }

    /// Returns the reports, for the script's own output.
    pub fn reports(&mut self) -> &mut Reports {
        &mut self.reports
    }

    /// Writes an outcome, or keeps it open and returns its identifier.
    ///
    /// `line` is the script's line for the text report; it is used only for a written outcome.
    pub fn record(
        &mut self,
        outcome: Outcome,
        line: Option<&str>,
    ) -> Result<Option<EntryId>, Error> {
        if outcome.status.is_final() {
            self.settle(&outcome, line).map(|()| None)
        } else {
            Ok(Some(self.keep_open(outcome)))
        }
    }

    /// Adds an open entry for a token that the script got as a string.
    pub fn add_script_token(&mut self, token: Token) {
        let detail = Some(Arc::clone(&self.not_stored));
        self.keep_open(Outcome::unsent(token, Status::NotAttempted, detail));
    }

    /// Removes the open entry of `text` and returns its token, which is about to be sent.
    ///
    /// If there is no such entry, the script created the token; it counts as received.
    pub fn claim(&mut self, text: &str, max_token: usize) -> Token {
        let id = self.by_text.get(text).and_then(|ids| ids.first().copied());
        if let Some(token) = id.and_then(|id| self.claim_entry(id)) {
            return token;
        }
        self.created += 1;
        let mut token = Token::new(text, TokenDefect::of(text, max_token));
        if self.receipts.is_some() {
            token.receipt = ReceiptKey::first(position(self.script_request, self.created));
        }
        token
    }

    /// Removes an entry that is still open and returns its token.
    pub fn claim_entry(&mut self, id: EntryId) -> Option<Token> {
        let token = self.open.remove(&id)?.token;
        if let Some(ids) = self.by_text.get_mut(token.as_str()) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_text.remove(token.as_str());
            }
        }
        Some(token)
    }

    /// Returns the token of an entry that is still open.
    pub fn open_text(&self, id: EntryId) -> Option<&str> {
        self.open.get(&id).map(|outcome| outcome.token.as_str())
    }

    /// Returns `text` without any token that is open or was written recently.
    pub fn without_tokens(&self, text: &str) -> String {
        let mut clean = text.to_owned();
        let open = self.by_text.keys().map(AsRef::as_ref);
        for token in open.chain(self.recent.iter().map(Token::as_str)) {
            // Shorter tokens are parts of common words, and not secret.
            if token.len() >= 8 && clean.contains(token) {
                clean = clean.replace(token, "[token]");
            }
        }
        clean
    }

    /// Removes and returns the oldest open entry; [`Ledger::settle`] writes it.
    pub fn take_open(&mut self) -> Option<Outcome> {
        let outcome = self.open.pop_first().map(|(_, outcome)| outcome);
        if self.open.is_empty() {
            self.by_text.clear();
        }
        outcome
    }

    /// Returns the numbers that follow from the outcomes, including open ones.
    pub fn numbers(&self) -> Numbers {
        let mut numbers = self.written;
        for outcome in self.open.values() {
            numbers.count(outcome);
        }
        numbers
    }

    /// Returns the numbers of written outcomes, which stay up to date.
    pub fn shown(&self) -> ShownNumbers {
        Arc::clone(&self.shown)
    }

    /// Returns the number of tokens that the script created.
    pub fn created(&self) -> u64 {
        self.created
    }

    /// Returns the latencies from sending to outcome, of all tokens sent.
    pub fn latencies(&self) -> &LatencyHistogram {
        &self.latencies
    }

    /// Returns the rejections by kind.
    pub fn rejections(&self) -> &Rejections {
        &self.rejections
    }

    /// Returns the first error of a report.
    pub fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// Returns the reports without ending them.
    pub fn into_reports(self) -> Reports {
        self.reports
    }

    /// Writes an outcome that is final for this run.
    pub fn settle(&mut self, outcome: &Outcome, line: Option<&str>) -> Result<(), Error> {
        self.written.count(outcome);
        if self.written.total().is_multiple_of(UPDATE_INTERVAL) {
            *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = self.written;
        }
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(outcome.token.clone());
        // Tokens that this run did not send have no latency.
        if !outcome.elapsed.is_zero() {
            self.latencies.record(outcome.elapsed);
        }
        if outcome.status == Status::Rejected {
            self.rejections.add(outcome);
        }
        if let Some(receipts) = &self.receipts {
            receipts.add_outcome(outcome);
        }
        let written = self.reports.outcome(outcome, line);
        if let Err(error) = &written {
            self.error.get_or_insert_with(|| error.clone());
        }
        written
    }

    fn keep_open(&mut self, outcome: Outcome) -> EntryId {
        let id = self.next;
        self.next += 1;
        let text: Box<str> = outcome.token.as_str().into();
        self.by_text.entry(text).or_default().push(id);
        self.open.insert(id, outcome);
        id
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        Ledger::new(Reports::with_stdout(Box::new(std::io::sink())))
    }

    fn failed(text: &str) -> Outcome {
        let mut token = Token::new(text, None);
        token.attempts = 2;
        Outcome::unsent(token, Status::Failed, None)
    }

    #[test]
    fn resent_token_counts_once_with_its_last_status() {
        let mut ledger = ledger();
        let id = ledger.record(failed("aa"), None).unwrap().unwrap();
        assert_eq!(ledger.numbers().of(Status::Failed), 1);
        let token = ledger.claim_entry(id).unwrap();
        assert_eq!(token.attempts, 2, "attempts are remembered");
        assert_eq!(ledger.numbers().total(), 0);
        let stored = Outcome::unsent(token, Status::Stored, None);
        assert_eq!(ledger.record(stored, None).unwrap(), None);
        assert_eq!(ledger.numbers().of(Status::Stored), 1);
        assert_eq!(ledger.numbers().total(), 1);
    }

    #[test]
    fn equal_script_tokens_are_claimed_one_by_one() {
        let mut ledger = ledger();
        for _ in 0..2 {
            ledger.add_script_token(Token::new("aa", Some(TokenDefect::InvalidUtf8)));
        }
        assert_eq!(
            ledger.claim("aa", 9).defect(),
            Some(TokenDefect::InvalidUtf8)
        );
        assert_eq!(
            ledger.claim("aa", 9).defect(),
            Some(TokenDefect::InvalidUtf8)
        );
        assert_eq!(ledger.created(), 0);
        assert_eq!(
            ledger.claim("aa", 9).defect(),
            None,
            "the script created the third one"
        );
        assert_eq!(ledger.created(), 1);
    }

    #[test]
    fn open_entries_are_written_once_at_the_end() {
        let mut ledger = ledger();
        ledger.add_script_token(Token::new("aa", None));
        ledger.record(failed("bb"), None).unwrap();
        let mut lines = Vec::new();
        while let Some(outcome) = ledger.take_open() {
            lines.push(outcome.token.as_str().to_owned());
            ledger.settle(&outcome, None).unwrap();
        }
        assert_eq!(lines, ["aa", "bb"]);
        assert_eq!(ledger.numbers().of(Status::NotAttempted), 1);
        assert_eq!(ledger.numbers().of(Status::Failed), 1);
    }
}
