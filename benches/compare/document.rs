//! Writes the chart and the two generated regions of docs/performance.md: the table of goals and the
//! measurements. Every figure in them comes from a run; the text around them is written by hand.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::chart;
use super::findings::{Findings, Verdict};
use super::machine::Machine;
use super::text;

/// The generated region with the table of goals.
const GOALS: &str = "benchmarks";
/// The generated region with the tables of all sections.
const MEASUREMENTS: &str = "measurements";
const DOCUMENT: &str = "performance.md";
const CHART: &str = "throughput.svg";

/// The results of a run.
pub struct Report {
    /// The machine that it ran on.
    pub machine: Machine,
    /// The tables, goals and curves.
    pub findings: Findings,
    /// Rounds of each comparison.
    pub rounds: usize,
    /// Duration in minutes.
    pub minutes: f64,
    /// Why the run is not a full measurement, if it is not.
    pub caveat: Option<&'static str>,
}

impl Report {
    /// Writes everything and returns the paths. Outside of the tree the document holds the regions alone.
    pub fn write(&self, root: &Path, in_tree: bool) -> Result<Vec<PathBuf>> {
        let docs = if in_tree {
            root.join("docs")
        } else {
            Path::new(env!("CARGO_TARGET_TMPDIR")).join("benchmarks")
        };
        fs::create_dir_all(&docs)?;
        let path = docs.join(DOCUMENT);
        let before = if in_tree {
            fs::read_to_string(&path)?
        } else {
            format!("{}\n\n{}\n", region(GOALS, ""), region(MEASUREMENTS, ""))
        };
        let text = replaced(&before, GOALS, &self.goals())?;
        fs::write(&path, replaced(&text, MEASUREMENTS, &self.measurements())?)?;
        let mut written = vec![path];
        if !self.findings.curves.is_empty() {
            let path = docs.join(CHART);
            fs::write(&path, chart::draw(&self.findings.curves)?)?;
            written.push(path);
        }
        Ok(written)
    }

    /// All tables as text for the terminal.
    pub fn print(&self) -> String {
        let mut text = String::new();
        for table in &self.findings.tables {
            text.push_str(&text::columns(table));
        }
        text.push_str(&text::columns(&text::goals(&self.findings.goals)));
        let _ = writeln!(text, "\n{}", self.score());
        text
    }

    fn score(&self) -> String {
        let of = |verdict| {
            let goals = self.findings.goals.iter();
            goals.filter(|goal| goal.verdict == verdict).count()
        };
        format!(
            "{} goals reached, {} not reached, {} not measured, in {:.0} minutes",
            of(Verdict::Reached),
            of(Verdict::NotReached),
            of(Verdict::NotMeasured),
            self.minutes
        )
    }

    /// The table of goals, with where and when it was measured.
    fn goals(&self) -> String {
        let fact = |name| self.machine.fact(name);
        let mut text = String::new();
        if let Some(caveat) = self.caveat {
            let _ = writeln!(text, "**{caveat}**\n");
        }
        let _ = writeln!(
            text,
            "Measured on {} at commit {}: {}, {}, PostgreSQL {}.\nMedians of {} rounds in which the \
             contenders took turns, with minimum and maximum in parentheses.\n",
            fact("Date"),
            fact("Commit"),
            fact("Processor"),
            fact("Database's disk"),
            fact("PostgreSQL"),
            self.rounds
        );
        text.push_str(&text::markdown(&text::goals(&self.findings.goals)));
        let _ = writeln!(text, "\n{}.", self.score());
        if !self.findings.curves.is_empty() {
            let _ = writeln!(text, "\n![Throughput against round-trip time]({CHART})");
        }
        text
    }

    /// The machine and the tables of all sections.
    fn measurements(&self) -> String {
        let mut text = String::from(
            "Each contender is measured as a process from start to end, connecting included, against a \
             dedicated PostgreSQL\nwith `fsync=on` and `synchronous_commit=on`. The contenders take \
             turns. Before each turn the table is emptied\nand a checkpoint is made. After each turn \
             the table is compared with what was sent.\n\n",
        );
        let _ = writeln!(
            text,
            "Figures are medians of {} rounds, with minimum and maximum in parentheses. A ratio is the \
             median of the\nratios of the rounds.\n",
            self.rounds
        );
        for (name, fact) in &self.machine.facts {
            let _ = writeln!(text, "- {name}: {fact}");
        }
        for table in &self.findings.tables {
            let _ = writeln!(text, "\n### {}\n", table.title);
            if !table.note.is_empty() {
                let _ = writeln!(text, "{}\n", table.note);
            }
            text.push_str(&text::markdown(table));
        }
        text
    }
}

/// A generated region of the document, with its markers.
fn region(name: &str, text: &str) -> String {
    format!("<!-- {name} -->\n{}\n<!-- /{name} -->", text.trim_end())
}

/// The document with another text in one of its generated regions.
fn replaced(document: &str, name: &str, text: &str) -> Result<String> {
    let missing = || format!("docs/{DOCUMENT} lacks the markers of the region `{name}`");
    let (before, rest) = document
        .split_once(&format!("<!-- {name} -->"))
        .with_context(missing)?;
    let (_, after) = rest
        .split_once(&format!("<!-- /{name} -->"))
        .with_context(missing)?;
    Ok(format!("{before}{}{after}", region(name, text)))
}
