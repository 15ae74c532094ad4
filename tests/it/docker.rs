//! The image, built and run as the README says, on a real Docker engine.
//!
//! Ignored unless asked for, as tests/it/main.rs explains: building takes minutes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};
use std::sync::LazyLock;

use crate::support;

const IMAGE: &str = "token_service:test";

/// The image is built once for all tests here; a failed build is every test's failure.
static BUILT: LazyLock<Result<(), String>> = LazyLock::new(|| {
    let built = docker(&["build", "-t", IMAGE, "."]);
    let text = format!("{}{}", text(&built.stdout), text(&built.stderr));
    built.status.success().then_some(()).ok_or(text)
});

/// Builds the image, or waits until another test has. Whoever builds by other means asks for it too:
/// two builds at once would both compile everything.
pub(crate) fn built() {
    support::limit::watch();
    if let Err(why) = &*BUILT {
        panic!("docker build failed:\n{why}");
    }
}

fn docker(args: &[&str]) -> Output {
    let mut command = Command::new("docker");
    command.args(args).current_dir(support::root());
    command.output().expect("the docker command")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a container of the image to its end: exit code, standard output, standard error.
fn run(options: &[&str], args: &[&str]) -> (Option<i32>, String, String) {
    built();
    let output = docker(&[&["run", "--rm"], options, &[IMAGE], args].concat());
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
#[ignore = "builds the image on a Docker engine; tests/run asks for it where one answers"]
fn the_demo_runs_with_nothing_but_the_image() {
    // What a strict platform grants: no root, no capability, no writable file, no network but its own.
    let strict = [
        "--read-only",
        "--cap-drop=ALL",
        "--network=none",
        "--tmpfs=/tmp",
    ];
    for options in [&[][..], &strict] {
        let (code, stdout, stderr) = run(options, &["demo", "10"]);
        assert_eq!(code, Some(0), "{stderr}");
        assert_eq!(stdout.lines().count(), 10, "{stdout}");
        let known = |line: &str| line.starts_with("stored    ") || line.starts_with("rejected  ");
        assert!(stdout.lines().all(known), "{stdout}");
        assert!(stderr.contains("10 requested, 10 received"), "{stderr}");
    }
}

#[test]
#[ignore = "builds the image on a Docker engine; tests/run asks for it where one answers"]
fn a_mounted_script_runs() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // The mount hides /scripts/lib, and the library is there all the same.
    let script = r#"import "lib/stats" as stats;
        if stats::percent(1, 2) != 50.0 { throw "no library"; }
        report(store(fetch(SIZE)), |outcome| "mounted " + outcome.token);"#;
    fs::write(dir.path().join("mine.rhai"), script).unwrap();
    let mount = format!("{}:/scripts:ro", dir.path().display());
    let args = ["demo", "3", "--script", "/scripts/mine.rhai"];
    let (code, stdout, stderr) = run(&["-v", &mount], &args);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(
        stdout
            .lines()
            .filter(|line| line.starts_with("mounted "))
            .count(),
        3,
        "{stdout}"
    );
}

#[test]
#[ignore = "builds the image on a Docker engine; tests/run asks for it where one answers"]
fn the_image_says_who_runs_what() {
    built();
    let format = "{{.Config.User}} {{json .Config.Entrypoint}} {{json .Config.Cmd}}";
    let shown = docker(&["image", "inspect", "--format", format, IMAGE]);
    assert_eq!(
        text(&shown.stdout).trim(),
        r#"65532:65532 ["token_service"] ["5"]"#
    );
}

#[test]
#[ignore = "builds the image on a Docker engine; tests/run asks for it where one answers"]
fn the_image_has_no_shell() {
    for shell in ["sh", "/bin/sh", "/bin/bash"] {
        let (code, _, stderr) = run(&["--entrypoint", shell], &["-c", "exit 0"]);
        assert_eq!(code, Some(127), "{shell}: {stderr}");
    }
}
