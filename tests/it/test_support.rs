//! Tests of the test support itself, on which the other tests rely.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use postgres::error::SqlState;

use crate::support::command::Command;
use crate::support::database::Database;
use crate::support::postgres::{SUPERUSER, server};
use crate::support::snapshot;
use crate::support::source::{Gate, Request, Response, Source, refused_url, token};

/// Sends an HTTP/1.1 request over a plain socket, so that no library of the source tests itself.
fn post(source: &Source, target: &str) -> String {
    let mut socket = TcpStream::connect(("127.0.0.1", source.port())).unwrap();
    write!(
        socket,
        "POST {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{{}}"
    )
    .unwrap();
    let mut answer = Vec::new();
    // A cut body may end with a reset; the bytes before it count.
    let _ = socket.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn server_stores_rows_durably() {
    let database = Database::standard();
    let mut client = database.client();
    client
        .execute("INSERT INTO secret_tokens (data) VALUES ('b'), ('a')", &[])
        .unwrap();
    let refused = client.execute("INSERT INTO secret_tokens (data) VALUES ('a-b')", &[]);
    assert_eq!(
        refused.unwrap_err().code(),
        Some(&SqlState::CHECK_VIOLATION)
    );
    assert_eq!(database.rows(), ["a", "b"]);
    for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
        let shown = client.query_one(&format!("SHOW {setting}"), &[]).unwrap();
        assert_eq!(shown.get::<_, String>(0), "on", "{setting}");
    }
}

#[test]
fn hostile_table_skips_rows_and_checks_at_commit() {
    let database = Database::hostile();
    let mut client = database.client();
    let insert = "INSERT INTO secret_tokens (data) VALUES ($1)";
    assert_eq!(client.execute(insert, &[&"nothing"]).unwrap(), 0);
    assert_eq!(client.execute(insert, &[&"twice"]).unwrap(), 1);
    let twice = client.execute(insert, &[&"twice"]).unwrap_err();
    assert_eq!(twice.code(), Some(&SqlState::UNIQUE_VIOLATION));
    assert_eq!(database.rows(), ["twice"]);
}

#[test]
fn server_checks_passwords_and_privileges() {
    let database = Database::standard();
    let role = database.role_with("INSERT");
    role.client()
        .execute("INSERT INTO secret_tokens (data) VALUES ('a')", &[])
        .unwrap();
    let read = role
        .client()
        .query("SELECT data FROM secret_tokens", &[])
        .unwrap_err();
    assert_eq!(read.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
    let wrong =
        postgres::Client::connect(&database.url().replace("owner-", "other-"), postgres::NoTls);
    let refused = wrong.err().expect("a refusal");
    assert_eq!(refused.code(), Some(&SqlState::INVALID_PASSWORD));
    let mut by_socket = postgres::Config::new()
        .host_path(&server().sockets)
        .port(server().port)
        .user(SUPERUSER)
        .password(&server().password)
        .connect(postgres::NoTls)
        .unwrap();
    by_socket.batch_execute("SELECT 1").unwrap();
}

/// Kills a process of this test binary during `initdb`, while its server runs, and while its PgBouncer
/// runs.
#[test]
fn servers_end_when_their_test_process_is_killed() {
    let stores = "test_support::server_stores_rows_durably";
    let pools = "pooler::tokens_are_settled_when_the_pooler_pauses";
    for (test, marker) in [
        (stores, "data/PG_VERSION"),
        (stores, "sockets/.s.PGSQL."),
        (pools, "/log"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        // The account of the server needs access.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut child = Process::new(std::env::current_exe().unwrap())
            .args(["--exact", test])
            .env("TMPDIR", dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until(marker, || {
            paths_below(dir.path(), 3)
                .iter()
                .any(|path| path.contains(marker))
        });
        child.kill().unwrap();
        child.wait().unwrap();
        // Other files of the killed test are not removed.
        until("the server's folder is gone", || {
            let left = paths_below(dir.path(), 1);
            !left.iter().any(|path| path.contains("/token_service-pg"))
        });
    }
}

/// Lists the paths below a folder, down to `levels` levels.
fn paths_below(dir: &Path, levels: u32) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        found.push(entry.path().display().to_string());
        if levels > 1 {
            found.extend(paths_below(&entry.path(), levels - 1));
        }
    }
    found
}

/// Polls until another process makes a condition true; no event announces this.
fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_mins(1);
    while !holds() {
        assert!(Instant::now() < end, "timed out: {what}");
        thread::park_timeout(Duration::from_millis(10));
    }
}

