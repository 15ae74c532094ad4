//! Runs the code blocks of the documents as a reader would, so that they stay correct.
//!
//! Rules for the documents:
//! - A block fenced as `sh` is a script. In a block fenced as `console` the lines after `$ ` are the
//!   script, and the rest shows possible output. A block that must not run has another fence.
//! - A block fenced as `rhai` or `yaml` is a file if its first line is a comment with a file name only.
//!   A `yaml` file is run by `token_service test`. A script is checked; if no `yaml` block follows, it
//!   is run in the demo as well. A block without a file name is not run.
//! - Each block runs under `bash -euo pipefail` and must exit with 0. All blocks run in the order of the
//!   document, in one copy of the checkout. A block may use a file that an earlier one wrote.
//! - The programs are the real ones, but nothing is compiled again. `token_service` and
//!   `cargo run … -- ARGS` are the binary under test. Other `cargo` commands must be `build` or
//!   `install`, and do nothing. `tests/run`, which runs this test, only prints its name.
//! - The blocks of a document that are fenced as `bash` listen on ports. They share one shell, and a test of
//!   tests/it/readme.rs runs them on free ports.
//! - `TOKEN_HOST` and `DATABASE_URL` name a source that under-delivers and a database with the standard
//!   table. A block that sets `DB_*` must unset `DATABASE_URL`.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::command::binary;
use super::database::Database;
use super::postgres::server;
use super::root;
use super::source::Source;

/// One fenced block.
pub struct Block {
    /// The number of its first line in the document.
    pub line: usize,
    /// The language of its fence.
    pub kind: String,
    /// Its text.
    pub text: String,
}

impl Block {
    /// Whether it calls this program.
    pub fn calls(&self, program: &str) -> bool {
        let is_shell = self.kind == "sh" || self.kind == "console";
        let mut lines = self.text.lines();
        let words = |line: &str| {
            line.split([' ', ';', '|', '&', '('])
                .any(|word| word == program)
        };
        is_shell && lines.any(words)
    }

    /// The name of the file that it shows, if any.
    pub fn file(&self) -> Option<&str> {
        let first = self.text.lines().next()?;
        let (mark, ending) = match self.kind.as_str() {
            "rhai" => ("// ", ".rhai"),
            "yaml" => ("# ", ".yaml"),
            _ => return None,
        };
        let name = first.strip_prefix(mark)?;
        (name.ends_with(ending) && !name.contains(' ')).then_some(name)
    }

    /// The command that runs it; `next` is the following block.
    fn command(&self, next: Option<&Self>) -> Option<String> {
        match (self.kind.as_str(), self.file()) {
            ("sh", _) => Some(self.text.clone()),
            ("console", _) => {
                let commands = self.text.lines().filter_map(|line| line.strip_prefix("$ "));
                Some(commands.collect::<Vec<_>>().join("\n"))
            }
            ("rhai", Some(name)) => {
                let check = format!("token_service check {name}");
                let has_cases = next.is_some_and(|next| next.kind == "yaml");
                // A module by itself requests nothing, which is an error.
                let is_module = name.starts_with("lib/");
                let demo = format!("{check}\ntoken_service demo 5 --script {name}");
                Some(if has_cases || is_module { check } else { demo })
            }
            ("yaml", Some(name)) => Some(format!("token_service test {name}")),
            _ => None,
        }
    }
}

/// The blocks of a document of the repository, in order.
pub fn read(document: &str) -> Vec<Block> {
    blocks(&fs::read_to_string(root().join(document)).expect(document))
}

/// The blocks of a Markdown text, in order.
pub fn blocks(text: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut open: Option<Block> = None;
    for (at, line) in text.lines().enumerate() {
        let fence = line.trim_start().strip_prefix("```");
        open = match (open, fence) {
            (None, None) => None,
            (None, Some(info)) => Some(Block {
                line: at + 2,
                kind: info.split_whitespace().next().unwrap_or_default().into(),
                text: String::new(),
            }),
            (Some(mut block), None) => {
                block.text.push_str(line);
                block.text.push('\n');
                Some(block)
            }
            (Some(block), Some(_)) => {
                found.push(block);
                None
            }
        };
    }
    found
}

/// Runs blocks in a copy of the checkout, with a `PATH` on which nothing is compiled again.
pub struct DocRunner {
    dir: tempfile::TempDir,
    path: String,
}

impl DocRunner {
    /// Copies the checkout.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("token_service");
        fs::create_dir(&copy).unwrap();
        for entry in fs::read_dir(root()).unwrap().flatten() {
            if entry.file_name() != "target" && entry.file_name() != ".git" {
                let copied = Command::new("cp")
                    .arg("-R")
                    .arg(entry.path())
                    .arg(&copy)
                    .status();
                assert!(copied.unwrap().success());
            }
        }
        write_program(
            &copy.join("tests/run"),
            "echo 'tests/run: skipped inside its own tests'",
        );
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).unwrap();
        std::os::unix::fs::symlink(binary(), bin.join("token_service")).unwrap();
        write_program(&bin.join("cargo"), CARGO);
        let inherited = std::env::var("PATH").unwrap_or_default();
        // The folder of the server comes last, for psql and pgbench on systems that have them only there.
        let path = format!(
            "{}:{inherited}:{}",
            bin.display(),
            server().programs.display()
        );
        Self { dir, path }
    }

    /// The command of a shell that runs these commands in the copy.
    pub fn shell(&self, commands: &str) -> Command {
        let mut shell = Command::new("bash");
        shell
            .args(["-euo", "pipefail", "-c", commands])
            .current_dir(self.dir.path().join("token_service"))
            .env_clear()
            .envs(docker_settings())
            .env("PATH", &self.path)
            .env("HOME", self.dir.path())
            .stdin(Stdio::null());
        shell
    }

    /// Runs the wanted blocks of a document, in order.
    ///
    /// # Panics
    /// If a block does not exit with 0.
    pub fn run(&self, document: &str, wanted: impl Fn(&Block) -> bool) {
        let database = Database::standard();
        let source = Source::generating(|size| size.div_ceil(2));
        let folder = self.dir.path().join("token_service");
        let blocks = read(document);
        for (at, block) in blocks.iter().enumerate() {
            let Some(command) = block.command(blocks.get(at + 1)) else {
                continue;
            };
            if !wanted(block) {
                continue;
            }
            if let Some(name) = block.file() {
                let file = folder.join(name);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, &block.text).unwrap();
            }
            let output = self
                .shell(&command)
                .env("TOKEN_HOST", source.url())
                .env("DATABASE_URL", database.url())
                .output()
                .expect("bash");
            assert!(
                output.status.success(),
                "{document}:{}: the block ended with {}\n{command}\nstdout: {}\nstderr: {}",
                block.line,
                output.status,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
}

/// The variables by which `docker` finds its engine; no other variable is inherited.
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

/// A replacement for cargo; everything is already built.
const CARGO: &str = r#"case "${1-}" in
  build | install) exit 0 ;;
  run)
    while [ $# -gt 0 ] && [ "$1" != -- ]; do shift; done
    [ $# -eq 0 ] || shift
    exec token_service "$@" ;;
  *) echo "the test of the documents does not support: cargo $*" >&2; exit 1 ;;
esac"#;

fn write_program(path: &Path, script: &str) {
    fs::write(path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}
