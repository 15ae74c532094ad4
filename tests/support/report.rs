//! An ndjson report as a test reads it, and the one sum that has to come out in every run.

use serde_json::Value;

use super::command::Run;

/// The states of a token, as the contract names them.
const STATES: [&str; 5] = ["stored", "rejected", "failed", "unknown", "not_attempted"];

/// A complete ndjson report.
pub struct Report {
    /// The token objects, in the order of the report.
    pub tokens: Vec<Value>,
    /// The summary object.
    pub summary: Value,
}

impl Report {
    /// Reads a report and sees that it adds up: each line is an object of its own, the last one is
    /// the summary, and its counts are those of the lines.
    ///
    /// # Panics
    /// Where it is no report or does not add up.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let mut tokens: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("a JSON object a line"))
            .collect();
        let summary = tokens.pop().expect("a last line")["summary"].clone();
        let report = Self { tokens, summary };
        let received = u64::try_from(report.tokens.len()).expect("few tokens");
        assert_eq!(report.count("received"), received, "{text}");
        let mut sum = 0;
        for state in STATES {
            let lines = u64::try_from(report.with_status(state).len()).expect("few tokens");
            assert_eq!(report.count(state), lines, "{state}: {text}");
            sum += lines;
        }
        assert_eq!(sum, received, "a token has no known state: {text}");
        report
    }

    /// The report that a run wrote on standard output; its exit code is the one it ended with.
    #[track_caller]
    pub fn of_run(run: &Run) -> Self {
        assert!(!run.stdout.is_empty(), "no report; stderr: {}", run.stderr);
        let report = Self::parse(&run.stdout);
        let code = run.code.expect("it ended by itself");
        assert_eq!(report.summary["exit_code"], code, "{}", run.stderr);
        report
    }

    /// A number of the summary.
    pub fn count(&self, key: &str) -> u64 {
        self.summary[key].as_u64().expect("a number")
    }

    /// The tokens in this state, sorted by byte.
    pub fn with_status(&self, status: &str) -> Vec<String> {
        let in_it = self.tokens.iter().filter(|token| token["status"] == status);
        let mut texts: Vec<String> = in_it
            .map(|token| token["token"].as_str().expect("a token").to_owned())
            .collect();
        texts.sort();
        texts
    }

    /// What the report says of one token.
    pub fn token(&self, text: &str) -> &Value {
        let found = self.tokens.iter().find(|token| token["token"] == text);
        found.expect("the token is in the report")
    }
}
