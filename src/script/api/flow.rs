//! `retry`, `sleep` and `exit`: when things happen.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_imports,
    clippy::needless_pass_by_value,
    clippy::unnecessary_wraps,
    reason = "what the engine's macro makes of natives, and the forms that it asks of them"
)]

use std::time::Duration;

use rhai::plugin::*;
use rhai::{FLOAT, FnPtr, INT, Map};

use crate::pipeline::backoff::backoff;
use crate::script::api::RhaiResultOf;
use crate::script::api::arguments::{invalid, positive, unknown, whole};
use crate::script::host::ScriptHost;

/// The flow of a script.
#[export_module]
pub mod functions {
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
    pub fn retry(
        context: NativeCallContext,
        attempts: INT,
        action: FnPtr,
    ) -> RhaiResultOf<Dynamic> {
        let rules = RetryOptions {
            attempts: positive("attempts", attempts)?,
            ..RetryOptions::default()
        };
        run_retry(&context, &rules, &action)
    }

    /// The same with options: `attempts`, `base_ms` and `max_ms` of the waits, and `on`, the kinds of error
    /// that are tried again, in place of those errors that say they are `retryable`. That may repeat
    /// a request which the source has served, such as one that ended in a time-out or a 500: tokens that
    /// it may have issued unseen are counted in the summary. What a script throws itself is of the kind
    /// `thrown` where it names none.
    ///
    /// # Example
    ///
    /// ```rhai
    /// let page = retry(#{attempts: 3, base_ms: 50, on: ["http_connect"]}, || fetch_once(10));
    /// report(store(page));
    /// ```
    #[rhai_fn(name = "retry", volatile, return_raw)]
    pub fn retry_with(
        context: NativeCallContext,
        options: Map,
        action: FnPtr,
    ) -> RhaiResultOf<Dynamic> {
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

    /// Ends the script; the process ends with `code` after the report.
    ///
    /// # Example
    ///
    /// ```rhai
    /// exit(0);
    /// ```
    #[rhai_fn(volatile, return_raw)]
    pub fn exit(context: NativeCallContext, code: INT) -> RhaiResultOf<Dynamic> {
        let host = ScriptHost::of(&context)?;
        let code =
            u8::try_from(code).map_err(|_| invalid("code", "a whole number from 0 to 255"))?;
        host.choose_exit(code);
        Err(EvalAltResult::Exit(Dynamic::UNIT, Position::NONE).into())
    }
}

fn wait(context: &NativeCallContext, time: Duration) -> RhaiResultOf<()> {
    let host = ScriptHost::of(context)?;
    // Starts the sleep inside, where the runtime is at hand.
    host.wait(async { host.clock().sleep(time).await })
}

/// When `retry` tries again.
struct RetryOptions {
    attempts: u64,
    base: Duration,
    max: Duration,
    on: Option<Vec<String>>,
}

impl Default for RetryOptions {
    fn default() -> Self {
        Self {
            attempts: 3,
            base: Duration::from_millis(100),
            max: Duration::from_secs(5),
            on: None,
        }
    }
}

fn run_retry(
    context: &NativeCallContext,
    rules: &RetryOptions,
    action: &FnPtr,
) -> RhaiResultOf<Dynamic> {
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
        let asked = asked_wait(&error);
        let host = ScriptHost::of(context)?;
        if asked > Some(host.fetcher().longest_wait()) {
            // It would end after the run: stop now and say so.
            return Err(error);
        }
        let wait_for = asked.unwrap_or_else(|| {
            let scale = rules.base.as_secs_f64() / 0.1;
            backoff(attempt, host.clock().jitter())
                .mul_f64(scale)
                .min(rules.max)
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

fn is_worth_a_retry(error: &EvalAltResult, rules: &RetryOptions) -> bool {
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

/// What the options of `retry` are called.
pub const OPTIONS: [&str; 4] = ["attempts", "base_ms", "max_ms", "on"];

fn rules_of(options: &Map) -> RhaiResultOf<RetryOptions> {
    let mut rules = RetryOptions::default();
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
            other => return Err(unknown(other, &OPTIONS)),
        }
    }
    Ok(rules)
}
