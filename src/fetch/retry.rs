//! Decides whether a failed request to the source is retried, and after how long. Without I/O.
//!
//! A POST that issues tokens is not idempotent. It is retried only if it was certainly not served:
//! connecting failed, or the source answered 429 or 503. An outage is waited out for the run's
//! patience. Else two limits apply: retries per request, and ten times as many per run. The run's
//! deadline limits both.

use std::time::Duration;

use crate::error::{Error, ErrorKind};
use crate::pipeline::backoff::Backoff;

/// The retries per request that are not configured.
pub const RETRIES: u32 = 3;

/// The longest wait before a retry in a run without a deadline.
pub const MAX_WAIT: Duration = Duration::from_mins(5);

/// The run's retry budget, as a multiple of the retries per request.
///
/// Without a budget, retries would double or triple the load on an overloaded source.
const BUDGET_FACTOR: u64 = 10;

/// What to do after a failed request.
#[derive(Debug, PartialEq, Eq)]
pub enum RetryDecision {
    /// Retry after this time.
    After(Duration),
    /// Give up: it must not be retried, or was retried often enough.
    GiveUp,
    /// Give up: the run's retry budget is used up.
    Spent,
    /// Give up: the wait is longer than the time left.
    TooLong(Duration),
}

/// The limits of retries.
#[derive(Clone, Copy, Debug)]
pub struct RetryLimits {
    /// Retries per request, if configured; then an outage is not waited out longer.
    pub retries: Option<u32>,
    /// Number of requests that the run has retried so far.
    pub spent: u64,
    /// Time left until the run's deadline.
    pub time_left: Option<Duration>,
    /// True if the request is safe to repeat although the error is not retryable.
    pub is_repeatable: bool,
    /// How much longer this outage is waited out; `None` for another failure.
    pub patience_left: Option<Duration>,
}

/// Decides after failure number `failures` (from 1) of one request.
///
/// `random` is between 0.0 and 1.0 (full jitter).
pub fn decide(error: &Error, failures: u32, limits: &RetryLimits, random: f64) -> RetryDecision {
    let time_left = limits.time_left;
    if !error.retryable && !limits.is_repeatable {
        return RetryDecision::GiveUp;
    }
    let wait = match error.kind {
        Some(ErrorKind::HttpStatus {
            retry_after: Some(wait),
            ..
        }) if !wait.is_zero() => wait,
        _ => Backoff::default().wait(failures, random),
    };
    let is_patient = limits.patience_left.is_some_and(|left| wait <= left);
    if limits.retries.is_some() || !is_patient {
        let retries = limits.retries.unwrap_or(RETRIES);
        if failures > retries {
            return RetryDecision::GiveUp;
        }
        if limits.spent >= budget(retries) {
            return RetryDecision::Spent;
        }
    }
    if wait > time_left.unwrap_or(MAX_WAIT) {
        RetryDecision::TooLong(wait)
    } else {
        RetryDecision::After(wait)
    }
}

/// Returns the run's retry budget for `retries` per request.
pub fn budget(retries: u32) -> u64 {
    BUDGET_FACTOR * u64::from(retries)
}

/// Returns true for an answer of a source that limits its requests.
pub fn is_overload(error: &Error) -> bool {
    error.is_kind(|kind| {
        matches!(
            kind,
            ErrorKind::HttpStatus {
                status: 429 | 503,
                ..
            }
        )
    })
}

/// Returns true for the answer to a repeated request whose first one is still being served.
pub fn is_in_progress(error: &Error) -> bool {
    error.is_kind(|kind| matches!(kind, ErrorKind::HttpStatus { status: 409, .. }))
}

/// Returns true for a status of 500 and above that does not refuse the request.
pub fn is_server_error(error: &Error) -> bool {
    error.is_kind(|kind| matches!(kind, ErrorKind::HttpStatus { status: 500.., .. }))
        && !is_overload(error)
}

/// Returns true if the source may have issued tokens that did not arrive.
pub fn may_have_been_served(error: &Error) -> bool {
    match error.kind {
        Some(ErrorKind::HttpTimeout | ErrorKind::HttpProtocol) => true,
        _ => is_server_error(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, retry_after: Option<u64>) -> Error {
        let retry_after = retry_after.map(Duration::from_secs);
        Error::of(
            ErrorKind::HttpStatus {
                status,
                retry_after,
            },
            "",
        )
        .retryable()
    }

    fn decide(
        error: &Error,
        failures: u32,
        retries: u32,
        time_left: Option<Duration>,
        random: f64,
    ) -> RetryDecision {
        let limits = RetryLimits {
            retries: Some(retries),
            spent: 0,
            time_left,
            is_repeatable: false,
            patience_left: None,
        };
        super::decide(error, failures, &limits, random)
    }

    #[test]
    fn request_is_not_retried_when_it_may_have_been_served() {
        let error = Error::of(ErrorKind::HttpTimeout, "");
        assert_eq!(decide(&error, 1, 3, None, 0.5), RetryDecision::GiveUp);
    }

    #[test]
    fn request_fails_when_its_retries_are_used_up() {
        let error = status(503, None);
        assert!(matches!(
            decide(&error, 3, 3, None, 0.5),
            RetryDecision::After(_)
        ));
        assert_eq!(decide(&error, 4, 3, None, 0.5), RetryDecision::GiveUp);
        assert_eq!(decide(&error, 1, 0, None, 0.5), RetryDecision::GiveUp);
    }

    #[test]
    fn retries_end_when_the_budget_of_the_run_is_spent() {
        let mut limits = RetryLimits {
            retries: None,
            spent: 29,
            time_left: None,
            is_repeatable: false,
            patience_left: None,
        };
        let error = status(503, None);
        let decide = |limits: &RetryLimits| super::decide(&error, 1, limits, 0.5);
        assert!(matches!(decide(&limits), RetryDecision::After(_)));
        limits.spent = 30;
        assert_eq!(decide(&limits), RetryDecision::Spent);
        limits.retries = Some(u32::MAX);
        assert!(
            matches!(decide(&limits), RetryDecision::After(_)),
            "waiting at the start has no budget"
        );
    }

    #[test]
    fn retry_after_is_honoured_when_the_deadline_permits() {
        let wait = Duration::from_secs(7);
        let error = status(429, Some(7));
        assert_eq!(decide(&error, 1, 3, None, 0.0), RetryDecision::After(wait));
        let time_left = Some(Duration::from_secs(6));
        assert_eq!(
            decide(&error, 1, 3, time_left, 0.0),
            RetryDecision::TooLong(wait)
        );
        let error = status(429, Some(86_400));
        assert!(matches!(
            decide(&error, 1, 3, None, 0.0),
            RetryDecision::TooLong(_)
        ));
    }

    #[test]
    fn outage_is_waited_out_unless_retries_are_configured() {
        let mut limits = RetryLimits {
            retries: None,
            spent: 1000,
            time_left: None,
            is_repeatable: false,
            patience_left: Some(Duration::from_secs(6)),
        };
        let error = status(503, None);
        let decide = |limits: &RetryLimits| super::decide(&error, 40, limits, 1.0);
        let step = Backoff::default().max;
        assert_eq!(decide(&limits), RetryDecision::After(step));
        limits.retries = Some(3);
        assert_eq!(decide(&limits), RetryDecision::GiveUp);
        limits.retries = None;
        limits.patience_left = Some(Duration::from_secs(4));
        assert_eq!(decide(&limits), RetryDecision::GiveUp);
    }
}
