//! Methods and properties of `Tokens`, `Outcomes`, `Outcome` and thrown strings.
#![allow(clippy::unwrap_used, reason = "code that the engine's macro generates")]

use rhai::{Dynamic, FLOAT, INT, ImmutableString, export_module};

use crate::error::escape::json_of;
use crate::pipeline::latency::milliseconds;
use crate::pipeline::token::{Outcome, Status};
use crate::report::record::TokenRecord;
use crate::script::api::outcomes::Outcomes;
use crate::script::api::tokens::{Pages, Tokens};
use crate::script::api::{CountsMap, RhaiResultOf, counts_of};
use crate::script::native::integer;

/// Methods and properties.
#[export_module]
pub mod functions {
    /// Returns the stream page by page; each page is a `Tokens`.
    ///
    /// A page holds the tokens of one response, at most `page_size`. Throws `stream_consumed` if the
    /// tokens were already read. The loop throws the errors of `fetch`.
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

    /// The number of tokens, or `()` if it is not known yet.
    ///
    /// It is known for one page, for an array, and after a loop has read the stream to its end.
    ///
    /// # Example
    ///
    /// ```rhai
    /// let page = fetch_once(3);
    /// log_info(`${page.len} tokens received`);
    /// report(store(page));
    /// ```
    #[rhai_fn(get = "len", name = "len", pure)]
    pub fn tokens_len(tokens: &mut Tokens) -> Dynamic {
        count_or_unit(tokens.count())
    }

    /// Returns true if the stream is known to have no tokens.
    ///
    /// It is false if the number is not known yet, such as for `fetch(SIZE)` before it is read.
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

    /// The number of tokens that were requested.
    ///
    /// For `tokens`, `failures()` and one page of `pages()` it is the number of tokens.
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
        count_or_unit(tokens.requested())
    }

    /// Returns a description of the stream, without its tokens.
    ///
    /// # Example
    ///
    /// ```rhai
    /// let page = fetch(3);
    /// print(page.to_string()); // Tokens(3 requested)
    /// report(store(page));
    /// ```
    #[rhai_fn(name = "to_string", name = "to_debug", pure)]
    pub fn tokens_to_string(tokens: &mut Tokens) -> String {
        match tokens.requested() {
            Some(count) => format!("Tokens({count} requested)"),
            None => "Tokens".to_owned(),
        }
    }

    /// Returns the tokens that are safe to send again: `failed` and `not_attempted`.
    ///
    /// Waits until all outcomes have arrived. Those that were not reported yet stay readable. A token
    /// that is stored again counts once, with its last status. `unknown` tokens are not returned,
    /// because they may be stored.
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

    /// The number of outcomes of each status that were read so far, as a map.
    ///
    /// Its keys are `stored`, `rejected`, `failed`, `unknown` and `not_attempted`. All
    /// counts are 0 until `report`, a loop or `failures()` reads the outcomes.
    ///
    /// # Example
    ///
    /// ```rhai
    /// let outcomes = store(fetch(SIZE));
    /// report(outcomes);
    /// log_info(`${outcomes.counts.stored} stored`);
    /// ```
    #[rhai_fn(get = "counts", pure)]
    pub fn counts(outcomes: &mut Outcomes) -> CountsMap {
        counts_of(outcomes.counts())
    }

    /// Returns a description of the stream, without its tokens.
    ///
    /// # Example
    ///
    /// ```rhai
    /// let outcomes = store(["one"]);
    /// report(outcomes);
    /// print(outcomes.to_string()); // Outcomes(1 seen)
    /// ```
    #[rhai_fn(name = "to_string", name = "to_debug", pure)]
    pub fn outcomes_to_string(outcomes: &mut Outcomes) -> String {
        format!("Outcomes({} seen)", outcomes.counts().total())
    }

    /// The token, as a string.
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

    /// The status: `stored`, `rejected`, `failed`, `unknown` or `not_attempted`.
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

    /// True if the status is `stored`.
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

    /// The number of times that the token was sent to the database.
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

    /// The time from sending the token to its outcome, in milliseconds.
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

    /// The SQLSTATE of the database's error, or `()`.
    ///
    /// It has five characters, such as `23505` for a unique violation.
    ///
    /// # Example
    ///
    /// ```rhai
    /// for outcome in store(fetch(SIZE)) {
    ///     if outcome.sqlstate == "23505" { log_info("already stored"); }
    /// }
    /// ```
    #[rhai_fn(get = "sqlstate", pure)]
    pub fn sqlstate(outcome: &mut Outcome) -> Dynamic {
        text_or_unit(outcome.detail().sqlstate.as_deref())
    }

    /// The name of the constraint that the token violates, or `()`.
    ///
    /// # Example
    ///
    /// ```rhai
    /// report(store(fetch(SIZE)), |outcome| outcome.constraint ?? "stored");
    /// ```
    #[rhai_fn(get = "constraint", pure)]
    pub fn constraint(outcome: &mut Outcome) -> Dynamic {
        text_or_unit(outcome.detail().constraint.as_deref())
    }

    /// The reason that the host or the script gives for the status, or `()`.
    ///
    /// # Example
    ///
    /// ```rhai
    /// report(reject(fetch(SIZE), "not needed"), |outcome| outcome.reason);
    /// ```
    #[rhai_fn(get = "reason", pure)]
    pub fn reason(outcome: &mut Outcome) -> Dynamic {
        text_or_unit(outcome.detail().reason.as_deref())
    }

    /// The message of the database's error, or `()`.
    ///
    /// # Example
    ///
    /// ```rhai
    /// report(store(fetch(SIZE)), |outcome| outcome.message ?? "stored");
    /// ```
    #[rhai_fn(get = "message", pure)]
    pub fn message(outcome: &mut Outcome) -> Dynamic {
        text_or_unit(outcome.detail().message.as_deref())
    }

    /// Returns the outcome as JSON, in the form of a line of the `ndjson` report.
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

    /// Returns the status and the token, separated by a space.
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

    /// Returns the description that `debug` prints: the status, without the token.
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

    /// The kind of a thrown string, which is always `thrown`.
    ///
    /// It exists so that a `catch` can read `error.kind` of every error.
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

    /// The message of a thrown string, which is the string itself.
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

fn count_or_unit(number: Option<u64>) -> Dynamic {
    number.map_or(Dynamic::UNIT, |number| integer(number).into())
}

fn text_or_unit(text: Option<&str>) -> Dynamic {
    text.map_or(Dynamic::UNIT, Into::into)
}
