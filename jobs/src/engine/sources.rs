//! What mapping has left, read back partition by partition, group by group.
//!
//! While everything fits, groups come straight from the threads' tables or buffers. Once something was spilled, the rest is spilled too, and
//! groups come from a merge of all runs; where there are more runs than may be merged at once, neighbours are merged first. A partition whose
//! folded values fit into what a merge may take is folded in a table instead. Whatever the way, the groups are the same: keys ascending,
//! and under each the one folded value, or the values in the order of the input.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use rayon::ThreadPool;
use rayon::prelude::*;
use shardmill_datasets::merge::{Merge, Source};
use shardmill_datasets::run::{Layout, Run, RunWriter};

use super::buffer::{LaneSorter, SortBuffer};
use super::collect::{Collector, Pair, Store, out_of_memory};
use super::partition::Partitioner;
use super::sealed::{SealedOutputs, Stretch, StretchReader};
use super::skew::Heaviest;
use super::table::{Entry, Table};
use super::{Settings, Values};
use crate::catch::catch;
use crate::combine::Combine;
use crate::fault::{Fault, Phase};
use crate::job::MapReduce;
use crate::value::Value;

/// The output of a map phase, ready to be read.
pub(crate) enum Sources<J: MapReduce> {
    /// One table per thread. Their values are given up: each partition takes its own.
    Tables(Vec<Table<J::Value, J::Combine>>),
    /// One buffer per thread.
    Buffers(Vec<SortBuffer>),
    /// All runs, in the order of their making.
    Runs(Vec<Run>),
    /// The sealed outputs of map attempts, in the order of their shards.
    Sealed(SealedOutputs),
    /// All pairs in input order: what the naive reference in `testing` reads.
    Pairs(Vec<Pair>, Partitioner),
}

/// So many stretches are folded in a table rather than merged: a match on each level of a tree costs as much as a probe.
const FOLDED: usize = 4;

/// What a thread keeps from one partition to the next.
pub(crate) struct Reader<'a, J: MapReduce> {
    sources: &'a Sources<J>,
    partitions: u32,
    job: &'a J,
    settings: &'a Settings,
    entries: Vec<Entry>,
    sorter: LaneSorter,
    /// Where the shares of tables in one partition are merged, or its stretches.
    merged: Option<Table<J::Value, J::Combine>>,
    key: Vec<u8>,
    value: Vec<u8>,
    /// Among the groups that were read whose values are not combined.
    heaviest: Heaviest,
}

impl<J: MapReduce> Sources<J> {
    /// Makes what the threads have collected readable: as it is if that fits into memory with what reading it takes, else as runs. Also
    /// says how much memory is left then.
    pub(crate) fn new(
        mut collectors: Vec<Collector<J>>,
        partitioner: &Partitioner,
        settings: &Settings,
        pool: &ThreadPool,
    ) -> Result<(Self, usize), Fault> {
        let partitions = partitioner.partitions();
        let is_cut_by_hash = matches!(partitioner, Partitioner::Hash { .. });
        let has_spilled = collectors.iter().any(Collector::has_spilled) || J::Combine::COMBINES && !is_cut_by_hash;
        let needed = needed_bytes(&collectors, partitions, settings.threads);
        if has_spilled || needed > settings.total_bytes {
            let spill = |collector: &mut Collector<J>| {
                let spilled = catch(|| collector.spill_rest());
                spilled.unwrap_or_else(|panic| Err(Fault::Panicked { phase: Phase::Encode, cause: panic.message }))
            };
            pool.install(|| collectors.par_iter_mut().try_for_each(spill))?;
            let runs = collectors.into_iter().flat_map(|collector| collector.into_parts().1);
            let runs: Vec<Run> = runs.map(|run| run.metered(Arc::clone(&settings.progress.reduced_bytes))).collect();
            let bytes = runs.iter().map(Run::content_bytes).sum();
            settings.progress.collected_bytes.store(bytes, Relaxed);
            return Ok((Self::Runs(runs), settings.total_bytes.saturating_sub(settings.threads * settings.merge_bytes)));
        }
        let held: usize = collectors.iter().map(|collector| collector.collected_bytes).sum();
        settings.progress.collected_bytes.store(held as u64, Relaxed);
        let (mut tables, mut buffers) = (Vec::new(), Vec::new());
        for collector in collectors {
            match collector.into_parts().0 {
                Store::Table(mut table) => {
                    table.give_values_up();
                    tables.push(table);
                }
                Store::Buffer(buffer) => buffers.push(buffer),
                Store::Pairs(_) => unreachable!("pairs are not collected for this"),
            }
        }
        // A thread that came too late for any shard has nothing.
        tables.retain(|table| table.used() > 0);
        let sources = if J::Combine::COMBINES { Self::Tables(tables) } else { Self::Buffers(buffers) };
        Ok((sources, settings.total_bytes - needed))
    }

