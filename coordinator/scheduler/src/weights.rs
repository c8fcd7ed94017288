//! How heavy the units of a phase are: the measure by which ranges are cut.

use std::ops::Range;

/// What a unit weighs besides its bytes: opening a file and beginning a shard are not free, and a task of empty shards is not nothing.
const UNIT: u64 = 4 << 10;

/// The weights of a phase's units.
#[derive(Debug)]
pub(crate) enum Weights {
    /// All the same, as their bytes are not known.
    Even,
    /// Sums over the units before each one, with one more entry for the end.
    Known(Vec<u64>),
}

impl Weights {
    /// Weights by bytes.
    pub(crate) fn of_bytes(bytes: &[u64]) -> Self {
        let mut sum = 0u64;
        let sums = bytes.iter().map(|bytes| {
            sum = sum.saturating_add(bytes.saturating_add(UNIT));
            sum
        });
        Self::Known(std::iter::once(0).chain(sums).collect())
    }

    /// The weight of a range.
    pub(crate) fn of(&self, range: &Range<u32>) -> u64 {
        match self {
            Self::Even => u64::from(range.end - range.start),
            Self::Known(sums) => sums[range.end as usize] - sums[range.start as usize],
        }
    }

    /// The bytes of a range; nothing where they are not known.
    pub(crate) fn bytes(&self, range: &Range<u32>) -> Option<u64> {
        match self {
            Self::Even => None,
            Self::Known(_) => Some(self.of(range).saturating_sub(UNIT * u64::from(range.end - range.start))),
        }
    }

    /// The end of the range from `start` whose weight is nearest to `target`, one unit at least.
    pub(crate) fn fit_nearly(&self, range: &Range<u32>, target: u64) -> u32 {
        let end = self.fit(range, target);
        let shorter = self.of(&(range.start..end));
        if end == range.end || shorter >= target {
            return end;
        }
        let longer = self.of(&(range.start..end + 1));
        if longer - target < target - shorter { end + 1 } else { end }
    }

    /// The end of the longest range from `start` that weighs no more than `target`, one unit at least.
    pub(crate) fn fit(&self, range: &Range<u32>, target: u64) -> u32 {
        let end = match self {
            Self::Even => range.start.saturating_add(u32::try_from(target).unwrap_or(u32::MAX)),
            Self::Known(sums) => {
                let limit = sums[range.start as usize].saturating_add(target);
                let inside = &sums[range.start as usize + 1..=range.end as usize];
                range.start + inside.partition_point(|sum| *sum <= limit) as u32
            }
        };
        end.clamp(range.start + 1, range.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_as_long_as_its_weight_allows_and_never_empty() {
        let weights = Weights::of_bytes(&[10, 0, 5, 100]);
        assert_eq!(weights.of(&(0..4)), 115 + 4 * UNIT);
        assert_eq!(weights.bytes(&(1..3)), Some(5));
        assert_eq!(weights.fit(&(0..4), 15 + 3 * UNIT), 3);
        assert_eq!(weights.fit(&(0..4), 14 + 3 * UNIT), 2);
        assert_eq!(weights.fit(&(0..4), 0), 1);
        assert_eq!(weights.fit(&(1..3), u64::MAX), 3);
        assert_eq!(weights.fit_nearly(&(0..4), 15 + 2 * UNIT + UNIT / 2 + 1), 3);
        assert_eq!(weights.fit_nearly(&(0..4), 10 + 2 * UNIT + UNIT / 2), 2);
        assert_eq!(weights.fit_nearly(&(0..2), u64::MAX), 2);
        assert_eq!(weights.fit_nearly(&(0..4), 0), 1);
        assert_eq!(Weights::Even.fit(&(2..9), 3), 5);
        assert_eq!(Weights::Even.bytes(&(2..9)), None);
    }
}
