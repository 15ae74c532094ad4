//! SIGKILL of token_service at moments drawn from a printed seed: whatever the moment, two replays
//! leave each token that reached the journal in the table once, or reported as rejected.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use crate::journal::{contents, replay, replayed};
use crate::support::command::Command;
use crate::support::database::Database;
use crate::support::journal::Journal;
use crate::support::source::Source;

/// How many tokens a run asks for.
const SIZE: u64 = 3000;

/// What came of some kills.
#[derive(Debug, Default)]
pub struct Toll {
    /// Runs that were killed before they ended.
    pub kills: u64,
    /// Replays that were killed before they ended.
    pub replays: u64,
    /// Tokens in the journals.
    pub journaled: u64,
    /// Those that the journal did not know to be settled.
    pub open: u64,
    /// Neither in the table nor rejected after the replays.
    pub lost: u64,
    /// More often in the table than received.
    pub twice: u64,
}

/// Kills runs until `kills` of them did not end by themselves.
pub fn toll(kills: u64, seed: u64) -> Toll {
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let database = Database::standard();
    let mut toll = Toll::default();
    while toll.kills < kills {
        let mut client = database.client();
        client.batch_execute("TRUNCATE secret_tokens").unwrap();
        one(&database, &mut random, &mut toll);
    }
    toll
}

fn one(database: &Database, random: &mut fastrand::Rng, toll: &mut Toll) {
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
        // Before it asked for anything, or a little later.
        _ => {}
    }
    // No waiting for anything: this is the moment, drawn at random.
    std::thread::park_timeout(Duration::from_micros(random.u64(0..20_000)));
    running.signal("KILL");
    let run = running.wait();
    toll.kills += u64::from(run.signal == Some(9));
    drop(source);
    let left = Journal::read(&journal);

    if random.bool() && journal.exists() {
        let running = replay(&journal, database).spawn();
        std::thread::park_timeout(Duration::from_micros(random.u64(0..60_000)));
        running.signal("KILL");
        toll.replays += u64::from(running.wait().signal == Some(9));
    }
    if journal.exists() {
        count(database, &journal, &left, toll);
    } else {
        assert!(contents(database).is_empty(), "stored without a journal");
    }
}

/// Replays twice, and compares what the run left in its journal, the report and the table.
fn count(database: &Database, path: &Path, journal: &Journal, toll: &mut Toll) {
    let (_, first) = replayed(path, database, 0);
    let stored = contents(database);
    let (_, second) = replayed(path, database, 0);
    assert_eq!(contents(database), stored, "a second replay stores nothing");
    for state in ["stored", "rejected"] {
        assert_eq!(first.with_status(state), second.with_status(state));
    }
    let known = journal.outcomes.iter();
    let settled = known.filter(|(_, status)| status == "stored" || status == "rejected");
    toll.open += journal.received.len() as u64 - settled.count() as u64;
    toll.journaled += journal.received.len() as u64;
    let in_table = numbers(stored.into_iter().map(|(_, token)| token));
    let rejected = numbers(first.with_status("rejected"));
    let received = numbers(journal.received.iter().cloned());
    for (token, received) in &received {
        let there = in_table.get(token).copied().unwrap_or(0);
        let refused = rejected.get(token).copied().unwrap_or(0);
        toll.lost += received.saturating_sub(there + refused);
        toll.twice += (there + refused).saturating_sub(*received);
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

fn numbers(texts: impl IntoIterator<Item = String>) -> HashMap<String, u64> {
    let mut numbers = HashMap::new();
    for text in texts {
        *numbers.entry(text).or_default() += 1;
    }
    numbers
}

#[test]
fn a_few_kills_lose_nothing_and_store_nothing_twice() {
    let toll = toll(5, fastrand::u64(..));
    assert_eq!((toll.lost, toll.twice), (0, 0), "{toll:?}");
}
