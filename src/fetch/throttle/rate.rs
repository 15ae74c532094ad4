//! How far apart requests are: a configured least interval, and one that is learned from refusals.

use std::time::{Duration, Instant};

/// The number of accepted requests from which a rate is computed.
const ENOUGH: u32 = 4;
/// The shortest interval after a refusal without a known rate, and the longest one that is learned.
const FIRST: Duration = Duration::from_millis(50);
const MAX: Duration = Duration::from_secs(5);
/// The interval after a refusal, as a multiple of the one at which the source refused.
const SLOWER: f64 = 1.0 / 0.9;
/// The limits of [`Rate::steps`].
const MIN_STEPS: f64 = 600.0;
const MAX_STEPS: f64 = 3000.0;
/// A refusal is to cost at most a sixth of the time. A tenth of the steps are taken until the next one.
const STEPS_PER_LOST_REQUEST: f64 = 60.0;
/// A learned interval that is shorter is forgotten.
const MIN: Duration = Duration::from_millis(1);

/// The interval between requests.
///
/// After a refusal it is a little longer than the one at which the source refused. Near that one it
/// shrinks slowly, so that few requests are refused; farther away it shrinks fast.
#[derive(Clone, Debug)]
pub(super) struct Rate {
    /// The least interval.
    configured: Duration,
    /// The interval that was learned from refusals; zero if none was.
    learned: Duration,
    /// The interval at which the source refused last; zero if it is unknown.
    refused_at: Duration,
    /// Near `refused_at` the interval shrinks by one part in this many per accepted request.
    steps: f64,
    /// When the last request was due, and when it was sent.
    start: Option<Instant>,
    last: Option<Instant>,
    /// The average time between requests since the last pause.
    gap: Duration,
    /// The accepted requests since the last pause, and when it ended.
    accepted: u32,
    since: Option<Instant>,
    /// The accepted requests of earlier refusals that were too few, and their time.
    earlier: (u32, Duration),
    /// When the source last refused.
    refused: Option<Instant>,
}

impl Rate {
    pub(super) fn new(configured: Duration) -> Self {
        Self {
            configured,
            learned: Duration::ZERO,
            refused_at: Duration::ZERO,
            steps: MIN_STEPS,
            start: None,
            last: None,
            gap: Duration::ZERO,
            accepted: 0,
            since: None,
            earlier: (0, Duration::ZERO),
            refused: None,
        }
    }

    fn interval(&self) -> Duration {
        self.configured.max(self.learned)
    }

    /// Returns when the next request is due; `None` means now.
    pub(super) fn due(&self) -> Option<Instant> {
        Some(self.start? + self.interval())
    }

    /// Records a request that is sent at `now`.
    pub(super) fn send(&mut self, now: Instant) {
        // Timers fire late. A small delay does not delay all later requests, but is not caught up with
        // a burst.
        let due = self.due().unwrap_or(now);
        let lateness = now.saturating_duration_since(due);
        self.start = Some(if lateness < self.interval() { due } else { now });
        if let Some(last) = self.last
            && self.since.is_some_and(|since| last >= since)
        {
            let gap = now.saturating_duration_since(last);
            self.gap = if self.gap.is_zero() {
                gap
            } else {
                self.gap * 3 / 4 + gap / 4
            };
        }
        self.last = Some(now);
        self.since.get_or_insert(now);
    }

    /// Records an accepted request.
    pub(super) fn accept(&mut self) {
        self.accepted = self.accepted.saturating_add(1);
        if self.learned.is_zero() {
            return;
        }
        let is_near = self.learned.mul_f64(1.2) > self.refused_at
            && self.learned < self.refused_at.mul_f64(1.15);
        self.learned = if is_near {
            self.learned.mul_f64(1.0 - 1.0 / self.steps)
        } else {
            self.learned * 7 / 8
        };
        if self.learned < MIN {
            (self.learned, self.refused_at) = (Duration::ZERO, Duration::ZERO);
        }
    }

    /// Learns from a refused request that was sent at `sent`.
    pub(super) fn refuse(&mut self, sent: Instant, now: Instant, retry_after: Option<Duration>) {
        // The others that were under way do not count again.
        if self.refused.is_some_and(|refused| sent < refused) {
            return;
        }
        self.refused = Some(now);
        let begin = self.since.unwrap_or(sent);
        let pause = retry_after.unwrap_or_default();
        let took = now.saturating_duration_since(begin);
        let learned = if self.learned.is_zero() {
            // The source accepted these requests, and accepts the next one after the pause.
            self.refused_at = self.sampled(took + pause);
            let least = retry_after.map_or(FIRST, |_| Duration::ZERO);
            self.refused_at.mul_f64(SLOWER).max(least)
        } else if self.accepted < ENOUGH {
            // The rate was far too high, or the source still counts the requests before.
            self.learned * 2
        } else {
            // Fewer requests than allowed may have been sent.
            self.refused_at = self.gap.clamp(self.learned, self.learned * 2);
            self.refused_at.mul_f64(SLOWER)
        };
        self.learned = learned.min(MAX);
        // The number of requests that could have been sent during the pause.
        let lost = pause.div_duration_f64(self.learned.max(MIN));
        self.steps = (lost * STEPS_PER_LOST_REQUEST).clamp(MIN_STEPS, MAX_STEPS);
        (self.accepted, self.gap) = (0, Duration::ZERO);
        self.since = None;
    }

