//! Failures: who is charged, what is tried again and how, and when it is enough.
//!
//! Everything hangs on [`Fault::charge`]. A failure that counts is journaled before it has any effect that is told; the one that
//! ends a job is journaled as its end alone, so no replay finds a unit with more charges than are allowed.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use shardmill_protocol::fault::Charge as Charged;
use shardmill_protocol::task::{SetAside, TaskKind};
use shardmill_protocol::view::AttemptState;
use shardmill_protocol::{AttemptId, Failure, Fault, JobId, Task, WorkerId};

use crate::attempt::Live;
use crate::config::Config;
use crate::event::Tick;
use crate::fact::{Ending, Fact, Failed};
use crate::job::{Job, Stage};
use crate::pending::{Shape, Terms};
use crate::range::task_of;
use crate::scheduler::Scheduler;

/// What is held against a shard or partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Charge {
    pub(crate) count: u32,
    /// How it failed last, if trying again could only give the same.
    mark: Option<Mark>,
}

/// What makes two failures the same.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    kind: &'static str,
    detail: i64,
    record: Option<u64>,
}

/// What follows from charging a unit.
enum Verdict {
    Again,
    /// This record is to blame, and may be left out.
    Guilty(SetAside),
    /// It is enough.
    End,
}

fn mark(fault: &Fault, record: Option<u64>) -> Option<Mark> {
    // SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGSYS: what code does to itself. Others are sent from outside.
    const OWN_SIGNALS: [i32; 7] = [4, 5, 6, 7, 8, 11, 31];
    let detail = match fault {
        Fault::Panicked { phase, .. } => *phase as i64,
        Fault::Signalled { signal, .. } if OWN_SIGNALS.contains(signal) => i64::from(*signal),
        Fault::ExitedWithoutResult { code, .. } => i64::from(*code),
        Fault::ProtocolBroken { breach, .. } => *breach as i64,
        _ => return None,
    };
    Some(Mark { kind: fault.kind(), detail, record })
}

fn record_of(failure: &Failure, unit: u32) -> Option<u64> {
    failure.suspects.iter().find(|suspect| suspect.unit == unit).map(|suspect| suspect.record)
}

/// The units that are charged: those named, or the only one there is.
fn charged_units(range: &Range<u32>, failure: &Failure) -> Vec<u32> {
    let named: BTreeSet<u32> = failure.suspects.iter().map(|suspect| suspect.unit).filter(|unit| range.contains(unit)).collect();
    if named.is_empty() && range.end - range.start == 1 { vec![range.start] } else { named.into_iter().collect() }
}

/// How long to wait after the `failures`-th failure: doubled each time, and spread so that not all come back at once.
pub(crate) fn backoff(config: &Config, failures: u32, attempt: AttemptId) -> Duration {
    let whole = config.backoff.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(config.longest_backoff);
    // SplitMix64: every bit of the id moves every bit of the result.
    let mut hash = attempt.number ^ attempt.epoch.0.rotate_left(32) ^ attempt.job.0 as u64 ^ (attempt.job.0 >> 64) as u64;
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let part = (hash ^ (hash >> 31)) % 1024;
    whole / 2 + whole / 2 * part as u32 / 1024
}

impl Job {
    /// Charges units, as the journal says. Live and replayed jobs go through here.
    pub(crate) fn charge(&mut self, kind: TaskKind, units: &[u32], failure: &Failure) {
        self.retries += 1;
        self.version += 1;
        let Some(work) = self.works.get_mut(&kind) else { return };
        for unit in units {
            let charge = work.charges.entry(*unit).or_insert(Charge { count: 0, mark: None });
            charge.count += 1;
            charge.mark = mark(&failure.fault, record_of(failure, *unit));
        }
    }

    /// Leaves records out from now on. What was held against their shards was theirs.
    pub(crate) fn leave_out(&mut self, records: &[SetAside]) {
        self.set_aside.extend(records);
        for record in records {
            self.work(TaskKind::Map).charges.remove(&record.shard);
        }
    }

    fn verdict(&self, config: &Config, task: &Task, unit: u32, failure: &Failure) -> Verdict {
        let work = &self.works[&task.kind()];
        let before = work.charges.get(&unit);
        let record = record_of(failure, unit);
        let mark = mark(&failure.fault, record);
        if mark.is_some() && before.is_some_and(|charge| charge.mark == mark) {
            let range = task.range();
            // Whether a range that was accepted once fails now says nothing of its records: it has been through them.
            let guilty = record.filter(|_| task.kind() == TaskKind::Map && !work.was_accepted(&range));
            let allowed = self.bad_records + self.aside_elsewhere(&(0..0)) < self.submission.max_bad_records;
            return match guilty.filter(|_| allowed) {
                Some(record) => Verdict::Guilty(SetAside { shard: unit, record }),
                None => Verdict::End,
            };
        }
        let count = before.map_or(0, |charge| charge.count) + 1;
        if count >= config.unit_charges { Verdict::End } else { Verdict::Again }
    }
}

