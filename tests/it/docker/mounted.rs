//! Options of containers: the limits of a strict platform, and folders that the container's user may
//! access.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

/// The limits of a strict platform: no root, capabilities or new privileges, and a read-only file system.
pub(crate) const STRICT: [&str; 4] = [
    "--read-only",
    "--cap-drop=ALL",
    "--user=65532",
    "--security-opt=no-new-privileges",
];

/// A folder that the container's user owns.
///
/// That user is 65532 if root runs the tests, and otherwise the user of the tests.
pub(crate) struct MountedFolder {
    dir: tempfile::TempDir,
    /// The id of the user.
    pub(crate) user: u32,
}

impl MountedFolder {
    /// Creates an empty folder.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let me = fs::metadata(dir.path()).unwrap().uid();
        let user = if me == 0 { 65532 } else { me };
        let folder = Self { dir, user };
        folder.change_owner(folder.dir.path());
        folder
    }

    fn change_owner(&self, path: &Path) {
        chown(path, Some(self.user), None).unwrap();
    }

    /// Writes a file that only the user may read.
    pub(crate) fn secret(&self, name: &str, content: &str) {
        let path = self.dir.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        self.change_owner(&path);
    }

    /// Returns the option `--user` of `docker run`.
    pub(crate) fn user(&self) -> String {
        format!("--user={}", self.user)
    }

    /// Returns the value of `-v` that mounts the folder at `path`.
    pub(crate) fn mount_at(&self, path: &str) -> String {
        format!("{}:{path}", self.dir.path().display())
    }

    /// Returns the path of a file in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}
