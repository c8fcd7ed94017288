//! Executables: fetched from the coordinator by digest, kept, and verified each time before they are started.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use shardmill_protocol::rpc::api::ApiError;
use shardmill_protocol::rpc::connect::within;
use shardmill_protocol::{Digest, Fault};
use tokio::task::spawn_blocking;

use crate::disk::{self, Disk};
use crate::line::Line;

/// Executables of no job that lives which are kept for the next one.
const KEPT: usize = 8;
/// Tries to fetch an executable whose bytes are not what they should be.
const TRIES: usize = 2;
/// How long the coordinator may take for a chunk.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// Tells files apart that are being fetched at once.
static FETCHES: AtomicU64 = AtomicU64::new(0);

/// Puts an executable in place, if it is not there, and returns where.
pub(crate) async fn ensure(disk: &Disk, line: &Line, digest: Digest, bytes: u64) -> Result<PathBuf, Fault> {
    let path = disk.artifacts().join(digest.to_string());
    if verify(&path, digest).await? {
        return Ok(path);
    }
    for _ in 0..TRIES {
        let name = format!("{digest}.{}", FETCHES.fetch_add(1, Relaxed));
        let beside = disk.artifacts().join(name);
        let fetched = fetch(line, digest, bytes, &beside).await;
        let is_whole = match fetched {
            Ok(true) => verify(&beside, digest).await?,
            Ok(false) => false,
            Err(fault) => {
                let _ = fs::remove_file(&beside);
                return Err(fault);
            }
        };
        if is_whole {
            fs::rename(&beside, &path).map_err(|error| disk::fault(&path, &error))?;
            return Ok(path);
        }
        let _ = fs::remove_file(&beside);
    }
    Err(Fault::ArtifactDamaged)
}

/// Whether a file is there and has this digest. One that has not is removed.
async fn verify(path: &Path, digest: Digest) -> Result<bool, Fault> {
    let path = path.to_owned();
    let verified = spawn_blocking(move || {
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            opened => opened,
        };
        let mut hasher = blake3::Hasher::new();
        file.and_then(|file| hasher.update_reader(file).map(drop)).map_err(|error| disk::fault(&path, &error))?;
        let is_it = hasher.finalize() == digest.0;
        if is_it {
            // So that what is used is not what is swept; nothing depends on it.
            let _ = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        } else {
            fs::remove_file(&path).map_err(|error| disk::fault(&path, &error))?;
        }
        Ok(is_it)
    });
    verified.await.expect("hashing does not panic")
}

/// Writes an executable to a new file; false if the coordinator has less of it than there should be.
async fn fetch(line: &Line, digest: Digest, bytes: u64, path: &Path) -> Result<bool, Fault> {
    let created = OpenOptions::new().write(true).create_new(true).mode(0o700).open(path);
    let mut file = created.map_err(|error| disk::fault(path, &error))?;
    let mut offset = 0;
    while offset < bytes {
        let chunk = line.call(|live| async move { live.client.artifact_chunk(within(PATIENCE), digest, offset).await }).await;
        let chunk = chunk.map_err(|error| unavailable(&error))?;
        if chunk.is_empty() || chunk.len() as u64 > bytes - offset {
            return Ok(false);
        }
        offset += chunk.len() as u64;
        let written = spawn_blocking(move || file.write_all(&chunk).map(|()| file)).await.expect("writing does not panic");
        file = written.map_err(|error| disk::fault(path, &error))?;
    }
    Ok(true)
}

/// The coordinator has no executable of a job that it has granted a task of: the job has ended meanwhile.
fn unavailable(error: &ApiError) -> Fault {
    tracing::debug!(%error, "an executable cannot be fetched");
    Fault::Cancelled
}

/// Removes executables of jobs that have ended, but for the newest ones.
pub(crate) fn sweep(disk: &Disk, used: &BTreeSet<Digest>) {
    let entries = fs::read_dir(disk.artifacts()).into_iter().flatten().flatten();
    let mut unused: Vec<(SystemTime, PathBuf)> = entries
        .filter(|entry| !entry.file_name().to_str().and_then(|name| name.parse().ok()).is_some_and(|digest| used.contains(&digest)))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    unused.sort();
    let old = unused.len().saturating_sub(KEPT);
    for (_, path) in &unused[..old] {
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_executable_that_has_changed_is_not_used_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("job");
        let digest = Digest::of(b"executable");
        assert_eq!(verify(&path, digest).await, Ok(false));
        fs::write(&path, b"executable").unwrap();
        assert_eq!(verify(&path, digest).await, Ok(true));
        fs::write(&path, b"executabel").unwrap();
        assert_eq!(verify(&path, digest).await, Ok(false));
        assert!(!path.exists());
    }

    #[test]
    fn the_newest_executables_and_those_in_use_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::open(directory.path(), None).unwrap();
        let digests: Vec<Digest> = (0..KEPT + 3).map(|number| Digest::of(&[number as u8])).collect();
        for (age, digest) in digests.iter().rev().enumerate() {
            let path = disk.artifacts().join(digest.to_string());
            let old = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000 - age as u64);
            File::create(path).unwrap().set_modified(old).unwrap();
        }
        sweep(&disk, &BTreeSet::from([digests[0]]));
        let left = |digest: &Digest| disk.artifacts().join(digest.to_string()).exists();
        let expected: Vec<bool> = (0..KEPT + 3).map(|number| number == 0 || number > 2).collect();
        assert_eq!(digests.iter().map(left).collect::<Vec<_>>(), expected);
    }
}
