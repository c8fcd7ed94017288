//! Sessions: how workers come, say that they live, and are drained.

use std::collections::BTreeSet;

use shardmill_protocol::process::Progress;
use shardmill_protocol::task::TaskKind;
use shardmill_protocol::view::AttemptState;
use shardmill_protocol::{AttemptId, Fault, Fence, SessionId, WorkerId};

use crate::action::{Action, Answer, Notice};
use crate::attempt::Live;
use crate::event::{HeldAttempt, HeldOutput, Registration, ReplyId, Tick};
use crate::fact::Fact;
use crate::fleet::Held;
use crate::job::Stage;
use crate::loss::Departure;
use crate::pending::{Shape, Terms};
use crate::scheduler::Scheduler;

impl Scheduler {
    pub(crate) fn on_register(&mut self, reply: ReplyId, worker: WorkerId, registration: Registration) {
        let current = self.fleet.workers.get(&worker).and_then(|worker| worker.session);
        if let Some(session) = current.filter(|_| registration.resumes == current) {
            return self.resume(reply, worker, session, &registration);
        }
        if let Err(wait) = self.fleet.workers.entry(worker).or_default().admission.ask(&self.config, self.now) {
            return self.outbox.answer(reply, Answer::RegisterLater(wait));
        }
        if let Some(before) = current {
            let attempts = registration.attempts.iter().map(|held| held.attempt);
            let kept = attempts.chain(registration.outputs.iter().map(|held| held.attempt)).collect();
            self.depart(&[before], &Departure::Replaced(kept));
        }
        let (threads, memory_bytes) = (registration.threads.max(1), registration.memory_bytes.max(1));
        let session = self.fleet.begin(&self.config, self.now, worker, threads, memory_bytes);
        let known = &mut self.fleet.workers.get_mut(&worker).expect("it has a session").known;
        if !std::mem::replace(known, true) {
            self.outbox.journal(Fact::WorkerKnown(worker));
        }
        let mut kill = self.attach(worker, &registration);
        let mut adopted = Vec::new();
        for held in &registration.attempts {
            match self.adopt(session, worker, held) {
                Adoption::GoesOn(fence) => adopted.push((held.attempt, fence)),
                Adoption::Accepted => {}
                Adoption::Killed => kill.push(held.attempt),
            }
        }
        self.outbox.notice(Notice::WorkerJoined(worker));
        self.outbox.answer(reply, Answer::Registered { epoch: self.epoch, session, adopted, kill });
        self.no_longer_awaited(worker);
        for id in self.open.clone() {
            self.check_memory(id);
        }
        self.stir.all = true;
    }

    /// A worker comes back within its lease: nothing has happened.
    fn resume(&mut self, reply: ReplyId, worker: WorkerId, id: SessionId, registration: &Registration) {
        self.hear(id);
        let mut kill: Vec<AttemptId> = Vec::new();
        let mut adopted = Vec::new();
        for held in &registration.attempts {
            let live = self.jobs.get(&held.attempt.job).and_then(|job| job.live.get(&held.attempt));
            match live.filter(|live| live.session == id) {
                Some(live) => adopted.push((held.attempt, live.fence)),
                None if self.counts(held.attempt) => {}
                None => kill.push(held.attempt),
            }
        }
        kill.extend(registration.outputs_alone().filter(|attempt| !self.counts(*attempt)));
        self.outbox.notice(Notice::WorkerResumed(worker));
        self.outbox.answer(reply, Answer::Registered { epoch: self.epoch, session: id, adopted, kill });
    }

    /// Whether an attempt is the accepted one of its range, and what it gave is needed.
    fn counts(&self, attempt: AttemptId) -> bool {
        self.jobs.get(&attempt.job).is_some_and(|job| job.holds(attempt).is_some())
    }

    /// A session was heard of.
    fn hear(&mut self, id: SessionId) {
        let session = self.fleet.sessions.get_mut(&id).expect("the session lives");
        session.heard = self.now;
        if std::mem::replace(&mut session.suspect, false) {
            self.fleet.leases.set(id, Tick(self.now.0 + self.config.suspect));
            self.stir.sessions.insert(id);
        }
    }

    /// Attaches outputs that a worker has kept, and loses those that it has not. Returns those that are of no use.
    fn attach(&mut self, worker: WorkerId, registration: &Registration) -> Vec<AttemptId> {
        // What was accepted just before a restart may not have been answered: the worker still takes it for an attempt.
        let unanswered = registration.attempts.iter().map(|held| held.attempt).filter(|attempt| self.counts(*attempt));
        let mut kept: BTreeSet<_> = unanswered.collect();
        for attempt in &kept {
            self.jobs.get_mut(&attempt.job).expect("it counts").attach(*attempt, worker, None);
        }
        for HeldOutput { attempt, shards, index } in &registration.outputs {
            let job = self.jobs.get_mut(&attempt.job);
            if job.is_some_and(|job| job.attach(*attempt, worker, Some((shards, index)))) {
                kept.insert(*attempt);
            }
        }
        self.lose_outputs_of(&BTreeSet::from([worker]), &kept);
        registration.outputs_alone().filter(|attempt| !kept.contains(attempt)).collect()
    }

