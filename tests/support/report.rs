//! Reads ndjson reports and checks that their counts add up.

use serde_json::Value;

use super::command::Run;

/// The statuses of a token.
const STATUSES: [&str; 5] = ["stored", "rejected", "failed", "unknown", "not_attempted"];

/// A complete ndjson report.
pub struct Report {
    /// The token objects, in the order of the report.
    pub tokens: Vec<Value>,
    /// The summary object.
    pub summary: Value,
}

impl Report {
    /// Parses a report: one object per token, then the summary.
    ///
    /// # Panics
    /// If the text is not a report, or if a count of the summary differs from the lines.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let mut tokens: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("a JSON object per line"))
            .collect();
        let summary = tokens.pop().expect("a last line")["summary"].clone();
        let report = Self { tokens, summary };
        let received = u64::try_from(report.tokens.len()).expect("few tokens");
        assert_eq!(report.count("received"), received, "{text}");
        let mut sum = 0;
        for status in STATUSES {
            let lines = u64::try_from(report.with_status(status).len()).expect("few tokens");
            assert_eq!(report.count(status), lines, "{status}: {text}");
            sum += lines;
        }
        assert_eq!(sum, received, "a token has an unknown status: {text}");
        report
    }

    /// Parses the report on a run's standard output; asserts that its exit code is the run's.
    #[track_caller]
    pub fn of_run(run: &Run) -> Self {
        assert!(!run.stdout.is_empty(), "no report; stderr: {}", run.stderr);
        let report = Self::parse(&run.stdout);
        let code = run.code.expect("an exit code");
        assert_eq!(report.summary["exit_code"], code, "{}", run.stderr);
        report
    }

    /// A number of the summary.
    pub fn count(&self, key: &str) -> u64 {
        self.summary[key].as_u64().expect("a number")
    }

    /// The tokens with this status, sorted by byte.
    pub fn with_status(&self, status: &str) -> Vec<String> {
        let matching = self.tokens.iter().filter(|token| token["status"] == status);
        let mut texts: Vec<String> = matching
            .map(|token| token["token"].as_str().expect("a token").to_owned())
            .collect();
        texts.sort();
        texts
    }

    /// The report's object for this token.
    pub fn token(&self, text: &str) -> &Value {
        let found = self.tokens.iter().find(|token| token["token"] == text);
        found.expect("the token is in the report")
    }
}
