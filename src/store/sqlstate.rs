//! What an SQLSTATE means for a token, and which words of a server's message may be shown.
//!
//! Pure: no I/O, so that every rule is a line in a table-driven test. The classes are PostgreSQL's
//! (its manual, appendix "Error Codes"); SQLite's failures are translated to them.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use crate::error::escape::replace_secret;
use crate::pipeline::token::Detail;

/// How often a token is sent before it is `failed`.
pub const TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long a token waits that was sent `tries` times; `random` draws from 0.0 to 1.0 (full jitter):
/// tokens that got into each other's way must not meet again.
pub fn pause(tries: u32, random: f64) -> Duration {
    let most = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(tries));
    most.min(LONGEST_PAUSE).mul_f64(random)
}

/// The code of a refusal while connecting. PgBouncer has one code for all it says by itself: its
/// words tell which of PostgreSQL's is meant.
pub fn code_of<'a>(code: &'a str, message: &str) -> &'a str {
    const MEANT: [(&str, &str); 5] = [
        ("authentication failed", "28P01"),
        ("no such user", "28P01"),
        ("SSL required", "28000"),
        ("no such database", "3D000"),
        ("no more connections", "53300"),
    ];
    if code != "08P01" {
        return code;
    }
    let meant = MEANT.iter().find(|(words, _)| message.contains(words));
    meant.map_or(code, |(_, code)| code)
}

/// What has no connection left where a server answers `53300`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionLimit {
    /// The server: `max_connections`.
    Server,
    /// The role: its `CONNECTION LIMIT`.
    Role,
    /// The database: its `CONNECTION LIMIT`.
    Database,
}

/// Tells what is full by `routine`, the server's function that raised the error: its message may be in
/// any language.
pub fn full(routine: Option<&str>) -> ConnectionLimit {
    match routine {
        Some("InitializeSessionUserId") => ConnectionLimit::Role,
        Some("CheckMyDatabase") => ConnectionLimit::Database,
        _ => ConnectionLimit::Server,
    }
}

/// True where a pooler ends a connection because it had no server for what was asked last, and so has
/// not passed it on: in its own words, or in the code with which a server refused a connection.
pub fn is_unsent(code: &str, message: &str) -> bool {
    const IN_VAIN: [&str; 2] = ["server login has been failing", "query_wait_timeout"];
    match code {
        "08P01" => IN_VAIN.iter().any(|words| message.starts_with(words)),
        "53300" | "57P03" | "28000" | "28P01" | "3D000" => true,
        _ => false,
    }
}

/// What a refusal while connecting means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectRefusal {
    /// Too many connections, starting up, shutting down: may pass.
    Busy,
    /// A wrong password, no such database, no right: will not pass.
    Denied,
}

/// Classifies an error that the server sent before the connection was ready.
pub fn at_connect(code: &str) -> ConnectRefusal {
    match code.get(..2).unwrap_or_default() {
        "28" | "3D" | "3F" | "42" | "22" | "0A" => ConnectRefusal::Denied,
        _ => ConnectRefusal::Busy,
    }
}

/// What a server says of a token, as far as this program listens.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerDetail<'a> {
    /// The five characters.
    pub code: &'a str,
    /// The constraint's name.
    pub constraint: Option<&'a str>,
    /// The primary message.
    pub message: &'a str,
    /// Names that may stand in the message: the constraint, the table, the column.
    pub names: [Option<&'a str>; 4],
}

/// The details that were already given, so that thousands of equal verdicts share one.
#[derive(Debug, Default)]
pub struct DetailCache(Vec<Arc<Detail>>);

impl DetailCache {
    const MOST: usize = 64;

    /// The detail of a verdict on `token`, its message scrubbed.
    pub fn of(&mut self, said: &ServerDetail<'_>, token: &str) -> Arc<Detail> {
        // What was found clean before needs no second scrubbing.
        if let Some(known) = self.find(said, said.message) {
            return known;
        }
        let message = scrub(said.message, token, &said.names);
        if let Some(known) = self.find(said, &message) {
            return known;
        }
        let detail = Arc::new(Detail {
            sqlstate: Some(said.code.to_owned()),
            constraint: said.constraint.map(ToOwned::to_owned),
            reason: None,
            message: Some(message),
        });
        if self.0.len() < Self::MOST {
            self.0.push(Arc::clone(&detail));
        }
        detail
    }

