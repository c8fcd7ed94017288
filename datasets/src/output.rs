//! How an output becomes visible: all at once, or not at all.
//!
//! Owns the claim on an output's name, the staging directory beside it, and the steps that make parts
//! visible together. What parts hold is left to `sink`, what the manifest says to `manifest.rs`.
//!
//! ```text
//! DIR/.NAME.shardmill-claim    the claim: locked while its run lives; names the run
//! DIR/.NAME.shardmill-JOB/     staging; gone when the run is over, however it ended
//!       attempts/ATTEMPT/      what attempts write
//!       final/                 the output being put together, then renamed to ...
//!       replaced/              the old output, where it had to step aside first
//! DIR/NAME/                    ... the output
//! ```
//! A local run holds its claim by a lock that dies with it. A claim that is found unlocked is that of
//! a run that was killed: it is taken over, and what the run left is put back or swept. A coordinator's
//! claim ([`LastingClaim`]) is no lock: it lives until the coordinator gives it up, however often that
//! was started in between.

mod claim;
mod lasting;
mod publish;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use self::claim::ClaimFile;
pub use self::lasting::LastingClaim;
pub use self::publish::{Published, Replaced, assemble, is_published, reveal, sweep};
use crate::manifest::Manifest;

/// An output that could not be claimed or published, with the place and the cause.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The path names no directory that could be made.
    #[error("{} cannot be an output directory: {reason}", path.display())]
    Invalid {
        /// The output.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// There is an output already.
    #[error("output {} exists; --overwrite would replace it", path.display())]
    Exists {
        /// The output.
        path: PathBuf,
    },
    /// Another run is writing the same output, or one inside it or around it.
    #[error("output {} is being written by {holder}{}", path.display(), claim::remedy(claim, holder))]
    Claimed {
        /// The output that is claimed.
        path: PathBuf,
        /// The run that holds the claim.
        holder: String,
        /// The file that says so.
        claim: PathBuf,
    },
    /// A file has a name that would not lie inside the output.
    #[error("`{name}` is no name for a file of an output")]
    Name {
        /// The name.
        name: String,
    },
    /// Something else stands where a file was to be linked.
    #[error("{} is not the file that was to be published there", path.display())]
    Conflict {
        /// The place.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl PublishError {
    /// Makes the error of a failed action on a path.
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// Tells whether the disk, or the quota on it, is full.
    pub fn is_disk_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }
}

/// An exclusive claim on an output's name, and the staging directory that belongs to it.
///
/// Dropped without being published, it removes its staging directory and itself; the output is as it
/// was before.
///
/// ```
/// use shardmill_datasets::{Manifest, OutputClaim};
///
/// let dir = tempfile::tempdir()?;
/// let output = dir.path().join("counts");
/// let claim = OutputClaim::take(&output, "job-1", false)?;
/// let staged = claim.attempt("1")?.join("part");
/// std::fs::write(&staged, "word,count\n")?;
/// assert!(!output.exists());
///
/// claim.publish(&[(staged, "part-00000.csv".to_owned())], &Manifest::default(), false)?;
/// assert!(output.join("part-00000.csv").exists() && output.join("_SUCCESS").exists());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct OutputClaim {
    output: PathBuf,
    staging: PathBuf,
    overwrite: bool,
    claim: ClaimFile,
    /// It was handed over to a coordinator, and is not given up when this is dropped.
    lasting: bool,
}

impl OutputClaim {
    /// Claims an output for a job, and makes its staging directory.
    ///
    /// Refuses an output that exists, unless it may be overwritten; one that another live run claims;
    /// and one that lies in such an output or around it. Directories above the output are created.
    /// `job` must be unique among runs, as it names the staging directory.
    pub fn take(output: &Path, job: &str, overwrite: bool) -> Result<Self, PublishError> {
        Self::take_as(output, job, job, overwrite)
    }

