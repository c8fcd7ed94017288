//! States of groups: whatever the order and the grouping of rows, the same state, the same bytes, the right result.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::Arc;

use aggregate::{Plan, Query, ResultError, States};
use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Decimal128Type, Float64Type, Int64Type};
use proptest::prelude::*;

type Row = (Option<i64>, Option<i128>, Option<f64>, Option<String>);

const AGGREGATES: &str = "count(), count(i), sum(i), avg(i), min(i), max(i), sum(d), avg(d), min(d), max(d), \
                          sum(f), avg(f), min(f), max(f), min(t), max(t)";

/// Integers on both sides of what a word holds inline.
fn integer() -> impl Strategy<Value = i64> {
    prop_oneof![-20..20i64, any::<i64>(), (50..63u32, -2..2i64).prop_map(|(bit, off)| (1 << bit) + off)]
}

fn decimal() -> impl Strategy<Value = i128> {
    let limit = 10i128.pow(38) - 1;
    prop_oneof![(-1000..1000i128), -limit..limit, (40..126u32, -2..2i128).prop_map(|(bit, off)| (1 << bit) + off)]
}

fn float() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => -1e6..1e6,
        4 => any::<u64>().prop_map(f64::from_bits),
        1 => prop::sample::select(vec![0.0, -0.0, f64::MAX, -f64::MAX, f64::MIN_POSITIVE, 1e300, -1e300, 1e-300, 0.1]),
        1 => prop::sample::select(vec![f64::INFINITY, f64::NEG_INFINITY, f64::NAN]),
    ]
}

fn finite() -> impl Strategy<Value = f64> {
    float().prop_filter("finite", |value| value.is_finite())
}

fn row() -> impl Strategy<Value = Row> {
    let text = prop_oneof!["[a-c]{0,3}", "[a-c]{7,40}"];
    (prop::option::of(integer()), prop::option::of(decimal()), prop::option::of(float()), prop::option::of(text))
}

fn batch(rows: &[Row]) -> RecordBatch {
    let decimals: Decimal128Array = rows.iter().map(|row| row.1).collect();
    RecordBatch::try_from_iter([
        ("i", Arc::new(rows.iter().map(|row| row.0).collect::<Int64Array>()) as ArrayRef),
        ("d", Arc::new(decimals.with_precision_and_scale(38, 2).unwrap())),
        ("f", Arc::new(rows.iter().map(|row| row.2).collect::<Float64Array>())),
        ("t", Arc::new(rows.iter().map(|row| row.3.clone()).collect::<StringArray>())),
    ])
    .unwrap()
}

fn plan(aggregates: &str, batch: &RecordBatch) -> Plan {
    Query::parse(&[] as &[&str], &[aggregates], None).unwrap().resolve(&batch.schema()).unwrap()
}

/// The state of all rows, folded one after the other.
fn folded(plan: &Plan, batch: &RecordBatch) -> States {
    let rows = plan.rows(batch).unwrap();
    let mut states = plan.empty_state().clone();
    (0..rows.len()).for_each(|row| rows.fold(row, &mut states));
    states
}

fn result(plan: &Plan, states: &States) -> Result<RecordBatch, ResultError> {
    let mut results = plan.results();
    results.push(&[], states)?;
    Ok(results.take())
}

fn float_sum(values: &[f64]) -> f64 {
    let batch = RecordBatch::try_from_iter([("f", Arc::new(Float64Array::from(values.to_vec())) as ArrayRef)]).unwrap();
    let plan = plan("sum(f)", &batch);
    let result = result(&plan, &folded(&plan, &batch)).unwrap();
    result.column(0).as_primitive::<Float64Type>().value(0)
}

