//! The roster: where workers are and what they still have, as they tell it. The scheduler knows them by their ids alone.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use shardmill_protocol::rpc::api::{self, ApiError, Holder, SourcesPage, WorkerHello};
use shardmill_protocol::view::WorkerView;
use shardmill_protocol::{AttemptId, Epoch, SessionId, WorkerId};
use shardmill_scheduler::{HeldAttempt, HeldOutput, Scheduler};

use super::unknown;

/// Map outputs in a page: with all their holders they are well below a frame.
const OUTPUTS_PER_PAGE: usize = 2048;
/// Map outputs that workers may tell of before they register, all together.
const HELD_OUTPUTS: usize = 8 << 20;

/// All workers that have registered with this process.
pub(crate) struct Roster {
    epoch: Epoch,
    workers: Mutex<BTreeMap<WorkerId, WorkerHello>>,
    held: Mutex<BTreeMap<WorkerId, Vec<api::HeldOutput>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that can panic is done under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Roster {
    /// An empty roster of a coordinator in this epoch.
    pub(crate) fn new(epoch: Epoch) -> Self {
        Self { epoch, workers: Mutex::default(), held: Mutex::default() }
    }

    /// The coordinator's epoch.
    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Adds to what a worker has told of its map outputs.
    pub(super) fn add_held(&self, worker: WorkerId, first: bool, outputs: Vec<api::HeldOutput>) -> Result<(), ApiError> {
        let mut held = locked(&self.held);
        if first {
            held.remove(&worker);
        }
        if held.values().map(Vec::len).sum::<usize>() + outputs.len() > HELD_OUTPUTS {
            return Err(ApiError::Unavailable { message: "workers are telling of too many map outputs at once".to_owned() });
        }
        held.entry(worker).or_default().extend(outputs);
        Ok(())
    }

    /// Takes what a worker has told of its map outputs.
    pub(super) fn take_held(&self, worker: WorkerId) -> Vec<api::HeldOutput> {
        locked(&self.held).remove(&worker).unwrap_or_default()
    }

    /// Notes where a worker is.
    pub(super) fn enter(&self, hello: WorkerHello) {
        locked(&self.workers).insert(hello.worker, WorkerHello { attempts: vec![], ..hello });
    }

    /// Fills in where workers are.
    pub(super) fn name(&self, views: &mut [WorkerView]) {
        let workers = locked(&self.workers);
        for view in views {
            if let Some(hello) = workers.get(&view.worker) {
                view.address = format!("{} ({})", hello.shuffle_address, hello.place);
            }
        }
    }

    /// A page of what a reduce attempt reads.
    pub(super) fn page(&self, scheduler: &Scheduler, session: SessionId, attempt: AttemptId, page: u32) -> Result<SourcesPage, ApiError> {
        let sources = scheduler.sources(session, attempt).ok_or_else(|| unknown("attempt", attempt))?;
        let again = || ApiError::Unavailable { message: "a map output is being made again".to_owned() };
        let mut outputs = sources.outputs().ok_or_else(again)?.skip(page as usize * OUTPUTS_PER_PAGE);
        let workers = locked(&self.workers);
        let (mut holders, mut numbers) = (vec![], BTreeMap::new());
        let mut listed = vec![];
        for (output, worker) in outputs.by_ref().take(OUTPUTS_PER_PAGE) {
            let number = match numbers.get(&worker) {
                Some(number) => *number,
                None => {
                    // After a restart, an output is attached when its worker registers, and so is known here.
                    holders.push(holder(workers.get(&worker).ok_or_else(again)?));
                    numbers.insert(worker, holders.len() as u32 - 1);
                    holders.len() as u32 - 1
                }
            };
            listed.push((output, number));
        }
        Ok(SourcesPage { list: sources.list(), outputs: listed, holders, more: outputs.next().is_some() })
    }
}

fn holder(hello: &WorkerHello) -> Holder {
    let WorkerHello { worker, shuffle_address, fingerprint, disk, .. } = hello;
    Holder { worker: *worker, address: shuffle_address.clone(), fingerprint: *fingerprint, disk: disk.clone() }
}

/// An attempt in the scheduler's words.
pub(super) fn held_attempt(held: &api::HeldAttempt) -> HeldAttempt {
    let api::HeldAttempt { attempt, task, threads, memory_bytes } = held;
    HeldAttempt { attempt: *attempt, task: task.clone(), threads: *threads, memory_bytes: *memory_bytes }
}

/// A map output in the scheduler's words.
pub(super) fn held_output(held: &api::HeldOutput) -> HeldOutput {
    let output = &held.output;
    HeldOutput { attempt: held.attempt, shards: output.shards.clone(), index: output.index }
}
