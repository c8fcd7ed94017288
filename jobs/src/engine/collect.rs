//! Collecting: where the pairs of one thread go, and how they leave memory when there are too many.
//!
//! A job with a combiner collects in a [`Table`], one without in a [`SortBuffer`]. When either has reached its share of the memory, it is
//! written as a sorted run behind the thread's earlier ones and starts again empty. Reading it all back is left to `reduce.rs`.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use shardmill_datasets::merge::prefix;
use shardmill_datasets::run::{Layout, Run, RunWriter};

use super::buffer::SortBuffer;
use super::hash::{hash, partition_of};
use super::table::{Room, Table};
use super::{Progress, Settings};
use crate::combine::Combine;
use crate::fault::Fault;
use crate::heap;
use crate::job::{KeyRef, MapReduce, ValueRef};
use crate::key::Key;
use crate::value::Value;

/// The longest key.
pub(crate) const KEY_BYTES: usize = 64 << 10;
/// The longest value.
pub(crate) const VALUE_BYTES: usize = 64 << 20;

/// Which partition a key belongs to.
#[derive(Clone, Debug)]
pub(crate) enum Partitioner {
    /// By the top of the fixed hash.
    Hash { partitions: u32 },
    /// By ranges: partition n holds the keys from cut n − 1 (inclusive) to cut n (exclusive).
    /// There may be fewer cuts than that takes; the last partitions are empty then.
    Range { partitions: u32, cuts: Arc<[Vec<u8>]>, prefixes: Arc<[u64]> },
}

impl Partitioner {
    pub(crate) fn by_ranges(partitions: u32, cuts: Vec<Vec<u8>>) -> Self {
        Self::Range { partitions, prefixes: cuts.iter().map(|cut| prefix(cut)).collect(), cuts: cuts.into() }
    }

    pub(crate) fn partitions(&self) -> u32 {
        match self {
            Self::Hash { partitions } | Self::Range { partitions, .. } => *partitions,
        }
    }

    #[inline]
    pub(crate) fn partition(&self, key: &[u8]) -> u32 {
        match self {
            Self::Hash { partitions } => partition_of(hash(key), *partitions),
            Self::Range { cuts, prefixes, .. } => {
                let head = prefix(key);
                let mut place = prefixes.partition_point(|cut| *cut < head);
                while place < cuts.len() && prefixes[place] == head && cuts[place].as_slice() <= key {
                    place += 1;
                }
                place as u32
            }
        }
    }
}

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
    pairs: Vec<(usize, V)>,
}

