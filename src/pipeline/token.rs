//! Tokens, pages of tokens, and the outcome of each token.
//!
//! Plain values without I/O. A token is a slice of the page in which it arrived, so a page of ten
//! thousand tokens is one buffer instead of ten thousand strings.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Why a line of the source is not a valid token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenDefect {
    /// The line was not valid UTF-8; its text is kept with U+FFFD in place of the bad bytes.
    InvalidUtf8,
    /// The line contains a control character (NUL, TAB, ESC, …).
    ControlCharacter,
    /// The line is longer than `max_token`; its text is kept up to that length.
    TooLong,
}

impl TokenDefect {
    /// Returns the `reason` for reports.
    pub fn reason(self) -> &'static str {
        match self {
            Self::InvalidUtf8 => "invalid UTF-8",
            Self::ControlCharacter => "control character",
            Self::TooLong => "too long",
        }
    }

    /// Checks the form of a token that is valid UTF-8; `max_token` is in bytes.
    pub fn of(text: &str, max_token: usize) -> Option<Self> {
        if text.len() > max_token {
            Some(Self::TooLong)
        } else if text.chars().any(char::is_control) {
            Some(Self::ControlCharacter)
        } else {
            None
        }
    }
}

/// Where a token came from, and which attempt stores it next: within a run and its shard, this is the key
/// of the token's receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReceiptKey {
    /// The number of the request × 2^32 + the line of its answer, both from 1. Tokens that a script makes
    /// count as those of request 0. 0 for a token without a position.
    pub position: u64,
    /// From 1. It grows only after a tombstone has made the attempt before it impossible.
    pub attempt: u16,
}

impl ReceiptKey {
    /// The key of a token without a position.
    const NONE: Self = Self::first(0);

    /// Returns the key of the first attempt.
    pub const fn first(position: u64) -> Self {
        Self {
            position,
            attempt: 1,
        }
    }
}

/// Returns the position of a line of the answer to a request, both from 1.
pub fn position(request: u64, line: u64) -> u64 {
    (request << 32) | (line & u64::from(u32::MAX))
}

/// A token: a slice of its page's text, the number of attempts to store it, and the key of its receipt.
#[derive(Clone)]
pub struct Token {
    text: Arc<str>,
    start: u32,
    len: u32,
    defect: Option<TokenDefect>,
    /// How often its INSERT was sent.
    pub attempts: u16,
    /// The key of its receipt.
    pub receipt: ReceiptKey,
}

impl Token {
    /// Creates a single token, as a script does.
    pub fn new(text: &str, defect: Option<TokenDefect>) -> Self {
        Page::from_texts([(text, defect)]).token(0)
    }

    /// Returns the token's text. It is a secret: write it to reports, never to logs or errors.
    pub fn as_str(&self) -> &str {
        &self.text[self.start as usize..(self.start + self.len) as usize]
    }

    /// Returns the id of its page, unique while the page or a token of it exists.
    pub fn page_id(&self) -> usize {
        id(&self.text)
    }

    /// Returns why it is not a valid token, if so.
    pub fn defect(&self) -> Option<TokenDefect> {
        self.defect
    }
}

impl fmt::Debug for Token {
    /// Hides the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token([{} bytes], attempts {})", self.len, self.attempts)
    }
}

/// A token of a page; it ends where the next one starts.
#[derive(Clone, Copy)]
struct TokenRange {
    start: u32,
    defect: Option<TokenDefect>,
    attempts: u16,
}

/// The tokens of one answer, in its order. Clones share the buffer.
#[derive(Clone)]
pub struct Page {
    text: Arc<str>,
    ranges: Arc<[TokenRange]>,
    keys: PageKeys,
    from: usize,
    to: usize,
}

/// The keys of a page's receipts.
#[derive(Clone)]
enum PageKeys {
    /// The tokens have consecutive positions; the first of the whole page has this one.
    From(u64),
    /// Each token has its own.
    Each(Arc<[ReceiptKey]>),
}

impl PageKeys {
    /// Returns the key of the token at `index` of the whole page.
    fn at(&self, index: usize) -> ReceiptKey {
        match self {
            Self::From(0) => ReceiptKey::NONE,
            Self::From(first) => ReceiptKey::first(first + index as u64),
            Self::Each(keys) => keys[index],
        }
    }
}

