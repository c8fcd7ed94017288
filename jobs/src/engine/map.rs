//! Mapping: shards are read, each record goes through `map`, and what it emits is collected.
//!
//! One long-lived loop per rayon thread takes shards from a queue, never one rayon task per shard: a `map` that uses rayon itself
//! must not find another shard on its stack. A panic is caught per block, not per record; the thread's slot says which record it was,
//! to this process and, should it die, to whoever watches over it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use rayon::ThreadPool;
use shardmill_datasets::{Block, Plan, PlannedFile, Shard};
use shardmill_protocol::Suspect;
use shardmill_protocol::slots::Slot;

use super::collect::{Collector, Failure, Pair, Store, out_of_memory};
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
    /// The records that were set aside, in input order.
    pub(crate) set_aside: Vec<BadRecord>,
}

/// Records to leave out, by shard and number: they have ended processes that mapped them.
pub(crate) type LeftOut = BTreeSet<(u32, u64)>;

/// What is said of them where bad records are told.
const LEFT_OUT: &str = "it has brought job processes down";

/// What the threads of one attempt share.
struct Attempt<'a, J: MapReduce> {
    job: &'a J,
    plan: &'a Plan,
    settings: &'a Settings,
    /// Only so many records of each shard are mapped: a sample.
    record_limit: u64,
    left_out: &'a LeftOut,
    /// Bad records of all threads, up to the limit.
    set_aside: Mutex<Vec<BadRecord>>,
}

impl<'a, J: MapReduce> Attempt<'a, J> {
    fn new(job: &'a J, plan: &'a Plan, settings: &'a Settings, record_limit: u64, left_out: &'a LeftOut) -> Self {
        Self { job, plan, settings, record_limit, left_out, set_aside: Mutex::new(Vec::new()) }
    }

    /// A mapper for the thread with this number.
    fn mapper(&self, collector: Collector<J>, thread: usize) -> Mapper<'_, J> {
        Mapper { attempt: self, slot: self.settings.slots.of(thread), collector, shard: 0 }
    }

    /// The first record from `next` on that is not to be mapped.
    fn stop_before(&self, shard: u32, next: u64) -> u64 {
        let left_out = self.left_out.range((shard, next)..).next().filter(|(of, _)| *of == shard);
        left_out.map_or(self.record_limit, |(_, record)| self.record_limit.min(*record))
    }

    fn set_aside(&self, record: BadRecord) -> Result<(), Fault> {
        let mut records = self.set_aside.lock().expect("no thread panics while it holds the list");
        if records.len() as u64 >= self.settings.max_bad_records {
            return Err(Fault::BadRecord(Box::new(record)));
        }
        records.push(record);
        self.settings.progress.bad_records.fetch_add(1, Relaxed);
        Ok(())
    }

    fn into_set_aside(self) -> Vec<BadRecord> {
        let mut records = self.set_aside.into_inner().expect("no thread panics while it holds the list");
        records.sort();
        records
    }
}

