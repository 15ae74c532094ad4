//! The server-sent events of a run: its progress while it goes on, and at the end its summary.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use crate::command::serve::formats::objects;
use crate::command::serve::problem::{Problem, ProblemDocument};
use crate::command::serve::reports::stream_headers;
use crate::command::serve::run::{Run, RunObject};
use crate::command::serve::runs::find;
use crate::command::serve::service::Service;

/// The least time between two events of progress.
const INTERVAL: Duration = Duration::from_millis(250);
/// The time without an event after which a comment keeps proxies from closing the connection.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// The header with the id of the last event that a client has seen.
const LAST_EVENT_ID: &str = "last-event-id";

/// The data of an event of progress.
#[derive(Serialize)]
struct ProgressObject {
    #[serde(flatten)]
    run: RunObject,
    /// Token objects, newest first.
    latest_rejections: Vec<Value>,
}

/// The progress of a run as server-sent events
///
/// `progress` has the run as data, with its latest rejections; its id is the number of report lines so far.
/// `summary` has the run with its summary, and is the last event.
#[utoipa::path(get, path = "/v1/runs/{id}/events", tag = "runs",
    params(("id" = String, Path, description = "The id of the run", format = Uuid)),
    responses(
        (status = 200, description = "The events", body = String, content_type = "text/event-stream"),
        (status = 401, description = "The request has no valid token", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "No run has this id", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 410, description = "The event id of the client is beyond the report", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub(super) async fn events(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let run = find(&service, &id)?;
    let last_id = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok());
    let last_id: Option<u64> = last_id.and_then(|id| id.parse().ok());
    if last_id.is_some_and(|last| last > lines(&run) && run.log.is_some()) {
        return Err(Problem::gone());
    }
    let events = EventSource {
        service,
        run,
        shown: None,
        next: Instant::now(),
        has_ended: false,
    };
    let body = Body::from_stream(stream::unfold(events, |mut events| async {
        let bytes = events.next().await?;
        Some((Ok::<_, Infallible>(bytes), events))
    }));
    let mut response = ([(CONTENT_TYPE, "text/event-stream")], body).into_response();
    stream_headers(response.headers_mut());
    Ok(response)
}

/// Returns the lines of the report so far; 0 for a run of an earlier process.
fn lines(run: &Run) -> u64 {
    run.log.as_ref().map_or(0, |log| log.lines())
}

/// Makes the events of one client.
struct EventSource {
    service: Arc<Service>,
    run: Arc<Run>,
    /// The number of lines and the state of the last event.
    shown: Option<(u64, String)>,
    /// When the next event of progress may be sent.
    next: Instant,
    has_ended: bool,
}

impl EventSource {
    async fn next(&mut self) -> Option<Bytes> {
        if self.has_ended {
            return None;
        }
        let mut changes = self.run.changes();
        let heartbeat = Instant::now() + HEARTBEAT;
        loop {
            let object = self.run.object();
            if object.state.is_final() {
                self.has_ended = true;
                return Some(event("summary", lines(&self.run), &object));
            }
            if Instant::now() >= self.next
                && let Some(progress) = self.progress(object)
            {
                self.next = Instant::now() + INTERVAL;
                return Some(progress);
            }
            tokio::select! {
                () = self.service.draining.cancelled() => return None,
                () = sleep_until(heartbeat) => return Some(Bytes::from_static(b": heartbeat\n\n")),
                _ = changes.changed() => {}
                () = sleep_until(self.next.max(Instant::now() + INTERVAL)) => {}
            }
        }
    }

    /// Returns an event of progress, if something has changed.
    fn progress(&mut self, object: RunObject) -> Option<Bytes> {
        let lines = lines(&self.run);
        let text = serde_json::to_string(&object).unwrap_or_default();
        if self.shown.as_ref() == Some(&(lines, text.clone())) {
            return None;
        }
        self.shown = Some((lines, text));
        let rejections = self.run.log.as_ref().map(|log| log.latest_rejections());
        let progress = ProgressObject {
            run: object,
            latest_rejections: objects(&rejections.unwrap_or_default()),
        };
        Some(event("progress", lines, &progress))
    }
}

fn event(name: &str, id: u64, data: &impl Serialize) -> Bytes {
    let data = serde_json::to_string(data).unwrap_or_default();
    format!("event: {name}\nid: {id}\ndata: {data}\n\n").into()
}
