//! Sealing: the output of a map attempt as one canonical run, to be served to others.
//!
//! One segment per partition, keys ascending; with a combiner each key once, without one the values of a key in the order of the input. What
//! it holds depends on the range of shards, the plan and the job alone: not on threads, memory or spills. So a range that is mapped again
//! must give the same index digest, and sealed runs merge in the order of their ranges without carrying positions.

use std::path::Path;

use shardmill_datasets::run::{Layout, Run, RunWriter};

use super::Settings;
use super::sources::{Reader, Sources};
use crate::catch::catch;
use crate::fault::Fault;
use crate::job::MapReduce;

/// What sealed runs look like.
pub(crate) const SEALED: Layout = Layout { sequenced: false, digested: true };

/// Writes what mapping has left as a sealed run at `path`.
pub(crate) fn seal<J: MapReduce>(job: &J, sources: &Sources<J>, partitions: u32, settings: &Settings, path: &Path) -> Result<Run, Fault> {
    let sealed = catch(|| {
        let mut writer = RunWriter::create(path, SEALED, settings.block_bytes)?;
        let mut reader = Reader::new(sources, partitions, job, settings);
        for partition in 0..partitions {
            reader.for_each_group(partition, |key, mut values| {
                // With a combiner there is one value; without one each is written behind the other.
                while let Some(written) = values.next_encoded(|bytes| writer.push(key, 0, bytes)) {
                    written??;
                }
                Ok(())
            })?;
            writer.end_segment()?;
        }
        Ok(writer.end_run()?)
    });
    sealed.unwrap_or_else(|panic| Err(Fault::Panicked { phase: "combine", cause: panic.message }))
}
