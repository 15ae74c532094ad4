//! A token and what became of it, as every report shows it; its fields and their order are the
//! contract's token object.

use crate::pipeline::latency::milliseconds;
use std::borrow::Cow;

use serde::{Serialize, Serializer};

use crate::error::escape::replace_secret;
use crate::pipeline::token::{Outcome, Status};
use crate::report::mask::Mask;

/// What is said of a token that would have been stored.
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
    /// True where nothing was stored, whatever `status` says of what would have been.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// True where `token` is not the token itself, so that nothing takes it for one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub masked: bool,
}

impl<'a> TokenRecord<'a> {
    /// The fields of an outcome.
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
            dry_run: false,
            masked: false,
        }
    }

    /// The same as a run says it that rolls back whatever it inserts.
    #[must_use]
    pub fn of_dry_run(mut self) -> Self {
        self.dry_run = true;
        if self.status == Status::Stored {
            self.reason = Some(ROLLED_BACK.into());
        }
        self
    }

    /// The same without the token, also where a trigger or a script put it into its words; `None`
    /// where nothing is masked.
    pub fn masked(&self, mask: Mask) -> Option<TokenRecord<'static>> {
        let shown = mask.of(&self.token)?;
        let without = |text: &Option<Cow<'a, str>>| {
            let text = text.as_deref()?;
            Some(replace_secret(text, &self.token, &shown).into())
        };
        Some(TokenRecord {
            sqlstate: without(&self.sqlstate),
            constraint: without(&self.constraint),
            reason: without(&self.reason),
            message: without(&self.message),
            token: shown.into(),
            status: self.status,
            attempts: self.attempts,
            ms: self.ms,
            dry_run: self.dry_run,
            masked: true,
        })
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn name<S: Serializer>(status: &Status, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(status.as_str())
}
