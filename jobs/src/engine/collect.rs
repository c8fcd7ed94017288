//! Collecting: where the pairs of one thread go, and how they leave memory when there are too many.
//!
//! A job with a combiner collects in a [`Table`], one without in a [`SortBuffer`]. When either has reached its share of the memory, it is
//! written as a sorted run behind the thread's earlier ones and starts again empty. Reading it all back is left to `reduce.rs`.

use std::any::Any;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use shardmill_datasets::run::{Layout, Run, RunWriter};

use super::buffer::{LaneSorter, SortBuffer};
use super::partition::Partitioner;
use super::table::{Room, Table};
use super::{Progress, Settings};
use crate::catch::catch;
use crate::combine::Combine;
use crate::fault::{Fault, Phase};
use crate::heap;
use crate::job::{KeyRef, MapReduce, ValueRef};
use crate::key::Key;
use crate::value::Value;

/// The longest key.
pub(crate) const KEY_BYTES: usize = 64 << 10;
/// The longest value.
pub(crate) const VALUE_BYTES: usize = 64 << 20;

/// So many values that own memory are folded before it is looked how much they own, unless their record ends before.
const EMITTED_AT_ONCE: u32 = 64;

/// What a thread has collected.
pub(crate) enum Store<J: MapReduce> {
    Table(Table<J::Value, J::Combine>),
    Buffer(SortBuffer),
    /// Pairs as they come: a sample for range cuts, or what a naive reference starts from.
    Pairs(Vec<Pair>),
}

/// A key and a value's encoding.
pub(crate) type Pair = (Vec<u8>, Vec<u8>);

/// The pairs of one record, held until its `map` returns.
struct Held<V> {
    keys: Vec<u8>,
    /// Encoded values, where they are not folded.
    values: Vec<u8>,
    /// Where each pair's key and value end.
    ends: Vec<(usize, usize)>,
    /// Values that will be folded.
    folded: Vec<V>,
}

impl<V> Default for Held<V> {
    fn default() -> Self {
        Self { keys: Vec::new(), values: Vec::new(), ends: Vec::new(), folded: Vec::new() }
    }
}

impl<V> Held<V> {
    fn clear(&mut self) {
        self.keys.clear();
        self.values.clear();
        self.ends.clear();
        self.folded.clear();
    }
}

