//! The password of a new connection: a fixed value, a file, a URL in a file, or libpq's password
//! file.
//!
//! Files are read again for each connection.

use secrecy::{ExposeSecret, SecretString};

use crate::error::escape::escape;
use crate::error::{Error, ErrorKind};
use crate::runtime::secret::{Secret, SecretFileError};
use crate::store::postgres::{Address, AddressOrigin, Host, passfile};

/// The source of the password.
#[derive(Clone, Debug)]
pub enum Password {
    /// A secret that is the password.
    Plain(Secret),
    /// A secret that is a URL with the password in it.
    InUrl {
        /// The URL.
        url: Secret,
        /// The password at the time of configuration.
        initial: SecretString,
    },
}

impl Password {
    /// The password at the time of configuration.
    pub fn initial(&self) -> &SecretString {
        match self {
            Self::Plain(secret) => secret.initial(),
            Self::InUrl { initial, .. } => initial,
        }
    }

    /// Returns the file that is read for each connection, for messages.
    fn file(&self) -> Option<String> {
        match self {
            Self::Plain(secret) => secret.file(),
            Self::InUrl { url, .. } => url.file(),
        }
    }
}

/// Each host's password at one time, for comparison.
#[derive(Default)]
pub(super) struct PasswordVersion(Vec<Option<SecretString>>);

impl PartialEq for PasswordVersion {
    fn eq(&self, other: &Self) -> bool {
        let exposed = |version: &Self| -> Vec<Option<String>> {
            let passwords = version.0.iter();
            passwords
                .map(|password| Some(password.as_ref()?.expose_secret().to_owned()))
                .collect()
        };
        exposed(self) == exposed(other)
    }
}

impl Address {
    /// Returns the current password for a connection to `host`.
    ///
    /// # Errors
    /// If the file that holds it cannot be read.
    pub(super) fn password_for(&self, host: &Host) -> Result<Option<SecretString>, Error> {
        match &self.password {
            Some(Password::Plain(secret)) => {
                secret.read().map(Some).map_err(|error| unreadable(&error))
            }
            Some(Password::InUrl { url, initial }) => {
                let text = url.read().map_err(|error| unreadable(&error))?;
                let current = Self::from_url(text.expose_secret()).map_err(|why| {
                    let file = url.file().unwrap_or_default();
                    Error::of(
                        ErrorKind::DbConnect,
                        "the database's password cannot be read",
                    )
                    .cause(format!("{file} does not hold a valid URL: {why}"))
                    .hint(why.hint)
                    .retryable()
                })?;
                // The password of another role is useless here.
                Ok(Some(match current.password {
                    Some(password) if current.user == self.user => password.initial().clone(),
                    _ => initial.clone(),
                }))
            }
            None => Ok(self
                .passfile
                .as_deref()
                .and_then(|file| passfile::find(file, host, &self.name, &self.user))),
        }
    }

    /// Returns the password to remove from the texts of `host`; `None` if it is the name of the role, the
    /// database or the host, which these texts contain.
    pub(super) fn password_to_hide(&self, host: &Host) -> Option<SecretString> {
        let password = self.password_for(host).ok().flatten()?;
        let names = [&self.user, &self.name, &host.name];
        let is_name = names.iter().any(|name| *name == password.expose_secret());
        (!is_name).then_some(password)
    }

    /// Returns the current passwords, to detect a change; `None` if they are fixed.
    pub(super) fn password_version(&self) -> Option<PasswordVersion> {
        let may_change = match &self.password {
            Some(password) => password.file().is_some(),
            None => self.passfile.is_some(),
        };
        let hosts = self.hosts.iter();
        may_change.then(|| {
            let passwords = hosts.map(|host| self.password_for(host).ok().flatten());
            PasswordVersion(passwords.collect())
        })
    }

    /// Names the settings of the role and its password.
    pub(super) fn login_setting(&self) -> String {
        let file = match &self.password {
            Some(Password::Plain(secret)) => secret.file(),
            Some(Password::InUrl { .. }) => None,
            None => self
                .passfile
                .as_ref()
                .map(|file| format!("`{}`", escape(&file.to_string_lossy()))),
        };
        match (&self.origin, file) {
            (AddressOrigin::Parts, Some(file)) => format!("DB_USER and the password in {file}"),
            (AddressOrigin::Parts, None) => "DB_USER and DB_PASS (or DB_PASS_FILE)".to_owned(),
            (AddressOrigin::Url(name), Some(file)) => {
                format!("the user in {name} and the password in {file}")
            }
            (AddressOrigin::Url(name), None) => format!("user and password in {name}"),
        }
    }
}

