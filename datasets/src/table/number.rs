//! The text of one CSV field as a value: whole numbers, decimals, floats, booleans, dates and times.
//!
//! Owns the grammar of each type, exactly: what is accepted here is all that a column of that type may hold, and a value
//! that the type cannot hold exactly is refused, never rounded (floats excepted, which are the nearest double). Which type a
//! column has is decided in `infer.rs`; what becomes of a refused value in `csv.rs`.
//!
//! ```text
//!   int        [+-] digits                              i64
//!   decimal    [+-] digits [. digits] | [+-] . digits   exact; zeros behind the scale are fine, other digits are not
//!   float      what Rust reads: decimals, exponents, inf, nan
//!   bool       true | false, also True and TRUE
//!   date       YYYY-MM-DD                               of the proleptic Gregorian calendar
//!   timestamp  date [(T| )HH:MM:SS[.f]]                 up to six digits of a second, no zone; a date alone is its midnight
//! ```
//!
//! Whole numbers and decimals of up to eight bytes, which is nearly all of them, are converted in one register, without a loop and
//! without a branch on their length: the digits are shifted to the top of the word, so that what was in front becomes zeros.

/// The value of `length` decimal digits (1 to 8), the first of which is the lowest byte of `word`. Bytes behind them may be anything.
#[inline(always)]
pub(crate) fn short_digits(word: u64, length: usize) -> Option<u64> {
    debug_assert!((1..=8).contains(&length));
    let digits = (word ^ 0x3030_3030_3030_3030) << (64 - 8 * length);
    // A byte above 9 either has its high half set already or gets it by adding 6.
    if (digits | digits.wrapping_add(0x0606_0606_0606_0606)) & 0xF0F0_F0F0_F0F0_F0F0 != 0 {
        return None;
    }
    // Neighbours are joined: digits to pairs, pairs to fours, fours to eight.
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let low = (pairs & 0x0000_00FF_0000_00FF).wrapping_mul(0x000F_4240_0000_0064);
    let high = (pairs >> 16 & 0x0000_00FF_0000_00FF).wrapping_mul(0x0000_2710_0000_0001);
    Some(low.wrapping_add(high) >> 32)
}

/// Takes a minus sign off the front of a short number.
#[inline(always)]
fn short_sign(word: u64, length: usize) -> (i64, u64, usize) {
    let minus = u64::from(word as u8 == b'-');
    (-(minus as i64), word >> (8 * minus), length - minus as usize)
}

/// A whole number of 1 to 8 bytes, if it is a plain one; `None` says nothing but that [`int`] has to look.
#[inline(always)]
pub(crate) fn short_int(word: u64, length: usize) -> Option<i64> {
    let (sign, word, length) = short_sign(word, length);
    if length == 0 {
        return None;
    }
    Some((short_digits(word, length)? as i64 ^ sign) - sign)
}

/// A decimal of 1 to 8 bytes with exactly `scale` digits behind its point, in units of 10^-scale, if it is a plain one; `None` says
/// nothing but that [`decimal`] has to look.
#[inline(always)]
pub(crate) fn short_decimal(word: u64, length: usize, scale: u32) -> Option<i64> {
    if scale == 0 {
        return short_int(word, length);
    }
    let (sign, word, length) = short_sign(word, length);
    let point = length.checked_sub(1 + scale as usize)?;
    if (word >> (8 * point)) as u8 != b'.' {
        return None;
    }
    // The digits behind the point move up to those in front of it.
    let whole = (1 << (8 * point)) - 1;
    let digits = word & whole | word >> 8 & !whole;
    Some((short_digits(digits, length - 1)? as i64 ^ sign) - sign)
}

/// A whole number that fits 64 bits.
pub(crate) fn int(text: &[u8]) -> Option<i64> {
    let (negative, digits) = sign(text);
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0i64, |value, &byte| {
        let digit = i64::from(digit(byte)?);
        let tenfold = value.checked_mul(10)?;
        // Counted downwards where negative: i64::MIN has no positive twin.
        if negative { tenfold.checked_sub(digit) } else { tenfold.checked_add(digit) }
    })
}

