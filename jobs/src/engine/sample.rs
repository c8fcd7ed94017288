//! Cuts for range partitioning, from a sample of the keys.
//!
//! The sample is taken at fixed positions, evenly over the input, and a few records at each: so it is the same everywhere, and sorted
//! input does not fool it.

use rayon::ThreadPool;
use shardmill_datasets::Plan;
use shardmill_datasets::plan::SAMPLE_POSITIONS;

use super::Settings;
use super::map::list_pairs;
use crate::fault::Fault;
use crate::job::MapReduce;

/// Positions at which the input is sampled, for each partition. There may be fewer: row groups are entered only at their start.
const POSITIONS: usize = SAMPLE_POSITIONS as usize;
/// Records sampled for each partition, spread over the positions.
const RECORDS: usize = 1024;
/// The most records sampled for all partitions together.
const MOST_RECORDS: usize = 1 << 20;

/// Chooses up to `plan.partitions - 1` cuts such that the sampled keys fall evenly between them.
///
/// Fewer are returned where many keys are equal: no two cuts are the same.
pub(crate) fn range_cuts<J: MapReduce>(job: &J, plan: &Plan, settings: &Settings, pool: &ThreadPool) -> Result<Vec<Vec<u8>>, Fault> {
    let partitions = plan.partitions as usize;
    if partitions <= 1 {
        return Ok(Vec::new());
    }
    let records = (partitions * RECORDS).min(MOST_RECORDS);
    let pieces = plan.sample_pieces((partitions * POSITIONS).min(records));
    let records_each = records.div_ceil(pieces.len().max(1));
    let pairs = list_pairs(job, plan, &pieces, records_each as u64, settings, pool)?;
    let mut keys: Vec<_> = pairs.into_iter().map(|(key, _)| key).collect();
    keys.sort_unstable();
    Ok(quantiles(keys, partitions))
}

/// The keys at the inner quantiles of a sorted sample.
fn quantiles(keys: Vec<Vec<u8>>, partitions: usize) -> Vec<Vec<u8>> {
    let mut cuts: Vec<Vec<u8>> = (1..partitions).filter_map(|cut| keys.get(keys.len() * cut / partitions).cloned()).collect();
    cuts.dedup();
    cuts
}
