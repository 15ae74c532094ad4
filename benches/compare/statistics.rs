//! Samples of the contenders, and their medians, ranges and ratios.

use std::fmt;

use crate::format::format_number;
use crate::measured_command::ResourceUsage;

/// The measurement of one run of a contender.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// The number of tokens.
    pub tokens: u64,
    /// The duration, in seconds.
    pub seconds: f64,
    /// CPU time of the client processes, in seconds. It is 0 if there is no client.
    pub client_cpu: f64,
    /// CPU time of the server processes, in seconds.
    pub server_cpu: f64,
    /// The largest resident set of a client process, in MiB.
    pub peak_mib: f64,
}

impl Sample {
    /// Creates a sample from the resource usage of a client that processed `tokens` tokens.
    pub fn from_usage(usage: &ResourceUsage, tokens: u64) -> Self {
        Self {
            tokens,
            seconds: usage.wall,
            client_cpu: usage.cpu,
            server_cpu: 0.0,
            peak_mib: usage.peak_kib as f64 / 1024.0,
        }
    }

    /// Returns the throughput in tokens per second.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.seconds
    }

    /// Returns the duration per token, in microseconds.
    pub fn micros_per_token(&self) -> f64 {
        self.seconds * 1e6 / self.tokens as f64
    }

    /// Returns the CPU time of the server per token, in microseconds.
    pub fn server_cpu_micros_per_token(&self) -> f64 {
        self.server_cpu * 1e6 / self.tokens as f64
    }

    /// Returns the CPU time of the client per token, in microseconds.
    pub fn client_cpu_micros_per_token(&self) -> f64 {
        self.client_cpu * 1e6 / self.tokens as f64
    }
}

/// The samples of one contender, in the order of the rounds.
#[derive(Clone, Debug)]
pub struct ContenderSamples {
    /// The contender.
    pub name: String,
    /// One sample per round.
    pub samples: Vec<Sample>,
}

impl ContenderSamples {
    /// Returns median and range of a figure of the samples.
    pub fn median_range(&self, figure: impl Fn(&Sample) -> f64) -> MedianRange {
        MedianRange::of(self.samples.iter().map(figure))
    }

    /// Returns median and range of the throughput in tokens per second.
    pub fn throughput(&self) -> MedianRange {
        self.median_range(Sample::tokens_per_second)
    }

    /// Returns the median throughput as a text without its range.
    pub fn format_rate(&self) -> String {
        format_number(self.throughput().median, 0)
    }

    /// Returns median and range of the ratios to `other`, computed per round.
    ///
    /// A disturbance that slows down both contenders in one round does not change the ratio.
    pub fn ratio(&self, other: &Self, figure: impl Fn(&Sample) -> f64) -> MedianRange {
        let pairs = self.samples.iter().zip(&other.samples);
        MedianRange::of(pairs.map(|(own, other)| figure(own) / figure(other)))
    }
}

/// A median with minimum and maximum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MedianRange {
    /// The median.
    pub median: f64,
    /// The minimum.
    pub min: f64,
    /// The maximum.
    pub max: f64,
}

impl MedianRange {
    /// Computes median and range of `values`. If there are no values, all three are NaN.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match (values.get(middle), values.len() % 2) {
            (Some(upper), 0) => f64::midpoint(values[middle - 1], *upper),
            (Some(value), _) => *value,
            (None, _) => f64::NAN,
        };
        Self {
            median,
            min: values.first().copied().unwrap_or(f64::NAN),
            max: values.last().copied().unwrap_or(f64::NAN),
        }
    }

    /// Multiplies all three values by `factor`, for example to change the unit.
    pub fn scaled(self, factor: f64) -> Self {
        Self {
            median: self.median * factor,
            min: self.min * factor,
            max: self.max * factor,
        }
    }

    /// Formats the median, followed by the range in parentheses if minimum and maximum differ.
    pub fn format(&self, decimals: usize) -> String {
        let [median, min, max] =
            [self.median, self.min, self.max].map(|value| format_number(value, decimals));
        if min == max {
            median
        } else {
            format!("{median} ({min}–{max})")
        }
    }
}

impl fmt::Display for MedianRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.format(0))
    }
}
