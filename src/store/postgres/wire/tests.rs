//! Tests of server streams split at every position, and of what tokio-postgres reads.

use std::sync::Arc;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_postgres::error::Severity;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Config, NoTls};

use crate::store::postgres::wire::filter::MessageFilter;
use crate::store::postgres::wire::*;

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![tag];
    message.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    message.extend_from_slice(body);
    message
}

fn fields(tag: u8, fields: &[(u8, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (kind, text) in fields {
        body.push(*kind);
        body.extend_from_slice(text.as_bytes());
        body.push(0);
    }
    body.push(0);
    message(tag, &body)
}

fn ready(status: u8) -> Vec<u8> {
    message(b'Z', &[status])
}

fn complete(tag: &str) -> Vec<u8> {
    message(b'C', format!("{tag}\0").as_bytes())
}

fn sync_rep() -> Vec<u8> {
    fields(
        b'N',
        &[
            (b'S', "WARNUNG"),
            (b'V', "WARNING"),
            (b'C', "01000"),
            (b'M', "canceling wait for synchronous replication"),
            (b'D', "The transaction has already committed locally"),
            (b'F', "syncrep.c"),
            (b'L', "305"),
            (b'R', "SyncRepWaitForLSN"),
        ],
    )
}

/// Returns what is forwarded of `pieces`, and the violation.
fn filtered<'a>(
    monitor: &Arc<ConnectionMonitor>,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<u8>, Option<ProtocolViolation>) {
    let mut filter = MessageFilter::new(Arc::clone(monitor));
    let mut forwarded = Vec::new();
    for piece in pieces {
        let mut out = Vec::new();
        let (kept, result) = filter.filter(piece, &mut out);
        forwarded.extend_from_slice(&piece[..kept]);
        forwarded.extend_from_slice(&out);
        if let Err(violation) = result {
            return (forwarded, Some(violation));
        }
    }
    (forwarded, None)
}

fn monitor() -> Arc<ConnectionMonitor> {
    Arc::new(ConnectionMonitor::new(None, LoginSequence::default()))
}

/// Filters `stream` whole, in two pieces at every position, and by bytes; all must agree.
#[track_caller]
fn filter_at_every_split(stream: &[u8]) -> (Vec<u8>, Option<ProtocolViolation>) {
    let whole = filtered(&monitor(), [stream]);
    for at in 1..stream.len() {
        let (first, second) = stream.split_at(at);
        assert_eq!(
            filtered(&monitor(), [first, second]),
            whole,
            "split at {at}"
        );
    }
    assert_eq!(filtered(&monitor(), stream.chunks(1)), whole, "by bytes");
    whole
}

#[track_caller]
fn assert_becomes(stream: &[&[u8]], expected: &[&[u8]]) {
    assert_eq!(
        filter_at_every_split(&stream.concat()),
        (expected.concat(), None)
    );
}

#[test]
fn usual_replies_are_forwarded_unchanged() {
    let answer = [
        message(b'1', b""),
        message(b'2', b""),
        message(b'D', b"\0\x01\0\0\0\x01x"),
        complete("INSERT 0 1"),
        ready(b'I'),
        complete("INSERT 0 18446744073709551615"),
        complete("BEGIN"),
        ready(b'I'),
    ]
    .concat();
    assert_becomes(&[&answer], &[&answer]);
}

#[test]
fn notices_parameters_and_notifications_are_dropped() {
    let notice = fields(b'N', &[(b'S', "NOTICE"), (b'C', "00000"), (b'M', "hello")]);
    assert_becomes(
        &[
            &message(b'2', b""),
            &notice,
            &message(b'S', b"TimeZone\0UTC\0"),
            &complete("INSERT 0 1"),
            &message(b'A', b"\0\0\0\x01channel\0payload\0"),
            &ready(b'I'),
            &notice,
        ],
        &[&message(b'2', b""), &complete("INSERT 0 1"), &ready(b'I')],
    );
}

#[test]
fn warning_of_synchronous_replication_becomes_an_error() {
    let mut expected = fields(
        b'E',
        &[
            (b'S', "WARNUNG"),
            (b'V', "WARNING"),
            (b'C', "01000"),
            (b'M', "canceling wait for synchronous replication"),
            (b'F', "syncrep.c"),
            (b'L', "305"),
            (b'R', "SyncRepWaitForLSN"),
        ],
    );
    expected.extend(ready(b'I'));
    assert_becomes(&[&sync_rep(), &ready(b'I')], &[&expected]);
}

#[test]
fn unreadable_command_tags_become_errors() {
    let expected = fields(
        b'E',
        &[
            (b'S', "WARNING"),
            (b'V', "WARNING"),
            (b'C', "08P01"),
            (b'M', "the server's command tag cannot be read"),
            (b'R', "unreadable_command_tag"),
        ],
    );
    let long = format!("INSERT 0 1{}\0", " ".repeat(300));
    for body in [
        b"".as_slice(),
        b"\0",
        b"INSERT 0 1",
        b"INSERT\0",
        b"INSERT 0 \0",
        b"INSERT 0 -1\0",
        b"INSERT 0 1 \0",
        b"INSERT 0 18446744073709551616\0",
        b"INSERT 7 1\0",
        b"INSERT 0 1\n\0",
        b"INS\0ERT 0 1\0",
        b"\xff\xfe\0",
        long.as_bytes(),
    ] {
        assert_becomes(
            &[&message(b'C', body), &ready(b'I')],
            &[&expected, &ready(b'I')],
        );
    }
}

#[test]
fn open_transaction_of_another_client_ends_the_stream() {
    for status in [b'T', b'E', b'x'] {
        let before = [complete("INSERT 0 1"), ready(b'I'), complete("INSERT 0 1")].concat();
        let stream = [before.as_slice(), &ready(status), &ready(b'I')].concat();
        assert_eq!(
            filter_at_every_split(&stream).1,
            Some(ProtocolViolation::OpenTransaction)
        );
        let (forwarded, _) = filtered(&monitor(), [stream.as_slice()]);
        assert_eq!(forwarded, before);
    }
}

#[test]
fn transactions_of_this_client_are_allowed_until_they_end() {
    let monitor = monitor();
    monitor.begin_transaction();
    let stream = [ready(b'T'), ready(b'E')].concat();
    assert_eq!(filtered(&monitor, [stream.as_slice()]), (stream, None));
    monitor.end_transaction();
    let stream = ready(b'T');
    let (_, violation) = filtered(&monitor, [stream.as_slice()]);
    assert_eq!(violation, Some(ProtocolViolation::OpenTransaction));
}

#[test]
fn long_errors_are_bounded_and_adjacent_messages_unchanged() {
    let long = "x".repeat(100_000);
    let error = fields(
        b'E',
        &[
            (b'S', "ERROR"),
            (b'V', "ERROR"),
            (b'C', "P0001"),
            (b'M', &long),
            (b'D', &long),
            (b'W', &long),
        ],
    );
    let stream = [message(b'2', b""), error, ready(b'I')].concat();
    let whole = filtered(&monitor(), [stream.as_slice()]);
    for piece in [1, 2, 7, 4096] {
        assert_eq!(filtered(&monitor(), stream.chunks(piece)), whole, "{piece}");
    }
    let (forwarded, violation) = whole;
    assert_eq!(violation, None);
    assert!(forwarded.len() < 7000, "{}", forwarded.len());
    assert!(forwarded.starts_with(&message(b'2', b"")) && forwarded.ends_with(&ready(b'I')));
}

#[test]
fn too_long_messages_and_replies_end_the_stream() {
    let header = |tag: u8, length: u32| {
        let mut header = vec![tag];
        header.extend_from_slice(&length.to_be_bytes());
        header
    };
    for (tag, length) in [(b'D', 2_000_000), (b'S', 2_000_000), (b'E', 0x7fff_ffff)] {
        let (forwarded, violation) = filter_at_every_split(&header(tag, length));
        assert!(forwarded.is_empty());
        let violation = violation.unwrap().to_string();
        assert!(violation.contains(&length.to_string()), "{violation}");
    }
    for length in [0, 3, 0x8000_0000, u32::MAX] {
        let (_, violation) = filter_at_every_split(&header(b'D', length));
        assert_eq!(violation, Some(ProtocolViolation::Unreadable), "{length}");
    }
    let row = message(b'D', &vec![0; 600_000]);
    let many = [row.as_slice(), &row].concat();
    let (_, violation) = filtered(&monitor(), [many.as_slice()]);
    assert_eq!(
        violation,
        Some(ProtocolViolation::ReplyTooLong { limit: 1 << 20 })
    );
    // The reply to a look-up may be longer, and each reply counts separately.
    let monitor = monitor();
    let long = monitor.allow_long_replies(0);
    assert_eq!(filtered(&monitor, [many.as_slice()]).1, None);
    drop(monitor.allow_long_replies(0));
    let one = message(b'D', &vec![0; 2_000_000]);
    assert_eq!(filtered(&monitor, [one.as_slice()]).1, None);
    drop(long);
    let longer = monitor.allow_long_replies(40 << 20);
    let many_rows = one.repeat(20);
    assert_eq!(filtered(&monitor, [many_rows.as_slice()]).1, None);
    drop(longer);
    let one_by_one = [row.as_slice(), &ready(b'I'), &row, &ready(b'I')].concat();
    assert_eq!(filtered(&monitor, [one_by_one.as_slice()]).1, None);
    assert!(filtered(&monitor, [many.as_slice()]).1.is_some());
}

#[test]
fn messages_before_the_session_is_ready_are_limited() {
    let parameter = message(b'S', b"a\0b\0");
    let stream = parameter.repeat(300);
    let (forwarded, violation) = filtered(&monitor(), stream.chunks(1000));
    assert!(forwarded.is_empty());
    assert_eq!(
        violation,
        Some(ProtocolViolation::TooManyMessages { limit: 256 })
    );
    let stream = [ready(b'I'), stream].concat();
    assert_eq!(filtered(&monitor(), stream.chunks(1000)).1, None);
}

#[test]
fn violations_are_displayed_as_sentences() {
    let auth = |requested| ProtocolViolation::AuthMethod {
        requested,
        required: "scram-sha-256".to_owned(),
    };
    let all = [
        ProtocolViolation::OpenTransaction,
        ProtocolViolation::MessageTooLong {
            length: 2_147_483_647,
            limit: 1 << 30,
        },
        ProtocolViolation::ReplyTooLong { limit: 1 << 20 },
        ProtocolViolation::TooManyMessages { limit: 256 },
        ProtocolViolation::Unreadable,
        ProtocolViolation::TlsReply,
        auth("md5"),
        auth("none"),
    ];
    insta::assert_snapshot!(all.map(|violation| violation.to_string()).join("\n"), @"
    the server was inside an open transaction of another client
    the server sent a message of 2147483647 bytes, more than the limit of 1 GiB
    the server sent an answer of more than the limit of 1 MiB
    the server sent more than 256 messages before the session was ready
    the server sent a message that PostgreSQL's protocol does not have
    the server answered the request for TLS with neither yes nor no
    the server asks for md5 authentication, and require_auth is scram-sha-256
    the server did not ask for authentication, and require_auth is scram-sha-256
    ");
}

#[test]
fn only_required_authentication_methods_are_forwarded() {
    let request = |code: u32| message(b'R', &code.to_be_bytes());
    for (required, code, requested) in [
        ("scram-sha-256", 10, None),
        ("scram-sha-256", 3, Some("password")),
        ("scram-sha-256", 5, Some("md5")),
        ("scram-sha-256", 0, Some("none")),
        ("scram-sha-256", 99, Some("another")),
        ("!password,!md5", 3, Some("password")),
        ("!password,!md5", 0, None),
        ("none", 0, None),
        ("none", 10, Some("scram-sha-256")),
    ] {
        let monitor = Arc::new(ConnectionMonitor::new(
            Some(required.parse().unwrap()),
            LoginSequence::default(),
        ));
        let stream = request(code);
        let (forwarded, violation) = filtered(&monitor, stream.chunks(1));
        let found = match &violation {
            Some(ProtocolViolation::AuthMethod { requested, .. }) => Some(*requested),
            _ => None,
        };
        assert_eq!(found, requested, "{required} {code}");
        assert_eq!(forwarded.is_empty(), requested.is_some());
    }
    // The message that ends an exchange is not a method.
    let monitor = Arc::new(ConnectionMonitor::new(
        Some("md5".parse().unwrap()),
        LoginSequence::default(),
    ));
    let stream = [request(5), request(0)].concat();
    assert_eq!(filtered(&monitor, [stream.as_slice()]).1, None);
}

fn any_message() -> impl Strategy<Value = Vec<u8>> {
    let text = "[a-zé€ \n]{0,40}";
    prop_oneof![
        4 => Just(complete("INSERT 0 1")),
        4 => Just(ready(b'I')),
        2 => Just(message(b'2', b"")),
        1 => Just(sync_rep()),
        1 => Just(complete("")),
        2 => (prop::sample::select(b"ENSADTCK".to_vec()), prop::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(tag, body)| message(tag, &body)),
        2 => (prop::bool::ANY, prop::collection::vec((prop::sample::select(b"SVCMDWRPLqpn".to_vec()), text), 0..8))
            .prop_map(|(error, all)| {
                let all: Vec<(u8, &str)> = all.iter().map(|(kind, text)| (*kind, text.as_str())).collect();
                fields(if error { b'E' } else { b'N' }, &all)
            }),
    ]
}

proptest! {
    #[test]
    fn result_does_not_depend_on_how_stream_is_split(
        messages in prop::collection::vec(any_message(), 0..12),
        cuts in prop::collection::vec(1_usize..60, 1..30),
    ) {
        let stream = messages.concat();
        let whole = filtered(&monitor(), [stream.as_slice()]);
        let mut pieces = Vec::new();
        let mut rest = stream.as_slice();
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, left) = rest.split_at((*cut).min(rest.len()));
            pieces.push(piece);
            rest = left;
        }
        prop_assert_eq!(filtered(&monitor(), pieces), whole);
    }
}

