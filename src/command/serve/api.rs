//! The requests about runs: start, list, show, stop, replay, and read their reports.

use std::collections::HashMap;
use std::error::Error as _;
use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, LOCATION, VARY,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::LengthLimitError;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::cli::value;
use crate::command::run::inputs;
use crate::command::serve::formats::{Renderer, content_type, requested_format};
use crate::command::serve::job::{RunJob, RunWork};
use crate::command::serve::problem::{Problem, ProblemDocument};
use crate::command::serve::registry::KeyLookup;
use crate::command::serve::report_log::{LogReader, ReportLog};
use crate::command::serve::run::{RequestKey, Run, RunObject, RunState};
use crate::command::serve::service::Service;
use crate::error::exit::Cause;
use crate::fetch::input::Input;
use crate::report::{ReportFormat, ndjson, text};
use crate::runtime::platform::memory_file;

/// The header with the id of the run.
const RUN_ID: HeaderName = HeaderName::from_static("run-id");
/// The header that keeps nginx from buffering a stream.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// The headers of the trace that a request belongs to.
const TRACE: [&str; 2] = ["traceparent", "tracestate"];
/// The longest idempotency key.
const MAX_KEY: usize = 255;

/// Returns the parameters of a query, each of which must be one of `known`.
fn parameters(query: Option<&str>, known: &[&str]) -> Result<HashMap<String, String>, Problem> {
    let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let mut parameters = HashMap::new();
    for (name, value) in pairs {
        if !known.contains(&name.as_ref()) {
            let problem = Problem::bad_request("the query has an unknown parameter");
            return Err(problem.hint(format!("known parameters: {}", known.join(", "))));
        }
        if parameters
            .insert(name.to_string(), value.into_owned())
            .is_some()
        {
            return Err(Problem::bad_request(format!("`{name}` is given twice")));
        }
    }
    Ok(parameters)
}

/// Finds a run by the id in a path.
pub(super) fn find(service: &Service, id: &str) -> Result<Arc<Run>, Problem> {
    let id = Uuid::try_parse(id).ok();
    let run = id.and_then(|id| service.registry.get(id));
    run.ok_or_else(Problem::unknown_run)
}

/// Sets the headers of a stream, which no proxy may keep or hold back.
pub(super) fn stream_headers(headers: &mut HeaderMap) {
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    headers.insert(VARY, HeaderValue::from_static("accept"));
}

