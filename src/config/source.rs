//! Resolves the settings of the token source: URL, headers, and limits of its requests.

use std::sync::Arc;

use rustls::crypto::ring;
use secrecy::ExposeSecret as _;
use url::Url;

use crate::cli::env::Env;
use crate::cli::options::{
    FETCH_CONCURRENCY, MAX_REQUESTS, NO_TOP_UP, PAGE_SIZE, PATIENCE, RATE, REPEAT_REQUESTS, RETRIES,
};
use crate::cli::table::Row;
use crate::cli::value;
use crate::config::AUTHORIZATION;
use crate::config::keys::{
    IDEMPOTENCY_HEADER, KEEP_ALIVE, MAX_BODY, MAX_TOKEN, SOURCE_CONNECT_TIMEOUT, SOURCE_URL,
    TIMEOUT, TLS_CA, TLS_CERT, TLS_KEY,
};
use crate::config::layers::Layers;
use crate::config::suggestions::hint_of_missing;
use crate::error::{Error, usage};
use crate::fetch::http::{HttpEndpoint, SourceTls};
use crate::fetch::{FetchLimits, RequestSettings};
use crate::runtime::secret::Secret;
use crate::runtime::tls::{Authorities, IdentityError, read_certificates, read_identity};

impl Layers<'_> {
    pub(super) fn limits(&self) -> FetchLimits {
        FetchLimits {
            timeout: self.value(&TIMEOUT),
            connect_timeout: self.value(&SOURCE_CONNECT_TIMEOUT),
            page_size: self.value(&PAGE_SIZE),
            retries: self.get(&RETRIES),
            patience: self.value(&PATIENCE),
            max_body: self.value(&MAX_BODY),
            max_token: usize::try_from(self.value(&MAX_TOKEN)).unwrap_or(usize::MAX),
            max_requests: self.get(&MAX_REQUESTS),
            top_up: !self.value(&NO_TOP_UP),
            repeat_served: self.value(&REPEAT_REQUESTS),
        }
    }

    /// Returns how the requests of a run are sent.
    pub(super) fn requests(&self) -> RequestSettings {
        RequestSettings {
            concurrency: self.value(&FETCH_CONCURRENCY),
            interval: self.get(&RATE).unwrap_or_default(),
            idempotency_header: self.idempotency_header(),
        }
    }

    fn idempotency_header(&self) -> Option<String> {
        let header = self.get(&IDEMPOTENCY_HEADER)?;
        if self.file.headers.iter().any(|(name, _)| *name == header) {
            let error = usage(format!("`source.headers` sets the header `{header}` too"));
            let error = error.hint("each request has a key of its own: remove it from the headers");
            self.fail(self.file.at_key(error, &IDEMPOTENCY_HEADER.row));
        }
        Some(header)
    }

    /// Returns the endpoint of the source, if one is configured.
    pub(super) fn endpoint(&self) -> Option<HttpEndpoint> {
        let headers = self.collect(self.headers());
        let url = self.get(&SOURCE_URL)?;
        let proxies = self.env.proxies();
        if let Err(rule) = proxies.proxy_of(&url) {
            let hint =
                "such as http://proxy.internal:3128; NO_PROXY lists hosts that need no proxy";
            self.fail(usage(rule).hint(hint));
        }
        Some(HttpEndpoint {
            tls: self.source_tls(&url),
            url,
            headers,
            proxies,
            keep_alive: self.value(&KEEP_ALIVE),
        })
    }

    /// Reads the files of `source.tls`; reports those that cannot be used.
    fn source_tls(&self, url: &Url) -> SourceTls {
        let fail = |row: &Row, what: String, why: Option<String>| {
            let error = why.into_iter().fold(usage(what), Error::cause);
            self.fail(self.file.at_key(error, row));
        };
        let unusable = |row: &Row, why: String| {
            let what = format!("the file of `{}` cannot be used", row.key);
            fail(row, what, Some(why));
        };
        let (cert, key, ca) = (self.get(&TLS_CERT), self.get(&TLS_KEY), self.get(&TLS_CA));
        let given = [
            (&cert, &TLS_CERT.row),
            (&key, &TLS_KEY.row),
            (&ca, &TLS_CA.row),
        ];
        if url.scheme() != "https"
            && let Some((_, row)) = given.iter().find(|(path, _)| path.is_some())
        {
            fail(
                row,
                format!(
                    "`{}` needs a source whose URL begins with https://",
                    row.key
                ),
                None,
            );
            return SourceTls::default();
        }
        let identity = match (&cert, &key) {
            (None, None) => None,
            (Some(cert), Some(key)) => {
                let read = read_identity(cert, key, &ring::default_provider());
                let read = read.map_err(|error| match error {
                    IdentityError::Certificate(why) => unusable(&TLS_CERT.row, why),
                    IdentityError::Key(why) => unusable(&TLS_KEY.row, why),
                });
                read.ok().map(Arc::new)
            }
            (Some(_), None) => {
                let what = "`source.tls.cert` is set without `source.tls.key`";
                fail(&TLS_CERT.row, what.to_owned(), None);
                None
            }
            (None, Some(_)) => {
                let what = "`source.tls.key` is set without `source.tls.cert`";
                fail(&TLS_KEY.row, what.to_owned(), None);
                None
            }
        };
        let authorities = ca.and_then(|ca| {
            let provider = Arc::new(ring::default_provider());
            let read = read_certificates(&ca).and_then(|certificates| {
                Authorities::of(certificates.clone(), &provider)?;
                Ok(certificates)
            });
            read.map_err(|why| unusable(&TLS_CA.row, why)).ok()
        });
        SourceTls {
            identity,
            authorities,
        }
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

pub(super) fn no_source(env: &Env) -> Error {
    usage("no token source is configured").hint(hint_of_missing(
        env,
        "TOKEN_HOST",
        "set TOKEN_HOST to its URL, or `source.url` in the --config file; `token_service demo` needs no source",
    ))
}
