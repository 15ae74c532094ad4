//! What runs share and what they do not: connections, memory limits, and the effects of each other's faults.

use std::thread;

use reqwest::Method;
use serde_json::json;

use super::{Service, database};
use crate::support::command::Command;
use crate::support::database::Database;
use crate::support::response::{Gate, Response};
use crate::support::source::Source;

/// Counts the backends of a database that the service holds.
fn backends(database: &Database) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'token_service%' \
               AND datname = $1";
    database
        .admin()
        .query_one(sql, &[&database.name])
        .unwrap()
        .get(0)
}

#[test]
fn many_runs_use_one_connection() {
    let (database, source) = (database(), Source::generating(|size| size));
    let service = Service::on(&database, &source, &[]);
    for _ in 0..200 {
        assert_eq!(
            service.run("?size=1", &[]).expect(200).summary()["stored"],
            1
        );
    }
    assert_eq!(backends(&database), 1);
    assert_eq!(database.rows().len(), 200);
    let service_metrics = service.get("/metrics").1;
    assert!(service_metrics.contains("token_service_database_connections_open 1"));
}

#[test]
fn run_after_an_outage_costs_no_token_and_the_next_one_reconnects() {
    let (database, source) = (database(), Source::generating(|size| size));
    let service = Service::on(&database, &source, &[]);
    service.run("?size=2", &[]).expect(200);
    let mut admin = database.admin();
    let role = &database.user;
    admin
        .batch_execute(&format!("ALTER ROLE {role} NOLOGIN"))
        .unwrap();
    end_backends(&database);
    let asked = source.requests().len();
    let refused = service
        .send(Method::POST, "/v1/runs?size=2", &[], "")
        .expect(503);
    let hint = refused.json()["hint"].as_str().unwrap().to_owned();
    assert!(hint.ends_with("no token was requested"), "{hint}");
    assert_eq!(source.requests().len(), asked);
    // A result of readiness holds for some seconds.
    while service.get("/readyz").0 == 200 {
        thread::yield_now();
    }
    admin
        .batch_execute(&format!("ALTER ROLE {role} LOGIN"))
        .unwrap();
    assert_eq!(
        service.run("?size=2", &[]).expect(200).summary()["stored"],
        2
    );
}

/// Ends the backends of the service, and waits until they are gone.
fn end_backends(database: &Database) {
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE application_name LIKE 'token_service%' AND datname = $1";
    database.admin().execute(sql, &[&database.name]).unwrap();
    while backends(database) > 0 {
        thread::yield_now();
    }
}

#[test]
fn killed_backends_lose_no_token_of_any_run() {
    let (database, source) = (Database::standard(), Source::generating(|size| size));
    let service = Service::on(&database, &source, &[]);
    let first = service.run("?size=1", &[]).expect(200).summary();
    let ids: Vec<String> = (0..4).map(|_| service.start_run("?size=3000")).collect();
    for _ in 0..5 {
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE application_name LIKE 'token_service%' AND datname = $1";
        database.admin().execute(sql, &[&database.name]).unwrap();
    }
    let mut stored = first["stored"].as_u64().unwrap();
    for id in &ids {
        let run = service.wait_for_end(id);
        assert_eq!(run["received"], 3000, "{run}");
        assert_eq!(
            (&run["failed"], &run["unknown"]),
            (&json!(0), &json!(0)),
            "{run}"
        );
        stored += run["stored"].as_u64().unwrap();
    }
    assert_eq!(database.rows().len() as u64, stored);
}

#[test]
fn dropped_table_costs_later_runs_no_token() {
    let (database, source) = (database(), Source::generating(|size| size));
    let service = Service::on(&database, &source, &[]);
    service.run("?size=1", &[]).expect(200);
    let mut admin = database.admin();
    admin
        .batch_execute("ALTER TABLE secret_tokens RENAME TO hidden")
        .unwrap();
    // The first run finds out, and its token stays safe to send again.
    let failed = service.run("?size=1", &[]).expect(200);
    assert_eq!(failed.summary()["failed"], 1);
    let asked = source.requests().len();
    service.run("?size=1", &[]).expect(503);
    assert_eq!(source.requests().len(), asked);
    admin
        .batch_execute("ALTER TABLE hidden RENAME TO secret_tokens")
        .unwrap();
    assert_eq!(
        service.run("?size=1", &[]).expect(200).summary()["stored"],
        1
    );
}

