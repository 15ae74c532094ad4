//! Explains a request that has no complete answer: what failed, and whether the source may have served
//! it.

use std::io;

use rustls::{CertificateError, Error as TlsError};

use crate::error::{Error, chain};
use crate::fetch::error;
use crate::fetch::http::HttpSource;
use crate::runtime::tls::is_wrong_name;

/// Words of the HTTP client that say nothing about the cause.
const NOISE: [&str; 10] = [
    "error sending request",
    "client error (Connect)",
    "client error (SendRequest)",
    "client error (Canceled)",
    "tcp connect error",
    "tunnel error: failed to create underlying connection",
    "error decoding response body",
    "request or response body error",
    "error reading a body from connection",
    "connection error",
];

/// The beginning of rustls' message about an alert of the peer.
const ALERT: &str = "received fatal alert: ";

/// How far a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// No status line arrived.
    Sent,
    /// The status was 200; the body is incomplete.
    Answered,
}

impl HttpSource {
    /// Returns the error of a request without a complete answer.
    pub(super) fn transport_error(&self, error: reqwest::Error, progress: Progress) -> Error {
        let error = error.without_url();
        let address = self.address();
        let mut causes = chain(&error);
        causes.retain(|cause| !NOISE.contains(&cause.as_str()));
        for cause in &mut causes {
            // Whether a server that speaks first is read before the request is written, is chance.
            if cause.contains("received unexpected message from connection") {
                "invalid HTTP version parsed".clone_into(cause);
            }
        }
        let has = |text: &str| causes.iter().any(|cause| cause.contains(text));
        // The connection was lost before the request was written.
        let is_unsent = has("operation was canceled");
        // With TLS 1.3 the source refuses a client certificate after the client's handshake is done. Its
        // alert may be lost when it closes the connection.
        let is_early = error.is_connect() || progress == Progress::Sent && !error.is_timeout();
        let is_refused =
            self.identity.was_requested() && (self.identity.certificate.is_none() || is_unsent);
        let mut failure = if is_early && (has(ALERT) || is_refused) {
            self.refused_handshake(&causes)
        } else if error.is_connect() {
            self.connect_error(&error, &causes)
        } else if error.is_timeout() {
            return error::timed_out(&address, self.timeout);
        } else if has("invalid HTTP version parsed") {
            error::no_http(&address)
        } else if is_unsent {
            error::unsent(&address)
        } else if progress == Progress::Sent {
            error::unanswered(&address)
        } else {
            error::truncated(&address)
        };
        if let Some(first) = failure.causes.first_mut() {
            for cause in &causes {
                first.push_str(": ");
                first.push_str(cause);
            }
        }
        if progress == Progress::Sent && self.identity.was_requested() && !is_refused {
            failure = failure.cause("it asked for the client certificate and may have refused it");
        }
        match &self.proxy {
            Some(proxy) if !failure.message.starts_with("the proxy") => {
                failure.cause(format!("through the proxy {proxy}"))
            }
            _ => failure,
        }
    }

    fn connect_error(&self, error: &reqwest::Error, causes: &[String]) -> Error {
        let address = self.address();
        let has = |text: &str| causes.iter().any(|cause| cause.contains(text));
        match (find::<TlsError>(error), &self.proxy) {
            (Some(error @ TlsError::InvalidCertificate(why)), _) => {
                let what = match why {
                    _ if is_wrong_name(error) => "is for another host name",
                    CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                        "has expired"
                    }
                    CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                        "is not valid yet"
                    }
                    CertificateError::Revoked => "is revoked",
                    _ if has("CaUsedAsEndEntity") => "is self-signed and not trusted",
                    _ => "is not trusted",
                };
                error::certificate(&address, what)
            }
            (Some(TlsError::InvalidMessage(_)), _) => error::no_tls(&address),
            (_, Some(proxy)) if has("proxy authorization required") => {
                error::proxy_login(&address, &proxy.to_string())
            }
            (_, Some(proxy)) if has("tunnel error: unsuccessful") => {
                error::no_tunnel(&address, &proxy.to_string())
            }
            (_, Some(proxy)) => error::unreachable_proxy(&address, &proxy.to_string()),
            (_, None) => error::unreachable(&address),
        }
    }

    /// Returns the error of a handshake that the source ended with an alert.
    fn refused_handshake(&self, causes: &[String]) -> Error {
        let mut alerts = causes.iter().filter_map(|cause| {
            let (_, alert) = cause.split_once(ALERT)?;
            alert.split(|char: char| !char.is_alphanumeric()).next()
        });
        let alert = alerts.next().unwrap_or_default();
        let is_about_certificate = alert.contains("Certificate")
            || matches!(alert, "UnknownCA" | "AccessDenied" | "DecryptError");
        let is_required = alert == "CertificateRequired" || self.identity.was_requested();
        let address = self.address();
        match &self.identity.certificate {
            None if is_required => {
                error::refused_handshake(&address, "requires a client certificate")
            }
            Some(_) if alert.is_empty() => {
                error::refused_handshake(&address, "closed the connection after the handshake")
                    .retryable()
            }
            Some(_) if is_about_certificate => {
                error::refused_handshake(&address, "refused the client certificate")
            }
            _ => error::refused_handshake(&address, "refused the TLS handshake"),
        }
    }
}

/// Returns the first error of this type in the chain of `error`, also within an `io::Error`.
fn find<'a, E: std::error::Error + 'static>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // The source of an `io::Error` is not the error in it, but the source of that.
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}
