//! Tests of a standard output that cannot be written: full, closed, or a pipe that its reader closes. A
//! command whose output is lost does not end with 0.

use std::fs::File;
use std::process::{Output, Stdio};

use crate::support::command::{Command, binary};

/// Every command that writes to standard output.
const COMMANDS: [&[&str]; 15] = [
    &["demo", "1"],
    &["demo", "1", "--report", "json"],
    &["demo", "1", "--report", "html"],
    &[
        "demo",
        "1",
        "--script",
        "emit.rhai",
        "--report",
        "text=run.txt",
    ],
    &["merge", "run.ndjson"],
    &["demo-source", "--listen", "127.0.0.1:0"],
    &["check"],
    &["test", "one.test.yaml"],
    &["api"],
    &["completions", "bash"],
    &["man"],
    &["man", "replay"],
    &["--help"],
    &["--version"],
    &["help", "merge"],
];

const TEST: &str = "- name: one
  script: emit.rhai
  size: 1
  source: [{tokens: [aa]}]
  expect: {exit: 0}
";

fn command(args: &[&str]) -> Command {
    let report = Command::new()
        .args(["demo", "1", "--report", "ndjson"])
        .run();
    Command::new()
        .file("run.ndjson", report.expect_code(0).stdout)
        .file("emit.rhai", "report(store(fetch(SIZE))); emit(\"aa\");")
        .file("one.test.yaml", TEST)
        .args(args)
}

/// Asserts exit code 3 and one error.
#[track_caller]
fn assert_lost(args: &[&str], output: &Output, cause: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{args:?}: {stderr}");
    let errors = stderr.lines().filter(|line| line.starts_with("error:"));
    assert_eq!(errors.count(), 1, "{args:?}: {stderr}");
    assert!(stderr.contains(cause), "{args:?}: {stderr}");
}

#[test]
fn every_command_fails_when_standard_output_is_full() {
    for args in COMMANDS {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let command = command(args);
        let output = command.std_command().stdout(full).output().unwrap();
        assert_lost(args, &output, "No space left on device");
    }
}

/// Runs a command in a shell that closes descriptors, such as `>&-`.
fn run_with(command: &Command, redirections: &str) -> Output {
    let raw = command.std_command();
    let mut shell = std::process::Command::new("bash");
    let script = format!("exec \"$@\" {redirections}");
    shell.args(["-c", &script, "bash"]).arg(binary());
    shell.args(raw.get_args()).current_dir(command.dir());
    shell.env_clear();
    for (name, value) in raw.get_envs() {
        if let Some(value) = value {
            shell.env(name, value);
        }
    }
    shell.stdin(Stdio::null()).output().unwrap()
}

#[test]
fn every_command_fails_when_standard_output_is_closed() {
    for args in COMMANDS {
        let output = run_with(&command(args), ">&-");
        assert_lost(args, &output, "Bad file descriptor");
    }
    // Other closed descriptors do not hide it.
    let output = run_with(&command(COMMANDS[0]), ">&- <&-");
    assert_lost(COMMANDS[0], &output, "Bad file descriptor");
    assert_eq!(
        run_with(&command(COMMANDS[0]), ">&- 2>&-").status.code(),
        Some(3)
    );
}

#[test]
fn closed_standard_output_is_no_error_when_nothing_is_written_to_it() {
    let args = ["demo", "1", "--report", "text=run.txt"];
    for redirections in [">&-", "</dev/null >&- 2>/dev/null", "<&-", "2>&-"] {
        let output = run_with(&command(&args), redirections);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{redirections}: {stderr}");
    }
    // Discarding the output is no error, however the caller opens the device.
    for redirections in [">/dev/null", ">>/dev/null", "1<>/dev/null"] {
        let output = run_with(&command(COMMANDS[0]), redirections);
        assert_eq!(output.status.code(), Some(0), "{redirections}");
    }
}

/// `token_service api | head -1`: the reader has read enough.
#[test]
fn closed_pipe_is_no_error_of_a_command_that_prints() {
    for args in &COMMANDS[6..] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let command = command(args);
        let output = command.std_command().stdout(writer).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {stderr}");
        assert_eq!(stderr, "", "{args:?}");
    }
}
