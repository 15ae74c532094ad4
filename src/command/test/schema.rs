//! Reads the keys of a case: the answers of the source, the replies of the database, the signals and the
//! expected results. Each mistake is recorded with its place.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::StatusCode;
use tracing::level_filters::LevelFilter;

use crate::cli::value::{self, ParseResult};
use crate::command::test::case::{
    CaseSignal, Expected, ExpectedRequests, ExpectedStderr, SignalTime, TestCase,
};
use crate::command::test::fake_source::{BodyEnd, FakeAnswer, FakeResponse};
use crate::config::test_case::{self, QUOTED};
use crate::config::yaml::{Field, Mapping, YamlContent};
use crate::error::exit::Cause;
use crate::pipeline::concurrency::MAX_CONCURRENCY;
use crate::pipeline::numbers::Numbers;
use crate::pipeline::token::Status;
use crate::report::{FORMATS, ReportFormat};
use crate::store::fake::{FakeError, FakeReplies, FakeReply, ReplyKind};

/// The key of the reply to all other tokens.
const OTHER_TOKENS: &str = "*";
/// The replies that are a single word.
const SHORTHANDS: [(&str, ReplyKind); 5] = [
    ("stored", ReplyKind::Stored),
    ("lost", ReplyKind::Lost),
    ("found", ReplyKind::Found),
    ("unknown", ReplyKind::Unknown),
    ("down", ReplyKind::Down),
];
const REPLY_RULE: &str = "must be one of stored, lost, found, unknown, down, a mapping such as {sqlstate: \"23514\"}, or a list of these, one per attempt";

/// Reads the case at `index` of its file, whose script is relative to the folder of the file.
pub(crate) fn case(
    index: usize,
    field: &Field,
    script_path: impl Fn(&Path) -> PathBuf,
) -> Option<TestCase> {
    if field.is_null() {
        field.has_wrong_type("must be a mapping of keys");
    }
    let mut keys = field.mapping()?;
    report_empty(&keys);
    let name = keys.get("name").map(|name| text(&name));
    let skip = keys.get("skip").and_then(|skip| text(&skip));
    let settings = test_case::read(&mut keys, script_path);
    let concurrency = parsed(&mut keys, "concurrency", requests_at_a_time);
    let mut generated = 0;
    let entries = items(keys.get("source"));
    let entries = entries
        .iter()
        .filter_map(|entry| answer(entry, &mut generated))
        .collect();
    let store = keys.get("store").and_then(|store| store.mapping());
    let store = store.as_ref().map(replies).unwrap_or_default();
    let signals = items(keys.get("signals"));
    let signals = signals.iter().filter_map(signal).collect();
    let expect = keys.get("expect").and_then(|expect| expect.mapping());
    let expect = expect.map(expected).unwrap_or_default();
    keys.report_unknown(|_| None);
    let name = name.unwrap_or_else(|| Some(String::new()))?;
    if name.trim().is_empty() {
        field.fail("the case has no `name`");
    }
    let mut settings = settings?;
    settings.log.level = LevelFilter::INFO;
    Some(TestCase {
        index,
        name,
        skip,
        settings,
        concurrency: concurrency.unwrap_or(1),
        entries,
        store,
        signals,
        expect,
    })
}

/// Records keys without a value: a key that compares or sets nothing is a mistake.
fn report_empty(keys: &Mapping) {
    for (key, field) in keys.entries().filter(|(_, field)| field.is_null()) {
        let message = format!(
            "`{}` has no value: give it one, or remove the key",
            field.path
        );
        keys.fail_at(&key.value, message);
    }
}

fn text(field: &Field) -> Option<String> {
    field.text("must be text")
}

/// Parses the number of requests that may be under way at a time. It is not found out while a case runs,
/// so that the case is the same on every machine.
fn requests_at_a_time(text: &str) -> ParseResult<usize> {
    match text.parse() {
        Ok(count @ 1..=MAX_CONCURRENCY) => Ok(count),
        _ => Err(format!(
            "must be a whole number from 1 to {MAX_CONCURRENCY}"
        )),
    }
}