/// The sign of an exact sum of finite doubles, each taken `times` times.
///
/// Naive: digits of 2^32 in units of 2^-1074, added up column by column.
fn sign_of_sum(values: &[(f64, i64)]) -> Ordering {
    let mut digits = [0i128; 72];
    for &(value, times) in values {
        let biased = (value.to_bits() >> 52 & 0x7ff) as usize;
        let fraction = (value.to_bits() & ((1 << 52) - 1)) as i128;
        let (mantissa, shift) = if biased == 0 { (fraction, 0) } else { (fraction | 1 << 52, biased - 1) };
        let scaled = (mantissa << (shift % 32)) * i128::from(times) * if value < 0.0 { -1 } else { 1 };
        digits[shift / 32] += scaled;
    }
    for index in 0..digits.len() - 1 {
        digits[index + 1] += digits[index].div_euclid(1 << 32);
        digits[index] = digits[index].rem_euclid(1 << 32);
    }
    // All digits but the top one are positive now.
    match digits[digits.len() - 1] {
        top if top < 0 => Ordering::Less,
        _ if digits.iter().all(|&digit| digit == 0) => Ordering::Equal,
        _ => Ordering::Greater,
    }
}

proptest! {
    #[test]
    fn the_order_of_rows_and_how_they_are_grouped_leave_no_trace(
        rows in prop::collection::vec(row(), 1..12),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        order in any::<prop::sample::Index>(),
    ) {
        let plan = plan(AGGREGATES, &batch(&rows));
        let whole = folded(&plan, &batch(&rows));

        let mut rotated = rows.clone();
        rotated.rotate_left(order.index(rows.len()));
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(rows.len())).chain([0, rows.len()]).collect();
        cuts.sort_unstable();
        let pieces: Vec<States> = cuts.windows(2).map(|cut| folded(&plan, &batch(&rotated[cut[0]..cut[1]]))).collect();

        // From the left, from the right, and through bytes.
        let mut left = plan.empty_state().clone();
        pieces.iter().for_each(|piece| left.combine(piece));
        let right = pieces.iter().rev().cloned().reduce(|mut right, piece| { right.combine(&piece); right }).unwrap();
        let mut read = plan.empty_state().clone();
        for piece in &pieces {
            read.combine(&States::decode(&piece.encode()).unwrap());
        }
        for states in [&left, &right, &read] {
            prop_assert_eq!(states.encode(), whole.encode());
        }
        match (result(&plan, &whole), result(&plan, &read)) {
            (Ok(left), Ok(right)) => prop_assert_eq!(format!("{left:?}"), format!("{right:?}")),
            (left, right) => prop_assert_eq!(left.unwrap_err().to_string(), right.unwrap_err().to_string()),
        }
    }

    #[test]
    fn a_row_alone_is_a_group_of_one(rows in prop::collection::vec(row(), 1..4)) {
        let batch = batch(&rows);
        let plan = plan(AGGREGATES, &batch);
        let computed = plan.rows(&batch).unwrap();
        for row in 0..rows.len() {
            prop_assert_eq!(computed.state(row), folded(&plan, &batch.slice(row, 1)));
        }
    }

    #[test]
    fn a_state_passes_through_serde(rows in prop::collection::vec(row(), 0..6)) {
        let batch = batch(&rows);
        let states = folded(&plan(AGGREGATES, &batch), &batch);
        let bytes = postcard::to_stdvec(&states).unwrap();
        prop_assert_eq!(postcard::from_bytes::<States>(&bytes).unwrap(), states);
    }

    #[test]
    fn reading_any_bytes_as_a_state_ends(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        if let Ok(states) = States::decode(&bytes) {
            let mut twice = states.clone();
            twice.combine(&states);
            prop_assert_eq!(States::decode(&states.encode()).unwrap(), states);
        }
    }

    #[test]
    fn sums_and_averages_of_exact_numbers_are_exact(values in prop::collection::vec(prop::option::of(decimal()), 1..20)) {
        let rows: Vec<Row> = values.iter().map(|&value| (None, value, None, None)).collect();
        let batch = batch(&rows);
        let plan = plan("sum(d), avg(d), min(d), max(d)", &batch);
        let known: Vec<i128> = values.iter().flatten().copied().collect();
        // Halves of 64 bits, so that the oracle itself cannot overflow.
        let high: i128 = known.iter().map(|value| value >> 64).sum();
        let low: i128 = known.iter().map(|value| value & (u64::MAX as i128)).sum();
        let limit = 10i128.pow(38);
        let sum = (high + (low >> 64)).checked_mul(1 << 64).map(|high| high + (low & u64::MAX as i128)).filter(|sum| sum.abs() < limit);
        let count = known.len() as i128;
        let average = sum.filter(|_| count > 0).and_then(|sum| sum.checked_mul(1_000_000)).map(|scaled| {
            let (floor, rest) = (scaled.div_euclid(count), scaled.rem_euclid(count));
            floor + i128::from(rest * 2 > count || rest * 2 == count && floor % 2 != 0)
        }).filter(|average| average.abs() < limit);
        match result(&plan, &folded(&plan, &batch)) {
            Ok(result) => {
                let column = |index: usize| {
                    let column = result.column(index).as_primitive::<Decimal128Type>();
                    column.is_valid(0).then(|| column.value(0))
                };
                prop_assert_eq!(column(0), if known.is_empty() { None } else { sum });
                if sum.is_some_and(|sum| sum.checked_mul(1_000_000).is_some()) {
                    prop_assert_eq!(column(1), average);
                }
                prop_assert_eq!(column(2), known.iter().min().copied());
                prop_assert_eq!(column(3), known.iter().max().copied());
            }
            Err(error) => {
                prop_assert!(error.to_string().contains("overflows"));
                prop_assert!(sum.is_none() || average.is_none());
            }
        }
    }

    #[test]
    fn no_double_is_nearer_to_the_exact_sum(values in prop::collection::vec(finite(), 1..30)) {
        let found = float_sum(&values);
        let exact: Vec<(f64, i64)> = values.iter().map(|&value| (value, 2)).collect();
        // Twice the sum against the points half way to the neighbours: a point belongs to the even one.
        let against = |neighbour: f64| {
            let mut sum = exact.clone();
            sum.extend([(found, -1), (neighbour, -1)]);
            sign_of_sum(&sum)
        };
        if found.is_finite() {
            let is_even = found.to_bits() & 1 == 0;
            if found.next_up().is_finite() {
                let above = against(found.next_up());
                prop_assert!(above == Ordering::Less || above == Ordering::Equal && is_even);
            }
            if found.next_down().is_finite() {
                let below = against(found.next_down());
                prop_assert!(below == Ordering::Greater || below == Ordering::Equal && is_even);
            }
        } else {
            // Half a step beyond the largest double: 2^970 twice is that step.
            let largest = f64::MAX.copysign(found);
            let step = 2f64.powi(970).copysign(found);
            let sum: Vec<_> = exact.iter().copied().chain([(largest, -2), (step, -2)]).collect();
            let wrong = if found > 0.0 { Ordering::Less } else { Ordering::Greater };
            prop_assert_ne!(sign_of_sum(&sum), wrong);
        }
        prop_assert!(found != 0.0 || found.is_sign_positive());
    }
}

