//! Property tests of the readers of foreign input: token lines, configuration, scripts and journals.
//! They use the entry points of the targets in `fuzz/`. No input causes a panic, and no error of a
//! journal shows a token.

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::test_runner::{Config, TestRunner};
use token_service::fuzz;

/// Fragments of valid input, so that random input passes the first checks of a reader.
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
const NDJSON: [&str; 19] = [
    r#"{"journal":{"version":1,"run_id":"018f0000-0000-7000-8000-000000000000","horizon":7,"table":"t","column":"c","requested":5}}"#,
    r#"{"replay":{"run_id":"018f0000-0000-7000-8000-000000000001"}}"#,
    r#"{"received":["s3cret","b"]}"#,
    r#"{"received":["s3cret"],"request":1,"partial":true}"#,
    r#"{"request":{"number":1,"size":5,"key":"k"}}"#,
    r#"{"token":"s3cret","status":"stored"}"#,
    r#"{"token":"s3cret","status":"failed","attempts":1,"ms":1.5}"#,
    r#"{"token":"s3cret","status":"s3cret"}"#,
    r#"{"summary":{"run_id":"018f0000-0000-7000-8000-000000000000","requested":5,"failed":0,"unknown":0,"not_attempted":0}}"#,
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

/// Generates fragments in any order, with random text between them.
fn random_fragments(fragments: &'static [&'static str]) -> impl Strategy<Value = String> {
    let fragment = (0..fragments.len()).prop_map(move |index| fragments[index].to_owned());
    let noise = prop_oneof![4 => Just(String::new()), 1 => "\\PC{0,4}"];
    vec((fragment, noise), 0..24).prop_map(|parts| {
        let texts = parts
            .into_iter()
            .flat_map(|(fragment, noise)| [fragment, noise]);
        texts.collect()
    })
}

/// Runs a check on `cases` random inputs, and returns their number.
fn check_each<S: Strategy>(cases: u32, strategy: &S, check: impl Fn(S::Value)) -> u64 {
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..Config::default()
    };
    let tested = TestRunner::new(config).run(strategy, |input| {
        check(input);
        Ok(())
    });
    if let Err(error) = tested {
        panic!("{error}");
    }
    cases.into()
}

/// Checks that the tokens do not depend on how the answer is split into chunks.
pub fn lines(cases: u32) -> u64 {
    let byte = prop_oneof![3 => any::<u8>(), 2 => Just(b'\n'), 2 => b'a'..=b'c', 1 => Just(b'\r')];
    let input = (vec(byte, 0..400), 1..80_usize, 0..20_u64, any::<bool>());
    check_each(cases, &input, |(bytes, chunk, wanted, whole)| {
        let at_once = fuzz::lines(&bytes, bytes.len(), wanted, whole);
        assert_eq!(fuzz::lines(&bytes, chunk, wanted, whole), at_once);
    })
}

fn assert_hides_secret(error: Result<(), String>) {
    if let Err(text) = error {
        assert!(!text.contains("s3cret"), "{text}");
    }
}

/// Checks that reading a configuration does not panic.
pub fn configuration(cases: u32) -> u64 {
    check_each(cases, &random_fragments(&YAML), |text| {
        // The error may be ignored: it omits the value of a secret's key, but random text may have
        // changed that key.
        let _ = fuzz::configuration(&text);
    })
}

/// Checks that compiling and linting a script does not panic.
pub fn script(cases: u32) -> u64 {
    check_each(cases, &random_fragments(&RHAI), |text| {
        let _ = fuzz::script(&text, false);
    })
}

/// Checks that a script run within limits accounts for every token.
pub fn script_run(cases: u32) -> u64 {
    check_each(cases, &random_fragments(&RHAI), |text| {
        let _ = fuzz::script(&text, true);
    })
}

/// Checks that reading a journal does not panic, and that its error shows no token.
pub fn journal(cases: u32) -> u64 {
    check_each(cases, &random_fragments(&NDJSON), |text| {
        assert_hides_secret(fuzz::journal(text.as_bytes()));
    }) + check_each(cases, &vec(any::<u8>(), 0..200), |bytes| {
        let _ = fuzz::journal(&bytes);
    })
}

#[test]
fn tokens_do_not_depend_on_chunk_boundaries() {
    lines(512);
}

#[test]
fn configuration_parser_does_not_panic() {
    configuration(256);
}

#[test]
fn script_compiler_does_not_panic() {
    script(256);
}

#[test]
fn script_run_accounts_for_every_token() {
    script_run(24);
    // These scripts are known to run.
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
fn journal_reader_does_not_panic_or_show_tokens() {
    journal(256);
}
