//! The simulated cluster: coordinator, journal, workers and clients on one virtual clock, with everything between them that can
//! be lost, doubled or late.

use std::collections::BTreeMap;

use shardmill_protocol::task::{Part, PlanFacts, SetAside, Tally};
use shardmill_protocol::{AttemptId, Digest, Failure, Fault, JobId, Outcome, Phase, SessionId, Suspect, Task};

use super::actor::{Actor, Call, Holding};
use super::chance::Chance;
use super::invariants::{Witness, check_journal, check_replay};
use crate::tests::world::{at, digest};
use crate::{Action, Answer, Config, Event, Fact, PublishResult, ReplyId, Scheduler, Submission};

/// The step of the clock, in milliseconds.
const STEP: u64 = 100;

/// How rough it is: one time in so many. Zero is never.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weather {
    pub(super) drop: u64,
    pub(super) double: u64,
    pub(super) late: u64,
    pub(super) worker: u64,
    pub(super) attempt: u64,
    pub(super) coordinator: u64,
    pub(super) client: u64,
    /// Map outputs are deleted.
    pub(super) data: u64,
    /// Map outputs are damaged.
    pub(super) damage: u64,
}

impl Weather {
    pub(super) const CALM: Self =
        Self { drop: 0, double: 0, late: 0, worker: 0, attempt: 0, coordinator: 0, client: 0, data: 0, damage: 0 };
    pub(super) const STORM: Self =
        Self { drop: 25, double: 25, late: 40, worker: 600, attempt: 12, coordinator: 500, client: 2500, data: 6, damage: 6 };
    /// Messages, workers and coordinator fail; nothing that a job could be ended for.
    pub(super) const NETWORK: Self = Self { worker: 600, attempt: 0, client: 0, damage: 0, ..Self::STORM };
}

/// A job of the simulation.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) submission: Submission,
    pub(super) shards: u32,
    pub(super) partitions: u32,
    pub(super) surveys: u32,
    /// The output depends on who maps it.
    pub(super) random: bool,
    /// A record that brings the process down whenever it is mapped.
    pub(super) bad: Option<SetAside>,
    /// A shard that takes its worker along.
    pub(super) poison: Option<u32>,
    /// A shard whose output is damaged wherever it is mapped.
    pub(super) rotten: Option<u32>,
    pub(super) submitted: bool,
}

enum Message {
    Ask { actor: usize, life: u64, call: Call },
    Tell { actor: usize, life: u64, call: Call, answer: Answer },
    Shell { start: u64, event: Event },
}

pub(super) struct Cluster {
    pub(super) chance: Chance,
    pub(super) weather: Weather,
    config: Config,
    pub(super) now: u64,
    pub(super) scheduler: Scheduler,
    /// Counts the starts of the coordinator: what was under way to an earlier one is lost.
    start: u64,
    pub(super) journal: Vec<(u64, Fact)>,
    synced: u64,
    syncing: bool,
    pub(super) actors: Vec<Actor>,
    pub(super) jobs: BTreeMap<JobId, Model>,
    messages: BTreeMap<(u64, u64), Message>,
    sent: u64,
    replies: u64,
    asked: BTreeMap<ReplyId, (usize, u64, Call)>,
    submits: BTreeMap<ReplyId, JobId>,
    pub(super) witness: Witness,
    /// How often each shard was mapped with success.
    pub(super) mapped: BTreeMap<(JobId, u32), u32>,
}

impl Cluster {
    pub(super) fn new(seed: u64, config: Config, workers: usize, weather: Weather) -> Self {
        let mut chance = Chance::new(seed);
        let actors = (0..workers).map(|n| Actor::new(n as u128 + 1, chance.between(1, 4) as u32)).collect();
        let mut cluster = Self {
            chance,
            weather,
            scheduler: Scheduler::new(config.clone()),
            config,
            now: 0,
            start: 0,
            journal: Vec::new(),
            synced: 0,
            syncing: false,
            actors,
            jobs: BTreeMap::new(),
            messages: BTreeMap::new(),
            sent: 0,
            replies: 0,
            asked: BTreeMap::new(),
            submits: BTreeMap::new(),
            witness: Witness::default(),
            mapped: BTreeMap::new(),
        };
        let actions = cluster.scheduler.start(at(0));
        cluster.perform(actions);
        cluster
    }

