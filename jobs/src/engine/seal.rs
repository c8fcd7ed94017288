//! Sealing: the output of a map attempt as one canonical run, to be served to others.
//!
//! One segment per partition, keys ascending; with a combiner each key once, without one the values of a key in the order of the input. What
//! it holds depends on the range of shards, the plan and the job alone: not on threads, memory or spills. So a range that is mapped again
//! must give the same index digest, and sealed runs merge in the order of their ranges without carrying positions.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use rayon::ThreadPool;
use shardmill_datasets::run::{Layout, Run, RunError, SharedRun};

use super::Settings;
use super::sources::{Reader, Sources};
use crate::catch::catch;
use crate::fault::{Fault, Phase};
use crate::job::MapReduce;

/// What sealed runs look like.
pub(crate) const SEALED: Layout = Layout { sequenced: false, digested: true };

/// The size of their blocks: the same everywhere, so that whoever merges them knows what memory that takes.
pub(crate) const SEALED_BLOCK_BYTES: usize = 128 << 10;

/// Where a sealed run is written.
pub(crate) struct Place<'a> {
    /// A file that is not there yet.
    pub(crate) path: &'a Path,
    /// An empty file that is taken instead, if it can be opened.
    pub(crate) memory: Option<&'a Path>,
    /// What each thread may hold of what it has ready while one before it still writes.
    pub(crate) held_bytes: usize,
}

impl Place<'_> {
    fn create(&self, partitions: u32, threads: usize) -> Result<SharedRun, RunError> {
        // A thread alone always has its turn.
        let held_bytes = if threads == 1 { 0 } else { self.held_bytes };
        let filled = |path| SharedRun::fill(path, SEALED, SEALED_BLOCK_BYTES, held_bytes, partitions as usize).ok();
        match self.memory.and_then(filled) {
            Some(run) => Ok(run),
            None => SharedRun::create(self.path, SEALED, SEALED_BLOCK_BYTES, held_bytes, partitions as usize),
        }
    }
}

/// Writes what mapping has left as a sealed run, on all threads of the pool.
pub(crate) fn seal<J: MapReduce>(
    job: &J,
    sources: &Sources<J>,
    partitions: u32,
    place: &Place<'_>,
    settings: &Settings,
    pool: &ThreadPool,
) -> Result<Run, Fault> {
    let run = place.create(partitions, settings.threads)?;
    let next = AtomicU32::new(0);
    let results = pool.broadcast(|_| {
        let sealed = catch(|| {
            let mut reader = Reader::new(sources, partitions, job, settings);
            let mut encoded = Vec::new();
            loop {
                let partition = next.fetch_add(1, Relaxed);
                if partition >= partitions {
                    return Ok(());
                }
                // From here on others wait for this one; if it fails, they are told.
                let mut segment = run.segment(partition as usize);
                let mut groups = 0u32;
                reader.for_each_group(partition, |key, mut values| {
                    // With a combiner there is one value; without one each is written behind the other.
                    while let Some(written) = values.next_encoded(&mut encoded, |bytes| segment.push(key, 0, bytes)) {
                        written??;
                    }
                    groups += 1;
                    if groups.is_multiple_of(4096) {
                        settings.progress.steps.fetch_add(4096, Relaxed);
                    }
                    Ok(())
                })?;
                segment.end()?;
            }
        });
        sealed.unwrap_or_else(|panic| Err(Fault::Panicked { phase: Phase::Combine, cause: panic.message }))
    });
    let fault = results.into_iter().filter_map(Result::err).fold(None, |known, found| Some(Fault::worse(known, found)));
    fault.map_or_else(|| Ok(run.finish()), Err)
}
