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
//! A key may be the whole key or come before others. Before others it must be prefix-free (no encoding begins
//! with another one) or the bytes behind it would take part in its comparison. As the whole or the last part it need not be, so
//! text is stored as it is: a word is its own encoding, and short tuples of text stay short. Ending text with a single byte
//! costs an escape for 01 too; the usual choice of two bytes would push more pairs of short names past the 16 bytes that
//! the engine keeps inside a table slot.

use std::cmp::Ordering;

use bumpalo::Bump;

/// Writes and reads keys of one type as bytes whose lexicographic order is the order of the keys.
///
/// `map` emits and `reduce` receives a [`Ref`](Key::Ref): text and bytes are borrowed, tuples borrow part by part, and everything
/// else is passed by value. Equal keys have equal encodings, and reading never panics, whatever the bytes.
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
    /// The key as it is emitted and reduced: `&str` for `String`, `&[u8]` for `Vec<u8>`, the value itself for numbers.
    type Ref<'a>: Copy;

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
    /// `scratch` is written to only where a key does not lie readable in `bytes`: text with escaped bytes, descending keys.
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
    let (head, rest) = bytes
        .split_first_chunk()
        .ok_or(KeyError::Truncated { part })?;
    *bytes = rest;
    Ok(*head)
}

/// Keys of fixed width: `$to` maps a value to the unsigned number of the same order, `$from` maps it back.
macro_rules! fixed_width {
    ($($key:ident as $bits:ident, $to:expr, $from:expr;)*) => {$(
        impl Key for $key {
            type Ref<'a> = $key;

            #[inline]
            fn encode_part(key: $key, out: &mut Vec<u8>) {
                let ordered: $bits = $to(key);
                out.extend_from_slice(&ordered.to_be_bytes());
            }

            #[inline]
            fn decode_part<'a>(bytes: &mut &'a [u8], _: &'a Bump) -> Result<$key, KeyError> {
                Ok($from($bits::from_be_bytes(take(bytes, stringify!($key))?)))
            }
        }
    )*};
}

fixed_width! {
    u8 as u8, |key| key, |ordered| ordered;
    u16 as u16, |key| key, |ordered| ordered;
    u32 as u32, |key| key, |ordered| ordered;
    u64 as u64, |key| key, |ordered| ordered;
    u128 as u128, |key| key, |ordered| ordered;
    i8 as u8, |key: i8| key as u8 ^ 1 << 7, |ordered| (ordered ^ 1 << 7) as i8;
    i16 as u16, |key: i16| key as u16 ^ 1 << 15, |ordered| (ordered ^ 1 << 15) as i16;
    i32 as u32, |key: i32| key as u32 ^ 1 << 31, |ordered| (ordered ^ 1 << 31) as i32;
    i64 as u64, |key: i64| key as u64 ^ 1 << 63, |ordered| (ordered ^ 1 << 63) as i64;
    i128 as u128, |key: i128| key as u128 ^ 1 << 127, |ordered| (ordered ^ 1 << 127) as i128;
    f32 as u32, |key: f32| flip32(key.to_bits()), |ordered| f32::from_bits(unflip32(ordered));
    f64 as u64, |key: f64| flip64(key.to_bits()), |ordered| f64::from_bits(unflip64(ordered));
}

/// Positive floats sort above negative ones, and the larger the magnitude of a negative one, the lower it sorts: a clear sign
/// bit is set, under a set one all bits turn round.
#[inline]
const fn flip64(bits: u64) -> u64 {
    bits ^ ((bits as i64 >> 63) as u64 | 1 << 63)
}

/// Undoes [`flip64`], which leaves the opposite of the sign in the highest bit.
#[inline]
const fn unflip64(ordered: u64) -> u64 {
    ordered ^ ((!ordered as i64 >> 63) as u64 | 1 << 63)
}

#[inline]
const fn flip32(bits: u32) -> u32 {
    bits ^ ((bits as i32 >> 31) as u32 | 1 << 31)
}

#[inline]
const fn unflip32(ordered: u32) -> u32 {
    ordered ^ ((!ordered as i32 >> 31) as u32 | 1 << 31)
}

impl Key for bool {
    type Ref<'a> = bool;

    #[inline]
    fn encode_part(key: bool, out: &mut Vec<u8>) {
        out.push(u8::from(key));
    }

