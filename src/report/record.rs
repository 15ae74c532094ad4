//! The record of a token and its outcome that every report shows. Names and order of the fields are
//! those of the token object in docs/report.schema.json.

use std::borrow::Cow;

use serde::{Serialize, Serializer};

use crate::error::escape::replace_secret;
use crate::pipeline::latency::milliseconds;
use crate::pipeline::token::{Outcome, Status, Token};
use crate::report::mask::Mask;

/// The reason of a token that a dry run would have stored.
const ROLLED_BACK: &str = "dry run: rolled back";

/// The token object.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "each is described in docs/report.schema.json")]
pub struct TokenRecord<'a> {
    pub token: Cow<'a, str>,
    #[serde(serialize_with = "name")]
    pub status: Status,
    pub attempts: u16,
    pub ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sqlstate: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub constraint: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<Cow<'a, str>>,
    /// The position, if the run writes receipts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    /// True for a dry run: `status` is what it would have been, and nothing was stored.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// True if `token` is a mask and not the token itself.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub masked: bool,
    /// The script's line for `text`.
    #[serde(skip)]
    pub line: Option<&'a str>,
}

impl<'a> TokenRecord<'a> {
    /// Creates the record of an outcome.
    pub fn new(outcome: &'a Outcome) -> Self {
        let detail = outcome.detail();
        let field = |text: &'a Option<String>| text.as_deref().map(Cow::Borrowed);
        Self {
            token: outcome.token.as_str().into(),
            status: outcome.status,
            attempts: outcome.token.attempts,
            ms: milliseconds(outcome.elapsed),
            sqlstate: field(&detail.sqlstate),
            constraint: field(&detail.constraint),
            reason: field(&detail.reason),
            message: field(&detail.message),
            position: None,
            dry_run: false,
            masked: false,
            line: None,
        }
    }

    /// Adds the position of the token, which identifies its receipt.
    #[must_use]
    pub fn with_position(mut self, token: &Token) -> Self {
        self.position = Some(token.receipt.position).filter(|position| *position > 0);
        self
    }

    /// Marks the record as that of a dry run.
    #[must_use]
    pub fn with_dry_run(mut self) -> Self {
        self.dry_run = true;
        if self.status == Status::Stored {
            self.reason = Some(ROLLED_BACK.into());
        }
        self
    }

    /// Returns the masked record, or `None` without a mask.
    ///
    /// Also masks the token in texts of triggers and scripts.
    pub fn masked(&self, mask: Mask) -> Option<Self> {
        let masked = mask.of(&self.token)?;
        let mask_in = |text: &Option<Cow<'a, str>>| {
            let text = text.as_deref()?;
            Some(replace_secret(text, &self.token, &masked).into())
        };
        Some(TokenRecord {
            sqlstate: mask_in(&self.sqlstate),
            constraint: mask_in(&self.constraint),
            reason: mask_in(&self.reason),
            message: mask_in(&self.message),
            token: masked.into(),
            status: self.status,
            attempts: self.attempts,
            ms: self.ms,
            position: self.position,
            dry_run: self.dry_run,
            masked: true,
            line: self.line,
        })
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde requires a reference"
)]
fn name<S: Serializer>(status: &Status, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(status.as_str())
}
