//! The primitives that scripts call, under their plain names and under `host::`. The doc comments
//! here are the script API reference: `token_service api` prints them.

use std::time::Duration;

use rhai::plugin::*;
use rhai::{Array, FLOAT, FnPtr, INT, ImmutableString, Map};

use super::fault::{integer, thrown};
use super::host::{Abandoned, Host};
// The engine's metadata knows this name and leaves it out of what it prints for scripts.
use super::host::Native as RhaiResultOf;
use super::streams::{Outcomes, Pages, Tokens};
use crate::fault::{Fault, Kind};
use crate::fetch::Plan;
use crate::fetch::retry::backoff;
use crate::report::escape_line;
use crate::stream::PageStream;
use crate::token::{Detail, Outcome, Page, Status, Tally, Token};

/// So many strings of a script make a page.
const PAGE: usize = 10_000;

/// The flat primitives.
#[export_module]
pub mod primitives {
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
        let host = Host::of(&context)?;
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
        let host = Host::of(&context)?;
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
        let host = Host::of(&context)?;
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
                host.abandon(Abandoned::Pages(pages));
                return Err(stopped);
            }
        };
        Ok(Tokens::of_one_page(&host, pages, size, len))
    }

    /// Makes tokens of the strings in `array`.
    ///
    /// # Example
    ///
    /// ```rhai
    /// report(store(tokens(["one", "two"])));
    /// ```
    #[rhai_fn(volatile, return_raw)]
    pub fn tokens(context: NativeCallContext, array: Array) -> RhaiResultOf<Tokens> {
        let host = Host::of(&context)?;
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
        let host = Host::of(&context)?;
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
        let host = Host::of(&context)?;
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
    pub fn store_text(context: NativeCallContext, token: ImmutableString) -> RhaiResultOf<Outcomes> {
        let host = Host::of(&context)?;
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
    pub fn reject(context: NativeCallContext, tokens: Tokens, reason: &str) -> RhaiResultOf<Outcomes> {
        let host = Host::of(&context)?;
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
    pub fn reject_array(context: NativeCallContext, array: Array, reason: &str) -> RhaiResultOf<Outcomes> {
        let host = Host::of(&context)?;
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
        let host = Host::of(&context)?;
        Ok(start_reject(&host, claim(&host, vec![token.into()])?, reason))
    }

    /// Writes outcomes to every configured report as they arrive, and gives the summary so far.
    ///
    /// # Example
    ///
    /// ```rhai
    /// let summary = report(store(fetch(SIZE)));
    /// log_info(`${summary.stored} stored`);
    /// ```
    #[rhai_fn(volatile, return_raw)]
    pub fn report(context: NativeCallContext, outcomes: Outcomes) -> RhaiResultOf<Map> {
        write_report(&context, &outcomes, None)
    }

    /// The same, with the script's own line for the `text` report.
    ///
    /// # Example
    ///
    /// ```rhai
    /// report(store(fetch(SIZE)), |outcome| `${outcome.status}: ${outcome.token}`);
    /// ```
    #[rhai_fn(name = "report", volatile, return_raw)]
    pub fn report_lines(context: NativeCallContext, outcomes: Outcomes, line: FnPtr) -> RhaiResultOf<Map> {
        write_report(&context, &outcomes, Some(&line))
    }

    /// Writes a line to standard output, in order with the report there.
    ///
    /// # Example
    ///
    /// ```rhai
    /// emit("token,status");
    /// ```
    #[rhai_fn(volatile, return_raw)]
    pub fn emit(context: NativeCallContext, text: &str) -> RhaiResultOf<()> {
        let host = Host::of(&context)?;
        let text = escape_line(text);
        host.ledger().reports().emit(&text).map_err(thrown)
    }

    /// Writes a line to a file inside `--out-dir`, which the first line of a run empties.
    ///
    /// # Example
    ///
    /// ```rhai
    /// emit("a line", "notes.txt");
    /// ```
    #[rhai_fn(name = "emit", volatile, return_raw)]
    pub fn emit_file(context: NativeCallContext, text: &str, file: &str) -> RhaiResultOf<()> {
        let host = Host::of(&context)?;
        host.emitter().emit(&escape_line(text), file).map_err(thrown)
    }

    /// Calls `action` up to `attempts` times until it does not throw, and gives its value. Waits
    /// in between, longer each time and by chance (full jitter), or as long as the source asks.
    /// Errors that say they are not `retryable` are thrown on at once.
    ///
    /// # Example
    ///
    /// ```rhai
    /// let page = retry(5, || fetch_once(10));
    /// report(store(page));
    /// ```
    #[rhai_fn(volatile, return_raw)]
    pub fn retry(context: NativeCallContext, attempts: INT, action: FnPtr) -> RhaiResultOf<Dynamic> {
        let rules = Rules {
            attempts: positive("attempts", attempts)?,
            ..Rules::default()
        };
        run_retry(&context, &rules, &action)
    }

    /// The same with options: `attempts`, `base_ms` and `max_ms` of the waits, and `on`, the kinds
    /// of error that are worth another try.
    ///
    /// # Example
    ///
    /// ```rhai
    /// let page = retry(#{attempts: 3, base_ms: 50, on: ["http_status"]}, || fetch_once(10));
    /// report(store(page));
    /// ```
    #[rhai_fn(name = "retry", volatile, return_raw)]
    pub fn retry_with(context: NativeCallContext, options: Map, action: FnPtr) -> RhaiResultOf<Dynamic> {
        run_retry(&context, &rules_of(&options)?, &action)
    }

    /// Waits for a time with its unit, such as `"500ms"` or `"2s"`.
    ///
    /// # Example
    ///
    /// ```rhai
    /// sleep("10ms");
    /// ```
    #[rhai_fn(volatile, return_raw)]
    pub fn sleep(context: NativeCallContext, time: &str) -> RhaiResultOf<()> {
        let time = humantime::parse_duration(time)
            .map_err(|_| invalid("time", "a time with its unit, such as \"2s\""))?;
        wait(&context, time)
    }

    /// Waits for so many seconds.
    ///
    /// # Example
    ///
    /// ```rhai
    /// sleep(0);
    /// ```
    #[rhai_fn(name = "sleep", volatile, return_raw)]
    pub fn sleep_seconds(context: NativeCallContext, seconds: INT) -> RhaiResultOf<()> {
        let seconds = u64::try_from(seconds)
            .map_err(|_| invalid("seconds", "a number of seconds that is not negative"))?;
        wait(&context, Duration::from_secs(seconds))
    }

    /// Waits for so many seconds, which may be a fraction.
    ///
    /// # Example
    ///
    /// ```rhai
    /// sleep(0.01);
    /// ```
    #[rhai_fn(name = "sleep", volatile, return_raw)]
    pub fn sleep_fraction(context: NativeCallContext, seconds: FLOAT) -> RhaiResultOf<()> {
        let time = Duration::try_from_secs_f64(seconds)
            .map_err(|_| invalid("seconds", "a number of seconds that is not negative"))?;
        wait(&context, time)
    }

    /// Logs on standard error, for developers.
    ///
    /// # Example
    ///
    /// ```rhai
    /// log_debug("about to fetch");
    /// ```
    #[rhai_fn(volatile)]
    pub fn log_debug(message: &str) {
        tracing::debug!(target: "script", "{message}");
    }

    /// The same with fields.
    ///
    /// # Example
    ///
    /// ```rhai
    /// log_debug("about to fetch", #{size: SIZE});
    /// ```
    #[rhai_fn(name = "log_debug", volatile)]
    pub fn log_debug_fields(message: &str, fields: Map) {
        tracing::debug!(target: "script", fields = json(&fields), "{message}");
    }

    /// Logs on standard error.
    ///
    /// # Example
    ///
    /// ```rhai
    /// log_info("fetching");
    /// ```
    #[rhai_fn(volatile)]
    pub fn log_info(message: &str) {
        tracing::info!(target: "script", "{message}");
    }

    /// The same with fields.
    ///
    /// # Example
    ///
    /// ```rhai
    /// log_info("fetching", #{size: SIZE});
    /// ```
    #[rhai_fn(name = "log_info", volatile)]
    pub fn log_info_fields(message: &str, fields: Map) {
        tracing::info!(target: "script", fields = json(&fields), "{message}");
    }

    /// Logs a warning on standard error.
    ///
    /// # Example
    ///
    /// ```rhai
    /// log_warn("few tokens left");
    /// ```
    #[rhai_fn(volatile)]
    pub fn log_warn(message: &str) {
        tracing::warn!(target: "script", "{message}");
    }

    /// The same with fields.
    ///
    /// # Example
    ///
    /// ```rhai
    /// log_warn("few tokens left", #{left: 3});
    /// ```
    #[rhai_fn(name = "log_warn", volatile)]
    pub fn log_warn_fields(message: &str, fields: Map) {
        tracing::warn!(target: "script", fields = json(&fields), "{message}");
    }

    /// Logs an error on standard error.
    ///
    /// # Example
    ///
    /// ```rhai
    /// log_error("gave up");
    /// ```
    #[rhai_fn(volatile)]
    pub fn log_error(message: &str) {
        tracing::error!(target: "script", "{message}");
    }

    /// The same with fields.
    ///
    /// # Example
    ///
    /// ```rhai
    /// log_error("gave up", #{after: 3});
    /// ```
    #[rhai_fn(name = "log_error", volatile)]
    pub fn log_error_fields(message: &str, fields: Map) {
        tracing::error!(target: "script", fields = json(&fields), "{message}");
    }

    /// Ends the script; the process ends with `code` after the report.
    ///
    /// # Example
    ///
    /// ```rhai
    /// exit(0);
    /// ```
    #[rhai_fn(volatile, return_raw)]
    pub fn exit(context: NativeCallContext, code: INT) -> RhaiResultOf<Dynamic> {
        let host = Host::of(&context)?;
        let code = u8::try_from(code).map_err(|_| invalid("code", "a whole number from 0 to 255"))?;
        host.choose_exit(code);
        Err(EvalAltResult::Exit(Dynamic::UNIT, Position::NONE).into())
    }
}

/// The environment, as far as scripts may read it.
#[export_module]
pub mod environment {
    /// The value of an environment variable whose name begins with the allowed prefix, or `()`.
    ///
    /// # Example
    ///
    /// ```rhai
    /// let region = env::get("TOKEN_REGION");
    /// ```
    #[rhai_fn(volatile, return_raw)]
    pub fn get(context: NativeCallContext, name: &str) -> RhaiResultOf<Dynamic> {
        let host = Host::of(&context)?;
        let value = host.environment().get(name);
        Ok(value.map_or(Dynamic::UNIT, |value| value.clone().into()))
    }

    /// The same with a value for where it is not set.
    ///
    /// # Example
    ///
    /// ```rhai
    /// let region = env::get("TOKEN_REGION", "nowhere");
    /// ```
    #[rhai_fn(name = "get", volatile, return_raw)]
    pub fn get_or(context: NativeCallContext, name: &str, default: Dynamic) -> RhaiResultOf<Dynamic> {
        let host = Host::of(&context)?;
        let value = host.environment().get(name);
        Ok(value.map_or(default, |value| value.clone().into()))
    }
}

/// What `Tokens`, `Outcomes` and `Outcome` can do.
#[export_module]
pub mod types {
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
    #[rhai_fn(get = "len", pure)]
    pub fn tokens_len(tokens: &mut Tokens) -> Dynamic {
        known(tokens.len())
    }

    /// How many tokens it holds or held, or `()` where that is not known yet.
    #[rhai_fn(name = "len", pure)]
    pub fn tokens_len_method(tokens: &mut Tokens) -> Dynamic {
        known(tokens.len())
    }

    /// True where it is known to hold no token.
    #[rhai_fn(name = "is_empty", pure)]
    pub fn tokens_is_empty(tokens: &mut Tokens) -> bool {
        tokens.len() == Some(0)
    }

    /// How many tokens were asked for.
    #[rhai_fn(get = "requested", pure)]
    pub fn tokens_requested(tokens: &mut Tokens) -> Dynamic {
        known(tokens.requested())
    }

    /// The stream in words, without its tokens.
    #[rhai_fn(name = "to_string", pure)]
    pub fn tokens_to_string(tokens: &mut Tokens) -> String {
        match tokens.requested() {
            Some(count) => format!("Tokens({count} requested)"),
            None => "Tokens".to_owned(),
        }
    }

    /// The stream in words, without its tokens.
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
    #[rhai_fn(get = "counts", pure)]
    pub fn counts(outcomes: &mut Outcomes) -> Map {
        counts_of(&outcomes.counts())
    }

    /// The stream in words, without its tokens.
    #[rhai_fn(name = "to_string", pure)]
    pub fn outcomes_to_string(outcomes: &mut Outcomes) -> String {
        format!("Outcomes({} seen)", outcomes.counts().total())
    }

    /// The stream in words, without its tokens.
    #[rhai_fn(name = "to_debug", pure)]
    pub fn outcomes_to_debug(outcomes: &mut Outcomes) -> String {
        outcomes_to_string(outcomes)
    }

    /// The token itself.
    #[rhai_fn(get = "token", pure)]
    pub fn token(outcome: &mut Outcome) -> ImmutableString {
        outcome.token.as_str().into()
    }

    /// `stored`, `rejected`, `failed`, `unknown` or `not_attempted`.
    #[rhai_fn(get = "status", pure)]
    pub fn status(outcome: &mut Outcome) -> ImmutableString {
        outcome.status.as_str().into()
    }

    /// True where the status is `stored`.
    #[rhai_fn(get = "stored", pure)]
    pub fn stored(outcome: &mut Outcome) -> bool {
        outcome.status == Status::Stored
    }

    /// How often it was sent to the database.
    #[rhai_fn(get = "attempts", pure)]
    pub fn attempts(outcome: &mut Outcome) -> INT {
        outcome.token.attempts.into()
    }

    /// Milliseconds from sending it to the verdict.
    #[rhai_fn(get = "ms", pure)]
    pub fn ms(outcome: &mut Outcome) -> FLOAT {
        crate::report::ndjson::milliseconds(outcome.elapsed)
    }

    /// The database's five-character code, or `()`.
    #[rhai_fn(get = "sqlstate", pure)]
    pub fn sqlstate(outcome: &mut Outcome) -> Dynamic {
        text_of(outcome.detail().sqlstate.as_deref())
    }

    /// The constraint that refused it, or `()`.
    #[rhai_fn(get = "constraint", pure)]
    pub fn constraint(outcome: &mut Outcome) -> Dynamic {
        text_of(outcome.detail().constraint.as_deref())
    }

    /// Why the host or the script refused it, or `()`.
    #[rhai_fn(get = "reason", pure)]
    pub fn reason(outcome: &mut Outcome) -> Dynamic {
        text_of(outcome.detail().reason.as_deref())
    }

    /// The database's message, or `()`.
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
        let object = crate::report::ndjson::TokenObject::new(outcome);
        serde_json::to_string(&object).unwrap_or_default()
    }

    /// The status and the token.
    #[rhai_fn(name = "to_string", pure)]
    pub fn outcome_to_string(outcome: &mut Outcome) -> String {
        format!("{} {}", outcome.status, outcome.token.as_str())
    }

    /// The status alone.
    #[rhai_fn(name = "to_debug", pure)]
    pub fn outcome_to_debug(outcome: &mut Outcome) -> String {
        format!("Outcome({})", outcome.status)
    }

    /// A text that was thrown has the kind `thrown`, so that a `catch` may ask every error.
    #[rhai_fn(get = "kind", pure)]
    pub fn text_kind(_text: &mut ImmutableString) -> ImmutableString {
        "thrown".into()
    }

    /// A text that was thrown is its own message.
    #[rhai_fn(get = "message", pure)]
    pub fn text_message(text: &mut ImmutableString) -> ImmutableString {
        text.clone()
    }
}

fn start_fetch(host: &std::sync::Arc<Host>, size: INT, plan: Plan) -> RhaiResultOf<Tokens> {
    let size = positive("size", size)?;
    let pages = host.fetcher().stream(size, plan);
    Ok(Tokens::new(host, pages, Some(size)))
}

fn start_store(host: &std::sync::Arc<Host>, pages: PageStream) -> RhaiResultOf<Outcomes> {
    Ok(Outcomes::new(host, host.store(pages)))
}

fn start_reject(host: &std::sync::Arc<Host>, pages: PageStream, reason: &str) -> Outcomes {
    let detail = Detail::reason(reason);
    let stream = host.judge(pages, move |token| {
        Outcome::unsent(token, Status::Rejected, Some(detail.clone()))
    });
    Outcomes::new(host, stream)
}

/// The tokens that the script's strings stand for.
fn claim(host: &Host, array: Array) -> RhaiResultOf<PageStream> {
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

fn write_report(
    context: &NativeCallContext,
    outcomes: &Outcomes,
    line: Option<&FnPtr>,
) -> RhaiResultOf<Map> {
    let host = outcomes.host();
    let mut reader = outcomes.read()?;
    if let Some(line) = line {
        host.set_line(line.clone());
    }
    while let Some(next) =
        reader.next(|host| host.ledger().reports().flush().map_err(thrown))?
    {
        let outcome = next.map_err(thrown)?;
        let wording = match line.filter(|_| outcome.status.is_final()) {
            None => None,
            // The outcome must be booked even where its wording throws.
            Some(line) => match line.call_within_context::<Dynamic>(context, (outcome.clone(),)) {
                Ok(text) => Some(escape_line(&text.to_string()).into_owned()),
                Err(error) => {
                    outcomes.record(outcome, None)?;
                    return Err(error);
                }
            },
        };
        outcomes.record(outcome, wording.as_deref())?;
    }
    Ok(host.summary())
}

fn wait(context: &NativeCallContext, time: Duration) -> RhaiResultOf<()> {
    Host::of(context)?.wait(async { tokio::time::sleep(time).await })
}

/// When `retry` tries again.
struct Rules {
    attempts: u64,
    base: Duration,
    max: Duration,
    on: Option<Vec<String>>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            attempts: 3,
            base: Duration::from_millis(100),
            max: Duration::from_secs(5),
            on: None,
        }
    }
}

