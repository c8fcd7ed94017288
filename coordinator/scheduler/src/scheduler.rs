//! The scheduler: its state, and which part of it each event is for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use shardmill_protocol::view::{AttemptState, JobPhase};
use shardmill_protocol::{AttemptId, Epoch, Failure, JobId, SessionId};

use crate::action::{Action, Answer, CancelAnswer, Notice};
use crate::attempt::{Live, Past};
use crate::config::Config;
use crate::event::{Event, ReplyId, Submission, Tick};
use crate::fact::{Ending, Fact};
use crate::fleet::Fleet;
use crate::job::{Job, Stage};
use crate::outbox::Outbox;
use crate::recover::Recovery;

/// Who may have become able to take a task.
#[derive(Debug, Default)]
pub(crate) struct Stir {
    /// There is new work: everybody.
    pub(crate) all: bool,
    /// These have asked, or have threads again.
    pub(crate) sessions: BTreeSet<SessionId>,
}

/// The state of a coordinator. See the crate's page for what can be asked of it.
#[derive(Debug)]
pub struct Scheduler {
    pub(crate) config: Config,
    pub(crate) epoch: Epoch,
    pub(crate) now: Tick,
    pub(crate) outbox: Outbox,
    pub(crate) fleet: Fleet,
    pub(crate) jobs: BTreeMap<JobId, Job>,
    pub(crate) keys: BTreeMap<String, JobId>,
    /// Jobs that have not ended.
    pub(crate) open: BTreeSet<JobId>,
    /// Ended jobs whose attempts are being killed, and until when that is waited for.
    pub(crate) sweeping: BTreeSet<(Tick, JobId)>,
    /// Ended jobs of which nothing is left, in the order in which they were swept.
    pub(crate) swept: VecDeque<JobId>,
    pub(crate) recovery: Option<Recovery>,
    pub(crate) stir: Stir,
    /// When a piece or a worker that has to wait need no longer do so.
    next_change: Option<Tick>,
    /// Attempts made in this epoch.
    pub(crate) attempts: u64,
    /// Grants made in this epoch, adoptions included.
    pub(crate) grants: u64,
    /// When stragglers are looked for next.
    pub(crate) next_look: Tick,
}

