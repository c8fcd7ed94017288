//! Running over CSV 64 bytes at a time.
//!
//! Counting quotes tells quoted from unquoted, as long as every quote that counting takes for an opening one stands
//! where one may open: behind a delimiter or a terminator, or behind a quote (then both are one doubled quote inside
//! quotes). That is checked with a few operations on bit masks in each group that has a quote at all. A group that fails
//! (`5" disk`) is stepped through byte by byte. So the result is exact for any input, and fast for the usual one. From a group
//! without quotes the next quote is jumped to.

use memchr::{memchr, memrchr2};

use super::{CsvState, Dialect, Scan};

const GROUP: usize = 64;

/// Runs over `bytes`, which begin in `state`, with the widest vectors that this machine has.
pub(super) fn scan(dialect: Dialect, bytes: &[u8], state: CsvState) -> Scan {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the machine has AVX2.
            unsafe { x86::scan_avx2(dialect, bytes, state) }
        } else {
            scan_groups(dialect, bytes, state, x86::equal_sse2)
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    scan_groups(dialect, bytes, state, equal_scalar)
}

/// Runs over `bytes`, given a function that marks the bytes of a group that equal a given one.
#[inline(always)]
fn scan_groups(dialect: Dialect, bytes: &[u8], mut state: CsvState, equal: impl Fn(&[u8; GROUP], u8) -> u64) -> Scan {
    let mut last_boundary = None;
    let (groups, tail) = bytes.as_chunks::<GROUP>();
    let grouped = &bytes[..groups.len() * GROUP];
    // `state` is the one before group `known`. Groups without quotes do not touch it: outside quotes their last byte says all, and
    // the last of their line ends is looked for when they are behind.
    let mut known = 0;
    let pass_plain = |known: usize, index: usize, state: &mut CsvState, last_boundary: &mut Option<usize>| {
        let plain = &grouped[known * GROUP..index * GROUP];
        if let Some(&last) = plain.last()
            && *state != CsvState::Quoted
        {
            *last_boundary = memrchr2(b'\r', b'\n', plain).map(|at| known * GROUP + at + 1).or(*last_boundary);
            *state = dialect.step(CsvState::Unquoted, last);
        }
    };
    let mut index = 0;
    while let Some(group) = groups.get(index) {
        let quotes = equal(group, b'"');
        if quotes == 0 {
            let from = (index + 1) * GROUP;
            index = memchr(b'"', &grouped[from..]).map_or(groups.len(), |at| (from + at) / GROUP);
            continue;
        }
        pass_plain(known, index, &mut state, &mut last_boundary);
        (known, index) = (index + 1, index + 1);
        let start = index * GROUP - GROUP;
        let ends = equal(group, b'\r') | equal(group, b'\n');
        let quoted = prefix_xor(quotes) ^ if state == CsvState::Quoted { u64::MAX } else { 0 };
        let edges = equal(group, dialect.delimiter) | ends | quotes;
        let at_edge = edges << 1 | u64::from(!matches!(state, CsvState::Unquoted));
        if quotes & quoted & !at_edge != 0 {
            for (at, &byte) in group.iter().enumerate() {
                state = dialect.step(state, byte);
                if state == CsvState::Record {
                    last_boundary = Some(start + at + 1);
                }
            }
            continue;
        }
        if ends & !quoted != 0 {
            last_boundary = Some(start + behind_last(ends & !quoted));
        }
        state = match group[GROUP - 1] {
            _ if quoted >> (GROUP - 1) != 0 => CsvState::Quoted,
            b'"' => CsvState::QuoteInQuoted,
            last => dialect.step(CsvState::Unquoted, last),
        };
    }
    pass_plain(known, groups.len(), &mut state, &mut last_boundary);
    for (at, &byte) in tail.iter().enumerate() {
        state = dialect.step(state, byte);
        if state == CsvState::Record {
            last_boundary = Some(groups.len() * GROUP + at + 1);
        }
    }
    Scan { state, last_boundary }
}

/// Returns the position behind the last bit of `mask`, which has one.
#[inline(always)]
fn behind_last(mask: u64) -> usize {
    GROUP - mask.leading_zeros() as usize
}

/// Sets each bit to the parity of the bits up to and including it: from each opening quote up to before the closing one.
#[inline(always)]
fn prefix_xor(mut mask: u64) -> u64 {
    for shift in [1, 2, 4, 8, 16, 32] {
        mask ^= mask << shift;
    }
    mask
}

#[cfg(any(test, not(target_arch = "x86_64")))]
fn equal_scalar(group: &[u8; GROUP], byte: u8) -> u64 {
    group.iter().rev().fold(0, |mask, &other| mask << 1 | u64::from(other == byte))
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{CsvState, Dialect, GROUP, Scan, scan_groups};

    #[inline(always)]
    pub(super) fn equal_sse2(group: &[u8; GROUP], byte: u8) -> u64 {
        let mut mask = 0;
        for lane in 0..4 {
            // SAFETY: SSE2 is part of x86-64, and the unaligned load ends within the group.
            let bits = unsafe {
                let bytes = _mm_loadu_si128(group.as_ptr().add(16 * lane).cast());
                _mm_movemask_epi8(_mm_cmpeq_epi8(bytes, _mm_set1_epi8(byte.cast_signed())))
            };
            mask |= u64::from(bits.cast_unsigned()) << (16 * lane);
        }
        mask
    }

    /// # Safety
    /// The machine must have AVX2.
    #[inline(always)]
    unsafe fn equal_avx2(group: &[u8; GROUP], byte: u8) -> u64 {
        let mut mask = 0;
        for lane in 0..2 {
            // SAFETY: the caller's promise, and the unaligned load ends within the group.
            let bits = unsafe {
                let bytes = _mm256_loadu_si256(group.as_ptr().add(32 * lane).cast());
                _mm256_movemask_epi8(_mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(byte.cast_signed())))
            };
            mask |= u64::from(bits.cast_unsigned()) << (32 * lane);
        }
        mask
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn scan_avx2(dialect: Dialect, bytes: &[u8], state: CsvState) -> Scan {
        // SAFETY: this function is only entered where AVX2 is.
        scan_groups(dialect, bytes, state, |group, byte| unsafe { equal_avx2(group, byte) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::csv::tests::{CSV, dense, rows};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn every_width_of_vector_finds_the_same(bytes in prop_oneof![dense(0..400), rows(0..40)], quoted: bool) {
            let state = if quoted { CsvState::Quoted } else { CsvState::Record };
            let scalar = scan_groups(CSV, &bytes, state, equal_scalar);
            prop_assert_eq!(scan(CSV, &bytes, state), scalar);
            #[cfg(target_arch = "x86_64")]
            prop_assert_eq!(scan_groups(CSV, &bytes, state, x86::equal_sse2), scalar);
        }
    }
}
