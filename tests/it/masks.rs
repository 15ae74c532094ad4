//! Tests of `--mask`: no report shows a token, in any format or message. The table and the journal hold
//! whole tokens, and a mask is never stored as a token.

use std::fs;

use crate::journal::replay;
use crate::support::command::{Command, Run};
use crate::support::database::Database;
use crate::support::journal::Journal;
use crate::support::report::Report;
use crate::support::snapshot::shows;
use crate::support::source::{Response, Source};

const TOKENS: [&str; 3] = ["StoredSecretOne", "Rejected-Secret", "Tab\tIsNoToken"];

const FORMATS: [&str; 5] = ["text", "ndjson", "json", "csv", "yaml"];

/// Prepares a run with a stored token, one that the database rejects, and a malformed one.
fn command(database: &Database) -> (Source, Command) {
    let source = Source::responding([Response::tokens(TOKENS)]);
    let command = Command::new().source(&source).database(database).arg("3");
    (source, command)
}

fn run_with_mask(format: &str, mask: &str) -> Run {
    let database = Database::standard();
    let (_source, command) = command(&database);
    command
        .args(["--report", format, "--mask", mask])
        .run()
        .expect_code(0)
}

#[test]
fn mask_shows_a_prefix_or_a_digest() {
    let both = ["prefix", "sha256"].map(|mask| run_with_mask("text", mask).sorted());
    insta::assert_snapshot!(both.join("\n"), @r"
    rejected  Reje…  23514 secret_tokens_data_check
    rejected  Tab\t…  control character
    stored    Stor…
    rejected  sha256:65b2ce1c25889ed02161f6f1700d2de0076a99d814cd8fe1948bbbb70302ad6e  23514 secret_tokens_data_check
    rejected  sha256:a49d45a7883bd43380a5702d9bb4bd0c2b0b0b14c385324eda0f07144e770823  control character
    stored    sha256:f1b262c7e3f7da8195661dd7910d582d421429736abc9335c115a8cae39ea120
    ");
    let run = run_with_mask("ndjson", "sha256");
    assert_eq!(Report::of_run(&run).tokens.len(), 3);
    shows!(run.sorted(), @r#"
    {"summary":{"version":1,"run_id":"[uuid]","started_at":"[time]","duration_ms":[ms],"requested":3,"received":3,"requests":1,"surplus":0,"stored":1,"rejected":2,"failed":0,"unknown":0,"not_attempted":0,"exit_code":0,"latency_ms":{"p50":[ms],"p95":[ms],"p99":[ms],"max":[ms]}}}
    {"token":"sha256:65b2ce1c25889ed02161f6f1700d2de0076a99d814cd8fe1948bbbb70302ad6e","status":"rejected","attempts":1,"ms":[ms],"sqlstate":"23514","constraint":"secret_tokens_data_check","message":"new row for relation \"secret_tokens\" violates check constraint \"secret_tokens_data_check\"","masked":true}
    {"token":"sha256:a49d45a7883bd43380a5702d9bb4bd0c2b0b0b14c385324eda0f07144e770823","status":"rejected","attempts":0,"ms":[ms],"reason":"control character","masked":true}
    {"token":"sha256:f1b262c7e3f7da8195661dd7910d582d421429736abc9335c115a8cae39ea120","status":"stored","attempts":1,"ms":[ms],"masked":true}
    "#);
    let [plain, none] = [&["--report", "text"][..], &["--mask", "none"]].map(|args| {
        let database = Database::standard();
        let (_source, command) = command(&database);
        command.args(args).run().expect_code(0).sorted()
    });
    assert_eq!(plain, none);
}

/// Returns the part of a token that no mask shows.
fn secret(token: &str) -> &str {
    &token[5..]
}

#[test]
fn no_format_shows_a_masked_token() {
    for format in FORMATS {
        for mask in ["prefix", "sha256"] {
            let run = run_with_mask(format, mask);
            for token in TOKENS {
                let shown = run.stdout.contains(secret(token));
                assert!(!shown, "{format} {mask}: {}", run.stdout);
            }
            let expected = if mask == "prefix" {
                "Stor…"
            } else {
                "sha256:"
            };
            assert!(
                run.stdout.contains(expected),
                "{format} {mask}: {}",
                run.stdout
            );
        }
    }
}

#[test]
fn token_in_a_reject_reason_is_masked() {
    let database = Database::standard();
    let (_source, command) = command(&database);
    let script = "for page in fetch(SIZE).pages() { for t in page { report(reject(t, `I refuse ${t} itself`)); } }";
    let run = command
        .args([
            "--report",
            "ndjson",
            "--mask",
            "prefix",
            "--script",
            "mine.rhai",
        ])
        .file("mine.rhai", script)
        .run()
        .expect_code(0);
    let report = Report::of_run(&run);
    assert_eq!(report.token("Stor…")["reason"], "I refuse Stor… itself");
    for token in TOKENS {
        assert!(!run.stdout.contains(secret(token)), "{}", run.stdout);
    }
}

#[test]
fn lines_that_a_script_formats_are_not_masked() {
    let database = Database::standard();
    let (_source, command) = command(&database);
    let run = command
        .args(["--report", "text", "--report", "ndjson=run.ndjson"])
        .args(["--mask", "sha256", "--script", "mine.rhai"])
        .file(
            "mine.rhai",
            "report(store(fetch(SIZE)), |o| `mine ${o.token}`);",
        )
        .run()
        .expect_code(0);
    assert!(
        run.stdout.contains("mine StoredSecretOne"),
        "{}",
        run.stdout
    );
    let report = fs::read_to_string(run.path("run.ndjson")).unwrap();
    assert!(!report.contains("StoredSecretOne"), "{report}");
}

#[test]
fn mask_is_set_by_variable_file_or_flag() {
    let database = Database::standard();
    let (_source, by_variable) = command(&database);
    let run = by_variable.env("TOKEN_SERVICE_MASK", "prefix").run();
    assert!(run.stdout.contains("Stor…"), "{}", run.stdout);
    let (_source, by_file) = command(&database);
    let run = by_file.config("run: {mask: prefix}").run();
    assert!(run.stdout.contains("Stor…"), "{}", run.stdout);
    let (_source, by_flag) = command(&database);
    let by_flag = by_flag
        .config("run: {mask: prefix}")
        .args(["--mask", "none"]);
    let run = by_flag.run();
    assert!(run.stdout.contains("StoredSecretOne"), "{}", run.stdout);
    let run = Command::new().config("run:\n  mask: half\n").run();
    shows!(run.expect_code(2).error(), @"
    error: `run.mask` must be one of none, prefix, sha256
      ╭▸ token_service.yaml:2:9
      │
    2 │   mask: half
      ╰╴        ━━━━
    ");
}

#[test]
fn table_and_journal_hold_whole_tokens_when_the_report_is_masked() {
    let database = Database::standard();
    let (_source, command) = command(&database);
    let run = command
        .args(["--mask", "sha256", "--journal", "run.journal"])
        .run()
        .expect_code(0);
    assert_eq!(database.rows(), ["StoredSecretOne"]);
    let journal = Journal::read(&run.path("run.journal"));
    assert_eq!(journal.received, ["StoredSecretOne", "Rejected-Secret"]);
    let mut known: Vec<&str> = journal.outcomes.iter().map(|(token, _)| &**token).collect();
    known.sort_unstable();
    assert_eq!(
        known,
        ["Rejected-Secret", "StoredSecretOne", "Tab\tIsNoToken"]
    );

    let replayed = replay(&run.path("run.journal"), &database)
        .args(["--mask", "prefix"])
        .run()
        .expect_code(0);
    assert!(replayed.stdout.contains("Stor…"), "{}", replayed.stdout);
    assert!(
        !replayed.stdout.contains("StoredSecret"),
        "{}",
        replayed.stdout
    );
    assert_eq!(database.rows(), ["StoredSecretOne"], "each row once");
}

/// No token was sent. A replay of the report would therefore store every mask.
#[test]
fn replay_refuses_a_masked_report() {
    let database = Database::standard();
    let source = Source::responding([Response::tokens(TOKENS)]);
    let command = Command::new().source(&source).database(&database);
    let run = command
        .args(["3", "--mask", "prefix", "--report", "ndjson=run.ndjson"])
        .args(["--script", "mine.rhai"])
        .file("mine.rhai", "for token in fetch(SIZE) { }")
        .run();
    let path = run.path("run.ndjson");
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(
        Report::parse(&text).count("not_attempted"),
        3,
        "{}",
        run.stderr
    );
    let (first, _) = text.split_once('\n').unwrap();
    let partial = run.path("run.ndjson.partial");
    fs::write(&partial, format!("{first}\n{{\"tok")).unwrap();
    for file in [&path, &partial] {
        let run = replay(file, &database).run().expect_code(2);
        assert_eq!(run.stdout, "");
        let error = run.error().replace(&file.display().to_string(), "FILE");
        insta::allow_duplicates! {
            insta::assert_snapshot!(error, @"
            error: FILE cannot be replayed
              caused by: FILE:1:1: the report was written with --mask and does not contain the tokens
            hint: replay the journal of that run (--journal), which contains the tokens
            ");
        }
    }
    assert_eq!(database.rows(), [""; 0], "no mask is stored");
}
