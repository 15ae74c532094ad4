//! Tests of the output on a terminal: progress, colours, and the causes of rejections.

use std::io::{Read as _, Write as _};
use std::process::{Child, ChildStdin, Stdio};

use crate::support::command::Command;
use crate::support::terminal::Terminal;

/// Starts a demo run that waits for its second token. Standard error is a terminal, and standard output
/// is a pipe.
fn start_waiting_run(
    terminal: &Terminal,
    args: &[&str],
    env: &[(&str, &str)],
) -> (Child, ChildStdin) {
    let command = Command::new().args(["demo", "--input", "-"]).args(args);
    let mut command = command.env("TERM", "xterm-256color");
    for (name, value) in env {
        command = command.env(name, value);
    }
    let mut command = command.std_command();
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(terminal.stdio()).spawn().unwrap();
    // `command` holds the terminal open, and reading ends when the last holder closes it.
    drop(command);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"b-b\n").unwrap();
    (child, stdin)
}

/// Sends the second token, and returns the standard output of the run.
fn finish_run(mut child: Child, mut stdin: ChildStdin) -> String {
    stdin.write_all(b"cc\n").unwrap();
    drop(stdin);
    let mut stdout = String::new();
    let pipe = child.stdout.as_mut().unwrap();
    pipe.read_to_string(&mut stdout).unwrap();
    assert!(child.wait().unwrap().success());
    stdout
}

#[test]
fn progress_bar_shows_progress_and_is_erased_at_the_end() {
    let mut terminal = Terminal::new();
    let script = "log_info(\"started\"); report(store(fetch(SIZE)));";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mine.rhai");
    std::fs::write(&path, script).unwrap();
    let args = ["2", "--script", path.to_str().unwrap()];
    let (child, stdin) = start_waiting_run(&terminal, &args, &[]);
    terminal.wait_for(|shown| shown.contains("1/2  0 stored  1 rejected"));
    let stdout = finish_run(child, stdin);
    assert_eq!(
        stdout,
        "rejected  b-b  23514 secret_tokens_data_check\nstored    cc\n"
    );
    let shown = terminal.finish();
    assert!(shown.contains('█'), "{shown:?}");
    assert!(shown.contains("INFO"), "{shown:?}");
    // The bar is erased. The summary has its own line, and the rejections follow below.
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
fn progress_shows_only_counts_when_size_is_unlimited() {
    let mut terminal = Terminal::new();
    let (child, stdin) = start_waiting_run(&terminal, &[], &[]);
    terminal.wait_for(|shown| shown.contains("1  0 stored  1 rejected"));
    finish_run(child, stdin);
    let shown = terminal.finish();
    assert!(!shown.contains(" left"), "{shown:?}");
    assert!(!shown.contains('█'), "{shown:?}");
}

#[test]
fn progress_is_hidden_when_disabled_or_on_a_dumb_terminal() {
    let quiet = |args: &[&str], env: &[(&str, &str)]| {
        let terminal = Terminal::new();
        let (child, stdin) = start_waiting_run(&terminal, args, env);
        // When a run that starts later shows a bar, this run had enough time to draw one.
        let mut other = Terminal::new();
        let later = start_waiting_run(&other, &["2"], &[]);
        other.wait_for(|shown| shown.contains("1/2"));
        finish_run(later.0, later.1);
        finish_run(child, stdin);
        let shown = terminal.finish();
        assert!(!shown.contains("1/2"), "{shown:?}");
        shown
    };
    let shown = quiet(&["2", "--progress", "never"], &[]);
    assert!(!shown.contains("rejected by"), "{shown:?}");
    quiet(&["2"], &[("TERM", "dumb")]);
    quiet(&["2"], &[("TOKEN_SERVICE_PROGRESS", "never")]);
}

/// The report goes to a file, so a run on a terminal shows its progress there. The bar fits the columns.
#[test]
fn progress_bar_fits_the_terminal_when_reports_go_to_files() {
    for columns in [40, 80, 120] {
        let mut terminal = Terminal::with_columns(columns);
        let command = Command::new().args(["demo", "100000", "--input", "-"]);
        let script = "emit(\"by the script\"); report(store(fetch(SIZE)));";
        let command = command
            .file("mine.rhai", script)
            .args(["--script", "mine.rhai"]);
        let command = command.args(["--report", "html=run.html"]);
        let command = command.env("TERM", "xterm-256color");
        let mut raw = command.std_command();
        raw.stdin(Stdio::piped()).stdout(terminal.stdio());
        let mut child = raw.stderr(terminal.stdio()).spawn().unwrap();
        drop(raw);
        let mut stdin = child.stdin.take().unwrap();
        // 1,000 tokens are settled, and the run waits for more.
        let tokens = (0..1000).map(|number| format!("t{number}\n"));
        let tokens = tokens.collect::<Vec<_>>().concat();
        stdin.write_all(tokens.as_bytes()).unwrap();
        terminal.wait_for(|shown| shown.contains("1,000/100,000"));
        drop(stdin);
        // The input is shorter than SIZE.
        assert_eq!(child.wait().unwrap().code(), Some(4));
        let shown = terminal.finish();
        assert!(shown.contains("by the script\r\n"), "{shown:?}");
        let mut bars = 0;
        for line in shown
            .split(['\r', '\n'])
            .filter(|line| line.contains('█') || line.contains("1,000/"))
        {
            // The crate fills the line with blanks, so that nothing older remains on it.
            let filled = without_styles(line);
            assert!(filled.chars().count() <= usize::from(columns), "{filled:?}");
            let visible = filled.trim_end();
            assert!(
                visible.chars().count() < usize::from(columns),
                "{columns}: {visible:?}"
            );
            assert!(visible.contains(" left"), "{visible:?}");
            assert_eq!(
                visible.contains("1,000 stored"),
                columns > 40,
                "{visible:?}"
            );
            bars += 1;
        }
        assert!(bars > 0, "{shown:?}");
    }
}

/// Removes escape sequences, which end with a letter.
fn without_styles(line: &str) -> String {
    let mut parts = line.split("\u{1b}[");
    let mut visible = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|char: char| char.is_ascii_alphabetic());
        visible += &part[end.map_or(part.len(), |end| end + 1)..];
    }
    visible
}

