//! The data that flows between the stages: tokens, pages, outcomes, and their channels.

pub mod backoff;
pub mod channel;
pub mod concurrency;
pub mod identifier;
pub mod latency;
pub mod numbers;
pub mod positions;
pub mod receipts;
pub mod token;
