//! The attempts that a worker holds: what it was granted and has not had answered yet.
//!
//! Says what is told to the coordinator (heartbeats, registration), what is asked of it next, and who is to stop.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use shardmill_protocol::process::Progress;
use shardmill_protocol::rpc::api::HeldAttempt;
use shardmill_protocol::task::TaskKind;
use shardmill_protocol::{AttemptId, Fault, Fence, Grant, JobId};
use tokio::sync::watch;

/// Why an attempt is stopped from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The coordinator says so: nothing is reported.
    Killed,
    /// The worker leaves, or hears nothing: handed back.
    Drained,
}

impl Stop {
    /// The fault that the attempt ends with.
    pub(crate) fn fault(self) -> Fault {
        match self {
            Self::Killed => Fault::Cancelled,
            Self::Drained => Fault::Drained,
        }
    }
}

/// Where an attempt stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It was asked for ahead, and waits for the one before it.
    Ahead,
    /// It is prepared, or waits for its job process.
    Preparing,
    /// It runs.
    Running,
    /// It has ended, and its report is under way.
    Reporting,
}

#[derive(Debug)]
struct Held {
    grant: Arc<Grant>,
    fence: Fence,
    stage: Stage,
    progress: Progress,
    stop: watch::Sender<Option<Stop>>,
}

/// What to ask the coordinator for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// A task to run now.
    Task,
    /// A task to fetch for while another one runs.
    Ahead,
    /// Nothing.
    Nothing,
}

/// All attempts that are held.
#[derive(Debug)]
pub(crate) struct Attempts {
    threads: u32,
    held: Mutex<BTreeMap<AttemptId, Held>>,
    /// Goes up with every change of what is held or of its stages.
    changes: watch::Sender<u64>,
}

