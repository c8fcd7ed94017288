//! Granting: who gets what next. Ranges are formed here, when they are granted.
//!
//! A worker that asks is given to the job that has the fewest threads in use. It gets a part of what is pending that would keep
//! all threads busy for a while, and smaller ones towards the end (guided self-scheduling): tasks are few, and workers finish together.

use shardmill_protocol::task::{SetAside, TaskKind};
use shardmill_protocol::{AttemptId, Fence, Grant, JobId, SessionId, Task, WorkerId};

use crate::action::{Action, Answer, Notice};
use crate::attempt::Live;
use crate::event::{ReplyId, Tick};
use crate::fleet::{Held, Wish};
use crate::job::Job;
use crate::pending::{Shape, Terms};
use crate::range::{cut, level, task_of};
use crate::scheduler::{Scheduler, millis};
use crate::share::{Need, Share};

/// So many attempts of a job are weighed, at most, when a task is cut.
const WEIGHED: usize = 64;

/// A task about to be granted.
pub(crate) struct Choice {
    pub(crate) task: Task,
    pub(crate) share: Share,
    pub(crate) terms: Terms,
    pub(crate) backup: bool,
    pub(crate) ahead: bool,
}

impl Scheduler {
    pub(crate) fn on_next_task(&mut self, reply: ReplyId, id: SessionId, number: u64, ahead: bool) {
        let Some(session) = self.fleet.sessions.get_mut(&id) else {
            return self.outbox.answer(reply, Answer::NoSession);
        };
        if number == session.next {
            let wish = session.wish.get_or_insert(Wish { ahead, replies: Vec::new() });
            wish.ahead = ahead;
            wish.replies.push(reply);
            self.fleet.polls.insert(reply, id);
            self.fleet.idle.insert(id);
            self.stir.sessions.insert(id);
            return;
        }
        match &session.last {
            Some((grant, gate)) if number + 1 == session.next => {
                let answer = Answer::Grant(grant.clone());
                self.outbox.say_after(*gate, Action::Answer { reply, answer });
            }
            // A number that was never asked for in turn: whoever asks is out of step, and no grant could be right.
            Some(_) | None => self.outbox.answer(reply, Answer::Unknown),
        }
    }

    pub(crate) fn on_poll_closed(&mut self, reply: ReplyId) {
        self.outbox.forget(reply);
        let Some(id) = self.fleet.polls.remove(&reply) else { return };
        let session = self.fleet.sessions.get_mut(&id).expect("idle sessions live");
        let wish = session.wish.as_mut().expect("an idle session wishes");
        wish.replies.retain(|waits| *waits != reply);
        if wish.replies.is_empty() {
            session.wish = None;
            self.fleet.idle.remove(&id);
        }
    }

    /// Grants what can be granted to those who may have become able to take it.
    pub(crate) fn dispatch(&mut self) {
        let stir = std::mem::take(&mut self.stir);
        if self.recovery.is_some() {
            return;
        }
        if !stir.all {
            for id in stir.sessions {
                self.serve(id);
            }
            return;
        }
        let mut after = SessionId(0);
        while self.anything_ready()
            && let Some(id) = self.fleet.idle.range(SessionId(after.0 + 1)..).next().copied()
        {
            self.serve(id);
            after = id;
        }
    }

    fn anything_ready(&mut self) -> bool {
        let (now, jobs) = (self.now, &mut self.jobs);
        self.open.iter().any(|id| jobs.get_mut(id).is_some_and(|job| job.has_ready(now)))
    }

    /// Grants something to a session that waits, if there is anything for it.
    fn serve(&mut self, id: SessionId) {
        let Some(session) = self.fleet.sessions.get(&id).filter(|session| session.wish.is_some() && session.takes_tasks()) else {
            return;
        };
        let ahead = session.wish.as_ref().is_some_and(|wish| wish.ahead);
        let granted = session.free() > 0 && self.serve_free(id);
        if !granted && ahead {
            self.serve_ahead(id);
        }
    }

    /// Grants a task to free threads. Returns whether it did.
    fn serve_free(&mut self, id: SessionId) -> bool {
        let (now, session) = (self.now, &self.fleet.sessions[&id]);
        let worker = session.worker;
        let mut candidates = Vec::new();
        for id in &self.open {
            let job = self.jobs.get_mut(id).expect("open jobs are known");
            if job.has_ready(now) && !job.shuts_out(worker, now) && session.held_of(job.id()).next().is_none() {
                candidates.push((job.threads, job.last_grant, job.id()));
            }
        }
        candidates.sort_unstable();
        let wanted = session.free().div_ceil(candidates.len().max(1) as u32);
        // Threads that a job can count on in all, as a measure for the size of its tasks.
        let rivals = candidates.len().max(1) as u64;
        let threads = (self.fleet.threads / rivals).max(u64::from(wanted));
        for (_, _, job) in candidates {
            if let Some(choice) = self.choose(id, job, wanted, threads) {
                self.grant(id, job, choice);
                return true;
            }
        }
        false
    }

