//! The results of the benchmark: tables, goals with their measurements, and figures for other documents.

use std::fmt;

use crate::documents::Figures;
use crate::statistics::MedianRange;
use crate::table::Table;

/// The columns of the table of goals.
const GOAL_COLUMNS: [&str; 6] = ["work", "goal", "measured", "against", "ratio", "result"];

/// Whether a goal is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoalResult {
    /// The median reaches the goal.
    Reached,
    /// The median misses the goal.
    NotReached,
    /// The goal could not be measured on this machine.
    NotMeasured,
}

impl GoalResult {
    /// Converts the result of a comparison.
    pub fn from_reached(is_reached: bool) -> Self {
        if is_reached {
            Self::Reached
        } else {
            Self::NotReached
        }
    }

    /// Returns the text for the table of goals.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reached => "reached",
            Self::NotReached => "**not reached**",
            Self::NotMeasured => "not measured",
        }
    }
}

/// A goal and its measurement.
#[derive(Clone, Debug)]
pub struct Goal {
    /// The measured work.
    pub work: String,
    /// The limit that the measurement must keep.
    pub limit: String,
    /// The measured figure.
    pub measured: String,
    /// The figure that it is compared with. May be empty.
    pub against: String,
    /// The ratio of the two. May be empty.
    pub ratio: String,
    /// Whether the goal is reached.
    pub result: GoalResult,
}

impl Goal {
    /// Creates a goal for the ratio of two measured figures.
    pub fn ratio(
        work: impl Into<String>,
        limit: RatioLimit,
        [measured, against]: [String; 2],
        ratio: MedianRange,
    ) -> Self {
        Self {
            work: work.into(),
            limit: limit.to_string(),
            measured,
            against,
            ratio: ratio.format(2),
            result: limit.check(ratio.median),
        }
    }

    /// Creates a goal for one measured figure.
    pub fn figure(
        work: impl Into<String>,
        limit: &str,
        measured: String,
        is_reached: bool,
    ) -> Self {
        Self {
            work: work.into(),
            limit: limit.to_owned(),
            measured,
            against: String::new(),
            ratio: String::new(),
            result: GoalResult::from_reached(is_reached),
        }
    }

    /// Creates a goal that could not be measured on this machine.
    pub fn not_measured(work: impl Into<String>, limit: &str, reason: impl Into<String>) -> Self {
        Self {
            measured: reason.into(),
            result: GoalResult::NotMeasured,
            ..Self::figure(work, limit, String::new(), false)
        }
    }
}

/// The ratio at which a goal is reached, and the name of the figure that it refers to.
#[derive(Clone, Copy, Debug)]
pub enum RatioLimit {
    /// A lower limit.
    AtLeast(f64, &'static str),
    /// An upper limit.
    AtMost(f64, &'static str),
}

impl RatioLimit {
    /// Compares a measured ratio with the limit.
    pub fn check(self, ratio: f64) -> GoalResult {
        GoalResult::from_reached(match self {
            Self::AtLeast(min, _) => ratio >= min,
            Self::AtMost(max, _) => ratio <= max,
        })
    }
}

impl fmt::Display for RatioLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(min, reference) => write!(f, "≥ {min} × {reference}"),
            Self::AtMost(max, reference) => write!(f, "≤ {max} × {reference}"),
        }
    }
}

/// The results of one section, or of all sections.
#[derive(Clone, Debug, Default)]
pub struct BenchResults {
    /// The goals.
    pub goals: Vec<Goal>,
    /// The tables.
    pub tables: Vec<Table>,
    /// The figures that README.md and other pages repeat.
    pub figures: Figures,
}

impl BenchResults {
    /// Appends the results of another section.
    pub fn append(&mut self, other: Self) {
        self.goals.extend(other.goals);
        self.tables.extend(other.tables);
        self.figures.extend(other.figures);
    }

    /// Returns the goals as a table.
    pub fn goal_table(&self) -> Table {
        let mut table = Table::new("Goals", "", &GOAL_COLUMNS);
        for goal in &self.goals {
            table.add_row([
                goal.work.clone(),
                goal.limit.clone(),
                goal.measured.clone(),
                goal.against.clone(),
                goal.ratio.clone(),
                goal.result.as_str().to_owned(),
            ]);
        }
        table
    }
}
