//! Loading the first bytes of a key as words.

/// Up to 16 bytes as two little-endian words, padded with zeroes. Reads nothing outside of `bytes`.
#[inline(always)]
pub(crate) fn load_words(bytes: &[u8]) -> (u64, u64) {
    debug_assert!(bytes.len() <= 16);
    let length = bytes.len();
    if let (Some(head), Some(tail)) = (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        // The last eight bytes overlap the first; what is there already is shifted out.
        let shift = (16 - length) * 8;
        let high = if shift == 64 { 0 } else { u64::from_le_bytes(*tail) >> shift };
        (u64::from_le_bytes(*head), high)
    } else if let (Some(head), Some(tail)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        let (head, tail) = (u64::from(u32::from_le_bytes(*head)), u64::from(u32::from_le_bytes(*tail)));
        (head | tail << ((length - 4) * 8), 0)
    } else if let [first, .., last] = bytes {
        (u64::from(*first) | u64::from(bytes[length / 2]) << (length / 2 * 8) | u64::from(*last) << ((length - 1) * 8), 0)
    } else {
        (bytes.first().map_or(0, |byte| u64::from(*byte)), 0)
    }
}

/// The same for a key of up to 16 bytes behind which 16 bytes from its start on can be read: two loads and two masks, no branch.
///
/// # Safety
/// `start` must be valid for reading 16 bytes.
#[inline(always)]
pub(crate) unsafe fn load_words_padded(start: *const u8, length: usize) -> (u64, u64) {
    // SAFETY: the caller vouches for 16 bytes.
    let words = u128::from_le_bytes(unsafe { start.cast::<[u8; 16]>().read_unaligned() });
    const MASKS: [u128; 17] = {
        let mut masks = [0u128; 17];
        let mut length = 1;
        while length <= 16 {
            masks[length] = u128::MAX >> (128 - 8 * length);
            length += 1;
        }
        masks
    };
    let words = words & MASKS[length];
    (words as u64, (words >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_loading_agree_with_padding_by_hand() {
        let bytes: Vec<u8> = (1..=32).collect();
        for start in 0..8 {
            for length in 0..=16 {
                let key = &bytes[start..start + length];
                let mut padded = [0u8; 16];
                padded[..length].copy_from_slice(key);
                let words = u128::from_le_bytes(padded);
                let expected = (words as u64, (words >> 64) as u64);
                assert_eq!(load_words(key), expected);
                // SAFETY: 32 bytes, of which at most 8 + 16 are read.
                assert_eq!(unsafe { load_words_padded(key.as_ptr(), length) }, expected);
            }
        }
    }
}
