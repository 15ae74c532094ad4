//! Long forms of other tests. Each takes minutes and prints one line.
//!
//! `cargo test --locked --test it -- --ignored --nocapture long` runs them. `TOKEN_SERVICE_KILLS`,
//! `TOKEN_SERVICE_FUZZ` and `TOKEN_SERVICE_SCRIPTS` set their size, and `TOKEN_SERVICE_SEED` sets the seed of
//! the kills and the scripts.

use crate::support::command::Command;
use crate::support::database::Database;
use crate::support::report::Report;
use crate::support::source::{Response, Source};
use crate::{hostile_scripts, hostile_source, kills, properties, secrets_stay_hidden};

fn env_number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |text| text.parse().expect("a number"))
}

#[test]
#[ignore = "takes minutes"]
fn replay_loses_and_duplicates_no_token_when_many_runs_are_killed() {
    let seed = env_number("TOKEN_SERVICE_SEED", fastrand::u64(..));
    let totals = kills::kill_runs(env_number("TOKEN_SERVICE_KILLS", 100), seed);
    println!(
        "{} kill -9 of token_service, replayed twice: {} journaled tokens lost, {} duplicated \
         ({} journaled, {} of them unsettled; {} replays killed too)",
        totals.kills,
        totals.lost,
        totals.duplicated,
        totals.journaled,
        totals.unsettled,
        totals.replays
    );
    assert_eq!((totals.lost, totals.duplicated), (0, 0));
}

/// Runs for 20,000 tokens, and returns the duration in milliseconds.
fn duration(database: &Database, args: &[&str]) -> u64 {
    let source = Source::generating(|size| size);
    let run = Command::new()
        .source(&source)
        .database(database)
        .args(["20000", "--page-size", "2000", "--report", "ndjson"])
        .args(args)
        .run()
        .expect_code(0);
    Report::of_run(&run).count("duration_ms")
}

#[test]
#[ignore = "takes minutes"]
fn journal_cost_is_measured() {
    let database = Database::standard();
    duration(&database, &[]);
    let mut without = Vec::new();
    let mut with = Vec::new();
    for _ in 0..7 {
        without.push(duration(&database, &[]));
        with.push(duration(&database, &["--journal", "journal"]));
    }
    let median = |mut all: Vec<u64>| {
        all.sort_unstable();
        all[all.len() / 2].max(1)
    };
    let (without, with) = (median(without), median(with));
    println!(
        "journal: 20,000 tokens in pages of 2,000, median of 7: {with} ms with, {without} ms without \
         ({}/s and {}/s)",
        20_000_000 / with,
        20_000_000 / without
    );
}

#[test]
#[ignore = "takes minutes"]
fn no_message_contains_a_canary() {
    let searched = secrets_stay_hidden::search();
    println!(
        "canary: {} hits in {} bytes of trace logs, errors and command lines",
        searched.hits.len(),
        searched.bytes
    );
    assert!(
        searched.hits.is_empty(),
        "{}",
        searched.hits.join("\n---\n")
    );
}

#[test]
#[ignore = "takes minutes"]
fn parsers_do_not_panic_on_random_input() {
    let cases =
        u32::try_from(env_number("TOKEN_SERVICE_FUZZ", 50_000)).expect("fewer than 2^32 cases");
    let inputs = properties::lines(cases)
        + properties::journal(cases)
        + properties::configuration(cases / 5)
        + properties::script(cases / 5)
        + properties::script_run(cases / 50);
    println!("{inputs} fuzz inputs, 0 panics");
}

#[test]
#[ignore = "takes minutes"]
fn memory_stays_bounded_when_a_line_has_a_gigabyte() {
    let line = Response::repeated(vec![b'a'; 256 * 1024], 4096);
    let config = "source: {max_body: 4GiB, timeout: 55s}";
    let (lines, line) = hostile_source::fetch_hostile(line, config);
    assert!(lines[0].starts_with("rejected  aaaa"));
    let endless = Response::endless("aa\nbb\n");
    let (_, endless) =
        hostile_source::fetch_hostile(endless, "source: {timeout: 5s, max_body: 4GiB}");
    println!(
        "hostile source: peak {line} KiB with a line of 1 GiB, {endless} KiB with a body without end"
    );
}

#[test]
#[ignore = "takes minutes"]
fn generated_scripts_neither_crash_nor_lose_tokens() {
    let seed = env_number("TOKEN_SERVICE_SEED", 1000);
    let count = env_number("TOKEN_SERVICE_SCRIPTS", 1000);
    let totals = hostile_scripts::run_scripts(count, seed);
    println!(
        "{count} generated scripts from seed {seed}: {} ran, {} were refused, 0 aborts, {} tokens, all \
         reported; highest peak {} MiB",
        totals.started,
        totals.refused,
        totals.tokens,
        totals.peak >> 20
    );
}
