//! `--run-id`: a second process continues a run, and each token is stored once.

use std::collections::BTreeSet;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::{position, receipts, run_command};
use crate::faults::through;
use crate::outages::{lock, lockable_table, unlock, wait_for_blocked_backend};
use crate::support::cluster::wait_until_disconnected;
use crate::support::command::{Command, Run};
use crate::support::database::{Database, Login};
use crate::support::proxy::{Fault, Point, Proxy, Scope};
use crate::support::report::Report;
use crate::support::snapshot::shows;
use crate::support::source::{Response, Source};

const KEYED: &str = "source: {idempotency_header: Idempotency-Key}";
const ID: &str = "nightly-2026-11-30";

fn continued(source: &Source, login: &Login, size: usize) -> Command {
    run_command(source, login, size).args(["--run-id", ID])
}

/// Kills the run after this many commits.
fn kill_after(command: Command, proxy: &Proxy, commits: u64) {
    proxy.arm(Point::Commit(commits), Fault::Partition, Scope::All);
    let running = command.spawn();
    proxy.wait_for_injected(1);
    running.signal("KILL");
    assert_eq!(running.wait().signal, Some(9));
    proxy.heal();
}

/// The tokens of the test source: the same for the same key.
fn keyed_source() -> Source {
    Source::keyed(|number, size| {
        // Short deliveries, and tokens that the table refuses.
        let count = if number % 2 == 1 {
            size.div_ceil(2)
        } else {
            size
        };
        let token = |line| format!("r{number}{}l{line}", if line % 9 == 0 { "-" } else { "x" });
        (1..=count).map(token).collect()
    })
}

/// The tokens with this status, with those of earlier processes.
fn whole(report: &Report, status: &str) -> u64 {
    let before = report.summary[&format!("{status}_before")].as_u64();
    report.count(status) + before.unwrap_or(0)
}

#[test]
fn rest_of_size_is_requested_from_a_source_without_keys() {
    let database = Database::standard().with_receipts();
    let proxy = Proxy::to(database.port);
    let source = Source::generating(|size| size);
    kill_after(
        continued(&source, &through(&database, &proxy), 300),
        &proxy,
        100,
    );
    assert!((60..300).contains(&database.rows().len()));
    let run = continued(&source, &database, 300).run().expect_code(0);
    let report = Report::of_run(&run);
    assert_eq!(report.count("requested"), 300);
    assert_eq!(whole(&report, "stored") + whole(&report, "rejected"), 300);
    assert_eq!(whole(&report, "stored"), database.rows().len() as u64);
    let before = report.count("stored_before");
    assert!(
        run.stderr.contains(&format!("{before} stored before")),
        "{}",
        run.stderr
    );
    // Nothing is left to do.
    let run = continued(&source, &database, 300).run().expect_code(0);
    let report = Report::of_run(&run);
    assert_eq!(whole(&report, "stored") + whole(&report, "rejected"), 300);
    assert_eq!((report.count("received"), report.count("requests")), (0, 0));
}

#[test]
fn same_requests_are_repeated_with_their_keys() {
    let database = Database::standard().with_receipts();
    let proxy = Proxy::to(database.port);
    let source = keyed_source();
    let command = |login: &Login| {
        continued(&source, login, 400)
            .config(KEYED)
            .args(["--page-size", "100"])
    };
    kill_after(command(&through(&database, &proxy)), &proxy, 150);
    let run = command(&database).run().expect_code(0);
    let report = Report::of_run(&run);
    assert_eq!(whole(&report, "stored") + whole(&report, "rejected"), 400);
    assert_eq!(whole(&report, "stored"), database.rows().len() as u64);
    let rows = database.rows();
    let distinct: BTreeSet<&String> = rows.iter().collect();
    assert_eq!(distinct.len(), rows.len(), "no token is stored twice");
    // The repeated requests returned the same tokens, so the source issued no others.
    let issued: BTreeSet<String> = source.issued().into_iter().collect();
    assert_eq!(issued.len(), 400);
}

