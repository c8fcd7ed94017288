//! Arithmetic on exact numbers: 64-bit integers and decimals of up to 38 digits.
//!
//! Owns the rules: what the scale of a result is, when a result overflows, how a quotient is rounded. It knows arrays of
//! plain numbers, and nothing of expressions.
//!
//! | operation | scale of the result |
//! |---|---|
//! | a + b, a − b, a % b | the larger of the two |
//! | a · b | the sum of the two |
//! | a / b, avg(a) | the larger of the two + 6, at most 38; rounded half-even |
//!
//! Integers stay integers under + − · %, and a quotient of integers is a decimal of scale 6. Nothing wraps around and nothing
//! is cut off: what does not fit is an error, and so is division by zero. A null on either side gives null and no error.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, Int64Array};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Decimal128Type, Int64Type, i256};

/// Digits of a decimal, and the largest scale.
pub(crate) const DIGITS: u8 = 38;
/// Digits a quotient gains.
pub(crate) const QUOTIENT_DIGITS: u8 = 6;

/// 10^38: decimals lie strictly within.
const LIMIT: u128 = 10u128.pow(DIGITS as u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

/// Why a row has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Overflow,
    DivisionByZero,
}

/// A failure and the row it is in.
pub(crate) type Failed = (Failure, usize);

/// The scale of a result; none where it would pass 38.
pub(crate) fn scale_of(operator: Operator, left: u8, right: u8) -> Option<u8> {
    let scale = match operator {
        Operator::Add | Operator::Subtract | Operator::Remainder => left.max(right),
        Operator::Multiply => left + right,
        Operator::Divide => quotient_scale(left.max(right)),
    };
    (scale <= DIGITS).then_some(scale)
}

/// The scale of a quotient of numbers of this scale.
pub(crate) fn quotient_scale(scale: u8) -> u8 {
    (scale + QUOTIENT_DIGITS).min(DIGITS)
}

pub(crate) fn decimal(scale: u8) -> DataType {
    DataType::Decimal128(DIGITS, scale as i8)
}

/// `value` if it is a decimal of at most 38 digits.
pub(crate) fn checked(value: i128) -> Option<i128> {
    (value.unsigned_abs() < LIMIT).then_some(value)
}

/// 10^exponent, below 2^128.
pub(crate) fn power_of_ten(exponent: u8) -> i128 {
    10i128.pow(exponent.into())
}

/// numerator · 10^shift / denominator, half-even; none where it passes 38 digits. The denominator is not zero.
pub(crate) fn quotient(numerator: i128, shift: u8, denominator: i128) -> Option<i128> {
    if shift <= DIGITS
        && let Some(scaled) = numerator.checked_mul(power_of_ten(shift))
    {
        let (whole, rest) = (scaled / denominator, scaled % denominator);
        // |rest| against half of |denominator|, without doubling, which might overflow.
        let half = rest.unsigned_abs().cmp(&(denominator.unsigned_abs() - rest.unsigned_abs()));
        let is_negative = (scaled < 0) != (denominator < 0);
        return checked(round_half_even(whole, half, is_negative));
    }
    // Where 256 bits are not enough either, the quotient is beyond 38 digits: 2^255 / 10^38 is.
    let scaled = i256::from_i128(numerator).checked_mul(i256::from_i128(10).checked_pow(shift.into())?)?;
    let denominator = i256::from_i128(denominator);
    let (whole, rest) = scaled.checked_div_rem(denominator)?;
    let (rest, of) = (rest.wrapping_abs(), denominator.wrapping_abs());
    let is_negative = scaled.is_negative() != denominator.is_negative();
    let half = rest.cmp(&of.wrapping_sub(rest));
    checked(round_half_even(whole.to_i128()?, half, is_negative))
}

/// Rounds a truncated quotient, told how what was cut off compares with a half.
fn round_half_even(whole: i128, half: Ordering, is_negative: bool) -> i128 {
    let is_away = half == Ordering::Greater || half == Ordering::Equal && whole & 1 == 1;
    match (is_away, is_negative) {
        (false, _) => whole,
        (true, false) => whole + 1,
        (true, true) => whole - 1,
    }
}

