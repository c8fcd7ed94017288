//! Faults: why an attempt ended without a result, decided once, by whoever knows the cause.
//!
//! The enumeration is closed, and what follows hangs on the kind alone: [`Fault::charge`] says whose fault it is, the scheduler
//! what becomes of the task. Text in a fault is for a person to read; nothing is decided by it.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::ids::{AttemptId, WorkerId};

/// Bytes of a bad record that travel with a fault, for the failure card.
pub const RECORD_BEGINNING: usize = 256;
/// Characters of a message that travel with a fault; more is cut.
pub const MESSAGE_CHARACTERS: usize = 4096;

/// The phase of a job in which its code failed outside `map` and `reduce`.
///
/// ```
/// use shardmill_protocol::Phase;
///
/// assert_eq!(Phase::EndShard.to_string(), "end of shard");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The job's `start`.
    Start,
    /// The job's `finish`.
    Finish,
    /// The job's `seed`.
    Seed,
    /// The job's `end_shard`.
    EndShard,
    /// A combiner.
    Combine,
    /// A value's `Serialize`.
    Encode,
    /// A value's `Deserialize`.
    Decode,
    /// The engine itself.
    Engine,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "start",
            Self::Finish => "finish",
            Self::Seed => "seed",
            Self::EndShard => "end of shard",
            Self::Combine => "combine",
            Self::Encode => "encoding a value",
            Self::Decode => "reading values back",
            Self::Engine => "the engine",
        })
    }
}

/// A record that is bad, as it is shown and as it is set aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRecord {
    /// The shard's number in the plan.
    pub shard: u32,
    /// The record's number within the shard.
    pub record: u64,
    /// Where it begins in the file, in bytes of the decompressed content.
    pub offset: u64,
    /// The file.
    #[serde(with = "crate::paths")]
    pub file: PathBuf,
    /// What is wrong with it.
    pub cause: String,
    /// Its first bytes, [`RECORD_BEGINNING`] at most.
    pub beginning: Vec<u8>,
}

/// How a peer broke the protocol between worker and job process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Breach {
    /// It closed the socket.
    Closed,
    /// A frame was longer than allowed.
    Oversized,
    /// A frame could not be decoded.
    Malformed,
    /// A message came that does not belong there.
    Unexpected,
    /// Its version is another one.
    Version,
    /// A file that it reported is not there, or not what it said.
    FalseReport,
}

/// Why a job process could not be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unstartable {
    /// The executable is for another platform.
    Platform,
    /// It needs a newer libc, or a library that is missing.
    Library,
    /// It needs CPU features that this machine lacks.
    Cpu,
    /// The system refuses: no processes, no memory, no permission.
    System,
}

