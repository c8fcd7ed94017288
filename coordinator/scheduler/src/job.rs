//! A job: its phases, its attempts, and what has been accepted.
//!
//! What is here follows from facts alone, so that live and replayed jobs take the same path; what is to be done about it is
//! decided in `report.rs`, `publish.rs` and their neighbours.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use shardmill_protocol::task::{PlanFacts, SetAside, Tally, TaskKind};
use shardmill_protocol::view::{JobPhase, PhaseView};
use shardmill_protocol::{AttemptId, Digest, Epoch, JobId, Outcome, Task, WorkerId};

use crate::attempt::{History, Live};
use crate::event::{Submission, Tick};
use crate::fact::{Ending, Failed};
use crate::pending::Terms;
use crate::standing::Standing;
use crate::weights::Weights;
use crate::work::{Accepted, Gave, Holding, Work};

/// How far a job is.
#[derive(Debug)]
pub(crate) enum Stage {
    /// Its phases are being worked on.
    Working,
    /// Its manifest is being put together.
    Assembling,
    /// It will be published, whatever happens.
    Committed(Digest),
    /// It has ended.
    Ended(Box<Ended>),
}

/// A job that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) ending: Ending,
    /// The fact that says so.
    pub(crate) fact: u64,
    pub(crate) at: Tick,
    /// What it was at when it ended.
    pub(crate) phase: JobPhase,
    /// Its phases, as they are shown. Their ranges are forgotten.
    pub(crate) phases: Vec<PhaseView>,
    /// Whether staging has been asked to be removed, and whether it is gone.
    pub(crate) sweep: Sweep,
}

/// How far the sweeping of a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sweep {
    /// Attempts are still being killed.
    Waiting,
    /// It was asked for.
    Asked,
    /// Nothing is left.
    Done,
}

/// A job.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) submission: Submission,
    pub(crate) submitted: Tick,
    pub(crate) stage: Stage,
    /// The phases that have begun.
    pub(crate) works: BTreeMap<TaskKind, Work>,
    pub(crate) live: BTreeMap<AttemptId, Live>,
    /// Attempts that were ever accepted: the same report always gets the same answer.
    accepted: BTreeMap<(Epoch, u64), (TaskKind, u32)>,
    pub(crate) surveys: u32,
    pub(crate) plan: Option<PlanFacts>,
    /// The digest of the list of map outputs. It never changes, as a range that is mapped again must give the same.
    pub(crate) list: Option<Digest>,
    /// Content bytes for each partition; nothing if some of the ranges were accepted before a restart.
    pub(crate) partition_bytes: Option<Vec<u64>>,
    /// Their sum, of a job that has ended.
    shuffled: u64,
    pub(crate) tally: Tally,
    pub(crate) output_records: u64,
    pub(crate) output_bytes: u64,
    pub(crate) set_aside: BTreeSet<SetAside>,
    /// Records set aside in accepted ranges.
    pub(crate) bad_records: u64,
    /// Who could not fetch which output, and how often.
    pub(crate) troubles: BTreeMap<AttemptId, BTreeMap<WorkerId, u32>>,
    pub(crate) standings: BTreeMap<WorkerId, Standing>,
    /// Workers that did not find an input file.
    pub(crate) missing: BTreeSet<WorkerId>,
    /// Attempts beyond the first, as far as they count.
    pub(crate) retries: u64,
    /// First units of tasks that have, or had, a backup attempt.
    pub(crate) doubled: BTreeSet<(TaskKind, u32)>,
    /// Threads in use.
    pub(crate) threads: u64,
    /// Attempts being killed.
    pub(crate) dying: u64,
    /// When it was granted something last, counted in grants.
    pub(crate) last_grant: u64,
    /// The fact that its grants rest on.
    pub(crate) gate: u64,
    pub(crate) version: u64,
    pub(crate) workers_lost: u64,
    /// Ranges whose output was lost, each time it happened.
    pub(crate) lost: Vec<Range<u32>>,
    pub(crate) past: History,
}

impl Job {
    /// A job of which nothing is done.
    pub(crate) fn new(submission: Submission, submitted: Tick, gate: u64) -> Self {
        Self {
            submission,
            submitted,
            stage: Stage::Working,
            works: BTreeMap::from([(TaskKind::Draft, Work::new(1, Some(Weights::Even)))]),
            live: BTreeMap::new(),
            accepted: BTreeMap::new(),
            surveys: 0,
            plan: None,
            list: None,
            partition_bytes: None,
            shuffled: 0,
            tally: Tally::default(),
            output_records: 0,
            output_bytes: 0,
            set_aside: BTreeSet::new(),
            bad_records: 0,
            troubles: BTreeMap::new(),
            standings: BTreeMap::new(),
            missing: BTreeSet::new(),
            retries: 0,
            doubled: BTreeSet::new(),
            threads: 0,
            dying: 0,
            last_grant: 0,
            gate,
            version: 0,
            workers_lost: 0,
            lost: Vec::new(),
            past: History::default(),
        }
    }

