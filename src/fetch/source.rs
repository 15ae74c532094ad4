//! The interface between paging and the token sources: a request and its answer.

use std::future::Future;
use std::pin::Pin;

use crate::error::{Error, ErrorKind};
use crate::fetch::lines::LineParser;
use crate::pipeline::token::Page;

/// A request to a source.
#[derive(Clone, Copy, Debug)]
pub struct SourceRequest<'a> {
    /// The number of tokens.
    pub count: u64,
    /// The idempotency key: the source gives the same tokens for the same key and count.
    pub key: Option<&'a str>,
}

/// A source of tokens.
pub trait TokenSource: Send + Sync {
    /// Sends a request, once.
    fn request<'a>(&'a self, request: SourceRequest<'a>) -> AnswerFuture<'a>;

    /// Returns true if its requests have an idempotency key.
    fn sends_keys(&self) -> bool {
        false
    }

    /// Returns whether its requests are remote or local.
    fn kind(&self) -> SourceKind {
        SourceKind::Remote
    }
}

/// Whether requests to a source are remote or local.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// Each request issues tokens. It is counted and, once sent, awaited: its tokens would be lost.
    Remote,
    /// Requests read existing tokens: they are not counted, and can be cancelled.
    Local {
        /// True if the run takes all of its tokens, so that its end is not an error.
        open_ended: bool,
    },
}

/// The future of a source's answer.
pub type AnswerFuture<'a> = Pin<Box<dyn Future<Output = SourceAnswer> + Send + 'a>>;

/// The answer to one request: complete lines, even if it failed after some of them.
pub struct SourceAnswer {
    /// The tokens, at most as many as requested.
    pub page: Page,
    /// Number of tokens beyond the requested ones; they are dropped.
    pub surplus: u64,
    /// Number of tokens that an earlier process of the run settled; they are dropped too.
    pub settled_before: u64,
    /// Why the request failed, if it did.
    pub error: Option<Error>,
    /// True if the source has no more tokens.
    pub ended: bool,
    /// True if the answer, or the end of it, did not arrive, so that the same request may get it.
    pub is_incomplete: bool,
}

impl SourceAnswer {
    /// Marks an answer that was lost, if the source may have sent it.
    #[must_use]
    pub fn incomplete(mut self) -> Self {
        self.is_incomplete = self.error.as_ref().is_some_and(|error| {
            error.is_kind(|kind| matches!(kind, ErrorKind::HttpTimeout | ErrorKind::HttpProtocol))
        });
        self
    }

    /// Returns the number of tokens that the source has delivered.
    pub fn received(&self) -> u64 {
        self.page.len() as u64 + self.settled_before
    }

    /// Returns an answer without tokens that failed with `error`.
    pub fn failed(error: Error) -> Self {
        Self {
            page: Page::from_texts([]),
            surplus: 0,
            settled_before: 0,
            error: Some(error),
            ended: false,
            is_incomplete: false,
        }
    }

    /// Returns an answer without tokens or error, for a stopped run.
    pub fn empty() -> Self {
        Self {
            page: Page::from_texts([]),
            surplus: 0,
            settled_before: 0,
            error: None,
            ended: false,
            is_incomplete: false,
        }
    }

    /// Builds the answer of the source at `address` from what `parser` was fed before `error`.
    pub fn from_lines(parser: LineParser, error: Option<Error>, address: &str) -> Self {
        let lines = parser.finish(error.is_none());
        if let Some(document) = lines.document {
            let what = format!("it sent {document}");
            return Self::failed(not_a_token_list(address, &what));
        }
        Self {
            page: lines.page,
            surplus: lines.surplus,
            settled_before: 0,
            error,
            ended: false,
            is_incomplete: false,
        }
        .incomplete()
    }
}

/// Returns the error of a source at `address` that answered something other than tokens.
pub fn not_a_token_list(address: &str, what: &str) -> Error {
    Error::of(
        ErrorKind::HttpProtocol,
        "the token source did not answer with a list of tokens",
    )
    .cause(format!("{address}: {what}"))
    .hint("a token source answers 200 with one token a line; check TOKEN_HOST or source.url")
}
