//! Faults of a failed request, and of a fetch that ends before it has all requested tokens.

use std::path::Path;
use std::time::Duration;

use hyper::StatusCode;

use crate::error::{Error, ErrorKind};
use crate::fetch::{MAX_EMPTY_REQUESTS, SourceAnswer, SourceKind, retry};

/// Returns the error of an answer whose status is not 200.
pub fn status(address: &str, status: StatusCode, retry_after: Option<Duration>) -> Error {
    let error = Error::of(
        ErrorKind::HttpStatus {
            status: status.as_u16(),
            retry_after,
        },
        format!("the token source answered {status}"),
    )
    .cause(format!("POST {address}"));
    match status.as_u16() {
        429 | 503 => error.retryable().hint(
            "it limits its requests or is overloaded: raise `--patience`, which sets how long such answers \
             are waited out, or try later",
        ),
        300..=399 => error
            .hint("redirects are not followed: set the final address in TOKEN_HOST or source.url"),
        401 | 403 => error.hint(
            "set TOKEN_SERVICE_SOURCE_AUTHORIZATION (or its _FILE form) to what the source accepts",
        ),
        404 | 405 => error.hint("check the path in TOKEN_HOST or source.url"),
        500..=599 => error.hint(
            "the request may have been served in part, so `fetch` does not repeat it without \
             --dangerously-repeat-requests; ask the source's operator",
        ),
        _ => error,
    }
}

/// Returns the error of a source that cannot be connected to.
pub fn unreachable(address: &str) -> Error {
    Error::of(ErrorKind::HttpConnect, "the token source cannot be reached")
        .retryable()
        .hint("check TOKEN_HOST or source.url, and that the source is up")
        .cause(format!("POST {address}"))
}

/// Returns the error of a proxy that cannot be connected to.
pub fn unreachable_proxy(address: &str, proxy: &str) -> Error {
    Error::of(
        ErrorKind::HttpConnect,
        format!("the proxy {proxy} cannot be reached"),
    )
    .retryable()
    .hint(
        "check the variable, or add the token source's host to NO_PROXY to connect without a proxy",
    )
    .cause(format!("POST {address}"))
}

/// Returns the error of a proxy that did not connect to the source.
pub fn no_tunnel(address: &str, proxy: &str) -> Error {
    Error::of(
        ErrorKind::HttpConnect,
        format!("the proxy {proxy} did not connect to the token source"),
    )
    .retryable()
    .hint("check that the proxy permits this host and port, and that the source is up")
    .cause(format!("POST {address}"))
}

/// Returns the error of a proxy that requires a login.
pub fn proxy_login(address: &str, proxy: &str) -> Error {
    let status = StatusCode::PROXY_AUTHENTICATION_REQUIRED;
    Error::of(
        ErrorKind::HttpStatus {
            status: status.as_u16(),
            retry_after: None,
        },
        format!("the proxy {proxy} answered {status}"),
    )
    .hint("write the user and password into the variable: http://user:password@host:port")
    .cause(format!("POST {address}"))
}

/// Returns the error of a source that answers without TLS; a retry would not help.
pub fn no_tls(address: &str) -> Error {
    Error::of(ErrorKind::HttpConnect, "the token source does not use TLS")
        .hint(
            "to connect without TLS, write http:// in TOKEN_HOST or source.url; the default scheme is https",
        )
        .cause(format!("POST {address}"))
}

/// Returns the error of a server that answers in another protocol; it cannot have served the request.
pub fn no_http(address: &str) -> Error {
    Error::of(ErrorKind::HttpConnect, "the token source does not speak HTTP")
        .hint(
            "check host, port and scheme in TOKEN_HOST or source.url; a server that expects TLS needs https://",
        )
        .cause(format!("POST {address}"))
}

/// Returns the error of a certificate that `is_unusable`, such as "has expired".
pub fn certificate(address: &str, is_unusable: &str) -> Error {
    let hint = match is_unusable {
        "is for another host name" => {
            "write the certificate's host name in TOKEN_HOST or source.url"
        }
        "is self-signed and not trusted" => {
            "set `source.tls.ca` or SSL_CERT_FILE to this certificate"
        }
        "is not trusted" => {
            "set `source.tls.ca` or SSL_CERT_FILE to the certificate of its authority"
        }
        _ => "the source needs another certificate; check also the clock of this machine",
    };
    Error::of(
        ErrorKind::HttpConnect,
        format!("the token source's certificate {is_unusable}"),
    )
    .hint(hint)
    .cause(format!("POST {address}"))
}

/// Returns the error of a source that ended the TLS handshake; `what` says how.
pub fn refused_handshake(address: &str, what: &str) -> Error {
    Error::of(ErrorKind::HttpConnect, format!("the token source {what}"))
        .hint("`source.tls.cert` and `source.tls.key` name a client certificate and its key")
        .cause(format!("POST {address}"))
}

