//! The job against a stable sort of all records in memory.

use proptest::prelude::*;
use shardmill::testing::{Case, check_parameters};
use sort::Sort;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn records_of_fixed_size_are_sorted_and_stay_in_order_where_keys_are_equal(
        records in prop::collection::vec(prop::collection::vec(0u8..4, 6), 0..300),
    ) {
        let mut expected = records.clone();
        expected.sort_by(|a, b| a[1..3].cmp(&b[1..3]).then(b[4..6].cmp(&a[4..6])));
        let found = Case::new(&records.concat()).input_format("fixed:6").bytes(Sort::new("1..3,4..6:desc")).unwrap();
        prop_assert_eq!(found, expected.concat());
    }

    #[test]
    fn rows_are_sorted_by_the_values_of_columns_and_written_as_they_were(
        rows in prop::collection::vec(("[a-c]{0,2}", prop::option::of(-20i32..200), any::<u8>()), 1..120),
    ) {
        // Some numbers are written with a point and zeroes, which must neither matter nor be lost.
        let price = |cents: &Option<i32>, style: u8| match cents {
            None => String::new(),
            Some(cents) if style.is_multiple_of(3) && cents % 10 == 0 => format!("{}.{}", cents / 100, (cents / 10 % 10).abs()),
            Some(cents) => format!("{}{}.{:02}", if *cents < 0 { "-" } else { "" }, cents.abs() / 100, cents.abs() % 100),
        };
        let keyed: Vec<(String, Option<i32>, String)> = rows
            .iter()
            .filter(|(_, cents, _)| cents.is_none_or(|cents| cents >= 0))
            .map(|(city, cents, style)| (city.clone(), *cents, format!("{city},{},{style}", price(cents, *style))))
            .collect();
        let mut expected = keyed.clone();
        // Missing values come last where the order is turned round.
        expected.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        let text = |rows: &[(String, Option<i32>, String)]| {
            "city,price,style\n".to_owned() + &rows.iter().map(|row| row.2.clone() + "\n").collect::<String>()
        };
        let mut job = Sort::new("price:desc,city");
        job.schema = Some("price: decimal(9,2)".to_owned());
        prop_assert_eq!(Case::new(text(&keyed).as_bytes()).run(job).unwrap(), text(&expected));
    }
}

#[test]
fn lines_are_sorted_by_bytes() {
    let found = Case::new(b"b2\na\nb1\nc").input_format("text").run(Sort::new("0..1")).unwrap();
    assert_eq!(found, "a\nb2\nb1\nc\n");
}

#[test]
fn keys_that_do_not_fit_the_input_are_refused() {
    for (key, format, expected) in [
        ("0..3", "csv", "this input has columns"),
        ("city", "text", "this input has no columns"),
        ("town", "csv", "there is no column \"town\"; the input has city, n"),
    ] {
        let refused = Case::new(b"city,n\na,1\n").input_format(format).run(Sort::new(key)).unwrap_err().to_string();
        assert!(refused.contains(expected), "{refused}");
    }
}

#[test]
fn no_parameter_has_the_name_of_a_flag() {
    check_parameters::<Sort>();
}
