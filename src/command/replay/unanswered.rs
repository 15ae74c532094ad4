//! Repeats the requests of a journal that have no complete answer, with their idempotency keys: the source
//! gives the tokens again that it had issued.

use std::sync::Arc;

use crate::command::replay::state::ReplayState;
use crate::command::run::open_source;
use crate::config::{RunSettings, SourceSettings};
use crate::error::Error;
use crate::fetch::Fetcher;
use crate::journal::{Journal, UnansweredRequest};
use crate::observe::run_context::RunContext;
use crate::pipeline::numbers::Numbers;
use crate::pipeline::token::Token;
use crate::runtime::shutdown::Shutdown;

/// What the repeated requests brought.
#[derive(Default)]
pub(super) struct RepeatedRequests {
    /// The tokens that had not arrived before.
    pub tokens: Vec<Token>,
    /// The numbers of requests and tokens.
    pub numbers: Numbers,
    /// Why a request failed, if one did.
    pub error: Option<Error>,
}

/// Returns the fetcher for the requests of `state`; `None` if there are none, or no source whose
/// idempotency header is configured.
pub(super) async fn fetcher(
    settings: &RunSettings,
    state: &ReplayState,
    shutdown: &Shutdown,
    run_context: &RunContext,
) -> Result<Option<Fetcher>, Error> {
    if state.unanswered.is_empty() || matches!(settings.source, SourceSettings::Nothing) {
        return Ok(None);
    }
    let source = open_source(settings, &run_context.tracer).await?;
    let clock = Arc::clone(&run_context.clock);
    let deadline = settings
        .deadline
        .map(|deadline| run_context.instant + deadline);
    let limits = settings.limits.clone();
    let mut fetcher = Fetcher::new(source, limits, shutdown.clone(), clock, deadline);
    fetcher.set_requests(&settings.requests);
    fetcher.wait_until(run_context.instant + settings.wait);
    Ok(Some(fetcher))
}

/// Repeats the requests of `state`. Their tokens are written to the journal before they are used, so
/// without a journal nothing is requested.
pub(super) async fn repeat(
    state: &ReplayState,
    fetcher: Option<Fetcher>,
    journal: Option<&Journal>,
    shutdown: &Shutdown,
) -> RepeatedRequests {
    let mut repeated = RepeatedRequests::default();
    let mut unseen = 0;
    match (fetcher, journal) {
        (Some(mut fetcher), Some(journal)) => {
            fetcher.set_journal(journal.clone());
            for request in state.unanswered.values() {
                let has_failed = repeated.error.is_some() || shutdown.error().is_some();
                let answer = if has_failed {
                    None
                } else {
                    fetcher.repeat_alone(request).await
                };
                let Some(answer) = answer else {
                    unseen += request.unseen();
                    continue;
                };
                repeated.tokens.extend(answer.page.iter());
                repeated.error = answer.error;
            }
            repeated.numbers = fetcher.numbers();
        }
        _ => {
            unseen = state
                .unanswered
                .values()
                .map(UnansweredRequest::unseen)
                .sum();
        }
    }
    if unseen > 0 && repeated.error.is_none() {
        tracing::warn!(
            tokens = unseen,
            hint = "set source.idempotency_header and the source of the run, and replay again",
            "requests without a complete answer were not repeated"
        );
    }
    repeated.numbers.issued_unseen += unseen;
    repeated.error = repeated.error.or_else(|| shutdown.error().cloned());
    repeated
}
