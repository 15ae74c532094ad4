//! One run of the service: its state, its report, and what clients see of it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::command::serve::report_log::ReportLog;
use crate::error::Error;
use crate::error::exit::Cause;
use crate::pipeline::numbers::Numbers;
use crate::report::conclusion::Conclusion;
use crate::script::host::ScriptHost;

/// What a run does now, or how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum RunState {
    /// It waits for its turn.
    Queued,
    /// It goes on.
    Running,
    /// Its script ended, whatever the exit code.
    Completed,
    /// A client or the end of the service stopped it.
    Stopped,
    /// The service ended without it. `POST /v1/runs/ID/replay` settles what it left.
    Interrupted,
}

impl RunState {
    /// Returns true if the run has ended.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

/// A run, as clients see it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct RunObject {
    /// The id: a UUID of version 7.
    #[schema(value_type = String, format = Uuid)]
    pub id: Uuid,
    /// What it does, or how it ended.
    pub state: RunState,
    /// When it was accepted: RFC 3339, UTC, to the millisecond.
    #[schema(format = DateTime)]
    pub started_at: String,
    /// How long it took, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// The tokens that it asks for: SIZE.
    pub requested: u64,
    /// The tokens that it received.
    pub received: u64,
    /// The tokens whose commit the database confirmed.
    pub stored: u64,
    /// The tokens that were refused for good.
    pub rejected: u64,
    /// The tokens that are certainly not stored.
    pub failed: u64,
    /// The tokens in doubt.
    pub unknown: u64,
    /// The tokens that were never sent.
    pub not_attempted: u64,
    /// The exit code that the command line would have ended with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<u8>,
    /// Why it failed, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<RunError>,
    /// The run that replayed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Uuid)]
    pub replayed_by: Option<Uuid>,
    /// The run that it replays, whose tokens it reports again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Uuid)]
    pub replay_of: Option<Uuid>,
    /// The summary object of its report, once it has ended. Lists of runs leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub summary: Option<Value>,
}

/// Why a run failed, with the words of the command line.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct RunError {
    /// What failed.
    pub message: String,
    /// Why, the outermost cause first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl From<&Error> for RunError {
    fn from(error: &Error) -> Self {
        let place = error.location.as_ref().map(|location| {
            let (file, line, column) = (&location.file, location.line, location.column);
            format!("at {file}:{line}:{column}")
        });
        Self {
            message: error.message.clone(),
            causes: place.into_iter().chain(error.causes.clone()).collect(),
            hint: error.hint.clone(),
        }
    }
}

impl RunObject {
    /// Creates the object of a run that waits for its turn.
    pub fn queued(id: Uuid, started_at: Timestamp, requested: u64) -> Self {
        Self {
            id,
            state: RunState::Queued,
            started_at: format!("{started_at:.3}"),
            duration_ms: None,
            requested,
            received: 0,
            stored: 0,
            rejected: 0,
            failed: 0,
            unknown: 0,
            not_attempted: 0,
            exit_code: None,
            error: None,
            replayed_by: None,
            replay_of: None,
            summary: None,
        }
    }

    /// Sets the numbers.
    pub fn set_numbers(&mut self, numbers: &Numbers) {
        self.requested = numbers.requested;
        self.received = numbers.received;
        self.stored = numbers.stored;
        self.rejected = numbers.rejected;
        self.failed = numbers.failed;
        self.unknown = numbers.unknown;
        self.not_attempted = numbers.not_attempted;
    }
}

/// A run of the service.
pub(super) struct Run {
    pub id: Uuid,
    /// The ndjson report; `None` for a run of an earlier process, whose report may be in a file.
    pub log: Option<Arc<ReportLog>>,
    /// The text report with the script's own lines, if the client asked for it.
    pub text: Option<Arc<ReportLog>>,
    /// The idempotency key of its request, hashed, and what the request asked for.
    pub key: Option<RequestKey>,
    /// The report of a run of an earlier process.
    pub kept_report: Option<PathBuf>,
    state: Mutex<Progress>,
    /// Changes when the run begins and when it ends.
    changed: watch::Sender<()>,
    /// Whether the run has started, so that it reports tokens; or why it could not.
    started: watch::Sender<Option<Result<(), Error>>>,
    signals: mpsc::UnboundedSender<Cause>,
}

/// The idempotency key of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RequestKey {
    /// The hash of the key.
    pub key: String,
    /// The hash of what the request asked for.
    pub fingerprint: String,
}

struct Progress {
    object: RunObject,
    /// The host, while the script runs.
    host: Weak<ScriptHost>,
    /// True while a replay settles what the run left.
    is_replaying: bool,
}

impl Progress {
    fn of(object: RunObject) -> Mutex<Self> {
        Mutex::new(Self {
            object,
            host: Weak::new(),
            is_replaying: false,
        })
    }
}

