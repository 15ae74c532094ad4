//! What a fetch asks, and what comes back: the seam between paging and the wire.

use crate::error::ErrorKind;
use std::future::Future;
use std::pin::Pin;

use crate::error::Fault;
use crate::fetch::lines::{DocumentKind, LineParser};
use crate::pipeline::token::Page;

/// What answers a request for tokens.
pub trait TokenSource: Send + Sync {
    /// Asks for `count` tokens, once.
    fn request(&self, count: u64) -> AnswerFuture<'_>;

    /// What asking it means.
    fn nature(&self) -> SourceKind {
        SourceKind::Issuer
    }
}

/// What asking a source means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// It issues tokens for a request, which is counted and, once sent, waited for: they would be lost.
    Issuer,
    /// It holds tokens, and gives those that are there; asking is free, and can be taken back.
    Holder {
        /// True where all that it holds is asked for, so that its end is no fault.
        open_ended: bool,
    },
}

/// An answer on its way.
pub type AnswerFuture<'a> = Pin<Box<dyn Future<Output = SourceAnswer> + Send + 'a>>;

/// What one request brought: whole lines even where it failed half-way.
pub struct SourceAnswer {
    /// The tokens, at most as many as were asked for.
    pub page: Page,
    /// Tokens beyond what was asked for, dropped.
    pub surplus: u64,
    /// What went wrong.
    pub fault: Option<Fault>,
    /// True where the source will never have more.
    pub ended: bool,
}

impl SourceAnswer {
    /// An answer without a token.
    pub fn failed(fault: Fault) -> Self {
        Self {
            page: Page::from_texts([]),
            surplus: 0,
            fault: Some(fault),
            ended: false,
        }
    }

    /// That of a holder which a stopped run does not wait for.
    pub fn nothing() -> Self {
        Self {
            page: Page::from_texts([]),
            surplus: 0,
            fault: None,
            ended: false,
        }
    }

    /// What `parser` was fed by the source at `address`, until it ended or met `fault`.
    pub fn of(parser: LineParser, fault: Option<Fault>, address: &str) -> Self {
        let lines = parser.finish(fault.is_none());
        if let Some(document) = lines.document {
            let what = match document {
                DocumentKind::Markup => "it sent an HTML or XML document",
                DocumentKind::Json => "it sent a JSON document",
            };
            return Self::failed(no_list(address, what));
        }
        Self {
            page: lines.page,
            surplus: lines.surplus,
            fault,
            ended: false,
        }
    }
}

/// The source at `address` answered something that is no list of tokens.
pub fn no_list(address: &str, what: &str) -> Fault {
    Fault::new(
        ErrorKind::HttpProtocol,
        "the token source did not answer with a list of tokens",
    )
    .cause(format!("{address}: {what}"))
    .hint("a token source answers 200 with one token a line; check TOKEN_HOST or source.url")
}
