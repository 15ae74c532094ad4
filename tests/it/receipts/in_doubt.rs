//! Tokens whose replies were lost: a tombstone or the receipt settles each.

use super::{assert_receipts_agree, position, receipts, run_command};
use crate::faults::{random_token_source, through, with_held_tokens};
use crate::outages::{unlock, wait_for_blocked_backend};
use crate::support::cluster::{wait, wait_until_disconnected};
use crate::support::database::Database;
use crate::support::pgbouncer::{Pooler, PoolerSetup};
use crate::support::proxy::{Fault, Point, Proxy, Scope};
use crate::support::report::Report;
use crate::support::source::{Gate, Response, Source};
use crate::support::verify::{rows, verify};

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn tokens_are_settled_without_any_right_to_read_them() {
    let database = Database::standard().with_receipts();
    let role = database.role_for_receipts();
    let proxy = Proxy::to(database.port);
    let (issued, source) = random_token_source(400);
    for _ in 0..3 {
        proxy.arm(Point::Commit(40), Fault::DropReplies, Scope::One);
        proxy.arm(Point::Commit(40), Fault::Disconnect, Scope::One);
    }
    let run = run_command(&source, &through(&role, &proxy), issued.len())
        .args(["--connections", "2", "--pipeline", "16"])
        .run()
        .expect_code(0);
    assert_eq!(proxy.injected(), 6);
    let verified = verify(&run, &issued, &[], &database);
    assert!(verified.in_doubt.total > 0 && verified.in_doubt.stored > 0);
    assert_eq!(verified.in_doubt.unknown, 0);
    assert_receipts_agree(&verified.report, &database);
}

#[test]
fn tokens_are_settled_behind_a_pooler() {
    for mode in ["transaction", "statement"] {
        let database = Database::standard().with_receipts();
        let setup = PoolerSetup {
            mode,
            ..PoolerSetup::default()
        };
        let mut pooler = Pooler::start(&database, &setup);
        let proxy = Proxy::to(pooler.login.port);
        let (issued, source) = random_token_source(200);
        for _ in 0..3 {
            proxy.arm(Point::Commit(20), Fault::DropReplies, Scope::One);
        }
        let running = run_command(&source, &through(&pooler.login, &proxy), issued.len()).spawn();
        proxy.wait_for_injected(3);
        pooler.kill();
        pooler.restart();
        let run = running.wait().expect_code(0);
        drop(pooler);
        wait_until_disconnected(database.superuser());
        let verified = verify(&run, &issued, &[], &database);
        assert!(verified.in_doubt.total >= 3, "{mode}");
        assert_eq!(verified.in_doubt.unknown, 0, "{mode}");
        assert_receipts_agree(&verified.report, &database);
    }
}

/// A look-up by value proves nothing here; a receipt does.
#[test]
fn tokens_are_settled_although_a_trigger_changes_rows() {
    let database = Database::standard().with_receipts().with_sql(
        "CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             NEW.data = 'changed ' || NEW.data; RETURN NEW; END $$;
         CREATE TRIGGER change BEFORE INSERT ON secret_tokens
             FOR EACH ROW EXECUTE FUNCTION change()",
    );
    let proxy = Proxy::to(database.port);
    let issued: Vec<String> = (0..100).map(|n| format!("a{n:02}")).collect();
    let source = Source::responding([Response::tokens(&issued)]);
    proxy.arm(Point::Commit(20), Fault::DropReplies, Scope::One);
    let run = run_command(&source, &through(&database, &proxy), 100)
        .args(["--connections", "1", "--pipeline", "8"])
        .run()
        .expect_code(0);
    let report = Report::of_run(&run);
    assert_eq!(report.count("stored"), 100);
    assert_eq!(rows(&database).len(), 100);
    assert_receipts_agree(&report, &database);
}

/// The transaction of the token is blocked before it has written the receipt: the tombstone is first, and the
/// transaction fails when it goes on.
#[test]
fn blocked_transaction_of_a_token_fails_after_its_tombstone() {
    let (database, mut admin) = with_held_tokens(Database::standard().with_receipts());
    let proxy = Proxy::to(database.port);
    let issued = strings(&["aa", "held", "bb"]);
    let source = Source::responding([Response::tokens(&issued)]);
    let running = run_command(&source, &through(&database, &proxy), 3)
        .args(["--connections", "1"])
        .spawn();
    let first = wait_for_blocked_backend(&mut admin);
    proxy.inject(Fault::DisconnectClient);
    // The next attempt waits beside the first one.
    let both = "SELECT count(*) FROM pg_stat_activity
                WHERE wait_event = 'advisory' AND datname = current_database()";
    wait(
        || admin.query_one(both, &[]).unwrap().get::<_, i64>(0) == 2,
        "the second attempt",
    );
    unlock(&mut admin);
    let run = running.wait().expect_code(0);
    drop(proxy);
    wait_until_disconnected(database.superuser());
    let verified = verify(&run, &issued, &[], &database);
    assert_eq!(verified.report.token("held")["attempts"], 2, "{first}");
    assert_receipts_agree(&verified.report, &database);
}

