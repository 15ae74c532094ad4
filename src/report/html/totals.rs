//! The totals that the page shows. Their size does not depend on the number of tokens.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::pipeline::token::Status;
use crate::report::record::TokenRecord;

/// Maximum number of columns of the timeline; above it, pairs of columns are merged.
const MAX_COLUMNS: usize = 80;
/// Maximum number of distinct causes.
const MAX_CAUSES: usize = 100;
/// Maximum number of characters of a cause.
const MAX_CAUSE_LENGTH: usize = 160;

/// The totals of the tokens reported so far.
pub(super) struct HtmlTotals {
    started: Instant,
    pub(super) timeline: Timeline,
    /// Rejected tokens by cause.
    pub(super) causes: BTreeMap<String, u64>,
    /// Rejected tokens beyond the maximum number of causes.
    pub(super) other_causes: u64,
    pub(super) masked: bool,
}

impl HtmlTotals {
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            timeline: Timeline::default(),
            causes: BTreeMap::new(),
            other_causes: 0,
            masked: false,
        }
    }

    /// Counts a token; `details` are the cause of a rejection.
    pub(super) fn add(&mut self, record: &TokenRecord, details: Option<&str>) {
        self.timeline.add(self.started.elapsed(), record.status);
        self.masked |= record.masked;
        if record.status == Status::Rejected {
            self.count_cause(details.unwrap_or("no reason given"));
        }
    }

    fn count_cause(&mut self, details: &str) {
        let end = details
            .char_indices()
            .nth(MAX_CAUSE_LENGTH)
            .map_or(details.len(), |(at, _)| at);
        let cause = &details[..end];
        if let Some(count) = self.causes.get_mut(cause) {
            *count += 1;
        } else if self.causes.len() < MAX_CAUSES {
            self.causes.insert(cause.to_owned(), 1);
        } else {
            self.other_causes += 1;
        }
    }
}

/// Outcomes by the time of their report, in columns that widen with the duration of the run.
pub(super) struct Timeline {
    /// The duration of a column.
    pub(super) width: Duration,
    /// Tokens by status, for each column.
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
        while column >= MAX_COLUMNS {
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
    fn timeline_of_long_run_keeps_all_tokens_in_few_columns() {
        let mut timeline = Timeline::default();
        for second in 0..10_000 {
            let status = Status::ALL[second % 5];
            timeline.add(Duration::from_secs(second as u64), status);
        }
        assert!(
            timeline.columns.len() <= MAX_COLUMNS,
            "{}",
            timeline.columns.len()
        );
        assert!(
            timeline.columns.len() > MAX_COLUMNS / 2,
            "{}",
            timeline.columns.len()
        );
        assert_eq!(sum(&timeline.columns), [2000; 5]);
        let drawn = timeline.width.as_secs() * timeline.columns.len() as u64;
        assert!(drawn >= 9_999, "{drawn}");
    }
}