impl Run {
    /// Creates a run that waits for its turn, and the receiver of what stops it.
    pub fn queued(
        object: RunObject,
        log: Arc<ReportLog>,
        text: Option<Arc<ReportLog>>,
        key: Option<RequestKey>,
    ) -> (Self, mpsc::UnboundedReceiver<Cause>) {
        let (signals, stops) = mpsc::unbounded_channel();
        let run = Self {
            id: object.id,
            log: Some(log),
            text,
            key,
            kept_report: None,
            state: Progress::of(object),
            changed: watch::Sender::default(),
            started: watch::Sender::new(None),
            signals,
        };
        (run, stops)
    }

    /// Creates a run of an earlier process.
    pub fn of_earlier(object: RunObject, key: Option<RequestKey>, report: Option<PathBuf>) -> Self {
        let (signals, _) = mpsc::unbounded_channel();
        Self {
            id: object.id,
            log: None,
            text: None,
            key,
            kept_report: report,
            state: Progress::of(object),
            changed: watch::Sender::default(),
            started: watch::Sender::new(Some(Ok(()))),
            signals,
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what the run does.
    pub fn state(&self) -> RunState {
        self.progress().object.state
    }

    /// Returns the run as clients see it, with its numbers so far.
    pub fn object(&self) -> RunObject {
        let mut progress = self.progress();
        if let Some(host) = progress.host.upgrade() {
            progress.object.set_numbers(&host.numbers_so_far());
        }
        progress.object.clone()
    }

    /// Returns the numbers of a run that goes on.
    pub fn live_numbers(&self) -> Option<Numbers> {
        let host = self.progress().host.upgrade();
        host.map(|host| host.numbers_so_far())
    }

    /// Notes that the run has its turn.
    pub fn begin(&self) {
        self.progress().object.state = RunState::Running;
        self.changed.send_replace(());
    }

    /// Sets the host of the script.
    pub fn set_host(&self, host: &Arc<ScriptHost>) {
        self.progress().host = Arc::downgrade(host);
    }

    /// Notes that the run reports tokens from now on, or why it cannot; only the first call counts. Returns
    /// true if this was the first one.
    pub fn set_started(&self, result: Result<(), Error>) -> bool {
        self.started.send_if_modified(|started| {
            let is_first = started.is_none();
            started.get_or_insert(result);
            is_first
        })
    }

    /// Waits until the run reports tokens.
    ///
    /// # Errors
    /// Why it could not start.
    pub async fn started(&self) -> Result<(), Error> {
        let mut started = self.started.subscribe();
        let result = started.wait_for(Option::is_some).await;
        // The sender is part of the run.
        result.map_or(Ok(()), |result| result.clone().unwrap_or(Ok(())))
    }

    /// Records how the run ended, and ends its report. Returns true if the run did not start.
    pub fn end(&self, conclusion: &Conclusion, was_stopped: bool) -> bool {
        let failed_to_start = match &conclusion.error {
            Some(error) if conclusion.summary.is_none() => self.set_started(Err(error.clone())),
            _ => {
                self.set_started(Ok(()));
                false
            }
        };
        {
            let mut progress = self.progress();
            progress.host = Weak::new();
            let object = &mut progress.object;
            object.exit_code = Some(conclusion.exit.code());
            object.error = conclusion.error.as_ref().map(RunError::from);
            object.state = if was_stopped {
                RunState::Stopped
            } else {
                RunState::Completed
            };
            if let Some(summary) = &conclusion.summary {
                object.set_numbers(&summary.numbers);
                object.duration_ms = Some(summary.duration_ms());
                object.summary = serde_json::to_value(summary).ok();
            }
        }
        for log in self.log.iter().chain(&self.text) {
            log.end();
        }
        self.changed.send_replace(());
        failed_to_start
    }

    /// Notes that a replay settles what this run left; returns false if one does already, or if nothing is left.
    pub fn begin_replay(&self) -> bool {
        let mut progress = self.progress();
        let may_begin = progress.object.state == RunState::Interrupted && !progress.is_replaying;
        progress.is_replaying |= may_begin;
        may_begin
    }

    /// Records how the replay ended: the run then has its numbers, if it reported the tokens.
    pub fn end_replay(&self, replay: Option<&RunObject>) {
        let mut progress = self.progress();
        progress.is_replaying = false;
        let Some(replay) = replay else {
            return;
        };
        let object = &mut progress.object;
        *object = RunObject {
            id: object.id,
            started_at: std::mem::take(&mut object.started_at),
            requested: object.requested,
            state: RunState::Completed,
            replayed_by: Some(replay.id),
            replay_of: None,
            ..replay.clone()
        };
    }

    /// Stops the run as a signal would; a second call ends its wait for tokens in flight.
    pub fn stop(&self, cause: Cause) {
        let _ = self.signals.send(cause);
    }

    /// Returns a receiver that changes when the run begins and when it ends.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Waits until the run has ended.
    pub async fn ended(&self) {
        let mut changes = self.changes();
        while !self.state().is_final() {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}
