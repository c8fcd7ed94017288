//! The key of a group: its values as bytes, in the order of the values.
//!
//! ```text
//! number   0x00                   null
//!          0x80 + n, n bytes      not negative: the shortest magnitude, big endian
//!          0x7f − n, n bytes      negative: the shortest two's complement, its sign cut off
//! text     0x00                   null
//!          0x01 0x00              the empty text
//!          bytes 0x00             any other; 0x00 within becomes 0x01 0x01, and 0x01 becomes 0x01 0x02
//! text as  (nothing)              null
//! the last 0x00                   the empty text
//! column   bytes                  any other, with 0x01 before it if it begins with 0x00 or 0x01
//! ```
//!
//! Every form but the last is prefix-free, so keys compare as tuples do, with null before everything; and keys are short: a
//! text costs one byte more than itself, or none as the last column, a small number two bytes.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int32Type};

use crate::column::{Column, Numbers, numbers};
use crate::expression::Type;

const NULL: u8 = 0;
/// The header of zero; that of −1 is one less.
const ZERO: u8 = 0x80;
const TERMINATOR: u8 = 0;
const ESCAPE: u8 = 1;

/// The grouping columns of a batch.
pub(crate) struct Keys {
    columns: Vec<KeyColumn>,
}

/// One of them: for each row its piece of the key.
pub(crate) struct KeyColumn {
    form: Form,
    nulls: Option<NullBuffer>,
    is_last: bool,
}

/// The pieces of a column that has few.
pub(crate) struct Pieces<'a> {
    bytes: &'a [u8],
    ends: &'a [u32],
    /// Which piece each row has; anything where the row is null.
    pub(crate) indices: &'a [u32],
    pub(crate) nulls: Option<&'a NullBuffer>,
}

impl<'a> Pieces<'a> {
    /// Each piece, by index.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let bytes = self.bytes;
        self.ends.windows(2).map(move |ends| &bytes[ends[0] as usize..ends[1] as usize])
    }
}

enum Form {
    Numbers(Numbers),
    Texts {
        offsets: OffsetBuffer<i32>,
        bytes: Buffer,
        /// No byte is below 2, so that nothing needs an escape.
        is_plain: bool,
    },
    /// Each value encoded once.
    Dictionary {
        values: Vec<u8>,
        ends: Vec<u32>,
        indices: Vec<u32>,
    },
}

impl Keys {
    /// The keys of rows whose grouping columns are these, of these types; text may come in a dictionary.
    pub(crate) fn new<'a>(columns: impl ExactSizeIterator<Item = (ArrayRef, &'a Type)>) -> Self {
        let last = columns.len().wrapping_sub(1);
        let columns = columns.enumerate().map(|(index, (array, kind))| KeyColumn::new(&array, kind, index == last));
        Self { columns: columns.collect() }
    }

    /// The columns, in the order of their pieces in a key.
    pub(crate) fn columns(&self) -> &[KeyColumn] {
        &self.columns
    }

    /// Appends the key of `row`.
    #[inline]
    pub(crate) fn push(&self, row: usize, key: &mut Vec<u8>) {
        for column in &self.columns {
            column.push(row, key);
        }
    }
}

impl KeyColumn {
    fn new(array: &ArrayRef, kind: &Type, is_last: bool) -> Self {
        if let Some(numbers) = numbers(array, kind) {
            return Self { form: Form::Numbers(numbers), nulls: array.nulls().cloned(), is_last };
        }
        if let Some(column) = Self::dictionary(array, is_last) {
            return column;
        }
        let texts = cast(array, &DataType::Utf8).expect("text is text in every form");
        let texts = texts.as_string::<i32>();
        let offsets = texts.offsets();
        let bytes = &texts.value_data()[offsets[0] as usize..offsets[texts.len()] as usize];
        // Without an early exit, so that it is computed for many bytes at once.
        let is_plain = bytes.iter().fold(u8::MAX, |least, &byte| least.min(byte)) > ESCAPE;
        let form = Form::Texts { offsets: offsets.clone(), bytes: texts.values().clone(), is_plain };
        Self { form, nulls: texts.nulls().cloned(), is_last }
    }