    fn adopt(&mut self, id: SessionId, worker: WorkerId, held: &HeldAttempt) -> Adoption {
        if self.counts(held.attempt) {
            return Adoption::Accepted;
        }
        let Some(slots) = self.room_for(id, held) else { return Adoption::Killed };
        let Some(job) = self.jobs.get_mut(&held.attempt.job) else { return Adoption::Killed };
        let (kind, range) = (held.task.kind(), held.task.range());
        // It may have been granted before records were left out of its range, and would give something else.
        let outdated = kind == TaskKind::Map && job.set_aside.iter().any(|record| range.contains(&record.shard));
        let known = job.live.contains_key(&held.attempt) || job.accepted(held.attempt).is_some();
        let open = matches!(job.stage, Stage::Working) && job.works.contains_key(&kind);
        if outdated || known || !open || !job.work(kind).carve(&range) {
            return Adoption::Killed;
        }
        job.work(kind).regain(held.attempt, worker);
        job.threads += u64::from(slots);
        let fence = self.next_fence(id);
        let live = Live {
            task: held.task.clone(),
            fence,
            worker,
            session: id,
            threads: held.threads,
            memory_bytes: held.memory_bytes,
            granted: self.now,
            listed: self.now,
            progress: Progress::default(),
            backup: false,
            ahead: slots == 0,
            terms: Terms::new(Shape::Free),
        };
        self.job(held.attempt.job).live.insert(held.attempt, live);
        let session = self.fleet.sessions.get_mut(&id).expect("the session lives");
        session.used += slots;
        session.held.insert(held.attempt, Held { slots, dying: false });
        Adoption::GoesOn(fence)
    }

    /// The threads that an attempt takes up; none if another one of its job is before it, whose threads pass to it, and nothing if there
    /// is no room.
    ///
    /// One before it may have ended without being heard: that it was accepted was told to nobody and is forgotten, but its threads had
    /// gone on to what was granted next.
    fn room_for(&self, id: SessionId, held: &HeldAttempt) -> Option<u32> {
        let session = &self.fleet.sessions[&id];
        let mut before = session.held_of(held.attempt.job);
        match (before.next(), before.next()) {
            (None, _) => {
                let memory = u128::from(held.memory_bytes) * u128::from(session.threads);
                let slots = memory.div_ceil(u128::from(session.memory_bytes)).max(u128::from(held.threads)).max(1);
                u32::try_from(slots).ok().filter(|slots| *slots <= session.free())
            }
            (Some((_, before)), None) => (before.slots > 0).then_some(0),
            (Some(_), Some(_)) => None,
        }
    }

    pub(crate) fn on_heartbeat(&mut self, reply: ReplyId, id: SessionId, attempts: &[(AttemptId, Progress)]) {
        if !self.fleet.sessions.contains_key(&id) {
            return self.outbox.answer(reply, Answer::NoSession);
        }
        self.hear(id);
        let (now, mut kill) = (self.now, Vec::new());
        for (attempt, progress) in attempts {
            let Some(job) = self.jobs.get_mut(&attempt.job) else {
                kill.push(*attempt);
                continue;
            };
            job.version += 1;
            // If it was accepted, its report waits for an answer, or the answer for the worker.
            let accepted = job.accepted(*attempt).is_some();
            match job.live.get_mut(attempt).filter(|live| live.session == id) {
                Some(live) => (live.listed, live.progress) = (now, *progress),
                None if accepted => {}
                None => kill.push(*attempt),
            }
        }
        self.miss(id, &attempts.iter().map(|(attempt, _)| *attempt).collect());
        let drain = self.fleet.sessions[&id].draining;
        // Who is told to kill learns of facts; who is not, learns nothing.
        let after = if kill.is_empty() { 0 } else { self.outbox.last() };
        self.outbox.say_after(after, Action::Answer { reply, answer: Answer::Heartbeat { kill, drain } });
    }

    /// A session did not list these attempts that it should have: they are dead, or never reached it.
    fn miss(&mut self, id: SessionId, listed: &BTreeSet<AttemptId>) {
        let held = &self.fleet.sessions[&id].held;
        let missed: Vec<_> = held.iter().filter(|(attempt, _)| !listed.contains(attempt)).map(|(id, held)| (*id, held.dying)).collect();
        for (attempt, dying) in missed {
            if dying {
                self.release(id, attempt);
                continue;
            }
            let listed = self.jobs[&attempt.job].live[&attempt].listed;
            if self.now.0 - listed.0 >= self.config.unlisted {
                let live = self.conclude(attempt, AttemptState::Ended, Some(Fault::WorkerLost.into()));
                self.release(id, attempt);
                self.requeue(attempt.job, &live.task, live.terms.clone());
            }
        }
    }

    pub(crate) fn on_drain(&mut self, reply: ReplyId, worker: WorkerId) {
        let session = self.fleet.workers.get(&worker).and_then(|worker| worker.session);
        if let Some(session) = session {
            self.fleet.drain(session);
        }
        self.outbox.answer(reply, if session.is_some() { Answer::Done } else { Answer::Unknown });
    }
}

/// What becomes of an attempt that a worker still has.
enum Adoption {
    /// It goes on, under this fence.
    GoesOn(Fence),
    /// It is the accepted one of its range; its report will be told so.
    Accepted,
    Killed,
}
