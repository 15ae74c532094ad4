//! Tests of `deploy/compose.yaml` as it is, with the command in its header. They use PostgreSQL's
//! official image, or a local substitute if no registry is available.

use std::process::{Command, Output};

use super::{IMAGE, build_image, docker, docker_stdout, text};
use crate::support;
use crate::support::http::{answer, status, wait_until_ok};
use crate::support::postgres::free_port;

/// Pulls or builds the image of PostgreSQL that the file names.
fn ensure_postgres_image() {
    let file = std::fs::read_to_string(support::root().join("deploy/compose.yaml")).unwrap();
    let line = file
        .lines()
        .find_map(|line| line.trim().strip_prefix("image: postgres:"));
    let image = format!("postgres:{}", line.expect("PostgreSQL's image"));
    let is_there = |args: &[&str]| docker(args).status.success();
    if !is_there(&["image", "inspect", &image]) && !is_there(&["pull", &image]) {
        docker_stdout(&["build", "-t", &image, "tests/support/postgres-image"]);
    }
}

/// A Compose project. Dropping it removes its containers, networks and volumes.
struct ComposeProject {
    name: String,
    size: &'static str,
    /// The port of the profile `service`.
    port: u16,
}

impl ComposeProject {
    fn new(name: &str, size: &'static str) -> Self {
        Self {
            name: format!("token_service_test_{name}_{}", std::process::id()),
            size,
            port: free_port(),
        }
    }

    fn compose(&self, args: &[&str]) -> Output {
        // Compose is a plugin of docker, or a separate program in older installations.
        let is_plugin = docker(&["compose", "version"]).status.success();
        let mut command = if is_plugin {
            let mut command = Command::new("docker");
            command.arg("compose");
            command
        } else {
            Command::new("docker-compose")
        };
        command
            .args([
                "--ansi=never",
                "--project-name",
                &self.name,
                "--file",
                "deploy/compose.yaml",
            ])
            .args(args)
            .current_dir(support::root())
            .env("TOKEN_SERVICE_IMAGE", IMAGE)
            .env("DB_PASS", "of this test")
            .env("SIZE", self.size)
            .env("SERVE_PORT", self.port.to_string());
        command.output().expect("docker compose, or docker-compose")
    }

    /// Counts the rows of the table.
    fn rows(&self) -> usize {
        let psql = ["psql", "--username=tokens", "--dbname=tokens", "--no-align"];
        let query = [
            "--tuples-only",
            "--command=SELECT count(*) FROM secret_tokens",
        ];
        let exec = ["exec", "-T", "postgres"];
        let output = self.compose(&[&exec[..], &psql, &query].concat());
        let stderr = text(&output.stderr);
        text(&output.stdout).trim().parse().expect(&stderr)
    }

    fn down(&self) {
        let profile = "--profile=service";
        self.compose(&[profile, "down", "--volumes", "--timeout=5"]);
    }
}

impl Drop for ComposeProject {
    fn drop(&mut self) {
        self.down();
    }
}

#[test]
#[ignore = "builds the image; tests/run runs it if a Docker engine is available"]
fn compose_project_runs_the_job_and_leaves_nothing_behind() {
    build_image();
    ensure_postgres_image();
    let mut project = ComposeProject::new("job", "300");
    let up = ["up", "--exit-code-from", "token_service"];
    let run = project.compose(&up);
    let (stdout, stderr) = (text(&run.stdout), text(&run.stderr));
    assert_eq!(run.status.code(), Some(0), "{stdout}\n{stderr}");
    let count = |what: &str| stdout.lines().filter(|line| line.contains(what)).count();
    let (stored, rejected) = (count("| stored    "), count("| rejected  "));
    assert_eq!(stored + rejected, 300, "{stdout}");
    assert!(stdout.contains("300 requested, 300 received"), "{stdout}");

    // Compose returns the exit code of the run, and the refused run stores nothing.
    project.size = "0";
    let refused = project.compose(&up);
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused.stdout));
    // This returns when PostgreSQL is healthy, and leaves it running.
    project.compose(&["up", "--detach", "token_service"]);
    assert_eq!(project.rows(), stored);

    project.down();
    let filter = format!("label=com.docker.compose.project={}", project.name);
    for kind in ["container", "network", "volume"] {
        let all: &[&str] = if kind == "container" { &["--all"] } else { &[] };
        let list = [&[kind, "ls", "--quiet", "--filter", &filter][..], all].concat();
        assert_eq!(docker_stdout(&list), "", "a {kind} is left");
    }
}

#[test]
#[ignore = "builds the image; tests/run runs it if a Docker engine is available"]
fn compose_profile_runs_the_service_instead_of_the_job() {
    build_image();
    ensure_postgres_image();
    let project = ComposeProject::new("service", "1");
    let up = project.compose(&["--profile=service", "up", "--detach", "service"]);
    assert!(up.status.success(), "{}", text(&up.stderr));
    let token = "authorization: Bearer trial\r\n";
    wait_until_ok(project.port, "GET /readyz", token);
    let run = "POST /v1/runs?size=50";
    assert_eq!(status(&answer(project.port, run, "")), 401);
    let report = answer(project.port, run, token);
    assert_eq!(status(&report), 200, "{report}");
    assert!(report.contains("\"received\":50"), "{report}");
    let stored = report.matches("\"status\":\"stored\"").count();
    assert_eq!(project.rows(), stored);
}
