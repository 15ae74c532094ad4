//! How a run connects to PostgreSQL: what the first connection finds, and when the others are opened.

use crate::faults::run_command;
use crate::support::command::Run;
use crate::support::database::{Database, Login};
use crate::support::pgbouncer::{Pooler, PoolerSetup};
use crate::support::source::{Response, Source};

/// Runs one token and returns the fields of the message about the first connection.
fn first_connection(login: &Login) -> serde_json::Value {
    let source = Source::responding([Response::tokens(["aa"])]);
    let Run { stderr, .. } = run_command(&source, login, 1).run().expect_code(0);
    let mut lines = stderr.lines();
    let line = lines.find(|line| line.contains("the database can be used"));
    serde_json::from_str(line.expect("a message about the first connection")).unwrap()
}

#[test]
fn first_connection_counts_the_free_connections_of_its_role() {
    let database = Database::standard();
    let limit = |target: &str, count: i32| {
        let alter = format!("ALTER {target} CONNECTION LIMIT {count}");
        database.superuser().client().batch_execute(&alter).unwrap();
    };
    let (role, name) = (
        format!("ROLE {}", database.user),
        format!("DATABASE {}", database.name),
    );
    let unlimited = first_connection(&database);
    assert_eq!(unlimited["is_shared"], false);
    // The server's limit is 100, with 3 for superusers; other tests use some.
    let free = unlimited["free_connections"].as_u64().unwrap();
    assert!((1..=97).contains(&free), "{free}");
    limit(&role, 5);
    assert_eq!(first_connection(&database)["free_connections"], 5);
    let _other = database.client();
    assert_eq!(first_connection(&database)["free_connections"], 4);
    limit(&name, 3);
    assert_eq!(first_connection(&database)["free_connections"], 2);
}

#[test]
fn free_connections_are_unknown_behind_a_pooler() {
    let database = Database::standard();
    let pooler = Pooler::start(&database, &PoolerSetup::default());
    let first = first_connection(&pooler.login);
    assert_eq!(first["is_shared"], true);
    assert_eq!(first.get("free_connections"), None);
}
