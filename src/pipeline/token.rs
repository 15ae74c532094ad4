//! What travels through the house: tokens in pages, and what became of each.
//!
//! Pure values without I/O. A token is a slice of the page it arrived in, so that a page of ten
//! thousand tokens is one buffer and not ten thousand strings.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Why a line of the source cannot be a token, whatever the database would say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenDefect {
    /// The line was not valid UTF-8; its text is kept with U+FFFD in place of the bad bytes.
    InvalidUtf8,
    /// The line holds a control character (NUL, TAB, ESC, …).
    ControlCharacter,
    /// The line is longer than `max_token`; its text is kept up to that length.
    TooLong,
}

impl TokenDefect {
    /// The words that stand as `reason` in a report.
    pub fn reason(self) -> &'static str {
        match self {
            Self::InvalidUtf8 => "invalid UTF-8",
            Self::ControlCharacter => "control character",
            Self::TooLong => "too long",
        }
    }

    /// Judges the form of a token that is valid UTF-8; `max_token` is in bytes.
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

/// One token: a slice of its page's text, and how often it was sent to the database so far.
#[derive(Clone)]
pub struct Token {
    text: Arc<str>,
    start: u32,
    len: u32,
    flaw: Option<TokenDefect>,
    /// How many times an INSERT of it was sent.
    pub attempts: u16,
}

impl Token {
    /// A token on its own, as a script makes them.
    pub fn new(text: &str, flaw: Option<TokenDefect>) -> Self {
        Page::from_texts([(text, flaw)]).token(0)
    }

    /// The token itself. A secret: it belongs in reports, never in logs or errors.
    pub fn as_str(&self) -> &str {
        &self.text[self.start as usize..(self.start + self.len) as usize]
    }

    /// Which page it is of, as long as that page or any token of it is there.
    pub fn page_id(&self) -> usize {
        id(&self.text)
    }

    /// Why it cannot be stored whatever the database says, if so.
    pub fn flaw(&self) -> Option<TokenDefect> {
        self.flaw
    }
}

impl fmt::Debug for Token {
    /// Hides the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token([{} bytes], attempts {})", self.len, self.attempts)
    }
}

#[derive(Clone, Copy)]
struct TokenRange {
    start: u32,
    len: u32,
    flaw: Option<TokenDefect>,
    attempts: u16,
}

/// The tokens of one answer of the source, in its order. Cloning shares the buffer.
#[derive(Clone)]
pub struct Page {
    text: Arc<str>,
    spans: Arc<[TokenRange]>,
    from: usize,
    to: usize,
}

impl Page {
    /// A page of texts; they are copied into one buffer.
    pub fn from_texts<'a>(texts: impl IntoIterator<Item = (&'a str, Option<TokenDefect>)>) -> Self {
        let mut builder = PageBuilder::default();
        for (text, flaw) in texts {
            builder.push(text, flaw);
        }
        builder.build()
    }

    /// A page of tokens that were seen before, each with its attempts.
    pub fn from_tokens(tokens: &[Token]) -> Self {
        let mut builder = PageBuilder::default();
        for token in tokens {
            builder.push(token.as_str(), token.flaw);
            if let Some(last) = builder.spans.last_mut() {
                last.attempts = token.attempts;
            }
        }
        builder.build()
    }

    /// Which page it is, as long as it or any token of it is there.
    pub fn id(&self) -> usize {
        id(&self.text)
    }

    /// How many tokens are left in it.
    pub fn len(&self) -> usize {
        self.to - self.from
    }

    /// True where no token is left in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The token at `index`, counted from the first one left.
    ///
    /// # Panics
    /// Where `index` is not below [`Page::len`].
    pub fn token(&self, index: usize) -> Token {
        assert!(index < self.len(), "token index out of the page");
        let span = self.spans[self.from + index];
        Token {
            text: Arc::clone(&self.text),
            start: span.start,
            len: span.len,
            flaw: span.flaw,
            attempts: span.attempts,
        }
    }

    /// Takes up to `count` tokens off the front.
    pub fn take(&mut self, count: usize) -> Vec<Token> {
        let count = count.min(self.len());
        let taken = (0..count).map(|index| self.token(index)).collect();
        self.from += count;
        taken
    }

    /// Drops all tokens after the first `count`.
    pub fn truncate(&mut self, count: usize) {
        self.to = self.to.min(self.from + count);
    }

    /// The tokens left in it.
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

/// A page is known by where its text lies.
fn id(text: &Arc<str>) -> usize {
    Arc::as_ptr(text).cast::<u8>().addr()
}

/// The bytes of the largest page so far.
static LARGEST_PAGE: AtomicUsize = AtomicUsize::new(0);

/// The bytes of the largest page that the process has held: what is under way between source and
/// database is a few times that.
pub fn largest_page() -> usize {
    LARGEST_PAGE.load(Ordering::Relaxed)
}

/// Collects the tokens of a page into one buffer.
#[derive(Default)]
pub struct PageBuilder {
    text: String,
    spans: Vec<TokenRange>,
}

