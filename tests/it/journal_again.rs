//! A journal after its run: what a replay settles stands in it, so that a later run may keep it again,
//! and what is no journal, or holds tokens that are not settled, is left as it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::journal::{contents, journaled, killed_in_the_middle, replay, replayed};
use crate::outages::{lock, locked, unlock, waiting_backend};
use crate::support::command::{Command, Run, binary};
use crate::support::database::{Database, Login};
use crate::support::journal::Journal;
use crate::support::report::Report;
use crate::support::snapshot::shows;
use crate::support::source::{Gate, Response, Source};

const HEADER: &str = r#"{"journal":{"version":1,"run_id":"018f0000-0000-7000-8000-000000000000","horizon":null,"table":"secret_tokens","column":"data"}}"#;
const REPLAY: &str = r#"{"replay":{"run_id":"018f0000-0000-7000-8000-000000000001"}}"#;

/// A journal of these lines, as a crash could have left it.
fn left(lines: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    fs::write(&path, lines.join("\n")).unwrap();
    (folder, path)
}

/// A run of one token that keeps its journal there.
fn next_run(path: &Path, database: &Login) -> Run {
    let source = Source::generating_with(|_| vec![String::from("next")]);
    let run = journaled(&source, database, path).arg("1").run();
    assert_eq!(source.requests().len(), usize::from(run.code == Some(0)));
    run
}

/// Its only tokens are those of the next run.
#[track_caller]
fn is_used_again(path: &Path, database: &Login) {
    next_run(path, database).expect_code(0);
    assert_eq!(Journal::read(path).received, ["next"]);
}

#[track_caller]
fn is_refused(path: &Path, database: &Login) {
    let before = fs::read(path).unwrap();
    let run = next_run(path, database).expect_code(2);
    assert!(run.stderr.contains("did not settle all"), "{}", run.stderr);
    assert_eq!(fs::read(path).unwrap(), before);
}

#[test]
fn a_journal_is_used_again_once_a_replay_has_settled_it() {
    let (database, folder) = killed_in_the_middle(&["aa", "b-b", "cc", "cc"]);
    let path = folder.path().join("journal");
    is_refused(&path, &database);
    replayed(&path, &database, 0);
    let journal = fs::read(&path).unwrap();
    replayed(&path, &database, 0);
    assert_eq!(fs::read(&path).unwrap(), journal, "nothing is left to say");
    is_used_again(&path, &database);
    assert_eq!(database.rows(), ["aa", "cc", "cc", "next"]);
}

#[test]
fn a_replay_that_was_killed_is_repeated_and_the_journal_used_again() {
    let (database, folder) = killed_in_the_middle(&["aa", "b-b", "cc"]);
    let path = folder.path().join("journal");
    let mut admin = database.admin();
    lock(&mut admin);
    let running = replay(&path, &database).spawn();
    waiting_backend(&mut admin);
    running.signal("KILL");
    assert_eq!(running.wait().signal, Some(9));
    unlock(&mut admin);
    assert!(fs::read_to_string(&path).unwrap().contains("{\"replay\":"));
    is_refused(&path, &database);
    replayed(&path, &database, 0);
    let (_, report) = replayed(&path, &database, 0);
    assert_eq!(report.with_status("stored"), ["aa", "cc"]);
    assert_eq!(database.rows(), ["aa", "cc"]);
    is_used_again(&path, &database);
}

