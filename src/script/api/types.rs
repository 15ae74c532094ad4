//! What `Tokens`, `Outcomes` and `Outcome` can do.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_imports,
    clippy::needless_pass_by_value,
    clippy::unnecessary_wraps,
    reason = "what the engine's macro makes of natives, and the forms that it asks of them"
)]

use rhai::plugin::*;
use rhai::{FLOAT, INT, ImmutableString, Map};

use crate::error::escape::json_of;
use crate::pipeline::latency::milliseconds;
use crate::pipeline::token::{Outcome, Status};
use crate::report::record::TokenRecord;
use crate::script::api::outcomes::Outcomes;
use crate::script::api::tokens::{Pages, Tokens};
use crate::script::api::{RhaiResultOf, counts_of};
use crate::script::native::integer;

/// Methods and properties.
#[export_module]
pub mod functions {
    /// The pages as they come from the source, each a `Tokens` of its own.
    ///
    /// # Example
    ///
    /// ```rhai
    /// for page in fetch(SIZE).pages() {
    ///     report(store(page));
    /// }
    /// ```
    #[rhai_fn(volatile, return_raw)]
    pub fn pages(tokens: &mut Tokens) -> RhaiResultOf<Pages> {
        tokens.pages()
    }

    /// How many tokens it holds or held: known for one page, and once it was read to the end;
    /// `()` before.
    ///
    /// # Example
    ///
    /// ```rhai
    /// let page = fetch_once(3);
    /// log_info(`${page.len} tokens came`);
    /// report(store(page));
    /// ```
    #[rhai_fn(get = "len", pure)]
    pub fn tokens_len(tokens: &mut Tokens) -> Dynamic {
        known(tokens.count())
    }

    /// How many tokens it holds or held, or `()` where that is not known yet.
    ///
    /// # Example
    ///
    /// ```rhai
    /// let page = tokens(["one", "two"]);
    /// print(page.len()); // 2
    /// report(store(page));
    /// ```
    #[rhai_fn(name = "len", pure)]
    pub fn tokens_len_method(tokens: &mut Tokens) -> Dynamic {
        known(tokens.count())
    }

    /// True where it is known to hold no token.
    ///
    /// # Example
    ///
    /// ```rhai
    /// let failed = store(["one"]).failures();
    /// if !failed.is_empty() { report(store(failed)); }
    /// ```
    #[rhai_fn(name = "is_empty", pure)]
    pub fn tokens_is_empty(tokens: &mut Tokens) -> bool {
        tokens.count() == Some(0)
    }

    /// How many tokens were asked for.
    ///
    /// # Example
    ///
    /// ```rhai
    /// let page = fetch_once(3);
    /// if page.len < page.requested { log_warn("a short delivery"); }
    /// report(store(page));
    /// ```
    #[rhai_fn(get = "requested", pure)]
    pub fn tokens_requested(tokens: &mut Tokens) -> Dynamic {
        known(tokens.requested())
    }

    /// The stream in words, without its tokens.
    ///
    /// # Example
    ///
    /// ```rhai
    /// let page = fetch(3);
    /// print(page.to_string()); // Tokens(3 requested)
    /// report(store(page));
    /// ```
    #[rhai_fn(name = "to_string", pure)]
    pub fn tokens_to_string(tokens: &mut Tokens) -> String {
        match tokens.requested() {
            Some(count) => format!("Tokens({count} requested)"),
            None => "Tokens".to_owned(),
        }
    }

    /// The stream in words, without its tokens.
    ///
    /// # Example
    ///
    /// ```rhai
    /// let page = fetch(3);
    /// debug(page);
    /// report(store(page));
    /// ```
    #[rhai_fn(name = "to_debug", pure)]
    pub fn tokens_to_debug(tokens: &mut Tokens) -> String {
        tokens_to_string(tokens)
    }

    /// The tokens that are safe to send again (`failed` and `not_attempted`). Stored again, each
    /// counts once, with its last status.
    ///
    /// # Example
    ///
    /// ```rhai
    /// let outcomes = store(fetch(SIZE));
    /// report(outcomes);
    /// report(store(outcomes.failures()));
    /// ```
    #[rhai_fn(volatile, return_raw)]
    pub fn failures(outcomes: &mut Outcomes) -> RhaiResultOf<Tokens> {
        outcomes.failures()
    }

    /// How many outcomes of each status were seen so far, as a map.
    ///
    /// # Example
    ///
    /// ```rhai
    /// let outcomes = store(fetch(SIZE));
    /// report(outcomes);
    /// log_info(`${outcomes.counts.stored} stored`);
    /// ```
    #[rhai_fn(get = "counts", pure)]
    pub fn counts(outcomes: &mut Outcomes) -> Map {
        counts_of(&outcomes.counts())
    }

    /// The stream in words, without its tokens.
    ///
    /// # Example
    ///
    /// ```rhai
    /// let outcomes = store(["one"]);
    /// report(outcomes);
    /// print(outcomes.to_string()); // Outcomes(1 seen)
    /// ```
    #[rhai_fn(name = "to_string", pure)]
    pub fn outcomes_to_string(outcomes: &mut Outcomes) -> String {
        format!("Outcomes({} seen)", outcomes.counts().total())
    }

    /// The stream in words, without its tokens.
    ///
    /// # Example
    ///
    /// ```rhai
    /// let outcomes = store(["one"]);
    /// debug(outcomes);
    /// report(outcomes);
    /// ```
    #[rhai_fn(name = "to_debug", pure)]
    pub fn outcomes_to_debug(outcomes: &mut Outcomes) -> String {
        outcomes_to_string(outcomes)
    }

