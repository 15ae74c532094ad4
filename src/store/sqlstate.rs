//! Interprets SQLSTATEs and removes data from server messages.
//!
//! Without I/O, so that every rule is a line in a table-driven test. The classes are PostgreSQL's
//! (manual, appendix "Error Codes"); SQLite's errors are mapped to them.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use crate::error::escape::replace_secret;
use crate::pipeline::backoff::Backoff;
use crate::pipeline::token::Detail;

/// How often a token is sent before it becomes `failed`.
pub const MAX_TRIES: u32 = 5;
/// The wait before a token is sent again, so that conflicting tokens do not collide again.
pub const RETRY_BACKOFF: Backoff = Backoff {
    base: Duration::from_millis(50),
    max: Duration::from_secs(2),
};

/// Returns the SQLSTATE of a refused connection.
///
/// PgBouncer sends one code for all of its errors; the message shows which of PostgreSQL's applies.
pub fn connect_sqlstate<'a>(code: &'a str, message: &str) -> &'a str {
    const POOLER_ERRORS: [(&str, &str); 5] = [
        ("authentication failed", "28P01"),
        ("no such user", "28P01"),
        ("SSL required", "28000"),
        ("no such database", "3D000"),
        ("no more connections", "53300"),
    ];
    if code != "08P01" {
        return code;
    }
    let known = POOLER_ERRORS
        .iter()
        .find(|(part, _)| message.contains(part));
    known.map_or(code, |(_, code)| code)
}

/// The connection limit that an error `53300` refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionLimit {
    /// The server: `max_connections`.
    Server,
    /// The role: its `CONNECTION LIMIT`.
    Role,
    /// The database: its `CONNECTION LIMIT`.
    Database,
}

/// Returns which limit is exhausted, by the server function that raised the error.
///
/// The message may be in any language.
pub fn exhausted_limit(routine: Option<&str>) -> ConnectionLimit {
    match routine {
        Some("InitializeSessionUserId") => ConnectionLimit::Role,
        Some("CheckMyDatabase") => ConnectionLimit::Database,
        _ => ConnectionLimit::Server,
    }
}

/// Returns true if a pooler closed a connection because it had no server for the last statement.
///
/// The statement was not forwarded then. The pooler sends its own message, or the SQLSTATE with which
/// a server refused its connection.
pub fn is_not_forwarded(code: &str, message: &str) -> bool {
    const MESSAGES: [&str; 2] = ["server login has been failing", "query_wait_timeout"];
    match code {
        "08P01" => MESSAGES.iter().any(|start| message.starts_with(start)),
        "53300" | "57P03" | "28000" | "28P01" | "3D000" => true,
        _ => false,
    }
}

/// The meaning of a refused connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectRefusal {
    /// Temporary: too many connections, starting up, shutting down.
    Busy,
    /// Permanent: wrong password, unknown database, missing privilege.
    Denied,
}

/// Classifies an error that the server sent before the connection was ready.
pub fn classify_connect_error(code: &str) -> ConnectRefusal {
    match code.get(..2).unwrap_or_default() {
        "28" | "3D" | "3F" | "42" | "22" | "0A" => ConnectRefusal::Denied,
        _ => ConnectRefusal::Busy,
    }
}

/// The fields of a server error that reports use.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerDetail<'a> {
    /// The SQLSTATE.
    pub code: &'a str,
    /// The constraint's name.
    pub constraint: Option<&'a str>,
    /// The primary message.
    pub message: &'a str,
    /// Names that the message may contain: constraint, table, column.
    pub names: [Option<&'a str>; 4],
}

/// Caches details, so that thousands of equal errors share one.
#[derive(Debug, Default)]
pub struct DetailCache {
    known: Vec<Arc<Detail>>,
    /// Removed from messages too.
    secret: Option<SecretString>,
}

impl DetailCache {
    const CAPACITY: usize = 64;

    /// Creates an empty cache that removes `secret` from messages.
    pub fn hiding(secret: Option<SecretString>) -> Self {
        let known = Vec::new();
        Self { known, secret }
    }

