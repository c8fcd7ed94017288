//! Gathered groups: the same keys and the same states as of rows folded one by one.

use std::collections::BTreeMap;
use std::sync::Arc;

use aggregate::{Gathered, Plan, Query, Rows, States};
use arrow::array::{ArrayRef, Decimal128Array, DictionaryArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Int32Type;
use proptest::prelude::*;

type Row = (Option<String>, Option<i64>, Option<i128>, Option<f64>);

const AGGREGATES: &str = "count(), count(n), sum(n), avg(n), min(n), max(n), sum(d), min(d), max(d), sum(f), avg(f), min(f), max(f), \
                          min(g), max(g), count(g)";

fn row() -> impl Strategy<Value = Row> {
    let text = prop_oneof![4 => "[ab]{0,2}", 1 => "[a-c\u{0}]{10,30}"];
    let integer = prop_oneof![4 => -3..3i64, 1 => any::<i64>()];
    let decimal = prop_oneof![4 => -1000..1000i128, 1 => -(10i128.pow(38) - 1)..10i128.pow(38)];
    let float = prop_oneof![6 => -1e3..1e3, 1 => any::<f64>(), 1 => Just(-0.0)];
    (prop::option::of(text), prop::option::of(integer), prop::option::of(decimal), prop::option::of(float))
}

/// Batches, each of which has its texts plainly or as a dictionary; some without any null.
fn batches() -> impl Strategy<Value = Vec<RecordBatch>> {
    let rows = (prop::collection::vec(row(), 0..30), any::<bool>(), any::<bool>());
    prop::collection::vec(rows.prop_map(|(rows, is_coded, has_nulls)| batch(rows, is_coded, has_nulls)), 1..5)
}

fn batch(mut rows: Vec<Row>, is_coded: bool, has_nulls: bool) -> RecordBatch {
    if !has_nulls {
        for row in &mut rows {
            row.0.get_or_insert_default();
            row.1.get_or_insert_default();
            row.2.get_or_insert_default();
            row.3.get_or_insert_default();
        }
    }
    let texts = || rows.iter().map(|row| row.0.as_deref());
    let group: ArrayRef =
        if is_coded { Arc::new(texts().collect::<DictionaryArray<Int32Type>>()) } else { Arc::new(texts().collect::<StringArray>()) };
    let decimals: Decimal128Array = rows.iter().map(|row| row.2).collect();
    RecordBatch::try_from_iter([
        ("g", group),
        ("n", Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>()) as ArrayRef),
        ("d", Arc::new(decimals.with_precision_and_scale(38, 2).unwrap())),
        ("f", Arc::new(rows.iter().map(|row| row.3).collect::<Float64Array>())),
    ])
    .unwrap()
}

fn plan(groups: &[&str], batch: &RecordBatch) -> Plan {
    Query::parse(groups, &[AGGREGATES], None).unwrap().resolve(&batch.schema()).unwrap()
}

fn one_by_one<'a>(batches: impl IntoIterator<Item = &'a Rows>) -> BTreeMap<Vec<u8>, States> {
    let mut groups = BTreeMap::new();
    for rows in batches {
        for row in 0..rows.len() {
            let mut key = Vec::new();
            rows.push_key(row, &mut key);
            groups.entry(key).and_modify(|states| rows.fold(row, states)).or_insert_with(|| rows.state(row));
        }
    }
    groups
}

fn drained(gathered: &mut Gathered) -> BTreeMap<Vec<u8>, States> {
    let mut groups = BTreeMap::new();
    gathered.drain(|key, states| assert!(groups.insert(key.to_vec(), states).is_none(), "a group comes once")).unwrap();
    groups
}

proptest! {
    #[test]
    fn gathered_groups_are_those_of_rows_folded_one_by_one(
        shards in prop::collection::vec(batches(), 1..3),
        groups in prop::sample::select(vec![&["g"][..], &["g", "n"], &["n", "g"], &[]]),
    ) {
        // One gatherer for shard after shard, as a thread has it.
        let mut gathered = Gathered::default();
        for shard in &shards {
            let rows: Vec<Rows> = shard.iter().map(|batch| plan(groups, batch).rows(batch).unwrap()).collect();
            for rows in &rows {
                prop_assert!(gathered.add(rows));
            }
            prop_assert_eq!(drained(&mut gathered), one_by_one(&rows));
        }
    }
}

#[test]
fn a_batch_with_too_many_groups_is_refused_whole_and_what_came_before_stays() {
    let few = batch(vec![(Some("a".to_owned()), Some(1), None, Some(0.5)); 3], true, true);
    let many = batch((0..5000).map(|n| (Some(format!("g{n}")), Some(n), None, None)).collect(), true, true);
    for groups in [&["g"][..], &["n"], &["g", "n"]] {
        let rows = plan(groups, &few).rows(&few).unwrap();
        let mut gathered = Gathered::default();
        assert!(gathered.add(&rows));
        assert!(!gathered.add(&plan(groups, &many).rows(&many).unwrap()));
        assert!(!gathered.add(&rows), "nothing more is gathered before what there is was drained");
        assert_eq!(drained(&mut gathered), one_by_one([&rows]));
        assert!(gathered.add(&rows));
        assert_eq!(drained(&mut gathered), one_by_one([&rows]));
    }
}
