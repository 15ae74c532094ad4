//! `tokens`, `store` and `reject`: store or reject tokens.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_imports,
    clippy::needless_pass_by_value,
    clippy::unnecessary_wraps,
    reason = "code that the engine's macro generates, and signatures that it requires"
)]

use std::sync::Arc;

use rhai::plugin::*;
use rhai::{Array, ImmutableString};

use crate::error::Error;
use crate::pipeline::channel::PageStream;
use crate::pipeline::token::{Detail, Outcome, Page, Status, Token};
use crate::script::api::RhaiResultOf;
use crate::script::api::arguments::invalid;
use crate::script::api::outcomes::Outcomes;
use crate::script::api::tokens::Tokens;
use crate::script::host::ScriptHost;

/// The number of tokens per page when a script passes an array.
const PAGE_SIZE: usize = 10_000;

/// Functions that store or reject tokens.
#[export_module]
pub mod functions {
    /// Returns a stream of tokens from an array of strings.
    ///
    /// A string that the source delivered is that token. Any other string is a new token and counts
    /// as received. Throws `invalid_argument` if a value is not a string or is empty.
    ///
    /// # Example
    ///
    /// ```rhai
    /// report(store(tokens(["one", "two"])));
    /// ```
    #[rhai_fn(volatile, return_raw)]
    pub fn tokens(context: NativeCallContext, array: Array) -> RhaiResultOf<Tokens> {
        let host = ScriptHost::of_running(&context)?;
        let len = array.len() as u64;
        Ok(Tokens::new(&host, claim_tokens(&host, array)?, Some(len)))
    }

    /// Stores tokens, one transaction per token, with many transactions in flight.
    ///
    /// Starts at once and does not wait: the returned outcomes arrive as transactions end. Errors are
    /// thrown when the outcomes are read: `db_connect` if the database stays unreachable, `db_denied`
    /// if it refuses every insert, and the errors of `fetch`.
    ///
    /// Throws `stream_consumed` if the tokens were already read.
    ///
    /// # Example
    ///
    /// ```rhai
    /// let outcomes = store(fetch(SIZE));
    /// report(outcomes);
    /// ```
    #[rhai_fn(volatile, return_raw)]
    pub fn store(context: NativeCallContext, tokens: Tokens) -> RhaiResultOf<Outcomes> {
        let host = ScriptHost::of_running(&context)?;
        start_store(&host, tokens.take_pages()?)
    }

    /// Stores the strings of an array as tokens.
    ///
    /// Throws `invalid_argument` if a value is not a string or is empty.
    ///
    /// # Example
    ///
    /// ```rhai
    /// report(store(["one", "two"]));
    /// ```
    #[rhai_fn(name = "store", volatile, return_raw)]
    pub fn store_array(context: NativeCallContext, array: Array) -> RhaiResultOf<Outcomes> {
        let host = ScriptHost::of_running(&context)?;
        start_store(&host, claim_tokens(&host, array)?)
    }

    /// Stores one string as a token.
    ///
    /// In a loop that reports each outcome, every token waits for the one before it. To store many
    /// tokens, pass `Tokens` or an array. Throws `invalid_argument` if the string is empty.
    ///
    /// # Example
    ///
    /// ```rhai
    /// for token in fetch(SIZE) {
    ///     report(store(token));
    /// }
    /// ```
    #[rhai_fn(name = "store", volatile, return_raw)]
    pub fn store_text(
        context: NativeCallContext,
        token: ImmutableString,
    ) -> RhaiResultOf<Outcomes> {
        let host = ScriptHost::of_running(&context)?;
        start_store(&host, claim_tokens(&host, vec![token.into()])?)
    }

    /// Rejects tokens without sending them to the database.
    ///
    /// Their outcomes have the status `rejected` and this `reason`. Throws `stream_consumed` if the
    /// tokens were already read.
    ///
    /// # Example
    ///
    /// ```rhai
    /// report(reject(fetch(SIZE), "not needed"));
    /// ```
    #[rhai_fn(volatile, return_raw)]
    pub fn reject(
        context: NativeCallContext,
        tokens: Tokens,
        reason: &str,
    ) -> RhaiResultOf<Outcomes> {
        let host = ScriptHost::of_running(&context)?;
        Ok(start_reject(&host, tokens.take_pages()?, reason))
    }

    /// Rejects the strings of an array without sending them to the database.
    ///
    /// Throws `invalid_argument` if a value is not a string or is empty.
    ///
    /// # Example
    ///
    /// ```rhai
    /// report(reject(["one", "two"], "too short"));
    /// ```
    #[rhai_fn(name = "reject", volatile, return_raw)]
    pub fn reject_array(
        context: NativeCallContext,
        array: Array,
        reason: &str,
    ) -> RhaiResultOf<Outcomes> {
        let host = ScriptHost::of_running(&context)?;
        Ok(start_reject(&host, claim_tokens(&host, array)?, reason))
    }

    /// Rejects one string without sending it to the database.
    ///
    /// Throws `invalid_argument` if the string is empty.
    ///
    /// # Example
    ///
    /// ```rhai
    /// for token in fetch(SIZE) {
    ///     if token.starts_with("A") {
    ///         report(reject(token, "starts with A"));
    ///     } else {
    ///         report(store(token));
    ///     }
    /// }
    /// ```
    #[rhai_fn(name = "reject", volatile, return_raw)]
    pub fn reject_text(
        context: NativeCallContext,
        token: ImmutableString,
        reason: &str,
    ) -> RhaiResultOf<Outcomes> {
        let host = ScriptHost::of_running(&context)?;
        Ok(start_reject(
            &host,
            claim_tokens(&host, vec![token.into()])?,
            reason,
        ))
    }
}

fn start_store(host: &Arc<ScriptHost>, pages: PageStream<Error>) -> RhaiResultOf<Outcomes> {
    Ok(Outcomes::new(host, host.store(pages)))
}

fn start_reject(host: &Arc<ScriptHost>, pages: PageStream<Error>, reason: &str) -> Outcomes {
    let detail = Detail::reason(reason);
    let stream = host.map_to_outcomes(pages, move |token| {
        Outcome::unsent(token, Status::Rejected, Some(detail.clone()))
    });
    Outcomes::new(host, stream)
}

/// Returns the tokens of a script's strings.
fn claim_tokens(host: &ScriptHost, array: Array) -> RhaiResultOf<PageStream<Error>> {
    let mut texts = Vec::with_capacity(array.len());
    for value in array {
        let text = value
            .into_immutable_string()
            .ok()
            .filter(|text| !text.is_empty())
            .ok_or_else(|| invalid("tokens", "strings that are not empty"))?;
        texts.push(text);
    }
    let max_token = host.fetcher().max_token();
    let mut ledger = host.ledger();
    let tokens: Vec<Token> = texts
        .iter()
        .map(|text| ledger.claim(text, max_token))
        .collect();
    let pages = tokens.chunks(PAGE_SIZE).map(Page::from_tokens);
    Ok(PageStream::ready(pages))
}
