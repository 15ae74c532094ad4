//! The summary of a run: the line on standard error, and the object in the reports.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use crate::error::escape::escape;
use crate::observe::number::grouped;
use crate::pipeline::latency::{LatencyHistogram, LatencyPercentiles};
use crate::pipeline::token::{Status, Tally};
use crate::report::rejections::Rejections;

/// The version of the report format.
pub const VERSION: u32 = 1;

/// The summary of a run. Names and order of the fields are those of docs/report.schema.json.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The version of the report format.
    pub version: u32,
    /// The UUID (version 7) of the run.
    pub run_id: String,
    /// The run that this one replays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay_of: Option<String>,
    /// The start time, RFC 3339 in UTC.
    pub started_at: String,
    /// The duration in milliseconds.
    pub duration_ms: u64,
    /// SIZE, whatever the script requested.
    pub requested: u64,
    /// Tokens received.
    pub received: u64,
    /// Requests sent to the source.
    pub requests: u64,
    /// Tokens received in excess of a request, and dropped.
    pub surplus: u64,
    /// Tokens by status.
    #[serde(flatten)]
    pub counts: Counts,
    /// The signal or deadline that stopped the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aborted_by: Option<&'static str>,
    /// The exit code of the process.
    pub exit_code: u8,
    /// Percentiles of the time from sending a token to its outcome, in milliseconds.
    pub latency_ms: LatencyPercentiles,
    /// Upper bound of the tokens issued in responses that were not received.
    #[serde(skip_serializing_if = "is_zero")]
    pub issued_unseen: u64,
    /// True if all inserts were rolled back.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// True for the merged report of several runs.
    #[serde(skip)]
    pub is_merged: bool,
    /// Requests for tokens that an earlier response did not deliver; not in reports.
    #[serde(skip)]
    pub top_ups: u64,
    /// Requests that repeat a failed one; not in reports.
    #[serde(skip)]
    pub repeated: u64,
    /// Rejections by kind, for metrics.
    #[serde(skip)]
    pub rejections: Rejections,
    /// All latencies, for metrics.
    #[serde(skip)]
    pub latencies: LatencyHistogram,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde requires a reference"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Tokens by status; they add up to `received`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Counts {
    /// The database confirmed the commit.
    pub stored: u64,
    /// Refused permanently.
    pub rejected: u64,
    /// Not stored.
    pub failed: u64,
    /// In doubt.
    pub unknown: u64,
    /// Never sent.
    pub not_attempted: u64,
}

impl Counts {
    /// Returns the number of tokens with `status`.
    pub fn get(&self, status: Status) -> u64 {
        match status {
            Status::Stored => self.stored,
            Status::Rejected => self.rejected,
            Status::Failed => self.failed,
            Status::Unknown => self.unknown,
            Status::NotAttempted => self.not_attempted,
        }
    }
}

impl From<Tally> for Counts {
    fn from(tally: Tally) -> Self {
        Self {
            stored: tally.get(Status::Stored),
            rejected: tally.get(Status::Rejected),
            failed: tally.get(Status::Failed),
            unknown: tally.get(Status::Unknown),
            not_attempted: tally.get(Status::NotAttempted),
        }
    }
}

impl Summary {
    /// Returns the summary line.
    pub fn line(&self) -> String {
        // Tokens from a file need no requests.
        let requests = match self.requests {
            0 => String::new(),
            1 => String::from(" in 1 request"),
            many => format!(" in {} requests", grouped(many)),
        };
        let prefix = if self.dry_run {
            "dry run, nothing was stored: "
        } else {
            ""
        };
        let mut line = format!(
            "{prefix}{} requested, {} received{requests}: {} stored, {} rejected",
            grouped(self.requested),
            grouped(self.received),
            grouped(self.counts.stored),
            grouped(self.counts.rejected),
        );
        for (count, name) in [
            (self.counts.failed, "failed"),
            (self.counts.unknown, "unknown"),
            (self.counts.not_attempted, "not attempted"),
            (self.surplus, "surplus dropped"),
            (self.issued_unseen, "perhaps issued unseen"),
        ] {
            if count > 0 {
                let _ = write!(line, ", {} {name}", grouped(count));
            }
        }
        let seconds = Duration::from_millis(self.duration_ms).as_secs_f64();
        let settled = self.counts.stored + self.counts.rejected;
        let _ = write!(line, " in {seconds:.2} s");
        if settled > 0 {
            let rate = rate(settled, self.duration_ms);
            let _ = write!(line, " ({} tokens/s)", grouped(rate));
        }
        line
    }
}

impl Summary {
    /// Returns the lines with the rejections by kind, the most frequent first, in aligned columns.
    pub fn breakdown(&self) -> Vec<String> {
        let mut kinds: Vec<(String, u64)> = self
            .rejections
            .all()
            .iter()
            .map(|one| (kind_name(&one.constraint, &one.sqlstate), one.count))
            .collect();
        kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let more = kinds.len().saturating_sub(SHOWN_KINDS);
        kinds.truncate(SHOWN_KINDS);
        let name_width = kinds.iter().map(|(name, _)| name.chars().count()).max();
        let count_width = kinds.first().map(|(_, count)| grouped(*count).len());
        let (name_width, count_width) = (name_width.unwrap_or(0), count_width.unwrap_or(0));
        let mut lines: Vec<String> = kinds
            .iter()
            .map(|(name, count)| {
                let count = grouped(*count);
                format!("  rejected by {name:name_width$}  {count:>count_width$}")
            })
            .collect();
        if more > 0 {
            lines.push(format!("  and by {more} more"));
        }
        lines
    }
}

/// Maximum number of kinds in the breakdown.
const SHOWN_KINDS: usize = 10;

fn kind_name(constraint: &str, sqlstate: &str) -> String {
    match (constraint, sqlstate) {
        ("", "") => String::from("invalid form or the script"),
        ("", sqlstate) => sqlstate.to_owned(),
        (constraint, "") => escape(constraint).into_owned(),
        (constraint, sqlstate) => format!("{} ({sqlstate})", escape(constraint)),
    }
}

fn rate(count: u64, millis: u64) -> u64 {
    count.saturating_mul(1000) / millis.max(1)
}
