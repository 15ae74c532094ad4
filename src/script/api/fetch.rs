//! `fetch` and `fetch_once`: where tokens come from.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_imports,
    clippy::needless_pass_by_value,
    clippy::unnecessary_wraps,
    reason = "what the engine's macro makes of natives, and the forms that it asks of them"
)]

use std::sync::Arc;

use rhai::plugin::*;
use rhai::{INT, Map};

use crate::fetch::FetchPlan;
use crate::script::api::RhaiResultOf;
use crate::script::api::arguments::{invalid, positive, unknown, whole};
use crate::script::api::tokens::Tokens;
use crate::script::host::{AbandonedStream, ScriptHost};
use crate::script::native::thrown;

/// Fetching.
#[export_module]
pub mod functions {
    /// Fetches `size` tokens: lazy, single pass, topping up short deliveries, at most two pages
    /// ahead of whoever takes them.
    ///
    /// # Example
    ///
    /// ```rhai
    /// report(store(fetch(SIZE)));
    /// ```
    #[rhai_fn(volatile, return_raw)]
    pub fn fetch(context: NativeCallContext, size: INT) -> RhaiResultOf<Tokens> {
        let host = ScriptHost::of(&context)?;
        let plan = host.fetcher().plan();
        start_fetch(&host, size, plan)
    }

    /// Fetches `size` tokens with `options`: `page_size` (the most tokens a request),
    /// `retries` (how often a request that was certainly not served is sent again) and
    /// `top_up` (whether to ask again for what a short delivery left out).
    ///
    /// # Example
    ///
    /// ```rhai
    /// report(store(fetch(SIZE, #{page_size: 100, top_up: false})));
    /// ```
    #[rhai_fn(name = "fetch", volatile, return_raw)]
    pub fn fetch_with(context: NativeCallContext, size: INT, options: Map) -> RhaiResultOf<Tokens> {
        let host = ScriptHost::of(&context)?;
        let plan = plan_of(host.fetcher().plan(), &options)?;
        start_fetch(&host, size, plan)
    }

    /// Sends one request for `size` tokens and waits for the answer, which may be short. Throws
    /// where it brought nothing but an error.
    ///
    /// # Example
    ///
    /// ```rhai
    /// let page = fetch_once(10);
    /// log_info(`got ${page.len} of ${page.requested}`);
    /// report(store(page));
    /// ```
    #[rhai_fn(volatile, return_raw)]
    pub fn fetch_once(context: NativeCallContext, size: INT) -> RhaiResultOf<Tokens> {
        let host = ScriptHost::of(&context)?;
        let size = positive("size", size)?;
        let retries = host.fetcher().plan().retries;
        let mut pages = host.fetcher().once(size, retries);
        let len = match host.wait(pages.next()) {
            Ok(None) => 0,
            Ok(Some(Err(fault))) => return Err(thrown(fault)),
            Ok(Some(Ok(page))) => {
                let len = page.len() as u64;
                pages.put_back(page);
                len
            }
            Err(stopped) => {
                // The answer may still come, with tokens in it.
                host.abandon(AbandonedStream::Pages(pages));
                return Err(stopped);
            }
        };
        Ok(Tokens::of_one_page(&host, pages, size, len))
    }
}

/// What the options of `fetch` are called.
pub const OPTIONS: [&str; 3] = ["page_size", "retries", "top_up"];

fn start_fetch(host: &Arc<ScriptHost>, size: INT, plan: FetchPlan) -> RhaiResultOf<Tokens> {
    let size = positive("size", size)?;
    let pages = host.fetcher().stream(size, plan);
    Ok(Tokens::new(host, pages, Some(size)))
}

fn plan_of(mut plan: FetchPlan, options: &Map) -> RhaiResultOf<FetchPlan> {
    for (name, value) in options {
        match name.as_str() {
            "page_size" => plan.page_size = whole("page_size", value)?,
            "retries" => {
                plan.retries = value
                    .as_int()
                    .ok()
                    .and_then(|number| u32::try_from(number).ok())
                    .ok_or_else(|| invalid("retries", "a whole number ≥ 0"))?;
            }
            "top_up" => {
                plan.top_up = value
                    .as_bool()
                    .map_err(|_| invalid("top_up", "true or false"))?;
            }
            other => return Err(unknown(other, &OPTIONS)),
        }
    }
    Ok(plan)
}