/// Why an attempt ended without a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The job refuses its input or parameters before any work: wrong format, missing column, no memory for the plan.
    #[error("{message}")]
    Refused {
        /// What the job said.
        message: String,
    },
    /// More bad records than the job allows; the first one in the order of the input.
    #[error("record {} of shard {} of {} is bad: {}", .0.record, .0.shard, .0.file.display(), .0.cause)]
    BadRecord(Box<BadRecord>),
    /// `reduce` failed.
    #[error("reduce failed on key {key}: {cause}")]
    ReduceFailed {
        /// The key, shown as text where it is some.
        key: String,
        /// What it said.
        cause: String,
    },
    /// A row cannot be written in the output's format.
    #[error("a row cannot be written to {}: {cause}", path.display())]
    Unwritable {
        /// The part.
        #[serde(with = "crate::paths")]
        path: PathBuf,
        /// What is wrong with the row.
        cause: String,
    },
    /// The job's code outside `map` and `reduce` failed, or the engine.
    #[error("{phase} failed: {cause}")]
    Panicked {
        /// Where.
        phase: Phase,
        /// What it said.
        cause: String,
    },
    /// The job process was ended by a signal.
    #[error("the job process was ended by signal {signal}; it last said: {stderr}")]
    Signalled {
        /// The signal's number.
        signal: i32,
        /// The last lines of its stderr.
        stderr: String,
    },
    /// The job process wanted more memory than there is.
    #[error("the job process ran out of memory: it had {peak_bytes} bytes, {limit_bytes} are allowed")]
    OutOfMemory {
        /// What was allowed.
        limit_bytes: u64,
        /// The most that it had, as far as is known.
        peak_bytes: u64,
    },
    /// Nothing moved for too long.
    #[error("nothing moved for {seconds} s")]
    Stalled {
        /// For how long.
        seconds: u64,
    },
    /// The job process ended by itself without having reported a result.
    #[error("the job process exited with code {code} and no result; it last said: {stderr}")]
    ExitedWithoutResult {
        /// Its exit code.
        code: i32,
        /// The last lines of its stderr.
        stderr: String,
    },
    /// The job process did not speak the protocol.
    #[error("the job process broke the protocol ({breach:?}); it last said: {stderr}")]
    ProtocolBroken {
        /// In which way.
        breach: Breach,
        /// The last lines of its stderr.
        stderr: String,
    },
    /// No space is left where the worker writes.
    #[error("no space left to write {}", path.display())]
    DiskFull {
        /// The file that did not fit.
        #[serde(with = "crate::paths")]
        path: PathBuf,
    },
    /// A file of the worker's own cannot be written or read back.
    #[error("cannot use {}: {cause}", path.display())]
    DiskFailed {
        /// The file.
        #[serde(with = "crate::paths")]
        path: PathBuf,
        /// What went wrong.
        cause: String,
    },
    /// The job process could not be started.
    #[error("the job process cannot be started ({reason:?}): {cause}")]
    SpawnFailed {
        /// What kind of reason.
        reason: Unstartable,
        /// What the system said.
        cause: String,
    },
    /// The executable that was fetched is not the one that was uploaded.
    #[error("the executable does not have the digest that it should have")]
    ArtifactDamaged,
    /// What a worker served does not have the digest that the coordinator knows, twice.
    #[error("worker {worker} serves data with a wrong digest")]
    ServedBadData {
        /// The worker that served it.
        worker: WorkerId,
        /// The map attempt whose output it is.
        output: AttemptId,
    },
    /// An input file is not as it was when the job was planned.
    #[error("{} has changed since the job was planned", path.display())]
    InputChanged {
        /// The file.
        #[serde(with = "crate::paths")]
        path: PathBuf,
    },
    /// An input file cannot be opened.
    #[error("cannot open {}: {cause}", path.display())]
    InputMissing {
        /// The file.
        #[serde(with = "crate::paths")]
        path: PathBuf,
        /// What the system said.
        cause: String,
    },
    /// An input file is not what it should be.
    #[error("{cause}")]
    InputMalformed {
        /// The file.
        #[serde(with = "crate::paths")]
        path: PathBuf,
        /// What is wrong with it, with the place.
        cause: String,
    },
    /// Segments could not be fetched, after all tries.
    #[error("cannot fetch from worker {worker}: {cause}")]
    FetchFailed {
        /// The worker that should have served them.
        worker: WorkerId,
        /// The map attempt whose output it is.
        output: AttemptId,
        /// What was seen last.
        cause: String,
    },
    /// A map output that is read in place is gone or not what it was.
    #[error("the output of attempt {output} is {}", if *damaged { "damaged" } else { "lost" })]
    OutputLost {
        /// The map attempt whose output it was.
        output: AttemptId,
        /// It is there, and not what was sealed.
        damaged: bool,
    },
    /// The worker was not heard of for a lease. Known to the coordinator alone.
    #[error("its worker was lost")]
    WorkerLost,
    /// The job was cancelled or has ended.
    #[error("the job has ended")]
    Cancelled,
    /// The worker is leaving.
    #[error("its worker was drained")]
    Drained,
    /// Another attempt at the same task was accepted first.
    #[error("another attempt was faster")]
    LostRace,
    /// The worker does not see the directory beside the output in which that is made.
    #[error("cannot see {}: coordinator and workers must share the directory of the output", path.display())]
    OutputUnseen {
        /// The directory.
        #[serde(with = "crate::paths")]
        path: PathBuf,
    },
}