/// Start a run
///
/// Streams the report as the run goes on; the last line of ndjson is the summary. A client that disconnects
/// does not end the run: `GET /v1/runs/{id}/report?after=N` reads on. A `text/plain` body has one token per line, which the
/// run stores instead of tokens of the source.
#[utoipa::path(post, path = "/v1/runs", tag = "runs",
    params(
        ("size" = Option<u64>, Query, minimum = 1, description = "The number of tokens, at least 1 and at most MAX_TOKENS; without it the configured one, or with a body all of its tokens"),
        ("format" = Option<String>, Query, description = "The format of the answer, instead of `Accept`: text, ndjson, json, csv, yaml or html"),
        ("Prefer" = Option<String>, Header, description = "`respond-async` answers at once with 202"),
        ("Idempotency-Key" = Option<String>, Header, description = "A request with a key of an earlier one gets the run of that one"),
    ),
    request_body(content = String, content_type = "text/plain", description = "Tokens, one per line; without a body the source delivers them"),
    responses(
        (status = 200, description = "The report, in the format of `Accept`", body = String, content_type = "application/x-ndjson",
            headers(("Location" = String, description = "The path of the run"), ("Run-Id" = String, description = "The id of the run"))),
        (status = 202, description = "The run was accepted", body = RunObject,
            headers(("Location" = String, description = "The path of the run"), ("Run-Id" = String, description = "The id of the run"))),
        (status = 400, description = "SIZE or another parameter is invalid", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "The request has no valid token", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "A page of another origin sent the request", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 406, description = "No media type of `Accept` is that of a report", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "The platform allows no work after an answer", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 410, description = "The report of the run with this key is not kept any more", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 415, description = "The body is not text/plain", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "The idempotency key belongs to another request", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Too many runs", body = ProblemDocument, content_type = "application/problem+json",
            headers(("Retry-After" = u32, description = "Seconds"))),
        (status = 500, description = "The run could not start", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "The database cannot be used, or the service is shutting down", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub(super) async fn start_run(
    State(service): State<Arc<Service>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let query = parameters(query.as_deref(), &["size", "format"])?;
    let format = requested_format(&headers, query.get("format").map(String::as_str))?;
    let is_async = prefers_async(&headers);
    if is_async && !service.settings.may_run_after_answer {
        return Err(Problem::no_work_after_answer());
    }
    let size = query
        .get("size")
        .map(|size| parse_size(&service, size))
        .transpose()?;
    let input = read_input(&service, &headers, body).await?;
    let key = request_key(&headers, size, input.as_ref())?;
    if let Some(key) = &key {
        match service.registry.find_key(key) {
            KeyLookup::New => {}
            KeyLookup::Same(run) => return answer(&service, &run, format, is_async),
            KeyLookup::Other => return Err(Problem::other_request()),
        }
    }
    let (size, input) = size_of_run(&service, size, input)?;
    let admission = service.admit()?;
    let id = Uuid::now_v7();
    let object = RunObject::queued(id, Timestamp::now(), size);
    let text = (format == &text::FORMAT && !is_async).then(ReportLog::in_memory);
    let (run, stops) = Run::queued(object, new_log(&service, id)?, text, key);
    let run = Arc::new(run);
    if let Some(data) = &service.data {
        data.keep(&run.object(), run.key.as_ref());
    }
    service.registry.add(Arc::clone(&run));
    let (started, has_started) = oneshot::channel();
    // Before the run begins, so that no line is missed.
    let reader = (!is_async).then(|| answer(&service, &run, format, false));
    service.start(RunJob {
        run: Arc::clone(&run),
        work: RunWork::Script { size, input },
        admission,
        parent: parent_of(&headers),
        stops,
        started,
    });
    let Some(response) = reader else {
        return answer(&service, &run, format, true);
    };
    match has_started.await {
        Ok(Ok(())) => response,
        Ok(Err(error)) => Err(Problem::not_started(&error)),
        Err(_) => Err(Problem::draining()),
    }
}

fn prefers_async(headers: &HeaderMap) -> bool {
    let values = headers.get_all("prefer").iter();
    let mut preferences = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|it| it.split(','));
    preferences.any(|preference| preference.trim().eq_ignore_ascii_case("respond-async"))
}

fn parse_size(service: &Service, text: &str) -> Result<u64, Problem> {
    let size = value::size(text).map_err(|rule| {
        Problem::bad_request(format!("SIZE {rule}")).hint("such as /v1/runs?size=5")
    })?;
    match service.settings.max_tokens {
        Some(max) if size > max => {
            let detail = format!("SIZE {size} exceeds MAX_TOKENS, which is {max}");
            Err(Problem::bad_request(detail).hint(format!("set size to at most {max}")))
        }
        _ => Ok(size),
    }
}

/// Reads the tokens of a body.
async fn read_input(
    service: &Service,
    headers: &HeaderMap,
    body: Body,
) -> Result<Option<Bytes>, Problem> {
    let most = service.settings.run.limits.max_body;
    let limit = usize::try_from(most).unwrap_or(usize::MAX);
    let bytes = to_bytes(body, limit).await.map_err(|error| {
        if error
            .source()
            .is_some_and(<dyn std::error::Error>::is::<LengthLimitError>)
        {
            Problem::too_large(most)
        } else {
            Problem::bad_request("the body did not arrive completely")
        }
    })?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).map(str::trim);
    if kind.is_some_and(|kind| !kind.eq_ignore_ascii_case("text/plain")) {
        return Err(Problem::wrong_body());
    }
    Ok(Some(bytes))
}

/// Returns the idempotency key of a request, and what it asks for; both as hashes.
fn request_key(
    headers: &HeaderMap,
    size: Option<u64>,
    input: Option<&Bytes>,
) -> Result<Option<RequestKey>, Problem> {
    let Some(key) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    if key.is_empty() || key.len() > MAX_KEY {
        let detail = format!("`Idempotency-Key` must have 1 to {MAX_KEY} bytes");
        return Err(Problem::bad_request(detail));
    }
    let mut fingerprint = Sha256::new();
    fingerprint.update(size.unwrap_or_default().to_le_bytes());
    fingerprint.update(input.map_or(&[][..], |input| input));
    Ok(Some(RequestKey {
        key: BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(key)),
        fingerprint: BASE64_URL_SAFE_NO_PAD.encode(fingerprint.finalize()),
    }))
}

