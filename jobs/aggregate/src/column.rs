//! Columns of the output while they grow: one value at a time, no allocation for any of them.
//!
//! Also owns how values of every plain type are numbers: in keys, in states and here, truth values, dates, timestamps and
//! floats are integers in the same order.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, BooleanBufferBuilder, Date32Array, Decimal128Array, Float64Array, Int64Array, NullBufferBuilder,
    PrimitiveArray, StringArray,
};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    Date32Type, Decimal128Type, Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};

use crate::evaluate::canonical;
use crate::expression::Type;

/// A double as an integer in the same order; one integer for both zeros, one for all NaNs.
pub(crate) fn ordered(float: f64) -> i64 {
    let bits = canonical(float).to_bits() as i64;
    bits ^ ((bits >> 63) as u64 >> 1) as i64
}

fn float_of(ordered: i64) -> f64 {
    f64::from_bits((ordered ^ ((ordered >> 63) as u64 >> 1) as i64) as u64)
}

/// The values of a column as integers in the same order.
#[derive(Clone, Debug)]
pub(crate) enum Numbers {
    Short(ScalarBuffer<i64>),
    Long(ScalarBuffer<i128>),
}

/// The numbers of an array of this type; none for text.
pub(crate) fn numbers(array: &ArrayRef, kind: &Type) -> Option<Numbers> {
    Some(Numbers::Short(match kind {
        Type::Text | Type::Null => return None,
        Type::Integer => array.as_primitive::<Int64Type>().values().clone(),
        Type::Decimal(_) => return Some(Numbers::Long(array.as_primitive::<Decimal128Type>().values().clone())),
        Type::Boolean => array.as_boolean().values().iter().map(i64::from).collect(),
        Type::Date => array.as_primitive::<Date32Type>().values().iter().map(|&day| i64::from(day)).collect(),
        Type::Float => array.as_primitive::<Float64Type>().values().iter().map(|&float| ordered(float)).collect(),
        Type::Timestamp(unit, _) => match unit {
            TimeUnit::Second => array.as_primitive::<TimestampSecondType>().values().clone(),
            TimeUnit::Millisecond => array.as_primitive::<TimestampMillisecondType>().values().clone(),
            TimeUnit::Microsecond => array.as_primitive::<TimestampMicrosecondType>().values().clone(),
            TimeUnit::Nanosecond => array.as_primitive::<TimestampNanosecondType>().values().clone(),
        },
    }))
}

/// A column under construction.
pub(crate) struct Column {
    kind: Type,
    values: Values,
    nulls: NullBufferBuilder,
}

enum Values {
    Truths(BooleanBufferBuilder),
    Days(Vec<i32>),
    Short(Vec<i64>),
    Long(Vec<i128>),
    Floats(Vec<f64>),
    Texts { ends: Vec<i32>, bytes: Vec<u8> },
}

impl Values {
    /// Room for so many values, and for so many bytes of text.
    fn with_capacity(kind: &Type, count: usize, bytes: usize) -> Self {
        match kind {
            Type::Boolean => Values::Truths(BooleanBufferBuilder::new(count)),
            Type::Date => Values::Days(Vec::with_capacity(count)),
            Type::Integer | Type::Timestamp(..) => Values::Short(Vec::with_capacity(count)),
            Type::Decimal(_) => Values::Long(Vec::with_capacity(count)),
            Type::Float => Values::Floats(Vec::with_capacity(count)),
            Type::Text | Type::Null => {
                let mut ends = Vec::with_capacity(count + 1);
                ends.push(0);
                Values::Texts { ends, bytes: Vec::with_capacity(bytes) }
            }
        }
    }
}

impl Column {
    pub(crate) fn new(kind: Type) -> Self {
        Self { values: Values::with_capacity(&kind, 0, 0), kind, nulls: NullBufferBuilder::new(0) }
    }

