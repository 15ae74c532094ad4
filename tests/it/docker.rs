//! Tests of the image on a Docker engine, built and run as the README describes. This file tests the
//! content and metadata of the image, `runs` its behaviour, and `compose` its use with Compose.
//!
//! Building takes minutes, so the tests are ignored by default: see tests/it/main.rs.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

use serde_json::Value;

use crate::support;

mod compose;
pub(crate) mod mounted;
mod runs;

pub(crate) const IMAGE: &str = "token_service:test";
/// The date of the files in the image; it differs from the default to show that the argument is used.
const EPOCH: &str = "1700000000";
const REVISION: &str = "0123456789abcdef0123456789abcdef01234567";

/// The build of the image, which all tests share; if it fails, every test fails.
static BUILT: LazyLock<Result<(), String>> = LazyLock::new(|| {
    let epoch = format!("SOURCE_DATE_EPOCH={EPOCH}");
    let revision = format!("REVISION={REVISION}");
    let args = ["--build-arg", &epoch, "--build-arg", &revision];
    let built = docker(&[&["build", "-t", IMAGE][..], &args, &["."]].concat());
    let text = format!("{}{}", text(&built.stdout), text(&built.stderr));
    built.status.success().then_some(()).ok_or(text)
});

/// Builds the image, or waits until another test has built it.
///
/// Tests that build in another way call it first: two concurrent builds would both compile everything.
pub(crate) fn build_image() {
    support::time_limit::start();
    if let Err(why) = &*BUILT {
        panic!("docker build failed:\n{why}");
    }
}

/// Runs a docker command in the checkout.
pub(crate) fn docker(args: &[&str]) -> Output {
    let mut command = Command::new("docker");
    command.args(args).current_dir(support::root());
    command.output().expect("the docker command")
}

/// Runs a docker command that must succeed, and returns its standard output.
#[track_caller]
pub(crate) fn docker_stdout(args: &[&str]) -> String {
    let output = docker(args);
    let stderr = text(&output.stderr);
    assert!(output.status.success(), "docker {args:?}: {stderr}");
    text(&output.stdout).trim().to_owned()
}

/// Converts output to text.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A container that is removed when the value is dropped.
pub(crate) struct Container(String);

impl Container {
    /// Starts a container in the background.
    #[track_caller]
    pub(crate) fn start(options: &[&str], args: &[&str]) -> Self {
        build_image();
        Self(docker_stdout(
            &[&["run", "-d"], options, &[IMAGE], args].concat(),
        ))
    }

    /// Waits for a line of either stream that contains `what`, and returns it.
    #[track_caller]
    pub(crate) fn wait_for_log_line(&self, what: &str) -> String {
        let mut follower = Command::new("sh")
            .args(["-c", "exec docker logs --follow \"$0\" 2>&1", &self.0])
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh");
        let lines = BufReader::new(follower.stdout.take().expect("a pipe")).lines();
        // The lines end when the container stops.
        let found = lines.map_while(Result::ok).find(|line| line.contains(what));
        let _ = follower.kill();
        let _ = follower.wait();
        found.unwrap_or_else(|| panic!("no line contains {what:?}"))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        docker(&["rm", "--force", "--volumes", &self.0]);
    }
}

/// Runs a container of the image until it exits: exit code, standard output, standard error.
fn run(options: &[&str], args: &[&str]) -> (Option<i32>, String, String) {
    build_image();
    let output = docker(&[&["run", "--rm"], options, &[IMAGE], args].concat());
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// The content of a file of the image.
fn file(path: &str) -> String {
    build_image();
    let container = Container(docker_stdout(&["create", IMAGE]));
    let copied = docker(&["cp", &format!("{}:{path}", container.0), "-"]);
    assert!(copied.status.success(), "{}", text(&copied.stderr));
    // `docker cp` writes an archive with this file.
    let mut tar = Command::new("tar").arg("-xO").piped(&copied.stdout);
    assert!(!tar.is_empty(), "{path} is empty");
    String::from_utf8(std::mem::take(&mut tar)).unwrap()
}

/// Runs a program with the output of another one as its input.
trait Piped {
    fn piped(&mut self, input: &[u8]) -> Vec<u8>;
}

impl Piped for Command {
    fn piped(&mut self, input: &[u8]) -> Vec<u8> {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, input).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        let output = self.stdin(file).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        output.stdout
    }
}

/// The value of a label in the Dockerfile.
fn label(name: &str) -> String {
    let dockerfile = fs::read_to_string(support::root().join("Dockerfile")).unwrap();
    let key = format!("org.opencontainers.image.{name}=\"");
    let (_, rest) = dockerfile.split_once(&key).expect("a label");
    rest.split_once('"').unwrap().0.to_owned()
}

#[test]
fn labels_name_the_version_and_licence_of_the_program() {
    assert_eq!(label("version"), env!("CARGO_PKG_VERSION"));
    let manifest = fs::read_to_string(support::root().join("Cargo.toml")).unwrap();
    assert!(manifest.contains(&format!("license = \"{}\"\n", label("licenses"))));
}