/// A report that blocks on an unread pipe holds the ledger. Progress must not wait for the ledger, or
/// the run would not handle the signal.
#[test]
fn signal_ends_the_run_when_the_report_pipe_is_not_read() {
    let terminal = Terminal::new();
    let tokens: Vec<String> = (0..20_000).map(|number| format!("t{number}")).collect();
    let command = Command::new().file("tokens", tokens.join("\n"));
    let command = command.args(["demo", "--input", "tokens", "--grace", "1s"]);
    let command = command.env("TERM", "xterm-256color");
    let mut raw = command.std_command();
    raw.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = raw.stderr(terminal.stdio()).spawn().unwrap();
    drop(raw);
    // When a run that starts later shows a bar, this run had enough time to draw one.
    let mut other = Terminal::new();
    let later = start_waiting_run(&other, &["2"], &[]);
    other.wait_for(|shown| shown.contains("1/2"));
    finish_run(later.0, later.1);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let (sender, ended) = std::sync::mpsc::channel();
    let stdout = child.stdout.take();
    std::thread::spawn(move || sender.send(child.wait().unwrap().code()));
    let code = ended.recv_timeout(std::time::Duration::from_secs(30));
    if code.is_err() {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    drop(stdout);
    assert_eq!(code, Ok(Some(143)), "the run ends without a reader");
}

#[test]
fn progress_is_printed_in_lines_when_requested_without_a_terminal() {
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
fn terminal_output_is_coloured_unless_disabled() {
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
    // If the report is on the terminal, there is no progress bar.
    assert!(!colored.contains('█'), "{colored:?}");
    for env in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let plain = shown(&[env]);
        assert!(!plain.contains('\u{1b}'), "{plain:?}");
        assert!(plain.contains("stored    aa\n"), "{plain:?}");
    }
}
