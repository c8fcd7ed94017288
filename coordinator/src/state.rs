//! The state directory: who owns it, and what makes this coordinator the one that it is.
//!
//! ```text
//! STATE/lock           locked while its coordinator runs; holds the process id
//! STATE/identity       a random id and a secret, made at the first start
//! STATE/journal.redb   see `journal.rs`; beside it journal.mark and reserve
//! STATE/artifacts/     see `artifacts.rs`
//! STATE/logs/          see `logs.rs`
//! STATE/claims/        see `publish.rs`
//! STATE/*.pem, *.join  certificate, and one file for each role
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use shardmill_protocol::JobId;

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// Another coordinator has it.
    #[error("the state directory {} is in use by the coordinator with process id {pid}", path.display())]
    InUse { path: PathBuf, pid: String },
    /// The identity is not what was written.
    #[error("{} is damaged: restore it from a copy, or start with another state directory", path.display())]
    Damaged { path: PathBuf },
    /// The system refuses.
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

impl StateError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// A state directory that is this process's own, for as long as the value lives.
#[derive(Debug)]
pub(crate) struct StateDirectory {
    path: PathBuf,
    identity: Identity,
    _lock: File,
}

/// What makes a coordinator the same one after a restart.
#[derive(Debug)]
struct Identity {
    id: [u8; 8],
    secret: [u8; 32],
}

impl StateDirectory {
    /// Makes the directory if it is missing, and locks it.
    pub(crate) fn open(path: &Path) -> Result<Self, StateError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(StateError::io("create", path))?;
        let path = path.canonicalize().map_err(StateError::io("find", path))?;
        let lock = lock(&path)?;
        let identity = Identity::of(&path.join("identity"))?;
        Ok(Self { path, identity, _lock: lock })
    }

    /// Where it is, absolute.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A directory in it, made if it is missing.
    pub(crate) fn directory(&self, name: &str) -> Result<PathBuf, StateError> {
        let path = self.path.join(name);
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(StateError::io("create", &path))?;
        Ok(path)
    }

    /// The name under which this coordinator claims outputs: no other coordinator has it, and a person finds it by it.
    pub(crate) fn name(&self) -> String {
        let id: String = self.identity.id.iter().map(|byte| format!("{byte:02x}")).collect();
        let host = rustix::system::uname();
        format!("coordinator {id} (state directory {:?} on {})", self.path, host.nodename().to_string_lossy())
    }

    /// What a request for map outputs of this job must carry: known to this coordinator and to whom it tells, and the same
    /// after a restart.
    pub(crate) fn capability(&self, job: JobId) -> [u8; 32] {
        *blake3::keyed_hash(&self.identity.secret, &job.0.to_le_bytes()).as_bytes()
    }
}

fn lock(directory: &Path) -> Result<File, StateError> {
    let path = directory.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(StateError::io("create", &path))?;
    if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK {
            return Err(StateError::io("lock", &path)(error.into()));
        }
        let mut pid = String::new();
        file.read_to_string(&mut pid).map_err(StateError::io("read", &path))?;
        return Err(StateError::InUse { path: directory.to_owned(), pid: pid.trim().to_owned() });
    }
    let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    written.map_err(StateError::io("write", &path))?;
    Ok(file)
}

impl Identity {
    /// Reads it, or makes it at the first start. It is whole or not there, as it is renamed into place.
    fn of(path: &Path) -> Result<Self, StateError> {
        match fs::read(path) {
            Ok(bytes) => Self::decode(&bytes).ok_or_else(|| StateError::Damaged { path: path.to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::make(path).map_err(StateError::io("write", path)),
            Err(error) => Err(StateError::io("read", path)(error)),
        }
    }

    fn make(path: &Path) -> io::Result<Self> {
        let mut identity = Self { id: [0; 8], secret: [0; 32] };
        let filled = getrandom::fill(&mut identity.id).and_then(|()| getrandom::fill(&mut identity.secret));
        filled.map_err(|error| io::Error::other(error.to_string()))?;
        let half = path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&half)?;
        file.write_all(&identity.encode())?;
        file.sync_all()?;
        fs::rename(&half, path)?;
        Ok(identity)
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = [self.id.as_slice(), &self.secret].concat();
        let digest = blake3::hash(&bytes);
        bytes.extend_from_slice(digest.as_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (content, digest) = bytes.split_at_checked(40)?;
        let (id, secret) = content.split_at(8);
        let whole = digest == blake3::hash(content).as_bytes();
        whole.then(|| Self { id: id.try_into().expect("eight bytes"), secret: secret.try_into().expect("32 bytes") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_is_refused_with_the_pid_of_the_first_and_let_in_when_that_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let first = StateDirectory::open(directory.path()).unwrap();
        match StateDirectory::open(directory.path()) {
            Err(StateError::InUse { pid, .. }) => assert_eq!(pid, std::process::id().to_string()),
            other => panic!("{other:?}"),
        }
        drop(first);
        StateDirectory::open(directory.path()).unwrap();
    }

    #[test]
    fn a_coordinator_is_the_same_after_a_restart_and_like_no_other() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = StateDirectory::open(one.path()).unwrap();
        let (name, capability) = (first.name(), first.capability(JobId(7)));
        assert!(name.contains(&format!("{:?}", one.path().canonicalize().unwrap())), "{name}");
        assert_ne!(capability, first.capability(JobId(8)));
        drop(first);
        let again = StateDirectory::open(one.path()).unwrap();
        assert_eq!((again.name(), again.capability(JobId(7))), (name.clone(), capability));
        let stranger = StateDirectory::open(other.path()).unwrap();
        assert!(stranger.name() != name && stranger.capability(JobId(7)) != capability);
    }

    #[test]
    fn a_damaged_identity_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        drop(StateDirectory::open(directory.path()).unwrap());
        let path = directory.path().join("identity");
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, &bytes).unwrap();
            assert!(matches!(StateDirectory::open(directory.path()), Err(StateError::Damaged { .. })), "byte {at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert!(matches!(StateDirectory::open(directory.path()), Err(StateError::Damaged { .. })), "cut at {at}");
        }
    }
}
