//! Tests of unexpected messages of a server or pooler: floods, oversized messages, open transactions,
//! unreadable command tags and unwanted authentication requests.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::faults::crashes::change_setting;
use crate::faults::{random_token_source, run_command};
use crate::support::cluster::crashable;
use crate::support::command::{Command, Run};
use crate::support::database::{Database, Login, STANDARD_TABLE};
use crate::support::report::Report;
use crate::support::rewriter::{ProxyStreams, Rewrite, Rewriter};
use crate::support::snapshot::shows;
use crate::support::source::{Gate, Response, Source};
use crate::support::verify::verify;
use crate::support::wire::{is_inserted, is_ready};

/// The limit for the peak memory of the process, in bytes.
const MAX_MEMORY: u64 = 64 << 20;

pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![tag];
    message.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    message.extend_from_slice(body);
    message
}

fn notice() -> Vec<u8> {
    let text = "x".repeat(100);
    message(b'N', format!("SNOTICE\0C00000\0M{text}\0\0").as_bytes())
}

/// Reads the startup packet of a session without TLS.
fn read_startup(stream: &mut TcpStream) {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let rest = usize::try_from(u32::from_be_bytes(length)).unwrap() - 4;
    stream.read_exact(&mut vec![0; rest]).unwrap();
}

/// Starts a server that runs `respond` on each connection after the startup packet.
pub fn fake_server(respond: impl Fn(TcpStream) + Clone + Send + 'static) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, respond) = (stream.unwrap(), respond.clone());
            thread::spawn(move || {
                read_startup(&mut stream);
                respond(stream);
            });
        }
    });
    port
}

/// Starts a server that sends `first`, and then `flood` without end.
fn flooding_server(first: Vec<u8>, flood: Vec<u8>) -> u16 {
    fake_server(move |mut stream| {
        let flood = flood.repeat((64 * 1024 / flood.len()).max(1));
        let mut written = stream.write_all(&first);
        while written.is_ok() {
            written = stream.write_all(&flood);
        }
    })
}

/// Runs against the server at `port`. Asserts that the run fails within its limits of time and memory.
#[track_caller]
fn expect_bounded_failure(name: &str, port: u16, parameters: &str, args: &[&str]) -> Run {
    let source = Source::responding([]);
    let url = format!("postgres://u:canary@127.0.0.1:{port}/x?sslmode=disable{parameters}");
    let started = Instant::now();
    let running = Command::new()
        .source(&source)
        .env("DATABASE_URL", url)
        .arg("1")
        .args(args)
        .spawn();
    let (run, peak) = running.wait_with_peak_memory();
    let took = started.elapsed();
    println!("{name}: peak {} KiB, {took:?}", peak / 1024);
    assert!(peak <= MAX_MEMORY, "{name}: {} KiB", peak / 1024);
    assert!(took < Duration::from_secs(9), "{name}: {took:?}");
    assert!(source.requests().is_empty(), "a token was requested");
    run.expect_code(5)
}

#[test]
fn run_fails_within_limits_when_the_server_floods_it() {
    let ok = message(b'R', &[0; 4]);
    let ready = [ok.clone(), message(b'K', &[1; 8]), message(b'Z', b"I")].concat();
    let parameters: Vec<u8> = (0..2000)
        .flat_map(|n| message(b'S', format!("parameter_{n}\0value\0").as_bytes()))
        .collect();
    let huge = |tag: u8| {
        let mut header = vec![tag];
        header.extend_from_slice(&0x7fff_ffff_u32.to_be_bytes());
        header
    };
    let errors = ["E", "S", "D"].map(|tag| huge(tag.as_bytes()[0]));
    for (stage, first) in [
        ("start", Vec::new()),
        ("authenticated", ok),
        ("ready", ready),
    ] {
        let limit = "&connect_timeout=1";
        for (kind, flood) in [("notices", notice()), ("parameters", parameters.clone())] {
            let port = flooding_server(first.clone(), flood);
            expect_bounded_failure(&format!("{kind}, {stage}"), port, limit, &[]);
        }
        for header in &errors {
            let first = [first.as_slice(), header].concat();
            let port = flooding_server(first, vec![b'a'; 64 * 1024]);
            let kind = char::from(header[0]);
            let run = expect_bounded_failure(&format!("2 GiB {kind}, {stage}"), port, limit, &[]);
            assert!(run.error().contains("2147483647 bytes"), "{}", run.stderr);
        }
    }
}

