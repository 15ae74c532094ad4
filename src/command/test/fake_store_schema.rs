//! What a case writes down of the source's answers and the database's replies: which keys go with
//! which, and what they mean.

use std::fmt::Write as _;

use hyper::StatusCode;

use crate::command::test::case::CaseReader;
use crate::command::test::fake_source::{BodyEnd, FakeAnswer, FakeResponse};
use crate::command::test::schema::{EntryKeys, OrderedMap, QuotedText, ReplyKeys, TokenReplies};
use crate::config::yaml_spans::PathStep;
use crate::error::diagnostic::Problem;
use crate::store::fake::{FakeError, FakeReplies, FakeReply, ReplyKind};

/// The key of the reply that every other token gets.
const OTHERS: &str = "*";

impl CaseReader<'_> {
    /// An answer of the source; `made` counts the tokens that were made up.
    pub(crate) fn entry(
        &self,
        at: [PathStep; 3],
        keys: &EntryKeys,
        made: &mut u64,
    ) -> Result<FakeAnswer, Problem> {
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
        let broken = [("cut", keys.cut), ("timeout", keys.timeout)];
        let broken: Vec<&str> = broken
            .iter()
            .filter_map(|(key, on)| (*on == Some(true)).then_some(*key))
            .collect();
        let ending = match broken[..] {
            [] => BodyEnd::Whole,
            ["cut"] => BodyEnd::Cut,
            ["timeout"] => BodyEnd::Silence,
            _ => {
                let message = "an answer cannot be both `cut` and a `timeout`";
                return Err(self.problem(&under("timeout"), message));
            }
        };
        if let (Some(broken), Some(other @ ("status" | "connect"))) =
            (broken.first(), given.first().copied())
        {
            let message = format!("an answer cannot have both `{other}` and `{broken}`");
            return Err(self.problem(&under(broken), message));
        }
        if keys.retry_after.is_some() && keys.status.is_none() {
            let message = "`retry_after` goes with a `status`, such as 503";
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
        } else if given.is_empty() && ending == BodyEnd::Whole {
            let message = "an answer needs `tokens`, `count`, `body`, `status`, `timeout`, `cut` or `connect`";
            return Err(self.problem(&at, message));
        } else {
            FakeResponse::Body(body(keys, made), ending)
        };
        Ok(FakeAnswer {
            delay: keys.delay.unwrap_or_default(),
            answer,
        })
    }

    /// What the database says.
    pub(crate) fn store(
        &self,
        here: PathStep,
        keys: Option<OrderedMap<TokenReplies>>,
    ) -> Result<FakeReplies, Problem> {
        let mut script = FakeReplies::default();
        for (token, TokenReplies(replies)) in
            keys.map(|OrderedMap(entries)| entries).unwrap_or_default()
        {
            let at = [here, PathStep::Key("store"), PathStep::Key(&token)];
            if replies.is_empty() {
                return Err(self.problem(&at, "the list needs a reply for the first try"));
            }
            let replies = replies
                .into_iter()
                .map(|reply| says(reply).map_err(|message| self.problem(&at, message)))
                .collect::<Result<Vec<FakeReply>, Problem>>()?;
            if token == OTHERS {
                script.others = replies;
            } else {
                script.replies.insert(token, replies);
            }
        }
        Ok(script)
    }
}

/// The body of an answer: what is given, or tokens `t1`, `t2` and so on, new ones each time.
fn body(keys: &EntryKeys, made: &mut u64) -> String {
    if let Some(body) = &keys.body {
        return body.clone();
    }
    let mut body = String::new();
    for QuotedText(token) in keys.tokens.iter().flatten() {
        body.push_str(token);
        body.push('\n');
    }
    for _ in 0..keys.count.unwrap_or_default() {
        *made += 1;
        // Writing into a string cannot fail.
        let _ = writeln!(body, "t{made}");
    }
    body
}

fn says(keys: ReplyKeys) -> Result<FakeReply, String> {
    let delay = keys.delay.unwrap_or_default();
    let fields = [
        &keys.routine,
        &keys.table,
        &keys.column,
        &keys.constraint,
        &keys.message,
    ]
    .map(Option::is_some);
    let kind = match (keys.sqlstate, keys.reject, keys.word) {
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
                "`severity`, `routine`, `table`, `column`, `constraint` and `message` go with a \
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
