//! A text column as a dictionary, where it has few values.
//!
//! Owns the values seen so far, from block to block, and finds each field among them: a field costs one probe of a small table and
//! no copy, and only new values are checked for UTF-8. Who groups by such a column works with small numbers instead of texts.
//! When there are too many values, the column is read as text up to the end of the shard.
//!
//! Nearly all fields have up to sixteen bytes. They are loaded as one number and compared at once:
//!
//! ```text
//!   slots   │ text: 16 bytes, zeros behind it │ length │ code │ …    code: place among the values, which come in order of appearance
//! ```

use super::{Places, unquote, valid_except};
use arrow::array::{ArrayRef, DictionaryArray, Int32Array, StringArray};
use arrow::datatypes::Int32Type;
use std::collections::HashMap;
use std::sync::Arc;

/// The most values: at most half of the slots.
const VALUES_MAX: usize = 1 << SLOT_BITS >> 1;
const SLOT_BITS: u32 = 11;
/// The most bytes of all values.
const BYTES_MAX: usize = 64 << 10;
/// The most bytes that are loaded as a number.
const SHORT: usize = 16;

/// The values of one column.
pub(super) struct Dictionary {
    slots: Box<[Slot]>,
    long: HashMap<Box<str>, i32>,
    values: Vec<Box<str>>,
    bytes: usize,
    /// The values as an array, until a new one comes.
    array: Option<ArrayRef>,
    is_full: bool,
}

/// A short text, and its code.
#[derive(Clone, Copy)]
struct Slot {
    text: u128,
    /// None in an empty slot: no text that is looked up has that length.
    length: u32,
    code: i32,
}

const EMPTY: Slot = Slot { text: 0, length: u32::MAX, code: 0 };

/// What became of a field.
enum Found {
    Code(i32),
    Null,
    NotUtf8,
    /// It is a new value, and there is no room for it.
    NoRoom,
}

impl Dictionary {
    pub(super) fn new() -> Self {
        let (long, values) = Default::default();
        Self { slots: vec![EMPTY; 1 << SLOT_BITS].into(), long, values, bytes: 0, array: None, is_full: false }
    }

    /// Tries again, if there were too many values.
    pub(super) fn begin_shard(&mut self) {
        if self.is_full {
            *self = Self::new();
        }
    }

    /// A column of a block; none where it has too many values. Rows that are not UTF-8 are added to `refused`.
    pub(super) fn column(
        &mut self,
        places: Places<'_>,
        quotes: bool,
        scratch: &mut Vec<u8>,
        refused: &mut Vec<usize>,
    ) -> Option<DictionaryArray<Int32Type>> {
        if self.is_full {
            return None;
        }
        let known = refused.len();
        let mut absent = Vec::new();
        let mut codes = Vec::with_capacity(places.firsts.len());
        for (row, bounds) in places.bounds().enumerate() {
            let length = bounds.len();
            let raw = &places.padded[bounds.start..];
            if length.wrapping_sub(1) < SHORT
                && !(quotes && raw[0] == b'"')
                && let Some(code) = self.code(short(raw, length), length)
            {
                codes.push(code);
                continue;
            }
            let code = match self.find_any(&raw[..length], quotes, scratch) {
                Found::Code(code) => code,
                Found::NoRoom => {
                    self.is_full = true;
                    refused.truncate(known);
                    return None;
                }
                found => {
                    absent.push(row);
                    if matches!(found, Found::NotUtf8) {
                        refused.push(row);
                    }
                    0
                }
            };
            codes.push(code);
        }
        let codes = Int32Array::new(codes.into(), valid_except(&absent, places.firsts.len()));
        // SAFETY: every code was given to one of the values, and the code of a null is not looked at.
        Some(unsafe { DictionaryArray::new_unchecked(codes, self.array()) })
    }

    /// The code of a known short text.
    #[inline(always)]
    fn code(&self, text: u128, length: usize) -> Option<i32> {
        let slot = &self.slots[self.slot_of(text, length)];
        (slot.text == text && slot.length == length as u32).then_some(slot.code)
    }

    /// The slot with this text, or the empty one for it.
    #[inline(always)]
    fn slot_of(&self, text: u128, length: usize) -> usize {
        let (low, high) = (text as u64 ^ 0x9e37_79b9_7f4a_7c15, (text >> 64) as u64 ^ 0xe703_7ed1_a0b4_28db);
        let product = u128::from(low) * u128::from(high);
        let hash = product as u64 ^ (product >> 64) as u64;
        let mut index = (hash >> (64 - SLOT_BITS)) as usize;
        loop {
            let slot = &self.slots[index];
            if slot.text == text && slot.length == length as u32 || slot.length == EMPTY.length {
                return index;
            }
            index = (index + 1) % (1 << SLOT_BITS);
        }
    }

    /// Finds or adds a field of any kind.
    #[inline(never)]
    fn find_any(&mut self, raw: &[u8], quotes: bool, scratch: &mut Vec<u8>) -> Found {
        if raw.is_empty() {
            return Found::Null;
        }
        let text = unquote(raw, quotes, scratch);
        let length = text.len();
        if length <= SHORT {
            let mut padded = [0; SHORT];
            padded[..length].copy_from_slice(text);
            let number = u128::from_le_bytes(padded);
            match self.code(number, length) {
                Some(code) => Found::Code(code),
                None => self.add(text, |this, code| {
                    let index = this.slot_of(number, length);
                    this.slots[index] = Slot { text: number, length: length as u32, code };
                }),
            }
        } else {
            let known = std::str::from_utf8(text).ok().and_then(|text| self.long.get(text));
            match known {
                Some(&code) => Found::Code(code),
                None => self.add(text, |this, code| _ = this.long.insert(this.values[code as usize].clone(), code)),
            }
        }
    }

    fn add(&mut self, text: &[u8], note: impl FnOnce(&mut Self, i32)) -> Found {
        let Ok(text) = std::str::from_utf8(text) else { return Found::NotUtf8 };
        if self.values.len() == VALUES_MAX || self.bytes + text.len() > BYTES_MAX {
            return Found::NoRoom;
        }
        let code = self.values.len() as i32;
        self.values.push(text.into());
        self.bytes += text.len();
        self.array = None;
        note(self, code);
        Found::Code(code)
    }

    fn array(&mut self) -> ArrayRef {
        let values = &self.values;
        self.array.get_or_insert_with(|| Arc::new(StringArray::from_iter_values(values))).clone()
    }
}

/// The first `length` bytes of `padded`, 1 to 16, as a number; at least 16 can be read.
#[inline(always)]
fn short(padded: &[u8], length: usize) -> u128 {
    let bytes = padded.first_chunk().expect("padding behind the block");
    u128::from_le_bytes(*bytes) & u128::MAX >> (128 - 8 * length)
}
