//! The verifier: a run's report against the table itself. It fails closed: it panics where it cannot
//! look, and a dead connection is never taken for an empty table.

use std::collections::HashMap;

use serde_json::Value;

use super::command::Run;
use super::database::Login;
use super::report::Report;

/// What came of the tokens whose connection was lost, as token_service counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InDoubtCounts {
    /// So many were in doubt.
    pub total: u64,
    /// Found in the table.
    pub stored: u64,
    /// Proved absent, and sent again or failed.
    pub absent: u64,
    /// Never found out.
    pub unknown: u64,
}

impl InDoubtCounts {
    /// Reads what a run with `--log-level debug --log-format json` said.
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

/// A run that was verified.
pub struct Verified {
    /// Its report.
    pub report: Report,
    /// What came of its in_doubt.
    pub in_doubt: InDoubtCounts,
    /// How many tokens are in the table although the report could not say so.
    pub unknown_but_present: u64,
}

impl Verified {
    /// How many tokens are called stored.
    pub fn acknowledged(&self) -> u64 {
        self.report.count("stored")
    }

    /// How many a report that calls each token in doubt failed would have got wrong.
    pub fn wrong_if_called_failed(&self) -> u64 {
        self.in_doubt.stored + self.unknown_but_present
    }
}

/// How often each value occurs.
pub fn count<T: AsRef<str>>(values: &[T]) -> HashMap<String, u64> {
    let mut counts = HashMap::new();
    for value in values {
        *counts.entry(value.as_ref().to_owned()).or_default() += 1;
    }
    counts
}

/// The rows, read over a new connection.
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
        "a quiet table"
    );
    rows
}

/// Compares the report with what was issued and with the table, in which `older` rows were before.
///
/// # Panics
/// Where anything is missing, double, unreported or cannot be looked at.
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
