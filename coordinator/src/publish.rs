//! Publishing: from accepted attempts to a visible output.
//!
//! Owns what a coordinator does in the output's directory: the claim, the manifest, and the steps of
//! [`shardmill_datasets::output`] in the order in which they may be repeated after any crash. When each is due is the scheduler's
//! business. Everything here works on files, maybe slow or remote ones, and is called off the async threads.
//!
//! ```text
//! STATE/claims/JOB              the output that JOB claims: written before the claim is made, so that none is ever forgotten
//! STAGING/attempts/…            what accepted attempts have left
//! STAGING/quarantine            all records set aside, in input order; linked as _quarantine/records.jsonl
//! STAGING/final/                the output, put together
//! STAGING/revealing             the inode of final/: an output directory that has it is this job's
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use shardmill_datasets::manifest::{self, MANIFEST_NAME, ManifestInput, ManifestPart, SetAside};
use shardmill_datasets::output::{assemble, is_published, reveal};
use shardmill_datasets::{LastingClaim, Manifest, PublishError, Replaced};
use shardmill_protocol::rpc::api::{JobSpec, Program};
use shardmill_protocol::task::Part;
use shardmill_protocol::{AttemptId, Digest, Input, JobId};

use crate::fault_point::{FaultPoint, Place};

/// Why an output cannot be published.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AssembleError {
    /// The job is not whole.
    #[error("{0}")]
    Incomplete(String),
    /// A staged file is not what its attempt reported.
    #[error("{} is not what was written there", path.display())]
    Damaged { path: PathBuf },
    /// A staged file cannot be used.
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// A step failed.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

impl AssembleError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// A job with its output, as far as publishing goes.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) job: JobId,
    /// The output, as it was claimed.
    pub(crate) output: PathBuf,
    pub(crate) spec: JobSpec,
}

impl Target {
    fn claim(&self) -> LastingClaim {
        LastingClaim::taken(&self.output, &self.job.to_string())
    }

    /// The executable that it runs, if that was uploaded.
    pub(crate) fn artifact(&self) -> Option<Digest> {
        match &self.spec.program {
            Program::Artifact { digest, .. } => Some(*digest),
            Program::Bundled(_) => None,
        }
    }

    /// The staging directory beside the output.
    pub(crate) fn staging(&self) -> PathBuf {
        self.claim().staging().to_owned()
    }
}

/// Makes outputs visible.
#[derive(Clone, Debug)]
pub(crate) struct Publisher {
    claims: PathBuf,
    coordinator: String,
    fault_point: FaultPoint,
}

impl Publisher {
    /// `claims` is an existing directory, `coordinator` the name under which outputs are claimed.
    pub(crate) fn new(claims: PathBuf, coordinator: String, fault_point: FaultPoint) -> Self {
        Self { claims, coordinator, fault_point }
    }

    fn note(&self, job: JobId) -> PathBuf {
        self.claims.join(job.to_string())
    }

    /// Claims a job's output, and returns its one absolute name.
    pub(crate) fn claim(&self, job: JobId, spec: &JobSpec) -> Result<PathBuf, AssembleError> {
        let note = self.note(job);
        self.write_note(&note, &spec.output).map_err(AssembleError::io("write", &note))?;
        match LastingClaim::take(&spec.output, &job.to_string(), &self.coordinator, spec.overwrite) {
            Ok(claim) => {
                self.fault_point.reach(Place::Claimed);
                Ok(claim.output().to_owned())
            }
            Err(error) => {
                let _ = fs::remove_file(&note);
                Err(error.into())
            }
        }
    }

    /// The claim is put on the disk, so what tells of it is, too.
    fn write_note(&self, note: &Path, output: &Path) -> io::Result<()> {
        let mut file = File::create(note)?;
        file.write_all(output.as_os_str().as_bytes())?;
        file.sync_all()?;
        File::open(&self.claims)?.sync_all()
    }

    /// Gives up what was claimed for jobs that are no longer live, or never were: their submission did not get as far as the
    /// journal. What cannot be given up now is tried again at the next start.
    pub(crate) fn give_up_all_but(&self, live: &BTreeSet<JobId>) -> io::Result<()> {
        for entry in fs::read_dir(&self.claims)? {
            let note = entry?;
            let Ok(job) = note.file_name().to_string_lossy().parse::<JobId>() else { continue };
            if live.contains(&job) {
                continue;
            }
            let output = PathBuf::from(OsStr::from_bytes(&fs::read(note.path())?));
            // A note that is not whole was never followed by a claim.
            let released = if output.is_absolute() {
                self.release(job, &output, false)
            } else {
                fs::remove_file(note.path()).map_err(AssembleError::io("remove", &note.path()))
            };
            match released {
                Ok(()) => tracing::info!(%job, output = %output.display(), "claim given up"),
                Err(error) => tracing::warn!(%job, output = %output.display(), error = chain(&error), "claim cannot be given up"),
            }
        }
        Ok(())
    }

