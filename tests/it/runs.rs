//! Tests of whole runs: a run fetches SIZE tokens from a source that delivers short pages, and stores and
//! reports each one. Also tests how source and database are configured.

use crate::support::command::Command;
use crate::support::database::{Database, Login};
use crate::support::report::Report;
use crate::support::snapshot::shows;
use crate::support::source::{Response, Source, token};

fn service(source: &Source, database: &Login) -> Command {
    Command::new().source(source).database(database)
}

fn sorted(mut texts: Vec<String>) -> Vec<String> {
    texts.sort();
    texts
}

/// Returns an answer with `count` random tokens.
fn random_tokens(count: usize) -> Response {
    Response::tokens((0..count).map(|_| token()))
}

#[test]
fn run_stores_and_reports_every_token_when_the_source_delivers_short_pages() {
    let source = Source::generating(|asked| asked - asked / 5);
    let database = Database::standard();
    let run = service(&source, &database).arg("1000").run().expect_code(0);

    let (mut stored, mut rejected) = (Vec::new(), Vec::new());
    for line in run.stdout.lines() {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["stored", token] => stored.push(token.to_owned()),
            ["rejected", token, "23514", "secret_tokens_data_check"] => {
                rejected.push(token.to_owned());
            }
            _ => panic!("an unexpected line: {line}"),
        }
    }
    assert_eq!(stored.len() + rejected.len(), 1000);
    assert!(rejected.iter().all(|token| token.contains('-')));
    assert_eq!(sorted(stored.clone()), database.rows());
    let requests = source.requests().len();
    assert!(requests > 1, "the source delivers short pages");
    let begins = format!(
        "1,000 requested, 1,000 received in {requests} requests: {} stored, {} rejected in ",
        stored.len(),
        rejected.len()
    );
    assert!(run.stderr.starts_with(&begins), "{}", run.stderr);
    assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
    stored.append(&mut rejected);
    assert_eq!(sorted(stored), sorted(source.issued()));
}

#[test]
fn run_requests_five_tokens_when_no_size_is_given() {
    let source = Source::generating(|asked| asked);
    let database = Database::standard();
    let run = service(&source, &database).run().expect_code(0);
    assert_eq!(run.stdout.lines().count(), 5);
    let requests = source.requests();
    let [request] = &requests[..] else {
        panic!("expected one request: {requests:?}");
    };
    assert_eq!(request.method, "POST");
    assert_eq!(request.target, "/tokens?size=5");
    assert_eq!(request.body, "{}");
    assert_eq!(request.headers["content-type"], "application/json");
    assert_eq!(request.version, "HTTP/1.1");
}

#[test]
fn short_pages_are_topped_up_within_the_page_size() {
    let source = Source::responding([
        random_tokens(10),
        random_tokens(7),
        random_tokens(5),
        random_tokens(3),
    ]);
    let database = Database::standard();
    let run = service(&source, &database)
        .args(["25", "--page-size", "10", "--fetch-concurrency", "1"])
        .args(["--report", "ndjson"])
        .run()
        .expect_code(0);
    let report = Report::of_run(&run);
    assert_eq!(source.sizes(), [10, 10, 8, 3]);
    assert_eq!(report.count("received"), 25);
    assert_eq!(report.count("requests"), 4);
    assert_eq!(report.with_status("stored"), database.rows());
}

#[test]
fn run_continues_when_an_answer_is_empty() {
    let empty = || Response::raw("text/plain", "");
    let source = Source::responding([
        empty(),
        empty(),
        random_tokens(2),
        empty(),
        empty(),
        random_tokens(1),
    ]);
    let database = Database::standard();
    let run = service(&source, &database).arg("3").run().expect_code(0);
    assert_eq!(run.stdout.lines().count(), 3);
    assert_eq!(source.sizes(), [3, 3, 3, 1, 1, 1]);
}