#[test]
fn error_names_the_limit_when_a_server_exceeds_it() {
    let port = flooding_server(Vec::new(), notice());
    let run = expect_bounded_failure("notices", port, "", &[]);
    shows!(run.error(), @"
    error: the database's answer cannot be read
      caused by: 127.0.0.1:[port]: the server sent more than 256 messages before the session was ready
    hint: check that host and port in DATABASE_URL name a PostgreSQL server; no token was requested
    ");
    // This server sends HTTP at once.
    let port = flooding_server(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), b"x".to_vec());
    let run = expect_bounded_failure("HTTP", port, "", &[]);
    shows!(run.error(), @"
    error: the database's answer cannot be read
      caused by: 127.0.0.1:[port]: the server sent a message of 1414811695 bytes, more than the limit of 1 MiB
    hint: check that host and port in DATABASE_URL name a PostgreSQL server; no token was requested
    ");
    let open = [message(b'R', &[0; 4]), message(b'Z', b"T")].concat();
    let port = flooding_server(open, notice());
    let run = expect_bounded_failure("open transaction", port, "", &[]);
    shows!(run.error(), @"
    error: the connection is in use by another client
      caused by: 127.0.0.1:[port]: the server was inside an open transaction of another client
    hint: a pooler at 127.0.0.1:[port] must end a transaction before it reuses the connection; no token was requested
    ");
}

#[test]
fn error_explains_an_invalid_answer_to_the_tls_request() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            read_startup(&mut stream);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let source = Source::responding([]);
    let url = format!("postgres://u:canary@127.0.0.1:{port}/x?sslmode=require");
    let command = Command::new().source(&source).env("DATABASE_URL", url);
    shows!(command.arg("1").run().expect_code(5).error(), @"
    error: the database's answer cannot be read
      caused by: 127.0.0.1:[port]: the server answered the request for TLS with neither yes nor no
    hint: check that host and port in DATABASE_URL name a PostgreSQL server; no token was requested
    ");
}

/// The deadline applies although the connection always has messages to read.
#[test]
fn deadline_ends_the_run_during_a_flood() {
    let ok = message(b'R', &[0; 4]);
    let ready = [ok, message(b'K', &[1; 8]), message(b'Z', b"I")].concat();
    let port = flooding_server(ready, notice());
    let args = ["--deadline", "1s", "--grace", "4s"];
    let started = Instant::now();
    expect_bounded_failure("deadline", port, "&connect_timeout=60", &args);
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "{:?}",
        started.elapsed()
    );
}

fn through(login: &Login, port: u16) -> Login {
    Login {
        port,
        ..login.clone()
    }
}

/// Forwards every message of the server.
fn forwards() -> Rewrite {
    Box::new(|message, sides| sides.client.write_all(&message))
}

#[test]
fn deadline_and_grace_apply_when_a_flood_starts_during_the_run() {
    let database = Database::standard();
    let proxy = Rewriter::to(database.port, |_| {
        let mut inserted = 0;
        Box::new(move |message, sides: ProxyStreams<'_>| {
            inserted += usize::from(is_inserted(&message));
            sides.client.write_all(&message)?;
            let flood = notice().repeat(500);
            if inserted == 20 {
                loop {
                    sides.client.write_all(&flood)?;
                }
            }
            Ok(())
        })
    });
    let (issued, source) = random_token_source(200);
    let started = Instant::now();
    let running = run_command(&source, &through(&database, proxy.port), issued.len())
        .args(["--connections", "1", "--deadline", "2s", "--grace", "4s"])
        .spawn();
    let (run, peak) = running.wait_with_peak_memory();
    assert!(peak <= MAX_MEMORY, "{} KiB", peak / 1024);
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "{:?}",
        started.elapsed()
    );
    let verified = verify(&run.expect_code(5), &issued, &[], &database);
    assert!(verified.acknowledged() >= 16, "{}", verified.acknowledged());
}

#[test]
fn long_messages_of_a_trigger_do_not_exhaust_memory() {
    for (level, status) in [("EXCEPTION", "rejected"), ("WARNING", "stored")] {
        let database = Database::standard().with_sql(&format!(
            "CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 RAISE {level} '% %', NEW.data, repeat('x', 30000000); RETURN NEW; END $$;
             CREATE TRIGGER shout BEFORE INSERT ON secret_tokens FOR EACH ROW
                 EXECUTE FUNCTION shout()"
        ));
        let tokens = ["aa", "bb", "cc"];
        let source = Source::responding([Response::tokens(tokens)]);
        let running = run_command(&source, &database, tokens.len())
            .args(["--connections", "1"])
            .spawn();
        let (run, peak) = running.wait_with_peak_memory();
        println!("{level}: peak {} KiB", peak / 1024);
        assert!(peak <= MAX_MEMORY, "{level}: {} KiB", peak / 1024);
        assert_eq!(
            Report::of_run(&run.expect_code(0)).with_status(status),
            tokens,
            "{level}"
        );
    }
}

