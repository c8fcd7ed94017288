//! The state of one group: what `count`, `sum`, `min`, `max` and `avg` have seen so far.
//!
//! Owns the words, their merging and their encoding. What a slot means, and how a row is turned into numbers, is decided
//! in `accumulate`; a state knows enough of itself to be combined, written and read without asking.
//!
//! A state is a run of *slots*, each one or more words. The low byte of a slot's first word says what it is, so that four
//! plain aggregates fit into the words inline and a group costs no allocation:
//!
//! ```text
//! first word       payload: 56 bits, signed                           │ form: 4 │ kind: 4 │
//!
//! number           Empty    no value yet                              sum, min, max of exact numbers; counts are sums
//! (Sum Min Max)    Inline   the payload is the value                  (a payload is added to by adding to the word)
//!                  Long n   n words follow (1–3), two's complement
//! float sum        Empty    two unused words follow
//!                  Small    payload: exponent e, specials             two words follow: m, an i128; the sum is m · 2^e
//!                  Wide     payload: specials                         34 words follow: the sum in units of 2^-1074
//! text             Empty
//! (MinText …)      Inline   payload: the length in bytes              the bytes follow, padded with zeros
//! ```
//!
//! Nothing overflows on the way: a sum of 2⁶⁴ numbers of 128 bits fits three words, a sum of 2⁶⁴ doubles fits the wide form.
//! Whether a result fits its column is asked once, at the end, so the answer cannot depend on the order of the rows.
//!
//! The encoding is a function of the values alone, never of the form they are held in:
//!
//! ```text
//! slot    kind: 3 bits │ length: 5 bits, then
//!   number     length 0–24: that many bytes, the shortest two's complement, little endian · 31: empty
//!   float sum  length 0: zero · 1–28: an odd mantissa of that many bytes, then its exponent in two · 29: the same with a
//!              varint as length · 30: one byte of specials · 31: empty
//!   text       length 0–28 · 29: a varint as length · 31: empty; then the bytes
//! ```

use std::cmp::Ordering;
use std::fmt;

use arrow::datatypes::i256;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use smallvec::SmallVec;

use crate::float_sum::{self, Finite, LIMBS, Specials};

/// Words held without an allocation: 40 bytes in all.
const INLINE_WORDS: usize = 4;

pub(crate) type Words = SmallVec<[u64; INLINE_WORDS]>;

/// What becomes of two values that meet in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Sum,
    Min,
    Max,
    FloatSum,
    MinText,
    MaxText,
}

const KINDS: [Kind; 6] = [Kind::Sum, Kind::Min, Kind::Max, Kind::FloatSum, Kind::MinText, Kind::MaxText];

/// How the value of a slot is held.
const EMPTY: u64 = 0;
const INLINE: u64 = 1;
/// Numbers followed by so many words.
const LONG_1: u64 = 2;
const LONG_2: u64 = 3;
const LONG_3: u64 = 4;
/// Float sums.
const SMALL: u64 = 1;
const WIDE: u64 = 2;

/// Bits of the first word below the payload.
const TAG_BITS: u32 = 8;

/// The longest number: 128 bits, 64 for 2⁶⁴ of them.
const NUMBER_BYTES: usize = 24;
/// Lengths of the encoding that mean something else.
const LENGTH_MAX: usize = 28;
const LENGTH_FOLLOWS: u8 = 29;
const LENGTH_SPECIAL: u8 = 30;
const LENGTH_EMPTY: u8 = 31;

fn tag(kind: Kind, form: u64) -> u64 {
    kind as u64 | form << 4
}

fn kind(word: u64) -> Kind {
    KINDS[(word & 0xf) as usize]
}

fn form(word: u64) -> u64 {
    word >> 4 & 0xf
}

fn payload(word: u64) -> i64 {
    word as i64 >> TAG_BITS
}

/// Whether `value` can be a payload.
pub(crate) fn is_narrow(value: i128) -> bool {
    let shifted = (value as i64) << TAG_BITS;
    i128::from(shifted >> TAG_BITS) == value
}

