//! `source.idempotency_header`: a request that the source may have served is repeated with the same key and
//! size, also by `replay` after a crash, and nothing stays issued unseen.

use std::path::Path;

use crate::journal::{replay, run_with_journal};
use crate::retries;
use crate::support::command::{Command, Run};
use crate::support::database::{Database, Login};
use crate::support::report::Report;
use crate::support::snapshot::shows;
use crate::support::source::{Gate, Response, Source};

const HEADER: &str = "source: {idempotency_header: Idempotency-Key}";

/// Runs with keys; returns the run and its report.
#[track_caller]
fn run(source: &Source, config: &str, args: &[&str], code: i32) -> (Run, Report) {
    let (run, report) = retries::run(source, config, args);
    (run.expect_code(code), report)
}

/// The keys of the requests, in order of arrival.
fn keys(source: &Source) -> Vec<String> {
    let requests = source.requests();
    let keys = requests.iter().map(|request| {
        let key = request.headers.get("idempotency-key");
        key.map_or("", |key| key.to_str().unwrap()).to_owned()
    });
    keys.collect()
}

#[test]
fn request_is_repeated_with_its_key_until_its_answer_is_complete() {
    let never = Gate::new();
    let source = Source::responding([
        Response::status(500),
        Response::truncated("aa\nbb\nc", 100),
        Response::tokens(["late"]).after(&never),
        Response::status(502),
        Response::status(409),
        Response::truncated("aa\n", 100),
        Response::tokens(["aa", "bb", "cc", "dd"]),
        Response::tokens(["ee"]),
    ]);
    let config = "source: {idempotency_header: Idempotency-Key, timeout: 2s}";
    let (run, report) = run(&source, config, &["5"], 0);
    assert_eq!(report.with_status("stored"), ["aa", "bb", "cc", "dd", "ee"]);
    assert_eq!(source.sizes(), [5, 5, 5, 5, 5, 5, 5, 1]);
    let run_id = report.summary["run_id"].as_str().unwrap();
    let mut expected = vec![format!("{run_id}-0-1"); 7];
    expected.push(format!("{run_id}-0-2"));
    assert_eq!(keys(&source), expected);
    assert_eq!(report.count("received"), 5);
    assert!(!run.stderr.contains("unseen"), "{}", run.stderr);
}

#[test]
fn requests_have_no_key_without_the_header() {
    let source = Source::responding([Response::tokens(["aa"])]);
    run(&source, "source: {retries: 3}", &["1"], 0);
    assert_eq!(keys(&source), [""]);
}

#[test]
fn shard_is_part_of_the_key() {
    let source = Source::responding([Response::tokens(["aa"])]);
    let (_, report) = run(&source, HEADER, &["2", "--shard", "1/2"], 0);
    let run_id = report.summary["run_id"].as_str().unwrap();
    assert_eq!(keys(&source), [format!("{run_id}-1-1")]);
}

