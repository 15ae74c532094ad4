//! The words of a request that fails, and of a fetch that ends before it has what it was asked for.

use std::time::Duration;

use hyper::StatusCode;

use crate::error::{ErrorKind, Fault};
use crate::fetch::{DRY_REQUESTS, SourceAnswer, retry};

/// It answered a status that is not 200.
pub fn status(address: &str, status: StatusCode, retry_after: Option<Duration>) -> Fault {
    let fault = Fault::new(
        ErrorKind::HttpStatus {
            status: status.as_u16(),
            retry_after,
        },
        format!("the token source answered {status}"),
    )
    .cause(format!("POST {address}"));
    match status.as_u16() {
        429 | 503 => fault.retryable().hint(
            "it asks for patience: try later, or let the script `retry(5, || fetch_once(SIZE))`",
        ),
        300..=399 => fault.hint(
            "redirects are not followed, for a token must not come from elsewhere: set the final address",
        ),
        401 | 403 => fault.hint(
            "set TOKEN_SERVICE_SOURCE_AUTHORIZATION (or its _FILE form) to what the source accepts",
        ),
        404 | 405 => fault.hint("check the path in TOKEN_HOST or source.url"),
        500..=599 => fault.hint(
            "the request may have been served half-way, so `fetch` does not repeat it without \
             --dangerously-repeat-requests; ask the source's operator",
        ),
        _ => fault,
    }
}

/// It could not be connected to.
pub fn unreachable(address: &str) -> Fault {
    Fault::new(ErrorKind::HttpConnect, "the token source cannot be reached")
        .retryable()
        .hint("check TOKEN_HOST or source.url, and that the source is up")
        .cause(format!("POST {address}"))
}

/// It answers, but not in TLS: asking again would not change that.
pub fn no_tls(address: &str) -> Fault {
    Fault::new(ErrorKind::HttpConnect, "the token source speaks no TLS")
        .hint(
            "write http:// in TOKEN_HOST or source.url if that is meant; an address without a scheme is https",
        )
        .cause(format!("POST {address}"))
}

/// Its answer was not whole after `limit`.
pub fn timed_out(address: &str, limit: Duration) -> Fault {
    let limit = humantime::format_duration(limit);
    Fault::new(
        ErrorKind::HttpTimeout,
        format!("the token source did not answer within {limit}"),
    )
    .cause(format!("POST {address}"))
    .hint(
        "`source.timeout` sets the limit; the request may have been served, so `fetch` does not \
         repeat it without --dangerously-repeat-requests",
    )
}

/// Its answer ended before it was whole.
pub fn broke_off(address: &str) -> Fault {
    Fault::new(ErrorKind::HttpProtocol, "the token source's answer broke off")
        .hint("whole lines that came were kept; `fetch` does not repeat the request without --dangerously-repeat-requests")
        .cause(format!("POST {address}"))
}

pub(super) fn short_supply(requested: u64, received: u64) -> Fault {
    Fault::new(
        ErrorKind::ShortSupply {
            requested,
            received,
        },
        format!("the token source ran dry: {received} of {requested} tokens came"),
    )
    .cause(format!("{DRY_REQUESTS} requests in a row brought nothing"))
    .hint("ask for fewer, or try again when the source has more")
}

/// A short supply with the numbers of the whole fetch; one of an input, which knows only what it was
/// asked for last, says them too.
pub(super) fn within(mut fault: Fault, requested: u64, received: u64, is_issuer: bool) -> Fault {
    if matches!(fault.kind, ErrorKind::ShortSupply { .. }) {
        fault.kind = ErrorKind::ShortSupply {
            requested,
            received,
        };
        if !is_issuer {
            return fault.cause(format!("{received} of {requested} tokens came"));
        }
    }
    fault
}

pub(super) fn out_of_requests(most: u64, requested: u64) -> Fault {
    Fault::new(
        ErrorKind::ShortSupply {
            requested,
            received: 0,
        },
        format!("the run may send no more than {most} requests to the token source"),
    )
    .hint("`--max-requests` sets the limit; `--page-size` asks for more at a time")
}

pub(super) fn out_of_retries(mut answer: SourceAnswer, retries: u32) -> SourceAnswer {
    answer.fault = answer.fault.map(|fault| {
        let budget = retry::budget(retries);
        fault.cause(format!(
            "the run has repeated {budget} requests, as many as it may"
        ))
    });
    answer
}

pub(super) fn told_to_wait(mut answer: SourceAnswer, wait: Duration) -> SourceAnswer {
    answer.fault = answer.fault.map(|fault| {
        let wait = humantime::format_duration(wait);
        fault.cause(format!(
            "it asks to come back after {wait}, longer than this run may take"
        ))
    });
    answer
}
