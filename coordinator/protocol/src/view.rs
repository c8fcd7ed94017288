//! Views: what clients are shown of jobs, tasks, attempts and workers. The JSON of `--format json` is these types as they stand.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::fault::{Failure, Fault, Suspect};
use crate::ids::{AttemptId, JobId, WorkerId};
use crate::process::Progress;
use crate::task::{PlanFacts, Tally, Task, TaskKind};

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobPhase {
    /// Its input is being listed, surveyed and planned.
    Planning,
    /// Its shards are being mapped. Reduce tasks begin when the last one is done.
    Mapping,
    /// Its partitions are being reduced.
    Reducing,
    /// Its output is being put together and made visible. It cannot be cancelled any more.
    Publishing,
    /// Its output is visible.
    Succeeded,
    /// It has failed.
    Failed,
    /// It was cancelled.
    Cancelled,
}

impl JobPhase {
    /// Whether nothing more will happen to it.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

impl std::fmt::Display for JobPhase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Planning => "planning",
            Self::Mapping => "mapping",
            Self::Reducing => "reducing",
            Self::Publishing => "publishing",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        })
    }
}

/// A job, as small as those who watch it need: one line of `jobs`, the bars of `submit`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStatus {
    /// Its id.
    pub job: JobId,
    /// What it was submitted as.
    pub name: String,
    /// Where the output is or will be.
    pub output: String,
    /// Where it stands.
    pub phase: JobPhase,
    /// How long ago it was submitted, in milliseconds; since it has ended, how long it took.
    pub elapsed_ms: u64,
    /// Goes up with every change, from one: what a watcher has seen already, or zero for nothing.
    pub version: u64,
    /// What the plan says, once there is one.
    pub plan: Option<PlanFacts>,
    /// Units done of all units, for survey, map and reduce.
    pub units: BTreeMap<TaskKind, (u64, u64)>,
    /// Bytes done, of accepted and running attempts together, for map (input bytes) and reduce (content bytes).
    pub bytes: BTreeMap<TaskKind, u64>,
    /// All content bytes that reduce will read, as far as they are mapped.
    pub shuffle_bytes: u64,
    /// Attempts that run now.
    pub running: u64,
    /// Attempts beyond the first ones.
    pub retries: u64,
    /// Bytes spilled.
    pub spilled_bytes: u64,
    /// Records set aside.
    pub bad_records: u64,
    /// Workers that live, and that were lost while the job ran.
    pub workers_live: u64,
    /// See above.
    pub workers_lost: u64,
    /// Sums over accepted attempts.
    pub tally: Tally,
    /// Rows in accepted parts.
    pub output_records: u64,
    /// Bytes of accepted parts.
    pub output_bytes: u64,
    /// Why it has failed.
    pub ending: Option<EndingView>,
    /// Whether it has ended and nothing is left of it beside its output: staging and claim are gone, so the output's name can be
    /// used again.
    pub is_swept: bool,
}

/// Why a job has failed, as its failure card says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndingView {
    /// The kind of fault or ending, in a word or two.
    pub kind: String,
    /// The whole reason in a sentence.
    pub message: String,
    /// The fault itself, where an attempt failed.
    pub fault: Option<Fault>,
    /// What the threads of a process that died were at: one of them is to blame.
    pub suspects: Vec<Suspect>,
    /// The files in which they are, one for each; none in reduce, or where that is not known.
    pub files: Vec<String>,
    /// The task.
    pub task: Option<Task>,
    /// The last attempt.
    pub attempt: Option<AttemptId>,
    /// Where it ran.
    pub worker: Option<WorkerId>,
    /// How often the task was tried.
    pub attempts: u32,
    /// It was refused before any work was done: exit code 2.
    pub refused: bool,
}

/// How an attempt stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttemptState {
    /// Granted, or running.
    Running,
    /// Its report is being journaled.
    Sealed,
    /// It counts.
    Accepted,
    /// It counted, and its map output was lost since.
    Lost,
    /// It has failed.
    Failed,
    /// Its worker was lost, or it was killed or overtaken.
    Ended,
}

/// One attempt, in the answer to `job ID`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptView {
    /// Its id.
    pub attempt: AttemptId,
    /// Its task.
    pub task: Task,
    /// Where it runs or ran.
    pub worker: WorkerId,
    /// How it stands.
    pub state: AttemptState,
    /// It is or was a second try at a straggler.
    pub backup: bool,
    /// Threads granted.
    pub threads: u32,
    /// How long it has been running, or ran, in milliseconds.
    pub elapsed_ms: u64,
    /// How far it is, while it runs.
    pub progress: Progress,
    /// Input bytes of its range.
    pub bytes: u64,
    /// Why it ended without being accepted.
    pub failure: Option<Failure>,
}

/// The spread of a quantity over the accepted tasks of a phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    /// The least.
    pub min: u64,
    /// The middle.
    pub median: u64,
    /// The most.
    pub max: u64,
}

/// One phase of a job, in the answer to `job ID`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseView {
    /// Which.
    pub kind: TaskKind,
    /// Units in all.
    pub units: u64,
    /// Units done.
    pub done: u64,
    /// Ranges accepted.
    pub tasks: u64,
    /// Bytes per accepted range.
    pub bytes: Spread,
    /// Milliseconds per accepted range.
    pub elapsed_ms: Spread,
    /// Times a unit was done again because its output was lost.
    pub mapped_again: u64,
    /// Units with charges: the unit and how many.
    pub charges: Vec<(u32, u32)>,
}

/// A job in full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobView {
    /// The short form.
    pub status: JobStatus,
    /// Its phases so far.
    pub phases: Vec<PhaseView>,
    /// Its attempts, oldest first; of very many only the latest, and those that failed.
    pub attempts: Vec<AttemptView>,
    /// How many attempts there were in all.
    pub attempt_count: u64,
    /// Records left out as they brought job processes down.
    pub set_aside: Vec<crate::task::SetAside>,
    /// Ranges of map outputs that were lost, each time it happened.
    pub lost: Vec<Range<u32>>,
}

/// How a worker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkerState {
    /// It is heard of.
    Live,
    /// It is silent; nothing is granted to it.
    Suspect,
    /// It takes no more tasks.
    Draining,
    /// Its session has ended by silence.
    Lost,
    /// It has left.
    Gone,
}

/// A worker, in the answer to `workers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerView {
    /// Its id.
    pub worker: WorkerId,
    /// Where it can be reached, and where it runs.
    pub address: String,
    /// How it stands.
    pub state: WorkerState,
    /// Its threads.
    pub threads: u32,
    /// Threads that are granted.
    pub threads_used: u32,
    /// Its memory.
    pub memory_bytes: u64,
    /// Attempts that it runs.
    pub running: Vec<AttemptId>,
    /// Map outputs that it keeps.
    pub outputs: u64,
    /// How long ago it was heard of, in milliseconds.
    pub silent_ms: u64,
}
