//! The sections of the comparison, a file each: what is measured, and which goals it speaks of.

use anyhow::Result;

use super::findings::{Findings, Table};
use super::options::Section;
use super::series::{Sample, Series, number};
use super::stage::Stage;

mod distance;
mod far;
mod growth;
mod local;
mod memory;
mod one;
mod script;
mod size;
mod small;
mod start;

/// How a section is measured.
type Measure = fn(&mut Stage) -> Result<Findings>;

/// All of them in the order of the report.
pub const ALL: [(Section, Measure); 10] = [
    (Section::Local, local::measure),
    (Section::Small, small::measure),
    (Section::One, one::measure),
    (Section::Far, far::measure),
    (Section::Distance, distance::measure),
    (Section::Growth, growth::measure),
    (Section::Memory, memory::measure),
    (Section::Script, script::measure),
    (Section::Start, start::measure),
    (Section::Size, size::measure),
];

/// A comparison as a table; the last column is each contender's throughput as a ratio to that of
/// `base`, round by round.
fn comparison(title: String, note: &str, all: &[Series], base: usize) -> Table {
    let against = format!("to {}", all[base].name);
    let head = [
        "contender",
        "tokens/s",
        "client CPU, s",
        "server CPU, s",
        "peak, MiB",
        &against,
    ];
    let mut table = Table::new(title, note, &head);
    for series in all {
        let has_client = series.samples.iter().any(|sample| sample.cpu > 0.0);
        let of_client = |figure: fn(&Sample) -> f64, digits| {
            if has_client {
                number(series.spread(figure).median, digits)
            } else {
                "–".to_owned()
            }
        };
        table.row([
            series.name.clone(),
            series.rate().to_string(),
            of_client(|sample| sample.cpu, 2),
            number(series.spread(|sample| sample.server).median, 2),
            of_client(|sample| sample.peak_mib, 1),
            series.ratio(&all[base], Sample::rate).show(2),
        ]);
    }
    table
}

/// A rate as it stands in the table of goals.
fn rate(series: &Series) -> String {
    format!("{} tokens/s", series.rate())
}
