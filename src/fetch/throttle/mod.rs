//! Decides when the next request to the source may be sent: how many may be under way, and how far apart
//! they are. One state for the whole run. Without I/O; the caller passes the time.

mod rate;
mod window;

use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind};
use crate::fetch::throttle::rate::Rate;
use crate::fetch::throttle::window::Window;
use crate::pipeline::concurrency::Concurrency;

/// Whether a request may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It may be sent now, and counts as under way.
    Granted,
    /// It may be sent at this time, if no other request is sent before.
    At(Instant),
    /// It may be sent when another request has ended.
    Full,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The source answered 200.
    Answered {
        /// The number of tokens that were requested.
        requested: u64,
        /// The memory of the largest page so far, in bytes.
        largest_page: usize,
    },
    /// The source refused to serve it: 429 or 503.
    Refused {
        /// How long the source asks to wait.
        retry_after: Option<Duration>,
    },
    /// It had no answer in time, or the source could not be reached.
    Lost,
    /// It failed in another way, which says nothing about the load.
    Failed,
}

impl Reply {
    /// Returns how a request ended that failed with `error`.
    pub fn of_error(error: &Error) -> Self {
        match error.kind {
            Some(ErrorKind::HttpStatus {
                status: 429 | 503,
                retry_after,
            }) => Self::Refused {
                retry_after: retry_after.filter(|wait| !wait.is_zero()),
            },
            Some(ErrorKind::HttpTimeout | ErrorKind::HttpConnect) => Self::Lost,
            _ => Self::Failed,
        }
    }
}

/// The throttle of a run's requests.
#[derive(Clone, Debug)]
pub struct Throttle {
    window: Window,
    rate: Rate,
    under_way: usize,
    /// When as many requests as possible were under way last.
    full: Option<Instant>,
    /// Until when the source asked to send nothing.
    not_before: Option<Instant>,
}

impl Throttle {
    /// Creates a throttle.
    ///
    /// `interval` is the least time between two requests, and `timeout` the limit of one.
    pub fn new(concurrency: Concurrency, interval: Duration, timeout: Duration) -> Self {
        Self {
            window: Window::new(concurrency, timeout),
            rate: Rate::new(interval),
            under_way: 0,
            full: None,
            not_before: None,
        }
    }

    /// Returns how many requests may be under way now, at least 1.
    pub fn limit(&self) -> usize {
        self.window.limit()
    }

    /// Admits a request, or returns when to ask again. An admitted request counts as under way until
    /// [`Self::end`] or [`Self::withdraw`].
    pub fn admit(&mut self, now: Instant) -> Admission {
        if self.under_way >= self.limit() {
            return Admission::Full;
        }
        let due = self.rate.due().max(self.not_before);
        if let Some(due) = due.filter(|due| *due > now) {
            return Admission::At(due);
        }
        self.not_before = None;
        self.rate.send(now);
        self.under_way += 1;
        if self.under_way >= self.limit() {
            self.full = Some(now);
        }
        Admission::Granted
    }