impl PageBuilder {
    /// Adds a token. A page holds at most 4 GiB; `max_body` keeps it far below.
    pub fn push(&mut self, text: &str, flaw: Option<TokenDefect>) {
        let (Ok(start), Ok(len)) = (u32::try_from(self.text.len()), u32::try_from(text.len()))
        else {
            return;
        };
        self.text.push_str(text);
        self.spans.push(TokenRange {
            start,
            len,
            flaw,
            attempts: 0,
        });
    }

    /// How many tokens it holds.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// The page.
    pub fn build(self) -> Page {
        let size = self.text.len() + self.spans.len() * size_of::<TokenRange>();
        LARGEST_PAGE.fetch_max(size, Ordering::Relaxed);
        Page {
            to: self.spans.len(),
            from: 0,
            text: self.text.into(),
            spans: self.spans.into(),
        }
    }
}

/// What became of a token; the contract's five outcomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// The server confirmed the commit.
    Stored,
    /// Refused by the database, the token's own form or the script: it never will be stored as it is.
    Rejected,
    /// Certainly not stored; the infrastructure's fault. Safe to send again.
    Failed,
    /// The connection died around the commit and it could not be found out.
    Unknown,
    /// Received but never sent. Safe to send.
    NotAttempted,
}

impl Status {
    /// All of them, in the order in which they are reported.
    pub const ALL: [Self; 5] = [
        Self::Stored,
        Self::Rejected,
        Self::Failed,
        Self::Unknown,
        Self::NotAttempted,
    ];

    /// The name that reports and scripts use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Rejected => "rejected",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
            Self::NotAttempted => "not_attempted",
        }
    }

    /// True where sending the token again cannot store it twice.
    pub fn is_safe_to_send(self) -> bool {
        matches!(self, Self::Failed | Self::NotAttempted)
    }

    /// True where nothing that this run does can change it any more.
    pub fn is_final(self) -> bool {
        !self.is_safe_to_send()
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a token was not stored. Shared, because thousands of tokens fail for the same reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Detail {
    /// The five characters of the database's verdict, such as `23514`.
    pub sqlstate: Option<String>,
    /// The constraint that refused the token.
    pub constraint: Option<String>,
    /// What the host or the script says of it.
    pub reason: Option<String>,
    /// The server's primary message, never its DETAIL: that prints the row.
    pub message: Option<String>,
}

impl Detail {
    /// A detail with a `reason` alone.
    pub fn reason(reason: impl Into<String>) -> Arc<Self> {
        Arc::new(Self {
            reason: Some(reason.into()),
            ..Self::default()
        })
    }
}

/// A token and what became of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The token; `token.attempts` says how often it was sent.
    pub token: Token,
    /// What became of it.
    pub status: Status,
    /// From the (last) sending to the answer; zero where it was never sent.
    pub elapsed: Duration,
    /// Why it was not stored; `None` where it was.
    pub detail: Option<Arc<Detail>>,
}

impl Outcome {
    /// The outcome of a token that is not sent (any more). One that was sent before and certainly not
    /// stored is `failed` where this says `not_attempted`, which means never sent.
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

    /// The detail, empty where there is none.
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

/// How many tokens ended in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally([u64; 5]);

impl Tally {
    /// Counts one token.
    pub fn add(&mut self, status: Status) {
        self.0[status as usize] += 1;
    }

    /// How many ended in `status`.
    pub fn get(&self, status: Status) -> u64 {
        self.0[status as usize]
    }

    /// How many tokens were counted.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// How many are neither stored nor rejected.
    pub fn unsettled(&self) -> u64 {
        self.total() - self.get(Status::Stored) - self.get(Status::Rejected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_gives_its_tokens_in_order_and_keeps_the_rest() {
        let mut page = Page::from_texts([
            ("aa", None),
            ("b", Some(TokenDefect::TooLong)),
            ("cc", None),
        ]);
        let taken = page.take(2);
        assert_eq!(taken[0].as_str(), "aa");
        assert_eq!(taken[1].flaw(), Some(TokenDefect::TooLong));
        assert_eq!(page.len(), 1);
        assert_eq!(page.token(0).as_str(), "cc");
        page.truncate(0);
        assert!(page.is_empty());
    }

    #[test]
    fn attempts_survive_a_second_page() {
        let mut token = Token::new("aa", None);
        token.attempts = 3;
        assert_eq!(Page::from_tokens(&[token]).token(0).attempts, 3);
    }

    #[test]
    fn the_form_of_a_token_is_judged() {
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
    fn what_was_sent_before_is_never_called_not_attempted() {
        let mut token = Token::new("aa", None);
        let unsent =
            |token: &Token| Outcome::unsent(token.clone(), Status::NotAttempted, None).status;
        assert_eq!(unsent(&token), Status::NotAttempted);
        token.attempts = 1;
        assert_eq!(unsent(&token), Status::Failed);
    }

    #[test]
    fn debug_output_never_shows_a_token() {
        let outcome = Outcome::unsent(Token::new("s3cret", None), Status::Failed, None);
        assert!(!format!("{outcome:?}").contains("s3cret"));
        let page = Page::from_texts([("s3cret", None)]);
        assert!(!format!("{page:?}").contains("s3cret"));
    }
}
