//! The books of a run: every received token is either under way in a stream, open here, or written
//! to the reports, and never two of these.
//!
//! `stored`, `rejected` and `unknown` are written as soon as they are known. `failed` and
//! `not_attempted` stay open, because the script may still send the token again: then the entry is
//! taken out and the token's next outcome takes its place. What is open at the end is written then.
//! So each token stands in the report once, with its last state, and memory stays flat.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use crate::error::Fault;
use crate::pipeline::latency::LatencyHistogram;
use crate::pipeline::token::{Detail, Outcome, Status, Tally, Token, TokenDefect};
use crate::report::Reports;
use crate::report::rejections::Rejections;
use crate::report::summary::Summary;

/// The name of an open entry.
pub type EntryId = u64;

/// So many tokens that were written last are remembered, for what a script may say of them.
const REMEMBERED: usize = 64;

/// Where every token's last state is kept until it is written.
pub struct Ledger {
    reports: Reports,
    written: Tally,
    latencies: LatencyHistogram,
    rejections: Rejections,
    open: BTreeMap<EntryId, Outcome>,
    by_text: HashMap<Box<str>, Vec<EntryId>>,
    recent: VecDeque<Token>,
    next: EntryId,
    made: u64,
    not_stored: Arc<Detail>,
    fault: Option<Fault>,
}

impl Ledger {
    /// Empty books that are written to `reports`.
    pub fn new(reports: Reports) -> Self {
        Self {
            reports,
            written: Tally::default(),
            latencies: LatencyHistogram::default(),
            rejections: Rejections::default(),
            open: BTreeMap::new(),
            by_text: HashMap::new(),
            recent: VecDeque::new(),
            next: 0,
            made: 0,
            not_stored: Detail::reason("the script did not store it"),
            fault: None,
        }
    }

    /// The reports, for what the script emits.
    pub fn reports(&mut self) -> &mut Reports {
        &mut self.reports
    }

    /// Books an outcome: writes it, or keeps it open and gives its name. `line` makes the script's
    /// own wording, and is asked only for what is written.
    pub fn record(
        &mut self,
        outcome: Outcome,
        line: Option<&str>,
    ) -> Result<Option<EntryId>, Fault> {
        if outcome.status.is_final() {
            self.write(&outcome, line).map(|()| None)
        } else {
            Ok(Some(self.keep(outcome)))
        }
    }

    /// Books a token that the script now holds as a string and may store, reject or forget.
    pub fn hand_out(&mut self, token: Token) {
        let detail = Some(Arc::clone(&self.not_stored));
        self.keep(Outcome::unsent(token, Status::NotAttempted, detail));
    }

    /// Takes the open token that reads `text` out of the books, for it is about to be sent; one
    /// that is not open is the script's own and counts as received.
    pub fn claim(&mut self, text: &str, max_token: usize) -> Token {
        let id = self.by_text.get(text).and_then(|ids| ids.first().copied());
        if let Some(token) = id.and_then(|id| self.claim_entry(id)) {
            return token;
        }
        self.made += 1;
        Token::new(text, TokenDefect::of(text, max_token))
    }

    /// Takes an open entry out of the books, if it is still open.
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

    /// The text of an open entry, if it is still open.
    pub fn open_text(&self, id: EntryId) -> Option<&str> {
        self.open.get(&id).map(|outcome| outcome.token.as_str())
    }

    /// The text without any token that is still open or was written a moment ago.
    pub fn without_tokens(&self, text: &str) -> String {
        let mut clean = text.to_owned();
        let open = self.by_text.keys().map(AsRef::as_ref);
        for token in open.chain(self.recent.iter().map(Token::as_str)) {
            // Shorter ones are parts of common words, and no secret.
            if token.len() >= 8 && clean.contains(token) {
                clean = clean.replace(token, "[token]");
            }
        }
        clean
    }

    /// Takes out the oldest open entry; [`Ledger::settle`] writes it.
    pub fn take_open(&mut self) -> Option<Outcome> {
        let outcome = self.open.pop_first().map(|(_, outcome)| outcome);
        if self.open.is_empty() {
            self.by_text.clear();
        }
        outcome
    }