fn run_retry(context: &NativeCallContext, rules: &Rules, action: &FnPtr) -> RhaiResultOf<Dynamic> {
    let mut attempt = 1;
    loop {
        let error = match action.call_within_context::<Dynamic>(context, ()) {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let worth = error.is_catchable() && is_worth_a_retry(&error, rules);
        if !worth || u64::from(attempt) >= rules.attempts {
            return Err(error);
        }
        let wait_for = asked_wait(&error).unwrap_or_else(|| {
            let scale = rules.base.as_secs_f64() / 0.1;
            backoff(attempt, fastrand::f64()).mul_f64(scale).min(rules.max)
        });
        wait(context, wait_for)?;
        attempt += 1;
    }
}

/// What was thrown, if it was thrown and not the engine's own complaint about the script.
fn thrown_value(error: &EvalAltResult) -> Option<&Dynamic> {
    match error.unwrap_inner() {
        EvalAltResult::ErrorRuntime(value, _) => Some(value),
        _ => None,
    }
}

fn is_worth_a_retry(error: &EvalAltResult, rules: &Rules) -> bool {
    let Some(value) = thrown_value(error) else {
        return false;
    };
    let map = value.as_map_ref().ok();
    let field = |name: &str| map.as_ref().and_then(|map| map.get(name).cloned());
    if let Some(kinds) = &rules.on {
        let kind = field("kind").map_or_else(|| "thrown".to_owned(), |kind| kind.to_string());
        return kinds.contains(&kind);
    }
    field("retryable").is_none_or(|retryable| retryable.as_bool() == Ok(true))
}

fn asked_wait(error: &EvalAltResult) -> Option<Duration> {
    let map = thrown_value(error)?.as_map_ref().ok()?;
    let millis = map.get("retry_after_ms")?.as_int().ok()?;
    Some(Duration::from_millis(u64::try_from(millis).ok()?))
}

fn rules_of(options: &Map) -> RhaiResultOf<Rules> {
    let mut rules = Rules::default();
    for (name, value) in options {
        match name.as_str() {
            "attempts" => rules.attempts = whole("attempts", value)?,
            "base_ms" => rules.base = Duration::from_millis(whole("base_ms", value)?),
            "max_ms" => rules.max = Duration::from_millis(whole("max_ms", value)?),
            "on" => {
                let kinds = value
                    .as_array_ref()
                    .map_err(|_| invalid("on", "an array of kinds"))?;
                rules.on = Some(kinds.iter().map(Dynamic::to_string).collect());
            }
            other => return Err(unknown(other, &["attempts", "base_ms", "max_ms", "on"])),
        }
    }
    Ok(rules)
}

fn plan_of(mut plan: Plan, options: &Map) -> RhaiResultOf<Plan> {
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
            other => return Err(unknown(other, &["page_size", "retries", "top_up"])),
        }
    }
    Ok(plan)
}

