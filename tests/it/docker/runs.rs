//! Tests of runs in a container: with the limits of a strict platform, with mounted secrets, scripts and
//! configuration, as process 1, and stopped during the run.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use super::mounted::{MountedFolder, STRICT};
use super::{Container, docker, docker_stdout, run, text};
use crate::support::database::Database;
use crate::support::report::Report;
use crate::support::source::{Gate, Response, Source};

#[test]
#[ignore = "builds the image; tests/run runs it if a Docker engine is available"]
fn demo_runs_with_only_the_image() {
    let none = [&STRICT[..], &["--network=none"]].concat();
    let scratch = [&STRICT[..], &["--network=none", "--tmpfs=/tmp"]].concat();
    for options in [&[][..], &none, &scratch] {
        let (code, stdout, stderr) = run(options, &["demo", "10"]);
        assert_eq!(code, Some(0), "{stderr}");
        assert_eq!(stdout.lines().count(), 10, "{stdout}");
        let known = |line: &str| line.starts_with("stored    ") || line.starts_with("rejected  ");
        assert!(stdout.lines().all(known), "{stdout}");
        assert!(stderr.starts_with("10 requested, 10 received"), "{stderr}");
    }
}

#[test]
#[ignore = "builds the image; tests/run runs it if a Docker engine is available"]
fn mounted_script_runs() {
    let folder = MountedFolder::new();
    // The mount hides /scripts/lib, but the library is still available.
    let script = r#"import "lib/stats" as stats;
        if stats::percent(1, 2) != 50.0 { throw "no library"; }
        report(store(fetch(SIZE)), |outcome| "mounted " + outcome.token);"#;
    folder.secret("mine.rhai", script);
    let (mount, user) = (folder.mount_at("/scripts:ro"), folder.user());
    let args = ["demo", "3", "--script", "/scripts/mine.rhai"];
    let (code, stdout, stderr) = run(&["-v", &mount, &user], &args);
    assert_eq!(code, Some(0), "{stderr}");
    let mounted = |line: &&str| line.starts_with("mounted ");
    assert_eq!(stdout.lines().filter(mounted).count(), 3, "{stdout}");
}

/// Combines `--env-file`, secrets that only the container's user may read, a read-only script and
/// configuration file, and a folder for the reports.
#[test]
#[ignore = "builds the image; tests/run runs it if a Docker engine is available"]
fn run_uses_mounted_secrets_script_configuration_and_reports() {
    let database = Database::standard();
    let url = database.url();
    let parts = format!(
        "DB_HOST={}\nDB_PORT={}\nDB_USER={}\nDB_NAME={}\nDB_PASS_FILE=/run/secrets/password",
        database.host, database.port, database.user, database.name
    );
    for variables in [parts.as_str(), "DATABASE_URL_FILE=/run/secrets/url"] {
        let source =
            Source::responding([Response::tokens(["aa", "b-b"]), Response::tokens(["cc"])]);
        let (secrets, configured, out) = (
            MountedFolder::new(),
            MountedFolder::new(),
            MountedFolder::new(),
        );
        secrets.secret("password", &format!("{}\n", database.password));
        secrets.secret("url", &url);
        secrets.secret("authorization", "Bearer from-a-file\n");
        configured.secret(
            "default.rhai",
            "report(store(fetch(SIZE)), |o| `mine ${o.token}`);",
        );
        configured.secret(
            "token_service.yaml",
            "reports: [text, \"ndjson=/out/run.ndjson\"]\n",
        );
        let env = format!(
            "TOKEN_HOST={}\n{variables}\nTOKEN_SERVICE_SIZE=3\nTOKEN_SERVICE_CONFIG=/scripts/token_service.yaml\n\
             TOKEN_SERVICE_SOURCE_AUTHORIZATION_FILE=/run/secrets/authorization\n",
            source.url()
        );
        fs::write(out.path("env"), env).unwrap();
        let env_file = out.path("env").display().to_string();
        let mounts = [
            secrets.mount_at("/run/secrets:ro"),
            configured.mount_at("/scripts:ro"),
            out.mount_at("/out"),
        ];
        let user = out.user();
        let mut options = STRICT.to_vec();
        options.extend([user.as_str(), "--network=host", "--env-file", &env_file]);
        options.extend(mounts.iter().flat_map(|mount| ["-v", mount]));
        // A variable sets SIZE; the image sets none.
        let (code, stdout, stderr) = run(&options, &[]);
        assert_eq!(code, Some(0), "{stderr}");
        let mut lines: Vec<&str> = stdout.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["mine aa", "mine b-b", "mine cc"]);
        let report = out.path("run.ndjson");
        let metadata = fs::metadata(&report).unwrap();
        assert_eq!((metadata.uid(), metadata.mode() & 0o777), (out.user, 0o600));
        let report = Report::parse(&fs::read_to_string(report).unwrap());
        assert_eq!(report.with_status("stored"), ["aa", "cc"]);
        assert_eq!(report.with_status("rejected"), ["b-b"]);
        for request in source.requests() {
            assert_eq!(request.headers["authorization"], "Bearer from-a-file");
        }
    }
    assert_eq!(database.rows(), ["aa", "aa", "cc", "cc"]);
}