    /// Gives a claim up.
    pub(crate) fn release(&self, job: JobId, output: &Path, keep_staging: bool) -> Result<(), AssembleError> {
        LastingClaim::taken(output, &job.to_string()).release(keep_staging)?;
        self.fault_point.reach(Place::Swept);
        let note = self.note(job);
        match fs::remove_file(&note) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(AssembleError::io("remove", &note)(error)),
            _ => Ok(()),
        }
    }

    /// Removes what an attempt has staged.
    pub(crate) fn discard(&self, target: &Target, attempt: AttemptId) -> Result<(), AssembleError> {
        let directory = target.staging().join("attempts").join(attempt.directory());
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(AssembleError::io("remove", &directory)(error)),
            _ => Ok(()),
        }
    }

    /// Removes staging and claim.
    pub(crate) fn sweep(&self, target: &Target, keep_staging: bool) -> Result<(), AssembleError> {
        self.release(target.job, &target.output, keep_staging)
    }

    /// Puts the output together in staging, and returns the digest of its manifest: the same, however often it is done.
    pub(crate) fn assemble(&self, target: &Target, accepted: &Accepted) -> Result<Digest, AssembleError> {
        let staging = target.staging();
        let mut files = accepted.files(&staging)?;
        let (bad_records, set_aside) = gather_quarantine(target, accepted, &mut files)?;
        let manifest = Manifest {
            job: target.spec.name.clone(),
            version: target.spec.version.clone(),
            executable_digest: target.artifact().map(|digest| manifest::Digest(digest.0)),
            inputs: accepted.inputs(&staging)?,
            parts: accepted.parts.iter().map(|(_, part)| manifest_part(part)).collect(),
            counters: accepted.counters.clone(),
            bad_records,
            set_aside,
        };
        self.fault_point.reach(Place::Assembling);
        let linking = files.iter().inspect(|_| self.fault_point.reach(Place::Linking));
        assemble(&staging, linking, &manifest, target.spec.durable)?;
        self.fault_point.reach(Place::Assembled);
        Ok(Digest(manifest.digest().0))
    }

    /// Makes the output visible, unless that was done by an earlier try.
    pub(crate) fn reveal(&self, target: &Target, accepted: &Accepted) -> Result<Replaced, AssembleError> {
        let manifest = accepted.committed.ok_or_else(|| AssembleError::Incomplete("its manifest is not committed".to_owned()))?;
        let staging = target.staging();
        let (assembled, output) = (staging.join("final"), &target.output);
        let manifest = manifest::Digest(manifest.0);
        let noted = staging.join("revealing");
        // The digest alone would not do: the output to be replaced may come from the same job over the same input.
        let is_revealed = fs::read(&noted).is_ok_and(|noted| inode(output).is_some_and(|inode| noted == inode.to_le_bytes()));
        if is_revealed && is_published(output, manifest) {
            return Ok(Replaced::Nothing);
        }
        if !is_published(&assembled, manifest) {
            // The machine has died since it was put together, and not all of it had reached the disk.
            let again = self.assemble(target, accepted)?;
            if again.0 != manifest.0 {
                return Err(AssembleError::Damaged { path: assembled.join(MANIFEST_NAME) });
            }
        }
        let inode = inode(&assembled).ok_or_else(|| AssembleError::Damaged { path: assembled.clone() })?;
        let note = || -> io::Result<()> {
            let mut file = File::create(&noted)?;
            file.write_all(&inode.to_le_bytes())?;
            if target.spec.durable { file.sync_all() } else { Ok(()) }
        };
        note().map_err(AssembleError::io("write", &noted))?;
        self.fault_point.reach(Place::Revealing);
        let replaced = reveal(&staging, output, target.spec.overwrite, target.spec.durable)?;
        self.fault_point.reach(Place::Revealed);
        Ok(replaced)
    }
}

/// What has been accepted of a job whose partitions are all done.
#[derive(Clone, Debug)]
pub(crate) struct Accepted {
    /// The plan's file.
    plan: Input,
    /// How many partitions it has.
    partitions: u32,
    /// By partition, each with the attempt that wrote it.
    parts: Vec<(AttemptId, Part)>,
    /// The files of records that were set aside, in the order of the input, with how many there are in each.
    quarantines: Vec<(Input, u64)>,
    counters: BTreeMap<String, u64>,
    /// The digest of the manifest, once that is journaled.
    committed: Option<Digest>,
}