impl Page {
    /// Creates a page; the texts are copied into one buffer.
    pub fn from_texts<'a>(texts: impl IntoIterator<Item = (&'a str, Option<TokenDefect>)>) -> Self {
        let mut builder = PageBuilder::default();
        for (text, defect) in texts {
            builder.push(text, defect);
        }
        builder.build()
    }

    /// Creates a page of existing tokens, with their attempts and the keys of their receipts.
    pub fn from_tokens(tokens: &[Token]) -> Self {
        let mut builder = PageBuilder::default();
        for token in tokens {
            builder.push(token.as_str(), token.defect);
            if let Some(last) = builder.ranges.last_mut() {
                last.attempts = token.attempts;
            }
        }
        let mut page = builder.build();
        if tokens.iter().any(|token| token.receipt != ReceiptKey::NONE) {
            page.keys = PageKeys::Each(tokens.iter().map(|token| token.receipt).collect());
        }
        page
    }

    /// Gives the tokens consecutive positions, of which the first one left gets `position`.
    pub fn set_first_position(&mut self, position: u64) {
        self.keys = PageKeys::From(position - self.from as u64);
    }

    /// Returns the page's id, unique while it or a token of it exists.
    pub fn id(&self) -> usize {
        id(&self.text)
    }

    /// Returns the number of tokens left.
    pub fn len(&self) -> usize {
        self.to - self.from
    }

    /// Returns true if no token is left.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the token at `index`, counted from the first one left.
    ///
    /// # Panics
    /// If `index` is not below [`Page::len`].
    pub fn token(&self, index: usize) -> Token {
        assert!(index < self.len(), "token index out of the page");
        let at = self.from + index;
        let range = self.ranges[at];
        // `PageBuilder` keeps the text below 4 GiB.
        let all = u32::try_from(self.text.len()).unwrap_or(u32::MAX);
        let end = self.ranges.get(at + 1).map_or(all, |next| next.start);
        Token {
            text: Arc::clone(&self.text),
            start: range.start,
            len: end - range.start,
            defect: range.defect,
            attempts: range.attempts,
            receipt: self.keys.at(at),
        }
    }

    /// Takes the first token off.
    pub fn take_first(&mut self) -> Option<Token> {
        let token = (!self.is_empty()).then(|| self.token(0))?;
        self.from += 1;
        Some(token)
    }

    /// Splits up to `count` tokens off the front.
    #[must_use]
    pub fn split_to(&mut self, count: usize) -> Self {
        let mut front = self.clone();
        front.truncate(count);
        self.from = front.to;
        front
    }

    /// Drops all tokens after the first `count`.
    pub fn truncate(&mut self, count: usize) {
        self.to = self.to.min(self.from + count);
    }

    /// Iterates over the tokens left.
    pub fn iter(&self) -> impl Iterator<Item = Token> + '_ {
        (0..self.len()).map(|index| self.token(index))
    }
}

impl fmt::Debug for Page {
    /// Hides the secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Page({} tokens)", self.len())
    }
}

/// Returns a page's id: the address of its text.
fn id(text: &Arc<str>) -> usize {
    Arc::as_ptr(text).cast::<u8>().addr()
}

/// Size of the largest page so far, in bytes.
static LARGEST_PAGE: AtomicUsize = AtomicUsize::new(0);

/// Returns the size of the process's largest page so far, in bytes.
///
/// The pipeline holds a few times that between source and database.
pub fn largest_page() -> usize {
    LARGEST_PAGE.load(Ordering::Relaxed)
}

/// Collects the tokens of a page into one buffer.
#[derive(Default)]
pub struct PageBuilder {
    text: String,
    ranges: Vec<TokenRange>,
}

impl PageBuilder {
    /// Adds a token. The limit is 4 GiB per page; `max_body` is far below.
    pub fn push(&mut self, text: &str, defect: Option<TokenDefect>) {
        let end = self.text.len().saturating_add(text.len());
        let (Ok(start), Ok(_)) = (u32::try_from(self.text.len()), u32::try_from(end)) else {
            return;
        };
        self.text.push_str(text);
        self.ranges.push(TokenRange {
            start,
            defect,
            attempts: 0,
        });
    }

    /// Returns the number of tokens.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Builds the page.
    pub fn build(self) -> Page {
        let size = self.text.len() + self.ranges.len() * size_of::<TokenRange>();
        LARGEST_PAGE.fetch_max(size, Ordering::Relaxed);
        Page {
            to: self.ranges.len(),
            from: 0,
            text: self.text.into(),
            ranges: self.ranges.into(),
            keys: PageKeys::From(0),
        }
    }
}

/// The status of a token at the end of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// The server confirmed the commit.
    Stored,
    /// Refused by the database, by the check of its form or by the script; a retry would fail again.
    Rejected,
    /// Certainly not stored, because of the infrastructure. Safe to send again.
    Failed,
    /// The connection was lost around the commit, and the result could not be determined.
    Unknown,
    /// Received but never sent. Safe to send.
    NotAttempted,
}

impl Status {
    /// All statuses, in the order of reports.
    pub const ALL: [Self; 5] = [
        Self::Stored,
        Self::Rejected,
        Self::Failed,
        Self::Unknown,
        Self::NotAttempted,
    ];

