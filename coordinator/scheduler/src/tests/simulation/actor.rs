//! A worker of the simulation: what it holds, and what it says. It is as simple as a correct worker can be.

use std::collections::BTreeMap;
use std::ops::Range;

use shardmill_protocol::process::Progress;
use shardmill_protocol::{AttemptId, Digest, Epoch, Failure, Fence, Grant, JobId, Outcome, SessionId, Task, WorkerId};

use crate::{Answer, HeldAttempt, HeldOutput, Registration};

/// What a worker asks the coordinator.
#[derive(Clone, Debug)]
pub(super) enum Call {
    Register(Registration),
    Heartbeat(SessionId, Vec<(AttemptId, Progress)>),
    NextTask(SessionId, u64, bool),
    Report(SessionId, AttemptId, Fence, Result<Outcome, Failure>),
    FetchTrouble(SessionId, AttemptId, bool),
    Leave(SessionId),
}

/// An attempt that a worker holds.
#[derive(Clone, Debug)]
pub(super) struct Holding {
    pub(super) task: Task,
    pub(super) threads: u32,
    pub(super) memory_bytes: u64,
    pub(super) fence: Fence,
    pub(super) list: Option<Digest>,
    pub(super) set_aside: Vec<shardmill_protocol::task::SetAside>,
    /// Milliseconds of work that are left.
    pub(super) left: u64,
    pub(super) result: Option<Result<Outcome, Failure>>,
    pub(super) told: Option<u64>,
    pub(super) fetches: u32,
}

#[derive(Debug)]
pub(super) struct Actor {
    pub(super) id: WorkerId,
    pub(super) threads: u32,
    pub(super) memory_bytes: u64,
    /// Counts its starts; zero-based. What was said to an earlier one is not heard.
    pub(super) life: u64,
    /// When it is started again, while it is dead.
    pub(super) dead_until: Option<u64>,
    /// When it goes on, while it is stopped.
    pub(super) stopped_until: Option<u64>,
    /// Requests, or answers, are lost until then.
    pub(super) deaf_until: u64,
    pub(super) mute_until: u64,
    pub(super) session: Option<(Epoch, SessionId)>,
    /// The session that it would resume.
    pub(super) before: Option<(Epoch, SessionId)>,
    pub(super) epoch: Epoch,
    pub(super) registering: Option<u64>,
    pub(super) number: u64,
    pub(super) poll: Option<u64>,
    pub(super) beat: u64,
    pub(super) leaving: bool,
    pub(super) attempts: BTreeMap<AttemptId, Holding>,
    pub(super) outputs: BTreeMap<AttemptId, (Range<u32>, Digest)>,
    /// Attempts that it cannot kill: it lists them for ever.
    pub(super) stuck: Vec<AttemptId>,
}

impl Actor {
    pub(super) fn new(id: u128, threads: u32) -> Self {
        Self {
            id: WorkerId(id),
            threads,
            memory_bytes: u64::from(threads) << 30,
            life: 0,
            dead_until: None,
            stopped_until: None,
            deaf_until: 0,
            mute_until: 0,
            session: None,
            before: None,
            epoch: Epoch(0),
            registering: None,
            number: 0,
            poll: None,
            beat: 0,
            leaving: false,
            attempts: BTreeMap::new(),
            outputs: BTreeMap::new(),
            stuck: Vec::new(),
        }
    }

    pub(super) fn runs(&self) -> bool {
        self.dead_until.is_none() && self.stopped_until.is_none()
    }

    /// It dies; what is on its disk stays.
    pub(super) fn die(&mut self, until: u64) {
        (self.dead_until, self.stopped_until) = (Some(until), None);
        self.life += 1;
        (self.session, self.before, self.registering, self.poll) = (None, None, None, None);
        self.attempts.clear();
        self.stuck.clear();
        self.leaving = false;
    }

    /// What it wants to say now.
    pub(super) fn speak(&mut self, now: u64) -> Vec<Call> {
        let mut calls = Vec::new();
        let Some((_, session)) = self.session else {
            if self.registering.is_none_or(|since| now >= since + 3000) {
                self.registering = Some(now);
                calls.push(Call::Register(self.registration()));
            }
            return calls;
        };
        if now >= self.beat + 1000 {
            self.beat = now;
            let held = self.attempts.keys().chain(&self.stuck).map(|attempt| (*attempt, Progress::default()));
            calls.push(Call::Heartbeat(session, held.collect()));
        }
        if !self.leaving && self.poll.is_none_or(|since| now >= since + 8000) {
            self.poll = Some(now);
            let used: u32 = self.attempts.values().map(|held| held.threads).sum();
            calls.push(Call::NextTask(session, self.number, used >= self.threads));
        }
        for (attempt, held) in &mut self.attempts {
            if let Some(result) = &held.result
                && held.told.is_none_or(|told| now >= told + 2000)
            {
                held.told = Some(now);
                calls.push(Call::Report(session, *attempt, held.fence, result.clone()));
            }
        }
        if self.leaving && self.attempts.is_empty() {
            calls.push(Call::Leave(session));
        }
        calls
    }

