//! Tables, rendered as Markdown for documents and as aligned columns for the terminal.

use std::fmt::Write as _;

use crate::chart::Chart;

/// A table with a title.
#[derive(Clone, Debug)]
pub struct Table {
    /// The title.
    pub title: String,
    /// Explains what is measured and how. May be empty.
    pub note: String,
    /// The names of the columns.
    pub header: Vec<String>,
    /// The cells.
    pub rows: Vec<Vec<String>>,
    /// The chart that shows the figures.
    pub chart: Option<Chart>,
}

impl Table {
    /// Creates a table without rows.
    pub fn new(title: impl Into<String>, note: impl Into<String>, header: &[&str]) -> Self {
        Self {
            title: title.into(),
            note: note.into(),
            header: header.iter().map(|&name| name.to_owned()).collect(),
            rows: Vec::new(),
            chart: None,
        }
    }

    /// Adds a row.
    pub fn add_row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Renders the table as Markdown, without its title and note.
    pub fn to_markdown(&self) -> String {
        let line = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let mut text = line(&self.header);
        let _ = writeln!(text, "|{}", "---|".repeat(self.header.len()));
        for row in &self.rows {
            text.push_str(&line(row));
        }
        text
    }

    /// Renders the table with its title as aligned columns.
    pub fn to_columns(&self) -> String {
        let char_count = |text: &String| text.chars().count();
        let mut widths: Vec<usize> = self.header.iter().map(char_count).collect();
        for row in &self.rows {
            for (cell, width) in row.iter().zip(&mut widths) {
                *width = char_count(cell).max(*width);
            }
        }
        let mut text = format!("\n{}\n", self.title);
        for row in std::iter::once(&self.header).chain(&self.rows) {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(line, "  {cell:width$}");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}
