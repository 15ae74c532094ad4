//! Reads test files. Errors in a file are shown with their places.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
use std::{fs, io};

use crate::command::test::case::TestCase;
use crate::command::test::schema;
use crate::config::yaml::{PathStep, TextSpan, YamlNode, YamlText};
use crate::error::{Error, Location, usage};
use crate::runtime::files;

/// The suffix of test files.
pub(crate) const SUFFIX: &str = ".test.yaml";

/// The mark that some editors write at the start of a text.
const BYTE_ORDER_MARK: &str = "\u{feff}";
/// Limit of a test file, in bytes.
const MAX_FILE: u64 = 16 << 20;

/// A test file.
pub(crate) struct TestFile {
    /// The name of the file in the output.
    pub label: String,
    /// The path as given or found.
    pub path: PathBuf,
    /// The text, without a byte order mark.
    pub text: String,
    /// The byte order mark at its start, or nothing.
    mark: &'static str,
    /// The keys and values of the text, with their places.
    pub root: YamlNode,
    /// The cases.
    pub cases: Vec<TestCase>,
}

impl TestFile {
    /// Reads the test file at `path`, named `label` in the output.
    pub(crate) fn read(path: &Path, label: String) -> Result<Self, Vec<Error>> {
        let file_name = path.display().to_string();
        let unreadable = |error: io::Error| {
            let failure = usage(format!("the test file {file_name} cannot be read"));
            vec![failure.cause(error.to_string())]
        };
        let bytes = files::read(path, MAX_FILE).map_err(unreadable)?;
        let has_mark = bytes.starts_with(BYTE_ORDER_MARK.as_bytes());
        let mark = if has_mark { BYTE_ORDER_MARK } else { "" };
        let text = files::decode(bytes).map_err(unreadable)?;
        let file = Self::parse(path, label, text)?;
        Ok(Self { mark, ..file })
    }

    /// Writes `text` to the file, if it differs from `before`.
    pub(crate) fn write(&self, before: &str, text: &str) -> io::Result<()> {
        if before == text {
            return Ok(());
        }
        fs::write(&self.path, format!("{}{text}", self.mark))
    }

    /// Parses `text`, the content of the file at `path`.
    pub(crate) fn parse(path: &Path, label: String, text: String) -> Result<Self, Vec<Error>> {
        let file_name = path.display().to_string();
        let yaml = YamlText::new("the test file", &file_name, &text);
        let root = yaml.parse();
        let mut cases = Vec::new();
        if let Some(root) = &root {
            let items = yaml.root(root, "the file").items().into_iter();
            let script_path = |script: &Path| script_path(path, script);
            let read = items.enumerate().filter_map(|(index, item)| {
                // The location shows which item of the file it is.
                schema::case(index, &item.as_root("each item"), script_path)
            });
            cases.extend(read);
            report_same_names(&yaml, root, &cases);
        }
        let mut errors = yaml.into_errors();
        let root = match root {
            Some(root) if errors.is_empty() && !cases.is_empty() => root,
            _ => {
                if errors.is_empty() {
                    errors.push(no_cases(file_name));
                }
                return Err(errors);
            }
        };
        Ok(Self {
            label,
            path: path.to_owned(),
            text,
            mark: "",
            root,
            cases,
        })
    }

    /// Returns `file:line:column` of the key at `path`.
    pub(crate) fn location(&self, path: &[PathStep]) -> String {
        let TextSpan { line, column, .. } = self.root.key(path);
        format!("{}:{line}:{column}", self.path.display())
    }
}

/// Records cases that have the name of an earlier one: `--filter` and reports could not tell them apart.
fn report_same_names(yaml: &YamlText, root: &YamlNode, cases: &[TestCase]) {
    let mut lines = HashMap::new();
    for case in cases {
        let path = [PathStep::Item(case.index), PathStep::Key("name")];
        let span = root.key(&path);
        if let Some(line) = lines.insert(case.name.as_str(), span.line) {
            let label = format!("the case in line {line} has it");
            let error = usage(format!("two cases have the name `{}`", case.name));
            yaml.report(error.location(yaml.locate(&span, &label)));
        }
    }
}

fn no_cases(file: String) -> Error {
    usage("the test file has no cases")
        .location(Location {
            file,
            source: String::new(),
            line: 1,
            column: 1,
            length: 1,
            label: String::new(),
        })
        .hint("write a list of cases, each with a `name`; see docs/testing.md")
}

/// Returns the path of a script, which is relative to the folder of the test file.
fn script_path(test_file: &Path, script: &Path) -> PathBuf {
    let joined = test_file.parent().unwrap_or(Path::new("")).join(script);
    let plain = normalize(&joined);
    // With a symbolic link before `..`, the normalized path may be a different file.
    match (plain.canonicalize(), joined.canonicalize()) {
        (Ok(one), Ok(other)) if one == other => plain,
        _ => joined,
    }
}

/// Returns the path without `.` and `x/..`.
fn normalize(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir
                if plain
                    .components()
                    .next_back()
                    .is_some_and(|last| matches!(last, Component::Normal(_))) =>
            {
                plain.pop();
            }
            other => plain.push(other),
        }
    }
    plain
}
