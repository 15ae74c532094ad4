//! The support itself works: what other tests take for granted is shown once here.

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

/// One HTTP/1.1 request by hand, so that the source is tested by nothing that it is made of.
fn post(source: &Source, target: &str) -> String {
    let mut socket = TcpStream::connect(("127.0.0.1", source.port())).unwrap();
    write!(
        socket,
        "POST {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{{}}"
    )
    .unwrap();
    let mut answer = Vec::new();
    // A cut body may end in a reset; what came before it is what counts.
    let _ = socket.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn postgresql_stores_a_row() {
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
fn the_hostile_table_is_hostile() {
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
fn logins_are_checked_and_rights_are_kept_apart() {
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

/// A whole process of this test binary is killed, once in the middle of `initdb`, once while its
/// server runs and once while a PgBouncer does: nothing stays behind.
#[test]
fn the_server_goes_with_a_killed_process() {
    let stores = "support_works::postgresql_stores_a_row";
    let pools = "pooler::a_pause_of_the_pooler_costs_time_only";
    for (test, sign) in [
        (stores, "data/PG_VERSION"),
        (stores, "sockets/.s.PGSQL."),
        (pools, "/log"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        // The server's account has to get in.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut child = Process::new(std::env::current_exe().unwrap())
            .args(["--exact", test])
            .env("TMPDIR", dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until(sign, || {
            below(dir.path(), 3).iter().any(|path| path.contains(sign))
        });
        child.kill().unwrap();
        child.wait().unwrap();
        // What else the killed test had made for itself, nobody removes.
        until("the server's folder is gone", || {
            let left = below(dir.path(), 1);
            !left.iter().any(|path| path.contains("/token_service-pg"))
        });
    }
}

/// Every path below a folder, so many levels down.
fn below(dir: &Path, levels: u32) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        found.push(entry.path().display().to_string());
        if levels > 1 {
            found.extend(below(&entry.path(), levels - 1));
        }
    }
    found
}

/// Polls a condition that another process brings about and nobody announces.
fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_mins(1);
    while !holds() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        thread::park_timeout(Duration::from_millis(10));
    }
}

#[test]
fn the_source_answers_in_order_and_records() {
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
fn a_cut_body_arrives_short_and_an_endless_one_does_not_end() {
    let source = Source::responding([
        Response::cut("aa\nbb", 100),
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
fn a_held_answer_waits_for_its_gate() {
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
fn a_generating_source_under_delivers_real_tokens() {
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
fn an_unused_answer_and_an_undeclared_request_are_complained_about() {
    let complaint = |source: Source| {
        let panic = catch_unwind(AssertUnwindSafe(|| drop(source))).unwrap_err();
        panic.downcast_ref::<String>().unwrap().clone()
    };
    let unused = Source::responding([Response::status(500)]);
    assert!(complaint(unused).contains("1 declared answers were not used"));
    let undeclared = Source::responding([]);
    assert!(post(&undeclared, "/?size=1").starts_with("HTTP/1.1 500 "));
    assert!(complaint(undeclared).contains("1 requests had no declared answer"));
}

#[test]
fn tls_is_trusted_by_its_authority_and_speaks_http_2() {
    let source = Source::generating_over_tls(|asked| asked);
    let pem = fs::read(source.ca_file().unwrap()).unwrap();
    // The product's own provider is chosen in the product; here the test chooses.
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
fn the_binary_runs_in_a_folder_of_its_own() {
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
fn snapshots_forget_what_changes() {
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