    /// Ends with what was read, and keeps the memory of tables and buffers for those to come, up to an eighth of what there may be.
    pub(crate) fn retire(self, settings: &Settings) {
        let mut left = settings.total_bytes / 8;
        let mut all = match self {
            Self::Tables(tables) => tables.into_iter().map(Table::into_pages).collect(),
            Self::Buffers(buffers) => buffers.into_iter().flat_map(SortBuffer::into_chunks).collect(),
            Self::Runs(_) | Self::Sealed(_) | Self::Pairs(..) => Vec::new(),
        };
        all.retain(|pages| {
            let fits = pages.bytes() <= left;
            left -= if fits { pages.bytes() } else { 0 };
            fits
        });
        settings.spares.replace(all);
    }
}

/// Memory that holding and reading everything in memory takes.
fn needed_bytes<J: MapReduce>(collectors: &[Collector<J>], partitions: u32, threads: usize) -> usize {
    let (mut held, mut keys, mut long_keys, mut tables, mut buffers) = (0, 0, 0, 0, Vec::new());
    for collector in collectors {
        held += collector.collected_bytes;
        match &collector.store {
            Store::Table(table) => {
                keys += table.used();
                long_keys += table.long_key_bytes();
                tables += usize::from(table.used() > 0);
            }
            Store::Buffer(buffer) => buffers.push(buffer),
            Store::Pairs(_) => {}
        }
    }
    // Hashed keys spread evenly, give or take; a quarter more is never reached by more than a few.
    let keys_each = keys / partitions as usize;
    let long_keys_each = long_keys / partitions as usize;
    let merged = if tables > 1 {
        Table::<J::Value, J::Combine>::bytes_for(keys_each + keys_each / 4 + 64) + long_keys_each + long_keys_each / 4
    } else {
        keys_each * 16
    };
    held + threads.min(partitions as usize) * (merged + LaneSorter::bytes_for(&buffers))
}

impl<'a, J: MapReduce> Reader<'a, J> {
    pub(crate) fn new(sources: &'a Sources<J>, partitions: u32, job: &'a J, settings: &'a Settings) -> Self {
        Self {
            sources,
            partitions,
            job,
            settings,
            entries: Vec::new(),
            sorter: LaneSorter::default(),
            merged: None,
            key: Vec::new(),
            value: Vec::new(),
            heaviest: Heaviest::default(),
        }
    }

