//! A small world: a scheduler, a journal that syncs at once (or when it is told to), workers by number, and the usual sequences.

use std::ops::Range;
use std::time::Duration;

use shardmill_protocol::process::Progress;
use shardmill_protocol::task::{MapOutput, Part, PlanFacts, Tally, list_digest};
use shardmill_protocol::{AttemptId, Digest, Epoch, Failure, Fault, Grant, JobId, Outcome, SessionId, Suspect, Task, WorkerId};

use crate::{
    Action, Answer, Config, Event, Fact, HeldAttempt, HeldOutput, PublishResult, Registration, ReplyId, Scheduler, Submission, Tick,
};

pub(crate) const GIB: u64 = 1 << 30;

pub(crate) struct World {
    pub(crate) scheduler: Scheduler,
    pub(crate) now: Tick,
    /// Everything that was journaled, synced or not.
    pub(crate) facts: Vec<(u64, Fact)>,
    /// Facts are synced as soon as they are journaled.
    pub(crate) syncs: bool,
    replies: u64,
    numbers: std::collections::BTreeMap<SessionId, u64>,
}

pub(crate) fn job(n: u128) -> JobId {
    JobId(n)
}

pub(crate) fn worker(n: u128) -> WorkerId {
    WorkerId(n)
}

pub(crate) fn at(millis: u64) -> Tick {
    Tick(Duration::from_millis(millis))
}

pub(crate) fn digest(of: impl std::fmt::Debug) -> Digest {
    Digest::of(format!("{of:?}").as_bytes())
}

pub(crate) fn submission(n: u128) -> Submission {
    Submission { job: job(n), key: format!("key {n}"), output: format!("/out/{n}"), max_bad_records: 0, spec: Vec::new() }
}

pub(crate) fn suspect(unit: u32, record: u64) -> Suspect {
    Suspect { unit, record, offset: record * 10 }
}

pub(crate) fn crash(suspects: &[Suspect]) -> Failure {
    Failure { fault: Fault::Signalled { signal: 11, stderr: String::new() }, suspects: suspects.into(), files: Box::default() }
}

pub(crate) fn stall(suspects: &[Suspect]) -> Failure {
    Failure { fault: Fault::Stalled { seconds: 300 }, suspects: suspects.into(), files: Box::default() }
}

pub(crate) fn mapped(range: &Range<u32>, partitions: u32) -> Outcome {
    let tally = Tally { records: u64::from(range.end - range.start), ..Tally::default() };
    Outcome::Mapped { index: digest(range), partition_bytes: vec![100; partitions as usize], tally, set_aside: None }
}

pub(crate) fn planned(shards: u32, partitions: u32) -> Outcome {
    let facts = PlanFacts { shards, partitions, thread_memory_bytes: 1 << 20, ..PlanFacts::default() };
    Outcome::Planned { plan: digest("plan"), weights: digest("weights"), facts }
}

pub(crate) fn reduced(grant: &Grant) -> Outcome {
    let part = |partition: u32| Part { name: format!("part-{partition}"), records: 1, bytes: 10, digest: digest(partition) };
    Outcome::Reduced { list: grant.list.unwrap(), parts: grant.task.range().map(part).collect(), tally: Tally::default() }
}

/// The outcome that a task has in these tests; the draft asks for three surveys.
pub(crate) fn outcome(grant: &Grant, shards: u32, partitions: u32) -> Outcome {
    match &grant.task {
        Task::Draft => Outcome::Drafted { draft: digest("draft"), surveys: 3 },
        Task::Survey(range) => Outcome::Surveyed { surveys: digest(range) },
        Task::Plan => planned(shards, partitions),
        Task::Map(range) => mapped(range, partitions),
        Task::Reduce(_) => reduced(grant),
    }
}

impl World {
    /// One in which ranges are cut by what is pending alone, as time stands still in most tests, and in halves, which are easy to count.
    pub(crate) fn new() -> Self {
        Self::with(Config { least_task: Duration::ZERO, portion: 500, ..Config::default() })
    }

    pub(crate) fn with(config: Config) -> Self {
        let mut world =
            Self { scheduler: Scheduler::new(config), now: at(0), facts: Vec::new(), syncs: true, replies: 0, numbers: Default::default() };
        let actions = world.scheduler.start(world.now);
        world.settle(actions);
        world
    }

