//! Parsers of single values: numbers, durations, sizes, addresses, reports. The command line, the
//! environment and the configuration file share them.
//!
//! A parser's error states a rule, such as "must be a whole number". It never repeats the value,
//! which may be a secret.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use tracing::level_filters::LevelFilter;
use url::Url;
use uuid::Uuid;

use crate::error::suggest::nearest;
use crate::observe::logging::LineFormat;
use crate::observe::metrics::{MetricLabel, OWN_LABELS};
use crate::observe::progress::ProgressMode;
use crate::pipeline::concurrency::{Concurrency, MAX_CONCURRENCY};
use crate::report::fail_on::Condition;
use crate::report::mask::Mask;
use crate::report::{FORMAT_NAMES, FORMATS, ReportSpec};

/// The result of a parser; the error continues a sentence that begins with the value's name.
pub type ParseResult<T> = Result<T, String>;

/// Returns the message about a value of `name` that a parser refused.
///
/// Leaves out the value if the rule already names its wrong part.
pub fn invalid_value(name: &str, rule: &str, value: &str) -> String {
    if rule.contains(", not `") {
        format!("{name} {rule}")
    } else {
        format!("{name} {rule}, not `{value}`")
    }
}

/// The largest SIZE, which a script's signed 64-bit integers can hold.
pub const MAX_SIZE: u64 = i64::MAX as u64;

/// Parses SIZE, from 1 to [`MAX_SIZE`].
pub fn size(text: &str) -> ParseResult<u64> {
    if let Ok(number @ 1..=MAX_SIZE) = text.parse() {
        return Ok(number);
    }
    let is_whole = text
        .trim_start_matches(['+', '-'])
        .bytes()
        .all(|byte| byte.is_ascii_digit());
    Err(if is_whole && text.len() > 18 && !text.starts_with('-') {
        format!("must be at most {MAX_SIZE}")
    } else {
        String::from("must be a whole number of at least 1, such as 10")
    })
}

/// Parses a whole number of at least 1.
pub fn positive(text: &str) -> ParseResult<u64> {
    match whole(text, 1)? {
        0 => Err(String::from("must be a whole number of at least 1")),
        number => Ok(number),
    }
}

/// Parses a number of concurrent items, from 1 to 10000.
pub fn count(text: &str) -> ParseResult<usize> {
    /// A larger number is a typing error and would exhaust memory.
    const MAX: usize = 10_000;
    match text.parse() {
        Ok(number @ 1..=MAX) => Ok(number),
        _ => Err(format!("must be a whole number from 1 to {MAX}")),
    }
}

/// Parses a number of concurrent items, or `auto`, which is `None`.
pub fn count_or_auto(text: &str) -> ParseResult<Option<usize>> {
    if text == "auto" {
        return Ok(None);
    }
    count(text)
        .map(Some)
        .map_err(|error| error.replace("must be ", "must be auto, or "))
}

/// Parses how many requests may be under way at a time, `auto` or a number.
pub fn concurrency(text: &str) -> ParseResult<Concurrency> {
    match (text, text.parse()) {
        ("auto", _) => Ok(Concurrency::Auto),
        (_, Ok(count @ 1..=MAX_CONCURRENCY)) => Ok(Concurrency::Fixed(count)),
        _ => Err(format!(
            "must be auto, or a whole number from 1 to {MAX_CONCURRENCY}"
        )),
    }
}

/// Parses a rate of requests, such as `10/s`, and returns the time between two of them.
pub fn rate(text: &str) -> ParseResult<Duration> {
    let interval = text.split_once('/').and_then(|(count, unit)| {
        let unit = match unit {
            "s" => Duration::from_secs(1),
            "m" => Duration::from_mins(1),
            "h" => Duration::from_hours(1),
            _ => return None,
        };
        let interval = unit / whole::<u32>(count, 1).ok().filter(|count| *count > 0)?;
        (!interval.is_zero()).then_some(interval)
    });
    interval.ok_or_else(|| {
        String::from(
            "must be a number of requests per second, minute or hour, such as 10/s, 100/m or 500/h",
        )
    })
}

