//! Recovery: the state from the facts, and what is to be done again after a restart.
//!
//! Attempts are not journaled, so a restarted coordinator learns from the workers what is running. Until each worker that it knows
//! has registered, or one lease has passed, it grants nothing: what it would grant is probably being done.

use std::collections::BTreeSet;

use shardmill_protocol::process::Progress;
use shardmill_protocol::task::TaskKind;
use shardmill_protocol::view::AttemptState;
use shardmill_protocol::{AttemptId, Epoch, Task, WorkerId};

use crate::action::{Action, Notice};
use crate::attempt::Past;
use crate::config::Config;
use crate::event::Tick;
use crate::fact::Fact;
use crate::job::{Job, Stage, Sweep};
use crate::outbox::Outbox;
use crate::pending::{Shape, Terms};
use crate::scheduler::Scheduler;
use crate::work::{Gave, Holding};

/// The time after a start in which nothing is granted.
#[derive(Debug)]
pub(crate) struct Recovery {
    pub(crate) until: Tick,
    pub(crate) awaited: BTreeSet<WorkerId>,
}

impl Scheduler {
    /// The state that these facts have led to, in the order of their numbers. A fact that was there already changes nothing.
    /// [`start`](Self::start) comes next.
    pub fn replay(config: Config, facts: impl IntoIterator<Item = (u64, Fact)>) -> Self {
        let mut scheduler = Self::new(config);
        let mut last = 0;
        for (number, fact) in facts {
            if number > last {
                last = number;
                scheduler.apply(number, fact);
            }
        }
        scheduler.outbox = Outbox::behind(last);
        for id in &scheduler.open {
            let works = scheduler.jobs.get_mut(id).into_iter().flat_map(|job| job.works.get_mut(&TaskKind::Map));
            for accepted in works.flat_map(|map| map.done.values_mut()) {
                if let Gave::Output { holding: holding @ Holding::Held, .. } = &mut accepted.gave {
                    *holding = Holding::Awaited;
                }
            }
        }
        scheduler
    }

    fn apply(&mut self, number: u64, fact: Fact) {
        let remembered = self.config.remembered_attempts;
        match fact {
            Fact::Epoch(epoch) => self.epoch = self.epoch.max(epoch),
            Fact::WorkerKnown(worker) => self.fleet.workers.entry(worker).or_default().known = true,
            Fact::WorkerForgotten(worker) => {
                self.fleet.workers.remove(&worker);
            }
            Fact::Submitted(submission) => {
                if !self.jobs.contains_key(&submission.job) {
                    self.admit(submission, number);
                }
            }
            Fact::Done { attempt, worker, task, outcome, elapsed_ms } => {
                let Some(job) = self.jobs.get_mut(&attempt.job).filter(|job| matches!(job.stage, Stage::Working)) else { return };
                let open = job.works.contains_key(&task.kind());
                if open && job.accepted(attempt).is_none() && job.work(task.kind()).carve(&task.range()) {
                    job.past.push(past(attempt, worker, &task, elapsed_ms), remembered);
                    job.accept(attempt, worker, &task, outcome, elapsed_ms);
                    job.settle();
                    if job.works.get(&TaskKind::Reduce).is_some_and(|reduce| reduce.is_complete()) {
                        job.stage = Stage::Assembling;
                    }
                }
            }
            Fact::Charged { job, task, units, failure } => {
                let Some(job) = self.jobs.get_mut(&job) else { return };
                job.charge(task.kind(), &units, &failure);
                for unit in units {
                    job.set_alone(task.kind(), unit);
                }
            }
            Fact::SetAside { job, records } => {
                if let Some(job) = self.jobs.get_mut(&job).filter(|job| job.works.contains_key(&TaskKind::Map)) {
                    job.leave_out(&records);
                }
            }
            Fact::OutputLost { attempt, shards: _, damaged } => {
                let Some(job) = self.jobs.get_mut(&attempt.job) else { return };
                if let Some((TaskKind::Map, start)) = job.holds(attempt) {
                    job.lose(start, damaged, Terms::new(Shape::Whole));
                }
            }
            Fact::CommitBegun { job, manifest } => {
                if let Some(job) = self.jobs.get_mut(&job).filter(|job| !job.has_ended()) {
                    job.stage = Stage::Committed(manifest);
                }
            }
            Fact::Ended { job: id, ending } => {
                if let Some(job) = self.jobs.get_mut(&id).filter(|job| !job.has_ended()) {
                    job.end(ending, number, self.now);
                    self.open.remove(&id);
                }
            }
            Fact::Swept { job: id } => {
                if let Some(Stage::Ended(ended)) = self.jobs.get_mut(&id).map(|job| &mut job.stage)
                    && std::mem::replace(&mut ended.sweep, Sweep::Done) != Sweep::Done
                {
                    self.remember(id);
                }
            }
        }
    }