    /// Withdraws an admitted request that was not sent.
    pub fn withdraw(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// Ends a request that was admitted at `sent`. A wait that the source asks for counts if it is at most
    /// `max_wait`.
    pub fn end(&mut self, sent: Instant, now: Instant, reply: Reply, max_wait: Duration) {
        let was_full = self.full.is_some_and(|full| full >= sent);
        self.withdraw();
        match reply {
            Reply::Answered {
                requested,
                largest_page,
            } => {
                self.rate.accept();
                self.window.limit_memory(largest_page);
                let latency = now.saturating_duration_since(sent);
                self.window.answer(latency, requested, was_full);
            }
            Reply::Refused { retry_after } => {
                let retry_after = retry_after.filter(|wait| *wait <= max_wait);
                self.window.halve(sent, now);
                self.rate.refuse(sent, now, retry_after);
                self.not_before = self.not_before.max(retry_after.map(|wait| now + wait));
            }
            Reply::Lost => self.window.halve(sent, now),
            Reply::Failed => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_WAIT: Duration = Duration::from_mins(5);
    const TIMEOUT: Duration = Duration::from_secs(10);

    fn answered() -> Reply {
        Reply::Answered {
            requested: 1000,
            largest_page: 0,
        }
    }

    fn throttle(concurrency: Concurrency) -> Throttle {
        Throttle::new(concurrency, Duration::ZERO, TIMEOUT)
    }

    #[test]
    fn full_throttle_admits_when_a_request_ends() {
        let mut throttle = throttle(Concurrency::Fixed(2));
        let now = Instant::now();
        assert_eq!(throttle.admit(now), Admission::Granted);
        assert_eq!(throttle.admit(now), Admission::Granted);
        assert_eq!(throttle.admit(now), Admission::Full);
        throttle.end(now, now, Reply::Failed, MAX_WAIT);
        assert_eq!(throttle.admit(now), Admission::Granted);
        throttle.withdraw();
        assert_eq!(throttle.admit(now), Admission::Granted);
    }

    #[test]
    fn retry_after_of_one_request_delays_all() {
        let mut throttle = throttle(Concurrency::Fixed(4));
        let now = Instant::now();
        throttle.admit(now);
        throttle.admit(now);
        let later = now + Duration::from_secs(2);
        let retry_after = Some(Duration::from_secs(2));
        throttle.end(now, now, Reply::Refused { retry_after }, MAX_WAIT);
        assert_eq!(throttle.limit(), 2);
        assert_eq!(throttle.admit(now), Admission::At(later));
        // A shorter wait does not shorten the longer one.
        let retry_after = Some(Duration::from_secs(1));
        throttle.end(now, now, Reply::Refused { retry_after }, MAX_WAIT);
        assert_eq!(throttle.admit(now), Admission::At(later));
        assert_eq!(throttle.admit(later), Admission::Granted);
    }

    #[test]
    fn retry_after_is_ignored_when_longer_than_the_run_may_wait() {
        let mut throttle = throttle(Concurrency::Auto);
        let now = Instant::now();
        throttle.admit(now);
        let retry_after = Some(Duration::from_hours(24));
        throttle.end(now, now, Reply::Refused { retry_after }, MAX_WAIT);
        assert!(!matches!(
            throttle.admit(now + Duration::from_secs(1)),
            Admission::At(_)
        ));
    }

    /// A source that serves `per_second` requests in each second, and refuses the others.
    struct LimitedSource {
        per_second: u32,
        window: u64,
        served: u32,
    }

    impl LimitedSource {
        fn serves(&mut self, time: Duration) -> bool {
            if self.window != time.as_secs() {
                (self.window, self.served) = (time.as_secs(), 0);
            }
            self.served += 1;
            self.served <= self.per_second
        }
    }

    /// Sends requests to a limited source for `seconds`; returns the numbers of sent and refused
    /// requests in the second half.
    fn settled_requests(
        per_second: u32,
        latency: Duration,
        seconds: u64,
        retry_after: Option<Duration>,
    ) -> (u32, u32) {
        let mut source = LimitedSource {
            per_second,
            window: 0,
            served: 0,
        };
        let mut throttle = throttle(Concurrency::Auto);
        let begin = Instant::now();
        let (mut now, mut under_way) = (begin, Vec::new());
        let (mut sent, mut refused) = (0, 0);
        let half = begin + Duration::from_secs(seconds) / 2;
        while now < begin + Duration::from_secs(seconds) {
            let next = under_way
                .iter()
                .map(|(at, _)| *at)
                .min()
                .map(|at: Instant| at + latency);
            match throttle.admit(now) {
                Admission::Granted => {
                    let reply = if source.serves(now + latency / 2 - begin) {
                        answered()
                    } else {
                        Reply::Refused { retry_after }
                    };
                    under_way.push((now, reply));
                    if now >= half {
                        sent += 1;
                        refused += u32::from(reply != answered());
                    }
                }
                Admission::At(at) => now = next.map_or(at, |next| next.min(at)),
                Admission::Full => now = next.expect("a request under way"),
            }
            while let Some(index) = under_way.iter().position(|(at, _)| *at + latency <= now) {
                let (at, reply) = under_way.remove(index);
                throttle.end(at, now, reply, MAX_WAIT);
            }
        }
        (sent, refused)
    }

    #[test]
    fn few_requests_are_refused_when_the_rate_has_settled() {
        // Without `Retry-After` the source refuses all requests of the rest of the second.
        let wait = Some(Duration::from_secs(1));
        for (rates, retry_after, max_refused) in
            [(&[2, 10, 50][..], wait, 0.05), (&[2, 10], None, 0.1)]
        {
            for per_second in rates.iter().copied() {
                for latency in [1, 50, 200, 800].map(Duration::from_millis) {
                    let (sent, refused) = settled_requests(per_second, latency, 600, retry_after);
                    let context = format!(
                        "{per_second}/s, {latency:?}, {retry_after:?}: {refused} of {sent} refused"
                    );
                    let (sent, refused) = (f64::from(sent), f64::from(refused));
                    assert!(refused <= max_refused * sent, "{context}");
                    let possible = (8.0 / latency.as_secs_f64()).min(per_second.into());
                    assert!(sent >= 0.8 * 300.0 * possible, "{context}");
                }
            }
        }
    }
}