    #[inline]
    fn decode_part<'a>(bytes: &mut &'a [u8], _: &'a Bump) -> Result<bool, KeyError> {
        flag(bytes, "bool")
    }
}

impl Key for char {
    type Ref<'a> = char;

    #[inline]
    fn encode_part(key: char, out: &mut Vec<u8>) {
        out.extend_from_slice(&u32::from(key).to_be_bytes());
    }

    #[inline]
    fn decode_part<'a>(bytes: &mut &'a [u8], _: &'a Bump) -> Result<char, KeyError> {
        let value = u32::from_be_bytes(take(bytes, "char")?);
        char::from_u32(value).ok_or(KeyError::Invalid {
            part: "char",
            value,
        })
    }
}

/// One group holds everything.
impl Key for () {
    type Ref<'a> = ();

    #[inline]
    fn encode_part((): (), _: &mut Vec<u8>) {}

    #[inline]
    fn decode_part<'a>(_: &mut &'a [u8], _: &'a Bump) -> Result<(), KeyError> {
        Ok(())
    }
}

impl Key for String {
    type Ref<'a> = &'a str;

    #[inline]
    fn encode_part(key: &str, out: &mut Vec<u8>) {
        escape(key.as_bytes(), out);
    }

    #[inline]
    fn encode(key: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(key.as_bytes());
    }

    #[inline]
    fn bytes<'b, 'k: 'b>(key: &'k str, _: &'b mut Vec<u8>) -> &'b [u8] {
        key.as_bytes()
    }

    #[inline]
    fn decode_part<'a>(bytes: &mut &'a [u8], scratch: &'a Bump) -> Result<&'a str, KeyError> {
        Self::decode(unescape(bytes, "text", scratch)?, scratch)
    }

    #[inline]
    fn decode<'a>(bytes: &'a [u8], _: &'a Bump) -> Result<&'a str, KeyError> {
        simdutf8::basic::from_utf8(bytes).map_err(|_| KeyError::Encoding)
    }
}

impl Key for Vec<u8> {
    type Ref<'a> = &'a [u8];

    #[inline]
    fn encode_part(key: &[u8], out: &mut Vec<u8>) {
        escape(key, out);
    }

    #[inline]
    fn encode(key: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(key);
    }

    #[inline]
    fn bytes<'b, 'k: 'b>(key: &'k [u8], _: &'b mut Vec<u8>) -> &'b [u8] {
        key
    }

    #[inline]
    fn decode_part<'a>(bytes: &mut &'a [u8], scratch: &'a Bump) -> Result<&'a [u8], KeyError> {
        unescape(bytes, "bytes", scratch)
    }

    #[inline]
    fn decode<'a>(bytes: &'a [u8], _: &'a Bump) -> Result<&'a [u8], KeyError> {
        Ok(bytes)
    }
}

/// Ends text and bytes that others follow. Nothing sorts below it, so `"a"` stays before `"ab"`.
const END: u8 = 0;
/// Stands before an escaped byte; the byte itself follows, one higher.
const ESCAPE: u8 = 1;

/// Appends `key`, escaped and ended.
#[inline]
fn escape(key: &[u8], out: &mut Vec<u8>) {
    // A minimum is computed 16 bytes at a time, and nearly every key is free of the two bytes.
    if key.iter().fold(u8::MAX, |least, &byte| least.min(byte)) > ESCAPE {
        out.extend_from_slice(key);
    } else {
        escape_each(key, out);
    }
    out.push(END);
}

#[cold]
fn escape_each(key: &[u8], out: &mut Vec<u8>) {
    for &byte in key {
        match byte {
            END | ESCAPE => out.extend_from_slice(&[ESCAPE, byte + 1]),
            _ => out.push(byte),
        }
    }
}

/// Splits an escaped key off the front: borrowed from `bytes` where nothing in it is escaped.
#[inline]
fn unescape<'a>(
    bytes: &mut &'a [u8],
    part: &'static str,
    scratch: &'a Bump,
) -> Result<&'a [u8], KeyError> {
    let end = memchr::memchr(END, bytes).ok_or(KeyError::Truncated { part })?;
    let (key, rest) = (&bytes[..end], &bytes[end + 1..]);
    *bytes = rest;
    match memchr::memchr(ESCAPE, key) {
        None => Ok(key),
        Some(first) => unescape_each(key, first, part, scratch),
    }
}

