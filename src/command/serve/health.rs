//! Health: the process answers; and readiness: source and database can be used.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::command::serve::problem::{Problem, ProblemDocument};
use crate::command::serve::readiness::ReadinessObject;
use crate::command::serve::service::Service;

/// The process answers
#[utoipa::path(get, path = "/healthz", tag = "health",
    responses(
        (status = 200, description = "The process answers", body = String),
        (status = 401, description = "The request has no valid token", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether source and database can be used
#[utoipa::path(get, path = "/readyz", tag = "health",
    responses(
        (status = 200, description = "Runs can start", body = ReadinessObject),
        (status = 401, description = "The request has no valid token", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Source or database cannot be used, or the service is shutting down", body = ReadinessObject),
    ))]
pub(super) async fn readyz(State(service): State<Arc<Service>>) -> Response {
    if service.draining.is_cancelled() {
        return Problem::draining().into_response();
    }
    let object = service.check_readiness().await;
    let status = if object.is_ready() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(object)).into_response()
}