/// A decimal in units of 10^-scale; refused when it does not fit `precision` digits or has more decimals than `scale`.
pub(crate) fn decimal(text: &[u8], precision: u8, scale: u32) -> Option<i128> {
    let (negative, digits) = sign(text);
    let (whole, fraction) = match memchr::memchr(b'.', digits) {
        Some(point) => (&digits[..point], &digits[point + 1..]),
        None => (digits, &[][..]),
    };
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let (fraction, beyond) = fraction.split_at(fraction.len().min(scale as usize));
    if beyond.iter().any(|&byte| byte != b'0') {
        return None;
    }
    let missing = std::iter::repeat_n(&b'0', scale as usize - fraction.len());
    let magnitude = whole
        .iter()
        .chain(fraction)
        .chain(missing)
        .try_fold(0i128, |value, &byte| value.checked_mul(10)?.checked_add(i128::from(digit(byte)?)))?;
    let fits = magnitude < 10i128.pow(u32::from(precision));
    fits.then_some(if negative { -magnitude } else { magnitude })
}

/// The nearest double.
pub(crate) fn float(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A truth value.
pub(crate) fn boolean(text: &[u8]) -> Option<bool> {
    match text {
        b"true" | b"True" | b"TRUE" => Some(true),
        b"false" | b"False" | b"FALSE" => Some(false),
        _ => None,
    }
}

/// Days since 1970-01-01.
pub(crate) fn date(text: &[u8]) -> Option<i32> {
    let &[y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1] = text else { return None };
    let year = two(y0, y1)? * 100 + two(y2, y3)?;
    days_since_epoch(year, two(m0, m1)?, two(d0, d1)?)
}

/// Microseconds since 1970-01-01 00:00:00, whatever the zone.
pub(crate) fn timestamp(text: &[u8]) -> Option<i64> {
    let (day, time) = text.split_at_checked(10)?;
    let midnight = i64::from(date(day)?) * 86_400_000_000;
    if time.is_empty() {
        return Some(midnight);
    }
    let (&[b' ' | b'T', h0, h1, b':', m0, m1, b':', s0, s1], fraction) = time.split_first_chunk()? else { return None };
    let (hours, minutes, seconds) = (two(h0, h1)?, two(m0, m1)?, two(s0, s1)?);
    if hours > 23 || minutes > 59 || seconds > 59 {
        return None;
    }
    let micros = match fraction {
        [] => 0,
        [b'.', _, ..] => decimal(fraction, 6, 6)?,
        _ => return None,
    };
    Some(midnight + i64::from(hours * 3600 + minutes * 60 + seconds) * 1_000_000 + micros as i64)
}

fn sign(text: &[u8]) -> (bool, &[u8]) {
    match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    }
}

#[inline(always)]
fn digit(byte: u8) -> Option<u8> {
    let digit = byte.wrapping_sub(b'0');
    (digit < 10).then_some(digit)
}

#[inline(always)]
fn two(tens: u8, ones: u8) -> Option<i32> {
    Some(i32::from(digit(tens)?) * 10 + i32::from(digit(ones)?))
}