impl Scheduler {
    /// An attempt has failed, and no longer lives.
    pub(crate) fn failed(&mut self, attempt: AttemptId, live: Live, failure: Failure) {
        let id = attempt.job;
        if !matches!(self.job(id).stage, Stage::Working) {
            return;
        }
        let failures = live.terms.failures + 1;
        let ready_at = Tick(self.now.0 + backoff(&self.config, failures, attempt));
        let tried = Terms { shape: Shape::Tried, ready_at, failures, ..live.terms.clone() };
        match failure.fault.charge() {
            Charged::Job if matches!(failure.fault, Fault::InputMissing { .. }) && self.missing_only_there(id, live.worker) => {
                self.charge_worker(id, live.worker, attempt);
                let terms = self.elsewhere(live.worker, tried);
                self.count_failure(attempt, live, failure, terms);
            }
            Charged::Job => self.end_with_attempt(attempt, &live, failure),
            Charged::Worker if matches!(failure.fault, Fault::OutputUnseen { .. }) => self.unseen(attempt, live, failure, tried),
            Charged::Units => self.charge_units(attempt, live, failure, tried),
            Charged::Worker => {
                self.charge_worker(id, live.worker, attempt);
                let terms = self.elsewhere(live.worker, tried);
                self.count_failure(attempt, live, failure, terms);
            }
            Charged::Holder(output) => {
                self.damage(output);
                self.count_failure(attempt, live, failure, Terms { ready_at: Tick::default(), ..tried });
            }
            Charged::Nobody => {
                match failure.fault {
                    Fault::FetchFailed { output, .. } => self.trouble(live.worker, output),
                    Fault::OutputLost { output, damaged: true } => self.damage(output),
                    Fault::OutputLost { output, damaged: false } => self.lose_output(output),
                    _ => {}
                }
                let waits = !matches!(failure.fault, Fault::Drained | Fault::OutputLost { .. });
                let terms = if waits { tried } else { live.terms.clone() };
                if matches!(self.job(id).stage, Stage::Working) {
                    self.requeue(id, &live.task, terms);
                }
            }
        }
    }

    /// Terms of a piece that has failed by its worker's fault. It waits for nothing but not to be given to that worker, which would
    /// come back for it when its own pause is over: just then the piece would have waited long enough, too.
    fn elsewhere(&self, worker: WorkerId, tried: Terms) -> Terms {
        Terms { ready_at: Tick::default(), avoid: Some((worker, Tick(self.now.0 + self.config.lease))), ..tried }
    }

    /// A worker does not see the directory of the output. Others go on, and the job's budget is not touched, however many such workers
    /// there are. Where nobody sees it, that is how the job was submitted if nothing of it is done yet, and it ends; later, those
    /// who saw it may come back.
    fn unseen(&mut self, attempt: AttemptId, live: Live, failure: Failure, tried: Terms) {
        let id = attempt.job;
        if self.unseen_only_there(id, live.worker) {
            self.requeue(id, &live.task, live.terms.clone());
        } else if self.jobs[&id].accepted_count() == 0 {
            self.end_with_attempt(attempt, &live, failure);
        } else {
            self.charge_worker(id, live.worker, attempt);
            self.count_failure(attempt, live, failure, tried);
        }
    }

    /// A failure counts against the job's budget, though no unit is charged.
    pub(crate) fn count_failure(&mut self, attempt: AttemptId, live: Live, failure: Failure, terms: Terms) {
        if self.journal_charges(attempt, &live.task, Vec::new(), failure) {
            self.requeue(attempt.job, &live.task, terms);
        }
    }

    /// Journals a failure, unless the job has had too many: then it ends. Returns whether it goes on.
    fn journal_charges(&mut self, attempt: AttemptId, task: &Task, units: Vec<u32>, failure: Failure) -> bool {
        let (id, spare) = (attempt.job, self.config.spare_attempts);
        let job = self.job(id);
        // What has failed may have been the last straw for a map output.
        if !matches!(job.stage, Stage::Working) {
            return false;
        }
        let attempts = job.retries + 1;
        if attempts > spare + job.accepted_count() / 10 {
            self.end_job(id, Ending::Failed(Box::new(Failed::TooManyAttempts { attempts, last: failure })));
            return false;
        }
        job.charge(task.kind(), &units, &failure);
        self.outbox.journal(Fact::Charged { job: id, task: task.clone(), units, failure });
        true
    }

