//! What expressions mean where no other engine agrees: decimals, quotients, overflow, conversions, and what errors say.

use std::sync::Arc;

use aggregate::{EvaluateError, Query};
use arrow::array::{
    Array, ArrayRef, BooleanArray, Date32Array, Decimal128Array, Decimal256Array, Float64Array, Int32Array, Int64Array, RecordBatch,
    StringArray, TimestampMicrosecondArray, UInt64Array,
};
use arrow::datatypes::i256;
use arrow::util::display::array_value_to_string;
use proptest::prelude::*;

fn decimals(scale: i8, values: &[Option<i128>]) -> ArrayRef {
    Arc::new(Decimal128Array::from(values.to_vec()).with_precision_and_scale(38, scale).unwrap())
}

fn sales() -> RecordBatch {
    let day = 19_675;
    RecordBatch::try_from_iter([
        ("n", Arc::new(Int64Array::from(vec![Some(7), Some(-2), None])) as ArrayRef),
        ("small", Arc::new(Int32Array::from(vec![1, 2, 3]))),
        ("large", Arc::new(UInt64Array::from(vec![u64::MAX, 0, 1]))),
        ("price", decimals(2, &[Some(1005), Some(-250), None])),
        ("rate", decimals(3, &[Some(125), Some(0), Some(1)])),
        ("x", Arc::new(Float64Array::from(vec![0.5, -0.0, f64::NAN]))),
        ("city", Arc::new(StringArray::from(vec!["Essen", "Århus", ""]))),
        ("unit price", decimals(2, &[Some(1), Some(2), Some(3)])),
        ("ok", Arc::new(BooleanArray::from(vec![Some(true), Some(false), None]))),
        ("day", Arc::new(Date32Array::from(vec![day, day + 31, 0]))),
        ("at", Arc::new(TimestampMicrosecondArray::from(vec![i64::from(day) * 86_400_000_000 + 3_661_000_000, 0, -1]))),
    ])
    .unwrap()
}

/// The value of an expression in each row, as text; a failure as its message.
fn values_in(batch: &RecordBatch, expression: &str) -> Result<Vec<String>, String> {
    let query = Query::parse(&[format!("{expression} as value")], &["min(row) as row"], None).map_err(|error| error.to_string())?;
    let rows: ArrayRef = Arc::new((0..batch.num_rows() as i64).map(Some).collect::<Int64Array>());
    let columns = batch.schema_ref().fields().iter().map(|field| field.name().clone()).chain(["row".to_owned()]);
    let batch = RecordBatch::try_from_iter(columns.zip(batch.columns().iter().cloned().chain([rows]))).unwrap();
    let plan = query.resolve(&batch.schema()).map_err(|error| error.to_string())?;
    let rows = plan.rows(&batch).map_err(|error| error.to_string())?;
    let mut results = plan.results();
    for row in 0..rows.len() {
        let mut key = Vec::new();
        rows.push_key(row, &mut key);
        results.push(&key, &rows.state(row)).unwrap();
    }
    let result = results.take();
    let value = |row| if result.column(0).is_null(row) { "null".to_owned() } else { array_value_to_string(result.column(0), row).unwrap() };
    Ok((0..result.num_rows()).map(value).collect())
}

fn values(expression: &str) -> Vec<String> {
    values_in(&sales(), expression).unwrap()
}

fn error(expression: &str) -> String {
    values_in(&sales(), expression).unwrap_err()
}

/// Files may have decimals of 76 digits.
#[test]
fn wide_decimals_are_computed_with_while_they_have_38_digits() {
    let of = |values: [Option<i256>; 3]| {
        let column = Decimal256Array::from(values.to_vec()).with_precision_and_scale(76, 2).unwrap();
        RecordBatch::try_from_iter([("wide", Arc::new(column) as ArrayRef)]).unwrap()
    };
    let most = i256::from_i128(10i128.pow(38) - 1);
    let within = of([Some(i256::from_i128(1005)), None, Some(most)]);
    assert_eq!(values_in(&within, "wide * 1").unwrap(), ["10.05", "null", "999999999999999999999999999999999999.99"]);
    let beyond = of([Some(i256::ZERO), None, Some(most + i256::ONE)]);
    let told = values_in(&beyond, "wide * 1").unwrap_err();
    assert!(told.contains("`wide`") && told.contains("1000000000000000000000000000000000000.00"), "{told}");
}

