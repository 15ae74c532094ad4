//! What the page shows of all tokens together: counts, and nothing that grows with their number.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::pipeline::latency::LatencyHistogram;
use crate::pipeline::token::Status;
use crate::report::record::TokenRecord;

/// The most columns of the timeline; twice as many are drawn together.
const COLUMNS: usize = 80;
/// The most causes that are told apart, and the longest that one is shown.
const CAUSES: usize = 100;
const CAUSE: usize = 160;

/// The numbers so far.
pub(super) struct HtmlTotals {
    since: Instant,
    pub(super) timeline: Timeline,
    pub(super) latencies: LatencyHistogram,
    /// Rejected tokens by what refused them.
    pub(super) causes: BTreeMap<String, u64>,
    /// Rejected tokens whose cause found no place.
    pub(super) other_causes: u64,
    pub(super) masked: bool,
}

impl HtmlTotals {
    pub(super) fn new() -> Self {
        Self {
            since: Instant::now(),
            timeline: Timeline::default(),
            latencies: LatencyHistogram::default(),
            causes: BTreeMap::new(),
            other_causes: 0,
            masked: false,
        }
    }

    /// Counts a token; `words` say why it was not stored.
    pub(super) fn add(&mut self, row: &TokenRecord, words: Option<&str>) {
        self.timeline.add(self.since.elapsed(), row.status);
        self.masked |= row.masked;
        if row.ms > 0.0 {
            self.latencies
                .record(Duration::from_secs_f64(row.ms / 1000.0));
        }
        if row.status == Status::Rejected {
            self.count_cause(words.unwrap_or("no reason given"));
        }
    }

    fn count_cause(&mut self, words: &str) {
        let end = words
            .char_indices()
            .nth(CAUSE)
            .map_or(words.len(), |(at, _)| at);
        let cause = &words[..end];
        if let Some(count) = self.causes.get_mut(cause) {
            *count += 1;
        } else if self.causes.len() < CAUSES {
            self.causes.insert(cause.to_owned(), 1);
        } else {
            self.other_causes += 1;
        }
    }
}

/// Outcomes by the time of their report, in columns that grow wider as the run grows longer.
pub(super) struct Timeline {
    /// How long a column is.
    pub(super) width: Duration,
    /// Tokens in each state, by column.
    pub(super) columns: Vec<[u64; 5]>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self {
            width: Duration::from_millis(1),
            columns: Vec::new(),
        }
    }
}

impl Timeline {
    fn add(&mut self, at: Duration, status: Status) {
        let mut column = self.column(at);
        while column >= COLUMNS {
            self.columns = self.columns.chunks(2).map(sum).collect();
            self.width *= 2;
            column = self.column(at);
        }
        if self.columns.len() <= column {
            self.columns.resize(column + 1, [0; 5]);
        }
        self.columns[column][status as usize] += 1;
    }

    fn column(&self, at: Duration) -> usize {
        let column = at.as_nanos() / self.width.as_nanos().max(1);
        usize::try_from(column).unwrap_or(usize::MAX)
    }
}

fn sum(columns: &[[u64; 5]]) -> [u64; 5] {
    let mut sum = [0; 5];
    for column in columns {
        for (sum, count) in sum.iter_mut().zip(column) {
            *sum += count;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_has_as_many_columns_as_a_short_one_and_loses_no_token() {
        let mut timeline = Timeline::default();
        for second in 0..10_000 {
            let status = Status::ALL[second % 5];
            timeline.add(Duration::from_secs(second as u64), status);
        }
        assert!(
            timeline.columns.len() <= COLUMNS,
            "{}",
            timeline.columns.len()
        );
        assert!(
            timeline.columns.len() > COLUMNS / 2,
            "{}",
            timeline.columns.len()
        );
        assert_eq!(sum(&timeline.columns), [2000; 5]);
        let drawn = timeline.width.as_secs() * timeline.columns.len() as u64;
        assert!(drawn >= 9_999, "{drawn}");
    }
}
