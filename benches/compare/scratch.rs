//! Folders for what the runs write, removed at the end by a shell that waits for the harness's own
//! end, however that comes.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use nix::sys::statvfs::statvfs;
use tempfile::TempDir;

use super::machine::Place;

/// Where most systems have a file system in memory.
const RAM: &str = "/dev/shm";
/// So much room the largest SQLite file needs.
const ROOM: u64 = 1 << 30;
/// Waits for the pipe's end and removes what it was told.
const END: &str = r#"cat; rm -rf -- "$@""#;

/// The folders.
pub struct Scratch {
    disk: PathBuf,
    ram: Option<PathBuf>,
    watch: Child,
}

impl Scratch {
    /// New, empty folders.
    pub fn new() -> Result<Self> {
        let make = |place: &Path| {
            let folder = tempfile::Builder::new()
                .prefix("compare.")
                .tempdir_in(place);
            folder.map(TempDir::keep)
        };
        let disk = make(Path::new(env!("CARGO_TARGET_TMPDIR"))).context("a folder for reports")?;
        let ram = Path::new(RAM);
        let free = statvfs(ram).map_or(0, |found| found.blocks_available() * found.fragment_size());
        let in_memory = Place::of(ram).is_ok_and(|place| place.is_memory());
        let ram = (in_memory && free >= ROOM)
            .then(|| make(ram).ok())
            .flatten();
        let watch = Command::new("sh")
            .args(["-c", END, "sh"])
            .arg(&disk)
            .args(&ram)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("the shell that removes the folders")?;
        Ok(Self { disk, ram, watch })
    }

    /// A path on the disk.
    pub fn disk(&self, name: &str) -> PathBuf {
        self.disk.join(name)
    }

    /// A path in memory, where there is room for it, or else on the disk.
    pub fn ram(&self, name: &str) -> PathBuf {
        self.ram.as_ref().unwrap_or(&self.disk).join(name)
    }

    /// True where there is room in memory.
    pub fn has_ram(&self) -> bool {
        self.ram.is_some()
    }

    /// Removes the files of the last run.
    pub fn clear(&self) -> Result<()> {
        for folder in [Some(&self.disk), self.ram.as_ref()].into_iter().flatten() {
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

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.watch.stdin.take());
        let _ = self.watch.wait();
    }
}
