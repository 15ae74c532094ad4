//! What a server or a pooler may send besides answers: floods, messages of any size, an open
//! transaction, unreadable command tags, authentication requests that are not wanted.

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

/// The most memory that the process may ever have held.
const MOST: u64 = 64 << 20;

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![tag];
    message.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    message.extend_from_slice(body);
    message
}

fn notice() -> Vec<u8> {
    let text = "x".repeat(100);
    message(b'N', format!("SNOTICE\0C00000\0M{text}\0\0").as_bytes())
}

/// Reads the start of a session without TLS.
fn hear_start(stream: &mut TcpStream) {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let rest = usize::try_from(u32::from_be_bytes(length)).unwrap() - 4;
    stream.read_exact(&mut vec![0; rest]).unwrap();
}

/// Plays `say` on each connection, after the start of its session.
fn stand_in(say: impl Fn(TcpStream) + Clone + Send + 'static) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, say) = (stream.unwrap(), say.clone());
            thread::spawn(move || {
                hear_start(&mut stream);
                say(stream);
            });
        }
    });
    port
}

/// A server that says `first`, and then `flood` without end.
fn flooding(first: Vec<u8>, flood: Vec<u8>) -> u16 {
    stand_in(move |mut stream| {
        let flood = flood.repeat((64 * 1024 / flood.len()).max(1));
        let mut said = stream.write_all(&first);
        while said.is_ok() {
            said = stream.write_all(&flood);
        }
    })
}

/// A run with the server at that port, which fails within bounds.
#[track_caller]
fn fails_within_bounds(name: &str, port: u16, parameters: &str, args: &[&str]) -> Run {
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
    assert!(peak <= MOST, "{name}: {} KiB", peak / 1024);
    assert!(took < Duration::from_secs(9), "{name}: {took:?}");
    assert!(source.requests().is_empty(), "a token was requested");
    run.expect_code(5)
}

#[test]
fn floods_are_bounded_before_and_after_authentication() {
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
            let port = flooding(first.clone(), flood);
            fails_within_bounds(&format!("{kind}, {stage}"), port, limit, &[]);
        }
        for header in &errors {
            let first = [first.as_slice(), header].concat();
            let port = flooding(first, vec![b'a'; 64 * 1024]);
            let kind = char::from(header[0]);
            let run = fails_within_bounds(&format!("2 GiB {kind}, {stage}"), port, limit, &[]);
            assert!(run.error().contains("2147483647 bytes"), "{}", run.stderr);
        }
    }
}

