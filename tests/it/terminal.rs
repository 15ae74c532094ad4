//! What a person sees on a terminal: progress, colours, and by what tokens were rejected.

use std::io::{Read as _, Write as _};
use std::process::{Child, ChildStdin, Stdio};

use crate::support::command::Command;
use crate::support::terminal::Terminal;

/// A demo run that waits for its second token, with a terminal for standard error; standard output is
/// a pipe.
fn waiting(terminal: &Terminal, args: &[&str], env: &[(&str, &str)]) -> (Child, ChildStdin) {
    let command = Command::new().args(["demo", "--input", "-"]).args(args);
    let mut command = command.env("TERM", "xterm-256color");
    for (name, value) in env {
        command = command.env(name, value);
    }
    let mut command = command.std_command();
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(terminal.stdio()).spawn().unwrap();
    // It holds the terminal's end, whose last closing is what ends the reading.
    drop(command);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"b-b\n").unwrap();
    (child, stdin)
}

fn end(mut child: Child, mut stdin: ChildStdin) -> String {
    stdin.write_all(b"cc\n").unwrap();
    drop(stdin);
    let mut stdout = String::new();
    let pipe = child.stdout.as_mut().unwrap();
    pipe.read_to_string(&mut stdout).unwrap();
    assert!(child.wait().unwrap().success());
    stdout
}

#[test]
fn a_bar_shows_how_far_a_run_has_come_and_is_taken_away() {
    let mut terminal = Terminal::new();
    let script = "log_info(\"begun\"); report(store(fetch(SIZE)));";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mine.rhai");
    std::fs::write(&path, script).unwrap();
    let args = ["2", "--script", path.to_str().unwrap()];
    let (child, stdin) = waiting(&terminal, &args, &[]);
    terminal.wait_for(|shown| shown.contains("1/2  0 stored  1 rejected"));
    let stdout = end(child, stdin);
    assert_eq!(
        stdout,
        "rejected  b-b  23514 secret_tokens_data_check\nstored    cc\n"
    );
    let shown = terminal.finish();
    assert!(shown.contains('█'), "{shown:?}");
    assert!(shown.contains("INFO"), "{shown:?}");
    // Erased, and then the summary on a line of its own, with what was rejected beneath it.
    let (_, rest) = shown.rsplit_once("2 requested, ").unwrap();
    let (before, _) = shown.rsplit_once("2 requested, ").unwrap();
    let last = before.rsplit('\n').next().unwrap();
    let visible = last.rsplit("\u{1b}[2K").next().unwrap();
    assert_eq!(visible.trim_start_matches('\r'), "", "{shown:?}");
    let below: Vec<&str> = rest.lines().skip(1).collect();
    assert_eq!(
        below,
        ["  rejected by secret_tokens_data_check (23514)  1"],
        "{shown:?}"
    );
}

#[test]
fn what_comes_without_end_is_counted() {
    let mut terminal = Terminal::new();
    let (child, stdin) = waiting(&terminal, &[], &[]);
    terminal.wait_for(|shown| shown.contains("1  0 stored  1 rejected"));
    end(child, stdin);
    let shown = terminal.finish();
    assert!(!shown.contains(" left"), "{shown:?}");
    assert!(!shown.contains('█'), "{shown:?}");
}

#[test]
fn progress_is_shown_where_it_is_wanted_only() {
    let quiet = |args: &[&str], env: &[(&str, &str)]| {
        let terminal = Terminal::new();
        let (child, stdin) = waiting(&terminal, args, env);
        // One that began later tells when there was time enough to draw a bar.
        let mut other = Terminal::new();
        let later = waiting(&other, &["2"], &[]);
        other.wait_for(|shown| shown.contains("1/2"));
        end(later.0, later.1);
        end(child, stdin);
        let shown = terminal.finish();
        assert!(!shown.contains("1/2"), "{shown:?}");
        shown
    };
    let shown = quiet(&["2", "--progress", "never"], &[]);
    assert!(!shown.contains("rejected by"), "{shown:?}");
    quiet(&["2"], &[("TERM", "dumb")]);
    quiet(&["2"], &[("TOKEN_SERVICE_PROGRESS", "never")]);
}

/// Whoever writes to a pipe that nobody reads holds the ledger meanwhile. Progress must not wait for
/// them: the signal would not be heard.
#[test]
fn a_bar_beside_a_report_that_nobody_reads_does_not_keep_a_signal_from_being_heard() {
    let terminal = Terminal::new();
    let tokens: Vec<String> = (0..20_000).map(|number| format!("t{number}")).collect();
    let command = Command::new().file("tokens", tokens.join("\n"));
    let command = command.args(["demo", "--input", "tokens", "--grace", "1s"]);
    let command = command.env("TERM", "xterm-256color");
    let mut raw = command.std_command();
    raw.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = raw.stderr(terminal.stdio()).spawn().unwrap();
    drop(raw);
    // One that began later tells when a bar would have been drawn.
    let mut other = Terminal::new();
    let later = waiting(&other, &["2"], &[]);
    other.wait_for(|shown| shown.contains("1/2"));
    end(later.0, later.1);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let (tell, ended) = std::sync::mpsc::channel();
    let stdout = child.stdout.take();
    std::thread::spawn(move || tell.send(child.wait().unwrap().code()));
    let code = ended.recv_timeout(std::time::Duration::from_secs(30));
    if code.is_err() {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    drop(stdout);
    assert_eq!(code, Ok(Some(143)), "it ends without a reader");
}

#[test]
fn without_a_terminal_progress_comes_in_lines_where_it_is_asked_for() {
    let command = Command::new().args(["demo", "2", "--input", "-", "--progress", "always"]);
    let mut running = command.std_command();
    running.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = running.stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"b-b\n").unwrap();
    let stderr = child.stderr.take().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(stderr));
    let line = lines.next().unwrap().unwrap();
    assert!(line.starts_with("1/2  0 stored  1 rejected  "), "{line:?}");
    stdin.write_all(b"cc\n").unwrap();
    drop(stdin);
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    let [.., summary, below] = rest.as_slice() else {
        panic!("{rest:?}");
    };
    assert!(summary.starts_with("2 requested, 2 received"), "{rest:?}");
    assert_eq!(below, "  rejected by secret_tokens_data_check (23514)  1");
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_terminal_gets_colours_unless_it_wants_none() {
    let shown = |env: &[(&str, &str)]| {
        let terminal = Terminal::new();
        let mut command = Command::new().file("tokens", "aa\nb-b\n");
        for (name, value) in env {
            command = command.env(name, value);
        }
        let command = command.args(["demo", "--input", "tokens"]);
        let mut raw = command.std_command();
        let mut child = raw
            .stdin(Stdio::null())
            .stdout(terminal.stdio())
            .stderr(terminal.stdio())
            .spawn()
            .unwrap();
        drop(raw);
        assert!(child.wait().unwrap().success());
        terminal.finish().replace("\r\n", "\n")
    };
    let colored = shown(&[]);
    assert!(
        colored.contains("\u{1b}[32mstored    \u{1b}[0maa\n"),
        "{colored:?}"
    );
    assert!(
        colored.contains("\u{1b}[33mrejected  \u{1b}[0mb-b"),
        "{colored:?}"
    );
    // A report that scrolls by is its own progress.
    assert!(!colored.contains('█'), "{colored:?}");
    for env in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let plain = shown(&[env]);
        assert!(!plain.contains('\u{1b}'), "{plain:?}");
        assert!(plain.contains("stored    aa\n"), "{plain:?}");
    }
}
