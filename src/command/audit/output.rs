//! Writes the result of an audit as text, JSON or CSV.

use std::io::{self, Write};

use jiff::Timestamp;
use serde::Serialize;

use crate::cli::AuditFormat;
use crate::command::audit::{Audit, Comparison};
use crate::config::FileKind;
use crate::error::escape::write_json;
use crate::observe::number::grouped;
use crate::pipeline::positions::PositionSet;
use crate::store::receipts::audit::ShardReceipts;

/// The number of positions that text shows.
const MAX_SHOWN: usize = 20;

/// The version of the JSON formats.
const VERSION: u32 = 1;

/// The columns of text and CSV.
const COLUMNS: [&str; 8] = [
    "run",
    "shard",
    "stored",
    "skipped",
    "rejected",
    "tombstones",
    "first",
    "last",
];

/// Writes the result.
pub(super) fn write_audit(
    out: &mut impl Write,
    format: AuditFormat,
    audit: &Audit,
) -> io::Result<()> {
    match format {
        AuditFormat::Text => write_text(out, audit),
        AuditFormat::Json => {
            write_json(&mut *out, &JsonAudit::of(audit))?;
            writeln!(out)
        }
        AuditFormat::Ndjson => write_ndjson(out, audit),
        AuditFormat::Csv => write_csv(out, audit),
    }
}

fn write_text(out: &mut impl Write, audit: &Audit) -> io::Result<()> {
    if !audit.shards.is_empty() {
        let rows = audit.shards.iter().map(cells);
        let rows: Vec<[String; 8]> = [COLUMNS.map(str::to_owned)]
            .into_iter()
            .chain(rows)
            .collect();
        let widths: [usize; 8] = std::array::from_fn(|column| {
            let lengths = rows.iter().map(|row| row[column].len());
            lengths.max().unwrap_or(0)
        });
        for row in &rows {
            let cells = row
                .iter()
                .zip(widths)
                .enumerate()
                .map(|(column, (cell, width))| {
                    // The columns between the run and the times are numbers.
                    if (1..6).contains(&column) {
                        format!("{cell:>width$}")
                    } else {
                        format!("{cell:width$}")
                    }
                });
            let line = cells.collect::<Vec<_>>().join("  ");
            writeln!(out, "{}", line.trim_end())?;
        }
    }
    let Some(comparison) = &audit.comparison else {
        return Ok(());
    };
    if !audit.shards.is_empty() {
        writeln!(out)?;
    }
    let file = format!("missing in the {}", comparison.file());
    let width = file.len();
    for (label, missing) in [
        ("missing in the table", &comparison.missing_in_table),
        (file.as_str(), &comparison.missing_in_file),
    ] {
        writeln!(out, "{label:width$}  {}", Shown(missing))?;
    }
    Ok(())
}

impl Comparison {
    fn file(&self) -> &'static str {
        match self.kind {
            FileKind::Report => "report",
            FileKind::Journal => "journal",
        }
    }
}

fn cells(row: &ShardReceipts) -> [String; 8] {
    let seconds = |time: Timestamp| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    [
        row.run_id.to_string(),
        row.shard.to_string(),
        grouped(row.stored),
        grouped(row.skipped),
        grouped(row.rejected),
        grouped(row.tombstones),
        seconds(row.first),
        seconds(row.last),
    ]
}

/// The number of positions, and the first of them.
struct Shown<'a>(&'a PositionSet);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count = self.0.len();
        f.write_str(&grouped(count))?;
        for (index, position) in self.0.iter().take(MAX_SHOWN).enumerate() {
            let separator = if index == 0 { ": " } else { ", " };
            write!(f, "{separator}{position}")?;
        }
        if let rest @ 1.. = count.saturating_sub(MAX_SHOWN as u64) {
            write!(f, ", … and {} more", grouped(rest))?;
        }
        Ok(())
    }
}

/// The object of `json`.
#[derive(Serialize)]
struct JsonAudit<'a> {
    version: u32,
    shards: &'a [ShardReceipts],
    #[serde(flatten)]
    comparison: Option<JsonComparison<'a>>,
}

/// The keys of a comparison.
#[derive(Serialize)]
struct JsonComparison<'a> {
    run_id: String,
    shard: Option<i32>,
    file: &'static str,
    missing_in_table: &'a PositionSet,
    missing_in_file: &'a PositionSet,
}