    /// A dictionary of texts, if its values are fewer than the rows.
    fn dictionary(array: &ArrayRef, is_last: bool) -> Option<Self> {
        let dictionary = array.as_any_dictionary_opt()?;
        let texts = dictionary.values().as_string_opt::<i32>()?;
        if texts.null_count() > 0 || texts.is_empty() || texts.len() > array.len() {
            return None;
        }
        let (mut values, mut ends) = (Vec::new(), vec![0]);
        for text in texts.iter().flatten() {
            push_text(text.as_bytes(), 0, text.len(), false, is_last, &mut values);
            ends.push(values.len() as u32);
        }
        let indices = match array.as_dictionary_opt::<Int32Type>() {
            // What lies under a null is anything; there are no more values than rows.
            Some(array) if array.null_count() == 0 => array.keys().values().iter().map(|&key| key as u32).collect(),
            _ => dictionary.normalized_keys().into_iter().map(|key| key as u32).collect(),
        };
        let form = Form::Dictionary { values, ends, indices };
        Some(Self { form, nulls: array.nulls().cloned(), is_last })
    }

    /// The pieces of a dictionary.
    pub(crate) fn pieces(&self) -> Option<Pieces<'_>> {
        match &self.form {
            Form::Dictionary { values, ends, indices } => Some(Pieces { bytes: values, ends, indices, nulls: self.nulls.as_ref() }),
            _ => None,
        }
    }

    /// Appends the piece of a null.
    pub(crate) fn push_null(&self, key: &mut Vec<u8>) {
        if !(self.is_last && matches!(self.form, Form::Texts { .. } | Form::Dictionary { .. })) {
            key.push(NULL);
        }
    }

    /// Appends the piece of `row`.
    #[inline]
    pub(crate) fn push(&self, row: usize, key: &mut Vec<u8>) {
        if self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            return self.push_null(key);
        }
        match &self.form {
            Form::Texts { offsets, bytes, is_plain } => {
                push_text(bytes, offsets[row] as usize, offsets[row + 1] as usize, *is_plain, self.is_last, key);
            }
            Form::Numbers(Numbers::Short(numbers)) => push_short(numbers[row], key),
            Form::Numbers(Numbers::Long(numbers)) => push_long(numbers[row], key),
            Form::Dictionary { values, ends, indices } => {
                let index = indices[row] as usize;
                append(values, ends[index] as usize, ends[index + 1] as usize, key);
            }
        }
    }
}

#[inline]
fn push_short(number: i64, key: &mut Vec<u8>) {
    let sign = number >> 63;
    let length = (71 - (number ^ sign).leading_zeros()) / 8;
    key.push((i64::from(ZERO) + sign + (i64::from(length) ^ sign) - sign) as u8);
    let end = key.len() + length as usize;
    // All 8 bytes at once, and then as many of them as count. (A shift by 64 is one by 0, of which nothing is kept.)
    key.extend_from_slice(&number.wrapping_shl(64 - 8 * length).to_be_bytes());
    key.truncate(end);
}

fn push_long(number: i128, key: &mut Vec<u8>) {
    if let Ok(short) = i64::try_from(number) {
        return push_short(short, key);
    }
    let length = (135 - (number ^ number >> 127).leading_zeros()) as u8 / 8;
    key.push(if number < 0 { ZERO - 1 - length } else { ZERO + length });
    key.extend_from_slice(&number.to_be_bytes()[16 - length as usize..]);
}

/// Appends the text that lies in `bytes` from `start` to `end`.
#[inline]
fn push_text(bytes: &[u8], start: usize, end: usize, is_plain: bool, is_last: bool, key: &mut Vec<u8>) {
    if start == end {
        key.extend_from_slice(if is_last { &[TERMINATOR] } else { &[ESCAPE, TERMINATOR] });
    } else if is_last {
        if bytes[start] <= ESCAPE {
            key.push(ESCAPE);
        }
        append(bytes, start, end, key);
    } else {
        if is_plain {
            append(bytes, start, end, key);
        } else {
            push_escaped(&bytes[start..end], key);
        }
        key.push(TERMINATOR);
    }
}

