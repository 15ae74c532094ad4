//! The end of a run in numbers: the line for people on standard error, and the object of the JSON
//! forms.

use crate::observe::number::grouped;
use crate::pipeline::latency::{LatencyHistogram, LatencyPercentiles};
use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use crate::error::escape::escape;
use crate::pipeline::token::{Status, Tally};
use crate::report::rejections::Rejections;

/// The version of the report's form.
pub const VERSION: u32 = 1;

/// What a run came to; fields and names are the contract's.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The version of this form.
    pub version: u32,
    /// A UUID (version 7) of this run.
    pub run_id: String,
    /// The run whose report or journal this one replays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay_of: Option<String>,
    /// When the run began, RFC 3339 in UTC.
    pub started_at: String,
    /// How long it took.
    pub duration_ms: u64,
    /// SIZE, whatever the script asked for on the way.
    pub requested: u64,
    /// Tokens received.
    pub received: u64,
    /// Requests sent to the source.
    pub requests: u64,
    /// Tokens that came beyond what was asked for, and were dropped.
    pub surplus: u64,
    /// Tokens in each state.
    #[serde(flatten)]
    pub counts: Counts,
    /// The signal or deadline that stopped the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aborted_by: Option<&'static str>,
    /// The process's exit code.
    pub exit_code: u8,
    /// From sending a token to its verdict, in milliseconds.
    pub latency_ms: LatencyPercentiles,
    /// The most tokens that the source may have issued in answers that never arrived.
    #[serde(skip_serializing_if = "is_zero")]
    pub issued_unseen: u64,
    /// True where whatever was inserted was rolled back.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// True where the report is that of several runs.
    #[serde(skip)]
    pub is_merged: bool,
    /// Of the requests, those for what an earlier answer had left out; for people.
    #[serde(skip)]
    pub top_ups: u64,
    /// Of the requests, those that were sent again; for people.
    #[serde(skip)]
    pub repeated: u64,
    /// What refused tokens; for metrics.
    #[serde(skip)]
    pub rejections: Rejections,
    /// All of `latency_ms`; for metrics.
    #[serde(skip)]
    pub latencies: LatencyHistogram,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Tokens in each state; they add up to `received`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Counts {
    /// The server confirmed the commit.
    pub stored: u64,
    /// Refused for good.
    pub rejected: u64,
    /// Certainly not stored.
    pub failed: u64,
    /// Nobody could find out.
    pub unknown: u64,
    /// Never sent.
    pub not_attempted: u64,
}

impl Counts {
    /// How many ended in `status`.
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
    /// The one line for people.
    pub fn line(&self) -> String {
        // Tokens that come from a file are not asked for.
        let requests = match self.requests {
            0 => String::new(),
            1 => String::from(" in 1 request"),
            many => format!(" in {} requests", grouped(many)),
        };
        let dry = if self.dry_run {
            "dry run, nothing was stored: "
        } else {
            ""
        };
        let mut line = format!(
            "{dry}{} requested, {} received{requests}: {} stored, {} rejected",
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
    /// By what tokens were rejected, for people: the most first, in aligned columns, a line each.
    pub fn breakdown(&self) -> Vec<String> {
        let mut kinds: Vec<(String, u64)> = self
            .rejections
            .all()
            .iter()
            .map(|one| (named(&one.constraint, &one.sqlstate), one.count))
            .collect();
        kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let more = kinds.len().saturating_sub(KINDS);
        kinds.truncate(KINDS);
        let name = kinds.iter().map(|(name, _)| name.chars().count()).max();
        let count = kinds.first().map(|(_, count)| grouped(*count).len());
        let (name, count) = (name.unwrap_or(0), count.unwrap_or(0));
        let mut lines: Vec<String> = kinds
            .iter()
            .map(|(kind, many)| format!("  rejected by {kind:name$}  {:>count$}", grouped(*many)))
            .collect();
        if more > 0 {
            lines.push(format!("  and by {more} more"));
        }
        lines
    }
}

/// So many kinds of rejection are listed for people.
const KINDS: usize = 10;

fn named(constraint: &str, sqlstate: &str) -> String {
    match (constraint, sqlstate) {
        ("", "") => String::from("its own form or the script"),
        ("", sqlstate) => sqlstate.to_owned(),
        (constraint, "") => escape(constraint).into_owned(),
        (constraint, sqlstate) => format!("{} ({sqlstate})", escape(constraint)),
    }
}

fn rate(count: u64, millis: u64) -> u64 {
    count.saturating_mul(1000) / millis.max(1)
}
