//! A source that means harm: bodies without end, lines without end, bombs and drips. The memory of
//! token_service stays within bounds, whole lines are kept, and one error tells.
//!
//! The peak is read while the process still lives: its last request is held back by a gate, so that
//! all that went before it is in the figure.

use std::io::Write as _;
use std::process::{Command as Process, Stdio};
use std::time::Duration;

use crate::support::command::{Command, peak_memory};
use crate::support::database::Database;
use crate::support::report::Report;
use crate::support::source::{Gate, Response, Source};

/// The most that the process may ever have held, in KiB.
const MOST: u64 = 64 * 1024;
/// Larger caps than the default ones, so that it is not they that bound the memory.
const CAPS: &str = "source: {max_body: 4GiB, timeout: 50s}";
/// Takes one answer, whatever it is, and asks once more.
const SCRIPT: &str = "
    try { report(store(fetch_once(5))); } catch (error) { emit(error.kind); }
    try { report(store(fetch_once(5))); } catch (error) { emit(error.kind); }";

/// Meets one answer. Gives standard output, and the peak in KiB.
#[track_caller]
pub fn meet(answer: Response, config: &str) -> (Vec<String>, u64) {
    let database = Database::standard();
    let gate = Gate::new();
    let source = Source::responding([answer, Response::tokens(["end"]).after(&gate)]);
    let running = Command::new()
        .source(&source)
        .database(&database)
        .config(config)
        .file("meet.rhai", SCRIPT)
        .args(["--script", "meet.rhai", "--report", "text"])
        .spawn();
    source.wait_for(2);
    let peak = peak_memory(running.pid).expect("the kernel tells the peak") / 1024;
    gate.open();
    let run = running.wait();
    assert!(peak <= MOST, "{peak} KiB: {}", run.stderr);
    let lines = run.stdout.lines().map(str::to_owned).collect();
    (lines, peak)
}

fn expect(name: &str, met: (Vec<String>, u64), expected: &[&str]) {
    let (lines, peak) = met;
    println!("{name}: peak {peak} KiB");
    assert_eq!(
        lines.first().map(String::as_str),
        expected.first().copied(),
        "{name}: {lines:?}"
    );
    assert_eq!(lines, expected, "{name}");
}

/// `gzip` of so many MiB of lines.
fn bomb(mebibytes: usize) -> Vec<u8> {
    let mut gzip = Process::new("gzip")
        .args(["-1", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("gzip");
    let mut into = gzip.stdin.take().unwrap();
    let feeder = std::thread::spawn(move || {
        let mebibyte = vec![b'a'; 1024 * 1024];
        for _ in 0..mebibytes {
            into.write_all(&mebibyte).unwrap();
        }
    });
    let packed = gzip.wait_with_output().unwrap().stdout;
    feeder.join().unwrap();
    packed
}

#[test]
fn a_body_without_end_ends_at_the_cap() {
    let met = meet(
        Response::endless("aa\nbb\ncc\n"),
        "source: {max_body: 1MiB}",
    );
    let (lines, peak) = met;
    println!("a body without end: peak {peak} KiB");
    // The whole lines that came before the cap are kept, five of them, for that many were asked for.
    let stored = lines.iter().filter(|line| line.starts_with("stored"));
    assert_eq!(stored.count(), 6, "{lines:?}");
    assert!(lines.contains(&"http_protocol".to_owned()), "{lines:?}");
}

#[test]
fn a_line_that_is_far_too_long_is_one_rejected_token() {
    let line = Response::repeated(vec![b'a'; 256 * 1024], 512);
    let (lines, peak) = meet(line, CAPS);
    println!("a line of 128 MiB: peak {peak} KiB");
    assert!(
        lines[0].starts_with("rejected  aaaa"),
        "{}",
        &lines[0][..40]
    );
    assert!(lines[0].ends_with("too long"), "{}", &lines[0][1000..]);
}

#[test]
fn a_bomb_is_not_unpacked() {
    let answer = Response::raw("text/plain", bomb(256)).header("content-encoding", "gzip");
    let (lines, peak) = meet(answer, CAPS);
    println!("a bomb of 256 MiB: peak {peak} KiB");
    assert!(!lines.iter().any(|line| line.contains("aaaa")));
}

#[test]
fn headers_without_end_are_no_answer() {
    let answer = Response::tokens(["aa"]).header("x-padding", &"a".repeat(4 * 1024 * 1024));
    let met = meet(answer, CAPS);
    expect(
        "a header of 4 MiB",
        met,
        &["http_protocol", "stored    end"],
    );
    let many = (0..5000).fold(Response::tokens(["aa"]), |answer, n| {
        answer.header(&format!("x-{n}"), "a")
    });
    let met = meet(many, CAPS);
    expect("5,000 headers", met, &["http_protocol", "stored    end"]);
}

#[test]
fn a_drip_ends_at_the_time_limit() {
    let drip = Response::drip("aa\n", Duration::from_millis(100));
    let (lines, peak) = meet(drip, "source: {timeout: 1s}");
    println!("a drip: peak {peak} KiB");
    assert!(lines.contains(&"http_timeout".to_owned()), "{lines:?}");
    assert!(
        lines[0].starts_with("stored    aa"),
        "what came is kept: {lines:?}"
    );
}

#[test]
fn a_circle_of_redirects_is_asked_once() {
    let met = meet(Response::status(307).header("location", "/tokens"), CAPS);
    expect("redirects", met, &["http_status", "stored    end"]);
}

#[test]
fn an_http_2_stream_that_is_reset_in_the_middle_keeps_its_whole_lines() {
    let database = Database::standard();
    let source = Source::responding_over_tls([Response::cut("aa\nbb\nc", 100)]);
    let run = Command::new()
        .source(&source)
        .database(&database)
        .args(["5", "--report", "ndjson"])
        .run()
        .expect_code(4);
    assert_eq!(source.requests()[0].version, "HTTP/2.0");
    let report = Report::of_run(&run);
    assert_eq!(report.with_status("stored"), ["aa", "bb"]);
    assert_eq!(report.count("issued_unseen"), 3);
    assert!(run.error().contains("the token source's answer broke off"));
}
