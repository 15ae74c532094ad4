//! The words of a fetch that ends before it has what it was asked for.

use std::time::Duration;

use super::http::Answer;
use super::{DRY_REQUESTS, retry};
use crate::fault::{Fault, Kind};
use crate::token::Page;

pub(super) fn failed(fault: Fault) -> Answer {
    Answer {
        page: Page::from_texts([]),
        surplus: 0,
        fault: Some(fault),
    }
}

pub(super) fn short_supply(requested: u64, received: u64) -> Fault {
    Fault::new(
        Kind::ShortSupply {
            requested,
            received,
        },
        format!("the token source ran dry: {received} of {requested} tokens came"),
    )
    .cause(format!("{DRY_REQUESTS} requests in a row brought nothing"))
    .hint("ask for fewer, or try again when the source has more")
}

/// A short supply with the numbers of the whole fetch.
pub(super) fn within(mut fault: Fault, requested: u64, received: u64) -> Fault {
    if matches!(fault.kind, Kind::ShortSupply { .. }) {
        fault.kind = Kind::ShortSupply {
            requested,
            received,
        };
    }
    fault
}

pub(super) fn out_of_requests(most: u64, requested: u64) -> Fault {
    Fault::new(
        Kind::ShortSupply {
            requested,
            received: 0,
        },
        format!("the run may send no more than {most} requests to the token source"),
    )
    .hint("`--max-requests` sets the limit; `--page-size` asks for more at a time")
}

pub(super) fn out_of_retries(mut answer: Answer, retries: u32) -> Answer {
    answer.fault = answer.fault.map(|fault| {
        let budget = retry::budget(retries);
        fault.cause(format!(
            "the run has repeated {budget} requests, as many as it may"
        ))
    });
    answer
}

pub(super) fn told_to_wait(mut answer: Answer, wait: Duration) -> Answer {
    answer.fault = answer.fault.map(|fault| {
        let wait = humantime::format_duration(wait);
        fault.cause(format!(
            "it asks to come back after {wait}, longer than this run may take"
        ))
    });
    answer
}
