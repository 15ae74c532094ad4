//! The keys of a test file; `case` builds cases from them.

use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Error as _, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::cli::value::{self, ParseResult};
use crate::config::test_case::CaseOptions;
use crate::config::yaml_values::{elements, number, readers, vars};
use crate::report::{FORMATS, ReportFormat};

/// The keys of a case.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CaseKeys {
    pub name: Option<String>,
    pub skip: Option<String>,
    pub script: Option<PathBuf>,
    #[serde(deserialize_with = "size")]
    pub size: Option<u64>,
    #[serde(deserialize_with = "vars")]
    pub vars: Option<Map<String, Value>>,
    pub env: Option<OrderedMap<QuotedText>>,
    pub options: Option<CaseOptions>,
    pub source: Option<Vec<EntryKeys>>,
    pub store: Option<OrderedMap<TokenReplies>>,
    pub signals: Option<Vec<SignalKeys>>,
    pub expect: Option<ExpectKeys>,
}

/// The keys of a response of the source.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct EntryKeys {
    pub tokens: Option<Vec<QuotedText>>,
    #[serde(deserialize_with = "number")]
    pub count: Option<u64>,
    pub body: Option<String>,
    #[serde(deserialize_with = "number")]
    pub status: Option<u16>,
    #[serde(deserialize_with = "duration")]
    pub retry_after: Option<Duration>,
    pub timeout: Option<bool>,
    pub cut: Option<bool>,
    pub connect: Option<Connect>,
    #[serde(deserialize_with = "duration")]
    pub delay: Option<Duration>,
}

/// The replies of the database to one token, one per attempt.
pub(crate) struct TokenReplies(pub Vec<ReplyKeys>);

/// The keys of a reply.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ReplyKeys {
    #[serde(deserialize_with = "sqlstate")]
    pub sqlstate: Option<String>,
    pub severity: Option<SeverityKey>,
    pub routine: Option<String>,
    pub table: Option<String>,
    pub column: Option<String>,
    pub constraint: Option<String>,
    pub message: Option<String>,
    pub reject: Option<String>,
    #[serde(skip)]
    pub shorthand: Option<&'static str>,
    #[serde(deserialize_with = "duration")]
    pub delay: Option<Duration>,
}

/// The severity of an error.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum SeverityKey {
    Error,
    Fatal,
    Panic,
    Warning,
}

impl SeverityKey {
    /// Returns the severity as the server spells it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
            Self::Panic => "PANIC",
            Self::Warning => "WARNING",
        }
    }
}

/// The keys of a signal.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SignalKeys {
    pub name: Option<Signal>,
    #[serde(deserialize_with = "positive")]
    pub after_requests: Option<u64>,
    #[serde(deserialize_with = "duration")]
    pub at: Option<Duration>,
}

/// The keys of `expect`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ExpectKeys {
    #[serde(deserialize_with = "number")]
    pub exit: Option<u8>,
    pub counts: Option<CountKeys>,
    pub report: Option<String>,
    pub reports: Option<ReportKeys>,
    pub stdout: Option<String>,
    pub stderr: Option<ExpectedStderr>,
    #[serde(deserialize_with = "duration")]
    pub slept: Option<Duration>,
    pub requests: Option<ExpectedRequests>,
    pub files: Option<OrderedMap<QuotedText>>,
}

/// The keys of `expect.counts`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CountKeys {
    #[serde(deserialize_with = "number")]
    pub stored: Option<u64>,
    #[serde(deserialize_with = "number")]
    pub rejected: Option<u64>,
    #[serde(deserialize_with = "number")]
    pub failed: Option<u64>,
    #[serde(deserialize_with = "number")]
    pub unknown: Option<u64>,
    #[serde(deserialize_with = "number")]
    pub not_attempted: Option<u64>,
}

/// The texts of `expect.reports`, in the order of [`FORMATS`].
pub(crate) struct ReportKeys(pub Vec<(&'static ReportFormat, String)>);

impl<'de> Deserialize<'de> for ReportKeys {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let formats = FORMATS.iter().filter(|format| format.is_reproducible);
        let known = formats.clone().map(|format| format.name).collect();
        let OrderedMap(mut texts) = from.deserialize_map(OrderedMapVisitor {
            known,
            value: PhantomData,
        })?;
        let text = |format: &'static ReportFormat| {
            let index = texts.iter().position(|(name, _)| name == format.name)?;
            Some((format, texts.swap_remove(index).1))
        };
        Ok(Self(formats.copied().filter_map(text).collect()))
    }
}

readers! {
    size: u64 = value::size;
    positive: u64 = value::positive;
    duration: Duration = value::duration;
    sqlstate: String = parse_sqlstate;
}

fn parse_sqlstate(text: &str) -> ParseResult<String> {
    let plain = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_uppercase();
    if text.len() == 5 && text.bytes().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("must be a five-character SQLSTATE in quotes, such as \"23514\"".to_owned())
    }
}

elements! {
    /// A connection failure.
    Connect(()) = |text| match text {
        "refused" => Ok(()),
        _ => Err("must be refused".to_owned()),
    };
    /// The name of a signal.
    Signal(crate::error::exit::Cause) = |text| match text {
        "TERM" | "SIGTERM" => Ok(crate::error::exit::Cause::Terminate),
        "INT" | "SIGINT" => Ok(crate::error::exit::Cause::Interrupt),
        _ => Err("must be TERM or INT".to_owned()),
    };
}

/// Text that must be quoted if YAML takes it for another type: YAML would read `1.50` as 1.5.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QuotedText(pub String);