    /// Claims an output under a name for the claim file that may say more than the job.
    fn take_as(output: &Path, job: &str, name: &str, overwrite: bool) -> Result<Self, PublishError> {
        if job.is_empty() || job == "claim" || !job.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)) {
            return Err(PublishError::Name { name: job.to_owned() });
        }
        let output = resolve(output)?;
        let (claim, left_by) = ClaimFile::take(&claim_path(&output), &output)?;
        if let Some(dead) = left_by {
            sweep(&staging_path(&output, &dead), &output)?;
        }
        // From here on, any refusal drops the claim again.
        let taken = Self { staging: staging_path(&output, job), output, overwrite, claim, lasting: false };
        claim::refuse_claims_around(&taken.output)?;
        taken.refuse_what_stands_there()?;
        taken.claim.sign(name)?;
        let attempts = taken.staging.join("attempts");
        fs::create_dir_all(&attempts).map_err(PublishError::io("create", &attempts))?;
        Ok(taken)
    }

    fn refuse_what_stands_there(&self) -> Result<(), PublishError> {
        let invalid = |reason| Err(PublishError::Invalid { path: self.output.clone(), reason });
        let there = match fs::symlink_metadata(&self.output) {
            Ok(there) => there,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(PublishError::io("look at", &self.output)(error)),
        };
        if !self.overwrite {
            return Err(PublishError::Exists { path: self.output.clone() });
        }
        if !there.is_dir() {
            return invalid("what stands there is no directory, and only those are overwritten");
        }
        let parent = parent_of(&self.output);
        let beside = fs::metadata(parent).map_err(PublishError::io("look at", parent))?;
        if there.dev() != beside.dev() {
            return invalid("another file system is mounted there, so that it cannot be replaced at once");
        }
        claim::refuse_claims_inside(&self.output)
    }

    /// Returns where the output will be, as an absolute path.
    pub fn output(&self) -> &Path {
        &self.output
    }

    /// Returns the staging directory. Everything in it is gone when the run is over.
    pub fn staging(&self) -> &Path {
        &self.staging
    }

    /// Makes the directory of an attempt, in staging.
    pub fn attempt(&self, name: &str) -> Result<PathBuf, PublishError> {
        let attempt = self.staging.join("attempts").join(name);
        fs::create_dir(&attempt).map_err(PublishError::io("create", &attempt))?;
        Ok(attempt)
    }

    /// Makes staged files visible as the output, together with the manifest, by one rename.
    ///
    /// Each file comes with its name in the output, which may lie in a subdirectory. A durable output
    /// is on the disk when this returns, provided its files were. Where the file system cannot exchange
    /// two directories, an output that is overwritten is missing for the moment between two renames;
    /// the answer says so. An error means that the output is as it was.
    pub fn publish(self, files: &[(PathBuf, String)], manifest: &Manifest, durable: bool) -> Result<Published, PublishError> {
        assemble(&self.staging, files, manifest, durable)?;
        let replaced = reveal(&self.staging, &self.output, self.overwrite, durable)?;
        // The output is out. Whatever cannot be tidied up is no reason to call it failed.
        Ok(Published { replaced, left_behind: self.tidy().err() })
    }

    /// Gives the claim up and removes what was staged, like dropping it, but tells what went wrong.
    pub fn abandon(self) -> Result<(), PublishError> {
        self.tidy()
    }

    /// A claim whose staging cannot be removed stays, unlocked: the next run tries again.
    fn tidy(&self) -> Result<(), PublishError> {
        sweep(&self.staging, &self.output)?;
        self.claim.remove()
    }
}

impl Drop for OutputClaim {
    fn drop(&mut self) {
        if !self.lasting {
            // There is nobody to tell, and the next run on this output finds the claim and tries again.
            let _ = self.tidy();
        }
    }
}

/// The one absolute name of an output. Everything above it is created, as far as it is missing.
fn resolve(output: &Path) -> Result<PathBuf, PublishError> {
    let invalid = |reason| PublishError::Invalid { path: output.to_owned(), reason };
    let absolute = std::path::absolute(output).map_err(PublishError::io("find", output))?;
    let Some(Component::Normal(name)) = absolute.components().next_back() else {
        return Err(invalid("it has no name of its own"));
    };
    let parent = parent_of(&absolute);
    // A directory that is created where a live run will publish would keep it from doing so.
    if let Some((above, canonical)) = parent.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?))) {
        let below = absolute.strip_prefix(above).expect("it is one of the directories above");
        claim::refuse_claims_around(&canonical.join(below))?;
    }
    fs::create_dir_all(parent).map_err(PublishError::io("create", parent))?;
    let parent = parent.canonicalize().map_err(PublishError::io("find", parent))?;
    Ok(parent.join(name))
}

fn parent_of(output: &Path) -> &Path {
    output.parent().expect("a path with a name has a parent")
}

/// `DIR/.NAME.shardmill-WHAT` for the output `DIR/NAME`.
fn beside(output: &Path, what: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(output.file_name().unwrap_or(OsStr::new("")));
    name.push(".shardmill-");
    name.push(what);
    output.with_file_name(name)
}

fn claim_path(output: &Path) -> PathBuf {
    beside(output, "claim")
}

fn staging_path(output: &Path, job: &str) -> PathBuf {
    beside(output, job)
}

#[cfg(test)]
mod lasting_tests;
#[cfg(test)]
mod tests;