/// Parses a whole number of at least 0.
pub fn number<T: FromStr>(text: &str) -> ParseResult<T> {
    whole(text, 0)
}

fn whole<T: FromStr>(text: &str, min: u8) -> ParseResult<T> {
    let is_whole = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().map_err(|_| {
        if is_whole {
            String::from("must be a smaller number")
        } else {
            format!("must be a whole number of at least {min}")
        }
    })
}

/// Parses a TCP port.
pub fn port(text: &str) -> ParseResult<u16> {
    match text.parse() {
        Ok(0) | Err(_) => Err(String::from("must be a port from 1 to 65535")),
        Ok(port) => Ok(port),
    }
}

/// Parses the comma-separated ports of several hosts.
pub fn ports(text: &str) -> ParseResult<Vec<u16>> {
    text.split(',').map(|one| port(one.trim())).collect()
}

/// Parses a duration with a unit; 0 is allowed.
pub fn duration(text: &str) -> ParseResult<Duration> {
    /// A year. Far longer durations overflow the clock's arithmetic.
    const MAX: Duration = Duration::from_hours(366 * 24);
    let parsed = humantime::parse_duration(text).map_err(|error| match error {
        humantime::DurationError::UnknownUnit { unit, .. } if unit.is_empty() => {
            String::from("must have a unit, such as 500ms, 20s or 10m")
        }
        humantime::DurationError::NumberOverflow => String::from("must be at most a year"),
        _ => String::from("must be a duration, such as 500ms, 20s or 10m"),
    })?;
    if parsed > MAX {
        return Err(String::from("must be at most a year"));
    }
    Ok(parsed)
}

/// Parses a duration with a unit that is longer than 0.
pub fn positive_duration(text: &str) -> ParseResult<Duration> {
    match duration(text)? {
        Duration::ZERO => Err(String::from("must be longer than 0")),
        duration => Ok(duration),
    }
}

/// Parses the age of receipts, longer than 0.
pub fn age(text: &str) -> ParseResult<Duration> {
    /// A longer age overflows the database's arithmetic of dates.
    const MAX: Duration = Duration::from_hours(100 * 366 * 24);
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err(String::from("must be longer than 0")),
        Ok(age) if age <= MAX => Ok(age),
        Ok(_) | Err(humantime::DurationError::NumberOverflow) => {
            Err(String::from("must be at most 100 years"))
        }
        Err(_) => Err(String::from(
            "must be an age with a unit, such as 12h, 30d or 1y",
        )),
    }
}

/// Parses the name of a database role.
pub fn role(text: &str) -> ParseResult<String> {
    if text.is_empty() || text.contains('\0') {
        Err(String::from("must be the name of a role"))
    } else {
        Ok(text.to_owned())
    }
}

/// Parses a size in bytes, with or without a unit; from 1 byte to 1 PiB.
pub fn bytes(text: &str) -> ParseResult<u64> {
    /// More than any machine has. Far larger sizes overflow when sums are compared.
    const MAX: u64 = 1 << 50;
    match text.parse() {
        Ok(ByteSize(bytes @ 1..=MAX)) => Ok(bytes),
        Ok(ByteSize(bytes)) if bytes > MAX => Err(String::from("must be at most 1PiB")),
        _ => Err(String::from(
            "must be a size of at least 1 byte, such as 1KiB or 16MiB",
        )),
    }
}

/// Parses the URL of the source. Without a scheme it means `https`: the first version took a bare
/// host.
pub fn source_url(text: &str) -> ParseResult<Url> {
    let text = text.trim();
    check_address(text)?;
    let url = if text.contains("://") {
        Url::parse(text)
    } else {
        Url::parse(&format!("https://{text}"))
    };
    let mut url = url
        .map_err(|error| format!("must be a URL such as https://tokens.internal/issue: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(String::from("must be an http or https URL"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(String::from(
            "must not contain credentials: set TOKEN_SERVICE_SOURCE_AUTHORIZATION or TOKEN_SERVICE_SOURCE_AUTHORIZATION_FILE instead",
        ));
    }
    url.set_fragment(None);
    Ok(url)
}

