//! Finds the file system of a path.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// A mounted file system.
pub struct FileSystem {
    kind: String,
    device: String,
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.kind, self.device)
    }
}

impl FileSystem {
    /// Finds the file system that contains `path`.
    ///
    /// # Errors
    /// If `path` does not exist or the list of mounts cannot be read.
    pub fn containing(path: &Path) -> Result<Self> {
        let path = path.canonicalize()?;
        let mounts =
            fs::read_to_string("/proc/self/mounts").context("cannot read the list of mounts")?;
        let mut best: Option<(PathBuf, Self)> = None;
        for line in mounts.lines() {
            let mut fields = line.split(' ');
            let (Some(device), Some(mount_point), Some(kind)) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            // Of mounts on the same point, the last one hides the others.
            let is_deeper =
                |(other, _): &(PathBuf, Self)| other.as_os_str().len() <= mount_point.len();
            if path.starts_with(mount_point) && best.as_ref().is_none_or(is_deeper) {
                let (kind, device) = (kind.to_owned(), device.to_owned());
                best = Some((PathBuf::from(mount_point), Self { kind, device }));
            }
        }
        Ok(best.context("no mount contains the path")?.1)
    }

    /// Returns true if the file system is in memory, so that a sync has no effect.
    pub fn is_in_memory(&self) -> bool {
        self.kind == "tmpfs" || self.kind == "ramfs"
    }
}