    fn registration(&self) -> Registration {
        let attempts = self.attempts.iter().map(|(attempt, held)| HeldAttempt {
            attempt: *attempt,
            task: held.task.clone(),
            threads: held.threads,
            memory_bytes: held.memory_bytes,
        });
        Registration {
            threads: self.threads,
            memory_bytes: self.memory_bytes,
            resumes: self.before.filter(|(epoch, _)| *epoch == self.epoch).map(|(_, session)| session),
            attempts: attempts.collect(),
            outputs: self.kept().collect(),
        }
    }

    /// The outputs that it keeps: what is sealed even before it counts.
    fn kept(&self) -> impl Iterator<Item = HeldOutput> {
        let counting = self.outputs.iter().map(|(attempt, (shards, index))| (*attempt, shards.clone(), *index));
        let sealed = self.attempts.iter().filter_map(|(attempt, held)| match &held.result {
            Some(Ok(Outcome::Mapped { index, .. })) => Some((*attempt, held.task.range(), *index)),
            _ => None,
        });
        counting.chain(sealed).map(|(attempt, shards, index)| HeldOutput { attempt, shards, index })
    }

    /// Which attempts compute: one for each job, the oldest.
    pub(super) fn computing(&self) -> Vec<AttemptId> {
        let mut jobs: BTreeMap<JobId, AttemptId> = BTreeMap::new();
        for (attempt, held) in &self.attempts {
            if held.result.is_none() {
                jobs.entry(attempt.job).or_insert(*attempt);
            }
        }
        jobs.into_values().collect()
    }

    /// Hears an answer to something that it asked.
    pub(super) fn hear(&mut self, call: &Call, answer: Answer, work: u64) {
        match (call, answer) {
            (Call::Register(_), Answer::Registered { epoch, session, adopted, kill }) => {
                // A worker never obeys a lower epoch, and an answer that comes when it has registered is stale.
                if epoch < self.epoch || self.session.is_some() {
                    return;
                }
                if self.before != Some((epoch, session)) {
                    self.number = 0;
                }
                self.epoch = epoch;
                (self.session, self.before) = (Some((epoch, session)), Some((epoch, session)));
                (self.registering, self.poll) = (None, None);
                for (attempt, fence) in adopted {
                    assert!(!kill.contains(&attempt), "{attempt} is to go on and to be killed");
                    if let Some(held) = self.attempts.get_mut(&attempt) {
                        (held.fence, held.told) = (fence, None);
                    }
                }
                self.remove(&kill);
            }
            (Call::Register(_), Answer::RegisterLater(_)) => {}
            (Call::Heartbeat(session, _), Answer::Heartbeat { kill, drain }) if self.is(*session) => {
                self.remove(&kill);
                self.leaving |= drain;
            }
            (Call::NextTask(session, number, _), Answer::Grant(grant)) if self.is(*session) && *number == self.number => {
                (self.number, self.poll) = (self.number + 1, None);
                self.take(*grant, work);
            }
            (Call::Report(_, attempt, _, result), Answer::Accepted) => {
                if let (Ok(Outcome::Mapped { index, .. }), Some(held)) = (result, self.attempts.remove(attempt)) {
                    self.outputs.insert(*attempt, (held.task.range(), *index));
                }
            }
            // A refusal of what was adopted meanwhile is stale.
            (Call::Report(_, attempt, fence, _), Answer::Rejected | Answer::Noted)
                if self.attempts.get(attempt).is_some_and(|held| held.fence == *fence) =>
            {
                self.attempts.remove(attempt);
            }
            (Call::Leave(session), Answer::Done) if self.is(*session) => self.outputs.clear(),
            (Call::Heartbeat(session, _) | Call::NextTask(session, ..), Answer::NoSession) if self.is(*session) => {
                (self.session, self.poll) = (None, None);
            }
            // Stale: of a session that is over.
            _ => {}
        }
    }

    fn is(&self, session: SessionId) -> bool {
        self.session.is_some_and(|(_, current)| current == session)
    }

    fn remove(&mut self, attempts: &[AttemptId]) {
        for attempt in attempts {
            self.attempts.remove(attempt);
            self.outputs.remove(attempt);
        }
    }

    fn take(&mut self, grant: Grant, work: u64) {
        let held = Holding {
            task: grant.task,
            threads: grant.threads,
            memory_bytes: grant.memory_bytes,
            fence: grant.fence,
            list: grant.list,
            set_aside: grant.set_aside,
            left: work,
            result: None,
            told: None,
            fetches: 0,
        };
        self.attempts.insert(grant.attempt, held);
    }

    /// Whether an output can be read there.
    pub(super) fn serves(&self, output: AttemptId) -> bool {
        self.runs() && self.kept().any(|kept| kept.attempt == output)
    }
}