/// Checks a URL for what would be taken for a host, or removed.
fn check_address(text: &str) -> ParseResult<()> {
    if text.contains(char::is_whitespace) {
        return Err(String::from("must not contain blanks or line breaks"));
    }
    if text.contains(['"', '\'']) {
        return Err(String::from(
            "must not contain quotation marks; `docker run --env-file`, for example, keeps them",
        ));
    }
    let authority = text.split_once("://").map_or(text, |(_, rest)| rest);
    let host = authority.split(['/', '?', '#']).next().unwrap_or_default();
    if host.contains(['$', '{', '<', '%']) {
        return Err(String::from(
            "must name a host; variables and placeholders are not expanded here",
        ));
    }
    let scheme = text.split([':', '/']).next().unwrap_or_default();
    if !text.contains("://") && matches!(scheme.to_ascii_lowercase().as_str(), "http" | "https") {
        return Err(String::from("must have `://` after the scheme"));
    }
    Ok(())
}

/// Parses a report, `FORMAT` or `FORMAT=PATH`; `-` and `/dev/stdout` mean standard output.
pub fn report(text: &str) -> ParseResult<ReportSpec> {
    let (name, path) = match text.split_once('=') {
        Some((name, path)) => (name, Some(path)),
        None => (text, None),
    };
    let Some(format) = FORMATS.iter().find(|format| format.name == name) else {
        let nearest = nearest(name, &FORMAT_NAMES);
        let known = FORMAT_NAMES.join(", ");
        return Err(match nearest {
            Some(nearest) => format!(
                "must be one of {known}, each with =PATH for a file (did you mean `{nearest}`?)"
            ),
            None => format!("must be one of {known}, each with =PATH for a file"),
        });
    };
    if path == Some("") {
        return Err(format!(
            "must name a path after `=`, or be `{name}` alone for standard output"
        ));
    }
    Ok(ReportSpec {
        format,
        path: path
            .filter(|path| !matches!(*path, "-" | "/dev/stdout"))
            .map(PathBuf::from),
        no_clobber: false,
    })
}

/// Parses a label of the metrics file, `NAME=VALUE`, by the rules of Prometheus.
pub fn metric_label(text: &str) -> ParseResult<MetricLabel> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| String::from("must be NAME=VALUE, such as job=nightly"))?;
    let is_letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    let is_name = name.bytes().next().is_some_and(is_letter)
        && name
            .bytes()
            .all(|byte| is_letter(byte) || byte.is_ascii_digit());
    if !is_name {
        return Err(String::from(
            "must have a name of ASCII letters, digits and `_` that begins with no digit",
        ));
    }
    if name.starts_with("__") {
        return Err(String::from(
            "must have a name that does not begin with `__`, which Prometheus reserves",
        ));
    }
    if value.is_empty() {
        return Err(String::from(
            "must have a value: an empty label is the same as none",
        ));
    }
    if OWN_LABELS.contains(&name) || name == "le" {
        return Err(format!(
            "must have another name than those of the metrics' own labels: {}, le",
            OWN_LABELS.join(", ")
        ));
    }
    Ok(MetricLabel {
        name: name.to_owned(),
        value: value.to_owned(),
    })
}

/// Parses the mode of the progress display.
pub fn progress(text: &str) -> ParseResult<ProgressMode> {
    let all = ProgressMode::ALL.iter();
    let found = all.clone().find(|(name, _)| *name == text);
    found.map(|(_, progress)| *progress).ok_or_else(|| {
        let names: Vec<&str> = all.map(|(name, _)| *name).collect();
        format!(
            "must be {}",
            names.join(", ").replace(", never", " or never")
        )
    })
}

/// A shard as the user gives it: `I/N`, or `/N` if the platform sets I.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardArg {
    /// I, if it was given.
    pub index: Option<u64>,
    /// N.
    pub count: u64,
}

