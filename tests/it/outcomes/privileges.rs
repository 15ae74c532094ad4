//! Tests of privileges, roles and session settings, and of changes to them during a run.

use super::{create_schema, run_of, values};
use crate::faults::{run_command, through};
use crate::outages::{lock, lockable_table, locked_table, unlock, wait_for_blocked_backend};
use crate::support::cluster::wait;
use crate::support::command::Command;
use crate::support::database::{Database, Login, STANDARD_TABLE};
use crate::support::proxy::{Fault, Point, Proxy, Scope};
use crate::support::report::Report;
use crate::support::source::{Gate, Response, Source};
use crate::support::verify::{Verified, verify};

fn texts(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("a{number:03}")).collect()
}

/// Runs while a proxy drops the answers to two commits, and verifies the run.
#[track_caller]
fn run_with_lost_answers(database: &Database, login: &Login) -> Verified {
    let proxy = Proxy::to(database.port);
    let issued = texts(200);
    let source = Source::responding([Response::tokens(&issued)]);
    for commit in [30, 60] {
        proxy.arm(Point::Commit(commit), Fault::DropReplies, Scope::One);
    }
    let run = run_command(&source, &through(login, &proxy), issued.len())
        .args(["--connections", "1", "--pipeline", "8"])
        .run();
    assert_eq!(proxy.injected(), 2, "{}", run.stderr);
    verify(&run, &issued, &[], database)
}

/// Returns what `check --connect` prints on both streams.
fn check_output(login: &Login) -> String {
    let source = Source::generating(|size| size);
    let run = Command::new()
        .source(&source)
        .database(login)
        .args(["check", "--connect"])
        .run();
    format!("{}{}", run.stdout, run.stderr)
}

/// Creates a role with privileges on columns of the standard table.
fn role_with_columns(database: &Database, privileges: &str) -> Login {
    let role = database.role_with("");
    let grant = format!(
        "GRANT {privileges} ON secret_tokens TO {user};
         GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {user}",
        user = role.user
    );
    database.client().batch_execute(&grant).unwrap();
    role
}

#[test]
fn look_ups_work_when_the_role_may_read_the_column_and_xmin() {
    let database = super::database().with_sql(STANDARD_TABLE);
    let role = role_with_columns(&database, "INSERT (data), SELECT (data, xmin)");
    let verified = run_with_lost_answers(&database, &role);
    assert!(verified.in_doubt.total > 0);
    assert_eq!(verified.in_doubt.unknown, 0, "{:?}", verified.in_doubt);
    assert!(
        check_output(&role).contains("SELECT yes"),
        "{}",
        check_output(&role)
    );
}

/// A look-up works without `xmin`, or `check --connect` names the missing privilege.
#[test]
fn missing_privilege_is_named_when_the_role_may_read_only_the_column() {
    let database = super::database().with_sql(STANDARD_TABLE);
    let role = role_with_columns(&database, "INSERT (data), SELECT (data)");
    let verified = run_with_lost_answers(&database, &role);
    let checked = check_output(&role);
    let works = verified.in_doubt.total > 0 && verified.in_doubt.unknown == 0;
    assert!(works || checked.contains("xmin"), "{checked}");
}

/// Database roles of Vault work in this way: a short-lived login acts as the owner.
#[test]
fn role_that_is_set_to_another_is_not_mistaken_for_a_pooler() {
    let database = super::database().with_sql(STANDARD_TABLE);
    let role = login_with_role_of_owner(&database);
    let checked = check_output(&role);
    assert!(!checked.contains("pooler"), "{checked}");
}

#[test]
fn look_ups_work_when_the_role_is_set_to_another() {
    let database = super::database().with_sql(STANDARD_TABLE);
    let role = login_with_role_of_owner(&database);
    let verified = run_with_lost_answers(&database, &role);
    let named = check_output(&role).contains("SET role");
    let works = verified.in_doubt.total > 0 && verified.in_doubt.unknown == 0;
    assert!(works || named, "{:?}", verified.in_doubt);
}

#[test]
fn rows_belong_to_the_role_that_the_login_sets() {
    let database = super::database()
        .with_sql("CREATE TABLE secret_tokens (data text, who text DEFAULT current_user)");
    let role = login_with_role_of_owner(&database);
    run_of(&role, ["aa"]).run().expect_code(0);
    let who = values(&database, "SELECT who FROM secret_tokens");
    assert_eq!(who.keys().collect::<Vec<_>>(), [&database.user]);
}

fn login_with_role_of_owner(database: &Database) -> Login {
    let role = database.role_with("");
    let (user, owner) = (&role.user, &database.user);
    let sql = format!("GRANT {owner} TO {user}; ALTER ROLE {user} SET role = '{owner}'");
    database.admin().batch_execute(&sql).unwrap();
    role
}

