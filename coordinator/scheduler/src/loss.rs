//! Losses: workers that fall silent or leave, and map outputs that are gone. Each is noticed in several ways, and becomes the same
//! thing here.
//!
//! An output that is lost is nobody's fault, and may be lost any number of times: workers die. One that is there and damaged was
//! spoiled by the worker that has it, which is charged; or it comes out damaged wherever it is mapped, so the time is held against
//! its range, too. So many times end the job: a range would be mapped again without end otherwise.

use std::collections::BTreeSet;
use std::ops::Range;

use shardmill_protocol::task::TaskKind;
use shardmill_protocol::view::{AttemptState, WorkerState};
use shardmill_protocol::{AttemptId, Fault, JobId, SessionId, WorkerId};

use crate::action::{Answer, Notice};
use crate::attempt::Live;
use crate::event::{ReplyId, Tick};
use crate::fact::{Ending, Fact, Failed};
use crate::fleet::Session;
use crate::job::Stage;
use crate::pending::{Shape, Terms};
use crate::range::task_of;
use crate::scheduler::Scheduler;
use crate::work::{Gave, Holding};

/// How a session ends.
#[derive(Debug)]
pub(crate) enum Departure {
    /// Nothing was heard of it for a lease.
    Silent,
    /// It has left of its own will.
    Left,
    /// Its worker has begun another one. These attempts and outputs it still has.
    Replaced(BTreeSet<AttemptId>),
}

impl Scheduler {
    /// Looks at the sessions whose time has come: suspects those that are silent, and loses those that were so for a lease.
    pub(crate) fn expire_leases(&mut self) {
        let mut lost = Vec::new();
        while let Some(id) = self.fleet.leases.due(self.now) {
            let session = self.fleet.sessions.get_mut(&id).expect("a lease is a session's");
            let silent = self.now.0 - session.heard.0;
            if silent >= self.config.lease {
                self.fleet.leases.remove(id);
                lost.push(id);
                continue;
            }
            if silent >= self.config.suspect && !session.suspect {
                session.suspect = true;
                self.outbox.notice(Notice::WorkerSuspect(session.worker));
            }
            let next = if session.suspect { self.config.lease } else { self.config.suspect };
            self.fleet.leases.set(id, Tick(session.heard.0 + next));
        }
        self.depart(&lost, &Departure::Silent);
    }

    pub(crate) fn on_leave(&mut self, reply: ReplyId, id: SessionId) {
        self.depart(&[id], &Departure::Left);
        self.outbox.answer(reply, Answer::Done);
    }

    /// Sessions end: what they ran is pending again, what they kept is lost. The one place where a worker is lost.
    pub(crate) fn depart(&mut self, ids: &[SessionId], how: &Departure) {
        let state = if matches!(how, Departure::Left) { WorkerState::Gone } else { WorkerState::Lost };
        let mut workers = BTreeSet::new();
        for id in ids {
            let Some(session) = self.fleet.end(*id, state, self.config.history) else { continue };
            workers.insert(session.worker);
            self.give_back(&session, how);
            self.farewell(session.worker, how);
            for reply in session.wish.into_iter().flat_map(|wish| wish.replies) {
                self.outbox.answer(reply, Answer::NoSession);
            }
        }
        if workers.is_empty() {
            return;
        }
        let kept = if let Departure::Replaced(kept) = how { kept } else { &BTreeSet::new() };
        self.lose_outputs_of(&workers, kept);
        if !matches!(how, Departure::Replaced(_)) {
            self.review_standings();
        }
        self.stir.all = true;
    }

    fn give_back(&mut self, session: &Session, how: &Departure) {
        for (attempt, held) in &session.held {
            let Some(job) = self.jobs.get_mut(&attempt.job) else { continue };
            if held.dying {
                job.dying -= 1;
                self.sweep_if_quiet(attempt.job);
                continue;
            }
            job.threads -= u64::from(held.slots);
            if !job.live.contains_key(attempt) {
                continue;
            }
            let goes_on = matches!(how, Departure::Replaced(kept) if kept.contains(attempt));
            let fault = if matches!(how, Departure::Left) { Fault::Drained } else { Fault::WorkerLost };
            let live = self.conclude(*attempt, AttemptState::Ended, (!goes_on).then(|| fault.into()));
            if goes_on || matches!(how, Departure::Left) {
                self.requeue(attempt.job, &live.task, live.terms.clone());
            } else {
                self.lost_with_worker(*attempt, &live);
            }
        }
    }

    fn farewell(&mut self, worker: WorkerId, how: &Departure) {
        match how {
            Departure::Silent => {
                self.outbox.notice(Notice::WorkerLost(worker));
                for id in &self.open {
                    let job = self.jobs.get_mut(id).expect("open jobs are known");
                    (job.workers_lost, job.version) = (job.workers_lost + 1, job.version + 1);
                }
            }
            Departure::Left => self.outbox.notice(Notice::WorkerGone(worker)),
            Departure::Replaced(_) => return,
        }
        self.forget_worker(worker);
    }

    /// A restarted coordinator does not wait for a worker any more.
    pub(crate) fn forget_worker(&mut self, worker: WorkerId) {
        if let Some(known) = self.fleet.workers.get_mut(&worker)
            && std::mem::replace(&mut known.known, false)
        {
            self.outbox.journal(Fact::WorkerForgotten(worker));
        }
    }

