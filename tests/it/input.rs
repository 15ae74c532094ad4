//! `--input`: tokens from a file or a pipe instead of the source.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use crate::support::command::Command;
use crate::support::database::Database;
use crate::support::report::Report;
use crate::support::snapshot::shows;

/// A run without a configured source.
fn run() -> Command {
    Command::new()
        .database(&Database::standard())
        .args(["--report", "ndjson"])
}

/// A run of this script with this input.
fn run_of(script: &str, input: &str) -> Command {
    Command::new()
        .database(&Database::standard())
        .file("mine.rhai", script)
        .args(["--script", "mine.rhai", "--input", input])
}

/// Starts a run whose input is written and whose report is read while it runs.
fn spawn_with_pipes(command: &Command) -> (Child, ChildStdin, Lines<BufReader<ChildStdout>>) {
    let mut child = command
        .std_command()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stdin = child.stdin.take().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, stdin, lines)
}

#[test]
fn whole_file_is_used_when_size_is_missing() {
    let database = Database::standard();
    let text = "\u{feff}aa\r\nb-b\n\n  \ncc\u{1b}[0m\ndd";
    let run = Command::new()
        .database(&database)
        .file("tokens.txt", text)
        .args(["--input", "tokens.txt", "--report", "ndjson"])
        .run()
        .expect_code(0);
    shows!(run.stderr, @"4 requested, 4 received: 2 stored, 2 rejected in [seconds] s ([rate] tokens/s)");
    let report = Report::of_run(&run);
    assert_eq!(report.count("requested"), 4);
    assert_eq!(report.count("requests"), 0);
    assert_eq!(report.with_status("stored"), ["aa", "dd"]);
    assert_eq!(report.token("b-b")["sqlstate"], "23514");
    assert_eq!(database.rows(), ["aa", "dd"]);
}

#[test]
fn whole_pipe_is_used_when_size_is_missing() {
    let tokens: Vec<String> = (0..25_000).map(|number| format!("t{number}")).collect();
    let run = run()
        .args(["--input", "-"])
        .stdin(tokens.join("\n"))
        .run()
        .expect_code(0);
    let report = Report::of_run(&run);
    assert_eq!(report.count("requested"), 25_000);
    assert_eq!(report.with_status("stored").len(), 25_000);
}

#[test]
fn redirected_file_is_read_from_its_offset() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens");
    std::fs::write(&path, "header\naa\nbb\n").unwrap();
    let mut file = std::fs::File::open(&path).unwrap();
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(7)).unwrap();
    let output = run()
        .args(["--input", "-"])
        .std_command()
        .stdin(file)
        .output()
        .unwrap();
    let report = Report::parse(std::str::from_utf8(&output.stdout).unwrap());
    assert_eq!(report.count("requested"), 2);
    assert_eq!(report.with_status("stored"), ["aa", "bb"]);
}

