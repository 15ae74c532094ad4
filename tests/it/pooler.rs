//! Behind a real PgBouncer: what is called stored is stored and durable, whatever the pooler hides,
//! holds back, mixes up or loses.

use std::thread;
use std::time::Duration;

use postgres::error::SqlState;

use crate::faults::crashes::{backend_waiting_for_standby, change_setting};
use crate::faults::{holding, random_token_source, run_command, through};
use crate::journal::{journaled, replay, replayed};
use crate::outages::{unlock, waiting_backend};
use crate::startup_errors::startup_error;
use crate::support::cluster::{crashable, kill, wait, wait_until_disconnected};
use crate::support::command::{Command, Run};
use crate::support::database::{Database, Login, STANDARD_TABLE};
use crate::support::pgbouncer::{Pooler, PoolerSetup};
use crate::support::proxy::{Fault, Point, Proxy, Scope};
use crate::support::snapshot::shows;
use crate::support::source::{Gate, Response, Source, token};
use crate::support::verify::{Verified, verify};

/// What every token that was in flight is called.
const HIDDEN: &str =
    "the connection was lost, and behind a pooler it cannot be found out what it did";

/// Commits there are not waited for unless a session says so; what held at each is written down.
fn careless(database: Database) -> Database {
    let database = database.with_sql(
        "CREATE TABLE levels (level text NOT NULL);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO levels VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER note AFTER INSERT ON secret_tokens
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note()",
    );
    let name = &database.name;
    let careless = format!("ALTER DATABASE {name} SET synchronous_commit = off");
    database.admin().batch_execute(&careless).unwrap();
    database
}

fn pooler(database: &Database, mode: &str, size: u32, lines: &str) -> Pooler {
    let setup = PoolerSetup {
        mode,
        size,
        lines,
        ..PoolerSetup::default()
    };
    Pooler::start(database, &setup)
}

/// The same in several modes, side by side.
fn each(modes: &[&str], test: impl Fn(&str) + Sync) {
    thread::scope(|scope| {
        for mode in modes {
            let test = &test;
            scope.spawn(move || test(mode));
        }
    });
}

/// Verifies once the pooler has let go of the server, on which nothing is committed any more then.
fn verify_after(pooler: Pooler, run: &Run, issued: &[String], database: &Database) -> Verified {
    drop(pooler);
    wait_until_disconnected(database.superuser());
    let verified = verify(run, issued, &[], database);
    let unknown = verified.report.with_status("unknown");
    assert_eq!(unknown.len() as u64, verified.in_doubt.unknown);
    for token in unknown {
        assert_eq!(verified.report.token(&token)["reason"], HIDDEN);
    }
    assert_eq!(verified.report.count("failed"), 0);
    verified
}

#[test]
fn in_every_mode_each_token_is_settled_and_durable() {
    each(&["session", "transaction", "statement"], |mode| {
        let database = careless(Database::standard());
        let pooler = pooler(&database, mode, 20, "");
        let (issued, source) = random_token_source(1024);
        let command = run_command(&source, &pooler.login, issued.len());
        let run = command.run().expect_code(0);
        let verified = verify(&run, &issued, &[], &database);
        assert!(verified.report.count("rejected") > 0);
        let levels = "SELECT level, count(*) FROM levels GROUP BY 1";
        let levels = database.client().query(levels, &[]).unwrap();
        let levels: Vec<(String, i64)> =
            levels.iter().map(|row| (row.get(0), row.get(1))).collect();
        let stored = i64::try_from(verified.acknowledged()).unwrap();
        assert_eq!(levels, [("on".to_owned(), stored)], "{mode}");
    });
}

/// Whoever gets the backend next finds neither statements nor settings of ours; and two runs do not
/// get into each other's way by the names of theirs.
#[test]
fn nothing_is_left_on_a_backend_that_others_share() {
    for lines in ["", "ignore_startup_parameters = options"] {
        let database = careless(Database::standard());
        let pooler = pooler(&database, "transaction", 1, lines);
        for _ in 0..2 {
            let (issued, source) = random_token_source(50);
            let command = run_command(&source, &pooler.login, issued.len());
            command.run().expect_code(0);
        }
        let left = "SELECT (SELECT count(*) FROM pg_prepared_statements), \
             current_setting('synchronous_commit'), current_setting('statement_timeout')";
        let left = pooler.login.client().query_typed(left, &[]).unwrap();
        let left: (i64, String, String) = (left[0].get(0), left[0].get(1), left[0].get(2));
        assert_eq!(left, (0, "off".to_owned(), "0".to_owned()), "{lines}");
    }
}

