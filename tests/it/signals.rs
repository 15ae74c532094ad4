//! Tests of runs that a signal, a second signal or the deadline stops. The report is complete and true at
//! any moment.

use crate::outages::{locked_table, unlock, wait_for_blocked_backend};
use crate::support::command::{Command, Running};
use crate::support::database::{Database, Login};
use crate::support::report::Report;
use crate::support::snapshot::{self, shows};
use crate::support::source::{Gate, Response, Source, token};

/// Waits until the program logs that it stops.
fn wait_until_stopping(running: &Running) {
    running.wait_for_stderr(|text| text.contains("stopping"));
}

/// Returns true if this process ignores SIGHUP, and so do the programs that it starts.
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = u64::from_str_radix(line.unwrap().trim(), 16).unwrap();
    ignored & 1 != 0
}

fn service(source: &Source, database: &Login) -> Command {
    let command = Command::new().source(source).database(database);
    command.args(["--report", "ndjson"])
}

#[test]
fn report_is_complete_when_a_signal_arrives_during_a_request() {
    for (signal, code) in [("TERM", 143), ("INT", 130), ("HUP", 129), ("QUIT", 131)] {
        if signal == "HUP" && is_hangup_ignored() {
            println!("the caller of the tests ignores SIGHUP, as `nohup` does");
            continue;
        }
        let database = Database::standard();
        let gate = Gate::new();
        let source = Source::responding([
            Response::tokens(["aa", "bb"]),
            Response::tokens(["cc", "dd"]).after(&gate),
        ]);
        let running = service(&source, &database).arg("6").spawn();
        running.wait_for_stdout(|text| text.lines().count() == 2);
        source.wait_for(2);
        running.signal(signal);
        wait_until_stopping(&running);
        // The source may have issued the tokens already: the run receives them, but does not store them.
        gate.open();
        let run = running.wait().expect_code(code);
        let report = Report::of_run(&run);
        assert_eq!(report.with_status("stored"), ["aa", "bb"]);
        assert_eq!(report.with_status("not_attempted"), ["cc", "dd"]);
        assert_eq!(report.summary["aborted_by"], format!("SIG{signal}"));
        assert_eq!(report.token("cc")["reason"], "the run was stopped");
        assert_eq!(source.sizes(), [6, 4], "no further request is sent");
        assert_eq!(database.rows(), ["aa", "bb"]);
        let stderr = run.stderr.replace(signal, "NAME");
        snapshot::settings().bind(|| {
            insta::allow_duplicates! { insta::assert_snapshot!(stderr, @r#"
             INFO stopping cause="SIGNAME"
            6 requested, 4 received in 2 requests: 2 stored, 0 rejected, 2 not attempted in [seconds] s ([rate] tokens/s)
            error: stopped by SIGNAME before the run was complete
            hint: the report has every received token
            "#) }
        });
    }
}

/// As under `nohup`.
#[test]
fn signal_that_the_caller_ignores_stays_ignored() {
    let database = Database::standard();
    let gate = Gate::new();
    let source = Source::responding([Response::tokens(["aa"]).after(&gate)]);
    let command = service(&source, &database).arg("1");
    let program = command.std_command();
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]);
    shell.arg(program.get_program()).args(program.get_args());
    shell.env_clear().current_dir(command.dir());
    for (name, value) in program.get_envs() {
        shell.env(name, value.unwrap_or_default());
    }
    let mut child = shell.stdout(std::process::Stdio::piped()).spawn().unwrap();
    source.wait_for(1);
    let pid = child.id().to_string();
    let sent = std::process::Command::new("kill")
        .args(["-HUP", &pid])
        .status();
    assert!(sent.unwrap().success());
    gate.open();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(database.rows(), ["aa"]);
}

#[test]
fn inserts_in_flight_finish_when_a_signal_arrives() {
    let (database, mut admin) = locked_table();
    let tokens: Vec<String> = (0..100).map(|n| format!("a{n:02}")).collect();
    let source = Source::responding([Response::tokens(&tokens)]);
    let command = service(&source, &database).args(["100", "--connections", "1"]);
    let running = command.args(["--pipeline", "4"]).spawn();
    wait_for_blocked_backend(&mut admin);
    running.signal("TERM");
    wait_until_stopping(&running);
    unlock(&mut admin);
    let run = running.wait().expect_code(143);
    let report = Report::of_run(&run);
    assert_eq!(report.count("received"), 100);
    assert_eq!(report.count("stored"), 4, "the inserts in flight");
    assert_eq!(report.count("not_attempted"), 96);
    assert_eq!(report.with_status("stored"), database.rows());
}

