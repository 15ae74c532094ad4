//! Tests of `--wait`: at its start a run waits for source and database, for at most the given time.

use std::io::copy;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::support::command::Command;
use crate::support::database::{Database, Login};
use crate::support::postgres::free_port;
use crate::support::report::Report;
use crate::support::snapshot::shows;
use crate::support::source::{Response, Source};

/// Starts a listener on `port` that forwards every connection to `to`.
fn start_forwarding(port: u16, to: u16) {
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let to = SocketAddr::from(([127, 0, 0, 1], to));
            let Ok(server) = TcpStream::connect(to) else {
                return;
            };
            let pairs = [
                (client.try_clone().unwrap(), server.try_clone().unwrap()),
                (server, client),
            ];
            for (mut from, mut to) in pairs {
                thread::spawn(move || {
                    let _ = copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
}

#[test]
fn run_waits_until_the_database_starts() {
    let database = Database::standard();
    let port = free_port();
    let behind = Login {
        port,
        ..(*database).clone()
    };
    let source = Source::responding([Response::tokens(["aa", "bb"])]);
    let running = Command::new()
        .source(&source)
        .database(&behind)
        .args(["2", "--wait", "50s", "--report", "ndjson"])
        .spawn();
    running.wait_for_stderr(|text| text.contains("waiting for the database"));
    assert!(
        source.requests().is_empty(),
        "no token is requested without a database"
    );
    start_forwarding(port, database.port);
    let run = running.wait().expect_code(0);
    assert_eq!(Report::of_run(&run).with_status("stored"), ["aa", "bb"]);
}

#[test]
fn run_waits_until_the_source_starts() {
    let database = Database::standard();
    let port = free_port();
    let running = Command::new()
        .env("TOKEN_HOST", format!("http://127.0.0.1:{port}/tokens"))
        .database(&database)
        .config("source: {retries: 0}")
        .args(["2", "--wait", "50s", "--report", "ndjson"])
        .spawn();
    running.wait_for_stderr(|text| text.matches("retrying the request").count() >= 2);
    let source = Source::responding([Response::tokens(["aa", "bb"])]);
    start_forwarding(port, source.port());
    let run = running.wait().expect_code(0);
    assert_eq!(Report::of_run(&run).with_status("stored"), ["aa", "bb"]);
}

#[test]
fn run_fails_when_the_database_is_down_longer_than_wait() {
    let database = Database::standard();
    let down = Login {
        port: free_port(),
        ..(*database).clone()
    };
    let source = Source::responding([]);
    let run = Command::new()
        .source(&source)
        .database(&down)
        .args(["2", "--wait", "300ms", "--log-level", "warn"])
        .run();
    shows!(run.expect_code(5).stderr, @"
    error: the database cannot be reached
      caused by: 127.0.0.1:[port]: Connection refused (os error 111)
    hint: check host and port in DATABASE_URL and that the server runs; no token was requested
    ");
}

/// Waiting cannot correct a wrong password.
#[test]
fn run_does_not_wait_when_the_database_refuses_the_login() {
    let database = Database::standard();
    let wrong = Login {
        password: "wrong".to_owned(),
        ..(*database).clone()
    };
    let source = Source::responding([]);
    let run = Command::new()
        .source(&source)
        .database(&wrong)
        .args(["2", "--wait", "50s"])
        .run()
        .expect_code(5);
    assert!(!run.stderr.contains("waiting"), "{}", run.stderr);
}
