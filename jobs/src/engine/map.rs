//! Mapping: shards are read, each record goes through `map`, and what it emits is collected.
//!
//! One long-lived loop per rayon thread takes shards from a queue, never one rayon task per shard: a `map` that uses rayon itself
//! must not find another shard on its stack. A panic is caught per block, not per record; the thread's slot says which record it was,
//! to this process and, should it die, to whoever watches over it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rayon::ThreadPool;
use shardmill_datasets::{Block, Plan, PlannedFile, Shard};
use shardmill_protocol::Suspect;
use shardmill_protocol::slots::Slot;

use super::aside::{Aside, SetAside};
use super::collect::{Collector, Failure, Pair, Store, out_of_memory};
use super::queue::{Queue, all_or_first};
use super::{Emitter, Partitioner, Settings};
use crate::catch::{Panic, catch};
use crate::fault::{BadRecord, Fault, Phase};
use crate::job::{MapReduce, Record, Result as JobResult};
use crate::shape::Driver;

/// What mapping a range of shards has given.
pub(crate) struct Mapped<J: MapReduce> {
    /// What each thread has collected, in memory and spilled.
    pub(crate) collectors: Vec<Collector<J>>,
    /// The job's counters.
    pub(crate) counters: BTreeMap<String, u64>,
    /// The records that were set aside.
    pub(crate) set_aside: SetAside,
}

/// Records to leave out, by shard and number: they have ended processes that mapped them.
pub(crate) type LeftOut = BTreeSet<(u32, u64)>;

/// What is said of them where bad records are told.
pub(crate) const LEFT_OUT: &str = "it has brought job processes down";

/// What the threads of one attempt share.
struct Attempt<'a, J: MapReduce> {
    job: &'a J,
    plan: &'a Plan,
    settings: &'a Settings,
    /// Only so many records of each shard are mapped: a sample.
    record_limit: u64,
    left_out: &'a LeftOut,
    queue: Queue,
    /// Bad records of all threads.
    bad_records: AtomicU64,
}

impl<'a, J: MapReduce> Attempt<'a, J> {
    fn new(job: &'a J, plan: &'a Plan, settings: &'a Settings, record_limit: u64, left_out: &'a LeftOut, queue: Queue) -> Self {
        Self { job, plan, settings, record_limit, left_out, queue, bad_records: AtomicU64::new(0) }
    }

    /// A mapper for the thread with this number. Without `aside`, bad records are only counted.
    fn mapper(&self, collector: Collector<J>, thread: usize, aside: Option<Aside>) -> Mapper<'_, J> {
        Mapper { attempt: self, slot: self.settings.slots.of(thread), collector, aside, shard: 0, told_bytes: 0 }
    }

    /// The first record from `next` on that is not to be mapped.
    fn stop_before(&self, shard: u32, next: u64) -> u64 {
        let left_out = self.left_out.range((shard, next)..).next().filter(|(of, _)| *of == shard);
        left_out.map_or(self.record_limit, |(_, record)| self.record_limit.min(*record))
    }

    /// Whether there may be one more bad record.
    fn may_set_aside(&self) -> bool {
        let may = self.bad_records.fetch_add(1, Relaxed) < self.settings.max_bad_records;
        self.settings.progress.bad_records.fetch_add(may.into(), Relaxed);
        may
    }
}

/// Calls `map` for the records of one shard after the other, on one thread.
pub(crate) struct Mapper<'a, J: MapReduce> {
    attempt: &'a Attempt<'a, J>,
    slot: Slot<'a>,
    pub(crate) collector: Collector<J>,
    aside: Option<Aside>,
    shard: u32,
    /// How much of the shard's bytes was added to the progress.
    told_bytes: u64,
}

/// Why the loop over a block's records was left.
enum Stop {
    Record(String),
    Collector,
    /// Before a record that is not to be mapped.
    Before,
}

