//! The termination message: what became of the process, in one line, where Kubernetes looks for it.
//! `kubectl describe pod` and a job's controller show it when the logs are gone or are not theirs to read.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

/// Where Kubernetes mounts a file for it into each container, unless told otherwise.
pub const FILE: &str = "/dev/termination-log";

/// Kubernetes cuts what is longer, in bytes.
const LONGEST: usize = 4096;

/// Writes the termination message, best effort: the exit status and standard error tell too.
pub fn write(line: &str) {
    let _ = write_to(Path::new(FILE), line);
}

/// Replaces what the file says by this line, cut where it would be too long. Where there is no such file,
/// nothing is waiting for a message, and none is made; nor is one written to what is no plain file, which
/// might block.
fn write_to(file: &Path, line: &str) -> io::Result<()> {
    match fs::symlink_metadata(file) {
        Ok(found) if found.is_file() => {}
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    let message = &line[..line.floor_char_boundary(LONGEST)];
    let mut file = OpenOptions::new().write(true).truncate(true).open(file)?;
    file.write_all(message.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_says_the_last_line_only_and_no_more_than_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("termination-log");
        fs::write(&file, "what an earlier container said, which was longer").unwrap();
        write_to(&file, "5 requested").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "5 requested");
        // Three bytes a character, so that the limit falls into one.
        write_to(&file, &"…".repeat(2000)).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "…".repeat(1365));
    }

    #[test]
    fn no_file_is_made_and_what_is_none_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        write_to(&dir.path().join("absent"), "lost").unwrap();
        assert!(!dir.path().join("absent").exists());
        let elsewhere = dir.path().join("elsewhere");
        fs::write(&elsewhere, "kept").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&elsewhere, &link).unwrap();
        write_to(&link, "lost").unwrap();
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "kept");
        write_to(dir.path(), "lost").unwrap();
    }
}
