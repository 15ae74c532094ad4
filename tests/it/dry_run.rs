//! `--dry-run`: the real constraints check every token, and no row stays in the table.

use std::fs;
use std::path::Path;

use crate::faults::{random_token_source, run_command, through};
use crate::journal::replay;
use crate::support::command::Command;
use crate::support::database::Database;
use crate::support::pgbouncer::{Pooler, PoolerSetup};
use crate::support::proxy::{Fault, Point, Proxy, Scope};
use crate::support::report::Report;
use crate::support::snapshot::shows;
use crate::support::source::{Response, Source};

/// A deferred unique constraint, and a row that an equal token conflicts with.
const DEFERRED_CONSTRAINT: &str = "ALTER TABLE secret_tokens ADD CONSTRAINT once UNIQUE (data)
    DEFERRABLE INITIALLY DEFERRED;
    INSERT INTO secret_tokens (data) VALUES ('older')";

#[test]
fn deferred_constraints_are_checked_and_no_row_stays() {
    let database = Database::standard().with_sql(DEFERRED_CONSTRAINT);
    let source = Source::responding([Response::tokens(["aa", "b-b", "older", "aa"])]);
    let command = Command::new().source(&source).database(&database);
    let command = command.args(["4", "--dry-run", "--report", "text"]);
    let run = command
        .args(["--report", "ndjson=run.ndjson", "--report", "csv=run.csv"])
        .run()
        .expect_code(0);
    // Each token is tried alone, so equal tokens do not conflict.
    shows!(run.sorted(), @"
    rejected  b-b  23514 secret_tokens_data_check
    rejected  older  23505 once
    stored    aa  dry run: rolled back
    stored    aa  dry run: rolled back
    ");
    shows!(run.stderr, @"dry run, nothing was stored: 4 requested, 4 received in 1 request: 2 stored, 2 rejected in [seconds] s ([rate] tokens/s)");
    let report = Report::parse(&fs::read_to_string(run.path("run.ndjson")).unwrap());
    assert_eq!(report.summary["dry_run"], true);
    assert!(report.tokens.iter().all(|token| token["dry_run"] == true));
    let csv = fs::read_to_string(run.path("run.csv")).unwrap();
    assert_eq!(csv.matches("dry run: rolled back").count(), 2, "{csv}");
    assert_eq!(database.rows(), ["older"]);
}

#[test]
fn lost_connection_leaves_no_token_in_doubt() {
    for fault in [
        Fault::Disconnect,
        Fault::DisconnectClient,
        Fault::DropReplies,
    ] {
        let database = Database::standard();
        let proxy = Proxy::to(database.port);
        let (issued, source) = random_token_source(500);
        let running = run_command(&source, &through(&database, &proxy), issued.len());
        let running = running.arg("--dry-run").spawn();
        proxy.arm(Point::Ready(200), fault, Scope::All);
        proxy.wait_for_injected(1);
        let report = Report::of_run(&running.wait().expect_code(0));
        let settled = report.count("stored") + report.count("rejected");
        assert_eq!(settled, 500, "{fault:?}");
        assert!(database.rows().is_empty());
    }
}

#[test]
fn no_row_stays_when_a_pooler_is_used() {
    for mode in ["transaction", "session"] {
        let database = Database::standard();
        let setup = PoolerSetup {
            mode,
            ..PoolerSetup::default()
        };
        let pooler = Pooler::start(&database, &setup);
        let names = (0..200).map(|n| {
            if n % 4 == 0 {
                format!("b-{n}")
            } else {
                format!("a{n}")
            }
        });
        let source = Source::responding([Response::tokens(names)]);
        let run = run_command(&source, &pooler.login, 200)
            .arg("--dry-run")
            .run();
        let report = Report::of_run(&run.expect_code(0));
        assert_eq!(
            (report.count("stored"), report.count("rejected")),
            (150, 50)
        );
        assert!(database.rows().is_empty());
    }
}

#[test]
fn sqlite_file_and_demo_keep_no_row() {
    let source = Source::responding([Response::tokens(["aa", "b-b"])]);
    let command = Command::new().source(&source);
    let path = command.dir().join("tokens.db");
    let rows = |path: &Path| {
        let connection = rusqlite::Connection::open(path).unwrap();
        let count =
            connection.query_row("SELECT count(*) FROM secret_tokens", [], |row| row.get(0));
        count.unwrap_or_else(|_| {
            let ddl = "CREATE TABLE secret_tokens (data TEXT CHECK (data NOT LIKE '%-%'))";
            connection.execute_batch(ddl).unwrap();
            0_i64
        })
    };
    assert_eq!(rows(&path), 0);
    let command = command.env("DATABASE_URL", format!("sqlite:{}", path.display()));
    let run = command.args(["2", "--dry-run"]).run().expect_code(0);
    shows!(run.stdout, @"
    stored    aa  dry run: rolled back
    rejected  b-b  23514 CHECK constraint failed: data NOT LIKE '%-%'
    ");
    assert_eq!(rows(&path), 0);

    let demo = Command::new().env("TOKEN_SERVICE_DRY_RUN", "true");
    let demo = demo.args(["demo", "3"]).run().expect_code(0);
    assert!(
        demo.stderr
            .starts_with("dry run, nothing was stored: 3 requested")
    );
}

#[test]
fn dry_run_refuses_a_journal_and_its_report_cannot_be_replayed() {
    let database = Database::standard();
    let source = Source::responding([Response::tokens(["aa"])]);
    let command = || {
        let command = Command::new().source(&source).database(&database);
        command.args(["1", "--dry-run"])
    };
    let run = command().args(["--journal", "run.journal"]).run();
    shows!(run.expect_code(2).stderr, @"
    error: --dry-run and --journal cannot be combined
    hint: leave out one of them: a dry run stores nothing, so its journal has nothing to replay
    ");
    assert!(source.requests().is_empty());

    let run = command().args(["--report", "ndjson=run.ndjson"]).run();
    let run = run.expect_code(0);
    let refused = replay(&run.path("run.ndjson"), &database).run();
    shows!(refused.expect_code(2).stderr, @"
    error: [dir]/run.ndjson cannot be replayed
      caused by: [dir]/run.ndjson:1:1: the report is from a dry run, which stored nothing
    hint: run again without --dry-run to store tokens
    ");
    assert!(database.rows().is_empty());
}

/// The report would claim that tokens are stored.
#[test]
fn replay_is_refused_when_dry_run_is_set() {
    let database = Database::standard();
    let line = "{\"token\":\"aa\",\"status\":\"failed\"}\n";
    let command = || {
        let command = Command::new().file("old.ndjson", line).database(&database);
        command.args(["replay", "old.ndjson"])
    };
    let run = command().env("TOKEN_SERVICE_DRY_RUN", "true").run();
    shows!(run.expect_code(2).stderr, @"
    error: a replay cannot be a dry run
    hint: unset TOKEN_SERVICE_DRY_RUN and run.dry_run
    ");
    command()
        .config("run: {dry_run: true}")
        .run()
        .expect_code(2);
    assert!(database.rows().is_empty());
    command().run().expect_code(0);
    assert_eq!(database.rows(), ["aa"]);
}

#[test]
fn check_finds_options_that_exclude_each_other() {
    let check = Command::new().arg("check");
    let both = check.config("run: {dry_run: true, journal: run.journal}");
    let run = both.run().expect_code(2);
    assert!(
        run.stderr
            .contains("--dry-run and --journal cannot be combined")
    );
}
