//! Finds files by suffix below a folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Returns the file `path`, or all files below the folder `path` with this suffix, sorted.
pub fn files(path: &Path, suffix: &str) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    if fs::metadata(path)?.is_dir() {
        collect(path, suffix, &mut files)?;
        files.sort();
    } else {
        files.push(path.to_owned());
    }
    Ok(files)
}

fn collect(folder: &Path, suffix: &str, into: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (name, path) = (entry.file_name(), entry.path());
        let name = name.to_string_lossy();
        // Links to folders are not followed: they may form a cycle. To read a pipe could block for ever.
        if !entry.file_type()?.is_dir() {
            if name.ends_with(suffix) && fs::metadata(&path).is_ok_and(|file| file.is_file()) {
                into.push(path);
            }
        // Build folders have many files and no scripts.
        } else if !name.starts_with('.') && name != "target" && name != "node_modules" {
            collect(&path, suffix, into)?;
        }
    }
    Ok(())
}