/// Returns the size of a run, and its input.
fn size_of_run(
    service: &Service,
    size: Option<u64>,
    input: Option<Bytes>,
) -> Result<(u64, Option<Input>), Problem> {
    let Some(bytes) = input else {
        return Ok((size.unwrap_or(service.settings.run.size), None));
    };
    let unreadable =
        |error: std::io::Error| Problem::bad_request(format!("the body cannot be read: {error}"));
    let mut file: File = memory_file().map_err(unreadable)?;
    file.write_all(&bytes).map_err(unreadable)?;
    let max_token = service.settings.run.limits.max_token;
    let input = Input::of_file(file, "the request's body", max_token).map_err(unreadable)?;
    let count = input.count().unwrap_or_default();
    if count == 0 {
        return Err(Problem::bad_request("the body has no tokens"));
    }
    let size = match size {
        Some(size) => size,
        None => parse_size(service, &count.to_string())?,
    };
    Ok((size, Some(input)))
}

fn parent_of(headers: &HeaderMap) -> HashMap<String, String> {
    let value = |name: &str| headers.get(name)?.to_str().ok().map(ToOwned::to_owned);
    let named = TRACE
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), value(name)?)));
    named.collect()
}

fn new_log(service: &Service, id: Uuid) -> Result<Arc<ReportLog>, Problem> {
    let Some(data) = &service.data else {
        return Ok(ReportLog::in_memory());
    };
    data.create_report(id)
        .map(ReportLog::in_file)
        .map_err(|error| {
            let detail = format!("the report cannot be kept: {error}");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).hint("free disk space of --data")
        })
}

/// Answers the request that started `run`, or an equal one.
fn answer(
    service: &Arc<Service>,
    run: &Arc<Run>,
    format: &'static ReportFormat,
    is_async: bool,
) -> Result<Response, Problem> {
    let mut response = if is_async {
        (StatusCode::ACCEPTED, Json(run.object())).into_response()
    } else {
        report_response(service, run, format, 0)?
    };
    let headers = response.headers_mut();
    let location = format!("/v1/runs/{}", run.id);
    if let (Ok(location), Ok(id)) = (location.parse(), run.id.to_string().parse()) {
        headers.insert(LOCATION, location);
        headers.insert(RUN_ID, id);
    }
    Ok(response)
}