/// Numbers of one side of an operation, as 128-bit integers.
trait Lane {
    fn at(&self, row: usize) -> i128;
}

impl Lane for &[i64] {
    #[inline]
    fn at(&self, row: usize) -> i128 {
        self[row].into()
    }
}

impl Lane for &[i128] {
    #[inline]
    fn at(&self, row: usize) -> i128 {
        self[row]
    }
}

/// The same number in every row.
impl Lane for i128 {
    #[inline]
    fn at(&self, _: usize) -> i128 {
        *self
    }
}

/// One side of an operation: a column, or the only element of a constant.
pub(crate) struct Side<'a> {
    pub(crate) array: &'a dyn Array,
    pub(crate) scale: u8,
    pub(crate) is_constant: bool,
}

impl Side<'_> {
    fn constant(&self) -> Option<i128> {
        self.is_constant.then(|| match self.array.as_primitive_opt::<Int64Type>() {
            Some(array) => array.value(0).into(),
            None => self.array.as_primitive::<Decimal128Type>().value(0),
        })
    }

    fn is_null_constant(&self) -> bool {
        self.is_constant && self.array.is_null(0)
    }
}

/// Binds `$lane` to the numbers of a side, each in its own type, so that the loop over them is compiled for each.
macro_rules! with_lane {
    ($side:expr, |$lane:ident| $body:expr) => {
        if let Some($lane) = $side.constant() {
            $body
        } else if let Some(array) = $side.array.as_primitive_opt::<Int64Type>() {
            let $lane: &[i64] = array.values();
            $body
        } else {
            let $lane: &[i128] = $side.array.as_primitive::<Decimal128Type>().values();
            $body
        }
    };
}

/// Computes `left operator right` over `rows` rows, as a decimal of the scale that `scale_of` gives.
pub(crate) fn decimals(operator: Operator, left: &Side<'_>, right: &Side<'_>, rows: usize) -> Result<ArrayRef, Failed> {
    let scale = scale_of(operator, left.scale, right.scale).expect("asked when the expression was typed");
    if left.is_null_constant() || right.is_null_constant() {
        return Ok(Arc::new(Decimal128Array::new_null(rows).with_data_type(decimal(scale))));
    }
    let nulls = NullBuffer::union(left.array.nulls().filter(|_| !left.is_constant), right.array.nulls().filter(|_| !right.is_constant));
    let (grow_left, grow_right) = (power_of_ten(scale.saturating_sub(left.scale)), power_of_ten(scale.saturating_sub(right.scale)));
    let overflow = |value: Option<i128>| value.and_then(checked).ok_or(Failure::Overflow);
    let grown = |value: i128, by: i128| if by == 1 { Some(value) } else { value.checked_mul(by) };
    let values = with_lane!(left, |l| with_lane!(right, |r| match operator {
        Operator::Add => compute(rows, &nulls, |row| overflow(
            grown(l.at(row), grow_left).zip(grown(r.at(row), grow_right)).and_then(|(l, r)| l.checked_add(r))
        )),
        Operator::Subtract => compute(rows, &nulls, |row| overflow(
            grown(l.at(row), grow_left).zip(grown(r.at(row), grow_right)).and_then(|(l, r)| l.checked_sub(r))
        )),
        Operator::Multiply => compute(rows, &nulls, |row| product(l.at(row), r.at(row)).ok_or(Failure::Overflow)),
        Operator::Divide => {
            let shift = scale + right.scale - left.scale;
            compute(rows, &nulls, |row| match r.at(row) {
                0 => Err(Failure::DivisionByZero),
                divisor => quotient(l.at(row), shift, divisor).ok_or(Failure::Overflow),
            })
        }
        Operator::Remainder => compute(rows, &nulls, |row| match r.at(row) {
            0 => Err(Failure::DivisionByZero),
            divisor => overflow(grown(l.at(row), grow_left).zip(grown(divisor, grow_right)).map(|(l, r)| l.wrapping_rem(r))),
        }),
    }))?;
    Ok(Arc::new(Decimal128Array::new(values.into(), nulls).with_data_type(decimal(scale))))
}