/// Appends `bytes[start..end]`.
#[inline]
fn append(bytes: &[u8], start: usize, end: usize, key: &mut Vec<u8>) {
    let length = end - start;
    match bytes.get(start..start + 16) {
        // Nearly all texts are short, and 16 bytes at once cost less than a call that copies a few.
        Some(wide) if length <= 16 => {
            let end = key.len() + length;
            key.extend_from_slice(wide);
            key.truncate(end);
        }
        _ => key.extend_from_slice(&bytes[start..end]),
    }
}

fn push_escaped(text: &[u8], key: &mut Vec<u8>) {
    for &byte in text {
        if byte <= ESCAPE {
            key.extend_from_slice(&[ESCAPE, byte + 1]);
        } else {
            key.push(byte);
        }
    }
}

/// Bytes that are no key of these columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("these bytes are not the key of a group")]
pub struct KeyError;

/// Appends the values of `key` to the columns it was made of.
pub(crate) fn read_key(mut key: &[u8], kinds: &[Type], columns: &mut [Column]) -> Result<(), KeyError> {
    for (index, (kind, column)) in kinds.iter().zip(columns).enumerate() {
        match (kind, index + 1 == kinds.len()) {
            (Type::Text, true) => read_last_text(std::mem::take(&mut key), column),
            (Type::Text, false) => read_text(&mut key, column)?,
            _ => read_number(&mut key, column)?,
        }
    }
    if key.is_empty() { Ok(()) } else { Err(KeyError) }
}

fn read_number(key: &mut &[u8], column: &mut Column) -> Result<(), KeyError> {
    let (&header, rest) = key.split_first().ok_or(KeyError)?;
    if header == NULL {
        *key = rest;
        column.push_null();
        return Ok(());
    }
    let is_negative = header < ZERO;
    let length = if is_negative { ZERO - 1 - header } else { header - ZERO };
    let (bytes, rest) = rest.split_at_checked(length.into()).filter(|_| length <= 16).ok_or(KeyError)?;
    *key = rest;
    let sign = if is_negative { -1 } else { 0 };
    column.push_number(bytes.iter().fold(sign, |number: i128, &byte| number << 8 | i128::from(byte)));
    Ok(())
}

fn read_text(key: &mut &[u8], column: &mut Column) -> Result<(), KeyError> {
    let end = key.iter().position(|&byte| byte == TERMINATOR).ok_or(KeyError)?;
    let (text, rest) = key.split_at(end);
    *key = &rest[1..];
    match text {
        [] => column.push_null(),
        [ESCAPE] => column.push_text(|_| {}),
        _ => column.push_text(|bytes| {
            let mut escaped = false;
            for &byte in text {
                match (escaped, byte) {
                    (false, ESCAPE) => escaped = true,
                    (false, byte) => bytes.push(byte),
                    (true, byte) => {
                        bytes.push(byte.wrapping_sub(1));
                        escaped = false;
                    }
                }
            }
        }),
    }
    Ok(())
}