/// Without a pooler the INSERT is prepared. Where it has vanished all the same, nothing that the
/// session was told may be relied on.
#[test]
fn a_prepared_statement_that_vanishes_is_done_without() {
    let database = careless(Database::standard()).with_sql(
        "CREATE FUNCTION forget() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.data = 'forget' THEN
                 DEALLOCATE ALL; SET synchronous_commit = off; END IF;
             RETURN NEW; END $$;
         CREATE TRIGGER forget BEFORE INSERT ON secret_tokens
             FOR EACH ROW EXECUTE FUNCTION forget()",
    );
    let mut issued: Vec<String> = (0..100).map(|n| format!("a{n:02}")).collect();
    issued[10] = "forget".to_owned();
    let source = Source::responding([Response::tokens(&issued)]);
    let command = run_command(&source, &database, issued.len()).args(["--connections", "1"]);
    let run = command.run().expect_code(0);
    let verified = verify(&run, &issued, &[], &database);
    assert_eq!(verified.acknowledged(), 100);
    let off = "SELECT count(*) FROM levels WHERE level = 'off'";
    let off: i64 = database.client().query_one(off, &[]).unwrap().get(0);
    assert_eq!(off, 1, "only that of the token that says so itself");
}

/// PgBouncer before 1.21 hands a server on whose client left while it still owed answers, and the
/// next client takes those for its own.
#[test]
fn nobody_else_is_given_the_answers_of_a_lost_connection() {
    let (database, mut admin) = holding(Database::standard());
    let pooler = pooler(&database, "transaction", 1, "");
    let proxy = Proxy::to(pooler.login.port);
    let issued = ["aa", "held", "bb"].map(String::from);
    let source = Source::responding([Response::tokens(&issued)]);
    let running = run_command(&source, &through(&pooler.login, &proxy), 3).spawn();
    waiting_backend(&mut admin);
    let mut other = pooler.login.client();
    let insert = "INSERT INTO secret_tokens (data) VALUES ('b-b')";
    let asks = thread::spawn(move || other.query_typed(insert, &[]));
    wait(|| pooler.waiting_clients() == 1, "the other client");
    proxy.inject(Fault::Disconnect);
    wait(|| pooler.waiting_clients() == 0, "the other client's turn");
    unlock(&mut admin);
    let answer = asks.join().unwrap();
    let refused = answer.expect_err("its row is not allowed");
    assert_eq!(refused.code(), Some(&SqlState::CHECK_VIOLATION));
    let run = running.wait().expect_code(5);
    let verified = verify_after(pooler, &run, &issued, &database);
    assert_eq!(verified.report.with_status("unknown"), ["held"]);
}

/// A verdict comes before the server is ready for more. What is sent in between, or ahead, PgBouncer
/// before 1.21 may split between two servers, so that one token's verdict is another's.
#[test]
fn nothing_is_sent_before_the_last_answer_has_come_to_its_end() {
    let database = Database::standard();
    let pooler = pooler(&database, "transaction", 2, "");
    let proxy = Proxy::to(pooler.login.port);
    proxy.delay_ready(Duration::from_millis(10));
    let issued: Vec<String> = (0..64)
        .map(|n| format!("{n}{}", ["-", ""][n % 2]))
        .collect();
    let source = Source::responding([Response::tokens(&issued)]);
    let command = run_command(&source, &through(&pooler.login, &proxy), issued.len());
    let run = command.args(["--connections", "4"]).run().expect_code(0);
    let verified = verify(&run, &issued, &[], &database);
    assert_eq!(verified.report.count("rejected"), 32);
    assert_eq!(proxy.sent_early(), 0);
}

#[test]
fn fewer_connections_to_the_server_than_wanted_are_enough() {
    each(&["session", "transaction"], |mode| {
        let database = Database::standard();
        let pooler = pooler(&database, mode, 2, "");
        let (issued, source) = random_token_source(400);
        let command = run_command(&source, &pooler.login, issued.len());
        let run = command.args(["--connections", "8"]).run().expect_code(0);
        verify(&run, &issued, &[], &database);
    });
}