    pub(crate) fn id(&self) -> JobId {
        self.submission.job
    }

    /// The phase whose units are granted now: the first that is not complete, so map again before reduce if an output is lost.
    pub(crate) fn at(&self) -> Option<TaskKind> {
        match self.stage {
            Stage::Working => self.works.iter().find(|(_, work)| !work.is_complete()).map(|(kind, _)| *kind),
            Stage::Assembling | Stage::Committed(_) | Stage::Ended(_) => None,
        }
    }

    /// The phase as it is shown.
    pub(crate) fn phase(&self) -> JobPhase {
        match &self.stage {
            Stage::Working => match self.works.last_key_value().map(|(kind, _)| *kind) {
                Some(TaskKind::Reduce) => JobPhase::Reducing,
                Some(TaskKind::Map) => JobPhase::Mapping,
                Some(TaskKind::Draft | TaskKind::Survey | TaskKind::Plan) | None => JobPhase::Planning,
            },
            Stage::Assembling | Stage::Committed(_) => JobPhase::Publishing,
            Stage::Ended(ended) => match ended.ending {
                Ending::Succeeded => JobPhase::Succeeded,
                Ending::Failed(_) => JobPhase::Failed,
                Ending::Cancelled => JobPhase::Cancelled,
            },
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.stage, Stage::Ended(_))
    }

    /// Whether anything can be granted now, to whomever.
    pub(crate) fn has_ready(&mut self, now: Tick) -> bool {
        self.at().is_some_and(|kind| self.work(kind).has_ready(now))
    }

    /// The units of a phase that has begun.
    pub(crate) fn work(&mut self, kind: TaskKind) -> &mut Work {
        self.works.get_mut(&kind).expect("the phase has begun")
    }

    /// Where an attempt was accepted, whether what it gave is still there or not.
    pub(crate) fn accepted(&self, attempt: AttemptId) -> Option<(TaskKind, u32)> {
        self.accepted.get(&(attempt.epoch, attempt.number)).copied()
    }

    /// Where an attempt is the accepted one, with what it gave still there or waited for.
    pub(crate) fn holds(&self, attempt: AttemptId) -> Option<(TaskKind, u32)> {
        let (kind, start) = self.accepted(attempt)?;
        let accepted = self.works.get(&kind)?.done.get(&start)?;
        let lost = matches!(accepted.gave, Gave::Output { holding: Holding::Lost, .. });
        (accepted.attempt(self.id()) == attempt && !lost).then_some((kind, start))
    }

    /// A worker still has a map output, with this range and index as far as it says. Returns whether it is one that counts.
    pub(crate) fn attach(&mut self, attempt: AttemptId, worker: WorkerId, held: Option<(&Range<u32>, &Digest)>) -> bool {
        let Some((TaskKind::Map, start)) = self.holds(attempt) else { return false };
        let accepted = self.work(TaskKind::Map).done.get_mut(&start).expect("what is held is done");
        let range = accepted.range.clone();
        let Gave::Output { index, holding, .. } = &mut accepted.gave else { return false };
        let counts = accepted.worker == worker && held.is_none_or(|(shards, digest)| *shards == range && digest == index);
        if counts {
            *holding = Holding::Held;
        }
        counts
    }

    /// Why a well-formed outcome cannot be accepted, if so: nothing of it is to be journaled then.
    pub(crate) fn objection(&self, range: &Range<u32>, outcome: &Outcome) -> Option<Failed> {
        let Outcome::Mapped { index, set_aside, .. } = outcome else { return None };
        let map = self.works.get(&TaskKind::Map)?;
        match map.done.get(&range.start).map(|accepted| &accepted.gave) {
            Some(Gave::Output { index: first, .. }) if first != index => {
                return Some(Failed::NotDeterministic { shards: range.clone(), first: *first, second: *index });
            }
            Some(_) => return None,
            None => {}
        }
        let aside = set_aside.map_or(0, |(records, _)| records);
        let records = self.bad_records + aside + self.aside_elsewhere(range);
        let limit = self.submission.max_bad_records;
        (records > limit).then_some(Failed::TooManyBadRecords { records, limit })
    }

