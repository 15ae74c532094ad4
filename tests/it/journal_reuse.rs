//! Tests of the reuse of a journal file. A replay appends what it settles, and a later run may
//! overwrite a settled journal. A run refuses a file that is not a journal or holds unsettled tokens.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::journal::{killed_run, replay, rows_with_ids, run_replay, run_with_journal};
use crate::outages::{lock, locked_table, unlock, wait_for_blocked_backend};
use crate::support::command::{Command, Run, binary};
use crate::support::database::{Database, Login};
use crate::support::journal::Journal;
use crate::support::report::Report;
use crate::support::snapshot::shows;
use crate::support::source::{Gate, Response, Source};

const HEADER: &str = r#"{"journal":{"version":1,"run_id":"018f0000-0000-7000-8000-000000000000","horizon":null,"table":"secret_tokens","column":"data"}}"#;
const REPLAY: &str = r#"{"replay":{"run_id":"018f0000-0000-7000-8000-000000000001"}}"#;

/// Writes a journal of these lines, as a crash may leave it.
fn journal_of(lines: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    fs::write(&path, lines.join("\n")).unwrap();
    (folder, path)
}

/// Runs for one token with the journal at `path`.
fn next_run(path: &Path, database: &Login) -> Run {
    let source = Source::generating_with(|_| vec![String::from("next")]);
    let run = run_with_journal(&source, database, path).arg("1").run();
    assert_eq!(source.requests().len(), usize::from(run.code == Some(0)));
    run
}

/// Asserts that the next run overwrites the journal.
#[track_caller]
fn assert_reusable(path: &Path, database: &Login) {
    next_run(path, database).expect_code(0);
    assert_eq!(Journal::read(path).received, ["next"]);
}

/// Asserts that the next run refuses the journal and leaves it unchanged.
#[track_caller]
fn assert_refused(path: &Path, database: &Login) {
    let before = fs::read(path).unwrap();
    let run = next_run(path, database).expect_code(2);
    assert!(
        run.stderr.contains("contains unsettled tokens"),
        "{}",
        run.stderr
    );
    assert_eq!(fs::read(path).unwrap(), before);
}

#[test]
fn journal_is_reusable_when_a_replay_has_settled_it() {
    let (database, folder) = killed_run(&["aa", "b-b", "cc", "cc"]);
    let path = folder.path().join("journal");
    assert_refused(&path, &database);
    run_replay(&path, &database, 0);
    let journal = fs::read(&path).unwrap();
    run_replay(&path, &database, 0);
    assert_eq!(
        fs::read(&path).unwrap(),
        journal,
        "the second replay appends nothing"
    );
    assert_reusable(&path, &database);
    assert_eq!(database.rows(), ["aa", "cc", "cc", "next"]);
}

#[test]
fn journal_is_reusable_when_a_killed_replay_is_repeated() {
    let (database, folder) = killed_run(&["aa", "b-b", "cc"]);
    let path = folder.path().join("journal");
    let mut admin = database.admin();
    lock(&mut admin);
    let running = replay(&path, &database).spawn();
    wait_for_blocked_backend(&mut admin);
    running.signal("KILL");
    assert_eq!(running.wait().signal, Some(9));
    unlock(&mut admin);
    assert!(fs::read_to_string(&path).unwrap().contains("\"replay\":"));
    assert_refused(&path, &database);
    run_replay(&path, &database, 0);
    let (_, report) = run_replay(&path, &database, 0);
    assert_eq!(report.with_status("stored"), ["aa", "cc"]);
    assert_eq!(database.rows(), ["aa", "cc"]);
    assert_reusable(&path, &database);
}

