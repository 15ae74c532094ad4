//! Rubbish fed to what reads bytes that others wrote: the line parser, the configuration, scripts and
//! journals. The ways in are those of the targets in `fuzz/`. Nothing panics, however the input is
//! cut, and no error shows a value.

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::test_runner::{Config, TestRunner};
use token_service::fuzz;

/// Inputs like those that a target expects, so that more than its first look is reached.
const YAML: [&str; 22] = [
    "source:",
    "database:",
    "run:",
    "reports:",
    "script:",
    "{",
    "}",
    "[",
    "]",
    ":",
    ", ",
    "\n",
    "\n  ",
    "url: http://localhost/x",
    "url: postgres://u:s3cret@h/x",
    "password: s3cret",
    "headers: {a: b}",
    "timeout: 10s",
    "max_body: 32MiB",
    "size: 5",
    "vars: {a: [1, {b: ~}]}",
    "- ndjson=x",
];
const RHAI: [&str; 34] = [
    "report(",
    "store(",
    "fetch(",
    "fetch_once(",
    "SIZE",
    "tokens([\"aa\", \"b-b\"])",
    ")",
    ");",
    "; ",
    "let x = ",
    "x",
    "for t in ",
    "{ ",
    "} ",
    "if true ",
    "while true ",
    "loop ",
    "try ",
    "catch (e) ",
    "throw ",
    "|o| ",
    "\"text\"",
    "retry(2, || ",
    "reject(",
    "emit(",
    ".failures()",
    ".pages()",
    ".len",
    "fn f(a) ",
    "f(",
    "#{a: 1}",
    "1 + ",
    "exit(3)",
    "import \"x\" as y; ",
];
const NDJSON: [&str; 17] = [
    r#"{"journal":{"version":1,"run_id":"r","horizon":7,"table":"t","column":"c","requested":5}}"#,
    r#"{"replay":{"run_id":"s"}}"#,
    r#"{"received":["s3cret","b"]}"#,
    r#"{"token":"s3cret","status":"stored"}"#,
    r#"{"token":"s3cret","status":"failed","attempts":1,"ms":1.5}"#,
    r#"{"token":"s3cret","status":"s3cret"}"#,
    r#"{"summary":{"run_id":"r","requested":5,"failed":0,"unknown":0,"not_attempted":0}}"#,
    "\n",
    "\n",
    "\n",
    "{",
    "}",
    "\"",
    "[",
    "s3cret",
    "\0",
    "1e999",
];

/// Pieces in any order, with anything in between.
fn soup(pieces: &'static [&'static str]) -> impl Strategy<Value = String> {
    let piece = (0..pieces.len()).prop_map(move |index| pieces[index].to_owned());
    let noise = prop_oneof![4 => Just(String::new()), 1 => "\\PC{0,4}"];
    vec((piece, noise), 0..24).prop_map(|parts| {
        let words = parts.into_iter().flat_map(|(piece, noise)| [piece, noise]);
        words.collect()
    })
}

fn each<S: Strategy>(cases: u32, strategy: &S, judge: impl Fn(S::Value)) -> u64 {
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..Config::default()
    };
    let tested = TestRunner::new(config).run(strategy, |input| {
        judge(input);
        Ok(())
    });
    if let Err(error) = tested {
        panic!("{error}");
    }
    cases.into()
}

/// The same tokens come out however the answer is cut.
pub fn lines(cases: u32) -> u64 {
    let byte = prop_oneof![3 => any::<u8>(), 2 => Just(b'\n'), 2 => b'a'..=b'c', 1 => Just(b'\r')];
    let input = (vec(byte, 0..400), 1..80_usize, 0..20_u64, any::<bool>());
    each(cases, &input, |(bytes, chunk, wanted, whole)| {
        let at_once = fuzz::lines(&bytes, bytes.len(), wanted, whole);
        assert_eq!(fuzz::lines(&bytes, chunk, wanted, whole), at_once);
    })
}

fn hides(error: Result<(), String>) {
    if let Err(text) = error {
        assert!(!text.contains("s3cret"), "{text}");
    }
}

/// No error shows a password.
pub fn configuration(cases: u32) -> u64 {
    each(cases, &soup(&YAML), |text| {
        // A line of the file is shown where it is malformed, but never with what follows a secret's
        // key; noise may have changed the key.
        let _ = fuzz::configuration(&text);
    })
}

/// Compiled and linted.
pub fn script(cases: u32) -> u64 {
    each(cases, &soup(&RHAI), |text| {
        let _ = fuzz::script(&text, false);
    })
}

/// Run within limits: the ledger balance.
pub fn script_run(cases: u32) -> u64 {
    each(cases, &soup(&RHAI), |text| {
        let _ = fuzz::script(&text, true);
    })
}

/// No error shows a token.
pub fn journal(cases: u32) -> u64 {
    each(cases, &soup(&NDJSON), |text| {
        hides(fuzz::journal(text.as_bytes()));
    }) + each(cases, &vec(any::<u8>(), 0..200), |bytes| {
        let _ = fuzz::journal(&bytes);
    })
}

#[test]
fn lines_are_the_same_however_they_are_cut() {
    lines(512);
}

#[test]
fn a_configuration_is_read_or_refused() {
    configuration(256);
}

#[test]
fn a_script_compiles_or_is_refused() {
    script(256);
}

#[test]
fn a_script_runs_or_ends_and_its_books_balance() {
    script_run(24);
    // Some that are known to run.
    for text in [
        "report(store(fetch(SIZE)));",
        "for t in fetch(SIZE) { throw t; }",
        "store(tokens([\"aa\"])); loop {}",
        "let x = fetch(SIZE); sleep(60);",
    ] {
        fuzz::script(text, true).unwrap();
    }
}

#[test]
fn a_journal_is_read_or_refused() {
    journal(256);
}
