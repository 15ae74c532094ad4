//! Histogram of commit latencies, in constant memory.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::ser::{Serialize, Serializer};

/// The percentiles of reports and metrics.
pub const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0)];

/// A histogram of latencies in constant memory, accurate to one per cent.
#[derive(Clone)]
pub struct LatencyHistogram(Option<Histogram<u64>>);

impl Default for LatencyHistogram {
    fn default() -> Self {
        // Microseconds up to an hour with two significant digits. These bounds are valid, so it is
        // never `None`.
        Self(Histogram::new_with_bounds(1, 3_600_000_000, 2).ok())
    }
}

impl fmt::Debug for LatencyHistogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.percentiles().fmt(f)
    }
}

impl LatencyHistogram {
    /// Records one latency.
    pub fn record(&mut self, elapsed: Duration) {
        if let Some(histogram) = &mut self.0 {
            let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
            histogram.saturating_record(micros);
        }
    }

    /// Returns the number of recorded latencies.
    pub fn count(&self) -> u64 {
        self.0.as_ref().map_or(0, Histogram::len)
    }

    /// Returns the sum of all latencies, at the histogram's precision.
    pub fn sum(&self) -> Duration {
        let all = self.recorded();
        all.map(|(latency, count)| latency.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX)))
            .fold(Duration::ZERO, Duration::saturating_add)
    }

    /// Returns the latency at quantile `share` (0.0 to 1.0).
    pub fn quantile(&self, share: f64) -> Duration {
        let micros = self.0.as_ref().map(|all| match share {
            1.0.. => all.max(),
            _ => all.value_at_quantile(share),
        });
        Duration::from_micros(micros.unwrap_or_default())
    }

    /// Returns true if nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// Iterates over the recorded latencies in ascending order, with their counts.
    pub fn recorded(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        let recorded = self.0.iter().flat_map(Histogram::iter_recorded);
        recorded.map(|value| {
            let latency = Duration::from_micros(value.value_iterated_to());
            (latency, value.count_since_last_iteration())
        })
    }

    /// Returns the percentiles so far, in milliseconds; zero if nothing was recorded.
    pub fn percentiles(&self) -> [(&'static str, f64); 4] {
        QUANTILES.map(|(name, share)| (name, milliseconds(self.quantile(share))))
    }
}

impl Serialize for LatencyHistogram {
    /// Writes the percentiles.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.percentiles())
    }
}

/// Converts to milliseconds with three decimals.
pub fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000_000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_in_milliseconds() {
        let mut latencies = LatencyHistogram::default();
        for millis in 1..=100 {
            latencies.record(Duration::from_millis(millis));
        }
        let [(_, median), .., (_, max)] = latencies.percentiles();
        assert!((49.0..52.0).contains(&median), "{latencies:?}");
        assert!((99.0..102.0).contains(&max), "{latencies:?}");
    }
}
