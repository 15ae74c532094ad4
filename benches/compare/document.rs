//! What is written: docs/benchmarks.md as a whole, the chart, and the README's block between its two
//! markers. Every figure in them comes from a run; none is written by hand.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::chart;
use super::findings::{Findings, Verdict};
use super::machine::Machine;
use super::text;

const BEGIN: &str = "<!-- benchmarks -->";
const END: &str = "<!-- /benchmarks -->";
const DOCUMENT: &str = "benchmarks.md";
const CHART: &str = "throughput.svg";

/// A run's results.
pub struct Report {
    /// On what.
    pub machine: Machine,
    /// What came of it.
    pub findings: Findings,
    /// Rounds of each comparison.
    pub rounds: usize,
    /// How long it took, in minutes.
    pub minutes: f64,
    /// Why it is no full measurement, where it is none.
    pub caveat: Option<&'static str>,
}

impl Report {
    /// Writes everything; gives the places.
    pub fn write(&self, root: &Path, in_tree: bool) -> Result<Vec<PathBuf>> {
        let docs = if in_tree {
            root.join("docs")
        } else {
            Path::new(env!("CARGO_TARGET_TMPDIR")).join("benchmarks")
        };
        fs::create_dir_all(&docs)?;
        let mut written = vec![docs.join(DOCUMENT)];
        fs::write(&written[0], self.document())?;
        if !self.findings.curves.is_empty() {
            let path = docs.join(CHART);
            fs::write(&path, chart::draw(&self.findings.curves)?)?;
            written.push(path);
        }
        let block = self.block();
        let readme = root.join("README.md");
        if in_tree {
            let text = fs::read_to_string(&readme)?;
            fs::write(&readme, replaced(&text, &block)?)?;
            written.push(readme);
        } else {
            written.push(docs.join("README-block.md"));
            fs::write(written.last().context("a path")?, block)?;
        }
        Ok(written)
    }

    /// All of it, for the terminal.
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

    fn document(&self) -> String {
        let mut text = String::from(
            "# Benchmarks\n\nWritten by `cargo bench --locked`; do not edit.\n\n\
             What is compared starts and ends as a process, connecting included, against a \
             PostgreSQL of its own with `fsync=on` and `synchronous_commit=on`. The contenders take \
             turns; before each turn the table is emptied and a checkpoint made, and after it the \
             table is compared with what was sent.\n",
        );
        let _ = writeln!(
            text,
            "Figures are medians of {} rounds with the least and the most in parentheses; ratios are \
             medians of the rounds' ratios.\n",
            self.rounds
        );
        if let Some(caveat) = self.caveat {
            let _ = writeln!(text, "**{caveat}**\n");
        }
        for (name, fact) in &self.machine.facts {
            let _ = writeln!(text, "- {name}: {fact}");
        }
        let goals = text::markdown(&text::goals(&self.findings.goals));
        let _ = writeln!(text, "\n## Goals\n\n{goals}\n{}.", self.score());
        for table in &self.findings.tables {
            let _ = writeln!(text, "\n## {}\n", table.title);
            if !table.note.is_empty() {
                let _ = writeln!(text, "{}\n", table.note);
            }
            text.push_str(&text::markdown(table));
        }
        if !self.findings.curves.is_empty() {
            let _ = writeln!(text, "\n![Throughput against round-trip time]({CHART})");
        }
        text
    }

    fn block(&self) -> String {
        let fact = |name| self.machine.fact(name);
        let mut text = format!("{BEGIN}\n");
        if let Some(caveat) = self.caveat {
            let _ = writeln!(text, "**{caveat}**\n");
        }
        let _ = writeln!(
            text,
            "Measured on {} at commit {}: {}, {}, PostgreSQL {}.\nMedians of {} rounds in which the \
             contenders took turns, with the least and the most.\n",
            fact("Date"),
            fact("Commit"),
            fact("Processor"),
            fact("Database's disk"),
            fact("PostgreSQL"),
            self.rounds
        );
        text.push_str(&text::markdown(&text::goals(&self.findings.goals)));
        if !self.findings.curves.is_empty() {
            let _ = writeln!(
                text,
                "\n![Throughput against round-trip time](docs/{CHART})"
            );
        }
        let _ = writeln!(text, "{END}");
        text
    }
}

fn replaced(readme: &str, block: &str) -> Result<String> {
    let missing = "README.md lacks the markers of the benchmarks";
    let (before, rest) = readme.split_once(BEGIN).context(missing)?;
    let (_, after) = rest.split_once(END).context(missing)?;
    Ok(format!("{before}{}{after}", block.trim_end()))
}
