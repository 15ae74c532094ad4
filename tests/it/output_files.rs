//! Tests of the files that a run writes: only their owner can read them, a prepared file or link in a
//! shared folder redirects nothing, and `--no-clobber` keeps what is there.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use crate::support::command::Command;
use crate::support::database::Database;
use crate::support::report::Report;
use crate::support::snapshot::shows;

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

/// Each kind of file with the option that writes it, from a run of `demo`.
const FILES: [(&str, &[&str]); 3] = [
    ("run", &["--report", "ndjson=run"]),
    ("run", &["--journal", "run"]),
    ("run", &["--metrics", "run"]),
];

fn demo(options: &[&str]) -> Command {
    Command::new().args(["demo", "3"]).args(options)
}

#[test]
fn file_is_private_when_an_earlier_run_left_it_readable() {
    for (name, options) in &FILES[..2] {
        for stale in ["run", "run.partial"] {
            let command = demo(options).file(stale, "");
            set_mode(&command.dir().join(stale), 0o644);
            let run = command.run().expect_code(0);
            assert_eq!(mode(&run.path(name)), 0o600, "{options:?} {stale}");
        }
    }
    let script = "report(store(fetch(SIZE))); emit(\"aa\", \"run\");";
    let emit = ["--script", "mine.rhai", "--out-dir", "."];
    let command = demo(&emit).file("mine.rhai", script).file("run", "old");
    set_mode(&command.dir().join("run"), 0o644);
    let run = command.run().expect_code(0);
    assert_eq!(mode(&run.path("run")), 0o600);
    assert_eq!(fs::read_to_string(run.path("run")).unwrap(), "aa\n");
}

#[test]
fn link_in_place_of_the_partial_is_refused_and_its_target_kept() {
    let errors = [FILES[0], FILES[2]].map(|(_, options)| {
        let command = demo(options).file("target", "kept");
        symlink("target", command.dir().join("run.partial")).unwrap();
        let run = command.run().expect_code(2);
        assert_eq!(fs::read_to_string(run.path("target")).unwrap(), "kept");
        run.error().to_owned()
    });
    shows!(errors.join("\n"), @"
    error: the report run cannot be written
      caused by: run.partial is a symbolic link
    hint: check that its folder exists and is writable; no token was requested
    error: the metrics file run cannot be written
      caused by: run.partial is a symbolic link
    hint: check that its folder exists and is writable; no token was requested
    ");
}

/// A link in the folder of `node_exporter` may have been made by another user.
#[test]
fn metrics_replace_a_link_and_keep_its_target() {
    let command = demo(&["--metrics", "run"]).file("target", "kept");
    symlink("target", command.dir().join("run")).unwrap();
    let run = command.run().expect_code(0);
    assert_eq!(fs::read_to_string(run.path("target")).unwrap(), "kept");
    let metrics = fs::read_to_string(run.path("run")).unwrap();
    assert!(metrics.contains("token_service_exit_code 0"), "{metrics}");
}

#[test]
fn two_runs_do_not_share_a_report() {
    let first = Command::new().args(["demo", "--input", "-", "--report", "text=run"]);
    let folder = first.dir().to_owned();
    // The first run waits for the end of its input.
    let mut raw = first.std_command();
    raw.stdin(std::process::Stdio::piped());
    let mut running = raw.stdout(std::process::Stdio::null()).spawn().unwrap();
    while !folder.join("run.partial").exists() {
        assert!(running.try_wait().unwrap().is_none());
        std::thread::yield_now();
    }
    let second = Command::new().args(["demo", "3", "--report"]);
    let second = second.arg(format!("text={}", folder.join("run").display()));
    let refused = second.run().expect_code(2);
    assert!(
        refused
            .error()
            .contains("is in use: another output is written there"),
        "{}",
        refused.stderr
    );
    drop(running.stdin.take());
    assert!(running.wait().unwrap().success());
    assert!(folder.join("run").exists());
}

/// Runs with `setpriv` as another user, if root runs the tests; else there is no other user.
fn belongs_to_root(folder: &Path) -> bool {
    fs::metadata(folder).unwrap().uid() == 0
}

#[test]
fn file_of_another_user_is_refused() {
    const OTHER: u32 = 65_534;
    for (name, options) in FILES {
        let prepared = if options[0] == "--journal" {
            name.to_owned()
        } else {
            format!("{name}.partial")
        };
        let command = demo(options).file(&prepared, "");
        if !belongs_to_root(command.dir()) {
            return;
        }
        let path = command.dir().join(&prepared);
        std::os::unix::fs::chown(&path, Some(OTHER), None).unwrap();
        let run = command.run().expect_code(2);
        let why = format!("belongs to another user (uid {OTHER})");
        assert!(run.error().contains(&why), "{}", run.stderr);
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);

        let command = demo(options).file("target", "kept");
        let link = command.dir().join(name);
        symlink("target", &link).unwrap();
        std::os::unix::fs::lchown(&link, Some(OTHER), None).unwrap();
        let run = command.run();
        assert_eq!(fs::read_to_string(run.path("target")).unwrap(), "kept");
        let refused = options[0] != "--metrics";
        assert_eq!(
            run.code,
            Some(if refused { 2 } else { 0 }),
            "{}",
            run.stderr
        );
    }
}