fn unreadable(error: &SecretFileError) -> Error {
    Error::of(
        ErrorKind::DbConnect,
        "the database's password cannot be read",
    )
    .cause(format!("{error}: {}", error.cause))
    .hint(SecretFileError::HINT)
    .retryable()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn address(password: Option<Password>) -> Address {
        let hosts = Host::list("db.internal", &[]).unwrap();
        Address {
            password,
            ..Address::new(hosts, "tokens".to_owned(), "app".to_owned())
        }
    }

    fn secret(folder: &Path, content: &str) -> Secret {
        let path = folder.join("secret");
        fs::write(&path, content).unwrap();
        Secret::from_file("DB_PASS_FILE", path.to_str().unwrap()).unwrap()
    }

    fn current(address: &Address) -> Option<String> {
        let password = address.password_for(&address.hosts[0]).unwrap();
        password.map(|password| password.expose_secret().to_owned())
    }

    #[test]
    fn password_file_is_read_for_each_connection() {
        let folder = tempfile::tempdir().unwrap();
        let address = address(Some(Password::Plain(secret(folder.path(), "old"))));
        let version = address.password_version();
        assert!(version.is_some() && address.password_version() == version);
        fs::write(folder.path().join("secret"), "new").unwrap();
        assert_eq!(current(&address).as_deref(), Some("new"));
        assert!(address.password_version() != version);
    }

    #[test]
    fn fixed_password_has_no_version() {
        let fixed = address(Some(Password::Plain(Secret::fixed("pw"))));
        assert!(fixed.password_version().is_none());
        assert!(address(None).password_version().is_none());
    }

    #[test]
    fn password_in_a_url_follows_the_file_for_the_same_user() {
        let folder = tempfile::tempdir().unwrap();
        let url = secret(folder.path(), "postgres://tokens:old@db.internal/app");
        let address = address(Some(Password::InUrl {
            url,
            initial: SecretString::from("old"),
        }));
        let write = |text: &str| fs::write(folder.path().join("secret"), text).unwrap();
        write("postgres://tokens:n%2Fw@db.internal/app\n");
        assert_eq!(current(&address).as_deref(), Some("n/w"));
        write("postgres://other:theirs@db.internal/app");
        assert_eq!(current(&address).as_deref(), Some("old"));
    }

    #[test]
    fn unreadable_password_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let url = secret(folder.path(), "postgres://tokens:hunter2@db.internal/app");
        let plain = address(Some(Password::Plain(url.clone())));
        let in_url = address(Some(Password::InUrl {
            url,
            initial: SecretString::from("hunter2"),
        }));
        let error = |address: &Address| {
            let failure = address.password_for(&address.hosts[0]).unwrap_err();
            assert!(failure.retryable);
            let hint = failure.hint.as_deref().unwrap();
            let text = format!("{}: {}; {hint}", failure.message, failure.causes.join(": "));
            text.replace(path.to_str().unwrap(), "[file]")
        };
        fs::write(&path, "postgres://tokens:hunter2@db.internal:x/app").unwrap();
        let invalid = error(&in_url);
        fs::write(&path, "").unwrap();
        let empty = error(&plain);
        fs::remove_file(&path).unwrap();
        let missing = error(&plain);
        insta::assert_snapshot!([invalid, empty, missing].join("\n"), @"
        the database's password cannot be read: `[file]` (DB_PASS_FILE) does not hold a valid URL: the port is not a number from 1 to 65535; write the port as a number, and `/`, `?` and `@` in a password as %2F, %3F and %40
        the database's password cannot be read: cannot read `[file]`, the file that DB_PASS_FILE names: it is empty; the file must exist, be text, and be readable by this user
        the database's password cannot be read: cannot read `[file]`, the file that DB_PASS_FILE names: No such file or directory (os error 2); the file must exist, be text, and be readable by this user
        ");
    }
}
