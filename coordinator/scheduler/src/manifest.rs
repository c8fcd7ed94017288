//! What other parts of the cluster read of accepted attempts: a reduce attempt its sources, publishing its manifest.

use shardmill_protocol::task::{MapOutput, Part, PlanFacts, SetAside, Tally, TaskKind};
use shardmill_protocol::{AttemptId, Digest, Input, JobId, SessionId, WorkerId};

use crate::job::{Job, Stage};
use crate::scheduler::Scheduler;
use crate::work::Gave;

/// What a reduce attempt reads.
#[derive(Debug)]
pub struct Sources<'a> {
    job: &'a Job,
    list: Digest,
}

impl<'a> Sources<'a> {
    /// The digest of the list.
    pub fn list(&self) -> Digest {
        self.list
    }

    /// The map outputs in the order of their shards, with their holders; nothing while one of them is being mapped again.
    pub fn outputs(&self) -> Option<impl Iterator<Item = (MapOutput, WorkerId)> + use<'a>> {
        let whole = self.job.works[&TaskKind::Map].is_complete();
        let id = self.job.id();
        whole.then(|| {
            self.job
                .outputs()
                .map(move |(shards, index, accepted)| (MapOutput { shards, attempt: accepted.attempt(id), index }, accepted.worker))
        })
    }
}

/// What publishing needs to know of a job whose partitions are all done.
#[derive(Debug)]
pub struct Manifest<'a> {
    /// The parts in the order of their partitions, each with the attempt in whose directory it lies.
    pub parts: Vec<(AttemptId, &'a Part)>,
    /// The files with records that were set aside, in the order of their shards, each with how many it holds.
    pub quarantine: Vec<(Input, u64)>,
    /// Records that were left out as they brought job processes down; they are in the files as well.
    pub set_aside: Vec<SetAside>,
    /// Sums over accepted attempts.
    pub tally: &'a Tally,
    /// The plan.
    pub plan: Input,
    /// What the plan says.
    pub facts: &'a PlanFacts,
    /// The digest of the manifest, once it is committed.
    pub committed: Option<Digest>,
}

impl Scheduler {
    /// What a reduce attempt reads that lives in this session.
    pub fn sources(&self, session: SessionId, attempt: AttemptId) -> Option<Sources<'_>> {
        let job = self.jobs.get(&attempt.job)?;
        let live = job.live.get(&attempt).filter(|live| live.session == session && live.task.kind() == TaskKind::Reduce);
        live.and(job.list).map(|list| Sources { job, list })
    }

    /// What publishing needs, once all partitions are done and until the job has ended.
    pub fn manifest(&self, job: JobId) -> Option<Manifest<'_>> {
        let job = self.jobs.get(&job)?;
        let committed = match &job.stage {
            Stage::Assembling => None,
            Stage::Committed(digest) => Some(*digest),
            Stage::Working | Stage::Ended(_) => return None,
        };
        let reduced = job.works.get(&TaskKind::Reduce)?.done.values();
        let parts = reduced.flat_map(|accepted| match &accepted.gave {
            Gave::Parts(parts) => parts.iter().map(|part| (accepted.attempt(job.id()), part)).collect(),
            Gave::File(_) | Gave::Plan(_) | Gave::Output { .. } => Vec::new(),
        });
        let quarantine = job.outputs().filter_map(|(_, _, accepted)| match &accepted.gave {
            Gave::Output { quarantine: Some(file), .. } => {
                Some((Input { attempt: accepted.attempt(job.id()), name: "quarantine".to_owned(), digest: file.1 }, file.0))
            }
            Gave::Output { quarantine: None, .. } | Gave::File(_) | Gave::Plan(_) | Gave::Parts(_) => None,
        });
        Some(Manifest {
            parts: parts.collect(),
            quarantine: quarantine.collect(),
            set_aside: job.set_aside.iter().copied().collect(),
            tally: &job.tally,
            plan: job.inputs(TaskKind::Map).pop()?,
            facts: job.plan.as_ref()?,
            committed,
        })
    }
}
