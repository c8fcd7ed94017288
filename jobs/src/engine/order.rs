//! Putting pairs in order, by what is known of them without looking at them.
//!
//! What is sorted are entries: the first eight bytes of a key, and where the pair lies. They are dealt out to buckets by the leading
//! bits in which they differ, and each bucket is sorted as plain numbers. Pairs are looked at only where two entries have the same
//! eight bytes.

use std::cmp::Ordering;

use super::arena::Address;

const ADDRESS_BITS: u32 = 48;
/// Entries that a bucket holds where they spread evenly.
const BUCKET_ENTRIES: usize = 32;
/// More buckets than this are written to faster one after the other than all at once.
const MOST_BUCKETS: usize = 1 << 14;

/// A pair's place, with the first eight bytes of its key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    prefix: u64,
    place: Place,
}

/// Where a pair lies: in one of several buffers, the later the higher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(u64);

impl Place {
    #[inline(always)]
    pub(super) fn new(buffer: usize, address: Address) -> Self {
        Self((buffer as u64) << ADDRESS_BITS | address.0)
    }

    /// The buffer's number.
    #[inline(always)]
    pub(super) fn buffer(self) -> usize {
        (self.0 >> ADDRESS_BITS) as usize
    }

    #[inline(always)]
    pub(super) fn address(self) -> Address {
        Address(self.0 & ((1 << ADDRESS_BITS) - 1))
    }
}

impl Entry {
    #[inline(always)]
    pub(super) fn new(prefix: u64, place: Place) -> Self {
        Self { prefix, place }
    }

    #[inline(always)]
    pub(super) fn prefix(self) -> u64 {
        self.prefix
    }

    #[inline(always)]
    pub(super) fn place(self) -> Place {
        self.place
    }

    /// Prefix and place as one number.
    #[inline(always)]
    fn rank(&self) -> u128 {
        u128::from(self.prefix) << 64 | u128::from(self.place.0)
    }
}

/// Sorts entries, again and again in the same memory.
#[derive(Debug, Default)]
pub(super) struct Sorter {
    listed: Vec<Entry>,
    sorted: Vec<Entry>,
    /// Where the next entry of each bucket goes; in the end, where each bucket ends.
    ends: Vec<usize>,
}

impl Sorter {
    /// Memory that sorting `count` entries takes.
    pub(super) fn bytes_for(count: usize) -> usize {
        2 * count * size_of::<Entry>() + buckets_for(count) * size_of::<usize>()
    }

    /// An empty list for the entries that are to be sorted next, with room for `count` of them.
    pub(super) fn list(&mut self, count: usize) -> &mut Vec<Entry> {
        self.listed.clear();
        self.listed.reserve_exact(count);
        &mut self.listed
    }

    /// Puts the entries listed in order: by prefix, then as `compare` says, which is asked about entries with equal prefixes only.
    pub(super) fn sort(&mut self, compare: impl Fn(Entry, Entry) -> Ordering) -> &[Entry] {
        let Self { listed, sorted, ends } = self;
        let least = listed.iter().map(|entry| entry.prefix).min().unwrap_or(0);
        let most = listed.iter().map(|entry| entry.prefix).max().unwrap_or(0);
        let buckets = buckets_for(listed.len());
        let differing_bits = 64 - (most - least).leading_zeros();
        let shift = differing_bits.saturating_sub(buckets.trailing_zeros());
        let bucket_of = |entry: &Entry| ((entry.prefix - least) >> shift) as usize;

        ends.clear();
        ends.resize(buckets, 0);
        listed.iter().for_each(|entry| ends[bucket_of(entry)] += 1);
        let mut start = 0;
        for end in ends.iter_mut() {
            start += std::mem::replace(end, start);
        }
        sorted.clear();
        sorted.reserve_exact(listed.len());
        sorted.extend_from_slice(listed);
        for entry in listed.iter() {
            let place = &mut ends[bucket_of(entry)];
            sorted[*place] = *entry;
            *place += 1;
        }
        let mut start = 0;
        for &end in ends.iter() {
            let bucket = &mut sorted[start..end];
            bucket.sort_unstable_by_key(Entry::rank);
            for equal in bucket.chunk_by_mut(|a, b| a.prefix == b.prefix) {
                if equal.len() > 1 {
                    equal.sort_by(|a, b| compare(*a, *b));
                }
            }
            start = end;
        }
        sorted
    }
}

/// How many buckets so many entries are dealt out to: a power of two, and not one, so that there is a leading bit.
fn buckets_for(count: usize) -> usize {
    (count / BUCKET_ENTRIES).next_power_of_two().clamp(2, MOST_BUCKETS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Prefixes that are far apart, close together, and equal.
    fn prefixes() -> impl Strategy<Value = Vec<u64>> {
        let prefix = prop_oneof![any::<u64>(), 0u64..5, (0u64..5).prop_map(|n| u64::MAX - n), Just(1 << 63)];
        prop::collection::vec(prefix, 0..300)
    }

    proptest! {
        #[test]
        fn entries_come_out_by_prefix_and_then_as_they_compare(lists in prop::collection::vec(prefixes(), 0..4)) {
            let mut sorter = Sorter::default();
            for prefixes in lists {
                let entries = prefixes.iter().zip(1..).map(|(prefix, number)| Entry::new(*prefix, Place::new(number % 3, Address(number as u64))));
                let mut expected: Vec<Entry> = entries.collect();
                sorter.list(expected.len()).extend_from_slice(&expected);
                // Later ones first, to see that it is asked for.
                let found: Vec<_> = sorter.sort(|a, b| b.place().address().cmp(&a.place().address())).iter().map(Entry::rank).collect();
                expected.sort_by_key(|entry| (entry.prefix(), u64::MAX - entry.place().address().0));
                prop_assert_eq!(found, expected.iter().map(Entry::rank).collect::<Vec<_>>());
            }
        }
    }
}
