//! Exact sums of doubles.
//!
//! Every finite double is an integer times 2^-1074, so a sum can be kept exactly and rounded once, at the end: the result is
//! the same for any order of the values. Owns the two forms of such a sum, small and wide; where they are kept, and when a
//! small one becomes a wide one, is decided in `state`.
//!
//! Infinities and NaN are remembered apart: a NaN, or infinities of both signs, give NaN, else an infinity wins. The sum of
//! nothing but zeros is +0. A sum beyond the largest double rounds to an infinity.

use std::ops::RangeInclusive;

/// 64-bit words of a wide sum: 2,098 bits of a double, 64 for 2⁶⁴ of them, the sign, rounded up.
pub(crate) const LIMBS: usize = 34;

/// The exponents of a finite double whose mantissa is an integer.
pub(crate) const EXPONENTS: RangeInclusive<i16> = LEAST_EXPONENT..=LEAST_EXPONENT + (LIMBS * 64) as i16;

const LEAST_EXPONENT: i16 = -1074;

/// A set of the special values seen.
pub(crate) type Specials = u8;

const PLUS_INFINITY: Specials = 1;
const MINUS_INFINITY: Specials = 2;
const NAN: Specials = 4;

/// What a sum is that met these special values; none where it met none.
pub(crate) fn of_specials(specials: Specials) -> Option<f64> {
    match specials {
        0 => None,
        PLUS_INFINITY => Some(f64::INFINITY),
        MINUS_INFINITY => Some(f64::NEG_INFINITY),
        _ => Some(f64::NAN),
    }
}

/// A finite number, mantissa · 2^exponent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Finite {
    pub(crate) mantissa: i128,
    pub(crate) exponent: i16,
}

impl Finite {
    pub(crate) const ZERO: Finite = Finite { mantissa: 0, exponent: 0 };

    /// `value` with an odd mantissa, or which special value it is.
    #[inline]
    pub(crate) fn of(value: f64) -> Result<Finite, Specials> {
        let bits = value.to_bits();
        let biased = (bits >> 52 & 0x7ff) as i16;
        let fraction = bits & ((1 << 52) - 1);
        if biased == 0x7ff {
            return Err(match (fraction, value > 0.0) {
                (0, true) => PLUS_INFINITY,
                (0, false) => MINUS_INFINITY,
                _ => NAN,
            });
        }
        let (magnitude, exponent) = if biased == 0 { (fraction, LEAST_EXPONENT) } else { (fraction | 1 << 52, biased - 1075) };
        if magnitude == 0 {
            return Ok(Finite::ZERO);
        }
        let zeros = magnitude.trailing_zeros();
        let magnitude = (magnitude >> zeros) as i64;
        let mantissa = if value < 0.0 { -magnitude } else { magnitude };
        Ok(Finite { mantissa: mantissa.into(), exponent: exponent + zeros as i16 })
    }

    /// The sum, if 128 bits can hold it.
    #[inline]
    pub(crate) fn plus(self, other: Finite) -> Option<Finite> {
        // A sum is soon in units as small as any that come.
        let by = i32::from(other.exponent) - i32::from(self.exponent);
        if (0..free_bits(other.mantissa) as i32).contains(&by)
            && let Some(mantissa) = self.mantissa.checked_add(other.mantissa << by)
        {
            return Some(Finite { mantissa, exponent: self.exponent });
        }
        let (high, low) = if self.exponent >= other.exponent { (self, other) } else { (other, self) };
        if high.mantissa == 0 {
            return Some(low);
        }
        if low.mantissa == 0 {
            return Some(high);
        }
        let by = (high.exponent - low.exponent) as u32;
        if by < free_bits(high.mantissa)
            && let Some(mantissa) = (high.mantissa << by).checked_add(low.mantissa)
        {
            return Some(Finite { mantissa, exponent: low.exponent });
        }
        // Zeros at the low end may be all that is in the way.
        let trimmed = low.odd();
        if trimmed == low { None } else { trimmed.plus(high) }
    }

    /// The same number with an odd mantissa: one number, one form.
    pub(crate) fn odd(self) -> Finite {
        if self.mantissa == 0 {
            return Finite::ZERO;
        }
        let zeros = self.mantissa.trailing_zeros();
        Finite { mantissa: self.mantissa >> zeros, exponent: self.exponent + zeros as i16 }
    }

    /// The nearest double, ties to even.
    pub(crate) fn round(self) -> f64 {
        round(self.mantissa < 0, self.mantissa.unsigned_abs(), self.exponent)
    }
}

/// By how much a number can be shifted to the left and keep its value.
fn free_bits(value: i128) -> u32 {
    (value ^ value >> 127).leading_zeros()
}