/// The killed replay stored one of two equal tokens, and recorded it.
#[test]
fn replay_keeps_the_outcomes_of_a_killed_replay() {
    let database = Database::standard();
    let insert = "INSERT INTO secret_tokens (data) VALUES ('aa')";
    database.client().batch_execute(insert).unwrap();
    let stored = r#"{"token":"aa","status":"stored","attempts":1,"ms":1.0}"#;
    let (_folder, path) = journal_of(&[HEADER, r#"{"received":["aa","aa"]}"#, REPLAY, stored]);
    let (_, report) = run_replay(&path, &database, 0);
    assert_eq!(report.with_status("stored"), ["aa", "aa"]);
    assert_eq!(database.rows(), ["aa", "aa"]);
    assert_reusable(&path, &database);
}

/// An outcome of the replay replaces that of the run, and does not count as another token. A token that
/// the script made is in no page.
#[test]
fn token_is_counted_once_when_run_and_replay_record_it() {
    let database = Database::standard();
    let (_folder, path) = journal_of(&[
        HEADER,
        r#"{"received":["aa"]}"#,
        r#"{"token":"aa","status":"unknown","attempts":1,"ms":1.0}"#,
        r#"{"token":"made","status":"failed","attempts":1,"ms":1.0}"#,
    ]);
    for _ in 0..2 {
        let (_, report) = run_replay(&path, &database, 0);
        assert_eq!(report.with_status("stored"), ["aa", "made"]);
        assert_eq!(report.count("received"), 2);
        assert_eq!(database.rows(), ["aa", "made"]);
    }
    assert_reusable(&path, &database);
}

#[test]
fn replay_truncates_a_torn_line_before_it_appends() {
    for torn in [
        r#"{"received":["cc","d"#,
        "\0\0\0\0",
        "{\"replay\":{\"run",
        "\n\n",
        "",
    ] {
        let database = Database::standard();
        let (_folder, path) = journal_of(&[HEADER, r#"{"received":["aa","b-b"]}"#, torn]);
        run_replay(&path, &database, 0);
        // `Journal::read` panics if a line is torn.
        let mut outcomes = Journal::read(&path).outcomes;
        outcomes.sort();
        let tokens: Vec<&str> = outcomes.iter().map(|(token, _)| token.as_str()).collect();
        assert_eq!(tokens, ["aa", "b-b"], "{torn:?}");
        run_replay(&path, &database, 0);
        assert_eq!(database.rows(), ["aa"], "{torn:?}");
        assert_reusable(&path, &database);
    }
}

/// A killed replay may have sent a token that its run did not send. Only the table shows it.
#[test]
fn unsent_token_is_in_doubt_when_a_killed_replay_may_have_sent_it() {
    let database = Database::standard();
    let role = database.role_with("INSERT");
    let unsent = r#"{"token":"aa","status":"not_attempted"}"#;
    let (_folder, path) = journal_of(&[HEADER, r#"{"received":["aa"]}"#, unsent, REPLAY]);
    let (_, report) = run_replay(&path, &role, 5);
    assert_eq!(report.with_status("unknown"), ["aa"]);
    assert!(database.rows().is_empty());
    assert_refused(&path, &database);
    run_replay(&path, &database, 0);
    assert_eq!(database.rows(), ["aa"]);
    assert_reusable(&path, &database);
}

/// Runs a command so that file modes apply to it, even if root runs the tests.
fn unprivileged(command: &Command) -> Output {
    let raw = command.std_command();
    let is_root = belongs_to_root(command.dir());
    let mut wrapped = if is_root {
        let mut setpriv = std::process::Command::new("setpriv");
        let caps = ["--inh-caps=-dac_override", "--bounding-set=-dac_override"];
        setpriv.args(caps).arg(binary());
        setpriv
    } else {
        std::process::Command::new(binary())
    };
    wrapped.args(raw.get_args()).current_dir(command.dir());
    wrapped.env_clear();
    for (name, value) in raw.get_envs() {
        if let Some(value) = value {
            wrapped.env(name, value);
        }
    }
    wrapped.output().unwrap()
}

/// True if root owns the folder, and therefore runs the tests.
fn belongs_to_root(folder: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(folder).unwrap().uid() == 0
}

#[test]
fn read_only_journal_is_replayed_and_stays_unsettled() {
    use std::os::unix::fs::PermissionsExt as _;
    let (database, folder) = killed_run(&["aa", "b-b"]);
    let path = folder.path().join("journal");
    let before = fs::read(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    for _ in 0..2 {
        let done = unprivileged(&replay(&path, &database));
        let stderr = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(0), "{stderr}");
        let cause = "WARN the journal cannot be written; it will not record this replay cause=\"Permission denied";
        assert_eq!(stderr.matches(cause).count(), 1, "{stderr}");
        let report = Report::parse(&String::from_utf8(done.stdout).unwrap());
        assert_eq!(report.with_status("stored"), ["aa"]);
        assert_eq!(fs::read(&path).unwrap(), before);
        assert_eq!(database.rows(), ["aa"]);
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert_refused(&path, &database);
}

/// The summary of the second run says nothing about the tokens of the first one.
#[test]
fn journal_of_two_runs_is_not_overwritten() {
    let received = r#"{"received":["aa"]}"#;
    let settled = r#"{"summary":{"run_id":"018f0000-0000-7000-8000-000000000000","requested":1,"received":1,"requests":1,"surplus":0,"stored":1,"rejected":0,"failed":0,"unknown":0,"not_attempted":0}}"#;
    let database = Database::standard();
    let (_folder, path) = journal_of(&[HEADER, received, HEADER, settled]);
    assert_refused(&path, &database);
    let (_folder, path) = journal_of(&[HEADER, received, settled]);
    assert_reusable(&path, &database);
}

/// Nothing is received before the first page is in the journal.
#[test]
fn journal_is_reusable_when_it_holds_no_token() {
    for line in ["", "{\"jour", &HEADER[..60], HEADER] {
        let (_folder, path) = journal_of(&[line]);
        assert_reusable(&path, &Database::standard());
    }
}

#[test]
fn file_is_refused_and_unchanged_when_it_is_not_a_journal() {
    let database = Database::standard();
    let report = r#"{"token":"aa","status":"stored","attempts":1,"ms":1.0}"#;
    let summary =
        r#"{"summary":{"run_id":"1","requested":1,"failed":0,"unknown":0,"not_attempted":0}}"#;
    let lines = "ten years of work";
    let (_folder, path) = journal_of(&[lines, lines]);
    let run = next_run(&path, &database).expect_code(2);
    shows!(run.stderr, @"
    error: the journal [dir]/journal cannot be used
      caused by: it is not a token_service journal
    hint: the file was not changed: name another file
    ");
    for lines in [
        &["stored    aa", "stored    bb"][..],
        &["one line"],
        &[r#"{"journal":"what I did today"}"#],
        // All its tokens are settled, but it is a report.
        &[report, summary],
    ] {
        let (_folder, path) = journal_of(lines);
        let before = fs::read(&path).unwrap();
        let run = next_run(&path, &database).expect_code(2);
        assert!(
            run.stderr.contains("it is not a token_service journal"),
            "{}",
            run.stderr
        );
        assert_eq!(fs::read(&path).unwrap(), before);
    }
    assert!(database.rows().is_empty());
}

#[test]
fn replay_warns_when_the_file_holds_no_token() {
    let (_folder, path) = journal_of(&[]);
    let (run, report) = run_replay(&path, &Database::standard(), 0);
    assert_eq!(report.count("received"), 0);
    shows!(run.stderr, @"
     WARN nothing to replay: the file has no tokens
    0 requested, 0 received: 0 stored, 0 rejected in [seconds] s
    ");
}

/// The journal records SIZE, so a replay shows that some tokens were never received.
#[test]
fn replay_reports_size_when_the_killed_run_received_less() {
    let (database, mut admin) = locked_table();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let gate = Gate::new();
    let more = Response::tokens(["cc"]).after(&gate);
    let source = Source::responding([Response::tokens(["aa", "bb"]), more]);
    let running = run_with_journal(&source, &database, &path).arg("5").spawn();
    wait_for_blocked_backend(&mut admin);
    source.wait_for(2);
    running.signal("KILL");
    assert_eq!(running.wait().signal, Some(9));
    gate.open();
    unlock(&mut admin);

    let failing = replay(&path, &database).args(["--fail-on", "received<requested"]);
    let run = failing.run().expect_code(1);
    shows!(run.stderr, @"
    5 requested, 2 received: 2 stored, 0 rejected in [seconds] s ([rate] tokens/s)
    error: the condition `received<requested` of --fail-on holds
      caused by: received is 2, requested is 5
    hint: the report has every received token; start a new run for the rest
    ");
    assert_eq!(Report::of_run(&run).count("requested"), 5);
    // The journal holds SIZE, and so does the summary that the replay appended.
    let (run, report) = run_replay(&path, &database, 0);
    assert_eq!(report.count("requested"), 5);
    let merge = Command::new().file("k.ndjson", &run.stdout);
    let merged = merge.args(["merge", "k.ndjson"]).run().expect_code(4);
    shows!(merged.stderr, @"
    5 requested, 2 received: 2 stored, 0 rejected in [seconds] s ([rate] tokens/s)
    error: the token source delivered 2 of 5 tokens
    hint: start a new run for the rest
    ");
    assert_eq!(rows_with_ids(&database).len(), 2);
}