#[cold]
fn unescape_each<'a>(
    key: &[u8],
    first: usize,
    part: &'static str,
    scratch: &'a Bump,
) -> Result<&'a [u8], KeyError> {
    let plain = scratch.alloc_slice_copy(key);
    let (mut from, mut to) = (first, first);
    while from < key.len() {
        plain[to] = match key[from..] {
            [ESCAPE, raised @ 1..=2, ..] => raised - 1,
            [ESCAPE, other, ..] => {
                return Err(KeyError::Invalid {
                    part,
                    value: u32::from(other),
                });
            }
            [ESCAPE] => return Err(KeyError::Truncated { part }),
            _ => key[from],
        };
        from += if key[from] == ESCAPE { 2 } else { 1 };
        to += 1;
    }
    Ok(&plain[..to])
}

/// `None` comes before every `Some`.
impl<K: Key> Key for Option<K> {
    type Ref<'a> = Option<K::Ref<'a>>;

    #[inline]
    fn encode_part(key: Self::Ref<'_>, out: &mut Vec<u8>) {
        out.push(u8::from(key.is_some()));
        if let Some(key) = key {
            K::encode_part(key, out);
        }
    }

    #[inline]
    fn encode(key: Self::Ref<'_>, out: &mut Vec<u8>) {
        out.push(u8::from(key.is_some()));
        if let Some(key) = key {
            K::encode(key, out);
        }
    }

    #[inline]
    fn decode_part<'a>(bytes: &mut &'a [u8], scratch: &'a Bump) -> Result<Self::Ref<'a>, KeyError> {
        flag(bytes, "option")?
            .then(|| K::decode_part(bytes, scratch))
            .transpose()
    }

    #[inline]
    fn decode<'a>(mut bytes: &'a [u8], scratch: &'a Bump) -> Result<Self::Ref<'a>, KeyError> {
        match (flag(&mut bytes, "option")?, bytes.len()) {
            (true, _) => K::decode(bytes, scratch).map(Some),
            (false, 0) => Ok(None),
            (false, count) => Err(KeyError::Trailing { count }),
        }
    }
}

/// Splits a byte off the front that is 0 or 1.
#[inline]
fn flag(bytes: &mut &[u8], part: &'static str) -> Result<bool, KeyError> {
    match take(bytes, part)? {
        [0] => Ok(false),
        [1] => Ok(true),
        [other] => Err(KeyError::Invalid {
            part,
            value: u32::from(other),
        }),
    }
}

/// Compares part by part, the first one first.
macro_rules! tuple {
    ($($part:ident)+, $last:ident) => {
        impl<$($part: Key,)+ $last: Key> Key for ($($part,)+ $last) {
            type Ref<'a> = ($($part::Ref<'a>,)+ $last::Ref<'a>);

            #[inline]
            #[allow(non_snake_case, reason = "a part is bound to the name of its type")]
            fn encode_part(key: Self::Ref<'_>, out: &mut Vec<u8>) {
                let ($($part,)+ $last) = key;
                $($part::encode_part($part, out);)+
                $last::encode_part($last, out);
            }

            #[inline]
            #[allow(non_snake_case, reason = "a part is bound to the name of its type")]
            fn encode(key: Self::Ref<'_>, out: &mut Vec<u8>) {
                let ($($part,)+ $last) = key;
                $($part::encode_part($part, out);)+
                $last::encode($last, out);
            }

            #[inline]
            fn decode_part<'a>(bytes: &mut &'a [u8], scratch: &'a Bump) -> Result<Self::Ref<'a>, KeyError> {
                Ok(($($part::decode_part(bytes, scratch)?,)+ $last::decode_part(bytes, scratch)?))
            }

            #[inline]
            fn decode<'a>(mut bytes: &'a [u8], scratch: &'a Bump) -> Result<Self::Ref<'a>, KeyError> {
                Ok(($($part::decode_part(&mut bytes, scratch)?,)+ $last::decode(bytes, scratch)?))
            }
        }
    };
}

tuple!(A, B);
tuple!(A B, C);
tuple!(A B C, D);
tuple!(A B C D, E);
tuple!(A B C D E, F);

