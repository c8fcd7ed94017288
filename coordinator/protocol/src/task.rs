//! Tasks: what is granted to a worker, what it is made from, and what it gives.
//!
//! ```text
//! draft ─▶ surveys ─▶ plan ─▶ map ─▶ reduce ─▶ (publish, by the coordinator)
//! ```
//! A task is its kind and its range. *Draft* lists the input and says how many surveys there are; each *survey* looks at a
//! piece of the input's content; *plan* puts their results together. These three leave their results as files in the staging
//! directory beside the output, which all machines see; so does *reduce* with its parts. *Map* leaves its output with the
//! worker, which serves it.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::ids::{AttemptId, Digest, Fence};

/// The most surveys in one task, and partitions in one reduce task: their results travel in one message.
pub const MAX_RANGE: u32 = 1024;

/// A piece of work.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Lists the input. Leaves a file `draft`.
    Draft,
    /// Runs some of the draft's surveys. Leaves a file `surveys`.
    Survey(Range<u32>),
    /// Makes the plan from draft and surveys. Leaves files `plan` and `weights`.
    Plan,
    /// Maps a range of the plan's shards. Leaves `map.run` and `map.index` in the worker's attempt directory.
    Map(Range<u32>),
    /// Reduces a range of partitions. Leaves its parts under the names that the plan gives them.
    Reduce(Range<u32>),
}

/// The phases of a job, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskKind {
    /// See [`Task::Draft`].
    Draft,
    /// See [`Task::Survey`].
    Survey,
    /// See [`Task::Plan`].
    Plan,
    /// See [`Task::Map`].
    Map,
    /// See [`Task::Reduce`].
    Reduce,
}

impl Task {
    /// Its kind.
    pub fn kind(&self) -> TaskKind {
        match self {
            Self::Draft => TaskKind::Draft,
            Self::Survey(_) => TaskKind::Survey,
            Self::Plan => TaskKind::Plan,
            Self::Map(_) => TaskKind::Map,
            Self::Reduce(_) => TaskKind::Reduce,
        }
    }

    /// Its range; draft and plan are one unit.
    pub fn range(&self) -> Range<u32> {
        match self {
            Self::Draft | Self::Plan => 0..1,
            Self::Survey(range) | Self::Map(range) | Self::Reduce(range) => range.clone(),
        }
    }
}

impl std::fmt::Display for TaskKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Draft => "draft",
            Self::Survey => "survey",
            Self::Plan => "plan",
            Self::Map => "map",
            Self::Reduce => "reduce",
        })
    }
}

impl std::fmt::Display for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Draft | Self::Plan => write!(f, "{}", self.kind()),
            Self::Survey(range) | Self::Map(range) | Self::Reduce(range) => write!(f, "{} {}..{}", self.kind(), range.start, range.end),
        }
    }
}

/// A file of an accepted attempt that a task reads, in the staging directory: `attempts/ATTEMPT/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Input {
    /// The accepted attempt that wrote it.
    pub attempt: AttemptId,
    /// The file's name.
    pub name: String,
    /// The digest that it must have.
    pub digest: Digest,
}

/// A record that is left out, as it has brought job processes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SetAside {
    /// The shard.
    pub shard: u32,
    /// The record within it.
    pub record: u64,
}

/// Leave for a worker to try a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// This try.
    pub attempt: AttemptId,
    /// What its report is accepted under.
    pub fence: Fence,
    /// What is to be done.
    pub task: Task,
    /// How many of the worker's threads it may use.
    pub threads: u32,
    /// How much of the worker's memory.
    pub memory_bytes: u64,
    /// The files that it reads: the draft for surveys; draft and surveys, in order, for the plan; the plan for all that follows.
    pub inputs: Vec<Input>,
    /// Records that are left out, in a map task.
    pub set_aside: Vec<SetAside>,
    /// In a reduce task, the digest of the list of map outputs that it reads ([`list_digest`]). The list itself is asked for in pages.
    pub list: Option<Digest>,
}

