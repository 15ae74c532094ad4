//! Requests that are refused: each with a problem document that says what, why and what to do next.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use reqwest::Method;

use super::{Service, database};
use crate::support::command::Command;
use crate::support::source::{Source, refused_url};

fn service() -> Service {
    let command = Command::new()
        .env("DATABASE_URL", database().url())
        .env("TOKEN_HOST", refused_url())
        .env("MAX_TOKENS", "100");
    Service::of(command)
}

#[test]
fn invalid_requests_get_a_problem_document() {
    let service = service();
    let unknown = "/v1/runs/018f0000-0000-7000-8000-000000000000";
    let problem = |method: &str, path: &str, headers: &[(&str, &str)], body: &str| {
        let method = method.parse().unwrap();
        let problem = service.send(method, path, headers, body).problem();
        format!("{path} {headers:?}\n{problem}\n")
    };
    let problems = [
        problem("POST", "/v1/runs?size=0", &[], ""),
        problem("POST", "/v1/runs?size=ten", &[], ""),
        problem("POST", "/v1/runs?size=101", &[], ""),
        problem("POST", "/v1/runs?size=1&size=2", &[], ""),
        problem("POST", "/v1/runs?count=1", &[], ""),
        problem("POST", "/v1/runs?format=xml", &[], ""),
        problem("POST", "/v1/runs", &[("accept", "image/png")], ""),
        problem(
            "POST",
            "/v1/runs",
            &[("content-type", "application/json")],
            "{}",
        ),
        problem(
            "POST",
            "/v1/runs",
            &[("content-type", "text/plain")],
            "\n\n",
        ),
        problem("POST", "/v1/runs", &[("content-type", "text/plain")], ""),
        problem(
            "POST",
            "/v1/runs",
            &[("content-type", "text/plain; charset=utf-16")],
            "a",
        ),
        problem(
            "POST",
            "/v1/runs",
            &[("content-type", "text/plain"), ("content-encoding", "gzip")],
            "a",
        ),
        problem("POST", "/v1/runs", &[("idempotency-key", "")], ""),
        problem(
            "POST",
            "/v1/runs",
            &[("idempotency-key", "a"), ("idempotency-key", "b")],
            "",
        ),
        problem("POST", "/v1/runs", &[("sec-fetch-site", "cross-site")], ""),
        problem("GET", "/", &[("host", "evil.example")], ""),
        problem("GET", unknown, &[], ""),
        problem("GET", "/v1/runs/one", &[], ""),
        problem("DELETE", unknown, &[], ""),
        problem("GET", "/v1/runs/one/report?after=x", &[], ""),
        problem(
            "GET",
            "/v1/runs/one/report?after=1",
            &[("accept", "text/csv")],
            "",
        ),
        problem("PUT", "/v1/runs", &[], ""),
        problem("POST", "/healthz", &[], ""),
        problem("GET", "/v2", &[], ""),
    ];
    insta::assert_snapshot!(problems.join("\n"));
    let allowed = service.send(Method::PATCH, "/v1/runs", &[], "").expect(405);
    assert_eq!(allowed.headers["allow"], "GET, POST");
}

