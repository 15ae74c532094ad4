//! Tests that kill token_service with SIGKILL at random moments and replay the journal twice. Each
//! journaled token is then in the table once or reported as rejected. The seed is printed.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use crate::journal::{replay, rows_with_ids, run_replay};
use crate::support::command::Command;
use crate::support::database::Database;
use crate::support::journal::Journal;
use crate::support::source::Source;

/// The number of tokens that a run requests.
const SIZE: u64 = 3000;

/// Totals of runs that were killed.
#[derive(Debug, Default)]
pub struct KillTotals {
    /// Runs that were killed before they ended.
    pub kills: u64,
    /// Replays that were killed before they ended.
    pub replays: u64,
    /// Tokens in the journals.
    pub journaled: u64,
    /// Tokens whose outcome was not in the journal.
    pub unsettled: u64,
    /// Tokens that are neither in the table nor rejected after the replays.
    pub lost: u64,
    /// Tokens that are in the table more often than they were received.
    pub duplicated: u64,
}

/// Kills runs until SIGKILL has ended `kills` of them.
pub fn kill_runs(kills: u64, seed: u64) -> KillTotals {
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let database = Database::standard();
    let mut totals = KillTotals::default();
    while totals.kills < kills {
        let mut client = database.client();
        client.batch_execute("TRUNCATE secret_tokens").unwrap();
        kill_one_run(&database, &mut random, &mut totals);
    }
    totals
}

fn kill_one_run(database: &Database, random: &mut fastrand::Rng, totals: &mut KillTotals) {
    let source = Source::generating(|size| size - size / 7);
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    let page = random.u64(50..1000).to_string();
    let running = Command::new()
        .source(&source)
        .database(database)
        .arg(SIZE.to_string())
        .args(["--page-size", &page, "--report", "ndjson", "--journal"])
        .arg(&journal)
        .spawn();
    match random.u8(0..3) {
        0 => source.wait_for(random.usize(1..4)),
        1 => {
            let lines = random.usize(1..2500);
            running.wait_for_stdout(|text| text.lines().count() >= lines);
        }
        // Before the first request, or shortly after it.
        _ => {}
    }
    // This waits for no event. It draws the moment at random.
    std::thread::park_timeout(Duration::from_micros(random.u64(0..20_000)));
    running.signal("KILL");
    let run = running.wait();
    totals.kills += u64::from(run.signal == Some(9));
    drop(source);
    let before_replay = Journal::read(&journal);

    if random.bool() && journal.exists() {
        let running = replay(&journal, database).spawn();
        std::thread::park_timeout(Duration::from_micros(random.u64(0..60_000)));
        running.signal("KILL");
        totals.replays += u64::from(running.wait().signal == Some(9));
    }
    if journal.exists() {
        count(database, &journal, &before_replay, totals);
    } else {
        assert!(
            rows_with_ids(database).is_empty(),
            "stored without a journal"
        );
    }
}

/// Replays twice, and compares the journal of the run, the reports and the table.
fn count(database: &Database, path: &Path, journal: &Journal, totals: &mut KillTotals) {
    let (_, first) = run_replay(path, database, 0);
    let stored = rows_with_ids(database);
    let (_, second) = run_replay(path, database, 0);
    assert_eq!(
        rows_with_ids(database),
        stored,
        "a second replay stores nothing"
    );
    for state in ["stored", "rejected"] {
        assert_eq!(first.with_status(state), second.with_status(state));
    }
    let known = journal.outcomes.iter();
    let settled = known.filter(|(_, status)| status == "stored" || status == "rejected");
    totals.unsettled += journal.received.len() as u64 - settled.count() as u64;
    totals.journaled += journal.received.len() as u64;
    let in_table = occurrences(stored.into_iter().map(|(_, token)| token));
    let rejected = occurrences(first.with_status("rejected"));
    let received = occurrences(journal.received.iter().cloned());
    for (token, received) in &received {
        let stored = in_table.get(token).copied().unwrap_or(0);
        let refused = rejected.get(token).copied().unwrap_or(0);
        totals.lost += received.saturating_sub(stored + refused);
        totals.duplicated += (stored + refused).saturating_sub(*received);
    }
    for token in in_table.keys() {
        assert!(
            received.contains_key(token),
            "stored before it was journaled"
        );
    }
    let rows: u64 = in_table.values().sum();
    assert_eq!(first.count("stored"), rows);
}

fn occurrences(texts: impl IntoIterator<Item = String>) -> HashMap<String, u64> {
    let mut occurrences = HashMap::new();
    for text in texts {
        *occurrences.entry(text).or_default() += 1;
    }
    occurrences
}

#[test]
fn replay_loses_and_duplicates_no_token_when_runs_are_killed() {
    let totals = kill_runs(5, fastrand::u64(..));
    assert_eq!((totals.lost, totals.duplicated), (0, 0), "{totals:?}");
}