/// Process 1 receives only signals that it handles, and `docker stop` kills it after 10 seconds. The
/// source never sends its second answer.
#[test]
#[ignore = "builds the image; tests/run runs it if a Docker engine is available"]
fn report_is_complete_when_the_container_is_stopped() {
    let database = Database::standard();
    let never = Gate::new();
    let tokens: Vec<String> = (0..1000).map(|n| format!("a{n}")).collect();
    let source = Source::responding([
        Response::tokens(&tokens),
        Response::tokens(["never"]).after(&never),
    ]);
    let out = MountedFolder::new();
    let (mount, user) = (out.mount_at("/out"), out.user());
    let host = format!("TOKEN_HOST={}", source.url());
    let url = format!("DATABASE_URL={}", database.url());
    let mut options = STRICT.to_vec();
    options.extend([
        user.as_str(),
        "--network=host",
        "-v",
        &mount,
        "-e",
        &host,
        "-e",
        &url,
    ]);
    let args = ["2000", "--report", "ndjson=/out/run.ndjson"];
    let container = Container::start(&options, &args);
    source.wait_for(2);
    let first = docker_stdout(&["top", &container.0, "-o", "pid,args"]);
    assert!(first.contains("token_service 2000"), "{first}");
    docker_stdout(&["stop", &container.0]);
    let code = docker_stdout(&["inspect", "--format={{.State.ExitCode}}", &container.0]);
    let logs = text(&docker(&["logs", &container.0]).stderr);
    assert_eq!(
        code, "143",
        "killed (137) or not stopped by the signal: {logs}"
    );
    let report = fs::read_to_string(out.path("run.ndjson")).unwrap();
    let report = Report::parse(&report);
    assert_eq!(report.summary["aborted_by"], "SIGTERM");
    assert_eq!(report.count("received"), 1000);
    assert_eq!(report.with_status("stored"), database.rows());
    assert!(!out.path("run.ndjson.partial").exists());
}

/// SIGTERM ends the token source of the demo, and a run that waits for its database.
#[test]
#[ignore = "builds the image; tests/run runs it if a Docker engine is available"]
fn waiting_container_ends_when_it_is_stopped() {
    let unreachable = [
        "--network=none",
        "-e=TOKEN_HOST=http://127.0.0.1:9/",
        "-e=DATABASE_URL=postgres://tokens@127.0.0.1:9/tokens",
    ];
    for (args, code, until) in [
        (&["demo-source"][..], "0", "listening"),
        (&["3", "--wait", "10m"], "143", "waiting for the database"),
    ] {
        let container = Container::start(&[&STRICT[..], &unreachable].concat(), args);
        container.wait_for_log_line(until);
        docker_stdout(&["stop", &container.0]);
        let ended = docker_stdout(&["inspect", "--format={{.State.ExitCode}}", &container.0]);
        assert_eq!(ended, code, "{args:?}");
    }
}