#[test]
fn journal_gives_the_tokens_that_were_received() {
    let database = Database::standard().with_receipts();
    let proxy = Proxy::to(database.port);
    let source = Source::generating(|size| size);
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    let command = |login: &Login| {
        continued(&source, login, 300)
            .args(["--page-size", "200", "--journal"])
            .arg(&journal)
    };
    kill_after(command(&through(&database, &proxy)), &proxy, 60);
    let run = command(&database).run().expect_code(0);
    let report = Report::of_run(&run);
    assert_eq!(whole(&report, "stored") + whole(&report, "rejected"), 300);
    let mut issued = source.issued();
    issued.retain(|token| !token.contains('-'));
    issued.sort();
    assert_eq!(
        issued,
        database.rows(),
        "each token that was issued is stored"
    );
    // The journal of both processes can be replayed.
    let replayed = crate::journal::replay(&journal, &database)
        .run()
        .expect_code(0);
    assert_eq!(Report::of_run(&replayed).with_status("stored"), issued);
}

#[test]
fn token_is_counted_once_when_its_request_is_repeated() {
    let database = Database::standard().with_receipts();
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    let too_long = "x".repeat(2_000);
    let command = |source: &Source| {
        continued(source, &database, 6)
            .config("source: {idempotency_header: Idempotency-Key, retries: 1}")
            .args(["--page-size", "5", "--fetch-concurrency", "1", "--journal"])
            .arg(&journal)
    };
    let source = Source::responding([
        Response::truncated(format!("{too_long}\n"), 9_000),
        Response::status(500),
    ]);
    let first = Report::of_run(&command(&source).run().expect_code(4));
    assert_eq!(first.count("rejected"), 1);
    let source = Source::responding([
        Response::tokens([&too_long, "bb", "cc", "dd", "ee"]),
        Response::tokens(["ff"]),
    ]);
    let report = Report::of_run(&command(&source).run().expect_code(0));
    assert_eq!(source.sizes(), [5, 1]);
    assert_eq!(
        (whole(&report, "stored"), whole(&report, "rejected")),
        (5, 1)
    );
    assert_eq!(database.rows(), ["bb", "cc", "dd", "ee", "ff"]);
}

#[test]
fn recorded_tokens_are_not_sent_again_after_their_receipts_were_deleted() {
    let database = Database::standard().with_receipts();
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    let command = |source: &Source| {
        let command = continued(source, &database, 3).arg("--journal");
        command.arg(&journal)
    };
    let source = Source::responding([Response::tokens(["aa", "b-b", "cc"])]);
    command(&source).run().expect_code(0);
    let delete = || {
        let sql = "DELETE FROM token_receipts";
        database.admin().execute(sql, &[]).expect("deleted rows")
    };
    assert!(delete() > 0);
    let report = Report::of_run(&command(&Source::responding([])).run().expect_code(0));
    assert_eq!(
        (whole(&report, "stored"), whole(&report, "rejected")),
        (2, 1)
    );
    delete();
    let (_, report) = crate::journal::run_replay(&journal, &database, 0);
    assert_eq!(report.with_status("stored"), ["aa", "cc"]);
    assert_eq!(report.with_status("rejected"), ["b-b"]);
    assert_eq!(database.rows(), ["aa", "cc"]);
}

/// The process that was killed leaves a transaction open, which commits after the second one began.
#[test]
fn token_of_the_first_process_is_stored_once_although_it_is_committed_late() {
    let (database, mut admin) = lockable_table();
    let database = database.with_receipts();
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    let proxy = Proxy::to(database.port);
    let source = Source::responding([Response::tokens(["aa", "bb"])]);
    lock(&mut admin);
    let command = |login: &Login| {
        continued(&source, login, 2)
            .args(["--connections", "1", "--pipeline", "1", "--journal"])
            .arg(&journal)
    };
    let running = command(&through(&database, &proxy)).spawn();
    wait_for_blocked_backend(&mut admin);
    // The server does not notice that the client is gone.
    proxy.inject(Fault::Partition);
    running.signal("KILL");
    running.wait();
    proxy.accept_again();
    let second = command(&database).spawn();
    second.wait_for_stderr(|text| text.contains("continuing") || text.contains("waiting"));
    unlock(&mut admin);
    let report = Report::of_run(&second.wait().expect_code(0));
    drop(proxy);
    wait_until_disconnected(database.superuser());
    assert_eq!(database.rows(), ["aa", "bb"]);
    assert_eq!(whole(&report, "stored"), 2);
}

