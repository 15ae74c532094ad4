//! Files that are meant by a folder's name: those below it that are called by an ending.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The file `path` whatever it is called, or the files at and below the folder `path` whose names end
/// with `ending`, in a stable order.
pub fn files(path: &Path, ending: &str) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    if fs::metadata(path)?.is_dir() {
        below(path, ending, &mut files)?;
        files.sort();
    } else {
        files.push(path.to_owned());
    }
    Ok(files)
}

fn below(folder: &Path, ending: &str, into: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (name, path) = (entry.file_name(), entry.path());
        let name = name.to_string_lossy();
        // Links are not followed: they may lead round in a circle.
        if !entry.file_type()?.is_dir() {
            if name.ends_with(ending) {
                into.push(path);
            }
        // What a build leaves is nobody's, and there is much of it.
        } else if !name.starts_with('.') && name != "target" && name != "node_modules" {
            below(&path, ending, into)?;
        }
    }
    Ok(())
}
