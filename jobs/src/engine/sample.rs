//! Cuts for range partitioning, from a sample of the keys.
//!
//! The sample is taken at fixed positions, evenly over the input, and a few records at each: so it is the same everywhere, and sorted
//! input does not fool it.

use rayon::ThreadPool;
use shardmill_datasets::Plan;

use super::Settings;
use super::map::list_pairs;
use crate::fault::Fault;
use crate::job::MapReduce;

/// Positions at which the input is sampled, for each partition.
const POSITIONS: usize = 128;
/// Records taken at each position.
const RECORDS: u64 = 16;

/// Chooses up to `plan.partitions - 1` cuts such that the sampled keys fall evenly between them.
///
/// Fewer are returned where many keys are equal: no two cuts are the same.
pub(crate) fn range_cuts<J: MapReduce>(job: &J, plan: &Plan, settings: &Settings, pool: &ThreadPool) -> Result<Vec<Vec<u8>>, Fault> {
    let partitions = plan.partitions as usize;
    if partitions <= 1 {
        return Ok(Vec::new());
    }
    let positions = (partitions * POSITIONS).min(1 << 20);
    let pairs = list_pairs(job, plan, &plan.sample_pieces(positions), RECORDS, settings, pool)?;
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