    /// A range was running on a worker that was lost. Nobody is charged; but what was running whenever workers were lost is tried
    /// alone, and at last not any more.
    fn lost_with_worker(&mut self, attempt: AttemptId, live: &Live) {
        let (id, limit) = (attempt.job, self.config.lost_workers);
        let (kind, range) = (live.task.kind(), live.task.range());
        let work = self.job(id).work(kind);
        work.losers.push((range.clone(), live.worker));
        work.strays.insert(attempt, range.clone());
        let mut worst = range.start;
        for unit in range.clone() {
            *work.losses.entry(unit).or_default() += 1;
            if work.losses[&unit] > work.losses[&worst] {
                worst = unit;
            }
        }
        if work.losses[&worst] >= limit {
            let losers = work.losers.iter().filter(|(range, _)| range.contains(&worst));
            let workers = losers.map(|(_, worker)| *worker).collect();
            return self.end_job(id, Ending::Failed(Box::new(Failed::Poison { task: live.task.clone(), workers })));
        }
        if live.terms.shape == Shape::Whole || work.was_accepted(&range) {
            return self.requeue(id, &live.task, live.terms.clone());
        }
        if self.twin(id, &live.task).is_some() {
            return;
        }
        for (alone, piece) in self.by_losses(id, kind, range, limit - 1) {
            let shape = if alone { Shape::Alone } else { live.terms.shape };
            self.requeue(id, &task_of(kind, piece), Terms { shape, ..live.terms.clone() });
        }
    }

    /// A range, cut so that units with so many losses are alone.
    fn by_losses(&mut self, id: JobId, kind: TaskKind, range: Range<u32>, losses: u32) -> Vec<(bool, Range<u32>)> {
        let work = self.job(id).work(kind);
        let mut pieces: Vec<(bool, Range<u32>)> = Vec::new();
        for unit in range {
            let alone = work.losses.get(&unit).is_some_and(|count| *count >= losses);
            match pieces.last_mut() {
                Some((false, piece)) if !alone => piece.end = unit + 1,
                Some(_) | None => pieces.push((alone, unit..unit + 1)),
            }
        }
        pieces
    }

    /// Everything that these workers kept is lost, but for these outputs.
    pub(crate) fn lose_outputs_of(&mut self, workers: &BTreeSet<WorkerId>, kept: &BTreeSet<AttemptId>) {
        let mut lost = Vec::new();
        for id in &self.open {
            let outputs = self.jobs[id].outputs().filter(|(_, _, accepted)| {
                let there = !matches!(accepted.gave, Gave::Output { holding: Holding::Lost, .. });
                there && workers.contains(&accepted.worker) && !kept.contains(&accepted.attempt(*id))
            });
            lost.extend(outputs.map(|(range, _, _)| (*id, range.start)));
        }
        for (id, start) in lost {
            self.lose_range(id, start, false);
        }
    }

    /// A map output is lost, if it is one that counts.
    pub(crate) fn lose_output(&mut self, output: AttemptId) {
        if let Some((start, _)) = self.holder(output) {
            self.lose_range(output.job, start, false);
        }
    }

    /// A map output is not what was sealed, if it is one that counts. However it was noticed, it is charged once.
    pub(crate) fn damage(&mut self, output: AttemptId) {
        if let Some((start, worker)) = self.holder(output) {
            self.charge_worker(output.job, worker, output);
            self.lose_range(output.job, start, true);
        }
    }

    /// The range of a map output that counts, and the worker that has it, if its job can still use it.
    fn holder(&self, output: AttemptId) -> Option<(u32, WorkerId)> {
        let job = self.jobs.get(&output.job).filter(|job| matches!(job.stage, Stage::Working))?;
        let (TaskKind::Map, start) = job.holds(output)? else { return None };
        Some((start, job.works[&TaskKind::Map].done[&start].worker))
    }

    pub(crate) fn lose_range(&mut self, id: JobId, start: u32, damaged: bool) {
        // Another disk, another network path: elsewhere, as long as there may be an elsewhere.
        let until = Tick(self.now.0 + self.config.lease);
        let limit = self.config.unit_charges as usize;
        let job = self.job(id);
        if !matches!(job.stage, Stage::Working) {
            return;
        }
        let map = &job.works[&TaskKind::Map];
        let accepted = &map.done[&start];
        let (attempt, worker, shards) = (accepted.attempt(id), accepted.worker, accepted.range.clone());
        let before = map.damages.get(&start).map_or(&[][..], Vec::as_slice);
        if damaged && before.len() + 1 >= limit {
            let workers = before.iter().copied().chain([worker]).collect();
            return self.end_job(id, Ending::Failed(Box::new(Failed::OutputDamaged { output: attempt, shards, workers })));
        }
        let terms = Terms { avoid: Some((worker, until)), ..Terms::new(Shape::Whole) };
        if job.lose(start, damaged, terms).is_some() {
            self.outbox.journal(Fact::OutputLost { attempt, shards, damaged });
            self.outbox.notice(Notice::OutputLost(attempt, worker));
            self.stir.all = true;
        }
    }

    pub(crate) fn on_fetch_trouble(&mut self, session: SessionId, output: AttemptId, damaged: bool) {
        match self.fleet.sessions.get(&session).map(|session| session.worker) {
            Some(_) if damaged => self.damage(output),
            Some(worker) => self.trouble(worker, output),
            None => {}
        }
    }

    /// A worker could not fetch an output. Two that cannot, or one that cannot three times: it is lost.
    pub(crate) fn trouble(&mut self, worker: WorkerId, output: AttemptId) {
        let Some((start, _)) = self.holder(output) else { return };
        let complaints = self.job(output.job).troubles.entry(output).or_default();
        *complaints.entry(worker).or_default() += 1;
        if complaints.len() >= 2 || complaints[&worker] >= 3 {
            self.lose_range(output.job, start, false);
        }
    }
}
