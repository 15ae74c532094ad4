//! Responses of a hostile source: endless bodies, overlong lines, compression bombs and slow bodies. The
//! memory of token_service stays bounded, complete lines are kept, and one error is reported.
//!
//! The peak memory is read while the process runs. A gate holds its last request back, so the peak
//! includes all earlier work.

use std::io::Write as _;
use std::process::{Command as Process, Stdio};
use std::time::Duration;

use crate::support::command::{Command, peak_memory};
use crate::support::database::Database;
use crate::support::report::Report;
use crate::support::source::{Gate, Response, Source};

/// The maximum of the peak memory, in KiB.
const MAX_PEAK: u64 = 64 * 1024;
/// Limits above the defaults, so that the limits do not bound the memory.
const HIGH_LIMITS: &str = "source: {max_body: 4GiB, timeout: 50s}";
/// Fetches twice, and prints the kind of each error.
const SCRIPT: &str = "
    try { report(store(fetch_once(5))); } catch (error) { emit(error.kind); }
    try { report(store(fetch_once(5))); } catch (error) { emit(error.kind); }";

/// Runs the script with this response; returns standard output and the peak memory in KiB.
#[track_caller]
pub fn fetch_hostile(answer: Response, config: &str) -> (Vec<String>, u64) {
    let database = Database::standard();
    let gate = Gate::new();
    let source = Source::responding([answer, Response::tokens(["end"]).after(&gate)]);
    let running = Command::new()
        .source(&source)
        .database(&database)
        .config(config)
        .file("fetch.rhai", SCRIPT)
        .args(["--script", "fetch.rhai", "--report", "text"])
        .spawn();
    source.wait_for(2);
    let peak = peak_memory(running.pid).expect("the kernel reports the peak") / 1024;
    gate.open();
    let run = running.wait();
    assert!(peak <= MAX_PEAK, "{peak} KiB: {}", run.stderr);
    let lines = run.stdout.lines().map(str::to_owned).collect();
    (lines, peak)
}

fn assert_output(name: &str, outcome: (Vec<String>, u64), expected: &[&str]) {
    let (lines, peak) = outcome;
    println!("{name}: peak {peak} KiB");
    assert_eq!(
        lines.first().map(String::as_str),
        expected.first().copied(),
        "{name}: {lines:?}"
    );
    assert_eq!(lines, expected, "{name}");
}

/// A line of this many MiB, compressed with gzip.
fn gzip_bomb(mebibytes: usize) -> Vec<u8> {
    let mut gzip = Process::new("gzip")
        .args(["-1", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("gzip");
    let mut stdin = gzip.stdin.take().unwrap();
    let writer = std::thread::spawn(move || {
        let mebibyte = vec![b'a'; 1024 * 1024];
        for _ in 0..mebibytes {
            stdin.write_all(&mebibyte).unwrap();
        }
    });
    let compressed = gzip.wait_with_output().unwrap().stdout;
    writer.join().unwrap();
    compressed
}

#[test]
fn endless_body_ends_at_max_body() {
    let outcome = fetch_hostile(
        Response::endless("aa\nbb\ncc\n"),
        "source: {max_body: 1MiB}",
    );
    let (lines, peak) = outcome;
    println!("endless body: peak {peak} KiB");
    // Five of the complete lines before the limit are kept, because five tokens were requested.
    let stored = lines.iter().filter(|line| line.starts_with("stored"));
    assert_eq!(stored.count(), 6, "{lines:?}");
    assert!(lines.contains(&"http_protocol".to_owned()), "{lines:?}");
}

#[test]
fn overlong_line_is_one_rejected_token() {
    let line = Response::repeated(vec![b'a'; 256 * 1024], 512);
    let (lines, peak) = fetch_hostile(line, HIGH_LIMITS);
    println!("line of 128 MiB: peak {peak} KiB");
    assert!(
        lines[0].starts_with("rejected  aaaa"),
        "{}",
        &lines[0][..40]
    );
    assert!(lines[0].ends_with("too long"), "{}", &lines[0][1000..]);
}

#[test]
fn compressed_body_is_not_unpacked() {
    let answer = Response::raw("text/plain", gzip_bomb(256)).header("content-encoding", "gzip");
    let (lines, peak) = fetch_hostile(answer, HIGH_LIMITS);
    println!("gzip bomb of 256 MiB: peak {peak} KiB");
    assert!(!lines.iter().any(|line| line.contains("aaaa")));
}

#[test]
fn oversized_headers_are_a_protocol_error() {
    let answer = Response::tokens(["aa"]).header("x-padding", &"a".repeat(4 * 1024 * 1024));
    let outcome = fetch_hostile(answer, HIGH_LIMITS);
    assert_output(
        "header of 4 MiB",
        outcome,
        &["http_protocol", "stored    end"],
    );
    let many = (0..5000).fold(Response::tokens(["aa"]), |answer, n| {
        answer.header(&format!("x-{n}"), "a")
    });
    let outcome = fetch_hostile(many, HIGH_LIMITS);
    assert_output(
        "5,000 headers",
        outcome,
        &["http_protocol", "stored    end"],
    );
}

#[test]
fn slow_body_ends_at_the_timeout() {
    let slow = Response::slow("aa\n", Duration::from_millis(100));
    let (lines, peak) = fetch_hostile(slow, "source: {timeout: 1s}");
    println!("slow body: peak {peak} KiB");
    assert!(lines.contains(&"http_timeout".to_owned()), "{lines:?}");
    assert!(
        lines[0].starts_with("stored    aa"),
        "received tokens are kept: {lines:?}"
    );
}

#[test]
fn redirects_are_not_followed() {
    let outcome = fetch_hostile(
        Response::status(307).header("location", "/tokens"),
        HIGH_LIMITS,
    );
    assert_output("redirects", outcome, &["http_status", "stored    end"]);
}

#[test]
fn complete_lines_are_kept_when_an_http2_stream_is_reset() {
    let database = Database::standard();
    let source = Source::responding_over_tls([Response::truncated("aa\nbb\nc", 100)]);
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
    assert!(
        run.error()
            .contains("the token source's answer ended early")
    );
}
