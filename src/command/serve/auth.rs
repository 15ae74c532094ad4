//! Who may use the service: clients with its token, and browsers with the cookie of a login. Pages of other
//! origins cannot start or stop runs.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Form, Request, State};
use axum::http::header::{HOST, LOCATION, ORIGIN, SET_COOKIE};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use url::Url;

use crate::command::serve::access::SESSION;
use crate::command::serve::problem::Problem;
use crate::command::serve::service::Service;
use crate::command::serve::site::login_page;

/// The header by which a browser says where a request comes from.
const FETCH_SITE: &str = "sec-fetch-site";

/// Lets a request pass that has the token, and whose page, if any, is one of the service.
pub(super) async fn check(
    State(service): State<Arc<Service>>,
    request: Request,
    next: Next,
) -> Response {
    let headers = request.headers();
    if *request.method() != Method::GET && *request.method() != Method::HEAD && is_foreign(headers)
    {
        return Problem::foreign_page().into_response();
    }
    // On loopback without a token, a page whose name leads here would be of the same origin.
    let is_local = !service.access.is_restricted() && !service.settings.no_auth;
    if is_local && host(&request).is_some_and(|host| !is_loopback(host)) {
        return Problem::foreign_host().into_response();
    }
    let path = request.uri().path();
    let is_open = path == "/login" || path == "/logout" || path.starts_with("/assets/");
    if is_open || service.access.allows(headers) {
        return next.run(request).await;
    }
    if path == "/" || path.starts_with("/runs/") {
        return login_page(false);
    }
    Problem::unauthorized().into_response()
}

/// Returns the host that a request names, with its port.
fn host(request: &Request) -> Option<&str> {
    let of_uri = request.uri().authority().map(Authority::as_str);
    let of_header = || request.headers().get(HOST)?.to_str().ok();
    of_uri.or_else(of_header)
}

/// Returns true if a host with a port names this machine, and no name server has a say in it.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || address
            .parse()
            .is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Returns true if a browser sent the request for a page of another site or origin.
fn is_foreign(headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get(FETCH_SITE) {
        return site != "same-origin" && site != "none";
    }
    let Some(origin) = headers.get(ORIGIN) else {
        return false;
    };
    let origin = origin.to_str().ok().and_then(|text| Url::parse(text).ok());
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    origin.is_none_or(|origin| {
        let port = origin
            .port()
            .map(|port| format!(":{port}"))
            .unwrap_or_default();
        host != Some(&format!("{}{port}", origin.host_str().unwrap_or_default()))
    })
}

/// The form of a login.
#[derive(Deserialize)]
pub(super) struct Login {
    token: String,
}

/// Answers `POST /login`.
pub(super) async fn login(
    State(service): State<Arc<Service>>,
    Form(login): Form<Login>,
) -> Response {
    match service.access.session(login.token.trim()) {
        Some(session) => to_start_page(&format!(
            "{SESSION}={session}; HttpOnly; SameSite=Strict; Path=/"
        )),
        None => login_page(true),
    }
}

/// Answers `POST /logout`.
pub(super) async fn logout() -> Response {
    to_start_page(&format!(
        "{SESSION}=; HttpOnly; SameSite=Strict; Path=/; Max-Age=0"
    ))
}

fn to_start_page(cookie: &str) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    let headers = response.headers_mut();
    headers.insert(LOCATION, HeaderValue::from_static("/"));
    if let Ok(cookie) = HeaderValue::from_str(cookie) {
        headers.insert(SET_COOKIE, cookie);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    #[test]
    fn only_names_of_this_machine_are_loopback() {
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1:80",
            "127.9.9.9",
            "[::1]:8080",
            "[::1]",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "localhost.example.com",
            "example.com:8080",
            "10.0.0.1:8080",
            "127.0.0.1.nip.io",
            "",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn pages_of_other_origins_are_foreign() {
        let foreign = |pairs: &[(&'static str, &str)]| is_foreign(&headers(pairs));
        assert!(!foreign(&[]));
        assert!(!foreign(&[
            ("sec-fetch-site", "same-origin"),
            ("origin", "http://x")
        ]));
        assert!(!foreign(&[("origin", "http://a:80"), ("host", "a")]));
        assert!(!foreign(&[
            ("origin", "http://[::1]:8080"),
            ("host", "[::1]:8080")
        ]));
        assert!(foreign(&[("origin", "http://evil"), ("host", "a")]));
        assert!(foreign(&[("origin", "null"), ("host", "a")]));
        assert!(foreign(&[("sec-fetch-site", "cross-site")]));
        assert!(foreign(&[("sec-fetch-site", "same-site")]));
    }
}
