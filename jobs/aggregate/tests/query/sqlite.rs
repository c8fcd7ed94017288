//! Random queries, computed here and by sqlite.
//!
//! Only what both mean alike is generated: integers that do not overflow, text of ASCII, nulls, truth values. Quotients of
//! integers are decimals here and integers there, so `/` stands in `arithmetic.rs`.

use std::sync::Arc;

use aggregate::Query;
use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Decimal128Type, Int64Type};
use proptest::prelude::*;
use rusqlite::Connection;
use rusqlite::types::Value;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
struct Row {
    a: Option<i64>,
    b: Option<i64>,
    s: Option<String>,
    t: Option<String>,
}

fn row() -> impl Strategy<Value = Row> {
    let integer = || prop::option::weighted(0.8, -5..6i64);
    let text = || prop::option::weighted(0.8, "[abAB%_]{0,3}");
    (integer(), integer(), text(), text()).prop_map(|(a, b, s, t)| Row { a, b, s, t })
}

fn literal(text: &str) -> String {
    format!("'{text}'")
}

fn number(depth: u32) -> BoxedStrategy<String> {
    let leaf = prop_oneof![4 => Just("a".to_owned()), 4 => Just("b".to_owned()), 3 => (-4..5i64).prop_map(|n| format!("({n})"))];
    if depth == 0 {
        return leaf.boxed();
    }
    let number = || number(depth - 1);
    prop_oneof![
        2 => leaf,
        3 => (number(), prop::sample::select(vec!["+", "-", "*"]), number()).prop_map(|(l, op, r)| format!("({l} {op} {r})")),
        1 => (number(), 1..5i64).prop_map(|(l, r)| format!("({l} % {r})")),
        1 => number().prop_map(|n| format!("(- {n})")),
        1 => (condition(depth - 1), number(), number()).prop_map(|(c, l, r)| format!("(case when {c} then {l} else {r} end)")),
        1 => (number(), number(), number()).prop_map(|(x, w, r)| format!("(case {x} when {w} then {r} when 2 then 7 end)")),
        1 => (number(), number()).prop_map(|(l, r)| format!("coalesce({l}, {r})")),
        1 => (number(), number()).prop_map(|(l, r)| format!("nullif({l}, {r})")),
        1 => text(depth - 1).prop_map(|t| format!("length({t})")),
    ]
    .boxed()
}

fn text(depth: u32) -> BoxedStrategy<String> {
    let leaf = prop_oneof![4 => Just("s".to_owned()), 4 => Just("t".to_owned()), 2 => "[abA]{0,2}".prop_map(|text| literal(&text))];
    if depth == 0 {
        return leaf.boxed();
    }
    let text = || text(depth - 1);
    prop_oneof![
        3 => leaf,
        1 => text().prop_map(|t| format!("lower({t})")),
        1 => text().prop_map(|t| format!("upper({t})")),
        1 => (text(), text()).prop_map(|(l, r)| format!("coalesce({l}, {r})")),
        1 => (condition(depth - 1), text()).prop_map(|(c, t)| format!("(case when {c} then {t} end)")),
    ]
    .boxed()
}

fn condition(depth: u32) -> BoxedStrategy<String> {
    let operator = || prop::sample::select(vec!["=", "<>", "<", "<=", ">", ">=", "is distinct from", "is not distinct from"]);
    let not = || prop::sample::select(vec!["", "not "]);
    let depth = depth.saturating_sub(1);
    let leaf = prop_oneof![
        3 => (number(depth), operator(), number(depth)).prop_map(|(l, op, r)| format!("({l} {op} {r})")),
        2 => (text(depth), operator(), text(depth)).prop_map(|(l, op, r)| format!("({l} {op} {r})")),
        1 => (number(depth), not()).prop_map(|(n, not)| format!("({n} is {not}null)")),
        1 => (number(depth), not(), prop::collection::vec(number(0), 1..4))
            .prop_map(|(n, not, list)| format!("({n} {not}in ({}))", list.join(", "))),
        1 => (number(depth), not(), number(0), number(0)).prop_map(|(n, not, l, h)| format!("({n} {not}between {l} and {h})")),
        1 => (text(depth), not(), "[abA%_]{0,4}").prop_map(|(t, not, p)| format!("({t} {not}like {})", literal(&p))),
        1 => (text(depth), not(), "([abA_]|!%|!!){0,4}%?").prop_map(|(t, not, p)| format!("({t} {not}like {} escape '!')", literal(&p))),
    ];
    if depth == 0 {
        return leaf.boxed();
    }
    let condition = || condition(depth);
    prop_oneof![
        4 => leaf,
        2 => (condition(), prop::sample::select(vec!["and", "or"]), condition()).prop_map(|(l, op, r)| format!("({l} {op} {r})")),
        1 => condition().prop_map(|c| format!("(not {c})")),
        1 => (condition(), not(), prop::sample::select(vec!["true", "false"])).prop_map(|(c, not, value)| format!("({c} is {not}{value})")),
    ]
    .boxed()
}