#[test]
fn tokens_may_be_unseen_when_all_repetitions_fail() {
    let source = Source::responding([Response::truncated("aa\n", 100), Response::status(500)]);
    let config = "source: {idempotency_header: Idempotency-Key, retries: 1}";
    let (run, report) = run(&source, config, &["5"], 4);
    assert_eq!(source.sizes(), [5, 5]);
    assert_eq!(report.count("issued_unseen"), 4);
    shows!(run.stderr, @"
     INFO retrying the request wait=[wait] cause=\"the token source's answer ended early\"
    5 requested, 1 received in 2 requests: 1 stored, 0 rejected, 4 perhaps issued unseen in [seconds] s ([rate] tokens/s)
    error: http_status: the token source answered 500 Internal Server Error
      caused by: POST http://127.0.0.1:[port]/tokens
    hint: the request may have been served: with `--journal FILE` a replay can repeat it with the same idempotency key
    ");
}

#[test]
fn document_is_not_requested_again() {
    let source = Source::responding([Response::raw("text/html", "<html>")]);
    let (run, _) = run(&source, HEADER, &["5"], 4);
    assert!(
        run.stderr.contains("5 perhaps issued unseen"),
        "{}",
        run.stderr
    );
    assert!(run.stderr.contains("it sent text/html"), "{}", run.stderr);
}

#[test]
fn all_tokens_are_kept_when_the_source_ignores_the_key() {
    let source = Source::responding([
        Response::truncated("aa\nbb\n", 100),
        Response::tokens(["cc", "dd", "ee"]),
    ]);
    let (run, report) = run(&source, HEADER, &["3"], 0);
    assert_eq!(report.with_status("stored"), ["aa", "bb", "cc", "dd", "ee"]);
    assert_eq!(
        (report.count("surplus"), report.count("issued_unseen")),
        (0, 1)
    );
    let warning = "the source gave other tokens for the same idempotency key";
    assert!(run.stderr.contains(warning), "{}", run.stderr);
}

/// Prepares the replay of a journal with keys.
fn replay_with_keys(journal: &Path, database: &Login, source: &Source) -> Command {
    replay(journal, database).source(source).config(HEADER)
}

/// Kills a run of three tokens, one per request, whose second request has no answer. Returns the
/// journal and the second key.
fn killed_run(database: &Login, folder: &Path, second: Response) -> (std::path::PathBuf, String) {
    let gate = Gate::new();
    let source = Source::responding([
        Response::tokens(["aa"]),
        second,
        Response::tokens(["late"]).after(&gate),
    ]);
    let journal = folder.join("journal");
    let running = run_with_journal(&source, database, &journal)
        .config(HEADER)
        .args(["5", "--page-size", "3", "--fetch-concurrency", "1"])
        .spawn();
    source.wait_for(3);
    running.wait_for_stdout(|text| text.contains("aa"));
    running.signal("KILL");
    assert_eq!(running.wait().signal, Some(9));
    assert_eq!(source.sizes(), [3, 3, 3]);
    let keys = keys(&source);
    assert_eq!(keys[1], keys[2]);
    (journal, keys[1].clone())
}

#[test]
fn replay_repeats_the_request_that_a_crash_left_without_an_answer() {
    for (second, known) in [
        (Response::status(500), &[][..]),
        (Response::truncated("bb\n", 100), &["bb"]),
    ] {
        let database = Database::standard();
        let folder = tempfile::tempdir().unwrap();
        let (journal, key) = killed_run(&database, folder.path(), second);
        // The source cannot be used yet.
        let source = Source::responding([Response::status(403)]);
        let run = replay_with_keys(&journal, &database, &source)
            .run()
            .expect_code(4);
        let report = Report::of_run(&run);
        assert_eq!(report.count("issued_unseen"), 3 - known.len() as u64);
        assert_eq!(report.count("stored"), 1 + known.len() as u64);

        let source = Source::responding([Response::tokens(["bb", "c-c", "dd"])]);
        let run = replay_with_keys(&journal, &database, &source)
            .run()
            .expect_code(0);
        assert_eq!((source.sizes(), keys(&source)), (vec![3], vec![key]));
        let report = Report::of_run(&run);
        assert_eq!(report.with_status("stored"), ["aa", "bb", "dd"]);
        assert_eq!(report.with_status("rejected"), ["c-c"]);
        assert_eq!((report.count("received"), report.count("requests")), (4, 1));
        assert!(!run.stderr.contains("unseen"), "{}", run.stderr);
        assert_eq!(database.rows(), ["aa", "bb", "dd"]);

        // Nothing is left to request or to store.
        let source = Source::responding([]);
        let run = replay_with_keys(&journal, &database, &source)
            .run()
            .expect_code(0);
        assert_eq!(Report::of_run(&run).count("received"), 4);
        assert_eq!(database.rows(), ["aa", "bb", "dd"]);
    }
}

#[test]
fn replay_names_tokens_that_may_be_unseen_when_it_has_no_source() {
    let database = Database::standard();
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = killed_run(&database, folder.path(), Response::status(500));
    let run = replay(&journal, &database).run().expect_code(0);
    assert_eq!(Report::of_run(&run).count("issued_unseen"), 3);
    shows!(run.stderr, @"
     WARN requests without a complete answer were not repeated tokens=3 hint=\"set source.idempotency_header and the source of the run, and replay again\"
    5 requested, 1 received: 1 stored, 0 rejected, 3 perhaps issued unseen in [seconds] s ([rate] tokens/s)
    ");
}

#[test]
fn request_that_was_not_served_is_not_repeated_by_replay() {
    let database = Database::standard();
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    let source = Source::responding([Response::tokens(["aa"]), Response::status(403)]);
    let run = run_with_journal(&source, &database, &journal).config(HEADER);
    run.arg("2").run().expect_code(4);
    let source = Source::responding([]);
    let run = replay_with_keys(&journal, &database, &source).run();
    let run = run.expect_code(0);
    assert!(!run.stderr.contains("unseen"), "{}", run.stderr);
}
