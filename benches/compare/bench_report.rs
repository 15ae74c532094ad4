//! The report of a run: prints the tables and writes the chart and docs/performance.md.
//!
//! docs/performance.md has two generated regions, the table of goals and the measurements. The text
//! around them is written by hand.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::chart;
use crate::machine::Machine;
use crate::results::{BenchResults, GoalResult};

/// The region with the table of goals.
const GOALS_REGION: &str = "benchmarks";
/// The region with the tables of all sections.
const MEASUREMENTS_REGION: &str = "measurements";
const PAGE: &str = "performance.md";
const CHART: &str = "throughput.svg";

/// The report of a run.
pub struct BenchReport {
    /// The machine.
    pub machine: Machine,
    /// The results of all sections.
    pub results: BenchResults,
    /// Rounds of each comparison.
    pub rounds: usize,
    /// Duration in minutes.
    pub minutes: f64,
    /// Why the run is not a full run, or `None` if it is.
    pub caveat: Option<&'static str>,
}

impl BenchReport {
    /// Writes the page and the chart, and returns their paths.
    ///
    /// If `in_docs` is false, writes them below the target folder. The page then consists of the
    /// generated regions only.
    ///
    /// # Errors
    /// If a file cannot be read or written, or the page in docs/ lacks a region.
    pub fn write(&self, root: &Path, in_docs: bool) -> Result<Vec<PathBuf>> {
        let folder = output_folder(root, in_docs);
        fs::create_dir_all(&folder)?;
        let page_path = folder.join(PAGE);
        let page = if in_docs {
            fs::read_to_string(&page_path)?
        } else {
            format!(
                "{}\n\n{}\n",
                region(GOALS_REGION, ""),
                region(MEASUREMENTS_REGION, "")
            )
        };
        let page = replace_region(&page, GOALS_REGION, &self.goals())?;
        let page = replace_region(&page, MEASUREMENTS_REGION, &self.measurements())?;
        fs::write(&page_path, page)?;
        let mut written = vec![page_path];
        if !self.results.curves.is_empty() {
            let chart_path = folder.join(CHART);
            fs::write(&chart_path, chart::render(&self.results.curves)?)?;
            written.push(chart_path);
        }
        Ok(written)
    }

    /// Renders all tables for the terminal.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for table in &self.results.tables {
            text.push_str(&table.to_columns());
        }
        text.push_str(&self.results.goal_table().to_columns());
        let _ = writeln!(text, "\n{}", self.summary());
        text
    }

    /// Returns the numbers of reached and missed goals.
    fn summary(&self) -> String {
        let count = |result| {
            let goals = self.results.goals.iter();
            goals.filter(|goal| goal.result == result).count()
        };
        format!(
            "{} goals reached, {} not reached, {} not measured, in {:.0} minutes",
            count(GoalResult::Reached),
            count(GoalResult::NotReached),
            count(GoalResult::NotMeasured),
            self.minutes
        )
    }

    /// Renders the region with the table of goals.
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
        text.push_str(&self.results.goal_table().to_markdown());
        let _ = writeln!(text, "\n{}.", self.summary());
        if !self.results.curves.is_empty() {
            let _ = writeln!(text, "\n![Throughput against round-trip time]({CHART})");
        }
        text
    }

    /// Renders the region with the machine and the tables of all sections.
    fn measurements(&self) -> String {
        let mut text = String::from(
            "Each contender is measured as a process from start to exit, connecting included, against a \
             dedicated\nPostgreSQL server with `fsync=on` and `synchronous_commit=on`. The contenders \
             take turns. Before each turn the\nharness empties the table and makes a checkpoint. After \
             each turn it compares the table with the tokens that\nwere sent.\n\n",
        );
        let _ = writeln!(
            text,
            "Figures are medians of {} rounds, with minimum and maximum in parentheses. A ratio is the \
             median of the\nratios of the rounds.\n",
            self.rounds
        );
        for (name, value) in &self.machine.facts {
            let _ = writeln!(text, "- {name}: {value}");
        }
        for table in &self.results.tables {
            let _ = writeln!(text, "\n### {}\n", table.title);
            if !table.note.is_empty() {
                let _ = writeln!(text, "{}\n", table.note);
            }
            text.push_str(&table.to_markdown());
        }
        text
    }
}

/// Returns the folder of the written files: docs/ or a folder below the target folder.
pub fn output_folder(root: &Path, in_docs: bool) -> PathBuf {
    if in_docs {
        root.join("docs")
    } else {
        Path::new(env!("CARGO_TARGET_TMPDIR")).join("benchmarks")
    }
}

/// Returns a generated region with its markers.
fn region(name: &str, text: &str) -> String {
    format!("<!-- {name} -->\n{}\n<!-- /{name} -->", text.trim_end())
}

/// Replaces the text of a generated region.
fn replace_region(page: &str, name: &str, text: &str) -> Result<String> {
    let missing = || format!("docs/{PAGE} lacks the markers of the region `{name}`");
    let (before, rest) = page
        .split_once(&format!("<!-- {name} -->"))
        .with_context(missing)?;
    let (_, after) = rest
        .split_once(&format!("<!-- /{name} -->"))
        .with_context(missing)?;
    Ok(format!("{before}{}{after}", region(name, text)))
}
