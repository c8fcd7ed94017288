//! Reports: what an attempt gave, and whether it counts.
//!
//! The fence is checked before anything else but one: what was accepted once is accepted for ever, whoever asks again.

use shardmill_protocol::fault::Breach;
use shardmill_protocol::task::TaskKind;
use shardmill_protocol::view::AttemptState;
use shardmill_protocol::{AttemptId, Failure, Fault, Fence, JobId, Outcome, SessionId, Task};

use crate::action::{Action, Answer, Notice};
use crate::attempt::Live;
use crate::event::ReplyId;
use crate::fact::{Ending, Fact, Failed};
use crate::job::Job;
use crate::scheduler::{Scheduler, millis};
use crate::weights::Weights;

impl Scheduler {
    pub(crate) fn on_report(
        &mut self,
        reply: ReplyId,
        session: SessionId,
        attempt: AttemptId,
        fence: Fence,
        result: Result<Outcome, Failure>,
    ) {
        let answer = self.report(session, attempt, fence, result);
        self.outbox.answer(reply, answer);
    }

    fn report(&mut self, session: SessionId, attempt: AttemptId, fence: Fence, result: Result<Outcome, Failure>) -> Answer {
        let job = self.jobs.get(&attempt.job);
        if result.is_ok() && job.is_some_and(|job| job.accepted(attempt).is_some()) {
            return Answer::Accepted;
        }
        let live = job.and_then(|job| job.live.get(&attempt)).filter(|live| live.fence == fence && live.session == session);
        let Some(live) = live else {
            // It may have been killed, and says so now.
            if self.fleet.sessions.get(&session).and_then(|session| session.held.get(&attempt)).is_some_and(|held| held.dying) {
                self.release(session, attempt);
            }
            return if result.is_ok() { Answer::Rejected } else { Answer::Noted };
        };
        assert!(fence.epoch == self.epoch && self.fleet.sessions.contains_key(&session), "what lives has a live fence");
        let task = live.task.clone();
        match result {
            Ok(outcome) if !fits(&task, &outcome, &self.jobs[&attempt.job]) => {
                let fault = Fault::ProtocolBroken { breach: Breach::FalseReport, stderr: String::new() };
                self.fail(session, attempt, fault.into());
                Answer::Rejected
            }
            Ok(outcome) => self.sealed(session, attempt, &task, outcome),
            Err(failure) => {
                self.fail(session, attempt, failure);
                Answer::Noted
            }
        }
    }

    /// An attempt that lives has failed.
    pub(crate) fn fail(&mut self, session: SessionId, attempt: AttemptId, failure: Failure) {
        let live = self.conclude(attempt, AttemptState::Failed, Some(failure.clone()));
        self.release(session, attempt);
        self.outbox.say(Action::Discard { attempt });
        self.failed(attempt, live, failure);
    }

    /// An attempt that lives has a result that fits its task.
    fn sealed(&mut self, session: SessionId, attempt: AttemptId, task: &Task, outcome: Outcome) -> Answer {
        let job = self.job(attempt.job);
        if let Outcome::Reduced { list, .. } = &outcome
            && Some(*list) != job.list
        {
            // It has read something else than it was granted with. Nobody's units are to blame, but it must not go on for ever.
            let fault = Fault::ProtocolBroken { breach: Breach::FalseReport, stderr: String::new() };
            let live = self.conclude(attempt, AttemptState::Failed, Some(fault.clone().into()));
            self.release(session, attempt);
            let terms = live.terms.clone();
            self.count_failure(attempt, live, fault.into(), terms);
            return Answer::Rejected;
        }
        if let Some(failed) = job.objection(&task.range(), &outcome) {
            self.conclude(attempt, AttemptState::Failed, None);
            self.release(session, attempt);
            self.end_job(attempt.job, Ending::Failed(Box::new(failed)));
            return Answer::Rejected;
        }
        let live = self.conclude(attempt, AttemptState::Accepted, None);
        self.release(session, attempt);
        self.accept(attempt, live, outcome);
        Answer::Accepted
    }

    fn accept(&mut self, attempt: AttemptId, live: Live, outcome: Outcome) {
        let (id, range) = (attempt.job, live.task.range());
        let elapsed_ms = millis(self.now, live.granted);
        let mut beaten = Vec::new();
        while let Some(rival) = self.twin(id, &live.task) {
            self.overtake(rival, Fault::LostRace);
            beaten.push(rival);
        }
        beaten.append(&mut self.job(id).work(live.task.kind()).outrun(&range));
        // What these have staged is of no use any more. Only a map attempt may yet be taken up again, if this output is lost, and may have
        // set records aside: what it has staged goes with the job.
        if live.task.kind() != TaskKind::Map {
            beaten.into_iter().for_each(|attempt| self.outbox.say(Action::Discard { attempt }));
        }
        let (journaled, outcome) = split_estimates(outcome);
        self.outbox.journal(Fact::Done { attempt, worker: live.worker, task: live.task.clone(), outcome: journaled, elapsed_ms });
        let job = self.job(id);
        job.work(live.task.kind()).keep_pace(&range, elapsed_ms);
        job.accept(attempt, live.worker, &live.task, outcome, elapsed_ms);
        self.outbox.notice(Notice::Accepted(attempt, live.worker));
        self.advance(id, live.task.kind());
    }

