//! What a request gives to the runner: a run to do.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::command::serve::places::Admission;
use crate::command::serve::run::Run;
use crate::error::exit::Cause;
use crate::fetch::input::Input;

/// What a run does.
pub(super) enum RunWork {
    /// Runs the script for so many tokens, from the source or from an input.
    Script { size: u64, input: Option<Input> },
    /// Settles what this run left.
    Replay(Arc<Run>),
}

/// A run to do.
pub(super) struct RunJob {
    pub run: Arc<Run>,
    pub work: RunWork,
    pub admission: Admission,
    /// The headers `traceparent` and `tracestate` of the request.
    pub parent: HashMap<String, String>,
    /// What stops the run.
    pub stops: mpsc::UnboundedReceiver<Cause>,
}
