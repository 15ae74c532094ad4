//! Tests of tables with names that need quotes, triggers, deferred constraints and short columns, and
//! of the settings of each INSERT.

use crate::support::command::Command;
use crate::support::database::{Database, Login};
use crate::support::report::Report;
use crate::support::source::{Response, Source, token};

fn service(source: &Source, database: &Login) -> Command {
    Command::new().source(source).database(database)
}

#[test]
fn identifiers_are_quoted_when_they_need_it() {
    let database = Database::from_ddl(
        r#"CREATE SCHEMA "Odd.""Schema";
           CREATE TABLE "Odd.""Schema"."to ken's" ("Da;""ta" text NOT NULL)"#,
    );
    let source = Source::responding([Response::tokens(["aa", "x'y"])]);
    service(&source, &database)
        .config("database:\n  table: '\"Odd.\"\"Schema\".\"to ken''s\"'\n  column: 'Da;\"ta'\n")
        .arg("2")
        .run()
        .expect_code(0);
    let rows = database.client().query(
        r#"SELECT "Da;""ta" FROM "Odd.""Schema"."to ken's" ORDER BY 1"#,
        &[],
    );
    let rows: Vec<String> = rows.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(rows, ["aa", "x'y"]);
}

#[test]
fn identifiers_keep_their_capitals() {
    let database = Database::from_ddl(r#"CREATE TABLE "Tokens" ("Data" text)"#);
    let source = Source::responding([Response::tokens(["aa"])]);
    service(&source, &database)
        .config("database: {table: public.Tokens, column: Data}")
        .arg("1")
        .run()
        .expect_code(0);
    let count = database
        .client()
        .query_one(r#"SELECT count(*) FROM "Tokens""#, &[]);
    assert_eq!(count.unwrap().get::<_, i64>(0), 1);
}

#[test]
fn invalid_table_name_is_refused_before_connecting() {
    let shown = [vec!["1"], vec!["replay", "run.ndjson"], vec!["check"]].map(|args| {
        Command::new()
            .env("TOKEN_HOST", "http://127.0.0.1:1")
            .env("DATABASE_URL", "postgres://tokens@127.0.0.1:1/tokens")
            .args(args)
            .config("database:\n  table: app.secret.tokens # where?\n")
            .run()
            .expect_code(2)
            .stderr
    });
    insta::assert_snapshot!(shown[0], @"
    error: `database.table` must be a table or schema.table: it has more than two parts; put a part that contains a dot in double quotes
      ╭▸ token_service.yaml:2:10
      │
    2 │   table: app.secret.tokens # where?
      ╰╴         ━━━━━━━━━━━━━━━━━
    ");
    assert!(shown.iter().all(|text| *text == shown[0]), "{shown:?}");
}

#[test]
fn each_token_has_its_own_transaction() {
    let database = Database::standard();
    let good = (0..200).map(|n| format!("a{n}"));
    let bad = (0..20).map(|n| format!("b-{n}"));
    let source = Source::responding([Response::tokens(bad.chain(good))]);
    let run = service(&source, &database)
        .args(["220", "--connections", "2", "--report", "ndjson"])
        .run()
        .expect_code(0);
    let report = Report::of_run(&run);
    assert_eq!(report.count("rejected"), 20, "each in its own transaction");
    let counted = database.client().query_one(
        "SELECT count(*), count(DISTINCT xmin::text) FROM secret_tokens",
        &[],
    );
    let counted = counted.unwrap();
    assert_eq!(counted.get::<_, i64>(0), 200);
    assert_eq!(counted.get::<_, i64>(1), 200);
}

/// The default of the second column records the setting of each INSERT.
#[test]
fn synchronous_commit_is_raised_to_on_and_never_lowered() {
    for (set, used) in [
        ("off", "on"),
        ("local", "on"),
        ("remote_write", "on"),
        ("on", "on"),
        ("remote_apply", "remote_apply"),
    ] {
        let database = Database::from_ddl(
            "CREATE TABLE secret_tokens (data text NOT NULL,
             setting text NOT NULL DEFAULT current_setting('synchronous_commit'))",
        );
        let mut admin = database.admin();
        let role = &database.user;
        admin
            .batch_execute(&format!("ALTER ROLE {role} SET synchronous_commit = {set}"))
            .unwrap();
        let source = Source::generating(|asked| asked);
        // There are enough tokens for several connections, and each must raise the setting.
        service(&source, &database)
            .args(["200", "--connections", "3"])
            .run()
            .expect_code(0);
        let found = admin
            .query("SELECT DISTINCT setting FROM secret_tokens", &[])
            .unwrap();
        let found: Vec<String> = found.iter().map(|row| row.get(0)).collect();
        assert_eq!(found, [used], "the role has {set}");
    }
}

#[test]
fn token_is_rejected_when_a_trigger_skips_its_row_or_the_commit_fails() {
    let database = Database::hostile();
    database
        .client()
        .execute("INSERT INTO secret_tokens (data) VALUES ('twice')", &[])
        .unwrap();
    let source = Source::responding([Response::tokens(["aa", "nothing", "twice", "b-b"])]);
    let run = service(&source, &database).arg("4").run().expect_code(0);
    insta::assert_snapshot!(run.sorted(), @"
    rejected  b-b  23514 secret_tokens_data_check
    rejected  nothing  the database stored no row: a trigger or rule skipped or redirected it
    rejected  twice  23505 secret_tokens_data_key
    stored    aa
    ");
    assert_eq!(database.rows(), ["aa", "twice"]);
    let origins = database
        .client()
        .query("SELECT DISTINCT origin FROM secret_tokens", &[])
        .unwrap();
    assert_eq!(
        origins[0].get::<_, String>(0),
        "unknown",
        "the default of the column"
    );
}

#[test]
fn token_is_rejected_when_the_column_is_too_short() {
    let database = Database::from_ddl("CREATE TABLE secret_tokens (data varchar(10) NOT NULL)");
    let source = Source::responding([Response::tokens(["aa", "elevenchars"])]);
    let run = service(&source, &database).arg("2").run().expect_code(0);
    insta::assert_snapshot!(run.sorted(), @"
    rejected  elevenchars  22001 value too long for type character varying(10)
    stored    aa
    ");
    assert_eq!(database.rows(), ["aa"]);
}

#[test]
fn token_is_redacted_in_the_message_of_a_trigger() {
    let database = Database::from_ddl(
        "CREATE TABLE secret_tokens (data text NOT NULL);
         CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             RAISE EXCEPTION 'not this one: %', NEW.data USING DETAIL = NEW.data; END $$;
         CREATE TRIGGER tell BEFORE INSERT ON secret_tokens FOR EACH ROW EXECUTE FUNCTION tell()",
    );
    let canary = token();
    let source = Source::responding([Response::tokens([&canary])]);
    let run = service(&source, &database)
        .args(["1", "--log-level", "trace"])
        .run()
        .expect_code(0);
    let shown = run.stdout.replace(&canary, "CANARY");
    insta::assert_snapshot!(shown.trim_end(), @"rejected  CANARY  P0001 not this one: …");
    assert!(!run.stderr.contains(&canary), "{}", run.stderr);
}

#[test]
fn tokens_are_stored_when_the_server_allows_fewer_connections() {
    let database = Database::standard();
    let role = database.role_with("INSERT");
    database
        .admin()
        .batch_execute(&format!("ALTER ROLE {} CONNECTION LIMIT 2", role.user))
        .unwrap();
    let source = Source::generating(|asked| asked);
    let run = service(&source, &role)
        .args(["2000", "--connections", "8", "--report", "ndjson"])
        .run()
        .expect_code(0);
    let report = Report::of_run(&run);
    assert_eq!(report.count("stored") + report.count("rejected"), 2000);
    assert_eq!(report.with_status("stored"), database.rows());
}

#[test]
fn token_is_retried_when_a_conflict_passes_and_fails_when_it_lasts() {
    let database = Database::from_ddl(
        "CREATE TABLE secret_tokens (data text NOT NULL);
         CREATE SEQUENCE tries;
         CREATE FUNCTION clash() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.data = 'lasting' OR (NEW.data = 'passing' AND nextval('tries') < 3) THEN
                 RAISE EXCEPTION 'clash' USING ERRCODE = '40001'; END IF;
             RETURN NEW; END $$;
         CREATE TRIGGER clash BEFORE INSERT ON secret_tokens FOR EACH ROW EXECUTE FUNCTION clash()",
    );
    let source = Source::responding([Response::tokens(["aa", "lasting", "passing"])]);
    let run = service(&source, &database)
        .args(["3", "--report", "ndjson"])
        .run()
        .expect_code(5);
    let report = Report::of_run(&run);
    assert_eq!(report.with_status("stored"), ["aa", "passing"]);
    assert_eq!(report.token("passing")["attempts"], 3);
    assert_eq!(report.token("lasting")["status"], "failed");
    assert_eq!(report.token("lasting")["sqlstate"], "40001");
    assert_eq!(database.rows(), ["aa", "passing"]);
    insta::assert_snapshot!(run.error(), @"
    error: 1 received token is neither stored nor rejected
    hint: `failed` and `not_attempted` tokens are safe to send again; look for `unknown` ones in the table first
    ");
}
