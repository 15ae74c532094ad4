//! How many requests may be under way: grows while the source does not slow down, and is halved when it
//! refuses requests or does not answer.

use std::time::{Duration, Instant};

use crate::pipeline::concurrency::{Concurrency, MAX_CONCURRENCY};

/// The memory that pages under way may take together, in bytes.
const MEMORY: usize = 16 << 20;
/// A latency counts as risen if it is more than half above the least, and by more than this: a busy
/// machine delays answers by about as much.
const SLACK: Duration = Duration::from_millis(20);
/// A request that takes more than this part of the time limit shows that more could exceed it.
const MAX_SHARE_OF_TIMEOUT: u32 = 4;

/// The number of requests that may be under way.
///
/// Source: slow start and congestion avoidance of TCP, RFC 5681.
#[derive(Clone, Debug)]
pub(super) struct Window {
    max: usize,
    /// True if it grows only while the latency holds.
    watches_latency: bool,
    timeout: Duration,
    /// The whole part is the number of requests.
    size: f64,
    /// Below it the window grows by one per answer, above it by one per round trip.
    threshold: f64,
    /// The least latencies, by the number of binary digits of the requested tokens: a request for more
    /// tokens takes longer.
    least: [Option<Duration>; 65],
    /// When it was last halved.
    halved: Option<Instant>,
    /// The largest number for which the pages fit into memory.
    in_memory: usize,
}

impl Window {
    pub(super) fn new(concurrency: Concurrency, timeout: Duration) -> Self {
        let (size, max, watches_latency) = match concurrency {
            Concurrency::Auto => (1, MAX_CONCURRENCY, true),
            Concurrency::Fixed(count) => (count, count, false),
        };
        Self {
            max,
            watches_latency,
            timeout,
            size: to_f64(size),
            threshold: to_f64(max),
            least: [None; 65],
            halved: None,
            in_memory: MAX_CONCURRENCY,
        }
    }

    /// Returns the number of requests that may be under way, at least 1.
    pub(super) fn limit(&self) -> usize {
        // More than `max` is never reached, so the conversion is exact.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let size = self.size as usize;
        size.min(self.in_memory).max(1)
    }

    /// Reduces the number for large pages.
    pub(super) fn limit_memory(&mut self, largest_page: usize) {
        self.in_memory = MEMORY.checked_div(largest_page).unwrap_or(MAX_CONCURRENCY);
    }

    /// Grows after an answer to a request for `requested` tokens, if the window `was_full`: otherwise the
    /// answer does not show that the source can serve more.
    pub(super) fn answer(&mut self, latency: Duration, requested: u64, was_full: bool) {
        let digits = u64::BITS - requested.leading_zeros();
        let holds = match self.least.get_mut(digits as usize) {
            None => true,
            Some(least) => {
                let known = *least.get_or_insert(latency);
                *least = Some(known.min(latency));
                latency <= known + (known / 2).max(SLACK)
                    && latency <= self.timeout / MAX_SHARE_OF_TIMEOUT
            }
        };
        if was_full && (holds || !self.watches_latency) {
            let step = if self.size < self.threshold {
                1.0
            } else {
                1.0 / self.size
            };
            self.size = (self.size + step).min(to_f64(self.max));
        }
    }

    /// Halves the number, once for all requests that were under way.
    pub(super) fn halve(&mut self, sent: Instant, now: Instant) {
        if self.halved.is_some_and(|halved| sent < halved) {
            return;
        }
        self.halved = Some(now);
        self.size = (self.size / 2.0).floor().max(1.0);
        self.threshold = self.size;
    }
}

#[allow(clippy::cast_precision_loss, reason = "at most 8")]
fn to_f64(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    fn auto() -> Window {
        Window::new(Concurrency::Auto, TIMEOUT)
    }

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// Answers as many requests as may be under way, with this latency.
    fn round_trip(window: &mut Window, latency: Duration) -> usize {
        for _ in 0..window.limit() {
            window.answer(latency, 2000, true);
        }
        window.limit()
    }

    #[test]
    fn window_doubles_per_round_trip_while_latency_holds() {
        let mut window = auto();
        assert_eq!(window.limit(), 1);
        let sizes = [200, 210, 190, 200, 200].map(|latency| round_trip(&mut window, ms(latency)));
        assert_eq!(sizes, [2, 4, 8, 8, 8]);
    }

    #[test]
    fn window_does_not_grow_when_latency_rises_or_it_is_not_used() {
        let mut window = auto();
        assert_eq!(round_trip(&mut window, ms(200)), 2);
        assert_eq!(round_trip(&mut window, ms(301)), 2);
        window.answer(ms(200), 2000, false);
        assert_eq!(window.limit(), 2);
        // A larger request may take longer.
        window.answer(ms(900), 10_000, true);
        assert_eq!(window.limit(), 3);
        // So short a latency rises by chance.
        let mut window = auto();
        round_trip(&mut window, ms(2));
        assert_eq!(round_trip(&mut window, ms(20)), 4);
    }

    #[test]
    fn window_does_not_grow_when_the_source_takes_a_quarter_of_the_time_limit() {
        let mut window = auto();
        assert_eq!(round_trip(&mut window, ms(2501)), 1);
        let mut window = auto();
        assert_eq!(round_trip(&mut window, ms(2500)), 2);
    }

    #[test]
    fn refusals_of_one_round_trip_halve_once() {
        let mut window = Window::new(Concurrency::Fixed(8), TIMEOUT);
        assert_eq!(window.limit(), 8);
        let sent = Instant::now();
        for _ in 0..8 {
            window.halve(sent, sent + ms(100));
        }
        assert_eq!(window.limit(), 4);
        window.halve(sent + ms(100), sent + ms(200));
        assert_eq!(window.limit(), 2);
        for _ in 0..3 {
            window.halve(sent + ms(900), sent + ms(900));
        }
        assert_eq!(window.limit(), 1);
    }

    #[test]
    fn window_recovers_by_one_per_round_trip_up_to_its_maximum() {
        let mut window = Window::new(Concurrency::Fixed(4), TIMEOUT);
        let now = Instant::now();
        window.halve(now, now);
        // A fixed number does not depend on the latency.
        let latencies = [100, 900, 100, 900, 100, 100];
        let sizes = latencies.map(|latency| round_trip(&mut window, ms(latency)));
        assert_eq!(sizes, [2, 3, 4, 4, 4, 4]);
    }

    #[test]
    fn large_pages_limit_the_requests_under_way() {
        let mut window = Window::new(Concurrency::Fixed(8), TIMEOUT);
        window.limit_memory(6 << 20);
        assert_eq!(window.limit(), 2);
        window.limit_memory(64 << 20);
        assert_eq!(window.limit(), 1);
    }
}
