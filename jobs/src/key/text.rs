//! Text and bytes: raw where nothing follows, escaped and ended where something does.

use bumpalo::Bump;

use super::{Key, KeyError};

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
        if bytes.len() <= 32 && bytes.is_ascii() {
            // SAFETY: ASCII is UTF-8. (Most keys are words, and the check below is made for longer texts.)
            return Ok(unsafe { std::str::from_utf8_unchecked(bytes) });
        }
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
fn unescape<'a>(bytes: &mut &'a [u8], part: &'static str, scratch: &'a Bump) -> Result<&'a [u8], KeyError> {
    let end = memchr::memchr(END, bytes).ok_or(KeyError::Truncated { part })?;
    let (key, rest) = (&bytes[..end], &bytes[end + 1..]);
    *bytes = rest;
    match memchr::memchr(ESCAPE, key) {
        None => Ok(key),
        Some(first) => unescape_each(key, first, part, scratch),
    }
}

#[cold]
fn unescape_each<'a>(key: &[u8], first: usize, part: &'static str, scratch: &'a Bump) -> Result<&'a [u8], KeyError> {
    let plain = scratch.alloc_slice_copy(key);
    let (mut from, mut to) = (first, first);
    while from < key.len() {
        plain[to] = match key[from..] {
            [ESCAPE, raised @ 1..=2, ..] => raised - 1,
            [ESCAPE, other, ..] => {
                return Err(KeyError::Invalid { part, value: u32::from(other) });
            }
            [ESCAPE] => return Err(KeyError::Truncated { part }),
            _ => key[from],
        };
        from += if key[from] == ESCAPE { 2 } else { 1 };
        to += 1;
    }
    Ok(&plain[..to])
}
