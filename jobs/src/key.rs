//! Keys as bytes whose order is the order of the keys.
//!
//! Owns how a key is written and read back; from [`Key::bytes`] on the engine hashes, compares, sorts and merges bytes
//! and knows no key types. How keys are spread over partitions is left to the partitioner.
//!
//! ```text
//! u8 … u128          big-endian                                    unsigned order is byte order
//! i8 … i128          big-endian, sign bit flipped
//! f32, f64           bits flipped so that byte order is `total_cmp`: -NaN < -∞ < … < -0.0 < 0.0 < … < ∞ < NaN
//! bool, char, ()     one byte, four bytes, nothing
//! String, Vec<u8>    last:   the bytes themselves
//!                    before: 00 becomes 01 01, 01 becomes 01 02, then 00 ends it
//! Option<K>          None: 00 · Some: 01, then K
//! (A, B, …)          the parts one after another; only the last one may stand raw
//! Descending<K>      every byte of K's part inverted
//! ```
//!
//! Before other parts a key must be prefix-free (no encoding begins with another one), or the bytes behind it would take
//! part in its comparison. As the whole or the last part it need not be, so text is stored as it is: a word is its own
//! encoding. Ending text with a single byte costs an escape for 01 too; the usual two bytes would push more pairs of short
//! names past the 16 bytes that the engine keeps inside a table slot.

mod compound;
mod number;
mod text;

#[cfg(test)]
mod tests;

use std::fmt::Debug;

use bumpalo::Bump;

pub use compound::Descending;

/// Writes and reads keys of one type as bytes whose lexicographic order is the order of the keys.
///
/// `map` emits and `reduce` receives a [`Ref`](Key::Ref): text and bytes are borrowed, tuples borrow part by part, and
/// everything else is passed by value. Equal keys have equal encodings, and reading never panics, whatever the bytes.
///
/// ```
/// use shardmill::key::Key;
///
/// let (mut first, mut second) = (Vec::new(), Vec::new());
/// <(String, i64)>::encode(("Bergen", -3), &mut first);
/// <(String, i64)>::encode(("Bergen", 20), &mut second);
/// assert!(first < second);
///
/// let scratch = bumpalo::Bump::new();
/// assert_eq!(<(String, i64)>::decode(&first, &scratch)?, ("Bergen", -3));
/// # Ok::<(), shardmill::key::KeyError>(())
/// ```
pub trait Key: 'static {
    /// The key as it is emitted and reduced: `&str` for `String`, `&[u8]` for `Vec<u8>`, the value itself for numbers. A group that
    /// `reduce` fails on is told as it shows itself.
    type Ref<'a>: Copy + Debug;

    /// Appends the encoding for a key that others follow: order-preserving and prefix-free.
    fn encode_part(key: Self::Ref<'_>, out: &mut Vec<u8>);

    /// Appends the encoding for a whole key or the last part of one: order-preserving.
    #[inline]
    fn encode(key: Self::Ref<'_>, out: &mut Vec<u8>) {
        Self::encode_part(key, out);
    }

    /// Returns what [`encode`](Key::encode) would append.
    ///
    /// Text and bytes are their own encoding and are handed back as they are; other keys are encoded into `scratch`,
    /// whose earlier content is lost.
    #[inline]
    fn bytes<'b, 'k: 'b>(key: Self::Ref<'k>, scratch: &'b mut Vec<u8>) -> &'b [u8] {
        scratch.clear();
        Self::encode(key, scratch);
        scratch
    }

    /// Reads what [`encode_part`](Key::encode_part) wrote from the front of `bytes` and moves `bytes` past it.
    ///
    /// `scratch` is written to only where a key does not lie readable in `bytes`: escaped text, and descending keys.
    fn decode_part<'a>(bytes: &mut &'a [u8], scratch: &'a Bump) -> Result<Self::Ref<'a>, KeyError>;

    /// Reads what [`encode`](Key::encode) wrote, all of `bytes`.
    #[inline]
    fn decode<'a>(mut bytes: &'a [u8], scratch: &'a Bump) -> Result<Self::Ref<'a>, KeyError> {
        let key = Self::decode_part(&mut bytes, scratch)?;
        match bytes.len() {
            0 => Ok(key),
            count => Err(KeyError::Trailing { count }),
        }
    }
}

/// Why bytes are not the encoding of a key.
///
/// ```
/// use shardmill::key::KeyError;
///
/// assert_eq!(KeyError::Truncated { part: "u64" }.to_string(), "the bytes of a key end within its u64");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The bytes end before the key does.
    #[error("the bytes of a key end within its {part}")]
    Truncated {
        /// The type of the part that is cut off.
        part: &'static str,
    },
    /// Bytes are left when the key is complete.
    #[error("a key is followed by {count} bytes that do not belong to it")]
    Trailing {
        /// How many bytes are left.
        count: usize,
    },
    /// A value that no key of the type is written as.
    #[error("a key holds {value:#x}, which is no {part}")]
    Invalid {
        /// The type of the part.
        part: &'static str,
        /// What was found instead.
        value: u32,
    },
    /// Text that is not UTF-8.
    #[error("the text of a key is not utf-8")]
    Encoding,
}

/// Splits `N` bytes off the front.
#[inline]
fn take<const N: usize>(bytes: &mut &[u8], part: &'static str) -> Result<[u8; N], KeyError> {
    let (head, rest) = bytes.split_first_chunk().ok_or(KeyError::Truncated { part })?;
    *bytes = rest;
    Ok(*head)
}

/// Splits a byte off the front that is 0 or 1.
#[inline]
fn flag(bytes: &mut &[u8], part: &'static str) -> Result<bool, KeyError> {
    match take(bytes, part)? {
        [0] => Ok(false),
        [1] => Ok(true),
        [other] => Err(KeyError::Invalid { part, value: u32::from(other) }),
    }
}