/// ± magnitude · 2^exponent as the nearest double; a lost bit below the magnitude is in its lowest bit already.
fn round(is_negative: bool, magnitude: u128, exponent: i16) -> f64 {
    if magnitude == 0 {
        return 0.0;
    }
    let bits = (128 - magnitude.leading_zeros()) as i32;
    // The exponent of the top bit decides how many bits are kept: 53, or fewer below the least normal number.
    let top = i32::from(exponent) + bits - 1;
    if top > 1023 {
        return if is_negative { f64::NEG_INFINITY } else { f64::INFINITY };
    }
    let kept = 53.min(top + 1075);
    let dropped = bits - kept;
    let (mantissa, exponent) = if dropped <= 0 {
        (magnitude as u64, i32::from(exponent))
    } else {
        let mantissa = (magnitude >> dropped) as u64;
        let rest = magnitude << (128 - dropped);
        let half = 1 << 127;
        let is_up = rest > half || rest == half && mantissa & 1 == 1;
        (mantissa + u64::from(is_up), i32::from(exponent) + dropped)
    };
    // Both factors and the product are doubles, so nothing is rounded a second time. In two steps, for 2^exponent may
    // itself be too small or too large; the second step is the one that meets the edge, if any does.
    let value = mantissa as f64 * power_of_two(exponent / 2) * power_of_two(exponent - exponent / 2);
    if is_negative { -value } else { value }
}

fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

/// By how many bits a number of this exponent is shifted in a wide sum.
pub(crate) fn shift_of(exponent: i16) -> usize {
    (exponent - LEAST_EXPONENT) as usize
}

/// Adds a number to a wide sum.
pub(crate) fn add_to_limbs(limbs: &mut [u64], value: Finite) {
    if value.mantissa == 0 {
        return;
    }
    let shift = shift_of(value.exponent);
    let (first, by) = (shift / 64, shift % 64);
    // 128 bits, shifted by less than 64: three limbs and then the sign.
    let low = (value.mantissa as u128) << by;
    let high = if by == 0 { value.mantissa >> 127 } else { value.mantissa >> (128 - by) } as u64;
    let sign = (value.mantissa >> 127) as u64;
    let parts = [low as u64, (low >> 64) as u64, high];
    let mut carry = false;
    for (index, limb) in limbs[first..].iter_mut().enumerate() {
        let part = parts.get(index).copied().unwrap_or(sign);
        (*limb, carry) = limb.carrying_add_(part, carry);
        if index >= parts.len() && carry == (sign != 0) {
            // From here on, adding the sign and the carry changes nothing.
            break;
        }
    }
}

/// Adds one wide sum to another.
pub(crate) fn add_limbs(limbs: &mut [u64], other: &[u64]) {
    let mut carry = false;
    for (limb, &part) in limbs.iter_mut().zip(other) {
        (*limb, carry) = limb.carrying_add_(part, carry);
    }
}

trait CarryingAdd: Sized {
    fn carrying_add_(self, other: Self, carry: bool) -> (Self, bool);
}

impl CarryingAdd for u64 {
    fn carrying_add_(self, other: u64, carry: bool) -> (u64, bool) {
        let (sum, first) = self.overflowing_add(other);
        let (sum, second) = sum.overflowing_add(carry.into());
        (sum, first || second)
    }
}

/// The nearest double of a wide sum.
pub(crate) fn round_limbs(limbs: &[u64]) -> f64 {
    let is_negative = limbs[LIMBS - 1] >> 63 == 1;
    let magnitude = magnitude_of(limbs);
    let Some(top) = magnitude.iter().rposition(|&limb| limb != 0) else { return 0.0 };
    let base = top.saturating_sub(2);
    // The top 128 bits of up to 192, and whether anything lies below them.
    let limb = |index: usize| if index <= top { u128::from(magnitude[index]) } else { 0 };
    let wide = (limb(base + 2), limb(base) | limb(base + 1) << 64);
    let excess = 64 - (wide.0 as u64).leading_zeros();
    let (kept, lost) = if excess == 0 { (wide.1, 0) } else { (wide.0 << (128 - excess) | wide.1 >> excess, wide.1 << (128 - excess)) };
    let is_inexact = lost != 0 || magnitude[..base].iter().any(|&limb| limb != 0);
    round(is_negative, kept | u128::from(is_inexact), LEAST_EXPONENT + (base * 64) as i16 + excess as i16)
}

