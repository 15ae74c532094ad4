//! What a run without faults writes among the receipts.

use super::{assert_receipts_agree, position, receipts, run_command};
use crate::support::command::Command;
use crate::support::database::Database;
use crate::support::pgbouncer::{Pooler, PoolerSetup};
use crate::support::report::Report;
use crate::support::source::{Response, Source};

#[test]
fn each_token_has_a_receipt_with_its_position() {
    let database = Database::standard().with_receipts();
    let source = Source::responding([
        Response::tokens(["aa", "b-b", "cc"]),
        Response::tokens(["dd", "ee"]),
    ]);
    let run = run_command(&source, &database, 5)
        .args(["--fetch-concurrency", "1", "--page-size", "3"])
        .run()
        .expect_code(0);
    let report = Report::of_run(&run);
    assert_eq!(report.token("aa")["position"], position(1, 1));
    assert_eq!(report.token("b-b")["position"], position(1, 2));
    assert_eq!(report.token("ee")["position"], position(2, 2));
    let token = |request, line| (position(request, line), 1, "t".to_owned(), Some(1));
    let rejected = (position(1, 2), 1, "r".to_owned(), None);
    assert_eq!(
        receipts(&mut database.client()),
        [token(1, 1), rejected, token(1, 3), token(2, 1), token(2, 2)]
    );
    let mut client = database.client();
    let found = client.query_one(
        "SELECT DISTINCT run_id::text, shard FROM token_receipts",
        &[],
    );
    let found = found.unwrap();
    assert_eq!(
        found.get::<_, String>(0),
        report.summary["run_id"].as_str().unwrap()
    );
    assert_eq!(found.get::<_, i32>(1), 0);
}

#[test]
fn role_needs_no_right_to_read_tokens() {
    let database = Database::standard().with_receipts();
    let role = database.role_for_receipts();
    let source = Source::generating(|size| size);
    let run = run_command(&source, &role, 500).run().expect_code(0);
    let report = Report::of_run(&run);
    assert_eq!(report.with_status("stored"), database.rows());
    assert_receipts_agree(&report, &database);
}

#[test]
fn receipts_are_written_in_every_pool_mode() {
    for mode in ["session", "transaction", "statement"] {
        let database = Database::standard().with_receipts();
        let setup = PoolerSetup {
            mode,
            ..PoolerSetup::default()
        };
        let pooler = Pooler::start(&database, &setup);
        let mut tokens: Vec<String> = (0..200).map(|n| format!("a{n:03}")).collect();
        tokens[7] = "b-b".to_owned();
        let source = Source::responding([Response::tokens(&tokens)]);
        let run = run_command(&source, &pooler.login, 200)
            .run()
            .expect_code(0);
        let report = Report::of_run(&run);
        assert_eq!(report.with_status("rejected"), ["b-b"]);
        assert_receipts_agree(&report, &database);
        let all = receipts(&mut database.client());
        assert_eq!(all.len(), 200, "{mode}");
        assert_eq!(all[7], (position(1, 8), 1, "r".to_owned(), None));
    }
}

#[test]
fn receipts_may_be_partitioned() {
    let database = Database::standard().with_sql(
        "CREATE TABLE token_receipts (
             run_id uuid, shard int, position bigint, attempt int, rows int, kind \"char\" NOT NULL,
             at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (run_id, shard, position, attempt))
         PARTITION BY HASH (run_id);
         CREATE TABLE token_receipts_0 PARTITION OF token_receipts FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE token_receipts_1 PARTITION OF token_receipts FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
    );
    let source = Source::generating(|size| size);
    let run = run_command(&source, &database, 100).run().expect_code(0);
    assert_receipts_agree(&Report::of_run(&run), &database);
}

/// Rules refuse a token and its receipt in one statement.
#[test]
fn token_and_receipt_are_one_transaction_on_a_table_with_rules() {
    let database = Database::standard().with_receipts().with_sql(
        "CREATE TABLE log (data text CHECK (data <> 'logless'));
         CREATE RULE log AS ON INSERT TO secret_tokens DO ALSO INSERT INTO log VALUES (NEW.data)",
    );
    let tokens = ["aa", "b-b", "logless", "cc"];
    let source = Source::responding([Response::tokens(tokens)]);
    let run = run_command(&source, &database, 4).run().expect_code(5);
    let report = Report::of_run(&run);
    assert_eq!(report.with_status("stored"), ["aa", "cc"]);
    assert_eq!(report.with_status("rejected"), ["b-b"]);
    assert_eq!(report.with_status("failed"), ["logless"]);
    assert_eq!(database.rows(), ["aa", "cc"]);
    assert_receipts_agree(&report, &database);
}

/// The transaction was committed, so the receipt is there; a second one says what the look-up found.
#[test]
fn receipts_say_what_became_of_tokens_without_a_row() {
    let database = Database::hostile().with_receipts();
    let source = Source::responding([Response::tokens(["aa", "nn"])]);
    let run = run_command(&source, &database, 2).run().expect_code(0);
    assert_eq!(Report::of_run(&run).with_status("rejected"), ["nn"]);
    assert_eq!(
        receipts(&mut database.client()),
        [
            (position(1, 1), 1, "t".to_owned(), Some(1)),
            (position(1, 2), 1, "t".to_owned(), Some(0)),
            (position(1, 2), 2, "r".to_owned(), None),
        ]
    );
}

#[test]
fn tokens_of_the_script_have_positions_of_request_0() {
    let database = Database::standard().with_receipts();
    let run = Command::new()
        .database(&database)
        .env("TOKEN_HOST", "http://127.0.0.1:9")
        .file(
            "own.rhai",
            "report(store([\"aa\", \"b-b\"])); report(reject([\"cc\"], \"no\"));",
        )
        .args([
            "--script",
            "own.rhai",
            "--report",
            "csv",
            "--receipts",
            "token_receipts",
        ])
        .run()
        .expect_code(0);
    let header = run.stdout.lines().next().unwrap();
    assert!(header.ends_with(",message,position"), "{header}");
    let kinds = receipts(&mut database.client()).into_iter();
    let kinds: Vec<_> = kinds
        .map(|(position, _, kind, _)| (position, kind))
        .collect();
    let expected = [(1, "t"), (2, "r"), (3, "r")].map(|(line, kind)| (line, kind.to_owned()));
    assert_eq!(kinds, expected);
}

#[test]
fn dry_run_writes_no_receipts() {
    let database = Database::standard().with_receipts();
    let source = Source::responding([Response::tokens(["aa", "b-b"])]);
    run_command(&source, &database, 2)
        .arg("--dry-run")
        .run()
        .expect_code(0);
    assert!(receipts(&mut database.client()).is_empty());
}
