//! Views: what the shell shows to clients. Nothing here changes anything.
//!
//! A job is shown as ended only when the fact is on the disk: a client that has seen the end goes away.

use std::collections::BTreeMap;
use std::ops::Range;

use shardmill_protocol::task::TaskKind;
use shardmill_protocol::view::{AttemptState, AttemptView, JobStatus, JobView, PhaseView, Spread, WorkerState, WorkerView};
use shardmill_protocol::{Epoch, JobId, SessionId, WorkerId};

use crate::ending::ending_view;
use crate::event::{Submission, Tick};
use crate::job::{Ended, Job, Stage, Sweep};
use crate::scheduler::{Scheduler, millis};

impl Scheduler {
    /// The coordinator's epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// All jobs that are remembered, oldest first.
    pub fn jobs(&self) -> impl DoubleEndedIterator<Item = JobId> + '_ {
        self.jobs.keys().copied()
    }

    /// A job as it was submitted.
    pub fn submission(&self, job: JobId) -> Option<&Submission> {
        self.jobs.get(&job).map(|job| &job.submission)
    }

    /// The job that was submitted with a key.
    pub fn job_of_key(&self, key: &str) -> Option<JobId> {
        self.keys.get(key).copied()
    }

    /// Whether nothing more will happen to a job; so too if nobody knows it any more.
    pub fn has_ended(&self, job: JobId) -> bool {
        self.jobs.get(&job).is_none_or(|job| self.ended(job).is_some())
    }

    /// How a job has ended, once that can be told.
    fn ended<'a>(&self, job: &'a Job) -> Option<&'a Ended> {
        match &job.stage {
            Stage::Ended(ended) if self.outbox.is_synced(ended.fact) => Some(ended),
            Stage::Working | Stage::Assembling | Stage::Committed(_) | Stage::Ended(_) => None,
        }
    }

    /// The worker of a session that lives.
    pub fn worker_of(&self, session: SessionId) -> Option<WorkerId> {
        self.fleet.sessions.get(&session).map(|session| session.worker)
    }

    /// Where a job stands. Its `name` is empty: only the shell can read the spec.
    pub fn job_status(&self, job: JobId, now: Tick) -> Option<JobStatus> {
        let job = self.jobs.get(&job)?;
        let ended = self.ended(job);
        let phase = match &job.stage {
            Stage::Ended(ended) if !self.outbox.is_synced(ended.fact) => ended.phase,
            Stage::Working | Stage::Assembling | Stage::Committed(_) | Stage::Ended(_) => job.phase(),
        };
        let units = match &job.stage {
            Stage::Ended(ended) => ended.phases.iter().map(|phase| (phase.kind, (phase.done, phase.units))).collect(),
            Stage::Working | Stage::Assembling | Stage::Committed(_) => job.units(),
        };
        Some(JobStatus {
            job: job.id(),
            name: String::new(),
            output: job.submission.output.clone(),
            phase,
            elapsed_ms: millis(ended.map_or(now, |ended| ended.at), job.submitted),
            // An end that is synced is another version than the same end before. None is zero: that is what those who watch have
            // seen who have seen nothing.
            version: job.version * 2 + u64::from(ended.is_some()) + 1,
            plan: job.plan.clone(),
            units,
            bytes: job.bytes_done(),
            shuffle_bytes: job.shuffle_bytes(),
            running: job.live.len() as u64,
            retries: job.retries,
            spilled_bytes: job.tally.spilled_bytes,
            bad_records: job.bad_records,
            workers_live: self.fleet.sessions.len() as u64,
            workers_lost: job.workers_lost,
            tally: job.tally.clone(),
            output_records: job.output_records,
            output_bytes: job.output_bytes,
            ending: ended.and_then(|ended| ending_view(&ended.ending)),
            is_swept: ended.is_some_and(|ended| ended.sweep == Sweep::Done),
        })
    }

    /// A job in full.
    pub fn job_view(&self, job: JobId, now: Tick) -> Option<JobView> {
        let status = self.job_status(job, now)?;
        let job = &self.jobs[&job];
        let mut attempts: Vec<AttemptView> = job.past.iter().map(past_view).chain(live_views(job, now)).collect();
        attempts.sort_by_key(|view| view.attempt);
        Some(JobView {
            status,
            phases: if let Stage::Ended(ended) = &job.stage { ended.phases.clone() } else { phases(job) },
            attempts,
            attempt_count: job.past.count + job.live.len() as u64,
            set_aside: job.set_aside.iter().copied().collect(),
            lost: job.lost.clone(),
        })
    }

    /// The workers that are there, and those that have gone lately. Their `address` is empty: only the shell knows it.
    pub fn workers(&self, now: Tick) -> Vec<WorkerView> {
        let mut outputs: BTreeMap<WorkerId, u64> = BTreeMap::new();
        for (_, _, accepted) in self.open.iter().flat_map(|id| self.jobs[id].outputs()) {
            *outputs.entry(accepted.worker).or_default() += 1;
        }
        let view = |(id, worker): (&WorkerId, &crate::fleet::Worker)| {
            let session = worker.session.map(|session| &self.fleet.sessions[&session]);
            WorkerView {
                worker: *id,
                address: String::new(),
                state: match session {
                    None => worker.departed,
                    Some(session) if session.draining => WorkerState::Draining,
                    Some(session) if session.suspect => WorkerState::Suspect,
                    Some(_) => WorkerState::Live,
                },
                threads: worker.threads,
                threads_used: session.map_or(0, |session| session.used),
                memory_bytes: worker.memory_bytes,
                running: session.into_iter().flat_map(|session| session.held.keys().copied()).collect(),
                outputs: outputs.get(id).copied().unwrap_or(0),
                silent_ms: session.map_or(0, |session| millis(now, session.heard)),
            }
        };
        self.fleet.workers.iter().map(view).collect()
    }
}