fn magnitude_of(limbs: &[u64]) -> [u64; LIMBS] {
    let is_negative = limbs[LIMBS - 1] >> 63 == 1;
    let mut magnitude = [0; LIMBS];
    let mut carry = is_negative;
    for (target, &limb) in magnitude.iter_mut().zip(limbs) {
        (*target, carry) = (if is_negative { !limb } else { limb }).carrying_add_(0, carry);
    }
    magnitude
}

/// A wide sum as an odd mantissa and its exponent; zero has none.
pub(crate) fn odd_limbs(limbs: &[u64]) -> ([u64; LIMBS], i16) {
    let Some(first) = limbs.iter().position(|&limb| limb != 0) else { return ([0; LIMBS], 0) };
    let by = limbs[first].trailing_zeros();
    let fill = (limbs[LIMBS - 1] as i64 >> 63) as u64;
    let limb = |index: usize| limbs.get(index).copied().unwrap_or(fill);
    let shifted = std::array::from_fn(|index| {
        let (low, high) = (limb(first + index), limb(first + index + 1));
        if by == 0 { low } else { low >> by | high << (64 - by) }
    });
    (shifted, LEAST_EXPONENT + (first * 64) as i16 + by as i16)
}

/// Shifts a wide sum to the left; bits that leave at the top are lost.
pub(crate) fn shift_left(limbs: &mut [u64; LIMBS], shift: usize) {
    let (skip, by) = (shift / 64, shift % 64);
    for index in (0..LIMBS).rev() {
        let limb = |offset: usize| index.checked_sub(offset).map_or(0, |index| limbs[index]);
        let (high, low) = (limb(skip), limb(skip + 1));
        limbs[index] = if by == 0 { high } else { high << by | low >> (64 - by) };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Doubles of every magnitude: all bit patterns, and ones near each other that cancel.
    pub(crate) fn finite() -> impl Strategy<Value = f64> {
        prop_oneof![
            any::<u64>().prop_map(f64::from_bits).prop_filter("finite", |value| value.is_finite()),
            -1e6..1e6,
            Just(f64::MIN_POSITIVE),
            Just(f64::MAX),
            Just(-f64::MAX),
            (0..100u64).prop_map(f64::from_bits),
        ]
    }

    #[test]
    fn the_power_of_two_of_halves_reaches_both_ends() {
        assert_eq!(Finite { mantissa: 1, exponent: -1074 }.round(), f64::from_bits(1));
        assert_eq!(Finite { mantissa: (1 << 53) - 1, exponent: 971 }.round(), f64::MAX);
        assert_eq!(Finite { mantissa: (1 << 54) - 1, exponent: 970 }.round(), f64::INFINITY);
        assert_eq!(Finite { mantissa: -1, exponent: 1024 }.round(), f64::NEG_INFINITY);
    }

    #[test]
    fn a_tie_goes_to_the_even_neighbour() {
        let tie = |mantissa: i128| Finite { mantissa, exponent: 0 }.round();
        assert_eq!(tie((1 << 53) + 1), (1u64 << 53) as f64);
        assert_eq!(tie((1 << 53) + 3), ((1u64 << 53) + 4) as f64);
        assert_eq!(tie((1 << 54) + 2 + 1), ((1u64 << 54) + 4) as f64);
    }

    proptest! {
        #[test]
        fn a_double_is_its_own_sum(value in finite()) {
            let exact = Finite::of(value).unwrap();
            prop_assert_eq!(exact.round(), value);
            let mut limbs = [0; LIMBS];
            add_to_limbs(&mut limbs, exact);
            prop_assert_eq!(round_limbs(&limbs), value);
        }

        #[test]
        fn two_doubles_sum_as_the_processor_sums_them(left in finite(), right in finite()) {
            let (left_exact, right_exact) = (Finite::of(left).unwrap(), Finite::of(right).unwrap());
            let mut limbs = [0; LIMBS];
            add_to_limbs(&mut limbs, left_exact);
            add_to_limbs(&mut limbs, right_exact);
            prop_assert_eq!(round_limbs(&limbs), left + right);
            if let Some(sum) = left_exact.plus(right_exact) {
                prop_assert_eq!(sum.round(), left + right);
            }
        }

        #[test]
        fn an_odd_mantissa_shifts_back(values in prop::collection::vec(finite(), 1..20)) {
            let mut limbs = [0; LIMBS];
            for value in values {
                add_to_limbs(&mut limbs, Finite::of(value).unwrap());
            }
            let (mut odd, exponent) = odd_limbs(&limbs);
            if odd != [0; LIMBS] {
                prop_assert_eq!(odd[0] & 1, 1);
                shift_left(&mut odd, shift_of(exponent));
            }
            prop_assert_eq!(odd, limbs);
        }
    }
}
