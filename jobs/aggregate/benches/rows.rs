//! What a row costs on the map side, computing its batch, its key, and folding it into its group; and a group on the reduce side.
//!
//! `cargo bench -p aggregate` prints nanoseconds per row, the least of several passes over batches in memory. The groups
//! stand in one vector, indexed by a hash of the key, so that what is measured is this crate and not a hash table.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use aggregate::{Plan, Query, States};
use arrow::array::{ArrayRef, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray};

const ROWS: usize = 8192;
const BATCHES: usize = 32;

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % limit
    }
}

fn sales(random: &mut Random) -> RecordBatch {
    const NAMES: [&str; 4] = ["Bergen", "Faro", "Essen", "Valparaiso"];
    const CATEGORIES: [&str; 5] = ["shoes", "beauty", "electronics", "garden", "toys"];
    let city = StringArray::from_iter_values((0..ROWS).map(|_| format!("{}{}", NAMES[random.below(4) as usize], random.below(50))));
    let category = StringArray::from_iter_values((0..ROWS).map(|_| CATEGORIES[random.below(5) as usize]));
    let customer = StringArray::from_iter_values((0..ROWS).map(|_| format!("C{:08}-1c", random.below(4_600_000))));
    let decimals = |scale, values: Vec<i128>| Decimal128Array::from(values).with_precision_and_scale(38, scale).expect("38 digits");
    let price = decimals(2, (0..ROWS).map(|_| random.below(1_000_000).into()).collect());
    let discount = decimals(3, (0..ROWS).map(|_| random.below(300).into()).collect());
    let quantity = Int64Array::from_iter_values((0..ROWS).map(|_| random.below(20) as i64));
    let weight = Float64Array::from_iter_values((0..ROWS).map(|_| random.below(1 << 30) as f64 / 7.0));
    RecordBatch::try_from_iter([
        ("city", Arc::new(city) as ArrayRef),
        ("category", Arc::new(category)),
        ("customer", Arc::new(customer)),
        ("quantity", Arc::new(quantity)),
        ("price", Arc::new(price)),
        ("discount", Arc::new(discount)),
        ("weight", Arc::new(weight)),
    ])
    .expect("columns of one length")
}

fn hash(key: &[u8]) -> u64 {
    let mut hash = key.len() as u64;
    let mut words = key.chunks_exact(8);
    for word in &mut words {
        hash = (hash ^ u64::from_le_bytes(word.try_into().expect("8 bytes"))).wrapping_mul(0x9e3779b97f4a7c15);
    }
    for &byte in words.remainder() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x9e3779b97f4a7c15);
    }
    hash ^ hash >> 32
}

/// Nanoseconds per row of each step, added up step by step.
fn measure(plan: &Plan, batches: &[RecordBatch], groups: usize) -> [f64; 4] {
    let rows = (batches.len() * ROWS) as f64;
    let mut states = vec![plan.empty_state().clone(); groups];
    let mut key = Vec::new();
    let mut pass = |step: usize| {
        let start = Instant::now();
        for batch in batches {
            let rows = plan.rows(batch).expect("nothing overflows");
            if step == 0 {
                black_box(&rows);
                continue;
            }
            for row in 0..rows.len() {
                key.clear();
                rows.push_key(row, &mut key);
                black_box(&key);
                if step == 3 {
                    black_box(rows.state(row));
                } else if step == 2 {
                    rows.fold(row, &mut states[hash(&key) as usize & (groups - 1)]);
                }
            }
        }
        start.elapsed().as_nanos() as f64 / rows
    };
    std::array::from_fn(|step| (0..25).map(|_| pass(step)).fold(f64::INFINITY, f64::min))
}

/// Nanoseconds per group: to combine two states, to write and read one, to put one out.
fn measure_groups(plan: &Plan, batches: &[RecordBatch]) -> [f64; 3] {
    let rows: Vec<_> = batches.iter().map(|batch| plan.rows(batch).expect("nothing overflows")).collect();
    let groups: Vec<(Vec<u8>, States)> = rows
        .iter()
        .flat_map(|rows| {
            (0..rows.len()).map(|row| {
                let mut key = Vec::new();
                rows.push_key(row, &mut key);
                (key, rows.state(row))
            })
        })
        .collect();
    let pass = |step: usize| {
        let mut total = plan.empty_state().clone();
        let mut results = plan.results();
        let start = Instant::now();
        for (key, states) in &groups {
            match step {
                0 => total.combine(states),
                1 => _ = black_box(States::decode(&black_box(states.encode())).expect("just written")),
                _ => results.push(key, states).expect("nothing overflows"),
            }
        }
        black_box((total, results.take()));
        start.elapsed().as_nanos() as f64 / groups.len() as f64
    };
    std::array::from_fn(|step| (0..15).map(|_| pass(step)).fold(f64::INFINITY, f64::min))
}

fn main() {
    let mut random = Random(7);
    let batches: Vec<RecordBatch> = (0..BATCHES).map(|_| sales(&mut random)).collect();
    // A name, the query, and how many groups it has, rounded to a power of two.
    type Case<'a> = (&'a str, &'a str, &'a [&'a str], Option<&'a str>, usize);
    let queries: [Case<'_>; 5] = [
        ("q1", "city, category", &["count()", "sum(quantity)", "sum(price * quantity)", "avg(discount)", "max(price)"], None, 4096),
        ("q2", "customer", &["count()", "sum(price * quantity)"], None, 1 << 16),
        ("q2, discount > 0.1", "customer", &["count()", "sum(price * quantity)"], Some("discount > 0.1"), 1 << 16),
        ("floats", "city", &["sum(weight)", "avg(weight)"], None, 256),
        ("texts", "city", &["min(customer)", "max(category)"], None, 256),
    ];
    println!("nanoseconds             per row: compute  + key  + fold  or + its state   per group: combine  write and read  result");
    for (name, group_by, aggregates, filter, groups) in queries {
        let query = Query::parse(&[group_by], aggregates, filter).expect("a query");
        let plan = query.resolve(batches[0].schema_ref()).expect("the columns are there");
        let [compute, key, fold, state] = measure(&plan, &batches, groups);
        let [combine, encode, result] = measure_groups(&plan, &batches);
        println!("{name:<22} {compute:>17.1} {key:>6.1} {fold:>7.1} {state:>15.1} {combine:>20.1} {encode:>15.1} {result:>7.1}");
    }
    println!("a state is {} bytes", size_of::<States>());
}