    /// Calls `each` with every group of `partition`, keys ascending.
    ///
    /// No partition may be read twice: tables hand their values out.
    pub(crate) fn for_each_group(
        &mut self,
        partition: u32,
        mut each: impl FnMut(&[u8], Values<'_, J>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        match self.sources {
            Sources::Tables(tables) => match tables.as_slice() {
                [] => Ok(()),
                [table] => {
                    table.sorted_partition(partition, self.partitions, &mut self.entries);
                    // SAFETY: each partition is read once, and the values are given up.
                    unsafe { table.take(&self.entries, |key, value| each(key, Values::one(value))) }
                }
                tables => {
                    let most = tables.iter().map(Table::used).sum::<usize>() / self.partitions as usize;
                    let mut merged = self.table_for(most)?;
                    for table in tables {
                        // SAFETY: each partition is read once, and the values are given up.
                        unsafe { table.move_partition(partition, self.partitions, &mut merged) };
                    }
                    self.hand_out(merged, each)
                }
            },
            Sources::Buffers(buffers) => self.sorter.for_each_lane(buffers, partition, |lane| {
                let mut start = 0;
                while start < lane.len() {
                    let end = lane.group_end(start);
                    let key = lane.pair(start).0;
                    self.heaviest.see(key, (end - start) as u64);
                    each(key, Values::sorted(lane, start..end))?;
                    start = end;
                }
                Ok(())
            }),
            Sources::Runs(runs) => self.merge(Stretch::of_runs(runs, partition)?, partition, each),
            Sources::Sealed(outputs) => self.merge(outputs.stretches(partition), partition, each),
            Sources::Pairs(pairs, partitioner) => {
                let mut groups: BTreeMap<&[u8], Vec<&[u8]>> = BTreeMap::new();
                for (key, value) in pairs.iter().filter(|(key, _)| partitioner.partition(key) == partition) {
                    groups.entry(key).or_default().push(value);
                }
                for (key, values) in groups {
                    if J::Combine::COMBINES {
                        let owned = values.iter().map(|bytes| J::Value::decode(bytes).map(J::Value::own).ok_or_else(undecodable));
                        let owned = owned.collect::<Result<Vec<_>, Fault>>()?;
                        let combiner = self.job.combiner();
                        let folded = owned.into_iter().reduce(|mut sum, next| {
                            combiner.combine(&mut sum, next);
                            sum
                        });
                        each(key, Values::one(folded.expect("a group has a value")))?;
                    } else {
                        each(key, Values::listed(&values))?;
                    }
                }
                Ok(())
            }
        }
    }

    /// An empty table for the keys of one partition, about so many: that of the partition before, if it takes them. A new one has
    /// room for an eighth more, as the next partition may be a little larger.
    fn table_for(&mut self, expected: usize) -> Result<Table<J::Value, J::Combine>, Fault> {
        if let Some(merged) = self.merged.take().filter(|merged| merged.takes(expected)) {
            return Ok(merged);
        }
        let merged = Table::new(self.job.combiner(), expected + expected / 8, usize::MAX).map_err(|error| out_of_memory(&error))?;
        Ok(merged.for_one_partition(self.partitions))
    }

