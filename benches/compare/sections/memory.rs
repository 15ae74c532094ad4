//! Peak memory with each report format, as the operating system counts it. The store is an SQLite file
//! in memory, which costs so little that millions of tokens take a minute and not ten; the growth
//! section has the same figure for PostgreSQL.

use anyhow::Result;

use super::super::contender::Contender;
use super::super::findings::{Findings, Goal, Table, Verdict};
use super::super::gauge::Task;
use super::super::product::TokenService;
use super::super::rounds::alternate;
use super::super::series::{Sample, Spread, count, number};
use super::super::stage::Stage;

/// The formats that are written to a path; `None` is `text` on standard output.
const FORMATS: [(&str, Option<&str>); 6] = [
    ("text", None),
    ("ndjson", Some("ndjson")),
    ("json", Some("json")),
    ("csv", Some("csv")),
    ("yaml", Some("yaml")),
    ("html", Some("html")),
];
/// The most that a run may hold.
const MOST: f64 = 32.0;
/// How much more the larger run may hold.
const FLAT: f64 = 1.25;

/// Measures it.
pub fn measure(stage: &mut Stage) -> Result<Findings> {
    let [small, large] = stage.scale.memory;
    let floor = Task::new("true").run()?.peak_kib as f64 / 1024.0;
    let place = if stage.scratch.has_ram() {
        "in memory"
    } else {
        "on disk, because memory is too small"
    };
    let note = format!(
        "The largest resident set that the kernel reports, in MiB. The database is an SQLite file \
         {place}. The larger run was made once. The program `true` measures {} MiB.",
        number(floor, 1)
    );
    let (small_name, large_name) = (count(small), count(large));
    let head = [
        "report",
        small_name.as_str(),
        large_name.as_str(),
        "ratio",
        "µs per token",
    ];
    let mut table = Table::new("Peak memory", note, &head);
    let mut goals = Vec::new();
    for (name, report) in FORMATS {
        let own = Contender::TokenService(TokenService {
            sqlite: Some(true),
            report,
            ..TokenService::default()
        });
        let title = format!("memory, {name}");
        let contenders = [(own.clone(), small)];
        let smaller = alternate(stage, &title, stage.scale.rounds, &contenders)?;
        let larger = alternate(stage, &title, 1, &[(own, large)])?;
        let peak = |sample: &Sample| sample.peak_mib;
        let peaks = [smaller[0].spread(peak), larger[0].spread(peak)];
        let time = larger[0].spread(|sample| sample.seconds * 1e6 / sample.tokens as f64);
        table.row([
            name.to_owned(),
            peaks[0].show(1),
            peaks[1].show(1),
            number(peaks[1].median / peaks[0].median, 2),
            time.show(1),
        ]);
        goals.push(flat(&format!("SQLite, {name}"), [small, large], peaks));
    }
    Ok(Findings {
        goals,
        tables: vec![table],
        ..Findings::default()
    })
}

/// The goal about two peaks in MiB: neither is large, and the larger run holds hardly more.
pub fn flat(what: &str, [small, large]: [u64; 2], peaks: [Spread; 2]) -> Goal {
    let [smaller, larger] = peaks;
    let ratio = larger.median / smaller.median;
    let most = smaller.max.max(larger.max);
    Goal {
        work: format!("peak memory, {} tokens: {what}", count(large)),
        aim: format!("≤ {MOST} MiB, ≤ {FLAT} × that of {}", count(small)),
        measured: format!("{} MiB", larger.show(1)),
        against: format!("{} MiB", smaller.show(1)),
        ratio: number(ratio, 2),
        verdict: Verdict::of(most <= MOST && ratio <= FLAT),
    }
}
