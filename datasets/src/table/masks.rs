//! Which of 64 bytes separate fields, end records, or quote: one bit per byte.
//!
//! Owns nothing but the comparison. Two implementations give the same bits: AVX2 where the processor has it (asked once,
//! at run time), and words of eight bytes everywhere else. What the bits mean is decided in `split.rs`.

/// How many bytes are looked at together.
pub(crate) const STRIDE: usize = 64;

/// One bit per byte of a stretch of 64; the lowest bit is the first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Masks {
    pub(crate) quotes: u64,
    pub(crate) delimiters: u64,
    /// Both `\n` and `\r`: either ends a CSV record.
    pub(crate) terminators: u64,
}

impl Masks {
    /// Forgets all but the first `count` bytes; there are fewer than 64 of them.
    #[inline(always)]
    pub(crate) fn lowest(self, count: usize) -> Self {
        let kept = (1 << count) - 1;
        Self { quotes: self.quotes & kept, delimiters: self.delimiters & kept, terminators: self.terminators & kept }
    }
}

/// Something that can mark the special bytes of a stretch.
pub(crate) trait Classify: Copy {
    /// # Safety
    ///
    /// The processor must have what the implementation is compiled for.
    unsafe fn masks(self, stretch: &[u8; STRIDE]) -> Masks;
}

/// Eight bytes at a time in ordinary registers: needs nothing of the processor.
#[derive(Clone, Copy)]
pub(crate) struct Portable {
    delimiter: u64,
}

impl Portable {
    pub(crate) fn new(delimiter: u8) -> Self {
        Self { delimiter: splat(delimiter) }
    }
}

impl Classify for Portable {
    #[inline(always)]
    unsafe fn masks(self, stretch: &[u8; STRIDE]) -> Masks {
        let mut masks = Masks { quotes: 0, delimiters: 0, terminators: 0 };
        let (words, _) = stretch.as_chunks::<8>();
        for (at, word) in words.iter().enumerate() {
            let word = u64::from_le_bytes(*word);
            let shift = at * 8;
            masks.quotes |= gather(equal(word, splat(b'"'))) << shift;
            masks.delimiters |= gather(equal(word, self.delimiter)) << shift;
            masks.terminators |= gather(equal(word, splat(b'\n')) | equal(word, splat(b'\r'))) << shift;
        }
        masks
    }
}

const fn splat(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// The top bit of each byte in which both words agree. Exact: no carry crosses from one byte into the next.
#[inline(always)]
fn equal(word: u64, pattern: u64) -> u64 {
    const LOW: u64 = splat(0x7f);
    let differing = word ^ pattern;
    !(((differing & LOW) + LOW) | differing | LOW)
}

/// Packs the top bits of eight bytes into eight bits, the first byte lowest.
#[inline(always)]
fn gather(tops: u64) -> u64 {
    (tops >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

/// Thirty-two bytes at a time.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Avx2 {
    delimiter: u8,
}

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    /// `None` where the processor cannot do it.
    pub(crate) fn new(delimiter: u8) -> Option<Self> {
        let able = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("popcnt");
        able.then_some(Self { delimiter })
    }
}

#[cfg(target_arch = "x86_64")]
impl Classify for Avx2 {
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
    unsafe fn masks(self, stretch: &[u8; STRIDE]) -> Masks {
        use std::arch::x86_64::*;
        let (low, high) = stretch.split_at(STRIDE / 2);
        // SAFETY: each half is 32 readable bytes, and these loads ask for no alignment.
        let (low, high) = unsafe { (_mm256_loadu_si256(low.as_ptr().cast()), _mm256_loadu_si256(high.as_ptr().cast())) };
        let marks = |low: __m256i, high: __m256i| {
            u64::from(_mm256_movemask_epi8(low).cast_unsigned()) | u64::from(_mm256_movemask_epi8(high).cast_unsigned()) << 32
        };
        let equal = |byte: u8| {
            let pattern = _mm256_set1_epi8(byte.cast_signed());
            (_mm256_cmpeq_epi8(low, pattern), _mm256_cmpeq_epi8(high, pattern))
        };
        let (quotes, delimiters, feeds, returns) = (equal(b'"'), equal(self.delimiter), equal(b'\n'), equal(b'\r'));
        Masks {
            quotes: marks(quotes.0, quotes.1),
            delimiters: marks(delimiters.0, delimiters.1),
            terminators: marks(_mm256_or_si256(feeds.0, returns.0), _mm256_or_si256(feeds.1, returns.1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(stretch: &[u8; STRIDE], delimiter: u8) -> Masks {
        let bits = |wanted: &dyn Fn(u8) -> bool| stretch.iter().enumerate().map(|(at, byte)| u64::from(wanted(*byte)) << at).sum::<u64>();
        Masks {
            quotes: bits(&|byte| byte == b'"'),
            delimiters: bits(&|byte| byte == delimiter),
            terminators: bits(&|byte| byte == b'\n' || byte == b'\r'),
        }
    }

    proptest! {
        #[test]
        fn every_implementation_marks_the_bytes_that_a_loop_would(
            bytes in proptest::collection::vec(prop_oneof![Just(b'"'), Just(b','), Just(b'\n'), Just(b'\r'), any::<u8>()], STRIDE),
            delimiter in prop_oneof![Just(b','), Just(b'\t'), Just(b';')],
        ) {
            let stretch: &[u8; STRIDE] = bytes.as_slice().try_into().expect("64 bytes");
            let expected = naive(stretch, delimiter);
            // SAFETY: this one runs everywhere.
            prop_assert_eq!(unsafe { Portable::new(delimiter).masks(stretch) }, expected);
            #[cfg(target_arch = "x86_64")]
            if let Some(avx2) = Avx2::new(delimiter) {
                // SAFETY: `new` has asked the processor.
                prop_assert_eq!(unsafe { avx2.masks(stretch) }, expected);
            }
        }
    }
}