fn read_last_text(key: &[u8], column: &mut Column) {
    match key {
        [] => column.push_null(),
        [TERMINATOR] => column.push_text(|_| {}),
        [ESCAPE, text @ ..] | text => column.push_text(|bytes| bytes.extend_from_slice(text)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Decimal128Array, DictionaryArray, Float64Array, Int64Array, RecordBatch, StringArray};
    use arrow::datatypes::Int32Type;
    use proptest::prelude::*;

    use super::*;
    use crate::exact::decimal;

    fn text() -> impl Strategy<Value = Option<String>> {
        let tricky = prop::collection::vec(prop_oneof![Just('\0'), Just('\u{1}'), Just('\u{2}'), Just('a'), Just('é')], 0..5);
        prop::option::of(prop_oneof![tricky.prop_map(|text| text.into_iter().collect()), ".{0,12}"])
    }

    fn integer() -> impl Strategy<Value = Option<i64>> {
        prop::option::of(prop_oneof![any::<i64>(), -3..3i64, (0..63u32).prop_map(|bit| 1 << bit), (0..63u32).prop_map(|bit| -1 << bit)])
    }

    type Tuple = (Option<String>, Option<i64>, Option<i128>, Option<String>);

    fn tuple() -> impl Strategy<Value = Tuple> {
        (text(), integer(), prop::option::of(any::<i128>().prop_map(|value| value >> 2)), text())
    }

    fn arrays(tuples: &[Tuple]) -> Vec<(ArrayRef, Type)> {
        let decimals: Decimal128Array = tuples.iter().map(|tuple| tuple.2).collect();
        vec![
            (Arc::new(tuples.iter().map(|tuple| tuple.0.clone()).collect::<StringArray>()), Type::Text),
            (Arc::new(tuples.iter().map(|tuple| tuple.1).collect::<Int64Array>()), Type::Integer),
            (Arc::new(decimals.with_data_type(decimal(2))), Type::Decimal(2)),
            (Arc::new(tuples.iter().map(|tuple| tuple.3.clone()).collect::<StringArray>()), Type::Text),
        ]
    }

    fn keys(arrays: &[(ArrayRef, Type)]) -> Vec<Vec<u8>> {
        let keys = Keys::new(arrays.iter().map(|(array, kind)| (array.clone(), kind)));
        let key = |row| {
            let mut key = Vec::new();
            keys.push(row, &mut key);
            key
        };
        (0..arrays[0].0.len()).map(key).collect()
    }

    proptest! {
        #[test]
        fn keys_are_ordered_as_their_tuples_are(tuples in prop::collection::vec(tuple(), 2..6)) {
            let keys = keys(&arrays(&tuples));
            for left in 0..tuples.len() {
                for right in 0..tuples.len() {
                    prop_assert_eq!(keys[left].cmp(&keys[right]), tuples[left].cmp(&tuples[right]));
                }
            }
        }

        #[test]
        fn a_key_reads_as_the_values_it_was_made_of(tuples in prop::collection::vec(tuple(), 1..6), columns in 1usize..=4) {
            let arrays = &arrays(&tuples)[..columns];
            let kinds: Vec<Type> = arrays.iter().map(|(_, kind)| kind.clone()).collect();
            let mut read: Vec<Column> = kinds.iter().cloned().map(Column::new).collect();
            for key in keys(arrays) {
                read_key(&key, &kinds, &mut read).unwrap();
            }
            for ((array, _), column) in arrays.iter().zip(&mut read) {
                prop_assert_eq!(&column.take(), array);
            }
        }

        #[test]
        fn floats_are_ordered_in_keys_and_read_back(values in prop::collection::vec(prop::option::of(any::<f64>()), 2..6)) {
            let array: ArrayRef = Arc::new(Float64Array::from(values.clone()));
            let keys = keys(&[(array, Type::Float)]);
            for left in 0..values.len() {
                for right in 0..values.len() {
                    let expected = values[left].map(crate::column::ordered).cmp(&values[right].map(crate::column::ordered));
                    prop_assert_eq!(keys[left].cmp(&keys[right]), expected);
                }
            }
        }

        #[test]
        fn a_dictionary_gives_the_keys_of_its_texts(texts in prop::collection::vec(text(), 1..8), is_last: bool) {
            let dictionary: DictionaryArray<Int32Type> = texts.iter().map(Option::as_deref).collect();
            let plain: ArrayRef = Arc::new(StringArray::from(texts));
            let beside: ArrayRef = Arc::new(Int64Array::from(vec![7; plain.len()]));
            let with = |column: ArrayRef| {
                let mut columns = vec![(column, Type::Text)];
                if !is_last {
                    columns.push((beside.clone(), Type::Integer));
                }
                keys(&columns)
            };
            prop_assert_eq!(with(Arc::new(dictionary)), with(plain));
        }

        #[test]
        fn reading_any_bytes_as_a_key_ends(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            let kinds = [Type::Text, Type::Integer, Type::Decimal(0)];
            let mut columns = kinds.clone().map(Column::new);
            let _ = read_key(&bytes, &kinds, &mut columns);
        }
    }

    #[test]
    fn a_short_text_makes_a_short_key() {
        let batch = RecordBatch::try_from_iter([("customer", Arc::new(StringArray::from(vec!["C03965284-1c"])) as ArrayRef)]).unwrap();
        assert_eq!(keys(&[(batch.column(0).clone(), Type::Text)]), [b"C03965284-1c".to_vec()]);
    }
}
