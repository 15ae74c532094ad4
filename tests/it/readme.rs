//! The documents are true: every command block of them is run, and so is every script and test case
//! whose block names a file. `tests/support/doc_blocks.rs` says how the blocks are written.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::{book, docker};
use crate::support;
use crate::support::database::Database;
use crate::support::doc_blocks::{Block, DocRunner, blocks, read};
use crate::support::postgres::free_port;

/// The documents whose blocks are run: README.md, the examples and every page of the book.
fn documents() -> Vec<String> {
    let others = ["README.md", "examples/README.md"].map(String::from);
    others.into_iter().chain(book::pages()).collect()
}

fn calls_docker(block: &Block) -> bool {
    block.calls("docker")
}

fn is_run(block: &Block) -> bool {
    block.file().is_some() || ["sh", "console"].contains(&block.kind.as_str())
}

#[test]
fn every_block_runs() {
    for document in documents() {
        if read(&document).iter().any(is_run) {
            DocRunner::new().run(&document, |block| !calls_docker(block));
        }
    }
}

#[test]
#[ignore = "builds the image on a Docker engine; tests/run asks for it where one answers"]
fn every_docker_block_runs() {
    docker::build_image();
    for document in documents() {
        if read(&document).iter().any(calls_docker) {
            // With the others, for they may write what it uses.
            DocRunner::new().run(&document, |_| true);
        }
    }
}

/// They are no blocks like the others: they make a role, and listen on ports that may be taken.
#[test]
fn a_database_of_ones_own_is_set_up_and_filled_by_one_block() {
    let database = Database::new();
    let admin = database.superuser();
    let name = format!("trial_{}", database.name);
    let commands = script_on_free_ports("README.md")
        .replace("127.0.0.1:5432", &format!("127.0.0.1:{}", admin.port))
        .replace("trial", &name);
    let output = DocRunner::new()
        .shell(&commands)
        .env_remove("TOKEN_HOST")
        .env_remove("DATABASE_URL")
        .env("PGHOST", &admin.host)
        .env("PGPORT", admin.port.to_string())
        .env("PGUSER", &admin.user)
        .env("PGPASSWORD", &admin.password)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    assert!(error.contains("20 requested, 20 received"), "{error}");
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(report.contains(r#""requested":5,"received":5"#), "{report}");
}

/// Joins the blocks fenced as `bash`, which share one shell and listen on ports. Each port is replaced by a
/// free one, and what still runs at the end is stopped.
fn script_on_free_ports(document: &str) -> String {
    let blocks = read(document);
    let blocks = blocks.iter().filter(|block| block.kind == "bash");
    let blocks: Vec<&str> = blocks.map(|block| block.text.as_str()).collect();
    assert!(!blocks.is_empty(), "{document}");
    let [port, source_port, admin_port] = [free_port(), free_port(), free_port()];
    let script = blocks
        .concat()
        .replace(":8080", &format!(":{port}"))
        .replace(":8081", &format!(":{source_port}"))
        .replace(":9090", &format!(":{admin_port}"));
    // `serve` listens on 8080 by default.
    format!(
        "trap 'kill $(jobs -p) 2> /dev/null || true' EXIT
        export TOKEN_SERVICE_LISTEN=127.0.0.1:{port}
        {script}"
    )
}

#[test]
fn guide_to_the_service_runs_as_one_script() {
    let script = script_on_free_ports("docs/service.md");
    let output = DocRunner::new().shell(&script).output().unwrap();
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{stdout}\n{stderr}");
    for state in ["stopped", "interrupted"] {
        let state = format!("\"state\":\"{state}\"");
        assert!(stdout.contains(&state), "{state}: {stdout}\n{stderr}");
    }
}

#[test]
fn the_version_of_rust_is_the_one_that_is_asked_for() {
    let readme = fs::read_to_string(support::root().join("README.md")).unwrap();
    let version = env!("CARGO_PKG_RUST_VERSION");
    assert!(readme.contains(&format!("Rust ({version} or newer)")));
}

#[test]
fn every_block_of_the_guide_to_scripting_is_one_that_is_run() {
    let blocks = read("docs/scripting.md");
    let count = |kind: &str| blocks.iter().filter(|block| block.kind == kind).count();
    assert!(count("rhai") >= 10 && count("yaml") >= 5 && count("console") >= 3);
    for Block { line, kind, .. } in &blocks {
        let is_run = ["rhai", "yaml", "sh", "console"].contains(&kind.as_str());
        assert!(is_run, "docs/scripting.md:{line}: a block of {kind}");
    }
    for block in &blocks {
        let is_shell = block.kind == "sh" || block.kind == "console";
        let line = block.line;
        assert!(
            is_shell || block.file().is_some(),
            "docs/scripting.md:{line}: it names no file"
        );
    }
}

#[test]
fn getting_started_shows_a_script_and_its_test() {
    let blocks = read("docs/getting-started.md");
    let files: Vec<&str> = blocks.iter().filter_map(Block::file).collect();
    assert_eq!(files, ["first.rhai", "first.test.yaml"]);
}

#[test]
fn two_commands_are_the_set_up_and_one_is_what_ci_runs() {
    let blocks = read("README.md");
    assert!(
        blocks
            .iter()
            .any(|block| block.text == "cargo run --release -- demo 10\n")
    );
    assert!(blocks.iter().any(|block| block.text == "tests/run\n"));
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
    let text = "a\n```sh\none\n  two\n```\n```text\nno\n```\n```console\n$ three\nshown\n$ docker x\n```\n```rhai\n// a/b.rhai\n```\n```rhai\n// a b.rhai\n```\n";
    let found = blocks(text);
    let shown: Vec<(usize, &str, &str)> = found
        .iter()
        .map(|block| (block.line, block.kind.as_str(), block.text.as_str()))
        .collect();
    assert_eq!(shown[0], (3, "sh", "one\n  two\n"));
    assert_eq!(shown[2], (10, "console", "$ three\nshown\n$ docker x\n"));
    assert!(found[2].calls("docker") && !found[0].calls("docker"));
    let files: Vec<Option<&str>> = found.iter().map(Block::file).collect();
    assert_eq!(files, [None, None, None, Some("a/b.rhai"), None]);
}