fn items(field: Option<Field>) -> Vec<Field> {
    field.map(|field| field.items()).unwrap_or_default()
}

/// Returns the value of a key that a parser reads.
fn parsed<T>(keys: &mut Mapping, key: &str, parse: impl Fn(&str) -> ParseResult<T>) -> Option<T> {
    keys.get(key)?.value(parse)
}

fn duration(keys: &mut Mapping, key: &str) -> Option<Duration> {
    parsed(keys, key, value::duration)
}

/// Reads an answer of the source; `generated` counts the tokens of `count`.
fn answer(field: &Field, generated: &mut u64) -> Option<FakeAnswer> {
    let mut keys = field.mapping()?;
    report_empty(&keys);
    let tokens = keys.get("tokens");
    let count = keys.get("count");
    let body = keys.get("body");
    let status = keys.get("status");
    let retry_after = duration(&mut keys, "retry_after");
    let is_stalled = keys.get("timeout").and_then(|timeout| timeout.switch());
    let is_cut = keys.get("cut").and_then(|cut| cut.switch());
    let connect = keys.get("connect");
    let delay = duration(&mut keys, "delay").unwrap_or_default();
    if keys.report_unknown(|_| None) {
        return None;
    }
    let given = [
        ("tokens", tokens.is_some()),
        ("count", count.is_some()),
        ("body", body.is_some()),
        ("status", status.is_some()),
        ("connect", connect.is_some()),
    ];
    let given = given
        .iter()
        .filter_map(|(key, given)| given.then_some(*key));
    let early_ends = [("cut", is_cut), ("timeout", is_stalled)];
    let early_ends = early_ends.iter().filter(|(_, on)| *on == Some(true));
    let early_ends: Vec<&str> = early_ends.map(|(key, _)| *key).collect();
    let given: Vec<&str> = given.collect();
    let conflict = match (&given[..], &early_ends[..]) {
        ([first, second, ..], _)
        | (_, [first, second])
        | ([first @ ("status" | "connect")], [second]) => Some((first, second)),
        _ => None,
    };
    if let Some((first, second)) = conflict {
        let message = format!("an answer cannot have both `{first}` and `{second}`");
        keys.fail_at(second, message);
        return None;
    }
    if retry_after.is_some() && status.is_none() {
        keys.fail_at(
            "retry_after",
            "`retry_after` requires a `status`, such as 503",
        );
    }
    let answer = if let Some(status) = status {
        let status = StatusCode::from_u16(status.value(value::number)?);
        let Some(status) = status.ok().filter(|status| *status != StatusCode::OK) else {
            let message = "`status` must be an HTTP status other than 200; `tokens` answers 200";
            keys.fail_at("status", message);
            return None;
        };
        FakeResponse::Status(status, retry_after)
    } else if let Some(connect) = connect {
        connect.value(|text| match text {
            "refused" => Ok(FakeResponse::Refused),
            _ => Err("must be refused".to_owned()),
        })?
    } else if given.is_empty() && early_ends.is_empty() {
        field.fail(
            "an answer needs `tokens`, `count`, `body`, `status`, `timeout`, `cut` or `connect`",
        );
        return None;
    } else {
        let body = match (body, count) {
            (Some(body), _) => text(&body)?,
            (_, Some(count)) => generate(count.value(value::number)?, generated),
            _ => {
                let tokens = items(tokens);
                let tokens = tokens.iter().filter_map(|token| token.text(QUOTED));
                tokens.map(|token| token + "\n").collect()
            }
        };
        let ending = match early_ends.first() {
            Some(&"cut") => BodyEnd::Cut,
            Some(_) => BodyEnd::Stalled,
            None => BodyEnd::Complete,
        };
        FakeResponse::Body(body, ending)
    };
    Some(FakeAnswer { delay, answer })
}

