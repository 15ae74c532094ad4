//! A source that refuses, stalls or says something else than a list of tokens: exit code 4, one
//! error with a hint, and whatever did arrive is stored and reported.

use crate::support::command::{Command, Run};
use crate::support::database::Database;
use crate::support::report::Report;
use crate::support::snapshot::shows;
use crate::support::source::{Gate, Response, Source, refused_url};

/// Five tokens asked of a source into a database with the seed's table, the report as ndjson.
fn five(source: &Source) -> Command {
    Command::new()
        .source(source)
        .args(["5", "--report", "ndjson"])
}

/// Runs it and sees that exactly these tokens came, were stored, and are reported.
#[track_caller]
fn run_and_keep(command: Command, kept: &[&str]) -> (Run, Report) {
    let database = Database::standard();
    let run = command.database(&database).run();
    let report = Report::of_run(&run);
    assert_eq!(report.with_status("stored"), kept);
    assert_eq!(database.rows(), kept);
    (run, report)
}

/// Runs it and gives the error with which it ends.
#[track_caller]
fn refused(answers: impl IntoIterator<Item = Response>) -> String {
    let source = Source::responding(answers);
    let (run, _) = run_and_keep(five(&source), &[]);
    run.expect_code(4).error().to_owned()
}

#[test]
fn a_source_on_which_nothing_listens() {
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
     INFO asking again wait=[wait] kind="http_connect"
    5 requested, 0 received in 2 requests: 0 stored, 0 rejected in [seconds] s
    error: http_connect: the token source cannot be reached
      ╭▸ scripts/default.rhai:3:1
      │
    3 │ report(store(fetch(SIZE)));
      ╰╴━━━━━━
      caused by: POST http://127.0.0.1:[port]/tokens
      caused by: error sending request
      caused by: client error (Connect)
      caused by: tcp connect error
      caused by: Connection refused (os error 111)
      = retryable (trying again may help, and is safe)
    hint: check TOKEN_HOST or source.url, and that the source is up
    "#);
}

