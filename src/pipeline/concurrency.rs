//! How many requests to the source may be under way at a time, as the options say it.

/// The most requests that may be under way at a time.
pub const MAX_CONCURRENCY: usize = 8;

/// How many requests may be under way at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Concurrency {
    /// From one up to [`MAX_CONCURRENCY`], as many as the source answers without slowing down.
    #[default]
    Auto,
    /// At most this many, from 1 to [`MAX_CONCURRENCY`].
    Fixed(usize),
}