    /// Returns the detail of an error about `token`, with a scrubbed message.
    pub fn get(&mut self, error: &ServerDetail<'_>, token: &str) -> Arc<Detail> {
        // A message that was clean before needs no scrubbing.
        if let Some(known) = self.find(error, error.message) {
            return known;
        }
        let message = hide(error.message, self.secret.as_ref());
        let message = scrub(&message, token, &error.names);
        if let Some(known) = self.find(error, &message) {
            return known;
        }
        let detail = Arc::new(Detail {
            sqlstate: Some(error.code.to_owned()),
            constraint: error.constraint.map(ToOwned::to_owned),
            reason: None,
            message: Some(message),
        });
        if self.known.len() < Self::CAPACITY {
            self.known.push(Arc::clone(&detail));
        }
        detail
    }

    fn find(&self, error: &ServerDetail<'_>, message: &str) -> Option<Arc<Detail>> {
        self.known
            .iter()
            .find(|known| {
                known.message.as_deref() == Some(message)
                    && known.sqlstate.as_deref() == Some(error.code)
                    && known.constraint.as_deref() == error.constraint
            })
            .cloned()
    }
}

/// Removes a secret from a server's text, which may repeat what the server received.
pub fn hide(text: &str, secret: Option<&SecretString>) -> String {
    match secret {
        Some(secret) => replace_secret(text, secret.expose_secret(), "…"),
        None => text.to_owned(),
    }
}

const MAX_MESSAGE: usize = 300;

/// Removes data from a server's primary message.
///
/// It replaces `token`, quoted text other than `names`, byte sequences and control characters.
pub fn scrub(message: &str, token: &str, names: &[Option<&str>]) -> String {
    let message = replace_secret(message, token, "…");
    let message = strip_truncated_token(&message, token);
    let mut clean = String::with_capacity(message.len());
    let mut rest = message.as_ref();
    while let Some(start) = rest.find(['"', '«', '„']) {
        let (before, quoted) = rest.split_at(start);
        clean.push_str(before);
        let mut chars = quoted.chars();
        let opening = chars.next().unwrap_or('"');
        let inner = chars.as_str();
        let closing = match opening {
            '«' => '»',
            '„' => '“',
            _ => '"',
        };
        let end = inner.find(closing).unwrap_or(inner.len());
        let text = &inner[..end];
        clean.push(opening);
        clean.push_str(if names.contains(&Some(text)) {
            text
        } else {
            "…"
        });
        clean.push(closing);
        rest = inner[end..].strip_prefix(closing).unwrap_or_default();
    }
    clean.push_str(rest);
    let mut clean: String = replace_bytes(&clean)
        .chars()
        .map(|char| if char.is_control() { ' ' } else { char })
        .collect();
    if let Some((end, _)) = clean.char_indices().nth(MAX_MESSAGE) {
        clean.truncate(end);
        clean.push('…');
    }
    clean
}

/// Removes a prefix of `token` at the end of a message that was truncated on arrival with `…`.
fn strip_truncated_token<'a>(message: &'a str, token: &str) -> Cow<'a, str> {
    let Some(text) = message.strip_suffix('…') else {
        return Cow::Borrowed(message);
    };
    let mut starts = text.char_indices().map(|(at, _)| at);
    match starts.find(|at| token.starts_with(&text[*at..])) {
        Some(at) => Cow::Owned(format!("{}…", &text[..at])),
        None => Cow::Borrowed(message),
    }
}