    fn choose(&mut self, id: SessionId, job: JobId, wanted: u32, threads: u64) -> Option<Choice> {
        let (now, session) = (self.now, &self.fleet.sessions[&id]);
        let most_memory = || self.fleet.most_memory();
        let job = self.jobs.get_mut(&job)?;
        let kind = job.at()?;
        let thread_memory_bytes = job.thread_memory(kind);
        let running = job.running_weight(kind, now);
        let work = job.work(kind);
        let (range, share) = work.pending().ready_for(session.worker, now).find_map(|(piece, terms)| {
            let wanted = if terms.shape == Shape::Alone && kind == TaskKind::Map { 1 } else { wanted };
            // Whoever had the memory that was asked for may have left since.
            let memory_bytes = if terms.memory_bytes > 0 { terms.memory_bytes.min(most_memory()) } else { 0 };
            let need = Need { thread_memory_bytes, memory_bytes };
            let share = Share::of(session, wanted, need)?;
            let end = match terms.shape {
                Shape::Whole | Shape::Alone => piece.end,
                Shape::Tried | Shape::Free => cut(work, kind, &piece, share, threads, level(work, share, threads, running), &self.config),
            };
            let units = end - piece.start;
            // One unit keeps one thread busy; listing and planning look after themselves.
            let idle = units < share.threads && !matches!(kind, TaskKind::Draft | TaskKind::Plan);
            let share = if idle { Share::of(session, units, need)? } else { share };
            Some((piece.start..end, share))
        })?;
        let terms = work.take(&range);
        Some(Choice { task: task_of(kind, range), share, terms, backup: false, ahead: false })
    }

    /// Grants a busy worker the reduce task that it would run next, so that it can fetch while it computes; only while there is
    /// plenty, as whoever fetches ahead holds what others could begin.
    fn serve_ahead(&mut self, id: SessionId) {
        let (now, session) = (self.now, &self.fleet.sessions[&id]);
        let threads = self.fleet.threads;
        let running = session.held.iter().filter(|(attempt, held)| {
            let alone = session.held_of(attempt.job).count() == 1;
            held.slots > 0 && !held.dying && alone && self.open.contains(&attempt.job)
        });
        let found = running.map(|(attempt, held)| (*attempt, held.slots)).find_map(|(attempt, slots)| {
            let job = self.jobs.get_mut(&attempt.job).expect("it is open");
            let plenty = job.at() == Some(TaskKind::Reduce) && job.work(TaskKind::Reduce).pending().units() >= 2 * threads;
            if !plenty || job.shuts_out(session.worker, now) || !job.has_ready(now) {
                return None;
            }
            let before = job.live.get(&attempt).filter(|live| live.task.kind() == TaskKind::Reduce)?;
            let share = Share { slots, threads: before.threads, memory_bytes: before.memory_bytes };
            let running = job.running_weight(TaskKind::Reduce, now);
            let work = &job.works[&TaskKind::Reduce];
            // It still has this to do, and is not to be waited for in the end.
            let left = work.left_of(std::iter::once((before.task.range(), millis(now, before.granted))));
            let level = level(work, share, threads, running).checked_sub(left).filter(|level| *level > 0)?;
            let (piece, _) = work.pending().ready_for(session.worker, now).find(|(_, terms)| terms.shape == Shape::Free)?;
            let end = cut(work, TaskKind::Reduce, &piece, share, threads, level, &self.config);
            Some((attempt.job, piece.start..end, share))
        });
        if let Some((id_of_job, range, share)) = found {
            let terms = self.job(id_of_job).work(TaskKind::Reduce).take(&range);
            let share = Share { slots: 0, ..share };
            self.grant(id, id_of_job, Choice { task: Task::Reduce(range), share, terms, backup: false, ahead: true });
        }
    }

