//! The numbers of a run: a table with a row for each. Reports, metrics, conditions, scripts and `merge`
//! read it, so a new number is a row and the place that counts it.

use serde::Deserialize;

use crate::pipeline::token::{Outcome, Status};

/// A row of the table.
#[derive(Debug)]
pub struct Number {
    /// The name in reports, conditions, scripts and spans.
    pub name: &'static str,
    /// The meaning, as the metrics and the schema of reports describe it.
    pub help: &'static str,
    /// The UCUM unit of the metric.
    pub unit: &'static str,
    /// The OpenTelemetry name of the metric; `None` for a status, which is a point of
    /// `token_service.tokens`.
    pub metric: Option<&'static str>,
    /// Whether the summary object of `ndjson`, `json` and `yaml` has it.
    pub in_object: InObject,
    /// True if `--fail-on` and the script's map have it.
    pub is_named: bool,
    /// True if the span of a run has it.
    pub in_span: bool,
    /// The words after the number in the summary line and on the page, which show it if it is not 0.
    pub words: &'static str,
    /// True if the summary line has it besides the numbers that it always has.
    pub in_line: bool,
    /// Where the totals of the page show it.
    pub on_page: OnPage,
    /// Combines the run's own number with that of a merged report, or with that of the source.
    pub merge: fn(own: u64, other: u64) -> u64,
    /// The field of [`Numbers`].
    field: fn(&mut Numbers) -> &mut u64,
}

/// Whether the summary object has a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InObject {
    /// Always.
    Always,
    /// If it is not 0, after the other fields.
    IfNotZero,
    /// Never.
    Never,
}

/// Where the totals of the page show a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnPage {
    /// As a figure of its own.
    Figure,
    /// Below the figure of this name, with its words, if it is not 0.
    Below(&'static str),
    /// Not among the totals.
    Elsewhere,
}

/// Adds the numbers of the reports.
const SUM: fn(u64, u64) -> u64 = u64::saturating_add;
/// Counts the tokens of the reports again.
const RECOUNT: fn(u64, u64) -> u64 = |own, _| own;

impl Number {
    /// The columns of a row that does not set them.
    const DEFAULT: Self = Self {
        name: "",
        help: "",
        unit: "{token}",
        metric: None,
        in_object: InObject::Always,
        is_named: true,
        in_span: false,
        words: "",
        in_line: false,
        on_page: OnPage::Elsewhere,
        merge: SUM,
        field: |numbers| &mut numbers.requested,
    };

    /// The columns of a status.
    const STATUS: Self = Self {
        in_span: true,
        merge: RECOUNT,
        ..Self::DEFAULT
    };

    /// Returns the number itself.
    pub fn of(&self, numbers: &Numbers) -> u64 {
        *(self.field)(&mut { *numbers })
    }
}