fn whole(name: &str, value: &Dynamic) -> RhaiResultOf<u64> {
    match value.as_int() {
        Ok(number) => positive(name, number),
        Err(_) => Err(invalid(name, "a whole number ≥ 1")),
    }
}

fn positive(name: &str, number: INT) -> RhaiResultOf<u64> {
    u64::try_from(number)
        .ok()
        .filter(|number| *number >= 1)
        .ok_or_else(|| invalid(name, "a whole number ≥ 1"))
}

fn invalid(argument: &str, expected: &str) -> Box<EvalAltResult> {
    thrown(Fault::new(
        Kind::InvalidArgument {
            argument: argument.to_owned(),
            expected: expected.to_owned(),
        },
        format!("`{argument}` must be {expected}"),
    ))
}

fn unknown(name: &str, known: &[&str]) -> Box<EvalAltResult> {
    let nearest = super::check::nearest(name, known.iter().copied());
    let expected = match nearest {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => format!("one of {}", known.join(", ")),
    };
    thrown(Fault::new(
        Kind::InvalidArgument {
            argument: name.to_owned(),
            expected: known.join(", "),
        },
        format!("unknown option `{name}`: {expected}"),
    ))
}

/// The counts as a script has them.
pub fn counts_of(tally: &Tally) -> Map {
    Status::ALL
        .iter()
        .map(|status| (status.as_str().into(), integer(tally.get(*status)).into()))
        .collect()
}

fn known(number: Option<u64>) -> Dynamic {
    number.map_or(Dynamic::UNIT, |number| integer(number).into())
}

fn text_of(text: Option<&str>) -> Dynamic {
    text.map_or(Dynamic::UNIT, |text| text.into())
}

fn json(fields: &Map) -> String {
    rhai::format_map_as_json(fields)
}