/// Returns the error of a source that closed a new connection before the request was sent.
pub fn unsent(address: &str) -> Error {
    Error::of(
        ErrorKind::HttpConnect,
        "the token source closed the connection before the request was sent",
    )
    .retryable()
    .hint("check that the source is up, and what it requires of its clients")
    .cause(format!("POST {address}"))
}

/// Returns the error of a source that closed the connection without an answer.
pub fn unanswered(address: &str) -> Error {
    Error::of(
        ErrorKind::HttpProtocol,
        "the token source closed the connection without an answer",
    )
    .hint(
        "the request may have been served, so `fetch` does not repeat it without \
         --dangerously-repeat-requests",
    )
    .cause(format!("POST {address}"))
}

/// Returns the error of an answer that was not complete after `limit`.
pub fn timed_out(address: &str, limit: Duration) -> Error {
    let limit = humantime::format_duration(limit);
    Error::of(
        ErrorKind::HttpTimeout,
        format!("the token source did not answer within {limit}"),
    )
    .cause(format!("POST {address}"))
    .hint(
        "`source.timeout` sets the limit; the request may have been served, so `fetch` does not \
         repeat it without --dangerously-repeat-requests",
    )
}

/// Returns the error of an answer that ended before it was complete.
pub fn truncated(address: &str) -> Error {
    Error::of(
        ErrorKind::HttpProtocol,
        "the token source's answer ended early",
    )
    .hint(
        "complete lines were kept; `fetch` does not repeat the request without \
             --dangerously-repeat-requests",
    )
    .cause(format!("POST {address}"))
}

pub(super) fn short_supply(requested: u64, received: u64) -> Error {
    Error::of(
        ErrorKind::ShortSupply {
            requested,
            received,
        },
        format!("the token source has no more tokens: received {received} of {requested}"),
    )
    .cause(format!(
        "{MAX_EMPTY_REQUESTS} requests in a row returned no tokens"
    ))
    .hint("request fewer tokens, or try again when the source has more")
}

/// Sets the numbers of the whole fetch in a short supply; an input knows only its last request.
pub(super) fn with_totals(
    mut error: Error,
    requested: u64,
    received: u64,
    kind: SourceKind,
) -> Error {
    if matches!(error.kind, Some(ErrorKind::ShortSupply { .. })) {
        error.kind = Some(ErrorKind::ShortSupply {
            requested,
            received,
        });
        if kind == (SourceKind::Local { open_ended: false }) {
            return error.cause(format!("received {received} of {requested} tokens"));
        }
    }
    error
}

pub(super) fn out_of_requests(most: u64, requested: u64) -> Error {
    Error::of(
        ErrorKind::ShortSupply {
            requested,
            received: 0,
        },
        format!("the run may send at most {most} requests to the token source"),
    )
    .hint("`--max-requests` sets the limit; with a larger `--page-size` fewer requests are needed")
}

pub(super) fn out_of_retries(mut answer: SourceAnswer, retries: Option<u32>) -> SourceAnswer {
    answer.error = answer.error.map(|error| {
        let budget = retry::budget(retries.unwrap_or(retry::RETRIES));
        error.cause(format!(
            "the run has used its retry budget of {budget} requests"
        ))
    });
    answer
}

/// Explains that configured `retries` end the wait for a source that limits its requests.
pub(super) fn out_of_patience(mut answer: SourceAnswer, retries: Option<u32>) -> SourceAnswer {
    if let Some(error) = &mut answer.error
        && retries.is_some()
        && retry::is_overload(error)
    {
        error.hint = Some(
            "`retries` limits the repetitions; if it is not set, such answers are waited out for `--patience`"
                .to_owned(),
        );
    }
    answer
}

/// Says how a request with an idempotency key can still be repeated, in place of a hint that it is not.
pub(super) fn hint_at_replay(error: &mut Error, journal: Option<&Path>) {
    let start = match error.kind {
        Some(ErrorKind::HttpTimeout) => "`source.timeout` sets the limit; the",
        Some(ErrorKind::HttpProtocol) => "complete lines were kept; the",
        _ => "the",
    };
    let next = match journal {
        Some(path) => format!("`token_service replay {}` repeats it", path.display()),
        None => String::from("with `--journal FILE` a replay can repeat it"),
    };
    error.hint = Some(format!(
        "{start} request may have been served: {next} with the same idempotency key"
    ));
}

pub(super) fn wait_too_long(mut answer: SourceAnswer, wait: Duration) -> SourceAnswer {
    answer.error = answer.error.map(|error| {
        let wait = humantime::format_duration(wait);
        error.cause(format!(
            "the next request is due in {wait}, longer than the run may wait"
        ))
    });
    answer
}