impl Attempts {
    /// Of a worker with so many threads.
    pub(crate) fn new(threads: u32) -> Self {
        Self { threads, held: Mutex::default(), changes: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<AttemptId, Held>> {
        self.held.lock().expect("no holder panics")
    }

    fn changed(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Told of every change.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Takes a grant; nothing if it was taken before. The receiver says when to stop.
    pub(crate) fn take(&self, grant: Grant, ahead: bool) -> Option<(Arc<Grant>, watch::Receiver<Option<Stop>>)> {
        let grant = Arc::new(grant);
        let (stop, stopped) = watch::channel(None);
        let stage = if ahead { Stage::Ahead } else { Stage::Preparing };
        let held = Held { grant: Arc::clone(&grant), fence: grant.fence, stage, progress: Progress::default(), stop };
        match self.lock().entry(grant.attempt) {
            std::collections::btree_map::Entry::Occupied(_) => return None,
            std::collections::btree_map::Entry::Vacant(vacant) => vacant.insert(held),
        };
        self.changed();
        Some((grant, stopped))
    }

    /// An attempt has come to another stage.
    pub(crate) fn enter(&self, attempt: AttemptId, stage: Stage) {
        if let Some(held) = self.lock().get_mut(&attempt) {
            held.stage = stage;
        }
        self.changed();
    }

    /// An attempt has moved.
    pub(crate) fn progress(&self, attempt: AttemptId, progress: Progress) {
        if let Some(held) = self.lock().get_mut(&attempt) {
            held.progress = progress;
        }
    }

    /// What an attempt's report is accepted under; nothing if it is not held any more.
    pub(crate) fn fence(&self, attempt: AttemptId) -> Option<Fence> {
        self.lock().get(&attempt).map(|held| held.fence)
    }

    /// An attempt goes on under another fence.
    pub(crate) fn adopt(&self, attempt: AttemptId, fence: Fence) {
        if let Some(held) = self.lock().get_mut(&attempt) {
            held.fence = fence;
        }
    }

    /// An attempt is over.
    pub(crate) fn drop(&self, attempt: AttemptId) {
        self.lock().remove(&attempt);
        self.changed();
    }

    /// Stops an attempt; false if it is not held.
    pub(crate) fn kill(&self, attempt: AttemptId) -> bool {
        let held = self.lock();
        let found = held.get(&attempt);
        if let Some(held) = found {
            held.stop.send_replace(Some(Stop::Killed));
        }
        found.is_some()
    }

    /// Stops all attempts of a job.
    pub(crate) fn kill_job(&self, job: JobId) {
        self.lock().values().filter(|held| held.grant.attempt.job == job).for_each(|held| {
            held.stop.send_replace(Some(Stop::Killed));
        });
    }

    /// Hands back what has not ended: all of it, or only what has not begun to run.
    pub(crate) fn hand_back(&self, running: bool) {
        let held = self.lock();
        let concerned = held.values().filter(|held| match held.stage {
            Stage::Ahead | Stage::Preparing => true,
            Stage::Running => running,
            Stage::Reporting => false,
        });
        concerned.for_each(|held| {
            held.stop.send_if_modified(|stop| stop.replace(stop.unwrap_or(Stop::Drained)).is_none());
        });
    }

    /// Whether an attempt of this job is held.
    pub(crate) fn is_at(&self, job: JobId) -> bool {
        self.lock().values().any(|held| held.grant.attempt.job == job)
    }

    /// Whether nothing is held.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// What a heartbeat says.
    pub(crate) fn report(&self) -> Vec<(AttemptId, Progress)> {
        self.lock().iter().map(|(attempt, held)| (*attempt, held.progress)).collect()
    }

    /// What a registration says: what could go on, and nothing that is about to be gone.
    pub(crate) fn list(&self) -> Vec<HeldAttempt> {
        let of = |held: &Held| HeldAttempt {
            attempt: held.grant.attempt,
            task: held.grant.task.clone(),
            threads: held.grant.threads,
            memory_bytes: held.grant.memory_bytes,
        };
        self.lock().values().filter(|held| *held.stop.borrow() != Some(Stop::Killed)).map(of).collect()
    }

    /// What to ask for next: a task while there are threads for one, else one more to fetch for, if it is worth it.
    pub(crate) fn want(&self) -> Want {
        let held = self.lock();
        let at_work = || held.values().filter(|held| matches!(held.stage, Stage::Preparing | Stage::Running));
        let busy: u32 = at_work().map(|held| held.grant.threads).sum();
        let reduces = at_work().any(|held| held.grant.task.kind() == TaskKind::Reduce);
        let has_ahead = held.values().any(|held| held.stage == Stage::Ahead);
        match () {
            () if busy < self.threads => Want::Task,
            () if reduces && !has_ahead => Want::Ahead,
            () => Want::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shardmill_protocol::{Epoch, SessionId, Task};

    fn grant(number: u64, task: Task, threads: u32) -> Grant {
        let attempt = AttemptId { job: JobId(7), epoch: Epoch(1), number };
        let fence = Fence { epoch: Epoch(1), session: SessionId(1), grant: number };
        Grant { attempt, fence, task, threads, memory_bytes: 1, inputs: vec![], set_aside: vec![], list: None }
    }

    #[test]
    fn tasks_are_asked_for_while_threads_are_free_and_one_more_while_a_reduce_task_runs() {
        let attempts = Attempts::new(2);
        assert_eq!(attempts.want(), Want::Task);
        let (map, _) = attempts.take(grant(1, Task::Map(0..1), 1), false).unwrap();
        assert_eq!(attempts.want(), Want::Task);
        let (reduce, _) = attempts.take(grant(2, Task::Reduce(0..1), 1), false).unwrap();
        assert_eq!(attempts.want(), Want::Ahead);
        let (ahead, _) = attempts.take(grant(3, Task::Reduce(1..2), 1), true).unwrap();
        assert_eq!(attempts.want(), Want::Nothing);
        attempts.enter(reduce.attempt, Stage::Reporting);
        assert_eq!(attempts.want(), Want::Task);
        attempts.enter(ahead.attempt, Stage::Running);
        attempts.drop(reduce.attempt);
        assert_eq!(attempts.want(), Want::Ahead);
        attempts.drop(ahead.attempt);
        attempts.drop(map.attempt);
        assert!(attempts.is_empty());
    }

    #[test]
    fn a_grant_that_comes_twice_is_taken_once() {
        let attempts = Attempts::new(1);
        assert!(attempts.take(grant(1, Task::Draft, 1), false).is_some());
        assert!(attempts.take(grant(1, Task::Draft, 1), false).is_none());
        assert_eq!(attempts.list().len(), 1);
    }

    #[test]
    fn what_is_handed_back_is_what_has_not_ended_and_a_kill_counts_for_more() {
        let attempts = Attempts::new(4);
        let take = |number, stage| {
            let (grant, stop) = attempts.take(grant(number, Task::Draft, 1), false).unwrap();
            attempts.enter(grant.attempt, stage);
            (grant.attempt, stop)
        };
        let (waiting, running, ended) = (take(1, Stage::Preparing), take(2, Stage::Running), take(3, Stage::Reporting));
        attempts.hand_back(false);
        let stops = || [&waiting, &running, &ended].map(|(_, stop)| *stop.borrow());
        assert_eq!(stops(), [Some(Stop::Drained), None, None]);
        attempts.kill(running.0);
        attempts.hand_back(true);
        assert_eq!(stops(), [Some(Stop::Drained), Some(Stop::Killed), None]);
    }

    #[test]
    fn an_adopted_attempt_reports_under_its_new_fence() {
        let attempts = Attempts::new(1);
        let (grant, _) = attempts.take(grant(1, Task::Draft, 1), false).unwrap();
        let fence = Fence { epoch: Epoch(2), ..grant.fence };
        attempts.adopt(grant.attempt, fence);
        assert_eq!(attempts.fence(grant.attempt), Some(fence));
        attempts.drop(grant.attempt);
        assert_eq!(attempts.fence(grant.attempt), None);
    }
}