/// Calls `map` for the records of one shard after the other, on one thread.
pub(crate) struct Mapper<'a, J: MapReduce> {
    attempt: &'a Attempt<'a, J>,
    slot: Slot<'a>,
    pub(crate) collector: Collector<J>,
    shard: u32,
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
        self.shard = number;
        self.collector.begin_shard(number);
        J::Input::map_shard(reader, self, shard)?;
        let job = self.attempt.job;
        emit_without_record(Phase::EndShard, &mut self.collector, |emitter| job.end_shard(emitter))
    }

    /// The file of a shard.
    pub(crate) fn file(&self, shard: &Shard) -> &'a PlannedFile {
        &self.attempt.plan.files[shard.file as usize]
    }

    /// Notes that input was consumed. False once the records of the shard are enough, an error if the run was interrupted.
    pub(crate) fn has_read(&self, bytes: u64, records: u64, records_of_shard: u64) -> Result<bool, Fault> {
        let progress = &self.attempt.settings.progress;
        if self.attempt.record_limit == u64::MAX {
            progress.input_bytes.fetch_add(bytes, Relaxed);
            progress.input_records.fetch_add(records, Relaxed);
        }
        if progress.is_interrupted() { Err(Fault::Interrupted) } else { Ok(records_of_shard < self.attempt.record_limit) }
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
        if self.attempt.stop_before(self.shard, place.0) == place.0 {
            return self.set_aside(file, place.0, place.1, raw, LEFT_OUT.to_owned());
        }
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
        match self.bad_record(outcome)? {
            Some(cause) => self.set_aside(file, place.0, place.1, raw, cause),
            None => Ok(()),
        }
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

    /// Sets a bad record aside, or ends the attempt if there are too many.
    pub(crate) fn set_aside(&self, file: &PlannedFile, record: u64, offset: u64, bytes: &[u8], cause: String) -> Result<(), Fault> {
        if self.attempt.record_limit != u64::MAX {
            // A sample only looks; the record is met again.
            return Ok(());
        }
        let bytes = bytes.to_vec();
        self.attempt.set_aside(BadRecord { shard: self.shard, record, offset, file: file.file.path.clone(), cause, bytes })
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
    let next = AtomicU32::new(shards.start);
    let attempt = Attempt::new(job, plan, settings, u64::MAX, left_out);
    let results = pool.broadcast(|thread| {
        let collector = Collector::new(job, partitioner.clone(), settings, thread.index()).map_err(|error| out_of_memory(&error))?;
        let mut mapper = attempt.mapper(collector, thread.index());
        let mut reader = J::Input::reader(job, plan, settings);
        let mut map_all = || {
            if thread.index() == 0 && shards.start == 0 {
                emit_without_record(Phase::Seed, &mut mapper.collector, |emitter| job.seed(emitter))?;
            }
            loop {
                let number = next.fetch_add(1, Relaxed);
                if number >= shards.end {
                    break;
                }
                mapper.map_shard(&mut reader, number, &plan.shards[number as usize])?;
            }
            settle(&mut mapper.collector)
        };
        let result = map_all();
        if result.is_err() {
            // The others need not go on.
            next.store(shards.end, Relaxed);
        }
        result.map(|()| mapper.collector)
    });
    let mut collectors = Vec::with_capacity(results.len());
    let mut fault: Option<Fault> = None;
    for result in results {
        match result {
            Ok(collector) => collectors.push(collector),
            Err(found) => fault = Some(Fault::worse(fault, found)),
        }
    }
    if let Some(fault) = fault {
        return Err(fault);
    }
    call_hook(Phase::Finish, || job.finish())?;
    let mut counters = BTreeMap::new();
    for (name, by) in collectors.iter().flat_map(Collector::counters) {
        *counters.entry((*name).to_owned()).or_default() += by;
    }
    Ok(Mapped { collectors, counters, set_aside: attempt.into_set_aside() })
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
    let next = AtomicU32::new(0);
    let left_out = LeftOut::new();
    let attempt = Attempt::new(job, plan, settings, records_each, &left_out);
    let results: Vec<Result<Vec<Pair>, Fault>> = pool.broadcast(|thread| {
        let mut mapper = attempt.mapper(Collector::of_pairs(settings, records_each != u64::MAX), thread.index());
        let mut reader = J::Input::reader(job, plan, settings);
        if thread.index() == 0 && records_each == u64::MAX {
            emit_without_record(Phase::Seed, &mut mapper.collector, |emitter| job.seed(emitter))?;
        }
        while let Some(piece) = pieces.get(next.fetch_add(1, Relaxed) as usize) {
            mapper.map_shard(&mut reader, 0, piece)?;
        }
        match mapper.collector.into_parts().0 {
            Store::Pairs(pairs) => Ok(pairs),
            _ => unreachable!("this collector lists pairs"),
        }
    });
    let mut pairs = Vec::new();
    for result in results {
        pairs.append(&mut result?);
    }
    call_hook(Phase::Finish, || job.finish())?;
    Ok(pairs)
}
