//! In-doubt tokens that are hard or impossible to resolve: equal values, older rows, missing rights,
//! triggers that change rows, deleted rows, and tokens that end their backend.

use super::{random_token_source, run_command, through, with_held_tokens};
use crate::outages::{unlock, wait_for_blocked_backend};
use crate::support::cluster::{wait, wait_until_disconnected};
use crate::support::database::Database;
use crate::support::proxy::{Fault, Point, Proxy, Scope};
use crate::support::response::Gate;
use crate::support::source::{Response, Source, token};
use crate::support::verify::{rows, verify};

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn older_equal_row_does_not_resolve_a_token() {
    let (database, mut admin) = with_held_tokens(Database::standard());
    let older = strings(&["held", "aa"]);
    unlock(&mut admin);
    database
        .client()
        .batch_execute("INSERT INTO secret_tokens (data) VALUES ('held'), ('aa')")
        .unwrap();
    admin.batch_execute("SELECT pg_advisory_lock(7)").unwrap();
    let issued = strings(&["bb", "cc", "held", "aa"]);
    let source = Source::responding([Response::tokens(&issued)]);
    let running = run_command(&source, &database, 4)
        .args(["--connections", "1"])
        .spawn();
    let pid = wait_for_blocked_backend(&mut admin);
    admin
        .execute("SELECT pg_terminate_backend($1)", &[&pid])
        .unwrap();
    // The token is sent again over another connection.
    wait(
        || wait_for_blocked_backend(&mut admin) != pid,
        "the look-up",
    );
    unlock(&mut admin);
    let run = running.wait().expect_code(0);
    let verified = verify(&run, &issued, &older, &database);
    assert_eq!(verified.report.count("stored"), 4);
}

/// A row that resolved the first token must not resolve the second one.
#[test]
fn equal_tokens_of_two_lost_connections_are_distinguished() {
    let database = Database::standard();
    let proxy = Proxy::to(database.port);
    let issued = strings(&["a", "twice", "twice", "twice", "twice", "twice"]);
    let source = Source::responding([Response::tokens(&issued)]);
    proxy.arm(Point::Commit(2), Fault::DropReplies, Scope::One);
    proxy.arm(Point::Commit(1), Fault::DropReplies, Scope::One);
    let run = run_command(&source, &through(&database, &proxy), issued.len())
        .args(["--connections", "1", "--pipeline", "1"])
        .run()
        .expect_code(0);
    assert_eq!(proxy.injected(), 2);
    let verified = verify(&run, &issued, &[], &database);
    assert_eq!(verified.in_doubt.stored, 2, "{:?}", verified.in_doubt);
}

/// A few values repeat, over several connections that lose replies or break.
#[test]
fn equal_tokens_of_a_run_are_counted() {
    let database = Database::standard();
    let proxy = Proxy::to(database.port);
    let issued: Vec<String> = (0..2000).map(|n| format!("v{}", n % 7)).collect();
    let source = Source::responding([Response::tokens(&issued)]);
    for (commit, fault) in [
        (150, Fault::DropReplies),
        (150, Fault::Disconnect),
        (150, Fault::DropReplies),
    ] {
        proxy.arm(Point::Commit(commit), fault, Scope::All);
        proxy.arm(Point::Commit(commit), fault, Scope::One);
    }
    let run = run_command(&source, &through(&database, &proxy), issued.len())
        .args(["--connections", "4"])
        .run();
    assert_eq!(proxy.injected(), 6);
    let verified = verify(&run, &issued, &[], &database);
    assert!(verified.in_doubt.total > 0);
}

#[test]
fn in_doubt_tokens_stay_unknown_without_select_right() {
    let database = Database::standard();
    let proxy = Proxy::to(database.port);
    let role = database.role_with("INSERT");
    let (issued, source) = random_token_source(200);
    proxy.arm(Point::Commit(20), Fault::DropReplies, Scope::One);
    let run = run_command(&source, &through(&role, &proxy), issued.len())
        .args(["--connections", "1", "--pipeline", "8"])
        .run()
        .expect_code(5);
    let verified = verify(&run, &issued, &[], &database);
    let unknown = verified.report.with_status("unknown");
    assert_eq!(unknown.len() as u64, verified.in_doubt.unknown);
    assert!((1..=8).contains(&unknown.len()), "only tokens in flight");
    assert_eq!(
        verified.report.token(&unknown[0])["reason"],
        "the connection was lost, and without SELECT right on the column and xmin it cannot be looked up"
    );
    assert!(
        verified.unknown_but_present > 0,
        "the reply was dropped after the commit"
    );
}

