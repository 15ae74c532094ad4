//! Checks that docs/licences.md lists every linked crate and its licence according to Cargo's metadata.
//! `deny.toml` lists the allowed licences.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::root;

const FILE: &str = "docs/licences.md";
const HEAD: &str = "\
# Licences

These crates are linked into the program on the platforms with releases. Crates that only build or test
the program are not listed. If licences are joined by `OR`, you may choose one. The licence texts are in
the packages of the crates, and below `third-party/` in the archive of a release. `deny.toml` lists the
allowed licences.

A test writes this file; do not edit it. After a change of dependencies, regenerate it:

    TOKEN_SERVICE_UPDATE=1 cargo test --test it licences

| crate | version | licence |
|---|---|---|
";

fn metadata(platform: &str) -> Value {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--format-version=1", "--locked"]);
    cargo
        .args(["--filter-platform", platform])
        .current_dir(root());
    let output = cargo.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// Crates whose package has no licence text. The texts of this project have the same licences and cover
/// them.
const WITHOUT_TEXT: [&str; 4] = [
    "maud",
    "opentelemetry",
    "opentelemetry-proto",
    "opentelemetry_sdk",
];

/// True for the file names that the release workflow collects.
fn is_licence_text(file: &str) -> bool {
    let begins = ["LICENCE", "LICENSE", "COPYING", "NOTICE", "UNLICENSE"];
    let file = file.to_uppercase();
    begins.iter().any(|begin| file.starts_with(begin))
}

fn has_text(package: &Value) -> bool {
    let folder = Path::new(text(package, "manifest_path")).parent().unwrap();
    let files = folder.read_dir().unwrap();
    let mut names = files.map(|file| file.unwrap().file_name());
    names.any(|name| is_licence_text(name.to_str().unwrap_or_default()))
}

/// Returns name, version and licence of each crate that is linked into the program on a platform.
fn linked_crates(platform: &str) -> BTreeSet<(String, String, String)> {
    let metadata = metadata(platform);
    let by_id = |values| -> BTreeMap<&str, &Value> {
        let values: &[Value] = values;
        values
            .iter()
            .map(|value| (text(value, "id"), value))
            .collect()
    };
    let packages = by_id(list(&metadata, "packages"));
    let nodes = by_id(list(&metadata["resolve"], "nodes"));
    let is_macro = |package: &Value| {
        let targets = list(package, "targets").iter();
        targets
            .flat_map(|target| list(target, "kind"))
            .any(|kind| kind == "proc-macro")
    };
    let root_package = text(&metadata["resolve"], "root");
    let mut found = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut next = vec![root_package];
    while let Some(id) = next.pop() {
        let package = packages[id];
        if is_macro(package) || !seen.insert(id) {
            continue;
        }
        if id != root_package {
            let part = |key| text(package, key).to_owned();
            let known = WITHOUT_TEXT.contains(&text(package, "name"));
            assert_ne!(has_text(package), known, "{}", part("name"));
            found.insert((part("name"), part("version"), part("license")));
        }
        let normal = |dependency: &&Value| {
            let mut kinds = list(dependency, "dep_kinds").iter();
            kinds.any(|kind| kind["kind"].is_null())
        };
        let dependencies = list(nodes[id], "deps").iter().filter(normal);
        next.extend(dependencies.map(|dependency| text(dependency, "pkg")));
    }
    found
}

#[test]
fn licence_list_matches_the_lock_file() {
    let mut crates = linked_crates("x86_64-unknown-linux-gnu");
    crates.extend(linked_crates("aarch64-unknown-linux-gnu"));
    assert!(crates.len() > 50, "{crates:?}");
    let mut list = HEAD.to_owned();
    for (name, version, licence) in crates {
        assert_ne!(licence, "", "{name} {version} names no licence");
        // `/` is the older form of `OR`.
        let licence: Vec<&str> = licence.split('/').map(str::trim).collect();
        let licence = licence.join(" OR ");
        writeln!(list, "| {name} | {version} | {licence} |").unwrap();
    }
    let file = root().join(FILE);
    if std::env::var_os("TOKEN_SERVICE_UPDATE").is_some() {
        std::fs::write(&file, &list).unwrap();
    }
    let written = std::fs::read_to_string(file).unwrap_or_default();
    let problem = "is out of date; the file says how to regenerate it";
    assert!(written == list, "{FILE} {problem}");
}
