//! InDoubtCounts that cannot be resolved, or only by who thinks twice: equal values, older rows, rights
//! that are missing, triggers that change the row, rows that are taken away, tokens that kill.

use super::{holding, random_token_source, run_command, through};
use crate::outages::{unlock, waiting_backend};
use crate::support::cluster::{wait, wait_until_disconnected};
use crate::support::database::Database;
use crate::support::proxy::{Fault, Point, Proxy, Scope};
use crate::support::response::Gate;
use crate::support::source::{Response, Source, token};
use crate::support::verify::{rows, verify};

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn an_equal_row_of_before_proves_nothing() {
    let (database, mut admin) = holding(Database::standard());
    let older = texts(&["held", "aa"]);
    unlock(&mut admin);
    database
        .client()
        .batch_execute("INSERT INTO secret_tokens (data) VALUES ('held'), ('aa')")
        .unwrap();
    admin.batch_execute("SELECT pg_advisory_lock(7)").unwrap();
    let issued = texts(&["bb", "cc", "held", "aa"]);
    let source = Source::responding([Response::tokens(&issued)]);
    let running = run_command(&source, &database, 4)
        .args(["--connections", "1"])
        .spawn();
    let pid = waiting_backend(&mut admin);
    admin
        .execute("SELECT pg_terminate_backend($1)", &[&pid])
        .unwrap();
    // The value is tried, over another connection.
    wait(|| waiting_backend(&mut admin) != pid, "the look-up");
    unlock(&mut admin);
    let run = running.wait().expect_code(0);
    let verified = verify(&run, &issued, &older, &database);
    assert_eq!(verified.report.count("stored"), 4);
}