impl<'a> JsonAudit<'a> {
    fn of(audit: &'a Audit) -> Self {
        let comparison = audit.comparison.as_ref().map(|comparison| JsonComparison {
            run_id: comparison.run_id.to_string(),
            shard: comparison.shard,
            file: comparison.file(),
            missing_in_table: &comparison.missing_in_table,
            missing_in_file: &comparison.missing_in_file,
        });
        Self {
            version: VERSION,
            shards: &audit.shards,
            comparison,
        }
    }
}

fn write_ndjson(out: &mut impl Write, audit: &Audit) -> io::Result<()> {
    #[derive(Serialize)]
    struct Missing {
        missing_in: &'static str,
        position: u64,
    }
    #[derive(Serialize)]
    struct Summary<'a> {
        summary: Counts<'a>,
    }
    #[derive(Serialize)]
    struct Counts<'a> {
        version: u32,
        run_id: &'a str,
        shard: Option<i32>,
        file: &'static str,
        missing_in_table: u64,
        missing_in_file: u64,
    }
    for shard in &audit.shards {
        write_json(&mut *out, shard)?;
        writeln!(out)?;
    }
    let Some(comparison) = &audit.comparison else {
        return Ok(());
    };
    for (missing_in, position) in comparison.missing() {
        let missing = Missing {
            missing_in,
            position,
        };
        write_json(&mut *out, &missing)?;
        writeln!(out)?;
    }
    let summary = Summary {
        summary: Counts {
            version: VERSION,
            run_id: &comparison.run_id.to_string(),
            shard: comparison.shard,
            file: comparison.file(),
            missing_in_table: comparison.missing_in_table.len(),
            missing_in_file: comparison.missing_in_file.len(),
        },
    };
    write_json(&mut *out, &summary)?;
    writeln!(out)
}

impl Comparison {
    /// Returns each missing position and where it is missing.
    fn missing(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let in_table = self.missing_in_table.iter().map(|it| ("table", it));
        let file = self.file();
        in_table.chain(self.missing_in_file.iter().map(move |it| (file, it)))
    }
}

