//! Join files: where a coordinator is, how it is told from a stranger, and the secret of one role.
//!
//! ```text
//! # shardmill: whoever has this file can join as worker
//! address = HOST:PORT
//! fingerprint = HEX        BLAKE3 of the coordinator's certificate
//! secret = HEX
//! role = worker            or read, submit, admin
//! ```
//! A coordinator writes one for each role into its state directory. Only their owner can read them; one that others can read is
//! refused, as its secret may be known to anybody.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::api::Role;
use super::secret::Secret;
use crate::ids::Digest;

/// The longest join file; a real one has some 200 bytes.
const MAX_BYTES: u64 = 4096;
/// The longest `HOST:PORT`: a host name has 253 characters at most.
const MAX_ADDRESS: usize = 260;

/// All that is needed to speak with a coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinFile {
    /// Where it listens: `HOST:PORT`.
    pub address: String,
    /// The fingerprint of its certificate.
    pub fingerprint: Digest,
    /// The secret.
    pub secret: Secret,
    /// What the secret allows.
    pub role: Role,
}

/// A join file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others than its owner can read or write it.
    #[error("{} holds a secret, and others than its owner can read or change it; make a new secret, or at least: chmod 600 {}", path.display(), path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// Its content is not that of a join file.
    #[error("{} is no join file: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl JoinError {
    /// Tells whether there is no such file.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

impl JoinFile {
    /// The name of a role's file in a state directory.
    pub fn name(role: Role) -> String {
        format!("{role}.join")
    }

    /// Reads a file, and refuses one that others than its owner can read or change.
    pub fn read(path: &Path) -> Result<Self, JoinError> {
        let read = |source| JoinError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(read)?;
        let metadata = file.metadata().map_err(read)?;
        if !metadata.is_file() {
            return Err(JoinError::Malformed { path: path.to_owned(), reason: "it is no plain file".to_owned() });
        }
        if metadata.mode() & 0o077 != 0 {
            return Err(JoinError::Exposed { path: path.to_owned() });
        }
        let mut text = String::new();
        file.take(MAX_BYTES).read_to_string(&mut text).map_err(read)?;
        Self::parse(&text).map_err(|reason| JoinError::Malformed { path: path.to_owned(), reason })
    }

    /// Writes a file that only its owner can read, whole or not at all.
    pub fn write(&self, path: &Path) -> Result<(), JoinError> {
        write_private(path, self.text().as_bytes()).map_err(|source| JoinError::Write { path: path.to_owned(), source })
    }

    fn text(&self) -> String {
        let Self { address, fingerprint, secret, role } = self;
        let secret = secret.expose_hex();
        format!(
            "# shardmill: whoever has this file can join as {role}\naddress = {address}\nfingerprint = {fingerprint}\nsecret = {secret}\nrole = {role}\n"
        )
    }

    fn parse(text: &str) -> Result<Self, String> {
        let (mut address, mut fingerprint, mut secret, mut role) = (None, None, None, None);
        for (line, number) in text.lines().zip(1..) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            // Values are left out of all messages: one of them is a secret.
            let (key, value) = line.split_once('=').ok_or_else(|| format!("line {number} is not KEY = VALUE"))?;
            let (key, value) = (key.trim(), value.trim());
            let wrong = |what: &str| format!("{key} in line {number} is no {what}");
            let is_again = match key {
                "address" if value.len() <= MAX_ADDRESS && is_address(value) => address.replace(value.to_owned()).is_some(),
                "address" => return Err(wrong("HOST:PORT")),
                "fingerprint" => fingerprint.replace(value.parse::<Digest>().map_err(|_| wrong("fingerprint"))?).is_some(),
                "secret" => secret.replace(value.parse::<Secret>().map_err(|_| wrong("secret"))?).is_some(),
                "role" => role.replace(value.parse::<Role>().map_err(|_| wrong("role"))?).is_some(),
                _ => return Err(format!("line {number} has an unknown key")),
            };
            if is_again {
                return Err(format!("{key} stands in it twice"));
            }
        }
        let missing = |what: &str| format!("it has no {what}");
        Ok(Self {
            address: address.ok_or_else(|| missing("address"))?,
            fingerprint: fingerprint.ok_or_else(|| missing("fingerprint"))?,
            secret: secret.ok_or_else(|| missing("secret"))?,
            role: role.ok_or_else(|| missing("role"))?,
        })
    }
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0))
}

/// Writes a file that only its owner can read: whole, or the old one stays.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".{}", std::process::id()));
    let beside = path.with_file_name(name);
    // Left by a process of the same number that died.
    let _ = fs::remove_file(&beside);
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    let renamed = written.and_then(|()| fs::rename(&beside, path));
    if renamed.is_err() {
        let _ = fs::remove_file(&beside);
    }
    renamed
}

/// Where coordinators keep their state, and where their files are looked for, if nothing else is said: `$SHARDMILL_STATE`, else
/// `$XDG_STATE_HOME/shardmill`, else `~/.local/state/shardmill`.
pub fn default_state_directory() -> Option<PathBuf> {
    if let Some(state) = std::env::var_os("SHARDMILL_STATE").filter(|state| !state.is_empty()) {
        return Some(state.into());
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state"))).map(|state| state.join("shardmill"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    fn join() -> JoinFile {
        JoinFile {
            address: "host.example:4100".to_owned(),
            fingerprint: Digest::of(b"certificate"),
            secret: Secret::new([7; 32]),
            role: Role::Worker,
        }
    }

    #[test]
    fn a_join_file_is_read_as_it_was_written_and_only_its_owner_can_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(JoinFile::name(Role::Worker));
        join().write(&path).unwrap();
        JoinFile { role: Role::Admin, ..join() }.write(&path).unwrap();
        assert_eq!(JoinFile::read(&path).unwrap(), JoinFile { role: Role::Admin, ..join() });
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_file_that_others_can_read_or_change_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("worker.join");
        join().write(&path).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o601] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(JoinFile::read(&path), Err(JoinError::Exposed { .. })), "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        assert_eq!(JoinFile::read(&path).unwrap(), join());
    }

    #[test]
    fn what_is_no_join_file_is_refused_with_the_line_and_without_its_values() {
        let text = join().text();
        let secret = join().secret.expose_hex();
        let cases = [
            (text.replace("role = worker\n", ""), "it has no role"),
            (text.replace("worker\n", "king\n"), "role in line 5 is no role"),
            (text.clone() + "role = admin", "role stands in it twice"),
            (text.replace("secret = ", "secret = x"), "secret in line 4 is no secret"),
            (text.replace("secret = ", "secret "), "line 4 is not KEY = VALUE"),
            (text.replace("secret = ", "sécret = "), "line 4 has an unknown key"),
            (text.replace(":4100", ""), "address in line 2 is no HOST:PORT"),
            (text.replace(":4100", ":0"), "address in line 2 is no HOST:PORT"),
            (String::new(), "it has no address"),
        ];
        for (text, reason) in cases {
            let error = JoinFile::parse(&text).unwrap_err();
            assert!(error == reason && !error.contains(&secret[1..]), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_join_file_or_an_error(text: String) {
            let _ = JoinFile::parse(&text);
        }
    }
}