#[test]
fn input_is_read_again_and_its_settled_lines_are_left_out() {
    for size in [None, Some("3000")] {
        continue_input(size, None);
        let folder = tempfile::tempdir().unwrap();
        continue_input(size, Some(&folder.path().join("journal")));
    }
}

fn continue_input(size: Option<&str>, journal: Option<&Path>) {
    let database = Database::standard().with_receipts();
    let lines: Vec<String> = (0..3_000)
        .map(|n| format!("t{n}{}", if n % 10 == 3 { "-" } else { "" }))
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("tokens.txt");
    std::fs::write(&input, lines.join("\n") + "\n").unwrap();
    let proxy = Proxy::to(database.port);
    let command = |login: &Login| {
        let mut command = Command::new().database(login).args(size);
        command = command.arg("--input").arg(&input);
        if let Some(journal) = journal {
            command = command.arg("--journal").arg(journal);
        }
        command.args([
            "--report",
            "ndjson",
            "--receipts",
            "token_receipts",
            "--run-id",
            ID,
        ])
    };
    let first = command(&through(&database, &proxy)).args(["--page-size", "50"]);
    kill_after(first, &proxy, 100);
    let run = command(&database)
        .args(["--page-size", "7"])
        .run()
        .expect_code(0);
    let report = Report::of_run(&run);
    assert_eq!(database.rows().len(), 2_700);
    assert_eq!(whole(&report, "stored"), 2_700);
    assert_eq!(whole(&report, "rejected"), 300);
    let distinct: BTreeSet<String> = database.rows().into_iter().collect();
    assert_eq!(distinct.len(), 2_700);
    let first = report.tokens.first().unwrap();
    assert!(first["position"].as_i64().unwrap() > position(1, 1));
}

#[test]
fn conditions_count_what_earlier_processes_did() {
    let database = Database::standard().with_receipts();
    let source = Source::responding([Response::tokens(["aa", "b-b"])]);
    continued(&source, &database, 2).run().expect_code(0);
    for (condition, code) in [("rejected>0", 1), ("stored<requested", 1), ("stored<1", 0)] {
        let run = continued(&Source::responding([]), &database, 2)
            .args(["--fail-on", condition])
            .run();
        run.expect_code(code);
    }
}

/// The text with a stand-in for the process id of the backend.
fn without_pid(text: &str) -> String {
    let (before, after) = text.split_once("backend ").unwrap();
    let after = after.trim_start_matches(|digit: char| digit.is_ascii_digit());
    format!("{before}backend [pid]{after}")
}

