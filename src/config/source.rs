//! Resolves the settings of the token source: URL, headers, and limits of its requests.

use secrecy::ExposeSecret as _;

use crate::cli::options::{MAX_REQUESTS, NO_TOP_UP, PAGE_SIZE, REPEAT_REQUESTS};
use crate::cli::value;
use crate::config::AUTHORIZATION;
use crate::config::keys::{
    MAX_BODY, MAX_TOKEN, RETRIES, SOURCE_CONNECT_TIMEOUT, SOURCE_URL, TIMEOUT,
};
use crate::config::layers::Layers;
use crate::error::{Error, usage};
use crate::fetch::FetchLimits;
use crate::fetch::http::HttpEndpoint;
use crate::runtime::secret::Secret;

impl Layers<'_> {
    pub(super) fn limits(&self) -> FetchLimits {
        FetchLimits {
            timeout: self.value(&TIMEOUT),
            connect_timeout: self.value(&SOURCE_CONNECT_TIMEOUT),
            page_size: self.value(&PAGE_SIZE),
            retries: self.value(&RETRIES),
            max_body: self.value(&MAX_BODY),
            max_token: usize::try_from(self.value(&MAX_TOKEN)).unwrap_or(usize::MAX),
            max_requests: self.get(&MAX_REQUESTS),
            top_up: !self.value(&NO_TOP_UP),
            repeat_served: self.value(&REPEAT_REQUESTS),
        }
    }

    /// Returns the endpoint of the source, if one is configured.
    pub(super) fn endpoint(&self) -> Option<HttpEndpoint> {
        let headers = self.collect(self.headers());
        Some(HttpEndpoint {
            url: self.get(&SOURCE_URL)?,
            headers,
            proxy: self.env.has_proxy(),
        })
    }

    fn headers(&self) -> Result<Vec<(String, Secret)>, Error> {
        let in_file = self.file.headers.iter();
        let mut headers: Vec<(String, Secret)> = in_file
            .map(|(name, value)| (name.clone(), Secret::fixed(value.as_str())))
            .collect();
        if let Some(value) = self.env.secret(AUTHORIZATION)? {
            if !value::is_header_value(value.initial().expose_secret()) {
                let name = self.env.secret_name(AUTHORIZATION).unwrap_or_default();
                return Err(
                    usage(format!("{name} must not contain control characters")).hint(
                        "it is the value of the Authorization header, one line such as `Bearer …`",
                    ),
                );
            }
            headers.retain(|(name, _)| name != "authorization");
            headers.push((String::from("authorization"), value));
        }
        Ok(headers)
    }
}

pub(super) fn no_source() -> Error {
    usage("no token source is configured").hint(
        "set TOKEN_HOST to its URL, or `source.url` in the --config file; `token_service demo` needs no source",
    )
}
