//! The rate limit of the token source: a token bucket, as API gateways use it.

/// The unit of `RateLimiter::available` is a billionth of a request.
const REQUEST: u64 = 1_000_000_000;

/// Accepts a number of requests per second on average, and the requests of one second at once.
#[derive(Debug)]
pub struct RateLimiter {
    per_second: u64,
    /// The requests that would be accepted at once, in billionths.
    available: u64,
    /// The time of the last request in nanoseconds, if there was one.
    updated: Option<u64>,
}

impl RateLimiter {
    /// Creates a limiter that would accept the requests of one second at once.
    pub fn new(per_second: u32) -> Self {
        Self {
            per_second: per_second.into(),
            available: u64::from(per_second) * REQUEST,
            updated: None,
        }
    }

    /// Returns true if a request at `now` is accepted. `now` is in nanoseconds and never decreases.
    pub fn try_acquire(&mut self, now: u64) -> bool {
        let elapsed = now - self.updated.replace(now).unwrap_or(now);
        let refilled = self.available + elapsed * self.per_second;
        self.available = refilled.min(self.per_second * REQUEST);
        let is_accepted = self.available >= REQUEST;
        if is_accepted {
            self.available -= REQUEST;
        }
        is_accepted
    }
}