    /// The coordinator dies and is started again; what was journaled up to here is there, as far as `facts` holds it.
    pub(crate) fn restart(&mut self) -> Vec<Action> {
        self.scheduler = Scheduler::replay(self.scheduler.config.clone(), self.facts.iter().cloned());
        self.numbers.clear();
        let actions = self.scheduler.start(self.now);
        self.settle(actions)
    }

    /// Notes what is journaled, and syncs it if that is wished; returns all actions in their order.
    fn settle(&mut self, mut actions: Vec<Action>) -> Vec<Action> {
        let mut seen = 0;
        while seen < actions.len() {
            if let Action::Journal { number, fact } = &actions[seen] {
                self.facts.push((*number, fact.clone()));
                if self.syncs {
                    actions.extend(self.scheduler.handle(self.now, Event::Synced { fact: *number }));
                }
            }
            seen += 1;
        }
        actions
    }

    pub(crate) fn send(&mut self, event: Event) -> Vec<Action> {
        let actions = self.scheduler.handle(self.now, event);
        let actions = self.settle(actions);
        self.scheduler.check();
        actions
    }

    pub(crate) fn sync_all(&mut self) -> Vec<Action> {
        let fact = self.facts.last().unwrap().0;
        self.send(Event::Synced { fact })
    }

    pub(crate) fn reply(&mut self) -> ReplyId {
        self.replies += 1;
        ReplyId(self.replies)
    }

    /// Sends a question, and returns what it was answered, if it was, and all actions.
    pub(crate) fn ask(&mut self, event: impl FnOnce(ReplyId) -> Event) -> (Option<Answer>, Vec<Action>) {
        let reply = self.reply();
        let actions = self.send(event(reply));
        (answer_to(reply, &actions), actions)
    }

    pub(crate) fn pass(&mut self, millis: u64) -> Vec<Action> {
        self.now = Tick(self.now.0 + Duration::from_millis(millis));
        let actions = self.send(Event::Tick);
        assert!(self.scheduler.next_deadline().is_none_or(|deadline| deadline > self.now), "a tick leaves nothing that is due");
        actions
    }

    pub(crate) fn register_as(&mut self, n: u128, registration: Registration) -> Answer {
        self.ask(|reply| Event::Register { reply, worker: worker(n), registration }).0.unwrap()
    }

    /// A worker with so many threads and as many GiB.
    pub(crate) fn join(&mut self, n: u128, threads: u32) -> SessionId {
        let registration = Registration { threads, memory_bytes: u64::from(threads) * GIB, ..Registration::default() };
        match self.register_as(n, registration) {
            Answer::Registered { session, .. } => session,
            answer => panic!("{answer:?}"),
        }
    }

    /// A worker of one thread comes back after its lease, and goes on with what it was at.
    pub(crate) fn come_back(&mut self, n: u128, running: &Grant) -> Grant {
        let again = Registration { threads: 1, memory_bytes: GIB, attempts: vec![held(running)], ..Registration::default() };
        let Answer::Registered { adopted, .. } = self.register_as(n, again) else { panic!("it may come at once") };
        let [(attempt, fence)] = adopted[..] else { panic!("{adopted:?}") };
        Grant { attempt, fence, ..running.clone() }
    }

    pub(crate) fn submit(&mut self, n: u128) -> JobId {
        self.submit_as(submission(n))
    }

    pub(crate) fn submit_as(&mut self, submission: Submission) -> JobId {
        let job = submission.job;
        assert_eq!(self.ask(|reply| Event::Submit { reply, submission }).0, Some(Answer::Submitted { job, new: true }));
        job
    }

    pub(crate) fn next(&mut self, session: SessionId, ahead: bool) -> Option<Box<Grant>> {
        let number = *self.numbers.entry(session).or_default();
        let (answer, _) = self.ask(|reply| Event::NextTask { reply, session, number, ahead });
        match answer {
            Some(Answer::Grant(grant)) => {
                *self.numbers.get_mut(&session).unwrap() += 1;
                Some(grant)
            }
            Some(answer) => panic!("{answer:?}"),
            None => None,
        }
    }

    /// The grant that a session gets when it asks; a poll that gets none is closed again.
    pub(crate) fn grant(&mut self, session: SessionId) -> Option<Box<Grant>> {
        let grant = self.next(session, false);
        if grant.is_none() {
            let reply = ReplyId(self.replies);
            self.send(Event::PollClosed { reply });
        }
        grant
    }

