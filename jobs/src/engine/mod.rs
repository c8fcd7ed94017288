//! The engine: from shards to sorted groups and parts, on rayon.
//!
//! ```text
//!          each thread                                             each partition
//! shard ─▶ record ─▶ map ─▶ table or buffer ─▶ sorted runs ─┐
//!  map.rs            emit.rs  table.rs, buffer.rs  collect.rs ├─▶ merge ─▶ group ─▶ reduce ─▶ part
//!                             (kept in memory while it fits) ─┤            reduce.rs
//!                                                    seal.rs ◀┘ ▲
//!                               (served to other processes) ──▶ sealed.rs
//! ```
//!
//! It is generic over a job's value and combiner, and over its record in the loop that calls `map`. Keys are bytes from `emit` on.
//! What is run where (a whole job here, a task for a worker) is decided by the callers, `local.rs` and `serve/`.

mod arena;
mod aside;
mod buffer;
mod collect;
mod emit;
mod hash;
mod lanes;
mod map;
mod memory;
mod order;
mod pages;
mod partition;
mod queue;
mod reduce;
mod sample;
mod seal;
mod sealed;
mod skew;
mod sources;
mod table;
#[cfg(test)]
mod tests;
mod words16;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use shardmill_datasets::Room;
use shardmill_protocol::slots::Slots;

use crate::job::MapReduce;

pub use emit::Emitter;
pub(crate) use map::{LEFT_OUT, LeftOut, Mapper, list_pairs, map_shards};
pub use memory::system_memory;
pub(crate) use memory::{Budget, BudgetTooSmall, Reading, Tight, reading};
use pages::Pages;
pub(crate) use partition::Partitioner;
pub(crate) use reduce::reduce_partitions;
pub use reduce::{Output, Values};
pub(crate) use sample::range_cuts;
pub(crate) use seal::{Place, seal};
pub(crate) use sealed::SealedOutputs;
use skew::Heaviest;
pub(crate) use skew::Skew;
pub(crate) use sources::Sources;

/// How an attempt is run. Nothing in here may change what it gives.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) threads: usize,
    /// What one thread may collect in memory before it spills.
    pub(crate) collect_bytes: usize,
    /// What one thread may use to merge runs.
    pub(crate) merge_bytes: usize,
    /// What all threads together may use.
    pub(crate) total_bytes: usize,
    /// The size of blocks in runs.
    pub(crate) block_bytes: usize,
    /// The most sources that are merged at once, whatever the memory.
    pub(crate) fan_in: usize,
    /// What memory readers share.
    pub(crate) room: Room,
    pub(crate) max_bad_records: u64,
    /// Where runs are written.
    pub(crate) temp_directory: PathBuf,
    /// Parts are synced to disk.
    pub(crate) durable: bool,
    pub(crate) progress: Arc<Progress>,
    /// What each thread is at.
    pub(crate) slots: Arc<Slots>,
    /// Memory of tables or buffers before, for those to come.
    pub(crate) spares: Spares,
}

/// The memory of an attempt's tables or buffers, which the next attempt of the same job most likely wants as well.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spares(Arc<Mutex<Vec<Pages>>>);

impl Spares {
    fn lock(&self) -> MutexGuard<'_, Vec<Pages>> {
        self.0.lock().expect("nothing panics while it holds the list")
    }

    /// Takes a region of at most so many bytes. A larger one is given back to the system.
    fn take(&self, most_bytes: usize) -> Option<Pages> {
        self.lock().pop().filter(|pages| pages.bytes() <= most_bytes)
    }

    /// Takes regions of so many bytes together at most; the rest is for others.
    fn take_all(&self, most_bytes: usize) -> Vec<Pages> {
        let mut kept = self.lock();
        let mut taken = Vec::new();
        let mut left = most_bytes;
        while let Some(pages) = kept.pop_if(|pages| pages.bytes() <= left) {
            left -= pages.bytes();
            taken.push(pages);
        }
        taken
    }

    /// Keeps these regions. What nobody has taken of those before is given back to the system.
    fn replace(&self, pages: Vec<Pages>) {
        *self.lock() = pages;
    }
}

/// The threads of an attempt, or of a whole run.
pub(crate) fn thread_pool(threads: usize) -> Result<ThreadPool, ThreadPoolBuildError> {
    ThreadPoolBuilder::new().num_threads(threads).thread_name(|index| format!("engine-{index}")).build()
}

impl Settings {
    /// Settings within a budget, unless it is to be tighter.
    pub(crate) fn new(budget: &Budget, tight: Option<Tight>, threads: usize, temp_directory: PathBuf, slots: Arc<Slots>) -> Self {
        Self {
            threads,
            collect_bytes: tight.map_or(budget.collect_bytes, |tight| tight.collect_bytes),
            merge_bytes: tight.map_or(budget.merge_bytes, |tight| tight.merge_bytes),
            total_bytes: tight.map_or(budget.total_bytes, |tight| tight.collect_bytes),
            block_bytes: tight.map_or(budget.block_bytes, |tight| tight.merge_bytes / 4),
            fan_in: tight.map_or(usize::MAX, |tight| tight.fan_in),
            room: Room { memory_bytes: budget.total_bytes as u64, threads: threads as u64 },
            max_bad_records: 0,
            temp_directory,
            durable: false,
            progress: Arc::default(),
            slots,
            spares: Spares::default(),
        }
    }

    /// Whether the pairs of a record must be held until it was mapped.
    fn holds_records(&self) -> bool {
        self.max_bad_records > 0
    }
}

/// What has been done so far: written by the engine's threads, read by whoever shows it.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) input_bytes: AtomicU64,
    pub(crate) input_records: AtomicU64,
    pub(crate) reduced_partitions: AtomicU64,
    /// Bytes of pairs that were collected, of which `reduced_bytes` have been read again.
    pub(crate) collected_bytes: AtomicU64,
    pub(crate) output_bytes: AtomicU64,
    pub(crate) spilled_bytes: AtomicU64,
    pub(crate) spilled_runs: AtomicU64,
    pub(crate) merge_passes: AtomicU64,
    pub(crate) groups: AtomicU64,
    pub(crate) bad_records: AtomicU64,
    /// Content bytes of runs and sealed outputs read.
    pub(crate) reduced_bytes: Arc<AtomicU64>,
    /// Files surveyed, groups sealed, records merged in passes before the last: shown to nobody, but a sign of life.
    pub(crate) steps: AtomicU64,
    heaviest: Mutex<Heaviest>,
    interrupted: Arc<AtomicBool>,
}

impl Progress {
    fn spilled(&self, bytes: u64) {
        self.spilled_bytes.fetch_add(bytes, Relaxed);
        self.spilled_runs.fetch_add(1, Relaxed);
    }

    /// Set to ask all threads to stop at the next block.
    pub(crate) fn interruption(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.interrupted)
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Relaxed)
    }

    fn heaviest(&self) -> MutexGuard<'_, Heaviest> {
        self.heaviest.lock().expect("no thread panics while it holds the heaviest key")
    }

    /// One key of `J` with most of the values that were reduced, if there is one.
    pub(crate) fn skew<J: MapReduce>(&self) -> Option<Skew> {
        self.heaviest().weighs(reduce::show_key::<J::Key>)
    }
}
