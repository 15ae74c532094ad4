//! Opens the files that the program writes. Another user can neither read a private file, nor redirect it
//! by a symbolic link, nor prepare it in a shared folder.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, OFlags, RenameFlags};
use rustix::io::Errno;

/// Only this user can read the file: it has tokens.
const PRIVATE: u32 = 0o600;
/// The umask decides who can read the file: it has no secrets.
const PUBLIC: u32 = 0o666;

/// How an [`OutputFile`] is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputKind {
    /// A report: private. A symbolic link at its path is kept, and its target is replaced.
    Report {
        /// True if the report must not replace a file.
        no_clobber: bool,
    },
    /// A file without secrets. A symbolic link at its path is replaced, and its target is kept.
    Metrics,
}

/// A file that is written as `PATH.partial` and renamed when it is complete. A pipe or a device is
/// written in place.
#[derive(Debug)]
pub struct OutputFile {
    file: File,
    /// The path until the file is complete; equals `path` for a pipe or device.
    partial: PathBuf,
    path: PathBuf,
    no_clobber: bool,
}

impl OutputFile {
    /// Opens `PATH.partial`, or a pipe or device directly.
    ///
    /// # Errors
    /// If it cannot be written, or if another process writes it.
    pub fn open(given: &Path, kind: OutputKind) -> io::Result<Self> {
        // These paths are devices, or open files of this process.
        let is_open = (given.starts_with("/dev") && !given.starts_with("/dev/shm"))
            || given.starts_with("/proc");
        let path = match kind {
            _ if is_open => given.to_owned(),
            OutputKind::Report { .. } => without_link(given)?,
            OutputKind::Metrics => given.to_owned(),
        };
        if path.is_dir() {
            return Err(io::Error::other("it is a folder"));
        }
        let no_clobber = kind == OutputKind::Report { no_clobber: true };
        if is_open || path.exists() && !path.is_file() {
            return Ok(Self {
                file: OpenOptions::new().append(true).open(&path)?,
                partial: path.clone(),
                path,
                no_clobber,
            });
        }
        let mut partial = path.clone().into_os_string();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let mode = match kind {
            OutputKind::Report { .. } => PRIVATE,
            OutputKind::Metrics => PUBLIC,
        };
        Ok(Self {
            file: create_partial(&partial, mode, no_clobber)?,
            partial,
            path,
            no_clobber,
        })
    }

    /// Returns the path of the complete file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path until the file is complete; `None` for a pipe or device.
    pub fn partial(&self) -> Option<&Path> {
        (self.partial != self.path).then_some(&self.partial)
    }

    /// Renames the complete file to its path.
    ///
    /// # Errors
    /// `AlreadyExists` if a file is there that must not be replaced.
    pub fn finish(&mut self) -> io::Result<()> {
        if self.partial().is_none() {
            return Ok(());
        }
        // In a shared folder another user may have put a file of their own in its place.
        let named = fs::symlink_metadata(&self.partial)?;
        if !is_same(&self.file.metadata()?, &named) {
            let partial = self.partial.display();
            let why = format!("another process replaced {partial}");
            return Err(io::Error::other(why));
        }
        if self.no_clobber {
            rename_without_replacing(&self.partial, &self.path)
        } else {
            fs::rename(&self.partial, &self.path)
        }
    }

    /// Removes an incomplete file; called if the run cannot start.
    pub fn discard(self) {
        if self.partial().is_some() {
            let _ = fs::remove_file(&self.partial);
        }
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Creates a `.partial`, in place of one that an earlier run of this user left. The file is locked.
fn create_partial(partial: &Path, mode: u32, no_clobber: bool) -> io::Result<File> {
    let create = || {
        let mut options = OpenOptions::new();
        // O_EXCL follows no link, so the file is new and has this mode and owner.
        options
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(partial)
    };
    let file = match create() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let shown = partial.display();
            check_stale(partial).map_err(|why| io::Error::other(format!("{shown} {why}")))?;
            if no_clobber {
                let why = format!("{shown} exists already: an interrupted run left it");
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
            }
            fs::remove_file(partial)?;
            create()?
        }
        created => created?,
    };
    // Not every file system has locks; without them, two runs at one path are not detected.
    let _ = file.try_lock();
    Ok(file)
}

