//! What a container does: under what a strict platform grants, with secrets, scripts and configuration
//! mounted, as process 1, and stopped in the middle.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use super::mounted::{Folder, STRICT};
use super::{Container, docker, docker_stdout, run, text};
use crate::support::database::Database;
use crate::support::report::Report;
use crate::support::source::{Gate, Response, Source};

#[test]
#[ignore = "builds the image on a Docker engine; tests/run asks for it where one answers"]
fn the_demo_runs_with_nothing_but_the_image() {
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
#[ignore = "builds the image on a Docker engine; tests/run asks for it where one answers"]
fn a_mounted_script_runs() {
    let folder = Folder::new();
    // The mount hides /scripts/lib, and the library is there all the same.
    let script = r#"import "lib/stats" as stats;
        if stats::percent(1, 2) != 50.0 { throw "no library"; }
        report(store(fetch(SIZE)), |outcome| "mounted " + outcome.token);"#;
    folder.secret("mine.rhai", script);
    let (mount, user) = (folder.at("/scripts:ro"), folder.user());
    let args = ["demo", "3", "--script", "/scripts/mine.rhai"];
    let (code, stdout, stderr) = run(&["-v", &mount, &user], &args);
    assert_eq!(code, Some(0), "{stderr}");
    let mounted = |line: &&str| line.starts_with("mounted ");
    assert_eq!(stdout.lines().filter(mounted).count(), 3, "{stdout}");
}

/// Everything at once: `--env-file`, secrets that only the container's user may read, a script and a
/// configuration file that nobody may write, and a folder for the reports.
#[test]
#[ignore = "builds the image on a Docker engine; tests/run asks for it where one answers"]
fn a_run_with_mounted_secrets_script_configuration_and_reports() {
    let database = Database::standard();
    let url = database.url();
    let place = format!(
        "DB_HOST={}\nDB_PORT={}\nDB_USER={}\nDB_NAME={}\nDB_PASS_FILE=/run/secrets/password",
        database.host, database.port, database.user, database.name
    );
    for told in [place.as_str(), "DATABASE_URL_FILE=/run/secrets/url"] {
        let source =
            Source::responding([Response::tokens(["aa", "b-b"]), Response::tokens(["cc"])]);
        let (secrets, configured, out) = (Folder::new(), Folder::new(), Folder::new());
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
            "TOKEN_HOST={}\n{told}\nTOKEN_SERVICE_SIZE=3\nTOKEN_SERVICE_CONFIG=/scripts/token_service.yaml\n\
             TOKEN_SERVICE_SOURCE_AUTHORIZATION_FILE=/run/secrets/authorization\n",
            source.url()
        );
        fs::write(out.path("env"), env).unwrap();
        let env_file = out.path("env").display().to_string();
        let mounts = [
            secrets.at("/run/secrets:ro"),
            configured.at("/scripts:ro"),
            out.at("/out"),
        ];
        let user = out.user();
        let mut options = STRICT.to_vec();
        options.extend([user.as_str(), "--network=host", "--env-file", &env_file]);
        options.extend(mounts.iter().flat_map(|mount| ["-v", mount]));
        // SIZE is told by the variable: the image itself asks for none.
        let (code, stdout, stderr) = run(&options, &[]);
        assert_eq!(code, Some(0), "{stderr}");
        let mut lines: Vec<&str> = stdout.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["mine aa", "mine b-b", "mine cc"]);
        let report = out.path("run.ndjson");
        let about = fs::metadata(&report).unwrap();
        assert_eq!((about.uid(), about.mode() & 0o777), (out.user, 0o600));
        let report = Report::parse(&fs::read_to_string(report).unwrap());
        assert_eq!(report.with_status("stored"), ["aa", "cc"]);
        assert_eq!(report.with_status("rejected"), ["b-b"]);
        for request in source.requests() {
            assert_eq!(request.headers["authorization"], "Bearer from-a-file");
        }
    }
    assert_eq!(database.rows(), ["aa", "aa", "cc", "cc"]);
}

/// Process 1 gets no signal that it has not asked for, and whoever stops a container kills it soon
/// after: 10 seconds, unless it says otherwise. The source keeps its second answer to itself.
#[test]
#[ignore = "builds the image on a Docker engine; tests/run asks for it where one answers"]
fn a_stopped_container_reports_everything_within_the_grace() {
    let database = Database::standard();
    let never = Gate::new();
    let tokens: Vec<String> = (0..1000).map(|n| format!("a{n}")).collect();
    let source = Source::responding([
        Response::tokens(&tokens),
        Response::tokens(["never"]).after(&never),
    ]);
    let out = Folder::new();
    let (mount, user) = (out.at("/out"), out.user());
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

/// Nothing to wait for: the source that a compose file starts ends when it is told to, as does a run
/// that still waits for its database.
#[test]
#[ignore = "builds the image on a Docker engine; tests/run asks for it where one answers"]
fn a_container_that_waits_ends_when_it_is_told_to() {
    let lonely = [
        "--network=none",
        "-e=TOKEN_HOST=http://127.0.0.1:9/",
        "-e=DATABASE_URL=postgres://tokens@127.0.0.1:9/tokens",
    ];
    for (args, code, until) in [
        (&["demo-source"][..], "0", "listening"),
        (&["3", "--wait", "10m"], "143", "waiting for the database"),
    ] {
        let container = Container::start(&[&STRICT[..], &lonely].concat(), args);
        container.wait_for_log_line(until);
        docker_stdout(&["stop", &container.0]);
        let ended = docker_stdout(&["inspect", "--format={{.State.ExitCode}}", &container.0]);
        assert_eq!(ended, code, "{args:?}");
    }
}
