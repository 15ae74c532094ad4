//! Tests behind a real PgBouncer: a token that is reported as stored is stored and durable, even if the
//! pooler delays, misroutes or loses messages.

use std::thread;
use std::time::Duration;

use postgres::error::SqlState;

use crate::faults::crashes::{backend_waiting_for_standby, change_setting};
use crate::faults::{random_token_source, run_command, through, with_held_tokens};
use crate::journal::{replay, run_replay, run_with_journal};
use crate::outages::{unlock, wait_for_blocked_backend};
use crate::startup_errors::startup_error;
use crate::support::cluster::{crashable, kill, wait, wait_until_disconnected};
use crate::support::command::{Command, Run};
use crate::support::database::{Database, Login, STANDARD_TABLE};
use crate::support::pgbouncer::{Pooler, PoolerSetup};
use crate::support::proxy::{Fault, Point, Proxy, Scope};
use crate::support::snapshot::shows;
use crate::support::source::{Gate, Response, Source, token};
use crate::support::verify::{Verified, verify};

/// The reason of a token that was in flight when its connection was lost.
const LOST_CONNECTION: &str =
    "the connection was lost, and tokens cannot be looked up behind a pooler";

/// Sets `synchronous_commit = off` for the database, and records the setting of each commit.
fn with_asynchronous_commit(database: Database) -> Database {
    let database = database.with_sql(
        "CREATE TABLE levels (level text NOT NULL);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO levels VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER note AFTER INSERT ON secret_tokens
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note()",
    );
    let name = &database.name;
    let alter = format!("ALTER DATABASE {name} SET synchronous_commit = off");
    database.admin().batch_execute(&alter).unwrap();
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

/// Runs a test in several pool modes at the same time.
fn in_each_mode(modes: &[&str], test: impl Fn(&str) + Sync) {
    thread::scope(|scope| {
        for mode in modes {
            let test = &test;
            scope.spawn(move || test(mode));
        }
    });
}

/// Stops the pooler, waits until it has disconnected from the server, and verifies the run.
fn verify_after(pooler: Pooler, run: &Run, issued: &[String], database: &Database) -> Verified {
    drop(pooler);
    wait_until_disconnected(database.superuser());
    let verified = verify(run, issued, &[], database);
    let unknown = verified.report.with_status("unknown");
    assert_eq!(unknown.len() as u64, verified.in_doubt.unknown);
    for token in unknown {
        assert_eq!(verified.report.token(&token)["reason"], LOST_CONNECTION);
    }
    assert_eq!(verified.report.count("failed"), 0);
    verified
}

#[test]
fn tokens_are_settled_and_durable_in_every_pool_mode() {
    in_each_mode(&["session", "transaction", "statement"], |mode| {
        let database = with_asynchronous_commit(Database::standard());
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

/// The next client of the backend finds no statements or settings of the run. Statement names of two runs
/// do not collide.
#[test]
fn shared_backend_keeps_no_statements_or_settings() {
    for lines in ["", "ignore_startup_parameters = options"] {
        let database = with_asynchronous_commit(Database::standard());
        let pooler = pooler(&database, "transaction", 1, lines);
        for _ in 0..2 {
            let (issued, source) = random_token_source(50);
            let command = run_command(&source, &pooler.login, issued.len());
            command.run().expect_code(0);
        }
        let session = "SELECT (SELECT count(*) FROM pg_prepared_statements), \
             current_setting('synchronous_commit'), current_setting('statement_timeout')";
        let session = pooler.login.client().query_typed(session, &[]).unwrap();
        let session: (i64, String, String) =
            (session[0].get(0), session[0].get(1), session[0].get(2));
        assert_eq!(session, (0, "off".to_owned(), "0".to_owned()), "{lines}");
    }
}

/// Without a pooler the INSERT is prepared. If the prepared statement disappears, the settings of the
/// session may be lost too.
#[test]
fn commits_stay_synchronous_when_the_prepared_statement_disappears() {
    let database = with_asynchronous_commit(Database::standard()).with_sql(
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
    assert_eq!(off, 1, "only the token that turns it off");
}

/// If a client disconnects before its answers arrive, PgBouncer before 1.21 gives the server connection
/// to the next client, which receives those answers.
#[test]
fn other_client_gets_its_own_answer_when_a_connection_is_lost() {
    let (database, mut admin) = with_held_tokens(Database::standard());
    let pooler = pooler(&database, "transaction", 1, "");
    let proxy = Proxy::to(pooler.login.port);
    let issued = ["aa", "held", "bb"].map(String::from);
    let source = Source::responding([Response::tokens(&issued)]);
    let running = run_command(&source, &through(&pooler.login, &proxy), 3).spawn();
    wait_for_blocked_backend(&mut admin);
    let mut other = pooler.login.client();
    let insert = "INSERT INTO secret_tokens (data) VALUES ('b-b')";
    let inserting = thread::spawn(move || other.query_typed(insert, &[]));
    wait(|| pooler.waiting_clients() == 1, "the other client");
    proxy.inject(Fault::Disconnect);
    wait(
        || pooler.waiting_clients() == 0,
        "an answer to the other client",
    );
    unlock(&mut admin);
    let answer = inserting.join().unwrap();
    let refused = answer.expect_err("the CHECK rejects the row");
    assert_eq!(refused.code(), Some(&SqlState::CHECK_VIOLATION));
    let run = running.wait().expect_code(5);
    let verified = verify_after(pooler, &run, &issued, &database);
    assert_eq!(verified.report.with_status("unknown"), ["held"]);
}

/// The result of an INSERT arrives before `ReadyForQuery`. PgBouncer before 1.21 may send an INSERT that
/// comes earlier to another server, and then assign one token's result to another.
#[test]
fn insert_is_sent_only_when_the_previous_answer_is_complete() {
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
fn tokens_are_settled_when_the_pooler_has_fewer_server_connections() {
    in_each_mode(&["session", "transaction"], |mode| {
        let database = Database::standard();
        let pooler = pooler(&database, mode, 2, "");
        let (issued, source) = random_token_source(400);
        let command = run_command(&source, &pooler.login, issued.len());
        let run = command.args(["--connections", "8"]).run().expect_code(0);
        verify(&run, &issued, &[], &database);
    });
}

#[test]
fn tokens_are_settled_when_the_pooler_allows_fewer_client_connections() {
    let database = Database::standard();
    // The console of the test uses one of them.
    let pooler = pooler(&database, "transaction", 20, "max_client_conn = 3");
    let (issued, source) = random_token_source(400);
    let command = run_command(&source, &pooler.login, issued.len());
    let run = command.args(["--connections", "8"]).run().expect_code(0);
    verify(&run, &issued, &[], &database);
    assert!(run.stderr.contains("continuing with fewer connections"));
}

#[test]
fn error_names_the_limit_when_the_pooler_has_no_connection_left() {
    let database = Database::standard();
    let pooler = pooler(&database, "transaction", 20, "max_client_conn = 2");
    let _other = pooler.login.client();
    shows!(error_through(&pooler.login), @"
    error: the database refused the connection
      caused by: no more connections allowed (max_client_conn) (08P01)
    hint: 127.0.0.1:[port] has no connection left: wait, or raise max_client_conn; no token was requested
    ");
}

#[test]
fn error_names_the_cause_when_the_pooler_refuses_the_login() {
    let database = Database::standard();
    let pooler = pooler(&database, "transaction", 20, "");
    let wrong_password = Login {
        password: "canary".to_owned(),
        ..pooler.login.clone()
    };
    shows!(error_through(&wrong_password), @"
    error: the database refused the connection
      caused by: SASL authentication failed (08P01)
    hint: user and password in DATABASE_URL must match a role of 127.0.0.1:[port]; no token was requested
    ");
    let no_such_user = Login {
        user: "missing_role".to_owned(),
        ..pooler.login.clone()
    };
    shows!(error_through(&no_such_user), @"
    error: the database refused the connection
      caused by: SASL authentication failed (08P01)
    hint: user and password in DATABASE_URL must match a role of 127.0.0.1:[port]; no token was requested
    ");
    let no_such_database = Login {
        name: "elsewhere".to_owned(),
        ..pooler.login.clone()
    };
    shows!(error_through(&no_such_database), @"
    error: the database refused the connection
      caused by: no such database: elsewhere (08P01)
    hint: the path in DATABASE_URL must name a database of 127.0.0.1:[port]; no token was requested
    ");
}

/// The errors are those without a pooler, although the run prepares no statement.
#[test]
fn error_names_the_table_when_it_is_unusable_behind_a_pooler() {
    for (ddl, message) in [
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
        let error = error_through(&pooler.login);
        assert!(error.contains(message), "{error}");
    }
}

#[track_caller]
fn error_through(login: &Login) -> String {
    startup_error(Command::new().database(login), &login.password)
}

/// Only the token in flight on that connection becomes unknown, and the run continues.
#[test]
fn one_token_is_unknown_when_a_backend_is_terminated_behind_the_pooler() {
    in_each_mode(&["session", "transaction"], |mode| {
        let (database, mut admin) = with_held_tokens(Database::standard());
        let pooler = pooler(&database, mode, 20, "");
        let issued = ["aa", "held", "bb", "b-b", "cc"].map(String::from);
        let source = Source::responding([Response::tokens(&issued)]);
        let running = run_command(&source, &pooler.login, issued.len()).spawn();
        let pid = wait_for_blocked_backend(&mut admin);
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
fn one_token_is_unknown_when_a_backend_is_killed_behind_the_pooler() {
    let cluster = crashable();
    let (database, mut admin) = with_held_tokens(Database::on(&cluster).with_sql(STANDARD_TABLE));
    let pooler = pooler(&database, "transaction", 20, "");
    let issued = ["aa", "held", "bb"].map(String::from);
    let source = Source::responding([Response::tokens(&issued)]);
    let running = run_command(&source, &pooler.login, issued.len()).spawn();
    assert!(kill(wait_for_blocked_backend(&mut admin), "KILL"));
    let run = running.wait().expect_code(5);
    let verified = verify_after(pooler, &run, &issued, &database);
    assert_eq!(verified.report.with_status("unknown"), ["held"]);
    assert_eq!(verified.report.with_status("stored"), ["aa", "bb"]);
}

/// The server commits the token, and the pooler answers with 08P01.
#[test]
fn token_is_unknown_when_the_pooler_loses_the_answer() {
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
fn report_stays_true_when_the_pooler_is_killed_and_restarted() {
    in_each_mode(&["session", "transaction"], |mode| {
        let database = Database::standard();
        let mut pooler = pooler(&database, mode, 20, "");
        let proxy = Proxy::to(pooler.login.port);
        let (issued, source) = random_token_source(500);
        let login = through(&pooler.login, &proxy);
        let running = run_command(&source, &login, issued.len()).spawn();
        // The inserts in flight stay in flight until the pooler is killed.
        proxy.arm(Point::Commit(150), Fault::Partition, Scope::All);
        proxy.wait_for_injected(1);
        pooler.kill();
        proxy.heal();
        pooler.restart();
        let run = running.wait();
        let verified = verify_after(pooler, &run, &issued, &database);
        let unknown = verified.report.count("unknown");
        assert_eq!(run.code, Some(if unknown == 0 { 0 } else { 5 }));
        assert!(unknown <= 16, "more than one per connection: {unknown}");
        assert_eq!(verified.report.count("not_attempted"), 0);
    });
}

/// The server confirms no commit, because the standby does not exist.
#[test]
fn no_token_is_stored_when_the_standby_never_confirms_behind_a_pooler() {
    let cluster = crashable();
    let database = with_asynchronous_commit(Database::on(&cluster).with_sql(STANDARD_TABLE));
    let pooler = pooler(&database, "transaction", 4, "");
    let issued: Vec<String> = (0..100).map(|n| format!("a{n:02}")).collect();
    let source = Source::responding([Response::tokens(&issued)]);
    let mut admin = database.admin();
    let require_standby = "ALTER SYSTEM SET synchronous_standby_names = 'missing_standby'";
    change_setting(&mut admin, require_standby);
    let run = run_command(&source, &pooler.login, issued.len())
        .args(["--deadline", "1500ms", "--grace", "4s"])
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
        "the rows exist without a confirmation"
    );
}

#[test]
fn tokens_are_settled_when_the_pooler_pauses() {
    let database = Database::standard();
    let pooler = pooler(&database, "transaction", 20, "");
    let gate = Gate::new();
    let issued: Vec<String> = (0..300).map(|_| token()).collect();
    let (first, rest) = issued.split_at(150);
    let answers = [Response::tokens(first), Response::tokens(rest).after(&gate)];
    let source = Source::responding(answers);
    let running = run_command(&source, &pooler.login, issued.len()).spawn();
    source.wait_for(2);
    // PAUSE waits until running transactions end.
    pooler.run_console_command("PAUSE");
    gate.open();
    wait(
        || pooler.waiting_clients() > 0,
        "a client that waits for the pooler",
    );
    pooler.run_console_command("RESUME");
    let run = running.wait().expect_code(0);
    let verified = verify(&run, &issued, &[], &database);
    assert_eq!(verified.in_doubt.total, 0);
}

/// A statement that waits for a server connection is not in doubt: the pooler reports the timeout.
#[test]
fn tokens_are_sent_again_when_the_pooler_did_not_forward_them() {
    let database = Database::standard();
    let pooler = pooler(&database, "transaction", 1, "query_wait_timeout = 0.2");
    let gate = Gate::new();
    let issued: Vec<String> = (0..40).map(|n| format!("a{n:02}")).collect();
    let source = Source::responding([Response::tokens(&issued).after(&gate)]);
    let command = run_command(&source, &pooler.login, issued.len());
    let running = command.args(["--connections", "1"]).spawn();
    source.wait_for(1);
    // The run is connected. Another client takes the only server connection.
    let mut other = pooler.login.client();
    let mut taken = other.transaction().unwrap();
    taken.batch_execute("SELECT 1").unwrap();
    gate.open();
    running.wait_for_stderr(|text| text.contains("; retrying"));
    taken.commit().unwrap();
    let run = running.wait().expect_code(0);
    assert!(run.stderr.contains("query_wait_timeout (08P01)"));
    let verified = verify(&run, &issued, &[], &database);
    assert_eq!(verified.acknowledged(), 40);
    assert_eq!(verified.in_doubt.total, 0);
}

/// Behind a pooler a replay cannot see the remaining connections of the run. Directly it can, even if the
/// pooler has changed their application name.
#[test]
fn replay_needs_a_direct_connection_when_the_run_used_a_pooler() {
    let (database, mut admin) = with_held_tokens(Database::standard());
    let pooler = pooler(
        &database,
        "transaction",
        20,
        "application_name_add_host = 1",
    );
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    let source = Source::responding([Response::tokens(["aa", "held", "bb"])]);
    let command = run_with_journal(&source, &pooler.login, &journal).arg("3");
    let running = command.spawn();
    wait_for_blocked_backend(&mut admin);
    running.signal("KILL");
    assert_eq!(running.wait().signal, Some(9));
    let refused = replay(&journal, &pooler.login).run().expect_code(5);
    shows!(refused.stderr, @r#"
     WARN cannot look up what was stored before cause="behind a pooler, remaining connections of the run cannot be found" hint="replay over a direct connection"
    3 requested, 3 received: 0 stored, 0 rejected, 3 unknown in [seconds] s
    error: 3 received tokens are neither stored nor rejected
    hint: `failed` and `not_attempted` tokens are safe to send again; look for `unknown` ones in the table first
    "#);
    // The lock is released when no backend of the killed run waits for it.
    let replaying = replay(&journal, &database).spawn();
    wait(
        || !insert_is_blocked(&mut admin, " - "),
        "the end of the backends of the killed run",
    );
    unlock(&mut admin);
    let run = replaying.wait().expect_code(0);
    drop(run);
    let (_, report) = run_replay(&journal, &database, 0);
    assert_eq!(report.with_status("stored"), ["aa", "bb", "held"]);
    assert_eq!(database.rows(), ["aa", "bb", "held"]);
}

/// True if an INSERT waits for the lock on a connection whose application name contains `name`.
fn insert_is_blocked(admin: &mut postgres::Client, name: &str) -> bool {
    let waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database()
        AND wait_event = 'advisory' AND position($1 IN application_name) > 0";
    !admin.query(waiting, &[&name]).unwrap().is_empty()
}