#[test]
fn tokens_are_stored_while_the_pipe_is_open() {
    let (mut child, mut stdin, mut lines) = spawn_with_pipes(&run().args(["--input", "-"]));
    for token in ["aa", "bb", "cc"] {
        writeln!(stdin, "{token}").unwrap();
        // The next token is written once this one is reported as stored.
        let line = lines.next().unwrap().unwrap();
        assert!(
            line.contains(&format!(r#""token":"{token}","status":"stored""#)),
            "{line}"
        );
    }
    drop(stdin);
    let summary = lines.next().unwrap().unwrap();
    assert!(
        summary.contains(r#""requested":3,"received":3"#),
        "{summary}"
    );
    assert!(child.wait().unwrap().success());
}

#[test]
fn signal_stops_the_run_while_the_pipe_is_silent() {
    let command = run().args(["--input", "-", "--grace", "30s"]);
    let (mut child, mut stdin, mut lines) = spawn_with_pipes(&command);
    writeln!(stdin, "aa").unwrap();
    let mut report = lines.next().unwrap().unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&child),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    for line in lines {
        report.push('\n');
        report.push_str(&line.unwrap());
    }
    // The pipe was open until now, so the signal ended the run.
    drop(stdin);
    assert_eq!(child.wait().unwrap().code(), Some(143));
    let report = Report::parse(&report);
    assert_eq!(report.with_status("stored"), ["aa"]);
    assert_eq!(report.summary["aborted_by"], "SIGTERM");
}

#[test]
fn size_limits_the_input_and_a_shorter_input_exits_with_4() {
    let some = run()
        .file("tokens", "aa\nbb\ncc\n")
        .args(["--input", "tokens", "2"])
        .run()
        .expect_code(0);
    assert_eq!(Report::of_run(&some).with_status("stored"), ["aa", "bb"]);

    for (input, stdin) in [("tokens", ""), ("-", "aa\nbb\ncc\n")] {
        let short = run()
            .file("tokens", "aa\nbb\ncc\n")
            .args(["--input", input, "5"])
            .stdin(stdin)
            .run()
            .expect_code(4);
        let report = Report::of_run(&short);
        assert_eq!((report.count("requested"), report.count("stored")), (5, 3));
        if input == "tokens" {
            shows!(short.stderr, @"
            5 requested, 3 received: 3 stored, 0 rejected in [seconds] s ([rate] tokens/s)
            error: short_supply: the input ended: `tokens`
              caused by: received 3 of 5 tokens
            hint: omit SIZE to read all of it
            ");
        }
    }
}

#[test]
fn script_reads_the_input_in_pieces() {
    let script = "
        let pieces = 0;
        loop {
            let page = fetch_once(2);
            report(store(page));
            pieces += 1;
            if page.len < 2 { break; }
        }
        emit(`${pieces} pieces`);";
    let run = run_of(script, "tokens")
        .file("tokens", "aa\nbb\ncc\ndd\nee\n")
        .run()
        .expect_code(0);
    assert_eq!(run.stdout.lines().count(), 6);
    assert!(run.stdout.ends_with("3 pieces\n"), "{}", run.stdout);
}

#[test]
fn fetch_after_the_end_of_a_pipe_is_a_short_supply() {
    let script = "
        report(store(fetch(SIZE)));
        try { fetch(5).pages(); for page in fetch(5).pages() { emit(`${page.len}`); } }
        catch (error) { emit(error.kind); }";
    let run = run_of(script, "-").stdin("aa\n").run().expect_code(0);
    assert!(run.stdout.ends_with("short_supply\n"), "{}", run.stdout);
}

#[test]
fn requested_equals_received_for_a_pipe_without_size() {
    let script = "
        for size in [2, 1] {
            let summary = report(store(fetch(size)));
            emit(`${summary.requested} requested, ${summary.received} received`);
        }";
    let summaries = |args: &[&str]| {
        let run = run_of(script, "-")
            .args(args)
            .stdin("aa\nbb\ncc\n")
            .run()
            .expect_code(0);
        let lines = run.stdout.lines().filter(|line| line.contains("requested"));
        lines.collect::<Vec<_>>().join("; ")
    };
    shows!(summaries(&[]), @"2 requested, 2 received; 3 requested, 3 received");
    // With a SIZE, `requested` is SIZE.
    shows!(summaries(&["3"]), @"3 requested, 2 received; 3 requested, 3 received");
}

#[test]
fn empty_input_completes_the_run() {
    for (input, stdin) in [("none", ""), ("-", "\n\n")] {
        let run = run()
            .file("none", "\n")
            .args(["--input", input])
            .stdin(stdin)
            .run()
            .expect_code(0);
        let report = Report::of_run(&run);
        assert_eq!(
            (report.count("requested"), report.count("received")),
            (0, 0)
        );
        if input == "none" {
            let message = "nothing to do: the input has no tokens";
            assert!(run.stderr.contains(message), "{}", run.stderr);
        }
    }
}

#[test]
fn input_works_with_the_demo_and_a_journal() {
    let run = Command::new()
        .file("tokens", "aa\nb-b\n")
        .env("TOKEN_SERVICE_INPUT", "tokens")
        .args(["demo", "--journal", "run.journal"])
        .run()
        .expect_code(0);
    assert_eq!(
        run.sorted(),
        "rejected  b-b  23514 secret_tokens_data_check\nstored    aa"
    );
    let journal = std::fs::read_to_string(run.path("run.journal")).unwrap();
    assert!(
        journal.contains(r#""received":["aa","b-b"],"request":1}"#),
        "{journal}"
    );
}

#[test]
fn invalid_input_is_one_error() {
    let stderr_of = |command: Command, code| command.run().expect_code(code).stderr;
    let all = [
        stderr_of(run().args(["--input", "missing"]), 2),
        stderr_of(run().args(["--input", "."]), 2),
        stderr_of(
            run()
                .file("page", "<!DOCTYPE html>\n<html>\n")
                .args(["--input", "page"]),
            4,
        ),
        stderr_of(
            run()
                .file("tokens", "aa\nbb\n")
                .args(["--input", "tokens"])
                .env("MAX_TOKENS", "1"),
            2,
        ),
        stderr_of(run().args(["--input", "-"]).env("MAX_TOKENS", "1"), 2),
        stderr_of(run().args(["--input", "-", "--shard", "0/2"]), 2),
        stderr_of(run().args(["--input", "-", "--no-top-up"]), 2),
    ];
    shows!(all.join("\n"), @"
    error: the input `missing` cannot be read
      caused by: No such file or directory (os error 2)
    hint: --input names a file with one token per line, or - for standard input; nothing was stored

    error: the input `.` cannot be read
      caused by: is a directory
    hint: --input names a file with one token per line, or - for standard input; nothing was stored

    2 requested, 0 received: 0 stored, 0 rejected in [seconds] s
    error: short_supply: the input is not a list of tokens: `page`
      caused by: it begins like an HTML or XML document
      caused by: received 0 of 2 tokens
    hint: --input expects one token per line

    error: the input `tokens` has 2 tokens, which exceeds MAX_TOKENS, 1
    hint: set SIZE to at most 1, or raise MAX_TOKENS

    error: the number of tokens in standard input is not known before its end
      caused by: MAX_TOKENS limits this number
    hint: set SIZE, or pass a regular file to --input

    error: the number of tokens in standard input is not known before its end
      caused by: a shard needs this number to compute its part
    hint: set SIZE, or pass a regular file to --input

    error: the argument '--input <FILE>' cannot be used with '--no-top-up'
    hint: see `token_service --help`
    ");
}