/// The lock stays held, so only the second signal can end the run before its grace period ends.
#[test]
fn second_signal_ends_the_run_at_once() {
    let (database, mut admin) = locked_table();
    let source = Source::responding([Response::tokens(["aa", "bb", "cc"])]);
    let running = service(&source, &database).arg("3").spawn();
    wait_for_blocked_backend(&mut admin);
    running.signal("TERM");
    wait_until_stopping(&running);
    running.signal("TERM");
    let run = running.wait().expect_code(143);
    let report = Report::of_run(&run);
    assert_eq!(report.with_status("unknown"), ["aa", "bb", "cc"]);
    // Without the second signal the run waits at least five seconds for the inserts in flight.
    assert!(report.count("duration_ms") < 5000, "{}", run.stderr);
    unlock(&mut admin);
}

#[test]
fn no_token_is_requested_when_a_signal_arrives_while_connecting() {
    // A server that accepts the connection and sends nothing.
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let login = Login {
        host: "127.0.0.1".to_owned(),
        port: silent.local_addr().unwrap().port(),
        user: "tokens".to_owned(),
        password: "canary".to_owned(),
        name: "tokens".to_owned(),
    };
    let source = Source::responding([]);
    let running = service(&source, &login).arg("3").spawn();
    let _connection = silent.accept().unwrap();
    running.signal("TERM");
    let run = running.wait().expect_code(143);
    assert!(source.requests().is_empty());
    insta::assert_snapshot!(run.error(), @"
    error: stopped by SIGTERM while connecting to the database
    hint: no token was requested
    ");
}

#[test]
fn exit_code_is_5_when_the_deadline_leaves_tokens_unsettled() {
    let (database, mut admin) = locked_table();
    let source = Source::responding([Response::tokens(["aa", "bb", "cc"])]);
    let command = service(&source, &database).args(["3", "--deadline", "3s"]);
    let running = command.args(["--grace", "1s"]).spawn();
    wait_for_blocked_backend(&mut admin);
    let run = running.wait().expect_code(5);
    let report = Report::of_run(&run);
    assert_eq!(report.with_status("unknown"), ["aa", "bb", "cc"]);
    assert_eq!(report.summary["aborted_by"], "deadline");
    unlock(&mut admin);
    shows!(run.stderr, @r#"
     INFO stopping cause="deadline"
    3 requested, 3 received in 1 request: 0 stored, 0 rejected, 3 unknown in [seconds] s
    error: the deadline passed before the run was complete
    hint: raise `--deadline` if needed; the report has every received token
    "#);
}

#[test]
fn exit_code_is_4_when_the_deadline_passes_before_size_is_reached() {
    let database = Database::standard();
    let gate = Gate::new();
    let source = Source::responding([Response::tokens(["aa"]).after(&gate)]);
    let command = service(&source, &database).args(["3", "--deadline", "1s"]);
    let run = command.args(["--grace", "1s"]).run().expect_code(4);
    let report = Report::of_run(&run);
    assert_eq!(report.count("received"), 0);
    assert_eq!(report.count("issued_unseen"), 3);
    assert_eq!(report.summary["aborted_by"], "deadline");
}

#[test]
fn exit_code_is_3_when_the_deadline_stops_an_endless_script() {
    let database = Database::standard();
    let source = Source::responding([]);
    let run = Command::new()
        .source(&source)
        .database(&database)
        .file("forever.rhai", "loop {}")
        .args(["--script", "forever.rhai", "--deadline", "1s"])
        .run();
    shows!(run.transcript(), @r#"
    exit: 3
    --- stdout
    --- stderr
     INFO stopping cause="deadline"
    5 requested, 0 received: 0 stored, 0 rejected in [seconds] s
    error: the deadline passed before the run was complete
    hint: raise `--deadline` if needed; the report has every received token
    "#);
}

#[test]
fn received_tokens_are_not_attempted_when_the_deadline_stops_an_endless_script() {
    let database = Database::standard();
    let canary = token();
    let source = Source::responding([Response::tokens([&canary])]);
    let script = "let held = []; for t in fetch(SIZE) { held.push(t); } loop {}";
    let run = service(&source, &database)
        .file("forever.rhai", script)
        .args(["1", "--script", "forever.rhai", "--deadline", "2s"])
        .run()
        .expect_code(5);
    let report = Report::of_run(&run);
    assert_eq!(report.with_status("not_attempted"), [canary]);
    assert!(database.rows().is_empty());
}