#[test]
fn source_answers_in_order_and_records_requests() {
    let source = Source::responding([
        Response::tokens(["aa", "b-b"]),
        Response::status(503).header("retry-after", "2"),
        Response::raw("text/html", "<p>"),
    ]);
    let first = post(&source, "/tokens?key=1&size=2");
    assert!(first.starts_with("HTTP/1.1 200 OK\r\n"), "{first}");
    assert!(
        first.contains("content-type: text/plain; charset=utf-8\r\n"),
        "{first}"
    );
    assert!(first.ends_with("\r\n\r\naa\nb-b\n"), "{first}");
    let second = post(&source, "/tokens?size=9");
    assert!(
        second.starts_with("HTTP/1.1 503 ") && second.contains("retry-after: 2\r\n"),
        "{second}"
    );
    assert!(post(&source, "/x").ends_with("<p>"));

    let requests = source.requests();
    assert_eq!(requests[0].method, "POST");
    assert_eq!(requests[0].target, "/tokens?key=1&size=2");
    assert_eq!(requests[0].body, "{}");
    assert_eq!(requests[0].version, "HTTP/1.1");
    assert_eq!(
        requests.iter().map(Request::size).collect::<Vec<_>>(),
        [Some(2), Some(9), None]
    );
}

#[test]
fn cut_body_is_short_and_endless_body_does_not_end() {
    let source = Source::responding([
        Response::truncated("aa\nbb", 100),
        Response::endless("aa\n").always(),
    ]);
    let cut = post(&source, "/tokens?size=30");
    assert!(
        cut.contains("content-length: 100\r\n") && cut.ends_with("\r\n\r\naa\nbb"),
        "{cut}"
    );
    for _ in 0..2 {
        let mut socket = TcpStream::connect(("127.0.0.1", source.port())).unwrap();
        write!(socket, "POST /?size=1 HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut some = vec![0; 1 << 20];
        socket.read_exact(&mut some).unwrap();
    }
}

#[test]
fn gated_answer_waits_until_its_gate_opens() {
    let gate = Gate::new();
    let source = Source::responding([Response::tokens(["aa"]).after(&gate)]);
    thread::scope(|scope| {
        let answer = scope.spawn(|| post(&source, "/tokens?size=1"));
        source.wait_for(1);
        assert!(!answer.is_finished());
        gate.open();
        assert!(answer.join().unwrap().ends_with("aa\n"));
    });
}

#[test]
fn generating_source_returns_fewer_tokens_in_the_real_format() {
    let source = Source::generating(|asked| asked - 1);
    let answer = post(&source, "/tokens?size=5");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let tokens: Vec<&str> = body.lines().collect();
    assert_eq!(tokens.len(), 4);
    assert_eq!(tokens, source.issued());
    for made in tokens {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        assert!(
            made.len() == 22 && made.chars().all(plain) && "AQgw".contains(&made[21..]),
            "{made}"
        );
    }
    assert_ne!(token(), token());
}

#[test]
fn source_panics_when_an_answer_is_unused_or_a_request_undeclared() {
    let panic_message = |source: Source| {
        let panic = catch_unwind(AssertUnwindSafe(|| drop(source))).unwrap_err();
        panic.downcast_ref::<String>().unwrap().clone()
    };
    let unused = Source::responding([Response::status(500)]);
    assert!(panic_message(unused).contains("1 declared responses were not used"));
    let undeclared = Source::responding([]);
    assert!(post(&undeclared, "/?size=1").starts_with("HTTP/1.1 500 "));
    assert!(panic_message(undeclared).contains("1 requests had no declared response"));
}

#[test]
fn tls_source_is_trusted_by_its_authority_and_uses_http_2() {
    let source = Source::generating_over_tls(|asked| asked);
    let pem = fs::read(source.ca_file().unwrap()).unwrap();
    // The program installs a TLS provider for itself, and the test must do so too.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let text = runtime.block_on(async {
        let roots = [reqwest::Certificate::from_pem(&pem).unwrap()];
        let client = reqwest::Client::builder()
            .tls_certs_only(roots)
            .build()
            .unwrap();
        let request = client.post(format!("{}?size=3", source.url())).body("{}");
        request.send().await.unwrap().text().await.unwrap()
    });
    assert_eq!(text.lines().count(), 3);
    assert_eq!(source.requests()[0].version, "HTTP/2.0");
}

#[test]
fn command_runs_in_its_own_folder() {
    let command = Command::new()
        .file("scripts/a.rhai", "1")
        .arg("--help")
        .stdin("unread");
    assert!(command.dir().join("scripts/a.rhai").exists());
    let run = command.run().expect_code(0);
    assert!(run.path("scripts/a.rhai").exists());
    assert_eq!(run.signal, None);
    assert!(refused_url().starts_with("http://127.0.0.1:"));
}

#[test]
fn snapshot_filters_replace_changing_values() {
    snapshot::settings().bind(|| {
        insta::assert_snapshot!(
            "7 stored in 0.04 s (1,243 tokens/s) at 127.0.0.1:5432 by token_service 0.1.0\n\
             {\"ms\":1.25,\"run_id\":\"0190f3a8-1f6e-7cc0-8d2a-1b2c3d4e5f60\"} in /tmp/.tmpAbC123/a.rhai\n\
             2026-11-24T20:55:27.123Z PostgreSQL 15.18 (Debian 15.18-0+deb12u1) t_12_owner",
            @r#"
        7 stored in [seconds] s ([rate] tokens/s) at 127.0.0.1:[port] by token_service [version]
        {"ms":[ms],"run_id":"[uuid]"} in [dir]/a.rhai
        [time] PostgreSQL [version]) [database]_owner
        "#
        );
    });
}