impl FromStr for ShardArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rule = || String::from("must be I/N with I from 0 to N - 1, such as 0/4, or /N");
        let (index, count) = text.split_once('/').ok_or_else(rule)?;
        let index = match index {
            "" => None,
            index => Some(index.parse().map_err(|_| rule())?),
        };
        let count: u64 = count.parse().map_err(|_| rule())?;
        match index {
            _ if count == 0 => Err(rule()),
            Some(index) if index >= count => Err(rule()),
            index => Ok(Self { index, count }),
        }
    }
}

/// Parses a shard.
pub fn shard(text: &str) -> ParseResult<ShardArg> {
    text.parse()
}

/// The id of a run that the operator names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunId(pub Uuid);

/// The namespace of the UUIDs that are made from other ids; random, and fixed for ever.
const RUN_ID_NAMESPACE: Uuid = Uuid::from_u128(0x8a51_0d5e_6c0b_4f7e_9d37_2b1f_a4c8_60e3);

/// Parses the id of a run. A UUID is taken as it is; another text, such as the name of a job, becomes a
/// UUID (version 5).
pub fn run_id(text: &str) -> ParseResult<RunId> {
    if text.trim().is_empty() {
        return Err(String::from("must not be empty"));
    }
    let id = Uuid::parse_str(text);
    Ok(RunId(id.unwrap_or_else(|_| {
        Uuid::new_v5(&RUN_ID_NAMESPACE, text.as_bytes())
    })))
}

/// Parses how reports show tokens.
pub fn mask(text: &str) -> ParseResult<Mask> {
    let found = Mask::ALL.iter().find(|(name, _)| *name == text);
    found.map(|(_, mask)| *mask).ok_or_else(|| {
        format!(
            "must be one of {}",
            Mask::ALL.map(|(name, _)| name).join(", ")
        )
    })
}

/// Parses a condition under which a completed run fails.
pub fn condition(text: &str) -> ParseResult<Condition> {
    text.parse()
}

/// Parses the address that a server listens on.
pub fn address(text: &str) -> ParseResult<SocketAddr> {
    text.parse().map_err(|_| {
        String::from("must be an address and a port, such as 127.0.0.1:8080 or 0.0.0.0:8080")
    })
}

/// Parses a log level.
pub fn level(text: &str) -> ParseResult<LevelFilter> {
    // LevelFilter's own parser also accepts numbers and any case.
    match text {
        "off" | "error" | "warn" | "info" | "debug" | "trace" => {
            text.parse().map_err(|_| String::from("must be a level"))
        }
        _ => Err(String::from(
            "must be one of off, error, warn, info, debug, trace",
        )),
    }
}

/// Parses the format of log lines or errors.
pub fn line_format(text: &str) -> ParseResult<LineFormat> {
    match text {
        "text" => Ok(LineFormat::Text),
        "json" => Ok(LineFormat::Json),
        _ => Err(String::from("must be text or json")),
    }
}

/// Parses a boolean of the environment or the file, in upper or lower case.
pub fn switch(text: &str) -> ParseResult<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(String::from("must be true or false")),
    }
}

/// Parses the name of a header and returns it in lower case.
pub fn header_name(text: &str) -> ParseResult<String> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if text.is_empty() || !text.bytes().all(is_token) {
        return Err(String::from(
            "must be a header name: letters, digits and `-`",
        ));
    }
    Ok(text.to_ascii_lowercase())
}

/// Parses the name of the header of idempotency keys and returns it in lower case.
pub fn idempotency_header(text: &str) -> ParseResult<String> {
    /// The headers that the client sets itself.
    const OWN: [&str; 12] = [
        "accept",
        "accept-encoding",
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "expect",
        "host",
        "proxy-authorization",
        "traceparent",
        "tracestate",
        "transfer-encoding",
    ];
    let name = header_name(text)?;
    if OWN.contains(&name.as_str()) {
        return Err(String::from(
            "must not be a header that the program sets, such as content-type or authorization",
        ));
    }
    Ok(name)
}

/// Parses the value of a header, which may be a secret.
pub fn header_value(text: &str) -> ParseResult<String> {
    if is_header_value(text) {
        Ok(text.to_owned())
    } else {
        Err(String::from("must not contain control characters"))
    }
}

/// Returns true if the text can be sent as the value of a header.
pub fn is_header_value(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f))
}
