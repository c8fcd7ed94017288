//! Whether one key has most of the values. They are reduced one after the other on one thread, whatever else is idle, and the fewer
//! partitions are left the longer that is waited for: who wrote the job should hear of it.

use std::fmt;

/// Fewer values are reduced in no time.
const WORTH_SAYING: u64 = 1 << 20;

/// The key with the most values, of those that were seen.
#[derive(Debug, Default)]
pub(crate) struct Heaviest {
    key: Vec<u8>,
    values: u64,
    /// Those of all keys.
    of: u64,
}

impl Heaviest {
    /// A key has so many values, all of which are counted now.
    #[inline]
    pub(super) fn see(&mut self, key: &[u8], values: u64) {
        self.of += values;
        if values > self.values {
            self.values = values;
            self.key.clear();
            self.key.extend_from_slice(key);
        }
    }

    /// What was seen of other keys.
    pub(super) fn see_others(&mut self, others: Heaviest) {
        let of = self.of + others.of;
        if others.values > self.values {
            *self = others;
        }
        self.of = of;
    }

    /// What to say of it, if it has most of the values and they are many.
    pub(super) fn weighs(&self, show_key: impl FnOnce(&[u8]) -> String) -> Option<Skew> {
        let is_heavy = self.values >= WORTH_SAYING && self.values > self.of / 2;
        is_heavy.then(|| Skew { key: show_key(&self.key), values: self.values, of: self.of })
    }
}

/// One key has most of the values.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Skew {
    key: String,
    values: u64,
    of: u64,
}

impl fmt::Display for Skew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, values, of } = self;
        write!(f, "one key, {key}, has {values} of {of} values, all for one thread; a combiner would fold them where they are emitted")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_heavy_if_it_has_most_of_many_values() {
        let told = |groups: &[&[(&str, u64)]]| {
            let mut all = Heaviest::default();
            for groups in groups {
                let mut seen = Heaviest::default();
                groups.iter().for_each(|(key, values)| seen.see(key.as_bytes(), *values));
                all.see_others(seen);
            }
            all.weighs(|key| String::from_utf8_lossy(key).into_owned()).map(|skew| (skew.key, skew.values, skew.of))
        };
        const MANY: u64 = WORTH_SAYING;
        assert_eq!(told(&[&[("a", 3), ("b", MANY)], &[("c", MANY - 4)]]), Some(("b".to_owned(), MANY, 2 * MANY - 1)));
        assert_eq!(told(&[&[("c", 5)], &[("b", MANY), ("a", 1)], &[]]), Some(("b".to_owned(), MANY, MANY + 6)));
        assert_eq!(told(&[&[("a", MANY), ("b", MANY)]]), None, "half is not most");
        assert_eq!(told(&[&[("a", MANY - 1)]]), None, "not many");
        assert_eq!(told(&[]), None);
    }
}