#[test]
fn surplus_tokens_are_counted_and_dropped() {
    let source = Source::responding([Response::tokens(["aa", "bb", "cc", "dd", "ee"])]);
    let database = Database::standard();
    let run = service(&source, &database).arg("3").run();
    shows!(run.transcript(), @"
        exit: 0
        --- stdout
        stored    aa
        stored    bb
        stored    cc
        --- stderr
        3 requested, 3 received in 1 request: 3 stored, 0 rejected, 2 surplus dropped in [seconds] s ([rate] tokens/s)
        ");
    assert_eq!(database.rows(), ["aa", "bb", "cc"]);
}

#[test]
fn equal_tokens_are_stored_separately() {
    let source = Source::responding([Response::tokens(["aa", "aa", "aa"])]);
    let database = Database::standard();
    let run = service(&source, &database).arg("3").run().expect_code(0);
    assert_eq!(run.stdout.lines().count(), 3);
    assert_eq!(database.rows(), ["aa", "aa", "aa"]);
}

#[test]
fn query_of_the_source_url_is_kept() {
    let source = Source::generating(|asked| asked);
    let database = Database::standard();
    service(&source, &database)
        .env("TOKEN_HOST", format!("{}?key=a%20b&z=1", source.url()))
        .arg("1")
        .run()
        .expect_code(0);
    assert_eq!(source.requests()[0].target, "/tokens?key=a%20b&z=1&size=1");
}

#[test]
fn source_over_tls_is_verified_and_uses_http_2() {
    let source = Source::generating_over_tls(|asked| asked);
    let database = Database::standard();
    let run = service(&source, &database).arg("30").run().expect_code(0);
    assert_eq!(run.stdout.lines().count(), 30);
    assert_eq!(source.requests()[0].version, "HTTP/2.0");
}

#[test]
fn run_fails_when_the_source_certificate_is_not_trusted() {
    let source = Source::responding_over_tls([]);
    let database = Database::standard();
    let run = Command::new()
        .env("TOKEN_HOST", source.url())
        .database(&database)
        .config("source: {retries: 0}")
        .run()
        .expect_code(4);
    shows!(run.error(), @"
    error: http_connect: the token source's certificate is not trusted
      caused by: POST https://localhost:[port]/tokens: invalid peer certificate: UnknownIssuer
    hint: set `source.tls.ca` or SSL_CERT_FILE to the certificate of its authority
    ");
}

#[test]
fn size_is_refused_when_it_exceeds_max_tokens() {
    let source = Source::generating(|asked| asked);
    let database = Database::standard();
    let limited = |size: &str| {
        let command = service(&source, &database).env("MAX_TOKENS", "10");
        command.arg(size).run()
    };
    let refused = limited("11").expect_code(2);
    insta::assert_snapshot!(refused.transcript(), @"
    exit: 2
    --- stdout
    --- stderr
    error: SIZE 11 exceeds MAX_TOKENS, which is 10
    hint: set SIZE to at most 10, or raise MAX_TOKENS
    ");
    assert!(source.requests().is_empty(), "no token was requested");
    assert_eq!(limited("10").expect_code(0).stdout.lines().count(), 10);
}

#[test]
fn db_variables_configure_the_database() {
    // The server has no TLS and requires a password. `prefer`, the default on loopback, supports both.
    let source = Source::responding([Response::tokens(["aa"])]);
    let database = Database::standard();
    Command::new()
        .source(&source)
        .database_by_parts(&database)
        .arg("1")
        .run()
        .expect_code(0);
    assert_eq!(database.rows(), ["aa"]);
}

#[test]
fn password_is_read_from_a_file() {
    let source = Source::responding([Response::tokens(["aa"])]);
    let database = Database::standard();
    Command::new()
        .source(&source)
        .database_without_password(&database)
        .file("password", format!("{}\n", database.password))
        .env("DB_PASS_FILE", "password")
        .arg("1")
        .run()
        .expect_code(0);
    assert_eq!(database.rows(), ["aa"]);
}

#[test]
fn configuration_file_sets_source_database_and_size() {
    let source = Source::responding([Response::tokens(["aa", "bb"])]);
    let database = Database::standard();
    let yaml = format!(
        "source: {{url: '{}', headers: {{x-team: red}}}}\ndatabase: {{url: '{}'}}\nrun: {{size: 2}}\n",
        source.url(),
        database.url()
    );
    Command::new().config(&yaml).run().expect_code(0);
    assert_eq!(database.rows(), ["aa", "bb"]);
    assert_eq!(source.requests()[0].headers["x-team"], "red");
}

#[test]
fn demo_leaves_no_files_behind() {
    let run = Command::new()
        .args(["demo", "2000", "--report", "ndjson"])
        .run()
        .expect_code(0);
    let report = Report::of_run(&run);
    assert_eq!(report.count("received"), 2000);
    let rejected = report.with_status("rejected");
    assert!(!rejected.is_empty() && rejected.iter().all(|token| token.contains('-')));
    assert!(
        report
            .with_status("stored")
            .iter()
            .all(|token| !token.contains('-'))
    );
    assert_eq!(std::fs::read_dir(run.path("")).unwrap().count(), 0);
}