#[test]
#[ignore = "builds the image; tests/run runs it if a Docker engine is available"]
fn image_has_a_user_an_entry_point_labels_and_a_limited_size() {
    build_image();
    let format = "{{.Config.User}} {{json .Config.Entrypoint}} {{json .Config.Cmd}}";
    let metadata = docker_stdout(&["image", "inspect", "--format", format, IMAGE]);
    assert_eq!(metadata, r#"65532:65532 ["token_service"] null"#);
    let labels = docker_stdout(&[
        "image",
        "inspect",
        "--format={{json .Config.Labels}}",
        IMAGE,
    ]);
    let labels: Value = serde_json::from_str(&labels).unwrap();
    let label = |name: &str| labels[format!("org.opencontainers.image.{name}")].clone();
    assert_eq!(label("title"), "token_service");
    assert_eq!(label("version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(label("revision"), REVISION);
    assert_eq!(label("created"), "", "no date was given");
    let size = docker_stdout(&["image", "inspect", "--format={{.Size}}", IMAGE]);
    let size: u64 = size.parse().unwrap();
    assert!(size <= 25 * 1024 * 1024, "{size} bytes");
    let (_, stdout, _) = run(&[], &["--version"]);
    let version = concat!("token_service ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(stdout, version);
}

#[test]
#[ignore = "builds the image; tests/run runs it if a Docker engine is available"]
fn image_has_no_shell() {
    for shell in ["sh", "/bin/sh", "/bin/bash"] {
        let (code, _, stderr) = run(&["--entrypoint", shell], &["-c", "exit 0"]);
        assert_eq!(code, Some(127), "{shell}: {stderr}");
    }
}

/// Reads the layers, because a container adds files.
#[test]
#[ignore = "builds the image; tests/run runs it if a Docker engine is available"]
fn each_file_belongs_to_root_and_has_the_given_date() {
    build_image();
    let saved = docker(&["save", IMAGE]).stdout;
    let mut listed = String::new();
    for layer in layers(&saved) {
        let layer = Command::new("tar").args(["-xO", &layer]).piped(&saved);
        let list = ["-tv", "--numeric-owner", "--utc", "--full-time"];
        listed.push_str(&text(&Command::new("tar").args(list).piped(&layer)));
    }
    for line in listed.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [mode, owner, _, date, time, path] = words[..6] else {
            panic!("{line}");
        };
        assert_eq!(owner, "0/0", "{line}");
        assert_eq!((date, time), ("2023-11-14", "22:13:20"), "{line}");
        let is_sticky = path == "tmp/" && mode == "drwxrwxrwt";
        let is_write_protected = ["rwxr-xr-x", "rw-r--r--"].contains(&&mode[1..]);
        let is_link = mode.starts_with('l');
        assert!(is_sticky || is_write_protected || is_link, "{line}");
    }
    for path in ["usr/local/bin/token_service", "scripts/default.rhai"] {
        assert!(listed.contains(path), "{listed}");
    }
}

/// The names of the layers in a saved image.
fn layers(saved: &[u8]) -> Vec<String> {
    let manifest = Command::new("tar")
        .args(["-xO", "manifest.json"])
        .piped(saved);
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let layers = manifest[0]["Layers"].as_array().unwrap().iter();
    layers.map(|l| l.as_str().unwrap().to_owned()).collect()
}

/// The crates of Cargo.lock that come from a registry: name, version and checksum.
fn locked() -> BTreeSet<(String, String, String)> {
    let lock = fs::read_to_string(support::root().join("Cargo.lock")).unwrap();
    let value = |block: &str, key: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.trim_matches(['=', ' ', '"']).to_owned())
    };
    let crates = lock.split("[[package]]").filter_map(|block| {
        Some((
            value(block, "name")?,
            value(block, "version")?,
            value(block, "checksum")?,
        ))
    });
    crates.collect()
}

#[test]
#[ignore = "builds the image; tests/run runs it if a Docker engine is available"]
fn image_lists_the_crates_that_it_is_built_from() {
    let bom: Value =
        serde_json::from_str(&file("/usr/share/doc/token_service/sbom.cdx.json")).unwrap();
    assert_eq!(bom["bomFormat"], "CycloneDX");
    let main = &bom["metadata"]["component"];
    assert_eq!(main["name"], "token_service");
    assert_eq!(main["version"], env!("CARGO_PKG_VERSION"));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let listed: BTreeSet<_> = bom["components"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| {
            let digest = &part["hashes"][0]["content"];
            (text(&part["name"]), text(&part["version"]), text(digest))
        })
        .collect();
    let locked = locked();
    let unknown: Vec<_> = listed.difference(&locked).collect();
    assert!(unknown.is_empty(), "not in Cargo.lock: {unknown:?}");
    let has = |name: &str| listed.iter().any(|(listed, ..)| listed == name);
    for name in ["rhai", "reqwest", "tokio-postgres", "rusqlite", "ring"] {
        assert!(has(name), "{name}");
    }
    for name in ["insta", "proptest", "jsonschema"] {
        assert!(!has(name), "{name} is a development dependency");
    }
    for licence in ["MIT", "APACHE"] {
        let path = format!("LICENSE-{licence}");
        let ours = fs::read_to_string(support::root().join(&path)).unwrap();
        assert_eq!(file(&format!("/usr/share/doc/token_service/{path}")), ours);
    }
}
