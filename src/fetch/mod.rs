//! Fetching: pages of tokens from the source until as many are there as were asked for.

use std::time::Duration;

use secrecy::SecretString;
use url::Url;

/// Where the tokens come from and within which limits; validated.
#[derive(Clone, Debug)]
pub struct Options {
    /// The source's address, `http` or `https`; its query is kept and `size=N` added to it.
    pub url: Url,
    /// Headers of each request, names in lower case; values may be secret.
    pub headers: Vec<(String, SecretString)>,
    /// The longest that one request may take, its body included.
    pub timeout: Duration,
    /// The longest that connecting may take, TLS included.
    pub connect_timeout: Duration,
    /// The most tokens to ask for in one request, at least 1.
    pub page_size: u64,
    /// How often a request that was certainly not served is sent again.
    pub retries: u32,
    /// The largest answer that is read, in bytes.
    pub max_body: u64,
    /// The longest token that is taken, in bytes.
    pub max_token: usize,
    /// The most requests of a run.
    pub max_requests: Option<u64>,
    /// True to ask again for what a short delivery left out.
    pub top_up: bool,
    /// True to honour `HTTP_PROXY` and its kin, as curl does.
    pub proxy: bool,
}
