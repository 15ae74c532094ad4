//! Tests of the accounting of scripts: the report holds every received token exactly once, however a
//! script uses its streams.

use crate::support::database::Database;
use crate::support::ledger::{Ledger, database_command, demo_command, error_text};
use crate::support::source::{Response, Source};

/// Runs a script in the demo, and returns its ledger.
#[track_caller]
fn ledger(script: &str, code: i32) -> Ledger {
    let run = demo_command(10, script).run().expect_code(code);
    Ledger::of(&run).without_duplicates()
}

fn settled(ledger: &Ledger) -> u64 {
    ledger.count("stored") + ledger.count("rejected")
}

#[test]
fn unreported_outcomes_are_reported_at_the_end() {
    let run = demo_command(10, "store(fetch(SIZE));").run().expect_code(0);
    assert_eq!(settled(&Ledger::of(&run).without_duplicates()), 10);
    assert_eq!(run.stdout.lines().count(), 10);
}

#[test]
fn fetched_tokens_are_not_attempted_when_they_are_never_stored() {
    for script in [
        "let page = fetch_once(10);",
        "fetch_once(10);",
        "for token in fetch(SIZE) {}",
        "for page in fetch(SIZE).pages() {}",
        "let all = []; for token in fetch(SIZE) { all.push(token); }",
    ] {
        let ledger = ledger(script, 5);
        assert!(ledger.count("received") > 0, "{script}");
        assert_eq!(
            ledger.count("not_attempted"),
            ledger.count("received"),
            "{script}"
        );
    }
}

#[test]
fn unread_fetch_sends_no_request() {
    assert_eq!(ledger("let tokens = fetch(SIZE);", 3).count("requests"), 0);
}

#[test]
fn no_token_is_lost_when_a_loop_breaks() {
    for script in [
        "for token in fetch(SIZE) { break; }",
        "for token in fetch(SIZE) { store(token); break; }",
        "for page in fetch(SIZE).pages() { break; }",
        "for page in fetch(SIZE).pages() { store(page); break; }",
        "for page in fetch(SIZE).pages() { for token in page { break; } break; }",
        "for outcome in store(fetch(SIZE)) { break; }",
    ] {
        let run = demo_command(10, script).run();
        let ledger = Ledger::of(&run).without_duplicates();
        assert!(ledger.count("received") > 0, "{script}");
        // How far `fetch` is ahead depends on timing. A script that reads less causes no short supply.
        let left = ledger.count("received") > settled(&ledger);
        assert_eq!(run.code, Some(if left { 5 } else { 0 }), "{script}");
    }
}

#[test]
fn no_token_is_lost_when_a_loop_throws() {
    for script in [
        "for token in fetch(SIZE) { throw 1; }",
        "for token in fetch(SIZE) { store(token); throw 1; }",
        "for page in fetch(SIZE).pages() { throw 1; }",
        "for page in fetch(SIZE).pages() { store(page); throw 1; }",
        "for outcome in store(fetch(SIZE)) { throw 1; }",
        "report(store(fetch(SIZE)), |outcome| throw 1);",
        "fn f(tokens) { for token in tokens { throw 1; } } f(fetch(SIZE));",
    ] {
        let run = demo_command(10, script).run();
        let ledger = Ledger::of(&run).without_duplicates();
        assert!(ledger.count("received") > 0, "{script}");
        let left = ledger.count("received") > settled(&ledger);
        assert_eq!(run.code, Some(if left { 5 } else { 3 }), "{script}");
        assert!(
            error_text(&run).starts_with("error: the script threw: 1"),
            "{}",
            run.stderr
        );
    }
}

#[test]
fn string_counts_as_two_tokens_when_it_is_stored_twice() {
    let run = demo_command(
        3,
        "for token in fetch(SIZE) { store(token); store(token); }",
    )
    .run();
    let ledger = Ledger::of(&run.expect_code(0));
    assert_eq!(ledger.count("received"), 6);
    assert_eq!(settled(&ledger), 6);
}

#[test]
fn no_token_is_lost_when_values_form_a_cycle() {
    for (made, code) in [
        ("fetch_once(5)", 5),
        ("fetch_once(5).pages()", 5),
        ("tokens([\"a\", \"b\"])", 5),
        ("tokens([\"a\", \"b\"]).pages()", 5),
        ("store(fetch(SIZE))", 0),
    ] {
        let script = format!("let map = #{{}}; map.held = {made}; let f = || map; map.f = f;");
        let ledger = ledger(&script, code);
        assert!(ledger.count("received") >= 2, "{made}");
    }
}

