//! The requests that start runs: of new tokens, and replays of interrupted runs.

use std::collections::HashMap;
use std::error::Error as _;
use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, LOCATION};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use bytes::Bytes;
use http_body_util::LengthLimitError;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::time::timeout;
use uuid::Uuid;

use crate::cli::value;
use crate::command::serve::formats::{FormatName, requested_format};
use crate::command::serve::job::{RunJob, RunWork};
use crate::command::serve::places::Admission;
use crate::command::serve::problem::{Problem, ProblemDocument};
use crate::command::serve::registry::KeyLookup;
use crate::command::serve::report_log::ReportLog;
use crate::command::serve::reports::report_response;
use crate::command::serve::run::{RequestKey, Run, RunObject};
use crate::command::serve::runs::{find, parameters};
use crate::command::serve::service::Service;
use crate::error::exit::Cause;
use crate::fetch::input::Input;
use crate::report::{ReportFormat, text};
use crate::runtime::platform::memory_file;

/// The header with the id of the run.
const RUN_ID: HeaderName = HeaderName::from_static("run-id");
/// The headers of the trace that a request belongs to.
const TRACE: [&str; 2] = ["traceparent", "tracestate"];
/// How long a body may take to arrive.
const BODY_LIMIT: Duration = Duration::from_mins(1);
/// The longest idempotency key.
const MAX_KEY: usize = 255;

/// Start a run
///
/// Streams the report as the run goes on; the last line of ndjson is the summary. A client that disconnects
/// does not end the run: `GET /v1/runs/{id}/report?after=N` reads on. A `text/plain` body has one token per line, which the
/// run stores instead of tokens of the source.
#[utoipa::path(post, path = "/v1/runs", tag = "runs",
    params(
        ("size" = Option<u64>, Query, minimum = 1, description = "The number of tokens, at least 1 and at most MAX_TOKENS; without it the configured one, or with a body all of its tokens"),
        ("format" = Option<FormatName>, Query, description = "The format of the answer, instead of `Accept`"),
        ("Prefer" = Option<String>, Header, description = "`respond-async` answers at once with 202"),
        ("Idempotency-Key" = Option<String>, Header, description = "A request with a key of an earlier one gets the run of that one"),
    ),
    request_body(content = Option<String>, content_type = "text/plain", description = "Tokens, one per line; without a body the source delivers them"),
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
            KeyLookup::Same(run) => return answer(&service, &run, format, is_async).await,
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
    let work = RunWork::Script { size, input };
    start(&service, &run, work, admission, stops, &headers);
    answer(&service, &run, format, is_async).await
}

/// Gives a run to the runner.
fn start(
    service: &Service,
    run: &Arc<Run>,
    work: RunWork,
    admission: Admission,
    stops: mpsc::UnboundedReceiver<Cause>,
    headers: &HeaderMap,
) {
    service.start(RunJob {
        run: Arc::clone(run),
        work,
        admission,
        parent: parent_of(headers),
        stops,
    });
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
    let arrived = timeout(BODY_LIMIT, to_bytes(body, limit)).await;
    let bytes = arrived.map_err(|_| Problem::slow_body(BODY_LIMIT))?;
    let bytes = bytes.map_err(|error| {
        if error
            .source()
            .is_some_and(<dyn std::error::Error>::is::<LengthLimitError>)
        {
            Problem::too_large(most)
        } else {
            Problem::bad_request("the body did not arrive completely")
        }
    })?;
    let kind = headers.get(CONTENT_TYPE).map(|kind| kind.to_str());
    match kind {
        None if bytes.is_empty() => Ok(None),
        // An empty file is an input without tokens.
        Some(Ok(kind)) if !is_plain_text(kind) && bytes.is_empty() => Ok(None),
        None => Ok(Some(bytes)),
        Some(Ok(kind)) if is_plain_text(kind) && !headers.contains_key(CONTENT_ENCODING) => {
            Ok(Some(bytes))
        }
        Some(_) => Err(Problem::wrong_body()),
    }
}

/// Returns true for the media type of text in UTF-8.
fn is_plain_text(kind: &str) -> bool {
    let kind = kind.to_ascii_lowercase();
    let mut parts = kind.split(';').map(str::trim);
    let charset = |parameter: &str| {
        let value = parameter.strip_prefix("charset=");
        value.is_none_or(|value| matches!(value.trim_matches('"'), "utf-8" | "us-ascii"))
    };
    parts.next() == Some("text/plain") && parts.all(charset)
}

/// Returns the idempotency key of a request, and what it asks for; both as hashes.
fn request_key(
    headers: &HeaderMap,
    size: Option<u64>,
    input: Option<&Bytes>,
) -> Result<Option<RequestKey>, Problem> {
    let mut keys = headers.get_all("idempotency-key").iter();
    let Some(key) = keys.next() else {
        return Ok(None);
    };
    if keys.next().is_some() {
        return Err(Problem::bad_request("`Idempotency-Key` is given twice"));
    }
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
async fn answer(
    service: &Arc<Service>,
    run: &Arc<Run>,
    format: &'static ReportFormat,
    is_async: bool,
) -> Result<Response, Problem> {
    let mut response = if is_async {
        (StatusCode::ACCEPTED, Json(run.object())).into_response()
    } else {
        report_response(service, run, format, 0).await?
    };
    let headers = response.headers_mut();
    let location = format!("/v1/runs/{}", run.id);
    if let (Ok(location), Ok(id)) = (location.parse(), run.id.to_string().parse()) {
        headers.insert(LOCATION, location);
        headers.insert(RUN_ID, id);
    }
    Ok(response)
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
    let object = RunObject {
        replay_of: Some(left.id),
        ..RunObject::queued(id, Timestamp::now(), left.object().requested)
    };
    let (run, stops) = Run::queued(object, log, None, None);
    let run = Arc::new(run);
    service.registry.add(Arc::clone(&run));
    start(
        &service,
        &run,
        RunWork::Replay(left),
        admission,
        stops,
        &headers,
    );
    answer(&service, &run, format, is_async).await
}
