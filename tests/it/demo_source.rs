//! `token_service demo-source`: the demo's token source as a server.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use crate::support::command::{Command, Running, peak_memory};
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

/// Sends a request, and returns its connection.
fn send(url: &str, request: &str) -> TcpStream {
    send_with_headers(url, request, "")
}

/// Sends a request with these header lines, and returns its connection.
fn send_with_headers(url: &str, request: &str, headers: &str) -> TcpStream {
    let address = url.strip_prefix("http://").unwrap();
    let (address, _) = address.split_once('/').unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let text = format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(text.as_bytes()).unwrap();
    stream
}

/// Sends a request, and returns the status line, the body, and whether the answer allows only POST.
fn answer(url: &str, request: &str) -> (String, String) {
    let mut text = String::new();
    send(url, request).read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let allows_post = head.lines().any(|line| line == "allow: POST");
    let status = head.lines().next().unwrap().to_owned();
    assert_eq!(allows_post, status.contains("405"), "{head}");
    (status, body.to_owned())
}

#[test]
fn only_a_post_to_the_documented_path_issues_tokens() {
    let (_source, url) = start_demo_source();
    for (request, status) in [
        ("POST /tokens?size=5", "HTTP/1.1 200 OK"),
        ("POST /tokens?other=1&size=5", "HTTP/1.1 200 OK"),
        ("GET /tokens?size=5", "HTTP/1.1 405 Method Not Allowed"),
        ("PUT /tokens?size=5", "HTTP/1.1 405 Method Not Allowed"),
        ("GET /", "HTTP/1.1 404 Not Found"),
        ("POST /?size=5", "HTTP/1.1 404 Not Found"),
        ("POST /tokens/?size=5", "HTTP/1.1 404 Not Found"),
        ("POST /tokens", "HTTP/1.1 400 Bad Request"),
        ("POST /tokens?size=0", "HTTP/1.1 400 Bad Request"),
        ("POST /tokens?size=-1", "HTTP/1.1 400 Bad Request"),
    ] {
        let (got, body) = answer(&url, request);
        assert_eq!(got, status, "{request}");
        let tokens = body
            .lines()
            .filter(|line| line.len() == 22 && !line.contains(' '));
        let issues = status.contains("200");
        assert_eq!(tokens.count() > 0, issues, "{request}: {body}");
    }
    let (status, body) = answer(&url, "POST /tokens?size=99999999");
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(body.lines().count() > 300_000, "{}", body.lines().count());
    assert!(body.ends_with('\n'));
}

#[test]
fn same_idempotency_key_gives_the_same_tokens() {
    let (_source, url) = start_demo_source();
    let answer = |size: u64, key: &str| {
        let header = format!("Idempotency-Key: {key}\r\n");
        let request = format!("POST /tokens?size={size}");
        let mut text = String::new();
        let mut stream = send_with_headers(&url, &request, &header);
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    };
    let first = answer(1000, "a");
    assert_eq!(first.0, "HTTP/1.1 200 OK");
    assert_eq!(answer(1000, "a"), first);
    assert_ne!(answer(1000, "b").1, first.1);
    let (status, body) = answer(999, "a");
    assert_eq!(status, "HTTP/1.1 422 Unprocessable Entity");
    assert_eq!(body, "the idempotency key was used with another size\n");
    let (status, _) = answer(5, &"a".repeat(256));
    assert_eq!(status, "HTTP/1.1 400 Bad Request");
}

#[test]
fn unread_answers_take_little_memory() {
    let (source, url) = start_demo_source();
    let mut clients: Vec<TcpStream> = (0..200)
        .map(|_| send(&url, "POST /tokens?size=455902"))
        .collect();
    for client in &mut clients {
        let mut first = [0; 15];
        client.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 200 OK");
    }
    let peak = peak_memory(source.pid).expect("the kernel reports the peak");
    assert!(peak < 64 << 20, "{peak} bytes");
    // The source still serves others.
    assert_eq!(answer(&url, "POST /tokens?size=1").0, "HTTP/1.1 200 OK");
}

#[test]
fn long_request_is_refused() {
    let (_source, url) = start_demo_source();
    let request = format!("POST /tokens?size=5&x={}", "x".repeat(100_000));
    let mut text = String::new();
    let _ = send(&url, &request).read_to_string(&mut text);
    assert!(!text.contains("200 OK"), "{text}");
}

#[test]
fn demo_source_warns_when_other_hosts_can_reach_it() {
    for (address, warns) in [
        ("0.0.0.0:0", true),
        ("[::1]:0", false),
        ("127.0.0.2:0", false),
    ] {
        let running = Command::new().args(["demo-source", "--listen", address]);
        let running = running.spawn();
        running.wait_for_stdout(|text| text.ends_with('\n'));
        running.signal("TERM");
        let stderr = running.wait().expect_code(0).stderr;
        assert_eq!(
            stderr.starts_with("warning: other hosts can reach "),
            warns,
            "{stderr}"
        );
    }
}
