//! Sends one request to the token source, `POST url?size=N`, and reads its answer in chunks up to a
//! limit. The only module of `fetch` that uses reqwest.

mod content;
mod failure;
pub mod probe;
mod tls;

use std::fmt;
use std::time::{Duration, SystemTime};

use opentelemetry::KeyValue;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, ClientBuilder, Response, StatusCode, Url};
use secrecy::ExposeSecret;
use tokio::sync::Mutex;

use crate::error::escape::replace_secret;
use crate::error::{Error, ErrorKind, chain};
use crate::fetch::http::content::{charset, content_encoding, is_latin_1, unexpected_content_type};
use crate::fetch::http::failure::Progress;
use crate::fetch::http::tls::ClientIdentity;
pub use crate::fetch::http::tls::SourceTls;
use crate::fetch::lines::LineParser;
use crate::fetch::source::not_a_token_list;
use crate::fetch::{AnswerFuture, FetchLimits, SourceAnswer, SourceRequest, TokenSource, error};
use crate::observe::otel::Tracer;
use crate::runtime::http_client::{self, retry_after};
use crate::runtime::proxy::{Proxy, ProxyVariables};
use crate::runtime::secret::{Secret, SecretFileError};
use crate::runtime::url::display_url;

/// A body with more bytes is read by one request at a time.
const LARGE_BODY: u64 = 2 << 20;

/// The address of an HTTP source and the headers of its requests; validated.
#[derive(Clone)]
pub struct HttpEndpoint {
    /// Its URL, `http` or `https`; `size=N` is added to its query.
    pub url: Url,
    /// Headers of each request, names in lower case. Values in files are read for each request.
    pub headers: Vec<(String, Secret)>,
    /// The variables that may name a proxy.
    pub proxies: ProxyVariables,
    /// Trusted authorities and client certificate.
    pub tls: SourceTls,
    /// How long an idle connection is used again; with zero each request has one of its own.
    pub keep_alive: Duration,
}

impl HttpEndpoint {
    /// Creates an endpoint without headers, proxy or client certificate.
    pub fn new(url: Url) -> Self {
        Self {
            url,
            headers: Vec::new(),
            proxies: ProxyVariables::default(),
            tls: SourceTls::default(),
            keep_alive: Duration::ZERO,
        }
    }

    /// Returns the proxy of its requests.
    fn proxy(&self) -> Option<Proxy> {
        // The configuration reports an invalid value.
        self.proxies.proxy_of(&self.url).ok().flatten()
    }
}

impl fmt::Debug for HttpEndpoint {
    /// Omits the query of the URL, which may contain a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("url", &display_url(&self.url))
            .field("headers", &self.headers)
            .field("proxies", &self.proxies)
            .field("tls", &self.tls)
            .field("keep_alive", &self.keep_alive)
            .finish()
    }
}

/// A client of an HTTP token source.
pub struct HttpSource {
    client: Client,
    url: Url,
    timeout: Duration,
    max_body: u64,
    max_token: usize,
    /// The headers whose values are read from a file for each request.
    file_headers: Vec<(String, Secret)>,
    /// The `Authorization` header, to remove from messages.
    authorization: Option<Secret>,
    proxy: Option<Proxy>,
    identity: ClientIdentity,
    tracer: Tracer,
    /// The header of a request's idempotency key.
    idempotency_header: Option<HeaderName>,
    /// Held by the request that reads a large body, so that memory holds one.
    large_body: Mutex<()>,
}

impl HttpSource {
    /// Creates a client for the source, without connecting.
    pub fn new(endpoint: &HttpEndpoint, limits: &FetchLimits) -> Result<Self, Error> {
        Self::with_layer(endpoint, limits, |builder| builder)
    }

    /// Like [`Self::new`], with changes to the client.
    fn with_layer(
        endpoint: &HttpEndpoint,
        limits: &FetchLimits,
        change: impl FnOnce(ClientBuilder) -> ClientBuilder,
    ) -> Result<Self, Error> {
        let identity = ClientIdentity::of(&endpoint.tls);
        let builder = change(builder(endpoint, limits, &identity)?);
        let client = builder.build().map_err(|error| {
            chain(&error).into_iter().fold(
                Error::of(ErrorKind::HttpConnect, "cannot create the HTTP client"),
                Error::cause,
            )
        })?;
        Ok(Self {
            client,
            url: endpoint.url.clone(),
            timeout: limits.timeout,
            max_body: limits.max_body,
            max_token: limits.max_token,
            file_headers: headers_in_files(&endpoint.headers).cloned().collect(),
            authorization: authorization(&endpoint.headers).cloned(),
            proxy: endpoint.proxy(),
            identity,
            tracer: Tracer::default(),
            idempotency_header: None,
            large_body: Mutex::default(),
        })
    }

