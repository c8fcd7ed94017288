//! Artifacts: uploaded executables, kept by the digest of their bytes.
//!
//! ```text
//! DIR/DIGEST        whole and checked; never written again
//! DIR/DIGEST.part   what has been uploaded so far; an upload goes on where it ended
//! ```
//! Everything here reads and writes files, and is called off the async threads.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use shardmill_protocol::Digest;
use shardmill_protocol::rpc::api::CHUNK_BYTES;

/// Executables kept although no live job runs them, so that the next submission need not upload them again.
const KEPT: usize = 16;

/// Why an artifact cannot be stored or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArtifactError {
    /// There is no such artifact.
    #[error("there is no artifact {0}")]
    Unknown(Digest),
    /// The bytes are others.
    #[error("the bytes do not have the digest {0}")]
    Digest(Digest),
    /// A chunk does not follow on what is there.
    #[error("the upload of {digest} stands at {stored} bytes, and the chunk begins at {offset}")]
    Gap { digest: Digest, stored: u64, offset: u64 },
    /// It is no executable that workers could run.
    #[error("it is no executable for this platform: {0}")]
    Platform(&'static str),
    /// It is longer than is allowed.
    #[error("an executable of more than {limit} bytes is not taken")]
    TooLong { limit: u64 },
    /// The system refuses.
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

impl ArtifactError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// The store.
#[derive(Clone, Debug)]
pub(crate) struct Artifacts {
    directory: PathBuf,
    limit: u64,
}

impl Artifacts {
    /// Uses an existing directory. No artifact may be longer than `limit` bytes.
    pub(crate) fn new(directory: PathBuf, limit: u64) -> Self {
        Self { directory, limit }
    }

    fn whole(&self, digest: Digest) -> PathBuf {
        self.directory.join(digest.to_string())
    }

    fn part(&self, digest: Digest) -> PathBuf {
        self.directory.join(format!("{digest}.part"))
    }

    /// Whether it is there, whole, with this length.
    pub(crate) fn has(&self, digest: Digest, bytes: u64) -> bool {
        fs::metadata(self.whole(digest)).is_ok_and(|file| file.len() == bytes)
    }

    /// How many of its bytes are there. One that is whole counts as used just now.
    pub(crate) fn stored(&self, digest: Digest) -> u64 {
        if let Ok(file) = File::open(self.whole(digest)) {
            // What was used last is kept longest; that it is noted is no condition for anything.
            let _ = file.set_modified(SystemTime::now());
            return file.metadata().map_or(0, |file| file.len());
        }
        fs::metadata(self.part(digest)).map_or(0, |file| file.len())
    }

    /// Adds a chunk. With the last one, the whole is checked and becomes an artifact; a repeated chunk does no harm.
    pub(crate) fn upload(&self, digest: Digest, offset: u64, chunk: &[u8], last: bool) -> Result<(), ArtifactError> {
        if self.whole(digest).exists() {
            return Ok(());
        }
        let path = self.part(digest);
        let io = |action| ArtifactError::io(action, &path);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(io("create"))?;
        let stored = file.metadata().map_err(io("look at"))?.len();
        if offset > stored {
            return Err(ArtifactError::Gap { digest, stored, offset });
        }
        if offset.saturating_add(chunk.len() as u64) > self.limit {
            let _ = fs::remove_file(&path);
            return Err(ArtifactError::TooLong { limit: self.limit });
        }
        file.write_all_at(chunk, offset).map_err(io("write"))?;
        if !last {
            return Ok(());
        }
        // Of an earlier upload that was not the same, more may be there.
        file.set_len(offset + chunk.len() as u64).map_err(io("cut"))?;
        if let Err(error) = check(&path, digest) {
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        file.sync_all().map_err(io("sync"))?;
        fs::rename(&path, self.whole(digest)).map_err(io("rename"))
    }

    /// Reads a chunk; empty at the end.
    pub(crate) fn chunk(&self, digest: Digest, offset: u64) -> Result<Vec<u8>, ArtifactError> {
        let path = self.whole(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ArtifactError::Unknown(digest)),
            Err(error) => return Err(ArtifactError::io("open", &path)(error)),
        };
        let left = file.metadata().map_err(ArtifactError::io("look at", &path))?.len().saturating_sub(offset);
        let mut chunk = vec![0; left.min(CHUNK_BYTES as u64) as usize];
        file.read_exact_at(&mut chunk, offset).map_err(ArtifactError::io("read", &path))?;
        Ok(chunk)
    }

    /// Removes what is not needed, but for the few that were used last.
    pub(crate) fn keep(&self, needed: &BTreeSet<Digest>) -> Result<(), ArtifactError> {
        let io = || ArtifactError::io("read", &self.directory);
        let mut others = vec![];
        for entry in fs::read_dir(&self.directory).map_err(io())? {
            let entry = entry.map_err(io())?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let digest = name.strip_suffix(".part").unwrap_or(&name).parse::<Digest>();
            if digest.is_ok_and(|digest| needed.contains(&digest)) {
                continue;
            }
            let used = entry.metadata().and_then(|file| file.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            others.push((used, entry.path()));
        }
        others.sort();
        let excess = others.len().saturating_sub(KEPT);
        for (_, path) in &others[..excess] {
            fs::remove_file(path).map_err(ArtifactError::io("remove", path))?;
        }
        Ok(())
    }
}

/// Checks that a file is what its digest says, and an executable that a machine like this one can run.
fn check(path: &Path, digest: Digest) -> Result<(), ArtifactError> {
    let io = |action| ArtifactError::io(action, path);
    let mut hasher = blake3::Hasher::new();
    let mut file = File::open(path).map_err(io("open"))?;
    let mut head = Vec::with_capacity(HEAD);
    file.by_ref().take(HEAD as u64).read_to_end(&mut head).map_err(io("read"))?;
    hasher.update(&head);
    io::copy(&mut file, &mut hasher).map_err(io("read"))?;
    if *hasher.finalize().as_bytes() != digest.0 {
        return Err(ArtifactError::Digest(digest));
    }
    is_for_this_platform(&head).map_err(ArtifactError::Platform)
}

/// As much of an ELF file as says what it is for.
const HEAD: usize = 20;

/// Looks at the beginning of an ELF file: four bytes of magic, class, byte order, …, type at 16, machine at 18.
fn is_for_this_platform(head: &[u8]) -> Result<(), &'static str> {
    let machine: u16 = if cfg!(target_arch = "x86_64") { 62 } else { 183 };
    match head {
        [0x7f, b'E', b'L', b'F', class, order, ..] if head.len() == HEAD => {
            let (kind, wanted) = (u16::from_le_bytes([head[16], head[17]]), u16::from_le_bytes([head[18], head[19]]));
            if (*class, *order) != (2, 1) {
                Err("it is not of 64 bits and little-endian")
            } else if !matches!(kind, 2 | 3) {
                Err("it is an object or a core file")
            } else if wanted != machine {
                Err("it was built for another kind of processor")
            } else {
                Ok(())
            }
        }
        [b'#', b'!', ..] => Err("it is a script"),
        _ => Err("it is no ELF file"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Artifacts) {
        let directory = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::new(directory.path().to_owned(), 1 << 20);
        (directory, artifacts)
    }

    /// The beginning of an executable for this machine, and `more` after it.
    fn executable(more: &[u8]) -> (Vec<u8>, Digest) {
        let mut bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        bytes.truncate(HEAD);
        bytes.extend_from_slice(more);
        let digest = Digest::of(&bytes);
        (bytes, digest)
    }

    #[test]
    fn an_upload_goes_on_where_it_ended_and_repeats_do_no_harm() {
        let (_directory, artifacts) = store();
        let (bytes, digest) = executable(b"and more");
        assert_eq!(artifacts.stored(digest), 0);
        artifacts.upload(digest, 0, &bytes[..10], false).unwrap();
        artifacts.upload(digest, 0, &bytes[..10], false).unwrap();
        assert_eq!(artifacts.stored(digest), 10);
        assert!(matches!(artifacts.upload(digest, 11, &bytes[11..], true), Err(ArtifactError::Gap { stored: 10, .. })));
        assert!(matches!(artifacts.chunk(digest, 0), Err(ArtifactError::Unknown(_))), "half of it is no artifact");
        artifacts.upload(digest, 10, &bytes[10..], true).unwrap();
        artifacts.upload(digest, 10, &bytes[10..], true).unwrap();
        assert!(artifacts.has(digest, bytes.len() as u64) && !artifacts.has(digest, 1));
        assert_eq!(artifacts.stored(digest), bytes.len() as u64);
        assert_eq!(artifacts.chunk(digest, 0).unwrap(), bytes);
        assert_eq!(artifacts.chunk(digest, 4).unwrap(), bytes[4..]);
        assert!(artifacts.chunk(digest, bytes.len() as u64).unwrap().is_empty());
    }

    #[test]
    fn what_is_not_what_its_digest_says_is_removed() {
        let (directory, artifacts) = store();
        let (mut bytes, digest) = executable(b"and more");
        bytes[25] ^= 1;
        assert!(matches!(artifacts.upload(digest, 0, &bytes, true), Err(ArtifactError::Digest(_))));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_cannot_run_here_is_refused() {
        let (directory, artifacts) = store();
        let (whole, _) = executable(b"");
        let changed = |at: usize, byte: u8| {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            bytes
        };
        for bytes in [vec![], b"#!/bin/sh\nexit 0\n\n\n\n\n".to_vec(), whole[..19].to_vec(), changed(4, 1), changed(16, 1), changed(18, 8)]
        {
            let refused = artifacts.upload(Digest::of(&bytes), 0, &bytes, true);
            assert!(matches!(refused, Err(ArtifactError::Platform(_))), "{bytes:?}: {refused:?}");
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn more_than_the_limit_is_refused() {
        let (_directory, artifacts) = store();
        let refused = artifacts.upload(Digest([1; 32]), 0, &vec![0; (1 << 20) + 1], false);
        assert!(matches!(refused, Err(ArtifactError::TooLong { .. })));
        assert_eq!(artifacts.stored(Digest([1; 32])), 0);
    }

    #[test]
    fn those_that_are_needed_stay_and_of_the_others_the_ones_used_last() {
        let (_directory, artifacts) = store();
        let digests: Vec<Digest> = (0..KEPT as u8 + 3)
            .map(|number| {
                let (bytes, digest) = executable(&[number]);
                artifacts.upload(digest, 0, &bytes, true).unwrap();
                let age = std::time::Duration::from_secs(1000 - u64::from(number));
                File::open(artifacts.whole(digest)).unwrap().set_modified(SystemTime::now() - age).unwrap();
                digest
            })
            .collect();
        assert!(artifacts.stored(digests[2]) > 0, "looking at it is using it");
        artifacts.keep(&BTreeSet::from([digests[0]])).unwrap();
        let is_there = |index: usize| artifacts.has(digests[index], HEAD as u64 + 1);
        assert!(is_there(0) && !is_there(1) && is_there(2) && !is_there(3) && is_there(4));
    }
}
