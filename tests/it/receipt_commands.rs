//! `schema`, `audit` and `receipts prune`: the table of receipts is created, audited and pruned.

use std::io::Write as _;
use std::process::{self, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::command::{Command, Run};
use crate::support::database::{Database, Login};
use crate::support::pgbouncer::{Pooler, PoolerSetup};
use crate::support::postgres::{free_port, server};
use crate::support::snapshot::shows;
use postgres::Client;
use rusqlite::Connection;
use serde_json::Value;

/// Runs, of which `OLD` sorts before `NEW`.
const OLD: &str = "018f0000-0000-7000-8000-000000000001";
const NEW: &str = "018f0000-0000-7000-8000-000000000002";

/// The receipt of a token: shard, position, attempt, rows, kind.
type ReceiptRow<'a> = (i32, u64, i32, &'a str, char);

/// Returns the position of a line of a request.
fn at(request: u64, line: u64) -> u64 {
    (request << 32) + line
}

fn schema(args: &[&str]) -> String {
    let run = Command::new().arg("schema").args(args).run();
    run.expect_code(0).stdout
}

/// Runs SQL with psql, which must accept every statement.
fn psql(login: &Login, sql: &str) {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut psql = process::Command::new("psql")
        .args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"])
        .arg(login.url())
        .env("PATH", format!("{path}:{}", server().programs.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("psql");
    psql.stdin
        .take()
        .unwrap()
        .write_all(sql.as_bytes())
        .unwrap();
    let output = psql.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && error.is_empty(),
        "{error}\n{sql}"
    );
}

/// A database with the tables of tokens and of receipts.
fn database() -> Database {
    let database = Database::standard();
    psql(&database, &schema(&[]));
    database
}

/// Returns the SQL that inserts receipts.
fn receipts_sql(run: &str, rows: &[ReceiptRow<'_>], time: &str) -> String {
    let values = rows.iter().map(|(shard, position, attempt, rows, kind)| {
        format!("('{run}', {shard}, {position}, {attempt}, {rows}, '{kind}', {time})")
    });
    format!(
        "INSERT INTO token_receipts (run_id, shard, position, attempt, rows, kind, at) VALUES {}",
        values.collect::<Vec<_>>().join(", ")
    )
}

fn insert(client: &mut Client, run: &str, rows: &[ReceiptRow<'_>]) {
    client
        .batch_execute(&receipts_sql(run, rows, "now()"))
        .unwrap();
}

/// The receipts of a run with each kind: two stored, one skipped, one rejected, one tombstone.
fn each_kind() -> [ReceiptRow<'static>; 7] {
    [
        (0, at(1, 1), 1, "1", 't'),
        // Absent at first, then stored.
        (0, at(1, 2), 1, "NULL", 'x'),
        (0, at(1, 2), 2, "1", 't'),
        (0, at(1, 3), 1, "0", 't'),
        (0, at(1, 4), 1, "NULL", 'r'),
        (0, at(2, 1), 1, "NULL", 'x'),
        // The mark of a process.
        (0, at(9, 9), 0, "1", 't'),
    ]
}

fn audit(login: &Login) -> Command {
    Command::new().database(login).arg("audit")
}

fn prune(login: &Login, age: &str) -> Command {
    let args = ["receipts", "prune", "--older-than", age];
    Command::new().database(login).args(args)
}

fn count(client: &mut Client, run: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM token_receipts WHERE run_id = '{run}'");
    client.query_one(&sql, &[]).unwrap().get(0)
}

/// A report with these stored positions, and one rejected token.
fn report(run: &str, stored: &[u64]) -> String {
    let lines = stored.iter().map(|position| {
        format!(r#"{{"token":"s3cret{position}","status":"stored","position":{position}}}"#)
    });
    let rejected = r#"{"token":"s3-cret","status":"rejected","position":4294967300}"#.to_owned();
    let text = lines.chain([rejected]).collect::<Vec<_>>().join("\n");
    let (stored, received) = (stored.len(), stored.len() + 1);
    let summary = format!(
        "\n{{\"summary\":{{\"version\":1,\"run_id\":\"{run}\",\"started_at\":\"2026-01-01T00:00:00Z\",\
         \"duration_ms\":1,\"requested\":{received},\"received\":{received},\"requests\":1,\"surplus\":0,\
         \"stored\":{stored},\"rejected\":1,\"failed\":0,\"unknown\":0,\"not_attempted\":0,\"exit_code\":0}}}}\n"
    );
    text + summary.as_str()
}

/// A journal of version 1 with the pages of two requests.
fn journal(run: &str, shard: &str) -> String {
    format!(
        r#"{{"journal":{{"version":1,"run_id":"{run}","horizon":null,"table":"secret_tokens","column":"data"{shard}}}}}
{{"received":["s3cret1","s3cret2","s3cret3","s3-cret"],"request":1}}
{{"received":["s3cret5"],"request":2}}
{{"token":"s3cret1","status":"stored","position":{}}}
{{"token":"s3cret5","status":"stored","position":{}}}
"#,
        at(1, 1),
        at(2, 1)
    )
}

#[test]
fn psql_runs_the_schema_and_the_table_takes_receipts() {
    let database = database();
    let run = audit(&database).run().expect_code(0);
    shows!(run.transcript(), @"
    exit: 0
    --- stdout
    --- stderr
    warning: token_receipts has no receipts
    ");
    let mut client = database.client();
    insert(&mut client, NEW, &each_kind());
    let again = receipts_sql(NEW, &each_kind()[..1], "now()");
    let error = client.batch_execute(&again).unwrap_err();
    assert_eq!(error.code().unwrap().code(), "23505");
    let sql = "SELECT string_agg(format('%s %s %s', attname, format_type(atttypid, atttypmod), \
               attnotnull), ', ' ORDER BY attnum) FROM pg_attribute \
               WHERE attrelid = 'token_receipts'::regclass AND attnum > 0";
    let columns: String = client.query_one(sql, &[]).unwrap().get(0);
    shows!(columns, @r#"run_id uuid t, shard integer t, position bigint t, attempt integer t, rows integer f, kind "char" t, at timestamp with time zone t"#);
}

#[test]
fn partitioned_schema_works_under_a_quoted_name() {
    let database = Database::standard();
    let name = r#"public."Odd ""receipts"".1""#;
    psql(&database, &schema(&["--partitioned", "--receipts", name]));
    let mut client = database.client();
    let sql = receipts_sql(NEW, &each_kind(), "now()");
    let sql = sql.replace("token_receipts", r#""Odd ""receipts"".1""#);
    client.batch_execute(&sql).unwrap();
    let partitions = "SELECT count(*) FROM pg_inherits";
    let partitions: i64 = client.query_one(partitions, &[]).unwrap().get(0);
    // The tables and their indexes.
    assert_eq!(partitions, 32);
    let run = audit(&database).args(["--receipts", name]).run();
    assert!(run.expect_code(0).stdout.contains(NEW));
    let run = prune(&database, "1ms").args(["--receipts", name]).run();
    shows!(run.expect_code(0).stdout, @"
    deleted  [uuid]  7 receipts
    1 run deleted, 7 receipts in total
    ");
}

#[test]
fn schema_takes_its_names_from_the_configuration() {
    let run = Command::new()
        .args(["schema", "--role", "Worker"])
        .config("database: {table: app.tokens, column: token, receipts: app.receipts}")
        .run()
        .expect_code(0);
    let grants: Vec<&str> = run
        .stdout
        .lines()
        .filter(|line| line.starts_with("GRANT"))
        .collect();
    assert_eq!(
        grants,
        [
            r#"GRANT INSERT ("token") ON "app"."tokens" TO "Worker";"#,
            r#"GRANT INSERT, SELECT ON "app"."receipts" TO "Worker";"#
        ]
    );
    assert!(run.stdout.starts_with("-- "), "{}", run.stdout);
    let variable = Command::new()
        .env("TOKEN_SERVICE_RECEIPTS", "other")
        .arg("schema");
    assert!(variable.run().stdout.contains(r#"CREATE TABLE "other" ("#));
}

#[test]
fn granted_role_may_insert_both_and_read_receipts_only() {
    let database = Database::standard();
    let role = database.role_with("");
    psql(&database, &schema(&["--role", &role.user]));
    let usage = format!(
        "GRANT USAGE ON SEQUENCE secret_tokens_id_seq TO {}",
        role.user
    );
    database.client().batch_execute(&usage).unwrap();
    let mut client = role.client();
    client
        .batch_execute("INSERT INTO secret_tokens (data) VALUES ('aa')")
        .unwrap();
    insert(&mut client, NEW, &each_kind());
    assert_eq!(count(&mut client, NEW), 7);
    for denied in [
        "SELECT data FROM secret_tokens",
        "DELETE FROM token_receipts",
        "UPDATE token_receipts SET kind = 'x'",
    ] {
        let error = client.batch_execute(denied).unwrap_err();
        assert_eq!(error.code().unwrap().code(), "42501", "{denied}");
    }
    audit(&role).run().expect_code(0);
    let run = prune(&role, "1ms").run().expect_code(5);
    shows!(run.transcript(), @r#"
    exit: 5
    --- stdout
    --- stderr
    error: the database denies access to the receipts
      caused by: permission denied for table token_receipts (42501)
    hint: GRANT SELECT, DELETE ON "token_receipts" TO "[database]_role"
    "#);
    assert_eq!(count(&mut client, NEW), 7);
}

#[test]
fn schema_refuses_what_it_cannot_print() {
    let long = "x".repeat(60);
    let errors = [
        vec!["--sqlite", "--partitioned"],
        vec!["--sqlite", "--role", "app"],
        vec!["--role", ""],
        vec!["--partitioned", "--receipts", &long],
        vec!["--receipts", "a.b.c"],
        vec!["--role"],
        vec!["--partition"],
    ]
    .map(|args| {
        let run = Command::new().arg("schema").args(args).run().expect_code(2);
        assert_eq!(run.stdout, "");
        run.stderr
    });
    shows!(errors.concat(), @"
    error: the argument '--sqlite' cannot be used with '--partitioned'
    hint: see `token_service schema --help`
    error: the argument '--sqlite' cannot be used with '--role <NAME>'
    hint: see `token_service schema --help`
    error: --role must be the name of a role, not ``
    hint: see `token_service schema --help`
    error: the name of a partitioned table must have at most 59 bytes
      caused by: the name has 60 bytes, and each partition adds 4
    hint: set a shorter name with --receipts or database.receipts
    error: --receipts must be a table or schema.table: it has more than two parts; put a part that contains a dot in double quotes, not `a.b.c`
    hint: see `token_service schema --help`
    error: a value is required for '--role <NAME>' but none was supplied
    hint: see `token_service schema --help`
    error: unexpected argument '--partition' found
    hint: a similar argument exists: '--partitioned'
    ");
}

#[test]
fn audit_counts_by_the_highest_attempt() {
    let database = database();
    let mut client = database.client();
    insert(&mut client, NEW, &each_kind());
    insert(&mut client, NEW, &[(1, at(1, 1), 1, "2", 't')]);
    // A run with marks only; its position is negative.
    client
        .batch_execute(&format!(
            "INSERT INTO token_receipts (run_id, shard, position, attempt, kind, at) \
             VALUES ('{OLD}', 0, -1, 0, 't', now() - interval '1 day')"
        ))
        .unwrap();
    let run = audit(&database).run().expect_code(0);
    assert_eq!(run.stderr, "");
    shows!(run.stdout, @"
    run                                   shard  stored  skipped  rejected  tombstones  first                 last
    [uuid]      0       2        1         1           1  [time]  [time]
    [uuid]      1       1        0         0           0  [time]  [time]
    [uuid]      0       0        0         0           0  [time]  [time]
    ");
    let runs: Vec<&str> = run.stdout.lines().skip(1).map(|line| &line[..36]).collect();
    assert_eq!(runs, [NEW, NEW, OLD]);

    let one = audit(&database)
        .args([OLD, "--format", "csv"])
        .run()
        .expect_code(0);
    shows!(one.stdout, @"
    run,shard,stored,skipped,rejected,tombstones,first,last
    [uuid],0,0,0,0,0,[time],[time]
    ");
    let json = audit(&database)
        .args(["--format", "json"])
        .run()
        .expect_code(0);
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["version"], 1);
    assert_eq!(json["shards"][0]["stored"], 2);
    let lines = audit(&database)
        .args([NEW, "--format", "ndjson"])
        .run()
        .expect_code(0);
    let shards = lines.stdout.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        line["shard"].as_i64().unwrap()
    });
    assert_eq!(shards.collect::<Vec<_>>(), [0, 1]);
    // A name is the id that --run-id makes of it.
    let named = audit(&database).arg("nightly-7").run().expect_code(0);
    shows!(named.transcript(), @"
    exit: 0
    --- stdout
    --- stderr
    warning: token_receipts has no receipts of run [uuid]
    ");
}

#[test]
fn audit_agrees_with_a_complete_report() {
    let database = database();
    insert(&mut database.client(), NEW, &each_kind());
    let text = report(NEW, &[at(1, 1), at(1, 2)]);
    let run = audit(&database)
        .file("run.ndjson", text)
        .args(["--report", "run.ndjson"])
        .run()
        .expect_code(0);
    shows!(run.transcript(), @"
    exit: 0
    --- stdout
    run                                   shard  stored  skipped  rejected  tombstones  first                 last
    [uuid]      0       2        1         1           1  [time]  [time]

    missing in the table   0
    missing in the report  0
    --- stderr
    ");
}

#[test]
fn audit_finds_what_is_missing_on_either_side() {
    let database = database();
    insert(&mut database.client(), NEW, &each_kind());
    // 1:1 is missing here; of 1:3, 2:1 and 3:1 no stored row has a receipt.
    let text = report(NEW, &[at(3, 1), at(1, 2), at(1, 3), at(2, 1)]);
    let audit = |format| {
        let command = audit(&database).file("run.ndjson", &text);
        let run = command
            .args([NEW, "--report", "run.ndjson", "--format", format])
            .run();
        let run = run.expect_code(1);
        assert!(!run.stdout.contains("s3cret"), "{}", run.stdout);
        assert_eq!(run.stderr, "");
        run.stdout
    };
    let text = audit("text");
    let (_, missing) = text.split_once("\n\n").unwrap();
    shows!(missing, @"
    missing in the table   3: 4294967299, 8589934593, 12884901889
    missing in the report  1: 4294967297
    ");
    let json: Value = serde_json::from_str(&audit("json")).unwrap();
    let missing = [at(1, 3), at(2, 1), at(3, 1)].map(Value::from).to_vec();
    assert_eq!(json["missing_in_table"], Value::from(missing));
    assert_eq!(json["missing_in_file"], Value::from(vec![at(1, 1)]));
    let lines = audit("ndjson");
    assert_eq!(lines.lines().count(), 1 + 4 + 1, "{lines}");
    shows!(lines.lines().last().unwrap(), @r#"{"summary":{"version":1,"run_id":"[uuid]","shard":0,"file":"report","missing_in_table":3,"missing_in_file":1}}"#);
    shows!(audit("csv"), @"
    missing_in,position
    table,4294967299
    table,8589934593
    table,12884901889
    report,4294967297
    ");
}

#[test]
fn audit_compares_a_journal_with_what_it_received() {
    let database = database();
    let mut client = database.client();
    insert(&mut client, NEW, &each_kind());
    let command = || audit(&database).file("run.journal", journal(NEW, ""));
    let run = command()
        .args(["--journal", "run.journal"])
        .run()
        .expect_code(1);
    let (_, missing) = run.stdout.split_once("\n\n").unwrap();
    // The journal has received 1:2, although no outcome of it was written.
    shows!(missing, @"
    missing in the table    1: 8589934593
    missing in the journal  0
    ");
    insert(&mut client, NEW, &[(0, at(2, 1), 2, "1", 't')]);
    command()
        .args(["--journal", "run.journal"])
        .run()
        .expect_code(0);
    insert(&mut client, NEW, &[(0, at(2, 2), 1, "1", 't')]);
    let run = command()
        .args(["--journal", "run.journal"])
        .run()
        .expect_code(1);
    assert!(
        run.stdout
            .ends_with("missing in the journal  1: 8589934594\n"),
        "{}",
        run.stdout
    );
    assert!(!run.stdout.contains("s3cret"), "{}", run.stdout);
}

#[test]
fn audit_of_a_sharded_run_needs_a_file_that_names_its_shard() {
    let database = database();
    let mut client = database.client();
    let rows = [(1, at(1, 1), 1, "1", 't'), (1, at(2, 1), 1, "1", 't')];
    insert(&mut client, NEW, &rows);
    insert(&mut client, NEW, &[(0, at(1, 1), 1, "1", 't')]);
    let run = audit(&database)
        .file("run.ndjson", report(NEW, &[at(1, 1)]))
        .args(["--report", "run.ndjson"])
        .run()
        .expect_code(2);
    shows!(run.error(), @"
    error: the shard of run.ndjson is not known
      caused by: the run has receipts of 2 shards, and the file does not name its own
    hint: give the journal of one shard with --journal: its header names the shard
    ");
    let run = audit(&database)
        .file("run.journal", journal(NEW, r#","shard":1"#))
        .args(["--journal", "run.journal"])
        .run()
        .expect_code(0);
    assert_eq!(run.stdout.lines().count(), 2 + 1 + 2, "{}", run.stdout);
}

#[test]
fn audit_explains_files_that_it_cannot_compare() {
    let database = database();
    let run = |name: &str, text: &str, args: &[&str]| {
        let command = audit(&database).file(name, text).args(args);
        command.run().expect_code(2).error().to_owned()
    };
    let partial = report(NEW, &[at(1, 1)]);
    let partial = &partial[..partial.find("{\"summary\"").unwrap()];
    let whole = report(NEW, &[at(1, 1)]);
    let errors = [
        run("a", "", &["--report", "missing.ndjson"]),
        run("r", partial, &["--report", "r"]),
        run("r", &whole, &["--report", "r", OLD]),
        run("r", &whole, &["--journal", "r"]),
        run("j", &journal(NEW, ""), &["--report", "j"]),
        run(
            "r",
            r#"{"token":"s3cret","status":"stored"}"#,
            &["--report", "r"],
        ),
        run("r", &whole, &["--report", "r", "--journal", "r"]),
    ];
    let errors = errors.join("\n");
    assert!(!errors.contains("s3cret"), "{errors}");
    shows!(errors, @"
    error: missing.ndjson cannot be audited
      caused by: No such file or directory (os error 2)
    hint: audit takes an ndjson report with --report, or a journal with --journal
    error: r does not name its run
      caused by: it has no summary: its run was interrupted or is still running
    hint: name the run, as in `token_service audit RUN --report FILE`
    error: r is of another run than RUN
      caused by: RUN is [uuid], and the file is of run [uuid]
    hint: leave out RUN to audit the run of the file
    error: r cannot be audited
      caused by: r:1:1: it is a report, not a journal
    hint: pass it with --report
    error: j cannot be audited
      caused by: j:1:1: it is a journal, not a report
    hint: pass it with --journal
    error: r cannot be audited
      caused by: its tokens have no positions: its run wrote no receipts
    hint: a run writes receipts and positions with --receipts or database.receipts
    error: the argument '--report <FILE>' cannot be used with '--journal <FILE>'
    hint: see `token_service audit --help`
    ");
    // A partial report is compared if the run is named.
    let run = audit(&database)
        .file("r", partial)
        .args([NEW, "--report", "r"])
        .run();
    let run = run.expect_code(1);
    shows!(run.transcript(), @"
    exit: 1
    --- stdout
    missing in the table   1: 4294967297
    missing in the report  0
    --- stderr
    warning: token_receipts has no receipts of run [uuid]
    ");
}

#[test]
fn database_errors_say_what_to_do() {
    let database = Database::standard();
    let error = |command: Command, code| command.run().expect_code(code).error().to_owned();
    let mut errors = vec![error(audit(&database), 5), error(prune(&database, "1d"), 5)];
    psql(&database, &schema(&[]));
    let role = database.role_with("");
    errors.push(error(audit(&role), 5));
    errors.push(error(
        audit(&database).args(["--receipts", "secret_tokens"]),
        5,
    ));
    let url = format!("postgres://me:x@127.0.0.1:{}/db", free_port());
    let unreachable = Command::new().env("DATABASE_URL", url).arg("audit");
    errors.push(error(unreachable, 5));
    errors.push(error(Command::new().arg("audit"), 2));
    let args = ["receipts", "prune", "--older-than", "1d"];
    errors.push(error(Command::new().args(args), 2));
    shows!(errors.join("\n"), @r#"
    error: the table of receipts does not exist
      caused by: relation "token_receipts" does not exist (42P01)
    hint: `token_service schema` prints the SQL that creates the table; --receipts or database.receipts names it
    error: the table of receipts does not exist
      caused by: relation "token_receipts" does not exist (42P01)
    hint: `token_service schema` prints the SQL that creates the table; --receipts or database.receipts names it
    error: the database denies access to the receipts
      caused by: permission denied for table token_receipts (42501)
    hint: GRANT SELECT ON "token_receipts" TO "[database]_role"
    error: the table is not one of receipts
      caused by: column "run_id" does not exist (42703)
    hint: `token_service schema` prints the SQL that creates the table; --receipts or database.receipts names it
    error: the database cannot be reached
      caused by: 127.0.0.1:[port]: Connection refused (os error 111)
    hint: check host and port in DATABASE_URL and that the server runs
    error: no database is configured
    hint: set DATABASE_URL, or DB_HOST, DB_USER, DB_PASS and DB_NAME, or `database` in the --config file; `token_service demo` needs no database
    error: no database is configured
    hint: set DATABASE_URL, or DB_HOST, DB_USER, DB_PASS and DB_NAME, or `database` in the --config file; `token_service demo` needs no database
    "#);
}

#[test]
fn ages_that_are_no_ages_are_errors_of_usage() {
    let errors = ["30", "0s", "soon", "200y", "-1d"].map(|age| {
        let run = Command::new()
            .args(["receipts", "prune", "--older-than", age])
            .run();
        run.expect_code(2).stderr
    });
    let missing = Command::new().args(["receipts", "prune"]).run();
    let unknown = Command::new().args(["receipts", "prun"]).run();
    let others = [missing, unknown].map(|run: Run| run.expect_code(2).stderr);
    shows!([errors.concat(), others.concat()].concat(), @"
    error: --older-than must be an age with a unit, such as 12h, 30d or 1y, not `30`
    hint: see `token_service receipts prune --help`
    error: --older-than must be longer than 0, not `0s`
    hint: see `token_service receipts prune --help`
    error: --older-than must be an age with a unit, such as 12h, 30d or 1y, not `soon`
    hint: see `token_service receipts prune --help`
    error: --older-than must be at most 100 years, not `200y`
    hint: see `token_service receipts prune --help`
    error: --older-than must be an age with a unit, such as 12h, 30d or 1y, not `-1d`
    hint: see `token_service receipts prune --help`
    error: the following required arguments were not provided: --older-than <AGE>
    hint: see `token_service receipts prune --help`
    error: unrecognized subcommand 'prun'
    hint: a similar subcommand exists: 'prune'
    ");
    let help = Command::new().arg("receipts").run().expect_code(0);
    assert!(help.stdout.contains("prune"), "{}", help.stdout);
}

/// Inserts many receipts of a run, which are as old as the interval.
fn insert_many(client: &mut Client, run: &str, count: u32, age: &str) {
    client
        .batch_execute(&format!(
            "INSERT INTO token_receipts SELECT '{run}', 0, (1::int8 << 32) + line, 1, 1, 't', \
             now() - interval '{age}' FROM generate_series(1, {count}) AS line"
        ))
        .unwrap();
}

/// Records the number of rows of each DELETE in the table `deletions`.
const RECORD_DELETIONS: &str = "CREATE TABLE deletions (id serial, count bigint);
    CREATE FUNCTION record() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN INSERT INTO deletions (count) SELECT count(*) FROM gone; RETURN NULL; END $$;
    CREATE TRIGGER record AFTER DELETE ON token_receipts REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION record()";

#[test]
fn prune_deletes_old_runs_in_batches_and_keeps_others() {
    let database = database().with_sql(RECORD_DELETIONS);
    let mut client = database.client();
    insert_many(&mut client, OLD, 25_000, "31 days");
    insert_many(&mut client, NEW, 3, "31 days");
    // Its newest receipt makes the whole run new.
    insert(&mut client, NEW, &[(1, at(1, 1), 1, "1", 't')]);
    let run = prune(&database, "30d").run().expect_code(0);
    assert_eq!(run.stderr, "");
    shows!(run.stdout, @"
    deleted  [uuid]  25,000 receipts
    1 run deleted, 25,000 receipts in total
    ");
    assert_eq!((count(&mut client, OLD), count(&mut client, NEW)), (0, 4));
    let rows = client
        .query("SELECT count FROM deletions ORDER BY id", &[])
        .unwrap();
    let batches: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(batches, [10_000, 10_000, 5_000]);
    let run = prune(&database, "30d").run().expect_code(0);
    assert_eq!(run.stdout, "0 runs deleted, 0 receipts in total\n");
}

#[test]
fn prune_of_one_run_leaves_the_others() {
    let database = database();
    let mut client = database.client();
    insert_many(&mut client, OLD, 2, "2 days");
    insert_many(&mut client, NEW, 2, "2 days");
    let run = prune(&database, "3d")
        .args(["--run", OLD])
        .run()
        .expect_code(0);
    assert_eq!(
        run.stdout, "0 runs deleted, 0 receipts in total\n",
        "too new"
    );
    let run = prune(&database, "1d")
        .args(["--run", OLD])
        .run()
        .expect_code(0);
    shows!(run.stdout, @"
    deleted  [uuid]  2 receipts
    1 run deleted, 2 receipts in total
    ");
    assert_eq!((count(&mut client, OLD), count(&mut client, NEW)), (0, 2));
}

/// Waits until a session of this database waits for a lock.
fn wait_for_lock(client: &mut Client) {
    let sql = "SELECT count(*) FROM pg_stat_activity \
               WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let limit = Instant::now() + Duration::from_secs(30);
    while client.query_one(sql, &[]).unwrap().get::<_, i64>(0) == 0 {
        assert!(Instant::now() < limit, "no session waits for a lock");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn signal_stops_prune_between_two_batches() {
    let database = database();
    let mut client = database.client();
    insert_many(&mut client, OLD, 25_000, "2 days");
    let mut other = database.client();
    let mut transaction = other.transaction().unwrap();
    let sql = format!(
        "SELECT FROM token_receipts WHERE position = {} FOR UPDATE",
        at(1, 5)
    );
    transaction.execute(&sql, &[]).unwrap();
    let running = prune(&database, "1d").spawn();
    wait_for_lock(&mut database.admin());
    running.signal("INT");
    // The signal has arrived before the batch ends.
    thread::sleep(Duration::from_millis(200));
    transaction.rollback().unwrap();
    let run = running.wait().expect_code(130);
    shows!(run.transcript(), @"
    exit: 130
    --- stdout
    stopped  [uuid]  10,000 receipts, the others are kept
    0 runs deleted, 10,000 receipts in total
    --- stderr
    ");
    assert_eq!(count(&mut client, OLD), 15_000);
}

#[test]
fn second_signal_ends_prune_at_once() {
    let database = database();
    insert_many(&mut database.client(), OLD, 10, "2 days");
    let mut other = database.client();
    let mut transaction = other.transaction().unwrap();
    transaction
        .execute("SELECT FROM token_receipts FOR UPDATE", &[])
        .unwrap();
    let running = prune(&database, "1d").spawn();
    wait_for_lock(&mut database.admin());
    running.signal("TERM");
    thread::sleep(Duration::from_millis(200));
    running.signal("TERM");
    let run = running.wait().expect_code(143);
    assert_eq!(run.stdout, "0 runs deleted, 0 receipts in total\n");
}

#[test]
fn sqlite_file_is_created_audited_and_pruned() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens.db");
    let url = format!("sqlite:{}", path.display());
    let command = || Command::new().env("DATABASE_URL", &url);
    let missing = command().arg("audit").run().expect_code(5);
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch("CREATE TABLE secret_tokens (data TEXT)")
        .unwrap();
    let no_table = command().arg("audit").run().expect_code(5);
    let other_table = command()
        .args(["audit", "--receipts", "secret_tokens"])
        .run()
        .expect_code(5);
    connection.execute_batch(&schema(&["--sqlite"])).unwrap();
    let old = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-31 days')";
    connection
        .execute_batch(&receipts_sql(OLD, &each_kind(), old))
        .unwrap();
    // The text of SQLite's own CURRENT_TIMESTAMP is accepted too.
    let now = "CURRENT_TIMESTAMP";
    connection
        .execute_batch(&receipts_sql(NEW, &each_kind(), now))
        .unwrap();

    let run = command().arg("audit").run().expect_code(0);
    shows!(run.stdout, @"
    run                                   shard  stored  skipped  rejected  tombstones  first                 last
    [uuid]      0       2        1         1           1  [time]  [time]
    [uuid]      0       2        1         1           1  [time]  [time]
    ");
    assert!(run.stdout.lines().nth(1).unwrap().starts_with(NEW));
    let compared = command()
        .file("run.ndjson", report(NEW, &[at(1, 1), at(7, 7)]))
        .args(["audit", "--report", "run.ndjson"])
        .run()
        .expect_code(1);
    let (_, missing_positions) = compared.stdout.split_once("\n\n").unwrap();
    shows!(missing_positions, @"
    missing in the table   1: 30064771079
    missing in the report  1: 4294967298
    ");
    let args = ["receipts", "prune", "--older-than", "30d"];
    let run = command().args(args).run().expect_code(0);
    shows!(run.stdout, @"
    deleted  [uuid]  7 receipts
    1 run deleted, 7 receipts in total
    ");
    let left = "SELECT count(*) FROM token_receipts";
    let left: i64 = connection.query_row(left, [], |row| row.get(0)).unwrap();
    assert_eq!(left, 7);

    let errors = [missing, no_table, other_table].map(|run| run.error().to_owned());
    shows!(errors.join("\n").replace(&dir.path().display().to_string(), "[dir]"), @r#"
    error: the database file does not exist
      caused by: no file [dir]/tokens.db
    hint: sqlite:PATH must name an existing SQLite file with the table in it
    error: the table of receipts does not exist
      caused by: no table "token_receipts" in [dir]/tokens.db
    hint: `token_service schema` prints the SQL that creates the table; --receipts or database.receipts names it
    error: the table is not one of receipts
      caused by: "secret_tokens" has no column run_id
    hint: `token_service schema` prints the SQL that creates the table; --receipts or database.receipts names it
    "#);
}

#[test]
fn audit_works_behind_a_pooler() {
    let database = database();
    insert(&mut database.client(), NEW, &each_kind());
    let pooler = Pooler::start(&database, &PoolerSetup::default());
    let run = audit(&pooler.login)
        .file("run.ndjson", report(NEW, &[at(1, 1), at(1, 2)]))
        .args(["--report", "run.ndjson"])
        .run();
    run.expect_code(0);
    let run = prune(&pooler.login, "1ms").run();
    assert!(run.expect_code(0).stdout.contains("7 receipts in total"));
}
