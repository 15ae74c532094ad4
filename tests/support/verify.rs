//! The verifier compares a run's report with the table. It panics if it cannot read the table, so a dead
//! connection never counts as an empty table.

use std::collections::HashMap;

use serde_json::Value;

use super::command::Run;
use super::database::Login;
use super::report::Report;

/// The resolution of in-doubt tokens, as token_service logs it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InDoubtCounts {
    /// Tokens in doubt.
    pub total: u64,
    /// Found in the table.
    pub stored: u64,
    /// Proved absent, then sent again or failed.
    pub absent: u64,
    /// Not resolved.
    pub unknown: u64,
}

impl InDoubtCounts {
    /// Reads the log of a run with `--log-level debug --log-format json`.
    pub fn of(stderr: &str) -> Self {
        let mut sum = Self::default();
        let lines = stderr.lines().filter(|line| line.starts_with('{'));
        for line in lines {
            let line: Value = serde_json::from_str(line).expect("a JSON object");
            let number = |key: &str| line[key].as_u64().unwrap_or(0);
            sum.total += number("in_doubt");
            if line["in_doubt"].is_u64() {
                sum.stored += number("stored");
                sum.absent += number("absent");
                sum.unknown += number("unknown");
            }
        }
        assert_eq!(sum.total, sum.stored + sum.absent + sum.unknown);
        sum
    }
}

/// A verified run.
pub struct Verified {
    /// Its report.
    pub report: Report,
    /// The resolution of its in-doubt tokens.
    pub in_doubt: InDoubtCounts,
    /// The number of tokens that are `unknown` but in the table.
    pub unknown_but_present: u64,
}

impl Verified {
    /// The number of tokens that are reported as `stored`.
    pub fn acknowledged(&self) -> u64 {
        self.report.count("stored")
    }

    /// The number of misreported tokens if every in-doubt token were called `failed`.
    pub fn wrong_if_called_failed(&self) -> u64 {
        self.in_doubt.stored + self.unknown_but_present
    }
}

/// Counts how often each value occurs.
pub fn count<T: AsRef<str>>(values: &[T]) -> HashMap<String, u64> {
    let mut counts = HashMap::new();
    for value in values {
        *counts.entry(value.as_ref().to_owned()).or_default() += 1;
    }
    counts
}

/// Reads the rows over a new connection.
pub fn rows(database: &Login) -> Vec<String> {
    let mut client = database.client();
    let found = client.query("SELECT data FROM secret_tokens", &[]);
    let rows: Vec<String> = found
        .expect("the rows")
        .iter()
        .map(|row| row.get(0))
        .collect();
    let counted = client.query_one("SELECT count(*) FROM secret_tokens", &[]);
    let counted: i64 = counted.expect("their number").get(0);
    assert_eq!(
        u64::try_from(counted),
        Ok(rows.len() as u64),
        "the table did not change meanwhile"
    );
    rows
}

/// Compares the report with the issued tokens and the table, which held `older` rows before the run.
///
/// # Panics
/// If a token is missing, duplicated or unreported, or if the table cannot be read.
pub fn verify(run: &Run, issued: &[String], older: &[String], database: &Login) -> Verified {
    let report = Report::of_run(run);
    let reported: Vec<&str> = report
        .tokens
        .iter()
        .map(|token| token["token"].as_str().expect("a token"))
        .collect();
    assert_eq!(count(&reported), count(issued), "each issued token once");

    let of = |status: &str| count(&report.with_status(status));
    let (stored, unknown) = (of("stored"), of("unknown"));
    let older = count(older);
    let table = count(&rows(database));
    let get = |counts: &HashMap<String, u64>, value: &str| counts.get(value).copied().unwrap_or(0);
    for value in table.keys().chain(stored.keys()) {
        let rows = get(&table, value);
        let least = get(&older, value) + get(&stored, value);
        let most = least + get(&unknown, value);
        assert!(
            (least..=most).contains(&rows),
            "{value}: {rows} rows; {} older, {} stored, {} unknown; the report says {:?}; {}",
            get(&older, value),
            get(&stored, value),
            get(&unknown, value),
            report
                .tokens
                .iter()
                .filter(|token| token["token"] == value.as_str())
                .collect::<Vec<_>>(),
            run.stderr
        );
    }
    let mut unknown_but_present = 0;
    for (value, rows) in &table {
        unknown_but_present += rows - get(&older, value) - get(&stored, value);
    }
    Verified {
        report,
        in_doubt: InDoubtCounts::of(&run.stderr),
        unknown_but_present,
    }
}
