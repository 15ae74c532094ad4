//! Common configuration of the program's HTTP clients: trusted certificates, proxy, and no redirects.

use reqwest::{Client, ClientBuilder, Url, redirect};

/// Configures a client for `url`. With `proxy` it honours `HTTP_PROXY` and related variables.
pub(crate) fn builder(url: &Url, proxy: bool) -> ClientBuilder {
    // reqwest uses the process-wide crypto provider; for a second client it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder()
        .user_agent(concat!("token_service/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none());
    if !proxy {
        builder = builder.no_proxy();
        if url.scheme() == "http" {
            // Loading the system's certificates dominates startup time, and plain HTTP needs none.
            builder = builder.tls_certs_only([]);
        }
    }
    builder
}

/// Returns the URL without query and credentials, which may be secret.
pub(crate) fn display_url(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}
