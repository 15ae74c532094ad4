//! What a journal records about requests: their sizes and idempotency keys, and whose pages arrived.

use serde::{Deserialize, Serialize};

use crate::pipeline::token::{Page, Token};

/// A request that is sent with an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestLine {
    /// Its number in the run, from 1.
    pub number: u64,
    /// The number of tokens.
    pub size: u64,
    /// The idempotency key.
    pub key: String,
}

/// The line of a [`RequestLine`].
#[derive(Serialize)]
pub(super) struct RequestEntry {
    pub request: RequestLine,
}

/// A page of a request.
pub struct ReceivedPage {
    /// The page.
    pub page: Page,
    /// The number of the request.
    pub request: u64,
    /// True if the source has more tokens for the request's idempotency key.
    pub is_partial: bool,
}

/// A request of a journal whose answer is missing, or incomplete.
#[derive(Clone, Debug)]
pub struct UnansweredRequest {
    /// Its number in the run, from 1.
    pub number: u64,
    /// The number of tokens.
    pub size: u64,
    /// The idempotency key.
    pub key: String,
    /// The tokens that have arrived.
    pub received: Vec<String>,
}

impl UnansweredRequest {
    /// Returns the tokens that have arrived.
    pub fn tokens(&self) -> Vec<Token> {
        let tokens = self.received.iter();
        tokens.map(|token| Token::new(token, None)).collect()
    }

    /// Returns the number of tokens that may have been issued and have not arrived.
    pub fn unseen(&self) -> u64 {
        self.size.saturating_sub(self.received.len() as u64)
    }
}