    /// Writes an outcome that no script can change any more.
    pub fn settle(&mut self, outcome: &Outcome, line: Option<&str>) -> Result<(), Fault> {
        self.write(outcome, line)
    }

    /// How many tokens are in each state, the open ones included.
    pub fn tally(&self) -> Tally {
        let mut tally = self.written;
        for outcome in self.open.values() {
            tally.add(outcome.status);
        }
        tally
    }

    /// How many tokens the script made itself.
    pub fn made(&self) -> u64 {
        self.made
    }

    /// From sending to verdict, over all tokens that were sent.
    pub fn latencies(&self) -> &LatencyHistogram {
        &self.latencies
    }

    /// What refused the tokens that were rejected.
    pub fn rejections(&self) -> &Rejections {
        &self.rejections
    }

    /// The first fault that a report met.
    pub fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }

    /// True where whatever is inserted is rolled back.
    pub fn is_dry_run(&self) -> bool {
        self.reports.is_dry_run()
    }

    /// Gives the reports back, of books that are not closed.
    pub fn into_reports(self) -> Reports {
        self.reports
    }

    /// Ends the reports.
    pub fn end(&mut self, summary: &Summary) -> Result<(), Fault> {
        self.reports.end(summary)
    }

    fn write(&mut self, outcome: &Outcome, line: Option<&str>) -> Result<(), Fault> {
        self.written.add(outcome.status);
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(outcome.token.clone());
        // What was sent in an earlier run, or is not sent again, took no time here.
        if !outcome.elapsed.is_zero() {
            self.latencies.record(outcome.elapsed);
        }
        if outcome.status == Status::Rejected {
            self.rejections.add(outcome);
        }
        let written = self.reports.outcome(outcome, line);
        if let Err(fault) = &written {
            self.fault.get_or_insert_with(|| fault.clone());
        }
        written
    }

    fn keep(&mut self, outcome: Outcome) -> EntryId {
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
        Ledger::new(Reports::on(Box::new(std::io::sink())))
    }

    fn failed(text: &str) -> Outcome {
        let mut token = Token::new(text, None);
        token.attempts = 2;
        Outcome::unsent(token, Status::Failed, None)
    }

    #[test]
    fn a_token_that_is_sent_again_counts_once_with_its_last_state() {
        let mut ledger = ledger();
        let id = ledger.record(failed("aa"), None).unwrap().unwrap();
        assert_eq!(ledger.tally().get(Status::Failed), 1);
        let token = ledger.claim_entry(id).unwrap();
        assert_eq!(token.attempts, 2, "attempts are remembered");
        assert_eq!(ledger.tally().total(), 0);
        let stored = Outcome::unsent(token, Status::Stored, None);
        assert_eq!(ledger.record(stored, None).unwrap(), None);
        assert_eq!(ledger.tally().get(Status::Stored), 1);
        assert_eq!(ledger.tally().total(), 1);
    }

    #[test]
    fn a_token_that_the_script_holds_is_claimed_by_its_text_and_by_number() {
        let mut ledger = ledger();
        for _ in 0..2 {
            ledger.hand_out(Token::new("aa", Some(TokenDefect::InvalidUtf8)));
        }
        assert_eq!(ledger.claim("aa", 9).flaw(), Some(TokenDefect::InvalidUtf8));
        assert_eq!(ledger.claim("aa", 9).flaw(), Some(TokenDefect::InvalidUtf8));
        assert_eq!(ledger.made(), 0);
        assert_eq!(
            ledger.claim("aa", 9).flaw(),
            None,
            "the third is the script's own"
        );
        assert_eq!(ledger.made(), 1);
    }

    #[test]
    fn what_is_open_at_the_end_is_written_once() {
        let mut ledger = ledger();
        ledger.hand_out(Token::new("aa", None));
        ledger.record(failed("bb"), None).unwrap();
        let mut lines = Vec::new();
        while let Some(outcome) = ledger.take_open() {
            lines.push(outcome.token.as_str().to_owned());
            ledger.settle(&outcome, None).unwrap();
        }
        assert_eq!(lines, ["aa", "bb"]);
        assert_eq!(ledger.tally().get(Status::NotAttempted), 1);
        assert_eq!(ledger.tally().get(Status::Failed), 1);
    }
}
