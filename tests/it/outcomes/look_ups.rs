//! Tests of connections that are lost after the commit, on tables where a look-up by value proves
//! nothing. No token is stored twice, and no `failed` or `rejected` token is in the table.

use std::collections::HashMap;

use super::{create_schema, values};
use crate::faults::{run_command, through};
use crate::journal::{replay, run_with_journal};
use crate::support::cluster::wait;
use crate::support::command::Run;
use crate::support::database::{Database, Login};
use crate::support::proxy::{Fault, Point, Proxy, Scope};
use crate::support::report::Report;
use crate::support::source::{Response, Source, token};

/// Returns distinct tokens; every second one ends with `suffix`.
fn random_token_source(count: usize, suffix: &str) -> Vec<String> {
    (0..count)
        .map(|number| format!("a{number:04}{}", if number % 2 == 0 { "" } else { suffix }))
        .collect()
}

/// Asserts that report and table agree. `row_of` returns the row that a token becomes.
#[track_caller]
fn assert_report_matches_rows(
    name: &str,
    report: &Report,
    issued: &[String],
    rows: &HashMap<String, u64>,
    row_of: impl Fn(&str) -> String,
) {
    assert_eq!(
        report.tokens.len(),
        issued.len(),
        "{name}: not every token is reported"
    );
    let mut least: HashMap<String, u64> = HashMap::new();
    let mut most: HashMap<String, u64> = HashMap::new();
    for token in &report.tokens {
        let row = row_of(token["token"].as_str().unwrap());
        let stored = u64::from(token["status"] == "stored");
        *least.entry(row.clone()).or_default() += stored;
        *most.entry(row).or_default() += u64::from(stored == 1 || token["status"] == "unknown");
    }
    for (row, most) in &most {
        let count = rows.get(row).copied().unwrap_or(0);
        let least = least[row];
        assert!(
            (least..=*most).contains(&count),
            "{name}: {row:?} is {count} times in the table, {least} stored, {} unknown",
            most - least
        );
    }
    for row in rows.keys() {
        assert!(most.contains_key(row), "{name}: {row:?} was never sent");
    }
}

/// Returns a source that answers each request with these tokens.
fn source(issued: &[String]) -> Source {
    let issued = issued.to_vec();
    Source::generating_with(move |_| issued.clone())
}

/// Returns the report of a run, or `None` if the run was refused before it requested a token.
fn report_of(run: &Run, source: &Source) -> Option<Report> {
    if source.requests().is_empty() {
        assert_eq!(run.code, Some(5), "{}", run.stderr);
        return None;
    }
    Some(Report::of_run(run))
}

/// Runs while a proxy drops the answers to several commits.
fn run_with_lost_answers(database: &Login, issued: &[String]) -> Option<Report> {
    let proxy = Proxy::to(database.port);
    let source = source(issued);
    for commit in [20, 30, 50] {
        proxy.arm(Point::Commit(commit), Fault::DropReplies, Scope::One);
    }
    let run = run_command(&source, &through(database, &proxy), issued.len())
        .args(["--connections", "2", "--pipeline", "16"])
        .run();
    assert!(proxy.injected() > 0 || source.requests().is_empty());
    report_of(&run, &source)
}

/// Kills a run that writes a journal, and replays the journal.
fn kill_and_replay(database: &Login, issued: &[String]) -> Option<Report> {
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    let source = source(issued);
    let running = run_with_journal(&source, database, &journal)
        .arg(issued.len().to_string())
        .args(["--connections", "2", "--pipeline", "16"])
        .spawn();
    running.wait_for_stdout(|text| text.lines().count() >= issued.len() / 4);
    running.signal("KILL");
    running.wait();
    let run = replay(&journal, database).run();
    report_of(&run, &source)
}

const CHANGING: &str = "CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    NEW.data = upper(NEW.data); RETURN NEW; END $$;";

