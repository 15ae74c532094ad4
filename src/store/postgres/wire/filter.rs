//! Parses a server's messages, in pieces of any size, and forwards, changes or drops each.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::store::postgres::AuthMethod;
use crate::store::postgres::wire::fields::{ErrorFields, encode_error};
use crate::store::postgres::wire::{ConnectionMonitor, MESSAGE_LIMIT, ProtocolViolation};

/// The length of a message's type and length fields.
const HEADER: usize = 5;
/// The longest error or notice: PostgreSQL allocates less. It is not buffered.
const ERROR_LIMIT: u64 = 1 << 30;
/// The longest authentication request and `BackendKeyData`.
const AUTH_LIMIT: u64 = 64 << 10;
/// The longest command tag; PostgreSQL's have at most 64 bytes.
const TAG_LIMIT: u64 = 256;
/// The longest `ParameterStatus` that is read.
const PARAMETER_LIMIT: u64 = 256;
/// The most messages before the session is ready; PostgreSQL sends about 20.
const STARTUP_MESSAGES: u32 = 256;
/// The usual reply to an INSERT of one row: `BindComplete`, `CommandComplete`, `ReadyForQuery`.
pub(super) const INSERT_REPLY: &[u8] = b"2\0\0\0\x04C\0\0\0\x0fINSERT 0 1\0Z\0\0\0\x05I";
/// The same with a receipt: before `CommandComplete`, `DataRow` with the number of rows, 1.
const RECEIPT_REPLY: &[u8] =
    b"2\0\0\0\x04D\0\0\0\x0e\0\x01\0\0\0\x04\0\0\0\x01C\0\0\0\x0fINSERT 0 1\0Z\0\0\0\x05I";
/// The routine of the warning that no standby confirmed a commit.
const SYNC_REP: &[u8] = b"SyncRepWaitForLSN";

/// Returns the length of the usual reply at the beginning of `bytes`, if it is one.
fn usual_reply(bytes: &[u8]) -> Option<usize> {
    let mut usual = [INSERT_REPLY, RECEIPT_REPLY].into_iter();
    usual
        .find(|reply| bytes.starts_with(reply))
        .map(<[u8]>::len)
}

/// Filters the messages of one connection.
pub(super) struct MessageFilter {
    monitor: Arc<ConnectionMonitor>,
    state: FilterState,
    /// True once the session was ready.
    is_ready: bool,
    has_auth_begun: bool,
    startup_messages: u32,
    /// The forwarded bytes of the current reply.
    reply_len: u64,
}

/// The position of the next byte within a message.
enum FilterState {
    /// In the type and length; the number of bytes that have arrived.
    Header([u8; HEADER], usize),
    /// In a forwarded body; the number of remaining bytes.
    Forward(u64),
    /// In a dropped body.
    Skip(u64),
    /// In a body that is buffered until complete.
    Collect(u8, Vec<u8>, u64),
    /// In an error (true) or a notice.
    Fields(bool, ErrorFields, u64),
}

/// The forwarded bytes: a prefix of `bytes` stays in place, the rest is appended to `out`.
struct FilterOutput<'a> {
    bytes: &'a [u8],
    kept: usize,
    out: &'a mut Vec<u8>,
}

impl FilterOutput<'_> {
    fn forward(&mut self, range: Range<usize>) {
        if range.start == self.kept {
            debug_assert!(self.out.is_empty(), "what was appended comes later");
            self.kept = range.end;
        } else {
            self.out.extend_from_slice(&self.bytes[range]);
        }
    }
}

/// What to do with a complete message.
enum MessageAction {
    Forward,
    Replace(Vec<u8>),
}

impl MessageFilter {
    pub(super) fn new(monitor: Arc<ConnectionMonitor>) -> Self {
        Self {
            monitor,
            state: FilterState::Header([0; HEADER], 0),
            is_ready: false,
            has_auth_begun: false,
            startup_messages: 0,
            reply_len: 0,
        }
    }

    /// Returns true until the session is ready.
    pub(super) fn is_starting(&self) -> bool {
        !self.is_ready
    }