    /// The token itself.
    ///
    /// # Example
    ///
    /// ```rhai
    /// report(store(fetch(SIZE)), |outcome| outcome.token);
    /// ```
    #[rhai_fn(get = "token", pure)]
    pub fn token(outcome: &mut Outcome) -> ImmutableString {
        outcome.token.as_str().into()
    }

    /// `stored`, `rejected`, `failed`, `unknown` or `not_attempted`.
    ///
    /// # Example
    ///
    /// ```rhai
    /// for outcome in store(fetch(SIZE)) {
    ///     switch outcome.status {
    ///         "stored" => log_debug("stored"),
    ///         "rejected" => log_info("rejected"),
    ///         _ => log_warn("try again later"),
    ///     }
    /// }
    /// ```
    #[rhai_fn(get = "status", pure)]
    pub fn status(outcome: &mut Outcome) -> ImmutableString {
        outcome.status.as_str().into()
    }

    /// True where the status is `stored`.
    ///
    /// # Example
    ///
    /// ```rhai
    /// report(store(fetch(SIZE)), |outcome| if outcome.stored { "yes" } else { "no" });
    /// ```
    #[rhai_fn(get = "stored", pure)]
    pub fn stored(outcome: &mut Outcome) -> bool {
        outcome.status == Status::Stored
    }

    /// How often it was sent to the database.
    ///
    /// # Example
    ///
    /// ```rhai
    /// report(store(fetch(SIZE)), |outcome| `${outcome.status} after ${outcome.attempts}`);
    /// ```
    #[rhai_fn(get = "attempts", pure)]
    pub fn attempts(outcome: &mut Outcome) -> INT {
        outcome.token.attempts.into()
    }

    /// Milliseconds from sending it to the verdict.
    ///
    /// # Example
    ///
    /// ```rhai
    /// report(store(fetch(SIZE)), |outcome| `${outcome.status} in ${outcome.ms} ms`);
    /// ```
    #[rhai_fn(get = "ms", pure)]
    pub fn ms(outcome: &mut Outcome) -> FLOAT {
        milliseconds(outcome.elapsed)
    }

    /// The database's five-character code, or `()`.
    ///
    /// # Example
    ///
    /// ```rhai
    /// for outcome in store(fetch(SIZE)) {
    ///     if outcome.sqlstate == "23505" { log_info("it was there already"); }
    /// }
    /// ```
    #[rhai_fn(get = "sqlstate", pure)]
    pub fn sqlstate(outcome: &mut Outcome) -> Dynamic {
        text_of(outcome.detail().sqlstate.as_deref())
    }

    /// The constraint that refused it, or `()`.
    ///
    /// # Example
    ///
    /// ```rhai
    /// report(store(fetch(SIZE)), |outcome| outcome.constraint ?? "stored");
    /// ```
    #[rhai_fn(get = "constraint", pure)]
    pub fn constraint(outcome: &mut Outcome) -> Dynamic {
        text_of(outcome.detail().constraint.as_deref())
    }

    /// Why the host or the script refused it, or `()`.
    ///
    /// # Example
    ///
    /// ```rhai
    /// report(reject(fetch(SIZE), "not today"), |outcome| outcome.reason);
    /// ```
    #[rhai_fn(get = "reason", pure)]
    pub fn reason(outcome: &mut Outcome) -> Dynamic {
        text_of(outcome.detail().reason.as_deref())
    }

    /// The database's message, or `()`.
    ///
    /// # Example
    ///
    /// ```rhai
    /// report(store(fetch(SIZE)), |outcome| outcome.message ?? "stored");
    /// ```
    #[rhai_fn(get = "message", pure)]
    pub fn message(outcome: &mut Outcome) -> Dynamic {
        text_of(outcome.detail().message.as_deref())
    }

    /// The outcome as the object of the `ndjson` report.
    ///
    /// # Example
    ///
    /// ```rhai
    /// report(store(fetch(SIZE)), |outcome| outcome.to_json());
    /// ```
    #[rhai_fn(name = "to_json", pure)]
    pub fn outcome_to_json(outcome: &mut Outcome) -> String {
        json_of(&TokenRecord::new(outcome))
    }

    /// The status and the token.
    ///
    /// # Example
    ///
    /// ```rhai
    /// report(store(fetch(SIZE)), |outcome| outcome.to_string());
    /// ```
    #[rhai_fn(name = "to_string", pure)]
    pub fn outcome_to_string(outcome: &mut Outcome) -> String {
        format!("{} {}", outcome.status, outcome.token.as_str())
    }

    /// The status alone.
    ///
    /// # Example
    ///
    /// ```rhai
    /// for outcome in store(fetch(SIZE)) { debug(outcome); }
    /// ```
    #[rhai_fn(name = "to_debug", pure)]
    pub fn outcome_to_debug(outcome: &mut Outcome) -> String {
        format!("Outcome({})", outcome.status)
    }

    /// A text that was thrown has the kind `thrown`, so that a `catch` may ask every error.
    ///
    /// # Example
    ///
    /// ```rhai
    /// try { throw "too few"; } catch (error) { print(error.kind); } // thrown
    /// ```
    #[rhai_fn(get = "kind", pure)]
    pub fn text_kind(text: &mut ImmutableString) -> ImmutableString {
        let _ = text;
        "thrown".into()
    }

    /// A text that was thrown is its own message.
    ///
    /// # Example
    ///
    /// ```rhai
    /// try { throw "too few"; } catch (error) { print(error.message); } // too few
    /// ```
    #[rhai_fn(get = "message", pure)]
    pub fn text_message(text: &mut ImmutableString) -> ImmutableString {
        text.clone()
    }
}

fn known(number: Option<u64>) -> Dynamic {
    number.map_or(Dynamic::UNIT, |number| integer(number).into())
}

fn text_of(text: Option<&str>) -> Dynamic {
    text.map_or(Dynamic::UNIT, Into::into)
}
