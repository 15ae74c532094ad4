//! What a container is started with: a strict platform's limits, and folders that its user may use.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

/// What a strict platform grants: no root, no capability, no way to get one, nothing to write.
pub(crate) const STRICT: [&str; 4] = [
    "--read-only",
    "--cap-drop=ALL",
    "--user=65532",
    "--security-opt=no-new-privileges",
];

/// A folder that the container's user owns: 65532, or whoever runs the tests, who cannot give it away.
pub(crate) struct Folder {
    dir: tempfile::TempDir,
    /// The user's number.
    pub(crate) user: u32,
}

impl Folder {
    /// An empty one.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let me = fs::metadata(dir.path()).unwrap().uid();
        let user = if me == 0 { 65532 } else { me };
        let folder = Self { dir, user };
        folder.give(folder.dir.path());
        folder
    }

    fn give(&self, path: &Path) {
        chown(path, Some(self.user), None).unwrap();
    }

    /// Writes a file that the user alone may read.
    pub(crate) fn secret(&self, name: &str, content: &str) {
        let path = self.dir.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        self.give(&path);
    }

    /// `docker run`'s option for the user.
    pub(crate) fn user(&self) -> String {
        format!("--user={}", self.user)
    }

    /// `-v`'s value, mounted at `place`.
    pub(crate) fn at(&self, place: &str) -> String {
        format!("{}:{place}", self.dir.path().display())
    }

    /// A file in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}
