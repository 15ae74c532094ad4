//! Measures the rate at which tokens are settled, in windows of time. Without I/O.

use std::time::{Duration, Instant};

/// The length of a window.
const LENGTH: Duration = Duration::from_millis(100);

/// A window of time in which settled tokens are counted.
#[derive(Debug)]
pub(super) struct RateWindow {
    began: Instant,
    /// The tokens that were settled before.
    settled: u64,
    /// The load at the beginning.
    load: Load,
}

/// How busy the connections are at a moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    /// True if all wanted connections work.
    pub(super) all_work: bool,
    /// True if more tokens wait for them.
    pub(super) tokens_wait: bool,
}

impl Load {
    fn is_full(self) -> bool {
        self.all_work && self.tokens_wait
    }
}

impl RateWindow {
    /// Begins the first window, which does not count.
    pub(super) fn begin(now: Instant, settled: u64) -> Self {
        Self {
            began: now,
            settled,
            load: Load::default(),
        }
    }

    /// Returns when the window ends.
    pub(super) fn end(&self) -> Instant {
        self.began + LENGTH
    }

    /// Ends the window and begins the next one.
    pub(super) fn next(&mut self, now: Instant, settled: u64, load: Load) -> EndedWindow {
        let ended = EndedWindow {
            seconds: now.saturating_duration_since(self.began).as_secs_f64(),
            #[allow(clippy::cast_precision_loss, reason = "a count of tokens")]
            settled: (settled - self.settled) as f64,
            counts: load.is_full() && self.load.is_full(),
            tokens_wait: load.tokens_wait,
        };
        *self = Self {
            began: now,
            settled,
            load,
        };
        ended
    }

    /// Makes the current window one that does not count.
    pub(super) fn discard(&mut self) {
        self.load = Load::default();
    }
}

/// The tokens settled in a window.
#[derive(Clone, Copy, Debug)]
pub(super) struct EndedWindow {
    /// Its length, in seconds.
    pub(super) seconds: f64,
    /// The number of tokens.
    pub(super) settled: f64,
    /// True if all connections worked in the whole window, and tokens waited.
    pub(super) counts: bool,
    /// True if tokens waited at its end.
    pub(super) tokens_wait: bool,
}

impl EndedWindow {
    /// Returns the tokens settled per second; `None` for a window of no length.
    pub(super) fn rate(&self) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.settled / self.seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_counts_only_if_tokens_waited_at_both_ends() {
        let began = Instant::now();
        let mut window = RateWindow::begin(began, 0);
        let at = |tenths: u64| began + Duration::from_millis(100 * tenths);
        let full = Load {
            all_work: true,
            tokens_wait: true,
        };
        let mut next = |tenths, settled, load| {
            let ended = window.next(at(tenths), settled, load);
            ended.rate().filter(|_| ended.counts)
        };
        assert_eq!(next(1, 10, full), None);
        assert_eq!(next(2, 110, full), Some(1000.0));
        let starved = Load {
            tokens_wait: false,
            ..full
        };
        assert_eq!(next(3, 200, starved), None);
        assert_eq!(next(4, 300, full), None);
        let connecting = Load {
            all_work: false,
            ..full
        };
        assert_eq!(next(5, 400, connecting), None);
        assert_eq!(next(6, 500, full), None);
        window.discard();
        assert!(!window.next(at(7), 600, full).counts);
    }
}