    /// Returns the source of a run, which shares the connections of this one. Each request gets a span of
    /// `tracer`, whose context is sent to the source.
    #[must_use]
    pub fn for_run(&self, tracer: Tracer) -> Self {
        Self {
            client: self.client.clone(),
            url: self.url.clone(),
            timeout: self.timeout,
            max_body: self.max_body,
            max_token: self.max_token,
            file_headers: self.file_headers.clone(),
            authorization: self.authorization.clone(),
            proxy: self.proxy.clone(),
            identity: self.identity.clone(),
            tracer,
            idempotency_header: self.idempotency_header.clone(),
            large_body: Mutex::default(),
        }
    }

    /// Sends the idempotency key of each request in the header `name`.
    pub fn set_idempotency_header(&mut self, name: &str) -> Result<(), Error> {
        self.idempotency_header = Some(header(name, "")?.0);
        Ok(())
    }

    /// Returns the source's address without query and credentials.
    pub fn address(&self) -> String {
        display_url(&self.url)
    }

    async fn post(&self, request: SourceRequest<'_>) -> SourceAnswer {
        let SourceRequest { count, key } = request;
        let file_headers = match self.read_file_headers() {
            Ok(headers) => headers,
            Err(failure) => return SourceAnswer::failed(failure),
        };
        let mut span = self
            .tracer
            .client_span("POST", || self.span_attributes(count));
        let request = self.client.post(self.url_with_size(count)).body("{}");
        let mut request = request.headers(file_headers.clone());
        if let (Some(name), Some(key)) = (&self.idempotency_header, key) {
            request = request.header(name, key);
        }
        let _under_way = self.identity.begin();
        for (name, value) in span.headers() {
            request = request.header(name, value);
        }
        let mut answer = match request.send().await {
            Ok(response) => {
                span.set(
                    "http.response.status_code",
                    i64::from(response.status().as_u16()),
                );
                match response.status() {
                    StatusCode::OK => self.read(response, count).await,
                    _ => SourceAnswer::failed(self.status_error(&response, &file_headers)),
                }
            }
            Err(error) => {
                SourceAnswer::failed(self.transport_error(error, Progress::Sent)).incomplete()
            }
        };
        answer.error = answer.error.map(|error| self.redact(error));
        let received = i64::try_from(answer.page.len()).unwrap_or(i64::MAX);
        span.set("token_service.tokens.received", received);
        span.end(answer.error.as_ref());
        answer
    }

    /// Removes the value of `Authorization` from an error: the source may repeat what it received.
    fn redact(&self, error: Error) -> Error {
        let secret = self.authorization.as_ref();
        let Some(secret) = secret.and_then(|secret| secret.read().ok()) else {
            return error;
        };
        let value = secret.expose_secret();
        // Without the scheme, such as `Bearer`.
        let key = value.rsplit(' ').next().unwrap_or(value);
        error.map_texts(|text| replace_secret(text, key, "…"))
    }

    /// Reads the headers whose values are in files.
    fn read_file_headers(&self) -> Result<HeaderMap, Error> {
        let mut headers = HeaderMap::new();
        for (name, secret) in &self.file_headers {
            let value = secret.read().map_err(|error| unreadable(name, &error))?;
            let (name, value) = header(name, value.expose_secret())?;
            headers.insert(name, value);
        }
        Ok(headers)
    }

    /// Returns a request's span attributes, by OpenTelemetry's conventions for HTTP clients.
    fn span_attributes(&self, count: u64) -> Vec<KeyValue> {
        let port = self.url.port_or_known_default().unwrap_or_default();
        let host = self.url.host_str().unwrap_or_default();
        vec![
            KeyValue::new("http.request.method", "POST"),
            KeyValue::new("url.full", self.address()),
            KeyValue::new("server.address", host.to_owned()),
            KeyValue::new("server.port", i64::from(port)),
            KeyValue::new(
                "token_service.tokens.requested",
                i64::try_from(count).unwrap_or(i64::MAX),
            ),
        ]
    }

    fn url_with_size(&self, count: u64) -> Url {
        let mut url = self.url.clone();
        url.query_pairs_mut()
            .append_pair("size", &count.to_string());
        url
    }

