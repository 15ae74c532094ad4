//! Tests of the connections to the source: one per request, outages, proxies, and servers that are no
//! token source.

use std::io::{Read as _, Write as _, copy};
use std::net::{TcpListener, TcpStream};
use std::thread;

use crate::support::command::{Command, Run};
use crate::support::database::Database;
use crate::support::raw_server::{RawServer, answer, read_request};
use crate::support::report::Report;
use crate::support::snapshot::shows;
use crate::support::source::{Gate, Response, Source, refused_url};

/// A run that requests `size` tokens, one per request.
fn run_of(size: usize, url: &str) -> (Command, Database) {
    let database = Database::standard();
    let size = size.to_string();
    let args = [size.as_str(), "--page-size", "1", "--report", "ndjson"];
    let command = Command::new()
        .env("TOKEN_HOST", url)
        .database(&database)
        .args(args);
    (command, database)
}

#[track_caller]
fn assert_complete(run: Run, size: u64) -> Run {
    let run = run.expect_code(0);
    let report = Report::of_run(&run);
    assert_eq!(report.count("stored"), size);
    assert!(!run.stderr.contains("unseen"), "{}", run.stderr);
    run
}

/// Answers each request with one token.
fn answers_forever(stream: &mut TcpStream, number: usize, headers: &str) {
    let mut count = 0;
    while read_request(stream).is_some() {
        count += 1;
        answer(stream, headers, &[&format!("t{number}x{count}")]);
    }
}

#[test]
fn each_request_has_a_connection_of_its_own() {
    let source = RawServer::start(|number, mut stream| {
        read_request(&mut stream);
        // The connection is closed without `connection: close`.
        answer(&mut stream, "", &[&format!("t{number}")]);
    });
    let (command, _database) = run_of(40, &source.url());
    assert_complete(command.run(), 40);
    assert_eq!(source.connections(), 40);
}

#[test]
fn connection_is_used_again_when_keep_alive_is_set() {
    let source = RawServer::start(|number, mut stream| answers_forever(&mut stream, number, ""));
    let (command, _database) = run_of(10, &source.url());
    let config = "source: {keep_alive: 1m, concurrency: 1}";
    assert_complete(command.config(config).run(), 10);
    assert_eq!(source.connections(), 1);
}

#[test]
fn connection_is_not_used_again_when_the_source_announces_its_end() {
    let source = RawServer::start(|number, mut stream| {
        answers_forever(&mut stream, number, "connection: close\r\n");
    });
    let (command, _database) = run_of(10, &source.url());
    assert_complete(command.config("source: {keep_alive: 1m}").run(), 10);
    assert_eq!(source.connections(), 10);
}

#[test]
fn request_is_not_repeated_when_its_connection_is_closed_without_an_answer() {
    let source = RawServer::start(|_, mut stream| drop(read_request(&mut stream)));
    let (command, _database) = run_of(5, &source.url());
    let run = command.run().expect_code(4);
    assert_eq!(source.connections(), 1);
    shows!(run.stderr, @"
    5 requested, 0 received in 1 request: 0 stored, 0 rejected, 1 perhaps issued unseen in [seconds] s
    error: http_protocol: the token source closed the connection without an answer
      caused by: POST http://127.0.0.1:[port]/tokens: connection closed before message completed
    hint: the request may have been served, so `fetch` does not repeat it without --dangerously-repeat-requests
    ");
}

#[test]
fn outage_is_waited_out_when_the_source_was_reached_before() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (command, _database) = run_of(2, &format!("http://127.0.0.1:{port}/tokens"));
    let running = command.spawn();
    let (mut stream, _) = listener.accept().unwrap();
    read_request(&mut stream).unwrap();
    drop(listener);
    answer(&mut stream, "", &["aa"]);
    // More often than the retries of a request.
    running.wait_for_stderr(|text| text.matches("retrying the request").count() > 4);
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    read_request(&mut stream).unwrap();
    answer(&mut stream, "", &["bb"]);
    assert_complete(running.wait(), 2);
}

