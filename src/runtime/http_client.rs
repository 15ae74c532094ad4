//! What the program's HTTP clients have in common: trusted certificates, proxy, no redirects, and the
//! wait that a server asks for.

use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, ClientBuilder, Url, redirect};

/// Configures a client for `url`. With `proxy` it honours `HTTP_PROXY` and related variables.
pub(crate) fn builder(url: &Url, proxy: bool) -> ClientBuilder {
    // reqwest uses the process-wide crypto provider; for a second client it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder()
        .user_agent(concat!("token_service/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none());
    if !proxy {
        builder = builder.no_proxy();
        if url.scheme() == "http" {
            // Loading the system's certificates dominates startup time, and plain HTTP needs none.
            builder = builder.tls_certs_only([]);
        }
    }
    builder
}

/// Returns the URL without query and credentials, which may be secret.
pub(crate) fn display_url(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}

/// Parses `Retry-After`, in seconds or as an HTTP date (RFC 9110, section 10.2.3).
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
    let now = jiff::Timestamp::try_from(now).ok()?;
    let wait = date.duration_since(now);
    Some(Duration::try_from(wait).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    fn headers(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(value))])
    }

    #[test]
    fn retry_after_is_parsed_from_seconds_and_dates() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777 - 90);
        let seconds = headers("2");
        assert_eq!(retry_after(&seconds, now), Some(Duration::from_secs(2)));
        let date = headers("Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(retry_after(&date, now), Some(Duration::from_secs(90)));
        let later = now + Duration::from_secs(1000);
        assert_eq!(retry_after(&date, later), Some(Duration::ZERO));
        assert_eq!(retry_after(&headers("soon"), now), None);
    }
}
