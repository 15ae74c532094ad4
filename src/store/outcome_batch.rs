//! Batches the outcomes of one job on one connection.

use std::sync::Arc;

use crate::pipeline::token::Outcome;
use crate::store::queue::StoreJob;

/// Outcomes of one job that are sent together.
#[derive(Default)]
pub(super) struct OutcomeBatch {
    job: Option<Arc<StoreJob>>,
    outcomes: Vec<Outcome>,
}

impl OutcomeBatch {
    /// Adds an outcome of `job`.
    pub(super) fn push(&mut self, job: &Arc<StoreJob>, outcome: Outcome) {
        if !self
            .job
            .as_ref()
            .is_some_and(|batched| Arc::ptr_eq(batched, job))
        {
            self.flush();
            self.job = Some(Arc::clone(job));
        }
        self.outcomes.push(outcome);
    }

    /// Sends the batch at once, and drops the job so that its stream can end.
    pub(super) fn flush(&mut self) {
        if let Some(job) = self.job.take() {
            job.send(std::mem::take(&mut self.outcomes));
        }
    }

    /// Sends the batch soon, together with outcomes of other connections.
    pub(super) fn flush_coalesced(&mut self) {
        if let Some(job) = self.job.take() {
            job.send_coalesced(std::mem::take(&mut self.outcomes));
        }
    }
}

impl Drop for OutcomeBatch {
    fn drop(&mut self) {
        self.flush();
    }
}