#[test]
fn server_that_exceeds_a_limit_is_named() {
    let port = flooding(Vec::new(), notice());
    let run = fails_within_bounds("notices", port, "", &[]);
    shows!(run.error(), @"
    error: the database's answer cannot be read
      caused by: 127.0.0.1:[port]: the server sent more than 256 messages before the session was ready
    hint: check that host and port in DATABASE_URL name a PostgreSQL server; no token was asked for
    ");
    // What speaks HTTP at once.
    let port = flooding(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), b"x".to_vec());
    let run = fails_within_bounds("HTTP", port, "", &[]);
    shows!(run.error(), @"
    error: the database's answer cannot be read
      caused by: 127.0.0.1:[port]: the server sent a message of 1414811695 bytes, more than the limit of 1 MiB
    hint: check that host and port in DATABASE_URL name a PostgreSQL server; no token was asked for
    ");
    let open = [message(b'R', &[0; 4]), message(b'Z', b"T")].concat();
    let port = flooding(open, notice());
    let run = fails_within_bounds("open transaction", port, "", &[]);
    shows!(run.error(), @"
    error: the connection is in use by another client
      caused by: 127.0.0.1:[port]: the server handed over an open transaction
    hint: a pooler at 127.0.0.1:[port] must end a transaction before it hands over its connection; no token was asked for
    ");
}

#[test]
fn server_that_answers_the_tls_request_with_something_else_is_named() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            hear_start(&mut stream);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let source = Source::responding([]);
    let url = format!("postgres://u:canary@127.0.0.1:{port}/x?sslmode=require");
    let command = Command::new().source(&source).env("DATABASE_URL", url);
    shows!(command.arg("1").run().expect_code(5).error(), @"
    error: the database's answer cannot be read
      caused by: 127.0.0.1:[port]: the server answered the request for TLS with neither yes nor no
    hint: check that host and port in DATABASE_URL name a PostgreSQL server; no token was asked for
    ");
}

/// The deadline passes although the connection's task never runs out of messages.
#[test]
fn deadline_passes_during_a_flood() {
    let ok = message(b'R', &[0; 4]);
    let ready = [ok, message(b'K', &[1; 8]), message(b'Z', b"I")].concat();
    let port = flooding(ready, notice());
    let args = ["--deadline", "1s", "--grace", "500ms"];
    let started = Instant::now();
    fails_within_bounds("deadline", port, "&connect_timeout=60", &args);
    assert!(
        started.elapsed() < Duration::from_secs(4),
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

/// Handles every message of a server; the closures of tests are called once each.
fn forwards() -> Rewrite {
    Box::new(|message, sides| sides.client.write_all(&message))
}

#[test]
fn deadline_and_grace_hold_during_a_flood_in_the_middle_of_a_run() {
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
        .args(["--connections", "1", "--deadline", "2s", "--grace", "500ms"])
        .spawn();
    let (run, peak) = running.wait_with_peak_memory();
    assert!(peak <= MOST, "{} KiB", peak / 1024);
    assert!(
        started.elapsed() < Duration::from_secs(6),
        "{:?}",
        started.elapsed()
    );
    let verified = verify(&run.expect_code(5), &issued, &[], &database);
    assert!(verified.acknowledged() >= 16, "{}", verified.acknowledged());
}

#[test]
fn trigger_that_raises_a_long_message_for_each_token_is_cut_on_arrival() {
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
        assert!(peak <= MOST, "{level}: {} KiB", peak / 1024);
        assert_eq!(
            Report::of_run(&run.expect_code(0)).with_status(status),
            tokens,
            "{level}"
        );
    }
}

/// A pooler that begins a transaction on the connection and keeps it open.
#[test]
fn what_is_answered_inside_an_open_transaction_is_unknown() {
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
            // That of BEGIN itself is for the pooler.
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
    assert_eq!(verified.unknown_but_present, 0, "they were rolled back");
    assert_eq!(
        verified.report.count("stored") + unknown.len() as u64,
        issued.len() as u64
    );
    assert_eq!(
        verified.report.token(&unknown[0])["reason"],
        "the server was inside a transaction that is not this run's, and its end is not known"
    );
}

/// The server's warning about it comes between the command tag and its readiness.
#[test]
fn commit_that_no_standby_confirms_is_unknown() {
    let cluster = crashable();
    let database = Database::on(&cluster).with_sql(STANDARD_TABLE);
    let mut admin = database.admin();
    change_setting(
        &mut admin,
        "ALTER SYSTEM SET synchronous_standby_names = 'nobody'",
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

/// Whatever becomes of it, it is in the table and not called rejected.
#[test]
fn unreadable_command_tags_are_not_taken_for_a_rejection() {
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
fn no_password_is_sent_if_require_auth_excludes_the_method() {
    for (code, required, asked) in [
        (3_u32, "scram-sha-256", "password"),
        (5, "!md5", "md5"),
        (0, "scram-sha-256", "none"),
    ] {
        let (tell, heard) = mpsc::channel();
        let port = stand_in(move |mut stream| {
            let mut request = code.to_be_bytes().to_vec();
            request.extend_from_slice(b"salt");
            stream.write_all(&message(b'R', &request)).unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
            let _ = tell.send(rest);
        });
        let require = format!("&require_auth={required}");
        let run = fails_within_bounds(asked, port, &require, &[]);
        assert!(heard.recv().unwrap().is_empty(), "{asked}");
        match asked {
            "password" => shows!(run.error(), @"
            error: require_auth excludes the database's authentication method
              caused by: 127.0.0.1:[port]: the server asks for password authentication, and require_auth is scram-sha-256
            hint: no password was sent; change require_auth in DATABASE_URL, or pg_hba.conf of 127.0.0.1:[port]; no token was asked for
            "),
            "none" => shows!(run.error(), @"
            error: require_auth excludes the database's authentication method
              caused by: 127.0.0.1:[port]: the server did not ask for authentication, and require_auth is scram-sha-256
            hint: no password was sent; change require_auth in DATABASE_URL, or pg_hba.conf of 127.0.0.1:[port]; no token was asked for
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