    /// Returns the name in reports and scripts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Rejected => "rejected",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
            Self::NotAttempted => "not_attempted",
        }
    }

    /// Returns true if sending the token again cannot store it twice.
    pub fn is_safe_to_send(self) -> bool {
        matches!(self, Self::Failed | Self::NotAttempted)
    }

    /// Returns true if this run cannot change it.
    pub fn is_final(self) -> bool {
        !self.is_safe_to_send()
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a token was not stored. Shared, because many tokens fail for the same reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Detail {
    /// The SQLSTATE of the database's error, such as `23514`.
    pub sqlstate: Option<String>,
    /// The constraint that refused the token.
    pub constraint: Option<String>,
    /// The reason that the host or the script gives.
    pub reason: Option<String>,
    /// The server's primary message, never its DETAIL, which prints the row.
    pub message: Option<String>,
}

impl Detail {
    /// Creates a detail with only a `reason`.
    pub fn reason(reason: impl Into<String>) -> Arc<Self> {
        Arc::new(Self {
            reason: Some(reason.into()),
            ..Self::default()
        })
    }
}

/// A token and its status.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The token; `token.attempts` is how often it was sent.
    pub token: Token,
    /// Its status.
    pub status: Status,
    /// Time from the last attempt to the answer; zero if it was never sent.
    pub elapsed: Duration,
    /// Why it was not stored; `None` if it was.
    pub detail: Option<Arc<Detail>>,
}

impl Outcome {
    /// Creates the outcome of a token that is not sent again.
    ///
    /// `not_attempted` means never sent: a token that was sent before becomes `failed`.
    pub fn unsent(token: Token, status: Status, detail: Option<Arc<Detail>>) -> Self {
        let was_sent = token.attempts > 0;
        Self {
            token,
            status: match status {
                Status::NotAttempted if was_sent => Status::Failed,
                status => status,
            },
            elapsed: Duration::ZERO,
            detail,
        }
    }

    /// Returns the detail, or an empty one.
    pub fn detail(&self) -> &Detail {
        static NONE: Detail = Detail {
            sqlstate: None,
            constraint: None,
            reason: None,
            message: None,
        };
        self.detail.as_deref().unwrap_or(&NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_returns_tokens_in_order_and_keeps_the_rest() {
        let mut page = Page::from_texts([
            ("aa", None),
            ("b", Some(TokenDefect::TooLong)),
            ("cc", None),
        ]);
        let mut front = page.split_to(2);
        assert_eq!(front.take_first().unwrap().as_str(), "aa");
        assert_eq!(front.token(0).defect(), Some(TokenDefect::TooLong));
        assert_eq!(front.split_to(9).len(), 1);
        assert!(front.take_first().is_none());
        assert_eq!(page.len(), 1);
        assert_eq!(page.token(0).as_str(), "cc");
        page.truncate(0);
        assert!(page.is_empty());
    }

    #[test]
    fn attempts_are_kept_when_tokens_form_a_new_page() {
        let mut token = Token::new("aa", None);
        token.attempts = 3;
        assert_eq!(Page::from_tokens(&[token]).token(0).attempts, 3);
    }

    #[test]
    fn keys_of_receipts_are_kept_when_tokens_form_a_new_page() {
        let mut page = Page::from_texts([("aa", None), ("bb", None), ("cc", None)]);
        assert_eq!(page.token(1).receipt.position, 0);
        page.set_first_position(position(2, 5));
        let mut rest = page.split_to(2);
        rest.take_first();
        let mut tokens = vec![page.token(0), rest.token(0)];
        assert_eq!(tokens[0].receipt, ReceiptKey::first((2 << 32) + 7));
        assert_eq!(tokens[1].receipt, ReceiptKey::first((2 << 32) + 6));
        tokens[1].receipt.attempt = 3;
        let mixed = Page::from_tokens(&tokens);
        assert_eq!(mixed.token(1).receipt, tokens[1].receipt);
        rest.set_first_position(9);
        assert_eq!(
            rest.token(0).receipt.position,
            9,
            "counted from the first left"
        );
    }

    #[test]
    fn token_defects_are_detected() {
        assert_eq!(TokenDefect::of("UNFvwishxzYsXUUchI4NBw", 22), None);
        assert_eq!(
            TokenDefect::of("UNFvwishxzYsXUUchI4NBw", 21),
            Some(TokenDefect::TooLong)
        );
        assert_eq!(
            TokenDefect::of("a\0b", 9),
            Some(TokenDefect::ControlCharacter)
        );
        assert_eq!(
            TokenDefect::of("a\tb", 9),
            Some(TokenDefect::ControlCharacter)
        );
    }

    #[test]
    fn unsent_outcome_is_failed_when_token_was_sent_before() {
        let mut token = Token::new("aa", None);
        let unsent =
            |token: &Token| Outcome::unsent(token.clone(), Status::NotAttempted, None).status;
        assert_eq!(unsent(&token), Status::NotAttempted);
        token.attempts = 1;
        assert_eq!(unsent(&token), Status::Failed);
    }

    #[test]
    fn debug_output_hides_tokens() {
        let outcome = Outcome::unsent(Token::new("s3cret", None), Status::Failed, None);
        assert!(!format!("{outcome:?}").contains("s3cret"));
        let page = Page::from_texts([("s3cret", None)]);
        assert!(!format!("{page:?}").contains("s3cret"));
    }
}
