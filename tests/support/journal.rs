//! Reads journals without the program's own reader.

use std::path::Path;

use serde_json::Value;

/// The content of a journal, without a truncated last line.
#[derive(Default)]
pub struct Journal {
    /// Every token of every page, in order.
    pub received: Vec<String>,
    /// The recorded outcomes: token and status.
    pub outcomes: Vec<(String, String)>,
    /// The summary, if the run got that far.
    pub summary: Option<Value>,
}

impl Journal {
    /// Reads the file; a missing file counts as empty.
    ///
    /// # Panics
    /// If a line before the last one is not JSON.
    pub fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let mut journal = Self::default();
        let count = text.lines().count();
        for (number, line) in text.lines().enumerate() {
            let value: Value = match serde_json::from_str(line) {
                Ok(value) => value,
                Err(_) if number + 1 == count && !text.ends_with('\n') => break,
                Err(error) => panic!("line {} of the journal: {error}", number + 1),
            };
            let string = |key: &str| value[key].as_str().map(str::to_owned);
            if let Some(tokens) = value["received"].as_array() {
                let texts = tokens.iter().map(|token| token.as_str().expect("a token"));
                journal.received.extend(texts.map(str::to_owned));
            } else if let (Some(token), Some(status)) = (string("token"), string("status")) {
                journal.outcomes.push((token, status));
            } else if value["summary"].is_object() {
                journal.summary = Some(value["summary"].clone());
            }
        }
        journal
    }
}
