//! Which test files are meant: those that are named, and those below the folders that are named.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::file::ENDING;
use crate::exit::Exit;
use crate::problem::Problem;

/// A test file, and what its cases are called by: the path below the folder that was named, without
/// the ending.
pub(super) struct Found {
    pub path: PathBuf,
    pub label: String,
}

/// The files at and below `paths` in a stable order, each once; the current folder where none is
/// named.
pub(super) fn find(paths: &[PathBuf]) -> Result<Vec<Found>, Problem> {
    let here = [PathBuf::from(".")];
    let paths = if paths.is_empty() { &here } else { paths };
    let mut found: Vec<Found> = Vec::new();
    for path in paths {
        let mut files = Vec::new();
        collect(path, &mut files, true).map_err(|error| unreadable(path, &error))?;
        files.sort();
        for file in files {
            let plain = file.strip_prefix(".").unwrap_or(&file).to_owned();
            if found.iter().all(|known| known.path != plain) {
                let label = label(&file, path);
                found.push(Found { path: plain, label });
            }
        }
    }
    if found.is_empty() {
        let names: Vec<String> = paths
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        return Err(Problem::new(
            Exit::Usage,
            format!("no pipeline test in {}", names.join(", ")),
        )
        .hint("a folder is searched for files that are called NAME.test.yaml"));
    }
    Ok(found)
}

fn label(file: &Path, named: &Path) -> String {
    let below = file.strip_prefix(named).ok();
    let below = below.filter(|below| !below.as_os_str().is_empty());
    let below = below.or(file.file_name().map(Path::new)).unwrap_or(file);
    let name = below.display().to_string();
    name.strip_suffix(ENDING).unwrap_or(&name).to_owned()
}

/// What is named is taken whatever it is called; below it only test files are.
fn collect(path: &Path, into: &mut Vec<PathBuf>, is_named: bool) -> io::Result<()> {
    // Links below a folder are not followed: they may lead round in a circle.
    let kind = if is_named {
        fs::metadata(path)?
    } else {
        fs::symlink_metadata(path)?
    };
    if kind.is_dir() {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let name = entry.file_name();
            let is_hidden = name.to_str().is_some_and(|name| name.starts_with('.'));
            // What a build leaves is nobody's test, and there is much of it.
            if !is_hidden && name != "target" && name != "node_modules" {
                collect(&entry.path(), into, false)?;
            }
        }
    } else if is_named || path.to_str().is_some_and(|path| path.ends_with(ENDING)) {
        into.push(path.to_owned());
    }
    Ok(())
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    let what = format!("cannot look for pipeline tests in {}", path.display());
    Problem::new(Exit::Usage, what).cause(error.to_string())
}