/// The number of words of the slot that begins with `word`.
fn width(word: u64) -> usize {
    match (kind(word), form(word)) {
        (Kind::Sum | Kind::Min | Kind::Max, EMPTY) => 1,
        (Kind::Sum | Kind::Min | Kind::Max, form) => 1 + (form - INLINE) as usize,
        (Kind::FloatSum, WIDE) => 1 + LIMBS,
        (Kind::FloatSum, _) => 3,
        (Kind::MinText | Kind::MaxText, _) => 1 + (payload(word) as usize).div_ceil(8),
    }
}

/// The aggregates of one group.
///
/// Combining is associative and commutative, and so is folding in rows: whatever the order, the encoding is the same.
#[derive(Default)]
pub struct States {
    words: Words,
}

impl Clone for States {
    #[inline]
    fn clone(&self) -> Self {
        // One copy; the derived form goes word by word.
        Self { words: Words::from_slice(&self.words) }
    }
}

/// An exact number, in the narrower of two types.
enum Number {
    Long(i128),
    Huge(i256),
}

impl Number {
    fn huge(self) -> i256 {
        match self {
            Number::Long(value) => i256::from_i128(value),
            Number::Huge(value) => value,
        }
    }
}

const FITS: &str = "the sum of 2^64 numbers of 128 bits fits";

/// The value of a slot, read.
#[derive(Debug, PartialEq)]
pub(crate) enum Slot<'a> {
    Empty,
    Number(i128),
    /// A number of more than 128 bits.
    Huge,
    Float(f64),
    Text(&'a [u8]),
}

impl States {
    /// Adds an empty slot; a count starts at zero, anything else at nothing.
    pub(crate) fn push_empty(&mut self, kind: Kind, is_count: bool) {
        self.words.push(tag(kind, if is_count { INLINE } else { EMPTY }));
        if kind == Kind::FloatSum {
            self.words.extend([0, 0]);
        }
    }

    /// The slot after the one at `at`.
    #[inline]
    pub(crate) fn after(&self, at: usize) -> usize {
        let word = self.words[at];
        // Numbers that fit a word are nearly all there is.
        if word & 0xef <= Kind::Max as u64 { at + 1 } else { at + width(word) }
    }

    /// Adds a number that is known to be narrow, and returns where the next slot is.
    #[inline]
    pub(crate) fn add_narrow(&mut self, at: usize, value: i64) -> usize {
        debug_assert!(is_narrow(value.into()));
        let word = &mut self.words[at];
        if form(*word) <= INLINE
            && let Some(sum) = (*word as i64).checked_add(value << TAG_BITS)
        {
            *word = sum as u64 | INLINE << 4;
            return at + 1;
        }
        self.add_wide(at, value.into());
        self.after(at)
    }

    /// Adds any number of a column.
    #[inline(never)]
    pub(crate) fn add_wide(&mut self, at: usize, value: i128) {
        match self.number(at) {
            None => self.set_number(at, value),
            Some(Number::Long(old)) if let Some(sum) = old.checked_add(value) => self.set_number(at, sum),
            Some(old) => self.set_huge(at, old.huge().checked_add(i256::from_i128(value)).expect(FITS)),
        }
    }

    /// Takes the smaller (`Kind::Min`) or the larger of a narrow number and what is there, and returns where the next slot is.
    #[inline]
    pub(crate) fn meet_narrow(&mut self, at: usize, value: i64) -> usize {
        debug_assert!(is_narrow(value.into()));
        let word = &mut self.words[at];
        let replaces = match form(*word) {
            EMPTY => true,
            INLINE if kind(*word) == Kind::Min => value < payload(*word),
            INLINE => value > payload(*word),
            _ => {
                self.meet_wide(at, value.into());
                return self.after(at);
            }
        };
        if replaces {
            *word = (value << TAG_BITS) as u64 | tag(kind(*word), INLINE);
        }
        at + 1
    }

    /// The same for any number of a column.
    #[inline(never)]
    pub(crate) fn meet_wide(&mut self, at: usize, value: i128) {
        let replaces = match (self.number(at), kind(self.words[at])) {
            (Some(Number::Long(old)), Kind::Min) => value < old,
            (Some(Number::Long(old)), _) => value > old,
            // Only sums are ever huge.
            _ => true,
        };
        if replaces {
            self.set_number(at, value);
        }
    }