#[test]
fn second_process_is_refused_while_the_first_is_connected() {
    let (database, mut admin) = lockable_table();
    let database = database.with_receipts();
    let source = Source::responding([Response::tokens(["aa"])]);
    lock(&mut admin);
    let first = continued(&source, &database, 1).spawn();
    wait_for_blocked_backend(&mut admin);
    let other = Source::responding([]);
    let refused = continued(&other, &database, 1).run().expect_code(5);
    shows!(without_pid(refused.error()), @"
    error: another process with this run id and shard is connected to the database
      caused by: 1 of its connections is open, among them backend [pid]
    hint: wait until it has ended, for example with --wait 5m, or give this run another --run-id; no token was requested
    ");
    // Another shard of the run is another matter.
    let shard = continued(&other, &database, 1)
        .args(["--shard", "1/2"])
        .run();
    shard.expect_code(0);
    unlock(&mut admin);
    first.wait().expect_code(0);
}

#[test]
fn run_of_a_script_that_made_tokens_is_not_continued() {
    let database = Database::standard().with_receipts();
    let source = Source::responding([]);
    let command = || {
        continued(&source, &database, 1)
            .file("own.rhai", "report(store([\"aa\"]));")
            .args(["--script", "own.rhai"])
    };
    command().run().expect_code(0);
    let refused = command().run().expect_code(2);
    shows!(refused.error(), @"
    error: the run cannot be continued
      caused by: its script made or changed tokens, which a second process cannot tell apart
    hint: start a new run with another --run-id; `token_service audit` shows what this one stored
    ");
}

#[test]
fn run_id_is_refused_without_receipts_and_in_a_dry_run() {
    let run = |args: &[&str]| -> Run {
        let command = Command::new().env("TOKEN_HOST", "http://127.0.0.1:9");
        let command = command.env("DATABASE_URL", "postgres://u@127.0.0.1:9/d");
        command
            .args(["--run-id", "a"])
            .args(args)
            .run()
            .expect_code(2)
    };
    shows!(run(&[]).error(), @"
    error: --run-id needs receipts, by which a run is continued
    hint: set --receipts TABLE or database.receipts; `token_service schema` prints the table
    ");
    shows!(run(&["--receipts", "r", "--dry-run"]).error(), @"
    error: --run-id cannot be combined with --dry-run
    hint: a dry run stores nothing, so it writes no receipts either
    ");
}

#[test]
fn name_of_a_run_becomes_the_same_uuid_each_time() {
    let database = Database::standard().with_receipts();
    let source = Source::responding([Response::tokens(["aa"])]);
    let run = continued(&source, &database, 1).run().expect_code(0);
    let id = Report::of_run(&run).summary["run_id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(id.as_bytes()[14], b'5', "a UUID of version 5: {id}");
    let again = run_command(&source, &database, 1)
        .args(["--run-id", &id])
        .run();
    let report = Report::of_run(&again.expect_code(0));
    assert_eq!(
        (
            report.count("stored_before"),
            report.summary["run_id"].as_str()
        ),
        (1, Some(id.as_str()))
    );
    let marks = receipts(&mut database.client()).into_iter();
    assert_eq!(
        marks.filter(|(at, ..)| *at < 0).count(),
        2,
        "one of each process"
    );
}

/// Kills the run at random moments, and starts the same command again until it completes.
fn kill_until_complete(kills: usize, keyed: bool, journal: Option<&Path>) -> Source {
    let database = Database::standard().with_receipts();
    let source = if keyed {
        keyed_source()
    } else {
        Source::generating(|size| size)
    };
    let size = 2_000;
    let command = || {
        let mut command = continued(&source, &database, size).args(["--page-size", "250"]);
        if keyed {
            command = command.config(KEYED);
        }
        match journal {
            Some(path) => command.arg("--journal").arg(path),
            None => command,
        }
    };
    for _ in 0..kills {
        let running = command().spawn();
        thread::park_timeout(Duration::from_millis(fastrand::u64(1..120)));
        running.signal("KILL");
        running.wait();
    }
    let run = command().run().expect_code(0);
    let report = Report::of_run(&run);
    let (stored, rejected) = (whole(&report, "stored"), whole(&report, "rejected"));
    assert_eq!(stored + rejected, size as u64, "{}", run.stderr);
    wait_until_disconnected(database.superuser());
    let rows = database.rows();
    assert_eq!(rows.len() as u64, stored);
    let distinct: BTreeSet<&String> = rows.iter().collect();
    assert_eq!(distinct.len(), rows.len(), "a token was stored twice");
    source
}

#[test]
fn size_is_reached_after_kills_at_random_moments() {
    kill_until_complete(4, false, None);
    let source = kill_until_complete(4, true, None);
    let issued: BTreeSet<String> = source.issued().into_iter().collect();
    assert_eq!(issued.len(), 2_000, "the source issued nothing else");
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    let source = kill_until_complete(4, true, Some(&journal));
    let issued: BTreeSet<String> = source.issued().into_iter().collect();
    assert_eq!(issued.len(), 2_000);
}

#[test]
#[ignore = "takes minutes; one of the long forms"]
fn long_forms_of_kills_under_one_run_id() {
    let mut kills = 0;
    while kills < 100 {
        let folder = tempfile::tempdir().unwrap();
        let (keyed, journal) =
            [(false, false), (true, false), (true, true), (false, true)][kills / 10 % 4];
        let path = folder.path().join("journal");
        kill_until_complete(10, keyed, journal.then_some(path.as_path()));
        kills += 10;
    }
    println!(
        "{kills} kills at random moments, then the same command: SIZE reached, no token twice"
    );
}
