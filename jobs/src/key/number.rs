//! Keys of fixed width: numbers, truth values, characters, and the key that says nothing.

use bumpalo::Bump;

use super::{Key, KeyError, flag, take};

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

/// Floats without a sign go above those with one, for which a larger magnitude means less: a clear sign bit is set, under a
/// set one all bits turn round.
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
        char::from_u32(value).ok_or(KeyError::Invalid { part: "char", value })
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