/// Defines [`Numbers`] with a field for each row, and [`NUMBERS`] with the rows.
macro_rules! numbers {
    ($($(#[$attribute:meta])* $name:ident: $help:literal {
        $($column:ident: $value:expr,)* ..$rest:ident
    })*) => {
        /// The numbers of a run so far, or of a part of it.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
        pub struct Numbers {
            $(#[doc = $help] $(#[$attribute])* pub $name: u64,)*
        }

        /// All numbers, in the order of reports.
        pub const NUMBERS: &[Number] = &[$(Number {
            name: stringify!($name),
            help: $help,
            field: |numbers| &mut numbers.$name,
            $($column: $value,)*
            ..Number::$rest
        },)*];
    };
}

// Reports of older versions lack the numbers with a default.
numbers! {
    requested: "Tokens requested by SIZE" {
        metric: Some("token_service.tokens.requested"),
        in_span: true,
        on_page: OnPage::Figure,
        ..DEFAULT
    }
    #[serde(default)]
    received: "Tokens received" {
        metric: Some("token_service.tokens.received"),
        in_span: true,
        on_page: OnPage::Figure,
        merge: RECOUNT,
        ..DEFAULT
    }
    #[serde(default)]
    requests: "Requests sent to the token source" {
        unit: "{request}",
        metric: Some("token_service.requests"),
        on_page: OnPage::Figure,
        ..DEFAULT
    }
    #[serde(default)]
    surplus: "Tokens received in excess of a request, and dropped" {
        metric: Some("token_service.tokens.surplus"),
        words: "surplus dropped",
        in_line: true,
        on_page: OnPage::Below("received"),
        ..DEFAULT
    }
    #[serde(default)]
    stored: "Tokens whose commit the database confirmed" { ..STATUS }
    #[serde(default)]
    rejected: "Tokens refused permanently" { ..STATUS }
    failed: "Tokens certainly not stored" { words: "failed", in_line: true, ..STATUS }
    unknown: "Tokens in doubt" { words: "unknown", in_line: true, ..STATUS }
    not_attempted: "Tokens never sent" { words: "not attempted", in_line: true, ..STATUS }
    #[serde(default)]
    stored_before: "Tokens that earlier processes of the run stored" {
        metric: Some("token_service.tokens.stored_before"),
        in_object: InObject::IfNotZero,
        is_named: false,
        words: "stored before",
        in_line: true,
        on_page: OnPage::Below("stored"),
        ..DEFAULT
    }
    #[serde(default)]
    rejected_before: "Tokens that were rejected in earlier processes of the run" {
        metric: Some("token_service.tokens.rejected_before"),
        in_object: InObject::IfNotZero,
        is_named: false,
        words: "rejected before",
        in_line: true,
        on_page: OnPage::Below("rejected"),
        ..DEFAULT
    }
    #[serde(default)]
    unknown_before: "Tokens that earlier processes of the run committed without a visible row" {
        metric: Some("token_service.tokens.unknown_before"),
        in_object: InObject::IfNotZero,
        is_named: false,
        words: "unknown before",
        in_line: true,
        on_page: OnPage::Below("unknown"),
        ..DEFAULT
    }
    #[serde(default)]
    issued_unseen: "Upper bound of the tokens issued in responses that were not received" {
        metric: Some("token_service.tokens.issued_unseen"),
        in_object: InObject::IfNotZero,
        is_named: false,
        words: "perhaps issued unseen",
        in_line: true,
        on_page: OnPage::Below("received"),
        ..DEFAULT
    }
    #[serde(default)]
    retries: "INSERTs beyond the first of each token" {
        unit: "{insert}",
        metric: Some("token_service.retries"),
        in_object: InObject::IfNotZero,
        on_page: OnPage::Figure,
        merge: RECOUNT,
        ..DEFAULT
    }
    #[serde(default)]
    top_ups: "Requests for tokens that an earlier response did not deliver" {
        unit: "{request}",
        metric: Some("token_service.requests.top_ups"),
        in_object: InObject::Never,
        is_named: false,
        words: "to top up",
        on_page: OnPage::Below("requests"),
        ..DEFAULT
    }
    #[serde(default)]
    repeated: "Requests that repeat a failed one" {
        unit: "{request}",
        metric: Some("token_service.requests.repeated"),
        in_object: InObject::Never,
        is_named: false,
        words: "repeated",
        on_page: OnPage::Below("requests"),
        ..DEFAULT
    }
}

impl Numbers {
    /// Counts a token with its outcome.
    pub fn count(&mut self, outcome: &Outcome) {
        *self.status_mut(outcome.status) += 1;
        self.retries += u64::from(outcome.token.attempts.saturating_sub(1));
    }

    /// Returns the number of tokens with `status`.
    pub fn of(mut self, status: Status) -> u64 {
        *self.status_mut(status)
    }

    fn status_mut(&mut self, status: Status) -> &mut u64 {
        match status {
            Status::Stored => &mut self.stored,
            Status::Rejected => &mut self.rejected,
            Status::Failed => &mut self.failed,
            Status::Unknown => &mut self.unknown,
            Status::NotAttempted => &mut self.not_attempted,
        }
    }

    /// Returns the number called `name`, or 0.
    pub fn named(&self, name: &str) -> u64 {
        let row = NUMBERS.iter().find(|row| row.name == name);
        row.map_or(0, |row| row.of(self))
    }

    /// Returns the number of tokens with an outcome.
    pub fn total(self) -> u64 {
        self.settled().saturating_add(self.unsettled())
    }

    /// Returns the number of stored and rejected tokens.
    pub fn settled(self) -> u64 {
        self.stored.saturating_add(self.rejected)
    }

    /// Returns the number of tokens that are neither stored nor rejected.
    pub fn unsettled(self) -> u64 {
        let doubtful = self.failed.saturating_add(self.unknown);
        doubtful.saturating_add(self.not_attempted)
    }

    /// Returns the number of tokens that earlier processes of the run settled, or left in doubt for good.
    pub fn before(self) -> u64 {
        let settled = self.stored_before.saturating_add(self.rejected_before);
        settled.saturating_add(self.unknown_before)
    }

    /// Returns the numbers of the run as a whole, with what its earlier processes settled.
    #[must_use]
    pub fn of_whole_run(mut self) -> Self {
        self.received = self.received.saturating_add(self.before());
        self.stored = self.stored.saturating_add(self.stored_before);
        self.rejected = self.rejected.saturating_add(self.rejected_before);
        self.unknown = self.unknown.saturating_add(self.unknown_before);
        self
    }

    /// Combines them with those of a merged report, or of the source.
    #[must_use]
    pub fn merged(mut self, other: &Self) -> Self {
        for row in NUMBERS {
            let own = (row.field)(&mut self);
            *own = (row.merge)(*own, row.of(other));
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &str = include_str!("../../docs/report.schema.json");
    const REPORTS: &str = include_str!("../../docs/reports.md");

    #[test]
    fn schema_and_documents_have_the_numbers_of_the_table() {
        let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
        let summary = &schema["$defs"]["summary"];
        let required = summary["required"].as_array().unwrap();
        for row in NUMBERS {
            let property = summary["properties"].get(row.name);
            let is_required = required.iter().any(|name| name == row.name);
            assert_eq!(
                property.is_some(),
                row.in_object != InObject::Never,
                "{row:?}"
            );
            assert_eq!(is_required, row.in_object == InObject::Always, "{row:?}");
            let is_documented = REPORTS.contains(&format!("`{}`", row.name));
            assert!(is_documented || !row.is_named, "{row:?}");
        }
    }

    #[test]
    fn merged_numbers_are_added_unless_the_lines_have_them() {
        let one = Numbers {
            requests: u64::MAX,
            stored: 1,
            ..Numbers::default()
        };
        let merged = one.merged(&one);
        assert_eq!((merged.requests, merged.stored), (u64::MAX, 1));
        assert_eq!(merged.named("stored"), 1);
        assert_eq!(merged.named("nothing"), 0);
    }

    #[test]
    fn status_rows_have_the_names_of_the_statuses() {
        for status in Status::ALL {
            let mut numbers = Numbers::default();
            *numbers.status_mut(status) = 1;
            assert_eq!(numbers.named(status.as_str()), 1);
            assert_eq!(numbers.of(status), 1);
        }
    }
}
