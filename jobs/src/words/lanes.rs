//! Sixteen bytes looked at together.
//!
//! On x86-64 with SSE2, which is part of every such processor; elsewhere eight bytes at a time in a 64-bit integer. That
//! twin is compiled everywhere, and the tests of [`words`](super) compare the two.

/// Sixteen bytes; masks have the first byte's bit lowest.
pub(super) trait Lanes: Copy {
    fn load(bytes: &[u8; 16]) -> Self;
    fn or(self, other: Self) -> Self;
    /// Is any byte above 0x7F?
    fn any_above_ascii(self) -> bool;
    /// ASCII white space: 9 to 13, and 32.
    fn spaces(self) -> u64;
    /// Bytes equal to `byte`.
    fn equal(self, byte: u8) -> u64;
}

#[cfg(target_arch = "x86_64")]
pub(super) type Native = sse2::Sse2;
#[cfg(not(target_arch = "x86_64"))]
pub(super) type Native = Portable;

#[cfg(target_arch = "x86_64")]
mod sse2 {
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8, _mm_sub_epi8,
    };

    use super::Lanes;

    #[derive(Clone, Copy)]
    pub(in super::super) struct Sse2(__m128i);

    // SAFETY of every block below: SSE2 is part of x86-64, and only `load` touches memory.
    impl Sse2 {
        #[inline(always)]
        fn equals(self, byte: u8) -> Sse2 {
            // SAFETY: as above.
            Sse2(unsafe { _mm_cmpeq_epi8(self.0, _mm_set1_epi8(byte as i8)) })
        }

        /// Is a byte one of the `count` from `first` on? What lies below wraps round to a large difference.
        #[inline(always)]
        fn within(self, first: u8, count: u8) -> Sse2 {
            // SAFETY: as above.
            Sse2(unsafe {
                let above = _mm_sub_epi8(self.0, _mm_set1_epi8(first as i8));
                let capped = _mm_min_epu8(above, _mm_set1_epi8(count as i8 - 1));
                _mm_cmpeq_epi8(capped, above)
            })
        }

        /// The highest bit of every byte.
        #[inline(always)]
        fn mask(self) -> u64 {
            // SAFETY: as above.
            u64::from(unsafe { _mm_movemask_epi8(self.0) } as u32)
        }
    }

    impl Lanes for Sse2 {
        #[inline(always)]
        fn load(bytes: &[u8; 16]) -> Self {
            // SAFETY: reads the 16 bytes of the array, wherever they lie.
            Sse2(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
        }

        #[inline(always)]
        fn or(self, other: Self) -> Self {
            // SAFETY: as above.
            Sse2(unsafe { _mm_or_si128(self.0, other.0) })
        }

        #[inline(always)]
        fn any_above_ascii(self) -> bool {
            self.mask() != 0
        }

        #[inline(always)]
        fn spaces(self) -> u64 {
            self.equals(b' ').or(self.within(b'\t', 5)).mask()
        }

        #[inline(always)]
        fn equal(self, byte: u8) -> u64 {
            self.equals(byte).mask()
        }
    }
}

/// Two times eight bytes, the first one lowest.
#[derive(Clone, Copy)]
#[cfg_attr(target_arch = "x86_64", allow(dead_code, reason = "the twin that the tests compare with"))]
pub(super) struct Portable([u64; 2]);

const LOW: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = LOW << 7;

/// The highest bit of every byte that is `byte`.
#[inline]
fn equals(word: u64, byte: u8) -> u64 {
    let difference = word ^ (LOW * u64::from(byte));
    // No sum of two seven-bit numbers carries into the next byte, so none is taken for its neighbour.
    !(((difference & !HIGH) + !HIGH) | difference) & HIGH
}

/// Packs the highest bit of every byte into eight bits.
///
/// The factor has bits 7, 14, … 56: bit 8i of the one and bit 56 - 7i of the other meet in bit 56 + i, and no others do.
#[inline]
fn pack(highest: u64) -> u64 {
    (highest >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

impl Portable {
    #[inline]
    fn mask(self, highest: impl Fn(u64) -> u64) -> u64 {
        pack(highest(self.0[0])) | pack(highest(self.0[1])) << 8
    }
}

impl Lanes for Portable {
    #[inline]
    fn load(bytes: &[u8; 16]) -> Self {
        let packed = u128::from_le_bytes(*bytes);
        Portable([packed as u64, (packed >> 64) as u64])
    }

    #[inline]
    fn or(self, other: Self) -> Self {
        Portable([self.0[0] | other.0[0], self.0[1] | other.0[1]])
    }

    #[inline]
    fn any_above_ascii(self) -> bool {
        (self.0[0] | self.0[1]) & HIGH != 0
    }

    #[inline]
    fn spaces(self) -> u64 {
        self.mask(|word| {
            let low = word & !HIGH;
            // The highest bit says "at least 9" in the first sum and "at least 14" in the second.
            let control = (low + LOW * (0x80 - 9)) & !(low + LOW * (0x80 - 14)) & !word & HIGH;
            equals(word, b' ') | control
        })
    }

    #[inline]
    fn equal(self, byte: u8) -> u64 {
        self.mask(|word| equals(word, byte))
    }
}