    /// Grants a task to a session that waits for one.
    pub(crate) fn grant(&mut self, id: SessionId, job: JobId, choice: Choice) {
        self.attempts += 1;
        let attempt = AttemptId { job, epoch: self.epoch, number: self.attempts };
        let fence = self.next_fence(id);
        let (now, grants) = (self.now, self.grants);
        let job = self.job(job);
        assert!(!job.has_ended(), "nothing is granted of a job that has ended");
        let kind = choice.task.kind();
        let mapped = job.works.get(&TaskKind::Map).is_some_and(|map| map.is_complete());
        assert!(kind != TaskKind::Reduce || mapped, "reduce is granted only when every shard is mapped");
        let list = if kind == TaskKind::Reduce { job.list } else { None };
        let grant = Box::new(Grant {
            attempt,
            fence,
            task: choice.task.clone(),
            threads: choice.share.threads,
            memory_bytes: choice.share.memory_bytes,
            inputs: job.inputs(kind),
            set_aside: job.set_aside_in(&choice.task),
            list,
        });
        (job.last_grant, job.threads) = (grants, job.threads + u64::from(choice.share.slots));
        job.version += 1;
        let gate = job.gate;
        let worker = self.fleet.sessions[&id].worker;
        let live = Live {
            task: choice.task,
            fence,
            worker,
            session: id,
            threads: choice.share.threads,
            memory_bytes: choice.share.memory_bytes,
            granted: now,
            listed: now,
            progress: Default::default(),
            backup: choice.backup,
            ahead: choice.ahead,
            terms: choice.terms,
        };
        self.job(attempt.job).live.insert(attempt, live);
        self.hand_out(id, attempt, choice.share.slots, choice.backup, grant, gate);
    }

    fn hand_out(&mut self, id: SessionId, attempt: AttemptId, slots: u32, backup: bool, grant: Box<Grant>, gate: u64) {
        let session = self.fleet.sessions.get_mut(&id).expect("the session waits");
        session.used += slots;
        assert!(session.used <= session.threads, "a worker has so many threads and no more");
        session.held.insert(attempt, Held { slots, dying: false });
        session.next += 1;
        session.last = Some((grant.clone(), gate));
        let (worker, wish) = (session.worker, session.wish.take());
        self.fleet.idle.remove(&id);
        self.outbox.say_after(gate, Action::Notice(Notice::Granted(grant.clone(), worker, backup)));
        for reply in wish.into_iter().flat_map(|wish| wish.replies) {
            self.fleet.polls.remove(&reply);
            let answer = Answer::Grant(grant.clone());
            self.outbox.say_after(gate, Action::Answer { reply, answer });
        }
    }

    /// The next fence for a session.
    pub(crate) fn next_fence(&mut self, session: SessionId) -> Fence {
        self.grants += 1;
        Fence { epoch: self.epoch, session, grant: self.grants }
    }
}

impl Job {
    /// The least memory for a thread in a phase.
    pub(crate) fn thread_memory(&self, kind: TaskKind) -> u64 {
        match kind {
            TaskKind::Map | TaskKind::Reduce => self.plan.as_ref().map_or(0, |plan| plan.thread_memory_bytes),
            TaskKind::Draft | TaskKind::Survey | TaskKind::Plan => 0,
        }
    }

    /// What the attempts of a kind have left, by the pace so far. It is nothing while there are many: then tasks are small beside all that is
    /// pending, and a grant must not take long.
    fn running_weight(&self, kind: TaskKind, now: Tick) -> u64 {
        if self.live.len() > WEIGHED {
            return 0;
        }
        let of_kind = self.live.values().filter(|live| live.task.kind() == kind && !live.backup && !live.ahead);
        self.works[&kind].left_of(of_kind.map(|live| (live.task.range(), millis(now, live.granted))))
    }

    /// Records that a map task leaves out.
    fn set_aside_in(&self, task: &Task) -> Vec<SetAside> {
        match task {
            Task::Map(range) => {
                let first_of = |shard| SetAside { shard, record: 0 };
                self.set_aside.range(first_of(range.start)..first_of(range.end)).copied().collect()
            }
            Task::Draft | Task::Survey(_) | Task::Plan | Task::Reduce(_) => Vec::new(),
        }
    }

    /// Whether a worker gets nothing of this job, for now or at all.
    pub(crate) fn shuts_out(&self, worker: WorkerId, now: Tick) -> bool {
        self.standings.get(&worker).is_some_and(|standing| standing.out || now < standing.until)
    }

    /// The first time from now on at which a piece or a worker that has to wait need no longer do so.
    pub(crate) fn next_change(&self, now: Tick) -> Option<Tick> {
        let work = self.at().and_then(|kind| self.works.get(&kind));
        let pieces = work.and_then(|work| work.pending().next_change(now));
        let workers = self.standings.values().map(|standing| standing.until).filter(|until| *until > now).min();
        pieces.into_iter().chain(workers).min()
    }
}
