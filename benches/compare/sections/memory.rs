//! The `memory` section: peak memory with each report format.
//!
//! The store is an SQLite file in memory, which is faster than PostgreSQL. The growth section
//! measures the peak memory with PostgreSQL.

use anyhow::Result;

use crate::contender::Contender;
use crate::contender::token_service::{SqliteFile, TokenService};
use crate::environment::BenchEnvironment;
use crate::format::{format_count, format_number};
use crate::measured_command::MeasuredCommand;
use crate::results::{BenchResults, Goal, GoalResult};
use crate::rounds::run_rounds;
use crate::statistics::{ContenderSamples, MedianRange, Sample};
use crate::table::Table;

/// The report formats. `None` is the default report, `text` on standard output.
const FORMATS: [(&str, Option<&str>); 6] = [
    ("text", None),
    ("ndjson", Some("ndjson")),
    ("json", Some("json")),
    ("csv", Some("csv")),
    ("yaml", Some("yaml")),
    ("html", Some("html")),
];
/// The maximum peak memory of a run, in MiB.
const MAX_PEAK: f64 = 32.0;
/// The maximum ratio of the peak of the larger run to that of the smaller run.
const MAX_RATIO: f64 = 1.25;

/// Measures the section.
pub fn measure(env: &mut BenchEnvironment) -> Result<BenchResults> {
    let [small, large] = env.scale.memory;
    let minimum = MeasuredCommand::new("true").run()?.peak_kib as f64 / 1024.0;
    let place = if env.scratch.has_memory() {
        "in memory"
    } else {
        "on disk, because memory is too small"
    };
    let note = format!(
        "The largest resident set that the kernel reports, in MiB. The database is an SQLite file \
         {place}. The larger run was made once. The program `true` measures {} MiB.",
        format_number(minimum, 1)
    );
    let (small_name, large_name) = (format_count(small), format_count(large));
    let header = [
        "report",
        small_name.as_str(),
        large_name.as_str(),
        "ratio",
        "µs per token",
    ];
    let mut table = Table::new("Peak memory", note, &header);
    let mut goals = Vec::new();
    for (name, report) in FORMATS {
        let token_service = Contender::TokenService(TokenService {
            sqlite: Some(SqliteFile::InMemory),
            report,
            ..TokenService::default()
        });
        let title = format!("memory, {name}");
        let contenders = [(token_service.clone(), small)];
        let smaller = run_rounds(env, &title, env.scale.rounds, &contenders)?;
        let larger = run_rounds(env, &title, 1, &[(token_service, large)])?;
        let peak = |sample: &Sample| sample.peak_mib;
        let peaks = [smaller[0].median_range(peak), larger[0].median_range(peak)];
        let time = larger[0].median_range(Sample::micros_per_token);
        table.add_row([
            name.to_owned(),
            peaks[0].format(1),
            peaks[1].format(1),
            format_number(peaks[1].median / peaks[0].median, 2),
            time.format(1),
        ]);
        goals.push(constant_memory_goal(
            &format!("SQLite, {name}"),
            [small, large],
            peaks,
        ));
    }
    Ok(BenchResults {
        goals,
        tables: vec![table],
        ..BenchResults::default()
    })
}

/// Creates the goal that peak memory, in MiB, is small and hardly depends on the number of tokens.
pub fn constant_memory_goal(
    variant: &str,
    [small, large]: [u64; 2],
    [small_peak, large_peak]: [MedianRange; 2],
) -> Goal {
    let ratio = large_peak.median / small_peak.median;
    let max_peak = small_peak.max.max(large_peak.max);
    Goal {
        work: format!("peak memory, {} tokens: {variant}", format_count(large)),
        limit: format!(
            "≤ {MAX_PEAK} MiB, ≤ {MAX_RATIO} × that of {}",
            format_count(small)
        ),
        measured: format!("{} MiB", large_peak.format(1)),
        against: format!("{} MiB", small_peak.format(1)),
        ratio: format_number(ratio, 2),
        result: GoalResult::from_reached(max_peak <= MAX_PEAK && ratio <= MAX_RATIO),
    }
}

/// Creates the goal that the peak memory of all these runs is small.
pub fn peak_goal<'a>(
    variant: &str,
    results: impl IntoIterator<Item = &'a ContenderSamples>,
) -> Goal {
    let samples = results.into_iter().flat_map(|result| &result.samples);
    let peak = MedianRange::of(samples.map(|sample| sample.peak_mib));
    Goal::figure(
        format!("peak memory: {variant}"),
        &format!("≤ {MAX_PEAK} MiB"),
        format!("{} MiB", peak.format(1)),
        peak.max <= MAX_PEAK,
    )
}