/// The names of the cases, their tables, and the suffix of every second token.
const TABLES: &[(&str, &str, &str)] = &[
    (
        "trigger of a partition",
        "CREATE TABLE secret_tokens (data text) PARTITION BY LIST (left(data, 1));
        CREATE TABLE part PARTITION OF secret_tokens DEFAULT;
        CREATE TRIGGER change BEFORE INSERT ON part FOR EACH ROW EXECUTE FUNCTION change()",
        "",
    ),
    (
        "trigger of a partition's partition",
        "CREATE TABLE secret_tokens (data text)
            PARTITION BY LIST (left(data, 1));
        CREATE TABLE part PARTITION OF secret_tokens DEFAULT PARTITION BY LIST (left(data, 1));
        CREATE TABLE leaf PARTITION OF part DEFAULT;
        CREATE TRIGGER change BEFORE INSERT ON leaf FOR EACH ROW EXECUTE FUNCTION change()",
        "",
    ),
    (
        "trigger of one of two partitions",
        "CREATE TABLE secret_tokens (data text)
            PARTITION BY HASH (data);
        CREATE TABLE part_0 PARTITION OF secret_tokens FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE part_1 PARTITION OF secret_tokens FOR VALUES WITH (MODULUS 2, REMAINDER 1);
        CREATE FUNCTION pad() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            DELETE FROM part_1 WHERE data = NEW.data; RETURN NEW; END $$;
        CREATE TRIGGER pad BEFORE INSERT ON part_1 FOR EACH ROW EXECUTE FUNCTION pad()",
        "",
    ),
    (
        "trigger of a view's base table",
        "CREATE TABLE base (tok text);
        CREATE FUNCTION change_tok() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            NEW.tok = upper(NEW.tok); RETURN NEW; END $$;
        CREATE TRIGGER change BEFORE INSERT ON base FOR EACH ROW EXECUTE FUNCTION change_tok();
        CREATE VIEW secret_tokens AS SELECT tok AS data FROM base",
        "",
    ),
    (
        "rule that changes the value",
        "CREATE TABLE base (tok text);
        CREATE VIEW secret_tokens AS SELECT tok AS data FROM base;
        CREATE RULE route AS ON INSERT TO secret_tokens DO INSTEAD
            INSERT INTO base VALUES (upper(NEW.data))",
        "",
    ),
    (
        "view that hides rows",
        "CREATE TABLE base (data text, hidden bool DEFAULT true);
        CREATE VIEW secret_tokens AS SELECT data FROM base WHERE NOT hidden",
        "",
    ),
    (
        "policy that hides rows",
        "CREATE TABLE secret_tokens (data text);
        ALTER TABLE secret_tokens ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
        CREATE POLICY writing ON secret_tokens FOR INSERT WITH CHECK (true);
        CREATE POLICY reading ON secret_tokens FOR SELECT USING (data LIKE '%7')",
        "",
    ),
    (
        "varchar(n)",
        "CREATE TABLE secret_tokens (data varchar(6))",
        "  ",
    ),
    ("char(n)", "CREATE TABLE secret_tokens (data char(9))", "  "),
    (
        "domain over char(n)",
        "CREATE DOMAIN tok AS char(9); CREATE TABLE secret_tokens (data tok)",
        " ",
    ),
    (
        "citext",
        "CREATE EXTENSION IF NOT EXISTS citext SCHEMA public;
        CREATE TABLE secret_tokens (data citext)",
        "B",
    ),
];

/// Counts the rows of the underlying table, because a view or a policy may hide them.
fn rows_of(database: &Database) -> HashMap<String, u64> {
    let sql = "SELECT CASE WHEN to_regclass('base') IS NULL THEN 'secret_tokens' ELSE 'base' END";
    let row = database.client().query_one(sql, &[]).unwrap();
    let relation: String = row.get(0);
    let column = "SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass($1)
        AND attname IN ('tok', 'data')";
    let row = database.client().query_one(column, &[&relation]).unwrap();
    let column: String = row.get(0);
    let mut admin = database.admin();
    let schema = database
        .client()
        .query_one("SELECT current_schema()::text", &[])
        .unwrap();
    let schema: String = schema.get(0);
    let sql = format!("SELECT {column}::text FROM {schema}.{relation}");
    let rows = admin.query(&sql, &[]).unwrap();
    let rows: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    crate::support::verify::count(&rows)
}

