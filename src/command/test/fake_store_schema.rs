//! Converts the keys of a case's responses and replies, and checks their combinations.

use std::fmt::Write as _;

use hyper::StatusCode;

use crate::command::test::case::CaseReader;
use crate::command::test::fake_source::{BodyEnd, FakeAnswer, FakeResponse};
use crate::command::test::schema::{EntryKeys, OrderedMap, QuotedText, ReplyKeys, TokenReplies};
use crate::config::yaml_spans::PathStep;
use crate::error::Error;
use crate::store::fake::{FakeError, FakeReplies, FakeReply, ReplyKind};

/// The key of the reply to all other tokens.
const OTHER_TOKENS: &str = "*";

impl CaseReader<'_> {
    /// Converts a response of the source; `generated` counts the tokens of `count`.
    pub(crate) fn entry(
        &self,
        at: [PathStep; 3],
        keys: &EntryKeys,
        generated: &mut u64,
    ) -> Result<FakeAnswer, Error> {
        let under = |key| [at[0], at[1], at[2], PathStep::Key(key)];
        let given = [
            ("tokens", keys.tokens.is_some()),
            ("count", keys.count.is_some()),
            ("body", keys.body.is_some()),
            ("status", keys.status.is_some()),
            ("connect", keys.connect.is_some()),
        ];
        let given: Vec<&str> = given
            .iter()
            .filter_map(|(key, given)| given.then_some(*key))
            .collect();
        if let [first, second, ..] = given[..] {
            let message = format!("an answer cannot have both `{first}` and `{second}`");
            return Err(self.problem(&under(second), message));
        }
        let early_ends = [("cut", keys.cut), ("timeout", keys.timeout)];
        let early_ends: Vec<&str> = early_ends
            .iter()
            .filter_map(|(key, on)| (*on == Some(true)).then_some(*key))
            .collect();
        let ending = match early_ends[..] {
            [] => BodyEnd::Complete,
            ["cut"] => BodyEnd::Cut,
            ["timeout"] => BodyEnd::Stalled,
            _ => {
                let message = "an answer cannot have both `cut` and `timeout`";
                return Err(self.problem(&under("timeout"), message));
            }
        };
        if let (Some(early_end), Some(other @ ("status" | "connect"))) =
            (early_ends.first(), given.first().copied())
        {
            let message = format!("an answer cannot have both `{other}` and `{early_end}`");
            return Err(self.problem(&under(early_end), message));
        }
        if keys.retry_after.is_some() && keys.status.is_none() {
            let message = "`retry_after` requires a `status`, such as 503";
            return Err(self.problem(&under("retry_after"), message));
        }
        let answer = if let Some(status) = keys.status {
            let status = StatusCode::from_u16(status)
                .ok()
                .filter(|status| *status != StatusCode::OK);
            let Some(status) = status else {
                let message =
                    "`status` must be an HTTP status other than 200; `tokens` answers 200";
                return Err(self.problem(&under("status"), message));
            };
            FakeResponse::Status(status, keys.retry_after)
        } else if keys.connect.is_some() {
            FakeResponse::Refused
        } else if given.is_empty() && ending == BodyEnd::Complete {
            let message = "an answer needs `tokens`, `count`, `body`, `status`, `timeout`, `cut` or `connect`";
            return Err(self.problem(&at, message));
        } else {
            FakeResponse::Body(body(keys, generated), ending)
        };
        Ok(FakeAnswer {
            delay: keys.delay.unwrap_or_default(),
            answer,
        })
    }

    /// Converts the replies of the database.
    pub(crate) fn store(
        &self,
        here: PathStep,
        keys: Option<OrderedMap<TokenReplies>>,
    ) -> Result<FakeReplies, Error> {
        let mut script = FakeReplies::default();
        for (token, TokenReplies(replies)) in
            keys.map(|OrderedMap(entries)| entries).unwrap_or_default()
        {
            let at = [here, PathStep::Key("store"), PathStep::Key(&token)];
            if replies.is_empty() {
                return Err(self.problem(&at, "the list needs at least one reply"));
            }
            let replies = replies
                .into_iter()
                .map(|keys| reply(keys).map_err(|message| self.problem(&at, message)))
                .collect::<Result<Vec<FakeReply>, Error>>()?;
            if token == OTHER_TOKENS {
                script.others = replies;
            } else {
                script.replies.insert(token, replies);
            }
        }
        Ok(script)
    }
}

/// Returns the body of a response: the given one, or generated tokens `t1`, `t2` and so on.
fn body(keys: &EntryKeys, generated: &mut u64) -> String {
    if let Some(body) = &keys.body {
        return body.clone();
    }
    let mut body = String::new();
    for QuotedText(token) in keys.tokens.iter().flatten() {
        body.push_str(token);
        body.push('\n');
    }
    for _ in 0..keys.count.unwrap_or_default() {
        *generated += 1;
        // Writing into a string cannot fail.
        let _ = writeln!(body, "t{generated}");
    }
    body
}

fn reply(keys: ReplyKeys) -> Result<FakeReply, String> {
    let delay = keys.delay.unwrap_or_default();
    let fields = [
        &keys.routine,
        &keys.table,
        &keys.column,
        &keys.constraint,
        &keys.message,
    ]
    .map(Option::is_some);
    let kind = match (keys.sqlstate, keys.reject, keys.shorthand) {
        (Some(_), Some(_), _) => {
            return Err("a reply cannot have both `sqlstate` and `reject`".to_owned());
        }
        (Some(sqlstate), None, _) => ReplyKind::Code(Box::new(FakeError {
            sqlstate,
            severity: keys.severity.map(|severity| severity.as_str().to_owned()),
            routine: keys.routine,
            table: keys.table,
            column: keys.column,
            constraint: keys.constraint,
            message: keys.message,
        })),
        _ if keys.severity.is_some() || fields.contains(&true) => {
            return Err(
                "`severity`, `routine`, `table`, `column`, `constraint` and `message` require a \
                 `sqlstate`"
                    .to_owned(),
            );
        }
        (None, Some(reason), _) => ReplyKind::Refused(reason),
        (None, None, Some("lost")) => ReplyKind::Lost,
        (None, None, Some("found")) => ReplyKind::Found,
        (None, None, Some("unknown")) => ReplyKind::Unknown,
        (None, None, Some("down")) => ReplyKind::Down,
        (None, None, _) => ReplyKind::Stored,
    };
    Ok(FakeReply { delay, kind })
}