impl<'a, J: MapReduce> Mapper<'a, J> {
    /// Maps one shard.
    fn map_shard(&mut self, reader: &mut <J::Input as Driver>::Reader, number: u32, shard: &Shard) -> Result<(), Fault> {
        (self.shard, self.told_bytes) = (number, 0);
        self.collector.begin_shard(number);
        J::Input::map_shard(reader, self, shard)?;
        let job = self.attempt.job;
        emit_without_record(Phase::EndShard, &mut self.collector, |emitter| job.end_shard(emitter))?;
        // What a reader has passed over, or cannot tell before the end.
        self.has_read(shard, shard.bytes, 0, 0).map(|_| ())
    }

    /// The file of a shard.
    pub(crate) fn file(&self, shard: &Shard) -> &'a PlannedFile {
        &self.attempt.plan.files[shard.file as usize]
    }

    /// Notes that input was consumed: of the shard's bytes, as they lie in the file, so many in all, and so many more records.
    ///
    /// False once the records of the shard are enough, an error if the run was interrupted or nobody needs the shard any more.
    pub(crate) fn has_read(&mut self, shard: &Shard, shard_bytes: u64, records: u64, records_of_shard: u64) -> Result<bool, Fault> {
        let progress = &self.attempt.settings.progress;
        if !self.is_sampling() {
            // Readers read ahead, and a record may end behind its shard.
            let read = shard_bytes.min(shard.bytes).max(self.told_bytes);
            progress.input_bytes.fetch_add(read - self.told_bytes, Relaxed);
            progress.input_records.fetch_add(records, Relaxed);
            self.told_bytes = read;
        }
        if progress.is_interrupted() || self.attempt.queue.is_void(self.shard) {
            return Err(Fault::Interrupted);
        }
        Ok(records_of_shard < self.attempt.record_limit)
    }

    /// How many more records are wanted behind the first `records` ones.
    pub(crate) fn left_of(&self, records: u64) -> u64 {
        self.attempt.record_limit.saturating_sub(records)
    }

    /// Whether quotes have a meaning in CSV.
    pub(crate) fn csv_quotes(&self) -> bool {
        self.attempt.plan.options.csv.quotes
    }

    /// Maps the records of a block; returns how many there were.
    ///
    /// `records(from)` iterates over the records from byte `from` on, each with its start behind that; `raw(start)` is the record
    /// there as it stands in the file.
    #[inline]
    pub(crate) fn map_block<'b, I>(
        &mut self,
        file: &PlannedFile,
        block: &Block<'b>,
        first_record: u64,
        records: impl Fn(usize) -> I,
        raw: impl Fn(usize) -> &'b [u8],
    ) -> Result<u64, Fault>
    where
        I: Iterator<Item = (usize, Result<Record<'b, J>, String>)>,
    {
        let slot = self.slot;
        slot.enter(Suspect { unit: self.shard, record: first_record, offset: block.offset });
        // The record to go on with: the one at byte `from`, or the one behind it.
        let (mut next, mut from, mut is_resumed) = (first_record, 0, false);
        loop {
            let (job, collector, stop_before) = (self.attempt.job, &mut self.collector, self.attempt.stop_before(self.shard, next));
            let outcome = catch(|| {
                let mut emitter = Emitter::for_block(collector, block.padded());
                let mut records = records(from);
                if is_resumed {
                    records.next();
                }
                let mut number = next;
                for (behind, record) in records {
                    slot.go_on(number, block.offset + (from + behind) as u64);
                    if number == stop_before {
                        return Err(Stop::Before);
                    }
                    let mapped: JobResult = match record {
                        Ok(record) => job.map(record, &mut emitter),
                        Err(cause) => return Err(Stop::Record(cause)),
                    };
                    if let Err(error) = mapped {
                        return Err(Stop::Record(error.to_string()));
                    }
                    if emitter.has_failed() {
                        return Err(Stop::Collector);
                    }
                    emitter.accept_record();
                    if emitter.has_failed() {
                        return Err(Stop::Collector);
                    }
                    number += 1;
                }
                Ok(number)
            });
            let (number, start) = (slot.record(), (slot.offset() - block.offset) as usize);
            let cause = match outcome {
                Ok(Err(Stop::Before)) if self.left_of(number) == 0 => {
                    slot.leave();
                    return Ok(number - first_record);
                }
                Ok(Err(Stop::Before)) => LEFT_OUT.to_owned(),
                Ok(Ok(end)) => match self.bad_record(Ok(Ok(())))? {
                    Some(cause) => cause,
                    None => {
                        slot.leave();
                        return Ok(end - first_record);
                    }
                },
                outcome => match self.bad_record(outcome.map(|mapped| mapped.map(|_| ())))? {
                    Some(cause) => cause,
                    None => unreachable!("the loop stops for a reason"),
                },
            };
            self.set_aside(file, number, slot.offset(), raw(start), cause)?;
            (next, from, is_resumed) = (number + 1, start, true);
        }
    }

    /// Maps one record that does not lie in a block.
    pub(crate) fn map_record<'r>(
        &mut self,
        file: &PlannedFile,
        place: (u64, u64),
        record: Result<Record<'r, J>, String>,
        raw: &[u8],
    ) -> Result<(), Fault> {
        if self.is_left_out(place.0) {
            return self.set_aside(file, place.0, place.1, raw, LEFT_OUT.to_owned());
        }
        match self.try_record(place, record)? {
            Some(cause) => self.set_aside(file, place.0, place.1, raw, cause),
            None => Ok(()),
        }
    }

    /// Whether a record is not to be mapped, as it has brought processes down, or as there were enough.
    pub(crate) fn is_left_out(&self, record: u64) -> bool {
        self.attempt.stop_before(self.shard, record) == record
    }

    /// Whether nothing stands of a record that turns out to be bad, so that it, or a part of it, can be mapped again.
    pub(crate) fn holds_records(&self) -> bool {
        self.attempt.settings.holds_records()
    }

    /// Whether records are only looked at, to be mapped later.
    pub(crate) fn is_sampling(&self) -> bool {
        self.attempt.record_limit != u64::MAX
    }

    /// Maps one record, if that can be done; says what is wrong with it if not.
    pub(crate) fn try_record<'r>(&mut self, place: (u64, u64), record: Result<Record<'r, J>, String>) -> Result<Option<String>, Fault> {
        let (job, collector) = (self.attempt.job, &mut self.collector);
        self.slot.enter(Suspect { unit: self.shard, record: place.0, offset: place.1 });
        let outcome = catch(|| {
            let mut emitter = Emitter::new(collector);
            match record {
                Ok(record) => job.map(record, &mut emitter).map_err(|error| Stop::Record(error.to_string()))?,
                Err(cause) => return Err(Stop::Record(cause)),
            }
            if emitter.has_failed() {
                return Err(Stop::Collector);
            }
            emitter.accept_record();
            if emitter.has_failed() { Err(Stop::Collector) } else { Ok(()) }
        });
        self.slot.leave();
        self.bad_record(outcome)
    }

    /// What is wrong with the record at which the loop stopped, if it is the record that is wrong.
    fn bad_record(&mut self, outcome: Result<Result<(), Stop>, Panic>) -> Result<Option<String>, Fault> {
        // A fault of the engine outweighs whatever is wrong with the record.
        let failure = match self.collector.failure.take() {
            Some(Failure::Fault(fault)) => return Err(fault),
            Some(Failure::Record(cause)) => Some(cause),
            None => None,
        };
        let cause = match outcome {
            Ok(Ok(()) | Err(Stop::Before)) => None,
            Ok(Err(Stop::Record(cause))) => Some(cause),
            Ok(Err(Stop::Collector)) => failure,
            Err(panic) if panic.in_combine => return Err(Fault::Panicked { phase: Phase::Combine, cause: panic.message }),
            Err(panic) => Some(panic.message),
        };
        let Some(cause) = cause else { return Ok(None) };
        self.collector.drop_record();
        Ok(Some(cause))
    }

    /// Sets a bad record aside, or ends the attempt if there are too many. Those of a shard come in order.
    pub(crate) fn set_aside(&mut self, file: &PlannedFile, record: u64, offset: u64, bytes: &[u8], cause: String) -> Result<(), Fault> {
        if self.is_sampling() {
            // A sample only looks; the record is met again.
            return Ok(());
        }
        let bad = BadRecord { shard: self.shard, record, offset, file: file.file.path.clone(), cause, bytes: bytes.to_vec() };
        if !self.attempt.may_set_aside() {
            return Err(Fault::BadRecord(Box::new(bad)));
        }
        self.aside.as_mut().map_or(Ok(()), |aside| aside.add(&bad))
    }
}