/// Replaces the bytes that encoding errors print (`0xe2 0x82`).
fn replace_bytes(message: &str) -> String {
    if !message.contains("0x") {
        return message.to_owned();
    }
    message
        .split(' ')
        .map(|word| if word.starts_with("0x") { "…" } else { word })
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlstate_is_derived_from_message_when_a_pooler_refuses() {
        for (message, code) in [
            ("SASL authentication failed", "28P01"),
            ("password authentication failed", "28P01"),
            ("no such user", "28P01"),
            ("SSL required", "28000"),
            ("no such database: x", "3D000"),
            ("no more connections allowed (max_client_conn)", "53300"),
            ("server conn crashed?", "08P01"),
        ] {
            assert_eq!(connect_sqlstate("08P01", message), code, "{message}");
        }
        assert_eq!(connect_sqlstate("57P03", "no such database: x"), "57P03");
    }

    #[test]
    fn scrubbed_message_hides_token_when_it_was_truncated() {
        let token = "canary".repeat(500);
        for cut in [1, 6, 250] {
            let message = format!("refused: {}…", &token[..cut]);
            assert_eq!(scrub(&message, &token, &[]), "refused: …");
        }
        assert_eq!(scrub("refused: abc…", "xyz", &[]), "refused: abc…");
    }

    #[test]
    fn statement_is_not_forwarded_when_pooler_had_no_server() {
        for (code, message) in [
            ("08P01", "query_wait_timeout"),
            (
                "08P01",
                "server login has been failing, try again later (server_login_retry)",
            ),
            (
                "08P01",
                "server login has been failing, cached error: x (server_login_retry)",
            ),
            ("53300", "sorry, too many clients already"),
            ("57P03", "the database system is starting up"),
        ] {
            assert!(is_not_forwarded(code, message), "{message}");
        }
        for (code, message) in [
            ("08P01", "server conn crashed?"),
            ("08P01", "query_timeout"),
            (
                "57P01",
                "terminating connection due to administrator command",
            ),
        ] {
            assert!(!is_not_forwarded(code, message), "{message}");
        }
    }

    #[test]
    fn connect_errors_are_classified_as_busy_or_denied() {
        for code in ["28P01", "28000", "3D000", "42501"] {
            assert_eq!(
                classify_connect_error(code),
                ConnectRefusal::Denied,
                "{code}"
            );
        }
        for code in ["53300", "57P03", "57P01", "08006"] {
            assert_eq!(classify_connect_error(code), ConnectRefusal::Busy, "{code}");
        }
    }

    #[test]
    fn scrubbed_message_keeps_names_and_hides_data() {
        let names = [Some("secret_tokens"), Some("c_check"), None, None];
        for (message, clean) in [
            (
                r#"new row for relation "secret_tokens" violates check constraint "c_check""#,
                r#"new row for relation "secret_tokens" violates check constraint "c_check""#,
            ),
            (
                r#"invalid input syntax for type uuid: "tokentoken""#,
                r#"invalid input syntax for type uuid: "…""#,
            ),
            (
                "character with byte sequence 0xe2 0x82 0xac has no equivalent",
                "character with byte sequence … … … has no equivalent",
            ),
            ("no tokentokens here, tokentoken", "no …s here, …"),
            ("syntaxe « tokento » invalide", "syntaxe «…» invalide"),
            ("bad:\n\"tok", "bad: \"…\""),
        ] {
            assert_eq!(scrub(message, "tokentoken", &names), clean);
        }
        assert_eq!(scrub("a bad a: bad", "a", &names), "… bad …: bad");
        assert_eq!(scrub(&"x".repeat(400), "", &[]).chars().count(), 301);
    }

    #[test]
    fn equal_errors_share_a_detail() {
        let mut details = DetailCache::default();
        let error = ServerDetail {
            code: "23514",
            constraint: Some("c"),
            message: r#"violates "c""#,
            names: [Some("c"), None, None, None],
        };
        let first = details.get(&error, "aa");
        let second = details.get(&error, "bb");
        assert!(Arc::ptr_eq(&first, &second));
        let raised = |message| ServerDetail {
            code: "P0001",
            message,
            ..ServerDetail::default()
        };
        let third = details.get(&raised("token aaaaaaaa is bad"), "aaaaaaaa");
        let fourth = details.get(&raised("token bbbbbbbb is bad"), "bbbbbbbb");
        assert!(Arc::ptr_eq(&third, &fourth));
        assert_eq!(third.message.as_deref(), Some("token … is bad"));
        let other = details.get(&raised("no more today"), "bbbbbbbb");
        assert_eq!(other.message.as_deref(), Some("no more today"));
    }
}