    /// Takes the smaller or the larger of a text and what is there, by bytes.
    pub(crate) fn meet_text(&mut self, at: usize, value: &[u8]) {
        let replaces = match (self.text(at), kind(self.words[at])) {
            (None, _) => true,
            (Some(old), Kind::MinText) => value < old,
            (Some(old), _) => value > old,
        };
        if replaces {
            self.set_text(at, value);
        }
    }

    /// Adds a double, exactly.
    #[inline]
    pub(crate) fn add_float(&mut self, at: usize, value: f64) {
        match Finite::of(value) {
            Ok(value) => self.add_finite(at, value),
            Err(special) => self.set_specials(at, self.specials(at) | special),
        }
    }

    /// Adds m · 2^e.
    #[inline]
    pub(crate) fn add_finite(&mut self, at: usize, value: Finite) {
        let word = self.words[at];
        if form(word) == WIDE {
            float_sum::add_to_limbs(&mut self.words[at + 1..=at + LIMBS], value);
            return;
        }
        match self.small(at).plus(value) {
            Some(sum) => self.set_small(at, sum, self.specials(at)),
            None => self.widen(at, value),
        }
    }

    #[cold]
    fn widen(&mut self, at: usize, value: Finite) {
        let mut limbs = [0; LIMBS];
        float_sum::add_to_limbs(&mut limbs, self.small(at));
        float_sum::add_to_limbs(&mut limbs, value);
        let first = u64::from(self.specials(at)) << 24 | tag(Kind::FloatSum, WIDE);
        self.set_limbs(at, first, &limbs);
    }

    fn set_limbs(&mut self, at: usize, first: u64, limbs: &[u64; LIMBS]) {
        let words = self.resized(at, 1 + LIMBS);
        words[0] = first;
        words[1..].copy_from_slice(limbs);
    }

    fn small(&self, at: usize) -> Finite {
        let mantissa = u128::from(self.words[at + 1]) | u128::from(self.words[at + 2]) << 64;
        Finite { mantissa: mantissa as i128, exponent: payload(self.words[at]) as i16 }
    }

    fn set_small(&mut self, at: usize, sum: Finite, specials: Specials) {
        let words = &mut self.words[at..at + 3];
        words[0] = u64::from(specials) << 24 | u64::from(sum.exponent as u16) << TAG_BITS | tag(Kind::FloatSum, SMALL);
        words[1] = sum.mantissa as u64;
        words[2] = (sum.mantissa >> 64) as u64;
    }

    fn specials(&self, at: usize) -> Specials {
        (self.words[at] >> 24) as Specials
    }

    fn set_specials(&mut self, at: usize, specials: Specials) {
        let word = self.words[at];
        let form = form(word).max(SMALL);
        self.words[at] = word & 0xffff << TAG_BITS | u64::from(specials) << 24 | tag(Kind::FloatSum, form);
    }

    fn number(&self, at: usize) -> Option<Number> {
        let word = self.words[at];
        let words = |count: usize| &self.words[at + 1..=at + count];
        Some(match form(word) {
            EMPTY => return None,
            INLINE => Number::Long(payload(word).into()),
            LONG_1 => Number::Long((words(1)[0] as i64).into()),
            LONG_2 => Number::Long((u128::from(words(2)[0]) | u128::from(words(2)[1]) << 64) as i128),
            _ => {
                let words = words(3);
                let low = u128::from(words[0]) | u128::from(words[1]) << 64;
                Number::Huge(i256::from_parts(low, (words[2] as i64).into()))
            }
        })
    }

    fn set_number(&mut self, at: usize, value: i128) {
        let kind = kind(self.words[at]);
        if is_narrow(value) {
            self.resized(at, 1)[0] = (value << TAG_BITS) as u64 | tag(kind, INLINE);
        } else if let Ok(short) = i64::try_from(value) {
            self.resized(at, 2).copy_from_slice(&[tag(kind, LONG_1), short as u64]);
        } else {
            self.resized(at, 3).copy_from_slice(&[tag(kind, LONG_2), value as u64, (value >> 64) as u64]);
        }
    }

    fn set_huge(&mut self, at: usize, value: i256) {
        if let Some(value) = value.to_i128() {
            return self.set_number(at, value);
        }
        let (low, high) = value.to_parts();
        let first = tag(kind(self.words[at]), LONG_3);
        self.resized(at, 4).copy_from_slice(&[first, low as u64, (low >> 64) as u64, high as u64]);
    }

