//! Finds the test files: those given, and those below the given folders.

use std::io;
use std::path::{Path, PathBuf};

use crate::command::find_files;
use crate::command::test::case::SUFFIX;
use crate::error::Error;
use crate::error::exit::Exit;

/// A test file and its label: the path below the given folder, without the suffix.
pub(crate) struct DiscoveredFile {
    pub path: PathBuf,
    pub label: String,
}

/// Returns the distinct test files at and below `paths`, sorted; by default of the current folder.
pub(crate) fn find(paths: &[PathBuf]) -> Result<Vec<DiscoveredFile>, Error> {
    let here = [PathBuf::from(".")];
    let paths = if paths.is_empty() { &here } else { paths };
    let mut found: Vec<DiscoveredFile> = Vec::new();
    for path in paths {
        let files = find_files::files(path, SUFFIX).map_err(|error| unreadable(path, &error))?;
        for file in files {
            let plain = file.strip_prefix(".").unwrap_or(&file).to_owned();
            if found.iter().all(|known| known.path != plain) {
                let label = label(&file, path);
                found.push(DiscoveredFile { path: plain, label });
            }
        }
    }
    if found.is_empty() {
        let names: Vec<String> = paths
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        return Err(Error::new(
            Exit::Usage,
            format!("no pipeline tests in {}", names.join(", ")),
        )
        .hint("pass test files, or folders that contain *.test.yaml files"));
    }
    Ok(found)
}

fn label(file: &Path, given: &Path) -> String {
    let below = file.strip_prefix(given).ok();
    let below = below.filter(|below| !below.as_os_str().is_empty());
    let below = below.or(file.file_name().map(Path::new)).unwrap_or(file);
    let name = below.display().to_string();
    name.strip_suffix(SUFFIX).unwrap_or(&name).to_owned()
}

fn unreadable(path: &Path, error: &io::Error) -> Error {
    let message = format!("cannot search {} for pipeline tests", path.display());
    Error::new(Exit::Usage, message).cause(error.to_string())
}