    fn end_with_attempt(&mut self, attempt: AttemptId, live: &Live, failure: Failure) {
        let job = self.job(attempt.job);
        let charges = &job.works[&live.task.kind()].charges;
        let most = live.task.range().filter_map(|unit| charges.get(&unit)).map(|charge| charge.count).max();
        let attempts = most.unwrap_or(0).max(live.terms.failures) + 1;
        let failed = Failed::Attempt { task: live.task.clone(), attempt, worker: live.worker, attempts, failure };
        self.end_job(attempt.job, Ending::Failed(Box::new(failed)));
    }

    fn charge_units(&mut self, attempt: AttemptId, live: Live, failure: Failure, tried: Terms) {
        let (id, kind, range) = (attempt.job, live.task.kind(), live.task.range());
        let units = charged_units(&range, &failure);
        let Some(memory_bytes) = self.memory_for(&live, &failure) else {
            return self.end_with_attempt(attempt, &live, failure);
        };
        let job = &self.jobs[&id];
        let mut guilty = Vec::new();
        for unit in &units {
            match job.verdict(&self.config, &live.task, *unit, &failure) {
                Verdict::Again => {}
                Verdict::Guilty(record) => guilty.push(record),
                Verdict::End => return self.end_with_attempt(attempt, &live, failure),
            }
        }
        // Two at once could be more than the limit allows; the others are found again.
        guilty.truncate(1);
        if !self.journal_charges(attempt, &live.task, units.clone(), failure) {
            return;
        }
        if !guilty.is_empty() {
            self.job(id).leave_out(&guilty);
            // What is granted from now on rests on this.
            let gate = self.outbox.journal(Fact::SetAside { job: id, records: guilty });
            self.job(id).gate = gate;
        }
        self.split(id, kind, range, &units, Terms { memory_bytes, ..tried });
    }

    /// The memory that the next try is to have; nothing if more would be needed than there is.
    fn memory_for(&self, live: &Live, failure: &Failure) -> Option<u64> {
        if !matches!(failure.fault, Fault::OutOfMemory { .. }) {
            return Some(live.terms.memory_bytes);
        }
        let range = live.task.range();
        let alone = range.end - range.start == 1 && (live.threads == 1 || live.task.kind() != TaskKind::Map);
        let most = self.fleet.most_memory();
        if alone && (live.terms.memory_bytes > 0 || live.memory_bytes >= most) {
            return None;
        }
        Some(live.memory_bytes.saturating_mul(2).min(most))
    }

    /// Makes a range that has failed pending again: units that are suspected alone, the others as they were; if none is, halves.
    fn split(&mut self, id: JobId, kind: TaskKind, range: Range<u32>, units: &[u32], terms: Terms) {
        let task = task_of(kind, range.clone());
        if self.twin(id, &task).is_some() {
            return;
        }
        if self.job(id).work(kind).was_accepted(&range) {
            return self.requeue(id, &task, terms);
        }
        if units.is_empty() {
            let middle = range.start + (range.end - range.start) / 2;
            self.requeue(id, &task_of(kind, range.start..middle), terms.clone());
            return self.requeue(id, &task_of(kind, middle..range.end), terms);
        }
        let mut from = range.start;
        for unit in units.iter().copied().chain([range.end]) {
            if from < unit {
                self.requeue(id, &task_of(kind, from..unit), Terms::new(Shape::Free));
            }
            if unit < range.end {
                self.requeue(id, &task_of(kind, unit..unit + 1), Terms { shape: Shape::Alone, ..terms.clone() });
            }
            from = unit + 1;
        }
    }

    /// Makes a range pending again that no other attempt is at. One that was accepted once stays whole.
    pub(crate) fn requeue(&mut self, id: JobId, task: &Task, terms: Terms) {
        if self.twin(id, task).is_some() {
            return;
        }
        let (kind, range) = (task.kind(), task.range());
        let work = self.job(id).work(kind);
        let shape = if work.was_accepted(&range) { Shape::Whole } else { terms.shape };
        work.put(range, Terms { shape, ..terms });
        self.stir.all = true;
    }

    /// Ends an attempt that is of no more use, though its worker still has it.
    pub(crate) fn overtake(&mut self, attempt: AttemptId, fault: Fault) {
        let live = self.conclude(attempt, AttemptState::Ended, Some(fault.into()));
        self.kill(live.session, attempt);
    }
}

#[cfg(test)]
mod tests {
    use shardmill_protocol::Epoch;

    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_limit_and_is_spread_by_the_attempt() {
        let config = Config::default();
        let of = |failures, number| backoff(&config, failures, AttemptId { job: JobId(1), epoch: Epoch(1), number });
        for failures in 1..40 {
            let whole = config.backoff.saturating_mul(1 << (failures - 1).min(6)).min(config.longest_backoff);
            assert!(of(failures, 7) >= whole / 2 && of(failures, 7) <= whole, "{failures}");
        }
        let distinct: BTreeSet<_> = (0..100).map(|number| of(5, number)).collect();
        assert!(distinct.len() > 50);
    }
}