    fn text(&self, at: usize) -> Option<&[u8]> {
        let word = self.words[at];
        let words = &self.words[at + 1..at + width(word)];
        // SAFETY: words are plain bytes, and the length never exceeds the words that follow.
        let bytes = unsafe { std::slice::from_raw_parts(words.as_ptr().cast::<u8>(), payload(word) as usize) };
        (form(word) != EMPTY).then_some(bytes)
    }

    fn set_text(&mut self, at: usize, value: &[u8]) {
        let first = (value.len() as u64) << TAG_BITS | tag(kind(self.words[at]), INLINE);
        let words = self.resized(at, 1 + value.len().div_ceil(8));
        words[0] = first;
        for (word, chunk) in words[1..].iter_mut().zip(value.chunks(8)) {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            *word = u64::from_ne_bytes(bytes);
        }
    }

    /// Gives the slot at `at` so many words, to be written.
    fn resized(&mut self, at: usize, new: usize) -> &mut [u64] {
        let old = width(self.words[at]);
        match new.cmp(&old) {
            Ordering::Equal => {}
            Ordering::Greater if at + old == self.words.len() => self.words.resize(at + new, 0),
            Ordering::Greater => self.words.insert_many(at + old, std::iter::repeat_n(0, new - old)),
            Ordering::Less => _ = self.words.drain(at + new..at + old),
        }
        &mut self.words[at..at + new]
    }

    /// Folds `next` into this state, both of the same group.
    ///
    /// # Panics
    ///
    /// Where the two were not made by the same layout.
    pub fn combine(&mut self, next: &States) {
        let (mut at, mut from) = (0, 0);
        while from < next.words.len() {
            let word = next.words[from];
            assert_eq!(kind(word), kind(self.words[at]), "states of different layouts meet");
            match (kind(word), form(word)) {
                (Kind::FloatSum, form) => {
                    if form != EMPTY {
                        self.combine_floats(at, next, from);
                    }
                }
                (_, EMPTY) => {}
                (Kind::Sum, INLINE) => _ = self.add_narrow(at, payload(word)),
                (Kind::Sum, _) => match next.number(from).expect("not empty") {
                    Number::Long(value) => self.add_wide(at, value),
                    Number::Huge(value) => {
                        let old = self.number(at).map_or(i256::ZERO, Number::huge);
                        self.set_huge(at, old.checked_add(value).expect(FITS));
                    }
                },
                (Kind::Min | Kind::Max, INLINE) => _ = self.meet_narrow(at, payload(word)),
                (Kind::Min | Kind::Max, _) => match next.number(from).expect("not empty") {
                    Number::Long(value) => self.meet_wide(at, value),
                    Number::Huge(_) => unreachable!("only sums are ever huge"),
                },
                (Kind::MinText | Kind::MaxText, _) => self.meet_text(at, next.text(from).expect("not empty")),
            }
            at = self.after(at);
            from = next.after(from);
        }
        debug_assert_eq!(at, self.words.len());
    }

    fn combine_floats(&mut self, at: usize, next: &States, from: usize) {
        self.set_specials(at, self.specials(at) | next.specials(from));
        if form(next.words[from]) == WIDE {
            if form(self.words[at]) != WIDE {
                self.widen(at, Finite::ZERO);
            }
            float_sum::add_limbs(&mut self.words[at + 1..=at + LIMBS], &next.words[from + 1..=from + LIMBS]);
        } else {
            self.add_finite(at, next.small(from));
        }
    }

