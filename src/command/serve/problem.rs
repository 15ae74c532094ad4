//! The answer to a request that fails: a problem document (RFC 9457), with the words of the command line.

use std::time::Duration;

use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::Error;
use crate::error::exit::Exit;

/// The media type of a problem document.
const MEDIA_TYPE: &str = "application/problem+json";

/// Why a request failed (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProblemDocument {
    /// Always `about:blank`: the status says what kind of problem it is.
    #[serde(rename = "type")]
    #[schema(example = "about:blank")]
    kind: &'static str,
    /// The name of the status.
    #[schema(example = "Bad Request")]
    title: &'static str,
    /// The status code.
    #[schema(example = 400)]
    status: u16,
    /// What failed.
    detail: String,
    /// Why it failed, the outermost cause first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    causes: Vec<String>,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

/// The answer to a request that fails.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    detail: String,
    causes: Vec<String>,
    hint: Option<String>,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// Creates a problem; `detail` is one sentence without a full stop.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
            causes: Vec::new(),
            hint: None,
            header: None,
        }
    }

    /// A request that is wrong by itself.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// No media type of `Accept` is one of those `known`.
    pub fn not_acceptable(known: &[&str]) -> Self {
        Self::new(
            StatusCode::NOT_ACCEPTABLE,
            "no media type of `Accept` is that of a report",
        )
        .hint(format!("ask for one of {}", known.join(", ")))
    }

    /// No or a wrong token.
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "the request has no valid token")
            .hint("send the service's token as `Authorization: Bearer …`")
            .header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
    }

    /// A page of another origin sent the request.
    pub fn foreign_page() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "a page of another origin cannot start or stop runs",
        )
        .hint("use the pages of the service itself, or a client that is no browser")
    }

    /// The request names another host, on loopback without a token.
    pub fn foreign_host() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "the request names another host than this machine",
        )
        .hint("use localhost or 127.0.0.1; set TOKEN_SERVICE_SERVE_TOKEN for other names, or --no-auth if something in front of the service authenticates its clients")
    }

    /// There is nothing at this path.
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "nothing is at this path")
            .hint("GET /openapi.json lists the paths")
    }

    /// There is no such run.
    pub fn unknown_run() -> Self {
        Self::new(StatusCode::NOT_FOUND, "no run has this id")
            .hint("GET /v1/runs lists the runs; without `--data` the last 100 are kept")
    }

    /// The path does not support the method.
    pub fn wrong_method(allowed: &'static str) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "the method is not allowed here",
        )
        .hint(format!("allowed: {allowed}"))
        .header(ALLOW, HeaderValue::from_static(allowed))
    }

    /// The report has fewer lines than the client has read.
    pub fn beyond(lines: u64) -> Self {
        Self::new(
            StatusCode::GONE,
            format!("the report has only {lines} lines"),
        )
        .hint("`after` is the number of lines that were read of this run's report")
    }

    /// The body does not arrive.
    pub fn slow_body(limit: Duration) -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body did not arrive within {} seconds", limit.as_secs()),
        )
    }

    /// The platform takes the processor away after an answer.
    pub fn no_work_after_answer() -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "an asynchronous run would stop when the answer is sent: Cloud Run takes the processor away then",
        )
        .hint("leave out `Prefer: respond-async`; or allocate the CPU always and set `serve.cpu_always`")
    }

    /// The run has nothing to replay.
    pub fn nothing_to_replay() -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "the run was not interrupted, or is being replayed",
        )
        .hint("its state is at /v1/runs/ID")
    }

    /// The run was interrupted, so its report is incomplete.
    pub fn interrupted() -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "the run was interrupted, so its report is incomplete",
        )
        .hint("POST /v1/runs/ID/replay settles what it left, and reports every token")
    }

    /// The body is larger than a body may be.
    pub fn too_large(most: u64) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body has more than {most} bytes"),
        )
        .hint("send fewer tokens at a time, or raise `source.max_body`")
    }

    /// The body is no text.
    pub fn wrong_body() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the body is not text/plain in UTF-8",
        )
        .hint("send one token per line with `Content-Type: text/plain`, and without compression")
    }

    /// The idempotency key belongs to another request.
    pub fn other_request() -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "the idempotency key belongs to a request with other parameters",
        )
        .hint("use a new key for a new run")
    }

    /// The lines of the report are not kept any more.
    pub fn gone() -> Self {
        Self::new(
            StatusCode::GONE,
            "these lines of the report are not kept any more",
        )
        .hint("`--data DIR` keeps reports; the summary is at /v1/runs/ID")
    }

    /// All places for runs are taken.
    pub fn too_many(max_runs: usize, queue: usize) -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            format!("{max_runs} runs go on and {queue} wait, and no more are accepted"),
        )
        .retry_after(Duration::from_secs(1))
        .hint("send the request again later; --max-runs and --queue set the numbers")
    }

    /// The service shuts down.
    pub fn draining() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the service is shutting down and starts no new runs",
        )
        .retry_after(Duration::from_secs(5))
        .hint("send the request again: another instance may take it")
    }

    /// The run could not start.
    pub fn not_started(error: &Error) -> Self {
        let status = match error.exit {
            Exit::Database | Exit::Source | Exit::Signal(_) => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let mut problem = Self::new(status, error.message.clone());
        problem.causes.clone_from(&error.causes);
        problem.hint.clone_from(&error.hint);
        if status == StatusCode::SERVICE_UNAVAILABLE && error.retryable {
            return problem.retry_after(Duration::from_secs(5));
        }
        problem
    }

    /// Sets what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Sets when to try again.
    #[must_use]
    pub fn retry_after(self, wait: Duration) -> Self {
        let seconds = wait.as_secs().max(1);
        self.header(RETRY_AFTER, seconds.into())
    }

    fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.header = Some((name, value));
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let document = ProblemDocument {
            kind: "about:blank",
            title: self.status.canonical_reason().unwrap_or_default(),
            status: self.status.as_u16(),
            detail: self.detail,
            causes: self.causes,
            hint: self.hint,
        };
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let content_type = [(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE))];
        let mut response = (self.status, content_type, body).into_response();
        response.headers_mut().extend(self.header);
        response
    }
}