/// Turns the order of a key round: the largest comes first.
///
/// ```
/// use shardmill::key::{Descending, Key};
///
/// let bytes = |city, revenue| {
///     let mut bytes = Vec::new();
///     <(String, Descending<u64>)>::encode((city, Descending(revenue)), &mut bytes);
///     bytes
/// };
/// assert!(bytes("Essen", 900) < bytes("Essen", 30));
/// assert!(bytes("Essen", 30) < bytes("Faro", 900));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Descending<K>(pub K);

impl<K: Ord> Ord for Descending<K> {
    fn cmp(&self, other: &Self) -> Ordering {
        other.0.cmp(&self.0)
    }
}

impl<K: PartialOrd> PartialOrd for Descending<K> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        other.0.partial_cmp(&self.0)
    }
}

/// Inverted bytes turn the order round only where no encoding begins with another one, so the whole key is written like a part.
impl<K: Key> Key for Descending<K> {
    type Ref<'a> = Descending<K::Ref<'a>>;

    #[inline]
    fn encode_part(Descending(key): Self::Ref<'_>, out: &mut Vec<u8>) {
        let start = out.len();
        K::encode_part(key, out);
        out[start..].iter_mut().for_each(|byte| *byte = !*byte);
    }

    #[inline]
    fn decode_part<'a>(bytes: &mut &'a [u8], scratch: &'a Bump) -> Result<Self::Ref<'a>, KeyError> {
        let inverted: &[u8] = scratch.alloc_slice_fill_with(bytes.len(), |i| !bytes[i]);
        let mut rest = inverted;
        let key = K::decode_part(&mut rest, scratch)?;
        *bytes = &bytes[inverted.len() - rest.len()..];
        Ok(Descending(key))
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use proptest::prelude::*;

    use super::*;

    /// A key that the tests can own, lend and compare.
    trait Sample: Key + Debug {
        fn lend(&self) -> Self::Ref<'_>;
        fn own(key: Self::Ref<'_>) -> Self;
        fn order(&self, other: &Self) -> Ordering;
    }

    macro_rules! by_value {
        ($($key:ty),*) => {$(
            impl Sample for $key {
                fn lend(&self) -> $key { *self }
                fn own(key: $key) -> $key { key }
                fn order(&self, other: &$key) -> Ordering { self.cmp(other) }
            }
        )*};
    }
    by_value!(
        u8,
        u16,
        u32,
        u64,
        u128,
        i8,
        i16,
        i32,
        i64,
        i128,
        bool,
        char,
        ()
    );

    macro_rules! by_total_order {
        ($($key:ty),*) => {$(
            impl Sample for $key {
                fn lend(&self) -> $key { *self }
                fn own(key: $key) -> $key { key }
                fn order(&self, other: &$key) -> Ordering { self.total_cmp(other) }
            }
        )*};
    }
    by_total_order!(f32, f64);

    macro_rules! by_reference {
        ($($key:ty),*) => {$(
            impl Sample for $key {
                fn lend(&self) -> Self::Ref<'_> { self }
                fn own(key: Self::Ref<'_>) -> $key { key.to_owned() }
                fn order(&self, other: &$key) -> Ordering { self.cmp(other) }
            }
        )*};
    }
    by_reference!(String, Vec<u8>);

    impl<K: Sample> Sample for Option<K> {
        fn lend(&self) -> Self::Ref<'_> {
            self.as_ref().map(K::lend)
        }
        fn own(key: Self::Ref<'_>) -> Self {
            key.map(K::own)
        }
        fn order(&self, other: &Self) -> Ordering {
            match (self, other) {
                (Some(one), Some(two)) => one.order(two),
                _ => self.is_some().cmp(&other.is_some()),
            }
        }
    }

    impl<K: Sample> Sample for Descending<K> {
        fn lend(&self) -> Self::Ref<'_> {
            Descending(self.0.lend())
        }
        fn own(key: Self::Ref<'_>) -> Self {
            Descending(K::own(key.0))
        }
        fn order(&self, other: &Self) -> Ordering {
            other.0.order(&self.0)
        }
    }

    macro_rules! tuple_sample {
        ($($part:ident $at:tt)+) => {
            impl<$($part: Sample),+> Sample for ($($part,)+) {
                fn lend(&self) -> Self::Ref<'_> { ($(self.$at.lend(),)+) }
                fn own(key: Self::Ref<'_>) -> Self { ($($part::own(key.$at),)+) }
                fn order(&self, other: &Self) -> Ordering {
                    Ordering::Equal$(.then_with(|| self.$at.order(&other.$at)))+
                }
            }
        };
    }
    tuple_sample!(A 0 B 1);
    tuple_sample!(A 0 B 1 C 2);
    tuple_sample!(A 0 B 1 C 2 D 3);
    tuple_sample!(A 0 B 1 C 2 D 3 E 4);
    tuple_sample!(A 0 B 1 C 2 D 3 E 4 F 5);

    fn whole<K: Sample>(key: &K) -> Vec<u8> {
        let mut bytes = vec![];
        K::encode(key.lend(), &mut bytes);
        bytes
    }

    fn part<K: Sample>(key: &K) -> Vec<u8> {
        let mut bytes = vec![];
        K::encode_part(key.lend(), &mut bytes);
        bytes
    }

    /// Everything that the engine relies on, for one pair of keys.
    fn holds<K: Sample>(one: &K, two: &K) {
        let order = one.order(two);
        assert_eq!(whole(one).cmp(&whole(two)), order, "whole: {one:?} {two:?}");
        assert_eq!(part(one).cmp(&part(two)), order, "part: {one:?} {two:?}");
        assert_eq!(
            part(one).starts_with(&part(two)),
            order.is_eq(),
            "prefix: {one:?} {two:?}"
        );
        for key in [one, two] {
            let (scratch, encoded) = (Bump::new(), whole(key));
            let back = K::own(K::decode(&encoded, &scratch).unwrap());
            assert!(back.order(key).is_eq(), "{key:?} came back as {back:?}");
            assert_eq!(K::bytes(key.lend(), &mut b"left over".to_vec()), encoded);

            let followed = [part(key).as_slice(), b"rest"].concat();
            let mut rest = followed.as_slice();
            let back = K::own(K::decode_part(&mut rest, &scratch).unwrap());
            assert!(back.order(key).is_eq(), "{key:?} came back as {back:?}");
            assert_eq!(rest, b"rest");
        }
    }

    /// Whatever is read must be written the same way again, or two encodings would name one key.
    fn survives<K: Sample>(bytes: &[u8]) {
        let scratch = Bump::new();
        if let Ok(key) = K::decode(bytes, &scratch) {
            assert_eq!(whole(&K::own(key)), bytes);
        }
        let mut rest = bytes;
        if let Ok(key) = K::decode_part(&mut rest, &scratch) {
            assert_eq!(part(&K::own(key)), bytes[..bytes.len() - rest.len()]);
        }
    }

    /// Bytes among which those that are escaped, and their neighbours, are frequent.
    fn dense_bytes() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop_oneof![0u8..4, 250u8..=255, any::<u8>()], 0..12)
    }