/// Counts in years that begin in March, so that the leap day is the last day of its year.
fn days_since_epoch(year: i32, month: i32, day: i32) -> Option<i32> {
    const DAYS: [i32; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = DAYS.get(usize::try_from(month - 1).ok()?)? + i32::from(leap && month == 2);
    if !(1..=last).contains(&day) {
        return None;
    }
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    Some(era * 146_097 + year * 365 + year / 4 - year / 100 + day_of_year - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The first eight bytes, with something misleading behind the text.
    fn word(text: &[u8]) -> u64 {
        let padded = [text, b"12345678"].concat();
        u64::from_le_bytes(padded[..8].try_into().unwrap())
    }

    #[test]
    fn a_decimal_is_exact_or_refused() {
        assert_eq!(decimal(b"12.5", 10, 2), Some(1250));
        assert_eq!(decimal(b"-0.01", 10, 2), Some(-1));
        assert_eq!(decimal(b"12.500", 10, 2), Some(1250));
        assert_eq!(decimal(b"12.501", 10, 2), None);
        assert_eq!(decimal(b".5", 10, 2), Some(50));
        assert_eq!(decimal(b"5.", 10, 2), Some(500));
        assert_eq!(decimal(b"999.99", 5, 2), Some(99999));
        assert_eq!(decimal(b"1000.00", 5, 2), None);
        assert_eq!(decimal(&[b'9'; 38], 38, 0), Some(10i128.pow(38) - 1));
        assert_eq!(decimal(&[b'9'; 39], 38, 0), None);
        for text in [".", "-", "", "1.2.3", "1e5", " 1", "1,5", "--1"] {
            assert_eq!(decimal(text.as_bytes(), 38, 2), None, "{text}");
        }
    }

    #[test]
    fn a_whole_number_ends_where_64_bits_do() {
        assert_eq!(int(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(int(b"9223372036854775807"), Some(i64::MAX));
        assert_eq!(int(b"9223372036854775808"), None);
        assert_eq!(int(b"+7"), Some(7));
        assert_eq!(int(b"-"), None);
        assert_eq!(int(b"1.0"), None);
    }

    #[test]
    fn a_time_has_at_most_six_digits_of_a_second_and_no_zone() {
        assert_eq!(timestamp(b"1970-01-02"), Some(86_400_000_000));
        assert_eq!(timestamp(b"1970-01-01T00:00:01.5"), Some(1_500_000));
        assert_eq!(timestamp(b"1969-12-31 23:59:59.999999"), Some(-1));
        for text in
            ["1970-01-01 24:00:00", "1970-01-01 00:00:00.", "1970-01-01 00:00:00.1234567", "1970-01-01 00:00:00Z", "1970-01-01 00:00"]
        {
            assert_eq!(timestamp(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_short_number_is_what_the_whole_grammar_makes_of_it(text in "[-+.0-9x]{1,8}", scale in 0u32..5) {
            let (bytes, word) = (text.as_bytes(), word(text.as_bytes()));
            if let Some(value) = short_int(word, bytes.len()) {
                prop_assert_eq!(int(bytes), Some(value));
            }
            if let Some(value) = short_decimal(word, bytes.len(), scale) {
                prop_assert_eq!(decimal(bytes, 38, scale), Some(i128::from(value)));
            }
        }

        #[test]
        fn plain_numbers_of_up_to_eight_bytes_take_the_short_way(value in -9_999_999i64..=99_999_999, cents in -99_999i64..=9_999_999) {
            let text = value.to_string();
            prop_assert_eq!(short_int(word(text.as_bytes()), text.len()), Some(value));
            let text = format!("{}{}.{:02}", if cents < 0 { "-" } else { "" }, cents.abs() / 100, cents.abs() % 100);
            prop_assert_eq!(short_decimal(word(text.as_bytes()), text.len(), 2), Some(cents));
        }

        #[test]
        fn whole_numbers_are_what_the_standard_library_reads(text in "[-+]?[0-9]{0,20}") {
            prop_assert_eq!(int(text.as_bytes()), text.parse().ok());
        }

        #[test]
        fn dates_are_those_of_the_calendar(year in 0i32..10_000, month in 0u32..14, day in 0u32..33) {
            use arrow::{array::{Array, AsArray, StringArray}, compute::cast, datatypes::{DataType, Date32Type}};
            let text = format!("{year:04}-{month:02}-{day:02}");
            let oracle = cast(&StringArray::from(vec![text.as_str()]), &DataType::Date32).unwrap();
            let oracle = oracle.is_valid(0).then(|| oracle.as_primitive::<Date32Type>().value(0));
            prop_assert_eq!(date(text.as_bytes()), oracle);
        }
    }
}