/// Writes the shards, or with a comparison the missing positions: a CSV file is one table.
///
/// No cell is a text from outside.
fn write_csv(out: &mut impl Write, audit: &Audit) -> io::Result<()> {
    let Some(comparison) = &audit.comparison else {
        writeln!(out, "{}", COLUMNS.join(","))?;
        for row in &audit.shards {
            let ShardReceipts {
                run_id,
                shard,
                stored,
                skipped,
                rejected,
                tombstones,
                first,
                last,
            } = row;
            writeln!(
                out,
                "{run_id},{shard},{stored},{skipped},{rejected},{tombstones},{first},{last}"
            )?;
        }
        return Ok(());
    };
    writeln!(out, "missing_in,position")?;
    for (missing_in, position) in comparison.missing() {
        writeln!(out, "{missing_in},{position}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn shard(run: u128, shard: i32, stored: u64) -> ShardReceipts {
        ShardReceipts {
            run_id: Uuid::from_u128(run),
            shard,
            stored,
            skipped: 0,
            rejected: 12,
            tombstones: 3,
            first: "2026-01-01T00:00:00.25Z".parse().unwrap(),
            last: "2026-01-02T00:00:00Z".parse().unwrap(),
        }
    }

    fn compared(missing_in_table: PositionSet, missing_in_file: PositionSet) -> Audit {
        Audit {
            shards: vec![shard(1, 0, 1000)],
            comparison: Some(Comparison {
                kind: FileKind::Report,
                run_id: Uuid::from_u128(1),
                shard: Some(0),
                missing_in_table,
                missing_in_file,
            }),
        }
    }

    fn written(format: AuditFormat, audit: &Audit) -> String {
        let mut out = Vec::new();
        write_audit(&mut out, format, audit).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn in_all_formats(audit: &Audit) -> String {
        let formats = [
            AuditFormat::Text,
            AuditFormat::Json,
            AuditFormat::Ndjson,
            AuditFormat::Csv,
        ];
        formats.map(|format| written(format, audit)).join("---\n")
    }

    #[test]
    fn shards_are_written_in_each_format() {
        let audit = Audit {
            shards: vec![shard(1, 0, 1_234_567), shard(1, 10, 0)],
            comparison: None,
        };
        insta::assert_snapshot!(in_all_formats(&audit), @r#"
        run                                   shard     stored  skipped  rejected  tombstones  first                 last
        00000000-0000-0000-0000-000000000001      0  1,234,567        0        12           3  2026-01-01T00:00:00Z  2026-01-02T00:00:00Z
        00000000-0000-0000-0000-000000000001     10          0        0        12           3  2026-01-01T00:00:00Z  2026-01-02T00:00:00Z
        ---
        {"version":1,"shards":[{"run_id":"00000000-0000-0000-0000-000000000001","shard":0,"stored":1234567,"skipped":0,"rejected":12,"tombstones":3,"first":"2026-01-01T00:00:00.25Z","last":"2026-01-02T00:00:00Z"},{"run_id":"00000000-0000-0000-0000-000000000001","shard":10,"stored":0,"skipped":0,"rejected":12,"tombstones":3,"first":"2026-01-01T00:00:00.25Z","last":"2026-01-02T00:00:00Z"}]}
        ---
        {"run_id":"00000000-0000-0000-0000-000000000001","shard":0,"stored":1234567,"skipped":0,"rejected":12,"tombstones":3,"first":"2026-01-01T00:00:00.25Z","last":"2026-01-02T00:00:00Z"}
        {"run_id":"00000000-0000-0000-0000-000000000001","shard":10,"stored":0,"skipped":0,"rejected":12,"tombstones":3,"first":"2026-01-01T00:00:00.25Z","last":"2026-01-02T00:00:00Z"}
        ---
        run,shard,stored,skipped,rejected,tombstones,first,last
        00000000-0000-0000-0000-000000000001,0,1234567,0,12,3,2026-01-01T00:00:00.25Z,2026-01-02T00:00:00Z
        00000000-0000-0000-0000-000000000001,10,0,0,12,3,2026-01-01T00:00:00.25Z,2026-01-02T00:00:00Z
        "#);
    }

    #[test]
    fn missing_positions_are_written_in_each_format() {
        let audit = compared(
            [4_294_967_297].into_iter().collect(),
            PositionSet::default(),
        );
        insta::assert_snapshot!(in_all_formats(&audit), @r#"
        run                                   shard  stored  skipped  rejected  tombstones  first                 last
        00000000-0000-0000-0000-000000000001      0   1,000        0        12           3  2026-01-01T00:00:00Z  2026-01-02T00:00:00Z

        missing in the table   1: 4294967297
        missing in the report  0
        ---
        {"version":1,"shards":[{"run_id":"00000000-0000-0000-0000-000000000001","shard":0,"stored":1000,"skipped":0,"rejected":12,"tombstones":3,"first":"2026-01-01T00:00:00.25Z","last":"2026-01-02T00:00:00Z"}],"run_id":"00000000-0000-0000-0000-000000000001","shard":0,"file":"report","missing_in_table":[4294967297],"missing_in_file":[]}
        ---
        {"run_id":"00000000-0000-0000-0000-000000000001","shard":0,"stored":1000,"skipped":0,"rejected":12,"tombstones":3,"first":"2026-01-01T00:00:00.25Z","last":"2026-01-02T00:00:00Z"}
        {"missing_in":"table","position":4294967297}
        {"summary":{"version":1,"run_id":"00000000-0000-0000-0000-000000000001","shard":0,"file":"report","missing_in_table":1,"missing_in_file":0}}
        ---
        missing_in,position
        table,4294967297
        "#);
    }

    #[test]
    fn text_shows_at_most_20_positions() {
        let mut audit = compared((1..=20).collect(), (1..=1025).collect());
        audit.shards.clear();
        if let Some(comparison) = &mut audit.comparison {
            comparison.kind = FileKind::Journal;
        }
        insta::assert_snapshot!(written(AuditFormat::Text, &audit), @"
        missing in the table    20: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20
        missing in the journal  1,025: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, … and 1,005 more
        ");
        assert_eq!(
            written(AuditFormat::Csv, &audit).lines().count(),
            1 + 20 + 1025
        );
    }

    #[test]
    fn audit_of_nothing_is_valid_json() {
        let audit = Audit {
            shards: Vec::new(),
            comparison: None,
        };
        insta::assert_snapshot!(in_all_formats(&audit), @r#"
        ---
        {"version":1,"shards":[]}
        ---
        ---
        run,shard,stored,skipped,rejected,tombstones,first,last
        "#);
    }
}