    /// Records left out in ranges that are neither accepted nor this one. An accepted range has counted its own.
    pub(crate) fn aside_elsewhere(&self, range: &Range<u32>) -> u64 {
        let covered = |shard: u32| {
            let before = self.works.get(&TaskKind::Map).and_then(|map| map.done.range(..=shard).next_back());
            range.contains(&shard) || before.is_some_and(|(_, accepted)| shard < accepted.range.end)
        };
        self.set_aside.iter().filter(|record| !covered(record.shard)).count() as u64
    }

    /// Accepts an attempt whose range is neither pending nor done. Everything that follows from it but actions follows here.
    pub(crate) fn accept(&mut self, attempt: AttemptId, worker: WorkerId, task: &Task, outcome: Outcome, elapsed_ms: u64) {
        let (kind, range) = (task.kind(), task.range());
        let first = !self.work(kind).was_accepted(&range);
        let gave = match outcome {
            Outcome::Drafted { draft, surveys } => {
                self.surveys = surveys;
                Gave::File(draft)
            }
            Outcome::Surveyed { surveys } => Gave::File(surveys),
            Outcome::Planned { plan, weights, facts } => {
                self.partition_bytes = Some(vec![0; facts.partitions as usize]);
                self.plan = Some(facts);
                Gave::Plan(Box::new((plan, weights)))
            }
            Outcome::Mapped { index, partition_bytes, tally, set_aside } => {
                if first {
                    add(&mut self.tally, tally);
                    self.bad_records += set_aside.map_or(0, |(records, _)| records);
                    self.partition_bytes =
                        self.partition_bytes.take().filter(|sums| sums.len() == partition_bytes.len()).map(|mut sums| {
                            sums.iter_mut().zip(&partition_bytes).for_each(|(sum, bytes)| *sum = sum.saturating_add(*bytes));
                            sums
                        });
                }
                Gave::Output { index, holding: Holding::Held, quarantine: set_aside.map(Box::new) }
            }
            Outcome::Reduced { list: _, parts, tally } => {
                add(&mut self.tally, tally);
                self.output_records += parts.iter().map(|part| part.records).sum::<u64>();
                self.output_bytes += parts.iter().map(|part| part.bytes).sum::<u64>();
                Gave::Parts(parts.into_boxed_slice())
            }
        };
        self.accepted.insert((attempt.epoch, attempt.number), (kind, range.start));
        let elapsed_ms = u32::try_from(elapsed_ms).unwrap_or(u32::MAX);
        let accepted = Accepted { range, elapsed_ms, epoch: attempt.epoch, number: attempt.number, worker, gave };
        self.work(kind).accept(accepted);
        self.version += 1;
    }

    /// The output of a map range is lost: the range is pending again, whole. Live and replayed jobs go through here. Returns the
    /// range, or nothing if its output was lost before.
    pub(crate) fn lose(&mut self, start: u32, damaged: bool, terms: Terms) -> Option<Range<u32>> {
        let id = self.id();
        let map = self.work(TaskKind::Map);
        let (attempt, worker) = (map.done[&start].attempt(id), map.done[&start].worker);
        let range = map.lose(start, terms)?;
        if damaged {
            map.damages.entry(start).or_default().push(worker);
        }
        self.lost.push(range.clone());
        self.past.lost(attempt);
        self.troubles.remove(&attempt);
        self.version += 1;
        Some(range)
    }

    /// Forgets which attempts were accepted: of a job that has ended nothing is.
    pub(crate) fn forget_accepted(&mut self) {
        self.shuffled = self.shuffle_bytes();
        (self.accepted, self.partition_bytes) = (BTreeMap::new(), None);
    }

    /// Content bytes that reduce reads, as far as they are known.
    pub(crate) fn shuffle_bytes(&self) -> u64 {
        self.partition_bytes.as_deref().map_or(self.shuffled, |sums| sums.iter().sum())
    }

    /// How many attempts were ever accepted.
    pub(crate) fn accepted_count(&self) -> u64 {
        self.accepted.len() as u64
    }
}

/// Adds what an attempt has consumed.
fn add(sum: &mut Tally, tally: Tally) {
    sum.records += tally.records;
    sum.bytes += tally.bytes;
    sum.groups += tally.groups;
    sum.spilled_bytes += tally.spilled_bytes;
    sum.spilled_runs += tally.spilled_runs;
    sum.merge_passes = sum.merge_passes.max(tally.merge_passes);
    sum.peak_memory_bytes = sum.peak_memory_bytes.max(tally.peak_memory_bytes);
    for (name, count) in tally.counters {
        let counter = sum.counters.entry(name).or_default();
        *counter = counter.saturating_add(count);
    }
}