#[test]
fn stream_can_be_read_only_once() {
    for (script, stream) in [
        ("let t = fetch(SIZE); store(t); store(t);", "Tokens"),
        (
            "let t = fetch(SIZE); for x in t { store(x); } for x in t { store(x); }",
            "Tokens",
        ),
        (
            "let t = fetch(SIZE); let p = t.pages(); for x in p { store(x); } for x in p {}",
            "Tokens",
        ),
        (
            "let o = store(fetch(SIZE)); report(o); report(o);",
            "Outcomes",
        ),
        (
            "let o = store(fetch(SIZE)); for x in o { x; } for x in o {}",
            "Outcomes",
        ),
    ] {
        let run = demo_command(10, script).run();
        let expected = format!("these {stream} were already read: a stream can be read once");
        assert!(run.stderr.contains(&expected), "{script}: {}", run.stderr);
        // A script that fails sends no more tokens.
        let ledger = Ledger::of(&run).without_duplicates();
        let left = ledger.count("not_attempted") > 0;
        assert_eq!(run.code, Some(if left { 5 } else { 3 }), "{script}");
    }
}

#[test]
fn run_fails_when_a_source_error_ends_an_empty_loop() {
    for script in [
        "for token in fetch(SIZE) {}",
        "for page in fetch(SIZE).pages() {}",
        "for outcome in store(fetch(SIZE)) {}",
        "store(fetch(SIZE));",
    ] {
        let source = Source::responding([Response::tokens(["aa"]), Response::status(500)]);
        let database = Database::standard();
        let run = database_command(3, script, &source, &database).run();
        assert!(
            run.stderr.contains("500 Internal Server Error"),
            "{script}: {}",
            run.stderr
        );
        let ledger = Ledger::of(&run).without_duplicates();
        let code = if ledger.count("stored") == 1 { 4 } else { 5 };
        assert_eq!(run.code, Some(code), "{script}");
        assert_eq!(ledger.count("received"), 1, "{script}");
    }
}

/// Creates a table that refuses the first `attempts` attempts for `bb` with a retryable error.
pub fn database_refusing_bb(attempts: u32) -> Database {
    Database::from_ddl(&format!(
        "CREATE TABLE secret_tokens (id SERIAL PRIMARY KEY, data text NOT NULL CHECK (data NOT LIKE '%-%'));
         CREATE SEQUENCE attempts;
         CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF NEW.data = 'bb' AND nextval('attempts') <= {attempts} THEN
                 RAISE 'not now' USING ERRCODE = '55P03';
             END IF;
             RETURN NEW;
         END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON secret_tokens FOR EACH ROW EXECUTE FUNCTION refuse()"
    ))
}

#[test]
fn failed_token_counts_once_with_its_last_status_when_it_is_stored_again() {
    for again in [
        "store(outcomes.failures());",
        "for token in outcomes.failures() { store(token); }",
        "for page in outcomes.failures().pages() { report(store(page)); }",
        "let all = []; for token in outcomes.failures() { all.push(token); } store(all);",
        "store(\"bb\");",
    ] {
        let source = Source::responding([Response::tokens(["aa", "bb", "c-c"])]);
        let database = database_refusing_bb(9);
        // `store` itself retries, so the table refuses more attempts than one `store` makes.
        let script = format!(
            "let outcomes = store(fetch(SIZE));
             report(outcomes);
             let failed = outcomes.counts.failed;
             {again}
             print(failed);"
        );
        let run = database_command(3, &script, &source, &database).run();
        let ledger = Ledger::of(&run).without_duplicates();
        assert!(run.stdout.contains("\n1\n"), "{again}: {}", run.stdout);
        assert_eq!(ledger.count("received"), 3, "{again}");
        assert_eq!(ledger.count("rejected"), 1, "{again}");
        let bb = ledger.tokens.iter().find(|token| token["token"] == "bb");
        let attempts = bb.and_then(|token| token["attempts"].as_u64()).unwrap_or(0);
        assert!(attempts > 4, "{again}: attempts add up, {attempts}");
    }
}

#[test]
fn failures_keep_their_length_after_a_loop() {
    let source = Source::responding([Response::tokens(["aa", "bb"])]);
    let script = "let outcomes = store(fetch(SIZE));
        let failed = outcomes.failures();
        print(failed.len);
        for token in failed { token; }
        print(failed.len);
        report(outcomes);";
    let run = database_command(2, script, &source, &database_refusing_bb(1000)).run();
    let run = run.expect_code(5);
    assert!(run.stdout.starts_with("1\n1\n"), "{}", run.stdout);
    let ledger = Ledger::of(&run).without_duplicates();
    assert_eq!(ledger.counts(), [1, 0, 1, 0, 0]);
}
