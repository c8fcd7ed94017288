//! A claim that outlives the process that made it: that of a job of a coordinator.
//!
//! Nothing is locked while the job runs, and nobody takes the claim over: it is over when the coordinator that it names
//! releases it.

use std::path::{Path, PathBuf};

use super::claim::{self, ClaimFile};
use super::publish::restore;
use super::{OutputClaim, PublishError, claim_path, staging_path, sweep};

/// A coordinator's claim on an output's name, and the staging directory that belongs to it.
///
/// ```
/// use shardmill_datasets::{LastingClaim, OutputClaim};
///
/// let dir = tempfile::tempdir()?;
/// let output = dir.path().join("counts");
/// let claim = LastingClaim::take(&output, "job-1", "main", false)?;
/// assert!(OutputClaim::take(&output, "run-1", false).is_err());
/// claim.release(false)?;
/// assert!(OutputClaim::take(&output, "run-1", false).is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastingClaim {
    job: String,
    output: PathBuf,
    staging: PathBuf,
}

impl LastingClaim {
    /// Claims an output for a job, under the rules of [`OutputClaim::take`], and puts the claim on the disk.
    pub fn take(output: &Path, job: &str, coordinator: &str, overwrite: bool) -> Result<Self, PublishError> {
        let mut taken = OutputClaim::take_as(output, job, &claim::lasting_name(job, coordinator), overwrite)?;
        taken.claim.sync()?;
        taken.lasting = true;
        Ok(Self { job: job.to_owned(), output: taken.output.clone(), staging: taken.staging.clone() })
    }

    /// The claim that a job has taken earlier on this output, whose path is the one that [`output`](Self::output) gave.
    pub fn taken(output: &Path, job: &str) -> Self {
        Self { job: job.to_owned(), output: output.to_owned(), staging: staging_path(output, job) }
    }

    /// Returns where the output will be, as an absolute path.
    pub fn output(&self) -> &Path {
        &self.output
    }

    /// Returns the staging directory.
    pub fn staging(&self) -> &Path {
        &self.staging
    }

    /// Gives the claim up and removes what was staged, unless that is to be looked at. May be repeated.
    pub fn release(&self, keep_staging: bool) -> Result<(), PublishError> {
        // Staging goes first: while the claim stands, nobody else puts an output there.
        if keep_staging {
            restore(&self.staging, &self.output)?;
        } else {
            sweep(&self.staging, &self.output)?;
        }
        match ClaimFile::find(&claim_path(&self.output), |name| claim::is_of_job(name, &self.job))? {
            Some(claim) => claim.remove(),
            None => Ok(()),
        }
    }
}