/// The product of two decimals. Those of 64 bits, nearly all, cannot overflow.
#[inline]
fn product(left: i128, right: i128) -> Option<i128> {
    let (short_left, short_right) = (left as i64, right as i64);
    if i128::from(short_left) == left && i128::from(short_right) == right {
        return Some(i128::from(short_left) * i128::from(short_right));
    }
    left.checked_mul(right).and_then(checked)
}

/// Computes every row that is not null.
fn compute<T: Default, F: Fn(usize) -> Result<T, Failure>>(
    rows: usize,
    nulls: &Option<NullBuffer>,
    operation: F,
) -> Result<Vec<T>, Failed> {
    let mut values = Vec::with_capacity(rows);
    for row in 0..rows {
        match operation(row) {
            Ok(value) => values.push(value),
            // What lies under a null is anything.
            Err(_) if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) => values.push(T::default()),
            Err(failure) => return Err((failure, row)),
        }
    }
    Ok(values)
}

/// Computes `left operator right` on integers, as integers; not for division.
pub(crate) fn integers(operator: Operator, left: &Side<'_>, right: &Side<'_>, rows: usize) -> Result<ArrayRef, Failed> {
    if left.is_null_constant() || right.is_null_constant() {
        return Ok(Arc::new(Int64Array::new_null(rows)));
    }
    let nulls = NullBuffer::union(left.array.nulls().filter(|_| !left.is_constant), right.array.nulls().filter(|_| !right.is_constant));
    let values = match operator {
        Operator::Add => integer_rows(left, right, rows, &nulls, |l, r| l.checked_add(r).ok_or(Failure::Overflow)),
        Operator::Subtract => integer_rows(left, right, rows, &nulls, |l, r| l.checked_sub(r).ok_or(Failure::Overflow)),
        Operator::Multiply => integer_rows(left, right, rows, &nulls, |l, r| l.checked_mul(r).ok_or(Failure::Overflow)),
        Operator::Remainder => {
            integer_rows(left, right, rows, &nulls, |l, r| if r == 0 { Err(Failure::DivisionByZero) } else { Ok(l.wrapping_rem(r)) })
        }
        Operator::Divide => unreachable!("a quotient is a decimal"),
    }?;
    Ok(Arc::new(Int64Array::new(values.into(), nulls)))
}

fn integer_rows(
    left: &Side<'_>,
    right: &Side<'_>,
    rows: usize,
    nulls: &Option<NullBuffer>,
    operation: impl Fn(i64, i64) -> Result<i64, Failure>,
) -> Result<Vec<i64>, Failed> {
    let (l, r): (&[i64], &[i64]) = (left.array.as_primitive::<Int64Type>().values(), right.array.as_primitive::<Int64Type>().values());
    match (left.is_constant, right.is_constant) {
        (false, false) => compute(rows, nulls, |row| operation(l[row], r[row])),
        (false, true) => compute(rows, nulls, |row| operation(l[row], r[0])),
        (true, false) => compute(rows, nulls, |row| operation(l[0], r[row])),
        (true, true) => compute(rows, nulls, |_| operation(l[0], r[0])),
    }
}

/// Integers or decimals as decimals of `scale`, rounded half-even where digits are lost.
pub(crate) fn rescaled(array: &dyn Array, from: u8, to: u8) -> Result<ArrayRef, Failed> {
    let nulls = array.nulls().cloned();
    let side = Side { array, scale: from, is_constant: false };
    let values = with_lane!(side, |lane| match to.cmp(&from) {
        Ordering::Equal => compute(array.len(), &nulls, |row| Ok(lane.at(row))),
        Ordering::Greater => {
            let by = power_of_ten(to - from);
            compute(array.len(), &nulls, |row| lane.at(row).checked_mul(by).and_then(checked).ok_or(Failure::Overflow))
        }
        Ordering::Less => {
            let by = power_of_ten(from - to);
            compute(array.len(), &nulls, |row| quotient(lane.at(row), 0, by).ok_or(Failure::Overflow))
        }
    })?;
    Ok(Arc::new(Decimal128Array::new(values.into(), nulls).with_data_type(decimal(to))))
}