/// Maps a range of the plan's shards on all threads of the pool, but for some records.
pub(crate) fn map_shards<J: MapReduce>(
    job: &J,
    plan: &Plan,
    shards: Range<u32>,
    left_out: &LeftOut,
    partitioner: &Partitioner,
    settings: &Settings,
    pool: &ThreadPool,
) -> Result<Mapped<J>, Fault> {
    call_hook(Phase::Start, || job.start())?;
    let attempt = Attempt::new(job, plan, settings, u64::MAX, left_out, Queue::new(shards.clone()));
    let results = pool.broadcast(|thread| {
        let mut shard = shards.start;
        let mut map_all = || {
            let collector = Collector::new(job, partitioner.clone(), settings, thread.index()).map_err(|error| out_of_memory(&error))?;
            let aside = Aside::new(&settings.temp_directory, thread.index());
            let mut mapper = attempt.mapper(collector, thread.index(), Some(aside));
            let mut reader = J::Input::reader(job, plan, settings);
            if thread.index() == 0 && shards.start == 0 {
                emit_without_record(Phase::Seed, &mut mapper.collector, |emitter| job.seed(emitter))?;
            }
            while let Some(number) = attempt.queue.take() {
                shard = number;
                mapper.map_shard(&mut reader, number, &plan.shards[number as usize])?;
            }
            settle(&mut mapper.collector)?;
            Ok((mapper.collector, mapper.aside))
        };
        map_all().map_err(|fault| {
            attempt.queue.fail(shard, &fault);
            (shard, fault)
        })
    });
    let (collectors, asides): (Vec<_>, Vec<_>) = all_or_first(results)?.into_iter().unzip();
    call_hook(Phase::Finish, || job.finish())?;
    let mut counters = BTreeMap::new();
    for (name, by) in collectors.iter().flat_map(Collector::counters) {
        *counters.entry((*name).to_owned()).or_default() += by;
    }
    Ok(Mapped { collectors, counters, set_aside: SetAside::of(asides.into_iter().flatten())? })
}

