//! The whole job against groups summed up row by row.

use std::collections::BTreeMap;

use aggregate::Aggregate;
use proptest::prelude::*;
use shardmill::testing::{self, Case, check_parameters};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn groups_have_the_sums_of_their_rows(rows in prop::collection::vec(("[a-d]{0,2}", 0i64..1000, -50i64..50), 0..200)) {
        let input: String = rows.iter().map(|(city, cents, n)| format!("{city},{}.{:02},{n}\n", cents / 100, cents % 100)).collect();
        let mut groups: BTreeMap<&str, (u64, i64, i64)> = BTreeMap::new();
        for (city, cents, n) in rows.iter().filter(|row| row.2 > -40) {
            let group = groups.entry(city).or_insert((0, 0, i64::MIN));
            *group = (group.0 + 1, group.1 + cents * n, group.2.max(*n));
        }
        let money = |cents: i64| format!("{}{}.{:02}", if cents < 0 { "-" } else { "" }, cents.abs() / 100, cents.abs() % 100);
        let expected: String = groups.iter().map(|(city, (count, sum, most))| format!("{city},{count},{},{most}\n", money(*sum))).collect();
        let mut job = Aggregate::new(&["city"], &["count() as rows", "sum(price * n) as revenue", "max(n) as most"], Some("n > -40"));
        job.schema = Some("city: text, price: decimal(9,2), n: int".to_owned());
        let found = Case::new(format!("city,price,n\n{input}").as_bytes()).run(job).unwrap();
        prop_assert_eq!(found, format!("city,rows,revenue,most\n{expected}"));
    }

    #[test]
    fn float_sums_do_not_depend_on_how_the_work_was_cut(values in prop::collection::vec(any::<f64>().prop_filter("finite", |v| v.is_finite()), 1..60)) {
        // `Case` compares many ways; naive addition would differ between them.
        let input: String = values.iter().map(|value| format!("{value:e}\n")).collect();
        let mut job = Aggregate::new(&[], &["sum(x) as total", "avg(x) as mean"], None);
        job.schema = Some("x: float".to_owned());
        Case::new(format!("x\n{input}").as_bytes()).run(job).unwrap();
    }
}

#[test]
fn without_groups_there_is_a_row_even_for_no_rows() {
    let mut job = Aggregate::new(&[], &["count() as rows", "sum(n) as total"], None);
    job.schema = Some("n: int".to_owned());
    assert_eq!(testing::run(job, "n\n").unwrap(), "rows,total\n0,\n");
}

#[test]
fn a_value_outside_its_type_names_the_flag_that_helps() {
    let job = Aggregate::new(&[], &["sum(n)"], None);
    let numbers: String = (0..200_000).map(|n| format!("{n}\n")).collect();
    let refused = testing::run(job, &format!("n\n{numbers}x\n")).unwrap_err().to_string();
    assert!(refused.contains("give --schema 'n: text'") && refused.contains("line 200002"), "{refused}");
}

#[test]
fn no_parameter_has_the_name_of_a_flag() {
    check_parameters::<Aggregate>();
}
