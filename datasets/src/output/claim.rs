//! The claim file: who is writing an output.
//!
//! Holds the run's name and a line end. The lock says whether the run lives, the name what it may have
//! left behind. The claim of a coordinator's job is not locked, as it outlives the coordinator's process:
//! it holds `coordinator job JOB of COORDINATOR`, and only that coordinator gives it up. If that never comes
//! back, a person has to; the refusal says how.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{FlockOperation, flock};

use super::{PublishError, claim_path};

/// How often a lock that is held is asked for again. Others look at a claim by locking it for a moment,
/// and that is not yet a live run.
const TRIES: usize = 100;

/// How the name of a coordinator's job begins in its claim.
const LASTING: &str = "coordinator job ";

/// The longest name that is read: that of a coordinator's job holds a path.
const LONGEST_NAME: u64 = 8 << 10;

/// What the claim of a coordinator's job says.
pub(super) fn lasting_name(job: &str, coordinator: &str) -> String {
    format!("{LASTING}{job} of {coordinator}")
}

/// Whether a claim is that of a coordinator's job with this id.
pub(super) fn is_of_job(name: &str, job: &str) -> bool {
    name.strip_prefix(LASTING).is_some_and(|rest| rest.split(' ').next() == Some(job))
}

/// Whether a claim lives on although nobody locks it.
pub(super) fn is_lasting(name: &str) -> bool {
    name.starts_with(LASTING)
}

/// What can be done about a claim that nobody else ever gives up, for the end of a refusal. Whether its coordinator will come back
/// cannot be known here: only a person can tell.
pub(super) fn remedy(claim: &Path, holder: &str) -> String {
    let Some(job) = holder.strip_prefix(LASTING).and_then(|rest| rest.split(' ').next()) else { return String::new() };
    let staging = super::staging_path(&claimed_by(claim), job);
    format!("; if that coordinator is gone for good, remove {}, and {} where its job has staged files", claim.display(), staging.display())
}

/// The output that a claim file is for.
fn claimed_by(claim: &Path) -> PathBuf {
    let name = claim.file_name().unwrap_or_default().as_bytes();
    let name = name.strip_prefix(b".").and_then(|name| name.strip_suffix(b".shardmill-claim")).unwrap_or(name);
    claim.with_file_name(OsStr::from_bytes(name))
}

/// A claim file that is locked.
#[derive(Debug)]
pub(super) struct ClaimFile {
    file: File,
    path: PathBuf,
}

impl ClaimFile {
    /// Creates or takes over a claim, and tells which dead run left it, if one did.
    pub(super) fn take(path: &Path, output: &Path) -> Result<(Self, Option<String>), PublishError> {
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)
                .map_err(PublishError::io("create", path))?;
            if !try_lock(&file, FlockOperation::NonBlockingLockExclusive).map_err(PublishError::io("lock", path))? {
                return Err(claimed(path, output, read_name(&mut file).unwrap_or_default()));
            }
            // Between opening and locking, its owner may have removed it. What is locked then is a file
            // without a name, and the next run would not find it.
            if is_at(&file, path) {
                let left_by = read_name(&mut file).map_err(PublishError::io("read", path))?;
                if is_lasting(&left_by) {
                    return Err(claimed(path, output, left_by));
                }
                return Ok((Self { file, path: path.to_owned() }, (!left_by.is_empty()).then_some(left_by)));
            }
        }
    }

    /// Lets go of the claim and nothing else, as the death of its run does.
    #[cfg(test)]
    pub(super) fn unlock(&self) {
        flock(&self.file, FlockOperation::Unlock).unwrap();
    }

    /// Writes the name of the run that holds the claim. To be done before anything is staged under it,
    /// or nobody would know what to sweep.
    pub(super) fn sign(&self, job: &str) -> Result<(), PublishError> {
        self.rewrite(job).map_err(PublishError::io("write", &self.path))
    }

    fn rewrite(&self, job: &str) -> io::Result<()> {
        let mut file = &self.file;
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(format!("{job}\n").as_bytes())
    }

    /// Opens and locks a claim that is there, if it has this name.
    pub(super) fn find(path: &Path, is_it: impl Fn(&str) -> bool) -> Result<Option<Self>, PublishError> {
        let mut file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(PublishError::io("open", path)(error)),
        };
        flock(&file, FlockOperation::LockExclusive).map_err(|error| PublishError::io("lock", path)(error.into()))?;
        let is_it = is_at(&file, path) && is_it(&read_name(&mut file).map_err(PublishError::io("read", path))?);
        Ok(is_it.then(|| Self { file, path: path.to_owned() }))
    }

    /// Puts the claim on the disk, so that it outlives the machine's death, too.
    pub(super) fn sync(&self) -> Result<(), PublishError> {
        self.file.sync_all().map_err(PublishError::io("sync", &self.path))?;
        super::publish::sync(super::parent_of(&self.path))
    }

    /// Removes the file, if it is still the one that was taken. While that is locked, nobody else puts
    /// one of theirs in its place; once it was removed, they may have.
    pub(super) fn remove(&self) -> Result<(), PublishError> {
        if is_at(&self.file, &self.path) { fs::remove_file(&self.path).map_err(PublishError::io("remove", &self.path)) } else { Ok(()) }
    }
}

/// Refuses an output that lies in one that a live run claims.
pub(super) fn refuse_claims_around(output: &Path) -> Result<(), PublishError> {
    output
        .ancestors()
        .skip(1)
        .filter(|around| around.file_name().is_some())
        .try_for_each(|around| refuse_if_live(&claim_path(around), around))
}

/// Refuses a directory with an output in it that a live run claims. Symbolic links are not followed.
pub(super) fn refuse_claims_inside(directory: &Path) -> Result<(), PublishError> {
    let failed = || PublishError::io("read", directory);
    for entry in fs::read_dir(directory).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        let name = entry.file_name();
        if name.as_bytes().starts_with(b".") && name.as_bytes().ends_with(b".shardmill-claim") {
            refuse_if_live(&entry.path(), &claimed_by(&entry.path()))?;
        } else if entry.file_type().map_err(failed())?.is_dir() {
            refuse_claims_inside(&entry.path())?;
        }
    }
    Ok(())
}

fn refuse_if_live(claim: &Path, output: &Path) -> Result<(), PublishError> {
    let mut file = match File::open(claim) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        // What may not be looked at cannot be known to be free, but neither is it ours to judge: a
        // directory above that hides its content is no reason not to write below it.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
        Err(error) => return Err(PublishError::io("open", claim)(error)),
    };
    let is_free = try_lock(&file, FlockOperation::NonBlockingLockShared).map_err(PublishError::io("lock", claim))?;
    let name = read_name(&mut file).unwrap_or_default();
    if is_free && !is_lasting(&name) { Ok(()) } else { Err(claimed(claim, output, name)) }
}

fn claimed(claim: &Path, output: &Path, holder: String) -> PublishError {
    let holder = if holder.is_empty() { "another run".to_owned() } else { holder };
    PublishError::Claimed { path: output.to_owned(), holder, claim: claim.to_owned() }
}

fn try_lock(file: &File, operation: FlockOperation) -> io::Result<bool> {
    for _ in 0..TRIES {
        match flock(file, operation) {
            Ok(()) => return Ok(true),
            Err(error) if error == rustix::io::Errno::WOULDBLOCK => thread::yield_now(),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

fn read_name(file: &mut File) -> io::Result<String> {
    let mut name = String::new();
    file.rewind()?;
    file.take(LONGEST_NAME).read_to_string(&mut name)?;
    Ok(name.trim_end().to_owned())
}
