//! Which test files are meant: those that are named, and those below the folders that are named.

use std::io;
use std::path::{Path, PathBuf};

use crate::command::find_files;
use crate::command::test::case::ENDING;
use crate::error::diagnostic::Problem;
use crate::error::exit::Exit;

/// A test file, and what its cases are called by: the path below the folder that was named, without
/// the ending.
pub(crate) struct DiscoveredFile {
    pub path: PathBuf,
    pub label: String,
}

/// The files at and below `paths` in a stable order, each once; the current folder where none is
/// named.
pub(crate) fn find(paths: &[PathBuf]) -> Result<Vec<DiscoveredFile>, Problem> {
    let here = [PathBuf::from(".")];
    let paths = if paths.is_empty() { &here } else { paths };
    let mut found: Vec<DiscoveredFile> = Vec::new();
    for path in paths {
        let files = find_files::files(path, ENDING).map_err(|error| unreadable(path, &error))?;
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

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    let what = format!("cannot look for pipeline tests in {}", path.display());
    Problem::new(Exit::Usage, what).cause(error.to_string())
}
