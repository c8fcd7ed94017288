//! Sales: a table with every kind of column, in every format.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray};

use crate::oracle::decimal;
use crate::random::Random;

/// The columns, in their order.
pub const COLUMNS: [&str; 8] = ["id", "city", "category", "quantity", "price", "discount", "weight", "note"];

const CITIES: [&str; 7] = ["Aarhus", "Cádiz", "5\" disk", "a, b", "two\nlines", "\"quoted\"", "three\r\nmore"];
const CATEGORIES: [Option<&str>; 4] = [Some("books"), Some("home, garden"), Some("toys"), None];
const NOTES: [Option<&str>; 5] = [None, Some("—"), Some("said \"later\""), Some("left at door,\nring twice"), Some("ok")];

/// One sale.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "what a sale has needs no words")]
pub struct Sale {
    pub id: i64,
    pub city: String,
    pub category: Option<&'static str>,
    pub quantity: Option<i64>,
    /// In hundredths.
    pub price: i64,
    /// In thousandths.
    pub discount: Option<i64>,
    pub weight: Option<f64>,
    pub note: Option<&'static str>,
}

/// `count` sales in about `cities` cities.
pub fn sales(seed: u64, count: i64, cities: u64) -> Vec<Sale> {
    let mut random = Random::new(seed);
    (0..count)
        .map(|id| Sale {
            id,
            city: match random.below(cities.max(1)) {
                known if known < 7 => CITIES[known as usize].to_owned(),
                other => format!("city {other}"),
            },
            category: *random.pick(&CATEGORIES),
            quantity: (!random.once_in(9)).then(|| random.below(20) as i64 - 2),
            price: random.below(1_000_000) as i64,
            discount: (!random.once_in(3)).then(|| random.below(700) as i64 - 100),
            weight: (!random.once_in(11)).then(|| weight(&mut random)),
            note: *random.pick(&NOTES),
        })
        .collect()
}

/// Numbers of so different sizes that adding them in another order, rounding each time, gives another sum.
fn weight(random: &mut Random) -> f64 {
    let mantissa = random.next() as i64 as f64;
    mantissa * 2f64.powi(random.below(300) as i32 - 150)
}

impl Sale {
    /// The fields as text; null is empty.
    pub fn fields(&self) -> [String; 8] {
        let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
        [
            self.id.to_string(),
            self.city.clone(),
            text(self.category),
            self.quantity.map(|quantity| quantity.to_string()).unwrap_or_default(),
            decimal(self.price.into(), 2),
            self.discount.map(|discount| decimal(discount.into(), 3)).unwrap_or_default(),
            self.weight.map(|weight| format!("{weight:e}")).unwrap_or_default(),
            text(self.note),
        ]
    }
}

/// The table as delimited text with a header: quoted where it must be and sometimes where it need not, with records that end in LF or CRLF.
pub fn delimited(sales: &[Sale], delimiter: char, seed: u64) -> String {
    let mut random = Random::new(seed);
    let separator = delimiter.to_string();
    let mut text = COLUMNS.join(&separator) + "\n";
    for sale in sales {
        let fields = sale.fields().map(|field| {
            // A quote inside of a field that does not begin with one stands for itself; quoted, nothing would be text and not null.
            let must_be_quoted = field.starts_with('"') || field.contains([delimiter, '\n', '\r']);
            if must_be_quoted || !field.is_empty() && random.once_in(10) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field }
        });
        text += &fields.join(&separator);
        text += if random.once_in(4) { "\r\n" } else { "\n" };
    }
    text
}

/// The table as JSON lines.
pub fn json_lines(sales: &[Sale]) -> String {
    let mut text = String::new();
    for sale in sales {
        let fields = COLUMNS.iter().zip(sale.fields()).map(|(name, field)| {
            let value = match *name {
                _ if field.is_empty() => "null".to_owned(),
                "city" | "category" | "note" => serde_json::to_string(&field).unwrap(),
                _ => field,
            };
            format!("\"{name}\":{value}")
        });
        let _ = writeln!(text, "{{{}}}", fields.collect::<Vec<_>>().join(","));
    }
    text
}

/// The table as a record batch, in the types that are inferred for its text.
pub fn batch(sales: &[Sale]) -> RecordBatch {
    let decimals = |scale, units: &mut dyn Iterator<Item = Option<i64>>| {
        Decimal128Array::from_iter(units.map(|units| units.map(i128::from))).with_precision_and_scale(38, scale).unwrap()
    };
    let columns: [ArrayRef; 8] = [
        Arc::new(Int64Array::from_iter_values(sales.iter().map(|sale| sale.id))),
        Arc::new(StringArray::from_iter_values(sales.iter().map(|sale| &sale.city))),
        Arc::new(StringArray::from_iter(sales.iter().map(|sale| sale.category))),
        Arc::new(Int64Array::from_iter(sales.iter().map(|sale| sale.quantity))),
        Arc::new(decimals(2, &mut sales.iter().map(|sale| Some(sale.price)))),
        Arc::new(decimals(3, &mut sales.iter().map(|sale| sale.discount))),
        Arc::new(Float64Array::from_iter(sales.iter().map(|sale| sale.weight))),
        Arc::new(StringArray::from_iter(sales.iter().map(|sale| sale.note))),
    ];
    RecordBatch::try_from_iter_with_nullable(COLUMNS.into_iter().zip(columns).map(|(name, column)| (name, column, true))).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_csv_crate_reads_back_what_is_written() {
        let sales = sales(1, 500, 20);
        let text = delimited(&sales, ',', 2);
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let read: Vec<Vec<String>> = reader.records().map(|record| record.unwrap().iter().map(str::to_owned).collect()).collect();
        assert_eq!(read, sales.iter().map(Sale::fields).collect::<Vec<_>>());
    }
}
