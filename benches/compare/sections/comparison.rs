//! The table that compares contenders, for several sections.

use crate::format::format_number;
use crate::statistics::{ContenderSamples, Sample};
use crate::table::Table;

/// Creates a table of the contenders; its last column is the ratio of the throughput to that of
/// `base`, computed per round.
pub fn comparison_table(
    title: String,
    note: &str,
    results: &[ContenderSamples],
    base: usize,
) -> Table {
    let ratio_column = format!("to {}", results[base].name);
    let header = [
        "contender",
        "tokens/s",
        "client CPU, s",
        "server CPU, s",
        "peak, MiB",
        &ratio_column,
    ];
    let mut table = Table::new(title, note, &header);
    for result in results {
        let has_client = result.samples.iter().any(|sample| sample.client_cpu > 0.0);
        let client_figure = |figure: fn(&Sample) -> f64, decimals| {
            if has_client {
                format_number(result.median_range(figure).median, decimals)
            } else {
                "–".to_owned()
            }
        };
        let server_cpu = result.median_range(|sample| sample.server_cpu).median;
        table.add_row([
            result.name.clone(),
            result.throughput().to_string(),
            client_figure(|sample| sample.client_cpu, 2),
            format_number(server_cpu, 2),
            client_figure(|sample| sample.peak_mib, 1),
            result
                .ratio(&results[base], Sample::tokens_per_second)
                .format(2),
        ]);
    }
    table
}

/// Formats the throughput of a contender for the table of goals.
pub fn format_throughput(samples: &ContenderSamples) -> String {
    format!("{} tokens/s", samples.throughput())
}