/// A value that was found for the first doubt must not be taken for the row of the second.
#[test]
fn equal_values_of_two_doubts_are_told_apart() {
    let database = Database::standard();
    let proxy = Proxy::to(database.port);
    let issued = texts(&["a", "twice", "twice", "twice", "twice", "twice"]);
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

/// A few values again and again, over several connections that are all swallowed or cut.
#[test]
fn equal_values_within_a_run_are_counted() {
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
fn a_role_that_may_only_insert_leaves_it_unknown() {
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
    assert!((1..=8).contains(&unknown.len()), "only what was in flight");
    assert_eq!(
        verified.report.token(&unknown[0])["reason"],
        "the connection was lost, and without SELECT right on the column and xmin it cannot be looked up"
    );
    assert!(
        verified.unknown_but_present > 0,
        "it was swallowed after the commit"
    );
}

/// What it cannot look up it ends all the same: nothing is committed after the report.
#[test]
fn a_role_that_may_only_insert_ends_what_it_left_behind() {
    let (database, mut admin) = holding(Database::standard());
    let role = database.role_with("INSERT");
    let proxy = Proxy::to(database.port);
    let issued = texts(&["aa", "held", "bb"]);
    let source = Source::responding([Response::tokens(&issued)]);
    let running = run_command(&source, &through(&role, &proxy), 3)
        .args(["--connections", "1"])
        .spawn();
    waiting_backend(&mut admin);
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
    assert_eq!(verified.unknown_but_present, 0, "it was ended in time");
}

#[test]
fn a_trigger_that_changes_the_row_leaves_it_unknown() {
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
    // Each row is that of one token, which is stored or unknown; none is there twice.
    let mut may_be_there: Vec<String> = changed("stored").chain(changed("unknown")).collect();
    may_be_there.sort();
    let mut once = rows.clone();
    once.dedup();
    assert_eq!(rows, once);
    assert!(rows.iter().all(|row| may_be_there.contains(row)));
    assert!(changed("stored").all(|row| rows.contains(&row)));
    assert!(report.count("unknown") > 0);
    assert_eq!(report.count("failed"), 0);
}

/// Where somebody takes the rows away, a row that is missing proves nothing.
#[test]
fn rows_that_are_taken_away_are_not_sent_again() {
    let database = Database::standard();
    let proxy = Proxy::to(database.port);
    let issued: Vec<String> = (0..100).map(|_| token()).collect();
    let gate = Gate::new();
    let source = Source::responding([Response::tokens(&issued).after(&gate)]);
    proxy.arm(Point::Commit(40), Fault::DropReplies, Scope::One);
    let running = run_command(&source, &through(&database, &proxy), 100)
        .args(["--connections", "1", "--pipeline", "8"])
        .spawn();
    // From now on the one connection is all that there is, so that nothing is looked up too soon.
    source.wait_for(1);
    proxy.refuse(true);
    let accepted = proxy.accepted();
    gate.open();
    proxy.wait_for_injected(1);
    proxy.wait_for_accepted(accepted + 1);
    let mut admin = database.admin();
    let taken = admin
        .query("DELETE FROM secret_tokens RETURNING data", &[])
        .unwrap();
    let taken: Vec<String> = taken.iter().map(|row| row.get(0)).collect();
    proxy.refuse(false);
    let run = running.wait().expect_code(5);
    let report = crate::support::report::Report::of_run(&run);
    let rows = rows(&database);
    for token in &taken {
        assert!(!rows.contains(token), "{token} was stored twice");
        assert_ne!(report.token(token)["status"], "failed");
    }
    assert!(report.count("unknown") > 0);
    assert_eq!(report.count("received"), issued.len() as u64);
}

/// A token that ends its own backend each time: the others are stored, and the run ends.
#[test]
fn a_token_that_kills_its_connection_is_failed_and_the_others_are_stored() {
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

/// Case 12: each of them means that nothing was stored.
#[test]
fn passing_conflicts_of_every_kind_are_tried_again() {
    let database = Database::standard().with_sql(
        "CREATE SEQUENCE tries;
         CREATE FUNCTION clash() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF nextval('tries') <= 7 THEN
                 RAISE EXCEPTION 'clash' USING ERRCODE = NEW.data; END IF;
             RETURN NEW; END $$;
         CREATE TRIGGER clash BEFORE INSERT ON secret_tokens FOR EACH ROW EXECUTE FUNCTION clash()",
    );
    let issued = texts(&[
        "40001", "40P01", "55P03", "57014", "53100", "53200", "53300",
    ]);
    let source = Source::responding([Response::tokens(&issued)]);
    let run = run_command(&source, &database, 7).run().expect_code(0);
    let verified = verify(&run, &issued, &[], &database);
    assert_eq!(verified.report.count("stored"), 7);
}

/// The server itself says so, and has rolled back: a pooler's own errors name no routine.
#[test]
fn token_is_rejected_when_a_trigger_raises_the_code_of_a_lost_connection() {
    let database = Database::standard().with_sql(
        "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.data = '08P01' THEN
                 RAISE EXCEPTION 'server conn crashed?' USING ERRCODE = NEW.data; END IF;
             RETURN NEW; END $$;
         CREATE TRIGGER lose BEFORE INSERT ON secret_tokens FOR EACH ROW EXECUTE FUNCTION lose()",
    );
    let issued = texts(&["aa", "08P01", "bb"]);
    let source = Source::responding([Response::tokens(&issued)]);
    let run = run_command(&source, &database, 3).run().expect_code(0);
    let verified = verify(&run, &issued, &[], &database);
    assert_eq!(verified.report.with_status("rejected"), ["08P01"]);
    assert_eq!(verified.report.count("stored"), 2);
}

/// The row that shows what is inserted may be one that the trigger left alone.
#[test]
fn a_trigger_that_changes_some_rows_leaves_them_unknown() {
    let database = Database::standard().with_sql(
        "CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.data LIKE 'b%' THEN NEW.data = 'changed ' || NEW.data; END IF; RETURN NEW; END $$;
         CREATE TRIGGER change BEFORE INSERT ON secret_tokens
             FOR EACH ROW EXECUTE FUNCTION change()",
    );
    let proxy = Proxy::to(database.port);
    let issued = texts(&["a1", "a2", "b1", "a3", "b2"]);
    let source = Source::responding([Response::tokens(&issued)]);
    proxy.arm(Point::Commit(3), Fault::DropReplies, Scope::One);
    let run = run_command(&source, &through(&database, &proxy), 5)
        .args(["--connections", "1", "--pipeline", "8"])
        .run()
        .expect_code(5);
    let report = crate::support::report::Report::of_run(&run);
    // An answer that came right before the end of the connection may be lost with it.
    let unknown = report.with_status("unknown");
    for token in ["a3", "b1", "b2"] {
        assert!(unknown.contains(&token.to_owned()), "{unknown:?}");
    }
    assert_eq!(unknown.len() as u64 + report.count("stored"), 5);
    let mut rows = rows(&database);
    rows.sort();
    rows.dedup();
    assert_eq!(rows.len(), 5, "nothing is stored twice");
}
