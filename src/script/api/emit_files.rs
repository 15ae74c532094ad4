//! The files that a script's `emit(text, "file")` writes, all of them inside `--out-dir`.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Component, Path, PathBuf};

use crate::error::{ErrorKind, Fault};

/// Opens each file at its first line and keeps it open.
#[derive(Default)]
pub struct Emitter {
    folder: Option<PathBuf>,
    files: HashMap<String, BufWriter<File>>,
}

impl Emitter {
    /// An emitter into `folder`; without one, every file is refused.
    pub fn new(folder: Option<PathBuf>) -> Self {
        Self {
            folder,
            files: HashMap::new(),
        }
    }

    /// Writes a line into the file `name`, which is emptied at its first line.
    pub fn emit(&mut self, text: &str, name: &str) -> Result<(), Fault> {
        if !self.files.contains_key(name) {
            let file = self.open(name)?;
            self.files.insert(name.to_owned(), BufWriter::new(file));
        }
        match self.files.get_mut(name) {
            Some(file) => writeln!(file, "{text}").map_err(|error| unwritable(name, &error)),
            None => Ok(()),
        }
    }

    /// Hands everything to the operating system.
    pub fn end(&mut self) -> Result<(), Fault> {
        let mut result = Ok(());
        for (name, file) in &mut self.files {
            let flushed = file.flush().map_err(|error| unwritable(name, &error));
            result = result.and(flushed);
        }
        result
    }

    fn open(&self, name: &str) -> Result<File, Fault> {
        let refuse = |why: &str| {
            Fault::new(
                ErrorKind::InvalidArgument {
                    argument: "file".to_owned(),
                    expected: "a file name inside --out-dir".to_owned(),
                },
                format!("emit cannot write the file `{name}`"),
            )
            .cause(why)
        };
        let Some(folder) = &self.folder else {
            return Err(refuse("no folder for it was given")
                .hint("`--out-dir DIR` names the folder that scripts may write to"));
        };
        let plain = |part| matches!(part, Component::Normal(_));
        if name.is_empty() || !Path::new(name).components().all(plain) {
            return Err(refuse("it must lie inside --out-dir, without `..`"));
        }
        let path = folder.join(name);
        let parent = path.parent().unwrap_or(folder);
        std::fs::create_dir_all(parent).map_err(|error| refuse(&error.to_string()))?;
        // A link inside the folder may lead out of it.
        let inside = |path: &Path| Ok(path.canonicalize()?.starts_with(folder.canonicalize()?));
        if !inside(parent).map_err(|error: io::Error| refuse(&error.to_string()))?
            || path.is_symlink()
        {
            return Err(refuse("a symbolic link leads out of --out-dir"));
        }
        // It may hold tokens: nobody else may read it.
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options
            .open(path)
            .map_err(|error| refuse(&error.to_string()))
    }
}

fn unwritable(name: &str, error: &io::Error) -> Fault {
    Fault::new(
        ErrorKind::OutputClosed,
        format!("the file `{name}` cannot be written any more"),
    )
    .cause(error.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn files_stay_inside_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.path().join("link")).unwrap();
        let mut emitter = Emitter::new(Some(folder.path().to_owned()));
        for name in ["", "/tmp/x", "../x", "a/../../x", "link/x"] {
            assert!(emitter.emit("text", name).is_err(), "{name:?}");
        }
        emitter.emit("one", "sub/file.csv").unwrap();
        emitter.emit("two", "sub/file.csv").unwrap();
        emitter.end().unwrap();
        let text = std::fs::read_to_string(folder.path().join("sub/file.csv")).unwrap();
        assert_eq!(text, "one\ntwo\n");
        let mode = std::fs::metadata(folder.path().join("sub/file.csv"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(std::fs::read_dir(outside.path()).unwrap().next().is_none());
    }

    #[test]
    fn without_a_folder_the_error_names_the_option() {
        let fault = Emitter::new(None).emit("text", "file").unwrap_err();
        assert!(fault.hint.unwrap().contains("--out-dir"));
    }
}