#[test]
fn float_sums_are_those_of_pythons_fsum() {
    let mut values: Vec<Vec<f64>> = vec![
        vec![1e16, 1.0, 1e-16],
        vec![1e100, 1.0, -1e100],
        vec![0.1; 10],
        vec![f64::MAX, f64::MAX, -f64::MAX],
        vec![5e-324; 3],
        (1..2000).map(|n| 1.0 / f64::from(n)).collect(),
    ];
    values.extend((0..200u64).map(|seed| {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            state
        };
        (0..50).map(|_| (next() as i64 >> 11) as f64 * 2f64.powi((next() >> 40) as i32 % 200 - 100)).collect()
    }));
    let lists: Vec<String> = values.iter().map(|list| format!("{list:?}")).collect();
    // Through exact rationals, since `fsum` gives up where a partial sum is beyond the largest double.
    let script = "import sys, math, fractions\nfor line in sys.stdin:\n  values = eval(line)\n  try: print(math.fsum(values).hex())\n  \
                  except OverflowError: print(float(sum(map(fractions.Fraction, values))).hex())";
    let python = Command::new("python3").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut python) = python else {
        eprintln!("no python3 here: the test is left out");
        return;
    };
    let mut input = python.stdin.take().unwrap();
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut input, lists.join("\n").as_bytes()));
    let output = python.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let expected = String::from_utf8(output.stdout).unwrap();
    assert_eq!(expected.lines().count(), values.len());
    for (list, expected) in values.iter().zip(expected.lines()) {
        assert_eq!(float_sum(list), parse_hex(expected), "{list:?}");
    }
}