    fn later(&mut self, low: u64, high: u64, message: Message) {
        self.sent += 1;
        let when = self.now + self.chance.between(low, high);
        self.messages.insert((when, self.sent), message);
    }

    /// Sends something over the network.
    fn post(&mut self, message: impl Fn() -> Message) {
        let weather = self.weather;
        if self.chance.fault("message lost", weather.drop) {
            return;
        }
        let copies = 1 + u64::from(self.chance.fault("message doubled", weather.double));
        for _ in 0..copies {
            let late = self.chance.fault("message late", weather.late);
            self.later(1, if late { 60_000 } else { 150 }, message());
        }
    }

    fn handle(&mut self, event: Event) {
        let actions = self.scheduler.handle(at(self.now), event.clone());
        self.scheduler.check();
        for action in &actions {
            if let Action::Journal { number, fact } = action {
                self.journal.push((*number, fact.clone()));
            }
        }
        self.witness.see(&self.scheduler, &event, &actions, &self.journal, self.synced);
        // The coordinator may die at any boundary between two effects.
        let done = if self.chance.fault("coordinator killed between effects", self.weather.coordinator * 4) {
            self.chance.below(actions.len() as u64 + 1) as usize
        } else {
            actions.len()
        };
        let dies = done < actions.len();
        let effects = actions.into_iter().filter(|action| !matches!(action, Action::Journal { .. }));
        self.perform_effects(effects.take(done).collect());
        if dies {
            self.restart();
        }
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in &actions {
            if let Action::Journal { number, fact } = action {
                self.journal.push((*number, fact.clone()));
            }
        }
        self.perform_effects(actions);
    }

    fn perform_effects(&mut self, actions: Vec<Action>) {
        if !self.syncing && self.journal.last().is_some_and(|(last, _)| *last > self.synced) {
            self.syncing = true;
            let fact = self.journal.last().expect("it was looked at").0;
            self.shell(1, 60, Event::Synced { fact });
        }
        for action in actions {
            match action {
                Action::Answer { reply, answer } => self.answer(reply, answer),
                Action::ReadWeights { job, .. } => {
                    let shards = self.jobs[&job].shards;
                    self.shell(1, 300, Event::Weights { job, shard_bytes: Some(vec![1 << 20; shards as usize]) });
                }
                Action::Assemble { job } => self.shell(1, 500, Event::Assembled { job, manifest: Ok(digest(job)) }),
                Action::Reveal { job } => self.shell(1, 500, Event::Revealed { job, result: PublishResult::Published }),
                Action::Sweep { job, .. } => self.shell(1, 500, Event::Swept { job }),
                Action::Journal { .. } | Action::Discard { .. } | Action::Notice(_) => {}
            }
        }
    }

    fn shell(&mut self, low: u64, high: u64, event: Event) {
        let start = self.start;
        self.later(low, high, Message::Shell { start, event });
    }

    fn answer(&mut self, reply: ReplyId, answer: Answer) {
        if let Some(job) = self.submits.remove(&reply) {
            if matches!(answer, Answer::Submitted { .. }) && !self.chance.fault("submit answer lost", self.weather.drop) {
                self.jobs.get_mut(&job).expect("it was submitted").submitted = true;
            }
            return;
        }
        let Some((actor, life, call)) = self.asked.remove(&reply) else { return };
        if self.actors[actor].deaf_until <= self.now {
            self.post(|| Message::Tell { actor, life, call: call.clone(), answer: answer.clone() });
        }
    }

    /// The coordinator dies, and is started again with what has reached the disk: all that is synced, and perhaps more.
    pub(super) fn restart(&mut self) {
        self.start += 1;
        let unsynced = self.journal.iter().filter(|(number, _)| *number > self.synced).count() as u64;
        let lost = self.chance.below(unsynced + 1) as usize;
        self.journal.truncate(self.journal.len() - lost);
        self.synced = self.journal.last().map_or(0, |(number, _)| *number);
        self.syncing = false;
        self.asked.clear();
        self.submits.clear();
        self.witness.restarted(&self.journal);
        check_journal(&self.journal);
        self.scheduler = Scheduler::replay(self.config.clone(), self.journal.iter().cloned());
        let actions = self.scheduler.start(at(self.now));
        self.scheduler.check();
        self.perform(actions);
    }

