//! Commands that run a script, and the ledger of a run: its `ndjson` report with checked counts.

use serde_json::Value;

use super::command::{Command, Run};
use super::database::Database;
use super::source::Source;

const STATUSES: [&str; 5] = ["stored", "rejected", "failed", "unknown", "not_attempted"];

/// A command that runs this script in the demo, with pages of four tokens.
///
/// It reports `text` on standard output, and `ndjson` to the file that [`Ledger::of`] reads.
pub fn demo_command(size: u64, script: &str) -> Command {
    Command::new()
        .args(["demo", &size.to_string()])
        .args(["--page-size", "4"])
        .with_script(script)
}

/// A command that runs this script with the given source and database.
pub fn database_command(size: u64, script: &str, source: &Source, database: &Database) -> Command {
    Command::new()
        .arg(size.to_string())
        .source(source)
        .database(database)
        .with_script(script)
}

impl Command {
    fn with_script(self, script: &str) -> Self {
        self.file("mine.rhai", script)
            .args(["--script", "mine.rhai"])
            .args(["--report", "text", "--report", "ndjson=run.ndjson"])
    }
}

/// The `ndjson` report of a run, with checked counts.
pub struct Ledger {
    /// The token objects in order.
    pub tokens: Vec<Value>,
    /// The summary.
    pub summary: Value,
}

impl Ledger {
    /// Reads the report of a run.
    ///
    /// # Panics
    /// If the report does not account for every received token.
    #[track_caller]
    pub fn of(run: &Run) -> Self {
        let text = std::fs::read_to_string(run.path("run.ndjson")).expect("a complete report");
        let mut tokens: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        let mut last = tokens.pop().expect("a summary");
        let ledger = Self {
            tokens,
            summary: last["summary"].take(),
        };
        let sum: u64 = STATUSES.iter().map(|status| ledger.count(status)).sum();
        assert_eq!(sum, ledger.count("received"), "{}", ledger.summary);
        for status in STATUSES {
            assert_eq!(
                ledger.with_status(status).len() as u64,
                ledger.count(status),
                "{status}: {text}"
            );
        }
        assert_eq!(
            ledger.summary["exit_code"].as_i64(),
            run.code.map(i64::from)
        );
        ledger
    }

    /// Asserts that no token is reported twice.
    #[track_caller]
    pub fn without_duplicates(self) -> Self {
        let mut tokens = self.texts();
        let all = tokens.len();
        tokens.sort();
        tokens.dedup();
        assert_eq!(tokens.len(), all, "a token is reported twice");
        self
    }

    /// A number of the summary.
    #[track_caller]
    pub fn count(&self, name: &str) -> u64 {
        self.summary[name].as_u64().expect("a count")
    }

    /// The five counts, in the order of the contract.
    pub fn counts(&self) -> [u64; 5] {
        STATUSES.map(|status| self.count(status))
    }

    /// The tokens of this status.
    pub fn with_status(&self, status: &str) -> Vec<&Value> {
        let of_status = |token: &&Value| token["status"] == status;
        self.tokens.iter().filter(of_status).collect()
    }

    /// The texts of all tokens, in order.
    pub fn texts(&self) -> Vec<String> {
        let text = |token: &Value| token["token"].as_str().expect("a string").to_owned();
        self.tokens.iter().map(text).collect()
    }
}

/// The error on standard error, without log lines and the summary.
pub fn error_text(run: &Run) -> String {
    let start = run.stderr.find("error").unwrap_or(0);
    run.stderr[start..].trim_end().to_owned()
}
