//! Tests of answers in other encodings and formats: none is stored as other tokens than the source meant.

use crate::support::command::{Command, Run};
use crate::support::database::Database;
use crate::support::snapshot::shows;
use crate::support::source::{Response, Source};

fn run_with(response: Response) -> (Run, Vec<String>) {
    let database = Database::standard();
    let source = Source::responding([response]);
    let run = Command::new()
        .source(&source)
        .database(&database)
        .arg("2")
        .run();
    (run, database.rows())
}

#[track_caller]
fn refusal(response: Response) -> String {
    let (run, rows) = run_with(response);
    assert!(rows.is_empty(), "{rows:?}");
    let run = run.expect_code(4);
    let error = run.error();
    assert!(error.starts_with("error: http_protocol: "), "{error}");
    let cause = error
        .lines()
        .find(|line| line.contains("caused by"))
        .unwrap();
    cause.trim().to_owned()
}

#[test]
fn answer_is_decoded_when_its_encoding_is_known() {
    let latin_1 = b"caf\xe9\nbb\n".to_vec();
    let (run, rows) = run_with(Response::raw("text/plain; charset=ISO-8859-1", latin_1));
    run.expect_code(0);
    assert_eq!(rows, ["bb", "café"]);
    let utf_8 = Response::raw("text/plain; charset=\"UTF-8\"", "\u{feff}aa\nbb\n");
    let (run, rows) = run_with(utf_8);
    run.expect_code(0);
    assert_eq!(rows, ["aa", "bb"]);
}

#[test]
fn answer_is_refused_when_its_encoding_is_not_known() {
    let causes = ["utf-16", "windows-1252", "shift_jis"].map(|charset| {
        let kind = format!("text/plain; charset={charset}");
        refusal(Response::raw(&kind, "aa\nbb\n"))
    });
    shows!(causes.join("\n"), @"
    caused by: http://127.0.0.1:[port]/tokens: it sent text in the encoding utf-16 instead of text/plain
    caused by: http://127.0.0.1:[port]/tokens: it sent text in the encoding windows-1252 instead of text/plain
    caused by: http://127.0.0.1:[port]/tokens: it sent text in the encoding shift_jis instead of text/plain
    ");
}

#[test]
fn answer_is_refused_when_it_is_compressed_or_binary_without_saying_so() {
    let utf_16: Vec<u8> = "aa\nbb\n"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let bodies: [&[u8]; 6] = [
        b"\x1f\x8b\x08\0\0\0\0\0\0\x03KL\xe4JJ\xe2\x02\0",
        b"\x28\xb5\x2f\xfd\x20\x06\x31\0\0aa\nbb\n",
        b"x\x9cKL\xe4JJ\xe2\x02\0",
        b"\x0b\x02\x80aa\nbb\n\x03",
        b"\xff\xfea\0a\0\n\0b\0b\0\n\0",
        &utf_16,
    ];
    let causes = bodies.map(|body| refusal(Response::raw("text/plain", body.to_vec())));
    shows!(causes.join("\n"), @"
    caused by: http://127.0.0.1:[port]/tokens: it sent gzip data
    caused by: http://127.0.0.1:[port]/tokens: it sent zstd data
    caused by: http://127.0.0.1:[port]/tokens: it sent zlib data
    caused by: http://127.0.0.1:[port]/tokens: it sent binary data
    caused by: http://127.0.0.1:[port]/tokens: it sent UTF-16 text
    caused by: http://127.0.0.1:[port]/tokens: it sent UTF-16 text
    ");
}

#[test]
fn answer_is_refused_when_it_is_a_page_of_a_proxy_or_a_report() {
    let causes = [
        "<h1>503 Service Unavailable</h1>\n",
        "<head><title>Sign in</title></head>\n",
        "{\"error\": \"quota\"}\n",
        "{\"token\":\"aa\",\"status\":\"stored\"}\n{\"token\":\"bb\",\"status\":\"stored\"}\n",
    ]
    .map(|body| refusal(Response::raw("text/plain", body)));
    shows!(causes.join("\n"), @"
    caused by: http://127.0.0.1:[port]/tokens: it sent an HTML or XML document
    caused by: http://127.0.0.1:[port]/tokens: it sent an HTML or XML document
    caused by: http://127.0.0.1:[port]/tokens: it sent a JSON document
    caused by: http://127.0.0.1:[port]/tokens: it sent a report or a journal of token_service
    ");
}
