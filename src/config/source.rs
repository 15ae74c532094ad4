//! Resolves the settings of the token source: URL, headers, and limits of its requests.

use std::time::Duration;

use secrecy::ExposeSecret as _;
use url::Url;

use crate::cli::{RunArgs, value};
use crate::config::{AUTHORIZATION, Layers};
use crate::error::{Error, usage};
use crate::fetch::FetchLimits;
use crate::fetch::http::HttpEndpoint;
use crate::runtime::secret::Secret;

impl Layers<'_> {
    pub(super) fn limits(&self, args: &RunArgs) -> Result<FetchLimits, Error> {
        let keys = &self.file.source;
        let max_token = keys.max_token.unwrap_or(1 << 10);
        let no_top_up = self.switch(args.no_top_up, "no-top-up", None)?;
        let repeat_served = args.dangerously_repeat_requests;
        Ok(FetchLimits {
            timeout: keys.timeout.unwrap_or(Duration::from_secs(10)),
            connect_timeout: keys.connect_timeout.unwrap_or(Duration::from_secs(5)),
            page_size: self
                .pick(args.page_size, "page-size", value::positive, keys.page_size)?
                .unwrap_or(10_000),
            retries: keys.retries.unwrap_or(3),
            max_body: keys.max_body.unwrap_or(32 << 20),
            max_token: usize::try_from(max_token).unwrap_or(usize::MAX),
            max_requests: self.pick(args.max_requests, "max-requests", value::positive, None)?,
            top_up: !no_top_up,
            repeat_served: self.switch(repeat_served, "dangerously-repeat-requests", None)?,
        })
    }

    /// Returns the endpoint of the source.
    pub(super) fn endpoint(&self) -> Result<HttpEndpoint, Error> {
        Ok(HttpEndpoint {
            url: self.source_url()?.ok_or_else(no_source)?,
            headers: self.headers()?,
            proxy: self.env.has_proxy(),
        })
    }

    pub(super) fn source_url(&self) -> Result<Option<Url>, Error> {
        // The message leaves out the URL, which may have a key in its query.
        let given = self.env.get("TOKEN_HOST")?.map(value::source_url);
        let given = given
            .transpose()
            .map_err(|rule| usage(format!("TOKEN_HOST {rule}")))?;
        Ok(given.or_else(|| self.file.source.url.clone()))
    }

    pub(super) fn headers(&self) -> Result<Vec<(String, Secret)>, Error> {
        let in_file = self.file.source.headers.iter().flatten();
        let mut headers: Vec<(String, Secret)> = in_file
            .map(|(name, value)| (name.0.clone(), Secret::fixed(value.0.as_str())))
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
