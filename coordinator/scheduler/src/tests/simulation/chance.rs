//! Chance from one seed, and the count of what it has brought about.

use std::collections::BTreeMap;

/// A generator of numbers: SplitMix64.
pub(super) struct Chance {
    state: u64,
    /// How often each fault was drawn.
    pub(super) fired: BTreeMap<&'static str, u64>,
}

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed ^ 0x5eed_5eed_5eed_5eed, fired: BTreeMap::new() }
    }

    pub(super) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut hash = self.state;
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^ (hash >> 31)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// One time in so many; never for zero.
    pub(super) fn one_in(&mut self, times: u64) -> bool {
        times > 0 && self.below(times) == 0
    }

    /// The same, counted.
    pub(super) fn fault(&mut self, name: &'static str, times: u64) -> bool {
        let drawn = self.one_in(times);
        if drawn {
            *self.fired.entry(name).or_default() += 1;
        }
        drawn
    }
}
