//! What the program's HTTP clients have in common: proxies, no redirects, and the wait that a server
//! asks for.

use std::time::{Duration, SystemTime};

use reqwest::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};
use reqwest::{Client, ClientBuilder, Url, redirect};

use crate::runtime::proxy::ProxyVariables;

/// Configures a client for `url`, with the proxies that `proxies` name.
pub(crate) fn builder(url: &Url, proxies: &ProxyVariables) -> ClientBuilder {
    // reqwest uses the process-wide crypto provider; for a second client it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder()
        .user_agent(concat!("token_service/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .no_proxy();
    let proxy = proxies.proxy_of(url).ok().flatten();
    let mut schemes = proxy.iter().map(|proxy| proxy.url.scheme());
    let builder = if url.scheme() == "https" || schemes.any(|scheme| scheme == "https") {
        builder
    } else {
        // Loading the system's certificates dominates startup time, and plain HTTP needs none.
        builder.tls_certs_only([])
    };
    let proxies = proxies.clone();
    builder.proxy(reqwest::Proxy::custom(move |url| {
        let proxy = proxies.proxy_of(url).ok().flatten();
        proxy.map(|proxy| proxy.url)
    }))
}

/// Parses `Retry-After`: seconds, or a date in one of the three forms of RFC 9110, section 5.6.7.
///
/// A date is relative to the answer's `Date`, since the clocks may differ, and else to `now`.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    /// Longer durations are mistakes, and the longest ones overflow.
    const MAX: Duration = Duration::from_hours(100 * 366 * 24);
    let text = |name: HeaderName| headers.get(name)?.to_str().ok().map(str::trim);
    let value = text(RETRY_AFTER)?;
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        let seconds = value.parse().map(Duration::from_secs);
        return Some(seconds.unwrap_or(MAX).min(MAX));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    let sent = text(DATE).and_then(|date| httpdate::parse_http_date(date).ok());
    let wait = date.duration_since(sent.unwrap_or(now));
    Some(wait.unwrap_or(Duration::ZERO).min(MAX))
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    fn headers(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(value))])
    }

    #[test]
    fn retry_after_is_parsed_from_seconds_and_the_three_forms_of_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777 - 90);
        let of = |value| retry_after(&headers(value), now);
        assert_eq!(of("2"), Some(Duration::from_secs(2)));
        for date in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(of(date), Some(Duration::from_secs(90)), "{date}");
            let later = now + Duration::from_secs(1000);
            assert_eq!(retry_after(&headers(date), later), Some(Duration::ZERO));
        }
        for invalid in ["soon", "", "-1", "1.5", "+3", "1e3"] {
            assert_eq!(of(invalid), None, "{invalid}");
        }
    }

    #[test]
    fn retry_after_is_bounded_when_it_exceeds_every_number() {
        let now = SystemTime::UNIX_EPOCH;
        let of = |value| retry_after(&headers(value), now).unwrap();
        let century = Duration::from_hours(100 * 366 * 24);
        assert_eq!(of("18446744073709551615"), century);
        assert_eq!(of("99999999999999999999999"), century);
        assert_eq!(of("Fri, 31 Dec 9999 23:59:59 GMT"), century);
    }

    #[test]
    fn retry_after_is_relative_to_the_date_of_the_answer() {
        let mut headers = headers("Sun, 06 Nov 1994 08:49:37 GMT");
        let date = HeaderValue::from_static("Sun, 06 Nov 1994 08:49:30 GMT");
        headers.insert(DATE, date);
        let now = SystemTime::UNIX_EPOCH + Duration::from_hours(250_000);
        assert_eq!(retry_after(&headers, now), Some(Duration::from_secs(7)));
    }
}
