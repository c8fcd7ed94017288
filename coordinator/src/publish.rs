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
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use shardmill_datasets::manifest::{self, MANIFEST_NAME, ManifestInput, ManifestPart, SetAside};
use shardmill_datasets::output::{assemble, is_published, reveal};
use shardmill_datasets::{LastingClaim, Manifest, PublishError, Replaced};
use shardmill_protocol::rpc::api::{JobSpec, Program};
use shardmill_protocol::task::{Part, PlanFacts};
use shardmill_protocol::{AttemptId, Digest, JobId, Outcome, Task};
use shardmill_scheduler::Fact;

use crate::fault_point::{FaultPoint, Place};

/// Why an output cannot be published.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AssembleError {
    /// The facts do not tell of a whole job.
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
    pub(crate) fn claim(&self, job: JobId, spec: &JobSpec, is_live: impl Fn(JobId) -> bool) -> Result<PathBuf, AssembleError> {
        let note = self.note(job);
        fs::write(&note, spec.output.as_os_str().as_bytes()).map_err(AssembleError::io("write", &note))?;
        let has_ended = |holder: &str| holder.parse().is_ok_and(|holder| !is_live(holder));
        match LastingClaim::take(&spec.output, &job.to_string(), &self.coordinator, spec.overwrite, has_ended) {
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
            match self.release(job, &output, false) {
                Ok(()) => tracing::info!(%job, output = %output.display(), "claim given up"),
                Err(error) => tracing::warn!(%job, output = %output.display(), error = chain(&error), "claim cannot be given up"),
            }
        }
        Ok(())
    }

    fn release(&self, job: JobId, output: &Path, keep_staging: bool) -> Result<(), AssembleError> {
        LastingClaim::taken(output, &job.to_string()).release(keep_staging)?;
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
        self.release(target.job, &target.output, keep_staging)?;
        self.fault_point.reach(Place::Swept);
        Ok(())
    }

    /// Puts the output together in staging, and returns the digest of its manifest: the same, however often it is done.
    pub(crate) fn assemble(&self, target: &Target, facts: &[Fact]) -> Result<Digest, AssembleError> {
        let staging = target.staging();
        let accepted = Accepted::of(facts)?;
        let mut files = accepted.parts(&staging)?;
        let set_aside = self.gather_quarantine(target, &accepted, &mut files)?;
        let manifest = Manifest {
            job: target.spec.name.clone(),
            version: target.spec.version.clone(),
            executable_digest: match &target.spec.program {
                Program::Artifact { digest, .. } => Some(manifest::Digest(digest.0)),
                Program::Bundled(_) => None,
            },
            inputs: accepted.inputs(&staging)?,
            parts: accepted.parts.iter().map(|(part, _)| manifest_part(part)).collect(),
            counters: accepted.counters,
            set_aside,
        };
        let linking = files.iter().inspect(|_| self.fault_point.reach(Place::Linking));
        assemble(&staging, linking, &manifest, target.spec.durable)?;
        self.fault_point.reach(Place::Assembled);
        Ok(Digest(manifest.digest().0))
    }

    /// Puts the records that were set aside into one file, as a local run does.
    fn gather_quarantine(
        &self,
        target: &Target,
        accepted: &Accepted,
        files: &mut Vec<(PathBuf, String)>,
    ) -> Result<Vec<SetAside>, AssembleError> {
        if accepted.quarantines.is_empty() {
            return Ok(vec![]);
        }
        let staging = target.staging();
        let path = staging.join("quarantine");
        // Written in place: an earlier try may have linked it into the output already.
        let mut all = File::create(&path).map_err(AssembleError::io("create", &path))?;
        let mut set_aside = vec![];
        for (attempt, digest) in accepted.quarantines.values() {
            let lines = read_staged(&staging, *attempt, "quarantine", *digest)?;
            let records = serde_json::Deserializer::from_slice(&lines).into_iter::<SetAside>();
            for record in records {
                let of = staging.join("attempts").join(attempt.directory()).join("quarantine");
                set_aside.push(record.map_err(|_| AssembleError::Damaged { path: of })?);
            }
            all.write_all(&lines).map_err(AssembleError::io("write", &path))?;
        }
        if target.spec.durable {
            all.sync_all().map_err(AssembleError::io("sync", &path))?;
        }
        files.push((path, "_quarantine/records.jsonl".to_owned()));
        Ok(set_aside)
    }

    /// Makes the output visible, unless that was done by an earlier try.
    pub(crate) fn reveal(&self, target: &Target, manifest: Digest, facts: &[Fact]) -> Result<Replaced, AssembleError> {
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
            let again = self.assemble(target, facts)?;
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

/// What the facts of a job say about its output.
struct Accepted {
    plan: (AttemptId, Digest),
    /// By partition, with the attempt that wrote it.
    parts: Vec<(Part, AttemptId)>,
    /// By the first shard of the range.
    quarantines: BTreeMap<u32, (AttemptId, Digest)>,
    counters: BTreeMap<String, u64>,
}

impl Accepted {
    fn of(facts: &[Fact]) -> Result<Self, AssembleError> {
        let mut plan: Option<(AttemptId, Digest, &PlanFacts)> = None;
        // A range that was lost and mapped again is there twice, and whole both times: the later one counts.
        let mut mapped = BTreeMap::new();
        let mut reduced = BTreeMap::new();
        for fact in facts {
            let Fact::Done { attempt, task, outcome, .. } = fact else { continue };
            match (task, outcome) {
                (Task::Plan, Outcome::Planned { plan: digest, facts, .. }) => plan = Some((*attempt, *digest, facts)),
                (Task::Map(shards), Outcome::Mapped { tally, set_aside, .. }) => {
                    mapped.insert(shards.start, (shards.end, *attempt, tally, *set_aside));
                }
                (Task::Reduce(partitions), Outcome::Reduced { parts, tally, .. }) => {
                    reduced.insert(partitions.start, (partitions.end, *attempt, tally, parts));
                }
                _ => {}
            }
        }
        let incomplete = |what: &str| AssembleError::Incomplete(format!("the journal does not tell of all {what}"));
        let (plan_attempt, digest, facts) = plan.ok_or_else(|| incomplete("phases"))?;
        let ends = mapped.iter().map(|(start, (end, ..))| (*start, *end));
        is_gapless(ends, facts.shards).then_some(()).ok_or_else(|| incomplete("shards"))?;
        let ends = reduced.iter().map(|(start, (end, ..))| (*start, *end));
        is_gapless(ends, facts.partitions).then_some(()).ok_or_else(|| incomplete("partitions"))?;

        let mut counters = BTreeMap::new();
        let tallies = mapped.values().map(|(_, _, tally, _)| tally).chain(reduced.values().map(|(_, _, tally, _)| tally));
        for (name, count) in tallies.flat_map(|tally| &tally.counters) {
            *counters.entry(name.clone()).or_insert(0) += count;
        }
        let quarantines = mapped.iter().filter_map(|(start, (_, attempt, _, set_aside))| Some((*start, (*attempt, set_aside.as_ref()?.1))));
        let parts = reduced.values().flat_map(|(_, attempt, _, parts)| parts.iter().map(|part| (part.clone(), *attempt)));
        let accepted = Self { plan: (plan_attempt, digest), quarantines: quarantines.collect(), parts: parts.collect(), counters };
        if accepted.parts.len() != facts.partitions as usize {
            return Err(incomplete("parts"));
        }
        Ok(accepted)
    }

    /// The staged parts, with their names in the output. Their bytes were digested as they were written and are not read again.
    fn parts(&self, staging: &Path) -> Result<Vec<(PathBuf, String)>, AssembleError> {
        let staged = |(part, attempt): &(Part, AttemptId)| {
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
        let (attempt, digest) = self.plan;
        let bytes = read_staged(staging, attempt, "plan", digest)?;
        let damaged = |_| AssembleError::Damaged { path: staging.join("attempts").join(attempt.directory()).join("plan") };
        postcard::take_from_bytes(&bytes).map(|(inputs, _)| inputs).map_err(damaged)
    }
}

/// Whether ranges, in order, cover `0..end` once.
fn is_gapless(ranges: impl Iterator<Item = (u32, u32)>, end: u32) -> bool {
    let mut covered = Some(0);
    for (start, end) in ranges {
        covered = covered.filter(|covered| *covered == start).map(|_| end);
    }
    covered == Some(end)
}

fn manifest_part(part: &Part) -> ManifestPart {
    ManifestPart { name: part.name.clone(), records: part.records, bytes: part.bytes, digest: manifest::Digest(part.digest.0) }
}

/// Reads a staged file that has this digest, or fails.
fn read_staged(staging: &Path, attempt: AttemptId, name: &str, digest: Digest) -> Result<Vec<u8>, AssembleError> {
    let path = staging.join("attempts").join(attempt.directory()).join(name);
    let bytes = fs::read(&path).map_err(AssembleError::io("read", &path))?;
    if Digest::of(&bytes) == digest { Ok(bytes) } else { Err(AssembleError::Damaged { path }) }
}

/// Reads the `weights` that a plan has left.
pub(crate) fn read_weights(target: &Target, file: &shardmill_protocol::Input) -> Result<Vec<u64>, AssembleError> {
    let bytes = read_staged(&target.staging(), file.attempt, &file.name, file.digest)?;
    let path = || target.staging().join("attempts").join(file.attempt.directory()).join(&file.name);
    shardmill_protocol::task::decode_weights(&bytes).ok_or_else(|| AssembleError::Damaged { path: path() })
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
