//! `ndjson`: a JSON object a token, then one with the summary. The token object's fields are the
//! contract's, and the other JSON forms use the same.

use std::io::{self, Write};

use serde::Serialize;

use super::Sink;
use super::summary::Summary;
use crate::escape::write_json;
use crate::token::Outcome;

/// The newline-delimited JSON report.
pub struct Ndjson;

impl Sink for Ndjson {
    fn outcome(
        &mut self,
        out: &mut dyn Write,
        outcome: &Outcome,
        _: Option<&str>,
    ) -> io::Result<()> {
        write_json(&mut *out, &TokenObject::new(outcome))?;
        out.write_all(b"\n")
    }

    fn end(&mut self, out: &mut dyn Write, summary: &Summary) -> io::Result<()> {
        #[derive(Serialize)]
        struct Line<'a> {
            summary: &'a Summary,
        }
        write_json(&mut *out, &Line { summary })?;
        out.write_all(b"\n")
    }
}

/// A token as the JSON forms show it.
#[derive(Serialize)]
pub struct TokenObject<'a> {
    token: &'a str,
    status: &'static str,
    attempts: u16,
    ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    sqlstate: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    constraint: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
}

impl<'a> TokenObject<'a> {
    /// The fields of an outcome.
    pub fn new(outcome: &'a Outcome) -> Self {
        let detail = outcome.detail();
        Self {
            token: outcome.token.as_str(),
            status: outcome.status.as_str(),
            attempts: outcome.token.attempts,
            ms: milliseconds(outcome.elapsed),
            sqlstate: detail.sqlstate.as_deref(),
            constraint: detail.constraint.as_deref(),
            reason: detail.reason.as_deref(),
            message: detail.message.as_deref(),
        }
    }
}

/// Milliseconds with three decimals: more would be noise.
pub fn milliseconds(duration: std::time::Duration) -> f64 {
    (duration.as_secs_f64() * 1_000_000.0).round() / 1000.0
}