    /// Begins what can begin, now that something of a phase was accepted.
    fn advance(&mut self, id: JobId, kind: TaskKind) {
        let gate = self.outbox.last();
        let job = self.job(id);
        let before = job.phase();
        let begun = job.settle();
        // An output that is there again opens the way to reduce as it did the first time.
        let opened = !begun.is_empty() || (kind == TaskKind::Map && job.work(TaskKind::Map).is_complete());
        if opened {
            job.gate = gate;
        }
        let after = job.phase();
        let unweighed = begun.contains(&TaskKind::Map) && job.work(TaskKind::Map).weights.is_none();
        let weights = unweighed.then(|| job.weights_file()).flatten();
        let done = job.works.get(&TaskKind::Reduce).is_some_and(|reduce| reduce.is_complete());
        self.stir.all |= opened;
        if before != after {
            self.outbox.notice(Notice::Phase(id, after));
        }
        if let Some(file) = weights {
            self.outbox.say(Action::ReadWeights { job: id, file });
        }
        if done {
            self.assemble(id);
        }
    }

    /// The other attempt at the same task, if there is one.
    pub(crate) fn twin(&mut self, id: JobId, task: &Task) -> Option<AttemptId> {
        let job = self.job(id);
        let key = (task.kind(), task.range().start);
        if !job.doubled.contains(&key) {
            return None;
        }
        let twin = job.live.iter().find(|(_, live)| live.task == *task).map(|(attempt, _)| *attempt);
        if twin.is_none() {
            job.doubled.remove(&key);
        }
        twin
    }

    pub(crate) fn on_weights(&mut self, id: JobId, shard_bytes: Option<Vec<u64>>) {
        let Some(job) = self.jobs.get_mut(&id).filter(|job| !job.has_ended()) else { return };
        let Some(shards) = job.works.get(&TaskKind::Map).filter(|map| map.weights.is_none()).map(|map| map.units) else { return };
        match shard_bytes.filter(|bytes| bytes.len() == shards as usize) {
            Some(bytes) => {
                job.work(TaskKind::Map).weigh(Weights::of_bytes(&bytes));
                job.version += 1;
                self.stir.all = true;
                self.check_memory(id);
            }
            None => {
                let cause = "the file with the sizes of the shards is gone or damaged".to_owned();
                self.end_job(id, Ending::Failed(Box::new(Failed::Staging { cause })));
            }
        }
    }

    /// Ends a job that no worker could ever run. Where there is no worker at all, it waits for one.
    pub(crate) fn check_memory(&mut self, id: JobId) {
        let job = &self.jobs[&id];
        let needed_bytes = job.thread_memory(TaskKind::Map);
        let waits = job.works.get(&TaskKind::Map).is_some_and(|map| map.weights.is_some() && map.done.is_empty());
        if self.recovery.is_none() && waits && !self.fleet.sessions.is_empty() && self.fleet.most_memory() < needed_bytes {
            self.end_job(id, Ending::Failed(Box::new(Failed::TooLittleMemory { needed_bytes })));
        }
    }
}

/// Whether an outcome is one of this task.
fn fits(task: &Task, outcome: &Outcome, job: &Job) -> bool {
    match (task, outcome) {
        (Task::Draft, Outcome::Drafted { .. }) | (Task::Survey(_), Outcome::Surveyed { .. }) | (Task::Plan, Outcome::Planned { .. }) => {
            true
        }
        (Task::Map(_), Outcome::Mapped { partition_bytes, .. }) => {
            job.plan.as_ref().is_some_and(|plan| partition_bytes.len() == plan.partitions as usize)
        }
        (Task::Reduce(range), Outcome::Reduced { parts, .. }) => parts.len() == range.len(),
        (Task::Draft | Task::Survey(_) | Task::Plan | Task::Map(_) | Task::Reduce(_), _) => false,
    }
}

/// What is journaled of an outcome, and the whole: the bytes for each partition are an estimate's business.
fn split_estimates(outcome: Outcome) -> (Outcome, Outcome) {
    match outcome {
        Outcome::Mapped { index, partition_bytes, tally, set_aside } => (
            Outcome::Mapped { index, partition_bytes: Vec::new(), tally: tally.clone(), set_aside },
            Outcome::Mapped { index, partition_bytes, tally, set_aside },
        ),
        other => (other.clone(), other),
    }
}
