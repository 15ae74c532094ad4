//! The `OpenAPI` document, made from the handlers of the requests.

use axum::Json;
use utoipa::openapi::OpenApi as Document;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use crate::command::serve::{events, health, metrics, reports, runs, start};

/// The document.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "token_service",
        description = "Fetches tokens from a source, stores each one in its own transaction, and reports every token with its outcome."
    ),
    paths(
        start::start_run,
        runs::list_runs,
        runs::show_run,
        runs::stop_run,
        start::replay_run,
        reports::report,
        events::events,
        health::healthz,
        health::readyz,
        metrics::metrics,
    ),
    tags(
        (name = "runs", description = "Start, follow and stop runs"),
        (name = "health", description = "Health and metrics"),
    ),
    security(("token" = [])),
    modifiers(&TokenScheme)
)]
struct ServiceDocument;

/// Adds how clients authenticate.
struct TokenScheme;

impl Modify for TokenScheme {
    fn modify(&self, document: &mut Document) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// Answers `GET /openapi.json`.
pub(super) async fn openapi() -> Json<Document> {
    Json(ServiceDocument::openapi())
}