    fn dense_text() -> impl Strategy<Value = String> {
        prop::collection::vec(
            prop_oneof!["[\0\u{1}\u{2}a]", any::<char>().prop_map(String::from)],
            0..8,
        )
        .prop_map(|parts| parts.concat())
    }

    macro_rules! laws {
        ($($name:ident: $key:ty, $strategy:expr;)*) => {$(
            mod $name {
                use super::*;

                proptest! {
                    #[test]
                    fn bytes_are_in_the_order_of_the_keys(one in $strategy, two in $strategy) {
                        holds::<$key>(&one, &two);
                        holds::<$key>(&one, &one);
                    }

                    #[test]
                    fn reading_arbitrary_bytes_fails_or_gives_what_writes_them(bytes in dense_bytes()) {
                        survives::<$key>(&bytes);
                    }
                }
            }
        )*};
    }

    laws! {
        unsigned_8: u8, any::<u8>();
        unsigned_16: u16, any::<u16>();
        unsigned_32: u32, any::<u32>();
        unsigned_64: u64, any::<u64>();
        unsigned_128: u128, any::<u128>();
        signed_8: i8, any::<i8>();
        signed_16: i16, any::<i16>();
        signed_32: i32, any::<i32>();
        signed_64: i64, any::<i64>();
        signed_128: i128, any::<i128>();
        float_32: f32, any::<u32>().prop_map(f32::from_bits);
        float_64: f64, any::<u64>().prop_map(f64::from_bits);
        truth: bool, any::<bool>();
        character: char, any::<char>();
        nothing: (), Just(());
        text: String, dense_text();
        bytes: Vec<u8>, dense_bytes();
        optional_text: Option<String>, prop::option::of(dense_text());
        nested_option: Option<Option<u8>>, prop::option::of(prop::option::of(any::<u8>()));
        text_and_text: (String, String), (dense_text(), dense_text());
        bytes_and_number: (Vec<u8>, i16), (dense_bytes(), any::<i16>());
        three: (Option<String>, bool, Vec<u8>), (prop::option::of(dense_text()), any::<bool>(), dense_bytes());
        four: ((), char, String, f64), (Just(()), any::<char>(), dense_text(), any::<u64>().prop_map(f64::from_bits));
        five: (u8, String, u8, String, u8), (0u8..2, dense_text(), 0u8..2, dense_text(), 0u8..2);
        six: (bool, bool, bool, bool, bool, Vec<u8>),
            (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), dense_bytes());
        nested_tuple: ((String, String), String), ((dense_text(), dense_text()), dense_text());
        descending_text: Descending<String>, dense_text().prop_map(Descending);
        descending_twice: Descending<Descending<Vec<u8>>>, dense_bytes().prop_map(|key| Descending(Descending(key)));
        descending_before_text: (Descending<String>, String), (dense_text().prop_map(Descending), dense_text());
        descending_after_text: (String, Descending<Option<i32>>),
            (dense_text(), prop::option::of(any::<i32>()).prop_map(Descending));
    }

    #[test]
    fn special_floats_are_in_total_order() {
        let ascending = [
            -f64::NAN,
            f64::NEG_INFINITY,
            f64::MIN,
            -1.0,
            -f64::MIN_POSITIVE,
            -5e-324,
            -0.0,
            0.0,
            5e-324,
            f64::MIN_POSITIVE,
            1.0,
            f64::MAX,
            f64::INFINITY,
            f64::NAN,
        ];
        for pair in ascending.windows(2) {
            assert!(whole(&pair[0]) < whole(&pair[1]), "{pair:?}");
        }
    }

    #[test]
    fn text_and_bytes_are_their_own_encoding_and_borrowed() {
        let (word, mut scratch) = (String::from("word"), vec![]);
        assert_eq!(String::bytes(&word, &mut scratch).as_ptr(), word.as_ptr());
        assert_eq!(
            <Vec<u8>>::bytes(word.as_bytes(), &mut scratch).as_ptr(),
            word.as_ptr()
        );
    }

    #[test]
    fn text_without_escapes_is_read_where_it_lies() {
        let (mut bytes, scratch) = (vec![], Bump::new());
        <(String, String)>::encode(("Cádiz", "toys"), &mut bytes);
        assert_eq!(
            <(String, String)>::decode(&bytes, &scratch),
            Ok(("Cádiz", "toys"))
        );
        assert_eq!(scratch.allocated_bytes(), 0);
    }

    #[test]
    fn what_is_wrong_with_the_bytes_is_named() {
        let scratch = Bump::new();
        assert_eq!(
            u32::decode(&[1, 2], &scratch),
            Err(KeyError::Truncated { part: "u32" })
        );
        assert_eq!(
            u8::decode(&[1, 2], &scratch),
            Err(KeyError::Trailing { count: 1 })
        );
        assert_eq!(
            bool::decode(&[2], &scratch),
            Err(KeyError::Invalid {
                part: "bool",
                value: 2
            })
        );
        assert_eq!(
            char::decode(&[0, 0, 0xD8, 0], &scratch),
            Err(KeyError::Invalid {
                part: "char",
                value: 0xD800
            })
        );
        assert_eq!(String::decode(&[0xFF], &scratch), Err(KeyError::Encoding));
        assert_eq!(
            <(String, ())>::decode(b"open", &scratch),
            Err(KeyError::Truncated { part: "text" })
        );
        assert_eq!(
            <(Vec<u8>, ())>::decode(&[1, 7, 0], &scratch),
            Err(KeyError::Invalid {
                part: "bytes",
                value: 7
            })
        );
    }
}
