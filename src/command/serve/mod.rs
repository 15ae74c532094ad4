//! `token_service serve`: the pipeline as an HTTP service.
//!
//! `connections` accepts requests, and `auth` checks them by `access`. `start`, `runs`, `reports` and `events`
//! answer those about runs, and `health`, `metrics`, `openapi` and `site` the others. `service` has what they
//! share: `places` for runs, `counts` and `readiness`. `runner` does each `job`; `registry` and the folder of
//! `data` remember its `run`. A response is a reader of a run's `report_log`, and `formats` rewrites its lines.

mod access;
mod auth;
mod connections;
mod counts;
mod data;
mod events;
mod formats;
mod health;
mod job;
mod metrics;
mod openapi;
mod pages;
mod places;
mod problem;
mod readiness;
mod registry;
mod report_log;
mod reports;
mod run;
mod runner;
mod runs;
mod scripts;
mod service;
mod site;
mod start;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Router, http::Method};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;

use crate::command::serve::problem::Problem;
use crate::command::serve::service::Service;
use crate::command::unwritable_stdout;
use crate::config::ServeSettings;
use crate::error::Error;
use crate::error::exit::Exit;
use crate::runtime::signals::Signals;
use crate::runtime::{self};

/// Serves until a signal, and prints the URL on `out` once it listens.
///
/// # Errors
/// If an address, the script or the folder cannot be used, or if `out` cannot be written.
pub fn serve(settings: ServeSettings, out: &mut impl Write) -> Result<(), Error> {
    if let Some(otel) = &settings.run.telemetry {
        for warning in &otel.warnings {
            tracing::warn!("{warning}");
        }
    }
    let tasks = LocalSet::new();
    runtime::current_thread()?.block_on(tasks.run_until(serve_runs(settings, out)))
}

async fn serve_runs(settings: ServeSettings, out: &mut impl Write) -> Result<(), Error> {
    let mut signals = Signals::listen()?;
    let listener = listen(settings.listen, "--listen").await?;
    let admin = match settings.admin_listen {
        Some(address) => Some(listen(address, "--admin-listen").await?),
        None => None,
    };
    let (jobs, started_jobs) = mpsc::unbounded_channel();
    let service = Arc::new(Service::new(settings, jobs)?);
    tokio::task::spawn_local(runner::run_jobs(Arc::clone(&service), started_jobs));
    let watched = Arc::clone(&service);
    let watch = tokio::task::spawn_local(async move { watched.watch_readiness().await });
    let ending = CancellationToken::new();
    let mut servers = vec![(listener, router(&service))];
    if let Some(admin) = admin {
        servers.push((admin, admin_router(&service)));
    }
    let mut lines = String::new();
    for (listener, _) in &servers {
        let address = local_address(listener)?;
        let words = if lines.is_empty() {
            "listening"
        } else {
            "metrics and health"
        };
        lines.extend([words, " on http://", &address.to_string(), "\n"]);
    }
    let servers = servers
        .into_iter()
        .map(|(listener, router)| connections::serve(listener, router, ending.clone()));
    let servers: Vec<_> = servers.map(tokio::spawn).collect();
    match out.write_all(lines.as_bytes()).and_then(|()| out.flush()) {
        // A closed pipe is not an error.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(unwritable_stdout(&error));
        }
        _ => {}
    }
    let cause = signals.next().await;
    tracing::info!(cause = cause.as_str(), "shutting down");
    watch.abort();
    tokio::select! {
        () = service.drain() => {}
        // A second signal ends the wait.
        _ = signals.next() => {}
    }
    ending.cancel();
    for server in servers {
        let _ = server.await;
    }
    Ok(())
}

async fn listen(address: SocketAddr, option: &str) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|error| {
        Error::new(Exit::Usage, format!("cannot listen on {address}"))
            .cause(error.to_string())
            .hint(format!(
                "set {option} to an address of this host and a free port; port 0 picks one"
            ))
    })
}

fn local_address(listener: &TcpListener) -> Result<SocketAddr, Error> {
    listener
        .local_addr()
        .map_err(|error| Error::new(Exit::Usage, "cannot listen").cause(error.to_string()))
}

/// Returns the routes of the service.
fn router(service: &Arc<Service>) -> Router {
    let routes = Router::new()
        .route("/", only("GET", get(site::start_page)))
        .route("/runs/{id}", only("GET", get(site::run_page)))
        .route("/assets/{name}", only("GET", get(site::asset)))
        .route("/login", only("POST", post(auth::login)))
        .route("/logout", only("POST", post(auth::logout)))
        .route("/openapi.json", only("GET", get(openapi::openapi)))
        .route(
            "/v1/runs",
            only("GET, POST", get(runs::list_runs).post(start::start_run)),
        )
        .route(
            "/v1/runs/{id}",
            only("GET, DELETE", get(runs::show_run).delete(runs::stop_run)),
        )
        .route("/v1/runs/{id}/report", only("GET", get(reports::report)))
        .route("/v1/runs/{id}/events", only("GET", get(events::events)))
        .route(
            "/v1/runs/{id}/replay",
            only("POST", post(start::replay_run)),
        )
        .merge(health_routes());
    let check = middleware::from_fn_with_state(Arc::clone(service), auth::check);
    finished(routes.layer(check), service)
}

/// Returns the routes of the second listener, where nobody has to authenticate.
fn admin_router(service: &Arc<Service>) -> Router {
    finished(health_routes(), service)
}

fn health_routes() -> Router<Arc<Service>> {
    Router::new()
        .route("/healthz", only("GET", get(health::healthz)))
        .route("/readyz", only("GET", get(health::readyz)))
        .route("/metrics", only("GET", get(metrics::metrics)))
}

/// Answers other methods with the ones that are `allowed`.
fn only(allowed: &'static str, methods: MethodRouter<Arc<Service>>) -> MethodRouter<Arc<Service>> {
    methods.fallback(move |_: Method| async move { Problem::wrong_method(allowed) })
}

fn finished(routes: Router<Arc<Service>>, service: &Arc<Service>) -> Router {
    let count = middleware::from_fn_with_state(Arc::clone(service), count_request);
    routes
        .fallback(|| async { Problem::not_found() })
        .layer(count)
        .with_state(Arc::clone(service))
}

/// Counts a request by the pattern of its path.
async fn count_request(
    State(service): State<Arc<Service>>,
    request: Request,
    next: Next,
) -> Response {
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await.into_response();
    let route = route.as_ref().map_or("unknown", MatchedPath::as_str);
    // Any other method of a client would be a new time series.
    let method = match method {
        Method::GET | Method::POST | Method::DELETE | Method::HEAD => method.as_str().to_owned(),
        _ => String::from("other"),
    };
    let status = response.status().as_u16();
    service.metrics.count_request(&method, route, status);
    response
}
