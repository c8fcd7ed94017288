//! Which lane of a sort buffer a key goes to.
//!
//! Pairs that will be sorted together should lie together, in no more memory than a core's own cache holds: going through them in the
//! order of their keys is a jump for each, and far jumps are what sorting in memory costs most. So where partitions are ranges of keys
//! each is cut further, into lanes of about [`LANE_BYTES`]. The cuts are as good as the keys are even; any will do, as a lane
//! may have any size, and only the order of lanes must be that of the keys. Hashed partitions are one lane each: nothing is known
//! about their keys beforehand.

use std::ops::Range;

use super::partition::Partitioner;
use shardmill_datasets::merge::prefix;

/// What a lane should hold.
const LANE_BYTES: usize = 1 << 20;
/// What a partition usually holds.
const PARTITION_BYTES: usize = 64 << 20;

/// The lanes of all partitions, in the order of both.
#[derive(Clone, Debug)]
pub(super) struct Lanes {
    partitioner: Partitioner,
    /// Lanes of each partition.
    each: u32,
    /// How keys spread over the lanes of their partition; empty if there is one lane each.
    spans: Vec<Span>,
}

/// The prefixes that the keys of a partition are expected to have.
#[derive(Clone, Copy, Debug)]
struct Span {
    first: u64,
    /// Lanes per prefix, as a fraction of 2⁶⁴.
    density: u64,
}

impl Span {
    /// The span between two of the `cuts`. At the ends, where there is a cut on one side only, it is as wide as its neighbour.
    fn of(partition: usize, cuts: &[u64], lanes: u32) -> Self {
        let (first, last) = match (partition.checked_sub(1).and_then(|before| cuts.get(before)), cuts.get(partition)) {
            (Some(first), Some(last)) => (*first, *last),
            (None, Some(last)) => (cuts.get(1).map_or(0, |next| last.saturating_sub(next - last)), *last),
            (Some(first), None) => {
                let width = cuts.len().checked_sub(2).map_or(u64::MAX, |before| cuts[cuts.len() - 1] - cuts[before]);
                (*first, first.saturating_add(width))
            }
            (None, None) => (0, u64::MAX),
        };
        // Fewer prefixes than lanes are a lane each.
        let prefixes = u128::from(last - first).max(u128::from(lanes) + 1);
        Self { first, density: ((u128::from(lanes) << 64) / prefixes) as u64 }
    }
}

impl Lanes {
    /// The lanes of a buffer that takes so many bytes.
    pub(super) fn new(partitioner: Partitioner, limit_bytes: usize) -> Self {
        let partitions = partitioner.partitions();
        let share = (limit_bytes / partitions as usize).min(PARTITION_BYTES);
        let (each, spans) = match &partitioner {
            Partitioner::Range { prefixes, .. } if share >= 2 * LANE_BYTES => {
                let each = (share / LANE_BYTES) as u32;
                (each, (0..partitions as usize).map(|partition| Span::of(partition, &prefixes.all, each)).collect())
            }
            _ => (1, Vec::new()),
        };
        Self { partitioner, each, spans }
    }

    /// Number of lanes.
    pub(super) fn count(&self) -> usize {
        self.partitioner.partitions() as usize * self.each as usize
    }

    /// The lanes of one partition.
    pub(super) fn of_partition(&self, partition: u32) -> Range<usize> {
        let first = partition as usize * self.each as usize;
        first..first + self.each as usize
    }

    /// The lane that a key belongs to.
    #[inline]
    pub(super) fn of_key(&self, key: &[u8]) -> usize {
        let partition = self.partitioner.partition(key) as usize;
        match self.spans.get(partition) {
            Some(span) => {
                let behind = prefix(key).saturating_sub(span.first);
                let lane = ((u128::from(behind) * u128::from(span.density)) >> 64) as usize;
                partition * self.each as usize + lane.min(self.each as usize - 1)
            }
            None => partition,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_order_of_lanes_is_that_of_the_keys(
            cuts in prop::collection::btree_set(prop::collection::vec(prop::sample::select(vec![0u8, 1, 97, 98, 255]), 0..12), 0..6),
            keys in prop::collection::btree_set(prop::collection::vec(prop::sample::select(vec![0u8, 1, 97, 98, 255]), 0..12), 0..60),
            more in 1u32..3,
            share_mib in 1usize..70,
        ) {
            let partitions = cuts.len() as u32 + more;
            let partitioner = Partitioner::by_ranges(partitions, cuts.into_iter().collect());
            let lanes = Lanes::new(partitioner.clone(), (share_mib << 20) * partitions as usize);
            let mut last = 0;
            for key in keys {
                let lane = lanes.of_key(&key);
                prop_assert!(lanes.of_partition(partitioner.partition(&key)).contains(&lane));
                prop_assert!(lane >= last);
                last = lane;
            }
            prop_assert_eq!(lanes.of_partition(partitions - 1).end, lanes.count());
        }
    }

    #[test]
    fn even_keys_spread_evenly() {
        let lanes = Lanes::new(Partitioner::by_ranges(2, vec![vec![0x80]]), 128 << 20);
        let mut counts = vec![0; lanes.count()];
        (0..=u16::MAX).for_each(|key| counts[lanes.of_key(&key.to_be_bytes())] += 1);
        assert_eq!(counts, [512; 128]);
    }
}
