//! Outcomes of one job that a connection hands over together.

use std::sync::Arc;

use crate::pipeline::token::Outcome;
use crate::store::queue::StoreJob;

/// Outcomes on their way out, gathered for a wake-up and sent together.
#[derive(Default)]
pub(super) struct OutcomeBatch {
    job: Option<Arc<StoreJob>>,
    outcomes: Vec<Outcome>,
}

impl OutcomeBatch {
    /// Adds an outcome of `job`.
    pub(super) fn push(&mut self, job: &Arc<StoreJob>, outcome: Outcome) {
        if !self.job.as_ref().is_some_and(|own| Arc::ptr_eq(own, job)) {
            self.flush();
            self.job = Some(Arc::clone(job));
        }
        self.outcomes.push(outcome);
    }

    /// Sends what was gathered at once, and lets go of the job so that its stream can end.
    pub(super) fn flush(&mut self) {
        if let Some(job) = self.job.take() {
            job.send(std::mem::take(&mut self.outcomes));
        }
    }

    /// The same within a moment, together with what other connections gather meanwhile.
    pub(super) fn flush_soon(&mut self) {
        if let Some(job) = self.job.take() {
            job.send_soon(std::mem::take(&mut self.outcomes));
        }
    }
}

impl Drop for OutcomeBatch {
    fn drop(&mut self) {
        self.flush();
    }
}