#[test]
fn body_that_is_too_large_is_refused() {
    let database = database();
    let command = Command::new()
        .database(&database)
        .env("TOKEN_HOST", refused_url())
        .config("source: {max_body: 1KiB}\n");
    let service = Service::of(command);
    let body = "a".repeat(2000);
    let answer = service.send(
        Method::POST,
        "/v1/runs",
        &[("content-type", "text/plain")],
        body,
    );
    insta::assert_snapshot!(answer.problem(), @r"
    413 Payload Too Large
    the body has more than 1024 bytes
    send fewer tokens at a time, or raise `source.max_body`
    ");
}

#[test]
fn requests_without_the_token_are_refused() {
    let database = database();
    let command = Command::new()
        .database(&database)
        .env("TOKEN_HOST", refused_url())
        .env("TOKEN_SERVICE_SERVE_TOKEN", "s3cret-token")
        .args(["--admin-listen", "127.0.0.1:0"]);
    let service = Service::of(command);
    let wrong = [("authorization", "Bearer s3cret-toke")];
    for path in [
        "/v1/runs",
        "/metrics",
        "/healthz",
        "/readyz",
        "/openapi.json",
    ] {
        service.send(Method::GET, path, &[], "").expect(401);
        let refused = service.send(Method::GET, path, &wrong, "").expect(401);
        assert_eq!(refused.headers["www-authenticate"], "Bearer");
        assert!(!refused.text.contains("s3cret"));
        let right = [("authorization", "Bearer s3cret-token")];
        let status = service.send(Method::GET, path, &right, "").status;
        assert!(matches!(status, 200 | 503), "{path}: {status}");
    }
    insta::assert_snapshot!(service.send(Method::POST, "/v1/runs", &wrong, "").problem(), @r"
    401 Unauthorized
    the request has no valid token
    send the service's token as `Authorization: Bearer …`
    ");
    for path in ["/metrics", "/healthz", "/readyz"] {
        let answer = service.send_to(Method::GET, &service.admin_url(path), &[], "");
        assert!(
            matches!(answer.status, 200 | 503),
            "{path}: {}",
            answer.status
        );
    }
    let other = service.admin_url("/v1/runs");
    service.send_to(Method::GET, &other, &[], "").expect(404);
    let run = service.stop();
    assert!(!run.stderr.contains("s3cret"), "{}", run.stderr);
}

#[test]
fn token_is_read_again_when_its_file_changes() {
    let database = database();
    let command = Command::new()
        .database(&database)
        .env("TOKEN_HOST", refused_url())
        .file("token", "first\n")
        .env("TOKEN_SERVICE_SERVE_TOKEN_FILE", "token");
    let file = command.dir().join("token");
    let service = Service::of(command);
    let first = [("authorization", "Bearer first")];
    let second = [("authorization", "Bearer second")];
    service
        .send(Method::GET, "/healthz", &first, "")
        .expect(200);
    std::fs::write(file, "second").unwrap();
    service
        .send(Method::GET, "/healthz", &first, "")
        .expect(401);
    service
        .send(Method::GET, "/healthz", &second, "")
        .expect(200);
}

#[test]
fn login_sets_a_cookie_that_gives_access() {
    let database = database();
    let command = Command::new()
        .database(&database)
        .env("TOKEN_HOST", refused_url())
        .env("TOKEN_SERVICE_SERVE_TOKEN", "s3cret-token");
    let service = Service::of(command);
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let page = service.send(Method::GET, "/", &[], "").expect(401);
    assert!(page.text.contains("<form"), "{}", page.text);
    let wrong = service
        .send(Method::POST, "/login", &form, "token=wrong")
        .expect(401);
    assert!(!wrong.headers.contains_key("set-cookie"));
    let right = service
        .send(Method::POST, "/login", &form, "token=s3cret-token")
        .expect(303);
    let cookie = &right.headers["set-cookie"];
    assert!(
        cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"),
        "{cookie}"
    );
    assert!(!cookie.contains("s3cret"));
    let cookie = cookie.split(';').next().unwrap();
    service
        .send(Method::GET, "/v1/runs", &[("cookie", cookie)], "")
        .expect(200);
    service
        .send(Method::GET, "/", &[("cookie", cookie)], "")
        .expect(200);
}

#[test]
fn pages_have_a_policy_that_lets_no_foreign_script_run() {
    let service = service();
    for path in ["/", "/runs/018f0000-0000-7000-8000-000000000000"] {
        let page = service.send(Method::GET, path, &[], "").expect(200);
        let policy = &page.headers["content-security-policy"];
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self';"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
    }
    // No answer allows another origin to read it.
    for path in ["/", "/v1/runs", "/metrics", "/openapi.json"] {
        let headers = [("origin", "http://evil.example")];
        let answer = service.send(Method::GET, path, &headers, "").expect(200);
        let cors = answer
            .headers
            .keys()
            .filter(|name| name.starts_with("access-control"));
        assert_eq!(cors.count(), 0, "{path}");
    }
}

#[test]
fn slow_heads_of_requests_are_closed() {
    let service = service();
    let mut socket = TcpStream::connect(service.address()).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(45)))
        .unwrap();
    socket
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-slow: ")
        .unwrap();
    let mut answer = Vec::new();
    // The service ends the connection; a read that times out is an error.
    let count = socket.read_to_end(&mut answer).unwrap();
    let text = String::from_utf8_lossy(&answer[..count]);
    assert!(
        text.is_empty() || text.starts_with("HTTP/1.1 408"),
        "{text}"
    );
}

#[test]
fn document_describes_every_path() {
    let service = service();
    let document = service
        .send(Method::GET, "/openapi.json", &[], "")
        .expect(200)
        .json();
    let paths: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
    assert_eq!(
        paths,
        [
            "/healthz",
            "/metrics",
            "/readyz",
            "/v1/runs",
            "/v1/runs/{id}",
            "/v1/runs/{id}/events",
            "/v1/runs/{id}/replay",
            "/v1/runs/{id}/report",
        ]
    );
    assert_eq!(
        document["components"]["securitySchemes"]["token"]["scheme"],
        "bearer"
    );
}

#[test]
fn http_2_is_spoken_without_tls() {
    let (database, source) = (database(), Source::generating(|size| size));
    let service = Service::on(&database, &source, &[]);
    let address = service.address().to_owned();
    let output = std::process::Command::new("curl")
        .args([
            "-s",
            "--http2-prior-knowledge",
            "-o",
            "/dev/null",
            "-w",
            "%{http_version}",
        ])
        .args(["-X", "POST", &format!("http://{address}/v1/runs?size=3")])
        .output()
        .expect("curl");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "2");
}