#[test]
fn fewer_connections_to_the_pooler_than_wanted_are_enough() {
    let database = Database::standard();
    // The test's own console is one of them.
    let pooler = pooler(&database, "transaction", 20, "max_client_conn = 3");
    let (issued, source) = random_token_source(400);
    let command = run_command(&source, &pooler.login, issued.len());
    let run = command.args(["--connections", "8"]).run().expect_code(0);
    verify(&run, &issued, &[], &database);
    assert!(run.stderr.contains("makes do with fewer connections"));
}

#[test]
fn a_pooler_that_is_full_is_said_to_be() {
    let database = Database::standard();
    let pooler = pooler(&database, "transaction", 20, "max_client_conn = 2");
    let _other = pooler.login.client();
    shows!(refused_by(&pooler.login), @"
    error: the database refused to connect
      caused by: no more connections allowed (max_client_conn) (08P01)
    hint: 127.0.0.1:[port] has no connection left: wait, or raise max_client_conn; no token was asked for
    ");
}

#[test]
fn a_pooler_that_refuses_is_one_clear_error() {
    let database = Database::standard();
    let pooler = pooler(&database, "transaction", 20, "");
    let wrong_password = Login {
        password: "canary".to_owned(),
        ..pooler.login.clone()
    };
    shows!(refused_by(&wrong_password), @"
    error: the database refused to connect
      caused by: SASL authentication failed (08P01)
    hint: user and password in DATABASE_URL must match a role of 127.0.0.1:[port]; no token was asked for
    ");
    let no_such_user = Login {
        user: "nobody".to_owned(),
        ..pooler.login.clone()
    };
    shows!(refused_by(&no_such_user), @"
    error: the database refused to connect
      caused by: SASL authentication failed (08P01)
    hint: user and password in DATABASE_URL must match a role of 127.0.0.1:[port]; no token was asked for
    ");
    let no_such_database = Login {
        name: "elsewhere".to_owned(),
        ..pooler.login.clone()
    };
    shows!(refused_by(&no_such_database), @"
    error: the database refused to connect
      caused by: no such database: elsewhere (08P01)
    hint: the path in DATABASE_URL must name a database of 127.0.0.1:[port]; no token was asked for
    ");
}

/// The same words as without a pooler, although nothing may be prepared there.
#[test]
fn a_table_that_cannot_be_used_is_said_to_be_through_a_pooler_too() {
    for (ddl, words) in [
        ("", "relation \"secret_tokens\" does not exist (42P01)"),
        (
            "CREATE TABLE secret_tokens (id int)",
            "\"secret_tokens\" has no column \"data\"",
        ),
        (
            "CREATE TABLE secret_tokens (data jsonb)",
            "column \"data\" of \"secret_tokens\" is of type jsonb",
        ),
    ] {
        let database = Database::from_ddl(ddl);
        let pooler = pooler(&database, "transaction", 20, "");
        let error = refused_by(&pooler.login);
        assert!(error.contains(words), "{error}");
    }
}

#[track_caller]
fn refused_by(login: &Login) -> String {
    startup_error(Command::new().database(login), &login.password)
}

/// Only what was in flight is in doubt, one token a connection; it stays so, and the run goes on.
#[test]
fn a_backend_that_is_ended_behind_the_pooler_leaves_one_token_unknown() {
    each(&["session", "transaction"], |mode| {
        let (database, mut admin) = holding(Database::standard());
        let pooler = pooler(&database, mode, 20, "");
        let issued = ["aa", "held", "bb", "b-b", "cc"].map(String::from);
        let source = Source::responding([Response::tokens(&issued)]);
        let running = run_command(&source, &pooler.login, issued.len()).spawn();
        let pid = waiting_backend(&mut admin);
        let end = "SELECT pg_terminate_backend($1)";
        admin.execute(end, &[&pid]).unwrap();
        let run = running.wait().expect_code(5);
        let verified = verify_after(pooler, &run, &issued, &database);
        assert_eq!(verified.report.with_status("unknown"), ["held"], "{mode}");
        assert_eq!(
            verified.report.with_status("stored"),
            ["aa", "bb", "cc"],
            "{mode}"
        );
        assert_eq!(verified.unknown_but_present, 0);
    });
}

#[test]
fn a_backend_that_is_killed_behind_the_pooler_leaves_one_token_unknown() {
    let cluster = crashable();
    let (database, mut admin) = holding(Database::on(&cluster).with_sql(STANDARD_TABLE));
    let pooler = pooler(&database, "transaction", 20, "");
    let issued = ["aa", "held", "bb"].map(String::from);
    let source = Source::responding([Response::tokens(&issued)]);
    let running = run_command(&source, &pooler.login, issued.len()).spawn();
    assert!(kill(waiting_backend(&mut admin), "KILL"));
    let run = running.wait().expect_code(5);
    let verified = verify_after(pooler, &run, &issued, &database);
    assert_eq!(verified.report.with_status("unknown"), ["held"]);
    assert_eq!(verified.report.with_status("stored"), ["aa", "bb"]);
}

/// Case 14: it was committed, and the pooler says 08P01.
#[test]
fn an_answer_that_the_pooler_does_not_get_leaves_the_token_unknown() {
    let database = Database::standard();
    let proxy = Proxy::to(database.port);
    let setup = PoolerSetup {
        server: Some(proxy.port),
        ..PoolerSetup::default()
    };
    let pooler = Pooler::start(&database, &setup);
    let (issued, source) = random_token_source(400);
    proxy.arm(Point::Commit(50), Fault::DropReplies, Scope::One);
    proxy.arm(Point::Commit(50), Fault::Disconnect, Scope::One);
    let run = run_command(&source, &pooler.login, issued.len());
    let run = run.run().expect_code(5);
    assert_eq!(proxy.injected(), 2);
    let verified = verify_after(pooler, &run, &issued, &database);
    let unknown = verified.report.with_status("unknown");
    assert_eq!(unknown.len(), 2);
    assert_eq!(verified.unknown_but_present, 2);
    for token in unknown {
        let message = &verified.report.token(&token)["message"];
        assert_eq!(message, "server conn crashed? (08P01)");
    }
}

#[test]
fn a_pooler_that_is_killed_and_started_again_costs_time_and_no_truth() {
    each(&["session", "transaction"], |mode| {
        let database = Database::standard();
        let mut pooler = pooler(&database, mode, 20, "");
        let proxy = Proxy::to(pooler.login.port);
        let (issued, source) = random_token_source(500);
        let login = through(&pooler.login, &proxy);
        let running = run_command(&source, &login, issued.len()).spawn();
        // Whatever is in flight now stays in flight until the pooler is gone.
        proxy.arm(Point::Commit(150), Fault::Partition, Scope::All);
        proxy.wait_for_injected(1);
        pooler.kill();
        proxy.heal();
        pooler.restart();
        let run = running.wait();
        let verified = verify_after(pooler, &run, &issued, &database);
        let unknown = verified.report.count("unknown");
        assert_eq!(run.code, Some(if unknown == 0 { 0 } else { 5 }));
        assert!(unknown <= 16, "one a connection: {unknown}");
        assert_eq!(verified.report.count("not_attempted"), 0);
    });
}

/// Case 7 behind a pooler: nothing is confirmed before the standby has it, and it never does.
#[test]
fn a_standby_that_never_answers_acknowledges_nothing_until_the_deadline() {
    let cluster = crashable();
    let database = careless(Database::on(&cluster).with_sql(STANDARD_TABLE));
    let pooler = pooler(&database, "transaction", 4, "");
    let issued: Vec<String> = (0..100).map(|n| format!("a{n:02}")).collect();
    let source = Source::responding([Response::tokens(&issued)]);
    let mut admin = database.admin();
    let nobody = "ALTER SYSTEM SET synchronous_standby_names = 'nobody'";
    change_setting(&mut admin, nobody);
    let run = run_command(&source, &pooler.login, issued.len())
        .args(["--deadline", "1500ms", "--grace", "800ms"])
        .spawn();
    backend_waiting_for_standby(&mut admin);
    let run = run.wait();
    change_setting(&mut admin, "ALTER SYSTEM RESET synchronous_standby_names");
    let run = run.expect_code(5);
    drop(pooler);
    wait_until_disconnected(database.superuser());
    let verified = verify(&run, &issued, &[], &database);
    assert_eq!(verified.acknowledged(), 0);
    assert!(
        verified.unknown_but_present > 0,
        "they were only not confirmed"
    );
}

#[test]
fn a_pause_of_the_pooler_costs_time_only() {
    let database = Database::standard();
    let pooler = pooler(&database, "transaction", 20, "");
    let gate = Gate::new();
    let issued: Vec<String> = (0..300).map(|_| token()).collect();
    let (first, rest) = issued.split_at(150);
    let answers = [Response::tokens(first), Response::tokens(rest).after(&gate)];
    let source = Source::responding(answers);
    let running = run_command(&source, &pooler.login, issued.len()).spawn();
    source.wait_for(2);
    // It waits for what is under way; nothing may hold that up.
    pooler.run_console_command("PAUSE");
    gate.open();
    wait(
        || pooler.waiting_clients() > 0,
        "a client that is held back",
    );
    pooler.run_console_command("RESUME");
    let run = running.wait().expect_code(0);
    let verified = verify(&run, &issued, &[], &database);
    assert_eq!(verified.in_doubt.total, 0);
}

/// What waits for a connection to the server is not in doubt: the pooler says that it waited in vain.
#[test]
fn what_the_pooler_has_not_passed_on_is_sent_again() {
    let database = Database::standard();
    let pooler = pooler(&database, "transaction", 1, "query_wait_timeout = 0.2");
    let gate = Gate::new();
    let issued: Vec<String> = (0..40).map(|n| format!("a{n:02}")).collect();
    let source = Source::responding([Response::tokens(&issued).after(&gate)]);
    let command = run_command(&source, &pooler.login, issued.len());
    let running = command.args(["--connections", "1"]).spawn();
    source.wait_for(1);
    // It is connected by now. Somebody takes the only connection to the server.
    let mut other = pooler.login.client();
    let mut taken = other.transaction().unwrap();
    taken.batch_execute("SELECT 1").unwrap();
    gate.open();
    running.wait_for_stderr(|text| text.contains("trying again"));
    taken.commit().unwrap();
    let run = running.wait().expect_code(0);
    assert!(run.stderr.contains("query_wait_timeout (08P01)"));
    let verified = verify(&run, &issued, &[], &database);
    assert_eq!(verified.acknowledged(), 40);
    assert_eq!(verified.in_doubt.total, 0);
}

/// Behind a pooler it cannot see what is left of the run, and says so; directly it can, even where
/// the pooler has changed the name of the run's connections.
#[test]
fn a_run_through_a_pooler_is_replayed_directly() {
    let (database, mut admin) = holding(Database::standard());
    let pooler = pooler(
        &database,
        "transaction",
        20,
        "application_name_add_host = 1",
    );
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    let source = Source::responding([Response::tokens(["aa", "held", "bb"])]);
    let command = journaled(&source, &pooler.login, &journal).arg("3");
    let running = command.spawn();
    waiting_backend(&mut admin);
    running.signal("KILL");
    assert_eq!(running.wait().signal, Some(9));
    let refused = replay(&journal, &pooler.login).run().expect_code(5);
    shows!(refused.stderr, @r#"
     WARN it cannot be looked up what was stored before cause="behind a pooler it cannot be seen which connections are left of the run" hint="replay over a direct connection"
    3 requested, 3 received: 0 stored, 0 rejected, 3 unknown in [seconds] s
    error: 3 received tokens are neither stored nor rejected
    hint: `failed` and `not_attempted` tokens are safe to send again; look for `unknown` ones in the table first
    "#);
    // The lock is given once nobody of the killed run waits for it any more.
    let replaying = replay(&journal, &database).spawn();
    wait(|| !waits(&mut admin, " - "), "the end of what was left");
    unlock(&mut admin);
    let run = replaying.wait().expect_code(0);
    drop(run);
    let (_, report) = replayed(&journal, &database, 0);
    assert_eq!(report.with_status("stored"), ["aa", "bb", "held"]);
    assert_eq!(database.rows(), ["aa", "bb", "held"]);
}

/// True where an INSERT of a connection with this in its name waits for the lock.
fn waits(admin: &mut postgres::Client, name: &str) -> bool {
    let waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database()
        AND wait_event = 'advisory' AND position($1 IN application_name) > 0";
    !admin.query(waiting, &[&name]).unwrap().is_empty()
}