fn batch(rows: &[Row]) -> RecordBatch {
    RecordBatch::try_from_iter([
        ("a", Arc::new(rows.iter().map(|row| row.a).collect::<Int64Array>()) as ArrayRef),
        ("b", Arc::new(rows.iter().map(|row| row.b).collect::<Int64Array>())),
        ("s", Arc::new(rows.iter().map(|row| row.s.clone()).collect::<StringArray>())),
        ("t", Arc::new(rows.iter().map(|row| row.t.clone()).collect::<StringArray>())),
    ])
    .unwrap()
}

/// A cell as both sides show it; truth values are integers in sqlite.
fn cell(array: &dyn Array, row: usize) -> Value {
    if array.is_null(row) {
        return Value::Null;
    }
    match array.data_type() {
        DataType::Int64 => Value::Integer(array.as_primitive::<Int64Type>().value(row)),
        DataType::Decimal128(_, 0) => Value::Integer(array.as_primitive::<Decimal128Type>().value(row) as i64),
        DataType::Boolean => Value::Integer(array.as_boolean().value(row).into()),
        DataType::Utf8 => Value::Text(array.as_string::<i32>().value(row).to_owned()),
        other => panic!("no column of {other} was asked for"),
    }
}

fn here(rows: &[Row], groups: &[String], aggregates: &[String], filter: &str) -> Vec<Vec<Value>> {
    let batch = batch(rows);
    let named: Vec<String> = groups.iter().enumerate().map(|(index, group)| format!("{group} as g{index}")).collect();
    let query = Query::parse(&named, aggregates, Some(filter)).unwrap();
    let plan = query.resolve(&batch.schema()).unwrap();
    let computed = plan.rows(&batch).unwrap();
    let mut states = BTreeMap::new();
    for row in 0..computed.len() {
        let mut key = Vec::new();
        computed.push_key(row, &mut key);
        states.entry(key).and_modify(|states| computed.fold(row, states)).or_insert_with(|| computed.state(row));
    }
    let mut results = plan.results();
    for (key, states) in &states {
        results.push(key, states).unwrap();
    }
    let result = results.take();
    (0..result.num_rows()).map(|row| result.columns().iter().map(|column| cell(column, row)).collect()).collect()
}

fn there(rows: &[Row], groups: &[String], aggregates: &[String], filter: &str) -> Vec<Vec<Value>> {
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch("pragma case_sensitive_like = on; create table input (a integer, b integer, s text, t text)").unwrap();
    for row in rows {
        connection.execute("insert into input values (?, ?, ?, ?)", (row.a, row.b, &row.s, &row.t)).unwrap();
    }
    let numbers: Vec<String> = (1..=groups.len()).map(|number| number.to_string()).collect();
    // `+` in front keeps sqlite from reading a literal among the groups as the number of a column.
    let columns = groups.iter().chain(aggregates).cloned().collect::<Vec<_>>().join(", ");
    let (groups, aggregates) = (numbers.join(", "), groups.len() + aggregates.len());
    let sql = format!("select {columns} from input where {filter} group by {groups} order by {groups}");
    let mut statement = connection.prepare(&sql).unwrap();
    let rows = statement.query_map((), |row| (0..aggregates).map(|column| row.get::<_, Value>(column)).collect()).unwrap();
    rows.map(Result::unwrap).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn queries_have_the_results_they_have_in_sqlite(
        rows in prop::collection::vec(row(), 0..30),
        groups in prop::collection::vec(prop_oneof![number(1), text(1), condition(1)], 1..3),
        (counted, summed, least, most) in (number(2), number(3), number(2), text(2)),
        filter in condition(4),
    ) {
        let aggregates = [
            "count(*)".to_owned(),
            format!("count({counted})"),
            format!("sum({summed})"),
            format!("min({least}) as low"),
            format!("max({most}) as high"),
        ];
        prop_assert_eq!(here(&rows, &groups, &aggregates, &filter), there(&rows, &groups, &aggregates, &filter));
    }
}
