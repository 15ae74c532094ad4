//! Tables as text: Markdown for documents, columns for the terminal.

use std::fmt::Write as _;

use super::findings::{Goal, Table};

/// The names of the columns in the table of goals.
const GOALS: [&str; 6] = ["work", "goal", "measured", "against", "ratio", "result"];

/// The goals as a table.
pub fn goals(goals: &[Goal]) -> Table {
    let mut table = Table::new("Goals", "", &GOALS);
    for goal in goals {
        table.row([
            goal.work.clone(),
            goal.aim.clone(),
            goal.measured.clone(),
            goal.against.clone(),
            goal.ratio.clone(),
            goal.verdict.as_str().to_owned(),
        ]);
    }
    table
}

/// The table in Markdown, without its heading.
pub fn markdown(table: &Table) -> String {
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let mut text = line(&table.head);
    let _ = writeln!(text, "|{}", "---|".repeat(table.head.len()));
    for row in &table.rows {
        text.push_str(&line(row));
    }
    text
}

/// The table with its heading, for a terminal.
pub fn columns(table: &Table) -> String {
    let width = |text: &String| text.chars().count();
    let mut widths: Vec<usize> = table.head.iter().map(width).collect();
    for row in &table.rows {
        for (cell, widest) in row.iter().zip(&mut widths) {
            *widest = width(cell).max(*widest);
        }
    }
    let mut text = format!("\n{}\n", table.title);
    for row in std::iter::once(&table.head).chain(&table.rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "  {cell:width$}");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