    fn find(&self, said: &ServerDetail<'_>, message: &str) -> Option<Arc<Detail>> {
        self.0
            .iter()
            .find(|known| {
                known.message.as_deref() == Some(message)
                    && known.sqlstate.as_deref() == Some(said.code)
                    && known.constraint.as_deref() == said.constraint
            })
            .cloned()
    }
}

const LONGEST_MESSAGE: usize = 300;

/// A server's primary message without any data: `token` itself, whatever is quoted and is none of
/// `names`, and byte sequences are replaced, control characters too.
pub fn scrub(message: &str, token: &str, names: &[Option<&str>]) -> String {
    let message = replace_secret(message, token, "…");
    let message = without_cut_secret(&message, token);
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
    let mut clean: String = without_bytes(&clean)
        .chars()
        .map(|char| if char.is_control() { ' ' } else { char })
        .collect();
    if let Some((end, _)) = clean.char_indices().nth(LONGEST_MESSAGE) {
        clean.truncate(end);
        clean.push('…');
    }
    clean
}

/// The message without the beginning of `token` that stands before the `…` of a message that was cut
/// on arrival.
fn without_cut_secret<'a>(message: &'a str, token: &str) -> Cow<'a, str> {
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
fn without_bytes(message: &str) -> String {
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
    fn a_pooler_means_more_than_its_one_code_says() {
        for (message, code) in [
            ("SASL authentication failed", "28P01"),
            ("password authentication failed", "28P01"),
            ("no such user", "28P01"),
            ("SSL required", "28000"),
            ("no such database: x", "3D000"),
            ("no more connections allowed (max_client_conn)", "53300"),
            ("server conn crashed?", "08P01"),
        ] {
            assert_eq!(code_of("08P01", message), code, "{message}");
        }
        assert_eq!(code_of("57P03", "no such database: x"), "57P03");
    }

    #[test]
    fn message_that_was_cut_in_the_middle_of_the_token_shows_none_of_it() {
        let token = "canary".repeat(500);
        for cut in [1, 6, 250] {
            let message = format!("refused: {}…", &token[..cut]);
            assert_eq!(scrub(&message, &token, &[]), "refused: …");
        }
        assert_eq!(scrub("refused: abc…", "xyz", &[]), "refused: abc…");
    }

    #[test]
    fn only_what_waited_for_a_server_in_vain_is_certainly_unsent() {
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
            assert!(is_unsent(code, message), "{message}");
        }
        for (code, message) in [
            ("08P01", "server conn crashed?"),
            ("08P01", "query_timeout"),
            (
                "57P01",
                "terminating connection due to administrator command",
            ),
        ] {
            assert!(!is_unsent(code, message), "{message}");
        }
    }

    #[test]
    fn refusals_at_connect_pass_or_do_not() {
        for code in ["28P01", "28000", "3D000", "42501"] {
            assert_eq!(at_connect(code), ConnectRefusal::Denied, "{code}");
        }
        for code in ["53300", "57P03", "57P01", "08006"] {
            assert_eq!(at_connect(code), ConnectRefusal::Busy, "{code}");
        }
    }

    #[test]
    fn a_message_keeps_names_and_loses_data() {
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
    fn equal_verdicts_share_a_detail() {
        let mut details = DetailCache::default();
        let said = ServerDetail {
            code: "23514",
            constraint: Some("c"),
            message: r#"violates "c""#,
            names: [Some("c"), None, None, None],
        };
        let first = details.of(&said, "aa");
        let second = details.of(&said, "bb");
        assert!(Arc::ptr_eq(&first, &second));
        let raised = |message| ServerDetail {
            code: "P0001",
            message,
            ..ServerDetail::default()
        };
        let third = details.of(&raised("token aaaaaaaa is bad"), "aaaaaaaa");
        let fourth = details.of(&raised("token bbbbbbbb is bad"), "bbbbbbbb");
        assert!(Arc::ptr_eq(&third, &fourth));
        assert_eq!(third.message.as_deref(), Some("token … is bad"));
        let other = details.of(&raised("no more today"), "bbbbbbbb");
        assert_eq!(other.message.as_deref(), Some("no more today"));
    }
}