#[test]
fn decimals_keep_their_digits() {
    assert_eq!(values("price * n"), ["70.35", "5.00", "null"]);
    assert_eq!(values("price * rate"), ["1.25625", "0.00000", "null"]);
    assert_eq!(values("price + rate"), ["10.175", "-2.500", "null"]);
    assert_eq!(values("n - price"), ["-3.05", "0.50", "null"]);
    assert_eq!(values("price % 3"), ["1.05", "-2.50", "null"]);
    assert_eq!(values("-price"), ["-10.05", "2.50", "null"]);
    assert_eq!(values("large - 1"), ["18446744073709551614", "-1", "0"]);
    assert_eq!(values("0.1 + 0.2"), ["0.3", "0.3", "0.3"]);
    assert_eq!(values("\"unit price\" * 100"), ["1.00", "2.00", "3.00"]);
}

#[test]
fn quotients_are_rounded_half_even_at_six_more_digits() {
    assert_eq!(values("n / 3"), ["2.333333", "-0.666667", "null"]);
    assert_eq!(values("price / 4"), ["2.51250000", "-0.62500000", "null"]);
    assert_eq!(values("1 / 2000000"), ["0.000000", "0.000000", "0.000000"]);
    assert_eq!(values("3 / 2000000"), ["0.000002", "0.000002", "0.000002"]);
    assert_eq!(values("x / 0"), ["inf", "NaN", "NaN"].map(|value| if value == "inf" { "inf" } else { "NaN" }));
}

#[test]
fn what_does_not_fit_is_an_error_that_names_expression_and_row() {
    assert_eq!(error("n / (n - 7)"), "`n / (n - 7)` divides by zero; `nullif(…, 0)` makes the result null");
    assert_eq!(error("1 / rate"), "`1 / rate` divides by zero; `nullif(…, 0)` makes the result null");
    assert!(error("n * 9223372036854775807").starts_with("`n * 9223372036854775807` overflows; cast"));
    assert!(error("price * 99999999999999999999999999999999999999").contains("overflows; cast"));
    assert_eq!(values("n / nullif(n - 7, 0)"), ["null", "0.222222", "null"]);
}

#[test]
fn rows_that_are_not_asked_for_cannot_fail() {
    assert_eq!(values("case when rate <> 0 then 1 / rate else -1 end"), ["8.000000000", "-1.000000000", "1000.000000000"]);
    assert_eq!(values("rate <> 0 and 1 / rate > 5"), ["true", "false", "true"]);
    assert_eq!(values("rate = 0 or 1 / rate > 10"), ["false", "true", "true"]);
    assert!(error("case when n < 0 then n / 0 else n end").contains("divides by zero"));
    let query = Query::parse(&["1 / rate as r"], &["count()"], Some("rate = 0 or rate > 1")).unwrap();
    let plan = query.resolve(&sales().schema()).unwrap();
    // The row is that of the batch, not of the part that was computed.
    assert!(matches!(plan.rows(&sales()).err().unwrap(), EvaluateError::DivisionByZero { row: 1, .. }));
}

#[test]
fn numbers_of_all_kinds_compare_by_value() {
    assert_eq!(values("price > 10"), ["true", "false", "null"]);
    assert_eq!(values("n = 7.0"), ["true", "false", "null"]);
    assert_eq!(values("n < 99999999999999999999999999999999999999"), ["true", "true", "null"]);
    assert_eq!(values("0.00000000000000000000000000000000000001 < large"), ["true", "false", "true"]);
    assert_eq!(values("x = 0"), ["false", "true", "false"]);
    assert_eq!(values("x > 1e308"), ["false", "false", "true"]);
    assert_eq!(values("x = x"), ["true", "true", "true"]);
    assert_eq!(values("price < x"), ["false", "true", "null"]);
}

