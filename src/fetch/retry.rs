//! When a request to the source is sent again, and after how long. Pure.
//!
//! A POST that issues tokens is not idempotent: it is repeated only where it was certainly not
//! served, that is where connecting failed or the source answered 429 or 503. Three bounds hold at
//! once: so many retries a request, ten times as many a run, and the run's deadline over all.

use crate::pipeline::backoff::backoff;
use std::time::Duration;

use crate::error::{ErrorKind, Fault};

/// The longest `Retry-After` that is waited for in a run without a deadline.
pub const LONGEST_WAIT: Duration = Duration::from_mins(5);

/// A run repeats at most so many times what one request may: a source that fails each request once
/// or twice would otherwise be asked twice or thrice as often for as long as the run lasts, which is
/// the load that keeps an overloaded source down.
const REQUESTS_WORTH: u64 = 10;

/// What to do after a failed request.
#[derive(Debug, PartialEq, Eq)]
pub enum RetryDecision {
    /// Send it again after this long.
    After(Duration),
    /// Give up: it cannot be repeated, or was repeated often enough.
    GiveUp,
    /// Give up: the run has repeated as many requests as it may.
    Spent,
    /// Give up: the source wants a longer wait than the run has left.
    TooLong(Duration),
}

/// Within which limits a request is repeated.
#[derive(Clone, Copy, Debug)]
pub struct RetryLimits {
    /// How often.
    pub retries: u32,
    /// How many requests the run has repeated so far.
    pub spent: u64,
    /// What the run's deadline leaves.
    pub left: Option<Duration>,
}

/// Decides after the failure number `failures` (from 1) of one request; `random` draws from 0.0 to
/// 1.0 (full jitter).
pub fn decide(fault: &Fault, failures: u32, rules: &RetryLimits, random: f64) -> RetryDecision {
    let left = rules.left;
    if !fault.retryable || failures > rules.retries {
        return RetryDecision::GiveUp;
    }
    if rules.spent >= budget(rules.retries) {
        return RetryDecision::Spent;
    }
    let wait = match fault.kind {
        ErrorKind::HttpStatus {
            retry_after: Some(wait),
            ..
        } => wait,
        _ => backoff(failures, random),
    };
    if wait > left.unwrap_or(LONGEST_WAIT) {
        RetryDecision::TooLong(wait)
    } else {
        RetryDecision::After(wait)
    }
}

/// How many requests a run may repeat in all, where each may be repeated `retries` times.
pub fn budget(retries: u32) -> u64 {
    REQUESTS_WORTH * u64::from(retries)
}

/// True where the source may have issued tokens that did not arrive.
pub fn may_have_been_served(fault: &Fault) -> bool {
    match fault.kind {
        ErrorKind::HttpTimeout | ErrorKind::HttpProtocol => true,
        ErrorKind::HttpStatus { status, .. } => status >= 500 && status != 503,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, retry_after: Option<u64>) -> Fault {
        let retry_after = retry_after.map(Duration::from_secs);
        Fault::new(
            ErrorKind::HttpStatus {
                status,
                retry_after,
            },
            "",
        )
        .retryable()
    }

    fn decide(
        fault: &Fault,
        failures: u32,
        retries: u32,
        left: Option<Duration>,
        random: f64,
    ) -> RetryDecision {
        let rules = RetryLimits {
            retries,
            spent: 0,
            left,
        };
        super::decide(fault, failures, &rules, random)
    }

    #[test]
    fn what_may_have_been_served_is_not_repeated() {
        let fault = Fault::new(ErrorKind::HttpTimeout, "");
        assert_eq!(decide(&fault, 1, 3, None, 0.5), RetryDecision::GiveUp);
    }

    #[test]
    fn retries_are_counted() {
        let fault = status(503, None);
        assert!(matches!(
            decide(&fault, 3, 3, None, 0.5),
            RetryDecision::After(_)
        ));
        assert_eq!(decide(&fault, 4, 3, None, 0.5), RetryDecision::GiveUp);
        assert_eq!(decide(&fault, 1, 0, None, 0.5), RetryDecision::GiveUp);
    }

    #[test]
    fn a_run_has_one_budget() {
        let mut rules = RetryLimits {
            retries: 3,
            spent: 29,
            left: None,
        };
        let fault = status(503, None);
        let decide = |rules: &RetryLimits| super::decide(&fault, 1, rules, 0.5);
        assert!(matches!(decide(&rules), RetryDecision::After(_)));
        rules.spent = 30;
        assert_eq!(decide(&rules), RetryDecision::Spent);
        rules.retries = u32::MAX;
        assert!(
            matches!(decide(&rules), RetryDecision::After(_)),
            "waiting at the start has no end but its own"
        );
    }

    #[test]
    fn retry_after_is_honoured_within_the_deadline() {
        let wait = Duration::from_secs(7);
        let fault = status(429, Some(7));
        assert_eq!(decide(&fault, 1, 3, None, 0.0), RetryDecision::After(wait));
        let left = Some(Duration::from_secs(6));
        assert_eq!(
            decide(&fault, 1, 3, left, 0.0),
            RetryDecision::TooLong(wait)
        );
        let fault = status(429, Some(86_400));
        assert!(matches!(
            decide(&fault, 1, 3, None, 0.0),
            RetryDecision::TooLong(_)
        ));
    }
}