/// Connects to a server that the test scripts.
async fn connected(buffer: usize) -> (Client, DuplexStream, Arc<ConnectionMonitor>) {
    let (client, mut server) = tokio::io::duplex(buffer);
    let monitor = monitor();
    let stream = MonitoredStream::new(client, &monitor, false);
    let serving = tokio::spawn(async move {
        let length = server.read_u32().await.unwrap();
        let mut start = vec![0; length as usize - 4];
        server.read_exact(&mut start).await.unwrap();
        let mut welcome = message(b'R', &[0; 4]);
        welcome.extend(message(b'S', b"server_version\x0015.1\0"));
        welcome.extend(message(b'K', &[0, 0, 0, 7, 1, 2, 3, 4]));
        welcome.extend(ready(b'I'));
        server.write_all(&welcome).await.unwrap();
        server
    });
    let mut config = Config::new();
    config.user("u").dbname("x");
    let (client, mut connection) = config.connect_raw(stream, NoTls).await.unwrap();
    tokio::spawn(async move {
        while let Some(Ok(_)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {}
    });
    (client, serving.await.unwrap(), monitor)
}

/// Reads this many requests, each up to its Sync.
async fn requests(server: &mut DuplexStream, count: usize) {
    let mut syncs = 0;
    while syncs < count {
        let tag = server.read_u8().await.unwrap();
        let length = server.read_u32().await.unwrap();
        let mut body = vec![0; length as usize - 4];
        server.read_exact(&mut body).await.unwrap();
        syncs += usize::from(tag == b'S');
    }
}

const INSERT: &str = "INSERT INTO t VALUES ($1)";

#[tokio::test]
async fn pipelined_replies_stay_aligned_after_replaced_messages() {
    for buffer in [1, 13, 64 * 1024] {
        let (client, mut server, _monitor) = connected(buffer).await;
        let begun = [message(b'1', b""), message(b'2', b""), message(b'n', b"")].concat();
        let answer = |parts: &[Vec<u8>]| [begun.as_slice(), &parts.concat(), &ready(b'I')].concat();
        let answers = [
            answer(&[complete("INSERT 0 1")]),
            answer(&[complete("")]),
            answer(&[complete("INSERT 0 1"), sync_rep()]),
            answer(&[complete("INSERT 0 3")]),
        ]
        .concat();
        let serving = tokio::spawn(async move {
            requests(&mut server, 4).await;
            server.write_all(&answers).await.unwrap();
            server
        });
        let params = [(
            &"x" as &(dyn tokio_postgres::types::ToSql + Sync),
            Type::TEXT,
        )];
        let (first, second, third, fourth) = tokio::join!(
            client.execute_typed(INSERT, &params),
            client.execute_typed(INSERT, &params),
            client.execute_typed(INSERT, &params),
            client.execute_typed(INSERT, &params),
        );
        assert_eq!(first.unwrap(), 1);
        assert_eq!(fourth.unwrap(), 3);
        for (result, routine) in [
            (second, "unreadable_command_tag"),
            (third, "SyncRepWaitForLSN"),
        ] {
            let error = result.unwrap_err();
            let db = error.as_db_error().unwrap();
            assert_eq!(db.parsed_severity(), Some(Severity::Warning));
            assert_eq!(db.routine(), Some(routine));
            assert_eq!(db.detail(), None);
        }
        drop(serving.await.unwrap());
    }
}

#[tokio::test]
async fn statement_gets_no_reply_when_readiness_is_withheld() {
    let (client, mut server, monitor) = connected(4096).await;
    let serving = tokio::spawn(async move {
        requests(&mut server, 2).await;
        let begun = [message(b'1', b""), message(b'2', b""), message(b'n', b"")].concat();
        for status in [b'I', b'T'] {
            let answer = [begun.as_slice(), &complete("INSERT 0 1"), &ready(status)].concat();
            server.write_all(&answer).await.unwrap();
        }
        server
    });
    let params = [(
        &"x" as &(dyn tokio_postgres::types::ToSql + Sync),
        Type::TEXT,
    )];
    let (first, second) = tokio::join!(
        client.execute_typed(INSERT, &params),
        client.execute_typed(INSERT, &params),
    );
    assert_eq!(first.unwrap(), 1);
    let error = second.unwrap_err();
    assert!(
        error.as_db_error().is_none() && error.is_closed(),
        "{error:?}"
    );
    assert!(monitor.had_open_transaction());
    drop(serving.await.unwrap());
}

/// The task yields although nothing is forwarded.
#[tokio::test]
async fn timeout_expires_during_endless_notices() {
    struct Endless(Vec<u8>);
    impl tokio::io::AsyncRead for Endless {
        fn poll_read(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buf: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            let count = buf.remaining().min(self.0.len());
            buf.put_slice(&self.0[..count]);
            std::task::Poll::Ready(Ok(()))
        }
    }
    let notice = fields(b'N', &[(b'S', "NOTICE"), (b'C', "00000"), (b'M', "hello")]);
    let mut stream = MonitoredStream::new(Endless(notice.clone()), &monitor(), false);
    // The session is ready: notices are no longer counted.
    let mut out = Vec::new();
    let _ = stream.filter.filter(&ready(b'I'), &mut out);
    let mut buffer = vec![0; notice.len()];
    let limit = std::time::Duration::from_millis(50);
    let read = tokio::time::timeout(limit, stream.read(&mut buffer)).await;
    assert!(read.is_err(), "{read:?}");
}
