//! Facts: what is journaled. The state after a restart is what replaying them gives.
//!
//! A fact is on the disk before anybody is told of it. Replaying is idempotent: a fact that is known changes nothing.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use shardmill_protocol::fault::Failure;
use shardmill_protocol::task::{SetAside, Task};
use shardmill_protocol::{AttemptId, Digest, Epoch, JobId, Outcome, WorkerId};

use crate::event::Submission;

/// Something that has happened, once and for all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fact {
    /// A coordinator has started.
    Epoch(Epoch),
    /// A worker has registered for the first time.
    WorkerKnown(WorkerId),
    /// A worker has left or was lost, and is not waited for after a restart.
    WorkerForgotten(WorkerId),
    /// A job is accepted.
    Submitted(Submission),
    /// An attempt is accepted: its range is done.
    Done {
        /// The attempt.
        attempt: AttemptId,
        /// Who ran it.
        worker: WorkerId,
        /// Its task.
        task: Task,
        /// What it gave, without the bytes for each partition: those are an estimate's business and are not journaled.
        outcome: Outcome,
        /// How long it took.
        elapsed_ms: u64,
    },
    /// Shards or partitions were charged for a failure.
    Charged {
        /// The job.
        job: JobId,
        /// The phase.
        task: Task,
        /// Who is charged.
        units: Vec<u32>,
        /// Why; for the failure card.
        failure: Failure,
    },
    /// Records that have brought job processes down are left out from now on.
    SetAside {
        /// The job.
        job: JobId,
        /// The records.
        records: Vec<SetAside>,
    },
    /// The output of an accepted map attempt is lost.
    OutputLost {
        /// The attempt.
        attempt: AttemptId,
        /// Its shards.
        shards: Range<u32>,
        /// Its worker has it, and it is not what was sealed.
        damaged: bool,
    },
    /// The job will be published, with this manifest. There is no way back.
    CommitBegun {
        /// The job.
        job: JobId,
        /// The digest of the whole manifest.
        manifest: Digest,
    },
    /// How the job ended.
    Ended {
        /// The job.
        job: JobId,
        /// How.
        ending: Ending,
    },
    /// Nothing of the job is left in staging.
    Swept {
        /// The job.
        job: JobId,
    },
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// Its output is visible.
    Succeeded,
    /// It failed.
    Failed(Box<Failed>),
    /// It was cancelled.
    Cancelled,
}

/// Why a job failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failed {
    /// An attempt failed in a way that ends the job.
    Attempt {
        /// Its task.
        task: Task,
        /// The attempt.
        attempt: AttemptId,
        /// Where it ran.
        worker: WorkerId,
        /// How often it was tried.
        attempts: u32,
        /// Why.
        failure: Failure,
    },
    /// A range that was mapped again has given something else.
    NotDeterministic {
        /// The range.
        shards: Range<u32>,
        /// The index digest that was accepted first.
        first: Digest,
        /// The one that came now.
        second: Digest,
    },
    /// Workers were lost whenever a shard or partition ran.
    Poison {
        /// The task.
        task: Task,
        /// The workers that were lost.
        workers: Vec<WorkerId>,
    },
    /// More attempts than a job may have.
    TooManyAttempts {
        /// How many there were beyond the first ones.
        attempts: u64,
        /// The last failure.
        last: Failure,
    },
    /// More records were set aside than the job allows.
    TooManyBadRecords {
        /// How many.
        records: u64,
        /// How many were allowed.
        limit: u64,
    },
    /// No worker can ever run it: the least memory for a thread is more than any has.
    TooLittleMemory {
        /// What would do.
        needed_bytes: u64,
    },
    /// A file in staging is gone or damaged.
    Staging {
        /// What was seen.
        cause: String,
    },
    /// The output cannot be made visible.
    Publish {
        /// What the system said.
        cause: String,
    },
    /// The output of a range was damaged each time it was mapped.
    OutputDamaged {
        /// The last attempt that has made it.
        output: AttemptId,
        /// The range.
        shards: Range<u32>,
        /// The workers that had it, one for each time.
        workers: Vec<WorkerId>,
    },
}