    /// The value of the slot at `at`.
    #[inline]
    pub(crate) fn slot(&self, at: usize) -> Slot<'_> {
        let word = self.words[at];
        match (kind(word), form(word)) {
            (_, EMPTY) => Slot::Empty,
            (Kind::Sum | Kind::Min | Kind::Max, INLINE) => Slot::Number(payload(word).into()),
            (Kind::Sum | Kind::Min | Kind::Max, _) => match self.number(at).expect("not empty") {
                Number::Long(value) => Slot::Number(value),
                Number::Huge(_) => Slot::Huge,
            },
            (Kind::FloatSum, form) => Slot::Float(match float_sum::of_specials(self.specials(at)) {
                Some(special) => special,
                None if form == WIDE => float_sum::round_limbs(&self.words[at + 1..=at + LIMBS]),
                None => self.small(at).round(),
            }),
            (Kind::MinText | Kind::MaxText, _) => Slot::Text(self.text(at).expect("not empty")),
        }
    }

    /// The encoding of this state: equal values give equal bytes.
    pub fn encode(&self) -> Encoded {
        let mut encoded = Encoded::new();
        let out = &mut encoded;
        let mut at = 0;
        while at < self.words.len() {
            let word = self.words[at];
            match (kind(word), form(word)) {
                (kind, EMPTY) => put_header(out, kind, LENGTH_EMPTY),
                (Kind::Sum | Kind::Min | Kind::Max, INLINE) => put_narrow(out, kind(word), payload(word)),
                (Kind::Sum | Kind::Min | Kind::Max, _) => {
                    put_number(out, kind(word), &self.number(at).expect("not empty").huge().to_le_bytes());
                }
                (Kind::FloatSum, form) => {
                    let specials = self.specials(at);
                    if specials != 0 {
                        put_header(out, Kind::FloatSum, LENGTH_SPECIAL);
                        out.push(specials);
                    } else if form == WIDE {
                        put_limbs(out, &self.words[at + 1..=at + LIMBS]);
                    } else {
                        let sum = self.small(at).odd();
                        put_float(out, &sum.mantissa.to_le_bytes(), sum.exponent);
                    }
                }
                (kind @ (Kind::MinText | Kind::MaxText), _) => {
                    let text = self.text(at).expect("not empty");
                    put_length(out, kind, text.len());
                    out.extend_from_slice(text);
                }
            }
            at += width(word);
        }
        encoded
    }

    /// Reads a state that `encode` wrote.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut states = States::default();
        while let Some((&header, rest)) = bytes.split_first() {
            bytes = rest;
            let kind = *KINDS.get(usize::from(header >> 5)).ok_or(DecodeError)?;
            let at = states.words.len();
            states.push_empty(kind, false);
            let length = match header & 31 {
                LENGTH_EMPTY => continue,
                LENGTH_SPECIAL if kind == Kind::FloatSum => {
                    let specials = take(&mut bytes, 1)?[0];
                    states.set_specials(at, specials);
                    continue;
                }
                LENGTH_FOLLOWS => take_varint(&mut bytes)?,
                length => length.into(),
            };
            let value = take(&mut bytes, length)?;
            match kind {
                Kind::Sum | Kind::Min | Kind::Max if length <= 7 => {
                    states.words[at] = (small_integer(value) << TAG_BITS) as u64 | tag(kind, INLINE);
                }
                Kind::Sum if length > 16 && length <= NUMBER_BYTES => {
                    states.set_huge(at, i256::from_le_bytes(sign_extended(value)?));
                }
                Kind::Sum | Kind::Min | Kind::Max => states.set_number(at, i128::from_le_bytes(sign_extended(value)?)),
                Kind::FloatSum if length == 0 => states.set_small(at, Finite::ZERO, 0),
                Kind::FloatSum => {
                    let exponent = take(&mut bytes, 2)?;
                    let exponent = i16::from_le_bytes([exponent[0], exponent[1]]);
                    if !float_sum::EXPONENTS.contains(&exponent) || length > LIMBS * 8 {
                        return Err(DecodeError);
                    }
                    states.set_float(at, value, exponent)?;
                }
                Kind::MinText | Kind::MaxText => states.set_text(at, value),
            }
        }
        Ok(states)
    }

    fn set_float(&mut self, at: usize, mantissa: &[u8], exponent: i16) -> Result<(), DecodeError> {
        if mantissa.len() <= 16 {
            let mantissa = i128::from_le_bytes(sign_extended(mantissa)?);
            self.set_small(at, Finite { mantissa, exponent }, 0);
            return Ok(());
        }
        let bytes: [u8; LIMBS * 8] = sign_extended(mantissa)?;
        let mut limbs = [0; LIMBS];
        for (limb, bytes) in limbs.iter_mut().zip(bytes.chunks_exact(8)) {
            *limb = u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
        }
        float_sum::shift_left(&mut limbs, float_sum::shift_of(exponent));
        self.set_limbs(at, tag(Kind::FloatSum, WIDE), &limbs);
        Ok(())
    }
}