/// Returns `count` tokens: `t1`, `t2` and so on.
fn generate(count: u64, generated: &mut u64) -> String {
    let mut body = String::new();
    for _ in 0..count {
        *generated += 1;
        // Writing into a string cannot fail.
        let _ = writeln!(body, "t{generated}");
    }
    body
}

/// Reads the replies of the database to each token, one per attempt.
fn replies(store: &Mapping) -> FakeReplies {
    let mut script = FakeReplies::default();
    for (token, field) in store.entries() {
        let replies = if field.is_list() {
            let items = field.items();
            if items.is_empty() {
                store.fail_at(&token.value, "the list needs at least one reply");
            }
            items.iter().filter_map(reply).collect()
        } else {
            Vec::from_iter(reply(&field))
        };
        if token.value == OTHER_TOKENS {
            script.others = replies;
        } else {
            script.replies.insert(token.value.clone(), replies);
        }
    }
    script
}

fn reply(field: &Field) -> Option<FakeReply> {
    let keys = match &field.node.content {
        YamlContent::Map(_) => field.mapping()?,
        YamlContent::Text(word) => {
            let found = SHORTHANDS.into_iter().find(|(known, _)| known == word);
            if found.is_none() {
                field.breaks(REPLY_RULE);
            }
            let delay = Duration::ZERO;
            return found.map(|(_, kind)| FakeReply { delay, kind });
        }
        _ => {
            field.has_wrong_type(REPLY_RULE);
            return None;
        }
    };
    reply_of_keys(field, keys)
}

fn reply_of_keys(field: &Field, mut keys: Mapping) -> Option<FakeReply> {
    report_empty(&keys);
    let sqlstate = keys.get("sqlstate");
    let severity = parsed(&mut keys, "severity", |text| match text {
        "ERROR" | "FATAL" | "PANIC" | "WARNING" => Ok(text.to_owned()),
        _ => Err("must be one of ERROR, FATAL, PANIC, WARNING".to_owned()),
    });
    let [routine, table, column, constraint, message] =
        ["routine", "table", "column", "constraint", "message"]
            .map(|key| keys.get(key).and_then(|field| text(&field)));
    let reject = keys.get("reject").and_then(|reject| text(&reject));
    let delay = duration(&mut keys, "delay").unwrap_or_default();
    if keys.report_unknown(|_| None) {
        return None;
    }
    let details = [&severity, &routine, &table, &column, &constraint, &message];
    let has_details = details.into_iter().any(Option::is_some);
    let kind = match (sqlstate, reject) {
        (Some(_), Some(_)) => {
            field.fail("a reply cannot have both `sqlstate` and `reject`");
            return None;
        }
        (Some(sqlstate), None) => ReplyKind::Code(Box::new(FakeError {
            sqlstate: sqlstate.value(parse_sqlstate)?,
            severity,
            routine,
            table,
            column,
            constraint,
            message,
        })),
        (None, _) if has_details => {
            field.fail("`severity`, `routine`, `table`, `column`, `constraint` and `message` require a `sqlstate`");
            return None;
        }
        (None, Some(reason)) => ReplyKind::Refused(reason),
        (None, None) => ReplyKind::Stored,
    };
    Some(FakeReply { delay, kind })
}

fn parse_sqlstate(text: &str) -> ParseResult<String> {
    let plain = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_uppercase();
    if text.len() == 5 && text.bytes().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("must be a five-character SQLSTATE in quotes, such as \"23514\"".to_owned())
    }
}