/// One map output that a reduce task reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapOutput {
    /// The shards that it was made from.
    pub shards: Range<u32>,
    /// The accepted attempt.
    pub attempt: AttemptId,
    /// The digest of its index.
    pub index: Digest,
}

/// The digest of a list of map outputs: over their ranges and index digests, not over who has them.
pub fn list_digest<'a>(outputs: impl IntoIterator<Item = (&'a Range<u32>, &'a Digest)>) -> Digest {
    let mut hasher = blake3::Hasher::new();
    // Hashed by the chunk: entries are small, and there may be a million.
    let mut chunk = Vec::with_capacity(64 << 10);
    for (shards, index) in outputs {
        chunk.extend_from_slice(&shards.start.to_le_bytes());
        chunk.extend_from_slice(&shards.end.to_le_bytes());
        chunk.extend_from_slice(&index.0);
        if chunk.len() >= 63 << 10 {
            hasher.update(&chunk);
            chunk.clear();
        }
    }
    hasher.update(&chunk);
    Digest(*hasher.finalize().as_bytes())
}

/// A part, as its attempt reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The file's name, in the attempt's directory and in the output.
    pub name: String,
    /// Rows or records in it.
    pub records: u64,
    /// Its length.
    pub bytes: u64,
    /// The digest of its bytes.
    pub digest: Digest,
}

/// What an attempt has consumed and made. Sums over accepted attempts are the job's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Input records mapped, bad ones included.
    pub records: u64,
    /// Input bytes read.
    pub bytes: u64,
    /// Groups reduced.
    pub groups: u64,
    /// Bytes spilled to disk.
    pub spilled_bytes: u64,
    /// Runs spilled to disk.
    pub spilled_runs: u64,
    /// The deepest merge.
    pub merge_passes: u64,
    /// The most memory that the job process had so far.
    pub peak_memory_bytes: u64,
    /// The job's own counters.
    pub counters: BTreeMap<String, u64>,
}

/// What a successful attempt gives: small, whatever the size of its data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The input is listed.
    Drafted {
        /// The digest of the file `draft`.
        draft: Digest,
        /// How many surveys are needed.
        surveys: u32,
    },
    /// Surveys are done.
    Surveyed {
        /// The digest of the file `surveys`.
        surveys: Digest,
    },
    /// The plan is made.
    Planned {
        /// The digest of the file `plan`.
        plan: Digest,
        /// The digest of the file `weights`: the bytes of every shard, as [`encode_weights`] has them.
        weights: Digest,
        /// What a person wants to know of it.
        facts: PlanFacts,
    },
    /// A range of shards is mapped and its output sealed.
    Mapped {
        /// The digest of the sealed output's index.
        index: Digest,
        /// Content bytes for each partition.
        partition_bytes: Vec<u64>,
        /// What was consumed.
        tally: Tally,
        /// Records that were set aside: how many, and the digest of the file `quarantine` in the attempt's staging directory.
        set_aside: Option<(u64, Digest)>,
    },
    /// A range of partitions is reduced.
    Reduced {
        /// The digest of the list of map outputs that were read.
        list: Digest,
        /// The parts, one for each partition of the range.
        parts: Vec<Part>,
        /// What was consumed.
        tally: Tally,
    },
}

/// What a plan says, as far as others than the job care.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanFacts {
    /// Input files.
    pub files: u64,
    /// Input bytes.
    pub input_bytes: u64,
    /// Shards.
    pub shards: u32,
    /// Partitions.
    pub partitions: u32,
    /// The least memory that one thread can work in.
    pub thread_memory_bytes: u64,
    /// The plan in words, as `--explain` prints it.
    pub text: String,
}

/// The bytes of a `weights` file: one number for each shard, as little-endian 64-bit words.
pub fn encode_weights(weights: impl IntoIterator<Item = u64>) -> Vec<u8> {
    weights.into_iter().flat_map(u64::to_le_bytes).collect()
}

/// Reads a `weights` file.
pub fn decode_weights(bytes: &[u8]) -> Option<Vec<u64>> {
    let words = bytes.chunks_exact(8);
    let whole = words.remainder().is_empty();
    whole.then(|| words.map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes"))).collect())
}
