//! Which partition a key belongs to.

use std::sync::Arc;

use shardmill_datasets::merge::prefix;

use super::hash::{hash, partition_of};

/// Which partition a key belongs to.
#[derive(Clone, Debug)]
pub(crate) enum Partitioner {
    /// By the top of the fixed hash.
    Hash { partitions: u32 },
    /// By ranges: partition n holds the keys from cut n − 1 (inclusive) to cut n (exclusive).
    /// There may be fewer cuts than that takes; the last partitions are empty then.
    Range { partitions: u32, cuts: Arc<[Vec<u8>]>, prefixes: Arc<Prefixes> },
}

impl Partitioner {
    pub(crate) fn by_ranges(partitions: u32, cuts: Vec<Vec<u8>>) -> Self {
        Self::Range { partitions, prefixes: Arc::new(Prefixes::of(&cuts)), cuts: cuts.into() }
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
                let from = prefixes.below(head);
                match prefixes.all.get(from) {
                    // The key has to be looked at where it begins like a cut.
                    Some(cut) if *cut == head => {
                        let to = from + prefixes.all[from..].partition_point(|cut| *cut == head);
                        (from + cuts[from..to].partition_point(|cut| cut.as_slice() <= key)) as u32
                    }
                    _ => from as u32,
                }
            }
        }
    }
}

/// The first eight bytes of cuts, and a guide to them: which of them have the same leading bits.
#[derive(Debug)]
pub(crate) struct Prefixes {
    pub(super) all: Vec<u64>,
    first: u64,
    shift: u32,
    /// For each value of the leading bits, behind the first cut's, the number of cuts that are below it; then that of all.
    guide: Vec<u32>,
}

impl Prefixes {
    fn of(cuts: &[Vec<u8>]) -> Self {
        let all: Vec<u64> = cuts.iter().map(|cut| prefix(cut)).collect();
        let (first, last) = (all.first().copied().unwrap_or(0), all.last().copied().unwrap_or(0));
        // Few enough to stay in the nearest cache where there are not very many cuts.
        let steps = (4 * all.len()).next_power_of_two().max(256);
        let shift = (64 - (last - first).leading_zeros()).saturating_sub(steps.trailing_zeros());
        let step_of = |cut: &u64| ((cut - first) >> shift) as usize;
        let guide = (0..=steps).map(|step| all.partition_point(|cut| step_of(cut) < step) as u32).collect();
        Self { all, first, shift, guide }
    }

    /// How many cuts have a prefix below `head`.
    #[inline]
    fn below(&self, head: u64) -> usize {
        let step = ((head.saturating_sub(self.first) >> self.shift) as usize).min(self.guide.len() - 2);
        let (from, to) = (self.guide[step] as usize, self.guide[step + 1] as usize);
        from + self.all[from..to].partition_point(|cut| *cut < head)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(most: usize) -> impl Strategy<Value = std::collections::BTreeSet<Vec<u8>>> {
        let key = prop_oneof![
            prop::collection::vec(prop::sample::select(vec![0u8, 1, 97, 98, 255]), 0..12),
            prop::collection::vec(any::<u8>(), 0..12),
        ];
        prop::collection::btree_set(key, 0..most)
    }

    proptest! {
        #[test]
        fn a_key_lies_between_the_cuts_of_its_partition(cuts in keys(40), keys in keys(60), more in 1u32..3) {
            let cuts: Vec<Vec<u8>> = cuts.into_iter().collect();
            let partitioner = Partitioner::by_ranges(cuts.len() as u32 + more, cuts.clone());
            for key in keys.iter().chain(&cuts) {
                prop_assert_eq!(partitioner.partition(key) as usize, cuts.iter().filter(|cut| *cut <= key).count());
            }
        }
    }
}