    /// One step of the clock.
    pub(super) fn step(&mut self) {
        self.now += STEP;
        while let Some((&(when, number), _)) = self.messages.first_key_value()
            && when <= self.now
        {
            let message = self.messages.remove(&(when, number)).expect("it is the first");
            self.deliver(message);
        }
        if self.scheduler.next_deadline().is_some_and(|deadline| deadline <= at(self.now)) {
            self.handle(Event::Tick);
            assert!(self.scheduler.next_deadline().is_none_or(|next| next > at(self.now)), "a tick leaves nothing that is due");
        }
        for actor in 0..self.actors.len() {
            self.live(actor);
        }
        self.clients();
        if self.chance.fault("coordinator killed", self.weather.coordinator) {
            self.restart();
        }
        if self.chance.one_in(50) {
            check_replay(&self.scheduler, &self.journal);
        }
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Shell { start, event } if start == self.start => {
                if let Event::Synced { fact } = event {
                    (self.synced, self.syncing) = (fact, false);
                }
                self.handle(event);
            }
            Message::Shell { .. } => {}
            Message::Ask { actor, life, call } => {
                self.replies += 1;
                let reply = ReplyId(self.replies);
                self.asked.insert(reply, (actor, life, call.clone()));
                let worker = self.actors[actor].id;
                self.handle(match call {
                    Call::Register(registration) => Event::Register { reply, worker, registration },
                    Call::Heartbeat(session, attempts) => Event::Heartbeat { reply, session, attempts },
                    Call::NextTask(session, number, ahead) => Event::NextTask { reply, session, number, ahead },
                    Call::Report(session, attempt, fence, result) => Event::Report { reply, session, attempt, fence, result },
                    Call::FetchTrouble(session, output, damaged) => Event::FetchTrouble { session, output, damaged },
                    Call::Leave(session) => Event::Leave { reply, session },
                });
                self.close_old_polls(actor, reply);
            }
            Message::Tell { actor, life, call, answer } => {
                if self.actors[actor].life != life || self.actors[actor].dead_until.is_some() {
                    return;
                }
                if self.actors[actor].stopped_until.is_some() {
                    // It lies in the socket's buffer.
                    return self.later(1000, 3000, Message::Tell { actor, life, call, answer });
                }
                if let (Call::Report(_, attempt, ..), Answer::Accepted) = (&call, &answer) {
                    self.witness.told_accepted(*attempt);
                }
                if matches!(answer, Answer::Grant(_)) && self.chance.fault("grant dropped by its worker", self.weather.drop * 4) {
                    let silent = &mut self.actors[actor];
                    (silent.number, silent.poll) = (silent.number + 1, None);
                    return;
                }
                let work = self.chance.between(200, 8_000);
                let left = matches!((&call, &answer), (Call::Leave(_), Answer::Done));
                let actor = &mut self.actors[actor];
                actor.hear(&call, answer, work);
                if left {
                    actor.die(self.now + 5000);
                }
            }
        }
    }

    /// Nobody waits for a worker's earlier polls once it has asked again.
    fn close_old_polls(&mut self, actor: usize, latest: ReplyId) {
        let polls = |(reply, (of, _, call)): (&ReplyId, &(usize, u64, Call))| {
            (*of == actor && *reply != latest && matches!(call, Call::NextTask(..))).then_some(*reply)
        };
        if matches!(self.asked.get(&latest), Some((_, _, Call::NextTask(..)))) {
            for reply in self.asked.iter().filter_map(polls).collect::<Vec<_>>() {
                self.asked.remove(&reply);
                self.handle(Event::PollClosed { reply });
            }
        }
    }

    /// A worker lives for one step.
    fn live(&mut self, index: usize) {
        self.suffer(index);
        let now = self.now;
        let actor = &mut self.actors[index];
        if actor.dead_until.is_some_and(|until| until <= now) {
            actor.dead_until = None;
        }
        if actor.stopped_until.is_some_and(|until| until <= now) {
            actor.stopped_until = None;
        }
        if !actor.runs() {
            return;
        }
        for attempt in self.actors[index].computing() {
            self.compute(index, attempt);
        }
        let actor = &mut self.actors[index];
        if !actor.runs() {
            return;
        }
        let (life, mute) = (actor.life, actor.mute_until > now);
        for call in actor.speak(now) {
            if !mute {
                self.post(|| Message::Ask { actor: index, life, call: call.clone() });
            }
        }
    }

    fn suffer(&mut self, index: usize) {
        let (now, times) = (self.now, self.weather.worker);
        let actor = &mut self.actors[index];
        if !actor.runs() {
            return;
        }
        if self.chance.fault("worker killed", times) {
            actor.die(now + self.chance.between(500, 30_000));
            if self.chance.fault("worker's disk wiped", 3) {
                actor.outputs.clear();
            }
        } else if self.chance.fault("worker stopped", times) {
            actor.stopped_until = Some(now + self.chance.between(1000, 40_000));
        } else if self.chance.fault("requests lost for a while", times) {
            actor.mute_until = now + self.chance.between(1000, 25_000);
        } else if self.chance.fault("answers lost for a while", times) {
            actor.deaf_until = now + self.chance.between(1000, 25_000);
        } else if self.chance.fault("connection lost", times) {
            (actor.session, actor.poll) = (None, None);
        }
        if !actor.outputs.is_empty() && self.chance.fault("output deleted", self.weather.data * 100) {
            let number = self.chance.below(actor.outputs.len() as u64) as usize;
            let output = *actor.outputs.keys().nth(number).expect("there are as many");
            actor.outputs.remove(&output);
        }
        if let Some(attempt) = actor.attempts.keys().next().copied()
            && self.chance.fault("attempt cannot be killed", self.weather.worker * 5)
        {
            actor.stuck.push(attempt);
        }
    }

    fn compute(&mut self, index: usize, attempt: AttemptId) {
        let model = self.jobs[&attempt.job].clone();
        // Another attempt of this step may have taken the worker down.
        let Some(held) = self.actors[index].attempts.get_mut(&attempt) else { return };
        held.left = held.left.saturating_sub(STEP);
        if held.left > 0 {
            return;
        }
        let held = held.clone();
        if let Task::Map(range) = &held.task
            && model.poison.is_some_and(|shard| range.contains(&shard))
        {
            *self.chance.fired.entry("poison shard").or_default() += 1;
            let back = self.now + self.chance.between(500, 5000);
            return self.actors[index].die(back);
        }
        let result = match self.misfortune(&held, &model) {
            Some(failure) => Err(failure),
            None => match self.fetch(index, attempt, &held) {
                Fetched::All => Ok(self.outcome(attempt, &held, &model)),
                Fetched::Later => return,
                Fetched::Never(fault) => Err(fault.into()),
            },
        };
        self.actors[index].attempts.get_mut(&attempt).expect("it computes").result = Some(result);
    }

    /// Why an attempt fails, if it does.
    fn misfortune(&mut self, held: &Holding, model: &Model) -> Option<Failure> {
        let range = held.task.range();
        if let (Task::Map(_), Some(bad)) = (&held.task, model.bad)
            && range.contains(&bad.shard)
            && !held.set_aside.contains(&bad)
        {
            *self.chance.fired.entry("bad record").or_default() += 1;
            let suspects = [Suspect { unit: bad.shard, record: bad.record, offset: 0 }].into();
            return Some(Failure { fault: Fault::Signalled { signal: 11, stderr: String::new() }, suspects, files: Box::default() });
        }
        if !self.chance.one_in(self.weather.attempt) {
            return None;
        }
        let (path, cause, stderr) = (std::path::PathBuf::from("/disk"), String::new(), String::new());
        let (name, fault) = match self.chance.below(13) {
            0 => ("panicked", Fault::Panicked { phase: Phase::Combine, cause }),
            1 => ("signalled", Fault::Signalled { signal: 6, stderr }),
            2 => ("out of memory", Fault::OutOfMemory { limit_bytes: held.memory_bytes, peak_bytes: 0 }),
            3 => ("stalled", Fault::Stalled { seconds: 300 }),
            4 => ("exited without result", Fault::ExitedWithoutResult { code: 0, stderr }),
            5 => ("protocol broken", Fault::ProtocolBroken { breach: shardmill_protocol::fault::Breach::Malformed, stderr }),
            6 => ("disk full", Fault::DiskFull { path }),
            7 => ("disk failed", Fault::DiskFailed { path, cause }),
            8 => ("spawn failed", Fault::SpawnFailed { reason: shardmill_protocol::fault::Unstartable::System, cause }),
            9 => ("artifact damaged", Fault::ArtifactDamaged),
            10 => ("input missing", Fault::InputMissing { path, cause }),
            11 => ("output unseen", Fault::OutputUnseen { path }),
            _ => ("handed back", Fault::Drained),
        };
        *self.chance.fired.entry(name).or_default() += 1;
        let named = matches!(held.task, Task::Map(_) | Task::Reduce(_)) && self.chance.one_in(2);
        let suspects = (0..if named { self.chance.between(1, 2) } else { 0 }).map(|_| Suspect {
            unit: range.start + self.chance.below(range.len() as u64) as u32,
            record: self.chance.next(),
            offset: 0,
        });
        Some(Failure { fault, suspects: suspects.collect(), files: Box::default() })
    }

    /// Fetches what a reduce attempt reads.
    fn fetch(&mut self, index: usize, attempt: AttemptId, held: &Holding) -> Fetched {
        let Task::Reduce(_) = held.task else { return Fetched::All };
        let Some(session) = self.actors[index].session.map(|(_, session)| session).filter(|session| *session == held.fence.session) else {
            return Fetched::Later;
        };
        let Some(sources) = self.scheduler.sources(session, attempt) else { return Fetched::Later };
        assert_eq!(Some(sources.list()), held.list.or(Some(sources.list())), "I13: the list is that of the grant");
        let worker = self.actors[index].id;
        let Some(outputs) = sources.outputs() else {
            // One is being made again.
            let held = self.actors[index].attempts.get_mut(&attempt).expect("it computes");
            (held.fetches, held.left) = (held.fetches + 1, 100);
            return if held.fetches < 3 { Fetched::Later } else { Fetched::Never(Fault::Drained) };
        };
        let is_there = |output, holder| self.actors.iter().any(|actor| actor.id == holder && actor.serves(output));
        let missing = outputs.map(|(output, holder)| (holder, output.attempt)).find(|(holder, output)| !is_there(*output, *holder));
        let Some((holder, output)) = missing else {
            let outputs = self.scheduler.sources(session, attempt).and_then(|sources| sources.outputs());
            let mut outputs: Vec<_> = outputs.into_iter().flatten().collect();
            let rotten = self.jobs[&attempt.job].rotten;
            outputs.retain(|(output, _)| rotten.is_none_or(|shard| output.shards.contains(&shard)));
            if outputs.is_empty() || rotten.is_none() && !self.chance.fault("served bad data", self.weather.damage) {
                return Fetched::All;
            }
            let (output, holder) = outputs[self.chance.below(outputs.len() as u64) as usize].clone();
            return Fetched::Never(if holder == worker {
                *self.chance.fired.entry("own output damaged").or_default() += 1;
                Fault::OutputLost { output: output.attempt, damaged: true }
            } else {
                Fault::ServedBadData { worker: holder, output: output.attempt }
            });
        };
        *self.chance.fired.entry("fetch failed").or_default() += 1;
        let held = self.actors[index].attempts.get_mut(&attempt).expect("it computes");
        (held.fetches, held.left) = (held.fetches + 1, 1000);
        if held.fetches < 3 {
            let life = self.actors[index].life;
            let damaged = self.chance.fault("damaged output", self.weather.damage);
            self.post(|| Message::Ask { actor: index, life, call: Call::FetchTrouble(session, output, damaged) });
            return Fetched::Later;
        }
        Fetched::Never(if holder == worker {
            Fault::OutputLost { output, damaged: false }
        } else {
            Fault::FetchFailed { worker: holder, output, cause: String::new() }
        })
    }

    fn outcome(&mut self, attempt: AttemptId, held: &Holding, model: &Model) -> Outcome {
        match &held.task {
            Task::Draft => Outcome::Drafted { draft: digest("draft"), surveys: model.surveys },
            Task::Survey(range) => Outcome::Surveyed { surveys: digest(range) },
            Task::Plan => {
                let facts =
                    PlanFacts { shards: model.shards, partitions: model.partitions, thread_memory_bytes: 1 << 28, ..Default::default() };
                Outcome::Planned { plan: digest("plan"), weights: digest("weights"), facts }
            }
            Task::Map(range) => {
                for shard in range.clone() {
                    *self.mapped.entry((attempt.job, shard)).or_default() += 1;
                }
                let index = if model.random { digest((range, attempt)) } else { digest((attempt.job, range)) };
                let tally = Tally { records: range.len() as u64, ..Tally::default() };
                let aside = (!held.set_aside.is_empty()).then(|| (held.set_aside.len() as u64, digest(&held.set_aside)));
                Outcome::Mapped { index, partition_bytes: vec![1 << 20; model.partitions as usize], tally, set_aside: aside }
            }
            Task::Reduce(range) => {
                let part = |partition| Part { name: format!("part-{partition}"), records: 1, bytes: 1, digest: Digest::default() };
                let list = held.list.or_else(|| self.list_of(held.fence.session, attempt)).unwrap_or_default();
                Outcome::Reduced { list, parts: range.clone().map(part).collect(), tally: Tally::default() }
            }
        }
    }

    fn list_of(&self, session: SessionId, attempt: AttemptId) -> Option<Digest> {
        self.scheduler.sources(session, attempt).map(|sources| sources.list())
    }

    fn clients(&mut self) {
        let waiting: Vec<_> = self.jobs.values().filter(|model| !model.submitted).map(|model| model.submission.clone()).collect();
        for submission in waiting {
            if self.now.is_multiple_of(5000) {
                self.replies += 1;
                let reply = ReplyId(self.replies);
                self.submits.insert(reply, submission.job);
                self.handle(Event::Submit { reply, submission });
            }
        }
        if self.chance.fault("cancelled", self.weather.client) {
            let number = self.chance.below(self.jobs.len() as u64) as usize;
            let job = *self.jobs.keys().nth(number).expect("there are as many");
            self.replies += 1;
            self.handle(Event::Cancel { reply: ReplyId(self.replies), job });
        }
        if self.chance.fault("drained", self.weather.client) {
            let number = self.chance.below(self.actors.len() as u64) as usize;
            self.replies += 1;
            self.handle(Event::Drain { reply: ReplyId(self.replies), worker: self.actors[number].id });
        }
        if self.chance.fault("second job for an output", self.weather.client) {
            let known: Vec<_> = self.scheduler.jobs().filter_map(|job| self.scheduler.submission(job)).cloned().collect();
            for submission in known.into_iter().take(1) {
                let second = Submission { job: JobId(submission.job.0 + 1000), key: "second".to_owned(), ..submission };
                self.replies += 1;
                // If the first is over, this one begins, and is worked on like any other.
                let model = self.jobs[&JobId(second.job.0 - 1000)].clone();
                if second.job.0 < 2000 {
                    self.jobs.insert(second.job, Model { submission: second.clone(), submitted: true, ..model });
                    self.handle(Event::Submit { reply: ReplyId(self.replies), submission: second });
                }
            }
        }
    }

    /// All faults are lifted: messages arrive, workers live and serve.
    pub(super) fn heal(&mut self) {
        self.weather = Weather::CALM;
        for actor in &mut self.actors {
            (actor.dead_until, actor.stopped_until) = (None, None);
            (actor.deaf_until, actor.mute_until) = (0, 0);
            actor.stuck.clear();
        }
    }

    /// Runs until all jobs have ended and are swept; panics if that takes too long.
    pub(super) fn finish(&mut self, within: u64) {
        let until = self.now + within;
        while !self.is_quiet() {
            assert!(self.now < until, "I18: every job ends once all is well again\n{}", self.scheduler.durable());
            self.step();
        }
        check_journal(&self.journal);
        check_replay(&self.scheduler, &self.journal);
    }

    fn is_quiet(&self) -> bool {
        let known = self
            .jobs
            .values()
            .all(|model| !model.submitted || self.scheduler.submission(model.submission.job).is_some() || model.submission.key == "second");
        let submitted = self.jobs.values().all(|model| model.submitted);
        let swept = self.journal.iter().filter(|(_, fact)| matches!(fact, Fact::Swept { .. })).count();
        known && submitted && swept == self.scheduler.jobs().count()
    }
}

enum Fetched {
    All,
    Later,
    Never(Fault),
}