    /// Begins a new epoch, and does again what may have been interrupted. Once, before any event.
    pub fn start(&mut self, now: Tick) -> Vec<Action> {
        (self.now, self.next_look) = (now, now);
        self.epoch = Epoch(self.epoch.0 + 1);
        self.fleet.enter(self.epoch);
        self.outbox.journal(Fact::Epoch(self.epoch));
        for (id, job) in &mut self.jobs {
            job.submitted = now;
            let unweighed = job.works.get(&TaskKind::Map).is_some_and(|map| map.weights.is_none());
            let weights = unweighed.then(|| job.weights_file()).flatten();
            match &mut job.stage {
                Stage::Working => weights.into_iter().for_each(|file| self.outbox.say(Action::ReadWeights { job: *id, file })),
                Stage::Assembling => self.outbox.say(Action::Assemble { job: *id }),
                Stage::Committed(_) => self.outbox.say(Action::Reveal { job: *id }),
                Stage::Ended(ended) if ended.sweep == Sweep::Done => {}
                Stage::Ended(ended) => {
                    (ended.sweep, ended.at) = (Sweep::Asked, now);
                    self.outbox.say(Action::Sweep { job: *id, keep_staging: ended.keeps_staging() });
                }
            }
        }
        let awaited = self.fleet.workers.iter().filter(|(_, worker)| worker.known).map(|(id, _)| *id).collect();
        self.recovery = Some(Recovery { until: Tick(now.0 + self.config.lease), awaited });
        self.end_recovery_if_due();
        self.outbox.take()
    }

    /// A worker has registered.
    pub(crate) fn no_longer_awaited(&mut self, worker: WorkerId) {
        if let Some(recovery) = &mut self.recovery {
            recovery.awaited.remove(&worker);
            self.end_recovery_if_due();
        }
    }

    pub(crate) fn end_recovery_if_due(&mut self) {
        let due = self.recovery.as_ref().is_some_and(|recovery| recovery.awaited.is_empty() || recovery.until <= self.now);
        if !due {
            return;
        }
        for worker in self.recovery.take().into_iter().flat_map(|recovery| recovery.awaited) {
            self.outbox.notice(Notice::WorkerLost(worker));
            self.forget_worker(worker);
        }
        self.lose_awaited_outputs();
        for id in self.open.clone() {
            self.check_memory(id);
        }
        self.stir.all = true;
    }

    /// Whoever had these has not come back.
    fn lose_awaited_outputs(&mut self) {
        let mut lost = Vec::new();
        for id in &self.open {
            let awaited =
                self.jobs[id].outputs().filter(|(_, _, accepted)| matches!(accepted.gave, Gave::Output { holding: Holding::Awaited, .. }));
            lost.extend(awaited.map(|(range, _, _)| (*id, range.start)));
        }
        for (id, start) in lost {
            self.lose_range(id, start, false);
        }
    }
}

/// An attempt that was accepted before the restart, as far as that is known.
fn past(attempt: AttemptId, worker: WorkerId, task: &Task, elapsed_ms: u64) -> Past {
    let (state, task) = (AttemptState::Accepted, task.clone());
    Past { attempt, task, worker, state, backup: false, threads: 0, elapsed_ms, progress: Progress::default(), bytes: 0, failure: None }
}

impl Job {
    /// A unit that was charged is tried alone, if it is still to be tried and not part of what must stay whole.
    fn set_alone(&mut self, kind: TaskKind, unit: u32) {
        if let Some(work) = self.works.get_mut(&kind)
            && work.carve(&(unit..unit + 1))
        {
            let shape = if work.was_accepted(&(unit..unit + 1)) { Shape::Whole } else { Shape::Alone };
            work.put(unit..unit + 1, Terms::new(shape));
        }
    }
}
