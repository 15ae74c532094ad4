//! Writes the Kubernetes termination message (best effort). `kubectl describe pod` and job controllers
//! show it, even without access to the logs.

use std::io::{self, Write as _};
use std::path::Path;

use crate::runtime::output_file::open_existing;

/// Default path at which Kubernetes mounts the file into each container.
pub const FILE: &str = "/dev/termination-log";

/// Kubernetes truncates longer messages.
const MAX_BYTES: usize = 4096;

/// Writes the termination message, best effort: the exit status and standard error tell too.
pub fn write(line: &str) {
    let _ = write_to(Path::new(FILE), line);
}

/// Replaces the file's content with `line`, truncated to the limit.
///
/// It does nothing if the file does not exist, or is not a regular file: writing could block.
fn write_to(file: &Path, line: &str) -> io::Result<()> {
    let mut file = match open_existing(file) {
        Ok(Some(file)) => file,
        Ok(None) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let message = &line[..line.floor_char_boundary(MAX_BYTES)];
    file.set_len(0)?;
    file.write_all(message.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn file_is_replaced_and_truncated_to_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("termination-log");
        fs::write(&file, "the longer message of an earlier container").unwrap();
        write_to(&file, "5 requested").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "5 requested");
        // Three bytes per character, so the limit falls inside one.
        write_to(&file, &"…".repeat(2000)).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "…".repeat(1365));
    }

    #[test]
    fn message_is_not_written_when_file_is_missing_or_not_regular() {
        let dir = tempfile::tempdir().unwrap();
        write_to(&dir.path().join("absent"), "lost").unwrap();
        assert!(!dir.path().join("absent").exists());
        let elsewhere = dir.path().join("elsewhere");
        fs::write(&elsewhere, "kept").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&elsewhere, &link).unwrap();
        write_to(&link, "lost").unwrap();
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "kept");
        // A folder cannot be opened for writing.
        assert!(write_to(dir.path(), "lost").is_err());
    }
}