impl From<shardmill_scheduler::Manifest<'_>> for Accepted {
    fn from(manifest: shardmill_scheduler::Manifest<'_>) -> Self {
        Self {
            plan: manifest.plan,
            partitions: manifest.facts.partitions,
            parts: manifest.parts.into_iter().map(|(attempt, part)| (attempt, part.clone())).collect(),
            quarantines: manifest.quarantine,
            counters: manifest.tally.counters.clone(),
            committed: manifest.committed,
        }
    }
}

impl Accepted {
    /// The staged parts, with their names in the output. Their bytes were digested as they were written and are not read again.
    fn files(&self, staging: &Path) -> Result<Vec<(PathBuf, String)>, AssembleError> {
        if self.parts.len() != self.partitions as usize {
            return Err(AssembleError::Incomplete(format!("{} parts are there of {}", self.parts.len(), self.partitions)));
        }
        let staged = |(attempt, part): &(AttemptId, Part)| {
            let path = staging.join("attempts").join(attempt.directory()).join(&part.name);
            // Without links, an earlier try has moved it.
            let there = [&path, &staging.join("final").join(&part.name)].into_iter().find_map(|path| fs::symlink_metadata(path).ok());
            match there {
                Some(file) if file.is_file() && file.len() == part.bytes => Ok((path, part.name.clone())),
                _ => Err(AssembleError::Damaged { path }),
            }
        };
        self.parts.iter().map(staged).collect()
    }

    /// The input files: what the file `plan` begins with.
    fn inputs(&self, staging: &Path) -> Result<Vec<ManifestInput>, AssembleError> {
        let bytes = read_staged(staging, &self.plan)?;
        let damaged = |_| AssembleError::Damaged { path: staged(staging, &self.plan) };
        postcard::take_from_bytes(&bytes).map(|(inputs, _)| inputs).map_err(damaged)
    }
}

/// Puts the records that were set aside into one file, as a local run does, and returns what the manifest says of them.
fn gather_quarantine(
    target: &Target,
    accepted: &Accepted,
    files: &mut Vec<(PathBuf, String)>,
) -> Result<(u64, Vec<SetAside>), AssembleError> {
    if accepted.quarantines.is_empty() {
        return Ok((0, vec![]));
    }
    let staging = target.staging();
    let path = staging.join("quarantine");
    // Written in place: an earlier try may have linked it into the output already.
    let mut all = File::create(&path).map_err(AssembleError::io("create", &path))?;
    for (file, _) in &accepted.quarantines {
        // There may be gigabytes: they are read twice, and never held.
        let from = staged(&staging, file);
        let mut lines = File::open(&from).map_err(AssembleError::io("read", &from))?;
        if Digest::read(&lines).map_err(AssembleError::io("read", &from))? != file.digest {
            return Err(AssembleError::Damaged { path: from });
        }
        lines.rewind().map_err(AssembleError::io("read", &from))?;
        io::copy(&mut lines, &mut all).map_err(AssembleError::io("write", &path))?;
    }
    if target.spec.durable {
        all.sync_all().map_err(AssembleError::io("sync", &path))?;
    }
    let listed = SetAside::first_of(&path).map_err(AssembleError::io("read", &path))?;
    files.push((path, "_quarantine/records.jsonl".to_owned()));
    Ok((accepted.quarantines.iter().map(|(_, records)| records).sum(), listed))
}

fn manifest_part(part: &Part) -> ManifestPart {
    ManifestPart { name: part.name.clone(), records: part.records, bytes: part.bytes, digest: manifest::Digest(part.digest.0) }
}

fn staged(staging: &Path, file: &Input) -> PathBuf {
    staging.join("attempts").join(file.attempt.directory()).join(&file.name)
}

/// Reads a staged file that has the digest that it should have, or fails.
fn read_staged(staging: &Path, file: &Input) -> Result<Vec<u8>, AssembleError> {
    let path = staged(staging, file);
    let bytes = fs::read(&path).map_err(AssembleError::io("read", &path))?;
    if Digest::of(&bytes) == file.digest { Ok(bytes) } else { Err(AssembleError::Damaged { path }) }
}

/// Reads the `weights` that a plan has left.
pub(crate) fn read_weights(target: &Target, file: &Input) -> Result<Vec<u64>, AssembleError> {
    let staging = target.staging();
    let bytes = read_staged(&staging, file)?;
    shardmill_protocol::task::decode_weights(&bytes).ok_or_else(|| AssembleError::Damaged { path: staged(&staging, file) })
}

fn inode(path: &Path) -> Option<u64> {
    fs::symlink_metadata(path).ok().map(|there| there.ino())
}

/// An error with all that caused it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
