//! The fixed hash of keys, and the partition that follows from it.
//!
//! One hash serves for the partition and for the place in a table: the partition is its top (⌊hash · P / 2⁶⁴⌋), a table of 2ⁿ slots is
//! indexed by its top n bits. So a partition is one contiguous stretch of every table. The hash is part of what makes outputs equal
//! everywhere: it never changes within a major version, and knows no seed.
//!
//! Short keys (up to 16 bytes) are two words, padded with zeroes, multiplied and folded (the mixing step of wyhash); longer ones
//! repeat that step over all their words. The low byte of the hash is free: tables keep the key's length there.

use super::words16::load_words;

const A: u64 = 0x9E37_79B9_7F4A_7C15;
const B: u64 = 0xE703_7ED1_A0B4_28DB;

#[inline(always)]
fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// The hash of a key of up to 16 bytes, given as two little-endian words.
#[inline(always)]
pub(crate) fn hash_words(low: u64, high: u64) -> u64 {
    mix(low ^ A, high ^ B) & !0xFF
}

/// The hash of a key longer than 16 bytes.
pub(crate) fn hash_long(key: &[u8]) -> u64 {
    let mut hash = A ^ key.len() as u64;
    let mut chunks = key.chunks_exact(16);
    for chunk in &mut chunks {
        let (low, high) = load_words(chunk);
        hash = mix(hash ^ low, high ^ B);
    }
    let (low, high) = load_words(chunks.remainder());
    mix(hash ^ low, high ^ A) & !0xFF
}

/// The hash of any key.
#[inline]
pub(crate) fn hash(key: &[u8]) -> u64 {
    if key.len() <= 16 {
        let (low, high) = load_words(key);
        hash_words(low, high)
    } else {
        hash_long(key)
    }
}

/// The partition of a key with this hash, out of `partitions`.
#[inline(always)]
pub(crate) fn partition_of(hash: u64, partitions: u32) -> u32 {
    ((u128::from(hash) * u128::from(partitions)) >> 64) as u32
}

/// The smallest hash that belongs to `partition`; 2⁶⁴ and more is cut to the largest hash.
pub(crate) fn first_hash_of(partition: u32, partitions: u32) -> u64 {
    let first = (u128::from(partition) << 64).div_ceil(u128::from(partitions));
    u64::try_from(first).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_partition_is_one_interval_of_hashes(hash in any::<u64>(), partitions in 1u32..=10_000) {
            let partition = partition_of(hash, partitions);
            prop_assert!(partition < partitions);
            prop_assert!(first_hash_of(partition, partitions) <= hash);
            prop_assert!(partition + 1 == partitions || hash < first_hash_of(partition + 1, partitions));
        }
    }

    #[test]
    fn similar_keys_spread_evenly_over_partitions() {
        for digits in [1usize, 4, 12, 20, 40] {
            let mut counts = [0u32; 64];
            for n in 0..64_000u64 {
                let key = format!("{}{n}", "k".repeat(digits));
                counts[partition_of(hash(key.as_bytes()), 64) as usize] += 1;
            }
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(*least > 800 && *most < 1200, "keys of {digits} letters and a number: {least} to {most}");
        }
    }

    #[test]
    fn the_hash_of_a_key_never_changes() {
        // Computed by hand from the definition above, with Python's integers.
        let known: [(&[u8], u64); 3] =
            [(b"", 0x0850f9794d510800), (b"word", 0x48da7bfabda78e00), (b"a key of more than sixteen bytes", 0xc3ba7cf8585d9600)];
        for (key, expected) in known {
            assert_eq!(hash(key), expected, "{}", String::from_utf8_lossy(key));
        }
    }
}
