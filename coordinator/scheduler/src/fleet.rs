//! The workers and their sessions: who is there, with how much room, waiting for what.
//!
//! Owns threads, polls and what a session holds. Which task it gets is decided in `grant.rs`, how it ends in `loss.rs`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use shardmill_protocol::view::WorkerState;
use shardmill_protocol::{AttemptId, Epoch, Grant, JobId, SessionId, WorkerId};

use crate::admission::Admission;
use crate::config::Config;
use crate::event::{ReplyId, Tick};
use crate::lease::Leases;

/// A worker, as it is known beyond its sessions.
#[derive(Debug)]
pub(crate) struct Worker {
    /// The journal knows it, and a restarted coordinator waits for it.
    pub(crate) known: bool,
    /// Its session, while it has one.
    pub(crate) session: Option<SessionId>,
    /// How its last session ended.
    pub(crate) departed: WorkerState,
    pub(crate) threads: u32,
    pub(crate) memory_bytes: u64,
    pub(crate) admission: Admission,
}

impl Default for Worker {
    fn default() -> Self {
        let admission = Admission::default();
        Self { known: false, session: None, departed: WorkerState::Lost, threads: 0, memory_bytes: 0, admission }
    }
}

/// What a session holds of an attempt.
#[derive(Debug)]
pub(crate) struct Held {
    /// The threads that it takes up. An attempt that only fetches ahead takes up none until it is its turn.
    pub(crate) slots: u32,
    /// It is being killed. Its threads are free when the worker no longer lists it.
    pub(crate) dying: bool,
}

/// A worker's wish for a task.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(crate) ahead: bool,
    /// Who waits: all of them for the same grant.
    pub(crate) replies: Vec<ReplyId>,
}

/// One registration of a worker.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) worker: WorkerId,
    pub(crate) threads: u32,
    pub(crate) memory_bytes: u64,
    pub(crate) used: u32,
    pub(crate) heard: Tick,
    pub(crate) suspect: bool,
    pub(crate) draining: bool,
    pub(crate) wish: Option<Wish>,
    /// The number of the next grant.
    pub(crate) next: u64,
    /// The last grant, and the fact that it rests on: for a worker that did not get the answer.
    pub(crate) last: Option<(Box<Grant>, u64)>,
    pub(crate) held: BTreeMap<AttemptId, Held>,
}

impl Session {
    /// Threads that are free.
    pub(crate) fn free(&self) -> u32 {
        self.threads - self.used
    }

    /// The attempts of a job that it holds.
    pub(crate) fn held_of(&self, job: JobId) -> impl Iterator<Item = (&AttemptId, &Held)> {
        let first = AttemptId { job, epoch: Epoch(0), number: 0 };
        let last = AttemptId { job, epoch: Epoch(u64::MAX), number: u64::MAX };
        self.held.range(first..=last)
    }

    /// Whether it may be given tasks.
    pub(crate) fn takes_tasks(&self) -> bool {
        !self.suspect && !self.draining
    }
}

/// All workers and sessions.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    pub(crate) workers: BTreeMap<WorkerId, Worker>,
    pub(crate) sessions: BTreeMap<SessionId, Session>,
    pub(crate) leases: Leases,
    /// Sessions that wait for a task.
    pub(crate) idle: BTreeSet<SessionId>,
    /// The replies by which they wait.
    pub(crate) polls: BTreeMap<ReplyId, SessionId>,
    /// Threads of the sessions that are not being drained.
    pub(crate) threads: u64,
    /// Workers without a session, in the order in which they went.
    departed: VecDeque<WorkerId>,
    /// The last session.
    made: u64,
}

impl Fleet {
    /// Sessions are numbered across epochs: an old one must not be taken for another worker's new one.
    pub(crate) fn enter(&mut self, epoch: Epoch) {
        self.made = epoch.0 << 32;
    }

    /// Begins a session.
    pub(crate) fn begin(&mut self, config: &Config, now: Tick, worker: WorkerId, threads: u32, memory_bytes: u64) -> SessionId {
        self.made += 1;
        let id = SessionId(self.made);
        let known = self.workers.entry(worker).or_default();
        assert!(known.session.is_none(), "a worker has one session at most");
        (known.session, known.threads, known.memory_bytes) = (Some(id), threads, memory_bytes);
        let session = Session {
            worker,
            threads,
            memory_bytes,
            used: 0,
            heard: now,
            suspect: false,
            draining: false,
            wish: None,
            next: 0,
            last: None,
            held: BTreeMap::new(),
        };
        self.sessions.insert(id, session);
        self.leases.set(id, Tick(now.0 + config.suspect));
        self.threads += u64::from(threads);
        id
    }

    /// Ends a session, and remembers its worker for a while.
    pub(crate) fn end(&mut self, id: SessionId, how: WorkerState, remembered: usize) -> Option<Session> {
        let session = self.sessions.remove(&id)?;
        self.leases.remove(id);
        self.idle.remove(&id);
        for reply in session.wish.iter().flat_map(|wish| &wish.replies) {
            self.polls.remove(reply);
        }
        if !session.draining {
            self.threads -= u64::from(session.threads);
        }
        let worker = self.workers.get_mut(&session.worker).expect("a session has a worker");
        (worker.session, worker.departed) = (None, how);
        self.departed.push_back(session.worker);
        if self.departed.len() > remembered {
            let oldest = self.departed.pop_front().expect("it is longer than that");
            if self.workers.get(&oldest).is_some_and(|worker| worker.session.is_none() && !worker.known) {
                self.workers.remove(&oldest);
            }
        }
        Some(session)
    }

    /// Takes no more tasks for a session. Returns whether that is new.
    pub(crate) fn drain(&mut self, id: SessionId) -> bool {
        let session = self.sessions.get_mut(&id).expect("the session lives");
        let new = !std::mem::replace(&mut session.draining, true);
        if new {
            self.threads -= u64::from(session.threads);
        }
        new
    }

    /// Whether a worker has a session.
    pub(crate) fn lives(&self, worker: WorkerId) -> bool {
        self.workers.get(&worker).is_some_and(|worker| worker.session.is_some())
    }

    /// The most memory that a worker has.
    pub(crate) fn most_memory(&self) -> u64 {
        self.sessions.values().map(|session| session.memory_bytes).max().unwrap_or(0)
    }
}
