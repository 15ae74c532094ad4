//! What every HTTP client of the program has in common: whose certificates it trusts, which proxy it
//! takes, and that it follows nobody elsewhere.

use reqwest::{Client, ClientBuilder, Url, redirect};

/// A client for `url`. With `proxy` it honours `HTTP_PROXY` and its kin, as curl does.
pub(crate) fn builder(url: &Url, proxy: bool) -> ClientBuilder {
    // reqwest asks the process for its cryptography; a second client finds it installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder()
        .user_agent(concat!("token_service/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none());
    if !proxy {
        builder = builder.no_proxy();
        if url.scheme() == "http" {
            // Reading the machine's certificates takes longer than all the rest of a start, and
            // nobody is asked for one.
            builder = builder.tls_certs_only([]);
        }
    }
    builder
}

/// The address without its query and credentials, which may be secret.
pub(crate) fn plain(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}