/// The old backend has written the receipt and not committed it: its outcome is not known.
#[test]
fn token_stays_unknown_while_its_transaction_is_open() {
    let database = Database::standard().with_receipts().with_sql(
        "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.data = 'held' THEN PERFORM pg_advisory_xact_lock_shared(7); END IF;
             RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON secret_tokens
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION hold()",
    );
    let mut admin = database.admin();
    admin.batch_execute("SELECT pg_advisory_lock(7)").unwrap();
    let proxy = Proxy::to(database.port);
    let issued = strings(&["aa", "held", "bb"]);
    let source = Source::responding([Response::tokens(&issued)]);
    let running = run_command(&source, &through(&database, &proxy), 3)
        .args(["--connections", "1", "--patience", "2s"])
        .spawn();
    wait_for_blocked_backend(&mut admin);
    proxy.inject(Fault::DisconnectClient);
    let run = running.wait().expect_code(5);
    let report = Report::of_run(&run);
    assert_eq!(report.with_status("unknown"), ["held"]);
    assert_eq!(
        report.token("held")["reason"],
        "the connection was lost, and its transaction did not end in time"
    );
    // It was rightly not called failed: now it is committed.
    unlock(&mut admin);
    drop(proxy);
    wait_until_disconnected(database.superuser());
    assert_eq!(database.rows(), ["aa", "bb", "held"]);
}

/// The old backend executes its statements after the run has given the tokens up.
#[test]
fn late_commit_of_a_failed_token_is_impossible() {
    let (database, mut admin) = with_held_tokens(Database::standard().with_receipts());
    let proxy = Proxy::to(database.port);
    let issued = strings(&["aa", "held", "bb", "cc", "dd"]);
    let source = Source::responding([Response::tokens(&issued)]);
    let running = run_command(&source, &through(&database, &proxy), issued.len())
        .args(["--connections", "1", "--pipeline", "8"])
        .spawn();
    wait_for_blocked_backend(&mut admin);
    running.signal("TERM");
    running.wait_for_stderr(|text| text.contains("stopping"));
    proxy.inject(Fault::DisconnectClient);
    let run = running.wait().expect_code(143);
    let report = Report::of_run(&run);
    assert_eq!(report.with_status("failed"), ["bb", "cc", "dd", "held"]);
    // The blocked statement goes on, and the others follow it.
    unlock(&mut admin);
    wait(
        || proxy.is_drained(),
        "the statements of the old connection",
    );
    drop(proxy);
    wait_until_disconnected(database.superuser());
    assert_eq!(database.rows(), ["aa"]);
    assert_receipts_agree(&report, &database);
    let found = receipts(&mut database.client());
    let tombstones = found.iter().filter(|(_, _, kind, _)| kind == "x");
    assert_eq!(tombstones.count(), 4);
}

#[test]
fn replay_settles_tokens_by_their_receipts() {
    let database = Database::standard().with_receipts();
    let id = "018f0000-0000-7000-8000-000000000001";
    let mut admin = database.admin();
    // PositionSet 1 and 3 have the tombstones of an earlier process, and 2 has the receipt of its token.
    for (line, kind, rows) in [(1, "x", None), (2, "t", Some(1)), (3, "x", None)] {
        admin
            .execute(
                "INSERT INTO token_receipts VALUES ($1::text::uuid, 0, $2, 1, $3, $4::text::\"char\")",
                &[&id, &position(1, line), &rows, &kind],
            )
            .unwrap();
    }
    let (journal, _folder) = journal_of(id, &["aa", "bb", "cc", "dd"]);
    let run = crate::journal::replay(&journal, &database)
        .run()
        .expect_code(0);
    let report = Report::of_run(&run);
    assert_eq!(report.with_status("stored"), ["aa", "bb", "cc", "dd"]);
    // The receipt of `bb` is there, although no row is: it was said to be stored.
    assert_eq!(database.rows(), ["aa", "cc", "dd"]);
    let attempts = receipts(&mut database.client()).into_iter();
    let stored = attempts.filter(|(_, _, kind, _)| kind == "t");
    let stored: Vec<_> = stored
        .map(|(position, attempt, ..)| (position & 0xff, attempt))
        .collect();
    assert_eq!(stored, [(1, 2), (2, 1), (3, 2), (4, 1)]);
}

/// 23505 of a receipt's key says nothing about the token: the receipt does.
#[test]
fn taken_key_of_a_receipt_is_never_the_tokens_fault() {
    let database = Database::standard().with_receipts();
    let id = "018f0000-0000-7000-8000-000000000002";
    let gate = Gate::new();
    let source = Source::responding([Response::tokens(["aa", "bb", "cc"]).after(&gate)]);
    let running = run_command(&source, &database, 3)
        .args(["--run-id", id, "--connections", "1"])
        .spawn();
    source.wait_for(1);
    // A tombstone and a receipt that the process has not seen at its start.
    let mut client = database.client();
    for (line, kind, rows) in [(1, "x", None), (2, "t", Some(1))] {
        client
            .execute(
                "INSERT INTO token_receipts VALUES ($1::text::uuid, 0, $2, 1, $3, $4::text::\"char\")",
                &[&id, &position(1, line), &rows, &kind],
            )
            .unwrap();
    }
    gate.open();
    let report = Report::of_run(&running.wait().expect_code(0));
    assert_eq!(report.with_status("stored"), ["aa", "bb", "cc"]);
    assert_eq!(database.rows(), ["aa", "cc"]);
    let found = receipts(&mut client).into_iter();
    let of_first: Vec<_> = found.filter(|(at, ..)| *at == position(1, 1)).collect();
    assert_eq!(
        of_first,
        [
            (position(1, 1), 1, "x".to_owned(), None),
            (position(1, 1), 2, "t".to_owned(), Some(1)),
        ]
    );
}

/// A journal of a run that was killed after it received these tokens.
fn journal_of(run_id: &str, tokens: &[&str]) -> (std::path::PathBuf, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let lines = [
        format!(
            r#"{{"journal":{{"version":1,"run_id":"{run_id}","horizon":null,"table":"secret_tokens","column":"data","requested":4,"receipts":"token_receipts","shard":0}}}}"#
        ),
        serde_json::json!({"received": tokens, "request": 1}).to_string(),
    ];
    std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    (path, folder)
}
