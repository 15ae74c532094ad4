//! Runs every command block of README.md as a reader would, so that none of them goes stale.
//!
//! How README.md is written for it:
//! - A block fenced as `sh` is a script; of a block fenced as `console` the lines after `$ ` are the
//!   script and the rest shows what may come. What must not be run is fenced as something else.
//! - Each block runs under `bash -euo pipefail` and must end with 0. All run in the order of the
//!   file in one copy of the checkout, so that a block may use a file that an earlier one wrote.
//! - The programs are the real ones, but nothing is compiled again: `token_service` and
//!   `cargo run … -- ARGS` are the binary under test, other `cargo` commands must be `build` or
//!   `install` and do nothing, and `tests/run`, which runs this, only says its name.
//! - `TOKEN_HOST` and `DATABASE_URL` are set to a source that under-delivers and a database with the
//!   seed's table; a block that sets `DB_*` has to unset the latter.
//! - A block that calls `docker` runs only with the other tests of the image.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::docker;
use crate::support;
use crate::support::command::binary;
use crate::support::database::Database;
use crate::support::postgres::server;
use crate::support::source::Source;

/// One command block.
struct Block {
    /// The line of its first command in README.md.
    line: usize,
    script: String,
}

impl Block {
    fn calls(&self, program: &str) -> bool {
        let words = |line: &str| {
            line.split([' ', ';', '|', '&', '('])
                .any(|word| word == program)
        };
        self.script.lines().any(words)
    }
}

fn readme() -> Vec<Block> {
    let text = fs::read_to_string(support::root().join("README.md")).expect("README.md");
    blocks(&text)
}

/// The blocks of a Markdown text, in order.
fn blocks(text: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut open: Option<(String, Block)> = None;
    for (at, line) in text.lines().enumerate() {
        let fence = line.trim_start().strip_prefix("```");
        open = match (open, fence) {
            (None, None) => None,
            (None, Some(kind)) => {
                let kind = kind
                    .split_whitespace()
                    .next()
                    .unwrap_or_default()
                    .to_owned();
                Some((
                    kind,
                    Block {
                        line: at + 2,
                        script: String::new(),
                    },
                ))
            }
            (Some((kind, mut block)), None) => {
                let command = if kind == "console" {
                    line.strip_prefix("$ ")
                } else {
                    Some(line)
                };
                if let Some(command) = command {
                    block.script.push_str(command);
                    block.script.push('\n');
                }
                Some((kind, block))
            }
            (Some((kind, block)), Some(_)) => {
                if kind == "sh" || kind == "console" {
                    found.push(block);
                }
                None
            }
        };
    }
    found
}

/// A copy of the checkout and a `PATH` on which nothing is compiled again.
struct Stage {
    dir: tempfile::TempDir,
    path: String,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("token_service");
        fs::create_dir(&copy).unwrap();
        for entry in fs::read_dir(support::root()).unwrap().flatten() {
            if entry.file_name() != "target" && entry.file_name() != ".git" {
                let copied = Command::new("cp")
                    .arg("-R")
                    .arg(entry.path())
                    .arg(&copy)
                    .status();
                assert!(copied.unwrap().success());
            }
        }
        program(
            &copy.join("tests/run"),
            "echo 'tests/run: not run by itself'",
        );
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).unwrap();
        std::os::unix::fs::symlink(binary(), bin.join("token_service")).unwrap();
        program(&bin.join("cargo"), CARGO);
        let inherited = std::env::var("PATH").unwrap_or_default();
        // The server's programs come last: psql and pgbench, where the system has them only there.
        let path = format!(
            "{}:{inherited}:{}",
            bin.display(),
            server().programs.display()
        );
        Self { dir, path }
    }

    fn run(&self, blocks: &[Block]) {
        let database = Database::seed();
        let source = Source::generating(|asked| asked.div_ceil(2));
        for block in blocks {
            let output = Command::new("bash")
                .args(["-euo", "pipefail", "-c", &block.script])
                .current_dir(self.dir.path().join("token_service"))
                .env_clear()
                .envs(docker_settings())
                .env("PATH", &self.path)
                .env("HOME", self.dir.path())
                .env("TOKEN_HOST", source.url())
                .env("DATABASE_URL", database.url())
                .stdin(Stdio::null())
                .output()
                .expect("bash");
            assert!(
                output.status.success(),
                "README.md:{}: the block ended with {}\n{}\nstdout: {}\nstderr: {}",
                block.line,
                output.status,
                block.script,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
}

/// How the `docker` command finds its engine; the rest of the developer's environment is kept out.
fn docker_settings() -> Vec<(OsString, OsString)> {
    let of_docker = |name: &OsString| {
        name.to_str()
            .is_some_and(|name| name.starts_with("DOCKER_"))
    };
    let mut settings: Vec<_> = std::env::vars_os()
        .filter(|(name, _)| of_docker(name))
        .collect();
    if let (None, Some(home)) = (std::env::var_os("DOCKER_CONFIG"), std::env::home_dir()) {
        settings.push(("DOCKER_CONFIG".into(), home.join(".docker").into()));
    }
    settings
}

/// Stands in for cargo: what it would build is built already.
const CARGO: &str = r#"case "${1-}" in
  build | install) exit 0 ;;
  run)
    while [ $# -gt 0 ] && [ "$1" != -- ]; do shift; done
    [ $# -eq 0 ] || shift
    exec token_service "$@" ;;
  *) echo "README.md calls cargo $*, which its test does not know" >&2; exit 1 ;;
esac"#;

fn program(path: &Path, script: &str) {
    fs::write(path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn every_block_runs() {
    let blocks: Vec<Block> = readme()
        .into_iter()
        .filter(|block| !block.calls("docker"))
        .collect();
    assert!(!blocks.is_empty(), "README.md has no command block");
    Stage::new().run(&blocks);
}

#[test]
#[ignore = "builds the image on a Docker engine; tests/run asks for it where one answers"]
fn every_docker_block_runs() {
    let blocks: Vec<Block> = readme()
        .into_iter()
        .filter(|block| block.calls("docker"))
        .collect();
    docker::built();
    Stage::new().run(&blocks);
}

#[test]
fn two_commands_are_the_set_up_and_one_is_what_ci_runs() {
    let blocks = readme();
    assert!(
        blocks
            .iter()
            .any(|block| block.script == "cargo run --release -- demo 10\n")
    );
    assert!(blocks.iter().any(|block| block.script == "tests/run\n"));
    let ci = fs::read_to_string(support::root().join(".ci/run")).unwrap();
    let last = ci.lines().last().unwrap();
    assert!(last.starts_with("exec timeout ") && last.ends_with(" tests/run"));
    for script in ["tests/run", ".ci/run"] {
        let mode = fs::metadata(support::root().join(script))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o111, 0o111, "{script} can be run");
    }
}

#[test]
fn blocks_are_found_by_their_fence() {
    let found = blocks(
        "a\n```sh\none\n  two\n```\n```text\nno\n```\n```console\n$ three\nshown\n$ docker x\n```\n",
    );
    let shown: Vec<(usize, &str)> = found.iter().map(|b| (b.line, b.script.as_str())).collect();
    assert_eq!(shown, [(3, "one\n  two\n"), (10, "three\ndocker x\n")]);
    assert!(found[1].calls("docker") && !found[0].calls("docker"));
}
