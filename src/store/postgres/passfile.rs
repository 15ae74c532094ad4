//! libpq's password file (`.pgpass`): a line `host:port:database:user:password` for each login.
//!
//! The rules are those of `passwordFromFile` in libpq's fe-connect.c.

use std::fs;
use std::path::Path;
use std::sync::Once;

use secrecy::SecretString;

use crate::error::escape::escape;
use crate::store::postgres::Host;

/// The default folders of server sockets. A line for `localhost` matches them.
const SOCKET_FOLDERS: [&str; 3] = ["/tmp", "/run/postgresql", "/var/run/postgresql"];

/// Returns the password of the first matching line.
///
/// As with libpq, a missing file holds none, and a file that others may read is ignored.
pub(super) fn find(file: &Path, host: &Host, database: &str, user: &str) -> Option<SecretString> {
    let metadata = fs::metadata(file).ok()?;
    if let Some(reason) = ignore_reason(&metadata) {
        static WARNED: Once = Once::new();
        WARNED.call_once(|| {
            tracing::warn!(
                file = %escape(&file.to_string_lossy()),
                "the password file is ignored: {reason}"
            );
        });
        return None;
    }
    let content = fs::read(file).ok()?;
    let lines = content.split(|byte| *byte == b'\n');
    lines
        .filter_map(|line| std::str::from_utf8(line).ok())
        .find_map(|line| password_in_line(line.trim_end_matches('\r'), host, database, user))
        .filter(|password| !password.is_empty())
        .map(SecretString::from)
}

/// Returns why a file is ignored.
fn ignore_reason(metadata: &fs::Metadata) -> Option<&'static str> {
    use std::os::unix::fs::PermissionsExt as _;
    if !metadata.is_file() {
        return Some("it is not a plain file");
    }
    let is_shared = metadata.permissions().mode() & 0o077 != 0;
    is_shared.then_some("other users may access it; allow only its owner to: chmod 0600")
}

/// Returns the line's password if the line matches this login.
fn password_in_line(line: &str, host: &Host, database: &str, user: &str) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let name = match host.name.as_str() {
        folder if SOCKET_FOLDERS.contains(&folder) => "localhost",
        name => name,
    };
    let port = host.port.to_string();
    let rest = [name, port.as_str(), database, user]
        .into_iter()
        .try_fold(line, skip_field)?;
    let mut password = String::new();
    let mut rest = rest.chars();
    while let Some(letter) = rest.next() {
        match letter {
            ':' => break,
            '\\' => password.push(rest.next().unwrap_or('\\')),
            _ => password.push(letter),
        }
    }
    Some(password)
}

/// Returns what follows the first field if that is `*` or, unescaped, equals `value`.
fn skip_field<'a>(line: &'a str, value: &str) -> Option<&'a str> {
    if let Some(rest) = line.strip_prefix("*:") {
        return Some(rest);
    }
    let mut expected = value.chars();
    let mut rest = line.chars();
    loop {
        let (given, wanted) = match (rest.next()?, expected.next()) {
            (':', None) => return Some(rest.as_str()),
            (_, None) => return None,
            ('\\', Some(wanted)) => (rest.next()?, wanted),
            // Also an unescaped colon, such as those of an IPv6 address.
            (given, Some(wanted)) => (given, wanted),
        };
        if given != wanted {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;
    use std::os::unix::fs::PermissionsExt as _;

    fn host(name: &str) -> Host {
        Host {
            name: name.to_owned(),
            port: 5432,
        }
    }

    fn password_for_login(line: &str) -> Option<String> {
        password_in_line(line, &host("db.internal"), "app", "tokens")
    }

    #[test]
    fn line_matches_as_in_libpq() {
        for line in [
            "db.internal:5432:app:tokens:pw",
            "*:*:*:*:pw",
            "*:5432:*:tokens:pw",
            "db.internal:*:app:*:pw:ignored",
            r"db\.internal:5432:a\pp:tokens:pw",
            r"*:*:*:*:p\w",
        ] {
            assert_eq!(password_for_login(line).as_deref(), Some("pw"), "{line}");
        }
        for line in [
            "",
            "#*:*:*:*:pw",
            "db:5432:app:tokens:pw",
            "db.internal.:5432:app:tokens:pw",
            "db.internal:5433:app:tokens:pw",
            "db.internal:5432:ap:tokens:pw",
            "db.internal:5432:app:tokens",
            r"\*:*:*:*:pw",
            "*:*:*",
        ] {
            assert_eq!(password_for_login(line), None, "{line}");
        }
        assert_eq!(
            password_for_login(r"*:*:*:*:a\:b\\c\").as_deref(),
            Some(r"a:b\c\")
        );
        assert_eq!(password_for_login("*:*:*:*:").as_deref(), Some(""));
    }

    #[test]
    fn ipv6_address_matches_with_and_without_escapes() {
        for line in [r"\:\:1:5432:app:tokens:pw", "::1:5432:app:tokens:pw"] {
            let found = password_in_line(line, &host("::1"), "app", "tokens");
            assert_eq!(found.as_deref(), Some("pw"), "{line}");
        }
    }

    #[test]
    fn localhost_matches_the_default_socket_folder() {
        let socket =
            |folder| password_in_line("localhost:*:*:*:pw", &host(folder), "app", "tokens");
        assert!(socket("/run/postgresql").is_some());
        assert!(socket("/srv/sockets").is_none());
    }

    #[test]
    fn first_matching_line_of_private_file_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(".pgpass");
        let find = || {
            find(&file, &host("db.internal"), "app", "tokens")
                .map(|password| password.expose_secret().to_owned())
        };
        assert_eq!(find(), None);
        fs::write(
            &file,
            "# mine\r\nother:*:*:*:x\n*:*:*:tokens:first\r\n*:*:*:*:second\n",
        )
        .unwrap();
        let allow = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        for (mode, expected) in [
            (0o600, Some("first")),
            (0o400, Some("first")),
            (0o640, None),
            (0o604, None),
        ] {
            allow(mode);
            assert_eq!(find().as_deref(), expected, "{mode:o}");
        }
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert_eq!(find(), None);
    }
}
