//! Tests of a token source that refuses, stalls or sends something other than tokens. The run ends with
//! exit code 4 and one error with a hint, and received tokens are stored and reported.

use crate::support::command::{Command, Run};
use crate::support::database::Database;
use crate::support::report::Report;
use crate::support::snapshot::shows;
use crate::support::source::{Gate, Response, Source, refused_url};

/// Prepares a run that requests five tokens and reports as ndjson.
fn five_tokens(source: &Source) -> Command {
    Command::new()
        .source(source)
        .args(["5", "--report", "ndjson"])
}

/// Runs a command, and asserts that exactly these tokens are stored and reported.
#[track_caller]
fn run_expecting_stored(command: Command, stored: &[&str]) -> (Run, Report) {
    let database = Database::standard();
    let run = command.database(&database).run();
    let report = Report::of_run(&run);
    assert_eq!(report.with_status("stored"), stored);
    assert_eq!(database.rows(), stored);
    (run, report)
}

/// Runs with these answers, and returns the error.
#[track_caller]
fn error_of_run(answers: impl IntoIterator<Item = Response>) -> String {
    let source = Source::responding(answers);
    let (run, _) = run_expecting_stored(five_tokens(&source), &[]);
    run.expect_code(4).error().to_owned()
}

#[test]
fn run_fails_when_nothing_listens_at_the_source() {
    let database = Database::standard();
    let run = Command::new()
        .env("TOKEN_HOST", refused_url())
        .database(&database)
        .config("source: {retries: 1}")
        .run();
    shows!(run.transcript(), @r#"
    exit: 4
    --- stdout
    --- stderr
     INFO retrying the request wait=[wait] cause="the token source cannot be reached"
    5 requested, 0 received in 2 requests: 0 stored, 0 rejected in [seconds] s
    error: http_connect: the token source cannot be reached
      caused by: POST http://127.0.0.1:[port]/tokens: Connection refused (os error 111)
      = retryable (trying again may help, and is safe)
    hint: check TOKEN_HOST or source.url, and that the source is up
    "#);
}

#[test]
fn request_is_not_repeated_when_the_status_is_500() {
    let error = error_of_run([Response::status(500)]);
    shows!(error, @"
    error: http_status: the token source answered 500 Internal Server Error
      caused by: POST http://127.0.0.1:[port]/tokens
    hint: the request may have been served in part, so `fetch` does not repeat it without --dangerously-repeat-requests; ask the source's operator
    ");
}

#[test]
fn hint_names_the_authorization_variable_when_the_status_is_401() {
    let error = error_of_run([Response::status(401)]);
    shows!(error, @"
    error: http_status: the token source answered 401 Unauthorized
      caused by: POST http://127.0.0.1:[port]/tokens
    hint: set TOKEN_SERVICE_SOURCE_AUTHORIZATION (or its _FILE form) to what the source accepts
    ");
}

#[test]
fn hint_names_the_path_when_the_status_is_404() {
    let error = error_of_run([Response::status(404)]);
    shows!(error, @"
    error: http_status: the token source answered 404 Not Found
      caused by: POST http://127.0.0.1:[port]/tokens
    hint: check the path in TOKEN_HOST or source.url
    ");
}

#[test]
fn redirect_is_not_followed() {
    let elsewhere = Source::responding([]);
    let error = error_of_run([Response::status(307).header("location", &elsewhere.url())]);
    assert!(elsewhere.requests().is_empty());
    shows!(error, @"
    error: http_status: the token source answered 307 Temporary Redirect
      caused by: POST http://127.0.0.1:[port]/tokens
    hint: redirects are not followed: set the final address in TOKEN_HOST or source.url
    ");
}

#[test]
fn unserved_request_is_repeated_after_the_time_that_the_source_sets() {
    let source = Source::responding([
        Response::status(429).header("retry-after", "1"),
        Response::status(503).header("retry-after", "0"),
        Response::status(503),
        Response::tokens(["aa", "bb", "cc", "dd", "ee"]),
    ]);
    let (run, report) = run_expecting_stored(five_tokens(&source), &["aa", "bb", "cc", "dd", "ee"]);
    run.expect_code(0);
    assert_eq!(source.sizes(), [5, 5, 5, 5]);
    assert_eq!(report.count("requests"), 4);
    // The first backoff of the run itself is at most 100 ms.
    assert!(report.count("duration_ms") >= 1000, "Retry-After: 1");
}

#[test]
fn request_fails_when_its_retries_are_used_up() {
    let source = Source::responding([Response::status(503).header("retry-after", "0").always()]);
    let (run, _) = run_expecting_stored(five_tokens(&source).config("source: {retries: 2}"), &[]);
    assert_eq!(source.sizes(), [5, 5, 5]);
    shows!(run.expect_code(4).error(), @"
    error: http_status: the token source answered 503 Service Unavailable
      caused by: POST http://127.0.0.1:[port]/tokens
      = retryable (trying again may help, and is safe)
    hint: `retries` limits the repetitions; if it is not set, such answers are waited out for `--patience`
    ");
}

#[test]
fn run_fails_at_once_when_retry_after_exceeds_the_deadline() {
    let source = Source::responding([Response::status(503).header("retry-after", "3600")]);
    let (run, _) = run_expecting_stored(five_tokens(&source).args(["--deadline", "50s"]), &[]);
    shows!(run.expect_code(4).error(), @"
    error: http_status: the token source answered 503 Service Unavailable
      caused by: POST http://127.0.0.1:[port]/tokens
      caused by: the next request is due in 1h, longer than the run may wait
      = retryable (trying again may help, and is safe), retry_after_ms 3600000
    hint: it limits its requests or is overloaded: raise `--patience`, which sets how long such answers are waited out, or try later
    ");
}

#[test]
fn request_is_not_repeated_when_the_source_has_no_tls() {
    let source = Source::responding([]);
    let address = source.url().replace("http://", "");
    let run = five_tokens(&source).env("TOKEN_HOST", address);
    let (run, report) = run_expecting_stored(run, &[]);
    assert_eq!(report.count("requests"), 1);
    shows!(run.expect_code(4).error(), @"
    error: http_connect: the token source does not use TLS
      caused by: POST https://127.0.0.1:[port]/tokens: received corrupt message of type InvalidContentType
    hint: to connect without TLS, write http:// in TOKEN_HOST or source.url; the default scheme is https
    ");
}

#[test]
fn html_is_recognised_by_its_content_type() {
    let error = error_of_run([Response::raw(
        "text/html; charset=utf-8",
        "aa\nbb\ncc\ndd\nee\n",
    )]);
    shows!(error, @"
    error: http_protocol: the token source did not answer with a list of tokens
      caused by: http://127.0.0.1:[port]/tokens: it sent text/html instead of text/plain
    hint: a token source answers 200 with one token a line; check TOKEN_HOST or source.url
    ");
}

#[test]
fn html_is_recognised_by_its_content() {
    let page = "\n<!DOCTYPE html>\n<html>\n<body>\nsorry\n</body>\n</html>\n";
    let error = error_of_run([Response::raw("text/plain", page)]);
    shows!(error, @"
    error: http_protocol: the token source did not answer with a list of tokens
      caused by: http://127.0.0.1:[port]/tokens: it sent an HTML or XML document
    hint: a token source answers 200 with one token a line; check TOKEN_HOST or source.url
    ");
}

#[test]
fn json_is_recognised_by_its_content() {
    let error = error_of_run([Response::raw("text/plain", r#"["aaaa","bbbb"]"#)]);
    shows!(error, @"
    error: http_protocol: the token source did not answer with a list of tokens
      caused by: http://127.0.0.1:[port]/tokens: it sent a JSON document
    hint: a token source answers 200 with one token a line; check TOKEN_HOST or source.url
    ");
    let pretty = "{\n  \"tokens\": [\n    \"aaaa\",\n    \"bbbb\"\n  ]\n}\n";
    let error = error_of_run([Response::raw("text/plain", pretty)]);
    assert!(error.contains("it sent a JSON document"), "{error}");
}

#[test]
fn tokens_that_resemble_json_are_accepted() {
    let tokens = ["[\"aa\"]", "[1]", "[bb", "{cc}", "{}"];
    let source = Source::responding([Response::tokens(tokens)]);
    let (run, _) = run_expecting_stored(five_tokens(&source), &tokens);
    run.expect_code(0);
}

#[test]
fn received_tokens_are_stored_when_the_source_has_no_more() {
    let empty = || Response::raw("text/plain", "");
    let source = Source::responding([Response::tokens(["aa", "bb"]), empty(), empty(), empty()]);
    let (run, _) = run_expecting_stored(five_tokens(&source), &["aa", "bb"]);
    assert_eq!(source.sizes(), [5, 3, 3, 3]);
    shows!(run.expect_code(4).stderr, @"
    5 requested, 2 received in 4 requests: 2 stored, 0 rejected in [seconds] s ([rate] tokens/s)
    error: short_supply: the token source has no more tokens: received 2 of 5
      caused by: 3 requests in a row returned no tokens
    hint: request fewer tokens, or try again when the source has more
    ");
}

#[test]
fn run_fails_with_short_supply_when_the_source_is_empty() {
    let error = error_of_run([Response::raw("text/plain", "").always()]);
    shows!(error, @"
    error: short_supply: the token source has no more tokens: received 0 of 5
      caused by: 3 requests in a row returned no tokens
    hint: request fewer tokens, or try again when the source has more
    ");
}

#[test]
fn complete_lines_are_stored_and_the_rest_is_counted_when_a_body_is_cut() {
    let source = Source::responding([Response::truncated("aa\nbb\ncc", 100)]);
    let (run, report) = run_expecting_stored(five_tokens(&source), &["aa", "bb"]);
    assert_eq!(report.count("issued_unseen"), 3);
    shows!(run.expect_code(4).stderr, @"
    5 requested, 2 received in 1 request: 2 stored, 0 rejected, 3 perhaps issued unseen in [seconds] s ([rate] tokens/s)
    error: http_protocol: the token source's answer ended early
      caused by: POST http://127.0.0.1:[port]/tokens: end of file before message length reached
    hint: complete lines were kept; `fetch` does not repeat the request without --dangerously-repeat-requests
    ");
}

#[test]
fn request_is_not_repeated_when_the_source_times_out() {
    let gate = Gate::new();
    let source = Source::responding([Response::tokens(["aa"]).after(&gate)]);
    let (run, report) =
        run_expecting_stored(five_tokens(&source).config("source: {timeout: 200ms}"), &[]);
    assert_eq!(report.count("issued_unseen"), 5);
    shows!(run.expect_code(4).stderr, @"
    5 requested, 0 received in 1 request: 0 stored, 0 rejected, 5 perhaps issued unseen in [seconds] s
    error: http_timeout: the token source did not answer within 200ms
      caused by: POST http://127.0.0.1:[port]/tokens
    hint: `source.timeout` sets the limit; the request may have been served, so `fetch` does not repeat it without --dangerously-repeat-requests
    ");
}

#[test]
fn endless_body_is_read_only_up_to_the_limit() {
    // No line ends, so the limit is reached before a token is received.
    let source = Source::responding([Response::endless(vec![b'a'; 4096])]);
    let (run, report) = run_expecting_stored(
        five_tokens(&source).config("source: {max_body: 64KiB}"),
        &[],
    );
    assert_eq!(report.count("received"), 0);
    shows!(run.expect_code(4).error(), @"
    error: http_protocol: the token source did not answer with a list of tokens
      caused by: http://127.0.0.1:[port]/tokens: its body is larger than 64.0 KiB
    hint: `source.max_body` sets the limit; a smaller `--page-size` makes answers smaller
    ");
}

#[test]
fn compressed_answer_is_not_decompressed() {
    let source = Source::responding([Response::raw("text/plain", &b"\x1f\x8b\x08\x00\x00\n"[..])
        .header("content-encoding", "gzip")]);
    let database = Database::standard();
    let run = Command::new()
        .source(&source)
        .database(&database)
        .args(["1", "--report", "ndjson"])
        .run();
    assert!(database.rows().is_empty());
    assert!(Report::of_run(&run).with_status("stored").is_empty());
    let accepted = source.requests()[0].headers.get("accept-encoding").cloned();
    assert_eq!(accepted, None, "the run accepts no compression");
}

#[test]
fn run_ends_after_a_short_page_when_top_up_is_off() {
    let source = Source::responding([Response::tokens(["aa", "bb", "cc"])]);
    let (run, _) =
        run_expecting_stored(five_tokens(&source).arg("--no-top-up"), &["aa", "bb", "cc"]);
    assert_eq!(source.sizes(), [5]);
    shows!(run.expect_code(4).stderr, @"
    5 requested, 3 received in 1 request: 3 stored, 0 rejected in [seconds] s ([rate] tokens/s)
    error: the token source delivered 3 of 5 tokens
    hint: start a new run for the rest
    ");
}

#[test]
fn further_pages_are_requested_when_top_up_is_off() {
    let source = Source::responding([Response::tokens(["aa"]), Response::tokens(["bb", "cc"])]);
    let command = Command::new().source(&source).args(["4", "--no-top-up"]);
    let command = command.args(["--page-size", "2", "--report", "ndjson"]);
    run_expecting_stored(command, &["aa", "bb", "cc"])
        .0
        .expect_code(4);
    assert_eq!(source.sizes(), [2, 2]);
}

#[test]
fn run_sends_no_more_requests_than_max_requests() {
    let source = Source::responding([Response::tokens(["aa", "bb"]), Response::tokens(["cc"])]);
    let command = five_tokens(&source).args(["--max-requests", "2", "--page-size", "2"]);
    let (run, report) = run_expecting_stored(command, &["aa", "bb", "cc"]);
    assert_eq!(report.count("requests"), 2);
    shows!(run.expect_code(4).stderr, @"
    5 requested, 3 received in 2 requests: 3 stored, 0 rejected in [seconds] s ([rate] tokens/s)
    error: short_supply: the run may send at most 2 requests to the token source
    hint: `--max-requests` sets the limit; with a larger `--page-size` fewer requests are needed
    ");
}

#[test]
fn messages_show_neither_url_query_nor_authorization() {
    let source = Source::responding([Response::status(500)]);
    let database = Database::standard();
    let run = Command::new()
        .database(&database)
        .env("TOKEN_HOST", format!("{}?key=canary-1", source.url()))
        .env("TOKEN_SERVICE_SOURCE_AUTHORIZATION", "Bearer canary-2")
        .args(["5", "--log-level", "trace"])
        .run()
        .expect_code(4);
    assert_eq!(
        source.requests()[0].headers["authorization"],
        "Bearer canary-2"
    );
    assert!(!run.stderr.contains("canary"), "{}", run.stderr);
    assert!(!run.stdout.contains("canary"), "{}", run.stdout);
}