/// The pairs and counters of one thread.
pub(crate) struct Collector<J: MapReduce> {
    pub(crate) store: Store<J>,
    partitioner: Partitioner,
    spills: Spills,
    held: Option<Held<J::Value>>,
    /// The thread's heap balance when the table was last empty: what it holds beyond that is mostly its values'.
    heap_base: isize,
    limit_bytes: usize,
    /// Memory held when the last record was mapped, as the thread that mapped it saw it.
    pub(crate) collected_bytes: usize,
    /// The next pair's place in the input: shard, then number within the shard.
    sequence: u64,
    counters: Vec<(&'static str, u64)>,
    /// Counts of the record at hand, added when its `map` returns.
    pending_counts: Vec<(&'static str, u64)>,
    key_scratch: Vec<u8>,
    value_scratch: Vec<u8>,
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
            self.writer = Some(RunWriter::create(&self.path, self.layout, self.block_bytes)?);
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
            Store::Table(Table::new(job.combiner(), 1 << 11, settings.collect_bytes)?)
        } else {
            Store::Buffer(SortBuffer::new(partitioner.partitions(), settings.collect_bytes))
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

    /// A collector that lists pairs.
    pub(crate) fn of_pairs(settings: &Settings) -> Self {
        let layout = Layout { sequenced: false, digested: false };
        let progress = Arc::clone(&settings.progress);
        let spills = Spills { path: PathBuf::new(), layout, block_bytes: 0, writer: None, runs: Vec::new(), progress };
        Self::with_store(Store::Pairs(Vec::new()), Partitioner::Hash { partitions: 1 }, spills, settings)
    }

    fn with_store(store: Store<J>, partitioner: Partitioner, spills: Spills, settings: &Settings) -> Self {
        let held = settings.holds_records().then(|| Held { keys: Vec::new(), pairs: Vec::new() });
        Self {
            store,
            partitioner,
            spills,
            held,
            heap_base: heap::balance(),
            limit_bytes: settings.collect_bytes,
            collected_bytes: 0,
            sequence: 0,
            counters: Vec::new(),
            pending_counts: Vec::new(),
            key_scratch: Vec::new(),
            value_scratch: Vec::new(),
            failure: None,
        }
    }

    /// Begins a shard: from here on pairs are numbered from its start.
    pub(crate) fn begin_shard(&mut self, shard: u32) {
        self.sequence = u64::from(shard) << 40;
    }

    #[inline(always)]
    pub(crate) fn emit(&mut self, key: KeyRef<'_, J>, value: ValueRef<'_, J>, readable: (*const u8, *const u8)) {
        let bytes = J::Key::bytes(key, &mut self.key_scratch);
        if bytes.len() > KEY_BYTES {
            let cause = format!("a key has {} bytes, the limit is {KEY_BYTES}", bytes.len());
            self.fail_record(cause);
        } else if let Some(held) = &mut self.held {
            held.keys.extend_from_slice(bytes);
            held.pairs.push((held.keys.len(), J::Value::own(value)));
        } else if J::Combine::COMBINES {
            if combine(&mut self.store, bytes, J::Value::own(value), readable) == Room::Full {
                self.spill_or_fail();
            }
        } else {
            let mut scratch = std::mem::take(&mut self.key_scratch);
            let mut value_scratch = std::mem::take(&mut self.value_scratch);
            self.keep(J::Key::bytes(key, &mut scratch), J::Value::bytes(value, &mut value_scratch));
            (self.key_scratch, self.value_scratch) = (scratch, value_scratch);
        }
    }

    #[inline(always)]
    fn keep(&mut self, key: &[u8], bytes: &[u8]) {
        if bytes.len() > VALUE_BYTES {
            self.fail_record(format!("a value has {} bytes, the limit is {VALUE_BYTES}", bytes.len()));
        } else {
            let partition = self.partitioner.partition(key);
            let is_full = |store: &Store<J>| matches!(store, Store::Buffer(buffer) if buffer.is_full_for(key, bytes.len()));
            if is_full(&self.store) {
                self.spill_or_fail();
            }
            match &mut self.store {
                Store::Buffer(buffer) => {
                    if let Err(error) = buffer.push(partition, key, self.sequence, bytes) {
                        self.fail(out_of_memory(&error));
                    }
                }
                Store::Pairs(pairs) => pairs.push((key.to_vec(), bytes.to_vec())),
                Store::Table(_) => unreachable!("a table belongs to a combiner"),
            }
            self.sequence += 1;
        }
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
        let Some(mut held) = self.held.take() else { return };
        let mut start = 0;
        let nothing = (std::ptr::null(), std::ptr::null());
        for (end, value) in held.pairs.drain(..) {
            let key = &held.keys[start..end];
            if J::Combine::COMBINES {
                if combine(&mut self.store, key, value, nothing) == Room::Full {
                    self.spill_or_fail();
                }
            } else {
                let mut bytes = std::mem::take(&mut self.value_scratch);
                bytes.clear();
                value.encode(&mut bytes);
                self.keep(key, &bytes);
                self.value_scratch = bytes;
            }
            start = end;
        }
        held.keys.clear();
        self.held = Some(held);
    }

    /// The record at hand was bad: nothing of it stands.
    pub(crate) fn drop_record(&mut self) {
        self.pending_counts.clear();
        if let Some(held) = &mut self.held {
            held.keys.clear();
            held.pairs.clear();
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
        if let Err(fault) = self.spill() {
            self.fail(fault);
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
                table.clear_taken();
                self.heap_base = heap::balance();
            }
            Store::Buffer(buffer) => {
                let writer = self.spills.writer()?;
                if !buffer.is_divided() {
                    buffer.divide().map_err(|error| out_of_memory(&error))?;
                }
                for partition in 0..partitions {
                    buffer.sort_partition(partition);
                    let entries = buffer.partition(partition);
                    for (place, entry) in entries.iter().enumerate() {
                        if let Some(later) = entries.get(place + 12) {
                            buffer.prefetch(*later);
                        }
                        let (key, sequence, value) = buffer.pair(*entry);
                        writer.push(key, sequence, value)?;
                    }
                    writer.end_segment()?;
                }
                buffer.clear();
            }
            Store::Pairs(_) => return Ok(()),
        }
        self.spills.end_run()
    }

    /// Writes what is left in memory, if that is anything, and gives the memory back.
    pub(crate) fn spill_rest(&mut self) -> Result<(), Fault> {
        let is_empty = match &self.store {
            Store::Table(table) => table.used() == 0,
            Store::Buffer(buffer) => buffer.len() == 0,
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
        let is_full = match &mut self.store {
            Store::Table(table) => table.settle() == Room::Full,
            _ => false,
        };
        if is_full {
            self.spill()?;
        }
        self.collected_bytes = self.held_bytes();
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