#[test]
fn conversions_are_exact_or_rounded_half_even() {
    assert_eq!(values("cast(price as integer)"), ["10", "-2", "null"]);
    assert_eq!(values("cast(rate as decimal(10, 2))"), ["0.12", "0.00", "0.00"]);
    assert_eq!(values("cast(small as decimal(10, 3))"), ["1.000", "2.000", "3.000"]);
    assert_eq!(values("cast(price as double)"), ["10.05", "-2.5", "null"]);
    assert_eq!(values("cast('12' as integer) + small"), ["13", "14", "15"]);
    assert_eq!(values("cast(n as text)"), ["7", "-2", "null"]);
    assert_eq!(values("cast(2.5e0 as integer)"), ["2", "2", "2"]);
    assert!(error("cast(large as integer)").contains("overflows; cast"));
    assert!(error("cast(city as integer)").starts_with("cannot compute `CAST(city AS INTEGER)`: "));
    assert!(error("cast(city as integer)").contains("Essen"));
}

#[test]
fn a_column_without_a_value_can_be_grouped_by() {
    assert_eq!(values("null"), ["null", "null", "null"]);
    let nothing = RecordBatch::try_from_iter([("z", Arc::new(arrow::array::NullArray::new(2)) as ArrayRef)]).unwrap();
    assert_eq!(values_in(&nothing, "z").unwrap(), ["null", "null"]);
}

#[test]
fn a_list_may_be_long_and_a_chain_may_not() {
    let list = (100..10_000).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
    assert_eq!(values(&format!("small in ({list}, 2)")), ["false", "true", "false"]);
    assert_eq!(values(&format!("small in (-{})", list.replace(' ', " -"))), ["false", "false", "false"]);
    assert_eq!(values(&format!("small{}", " + 1".repeat(100))), ["101", "102", "103"]);
    for operator in ["+", "and small =", "||"] {
        let chain = format!("small{}", format!(" {operator} 1").repeat(100_000));
        assert!(error(&chain).contains("operators, the limit is 100"), "{operator}");
    }
}

#[test]
fn dates_and_timestamps_meet_quoted_ones() {
    assert_eq!(values("day"), ["2023-11-14", "2023-12-15", "1970-01-01"]);
    assert_eq!(values("day >= '2023-12-01'"), ["false", "true", "false"]);
    assert_eq!(values("at > '2023-11-14 01:01:00'"), ["true", "false", "false"]);
    assert_eq!(values("day < at"), ["true", "false", "false"]);
    assert_eq!(values("extract(month from day)"), ["11", "12", "1"]);
    assert_eq!(values("extract(hour from at)"), ["1", "0", "23"]);
    assert_eq!(values("cast(at as date) = day"), ["true", "false", "false"]);
    assert_eq!(error("day > 'soon'"), "`--group-by day > 'soon' as value`: `'soon'` is not a date");
}

#[test]
fn text_is_unicode() {
    assert_eq!(values("lower(city)"), ["essen", "århus", ""]);
    assert_eq!(values("upper(city)"), ["ESSEN", "ÅRHUS", ""]);
    assert_eq!(values("length(city)"), ["5", "5", "0"]);
    assert_eq!(values("city ilike 'å_HUS'"), ["false", "true", "false"]);
    assert_eq!(values("city not like 'E%'"), ["false", "true", "true"]);
    assert_eq!(values("'50%' like '%!%' escape '!'"), ["true", "true", "true"]);
}

