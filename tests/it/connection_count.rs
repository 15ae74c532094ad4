//! The number of connections that a run chooses: at most half of the free ones, shared by the shards,
//! more while that stores more tokens.

use crate::support::command::{Command, Run};
use crate::support::database::Database;
use crate::support::report::Report;
use crate::support::source::Source;

/// A table whose trigger records the most connections of its role, after the first moments: a run
/// opens some before it knows how many are free.
const COUNTING: &str = "CREATE TABLE secret_tokens (data text NOT NULL);
    CREATE SEQUENCE most MINVALUE 0 START 0;
    CREATE SEQUENCE inserts;
    CREATE FUNCTION count_connections() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE open bigint := (SELECT count(*) FROM pg_stat_activity WHERE usename = current_user);
    BEGIN
      IF nextval('inserts') > 300 AND open > (SELECT last_value FROM most) THEN PERFORM setval('most', open); END IF;
      PERFORM pg_sleep(0.005);
      RETURN NEW;
    END $$;
    CREATE TRIGGER count_connections BEFORE INSERT ON secret_tokens
    FOR EACH ROW EXECUTE FUNCTION count_connections()";

/// Runs with SIZE and returns the run and the most connections that its trigger saw.
fn run(database: &Database, args: &[&str]) -> (Run, i64) {
    let source = Source::generating(|size| size);
    let command = Command::new().source(&source).database(database).args(args);
    let run = command.run().expect_code(0);
    let most = database
        .client()
        .query_one("SELECT last_value FROM most", &[]);
    (run, most.unwrap().get(0))
}

/// Lets the database have this many connections.
fn limit(database: &Database, connections: u32) {
    let name = &database.name;
    let sql = format!("ALTER DATABASE {name} CONNECTION LIMIT {connections}");
    database.admin().batch_execute(&sql).unwrap();
}

#[test]
fn run_takes_at_most_half_of_the_free_connections() {
    let database = Database::from_ddl(COUNTING);
    limit(&database, 12);
    let (run, most) = run(&database, &["2000", "--report", "ndjson"]);
    assert_eq!(Report::of_run(&run).count("stored"), 2000);
    assert_eq!(most, 6);
}

#[test]
fn shards_share_half_of_the_free_connections() {
    let database = Database::from_ddl(COUNTING);
    limit(&database, 12);
    let (_, most) = run(&database, &["2000", "--shard", "1/3"]);
    assert_eq!(most, 2);
}

#[test]
fn number_that_is_set_is_used_whatever_is_free() {
    let database = Database::from_ddl(COUNTING);
    limit(&database, 12);
    let (_, most) = run(&database, &["2000", "--connections", "9"]);
    assert_eq!(most, 9);
}

/// Each INSERT takes 5 ms, so twice as many connections store twice as many tokens.
#[test]
fn connections_are_added_while_they_store_more() {
    let database = Database::from_ddl(COUNTING);
    limit(&database, 80);
    let (_, most) = run(&database, &["10000"]);
    assert!(16 < most && most <= 40, "{most}");
}

/// The lock of the table makes all connections store one token after the other.
#[test]
fn connections_are_not_kept_if_they_store_no_more() {
    let database = Database::from_ddl(COUNTING).with_sql(
        "CREATE FUNCTION one_by_one() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NEW; END $$;
         CREATE TRIGGER a_lock BEFORE INSERT ON secret_tokens
         FOR EACH ROW EXECUTE FUNCTION one_by_one()",
    );
    limit(&database, 80);
    let (run, most) = run(
        &database,
        &["1000", "--log-level", "debug", "--report", "ndjson"],
    );
    assert_eq!(Report::of_run(&run).count("stored"), 1000);
    assert!(most <= 40, "{most}");
    let mut changes = run
        .stderr
        .lines()
        .filter(|line| line.contains("connections="));
    let last = changes.next_back().unwrap_or_default().to_owned();
    assert!(
        last.is_empty() || !last.contains("connections=40"),
        "{last}"
    );
}