/// Collects what a job emits while it maps no record.
fn emit_without_record<J: MapReduce>(
    phase: Phase,
    collector: &mut Collector<J>,
    emit: impl FnOnce(&mut Emitter<'_, J>) -> JobResult,
) -> Result<(), Fault> {
    call_hook(phase, || {
        let mut emitter = Emitter::new(collector);
        emit(&mut emitter)?;
        emitter.accept_record();
        Ok(())
    })?;
    match collector.failure.take() {
        None => Ok(()),
        Some(Failure::Fault(fault)) => Err(fault),
        Some(Failure::Record(cause)) => Err(Fault::Panicked { phase, cause }),
    }
}

/// Folds in what still waits; combiners run here too.
fn settle<J: MapReduce>(collector: &mut Collector<J>) -> Result<(), Fault> {
    catch(|| collector.settle()).unwrap_or_else(|panic| Err(Fault::Panicked { phase: Phase::Combine, cause: panic.message }))
}

/// Calls one of a job's hooks.
pub(crate) fn call_hook(phase: Phase, hook: impl FnOnce() -> JobResult) -> Result<(), Fault> {
    match catch(hook) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Fault::Panicked { phase, cause: error.to_string() }),
        Err(panic) => Err(Fault::Panicked { phase, cause: panic.message }),
    }
}

