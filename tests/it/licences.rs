//! docs/licences.md lists what the program is made of and under which licences, as Cargo's own metadata
//! says; `deny.toml` decides which may be.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::root;

const FILE: &str = "docs/licences.md";
const HEAD: &str = "\
# Licences

This page lists the crates that are linked into the program, for each platform of a release. Crates that only
build or test it are not listed. If licences are joined by `OR`, choose one of them. The licence texts are in
the packages of the crates, and below `third-party/` in the archive of a release. `deny.toml` lists the
allowed licences.

A test generates this page: do not edit it. After a change of dependencies, regenerate it:

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

/// Crates whose package holds no licence text; for these the texts of this project stand, which are of
/// the same licences.
const WITHOUT_TEXT: [&str; 4] = [
    "maud",
    "opentelemetry",
    "opentelemetry-proto",
    "opentelemetry_sdk",
];

/// What the release's workflow looks for.
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

/// Name, version and licence of each crate that is linked into the program on this platform.
fn linked(platform: &str) -> BTreeSet<(String, String, String)> {
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
    let own = text(&metadata["resolve"], "root");
    let mut found = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut next = vec![own];
    while let Some(id) = next.pop() {
        let package = packages[id];
        if is_macro(package) || !seen.insert(id) {
            continue;
        }
        if id != own {
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
fn the_list_of_licences_is_that_of_the_lock_file() {
    let mut crates = linked("x86_64-unknown-linux-gnu");
    crates.extend(linked("aarch64-unknown-linux-gnu"));
    assert!(crates.len() > 50, "{crates:?}");
    let mut list = HEAD.to_owned();
    for (name, version, licence) in crates {
        assert_ne!(licence, "", "{name} {version} names none");
        // The slash is how `OR` was written once.
        let licence: Vec<&str> = licence.split('/').map(str::trim).collect();
        let licence = licence.join(" OR ");
        writeln!(list, "| {name} | {version} | {licence} |").unwrap();
    }
    let file = root().join(FILE);
    if std::env::var_os("TOKEN_SERVICE_UPDATE").is_some() {
        std::fs::write(&file, &list).unwrap();
    }
    let kept = std::fs::read_to_string(file).unwrap_or_default();
    let old = "is out of date; its text says how it is made anew";
    assert!(kept == list, "{FILE} {old}");
}
