//! The end of a job: publishing, failing, cancelling, and sweeping what is left.
//!
//! ```text
//! all partitions done ─▶ Assemble ─▶ `commit begun` ─▶ Reveal ─▶ ended ─▶ Sweep ─▶ swept
//! ```
//! Each arrow waits until the fact before it is on the disk, and each action may be repeated after a restart.

use shardmill_protocol::view::AttemptState;
use shardmill_protocol::{Digest, Fault, JobId};

use crate::action::{Action, Notice};
use crate::event::{PublishResult, Tick};
use crate::fact::{Ending, Fact, Failed};
use crate::job::{Ended, Job, Stage, Sweep};
use crate::scheduler::Scheduler;
use crate::view::phases;

impl Scheduler {
    /// All partitions are done: nothing else of the job is needed any more.
    pub(crate) fn assemble(&mut self, id: JobId) {
        let phase = self.stop_attempts(id);
        self.job(id).stage = Stage::Assembling;
        let now = self.job(id).phase();
        if phase != now {
            self.outbox.notice(Notice::Phase(id, now));
        }
        self.outbox.say(Action::Assemble { job: id });
    }

    pub(crate) fn on_assembled(&mut self, id: JobId, manifest: Result<Digest, String>) {
        let Some(job) = self.jobs.get_mut(&id).filter(|job| matches!(job.stage, Stage::Assembling)) else { return };
        match manifest {
            Ok(manifest) => {
                (job.stage, job.version) = (Stage::Committed(manifest), job.version + 1);
                self.outbox.journal(Fact::CommitBegun { job: id, manifest });
                self.outbox.say(Action::Reveal { job: id });
            }
            Err(cause) => self.end_job(id, Ending::Failed(Box::new(Failed::Publish { cause }))),
        }
    }

    pub(crate) fn on_revealed(&mut self, id: JobId, result: PublishResult) {
        if self.jobs.get(&id).is_none_or(|job| !matches!(job.stage, Stage::Committed(_))) {
            return;
        }
        self.end_job(
            id,
            match result {
                PublishResult::Published => Ending::Succeeded,
                PublishResult::Failed { cause } => Ending::Failed(Box::new(Failed::Publish { cause })),
            },
        );
    }

    /// Ends a job, whatever it is at. Nothing of it is granted or accepted from here on.
    pub(crate) fn end_job(&mut self, id: JobId, ending: Ending) {
        assert!(!self.job(id).has_ended(), "a job ends once");
        let fact = self.outbox.journal(Fact::Ended { job: id, ending: ending.clone() });
        self.stop_attempts(id);
        let now = self.now;
        let job = self.job(id);
        job.end(ending, fact, now);
        let phase = job.phase();
        self.open.remove(&id);
        self.sweeping.insert((Tick(now.0 + self.config.kill), id));
        self.outbox.notice(Notice::Phase(id, phase));
        self.sweep_if_quiet(id);
    }

    /// Kills what runs of a job. Returns the phase that it was at.
    fn stop_attempts(&mut self, id: JobId) -> shardmill_protocol::view::JobPhase {
        let phase = self.job(id).phase();
        while let Some(attempt) = self.job(id).live.keys().next().copied() {
            let live = self.conclude(attempt, AttemptState::Ended, Some(Fault::Cancelled.into()));
            self.kill(live.session, attempt);
        }
        phase
    }

    /// Has staging removed once no worker runs anything of the job that could write there.
    pub(crate) fn sweep_if_quiet(&mut self, id: JobId) {
        if self.jobs.get(&id).is_some_and(|job| job.dying == 0) {
            self.sweep(id);
        }
    }

    /// A worker that cannot kill what it runs does not keep staging for ever.
    pub(crate) fn stop_waiting_for_kills(&mut self) {
        while let Some(&(at, id)) = self.sweeping.first()
            && at <= self.now
        {
            self.sweep(id);
        }
    }

    fn sweep(&mut self, id: JobId) {
        let job = self.job(id);
        let Stage::Ended(ended) = &mut job.stage else { return };
        if ended.sweep == Sweep::Waiting {
            ended.sweep = Sweep::Asked;
            let (at, keep_staging) = (ended.at, ended.keeps_staging());
            self.sweeping.remove(&(Tick(at.0 + self.config.kill), id));
            self.outbox.say(Action::Sweep { job: id, keep_staging });
        }
    }

    pub(crate) fn on_swept(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let Stage::Ended(ended) = &mut job.stage else { return };
        if std::mem::replace(&mut ended.sweep, Sweep::Done) == Sweep::Asked {
            job.version += 1;
            self.outbox.journal(Fact::Swept { job: id });
            self.remember(id);
        }
    }

    /// Keeps a job that is over, and forgets the oldest if there are too many.
    pub(crate) fn remember(&mut self, id: JobId) {
        self.swept.push_back(id);
        while self.swept.len() > self.config.history {
            let oldest = self.swept.pop_front().expect("it is longer than that");
            if let Some(job) = self.jobs.remove(&oldest) {
                self.keys.remove(&job.submission.key);
            }
        }
    }

    /// The job whose output an output is, lies in, or holds.
    pub(crate) fn claimant(&self, output: &str) -> Option<JobId> {
        let inside = |inner: &str, outer: &str| {
            inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || outer.ends_with('/'))
        };
        let claims = self.jobs.values().filter(|job| !matches!(&job.stage, Stage::Ended(ended) if ended.sweep == Sweep::Done));
        let mut claims = claims.filter(|job| inside(output, &job.submission.output) || inside(&job.submission.output, output));
        claims.next().map(Job::id)
    }
}

impl Job {
    /// Ends the job, and forgets what only a job that goes on needs.
    pub(crate) fn end(&mut self, ending: Ending, fact: u64, at: Tick) {
        let (phase, phases) = (self.phase(), phases(self));
        self.stage = Stage::Ended(Box::new(Ended { ending, fact, at, phase, phases, sweep: Sweep::Waiting }));
        self.works.clear();
        self.standings.clear();
        self.troubles.clear();
        self.forget_accepted();
        self.version += 1;
    }
}

impl Ended {
    /// Whether a person may want to look at what could not be published.
    pub(crate) fn keeps_staging(&self) -> bool {
        matches!(&self.ending, Ending::Failed(failed) if matches!(**failed, Failed::Publish { .. }))
    }
}
