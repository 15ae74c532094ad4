//! `fetch` and `fetch_once`: request tokens from the source.

use std::sync::Arc;

use rhai::{INT, Map, NativeCallContext, export_module};

use crate::fetch::FetchPlan;
use crate::script::api::RhaiResultOf;
use crate::script::api::arguments::{Options, invalid, positive, set_options, whole_number};
use crate::script::api::tokens::{TokenSource, Tokens};
use crate::script::host::{AbandonedStream, ScriptHost};
use crate::script::native::thrown;

/// Functions that fetch tokens.
#[export_module]
pub mod functions {
    /// Returns a stream of `size` tokens from the source.
    ///
    /// The first request is sent when the stream is first read. After that, pages are fetched ahead:
    /// at most two, or as many as there are concurrent requests. If a response has fewer tokens than
    /// requested, the missing ones are requested again. The stream can be read once.
    ///
    /// Throws `invalid_argument` if `size` is below 1. Reading the stream throws `http_connect`,
    /// `http_timeout`, `http_status` or `http_protocol` if a request fails, and `short_supply` if the
    /// source delivers no more tokens.
    ///
    /// # Example
    ///
    /// ```rhai
    /// report(store(fetch(SIZE)));
    /// ```
    #[rhai_fn(volatile, return_raw)]
    pub fn fetch(context: NativeCallContext, size: INT) -> RhaiResultOf<Tokens> {
        let host = ScriptHost::of_running(&context)?;
        let plan = host.fetcher().plan();
        start_fetch(&host, size, plan)
    }

    /// Returns a stream of `size` tokens from the source, fetched with `options`.
    ///
    /// Each option replaces the configured value for this fetch:
    ///
    /// - `page_size`: the most tokens per request, at least 1.
    /// - `retries`: how often a request is repeated that the source certainly did not serve.
    /// - `top_up`: whether to request the missing tokens of a short response again.
    ///
    /// Throws `invalid_argument` if an option does not exist or has an invalid value.
    ///
    /// # Example
    ///
    /// ```rhai
    /// report(store(fetch(SIZE, #{page_size: 100, top_up: false})));
    /// ```
    #[rhai_fn(name = "fetch", volatile, return_raw)]
    pub fn fetch_with(context: NativeCallContext, size: INT, options: Map) -> RhaiResultOf<Tokens> {
        let host = ScriptHost::of_running(&context)?;
        let mut plan = host.fetcher().plan();
        set_options(&mut plan, &options, &OPTIONS)?;
        start_fetch(&host, size, plan)
    }

    /// Sends one request for `size` tokens and waits for the response, which may have fewer.
    ///
    /// The request is repeated only if the source certainly did not serve it. Throws
    /// `invalid_argument` if `size` is below 1, and `http_connect`, `http_timeout`, `http_status` or
    /// `http_protocol` if the request fails without a token. If it fails after some tokens, they are
    /// returned, and reading past them throws the error.
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
        let host = ScriptHost::of_running(&context)?;
        let size = positive("size", size)?;
        let retries = host.fetcher().plan().retries;
        let mut pages = host.fetcher().once(size, retries);
        let len = match host.wait(pages.next()) {
            Ok(None) => 0,
            Ok(Some(Err(error))) => return Err(thrown(error)),
            Ok(Some(Ok(page))) => {
                let len = page.len() as u64;
                pages.put_back(page);
                len
            }
            Err(stopped) => {
                // The response may still arrive, with tokens in it.
                host.abandon(AbandonedStream::Pages(pages));
                return Err(stopped);
            }
        };
        let source = TokenSource::Pages(pages);
        Ok(Tokens::of(&host, source, Some(size), Some(len)))
    }
}

/// The options of `fetch`.
pub const OPTIONS: Options<FetchPlan, 3> = [
    ("page_size", |plan, name, value| {
        whole_number(name, value).map(|size| plan.page_size = size)
    }),
    ("retries", |plan, name, value| {
        let retries = value
            .as_int()
            .ok()
            .and_then(|number| number.try_into().ok());
        let retries = retries.ok_or_else(|| invalid(name, "a whole number ≥ 0"));
        retries.map(|retries| plan.retries = Some(retries))
    }),
    ("top_up", |plan, name, value| {
        let top_up = value.as_bool().map_err(|_| invalid(name, "true or false"));
        top_up.map(|top_up| plan.top_up = top_up)
    }),
];

fn start_fetch(host: &Arc<ScriptHost>, size: INT, plan: FetchPlan) -> RhaiResultOf<Tokens> {
    let size = positive("size", size)?;
    let pages = host.fetcher().stream(size, plan);
    Ok(Tokens::new(host, pages, Some(size)))
}