/// The length of the shortest two's complement of a little-endian number; zero needs none.
fn significant_bytes(bytes: &[u8]) -> usize {
    let is_negative = bytes[bytes.len() - 1] & 0x80 != 0;
    let fill = if is_negative { 0xff } else { 0 };
    let length = bytes.iter().rposition(|&byte| byte != fill).map_or(0, |last| last + 1);
    let sign_is_lost = match length {
        0 => is_negative,
        _ => (bytes[length - 1] & 0x80 != 0) != is_negative,
    };
    length + usize::from(sign_is_lost)
}

/// A two's complement of at most 7 bytes.
fn small_integer(bytes: &[u8]) -> i64 {
    let Some(last) = bytes.last() else { return 0 };
    let fill = if last & 0x80 != 0 { -1 } else { 0 };
    bytes.iter().rev().fold(fill, |value, &byte| value << 8 | i64::from(byte))
}

fn sign_extended<const N: usize>(bytes: &[u8]) -> Result<[u8; N], DecodeError> {
    let is_negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
    let mut extended = [if is_negative { 0xff } else { 0 }; N];
    extended.get_mut(..bytes.len()).ok_or(DecodeError)?.copy_from_slice(bytes);
    Ok(extended)
}

fn put_header(out: &mut Encoded, kind: Kind, length: u8) {
    out.push((kind as u8) << 5 | length);
}

fn put_length(out: &mut Encoded, kind: Kind, length: usize) {
    if length <= LENGTH_MAX {
        return put_header(out, kind, length as u8);
    }
    put_header(out, kind, LENGTH_FOLLOWS);
    let mut rest = length;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// `put_number` for nearly all numbers there are.
#[inline]
fn put_narrow(out: &mut Encoded, kind: Kind, value: i64) {
    let bits = 65 - (value ^ value >> 63).leading_zeros();
    let length = if value == 0 { 0 } else { bits.div_ceil(8) as usize };
    put_header(out, kind, length as u8);
    let end = out.len() + length;
    // All 8 bytes at once, and then as many of them as count.
    out.extend_from_slice(&value.to_le_bytes());
    out.truncate(end);
}

fn put_number(out: &mut Encoded, kind: Kind, bytes: &[u8]) {
    let length = significant_bytes(bytes);
    put_header(out, kind, length as u8);
    out.extend_from_slice(&bytes[..length]);
}

/// Writes an odd mantissa, or zero.
fn put_float(out: &mut Encoded, mantissa: &[u8], exponent: i16) {
    let length = significant_bytes(mantissa);
    put_length(out, Kind::FloatSum, length);
    out.extend_from_slice(&mantissa[..length]);
    if length > 0 {
        out.extend_from_slice(&exponent.to_le_bytes());
    }
}

fn put_limbs(out: &mut Encoded, limbs: &[u64]) {
    let (limbs, exponent) = float_sum::odd_limbs(limbs);
    let mut bytes = [0; LIMBS * 8];
    for (bytes, limb) in bytes.chunks_exact_mut(8).zip(limbs) {
        bytes.copy_from_slice(&limb.to_le_bytes());
    }
    put_float(out, &bytes, exponent);
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], DecodeError> {
    let (taken, rest) = bytes.split_at_checked(length).ok_or(DecodeError)?;
    *bytes = rest;
    Ok(taken)
}

fn take_varint(bytes: &mut &[u8]) -> Result<usize, DecodeError> {
    let mut value = 0;
    for shift in (0..56).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(DecodeError)
}

/// Bytes that are no state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("these bytes are not the state of a group")]
pub struct DecodeError;

/// The bytes of a state; only texts and very wide float sums need more.
pub type Encoded = SmallVec<[u8; 96]>;

impl PartialEq for States {
    fn eq(&self, other: &Self) -> bool {
        self.encode() == other.encode()
    }
}

impl Eq for States {}

impl fmt::Debug for States {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut slots = f.debug_list();
        let mut at = 0;
        while at < self.words.len() {
            slots.entry(&self.slot(at));
            at = self.after(at);
        }
        slots.finish()
    }
}

impl Serialize for States {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.encode())
    }
}

impl<'de> Deserialize<'de> for States {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl de::Visitor<'_> for Bytes {
            type Value = States;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the state of a group")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<States, E> {
                States::decode(bytes).map_err(E::custom)
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}