/// Runs on every table. A table may be refused at the start, and then it must be empty.
#[track_caller]
fn on_every_table(act: impl Fn(&Login, &[String]) -> Option<Report>) {
    let database = super::database();
    let mut faults = Vec::new();
    for (number, (name, ddl, suffix)) in TABLES.iter().enumerate() {
        create_schema(
            &database,
            &format!("table_{number}"),
            &format!("{CHANGING}{ddl}"),
        );
        let issued = random_token_source(200, suffix);
        let Some(report) = act(&database, &issued) else {
            assert!(
                rows_of(&database).is_empty(),
                "{name} was refused, but has rows"
            );
            continue;
        };
        let rows = rows_of(&database);
        // Triggers and rules that change a value convert it to upper case.
        let upper = rows.keys().any(|row| row.starts_with('A'));
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            assert_report_matches_rows(name, &report, &issued, &rows, |token| {
                if upper {
                    token.to_uppercase()
                } else {
                    token.to_owned()
                }
            });
        }));
        if let Err(panic) = checked {
            faults.push(panic.downcast_ref::<String>().cloned().unwrap_or_default());
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn no_token_is_stored_twice_when_answers_are_lost_on_a_table_that_changes_or_hides_rows() {
    on_every_table(run_with_lost_answers);
}

#[test]
fn no_token_is_stored_twice_when_a_killed_run_is_replayed_on_a_table_that_changes_or_hides_rows() {
    on_every_table(kill_and_replay);
}

/// Values that are equal in the collation are different tokens.
#[test]
fn no_token_is_stored_twice_when_its_collation_is_not_deterministic() {
    let database = super::database().with_sql(
        "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         CREATE TABLE secret_tokens (data text COLLATE loose)",
    );
    let issued: Vec<String> = (0..200)
        .map(|number| {
            format!(
                "{}{:03}",
                if number % 2 == 0 { "abc" } else { "ABC" },
                number / 2
            )
        })
        .collect();
    for act in [run_with_lost_answers, kill_and_replay] {
        database
            .client()
            .batch_execute("TRUNCATE secret_tokens")
            .unwrap();
        let Some(report) = act(&database, &issued) else {
            continue;
        };
        let rows = values(&database, super::ROWS);
        assert_report_matches_rows("collation", &report, &issued, &rows, str::to_owned);
    }
}

/// The rows of a foreign partition have no transaction id of this server, and their commit is remote.
#[test]
fn no_token_is_stored_twice_when_a_partition_is_a_foreign_table() {
    let database = database_with_foreign_partition("CREATE TABLE remote (data text)");
    for act in [run_with_lost_answers, kill_and_replay] {
        database.client().batch_execute("TRUNCATE remote").unwrap();
        let issued: Vec<String> = (0..200).map(|_| token()).collect();
        let Some(report) = act(&database, &issued) else {
            continue;
        };
        let rows = values(&database, "SELECT data FROM remote");
        assert_report_matches_rows("foreign partition", &report, &issued, &rows, str::to_owned);
    }
}

/// Creates a partitioned table whose only partition is the table `remote` of this database through
/// `postgres_fdw`.
pub fn database_with_foreign_partition(ddl: &str) -> Database {
    let database = super::database().with_sql(ddl);
    let owner = &database.user;
    let port = database.port;
    let sql = format!(
        "CREATE EXTENSION postgres_fdw;
         CREATE SERVER loop FOREIGN DATA WRAPPER postgres_fdw
             OPTIONS (host '127.0.0.1', port '{port}', dbname '{}');
         CREATE USER MAPPING FOR {owner} SERVER loop OPTIONS (user '{owner}', password '{}');
         GRANT USAGE ON FOREIGN SERVER loop TO {owner}",
        database.name, database.password
    );
    database.admin().batch_execute(&sql).unwrap();
    database.with_sql(
        "CREATE TABLE secret_tokens (data text) PARTITION BY HASH (data);
         CREATE FOREIGN TABLE part PARTITION OF secret_tokens
             FOR VALUES WITH (MODULUS 1, REMAINDER 0) SERVER loop OPTIONS (table_name 'remote')",
    )
}

/// The remote server cannot be reached, so certainly no token is stored.
#[test]
fn token_fails_when_the_server_of_a_foreign_table_is_down() {
    let database = database_with_foreign_partition("CREATE TABLE remote (data text)");
    let port = crate::support::postgres::free_port();
    let down = format!("ALTER SERVER loop OPTIONS (SET port '{port}')");
    database.admin().batch_execute(&down).unwrap();
    let run = super::run_of(&database, ["aa", "bb"]).run().expect_code(5);
    let report = Report::of_run(&run);
    let absent = report.count("failed") + report.count("not_attempted");
    assert_eq!(absent, 2, "{}", run.stdout);
}

/// The remote CHECK names no column of this relation.
#[test]
fn token_is_not_stored_when_the_remote_table_refuses_it() {
    let database =
        database_with_foreign_partition("CREATE TABLE remote (data text CHECK (data <> 'bad'))");
    let run = super::run_of(&database, ["aa", "bad", "cc"]).run();
    let report = Report::of_run(&run);
    assert_eq!(report.with_status("stored"), ["aa", "cc"], "{}", run.stdout);
    assert_ne!(report.token("bad")["status"], "unknown", "{}", run.stdout);
    let rows = values(&database, "SELECT data FROM remote");
    assert_eq!(rows.len(), 2);
}

/// A worker deletes every second row during the run, so a missing row proves nothing.
#[test]
fn no_token_is_stored_twice_when_a_worker_deletes_rows() {
    let database =
        super::database().with_sql("CREATE TABLE secret_tokens (id serial PRIMARY KEY, data text)");
    let proxy = Proxy::to(database.port);
    let issued: Vec<String> = (0..300).map(|_| token()).collect();
    let source = Source::responding([Response::tokens(&issued)]);
    for commit in [40, 60, 80] {
        proxy.arm(Point::Commit(commit), Fault::Partition, Scope::All);
    }
    let running = run_command(&source, &through(&database, &proxy), issued.len())
        .args(["--connections", "2", "--pipeline", "16"])
        .spawn();
    let mut admin = database.admin();
    let mut deleted: Vec<String> = Vec::new();
    for fired in 1..=3 {
        proxy.wait_for_injected(fired);
        // The server processes all that was sent to it before the worker deletes rows.
        wait(|| is_idle(&mut admin), "an idle server");
        let delete = "DELETE FROM secret_tokens WHERE id % 2 = 0 RETURNING data";
        let rows = admin.query(delete, &[]).unwrap();
        deleted.extend(rows.iter().map(|row| row.get::<_, String>(0)));
        proxy.inject(Fault::Disconnect);
        proxy.accept_again();
    }
    let run = running.wait();
    let report = Report::of_run(&run);
    let mut rows = values(&database, super::ROWS);
    for token in deleted {
        *rows.entry(token).or_default() += 1;
    }
    assert_report_matches_rows("worker", &report, &issued, &rows, str::to_owned);
}

/// True if no backend of the run is busy.
///
/// An incomplete insert waits for the client, and the disconnect rolls it back.
fn is_idle(admin: &mut postgres::Client) -> bool {
    let busy = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND application_name LIKE 'token_service %' AND state <> 'idle'
        AND wait_event IS DISTINCT FROM 'ClientRead'";
    admin.query_one(busy, &[]).unwrap().get::<_, i64>(0) == 0
}
