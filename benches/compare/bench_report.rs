//! The report of a run: prints the tables, and writes the charts and the generated regions of documents.
//!
//! docs/performance.md has two generated regions, the table of goals and the measurements. Other
//! documents have one region with figures. The text around them is written by hand.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::chart::Chart;
use crate::documents::{DOCUMENTS, Figure, Figures};
use crate::machine::Machine;
use crate::results::{BenchResults, GoalResult};

/// The region with the table of goals.
const GOALS_REGION: &str = "benchmarks";
/// The region with the tables of all sections.
const MEASUREMENTS_REGION: &str = "measurements";
/// The region of other documents.
const FIGURES_REGION: &str = "figures";
const PAGE: &str = "docs/performance.md";

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
    /// Writes the charts and the generated regions of the documents, and returns their paths.
    ///
    /// If `in_place` is false, writes them below the target folder. The documents then consist of the
    /// generated regions only, and those whose figures were not measured are left out.
    ///
    /// # Errors
    /// If a file cannot be read or written, or a document in place lacks a region or a figure.
    pub fn write(&self, root: &Path, in_place: bool) -> Result<Vec<PathBuf>> {
        let folder = output_folder(root, in_place);
        fs::create_dir_all(folder.join("docs"))?;
        let mut written = Vec::new();
        let page = [
            (GOALS_REGION, self.goals()),
            (MEASUREMENTS_REGION, self.measurements()),
        ];
        written.push(write_regions(&folder, PAGE, &page, in_place)?);
        for chart in self.charts() {
            let path = folder.join("docs").join(chart.file);
            fs::write(&path, chart.render()?)?;
            written.push(path);
        }
        let figures = self.figures();
        for document in DOCUMENTS {
            match (document.text)(&figures) {
                Some(text) => {
                    let regions = [(FIGURES_REGION, text)];
                    written.push(write_regions(&folder, document.path, &regions, in_place)?);
                }
                None => ensure!(!in_place, "a figure of {} is missing", document.path),
            }
        }
        Ok(written)
    }

    fn charts(&self) -> impl Iterator<Item = &Chart> {
        let tables = self.results.tables.iter();
        tables.filter_map(|table| table.chart.as_ref())
    }

    fn figures(&self) -> Figures {
        let mut figures = self.results.figures.clone();
        let sync = self.machine.fact("Sync of 8 KiB").to_owned();
        figures.insert(Figure::Sync, sync);
        figures
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
            if let Some(chart) = &table.chart {
                let _ = writeln!(text, "\n![{}]({})", chart.title, chart.file);
            }
        }
        text
    }
}

/// Returns the folder that the paths of documents refer to: the root or a folder below the target folder.
fn output_folder(root: &Path, in_place: bool) -> PathBuf {
    if in_place {
        root.to_owned()
    } else {
        Path::new(env!("CARGO_TARGET_TMPDIR")).join("benchmarks")
    }
}

/// Replaces generated regions of a document in place, or else writes a document that consists of them.
fn write_regions(
    folder: &Path,
    document: &str,
    regions: &[(&str, String)],
    in_place: bool,
) -> Result<PathBuf> {
    let path = folder.join(document);
    let mut text = if in_place {
        fs::read_to_string(&path)?
    } else {
        let empty = regions.iter().map(|(name, _)| region(name, ""));
        empty.collect::<Vec<_>>().join("\n\n") + "\n"
    };
    for (name, content) in regions {
        text = replace_region(&text, name, content)
            .with_context(|| format!("{document} lacks the markers of the region `{name}`"))?;
    }
    fs::write(&path, text)?;
    Ok(path)
}

/// Returns a generated region with its markers.
fn region(name: &str, text: &str) -> String {
    format!("<!-- {name} -->\n{}\n<!-- /{name} -->", text.trim_end())
}

/// Replaces the text of a generated region, or returns `None` if its markers are missing.
fn replace_region(document: &str, name: &str, text: &str) -> Option<String> {
    let (before, rest) = document.split_once(&format!("<!-- {name} -->"))?;
    let (_, after) = rest.split_once(&format!("<!-- /{name} -->"))?;
    Some(format!("{before}{}{after}", region(name, text)))
}