/// Returns why the `.partial` of an earlier run must not be removed.
fn check_stale(partial: &Path) -> Result<(), String> {
    let found = fs::symlink_metadata(partial).map_err(|error| error.to_string())?;
    if found.is_symlink() {
        return Err("is a symbolic link".to_owned());
    }
    if !found.is_file() {
        return Err("is not a regular file".to_owned());
    }
    check_owner(&found)?;
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(flags(OFlags::NOFOLLOW));
    // A file that cannot be opened is not in use.
    let in_use = options.open(partial).is_ok_and(|file| {
        let locked = file.try_lock();
        matches!(locked, Err(TryLockError::WouldBlock))
    });
    if in_use {
        return Err("is in use: another output is written there".to_owned());
    }
    Ok(())
}

/// Opens a private file that is written in place, and creates it if it does not exist.
///
/// An existing file must belong to this user, and its mode becomes 0600; or to root, who can read every
/// file. Only a link of these two is followed. `readable` opens the file for reading too.
///
/// # Errors
/// If the file cannot be opened, or belongs to another user.
pub fn open_private(given: &Path, readable: bool) -> io::Result<File> {
    let path = without_link(given)?;
    let mut options = OpenOptions::new();
    options.read(readable).write(true).mode(PRIVATE);
    options.custom_flags(flags(OFlags::NOFOLLOW));
    match options.clone().create_new(true).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        created => return created,
    }
    let file = options.open(&path)?;
    let found = file.metadata()?;
    if found.is_file() {
        check_owner(&found).map_err(|why| io::Error::other(format!("it {why}")))?;
        // Some network file systems show root as the owner of every file, and have no modes.
        if found.mode() & 0o077 != 0 && found.uid() == user() {
            file.set_permissions(fs::Permissions::from_mode(PRIVATE))?;
        }
    }
    Ok(file)
}