    pub(crate) fn push_null(&mut self) {
        self.nulls.append_null();
        match &mut self.values {
            Values::Truths(values) => values.append(false),
            Values::Days(values) => values.push(0),
            Values::Short(values) => values.push(0),
            Values::Long(values) => values.push(0),
            Values::Floats(values) => values.push(0.0),
            Values::Texts { ends, bytes } => ends.push(bytes.len() as i32),
        }
    }

    /// Adds the value that `number` stands for, one of those that `numbers` makes.
    pub(crate) fn push_number(&mut self, number: i128) {
        self.nulls.append_non_null();
        match &mut self.values {
            Values::Truths(values) => values.append(number != 0),
            Values::Days(values) => values.push(number as i32),
            Values::Short(values) => values.push(number as i64),
            Values::Long(values) => values.push(number),
            Values::Floats(values) => values.push(float_of(number as i64)),
            Values::Texts { .. } => unreachable!("text is no number"),
        }
    }

    pub(crate) fn push_float(&mut self, float: f64) {
        self.nulls.append_non_null();
        match &mut self.values {
            Values::Floats(values) => values.push(float),
            _ => unreachable!("not a column of floats"),
        }
    }

    /// Adds a text, written by `write` at the end of what it is given.
    pub(crate) fn push_text(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.nulls.append_non_null();
        match &mut self.values {
            Values::Texts { ends, bytes } => {
                write(bytes);
                ends.push(bytes.len() as i32);
            }
            _ => unreachable!("not a column of text"),
        }
    }

    /// Bytes of text held; a column holds less than 2 GiB of them.
    pub(crate) fn text_bytes(&self) -> usize {
        match &self.values {
            Values::Texts { bytes, .. } => bytes.len(),
            _ => 0,
        }
    }

    /// The values so far as an array; the column is empty again, with room for as many.
    pub(crate) fn take(&mut self) -> ArrayRef {
        let bytes = self.text_bytes();
        let next = Values::with_capacity(&self.kind, self.nulls.len(), bytes + bytes / 8);
        let nulls = self.nulls.finish();
        match std::mem::replace(&mut self.values, next) {
            Values::Truths(mut values) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            Values::Days(values) => Arc::new(Date32Array::new(values.into(), nulls)),
            Values::Long(values) => Arc::new(Decimal128Array::new(values.into(), nulls).with_data_type(self.kind.arrow())),
            Values::Floats(values) => Arc::new(Float64Array::new(values.into(), nulls)),
            Values::Texts { ends, bytes } => {
                // Keys and states hold what arrays of text held, so this check is for a job that hands in other bytes.
                let array = StringArray::try_new(OffsetBuffer::new(ends.into()), Buffer::from_vec(bytes), nulls);
                Arc::new(array.expect("texts come from text"))
            }
            Values::Short(values) => match &self.kind {
                Type::Timestamp(unit, zone) => {
                    macro_rules! timestamps {
                        ($unit:ty) => {
                            Arc::new(PrimitiveArray::<$unit>::new(values.into(), nulls).with_timezone_opt(zone.clone()))
                        };
                    }
                    match unit {
                        TimeUnit::Second => timestamps!(TimestampSecondType),
                        TimeUnit::Millisecond => timestamps!(TimestampMillisecondType),
                        TimeUnit::Microsecond => timestamps!(TimestampMicrosecondType),
                        TimeUnit::Nanosecond => timestamps!(TimestampNanosecondType),
                    }
                }
                _ => Arc::new(Int64Array::new(values.into(), nulls)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn floats_are_ordered_as_numbers_are(left: f64, right: f64) {
            let expected = match (left.is_nan(), right.is_nan()) {
                (false, false) => left.partial_cmp(&right).unwrap(),
                (left, right) => left.cmp(&right),
            };
            prop_assert_eq!(ordered(left).cmp(&ordered(right)), expected);
            prop_assert!(left.is_nan() || float_of(ordered(left)) == left);
        }
    }
}