#[test]
fn mistakes_are_named_before_any_record_is_read() {
    let columns = "n, small, large, price, rate, x, city, unit price, ok, day, at, row";
    assert_eq!(error("prize"), format!("`--group-by prize as value`: there is no column `prize`; the input has {columns}"));
    assert_eq!(error("city + 1"), "`--group-by city + 1 as value`: `city` is text, where a number is needed");
    assert_eq!(error("city = 1"), "`--group-by city = 1 as value`: `city = 1` mixes text and an integer");
    assert_eq!(error("median(n)"), "`--group-by median(n) as value`: there is no function `median`");
    assert!(error("sum(n)").contains("an aggregate stands alone"));
    assert!(error("(n").starts_with("cannot parse `--group-by (n as value`"));
    let aggregate = |text: &str| match Query::parse(&["city"], &[text], None).and_then(|query| query.resolve(&sales().schema())) {
        Ok(_) => panic!("{text} should be refused"),
        Err(error) => error.to_string(),
    };
    assert_eq!(aggregate("sum(city)"), "`--aggregate sum(city)`: `city` is text, where a number is needed");
    assert_eq!(aggregate("n + 1"), "`--aggregate n + 1`: `n + 1` is no aggregate: count, sum, min, max or avg");
    assert_eq!(aggregate("sum(n, n)"), "`--aggregate sum(n, n)`: `sum` takes one argument");
    assert!(aggregate("count(distinct n)").contains("is not a plain call"));
    assert_eq!(aggregate("max(n) as city"), "two columns of the output are called `city`; name one of them with `as`");
    let filter = Query::parse(&["city"], &["count()"], Some("n")).unwrap().resolve(&sales().schema());
    assert_eq!(filter.err().unwrap().to_string(), "`--where n`: `n` is an integer, where a condition is needed");
}

#[test]
fn aggregates_of_like_arguments_are_kept_apart() {
    let query = Query::parse(&[] as &[&str], &["sum(price), sum(cast(price as integer)), sum(-price), sum(price), count(n)"], None);
    assert_eq!(query.err().unwrap().to_string(), "two columns of the output are called `sum(price)`; name one of them with `as`");
    let aggregates = ["sum(price), sum(cast(price as integer)), sum(-price), sum(price) as again, avg(price), count(price), count(ok)"];
    let plan = Query::parse(&[] as &[&str], &aggregates, None).unwrap().resolve(&sales().schema()).unwrap();
    let rows = plan.rows(&sales()).unwrap();
    let mut states = rows.state(0);
    (1..rows.len()).for_each(|row| rows.fold(row, &mut states));
    let mut results = plan.results();
    results.push(&[], &states).unwrap();
    let result = results.take();
    let found: Vec<String> = result.columns().iter().map(|column| array_value_to_string(column, 0).unwrap()).collect();
    assert_eq!(found, ["7.55", "8", "-7.55", "7.55", "3.77500000", "2", "2"]);
}

#[test]
fn a_query_knows_its_columns_and_names_its_output() {
    let query = Query::parse(
        &["city, extract(year from day) as year"],
        &["count()", "avg(price * n) as mean"],
        Some("x > 0 or \"unit price\" in (1, rate)"),
    )
    .unwrap();
    assert_eq!(query.columns(), ["city", "day", "n", "price", "rate", "unit price", "x"]);
    let plan = query.resolve(&sales().schema()).unwrap();
    let fields: Vec<String> = plan.output_schema().fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect();
    assert_eq!(fields, ["city Utf8", "year Int64", "count() Int64", "mean Decimal128(38, 8)"]);
}

proptest! {
    /// Fractions of 128 bits are the oracle; the numbers are small enough for them.
    #[test]
    fn decimal_expressions_are_exact(a in -10_000..10_000i128, b in -10_000..10_000i128, c in 1..1000i128) {
        let batch = RecordBatch::try_from_iter([("a", decimals(2, &[Some(a)])), ("b", decimals(3, &[Some(b)])), ("c", decimals(1, &[Some(c)]))]).unwrap();
        let value = |expression: &str| -> i128 {
            values_in(&batch, expression).unwrap()[0].replace('.', "").parse().unwrap()
        };
        prop_assert_eq!(value("a + b"), 10 * a + b);
        prop_assert_eq!(value("a * b - c"), a * b - c * 10_000);
        prop_assert_eq!(value("(a - b) * (a + b)"), (10 * a - b) * (10 * a + b));
        prop_assert_eq!(value("b % c"), b % (c * 100));
        // a / c at scale 8: a · 10^8 / 10^2 over c / 10.
        let (numerator, denominator) = (a * 10_000_000, c);
        let (floor, rest) = (numerator.div_euclid(denominator), numerator.rem_euclid(denominator));
        prop_assert_eq!(value("a / c"), floor + i128::from(rest * 2 > denominator || rest * 2 == denominator && floor % 2 != 0));
    }
}
