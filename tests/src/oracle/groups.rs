//! Sales, grouped and sorted.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::exact::{FloatSum, decimal, quotient_half_even};
use crate::sales::Sale;

/// What is known of a group.
#[derive(Default)]
struct Group {
    sales: u64,
    units: Option<i128>,
    revenue: Option<i128>,
    discounts: Vec<i64>,
    prices: Vec<i64>,
    weight: FloatSum,
}

/// The flags of aggregate whose rows [`group_by_city_and_category`] has.
pub const GROUP_FLAGS: [&str; 16] = [
    "--group-by",
    "city,category",
    "--aggregate",
    "count() as sales",
    "--aggregate",
    "sum(quantity) as units",
    "--aggregate",
    "sum(price * quantity) as revenue",
    "--aggregate",
    "avg(discount) as average_discount",
    "--aggregate",
    "min(price) as lowest",
    "--aggregate",
    "max(price) as highest",
    "--aggregate",
    "sum(weight) as weight",
];

/// The rows for [`GROUP_FLAGS`], groups in the order of their keys, nulls first. A null is empty; the weight is the number's bits.
pub fn group_by_city_and_category(sales: &[Sale]) -> Vec<Vec<String>> {
    let mut groups = BTreeMap::<(&str, Option<&str>), Group>::new();
    for sale in sales {
        let group = groups.entry((&sale.city, sale.category)).or_default();
        group.sales += 1;
        if let Some(quantity) = sale.quantity {
            *group.units.get_or_insert(0) += i128::from(quantity);
            *group.revenue.get_or_insert(0) += i128::from(quantity) * i128::from(sale.price);
        }
        group.discounts.extend(sale.discount);
        group.prices.push(sale.price);
        sale.weight.iter().for_each(|weight| group.weight.add(*weight));
    }
    groups.into_iter().map(|((city, category), group)| row(city, category, &group)).collect()
}

fn row(city: &str, category: Option<&str>, group: &Group) -> Vec<String> {
    let or_empty = |number: Option<String>| number.unwrap_or_default();
    let count = group.discounts.len() as i128;
    let average = |sum: i128| decimal(quotient_half_even(sum * 1_000_000, count), 9);
    vec![
        city.to_owned(),
        category.unwrap_or_default().to_owned(),
        group.sales.to_string(),
        or_empty(group.units.map(|units| decimal(units, 0))),
        or_empty(group.revenue.map(|revenue| decimal(revenue, 2))),
        or_empty((count > 0).then(|| average(group.discounts.iter().copied().map(i128::from).sum()))),
        or_empty(group.prices.iter().min().map(|price| decimal((*price).into(), 2))),
        or_empty(group.prices.iter().max().map(|price| decimal((*price).into(), 2))),
        or_empty(group.weight.sum().map(|weight| weight.to_bits().to_string())),
    ]
}

/// The rows of `--key city,price:desc`: rows with equal keys as they came.
pub fn sorted_by_city_and_price(sales: &[Sale]) -> Vec<Vec<String>> {
    let mut sales: Vec<&Sale> = sales.iter().collect();
    sales.sort_by_key(|sale| (&sale.city, Reverse(sale.price)));
    sales.into_iter().map(|sale| sale.fields().into()).collect()
}
