//! Secrets, fixed or in files that may be replaced while the program runs.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use secrecy::SecretString;

use crate::error::escape::escape;
use crate::runtime::files;

/// Limit of a secret in a file, in bytes.
const MAX_SECRET: u64 = 64 << 10;

/// A fixed secret, or the content of a file that may be replaced at any time.
#[derive(Clone, Debug)]
pub struct Secret {
    /// The value when the configuration was read.
    initial: SecretString,
    file: Option<Arc<SecretFile>>,
}

/// A file that holds a secret.
#[derive(Debug)]
struct SecretFile {
    path: PathBuf,
    /// The setting that names the file, such as `DB_PASS_FILE`.
    setting: String,
}

impl Secret {
    /// Creates a secret that never changes.
    pub fn fixed(value: impl Into<SecretString>) -> Self {
        Self {
            initial: value.into(),
            file: None,
        }
    }

    /// Reads the file at `path`, without a final line break. `setting` names the file.
    ///
    /// # Errors
    /// If the file cannot be read, is not text, or is empty.
    pub fn from_file(setting: &str, path: &str) -> Result<Self, SecretFileError> {
        let file = SecretFile {
            path: PathBuf::from(path),
            setting: setting.to_owned(),
        };
        let initial = file.read()?;
        // A pipe, such as bash's `<(…)`, can be read only once.
        let is_regular = file.path.is_file();
        Ok(Self {
            initial,
            file: is_regular.then(|| Arc::new(file)),
        })
    }

    /// Returns the value when the configuration was read.
    pub fn initial(&self) -> &SecretString {
        &self.initial
    }

    /// Returns the current value: a file is read again.
    ///
    /// # Errors
    /// If the file cannot be read, is not text, or is empty.
    pub fn read(&self) -> Result<SecretString, SecretFileError> {
        match &self.file {
            Some(file) => file.read(),
            None => Ok(self.initial.clone()),
        }
    }

    /// Returns the file and its setting, for messages; `None` if the secret is fixed.
    pub fn file(&self) -> Option<String> {
        self.file.as_ref().map(ToString::to_string)
    }
}

impl SecretFile {
    fn read(&self) -> Result<SecretString, SecretFileError> {
        let error = |cause: String| SecretFileError {
            path: self.path.clone(),
            setting: self.setting.clone(),
            cause,
        };
        let text =
            files::read_text(&self.path, MAX_SECRET).map_err(|why| error(why.to_string()))?;
        let text = without_line_break(&text);
        if text.is_empty() {
            return Err(error("it is empty".to_owned()));
        }
        Ok(SecretString::from(text))
    }
}

impl fmt::Display for SecretFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.to_string_lossy();
        write!(f, "`{}` ({})", escape(&path), self.setting)
    }
}

/// Returns a secret without the line break at its end, which is part of none: editors and
/// `kubectl create secret` from a file add it.
pub(crate) fn without_line_break(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

/// The error of a secret's file that cannot be read.
#[derive(Debug)]
pub struct SecretFileError {
    /// The file.
    pub path: PathBuf,
    /// The setting that names the file.
    pub setting: String,
    /// Why it cannot be read.
    pub cause: String,
}

impl SecretFileError {
    /// The hint for messages.
    pub const HINT: &str = "the file must exist, be text, and be readable by this user";
}

impl fmt::Display for SecretFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.to_string_lossy();
        write!(
            f,
            "cannot read `{}`, the file that {} names",
            escape(&path),
            self.setting
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    use secrecy::ExposeSecret as _;

    #[test]
    fn file_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        fs::write(&path, "old\r\n").unwrap();
        let secret = Secret::from_file("DB_PASS_FILE", path.to_str().unwrap()).unwrap();
        assert_eq!(secret.read().unwrap().expose_secret(), "old");
        fs::write(&path, "new\n").unwrap();
        assert_eq!(secret.read().unwrap().expose_secret(), "new");
        fs::write(&path, "\u{feff}new").unwrap();
        assert_eq!(
            secret.read().unwrap().expose_secret(),
            "new",
            "a byte order mark"
        );
        assert_eq!(secret.initial().expose_secret(), "old");
        assert!(secret.file().unwrap().ends_with("` (DB_PASS_FILE)"));
        assert!(!format!("{secret:?}").contains("old"));
    }

    #[test]
    fn unreadable_file_is_named_with_its_setting() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        let read = |content: Option<&[u8]>| {
            match content {
                Some(content) => fs::write(&path, content).unwrap(),
                None => drop(fs::remove_file(&path)),
            }
            let error = Secret::from_file("DB_PASS_FILE", path.to_str().unwrap()).unwrap_err();
            let message = error.to_string().replace(path.to_str().unwrap(), "[file]");
            format!("{message}: {}", error.cause)
        };
        let errors = [read(Some(b"\n")), read(Some(b"\xff")), read(None)];
        insta::assert_snapshot!(errors.join("\n"), @"
        cannot read `[file]`, the file that DB_PASS_FILE names: it is empty
        cannot read `[file]`, the file that DB_PASS_FILE names: it is not UTF-8 text
        cannot read `[file]`, the file that DB_PASS_FILE names: No such file or directory (os error 2)
        ");
    }

    #[test]
    fn pipe_is_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let writer = std::thread::spawn({
            let path = path.clone();
            move || fs::write(path, "once").unwrap()
        });
        let secret = Secret::from_file("DB_PASS_FILE", path.to_str().unwrap()).unwrap();
        writer.join().unwrap();
        assert_eq!(secret.read().unwrap().expose_secret(), "once");
        assert_eq!(secret.file(), None);
    }
}
