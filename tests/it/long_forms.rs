//! The long forms of what other tests do in short: they take minutes, are asked for by
//! `cargo test --locked --test it -- --ignored --nocapture long`, and print a line each.
//! `TOKEN_SERVICE_KILLS`, `TOKEN_SERVICE_FUZZ` and `TOKEN_SERVICE_SEED` change how much and what.

use crate::support::command::Command;
use crate::support::database::Database;
use crate::support::report::Report;
use crate::support::source::{Response, Source};
use crate::{hostile_source, kills, properties, secrets_stay_hidden};

fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |text| text.parse().expect("a number"))
}

#[test]
#[ignore = "minutes"]
fn kills_of_token_service() {
    let seed = number("TOKEN_SERVICE_SEED", fastrand::u64(..));
    let toll = kills::toll(number("TOKEN_SERVICE_KILLS", 100), seed);
    println!(
        "{} kill -9 of token_service, replayed twice: {} journaled tokens lost, {} twice \
         ({} journaled, {} of them unsettled; {} replays killed too)",
        toll.kills, toll.lost, toll.twice, toll.journaled, toll.open, toll.replays
    );
    assert_eq!((toll.lost, toll.twice), (0, 0));
}

/// How long a run takes, in milliseconds.
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
#[ignore = "minutes"]
fn cost_of_the_journal() {
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
#[ignore = "minutes"]
fn canaries() {
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
#[ignore = "minutes"]
fn rubbish() {
    let cases = u32::try_from(number("TOKEN_SERVICE_FUZZ", 50_000)).expect("not that many");
    let inputs = properties::lines(cases)
        + properties::journal(cases)
        + properties::configuration(cases / 5)
        + properties::script(cases / 5)
        + properties::script_run(cases / 50);
    println!("{inputs} fuzz inputs, 0 panics");
}

#[test]
#[ignore = "minutes"]
fn a_line_of_a_gigabyte() {
    let line = Response::repeated(vec![b'a'; 256 * 1024], 4096);
    let config = "source: {max_body: 4GiB, timeout: 55s}";
    let (lines, line) = hostile_source::meet(line, config);
    assert!(lines[0].starts_with("rejected  aaaa"));
    let endless = Response::endless("aa\nbb\n");
    let (_, endless) = hostile_source::meet(endless, "source: {timeout: 5s, max_body: 4GiB}");
    println!(
        "hostile source: peak {line} KiB with a line of 1 GiB, {endless} KiB with a body without end"
    );
}