/// Opens an existing regular file, without following a link at its path; `None` if it is another kind of
/// file. The content is kept.
///
/// # Errors
/// If the file does not exist or cannot be opened.
pub(crate) fn open_existing(path: &Path) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.write(true);
    // Without NONBLOCK, a pipe that no process reads would block.
    let opened = options
        .custom_flags(flags(OFlags::NOFOLLOW | OFlags::NONBLOCK))
        .open(path);
    match opened {
        Ok(file) => Ok(file.metadata()?.is_file().then_some(file)),
        Err(_) if path.is_symlink() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Resolves a symbolic link at `given`, so that the file is replaced and not the link.
///
/// The kernel follows another user's link in a shared folder neither (`fs.protected_symlinks`).
fn without_link(given: &Path) -> io::Result<PathBuf> {
    let Ok(found) = fs::symlink_metadata(given) else {
        return Ok(given.to_owned());
    };
    if !found.is_symlink() {
        return Ok(given.to_owned());
    }
    if check_owner(&found).is_err() {
        let why = "it is a symbolic link of another user";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    // A link that leads nowhere is replaced.
    Ok(given.canonicalize().unwrap_or_else(|_| given.to_owned()))
}

/// Returns an error if the file belongs neither to this user nor to root.
fn check_owner(found: &Metadata) -> Result<(), String> {
    match found.uid() {
        0 => Ok(()),
        owner if owner == user() => Ok(()),
        owner => Err(format!("belongs to another user (uid {owner})")),
    }
}

fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

fn flags(flags: OFlags) -> i32 {
    flags.bits().cast_signed()
}

/// Renames a file, and fails if another one has the new name.
fn rename_without_replacing(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // The file system cannot do it in one step.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => reserve_and_rename(from, to),
        renamed => Ok(renamed?),
    }
}

/// Reserves the new name with an empty file, then replaces that. It works without hard links too.
fn reserve_and_rename(from: &Path, to: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options
        .write(true)
        .create_new(true)
        .mode(PRIVATE)
        .open(to)?;
    fs::rename(from, to).inspect_err(|_| {
        let _ = fs::remove_file(to);
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const REPORT: OutputKind = OutputKind::Report { no_clobber: false };

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn stale_partial_is_replaced_by_a_private_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let partial = folder.path().join("run.partial");
        fs::write(&partial, "stale").unwrap();
        fs::set_permissions(&partial, fs::Permissions::from_mode(0o644)).unwrap();
        // Who opened the stale file before does not see the new content.
        let mut reader = File::open(&partial).unwrap();
        let mut output = OutputFile::open(&path, REPORT).unwrap();
        output.write_all(b"secret").unwrap();
        assert_eq!(mode(&partial), 0o600);
        output.finish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "secret");
        assert_eq!(io::read_to_string(&mut reader).unwrap(), "stale");
    }

    #[test]
    fn partial_of_a_running_process_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let first = OutputFile::open(&path, REPORT).unwrap();
        let second = OutputFile::open(&path, REPORT).unwrap_err().to_string();
        assert!(
            second.contains("another output is written there"),
            "{second}"
        );
        first.discard();
        OutputFile::open(&path, REPORT).unwrap().finish().unwrap();
    }

    #[test]
    fn link_in_place_of_the_partial_is_refused_and_its_target_kept() {
        for kind in [REPORT, OutputKind::Metrics] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("run");
            let target = folder.path().join("target");
            fs::write(&target, "kept").unwrap();
            symlink(&target, folder.path().join("run.partial")).unwrap();
            let why = OutputFile::open(&path, kind).unwrap_err().to_string();
            assert!(why.ends_with("run.partial is a symbolic link"), "{why}");
            assert_eq!(fs::read_to_string(&target).unwrap(), "kept");
        }
    }

    #[test]
    fn file_that_replaced_the_partial_is_not_renamed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let mut output = OutputFile::open(&path, REPORT).unwrap();
        fs::rename(
            folder.path().join("run.partial"),
            folder.path().join("moved"),
        )
        .unwrap();
        symlink("/etc/hostname", folder.path().join("run.partial")).unwrap();
        let why = output.finish().unwrap_err().to_string();
        assert!(why.contains("another process replaced"), "{why}");
        assert!(!path.exists());
    }

    #[test]
    fn link_is_kept_for_a_report_and_replaced_for_metrics() {
        let folder = tempfile::tempdir().unwrap();
        let (link, target) = (folder.path().join("link"), folder.path().join("target"));
        fs::write(&target, "old").unwrap();
        symlink(&target, &link).unwrap();
        let write = |kind| {
            let mut output = OutputFile::open(&link, kind).unwrap();
            output.write_all(b"new").unwrap();
            output.finish().unwrap();
        };
        write(REPORT);
        assert!(link.is_symlink());
        assert_eq!(fs::read_to_string(&target).unwrap(), "new");
        fs::write(&target, "kept").unwrap();
        write(OutputKind::Metrics);
        assert!(!link.is_symlink());
        assert_eq!(fs::read_to_string(&link).unwrap(), "new");
        assert_eq!(fs::read_to_string(&target).unwrap(), "kept");
    }

    #[test]
    fn existing_file_becomes_private_when_it_is_written_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        fs::write(&path, "kept").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let file = open_private(&path, true).unwrap();
        assert_eq!(io::read_to_string(file).unwrap(), "kept");
        assert_eq!(mode(&path), 0o600);
        drop(open_private(&folder.path().join("new"), false).unwrap());
        assert_eq!(mode(&folder.path().join("new")), 0o600);
    }

    /// The way of a file system that has neither `RENAME_NOREPLACE` nor hard links.
    #[test]
    fn file_is_not_replaced_when_the_name_is_reserved_first() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::write(&from, "new").unwrap();
        fs::write(&to, "old").unwrap();
        let refused = reserve_and_rename(&from, &to).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&to).unwrap(), "old");
        fs::remove_file(&to).unwrap();
        reserve_and_rename(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(&to).unwrap(), "new");
        assert!(!from.exists());
        assert!(reserve_and_rename(&from, &folder.path().join("other")).is_err());
        assert!(!folder.path().join("other").exists());
    }
}