/// Integers or decimals as numbers of a larger scale, to be compared with decimals of that scale only.
///
/// What would overflow stands at the end of the range, which no decimal reaches, so it still compares as it should.
pub(crate) fn rescaled_to_compare(array: &dyn Array, from: u8, to: u8) -> ArrayRef {
    let nulls = array.nulls().cloned();
    let by = power_of_ten(to - from);
    let side = Side { array, scale: from, is_constant: false };
    let values: Vec<i128> = with_lane!(side, |lane| (0..array.len()).map(|row| lane.at(row).saturating_mul(by)).collect());
    Arc::new(Decimal128Array::new(values.into(), nulls).with_data_type(decimal(to)))
}

/// Decimals as integers, rounded half-even.
pub(crate) fn to_integers(array: &dyn Array, scale: u8) -> Result<ArrayRef, Failed> {
    let whole = rescaled(array, scale, 0)?;
    let whole = whole.as_primitive::<Decimal128Type>();
    let nulls = whole.nulls().cloned();
    let values = compute(whole.len(), &nulls, |row| i64::try_from(whole.value(row)).map_err(|_| Failure::Overflow))?;
    Ok(Arc::new(Int64Array::new(values.into(), nulls)))
}

/// −x, of integers or decimals.
pub(crate) fn negated(array: &dyn Array) -> Result<ArrayRef, Failed> {
    let nulls = array.nulls().cloned();
    let rows = array.len();
    if let Some(integers) = array.as_primitive_opt::<Int64Type>() {
        let values = compute(rows, &nulls, |row| integers.value(row).checked_neg().ok_or(Failure::Overflow))?;
        return Ok(Arc::new(Int64Array::new(values.into(), nulls)));
    }
    let decimals = array.as_primitive::<Decimal128Type>();
    let values = decimals.values().iter().map(|value| value.wrapping_neg()).collect::<Vec<_>>();
    Ok(Arc::new(Decimal128Array::new(values.into(), nulls).with_data_type(array.data_type().clone())))
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::i256;
    use proptest::prelude::*;

    use super::*;

    fn within(digits: u32) -> impl Strategy<Value = i128> {
        (0..=digits, any::<i128>()).prop_map(|(digits, value)| value % 10i128.pow(digits).max(2))
    }

    #[test]
    fn half_a_unit_goes_to_the_even_neighbour() {
        for (numerator, expected) in [(5, 2), (15, 8), (25, 12), (-5, -2), (-15, -8), (26, 13), (-27, -14)] {
            assert_eq!(quotient(numerator, 0, 2), Some(expected), "{numerator} / 2");
            assert_eq!(quotient(-numerator, 0, -2), Some(expected));
        }
    }

    proptest! {
        // |n · 10^s − q · d| · 2 ≤ |d|, with equality only for an even q.
        #[test]
        fn a_quotient_is_the_nearest_one(numerator in within(38), shift in 0u8..=38, denominator in within(38)) {
            prop_assume!(denominator != 0);
            let scaled = i256::from_i128(numerator).checked_mul(i256::from_i128(power_of_ten(shift)));
            let Some(scaled) = scaled else { return Ok(()) };
            match quotient(numerator, shift, denominator) {
                Some(found) => {
                    let product = i256::from_i128(found).wrapping_mul(i256::from_i128(denominator));
                    let twice = scaled.wrapping_sub(product).wrapping_abs().wrapping_mul(i256::from_i128(2));
                    let of = i256::from_i128(denominator).wrapping_abs();
                    prop_assert!(twice < of || twice == of && found % 2 == 0);
                }
                None => {
                    let whole = scaled.wrapping_div(i256::from_i128(denominator)).wrapping_abs();
                    prop_assert!(whole >= i256::from_i128(LIMIT as i128 - 1));
                }
            }
        }

        #[test]
        fn a_product_is_exact_or_overflows(left in within(38), right in within(38)) {
            let exact = i256::from_i128(left).wrapping_mul(i256::from_i128(right));
            prop_assert_eq!(product(left, right), exact.to_i128().and_then(checked));
        }
    }
}