    /// Returns the interval of the accepted requests, or zero if they are too few; `took` is their time.
    fn sampled(&mut self, took: Duration) -> Duration {
        if self.accepted >= ENOUGH {
            self.earlier = (0, Duration::ZERO);
        }
        let (count, time) = (self.earlier.0 + self.accepted, self.earlier.1 + took);
        if count < ENOUGH {
            self.earlier = (count, time);
            return Duration::ZERO;
        }
        self.earlier = (0, Duration::ZERO);
        time / count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn requests_are_evenly_spaced() {
        let mut rate = Rate::new(ms(100));
        let begin = Instant::now();
        assert_eq!(rate.due(), None, "the first is sent at once");
        rate.send(begin);
        assert_eq!(rate.due(), Some(begin + ms(100)));
        // A late timer does not lower the rate.
        rate.send(begin + ms(101));
        assert_eq!(rate.due(), Some(begin + ms(200)));
        // A pause is not followed by a burst.
        rate.send(begin + ms(900));
        assert_eq!(rate.due(), Some(begin + ms(1000)));
    }

    #[test]
    fn rate_is_learned_from_a_refused_burst() {
        let mut rate = Rate::new(Duration::ZERO);
        let sent_before = Instant::now();
        let begin = sent_before + ms(1);
        for _ in 0..9 {
            rate.send(begin);
            rate.accept();
        }
        rate.send(begin);
        rate.refuse(begin, begin, Some(ms(900)));
        // Nine requests in 900 ms, and a tenth less.
        assert_eq!(rate.interval(), ms(100).mul_f64(SLOWER));
        // The others that were under way change nothing.
        rate.refuse(sent_before, begin + ms(5), Some(ms(900)));
        assert_eq!(rate.interval(), ms(100).mul_f64(SLOWER));
        for _ in 0..60 {
            rate.accept();
        }
        assert!(rate.interval() > ms(100), "{:?}", rate.interval());
        for _ in 0..250 {
            rate.accept();
        }
        assert_eq!(rate.interval(), Duration::ZERO);
    }

    #[test]
    fn single_refusal_does_not_lower_the_rate_when_its_wait_is_known() {
        let mut rate = Rate::new(Duration::ZERO);
        let begin = Instant::now();
        rate.send(begin);
        rate.accept();
        rate.send(begin + ms(10));
        rate.refuse(begin + ms(10), begin + ms(20), Some(Duration::from_mins(1)));
        assert_eq!(rate.interval(), Duration::ZERO);
    }

    #[test]
    fn rate_below_four_requests_per_wait_is_learned() {
        let mut rate = Rate::new(Duration::ZERO);
        let mut now = Instant::now();
        for _ in 0..4 {
            rate.send(now);
            rate.accept();
            rate.send(now);
            rate.refuse(now, now, Some(ms(1000)));
            now += ms(1000);
        }
        assert_eq!(rate.interval(), ms(1000).mul_f64(SLOWER));
        // Refused again at once: the rate was far too high.
        rate.send(now);
        rate.refuse(now, now, Some(ms(1000)));
        assert_eq!(rate.interval(), ms(1000).mul_f64(2.0 / 0.9));
    }

    #[test]
    fn refusals_without_a_wait_double_the_interval_up_to_five_seconds() {
        let mut rate = Rate::new(Duration::ZERO);
        let mut now = Instant::now();
        let mut intervals = Vec::new();
        for _ in 0..9 {
            rate.send(now);
            rate.refuse(now, now, None);
            intervals.push(rate.interval().as_millis());
            now += ms(1);
        }
        assert_eq!(intervals, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        let mut accepted = 0;
        while !rate.interval().is_zero() {
            rate.accept();
            accepted += 1;
        }
        assert!(accepted < 400, "{accepted}");
    }

    #[test]
    fn configured_interval_holds_whatever_was_learned() {
        let mut rate = Rate::new(ms(500));
        let now = Instant::now();
        rate.send(now);
        rate.refuse(now, now, None);
        assert_eq!(rate.interval(), ms(500));
        for _ in 0..1000 {
            rate.accept();
        }
        assert_eq!(rate.interval(), ms(500));
    }
}