/// The report of an earlier run may be the only record of its failed tokens.
#[test]
fn no_clobber_keeps_reports_of_every_command() {
    let report = demo(&["--report", "ndjson"]).run().expect_code(0).stdout;
    let failed = "{\"token\":\"aa\",\"status\":\"failed\",\"attempts\":1,\"ms\":0.0}\n";
    for kept in ["out.txt", "out.txt.partial"] {
        let database = Database::standard();
        let commands = [
            Command::new().args(["demo", "3"]),
            Command::new().args(["merge", "report"]),
            Command::new()
                .database(&database)
                .args(["replay", "failed"]),
        ];
        for command in commands {
            let command = command.file("report", &report).file("failed", failed);
            let command = command
                .file(kept, "kept")
                .args(["--no-clobber", "--report"]);
            let run = command.arg("text=out.txt").run().expect_code(2);
            assert!(run.error().contains("exists already"), "{}", run.stderr);
            assert!(
                run.error().contains("leave out --no-clobber"),
                "{}",
                run.stderr
            );
            assert_eq!(fs::read_to_string(run.path(kept)).unwrap(), "kept");
        }
        assert!(
            database.rows().is_empty(),
            "a refused replay stores nothing"
        );
    }
}

#[test]
fn no_clobber_writes_new_reports_of_every_command() {
    let report = demo(&["--report", "ndjson"]).run().expect_code(0).stdout;
    let failed = "{\"token\":\"aa\",\"status\":\"failed\",\"attempts\":1,\"ms\":0.0}\n";
    let database = Database::standard();
    let commands = [
        Command::new().args(["demo", "3"]),
        Command::new().args(["merge", "report"]),
        Command::new()
            .database(&database)
            .args(["replay", "failed"]),
    ];
    for command in commands {
        let command = command.file("report", &report).file("failed", failed);
        let command = command.args(["--no-clobber", "--report", "ndjson=out"]);
        let run = command.run().expect_code(0);
        let report = Report::parse(&fs::read_to_string(run.path("out")).unwrap());
        assert!(report.count("received") > 0);
        assert!(!run.path("out.partial").exists());
    }
    // Without the option, a report is replaced.
    let run = demo(&["--report", "ndjson=out"]).file("out", "old").run();
    let text = fs::read_to_string(run.expect_code(0).path("out")).unwrap();
    assert!(text.contains("\"summary\""), "{text}");
}

#[test]
fn report_is_written_into_a_pipe_or_device() {
    let command = demo(&["--report", "ndjson=pipe"]);
    let pipe = command.dir().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let reader = std::thread::spawn(move || fs::read_to_string(pipe).unwrap());
    command.run().expect_code(0);
    assert_eq!(Report::parse(&reader.join().unwrap()).count("received"), 3);
    for options in [["--report", "text=/dev/null"], ["--metrics", "/dev/null"]] {
        demo(&options).run().expect_code(0);
    }
    let run = demo(&["--report", "text=run", "--metrics", "/dev/stdout"]).run();
    assert!(
        run.stdout.contains("token_service_exit_code 0"),
        "{}",
        run.stdout
    );
}