/// A float as python's `float.hex` writes it: `-0x1.8p+1`.
fn parse_hex(text: &str) -> f64 {
    let (sign, digits) = text.strip_prefix('-').map_or((1.0, text), |digits| (-1.0, digits));
    let (mantissa, exponent) = digits.strip_prefix("0x").unwrap().split_once('p').unwrap();
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let integer = u64::from_str_radix(&format!("{whole}{fraction}"), 16).unwrap() as f64;
    let exponent = exponent.parse::<i32>().unwrap() - 4 * fraction.len() as i32;
    // In two steps, for neither power may leave the range of doubles.
    sign * integer * 2f64.powi(exponent / 2) * 2f64.powi(exponent - exponent / 2)
}

#[test]
fn special_floats_follow_ieee_in_any_order() {
    let (infinity, nan) = (f64::INFINITY, f64::NAN);
    assert_eq!(float_sum(&[infinity, 1.0, -1e308]), infinity);
    assert_eq!(float_sum(&[1.0, -infinity]), -infinity);
    assert!(float_sum(&[infinity, 2.0, -infinity]).is_nan());
    assert!(float_sum(&[nan, infinity]).is_nan());
    assert_eq!(float_sum(&[f64::MAX, f64::MAX]), infinity);
    assert_eq!(float_sum(&[f64::MAX, f64::MAX, -f64::MAX]), f64::MAX);
}

#[test]
fn nothing_is_summed_to_null_and_counted_to_zero() {
    let batch = batch(&[(None, None, None, None)]);
    let plan = plan(AGGREGATES, &batch);
    let result = result(&plan, &folded(&plan, &batch)).unwrap();
    let names: Vec<String> = result.schema().fields().iter().map(|field| field.name().clone()).collect();
    let nulls: BTreeMap<&str, bool> =
        names.iter().map(String::as_str).zip(result.columns().iter().map(|column| column.is_null(0))).collect();
    assert_eq!(result.column(0).as_primitive::<Int64Type>().value(0), 1);
    assert_eq!(result.column(1).as_primitive::<Int64Type>().value(0), 0);
    assert!(nulls.iter().all(|(name, is_null)| *is_null != name.starts_with("count")));
}

#[test]
fn a_sum_beyond_38_digits_is_an_error_that_names_it_and_one_that_comes_back_is_none() {
    let most = 10i128.pow(38) - 1;
    let sum = |values: &[i128]| {
        let rows: Vec<Row> = values.iter().map(|&value| (None, Some(value), None, None)).collect();
        let batch = batch(&rows);
        let plan = plan("sum(d) as total", &batch);
        result(&plan, &folded(&plan, &batch)).map(|result| result.column(0).as_primitive::<Decimal128Type>().value(0))
    };
    assert_eq!(sum(&[most, most, -most]).unwrap(), most);
    assert_eq!(sum(&[most, 1]).unwrap_err().to_string(), "`total` overflows: it has more than 38 digits");
}

#[test]
fn negative_zero_is_zero_and_nan_is_above_every_float() {
    let float = |values: &[f64], aggregates: &str| {
        let batch = RecordBatch::try_from_iter([("f", Arc::new(Float64Array::from(values.to_vec())) as ArrayRef)]).unwrap();
        let plan = plan(aggregates, &batch);
        result(&plan, &folded(&plan, &batch)).unwrap().column(0).as_primitive::<Float64Type>().value(0)
    };
    assert!(float(&[0.0, -0.0], "min(f)").is_sign_positive());
    assert_eq!(float(&[f64::NAN, 1.0, -f64::NAN], "min(f)"), 1.0);
    assert!(float(&[f64::NAN, f64::INFINITY], "max(f)").is_nan());
    assert_eq!(float(&[1.5, -2.5, f64::NEG_INFINITY], "min(f)"), f64::NEG_INFINITY);
}
