//! The requests about runs that exist: list, show and stop them.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use uuid::Uuid;

use crate::command::serve::problem::{Problem, ProblemDocument};
use crate::command::serve::run::{Run, RunObject};
use crate::command::serve::service::Service;
use crate::error::exit::Cause;

/// Returns the parameters of a query, each of which must be one of `known`.
pub(super) fn parameters(
    query: Option<&str>,
    known: &[&str],
) -> Result<HashMap<String, String>, Problem> {
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
