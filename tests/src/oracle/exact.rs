//! Exact numbers: decimals as integers, and sums of floats that are rounded once.

use std::cmp::Ordering;

/// Limbs of 64 bits, enough for the sum of 2⁶⁴ numbers of any size in units of 2⁻¹⁰⁷⁴.
const LIMBS: usize = 35;

/// The sum of floats as Python's `math.fsum` has it: exact, and rounded to the nearest float only in the end.
#[derive(Clone)]
pub struct FloatSum {
    /// The sums of the positive and of the negative numbers, lowest limb first.
    sides: [[u64; LIMBS]; 2],
    count: u64,
}

impl Default for FloatSum {
    fn default() -> Self {
        Self { sides: [[0; LIMBS]; 2], count: 0 }
    }
}

impl FloatSum {
    /// Adds a finite number.
    pub fn add(&mut self, number: f64) {
        assert!(number.is_finite());
        let bits = number.to_bits();
        let (exponent, fraction) = (bits >> 52 & 0x7ff, bits & ((1 << 52) - 1));
        // A subnormal number has the exponent of the smallest normal ones and no leading bit.
        let (shift, mantissa) = if exponent == 0 { (0, fraction) } else { (exponent as usize - 1, fraction | 1 << 52) };
        let side = &mut self.sides[usize::from(number.is_sign_negative())];
        let wide = u128::from(mantissa) << (shift % 64);
        add_at(side, shift / 64, wide as u64);
        add_at(side, shift / 64 + 1, (wide >> 64) as u64);
        self.count += 1;
    }

    /// The sum, or nothing if nothing was added.
    pub fn sum(&self) -> Option<f64> {
        let [positive, negative] = &self.sides;
        let (sign, difference) = match positive.iter().rev().cmp(negative.iter().rev()) {
            Ordering::Less => (-1.0, subtract(negative, positive)),
            _ => (1.0, subtract(positive, negative)),
        };
        (self.count > 0).then(|| sign * nearest(&difference))
    }
}

fn add_at(side: &mut [u64; LIMBS], at: usize, limb: u64) {
    let (mut at, mut carry) = (at, limb);
    while carry > 0 {
        let (sum, overflows) = side[at].overflowing_add(carry);
        side[at] = sum;
        (at, carry) = (at + 1, u64::from(overflows));
    }
}

fn subtract(larger: &[u64; LIMBS], smaller: &[u64; LIMBS]) -> [u64; LIMBS] {
    let (mut difference, mut borrow) = ([0; LIMBS], false);
    for at in 0..LIMBS {
        let (without, one) = larger[at].overflowing_sub(smaller[at]);
        let (limb, two) = without.overflowing_sub(u64::from(borrow));
        (difference[at], borrow) = (limb, one || two);
    }
    difference
}

/// The float nearest to a number of units of 2⁻¹⁰⁷⁴, the even one of two that are.
fn nearest(units: &[u64; LIMBS]) -> f64 {
    let bit = |at: usize| units[at / 64] >> (at % 64) & 1;
    let Some(top) = (0..LIMBS * 64).rev().find(|at| bit(*at) == 1) else { return 0.0 };
    let lowest = top.saturating_sub(52);
    let mantissa = (lowest..=top).rev().fold(0, |mantissa, at| mantissa << 1 | bit(at));
    let is_half_or_more = lowest > 0 && bit(lowest - 1) == 1;
    let is_more = lowest > 1 && (0..lowest - 1).any(|at| bit(at) == 1);
    let up = is_half_or_more && (is_more || mantissa & 1 == 1);
    // Both factors are exact, and so is their product but where it overflows.
    let rounded = (mantissa + u64::from(up)) as f64;
    let half = lowest / 2;
    rounded * 2f64.powi(half as i32 - 537) * 2f64.powi((lowest - half) as i32 - 537)
}

/// `units` of 10^-`scale`, written with all digits behind the point.
pub fn decimal(units: i128, scale: usize) -> String {
    let digits = format!("{:0>width$}", units.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let sign = if units < 0 { "-" } else { "" };
    if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

/// The quotient, rounded to the nearest integer, the even one of two that are.
pub fn quotient_half_even(dividend: i128, divisor: i128) -> i128 {
    let (below, rest) = (dividend.div_euclid(divisor), dividend.rem_euclid(divisor));
    match (2 * rest).cmp(&divisor) {
        Ordering::Less => below,
        Ordering::Greater => below + 1,
        Ordering::Equal => below + (below & 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(numbers: &[f64]) -> f64 {
        let mut sum = FloatSum::default();
        numbers.iter().for_each(|number| sum.add(*number));
        sum.sum().unwrap()
    }

    /// The results are those of Python's `math.fsum`.
    #[test]
    fn float_sums_are_rounded_once() {
        assert_eq!(sum(&[0.1; 10]), 1.0);
        assert_eq!(sum(&[1e100, 1.0, -1e100]), 1.0);
        assert_eq!(sum(&[1e308, 1e308, -1e308]), 1e308);
        assert_eq!(sum(&[1.0, 2f64.powi(-53)]), 1.0);
        assert_eq!(sum(&[1.0, 2f64.powi(-53), 5e-324]), 1.0 + f64::EPSILON);
        assert_eq!(sum(&[5e-324, 5e-324]), 1e-323);
        assert_eq!(sum(&[-3.5, 1.25]), -2.25);
        assert_eq!(sum(&[2.2250738585072014e-308, -5e-324]), 2.225073858507201e-308);
    }

    #[test]
    fn quotients_are_rounded_half_to_even() {
        let quotients: Vec<i128> = [5, 15, 25, -5, -15, -25, 14, 16, -14, -16].map(|dividend| quotient_half_even(dividend, 10)).into();
        assert_eq!(quotients, [0, 2, 2, 0, -2, -2, 1, 2, -1, -2]);
        assert_eq!((decimal(-5, 2), decimal(1234, 3), decimal(7, 0)), ("-0.05".to_owned(), "1.234".to_owned(), "7".to_owned()));
    }
}
