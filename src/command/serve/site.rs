//! The pages of the service and their files, with the policy that lets no foreign script run.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::command::serve::pages::{self, PageFacts};
use crate::command::serve::problem::Problem;
use crate::command::serve::service::Service;

/// Everything that a page may load comes from the service.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' data:; frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

fn facts(service: &Service) -> PageFacts {
    PageFacts {
        default_size: service.settings.run.size,
        max_tokens: service.settings.max_tokens,
        can_run_async: service.settings.may_run_after_answer,
        has_login: service.access.is_restricted(),
        keeps_reports: service.data.is_some(),
    }
}

fn page(status: StatusCode, text: String) -> Response {
    let headers = [
        (
            CONTENT_TYPE,
            HeaderValue::from_static("text/html; charset=utf-8"),
        ),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (REFERRER_POLICY, HeaderValue::from_static("same-origin")),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (status, headers, text).into_response()
}

/// The form of the login; `has_failed` after a wrong token.
pub(super) fn login_page(has_failed: bool) -> Response {
    page(StatusCode::UNAUTHORIZED, pages::login_page(has_failed))
}

/// Answers `GET /`.
pub(super) async fn start_page(State(service): State<Arc<Service>>) -> Response {
    page(StatusCode::OK, pages::runs_page(&facts(&service)))
}

/// Answers `GET /runs/ID`; the page itself says if there is no such run.
pub(super) async fn run_page(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
) -> Response {
    page(StatusCode::OK, pages::run_page(&id, &facts(&service)))
}

/// Answers `GET /assets/NAME`.
pub(super) async fn asset(Path(name): Path<String>) -> Response {
    let Some((content_type, text)) = pages::asset(&name) else {
        return Problem::not_found().into_response();
    };
    let headers = [
        (CONTENT_TYPE, content_type),
        (CACHE_CONTROL, "no-cache"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, text).into_response()
}