/// Maps records of `pieces` and lists what they emit, in no order across pieces: the first `records_each` of each piece.
pub(crate) fn list_pairs<J: MapReduce>(
    job: &J,
    plan: &Plan,
    pieces: &[Shard],
    records_each: u64,
    settings: &Settings,
    pool: &ThreadPool,
) -> Result<Vec<Pair>, Fault> {
    call_hook(Phase::Start, || job.start())?;
    let left_out = LeftOut::new();
    let attempt = Attempt::new(job, plan, settings, records_each, &left_out, Queue::new(0..pieces.len() as u32));
    let results = pool.broadcast(|thread| {
        let mut piece = 0;
        let mut list_all = || {
            let mut mapper = attempt.mapper(Collector::of_pairs(settings, records_each != u64::MAX), thread.index(), None);
            let mut reader = J::Input::reader(job, plan, settings);
            if thread.index() == 0 && records_each == u64::MAX {
                emit_without_record(Phase::Seed, &mut mapper.collector, |emitter| job.seed(emitter))?;
            }
            while let Some(number) = attempt.queue.take() {
                piece = number;
                mapper.map_shard(&mut reader, 0, &pieces[number as usize])?;
            }
            match mapper.collector.into_parts().0 {
                Store::Pairs(pairs) => Ok(pairs),
                _ => unreachable!("this collector lists pairs"),
            }
        };
        list_all().map_err(|fault| {
            attempt.queue.fail(piece, &fault);
            (piece, fault)
        })
    });
    let pairs = all_or_first(results)?.into_iter().flatten().collect();
    call_hook(Phase::Finish, || job.finish())?;
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde::{Deserialize, Serialize};
    use shardmill_datasets::{Draft, PlanOptions, Room, list};
    use shardmill_protocol::slots::Slots;

    use super::*;
    use crate::engine::{Budget, Output, Reading, Values};
    use crate::shape::Shape;
    use crate::{Lines, Sum};

    struct Count;

    #[derive(Serialize, Deserialize)]
    struct Counted {
        lines: u64,
    }

    impl MapReduce for Count {
        type Input = Lines;
        type Key = ();
        type Value = u64;
        type Combine = Sum;
        type Output = Counted;

        fn map(&self, _: &str, out: &mut Emitter<'_, Self>) -> JobResult {
            out.emit((), 1);
            Ok(())
        }

        fn reduce(&self, _: (), lines: Values<'_, Self>, out: &mut Output<'_, Self>) -> JobResult {
            out.write(Counted { lines: lines.sum() })
        }
    }

    #[test]
    fn a_shard_behind_a_fault_is_left_at_the_next_block_and_one_before_is_mapped_to_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let input = directory.path().join("input.txt");
        std::fs::write(&input, "some line\n".repeat(300_000)).unwrap();
        let files = list(&[input.display().to_string()], None).unwrap();
        let options = PlanOptions { shard_bytes: Some(1_000_000), ..PlanOptions::new(Lines::KIND) };
        let draft = Draft::new(files, options).unwrap();
        let surveys = draft.surveys().iter().map(|survey| survey.run(Room::ENDLESS).unwrap()).collect();
        let plan = draft.finish(surveys).unwrap();
        let budget = Budget::new(64 << 20, 1, &Reading::default(), 0).unwrap();
        let settings = Settings::new(&budget, None, 1, directory.path().into(), Arc::new(Slots::unwatched(1).unwrap()));
        let left_out = LeftOut::new();
        let attempt = Attempt::new(&Count, &plan, &settings, u64::MAX, &left_out, Queue::new(0..3));
        let collector = Collector::new(&Count, Partitioner::Hash { partitions: 1 }, &settings, 0).unwrap();
        let mut mapper = attempt.mapper(collector, 0, None);
        let mut reader = <Lines as Driver>::reader(&Count, &plan, &settings);
        let bad = BadRecord { shard: 1, record: 7, offset: 0, file: input, cause: String::new(), bytes: Vec::new() };
        attempt.queue.fail(1, &Fault::BadRecord(Box::new(bad)));
        let records = || settings.progress.input_records.load(Relaxed);

        assert!(matches!(mapper.map_shard(&mut reader, 2, &plan.shards[2]), Err(Fault::Interrupted)));
        assert!((1..50_000).contains(&records()), "more than a block: {}", records());
        let before = records();
        mapper.map_shard(&mut reader, 0, &plan.shards[0]).unwrap();
        assert_eq!(records() - before, 100_000);
    }
}
