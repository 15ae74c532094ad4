//! `retry`, `sleep` and `exit`: control the flow of a script.

use std::time::Duration;

use rhai::{
    Dynamic, EvalAltResult, FLOAT, FnPtr, INT, Map, NativeCallContext, Position, export_module,
};

use crate::pipeline::backoff::Backoff;
use crate::script::api::RhaiResultOf;
use crate::script::api::arguments::{Options, invalid, positive, set_options, whole_number};
use crate::script::host::ScriptHost;

/// Functions that control the flow of a script.
#[export_module]
pub mod functions {
    /// Calls `action` until it does not throw, at most `attempts` times, and returns its value.
    ///
    /// Between attempts it backs off with full jitter, from 100 ms, doubling to 5 s. If the error has
    /// `retry_after_ms`, it waits that long instead. If that is longer than the time until the
    /// deadline (5 minutes without a deadline), the error is thrown at once.
    ///
    /// Errors with `retryable: false` are thrown at once, and so are errors of the language itself,
    /// such as an unknown variable. If the last attempt fails, its error is thrown.
    ///
    /// Throws `invalid_argument` if `attempts` is below 1.
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
        let policy = RetryOptions {
            attempts: positive("attempts", attempts)?,
            ..RetryOptions::default()
        };
        run_retry(&context, &policy, &action)
    }

    /// Calls `action` until it does not throw, with `options`, and returns its value.
    ///
    /// - `attempts`: the most calls (default 3).
    /// - `base_ms`, `max_ms`: the first and the longest step of the backoff in milliseconds (default
    ///   100 and 5000).
    /// - `on`: the kinds of error to retry, as an array. It replaces the rule that errors with
    ///   `retryable: false` are not retried. A value that the script throws without a `kind` has the
    ///   kind `thrown`.
    ///
    /// With `on`, a request may be repeated that the source has served, such as one that ended in a
    /// timeout or a 500. The summary counts the tokens that may be lost.
    ///
    /// Throws `invalid_argument` if an option does not exist or has an invalid value.
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
        let mut policy = RetryOptions::default();
        set_options(&mut policy, &options, &OPTIONS)?;
        run_retry(&context, &policy, &action)
    }

    /// Waits for a duration with a unit, such as `"500ms"` or `"2s"`.
    ///
    /// A signal or the deadline ends the wait, and the script with it. Throws `invalid_argument` if
    /// `time` has no unit.
    ///
    /// # Example
    ///
    /// ```rhai
    /// sleep("10ms");
    /// ```
    #[rhai_fn(volatile, return_raw)]
    pub fn sleep(context: NativeCallContext, time: &str) -> RhaiResultOf<()> {
        let time = humantime::parse_duration(time)
            .map_err(|_| invalid("time", "a duration with a unit, such as \"2s\""))?;
        wait(&context, time)
    }

    /// Waits for a number of seconds.
    ///
    /// Throws `invalid_argument` if `seconds` is negative.
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

    /// Waits for a number of seconds, which may have a fraction.
    ///
    /// Throws `invalid_argument` if `seconds` is negative or not a number.
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

    /// Ends the script. The process exits with `code` after the report.
    ///
    /// Throws `invalid_argument` if `code` is not between 0 and 255.
    ///
    /// # Example
    ///
    /// ```rhai
    /// exit(0);
    /// ```
    #[rhai_fn(volatile, return_raw)]
    pub fn exit(context: NativeCallContext, code: INT) -> RhaiResultOf<Dynamic> {
        let host = ScriptHost::of_running(&context)?;
        let code =
            u8::try_from(code).map_err(|_| invalid("code", "a whole number from 0 to 255"))?;
        host.set_exit_code(code);
        Err(EvalAltResult::Exit(Dynamic::UNIT, Position::NONE).into())
    }
}

fn wait(context: &NativeCallContext, time: Duration) -> RhaiResultOf<()> {
    let host = ScriptHost::of_running(context)?;
    // The clock needs the runtime, so the sleep starts inside the future.
    host.wait(async { host.clock().sleep(time).await })
}

/// The values of the options of `retry`.
pub struct RetryOptions {
    attempts: u64,
    backoff: Backoff,
    on: Option<Vec<String>>,
}

impl Default for RetryOptions {
    fn default() -> Self {
        Self {
            attempts: 3,
            backoff: Backoff::default(),
            on: None,
        }
    }
}

fn run_retry(
    context: &NativeCallContext,
    policy: &RetryOptions,
    action: &FnPtr,
) -> RhaiResultOf<Dynamic> {
    let mut attempt = 1;
    loop {
        let error = match action.call_within_context::<Dynamic>(context, ()) {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let should_retry = error.is_catchable() && is_retryable(&error, policy);
        if !should_retry || u64::from(attempt) >= policy.attempts {
            return Err(error);
        }
        let retry_after = retry_after(&error);
        let host = ScriptHost::of_running(context)?;
        if retry_after > Some(host.fetcher().max_wait()) {
            // The run would end during the wait.
            return Err(error);
        }
        let backoff = || policy.backoff.wait(attempt, host.clock().jitter());
        wait(context, retry_after.unwrap_or_else(backoff))?;
        attempt += 1;
    }
}

/// Returns the thrown value; `None` if the engine itself raised the error.
fn thrown_value(error: &EvalAltResult) -> Option<&Dynamic> {
    match error.unwrap_inner() {
        EvalAltResult::ErrorRuntime(value, _) => Some(value),
        _ => None,
    }
}

fn is_retryable(error: &EvalAltResult, policy: &RetryOptions) -> bool {
    let Some(value) = thrown_value(error) else {
        return false;
    };
    let map = value.as_map_ref().ok();
    let field = |name: &str| map.as_ref().and_then(|map| map.get(name).cloned());
    if let Some(kinds) = &policy.on {
        let kind = field("kind").map_or_else(|| "thrown".to_owned(), |kind| kind.to_string());
        return kinds.contains(&kind);
    }
    field("retryable").is_none_or(|retryable| retryable.as_bool() == Ok(true))
}

/// Returns the wait that the error asks for.
fn retry_after(error: &EvalAltResult) -> Option<Duration> {
    let map = thrown_value(error)?.as_map_ref().ok()?;
    let millis = map.get("retry_after_ms")?.as_int().ok()?;
    Some(Duration::from_millis(u64::try_from(millis).ok()?))
}

/// The options of `retry`.
pub const OPTIONS: Options<RetryOptions, 4> = [
    ("attempts", |policy, name, value| {
        whole_number(name, value).map(|attempts| policy.attempts = attempts)
    }),
    ("base_ms", |policy, name, value| {
        whole_number(name, value).map(|step| policy.backoff.base = Duration::from_millis(step))
    }),
    ("max_ms", |policy, name, value| {
        whole_number(name, value).map(|step| policy.backoff.max = Duration::from_millis(step))
    }),
    ("on", |policy, name, value| {
        let kinds = value.as_array_ref();
        let kinds = kinds.map_err(|_| invalid(name, "an array of kinds"))?;
        policy.on = Some(kinds.iter().map(Dynamic::to_string).collect());
        Ok(())
    }),
];
