//! Events: all that the scheduler is ever told.
//!
//! An event that is a question carries a [`ReplyId`] of the shell's choice; sooner or later exactly one
//! [`Action::Answer`](crate::Action::Answer) carries it back, unless the shell says that nobody waits any more
//! ([`Event::PollClosed`]). Principals are checked by the shell before an event is made.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shardmill_protocol::process::Progress;
use shardmill_protocol::{AttemptId, Digest, Failure, Fence, JobId, Outcome, SessionId, WorkerId};

/// A question that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplyId(pub u64);

/// Time since the process began, on a clock that only goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tick(pub Duration);

/// A job as it is submitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submission {
    /// Its id.
    pub job: JobId,
    /// The client's own key: a submission with a key that is known is the same job.
    pub key: String,
    /// Where the output will be: absolute and canonical, as the shell has claimed it.
    pub output: String,
    /// How many records may be set aside.
    pub max_bad_records: u64,
    /// What the shell needs to know of the job; opaque here.
    pub spec: Vec<u8>,
}

/// What a worker is, and what it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registration {
    /// Its threads.
    pub threads: u32,
    /// Its memory.
    pub memory_bytes: u64,
    /// The session that it had in this epoch, if it comes back within its lease.
    pub resumes: Option<SessionId>,
    /// Attempts that are running, or sealed and not yet answered.
    pub attempts: Vec<HeldAttempt>,
    /// Sealed map outputs that it keeps.
    pub outputs: Vec<HeldOutput>,
}

impl Registration {
    /// The outputs whose attempts are over. A worker keeps what an attempt has sealed before it is told whether that counts: until then
    /// the output has the attempt's fate.
    pub(crate) fn outputs_alone(&self) -> impl Iterator<Item = AttemptId> {
        let attempts: BTreeSet<AttemptId> = self.attempts.iter().map(|held| held.attempt).collect();
        self.outputs.iter().map(|held| held.attempt).filter(move |output| !attempts.contains(output))
    }
}

/// An attempt that a worker still has when it registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldAttempt {
    /// Its id.
    pub attempt: AttemptId,
    /// What it is at.
    pub task: shardmill_protocol::Task,
    /// The threads that it was granted.
    pub threads: u32,
    /// The memory that it was granted.
    pub memory_bytes: u64,
}

/// A map output that a worker still has when it registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldOutput {
    /// The attempt that made it.
    pub attempt: AttemptId,
    /// The shards that it was made from.
    pub shards: Range<u32>,
    /// The digest of its index.
    pub index: Digest,
}

/// How a publishing ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PublishResult {
    /// The output is visible.
    Published,
    /// It cannot be made visible; staging is kept.
    Failed {
        /// What the system said.
        cause: String,
    },
}

/// All that can happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A client submits a job whose output the shell has claimed. Answered when it is journaled, and not before.
    Submit {
        /// Who waits.
        reply: ReplyId,
        /// The job.
        submission: Submission,
    },
    /// A client cancels a job.
    Cancel {
        /// Who waits.
        reply: ReplyId,
        /// The job.
        job: JobId,
    },
    /// A worker registers.
    Register {
        /// Who waits.
        reply: ReplyId,
        /// The worker.
        worker: WorkerId,
        /// What it is and has.
        registration: Registration,
    },
    /// A worker says that it lives, and what it is at.
    Heartbeat {
        /// Who waits.
        reply: ReplyId,
        /// Its session.
        session: SessionId,
        /// The attempts that it holds, with how far they are.
        attempts: Vec<(AttemptId, Progress)>,
    },
    /// A worker asks for its grant number `number` of this session: a long poll. The same number gets the same grant.
    NextTask {
        /// Who waits.
        reply: ReplyId,
        /// Its session.
        session: SessionId,
        /// The grant that it wants, counted from zero.
        number: u64,
        /// It wants the grant only to fetch ahead: it is busy, and would run it next.
        ahead: bool,
    },
    /// Nobody waits for this reply any more.
    PollClosed {
        /// The reply.
        reply: ReplyId,
    },
    /// A worker reports how an attempt ended.
    Report {
        /// Who waits.
        reply: ReplyId,
        /// Who reports. A report of a session that has ended may still be that of an accepted attempt.
        session: SessionId,
        /// The attempt.
        attempt: AttemptId,
        /// What it was granted under.
        fence: Fence,
        /// How it ended.
        result: Result<Outcome, Failure>,
    },
    /// A reduce attempt could not fetch a map output; it goes on trying.
    FetchTrouble {
        /// The session that could not.
        session: SessionId,
        /// The output's attempt.
        output: AttemptId,
        /// Its content was there and wrong.
        damaged: bool,
    },
    /// A worker shall take no more tasks.
    Drain {
        /// Who waits.
        reply: ReplyId,
        /// The worker.
        worker: WorkerId,
    },
    /// A worker leaves now; its map outputs go with it.
    Leave {
        /// Who waits.
        reply: ReplyId,
        /// Its session.
        session: SessionId,
    },
    /// All facts up to this number, from [`Action::Journal`](crate::Action::Journal), are on the disk.
    Synced {
        /// The number.
        fact: u64,
    },
    /// The shell has read the `weights` file that [`Action::ReadWeights`](crate::Action::ReadWeights) named.
    Weights {
        /// The job.
        job: JobId,
        /// The bytes of every shard; nothing if the file cannot be read or is damaged.
        shard_bytes: Option<Vec<u64>>,
    },
    /// The shell has put the manifest together, as [`Action::Assemble`](crate::Action::Assemble) asked.
    Assembled {
        /// The job.
        job: JobId,
        /// The manifest's digest.
        manifest: Result<Digest, String>,
    },
    /// The shell is through with publishing, as [`Action::Reveal`](crate::Action::Reveal) asked.
    Revealed {
        /// The job.
        job: JobId,
        /// How it ended.
        result: PublishResult,
    },
    /// Staging and claim of a job are gone, as [`Action::Sweep`](crate::Action::Sweep) asked.
    Swept {
        /// The job.
        job: JobId,
    },
    /// Time has passed.
    Tick,
}
