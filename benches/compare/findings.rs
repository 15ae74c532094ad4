//! What a section brings: tables, and the goals that it speaks of with what was measured.

use super::series::Spread;

/// A table with its heading.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its heading.
    pub title: String,
    /// What is measured and how; may be empty.
    pub note: String,
    /// The names of the columns.
    pub head: Vec<String>,
    /// The cells.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new(title: impl Into<String>, note: impl Into<String>, head: &[&str]) -> Self {
        Self {
            title: title.into(),
            note: note.into(),
            head: head.iter().map(|&name| name.to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

/// What came of a goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The median reaches it.
    Reached,
    /// It does not.
    NotReached,
    /// It could not be measured here.
    NotMeasured,
}

impl Verdict {
    /// Reached, where `holds`.
    pub fn of(holds: bool) -> Self {
        if holds {
            Self::Reached
        } else {
            Self::NotReached
        }
    }

    /// As it stands in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reached => "reached",
            Self::NotReached => "**not reached**",
            Self::NotMeasured => "not measured",
        }
    }
}

/// A goal with what was measured.
#[derive(Clone, Debug)]
pub struct Goal {
    /// What is done.
    pub work: String,
    /// What is to be reached.
    pub aim: String,
    /// What was measured.
    pub measured: String,
    /// What it is compared with; may be empty.
    pub against: String,
    /// The ratio that the goal is about; may be empty.
    pub ratio: String,
    /// What came of it.
    pub verdict: Verdict,
}

impl Goal {
    /// A goal about the ratio of two measured figures.
    pub fn ratio(
        work: impl Into<String>,
        bound: Bound,
        [measured, against]: [String; 2],
        ratio: Spread,
    ) -> Self {
        Self {
            work: work.into(),
            aim: bound.to_string(),
            measured,
            against,
            ratio: ratio.show(2),
            verdict: bound.judge(ratio.median),
        }
    }

    /// A goal about one measured figure.
    pub fn figure(work: impl Into<String>, aim: &str, measured: String, holds: bool) -> Self {
        Self {
            work: work.into(),
            aim: aim.to_owned(),
            measured,
            against: String::new(),
            ratio: String::new(),
            verdict: Verdict::of(holds),
        }
    }

    /// A goal that could not be measured here.
    pub fn unmeasured(work: impl Into<String>, aim: &str, why: impl Into<String>) -> Self {
        Self {
            measured: why.into(),
            verdict: Verdict::NotMeasured,
            ..Self::figure(work, aim, String::new(), false)
        }
    }
}

/// Which ratio is good enough.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    /// At least so much of what the words say.
    AtLeast(f64, &'static str),
    /// At most so much.
    AtMost(f64, &'static str),
}

impl Bound {
    /// What came of the goal.
    pub fn judge(self, ratio: f64) -> Verdict {
        Verdict::of(match self {
            Self::AtLeast(least, _) => ratio >= least,
            Self::AtMost(most, _) => ratio <= most,
        })
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(least, whose) => write!(f, "≥ {least} × {whose}"),
            Self::AtMost(most, whose) => write!(f, "≤ {most} × {whose}"),
        }
    }
}

/// A line of the chart.
#[derive(Clone, Debug)]
pub struct Curve {
    /// The contender.
    pub name: String,
    /// Round-trip times in milliseconds, and tokens a second.
    pub points: Vec<(f64, f64)>,
}

/// What a section brings.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// The goals.
    pub goals: Vec<Goal>,
    /// The tables.
    pub tables: Vec<Table>,
    /// The chart, from the one section that draws it.
    pub curves: Vec<Curve>,
}

impl Findings {
    /// Adds those of another section.
    pub fn add(&mut self, other: Self) {
        self.goals.extend(other.goals);
        self.tables.extend(other.tables);
        self.curves.extend(other.curves);
    }
}