    /// Calls `each` with the groups of a table, and keeps it for the next partition.
    fn hand_out(
        &mut self,
        mut merged: Table<J::Value, J::Combine>,
        mut each: impl FnMut(&[u8], Values<'_, J>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let _ = merged.settle();
        merged.sorted(&mut self.entries);
        merged.give_values_up();
        // SAFETY: all entries are listed once, and the values are given up.
        unsafe { merged.take(&self.entries, |key, value| each(key, Values::one(value))) }?;
        merged.clear_taken();
        self.merged = Some(merged);
        Ok(())
    }

    /// Whether the stretches of a partition are better folded in a table than merged: there are some, there is memory for all of their
    /// records, were every key another, and values own none besides.
    fn folds(&self, stretches: &[Stretch<'_>]) -> bool {
        if !J::Combine::COMBINES || std::mem::needs_drop::<J::Value>() || stretches.len() < FOLDED {
            return false;
        }
        let segments = || stretches.iter().map(Stretch::segment);
        let records: usize = segments().map(|segment| segment.records as usize).sum();
        let keys: u64 = segments().map(|segment| segment.content_bytes).sum();
        let reader = stretches.iter().map(Stretch::reader_bytes).max().unwrap_or(0);
        Table::<J::Value, J::Combine>::bytes_for(records + records / 8) + keys as usize + reader <= self.settings.merge_bytes
    }

    /// Calls `each` with the groups of one partition, folded from all its stretches.
    fn fold(&mut self, stretches: &[Stretch<'_>], each: impl FnMut(&[u8], Values<'_, J>) -> Result<(), Fault>) -> Result<(), Fault> {
        // For all of them at once: a table that grew would be there twice for a moment.
        let records: u64 = stretches.iter().map(|stretch| stretch.segment().records).sum();
        let mut merged = self.table_for(records as usize)?;
        for stretch in stretches {
            let mut reader = stretch.read(stretch.reader_bytes())?;
            while reader.advance()? {
                let value = J::Value::own(J::Value::decode(reader.value()).ok_or_else(undecodable)?);
                let _ = merged.push(reader.key(), value, (std::ptr::null(), std::ptr::null()));
            }
            self.go_on()?;
        }
        self.settings.progress.merge_passes.fetch_max(1, Relaxed);
        self.hand_out(merged, each)
    }

    /// Calls `each` with the groups of one partition, merged from all its stretches.
    fn merge(
        &mut self,
        mut stretches: Vec<Stretch<'a>>,
        partition: u32,
        mut each: impl FnMut(&[u8], Values<'_, J>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        if self.folds(&stretches) {
            return self.fold(&stretches, each);
        }
        self.merged = None;
        let most_open = match self.sources {
            Sources::Sealed(outputs) => outputs.fan_in(self.settings.threads),
            _ => usize::MAX,
        };
        let mut passes = 1;
        let mut files: Vec<PathBuf> = Vec::new();
        loop {
            let largest = stretches.iter().map(Stretch::reader_bytes).max().unwrap_or(0).max(1);
            let fan_in = (self.settings.merge_bytes / largest).clamp(2, self.settings.fan_in.min(most_open).max(2));
            if stretches.len() <= fan_in {
                break;
            }
            let path = self.settings.temp_directory.join(format!("merge-{partition}-{passes}"));
            stretches = self.merge_neighbours(&stretches, fan_in, path.clone())?;
            // What the pass before has written is read.
            files.drain(..).try_for_each(|path| remove(&path))?;
            files.push(path);
            passes += 1;
        }
        self.settings.progress.merge_passes.fetch_max(passes, Relaxed);
        let mut groups = Groups::new(self.open(&stretches)?, std::mem::take(&mut self.key))?;
        while groups.next_group()? {
            if J::Combine::COMBINES {
                let value = fold_group(&self.job.combiner(), &mut groups)?;
                let key = std::mem::take(&mut groups.key);
                let result = each(&key, Values::one(value));
                groups.key = key;
                result?;
            } else {
                let key = std::mem::take(&mut groups.key);
                let result = each(&key, Values::merging(&mut groups, &key, &self.settings.progress));
                result?;
                groups.finish_group(&key)?;
                self.heaviest.see(&key, groups.values);
                groups.key = key;
            }
            self.go_on()?;
        }
        self.key = std::mem::take(&mut groups.key);
        files.iter().try_for_each(remove)
    }

    /// What was seen of how values spread over keys.
    pub(super) fn into_heaviest(self) -> Heaviest {
        self.heaviest
    }

    /// An error once the run was interrupted.
    #[inline]
    fn go_on(&self) -> Result<(), Fault> {
        if self.settings.progress.is_interrupted() { Err(Fault::Interrupted) } else { Ok(()) }
    }

    fn open(&self, stretches: &[Stretch<'_>]) -> Result<Vec<StretchReader>, Fault> {
        let buffer_bytes = (self.settings.merge_bytes / stretches.len().max(1)).min(1 << 20);
        stretches.iter().map(|stretch| stretch.read(buffer_bytes)).collect()
    }

    /// One pass: merges groups of up to `fan_in` neighbours each to one segment, all in one file.
    fn merge_neighbours(&mut self, stretches: &[Stretch<'_>], fan_in: usize, path: PathBuf) -> Result<Vec<Stretch<'a>>, Fault> {
        let layout = Layout { sequenced: !J::Combine::COMBINES, digested: false };
        let mut writer = RunWriter::create(&path, layout, self.settings.block_bytes)?;
        let mut merged = Vec::new();
        for neighbours in stretches.chunks(fan_in) {
            if J::Combine::COMBINES {
                let mut groups = Groups::new(self.open(neighbours)?, std::mem::take(&mut self.key))?;
                while groups.next_group()? {
                    self.settings.progress.steps.fetch_add(1, Relaxed);
                    let value: J::Value = fold_group(&self.job.combiner(), &mut groups)?;
                    self.value.clear();
                    value.encode(&mut self.value);
                    writer.push(&groups.key, 0, &self.value)?;
                    self.go_on()?;
                }
                self.key = groups.key;
            } else {
                let mut merge = Merge::new(self.open(neighbours)?)?;
                while let Some(head) = merge.head() {
                    self.settings.progress.steps.fetch_add(1, Relaxed);
                    writer.push(head.key(), head.sequence(), head.value())?;
                    merge.advance()?;
                    self.go_on()?;
                }
            }
            writer.end_segment()?;
            let run = writer.end_run()?;
            let segment = run.segment(0)?;
            merged.push(Stretch::Run(run, segment));
        }
        Ok(merged)
    }
}

/// Folds the values of a merge's current group to one.
fn fold_group<V: Value, C: Combine<V>>(combiner: &C, groups: &mut Groups) -> Result<V, Fault> {
    let mut sum: Option<V> = None;
    let key = std::mem::take(&mut groups.key);
    while let Some(bytes) = groups.next_value(&key)? {
        let value = V::own(V::decode(bytes).ok_or_else(undecodable)?);
        match &mut sum {
            None => sum = Some(value),
            Some(sum) => crate::catch::combining(|| combiner.combine(sum, value)),
        }
    }
    groups.key = key;
    Ok(sum.expect("a group has a value"))
}

/// A spilled value cannot be read back although its block is whole: its type does not read what it writes.
pub(crate) fn undecodable() -> Fault {
    Fault::Panicked { phase: Phase::Decode, cause: "the value's Deserialize does not read what its Serialize writes".to_owned() }
}

fn remove(path: &PathBuf) -> Result<(), Fault> {
    fs::remove_file(path).map_err(|source| Fault::disk(path, source))
}

/// The groups of a merge, one value at a time: a group larger than memory streams through.
pub(crate) struct Groups {
    merge: Merge<StretchReader>,
    /// The current group's key.
    key: Vec<u8>,
    head: Head,
    /// Values of the current group that were read.
    values: u64,
}

/// What the record at the head of the merge is to the current group. Known, so that keys are compared once for each record.
enum Head {
    /// Its next one.
    Next,
    /// The one that was handed out.
    Spent,
    /// The first one behind it, or none.
    Behind,
}

impl Groups {
    fn new(sources: Vec<StretchReader>, mut key: Vec<u8>) -> Result<Self, Fault> {
        key.clear();
        Ok(Self { merge: Merge::new(sources)?, key, head: Head::Behind, values: 0 })
    }

    /// Goes on to the next group; false at the end. The group before must be read to its end.
    fn next_group(&mut self) -> Result<bool, Fault> {
        let Some(head) = self.merge.head() else { return Ok(false) };
        self.key.clear();
        self.key.extend_from_slice(head.key());
        (self.head, self.values) = (Head::Next, 0);
        Ok(true)
    }

    /// The next value of the current group, which has this key; after the last one, nothing.
    pub(crate) fn next_value(&mut self, key: &[u8]) -> Result<Option<&[u8]>, Fault> {
        match self.head {
            Head::Next => {}
            Head::Behind => return Ok(None),
            Head::Spent => {
                self.merge.advance()?;
                if self.merge.head().is_none_or(|head| head.key() != key) {
                    self.head = Head::Behind;
                    return Ok(None);
                }
            }
        }
        self.head = Head::Spent;
        self.values += 1;
        Ok(self.merge.head().map(Source::value))
    }

    /// Reads over what `reduce` has left of a group.
    fn finish_group(&mut self, key: &[u8]) -> Result<(), Fault> {
        while self.next_value(key)?.is_some() {}
        Ok(())
    }
}