    pub(crate) fn report(&mut self, grant: &Grant, result: Result<Outcome, Failure>) -> (Option<Answer>, Vec<Action>) {
        let (attempt, fence) = (grant.attempt, grant.fence);
        self.ask(|reply| Event::Report { reply, session: fence.session, attempt, fence, result })
    }

    pub(crate) fn done(&mut self, grant: &Grant, outcome: Outcome) {
        assert_eq!(self.report(grant, Ok(outcome)).0, Some(Answer::Accepted));
    }

    pub(crate) fn fail(&mut self, grant: &Grant, failure: Failure) -> Vec<Action> {
        let (answer, actions) = self.report(grant, Err(failure));
        assert_eq!(answer, Some(Answer::Noted));
        actions
    }

    pub(crate) fn beat(&mut self, session: SessionId, attempts: &[AttemptId]) -> (Option<Answer>, Vec<Action>) {
        let attempts = attempts.iter().map(|attempt| (*attempt, Progress::default())).collect();
        self.ask(|reply| Event::Heartbeat { reply, session, attempts })
    }

    /// Takes a new job up to its map phase, with shards of 1 MiB.
    pub(crate) fn planned_job(&mut self, n: u128, session: SessionId, shards: u32, partitions: u32) -> JobId {
        let job = self.submit(n);
        self.plan(job, session, shards, partitions);
        job
    }

    pub(crate) fn plan(&mut self, job: JobId, session: SessionId, shards: u32, partitions: u32) {
        let draft = self.grant(session).unwrap();
        self.done(&draft, Outcome::Drafted { draft: digest("draft"), surveys: 0 });
        let plan = self.grant(session).unwrap();
        self.done(&plan, planned(shards, partitions));
        self.weigh(job, shards);
    }

    pub(crate) fn weigh(&mut self, job: JobId, shards: u32) -> Vec<Action> {
        self.send(Event::Weights { job, shard_bytes: Some(vec![1 << 20; shards as usize]) })
    }

    /// Maps all that a session is granted, and returns the grants.
    pub(crate) fn map_all(&mut self, session: SessionId, partitions: u32) -> Vec<Grant> {
        let mut grants = Vec::new();
        while let Some(grant) = self.grant(session) {
            if !matches!(grant.task, Task::Map(_)) {
                // Handed back, so that the test begins with nothing granted.
                self.fail(&grant, Fault::Drained.into());
                break;
            }
            self.done(&grant, mapped(&grant.task.range(), partitions));
            grants.push(*grant);
        }
        grants
    }

    pub(crate) fn publish(&mut self, job: JobId) -> Vec<Action> {
        let mut actions = self.send(Event::Assembled { job, manifest: Ok(digest("manifest")) });
        actions.extend(self.send(Event::Revealed { job, result: PublishResult::Published }));
        actions.extend(self.send(Event::Swept { job }));
        actions
    }
}

pub(crate) fn answer_to(reply: ReplyId, actions: &[Action]) -> Option<Answer> {
    actions.iter().find_map(|action| match action {
        Action::Answer { reply: to, answer } if *to == reply => Some(answer.clone()),
        _ => None,
    })
}

/// An attempt as its worker tells of it when it registers.
pub(crate) fn held(grant: &Grant) -> HeldAttempt {
    HeldAttempt { attempt: grant.attempt, task: grant.task.clone(), threads: grant.threads, memory_bytes: grant.memory_bytes }
}

/// A map output as its worker tells of it when it registers.
pub(crate) fn kept(grant: &Grant) -> HeldOutput {
    HeldOutput { attempt: grant.attempt, shards: grant.task.range(), index: digest(grant.task.range()) }
}

/// The list that reduce reads when these were mapped.
pub(crate) fn list_of(grants: &[Grant]) -> Digest {
    let mut outputs: Vec<_> = grants.iter().map(|grant| (grant.task.range(), digest(grant.task.range()))).collect();
    outputs.sort_by_key(|(range, _)| range.start);
    list_digest(outputs.iter().map(|(range, index)| (range, index)))
}

pub(crate) fn sources(world: &World, grant: &Grant) -> Option<Vec<(MapOutput, WorkerId)>> {
    world.scheduler.sources(grant.fence.session, grant.attempt)?.outputs().map(Iterator::collect)
}

pub(crate) fn attempt(job: JobId, number: u64) -> AttemptId {
    AttemptId { job, epoch: Epoch(1), number }
}
