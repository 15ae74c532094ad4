//! The reports of runs: followed while a run goes on, resumed after any line, and in any format.

use std::fs::File;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, VARY};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;

use crate::command::run::inputs;
use crate::command::serve::formats::{FormatName, Renderer, content_type, requested_format};
use crate::command::serve::problem::{Problem, ProblemDocument};
use crate::command::serve::report_log::{LogReader, ReportLog};
use crate::command::serve::run::{Run, RunState};
use crate::command::serve::runs::{find, parameters};
use crate::command::serve::service::Service;
use crate::report::{ReportFormat, ndjson, text};

/// The header that keeps nginx from buffering a stream.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Sets the headers of a stream, which no proxy may keep or hold back.
pub(super) fn stream_headers(headers: &mut HeaderMap) {
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    headers.insert(VARY, HeaderValue::from_static("accept"));
}

/// Read the report of a run
///
/// A run that goes on is followed to its end. ndjson can be resumed after any line.
#[utoipa::path(get, path = "/v1/runs/{id}/report", tag = "runs",
    params(("id" = String, Path, description = "The id of the run", format = Uuid),
        ("after" = Option<u64>, Query, description = "Leaves out so many lines of the ndjson report"),
        ("format" = Option<FormatName>, Query, description = "The format of the answer, instead of `Accept`")),
    responses(
        (status = 200, description = "The report, in the format of `Accept`", body = String, content_type = "application/x-ndjson"),
        (status = 400, description = "A parameter is invalid", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "The request has no valid token", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "No run has this id", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 406, description = "No media type of `Accept` is that of a report", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "The run was interrupted and not replayed yet", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 410, description = "These lines are not kept any more", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub(super) async fn report(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let query = parameters(query.as_deref(), &["after", "format"])?;
    let format = requested_format(&headers, query.get("format").map(String::as_str))?;
    let after = query.get("after").map_or(Ok(0), |text| {
        let rule = || Problem::bad_request("`after` must be a whole number of lines");
        text.parse().map_err(|_| rule())
    })?;
    if after > 0 && format != &ndjson::FORMAT {
        let problem = Problem::bad_request("`after` works only with the format ndjson");
        return Err(problem.hint("ask for application/x-ndjson"));
    }
    let run = find(&service, &id)?;
    report_response(&service, &run, format, after).await
}

pub(super) async fn report_response(
    service: &Arc<Service>,
    run: &Arc<Run>,
    format: &'static ReportFormat,
    after: u64,
) -> Result<Response, Problem> {
    if run.state() == RunState::Interrupted {
        return Err(Problem::interrupted());
    }
    let replay = run.object().replayed_by;
    let replay = replay.and_then(|id| service.registry.get(id));
    let run = replay.as_ref().unwrap_or(run);
    let is_old = run.state().is_final();
    // From here on no line is missed.
    let body = report_body(service, run, format, after, is_old);
    if let Err(error) = run.started().await {
        return Err(Problem::not_started(&error));
    }
    let body = body?;
    let content_type = HeaderValue::from_static(content_type(format));
    let mut response = ([(CONTENT_TYPE, content_type)], body).into_response();
    let headers = response.headers_mut();
    stream_headers(headers);
    // The page of the report has a policy of its own for what it contains.
    let framed_by_itself = HeaderValue::from_static("frame-ancestors 'self'");
    headers.insert(CONTENT_SECURITY_POLICY, framed_by_itself);
    Ok(response)
}

/// Returns the report of a run that goes on, or of one that `is_old`.
fn report_body(
    service: &Service,
    run: &Run,
    format: &'static ReportFormat,
    after: u64,
    is_old: bool,
) -> Result<Body, Problem> {
    match (&run.text, format) {
        (Some(log), format) if format == &text::FORMAT => match log.read_after(0) {
            Ok(reader) => Ok(Body::from_stream(pages_of(reader, None))),
            Err(_) => rendered(service, run, format, 0, is_old),
        },
        _ => rendered(service, run, format, after, is_old),
    }
}

/// Returns the report in `format`, made from its ndjson lines.
fn rendered(
    service: &Service,
    run: &Run,
    format: &'static ReportFormat,
    after: u64,
    is_old: bool,
) -> Result<Body, Problem> {
    let log = match (&run.log, &run.kept_report) {
        (Some(log), _) => Arc::clone(log),
        (None, Some(path)) => {
            let opened = File::open(path).and_then(ReportLog::of_file);
            opened.map_err(|_| Problem::gone())?
        }
        (None, None) => return Err(Problem::gone()),
    };
    let is_ndjson = format == &ndjson::FORMAT;
    let Ok(reader) = log.read_after(after) else {
        let summary = summary_line(run, after).filter(|_| is_ndjson);
        let is_beyond = !log.has_failed() && after > log.lines();
        let problem = if is_beyond {
            Problem::beyond(log.lines())
        } else {
            Problem::gone()
        };
        return summary.ok_or(problem);
    };
    let renderer =
        (!is_ndjson).then(|| Renderer::new(format, inputs(&service.settings.run), is_old));
    Ok(Body::from_stream(pages_of(reader, renderer)))
}

/// Returns the summary alone, if a client has read all lines before it.
fn summary_line(run: &Run, after: u64) -> Option<Body> {
    let object = run.object();
    let summary = object.summary?;
    let is_next = run
        .log
        .as_ref()
        .is_some_and(|log| !log.has_failed() && log.lines() == after + 1);
    is_next.then(|| Body::from(format!("{{\"summary\":{summary}}}\n")))
}

/// Streams the parts of a report. If lines are gone, the connection is closed without an end, so that the
/// client does not take the report for complete.
fn pages_of(
    reader: LogReader,
    renderer: Option<Renderer>,
) -> impl futures_util::Stream<Item = Result<Bytes, std::io::Error>> {
    stream::unfold((reader, renderer), |(mut reader, mut renderer)| async {
        loop {
            let Ok(lines) = reader.next().await? else {
                let error = std::io::Error::other("the lines are gone");
                return Some((Err(error), (reader, renderer)));
            };
            let Some(renderer_of_run) = &mut renderer else {
                return Some((Ok(lines), (reader, renderer)));
            };
            match renderer_of_run.render(&lines) {
                // HTML keeps its charts for the end.
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => return Some((Ok(bytes), (reader, renderer))),
                Err(error) => {
                    let error = std::io::Error::other(error.message.clone());
                    return Some((Err(error), (reader, renderer)));
                }
            }
        }
    })
}
