//! Writes the files of a script's `emit(text, "file")`. All of them are inside `--out-dir`.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, ErrorKind, usage};
use crate::runtime::output_file::open_private;
use crate::script::texts::ScriptTexts;

/// Writes the files of `emit`; opens each file at its first line and keeps it open.
#[derive(Default)]
pub struct Emitter {
    folder: Option<PathBuf>,
    /// The files that the run reads or writes, by canonical path.
    used: Vec<PathBuf>,
    scripts: ScriptTexts,
    files: HashMap<String, BufWriter<File>>,
}

impl Emitter {
    /// Creates an emitter into `folder`; without a folder, every file is refused.
    ///
    /// It writes no file of `used`: canonical paths of files that the run reads or writes.
    pub fn new(folder: Option<PathBuf>, used: Vec<PathBuf>) -> Self {
        Self {
            folder,
            used,
            ..Self::default()
        }
    }

    /// Returns an error if no file can be written in the folder, which need not exist yet.
    pub fn check_folder(&self) -> Result<(), Error> {
        let Some(folder) = &self.folder else {
            return Ok(());
        };
        let exists = |folder: &&Path| folder.symlink_metadata().is_ok();
        let folder_or_parent = folder.ancestors().find(exists).unwrap_or(Path::new("."));
        // Leaves nothing behind.
        let written = tempfile::tempfile_in(folder_or_parent);
        written.map(|_| ()).map_err(|error| {
            let message = format!("the output folder `{}` cannot be written", folder.display());
            usage(message).cause(error.to_string()).hint(
                "no token was requested; `--out-dir DIR` names a folder that the user may write to",
            )
        })
    }

    /// Protects the modules that the scripts import.
    pub fn protect_scripts(&mut self, scripts: ScriptTexts) {
        self.scripts = scripts;
    }

    /// Writes a line to the file `name`. The first line of a run truncates the file.
    pub fn emit(&mut self, text: &str, name: &str) -> Result<(), Error> {
        if !self.files.contains_key(name) {
            let file = self.open(name)?;
            self.files.insert(name.to_owned(), BufWriter::new(file));
        }
        match self.files.get_mut(name) {
            Some(file) => writeln!(file, "{text}").map_err(|error| unwritable(name, &error)),
            None => Ok(()),
        }
    }

    /// Flushes every file.
    pub fn flush(&mut self) -> Result<(), Error> {
        let mut result = Ok(());
        for (name, file) in &mut self.files {
            let flushed = file.flush().map_err(|error| unwritable(name, &error));
            result = result.and(flushed);
        }
        result
    }

    fn open(&self, name: &str) -> Result<File, Error> {
        let refuse = |why: &str| {
            Error::of(
                ErrorKind::InvalidArgument {
                    argument: "file".to_owned(),
                    expected: "a file name inside --out-dir".to_owned(),
                },
                format!("emit cannot write the file `{name}`"),
            )
            .cause(why)
        };
        let Some(folder) = &self.folder else {
            return Err(refuse("no output folder is configured")
                .hint("`--out-dir DIR` names the folder that scripts may write to"));
        };
        let is_normal = |part| matches!(part, Component::Normal(_));
        if name.is_empty() || !Path::new(name).components().all(is_normal) {
            return Err(refuse("the path must be inside --out-dir, without `..`"));
        }
        let path = folder.join(name);
        let parent = path.parent().unwrap_or(folder);
        std::fs::create_dir_all(parent).map_err(|error| refuse(&error.to_string()))?;
        // A symbolic link inside the folder may point outside.
        let inside = |path: &Path| Ok(path.canonicalize()?.starts_with(folder.canonicalize()?));
        if !inside(parent).map_err(|error: io::Error| refuse(&error.to_string()))?
            || path.is_symlink()
        {
            return Err(refuse("a symbolic link leads out of --out-dir"));
        }
        let canonical = parent.canonicalize().ok().zip(path.file_name());
        let canonical = canonical.map(|(parent, name)| parent.join(name));
        let is_used = |path: &PathBuf| self.used.contains(path) || self.scripts.has_file(path);
        if canonical.as_ref().is_some_and(is_used) {
            return Err(refuse("the run itself reads or writes this file"));
        }
        // A pipe could block for ever, and a second name may be that of a file outside.
        let found = path.symlink_metadata();
        if found.is_ok_and(|found| !found.is_file() || found.nlink() > 1) {
            return Err(refuse("it must be a regular file with one name"));
        }
        let open = || {
            let file = open_private(&path, false)?;
            file.set_len(0)?;
            Ok(file)
        };
        open().map_err(|error: io::Error| refuse(&error.to_string()))
    }
}

fn unwritable(name: &str, error: &io::Error) -> Error {
    Error::of(
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
    fn emitter_refuses_files_outside_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.path().join("link")).unwrap();
        let mut emitter = Emitter::new(Some(folder.path().to_owned()), Vec::new());
        for name in ["", "/tmp/x", "../x", "a/../../x", "link/x"] {
            assert!(emitter.emit("text", name).is_err(), "{name:?}");
        }
        // A file that others can read becomes private before it is written.
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        let old = folder.path().join("sub/file.csv");
        std::fs::write(&old, "old and longer than the new text").unwrap();
        std::fs::set_permissions(&old, std::fs::Permissions::from_mode(0o644)).unwrap();
        emitter.emit("one", "sub/file.csv").unwrap();
        emitter.emit("two", "sub/file.csv").unwrap();
        emitter.flush().unwrap();
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
    fn error_names_the_option_when_no_folder_is_configured() {
        let error = Emitter::new(None, Vec::new())
            .emit("text", "file")
            .unwrap_err();
        assert!(error.hint.as_deref().unwrap().contains("--out-dir"));
    }
}