impl Scheduler {
    /// A scheduler to which nothing has ever happened. [`start`](Self::start) comes next.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            epoch: Epoch(0),
            now: Tick::default(),
            outbox: Outbox::default(),
            fleet: Fleet::default(),
            jobs: BTreeMap::new(),
            keys: BTreeMap::new(),
            open: BTreeSet::new(),
            sweeping: BTreeSet::new(),
            swept: VecDeque::new(),
            recovery: None,
            stir: Stir::default(),
            next_change: None,
            attempts: 0,
            grants: 0,
            next_look: Tick::default(),
        }
    }

    /// Takes an event, and returns what is to be done about it, in order.
    ///
    /// # Panics
    /// If time goes backwards, or a fact is said to be synced that was never journaled.
    pub fn handle(&mut self, now: Tick, event: Event) -> Vec<Action> {
        assert!(now >= self.now, "time only goes forward");
        self.now = now;
        // Any event may be the first after that time.
        self.stir.all |= self.next_change.is_some_and(|at| at <= now);
        match event {
            Event::Submit { reply, submission } => self.on_submit(reply, submission),
            Event::Cancel { reply, job } => self.on_cancel(reply, job),
            Event::Register { reply, worker, registration } => self.on_register(reply, worker, registration),
            Event::Heartbeat { reply, session, attempts } => self.on_heartbeat(reply, session, &attempts),
            Event::NextTask { reply, session, number, ahead } => self.on_next_task(reply, session, number, ahead),
            Event::PollClosed { reply } => self.on_poll_closed(reply),
            Event::Report { reply, session, attempt, fence, result } => self.on_report(reply, session, attempt, fence, result),
            Event::FetchTrouble { session, output, damaged } => self.on_fetch_trouble(session, output, damaged),
            Event::Drain { reply, worker } => self.on_drain(reply, worker),
            Event::Leave { reply, session } => self.on_leave(reply, session),
            Event::Synced { fact } => self.outbox.synced(fact),
            Event::Weights { job, shard_bytes } => self.on_weights(job, shard_bytes),
            Event::Assembled { job, manifest } => self.on_assembled(job, manifest),
            Event::Revealed { job, result } => self.on_revealed(job, result),
            Event::Swept { job } => self.on_swept(job),
            Event::Tick => self.on_tick(),
        }
        self.dispatch();
        // While nothing is granted, nothing waits but for that to be over.
        let open = self.open.iter().filter(|_| self.recovery.is_none());
        self.next_change = open.filter_map(|job| self.jobs[job].next_change(now)).min();
        self.outbox.take()
    }

    /// When [`Event::Tick`] is due, if time alone will change something. After a tick, that is later than it.
    pub fn next_deadline(&self) -> Option<Tick> {
        let recovery = self.recovery.as_ref().map(|recovery| recovery.until);
        let sweep = self.sweeping.first().map(|(at, _)| *at);
        let look = self.may_look_for_stragglers().then_some(self.next_look);
        [recovery, sweep, look, self.next_change, self.fleet.leases.next()].into_iter().flatten().min()
    }

    fn on_tick(&mut self) {
        self.expire_leases();
        self.end_recovery_if_due();
        self.stop_waiting_for_kills();
        self.stir.all = true;
        // First what nobody is at yet.
        self.dispatch();
        self.back_up_stragglers();
    }

    fn on_submit(&mut self, reply: ReplyId, submission: Submission) {
        let known = self.keys.get(&submission.key).copied().or(self.jobs.contains_key(&submission.job).then_some(submission.job));
        if let Some(job) = known {
            return self.outbox.answer(reply, Answer::Submitted { job, new: false });
        }
        if let Some(by) = self.claimant(&submission.output) {
            return self.outbox.answer(reply, Answer::OutputClaimed { by });
        }
        let job = submission.job;
        let gate = self.outbox.journal(Fact::Submitted(submission.clone()));
        self.admit(submission, gate);
        self.outbox.answer(reply, Answer::Submitted { job, new: true });
        self.outbox.notice(Notice::Phase(job, JobPhase::Planning));
        self.stir.all = true;
    }

    /// Adds a job.
    pub(crate) fn admit(&mut self, submission: Submission, gate: u64) {
        let id = submission.job;
        self.keys.insert(submission.key.clone(), id);
        self.open.insert(id);
        self.jobs.insert(id, Job::new(submission, self.now, gate));
    }

    fn on_cancel(&mut self, reply: ReplyId, id: JobId) {
        let answer = match self.jobs.get(&id).map(|job| &job.stage) {
            None => Answer::Unknown,
            Some(Stage::Working | Stage::Assembling) => {
                self.end_job(id, Ending::Cancelled);
                Answer::Cancel(CancelAnswer::Cancelling)
            }
            Some(Stage::Committed(_)) => Answer::Cancel(CancelAnswer::TooLate),
            Some(Stage::Ended(ended)) => Answer::Cancel(match ended.ending {
                Ending::Cancelled => CancelAnswer::Cancelling,
                Ending::Succeeded | Ending::Failed(_) => CancelAnswer::Ended,
            }),
        };
        self.outbox.answer(reply, answer);
    }

    /// A job that works on.
    pub(crate) fn job(&mut self, id: JobId) -> &mut Job {
        self.jobs.get_mut(&id).expect("the job is known")
    }

    /// Takes an attempt out of those that live.
    pub(crate) fn conclude(&mut self, attempt: AttemptId, state: AttemptState, failure: Option<Failure>) -> Live {
        let (now, remembered) = (self.now, self.config.remembered_attempts);
        let job = self.job(attempt.job);
        let live = job.live.remove(&attempt).expect("the attempt lives");
        let past = Past {
            attempt,
            task: live.task.clone(),
            worker: live.worker,
            state,
            backup: live.backup,
            threads: live.threads,
            elapsed_ms: millis(now, live.granted),
            progress: live.progress,
            bytes: job.works.get(&live.task.kind()).map_or(0, |work| work.bytes(&live.task.range())),
            failure: failure.clone(),
        };
        job.past.push(past, remembered);
        job.version += 1;
        if let Some(failure) = failure {
            self.outbox.notice(Notice::Ended(attempt, live.worker, Box::new(failure)));
        }
        live
    }

    /// A worker no longer has an attempt: its threads are free, or pass to the one that has fetched ahead.
    pub(crate) fn release(&mut self, id: SessionId, attempt: AttemptId) {
        let Some(session) = self.fleet.sessions.get_mut(&id) else { return };
        let Some(held) = session.held.remove(&attempt) else { return };
        let heir = session.held_of(attempt.job).find(|(_, held)| held.slots == 0 && !held.dying).map(|(heir, _)| *heir);
        // A job that ended long ago may be forgotten, though a worker could not kill what it ran.
        let Some(job) = self.jobs.get_mut(&attempt.job) else {
            session.used -= held.slots;
            return;
        };
        if !held.dying {
            job.threads -= u64::from(held.slots);
        }
        match heir.filter(|_| held.slots > 0) {
            Some(heir) => {
                session.held.get_mut(&heir).expect("it was found there").slots = held.slots;
                job.threads += u64::from(held.slots);
                job.live.get_mut(&heir).expect("it is not dying").ahead = false;
            }
            None => session.used -= held.slots,
        }
        self.stir.sessions.insert(id);
        if held.dying {
            job.dying -= 1;
            self.sweep_if_quiet(attempt.job);
        }
    }

    /// A worker is to kill an attempt: it learns so from its next heartbeat, and its threads are free when it no longer lists it.
    pub(crate) fn kill(&mut self, id: SessionId, attempt: AttemptId) {
        let Some(held) = self.fleet.sessions.get_mut(&id).and_then(|session| session.held.get_mut(&attempt)) else { return };
        assert!(!std::mem::replace(&mut held.dying, true), "an attempt is killed once");
        let slots = u64::from(held.slots);
        let job = self.job(attempt.job);
        job.threads -= slots;
        job.dying += 1;
    }
}

/// Milliseconds from one time to another.
pub(crate) fn millis(now: Tick, since: Tick) -> u64 {
    u64::try_from(now.0.saturating_sub(since.0).as_millis()).unwrap_or(u64::MAX)
}