#[test]
fn an_answer_500_is_not_repeated() {
    let error = refused([Response::status(500)]);
    shows!(error, @"
    error: http_status: the token source answered 500 Internal Server Error
      ╭▸ scripts/default.rhai:3:1
      │
    3 │ report(store(fetch(SIZE)));
      ╰╴━━━━━━
      caused by: POST http://127.0.0.1:[port]/tokens
    hint: the request may have been served half-way, so `fetch` does not repeat it without --dangerously-repeat-requests; ask the source's operator
    ");
}

#[test]
fn an_answer_401_names_the_variable_for_the_authorization() {
    let error = refused([Response::status(401)]);
    shows!(error, @"
    error: http_status: the token source answered 401 Unauthorized
      ╭▸ scripts/default.rhai:3:1
      │
    3 │ report(store(fetch(SIZE)));
      ╰╴━━━━━━
      caused by: POST http://127.0.0.1:[port]/tokens
    hint: set TOKEN_SERVICE_SOURCE_AUTHORIZATION (or its _FILE form) to what the source accepts
    ");
}

#[test]
fn an_answer_404_points_to_the_path() {
    let error = refused([Response::status(404)]);
    shows!(error, @"
    error: http_status: the token source answered 404 Not Found
      ╭▸ scripts/default.rhai:3:1
      │
    3 │ report(store(fetch(SIZE)));
      ╰╴━━━━━━
      caused by: POST http://127.0.0.1:[port]/tokens
    hint: check the path in TOKEN_HOST or source.url
    ");
}

#[test]
fn a_redirect_is_not_followed() {
    let elsewhere = Source::responding([]);
    let error = refused([Response::status(307).header("location", &elsewhere.url())]);
    assert!(elsewhere.requests().is_empty());
    shows!(error, @"
    error: http_status: the token source answered 307 Temporary Redirect
      ╭▸ scripts/default.rhai:3:1
      │
    3 │ report(store(fetch(SIZE)));
      ╰╴━━━━━━
      caused by: POST http://127.0.0.1:[port]/tokens
    hint: redirects are not followed, for a token must not come from elsewhere: set the final address
    ");
}

#[test]
fn what_was_certainly_not_served_is_asked_for_again_when_the_source_says() {
    let source = Source::responding([
        Response::status(429).header("retry-after", "1"),
        Response::status(503).header("retry-after", "0"),
        Response::status(503),
        Response::tokens(["aa", "bb", "cc", "dd", "ee"]),
    ]);
    let (run, report) = run_and_keep(five(&source), &["aa", "bb", "cc", "dd", "ee"]);
    run.expect_code(0);
    assert_eq!(source.sizes(), [5, 5, 5, 5]);
    assert_eq!(report.count("requests"), 4);
    // Its own first pause is a tenth of a second at the most.
    assert!(report.count("duration_ms") >= 1000, "Retry-After: 1");
}

#[test]
fn retries_come_to_an_end() {
    let source = Source::responding([Response::status(503).header("retry-after", "0").always()]);
    let (run, _) = run_and_keep(five(&source).config("source: {retries: 2}"), &[]);
    assert_eq!(source.sizes(), [5, 5, 5]);
    shows!(run.expect_code(4).error(), @"
    error: http_status: the token source answered 503 Service Unavailable
      ╭▸ scripts/default.rhai:3:1
      │
    3 │ report(store(fetch(SIZE)));
      ╰╴━━━━━━
      caused by: POST http://127.0.0.1:[port]/tokens
      = retryable (trying again may help, and is safe)
    hint: it asks for patience: try later, or let the script `retry(5, || fetch_once(SIZE))`
    ");
}

#[test]
fn a_source_that_asks_for_more_patience_than_the_run_has_is_not_waited_for() {
    let source = Source::responding([Response::status(503).header("retry-after", "3600")]);
    let (run, _) = run_and_keep(five(&source).args(["--deadline", "50s"]), &[]);
    shows!(run.expect_code(4).error(), @"
    error: http_status: the token source answered 503 Service Unavailable
      ╭▸ scripts/default.rhai:3:1
      │
    3 │ report(store(fetch(SIZE)));
      ╰╴━━━━━━
      caused by: POST http://127.0.0.1:[port]/tokens
      caused by: it asks to come back after 1h, longer than this run may take
      = retryable (trying again may help, and is safe), retry_after_ms 3600000
    hint: it asks for patience: try later, or let the script `retry(5, || fetch_once(SIZE))`
    ");
}

#[test]
fn a_source_that_speaks_no_tls_is_told_apart_and_not_asked_again() {
    let source = Source::responding([]);
    let address = source.url().replace("http://", "");
    let run = five(&source).env("TOKEN_HOST", address);
    let (run, report) = run_and_keep(run, &[]);
    assert_eq!(report.count("requests"), 1);
    shows!(run.expect_code(4).error(), @"
    error: http_connect: the token source speaks no TLS
      ╭▸ scripts/default.rhai:3:1
      │
    3 │ report(store(fetch(SIZE)));
      ╰╴━━━━━━
      caused by: POST https://127.0.0.1:[port]/tokens
      caused by: error sending request
      caused by: client error (Connect)
      caused by: received corrupt message of type InvalidContentType
    hint: write http:// in TOKEN_HOST or source.url if that is meant; an address without a scheme is https
    ");
}

#[test]
fn html_is_recognised_by_its_content_type() {
    let error = refused([Response::raw(
        "text/html; charset=utf-8",
        "aa\nbb\ncc\ndd\nee\n",
    )]);
    shows!(error, @"
    error: http_protocol: the token source did not answer with a list of tokens
      ╭▸ scripts/default.rhai:3:1
      │
    3 │ report(store(fetch(SIZE)));
      ╰╴━━━━━━
      caused by: http://127.0.0.1:[port]/tokens: it sent text/html instead of text/plain
    hint: a token source answers 200 with one token a line; check TOKEN_HOST or source.url
    ");
}

#[test]
fn html_is_recognised_by_its_content() {
    let page = "\n<!DOCTYPE html>\n<html>\n<body>\nsorry\n</body>\n</html>\n";
    let error = refused([Response::raw("text/plain", page)]);
    shows!(error, @"
    error: http_protocol: the token source did not answer with a list of tokens
      ╭▸ scripts/default.rhai:3:1
      │
    3 │ report(store(fetch(SIZE)));
      ╰╴━━━━━━
      caused by: http://127.0.0.1:[port]/tokens: it sent an HTML or XML document
    hint: a token source answers 200 with one token a line; check TOKEN_HOST or source.url
    ");
}

#[test]
fn json_is_recognised_by_its_content_on_one_line_or_several() {
    let error = refused([Response::raw("text/plain", r#"["aaaa","bbbb"]"#)]);
    shows!(error, @"
    error: http_protocol: the token source did not answer with a list of tokens
      ╭▸ scripts/default.rhai:3:1
      │
    3 │ report(store(fetch(SIZE)));
      ╰╴━━━━━━
      caused by: http://127.0.0.1:[port]/tokens: it sent a JSON document
    hint: a token source answers 200 with one token a line; check TOKEN_HOST or source.url
    ");
    let pretty = "{\n  \"tokens\": [\n    \"aaaa\",\n    \"bbbb\"\n  ]\n}\n";
    let error = refused([Response::raw("text/plain", pretty)]);
    assert!(error.contains("it sent a JSON document"), "{error}");
}

#[test]
fn tokens_that_begin_as_json_does_are_taken() {
    let tokens = ["[\"aa\"]", "[1]", "[bb", "{cc}", "{}"];
    let source = Source::responding([Response::tokens(tokens)]);
    let (run, _) = run_and_keep(five(&source), &tokens);
    run.expect_code(0);
}

#[test]
fn a_source_that_runs_dry_leaves_what_came_stored_and_reported() {
    let empty = || Response::raw("text/plain", "");
    let source = Source::responding([Response::tokens(["aa", "bb"]), empty(), empty(), empty()]);
    let (run, _) = run_and_keep(five(&source), &["aa", "bb"]);
    assert_eq!(source.sizes(), [5, 3, 3, 3]);
    shows!(run.expect_code(4).stderr, @"
    5 requested, 2 received in 4 requests: 2 stored, 0 rejected in [seconds] s ([rate] tokens/s)
    error: short_supply: the token source ran dry: 2 of 5 tokens came
      ╭▸ scripts/default.rhai:3:1
      │
    3 │ report(store(fetch(SIZE)));
      ╰╴━━━━━━
      caused by: 3 requests in a row brought nothing
    hint: ask for fewer, or try again when the source has more
    ");
}

#[test]
fn a_source_that_is_empty_from_the_start_has_run_dry() {
    let error = refused([Response::raw("text/plain", "").always()]);
    shows!(error, @"
    error: short_supply: the token source ran dry: 0 of 5 tokens came
      ╭▸ scripts/default.rhai:3:1
      │
    3 │ report(store(fetch(SIZE)));
      ╰╴━━━━━━
      caused by: 3 requests in a row brought nothing
    hint: ask for fewer, or try again when the source has more
    ");
}

#[test]
fn of_a_body_that_is_cut_the_whole_lines_are_kept_and_the_rest_is_owned_up_to() {
    let source = Source::responding([Response::cut("aa\nbb\ncc", 100)]);
    let (run, report) = run_and_keep(five(&source), &["aa", "bb"]);
    assert_eq!(report.count("issued_unseen"), 3);
    shows!(run.expect_code(4).stderr, @"
    5 requested, 2 received in 1 request: 2 stored, 0 rejected, 3 perhaps issued unseen in [seconds] s ([rate] tokens/s)
    error: http_protocol: the token source's answer broke off
      ╭▸ scripts/default.rhai:3:1
      │
    3 │ report(store(fetch(SIZE)));
      ╰╴━━━━━━
      caused by: POST http://127.0.0.1:[port]/tokens
      caused by: error decoding response body
      caused by: request or response body error
      caused by: error reading a body from connection
      caused by: end of file before message length reached
    hint: whole lines that came were kept; `fetch` does not repeat the request without --dangerously-repeat-requests
    ");
}

#[test]
fn a_source_that_falls_silent_is_given_up_and_not_asked_again() {
    let gate = Gate::new();
    let source = Source::responding([Response::tokens(["aa"]).after(&gate)]);
    let (run, report) = run_and_keep(five(&source).config("source: {timeout: 200ms}"), &[]);
    assert_eq!(report.count("issued_unseen"), 5);
    shows!(run.expect_code(4).stderr, @"
    5 requested, 0 received in 1 request: 0 stored, 0 rejected, 5 perhaps issued unseen in [seconds] s
    error: http_timeout: the token source did not answer within 200ms
      ╭▸ scripts/default.rhai:3:1
      │
    3 │ report(store(fetch(SIZE)));
      ╰╴━━━━━━
      caused by: POST http://127.0.0.1:[port]/tokens
    hint: `source.timeout` sets the limit; the request may have been served, so `fetch` does not repeat it without --dangerously-repeat-requests
    ");
}

#[test]
fn a_body_without_end_is_not_read_beyond_the_cap() {
    // No line ends, so that the cap is met before anything was received.
    let source = Source::responding([Response::endless(vec![b'a'; 4096])]);
    let (run, report) = run_and_keep(five(&source).config("source: {max_body: 64KiB}"), &[]);
    assert_eq!(report.count("received"), 0);
    shows!(run.expect_code(4).error(), @"
    error: http_protocol: the token source did not answer with a list of tokens
      ╭▸ scripts/default.rhai:3:1
      │
    3 │ report(store(fetch(SIZE)));
      ╰╴━━━━━━
      caused by: http://127.0.0.1:[port]/tokens: its body is larger than 64.0 KiB
    hint: `source.max_body` sets the cap; `--page-size` asks for less at a time
    ");
}

#[test]
fn a_compressed_answer_is_not_unpacked() {
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
    assert_eq!(accepted, None, "it asks for none");
}

#[test]
fn without_topping_up_a_short_delivery_is_the_end() {
    let source = Source::responding([Response::tokens(["aa", "bb", "cc"])]);
    let (run, _) = run_and_keep(five(&source).arg("--no-top-up"), &["aa", "bb", "cc"]);
    assert_eq!(source.sizes(), [5]);
    shows!(run.expect_code(4).stderr, @"
    5 requested, 3 received in 1 request: 3 stored, 0 rejected in [seconds] s ([rate] tokens/s)
    error: the token source delivered 3 of 5 tokens
    hint: ask again for the rest
    ");
}

#[test]
fn without_topping_up_the_further_pages_are_asked_for_all_the_same() {
    let source = Source::responding([Response::tokens(["aa"]), Response::tokens(["bb", "cc"])]);
    let command = Command::new().source(&source).args(["4", "--no-top-up"]);
    let command = command.args(["--page-size", "2", "--report", "ndjson"]);
    run_and_keep(command, &["aa", "bb", "cc"]).0.expect_code(4);
    assert_eq!(source.sizes(), [2, 2]);
}

#[test]
fn no_more_requests_are_sent_than_allowed() {
    let source = Source::responding([Response::tokens(["aa", "bb"]), Response::tokens(["cc"])]);
    let command = five(&source).args(["--max-requests", "2", "--page-size", "2"]);
    let (run, report) = run_and_keep(command, &["aa", "bb", "cc"]);
    assert_eq!(report.count("requests"), 2);
    shows!(run.expect_code(4).stderr, @"
    5 requested, 3 received in 2 requests: 3 stored, 0 rejected in [seconds] s ([rate] tokens/s)
    error: short_supply: the run may send no more than 2 requests to the token source
      ╭▸ scripts/default.rhai:3:1
      │
    3 │ report(store(fetch(SIZE)));
      ╰╴━━━━━━
    hint: `--max-requests` sets the limit; `--page-size` asks for more at a time
    ");
}

#[test]
fn the_query_of_the_address_and_the_authorization_stand_in_no_message() {
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