impl Job {
    fn units(&self) -> BTreeMap<TaskKind, (u64, u64)> {
        self.works.iter().map(|(kind, work)| (*kind, (u64::from(work.done_units), u64::from(work.units)))).collect()
    }

    /// Bytes that are granted or done, less what live attempts have still to do.
    fn bytes_done(&self) -> BTreeMap<TaskKind, u64> {
        let kinds = self.works.iter().filter(|(kind, _)| matches!(kind, TaskKind::Map | TaskKind::Reduce));
        kinds
            .map(|(kind, work)| {
                let all = work.bytes(&(0..work.units));
                let pending: u64 = work.pending().ranges().map(|range| work.bytes(&range)).sum();
                let live = self.live.values().filter(|live| live.task.kind() == *kind && !live.backup);
                let missing: u64 = live.map(|live| work.bytes(&live.task.range()).saturating_sub(live.progress.bytes)).sum();
                (*kind, all.saturating_sub(pending).saturating_sub(missing))
            })
            .collect()
    }
}

/// The phases of a job that goes on, as they are shown.
pub(crate) fn phases(job: &Job) -> Vec<PhaseView> {
    let view = |(kind, work): (&TaskKind, &crate::work::Work)| {
        let done = work.done.values().map(|accepted| (accepted.range.clone(), accepted));
        PhaseView {
            kind: *kind,
            units: u64::from(work.units),
            done: u64::from(work.done_units),
            tasks: work.done.len() as u64,
            bytes: spread(done.clone().map(|(range, _): (Range<u32>, _)| work.bytes(&range)).collect()),
            elapsed_ms: spread(done.map(|(_, accepted)| u64::from(accepted.elapsed_ms)).collect()),
            mapped_again: work.again,
            charges: work.charges.iter().map(|(unit, charge)| (*unit, charge.count)).collect(),
        }
    };
    job.works.iter().map(view).collect()
}

fn spread(mut values: Vec<u64>) -> Spread {
    values.sort_unstable();
    let at = |index: usize| values.get(index).copied().unwrap_or(0);
    Spread { min: at(0), median: at(values.len() / 2), max: at(values.len().saturating_sub(1)) }
}

fn past_view(past: &crate::attempt::Past) -> AttemptView {
    AttemptView {
        attempt: past.attempt,
        task: past.task.clone(),
        worker: past.worker,
        state: past.state,
        backup: past.backup,
        threads: past.threads,
        elapsed_ms: past.elapsed_ms,
        progress: past.progress,
        bytes: past.bytes,
        failure: past.failure.clone(),
    }
}

fn live_views(job: &Job, now: Tick) -> impl Iterator<Item = AttemptView> + '_ {
    job.live.iter().map(move |(attempt, live)| AttemptView {
        attempt: *attempt,
        task: live.task.clone(),
        worker: live.worker,
        state: AttemptState::Running,
        backup: live.backup,
        threads: live.threads,
        elapsed_ms: millis(now, live.granted),
        progress: live.progress,
        bytes: job.works.get(&live.task.kind()).map_or(0, |work| work.bytes(&live.task.range())),
        failure: None,
    })
}