/// The pairs and counters of one thread.
pub(crate) struct Collector<J: MapReduce> {
    pub(crate) store: Store<J>,
    is_sample: bool,
    partitioner: Partitioner,
    spills: Spills,
    held: Option<Held<J::Value>>,
    /// The thread's heap balance when the table was last empty: what it holds beyond that is mostly its values'.
    heap_base: isize,
    limit_bytes: usize,
    /// Memory held when the last record was mapped, as the thread that mapped it saw it.
    pub(crate) collected_bytes: usize,
    /// Values that own memory, counted since the thread began.
    emitted: u32,
    counters: Vec<(&'static str, u64)>,
    /// Counts of the record at hand, added when its `map` returns.
    pending_counts: Vec<(&'static str, u64)>,
    key_scratch: Vec<u8>,
    value_scratch: Vec<u8>,
    /// What the job keeps from record to record.
    local: Option<Box<dyn Any + Send>>,
    /// What went wrong while a pair was collected; looked at after each record.
    pub(crate) failure: Option<Failure>,
}

/// What can go wrong in `emit`.
pub(crate) enum Failure {
    /// The record's own fault.
    Record(String),
    /// Not the record's.
    Fault(Fault),
}

/// A thread's spilled runs, all in one file.
struct Spills {
    path: PathBuf,
    layout: Layout,
    block_bytes: usize,
    writer: Option<RunWriter>,
    runs: Vec<Run>,
    progress: Arc<Progress>,
}

impl Spills {
    fn writer(&mut self) -> Result<&mut RunWriter, Fault> {
        if self.writer.is_none() {
            let mut writer = RunWriter::create(&self.path, self.layout, self.block_bytes)?;
            writer.store_segments();
            self.writer = Some(writer);
        }
        Ok(self.writer.as_mut().expect("just made"))
    }

    fn end_run(&mut self) -> Result<(), Fault> {
        let run = self.writer()?.end_run()?;
        self.progress.spilled(run.stored_bytes());
        self.runs.push(run);
        Ok(())
    }
}

impl<J: MapReduce> Collector<J> {
    /// A collector for one thread; `index` is the thread's number.
    pub(crate) fn new(job: &J, partitioner: Partitioner, settings: &Settings, index: usize) -> io::Result<Self> {
        let combines = J::Combine::COMBINES;
        let store = if combines {
            // With room for it to grow once, old and new side by side.
            let spare = settings.spares.take(settings.collect_bytes / 4);
            let table = match spare.and_then(|spare| Table::in_place_of(spare, job.combiner(), settings.collect_bytes)) {
                Some(table) => table,
                None => Table::new(job.combiner(), 1 << 11, settings.collect_bytes)?,
            };
            Store::Table(match &partitioner {
                Partitioner::Hash { partitions } => table.listed_in(*partitions),
                Partitioner::Range { .. } => table,
            })
        } else {
            let buffer = SortBuffer::new(partitioner.clone(), settings.collect_bytes);
            Store::Buffer(buffer.in_place_of(settings.spares.take_all(settings.collect_bytes / 4)))
        };
        let spills = Spills {
            path: settings.temp_directory.join(format!("spill-{index}")),
            layout: Layout { sequenced: !combines, digested: false },
            block_bytes: settings.block_bytes,
            writer: None,
            runs: Vec::new(),
            progress: Arc::clone(&settings.progress),
        };
        Ok(Self::with_store(store, partitioner, spills, settings))
    }

    /// A collector that lists pairs; for a sample only their keys, as values may be large.
    pub(crate) fn of_pairs(settings: &Settings, is_sample: bool) -> Self {
        let layout = Layout { sequenced: false, digested: false };
        let progress = Arc::clone(&settings.progress);
        let spills = Spills { path: PathBuf::new(), layout, block_bytes: 0, writer: None, runs: Vec::new(), progress };
        let collector = Self::with_store(Store::Pairs(Vec::new()), Partitioner::Hash { partitions: 1 }, spills, settings);
        Self { is_sample, ..collector }
    }

    fn with_store(store: Store<J>, partitioner: Partitioner, spills: Spills, settings: &Settings) -> Self {
        let held = settings.holds_records().then(Held::default);
        Self {
            store,
            is_sample: false,
            partitioner,
            spills,
            held,
            heap_base: heap::balance(),
            limit_bytes: settings.collect_bytes,
            collected_bytes: 0,
            emitted: 0,
            counters: Vec::new(),
            pending_counts: Vec::new(),
            key_scratch: Vec::new(),
            value_scratch: Vec::new(),
            local: None,
            failure: None,
        }
    }

    /// Begins a shard: from here on pairs are numbered from its start.
    pub(crate) fn begin_shard(&mut self, shard: u32) {
        if let Store::Buffer(buffer) = &mut self.store {
            // What is emitted before the first shard comes before it.
            buffer.begin_shard((u64::from(shard) + 1) << 40);
        }
    }

    #[inline(always)]
    pub(crate) fn emit(&mut self, key: KeyRef<'_, J>, value: ValueRef<'_, J>, readable: (*const u8, *const u8)) {
        if !J::Combine::COMBINES {
            return self.emit_kept(key, value);
        }
        let bytes = J::Key::bytes(key, &mut self.key_scratch);
        if bytes.len() > KEY_BYTES {
            let cause = format!("a key has {} bytes, the limit is {KEY_BYTES}", bytes.len());
            self.fail_record(cause);
        } else if let Some(held) = &mut self.held {
            held.keys.extend_from_slice(bytes);
            held.ends.push((held.keys.len(), 0));
            held.folded.push(J::Value::own(value));
        } else if combine(&mut self.store, bytes, J::Value::own(value), readable) == Room::Full {
            self.spill_or_fail();
        } else if std::mem::needs_drop::<J::Value>() {
            // One record may emit more than the share holds.
            self.emitted = self.emitted.wrapping_add(1);
            if self.emitted.is_multiple_of(EMITTED_AT_ONCE) && self.held_bytes() > self.limit_bytes {
                self.spill_values();
            }
        }
    }

    /// Emits a pair that is not folded.
    #[inline(always)]
    fn emit_kept(&mut self, key: KeyRef<'_, J>, value: ValueRef<'_, J>) {
        let (mut key_scratch, mut value_scratch) = (std::mem::take(&mut self.key_scratch), std::mem::take(&mut self.value_scratch));
        let (key, value) = (J::Key::bytes(key, &mut key_scratch), J::Value::bytes(value, &mut value_scratch));
        if key.len() > KEY_BYTES {
            self.fail_record(format!("a key has {} bytes, the limit is {KEY_BYTES}", key.len()));
        } else if value.len() > VALUE_BYTES {
            self.fail_record(format!("a value has {} bytes, the limit is {VALUE_BYTES}", value.len()));
        } else if let Some(held) = &mut self.held {
            held.keys.extend_from_slice(key);
            held.values.extend_from_slice(value);
            held.ends.push((held.keys.len(), held.values.len()));
        } else {
            self.keep(key, value);
        }
        (self.key_scratch, self.value_scratch) = (key_scratch, value_scratch);
    }

    #[inline(always)]
    fn keep(&mut self, key: &[u8], value: &[u8]) {
        if let Store::Buffer(buffer) = &mut self.store {
            let lane = buffer.lane_of(key);
            if buffer.is_full_for(lane, key, value) {
                self.spill_or_fail();
            }
            if let Store::Buffer(buffer) = &mut self.store
                && let Err(error) = buffer.push(lane, key, value)
            {
                self.fail(out_of_memory(&error));
            }
        } else {
            self.list(key, value);
        }
    }

    #[cold]
    fn list(&mut self, key: &[u8], value: &[u8]) {
        match &mut self.store {
            Store::Pairs(pairs) => pairs.push((key.to_vec(), if self.is_sample { Vec::new() } else { value.to_vec() })),
            Store::Table(_) | Store::Buffer(_) => unreachable!("a table belongs to a combiner, and a buffer keeps pairs"),
        }
    }

    /// What the job keeps from record to record.
    pub(crate) fn local<T: Default + Send + 'static>(&mut self) -> &mut T {
        if !self.local.as_ref().is_some_and(|local| local.is::<T>()) {
            self.local = Some(Box::new(T::default()));
        }
        self.local.as_mut().and_then(|local| local.downcast_mut()).expect("just made")
    }

    /// Counts for the record at hand.
    pub(crate) fn count(&mut self, name: &'static str, by: u64) {
        add_count(&mut self.pending_counts, name, by);
    }

    /// The record at hand was mapped: what it emitted and counted stands.
    #[inline(always)]
    pub(crate) fn accept_record(&mut self) {
        if !self.pending_counts.is_empty() {
            for (name, by) in std::mem::take(&mut self.pending_counts) {
                add_count(&mut self.counters, name, by);
            }
        }
        if self.held.is_some() {
            self.accept_held();
        }
        if J::Combine::COMBINES && std::mem::needs_drop::<J::Value>() && self.held_bytes() > self.limit_bytes {
            self.spill_values();
        }
    }

    /// Values that own memory have outgrown the share. (Others cannot: the table knows its own size.)
    #[cold]
    fn spill_values(&mut self) {
        // What is there beside the values (a batch being mapped, the reader's buffers) must not make a nearly empty table spill.
        let heap = heap::balance() - self.heap_base;
        if matches!(&self.store, Store::Table(table) if table.used() > 0) && heap > (self.limit_bytes / 4) as isize {
            self.spill_or_fail();
        }
    }

    /// Memory that is held by what was collected, that owned by values included.
    pub(crate) fn held_bytes(&self) -> usize {
        match &self.store {
            Store::Table(table) => table.held_bytes() + usize::try_from(heap::balance() - self.heap_base).unwrap_or(0),
            Store::Buffer(buffer) => buffer.held_bytes(),
            Store::Pairs(_) => 0,
        }
    }

    fn accept_held(&mut self) {
        let mut held = self.held.replace(Held::default()).unwrap_or_default();
        let (mut key_start, mut value_start) = (0, 0);
        let mut folded = held.folded.drain(..);
        for &(key_end, value_end) in &held.ends {
            let key = &held.keys[key_start..key_end];
            if !J::Combine::COMBINES {
                self.keep(key, &held.values[value_start..value_end]);
            } else if let Some(value) = folded.next()
                && combine(&mut self.store, key, value, (std::ptr::null(), std::ptr::null())) == Room::Full
            {
                self.spill_or_fail();
            }
            (key_start, value_start) = (key_end, value_end);
        }
        drop(folded);
        held.clear();
        self.held = Some(held);
    }

    /// The record at hand was bad: nothing of it stands.
    pub(crate) fn drop_record(&mut self) {
        self.pending_counts.clear();
        if let Some(held) = &mut self.held {
            held.clear();
        }
    }

    #[cold]
    fn fail_record(&mut self, cause: String) {
        self.failure.get_or_insert(Failure::Record(cause));
    }

    #[cold]
    fn fail(&mut self, fault: Fault) {
        self.failure = Some(Failure::Fault(fault));
    }

    #[cold]
    #[inline(never)]
    fn spill_or_fail(&mut self) {
        // Encoding a value may panic; that is no fault of the record at hand.
        match catch(|| self.spill()) {
            Ok(Ok(())) => {}
            Ok(Err(fault)) => self.fail(fault),
            Err(panic) => self.fail(Fault::Panicked { phase: Phase::Encode, cause: panic.message }),
        }
    }

    /// Writes what is in memory as a sorted run. Pairs that wait in a table's ring stay there.
    pub(crate) fn spill(&mut self) -> Result<(), Fault> {
        let partitions = self.partitioner.partitions();
        match &mut self.store {
            Store::Table(table) => {
                let writer = self.spills.writer()?;
                let value_bytes = &mut self.value_scratch;
                let mut entries = Vec::new();
                table.give_values_up();
                let table = Taking(table);
                let table = &*table.0;
                let mut write = |writer: &mut RunWriter, key: &[u8], value: J::Value| {
                    value_bytes.clear();
                    value.encode(value_bytes);
                    writer.push(key, 0, value_bytes)
                };
                match &self.partitioner {
                    Partitioner::Hash { .. } => {
                        for partition in 0..partitions {
                            table.sorted_partition(partition, partitions, &mut entries);
                            // SAFETY: each partition is listed once, and the table is cleared below or given up with the attempt.
                            unsafe { table.take(&entries, |key, value| write(writer, key, value)) }?;
                            writer.end_segment()?;
                        }
                    }
                    Partitioner::Range { .. } => {
                        table.sorted(&mut entries);
                        let mut open = 0;
                        // SAFETY: all entries are listed once, and the table is cleared below or given up with the attempt.
                        unsafe {
                            table.take(&entries, |key, value| {
                                while open < self.partitioner.partition(key) {
                                    writer.end_segment()?;
                                    open += 1;
                                }
                                write(writer, key, value)
                            })
                        }?;
                        for _ in open..partitions {
                            writer.end_segment()?;
                        }
                    }
                }
            }
            Store::Buffer(buffer) => {
                let writer = self.spills.writer()?;
                let mut sorter = LaneSorter::default();
                for partition in 0..partitions {
                    sorter.for_each_lane(std::slice::from_ref(buffer), partition, |lane| {
                        (0..lane.len()).try_for_each(|at| {
                            let (key, value) = lane.pair(at);
                            writer.push(key, lane.number(at), value)
                        })
                    })?;
                    writer.end_segment()?;
                }
                buffer.clear();
            }
            Store::Pairs(_) => return Ok(()),
        }
        self.heap_base = heap::balance();
        self.spills.end_run()
    }

    /// Writes what is left in memory, if that is anything, and gives the memory back.
    pub(crate) fn spill_rest(&mut self) -> Result<(), Fault> {
        let is_empty = match &self.store {
            Store::Table(table) => table.used() == 0,
            Store::Buffer(buffer) => buffer.is_empty(),
            Store::Pairs(_) => true,
        };
        if !is_empty {
            self.spill()?;
        }
        self.store = Store::Pairs(Vec::new());
        Ok(())
    }

    /// Whether anything was spilled.
    pub(crate) fn has_spilled(&self) -> bool {
        !self.spills.runs.is_empty()
    }

    /// Folds in the pairs that still wait.
    pub(crate) fn settle(&mut self) -> Result<(), Fault> {
        // The job has emitted what it kept.
        self.local = None;
        let is_full = match &mut self.store {
            Store::Table(table) => table.settle() == Room::Full,
            _ => false,
        };
        if is_full {
            self.spill()?;
        }
        self.collected_bytes = match &mut self.store {
            Store::Buffer(buffer) => {
                buffer.settle();
                buffer.collected_bytes()
            }
            _ => self.held_bytes(),
        };
        Ok(())
    }

    /// The counters of the records accepted.
    pub(crate) fn counters(&self) -> &[(&'static str, u64)] {
        &self.counters
    }

    /// What was collected: the rest in memory, and the runs on disk.
    pub(crate) fn into_parts(self) -> (Store<J>, Vec<Run>) {
        (self.store, self.spills.runs)
    }
}

/// A table whose values are being taken: it is cleared in the end, whatever that is, so that none is taken or dropped twice.
struct Taking<'a, V, C: Combine<V>>(&'a mut Table<V, C>);

impl<V, C: Combine<V>> Drop for Taking<'_, V, C> {
    fn drop(&mut self) {
        self.0.clear_taken();
    }
}

#[inline(always)]
fn combine<J: MapReduce>(store: &mut Store<J>, key: &[u8], value: J::Value, readable: (*const u8, *const u8)) -> Room {
    if let Store::Table(table) = store {
        return table.push(key, value, readable);
    }
    list(store, key, &value);
    Room::Left
}

#[cold]
fn list<J: MapReduce>(store: &mut Store<J>, key: &[u8], value: &J::Value) {
    if let Store::Pairs(pairs) = store {
        let mut bytes = Vec::new();
        value.encode(&mut bytes);
        pairs.push((key.to_vec(), bytes));
    }
}

/// The system gives no more memory although the budget allows it.
pub(crate) fn out_of_memory(error: &io::Error) -> Fault {
    Fault::OutOfMemory { detail: error.to_string() }
}

fn add_count(counters: &mut Vec<(&'static str, u64)>, name: &'static str, by: u64) {
    match counters.iter_mut().find(|(known, _)| *known == name) {
        Some((_, count)) => *count += by,
        None => counters.push((name, by)),
    }
}
