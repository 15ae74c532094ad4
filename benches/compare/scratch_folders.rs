//! Scratch folders for the files of the runs.
//!
//! A shell removes the folders when the harness exits, also when the harness is killed.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use nix::sys::statvfs::statvfs;
use tempfile::TempDir;

use crate::file_system::FileSystem;

/// The usual mount point of a file system in memory.
const SHARED_MEMORY: &str = "/dev/shm";
/// The space that the largest SQLite file needs, in bytes.
const REQUIRED_SPACE: u64 = 1 << 30;
/// Waits for end of file on standard input, then removes the folders in its arguments.
const CLEANUP: &str = r#"cat; rm -rf -- "$@""#;

/// A folder on disk and, if there is enough space, a folder in memory.
pub struct ScratchFolders {
    on_disk: PathBuf,
    in_memory: Option<PathBuf>,
    cleanup_shell: Child,
}

impl ScratchFolders {
    /// Creates empty folders and starts the shell that removes them.
    ///
    /// # Errors
    /// If the folder on disk cannot be created or the shell cannot be started.
    pub fn create() -> Result<Self> {
        let create = |parent: &Path| {
            let folder = tempfile::Builder::new()
                .prefix("compare.")
                .tempdir_in(parent);
            folder.map(TempDir::keep)
        };
        let on_disk = create(Path::new(env!("CARGO_TARGET_TMPDIR")))
            .context("cannot create a scratch folder")?;
        let memory = Path::new(SHARED_MEMORY);
        let free = statvfs(memory).map_or(0, |stat| stat.blocks_available() * stat.fragment_size());
        let is_in_memory =
            FileSystem::containing(memory).is_ok_and(|file_system| file_system.is_in_memory());
        let in_memory = (is_in_memory && free >= REQUIRED_SPACE)
            .then(|| create(memory).ok())
            .flatten();
        let cleanup_shell = Command::new("sh")
            .args(["-c", CLEANUP, "sh"])
            .arg(&on_disk)
            .args(&in_memory)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start the shell that removes the scratch folders")?;
        Ok(Self {
            on_disk,
            in_memory,
            cleanup_shell,
        })
    }

    /// Returns the path of a file on disk.
    pub fn on_disk(&self, name: &str) -> PathBuf {
        self.on_disk.join(name)
    }

    /// Returns the path of a file in memory, or on disk if memory is too small.
    pub fn in_memory(&self, name: &str) -> PathBuf {
        self.in_memory.as_ref().unwrap_or(&self.on_disk).join(name)
    }

    /// Returns true if there is a folder in memory.
    pub fn has_memory(&self) -> bool {
        self.in_memory.is_some()
    }

    /// Removes the files of the previous run.
    pub fn clear(&self) -> Result<()> {
        for folder in std::iter::once(&self.on_disk).chain(&self.in_memory) {
            for entry in fs::read_dir(folder)? {
                let path = entry?.path();
                if path.is_file() {
                    fs::remove_file(path)?;
                }
            }
        }
        Ok(())
    }
}

impl Drop for ScratchFolders {
    fn drop(&mut self) {
        drop(self.cleanup_shell.stdin.take());
        let _ = self.cleanup_shell.wait();
    }
}
