//! What flows between the stages: tokens, pages, outcomes, and the channels that carry them.

pub mod backoff;
pub mod channel;
pub mod latency;
pub mod token;
