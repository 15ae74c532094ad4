//! `token_service demo-source`: the demo's token source as a server.

use std::net::TcpListener;

use crate::support::command::{Command, Running};
use crate::support::database::Database;
use crate::support::snapshot::shows;

/// Starts a demo source on a free port; returns it and its URL.
pub(crate) fn start_demo_source() -> (Running, String) {
    let running = Command::new().args(["demo-source", "--listen", "127.0.0.1:0"]);
    let running = running.spawn();
    let output = running.wait_for_stdout(|text| text.ends_with('\n'));
    let url = output
        .trim()
        .strip_prefix("listening on ")
        .unwrap()
        .to_owned();
    (running, url)
}

#[test]
fn demo_source_serves_runs_until_it_is_signalled() {
    for signal in ["TERM", "INT"] {
        let (source, url) = start_demo_source();
        let run = Command::new()
            .env("TOKEN_HOST", &url)
            .database(&Database::standard())
            .arg("50")
            .run();
        assert_eq!(run.expect_code(0).stdout.lines().count(), 50);
        source.signal(signal);
        let ended = source.wait().expect_code(0);
        assert_eq!(ended.stderr, "");
    }
}

#[test]
fn demo_source_is_refused_when_its_address_is_taken_or_invalid() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let run = Command::new()
        .arg("demo-source")
        .env("TOKEN_SERVICE_LISTEN", &address);
    let error = run
        .run()
        .expect_code(2)
        .stderr
        .replace(&address, "[address]");
    shows!(error, @"
    error: cannot listen on [address]
      caused by: Address already in use (os error 98)
    hint: set --listen to an address of this host and a free port; port 0 picks one
    ");
    let run = Command::new()
        .args(["demo-source", "--listen", "8080"])
        .run();
    shows!(run.expect_code(2).stderr, @"
    error: --listen must be an address and a port, such as 127.0.0.1:[port] or 0.0.0.0:8080, not `8080`
    hint: see `token_service demo-source --help`
    ");
    let run = Command::new().arg("demo-sorce").run();
    shows!(run.expect_code(2).stderr, @"
    error: unknown command `demo-sorce`
    hint: did you mean `token_service demo-source`?
    ");
}