/// It stored one of two equal tokens and said so; the other is still to come.
#[test]
fn what_a_killed_replay_has_settled_counts() {
    let database = Database::standard();
    let insert = "INSERT INTO secret_tokens (data) VALUES ('aa')";
    database.client().batch_execute(insert).unwrap();
    let stored = r#"{"token":"aa","status":"stored","attempts":1,"ms":1.0}"#;
    let (_folder, path) = left(&[HEADER, r#"{"received":["aa","aa"]}"#, REPLAY, stored]);
    let (_, report) = replayed(&path, &database, 0);
    assert_eq!(report.with_status("stored"), ["aa", "aa"]);
    assert_eq!(database.rows(), ["aa", "aa"]);
    is_used_again(&path, &database);
}

/// What the run said of them is past, and they are no more tokens for being named twice. One that the
/// script made is in no page.
#[test]
fn a_token_that_a_replay_settles_is_counted_once() {
    let database = Database::standard();
    let (_folder, path) = left(&[
        HEADER,
        r#"{"received":["aa"]}"#,
        r#"{"token":"aa","status":"unknown","attempts":1,"ms":1.0}"#,
        r#"{"token":"made","status":"failed","attempts":1,"ms":1.0}"#,
    ]);
    for _ in 0..2 {
        let (_, report) = replayed(&path, &database, 0);
        assert_eq!(report.with_status("stored"), ["aa", "made"]);
        assert_eq!(report.count("received"), 2);
        assert_eq!(database.rows(), ["aa", "made"]);
    }
    is_used_again(&path, &database);
}

#[test]
fn a_replay_cuts_a_torn_line_off_before_it_goes_on() {
    for torn in [
        r#"{"received":["cc","d"#,
        "\0\0\0\0",
        "{\"replay\":{\"run",
        "\n\n",
        "",
    ] {
        let database = Database::standard();
        let (_folder, path) = left(&[HEADER, r#"{"received":["aa","b-b"]}"#, torn]);
        replayed(&path, &database, 0);
        // Every line is whole, or this panics.
        let mut outcomes = Journal::read(&path).outcomes;
        outcomes.sort();
        let tokens: Vec<&str> = outcomes.iter().map(|(token, _)| token.as_str()).collect();
        assert_eq!(tokens, ["aa", "b-b"], "{torn:?}");
        replayed(&path, &database, 0);
        assert_eq!(database.rows(), ["aa"], "{torn:?}");
        is_used_again(&path, &database);
    }
}

/// A replay that was killed may have sent what its run had not: only the table could tell.
#[test]
fn what_a_killed_replay_took_up_is_in_doubt() {
    let database = Database::standard();
    let role = database.role_with("INSERT");
    let unsent = r#"{"token":"aa","status":"not_attempted"}"#;
    let (_folder, path) = left(&[HEADER, r#"{"received":["aa"]}"#, unsent, REPLAY]);
    let (_, report) = replayed(&path, &role, 5);
    assert_eq!(report.with_status("unknown"), ["aa"]);
    assert!(database.rows().is_empty());
    is_refused(&path, &database);
    replayed(&path, &database, 0);
    assert_eq!(database.rows(), ["aa"]);
    is_used_again(&path, &database);
}

/// Runs it so that the modes of files hold for it, whoever runs the tests.
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

/// True where whoever runs the tests, and so made the folder, is root.
fn belongs_to_root(folder: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(folder).unwrap().uid() == 0
}

#[test]
fn a_journal_that_cannot_be_written_is_replayed_and_stays_unsettled() {
    use std::os::unix::fs::PermissionsExt as _;
    let (database, folder) = killed_in_the_middle(&["aa", "b-b"]);
    let path = folder.path().join("journal");
    let before = fs::read(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    for _ in 0..2 {
        let done = unprivileged(&replay(&path, &database));
        let stderr = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(0), "{stderr}");
        let cause =
            "WARN the journal cannot be written and stays unsettled cause=\"Permission denied";
        assert_eq!(stderr.matches(cause).count(), 1, "{stderr}");
        let report = Report::parse(&String::from_utf8(done.stdout).unwrap());
        assert_eq!(report.with_status("stored"), ["aa"]);
        assert_eq!(fs::read(&path).unwrap(), before);
        assert_eq!(database.rows(), ["aa"]);
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    is_refused(&path, &database);
}

/// Before the first page nothing was received.
#[test]
fn a_journal_that_holds_no_token_is_used_again() {
    for line in ["", "{\"jour", &HEADER[..60], HEADER] {
        let (_folder, path) = left(&[line]);
        is_used_again(&path, &Database::standard());
    }
}

#[test]
fn what_is_no_journal_is_named_as_such_and_left() {
    let database = Database::standard();
    let report = r#"{"token":"aa","status":"stored","attempts":1,"ms":1.0}"#;
    let summary =
        r#"{"summary":{"run_id":"1","requested":1,"failed":0,"unknown":0,"not_attempted":0}}"#;
    let lines = "ten years of work";
    let (_folder, path) = left(&[lines, lines]);
    let run = next_run(&path, &database).expect_code(2);
    shows!(run.stderr, @"
    error: the journal [dir]/journal cannot be used
      caused by: it is no journal of token_service
    hint: it was left as it is: name another file
    ");
    for lines in [
        &["stored    aa", "stored    bb"][..],
        &["one line"],
        &[r#"{"journal":"what I did today"}"#],
        // All its tokens are settled, and yet it is a report.
        &[report, summary],
    ] {
        let (_folder, path) = left(lines);
        let before = fs::read(&path).unwrap();
        let run = next_run(&path, &database).expect_code(2);
        assert!(run.stderr.contains("it is no journal"), "{}", run.stderr);
        assert_eq!(fs::read(&path).unwrap(), before);
    }
    assert!(database.rows().is_empty());
}

#[test]
fn a_replay_of_nothing_says_so() {
    let (_folder, path) = left(&[]);
    let (run, report) = replayed(&path, &Database::standard(), 0);
    assert_eq!(report.count("received"), 0);
    shows!(run.stderr, @"
     WARN the file holds no token: there is nothing to replay
    0 requested, 0 received: 0 stored, 0 rejected in [seconds] s
    ");
}

/// What was asked for outlives the run, so that whoever replays it can tell that some never came.
#[test]
fn a_killed_run_that_had_not_received_its_size_says_so_in_its_replay() {
    let (database, mut admin) = locked();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let gate = Gate::new();
    let more = Response::tokens(["cc"]).after(&gate);
    let source = Source::responding([Response::tokens(["aa", "bb"]), more]);
    let running = journaled(&source, &database, &path).arg("5").spawn();
    waiting_backend(&mut admin);
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
    hint: the report holds every token that was received; ask for the rest in a new run
    ");
    assert_eq!(Report::of_run(&run).count("requested"), 5);
    // The journal says it, and the summary that the replay left in it.
    let (run, report) = replayed(&path, &database, 0);
    assert_eq!(report.count("requested"), 5);
    let merge = Command::new().file("k.ndjson", &run.stdout);
    let merged = merge.args(["merge", "k.ndjson"]).run().expect_code(4);
    shows!(merged.stderr, @"
    5 requested, 2 received: 2 stored, 0 rejected in [seconds] s ([rate] tokens/s)
    error: the token source delivered 2 of 5 tokens
    hint: ask again for the rest
    ");
    assert_eq!(contents(&database).len(), 2);
}