/// A run that cannot look up still terminates its backends, so nothing is committed after the report.
#[test]
fn orphaned_backend_is_terminated_without_select_right() {
    let (database, mut admin) = with_held_tokens(Database::standard());
    let role = database.role_with("INSERT");
    let proxy = Proxy::to(database.port);
    let issued = strings(&["aa", "held", "bb"]);
    let source = Source::responding([Response::tokens(&issued)]);
    let running = run_command(&source, &through(&role, &proxy), 3)
        .args(["--connections", "1"])
        .spawn();
    wait_for_blocked_backend(&mut admin);
    running.wait_for_stdout(|text| text.lines().count() == 1);
    proxy.inject(Fault::DisconnectClient);
    let run = running.wait().expect_code(5);
    unlock(&mut admin);
    wait_until_disconnected(database.superuser());
    let verified = verify(&run, &issued, &[], &database);
    assert!(
        verified
            .report
            .with_status("unknown")
            .contains(&"held".to_owned())
    );
    assert_eq!(
        verified.unknown_but_present, 0,
        "the backend was terminated in time"
    );
}

#[test]
fn in_doubt_tokens_stay_unknown_when_a_trigger_changes_rows() {
    let database = Database::standard().with_sql(
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
        .expect_code(5);
    let report = crate::support::report::Report::of_run(&run);
    let mut rows = rows(&database);
    rows.sort();
    let changed = |status| {
        report
            .with_status(status)
            .into_iter()
            .map(|t| format!("changed {t}"))
    };
    // Each row belongs to one stored or unknown token, and no row is duplicated.
    let mut expected: Vec<String> = changed("stored").chain(changed("unknown")).collect();
    expected.sort();
    let mut distinct = rows.clone();
    distinct.dedup();
    assert_eq!(rows, distinct);
    assert!(rows.iter().all(|row| expected.contains(row)));
    assert!(changed("stored").all(|row| rows.contains(&row)));
    assert!(report.count("unknown") > 0);
    assert_eq!(report.count("failed"), 0);
}

/// If another session deletes rows, a missing row proves nothing.
#[test]
fn in_doubt_tokens_are_not_sent_again_when_their_rows_are_deleted() {
    let database = Database::standard();
    let proxy = Proxy::to(database.port);
    let issued: Vec<String> = (0..100).map(|_| token()).collect();
    let gate = Gate::new();
    let source = Source::responding([Response::tokens(&issued).after(&gate)]);
    proxy.arm(Point::Commit(40), Fault::DropReplies, Scope::One);
    let running = run_command(&source, &through(&database, &proxy), 100)
        .args(["--connections", "1", "--pipeline", "8"])
        .spawn();
    // Further connections are refused, so that no look-up happens too early.
    source.wait_for(1);
    proxy.refuse(true);
    let accepted = proxy.accepted();
    gate.open();
    proxy.wait_for_injected(1);
    proxy.wait_for_accepted(accepted + 1);
    let mut admin = database.admin();
    let deleted = admin
        .query("DELETE FROM secret_tokens RETURNING data", &[])
        .unwrap();
    let deleted: Vec<String> = deleted.iter().map(|row| row.get(0)).collect();
    proxy.refuse(false);
    let run = running.wait().expect_code(5);
    let report = crate::support::report::Report::of_run(&run);
    let rows = rows(&database);
    for token in &deleted {
        assert!(!rows.contains(token), "{token} was stored twice");
        assert_ne!(report.token(token)["status"], "failed");
    }
    assert!(report.count("unknown") > 0);
    assert_eq!(report.count("received"), issued.len() as u64);
}

#[test]
fn token_fails_when_it_ends_its_backend_at_every_try() {
    let database = Database::standard().with_sql(
        "CREATE FUNCTION die(data text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
             IF data = 'poison' THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
             RETURN true; END $$;
         ALTER TABLE secret_tokens ADD CHECK (die(data))",
    );
    let mut issued: Vec<String> = (0..300).map(|n| format!("a{n:03}")).collect();
    issued[20] = "poison".to_owned();
    let source = Source::responding([Response::tokens(&issued)]);
    let run = run_command(&source, &database, issued.len())
        .run()
        .expect_code(5);
    let verified = verify(&run, &issued, &[], &database);
    assert_eq!(verified.report.with_status("failed"), ["poison"]);
    assert_eq!(verified.report.count("stored"), 299);
}

/// Each of these errors means that nothing was stored.
#[test]
fn transient_errors_are_retried() {
    let database = Database::standard().with_sql(
        "CREATE SEQUENCE tries;
         CREATE FUNCTION clash() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF nextval('tries') <= 7 THEN
                 RAISE EXCEPTION 'clash' USING ERRCODE = NEW.data; END IF;
             RETURN NEW; END $$;
         CREATE TRIGGER clash BEFORE INSERT ON secret_tokens FOR EACH ROW EXECUTE FUNCTION clash()",
    );
    let issued = strings(&[
        "40001", "40P01", "55P03", "57014", "53100", "53200", "53300",
    ]);
    let source = Source::responding([Response::tokens(&issued)]);
    let run = run_command(&source, &database, 7).run().expect_code(0);
    let verified = verify(&run, &issued, &[], &database);
    assert_eq!(verified.report.count("stored"), 7);
}

/// The server raised the error and rolled back; the errors of a pooler name no routine.
#[test]
fn token_is_rejected_when_a_trigger_raises_the_code_of_a_lost_connection() {
    let database = Database::standard().with_sql(
        "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.data = '08P01' THEN
                 RAISE EXCEPTION 'server conn crashed?' USING ERRCODE = NEW.data; END IF;
             RETURN NEW; END $$;
         CREATE TRIGGER lose BEFORE INSERT ON secret_tokens FOR EACH ROW EXECUTE FUNCTION lose()",
    );
    let issued = strings(&["aa", "08P01", "bb"]);
    let source = Source::responding([Response::tokens(&issued)]);
    let run = run_command(&source, &database, 3).run().expect_code(0);
    let verified = verify(&run, &issued, &[], &database);
    assert_eq!(verified.report.with_status("rejected"), ["08P01"]);
    assert_eq!(verified.report.count("stored"), 2);
}

/// The row that the look-up inspects may be one that the trigger left unchanged.
#[test]
fn in_doubt_tokens_stay_unknown_when_a_trigger_changes_some_rows() {
    let database = Database::standard().with_sql(
        "CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.data LIKE 'b%' THEN NEW.data = 'changed ' || NEW.data; END IF; RETURN NEW; END $$;
         CREATE TRIGGER change BEFORE INSERT ON secret_tokens
             FOR EACH ROW EXECUTE FUNCTION change()",
    );
    let proxy = Proxy::to(database.port);
    let issued = strings(&["a1", "a2", "b1", "a3", "b2"]);
    let source = Source::responding([Response::tokens(&issued)]);
    proxy.arm(Point::Commit(3), Fault::DropReplies, Scope::One);
    let run = run_command(&source, &through(&database, &proxy), 5)
        .args(["--connections", "1", "--pipeline", "8"])
        .run()
        .expect_code(5);
    let report = crate::support::report::Report::of_run(&run);
    // A reply right before the disconnect may be lost with the connection.
    let unknown = report.with_status("unknown");
    for token in ["a3", "b1", "b2"] {
        assert!(unknown.contains(&token.to_owned()), "{unknown:?}");
    }
    assert_eq!(unknown.len() as u64 + report.count("stored"), 5);
    let mut rows = rows(&database);
    rows.sort();
    assert_eq!(rows.len(), 5, "no row is duplicated");
    rows.dedup();
    assert_eq!(rows.len(), 5, "no token is stored twice");
}
