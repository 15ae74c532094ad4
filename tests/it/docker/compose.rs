//! `deploy/compose.yaml`, unchanged, with the one command that its head names: the whole job against
//! PostgreSQL's official image, or what stands in for it where no registry answers.

use std::process::{Command, Output};

use super::{IMAGE, build_image, docker, docker_stdout, text};
use crate::support;

/// The database's image as the file names it.
fn has_postgres() {
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

/// A project of that name, gone at the end with all that is its.
struct Project {
    name: String,
    size: &'static str,
}

impl Project {
    fn compose(&self, args: &[&str]) -> Output {
        // Compose is a plugin of the docker command now; it was a program of its own.
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
            .env("SIZE", self.size);
        command.output().expect("docker compose, or docker-compose")
    }

    /// How many rows the table has.
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
}

impl Drop for Project {
    fn drop(&mut self) {
        self.compose(&["down", "--volumes", "--timeout=5"]);
    }
}

#[test]
#[ignore = "builds the image on a Docker engine; tests/run asks for it where one answers"]
fn the_whole_job_comes_up_and_goes_down() {
    build_image();
    has_postgres();
    let mut project = Project {
        name: format!("token_service_test_{}", std::process::id()),
        size: "300",
    };
    let up = ["up", "--exit-code-from", "token_service"];
    let run = project.compose(&up);
    let (stdout, stderr) = (text(&run.stdout), text(&run.stderr));
    assert_eq!(run.status.code(), Some(0), "{stdout}\n{stderr}");
    let count = |what: &str| stdout.lines().filter(|line| line.contains(what)).count();
    let (stored, rejected) = (count("| stored    "), count("| rejected  "));
    assert_eq!(stored + rejected, 300, "{stdout}");
    assert!(stdout.contains("300 requested, 300 received"), "{stdout}");

    // The run's exit code comes through, and nothing is stored without one.
    project.size = "0";
    let refused = project.compose(&up);
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused.stdout));
    // Comes back once PostgreSQL is healthy, and leaves it running.
    project.compose(&["up", "--detach", "token_service"]);
    assert_eq!(project.rows(), stored);

    project.compose(&["down", "--volumes", "--timeout=5"]);
    let of_it = format!("label=com.docker.compose.project={}", project.name);
    for kind in ["container", "network", "volume"] {
        let all: &[&str] = if kind == "container" { &["--all"] } else { &[] };
        let list = [&[kind, "ls", "--quiet", "--filter", &of_it][..], all].concat();
        assert_eq!(docker_stdout(&list), "", "a {kind} is left");
    }
}
