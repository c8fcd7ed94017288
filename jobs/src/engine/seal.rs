//! Sealing: the output of a map attempt as one canonical run, to be served to others.
//!
//! One segment per partition, keys ascending; with a combiner each key once, without one the values of a key in the order of the input. What
//! it holds depends on the range of shards, the plan and the job alone: not on threads, memory or spills. So a range that is mapped again
//! must give the same index digest, and sealed runs merge in the order of their ranges without carrying positions.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use rayon::ThreadPool;
use shardmill_datasets::run::{Layout, Run, SharedRun};

use super::Settings;
use super::sources::{Reader, Sources};
use crate::catch::catch;
use crate::fault::{Fault, Phase};
use crate::job::MapReduce;

/// What sealed runs look like.
pub(crate) const SEALED: Layout = Layout { sequenced: false, digested: true };

/// The size of their blocks: the same everywhere, so that whoever merges them knows what memory that takes.
pub(crate) const SEALED_BLOCK_BYTES: usize = 128 << 10;

/// Writes what mapping has left as a sealed run at `path`, on all threads of the pool.
///
/// Threads hold `held_bytes` each of what they have ready while one before them still writes.
pub(crate) fn seal<J: MapReduce>(
    job: &J,
    sources: &Sources<J>,
    partitions: u32,
    held_bytes: usize,
    settings: &Settings,
    pool: &ThreadPool,
    path: &Path,
) -> Result<Run, Fault> {
    // A thread alone always has its turn.
    let held_bytes = if settings.threads == 1 { 0 } else { held_bytes };
    let run = SharedRun::create(path, SEALED, SEALED_BLOCK_BYTES, held_bytes, partitions as usize)?;
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