#[test]
fn limited_requests_are_waited_out_when_no_time_is_set() {
    let busy = |status| Response::status(status);
    let source = Source::responding([
        busy(429),
        busy(503),
        busy(429),
        busy(429),
        busy(503),
        Response::tokens(["aa"]),
        busy(429),
        Response::tokens(["bb"]),
    ]);
    let (command, _database) = run_of(2, &source.url());
    assert_complete(command.run(), 2);
}

#[test]
fn limited_requests_fail_when_patience_ends() {
    let source = Source::responding([Response::status(429).always()]);
    let (command, _database) = run_of(1, &source.url());
    let run = command
        .args(["--patience", "0s", "--log-level", "warn"])
        .run();
    assert_eq!(source.requests().len(), 4, "three retries");
    shows!(run.expect_code(4).stderr, @"
    1 requested, 0 received in 4 requests: 0 stored, 0 rejected in [seconds] s
    error: http_status: the token source answered 429 Too Many Requests
      caused by: POST http://127.0.0.1:[port]/tokens
      = retryable (trying again may help, and is safe)
    hint: it limits its requests or is overloaded: raise `--patience`, which sets how long such answers are waited out, or try later
    ");
}

#[test]
fn retries_flag_limits_the_repetitions() {
    let source = Source::responding([Response::status(503).always()]);
    let (command, _database) = run_of(1, &source.url());
    command.args(["--retries", "1"]).run().expect_code(4);
    assert_eq!(source.requests().len(), 2);
}

#[test]
fn retry_after_date_is_relative_to_the_date_of_the_answer() {
    // The clock of this source is decades behind.
    let busy = Response::status(503)
        .header("date", "Sun, 06 Nov 1994 08:49:37 GMT")
        .header("retry-after", "Sunday, 06-Nov-94 08:49:38 GMT");
    let source = Source::responding([busy, Response::tokens(["aa"])]);
    let (command, _database) = run_of(1, &source.url());
    let run = assert_complete(command.run(), 1);
    assert!(Report::of_run(&run).count("duration_ms") >= 1000);
}

#[test]
fn run_fails_at_once_when_retry_after_exceeds_every_number() {
    let busy = Response::status(503).header("retry-after", "99999999999999999999999");
    let source = Source::responding([busy]);
    let (command, _database) = run_of(1, &source.url());
    let run = command.run().expect_code(4);
    shows!(run.error(), @"
    error: http_status: the token source answered 503 Service Unavailable
      caused by: POST http://127.0.0.1:[port]/tokens
      caused by: the next request is due in 100years 2months 14days 2h 52m 48s, longer than the run may wait
      = retryable (trying again may help, and is safe), retry_after_ms 3162240000000
    hint: it limits its requests or is overloaded: raise `--patience`, which sets how long such answers are waited out, or try later
    ");
}

#[test]
fn authorization_file_is_read_again_when_the_source_answers_401() {
    let gate = Gate::new();
    let source = Source::responding([
        Response::status(401).after(&gate),
        Response::tokens(["aa"]),
        Response::status(401),
    ]);
    let (command, _database) = run_of(2, &source.url());
    let secret = command.dir().join("secret");
    std::fs::write(&secret, "Bearer first").unwrap();
    let command = command.env("TOKEN_SERVICE_SOURCE_AUTHORIZATION_FILE", "secret");
    let running = command.spawn();
    source.wait_for(1);
    std::fs::write(&secret, "Bearer second").unwrap();
    gate.open();
    // The third request is not repeated: the file is the same.
    let run = running.wait().expect_code(4);
    let requests = source.requests();
    let sent = requests
        .iter()
        .map(|request| &request.headers["authorization"]);
    let sent: Vec<_> = sent.collect();
    assert_eq!(sent, ["Bearer first", "Bearer second", "Bearer second"]);
    assert!(run.error().contains("401 Unauthorized"), "{}", run.error());
}

/// The error of a run with one request to this URL, and these variables.
#[track_caller]
fn error_at(url: &str, variables: &[(&str, &str)], args: &[&str]) -> String {
    let (command, database) = run_of(1, url);
    let command = variables
        .iter()
        .fold(command, |command, (name, value)| command.env(name, value));
    let run = command.args(args).args(["--log-level", "warn"]).run();
    assert!(database.rows().is_empty());
    assert!(!run.stderr.contains("unseen"), "{}", run.stderr);
    run.expect_code(4).error().to_owned()
}

#[test]
fn server_of_another_protocol_is_named() {
    let ssh = RawServer::start(|_, mut stream| {
        let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n");
        let _ = copy(&mut stream, &mut std::io::sink());
    });
    let tls = Source::responding_over_tls([]);
    let over_http = format!("http://127.0.0.1:{}/tokens", tls.port());
    let over_https = format!("https://127.0.0.1:{}/tokens", ssh.port);
    let errors = [ssh.url(), over_http, over_https].map(|url| error_at(&url, &[], &[]));
    assert_eq!(ssh.connections(), 2, "no request is repeated");
    shows!(errors.join("\n\n"), @"
    error: http_connect: the token source does not speak HTTP
      caused by: POST http://127.0.0.1:[port]/tokens: invalid HTTP version parsed
    hint: check host, port and scheme in TOKEN_HOST or source.url; a server that expects TLS needs https://

    error: http_connect: the token source does not speak HTTP
      caused by: POST http://127.0.0.1:[port]/tokens: invalid HTTP version parsed
    hint: check host, port and scheme in TOKEN_HOST or source.url; a server that expects TLS needs https://

    error: http_connect: the token source does not use TLS
      caused by: POST https://127.0.0.1:[port]/tokens: received corrupt message of type InvalidContentType
    hint: to connect without TLS, write http:// in TOKEN_HOST or source.url; the default scheme is https
    ");
}

#[test]
fn source_is_reached_directly_when_no_proxy_names_it() {
    let proxy = refused_url();
    for exceptions in [
        "*",
        "127.0.0.1",
        "10.0.0.1, 127.0.0.0/8",
        "127.0.0.1:80,127.0.0.1",
    ] {
        for name in ["NO_PROXY", "no_proxy"] {
            let source = Source::responding([Response::tokens(["aa"])]);
            let (command, _database) = run_of(1, &source.url());
            let command = command.env("HTTP_PROXY", &proxy).env(name, exceptions);
            assert_complete(command.run(), 1);
        }
    }
}

#[test]
fn proxy_and_its_variable_are_named_when_it_is_down() {
    let proxy = refused_url()
        .replace("/tokens", "")
        .replace("127.", "user:canary@127.");
    let errors = [
        ("HTTP_PROXY", "http://tokens.internal/issue"),
        ("https_proxy", "https://tokens.internal/issue"),
        ("ALL_PROXY", "https://tokens.internal/issue"),
    ]
    .map(|(name, url)| error_at(url, &[(name, &proxy)], &["--retries", "0"]));
    assert!(!errors.concat().contains("canary"));
    shows!(errors.join("\n\n"), @"
    error: http_connect: the proxy http://127.0.0.1:[port] (HTTP_PROXY) cannot be reached
      caused by: POST http://tokens.internal/issue: Connection refused (os error 111)
      = retryable (trying again may help, and is safe)
    hint: check the variable, or add the token source's host to NO_PROXY to connect without a proxy

    error: http_connect: the proxy http://127.0.0.1:[port] (https_proxy) cannot be reached
      caused by: POST https://tokens.internal/issue: Connection refused (os error 111)
      = retryable (trying again may help, and is safe)
    hint: check the variable, or add the token source's host to NO_PROXY to connect without a proxy

    error: http_connect: the proxy http://127.0.0.1:[port] (ALL_PROXY) cannot be reached
      caused by: POST https://tokens.internal/issue: Connection refused (os error 111)
      = retryable (trying again may help, and is safe)
    hint: check the variable, or add the token source's host to NO_PROXY to connect without a proxy
    ");
}

#[test]
fn request_is_not_repeated_when_the_proxy_requires_a_login() {
    let proxy = RawServer::start(|_, mut stream| {
        read_request(&mut stream);
        let head = "HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n";
        let _ = stream.write_all(head.as_bytes());
    });
    let address = format!("127.0.0.1:{}", proxy.port);
    let errors = [
        ("HTTP_PROXY", "http://tokens.internal/issue"),
        ("HTTPS_PROXY", "https://tokens.internal/issue"),
    ]
    .map(|(name, url)| error_at(url, &[(name, &address)], &[]));
    assert_eq!(proxy.connections(), 2);
    shows!(errors.join("\n\n"), @"
    error: http_status: the proxy http://127.0.0.1:[port] (HTTP_PROXY) answered 407 Proxy Authentication Required
      caused by: POST http://tokens.internal/issue
    hint: write the user and password into the variable: http://user:password@host:port

    error: http_status: the proxy http://127.0.0.1:[port] (HTTPS_PROXY) answered 407 Proxy Authentication Required
      caused by: POST https://tokens.internal/issue: tunnel error: proxy authorization required
    hint: write the user and password into the variable: http://user:password@host:port
    ");
}

#[test]
fn proxy_is_named_when_it_does_not_connect_to_the_source() {
    let proxy = RawServer::start(|_, mut stream| {
        read_request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n");
    });
    let address = format!("http://127.0.0.1:{}", proxy.port);
    let url = "https://tokens.internal/issue";
    shows!(error_at(url, &[("HTTPS_PROXY", &address)], &["--retries", "0"]), @"
    error: http_connect: the proxy http://127.0.0.1:[port] (HTTPS_PROXY) did not connect to the token source
      caused by: POST https://tokens.internal/issue: tunnel error: unsuccessful
      = retryable (trying again may help, and is safe)
    hint: check that the proxy permits this host and port, and that the source is up
    ");
}

#[test]
fn source_is_reached_through_a_socks_proxy() {
    let source = Source::responding([Response::tokens(["aa"])]);
    let port = source.port();
    let proxy = RawServer::start(move |_, mut client| {
        // The greeting with one method, then CONNECT to an IPv4 address.
        client.read_exact(&mut [0; 3]).unwrap();
        client.write_all(&[5, 0]).unwrap();
        client.read_exact(&mut [0; 10]).unwrap();
        client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
        let mut server = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let mut to_client = (server.try_clone().unwrap(), client.try_clone().unwrap());
        thread::spawn(move || copy(&mut to_client.0, &mut to_client.1));
        let _ = copy(&mut client, &mut server);
    });
    let (command, _database) = run_of(1, &source.url());
    let address = format!("socks5://127.0.0.1:{}", proxy.port);
    assert_complete(command.env("ALL_PROXY", address).run(), 1);
    assert_eq!(proxy.connections(), 1);
}

#[test]
fn invalid_proxy_is_a_configuration_error() {
    let (command, _database) = run_of(1, "http://127.0.0.1:9/tokens");
    let run = command.env("HTTP_PROXY", "htp://user:canary@proxy:1").run();
    shows!(run.expect_code(2).stderr, @"
    error: HTTP_PROXY must be the URL of a proxy with the scheme http, https, socks4, socks4a, socks5 or socks5h
    hint: such as http://proxy.internal:3128; NO_PROXY lists hosts that need no proxy
    ");
}

#[test]
fn check_names_the_proxy_through_which_it_would_connect() {
    let proxy = RawServer::start(|_, mut stream| drop(read_request(&mut stream)));
    let database = Database::standard();
    let address = format!("http://user:canary@127.0.0.1:{}", proxy.port);
    let run = Command::new()
        .args(["check", "--connect"])
        .env("TOKEN_HOST", "http://tokens.internal/issue")
        .database(&database)
        .env("HTTP_PROXY", address)
        .run();
    let run = run.expect_code(0);
    let line = run.stdout.lines().find(|line| line.starts_with("source"));
    shows!(line.unwrap(), @"
    source    ok    http://tokens.internal/issue  no TLS, connected in [ms] ms, through the proxy http://127.0.0.1:[port] (HTTP_PROXY) (no token requested)
    ");
}
