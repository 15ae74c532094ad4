//! The summary of a run: the line on standard error, and the object in the reports.

use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use serde::ser::{Serialize, SerializeMap as _, Serializer};

use crate::error::escape::escape;
use crate::error::exit::Cause;
use crate::observe::number::grouped;
use crate::observe::run_context::RunContext;
use crate::pipeline::latency::LatencyHistogram;
use crate::pipeline::numbers::{InObject, NUMBERS, Numbers};
use crate::report::rejections::Rejections;

/// The version of the report format.
pub const VERSION: u32 = 1;

/// The identity and the times of a run.
#[derive(Clone, Debug)]
pub struct RunRecord {
    /// The UUID (version 7) of the run.
    pub run_id: String,
    /// The shard, if the run writes receipts: then several shards may have the same id.
    pub shard: Option<u32>,
    /// The run that this one replays.
    pub replay_of: Option<String>,
    /// The start time.
    pub started_at: Timestamp,
    /// The duration.
    pub duration: Duration,
    /// True for the merged report of several runs.
    pub is_merged: bool,
}

impl From<&RunContext> for RunRecord {
    fn from(run_context: &RunContext) -> Self {
        Self {
            run_id: run_context.run_id.to_string(),
            shard: run_context.shard,
            replay_of: None,
            started_at: run_context.timestamp,
            duration: run_context.elapsed(),
            is_merged: false,
        }
    }
}

/// The summary of a run.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The run.
    pub run: RunRecord,
    /// Its numbers.
    pub numbers: Numbers,
    /// The signal or deadline that stopped the run.
    pub aborted_by: Option<Cause>,
    /// The exit code of the process.
    pub exit_code: u8,
    /// True if all inserts were rolled back.
    pub dry_run: bool,
    /// What ran: names and values, for the HTML page.
    pub inputs: Vec<(&'static str, String)>,
    /// Rejections by kind.
    pub rejections: Rejections,
    /// The times from sending a token to its outcome.
    pub latencies: LatencyHistogram,
}

impl Serialize for Summary {
    /// Writes names and order of docs/report.schema.json.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("version", &VERSION)?;
        map.serialize_entry("run_id", &self.run.run_id)?;
        if let Some(shard) = &self.run.shard {
            map.serialize_entry("shard", shard)?;
        }
        if let Some(run) = &self.run.replay_of {
            map.serialize_entry("replay_of", run)?;
        }
        map.serialize_entry("started_at", &self.run.started_at.to_string())?;
        map.serialize_entry("duration_ms", &self.duration_ms())?;
        for row in NUMBERS
            .iter()
            .filter(|row| row.in_object == InObject::Always)
        {
            map.serialize_entry(row.name, &row.of(&self.numbers))?;
        }
        if let Some(cause) = self.aborted_by {
            map.serialize_entry("aborted_by", cause.as_str())?;
        }
        map.serialize_entry("exit_code", &self.exit_code)?;
        map.serialize_entry("latency_ms", &self.latencies)?;
        for row in NUMBERS
            .iter()
            .filter(|row| row.in_object == InObject::IfNotZero)
        {
            if let number @ 1.. = row.of(&self.numbers) {
                map.serialize_entry(row.name, &number)?;
            }
        }
        if self.dry_run {
            map.serialize_entry("dry_run", &true)?;
        }
        map.end()
    }
}

impl Summary {
    /// Returns the duration in whole milliseconds.
    pub fn duration_ms(&self) -> u64 {
        u64::try_from(self.run.duration.as_millis()).unwrap_or(u64::MAX)
    }

    /// Returns the number of settled tokens per second.
    pub fn rate(&self) -> u64 {
        self.numbers.settled().saturating_mul(1000) / self.duration_ms().max(1)
    }

    /// Returns the summary line.
    pub fn line(&self) -> String {
        let numbers = &self.numbers;
        // Tokens from a file need no requests.
        let requests = match numbers.requests {
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
            grouped(numbers.requested),
            grouped(numbers.received),
            grouped(numbers.stored),
            grouped(numbers.rejected),
        );
        // The statuses come first; only they have no metric of their own.
        let mut rows: Vec<_> = NUMBERS.iter().filter(|row| row.in_line).collect();
        rows.sort_by_key(|row| row.metric.is_some());
        for row in rows {
            if let number @ 1.. = row.of(numbers) {
                let _ = write!(line, ", {} {}", grouped(number), row.words);
            }
        }
        let seconds = Duration::from_millis(self.duration_ms()).as_secs_f64();
        let _ = write!(line, " in {seconds:.2} s");
        if numbers.settled() > 0 {
            let _ = write!(line, " ({} tokens/s)", grouped(self.rate()));
        }
        line
    }

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
        ("", sqlstate) => escape(sqlstate).into_owned(),
        (constraint, "") => escape(constraint).into_owned(),
        (constraint, sqlstate) => format!("{} ({})", escape(constraint), escape(sqlstate)),
    }
}