    async fn read(&self, mut response: Response, count: u64) -> SourceAnswer {
        if let Some(kind) = unexpected_content_type(response.headers()) {
            let failure = self.protocol(&format!("it sent {kind} instead of text/plain"));
            return SourceAnswer::failed(failure);
        }
        if let Some(encoding) = content_encoding(response.headers()) {
            let failure = self.protocol(&format!(
                "it sent content encoding {encoding}, which was not requested"
            ));
            return SourceAnswer::failed(failure);
        }
        let mut parser = LineParser::new(count, self.max_token)
            .detecting_json()
            .decoding_latin_1(charset(response.headers()).is_some_and(|name| is_latin_1(&name)));
        let mut read = 0_u64;
        let mut turn = None;
        let mut is_lost = false;
        let failure = loop {
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    read += chunk.len() as u64;
                    if read > self.max_body {
                        let limit = bytesize::ByteSize(self.max_body).display().iec();
                        break Some(self.protocol(&format!("its body is larger than {limit}")).hint(
                            "`source.max_body` sets the limit; a smaller `--page-size` makes answers smaller",
                        ));
                    }
                    if read > LARGE_BODY && turn.is_none() {
                        turn = Some(self.large_body.lock().await);
                    }
                    parser.feed(&chunk);
                }
                Ok(None) => break None,
                Err(error) => {
                    is_lost = true;
                    break Some(self.transport_error(error, Progress::Answered));
                }
            }
        };
        let mut answer = SourceAnswer::from_lines(parser, failure, &self.address());
        answer.is_incomplete &= is_lost;
        answer
    }

    /// Returns the error of an answer whose status is not 200; `sent` are the headers from files.
    fn status_error(&self, response: &Response, sent: &HeaderMap) -> Error {
        let (address, status) = (self.address(), response.status());
        let proxy = self.proxy.as_ref().map(ToString::to_string);
        let error = match &proxy {
            Some(proxy) if status == StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                return error::proxy_login(&address, proxy);
            }
            Some(proxy) => error::status(
                &address,
                status,
                retry_after(response.headers(), SystemTime::now()),
            )
            .cause(format!("through the proxy {proxy}")),
            None => error::status(
                &address,
                status,
                retry_after(response.headers(), SystemTime::now()),
            ),
        };
        // The file was replaced after it was read for this request.
        let is_rotated = status == StatusCode::UNAUTHORIZED
            && self.read_file_headers().is_ok_and(|now| now != *sent);
        if is_rotated { error.retryable() } else { error }
    }

    fn protocol(&self, what: &str) -> Error {
        not_a_token_list(&self.address(), what)
    }
}

/// Configures the HTTP client: connections to the source and fixed headers.
fn builder(
    endpoint: &HttpEndpoint,
    limits: &FetchLimits,
    identity: &ClientIdentity,
) -> Result<ClientBuilder, Error> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(
        reqwest::header::ACCEPT,
        HeaderValue::from_static("text/plain"),
    );
    let fixed = endpoint.headers.iter();
    for (name, secret) in fixed.filter(|(_, secret)| secret.file().is_none()) {
        let (name, value) = header(name, secret.initial().expose_secret())?;
        headers.insert(name, value);
    }
    let builder = http_client::builder(&endpoint.url, &endpoint.proxies)
        .default_headers(headers)
        .connect_timeout(limits.connect_timeout)
        .timeout(limits.timeout);
    let builder = if endpoint.keep_alive.is_zero() {
        // A source may close an idle connection at any time. A request that is on its way then may have
        // been served, so it could not be repeated.
        builder.pool_max_idle_per_host(0)
    } else {
        builder.pool_idle_timeout(endpoint.keep_alive)
    };
    let proxy = endpoint.proxy();
    let uses_tls = [Some(&endpoint.url), proxy.as_ref().map(|proxy| &proxy.url)];
    if uses_tls
        .into_iter()
        .flatten()
        .any(|url| url.scheme() == "https")
    {
        Ok(builder.tls_backend_preconfigured(endpoint.tls.client_config(identity)?))
    } else {
        Ok(builder)
    }
}

fn headers_in_files(headers: &[(String, Secret)]) -> impl Iterator<Item = &(String, Secret)> {
    headers.iter().filter(|(_, secret)| secret.file().is_some())
}

fn authorization(headers: &[(String, Secret)]) -> Option<&Secret> {
    let found = headers.iter().find(|(name, _)| name == "authorization");
    found.map(|(_, secret)| secret)
}

/// Returns the error of a request that was not sent because a header's file is unreadable.
fn unreadable(name: &str, error: &SecretFileError) -> Error {
    Error::of(
        ErrorKind::HttpConnect,
        format!("cannot read the value of the `{name}` header"),
    )
    .cause(format!("{error}: {}", error.cause))
    .hint(SecretFileError::HINT)
    .retryable()
}

impl TokenSource for HttpSource {
    fn request<'a>(&'a self, request: SourceRequest<'a>) -> AnswerFuture<'a> {
        Box::pin(self.post(request))
    }

    fn sends_keys(&self) -> bool {
        self.idempotency_header.is_some()
    }
}

fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), Error> {
    let bad = |what: &str| {
        Error::of(
            ErrorKind::InvalidArgument {
                argument: format!("source.headers.{name}"),
                expected: "an HTTP header".to_owned(),
            },
            format!(
                "the {what} of the header `{name}` contains characters that HTTP does not allow"
            ),
        )
    };
    let parsed_name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad("name"))?;
    let mut parsed = HeaderValue::from_str(value).map_err(|_| bad("value"))?;
    parsed.set_sensitive(true);
    Ok((parsed_name, parsed))
}