    /// Filters `bytes`.
    ///
    /// Returns how many of the first bytes are forwarded in place; `out`, which must be empty,
    /// follows them. On an error at most the beginning of the offending message is forwarded.
    pub(super) fn filter(
        &mut self,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> (usize, Result<(), ProtocolViolation>) {
        let mut output = FilterOutput {
            bytes,
            kept: 0,
            out,
        };
        let mut at = 0;
        while at < bytes.len() {
            if matches!(self.state, FilterState::Header(_, 0))
                && self.is_ready
                && let Some(length) = usual_reply(&bytes[at..])
            {
                output.forward(at..at + length);
                at += length;
                self.reply_len = 0;
                continue;
            }
            match self.step(at, &mut output) {
                Ok(next) => at = next,
                Err(violation) => return (output.kept, Err(violation)),
            }
        }
        (output.kept, Ok(()))
    }

    /// Reads a part of one message from `at`; returns where it ended.
    fn step(
        &mut self,
        at: usize,
        output: &mut FilterOutput<'_>,
    ) -> Result<usize, ProtocolViolation> {
        let bytes = output.bytes;
        // How much of a body has arrived.
        let available =
            |left: u64| usize::try_from(left).map_or(bytes.len(), |n| n.min(bytes.len() - at));
        match &mut self.state {
            FilterState::Header(_, 0) if bytes.len() - at >= HEADER => {
                self.start_in_place(at, output)
            }
            FilterState::Header(header, header_len) => {
                let count = (HEADER - *header_len).min(bytes.len() - at);
                header[*header_len..*header_len + count].copy_from_slice(&bytes[at..at + count]);
                *header_len += count;
                if *header_len == HEADER {
                    let header = *header;
                    self.start_message(header, output)?;
                }
                Ok(at + count)
            }
            FilterState::Forward(left) => {
                let count = available(*left);
                output.forward(at..at + count);
                *left -= count as u64;
                if *left == 0 {
                    self.state = FilterState::Header([0; HEADER], 0);
                }
                Ok(at + count)
            }
            FilterState::Skip(left) => {
                let count = available(*left);
                *left -= count as u64;
                if *left == 0 {
                    self.state = FilterState::Header([0; HEADER], 0);
                }
                Ok(at + count)
            }
            FilterState::Collect(_, body, left) => {
                let count = available(*left);
                body.extend_from_slice(&bytes[at..at + count]);
                *left -= count as u64;
                if *left == 0 {
                    self.finish_message(output)?;
                }
                Ok(at + count)
            }
            FilterState::Fields(_, fields, left) => {
                let count = available(*left);
                fields.push(&bytes[at..at + count]);
                *left -= count as u64;
                if *left == 0 {
                    self.finish_message(output)?;
                }
                Ok(at + count)
            }
        }
    }

    /// Starts a message whose header is in `output.bytes`.
    ///
    /// Usual, complete messages are neither copied nor buffered.
    fn start_in_place(
        &mut self,
        at: usize,
        output: &mut FilterOutput<'_>,
    ) -> Result<usize, ProtocolViolation> {
        let bytes = output.bytes;
        let body = at + HEADER;
        let header = [
            bytes[at],
            bytes[at + 1],
            bytes[at + 2],
            bytes[at + 3],
            bytes[at + 4],
        ];
        let (tag, left) = self.check_header(header)?;
        let end = usize::try_from(left)
            .ok()
            .and_then(|left| body.checked_add(left))
            .filter(|end| *end <= bytes.len());
        match (read_mode(tag, left), end) {
            (ReadMode::Forward, Some(end)) => {
                self.count(HEADER + (end - body))?;
                output.forward(at..end);
                Ok(end)
            }
            (ReadMode::Collect, Some(end)) => {
                match self.decide(tag, &bytes[body..end])? {
                    MessageAction::Forward => {
                        self.count_forwarded(tag, HEADER + (end - body))?;
                        output.forward(at..end);
                    }
                    MessageAction::Replace(message) => {
                        self.count(message.len())?;
                        output.out.extend_from_slice(&message);
                    }
                }
                Ok(end)
            }
            (ReadMode::Forward, None) => {
                self.count(HEADER + usize::try_from(left).unwrap_or(usize::MAX))?;
                output.forward(at..body);
                self.state = FilterState::Forward(left);
                Ok(body)
            }
            _ => {
                self.enter_body(tag, left, output)?;
                Ok(body)
            }
        }
    }

    /// Starts a message whose header arrived in pieces.
    fn start_message(
        &mut self,
        header: [u8; HEADER],
        output: &mut FilterOutput<'_>,
    ) -> Result<(), ProtocolViolation> {
        let (tag, left) = self.check_header(header)?;
        if matches!(read_mode(tag, left), ReadMode::Forward) {
            self.count(HEADER + usize::try_from(left).unwrap_or(usize::MAX))?;
            output.out.extend_from_slice(&header);
        }
        self.enter_body(tag, left, output)
    }

    /// Enters the body of a message.
    fn enter_body(
        &mut self,
        tag: u8,
        left: u64,
        output: &mut FilterOutput<'_>,
    ) -> Result<(), ProtocolViolation> {
        self.state = match read_mode(tag, left) {
            ReadMode::Forward => FilterState::Forward(left),
            ReadMode::Skip => FilterState::Skip(left),
            ReadMode::Collect => FilterState::Collect(tag, Vec::new(), left),
            ReadMode::Fields => FilterState::Fields(tag == b'E', ErrorFields::default(), left),
            ReadMode::Unreadable => {
                let message = unreadable_tag();
                self.count(message.len())?;
                output.out.extend_from_slice(&message);
                FilterState::Skip(left)
            }
        };
        if left == 0 {
            self.finish_message(output)?;
        }
        Ok(())
    }

    /// Checks the header of a message; returns its type and the length of its body.
    fn check_header(&mut self, header: [u8; HEADER]) -> Result<(u8, u64), ProtocolViolation> {
        let [tag, length @ ..] = header;
        let length = u32::from_be_bytes(length);
        if length < 4 || length > i32::MAX.unsigned_abs() || (tag == b'Z' && length != 5) {
            return Err(ProtocolViolation::Unreadable);
        }
        let limit = match tag {
            b'E' | b'N' => ERROR_LIMIT,
            b'R' | b'K' => AUTH_LIMIT,
            // A row may be as long as the reply.
            b'D' => self.monitor.reply_limit.load(Ordering::Relaxed),
            _ => MESSAGE_LIMIT,
        };
        let length = u64::from(length);
        if length > limit {
            return Err(ProtocolViolation::MessageTooLong { length, limit });
        }
        if !self.is_ready {
            self.startup_messages += 1;
            if self.startup_messages > STARTUP_MESSAGES {
                return Err(ProtocolViolation::TooManyMessages {
                    limit: STARTUP_MESSAGES,
                });
            }
        }
        Ok((tag, length - 4))
    }

    /// Counts forwarded bytes against the reply limit.
    fn count(&mut self, length: usize) -> Result<(), ProtocolViolation> {
        self.reply_len += length as u64;
        let limit = self.monitor.reply_limit.load(Ordering::Relaxed);
        if self.reply_len > limit {
            return Err(ProtocolViolation::ReplyTooLong { limit });
        }
        Ok(())
    }

    fn count_forwarded(&mut self, tag: u8, length: usize) -> Result<(), ProtocolViolation> {
        if tag == b'Z' {
            self.reply_len = 0;
            self.is_ready = true;
            return Ok(());
        }
        self.count(length)
    }

    /// Completes a message that arrived in pieces.
    fn finish_message(&mut self, output: &mut FilterOutput<'_>) -> Result<(), ProtocolViolation> {
        let state = std::mem::replace(&mut self.state, FilterState::Header([0; HEADER], 0));
        match state {
            FilterState::Collect(tag, body, _) => match self.decide(tag, &body)? {
                MessageAction::Forward => {
                    self.count_forwarded(tag, HEADER + body.len())?;
                    output.out.push(tag);
                    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
                    output.out.extend_from_slice(&length.to_be_bytes());
                    output.out.extend_from_slice(&body);
                }
                MessageAction::Replace(message) => {
                    self.count(message.len())?;
                    output.out.extend_from_slice(&message);
                }
            },
            FilterState::Fields(is_error, fields, _) => {
                if is_error || fields.routine() == Some(SYNC_REP) {
                    let before = output.out.len();
                    fields.encode(output.out);
                    self.count(output.out.len() - before)?;
                }
            }
            FilterState::Header(..) | FilterState::Forward(_) | FilterState::Skip(_) => {}
        }
        Ok(())
    }

    /// Decides about a complete message.
    fn decide(&mut self, tag: u8, body: &[u8]) -> Result<MessageAction, ProtocolViolation> {
        match tag {
            b'Z' => match body {
                b"I" => Ok(MessageAction::Forward),
                b"T" | b"E" if self.monitor.transactions.load(Ordering::Relaxed) > 0 => {
                    Ok(MessageAction::Forward)
                }
                [_] => Err(ProtocolViolation::OpenTransaction),
                _ => Err(ProtocolViolation::Unreadable),
            },
            b'C' if is_readable_tag(body) => Ok(MessageAction::Forward),
            b'C' => Ok(MessageAction::Replace(unreadable_tag())),
            // Later requests continue the first exchange.
            b'R' if !self.has_auth_begun => {
                self.has_auth_begun = true;
                self.monitor.check_auth_method(auth_method(body))?;
                self.monitor.record_auth_request();
                Ok(MessageAction::Forward)
            }
            b'S' => {
                self.read_parameter(body);
                Ok(MessageAction::Replace(Vec::new()))
            }
            _ => Ok(MessageAction::Forward),
        }
    }

    /// Stores the server version; other parameters are ignored.
    fn read_parameter(&self, body: &[u8]) {
        let mut parts = body.split(|byte| *byte == 0);
        if let (Some(b"server_version"), Some(version)) = (parts.next(), parts.next())
            && let Ok(version) = std::str::from_utf8(version)
        {
            // The first value is that of the session start.
            let _ = self.monitor.server_version.set(version.to_owned());
        }
    }
}

/// How a message is read.
enum ReadMode {
    Forward,
    Skip,
    Collect,
    Fields,
    /// A command tag that is too long.
    Unreadable,
}

fn read_mode(tag: u8, left: u64) -> ReadMode {
    match tag {
        b'Z' | b'R' => ReadMode::Collect,
        b'C' if left <= TAG_LIMIT => ReadMode::Collect,
        b'C' => ReadMode::Unreadable,
        b'E' | b'N' => ReadMode::Fields,
        b'S' if left <= PARAMETER_LIMIT => ReadMode::Collect,
        // Notifications and long parameters are ignored.
        b'S' | b'A' => ReadMode::Skip,
        _ => ReadMode::Forward,
    }
}

/// Returns true if the command tag is valid; an INSERT's must contain the row count.
fn is_readable_tag(body: &[u8]) -> bool {
    let Some((0, tag)) = body.split_last() else {
        return false;
    };
    if tag.is_empty() || !tag.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        return false;
    }
    if !tag.starts_with(b"INSERT") {
        return true;
    }
    tag.strip_prefix(b"INSERT 0 ").is_some_and(|rows| {
        let digits = !rows.is_empty() && rows.iter().all(u8::is_ascii_digit);
        // Up to 19 digits always fit.
        digits
            && (rows.len() < 20
                || std::str::from_utf8(rows).is_ok_and(|rows| rows.parse::<u64>().is_ok()))
    })
}

/// Returns the error that replaces an unreadable command tag.
fn unreadable_tag() -> Vec<u8> {
    let fields: [(u8, &[u8]); 5] = [
        (b'S', b"WARNING"),
        (b'V', b"WARNING"),
        (b'C', b"08P01"),
        (b'M', b"the server's command tag cannot be read"),
        (b'R', b"unreadable_command_tag"),
    ];
    let mut message = Vec::new();
    encode_error(fields.into_iter(), &mut message);
    message
}

/// Returns the method of the first authentication request; `None` if libpq has none such.
fn auth_method(body: &[u8]) -> Option<AuthMethod> {
    let code = body.first_chunk().copied().map(u32::from_be_bytes)?;
    Some(match code {
        0 => AuthMethod::None,
        3 => AuthMethod::Password,
        5 => AuthMethod::Md5,
        7 => AuthMethod::Gss,
        9 => AuthMethod::Sspi,
        // tokio-postgres uses SCRAM if offered, and no other SASL mechanism.
        10 => AuthMethod::ScramSha256,
        _ => return None,
    })
}