/// These are settings that a role or database applies to each session.
#[test]
fn tokens_are_stored_when_the_session_has_unusual_settings() {
    const SETTINGS: &[&str] = &[
        "client_min_messages = error",
        "session_replication_role = replica",
        "default_transaction_isolation = serializable",
        "default_transaction_deferrable = on",
        "row_security = off",
        "standard_conforming_strings = off",
        "backslash_quote = off",
        "DateStyle = 'German, DMY'",
        "IntervalStyle = sql_standard",
        "TimeZone = 'Asia/Kathmandu'",
        "extra_float_digits = -15",
        "bytea_output = escape",
        "xmloption = document",
        "array_nulls = off",
        "transform_null_equals = on",
        "plan_cache_mode = force_generic_plan",
        "client_encoding = LATIN1",
        "lc_messages = 'C.utf8'",
        "application_name = 'another client'",
        "search_path = ''",
        "statement_timeout = '1h'",
        "idle_in_transaction_session_timeout = '1h'",
        "log_statement = 'all'",
    ];
    let database = super::database().with_sql(STANDARD_TABLE);
    let mut faults = Vec::new();
    for setting in SETTINGS {
        let owner = &database.user;
        let sql = format!("ALTER ROLE {owner} RESET ALL; ALTER ROLE {owner} SET {setting}");
        database.admin().batch_execute(&sql).unwrap();
        database
            .client()
            .batch_execute("TRUNCATE public.secret_tokens")
            .unwrap();
        let run = run_of(&database, ["aa", "b-b", "cc"])
            .config("database: {table: public.secret_tokens}")
            .run();
        let rows = values(&database, "SELECT data FROM public.secret_tokens");
        let is_right = run.code == Some(0)
            && Report::of_run(&run).with_status("stored") == ["aa", "cc"]
            && rows.len() == 2;
        if !is_right {
            faults.push(format!("{setting}: {:?} {}", run.code, run.stderr));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The search path finds another table of the same name first.
#[test]
fn configured_schema_is_used_when_the_search_path_leads_elsewhere() {
    let database = super::database().with_sql(STANDARD_TABLE);
    create_schema(
        &database,
        "elsewhere",
        "CREATE TABLE secret_tokens (data text)",
    );
    run_of(&database, ["aa"])
        .config("database: {table: public.secret_tokens}")
        .run()
        .expect_code(0);
    let sql = "SELECT data FROM public.secret_tokens";
    assert_eq!(values(&database, sql).len(), 1);
    assert!(values(&database, super::ROWS).is_empty());
}

#[test]
fn tokens_are_stored_when_a_statement_is_cancelled_during_the_run() {
    let (database, mut admin) = locked_table();
    let issued = texts(20);
    let running = run_of(&database, &issued).spawn();
    let pid = wait_for_blocked_backend(&mut admin);
    let cancel = "SELECT pg_cancel_backend($1)";
    for _ in 0..2 {
        admin.execute(cancel, &[&pid]).unwrap();
    }
    unlock(&mut admin);
    let run = running.wait().expect_code(0);
    assert_eq!(Report::of_run(&run).with_status("stored"), issued);
    assert_eq!(database.rows(), issued);
}

/// The lock timeout of the role ends an insert, and the next attempt succeeds.
#[test]
fn tokens_are_stored_when_a_lock_timeout_expires_during_the_run() {
    let (database, mut admin) = lockable_table();
    let owner = &database.user;
    let sql = format!("ALTER ROLE {owner} SET lock_timeout = '20ms'");
    admin.batch_execute(&sql).unwrap();
    let gate = Gate::new();
    let issued = texts(10);
    let source = Source::responding([Response::tokens(&issued).after(&gate)]);
    let running = Command::new()
        .source(&source)
        .database(&database)
        .args(["10", "--report", "ndjson", "--connections", "1"])
        .spawn();
    source.wait_for(1);
    lock(&mut admin);
    gate.open();
    wait_for_blocked_backend(&mut admin);
    unlock(&mut admin);
    let run = running.wait().expect_code(0);
    assert_eq!(Report::of_run(&run).with_status("stored"), issued);
}

/// An insert waits for the DEFAULT partition. When it gets the lock, its row belongs to the new
/// partition.
#[test]
fn tokens_are_stored_when_their_partition_is_attached_during_the_run() {
    let database = super::database().with_sql(
        "CREATE TABLE secret_tokens (data text, n int DEFAULT 1) PARTITION BY LIST (n);
         CREATE TABLE rest PARTITION OF secret_tokens DEFAULT",
    );
    let issued = texts(100);
    let (first, rest) = issued.split_at(10);
    let gate = Gate::new();
    let source = Source::responding([Response::tokens(first), Response::tokens(rest).after(&gate)]);
    let running = Command::new()
        .source(&source)
        .database(&database)
        .args(["100", "--report", "ndjson", "--connections", "1"])
        .spawn();
    running.wait_for_stdout(|text| text.lines().count() == first.len());
    let mut client = database.client();
    let mut attaching = client.transaction().unwrap();
    attaching.batch_execute("LOCK TABLE rest").unwrap();
    gate.open();
    wait_for_lock(&mut database.admin());
    attaching
        .batch_execute(
            "CREATE TABLE one (LIKE secret_tokens);
             WITH moved AS (DELETE FROM rest RETURNING *) INSERT INTO one SELECT * FROM moved;
             ALTER TABLE secret_tokens ATTACH PARTITION one FOR VALUES IN (1)",
        )
        .unwrap();
    attaching.commit().unwrap();
    let run = running.wait().expect_code(0);
    assert_eq!(Report::of_run(&run).with_status("stored"), issued);
    assert_eq!(database.rows(), issued);
}

/// Waits until an insert of the run waits for a lock on a table.
fn wait_for_lock(admin: &mut postgres::Client) {
    let sql = "SELECT FROM pg_stat_activity WHERE datname = current_database()
        AND application_name LIKE 'token_service %' AND wait_event_type = 'Lock'";
    wait(
        || !admin.query(sql, &[]).unwrap().is_empty(),
        "an insert that waits",
    );
}

/// The partition of the rows is created late, and the run retries until it exists.
#[test]
fn tokens_are_stored_when_the_missing_partition_is_created_in_time() {
    // A sequence is not rolled back, so it shows that an insert was attempted.
    let database = super::database().with_sql(
        "CREATE SEQUENCE tries;
         CREATE TABLE secret_tokens (data text, n int DEFAULT 1, try int DEFAULT nextval('tries'))
             PARTITION BY LIST (n);
         CREATE TABLE two PARTITION OF secret_tokens FOR VALUES IN (2)",
    );
    let issued = texts(5);
    let running = run_of(&database, &issued).args(["--patience", "20s"]);
    let running = running.spawn();
    let mut client = database.client();
    let is_attempted = "SELECT is_called FROM tries";
    wait(
        || client.query_one(is_attempted, &[]).unwrap().get(0),
        "an attempted insert",
    );
    client
        .batch_execute("CREATE TABLE one PARTITION OF secret_tokens FOR VALUES IN (1)")
        .unwrap();
    let run = running.wait().expect_code(0);
    assert_eq!(Report::of_run(&run).with_status("stored"), issued);
}

/// Between the two statements the server refuses every insert.
#[test]
fn no_token_is_rejected_when_insert_is_revoked_and_granted_again() {
    let database = super::database().with_sql(STANDARD_TABLE);
    let role = database.role_with("INSERT, SELECT");
    let issued = texts(400);
    let proxy = Proxy::to(database.port);
    let running = run_of(&through(&role, &proxy), &issued)
        .args(["--pipeline", "4"])
        .spawn();
    proxy.wait_for_commits(50);
    let user = &role.user;
    let sql = format!(
        "REVOKE INSERT ON secret_tokens FROM {user}; GRANT INSERT ON secret_tokens TO {user}"
    );
    database.client().batch_execute(&sql).unwrap();
    let run = running.wait();
    let verified = verify(&run, &issued, &[], &database);
    assert_eq!(verified.report.count("rejected"), 0, "{}", run.stdout);
}

/// The prepared statement then refers to another table of the same name.
#[test]
fn no_token_is_rejected_when_the_table_is_replaced_during_the_run() {
    let database = super::database().with_sql(STANDARD_TABLE);
    let issued = texts(600);
    let proxy = Proxy::to(database.port);
    let running = run_of(&through(&database, &proxy), &issued)
        .args(["--pipeline", "8"])
        .spawn();
    proxy.wait_for_commits(100);
    let sql = format!(
        "BEGIN; ALTER TABLE secret_tokens RENAME TO older;
         ALTER SEQUENCE secret_tokens_id_seq RENAME TO older_id_seq; {STANDARD_TABLE};
         INSERT INTO secret_tokens (data) SELECT data FROM older; COMMIT"
    );
    database.client().batch_execute(&sql).unwrap();
    let run = running.wait();
    let verified = verify(&run, &issued, &[], &database);
    assert_eq!(verified.report.count("rejected"), 0, "{}", run.stdout);
}
