//! What the rounds of a comparison brought: a series of samples for each contender, their medians
//! and spreads, and ratios of what was measured in the same round.

use std::fmt;

use super::gauge::Usage;

/// One run of a contender.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// How many tokens.
    pub tokens: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Processor time of the client's processes, in seconds; 0 for what has none.
    pub cpu: f64,
    /// Processor time of the server's processes, in seconds.
    pub server: f64,
    /// The largest memory that one of the client's processes had resident, in MiB.
    pub peak_mib: f64,
}

impl Sample {
    /// What was measured of a process that took care of so many tokens.
    pub fn of(usage: &Usage, tokens: u64) -> Self {
        Self {
            tokens,
            seconds: usage.wall,
            cpu: usage.cpu,
            server: 0.0,
            peak_mib: usage.peak_kib as f64 / 1024.0,
        }
    }

    /// Tokens a second.
    pub fn rate(&self) -> f64 {
        self.tokens as f64 / self.seconds
    }
}

/// The samples of one contender, in the order of the rounds.
#[derive(Clone, Debug)]
pub struct Series {
    /// The contender.
    pub name: String,
    /// One a round.
    pub samples: Vec<Sample>,
}

impl Series {
    /// Median and spread of what `figure` takes from each sample.
    pub fn spread(&self, figure: impl Fn(&Sample) -> f64) -> Spread {
        Spread::of(self.samples.iter().map(figure))
    }

    /// Tokens a second.
    pub fn rate(&self) -> Spread {
        self.spread(Sample::rate)
    }

    /// Median and spread of the ratios of this series to `other`, round by round: what slowed both
    /// down in one round does not show.
    pub fn ratio(&self, other: &Self, figure: impl Fn(&Sample) -> f64) -> Spread {
        let pairs = self.samples.iter().zip(&other.samples);
        Spread::of(pairs.map(|(own, other)| figure(own) / figure(other)))
    }
}

/// A median with the least and the most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

impl Spread {
    /// Of these values; not a number where there are none.
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

    /// The same in another unit.
    pub fn times(self, factor: f64) -> Self {
        Self {
            median: self.median * factor,
            min: self.min * factor,
            max: self.max * factor,
        }
    }

    /// The median, and the spread in parentheses where there is one.
    pub fn show(&self, digits: usize) -> String {
        let Self { median, min, max } = self;
        let (median, min, max) = (
            number(*median, digits),
            number(*min, digits),
            number(*max, digits),
        );
        if min == max {
            median
        } else {
            format!("{median} ({min}–{max})")
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.show(0))
    }
}

/// A number with a comma between thousands.
pub fn number(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let (sign, whole) = match whole.strip_prefix('-') {
        Some(whole) => ("-", whole),
        None => ("", whole),
    };
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}{rest}")
}

/// A whole number with a comma between thousands.
pub fn count(value: u64) -> String {
    number(value as f64, 0)
}