/// List the runs, newest first
#[utoipa::path(get, path = "/v1/runs", tag = "runs",
    responses(
        (status = 200, description = "The runs, without their summaries", body = Vec<RunObject>),
        (status = 401, description = "The request has no valid token", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub(super) async fn list_runs(State(service): State<Arc<Service>>) -> Response {
    let runs = service.registry.newest_first();
    let runs: Vec<RunObject> = runs
        .iter()
        .map(|run| RunObject {
            summary: None,
            ..run.object()
        })
        .collect();
    let mut response = Json(runs).into_response();
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, no_store);
    response
}

/// Show a run
#[utoipa::path(get, path = "/v1/runs/{id}", tag = "runs",
    params(("id" = String, Path, description = "The id of the run", format = Uuid)),
    responses(
        (status = 200, description = "The run, with its summary once it has ended", body = RunObject),
        (status = 401, description = "The request has no valid token", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "No run has this id", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub(super) async fn show_run(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let run = find(&service, &id)?;
    let mut response = Json(run.object()).into_response();
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, no_store);
    Ok(response)
}

/// Stop a run
///
/// Stops it as SIGTERM stops the command: tokens in flight are settled. A second request ends the wait for
/// them.
#[utoipa::path(delete, path = "/v1/runs/{id}", tag = "runs",
    params(("id" = String, Path, description = "The id of the run", format = Uuid)),
    responses(
        (status = 202, description = "The run is being stopped, or has ended", body = RunObject),
        (status = 401, description = "The request has no valid token", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "A page of another origin sent the request", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "No run has this id", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub(super) async fn stop_run(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let run = find(&service, &id)?;
    run.stop(Cause::Terminate);
    Ok((StatusCode::ACCEPTED, Json(run.object())).into_response())
}

/// Settle what an interrupted run left
///
/// Starts a run that stores the tokens that are safe to store, looks up those in doubt, and reports every
/// token of the interrupted run.
#[utoipa::path(post, path = "/v1/runs/{id}/replay", tag = "runs",
    params(("id" = String, Path, description = "The id of the interrupted run", format = Uuid),
        ("Prefer" = Option<String>, Header, description = "`respond-async` answers at once with 202")),
    responses(
        (status = 200, description = "The report, in the format of `Accept`", body = String, content_type = "application/x-ndjson"),
        (status = 202, description = "The replay was accepted", body = RunObject),
        (status = 401, description = "The request has no valid token", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "A page of another origin sent the request", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "No run has this id", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 406, description = "No media type of `Accept` is that of a report", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "The run was not interrupted, or is being replayed", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Too many runs", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 500, description = "The journal cannot be used", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "The database cannot be used, or the service is shutting down", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub(super) async fn replay_run(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let left = find(&service, &id)?;
    let format = requested_format(&headers, None)?;
    let is_async = prefers_async(&headers);
    if is_async && !service.settings.may_run_after_answer {
        return Err(Problem::no_work_after_answer());
    }
    let admission = service.admit()?;
    if !left.begin_replay() {
        return Err(Problem::nothing_to_replay());
    }
    let id = Uuid::now_v7();
    let log = new_log(&service, id).inspect_err(|_| left.end_replay(None))?;
    let object = RunObject::queued(id, Timestamp::now(), left.object().requested);
    let (run, stops) = Run::queued(object, log, None, None);
    let run = Arc::new(run);
    service.registry.add(Arc::clone(&run));
    let (started, has_started) = oneshot::channel();
    let reader = (!is_async).then(|| answer(&service, &run, format, false));
    service.start(RunJob {
        run: Arc::clone(&run),
        work: RunWork::Replay(left),
        admission,
        parent: parent_of(&headers),
        stops,
        started,
    });
    let Some(response) = reader else {
        return answer(&service, &run, format, true);
    };
    match has_started.await {
        Ok(Ok(())) => response,
        Ok(Err(error)) => Err(Problem::not_started(&error)),
        Err(_) => Err(Problem::draining()),
    }
}

/// Read the report of a run
///
/// A run that goes on is followed to its end. ndjson can be resumed after any line.
#[utoipa::path(get, path = "/v1/runs/{id}/report", tag = "runs",
    params(("id" = String, Path, description = "The id of the run", format = Uuid),
        ("after" = Option<u64>, Query, description = "Leaves out so many lines of the ndjson report"),
        ("format" = Option<String>, Query, description = "The format of the answer, instead of `Accept`: text, ndjson, json, csv, yaml or html")),
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
    report_response(&service, &run, format, after)
}

fn report_response(
    service: &Arc<Service>,
    run: &Arc<Run>,
    format: &'static ReportFormat,
    after: u64,
) -> Result<Response, Problem> {
    if run.state() == RunState::Interrupted {
        return Err(Problem::interrupted());
    }
    let replay = run.object().replayed_by;
    if let Some(replay) = replay.and_then(|id| service.registry.get(id)) {
        return report_response(service, &replay, format, after);
    }
    let is_old = run.state().is_final();
    let body = match (&run.text, format) {
        (Some(log), format) if format == &text::FORMAT => match log.read_after(0) {
            Ok(reader) => Body::from_stream(pages_of(reader, None)),
            Err(_) => rendered(service, run, format, 0, is_old)?,
        },
        _ => rendered(service, run, format, after, is_old)?,
    };
    let content_type = HeaderValue::from_static(content_type(format));
    let mut response = ([(CONTENT_TYPE, content_type)], body).into_response();
    let headers = response.headers_mut();
    stream_headers(headers);
    // The page of the report has a policy of its own for what it contains.
    let framed_by_itself = HeaderValue::from_static("frame-ancestors 'self'");
    headers.insert(CONTENT_SECURITY_POLICY, framed_by_itself);
    Ok(response)
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
        return summary_line(run, after)
            .filter(|_| is_ndjson)
            .ok_or_else(Problem::gone);
    };
    let renderer =
        (!is_ndjson).then(|| Renderer::new(format, inputs(&service.settings.run), is_old));
    Ok(Body::from_stream(pages_of(reader, renderer)))
}

/// Returns the summary alone, if a client has read all lines before it.
fn summary_line(run: &Run, after: u64) -> Option<Body> {
    let object = run.object();
    let summary = object.summary?;
    let is_next = run.log.as_ref().is_some_and(|log| log.lines() == after + 1);
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