fn signal(field: &Field) -> Option<CaseSignal> {
    let mut keys = field.mapping()?;
    report_empty(&keys);
    let name = keys.get("name");
    let after_requests = keys.get("after_requests");
    let at = keys.get("at");
    if keys.report_unknown(|_| None) {
        return None;
    }
    let when = match (after_requests, at) {
        (Some(number), None) => {
            let number = number.value(value::positive)?;
            SignalTime::Answered(usize::try_from(number).unwrap_or(usize::MAX))
        }
        (None, Some(moment)) => SignalTime::At(moment.value(value::duration)?),
        _ => {
            field.fail("a signal needs either `after_requests` or `at`");
            return None;
        }
    };
    let Some(name) = name else {
        field.fail("a signal needs a `name`: TERM, INT, HUP or QUIT");
        return None;
    };
    let cause = name.value(|text| {
        let mut signals = Cause::ALL.into_iter().filter(|cause| cause.is_signal());
        let named = signals.find(|cause| {
            cause.as_str().trim_start_matches("SIG") == text.trim_start_matches("SIG")
        });
        named.ok_or_else(|| "must be TERM, INT, HUP or QUIT".to_owned())
    })?;
    Some(CaseSignal { cause, when })
}

fn expected(mut keys: Mapping) -> Expected {
    report_empty(&keys);
    let exit = parsed(&mut keys, "exit", value::number);
    let counts = keys.get("counts").and_then(|counts| counts.mapping());
    let report = keys.get("report").and_then(|report| text(&report));
    let reports = keys.get("reports").and_then(|reports| reports.mapping());
    let expected = Expected {
        exit: exit.unwrap_or_default(),
        counts: counts.map(expected_counts),
        report,
        reports: reports.map(expected_reports).unwrap_or_default(),
        stdout: keys.get("stdout").and_then(|stdout| text(&stdout)),
        stderr: keys
            .get("stderr")
            .and_then(|stderr| expected_stderr(&stderr)),
        slept: duration(&mut keys, "slept"),
        requests: keys
            .get("requests")
            .and_then(|field| expected_requests(&field)),
        files: keys.get("files").and_then(|files| expected_files(&files)),
    };
    keys.report_unknown(|_| None);
    expected
}

fn expected_counts(mut keys: Mapping) -> Numbers {
    report_empty(&keys);
    let mut count = |status: Status| {
        let given = parsed(&mut keys, status.as_str(), value::number);
        given.unwrap_or_default()
    };
    let counts = Numbers {
        stored: count(Status::Stored),
        rejected: count(Status::Rejected),
        failed: count(Status::Failed),
        unknown: count(Status::Unknown),
        not_attempted: count(Status::NotAttempted),
        ..Numbers::default()
    };
    keys.report_unknown(|_| None);
    counts
}

fn expected_reports(mut keys: Mapping) -> Vec<(&'static ReportFormat, String)> {
    report_empty(&keys);
    let formats = FORMATS.into_iter().filter(|format| format.is_reproducible);
    let reports = formats.filter_map(|format| Some((format, text(&keys.get(format.name)?)?)));
    let reports: Vec<_> = reports.collect();
    keys.report_unknown(|_| None);
    if keys.entries().next().is_none() {
        keys.field.breaks("needs at least one format");
    }
    reports
}

fn expected_stderr(field: &Field) -> Option<ExpectedStderr> {
    if field.is_list() {
        let parts = field.items();
        if parts.is_empty() {
            field.breaks("needs at least one part");
        }
        let parts = parts.iter().filter_map(|part| part.text(QUOTED));
        return Some(ExpectedStderr::Parts(parts.collect()));
    }
    let whole = "must be text (the whole output) or a list of texts (parts of the output)";
    field.text(whole).map(ExpectedStderr::Whole)
}

fn expected_requests(field: &Field) -> Option<ExpectedRequests> {
    if field.is_list() {
        let sizes = field.items();
        let sizes = sizes.iter().filter_map(|size| size.value(value::number));
        return Some(ExpectedRequests::Sizes(sizes.collect()));
    }
    if matches!(field.node.content, YamlContent::Integer(_)) {
        return field.value(value::number).map(ExpectedRequests::Number);
    }
    field.has_wrong_type("must be a whole number or a list of the requested sizes");
    None
}

fn expected_files(field: &Field) -> Option<Vec<(String, String)>> {
    let files = field.mapping()?;
    let files = files.entries();
    let files = files.filter_map(|(name, text)| Some((name.value.clone(), text.text(QUOTED)?)));
    Some(files.collect())
}