#[test]
fn constraint_that_is_added_later_is_known_at_the_latest_to_the_second_run() {
    let database = database();
    let source = Source::responding([Response::tokens(["b-b"]).always()]);
    let service = Service::on(&database, &source, &[]);
    let run = || service.run("?size=1", &[]).expect(200).summary();
    assert_eq!(run()["stored"], 1);
    let add =
        "DELETE FROM secret_tokens; ALTER TABLE secret_tokens ADD CHECK (data NOT LIKE '%-%')";
    database.admin().batch_execute(add).unwrap();
    // Whether an unknown constraint is the token's fault is not known.
    assert_eq!(run()["stored"], 0);
    assert_eq!(run()["rejected"], 1);
}

#[test]
fn script_that_needs_too_much_memory_ends_only_its_own_run() {
    let gate = Gate::new();
    let first = Response::tokens(["aa"]);
    let second = Response::tokens(["bb"]).after(&gate);
    let source = Source::responding([first, second]);
    let script = "if SIZE == 1 { let a = [1, 2]; loop { a += a; } }\nreport(store(fetch(SIZE)));\n";
    let database = database();
    let command = Command::new()
        .database(&database)
        .source(&source)
        .file("mine.rhai", script)
        .args(["--script", "mine.rhai", "--fetch-concurrency", "1"]);
    let service = Service::of(command);
    let other = service.start_run("?size=2");
    source.wait_for(2);
    let id = service.start_run("?size=1");
    let run = service.wait_for_end(&id);
    assert_eq!(run["exit_code"], 3);
    let causes = run["error"].to_string();
    assert!(causes.contains("script.max_memory"), "{causes}");
    gate.open();
    let run = service.wait_for_end(&other);
    assert_eq!((&run["stored"], &run["exit_code"]), (&json!(2), &json!(0)));
}

#[test]
fn run_that_is_stopped_twice_does_not_wait_for_a_locked_row() {
    let database = Database::from_ddl("CREATE TABLE secret_tokens (data text PRIMARY KEY)");
    let mut admin = database.admin();
    let mut locked = admin.transaction().unwrap();
    locked
        .execute("INSERT INTO secret_tokens VALUES ('aa')", &[])
        .unwrap();
    let source = Source::responding([Response::tokens(["aa"]), Response::tokens(["bb"]).always()]);
    let service = Service::on(&database, &source, &[]);
    let id = service.start_run("?size=1");
    source.wait_for(1);
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    while database
        .admin()
        .query_one(waiting, &[])
        .unwrap()
        .get::<_, i64>(0)
        == 0
    {
        thread::yield_now();
    }
    let path = format!("/v1/runs/{id}");
    service.send(Method::DELETE, &path, &[], "").expect(202);
    service.send(Method::DELETE, &path, &[], "").expect(202);
    let run = service.wait_for_end(&id);
    assert_eq!(
        (&run["state"], &run["unknown"]),
        (&json!("stopped"), &json!(1)),
        "{run}"
    );
    // The connection is still of use to other runs.
    assert_eq!(
        service.run("?size=1", &[]).expect(200).summary()["stored"],
        1
    );
    locked.rollback().unwrap();
}

#[test]
fn runs_with_receipts_have_connections_of_their_own() {
    let database = database().with_receipts();
    let login = database.role_for_receipts();
    let source = Source::generating(|size| size);
    let command = Command::new()
        .database(&login)
        .source(&source)
        .args(["--receipts", "token_receipts"]);
    let service = Service::of(command);
    let ids: Vec<String> = (0..3)
        .map(|_| service.run("?size=4", &[]).expect(200).headers["run-id"].clone())
        .collect();
    let sql = "SELECT run_id::text, count(*) FROM token_receipts WHERE position > 0 GROUP BY 1";
    let rows = database.admin().query(sql, &[]).unwrap();
    let mut runs: Vec<(String, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    runs.sort();
    let mut expected: Vec<(String, i64)> = ids.into_iter().map(|id| (id, 4)).collect();
    expected.sort();
    assert_eq!(runs, expected);
}