impl<'de> Deserialize<'de> for QuotedText {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(TextVisitor).map(QuotedText)
    }
}

struct TextVisitor;

const QUOTE_RULE: &str = "must be text: put it in quotes";

impl Visitor<'_> for TextVisitor {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(QUOTE_RULE)
    }

    fn visit_str<E>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }
}

/// A mapping with arbitrary keys, in the order of the file.
pub(crate) struct OrderedMap<T>(pub Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OrderedMap<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(OrderedMapVisitor {
            known: Vec::new(),
            value: PhantomData,
        })
    }
}

struct OrderedMapVisitor<T> {
    /// The allowed keys; empty if all are.
    known: Vec<&'static str>,
    value: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for OrderedMapVisitor<T> {
    type Value = OrderedMap<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("must be a mapping of keys")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<OrderedMap<T>, A::Error> {
        let mut entries: Vec<(String, T)> = Vec::new();
        while let Some(QuotedText(key)) = from.next_key()? {
            if entries.iter().any(|(known, _)| *known == key) {
                return Err(A::Error::custom(format_args!("duplicate field `{key}`")));
            }
            if !self.known.is_empty() && !self.known.contains(&key.as_str()) {
                let known = self.known.join("`, `");
                return Err(A::Error::custom(format_args!(
                    "unknown field `{key}`, expected one of `{known}`"
                )));
            }
            entries.push((key, from.next_value()?));
        }
        Ok(OrderedMap(entries))
    }
}

/// The replies that are a single word.
const SHORTHANDS: [&str; 5] = ["stored", "lost", "found", "unknown", "down"];

impl<'de> Deserialize<'de> for TokenReplies {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(RepliesVisitor)
    }
}

struct RepliesVisitor;

impl<'de> Visitor<'de> for RepliesVisitor {
    type Value = TokenReplies;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "must be one of {}, a mapping such as {{sqlstate: \"23514\"}}, or a list of these, one per attempt",
            SHORTHANDS.join(", ")
        )
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<TokenReplies, E> {
        reply_of_shorthand(text).map(|reply| TokenReplies(vec![reply]))
    }

    fn visit_map<A: MapAccess<'de>>(self, from: A) -> Result<TokenReplies, A::Error> {
        let reply = ReplyKeys::deserialize(MapAccessDeserializer::new(from))?;
        Ok(TokenReplies(vec![reply]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, from: A) -> Result<TokenReplies, A::Error> {
        let list = Vec::<OneReply>::deserialize(SeqAccessDeserializer::new(from))?;
        Ok(TokenReplies(
            list.into_iter().map(|OneReply(reply)| reply).collect(),
        ))
    }
}

fn reply_of_shorthand<E: serde::de::Error>(text: &str) -> Result<ReplyKeys, E> {
    let shorthand = SHORTHANDS.into_iter().find(|known| *known == text);
    match shorthand {
        Some(shorthand) => Ok(ReplyKeys {
            shorthand: Some(shorthand),
            ..ReplyKeys::default()
        }),
        None => Err(E::invalid_value(
            Unexpected::Other("value"),
            &RepliesVisitor,
        )),
    }
}

/// A reply in a list.
struct OneReply(ReplyKeys);

impl<'de> Deserialize<'de> for OneReply {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(OneReplyVisitor).map(OneReply)
    }
}

struct OneReplyVisitor;

impl<'de> Visitor<'de> for OneReplyVisitor {
    type Value = ReplyKeys;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        RepliesVisitor.expecting(f)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ReplyKeys, E> {
        reply_of_shorthand(text)
    }

    fn visit_map<A: MapAccess<'de>>(self, from: A) -> Result<ReplyKeys, A::Error> {
        ReplyKeys::deserialize(MapAccessDeserializer::new(from))
    }
}

/// The value of `expect.stderr`.
pub(crate) enum ExpectedStderr {
    /// The whole text.
    Whole(String),
    /// Parts of the text.
    Parts(Vec<String>),
}

impl<'de> Deserialize<'de> for ExpectedStderr {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(StderrVisitor)
    }
}

struct StderrVisitor;

impl<'de> Visitor<'de> for StderrVisitor {
    type Value = ExpectedStderr;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("must be text (the whole output) or a list of texts (parts of the output)")
    }

    fn visit_str<E>(self, text: &str) -> Result<ExpectedStderr, E> {
        Ok(ExpectedStderr::Whole(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, from: A) -> Result<ExpectedStderr, A::Error> {
        let parts = Vec::<QuotedText>::deserialize(SeqAccessDeserializer::new(from))?;
        Ok(ExpectedStderr::Parts(
            parts.into_iter().map(|QuotedText(text)| text).collect(),
        ))
    }
}

/// The value of `expect.requests`.
pub(crate) enum ExpectedRequests {
    /// The number of requests.
    Number(u64),
    /// The size of each request.
    Sizes(Vec<u64>),
}

impl<'de> Deserialize<'de> for ExpectedRequests {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(RequestsVisitor)
    }
}

struct RequestsVisitor;

impl<'de> Visitor<'de> for RequestsVisitor {
    type Value = ExpectedRequests;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("must be a whole number or a list of the requested sizes")
    }

    fn visit_u64<E>(self, number: u64) -> Result<ExpectedRequests, E> {
        Ok(ExpectedRequests::Number(number))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, from: A) -> Result<ExpectedRequests, A::Error> {
        let sizes = Vec::deserialize(SeqAccessDeserializer::new(from))?;
        Ok(ExpectedRequests::Sizes(sizes))
    }
}
