//! `tokens`, `store` and `reject`: where tokens go.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_imports,
    clippy::needless_pass_by_value,
    clippy::unnecessary_wraps,
    reason = "what the engine's macro makes of natives, and the forms that it asks of them"
)]

use crate::error::Fault;
use std::sync::Arc;

use rhai::plugin::*;
use rhai::{Array, ImmutableString};

use crate::pipeline::channel::PageStream;
use crate::pipeline::token::{Detail, Outcome, Page, Status, Token};
use crate::script::api::RhaiResultOf;
use crate::script::api::arguments::invalid;
use crate::script::api::outcomes::Outcomes;
use crate::script::api::tokens::Tokens;
use crate::script::host::ScriptHost;

/// So many strings of a script make a page.
const PAGE: usize = 10_000;

/// Storing.
#[export_module]
pub mod functions {
    /// Makes tokens of the strings in `array`.
    ///
    /// # Example
    ///
    /// ```rhai
    /// report(store(tokens(["one", "two"])));
    /// ```
    #[rhai_fn(volatile, return_raw)]
    pub fn tokens(context: NativeCallContext, array: Array) -> RhaiResultOf<Tokens> {
        let host = ScriptHost::of(&context)?;
        let len = array.len() as u64;
        Ok(Tokens::new(&host, claim(&host, array)?, Some(len)))
    }

    /// Stores tokens, each in its own transaction, many of them in flight. Starts at once.
    ///
    /// # Example
    ///
    /// ```rhai
    /// let outcomes = store(fetch(SIZE));
    /// report(outcomes);
    /// ```
    #[rhai_fn(volatile, return_raw)]
    pub fn store(context: NativeCallContext, tokens: Tokens) -> RhaiResultOf<Outcomes> {
        let host = ScriptHost::of(&context)?;
        start_store(&host, tokens.take_pages()?)
    }

    /// Stores the strings in an array.
    ///
    /// # Example
    ///
    /// ```rhai
    /// report(store(["one", "two"]));
    /// ```
    #[rhai_fn(name = "store", volatile, return_raw)]
    pub fn store_array(context: NativeCallContext, array: Array) -> RhaiResultOf<Outcomes> {
        let host = ScriptHost::of(&context)?;
        start_store(&host, claim(&host, array)?)
    }

    /// Stores one string.
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
        let host = ScriptHost::of(&context)?;
        start_store(&host, claim(&host, vec![token.into()])?)
    }

    /// Rejects tokens that the script itself refuses: their outcomes have the status `rejected` and
    /// this `reason`; nothing is sent to the database.
    ///
    /// # Example
    ///
    /// ```rhai
    /// report(reject(fetch(SIZE), "not today"));
    /// ```
    #[rhai_fn(volatile, return_raw)]
    pub fn reject(
        context: NativeCallContext,
        tokens: Tokens,
        reason: &str,
    ) -> RhaiResultOf<Outcomes> {
        let host = ScriptHost::of(&context)?;
        Ok(start_reject(&host, tokens.take_pages()?, reason))
    }

    /// Rejects the strings in an array.
    ///
    /// # Example
    ///
    /// ```rhai
    /// report(reject(["one", "two"], "too plain"));
    /// ```
    #[rhai_fn(name = "reject", volatile, return_raw)]
    pub fn reject_array(
        context: NativeCallContext,
        array: Array,
        reason: &str,
    ) -> RhaiResultOf<Outcomes> {
        let host = ScriptHost::of(&context)?;
        Ok(start_reject(&host, claim(&host, array)?, reason))
    }

    /// Rejects one string.
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
        let host = ScriptHost::of(&context)?;
        Ok(start_reject(
            &host,
            claim(&host, vec![token.into()])?,
            reason,
        ))
    }
}

fn start_store(host: &Arc<ScriptHost>, pages: PageStream<Fault>) -> RhaiResultOf<Outcomes> {
    Ok(Outcomes::new(host, host.store(pages)))
}

fn start_reject(host: &Arc<ScriptHost>, pages: PageStream<Fault>, reason: &str) -> Outcomes {
    let detail = Detail::reason(reason);
    let stream = host.judge(pages, move |token| {
        Outcome::unsent(token, Status::Rejected, Some(detail.clone()))
    });
    Outcomes::new(host, stream)
}

/// The tokens that the script's strings stand for.
pub(super) fn claim(host: &ScriptHost, array: Array) -> RhaiResultOf<PageStream<Fault>> {
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
    let pages = tokens.chunks(PAGE).map(Page::from_tokens);
    Ok(PageStream::ready(pages))
}
