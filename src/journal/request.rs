//! What a journal records about requests: their sizes and idempotency keys, and whose pages arrived.

use serde::{Deserialize, Serialize};

use crate::pipeline::token::{Page, Token, position};

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

/// Returns the lines of an answer that its valid tokens have, as ranges; `None` if they are the first ones.
pub(super) fn lines_of(tokens: &[Token]) -> Option<Vec<(u32, u32)>> {
    let mut lines: Vec<(u32, u32)> = Vec::new();
    for token in tokens {
        // The low half of a position is the line.
        let line = u32::try_from(token.receipt.position & u64::from(u32::MAX)).unwrap_or_default();
        match lines.last_mut() {
            Some((_, last)) if *last + 1 == line => *last = line,
            _ => lines.push((line, line)),
        }
    }
    match lines[..] {
        [] | [(0 | 1, _)] => None,
        _ => Some(lines),
    }
}

/// Returns the positions of tokens with these lines, or with the first ones.
pub fn positions_of(request: u64, lines: Option<&[(u32, u32)]>) -> impl Iterator<Item = u64> {
    let lines = lines.map_or_else(|| vec![(1, u32::MAX)], <[(u32, u32)]>::to_vec);
    let lines = lines.into_iter().flat_map(|(first, last)| first..=last);
    lines.map(move |line| position(request, u64::from(line)))
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