/// To whom a fault is charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charge {
    /// The job: it fails at once.
    Job,
    /// The shards or partitions named as suspects, or the whole range until a single one is left.
    Units,
    /// The worker on which it happened.
    Worker,
    /// The worker that has the output of this attempt.
    Holder(AttemptId),
    /// Nobody.
    Nobody,
}

impl Fault {
    /// Whose fault it is.
    pub fn charge(&self) -> Charge {
        match self {
            Self::Refused { .. } | Self::BadRecord(_) | Self::ReduceFailed { .. } | Self::Unwritable { .. } => Charge::Job,
            Self::InputChanged { .. } | Self::InputMalformed { .. } | Self::InputMissing { .. } => Charge::Job,
            Self::Panicked { .. }
            | Self::Signalled { .. }
            | Self::OutOfMemory { .. }
            | Self::Stalled { .. }
            | Self::ExitedWithoutResult { .. }
            | Self::ProtocolBroken { .. } => Charge::Units,
            Self::DiskFull { .. }
            | Self::DiskFailed { .. }
            | Self::SpawnFailed { .. }
            | Self::ArtifactDamaged
            | Self::OutputUnseen { .. } => Charge::Worker,
            Self::ServedBadData { output, .. } => Charge::Holder(*output),
            Self::FetchFailed { .. } | Self::OutputLost { .. } => Charge::Nobody,
            Self::WorkerLost | Self::Cancelled | Self::Drained | Self::LostRace => Charge::Nobody,
        }
    }

    /// The name of the kind, as it is shown in lists and in JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "refused",
            Self::BadRecord(_) => "bad record",
            Self::ReduceFailed { .. } => "reduce failed",
            Self::Unwritable { .. } => "unwritable row",
            Self::Panicked { .. } => "panicked",
            Self::Signalled { .. } => "signalled",
            Self::OutOfMemory { .. } => "out of memory",
            Self::Stalled { .. } => "stalled",
            Self::ExitedWithoutResult { .. } => "exited without result",
            Self::ProtocolBroken { .. } => "protocol broken",
            Self::DiskFull { .. } => "disk full",
            Self::DiskFailed { .. } => "disk failed",
            Self::SpawnFailed { .. } => "spawn failed",
            Self::ArtifactDamaged => "artifact damaged",
            Self::ServedBadData { .. } => "served bad data",
            Self::InputChanged { .. } => "input changed",
            Self::InputMissing { .. } => "input missing",
            Self::InputMalformed { .. } => "input malformed",
            Self::FetchFailed { .. } => "fetch failed",
            Self::OutputLost { .. } => "output lost",
            Self::WorkerLost => "worker lost",
            Self::Cancelled => "cancelled",
            Self::Drained => "drained",
            Self::LostRace => "lost race",
            Self::OutputUnseen { .. } => "output unseen",
        }
    }
}

/// What a thread of a job process was at when it died: it may be to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Suspect {
    /// The shard or partition.
    pub unit: u32,
    /// The record within the shard, or the group within the partition.
    pub record: u64,
    /// Where the record begins in its file; zero in reduce.
    pub offset: u64,
}

/// A failed attempt, as it is reported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Why.
    pub fault: Fault,
    /// What the threads were at, where that is known: from the record slots.
    pub suspects: Box<[Suspect]>,
    /// The files in which the suspects' shards lie, one for each; none in reduce, or where the plan could not be read.
    pub files: Box<[String]>,
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self { fault, suspects: Box::default(), files: Box::default() }
    }
}
