//! The token of the service, which clients send with each request, and browsers once for a cookie.

use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, COOKIE};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

use crate::runtime::secret::Secret;

/// The cookie of a login.
pub(super) const SESSION: &str = "token_service_session";

/// The token of the service, if clients need one.
pub(super) struct Access {
    token: Option<Secret>,
    /// Makes the cookies of this process differ from those of others.
    salt: [u8; 16],
}

impl Access {
    /// Creates the check of `token`; everyone has access without one.
    pub fn new(token: Option<Secret>) -> Self {
        Self {
            token,
            salt: uuid::Uuid::new_v4().into_bytes(),
        }
    }

    /// Returns true if clients need a token.
    pub fn is_restricted(&self) -> bool {
        self.token.is_some()
    }

    /// Returns the value of the cookie for a login with `token`; `None` if that is wrong.
    pub fn session(&self, token: &str) -> Option<String> {
        let own = self.token()?;
        is_same(token, own.expose_secret()).then(|| self.session_of(&own))
    }

    /// Returns true if a request has the token, or the cookie of a login.
    pub fn allows(&self, headers: &HeaderMap) -> bool {
        let Some(token) = self.token() else {
            return !self.is_restricted();
        };
        bearer(headers).is_some_and(|sent| is_same(sent, token.expose_secret()))
            || session(headers).is_some_and(|sent| is_same(sent, &self.session_of(&token)))
    }

    /// Returns the token as it is now: its file may have been replaced.
    fn token(&self) -> Option<SecretString> {
        let token = self.token.as_ref()?;
        token
            .read()
            .inspect_err(|error| {
                let cause = error.cause.as_str();
                tracing::error!(cause, "{error}");
            })
            .ok()
    }

    /// Returns the value of the cookie. The token cannot be found from it.
    fn session_of(&self, token: &SecretString) -> String {
        let mut hash = Sha256::new();
        hash.update(self.salt);
        hash.update(token.expose_secret());
        BASE64_URL_SAFE_NO_PAD.encode(hash.finalize())
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
}

fn session(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(COOKIE).iter();
    let mut cookies = cookies
        .filter_map(|value| value.to_str().ok())
        .flat_map(|it| it.split(';'));
    cookies.find_map(|cookie| cookie.trim().strip_prefix(SESSION)?.strip_prefix('='))
}

/// Compares hashes: how long that takes says nothing about the texts.
fn is_same(sent: &str, expected: &str) -> bool {
    Sha256::digest(sent) == Sha256::digest(expected)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    #[test]
    fn token_is_accepted_as_bearer_and_as_session() {
        let access = Access::new(Some(Secret::fixed("s3cret")));
        let session = access.session_of(&SecretString::from("s3cret"));
        assert!(!session.contains("s3cret"));
        let cookie = format!("a=b; {SESSION}={session}");
        assert!(access.allows(&headers(&[("authorization", "Bearer s3cret")])));
        assert!(access.allows(&headers(&[("authorization", "bearer  s3cret")])));
        assert!(access.allows(&headers(&[("cookie", &cookie)])));
        for refused in [
            ("authorization", "Bearer s3cre"),
            ("authorization", "Basic s3cret"),
            ("authorization", "s3cret"),
            ("cookie", "token_service_session=s3cret"),
            ("x-token", "s3cret"),
        ] {
            assert!(!access.allows(&headers(&[refused])), "{refused:?}");
        }
        assert!(Access::new(None).allows(&HeaderMap::new()));
    }
}