/// A pooler that begins a transaction on the connection and keeps it open.
#[test]
fn token_is_unknown_when_a_pooler_opens_a_transaction() {
    let database = Database::standard();
    let proxy = Rewriter::to(database.port, |number| {
        if number > 0 {
            return forwards();
        }
        let (mut has_begun, mut inserted) = (false, false);
        Box::new(move |message, sides: ProxyStreams<'_>| {
            let ready = is_ready(&message);
            if message.get(5..) == Some(b"BEGIN\0") {
                has_begun = true;
                return Ok(());
            }
            // The `ReadyForQuery` of BEGIN itself belongs to the pooler.
            if has_begun && ready {
                has_begun = false;
                return Ok(());
            }
            if inserted && ready {
                sides.server.write_all(b"Q\0\0\0\x0aBEGIN\0")?;
                inserted = false;
            } else {
                inserted |= is_inserted(&message);
            }
            sides.client.write_all(&message)
        })
    });
    let issued: Vec<String> = (0..40).map(|n| format!("a{n:02}")).collect();
    let gate = Gate::new();
    let (first, rest) = issued.split_at(1);
    let rest = Response::tokens(rest).after(&gate);
    let source = Source::responding([Response::tokens(first), rest]);
    let running = run_command(&source, &through(&database, proxy.port), issued.len())
        .args(["--connections", "1"])
        .spawn();
    running.wait_for_stdout(|text| text.lines().count() == 1);
    gate.open();
    let run = running.wait().expect_code(5);
    let verified = verify(&run, &issued, &[], &database);
    let unknown = verified.report.with_status("unknown");
    assert!(!unknown.is_empty());
    assert_eq!(verified.unknown_but_present, 0, "the rows were rolled back");
    assert_eq!(
        verified.report.count("stored") + unknown.len() as u64,
        issued.len() as u64
    );
    assert_eq!(
        verified.report.token(&unknown[0])["reason"],
        "the server was inside another client's transaction, whose outcome is not known"
    );
}

/// The server sends its warning between `CommandComplete` and `ReadyForQuery`.
#[test]
fn token_is_unknown_when_no_standby_confirms_the_commit() {
    let cluster = crashable();
    let database = Database::on(&cluster).with_sql(STANDARD_TABLE);
    let mut admin = database.admin();
    change_setting(
        &mut admin,
        "ALTER SYSTEM SET synchronous_standby_names = 'missing_standby'",
    );
    let issued = ["aa", "bb"].map(String::from);
    let source = Source::responding([Response::tokens(&issued)]);
    let run = run_command(&source, &database, issued.len())
        .config("database: {statement_timeout: 300ms}")
        .args(["--connections", "1", "--patience", "1s"])
        .run();
    change_setting(&mut admin, "ALTER SYSTEM RESET synchronous_standby_names");
    let report = Report::of_run(&run.expect_code(5));
    assert_eq!(report.with_status("unknown"), issued);
    assert_eq!(report.count("stored"), 0);
}

/// The row is in the table, so the token must not be rejected.
#[test]
fn token_is_not_rejected_when_the_command_tag_is_unreadable() {
    for tag in ["INSERT 0 -1\0", "\0", "INSERT 0 1"] {
        let database = Database::standard();
        let proxy = Rewriter::to(database.port, move |_| {
            let mut inserted = 0;
            Box::new(move |answer, sides: ProxyStreams<'_>| {
                inserted += u32::from(is_inserted(&answer));
                if is_inserted(&answer) && inserted == 5 {
                    return sides.client.write_all(&message(b'C', tag.as_bytes()));
                }
                sides.client.write_all(&answer)
            })
        });
        let issued: Vec<String> = (0..30).map(|n| format!("a{n:02}")).collect();
        let source = Source::responding([Response::tokens(&issued)]);
        let login = through(&database, proxy.port);
        let run = run_command(&source, &login, issued.len())
            .args(["--connections", "1"])
            .run();
        let verified = verify(&run, &issued, &[], &database);
        assert_eq!(verified.report.count("rejected"), 0, "{tag:?}");
        assert_eq!(database.rows().len(), 30, "{tag:?}");
    }
}

#[test]
fn password_is_not_sent_when_require_auth_excludes_the_method() {
    for (code, required, method) in [
        (3_u32, "scram-sha-256", "password"),
        (5, "!md5", "md5"),
        (0, "scram-sha-256", "none"),
    ] {
        let (sender, received) = mpsc::channel();
        let port = fake_server(move |mut stream| {
            let mut request = code.to_be_bytes().to_vec();
            request.extend_from_slice(b"salt");
            stream.write_all(&message(b'R', &request)).unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
            let _ = sender.send(rest);
        });
        let require = format!("&require_auth={required}");
        let run = expect_bounded_failure(method, port, &require, &[]);
        assert!(received.recv().unwrap().is_empty(), "{method}");
        match method {
            "password" => shows!(run.error(), @"
            error: require_auth excludes the database's authentication method
              caused by: 127.0.0.1:[port]: the server asks for password authentication, and require_auth is scram-sha-256
            hint: no password was sent; change require_auth in DATABASE_URL, or pg_hba.conf of 127.0.0.1:[port]; no token was requested
            "),
            "none" => shows!(run.error(), @"
            error: require_auth excludes the database's authentication method
              caused by: 127.0.0.1:[port]: the server did not ask for authentication, and require_auth is scram-sha-256
            hint: no password was sent; change require_auth in DATABASE_URL, or pg_hba.conf of 127.0.0.1:[port]; no token was requested
            "),
            _ => assert!(run.error().contains("md5"), "{}", run.stderr),
        }
    }
    // The real server asks for SCRAM.
    let database = Database::standard();
    let source = Source::responding([Response::tokens(["aa"])]);
    let url = format!("{}?require_auth=scram-sha-256", database.url());
    let command = Command::new().source(&source).env("DATABASE_URL", url);
    command.arg("1").run().expect_code(0);
    assert_eq!(database.rows(), ["aa"]);
}
