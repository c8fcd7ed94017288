//! Column types from a fixed prefix of the input: the narrowest type that holds every value seen.
//!
//! Owns the lattice of types and nothing else: which bytes are looked at is the plan's decision and has to depend on the input
//! alone, so that every run decides the same. A value further on that does not fit is a bad record, never a reason to change the
//! type. JSON says itself what is a number and what is text, so only columns of delimited files are guessed from their text.
//!
//! ```text
//!                      text                      a leading zero (007) or a plus makes an identifier: text
//!        ┌──────────┬───┴────┬─────────┐
//!      float      bool   timestamp     …         decimals keep all digits: decimal(38, most decimals seen)
//!        │                   │
//!     decimal               date
//!        │
//!       int                                      empty fields have no type; a column of them alone is text
//! ```

use std::collections::HashMap;

use super::number;
use super::split::FieldIndex;
use super::{csv::is_unclosed, csv::unquote, json::members_as_text, json::records, masks::STRIDE};
use crate::format::Format;
use crate::format::csv::{CsvOptions, Dialect};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow::json::reader::infer_json_schema_from_iterator;
use serde_json::Value;

/// What the values of one column have in common so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing but empty fields.
    Empty,
    Bool,
    /// Whole numbers of 64 bits, with their most digits.
    Int {
        digits: usize,
    },
    /// Exact numbers, with their most digits in front of the point and behind it.
    Decimal {
        digits: usize,
        scale: usize,
    },
    Float,
    Date,
    Timestamp,
    Text,
}

impl Kind {
    /// The kind of one unquoted field.
    pub(crate) fn of(text: &[u8]) -> Self {
        let Some(&first) = text.first() else { return Self::Empty };
        if first.is_ascii_digit() || first == b'-' || first == b'.' {
            return Self::of_number(text).or_else(|| Self::of_time(text)).unwrap_or(Self::Text);
        }
        if number::boolean(text).is_some() { Self::Bool } else { Self::Text }
    }

    fn of_number(text: &[u8]) -> Option<Self> {
        let plain = text.strip_prefix(b"-").unwrap_or(text);
        if plain.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.') {
            let (whole, fraction) = match memchr::memchr(b'.', plain) {
                Some(point) => (&plain[..point], &plain[point + 1..]),
                None => (plain, &[][..]),
            };
            let identifier = whole.len() > 1 && whole[0] == b'0';
            let malformed = fraction.contains(&b'.') || whole.len() + fraction.len() == 0;
            return (!identifier && !malformed).then_some(match (whole.len() == plain.len(), number::int(text)) {
                (true, Some(_)) => Self::Int { digits: whole.len() },
                _ => Self::Decimal { digits: whole.len(), scale: fraction.len() },
            });
        }
        let exponent =
            plain.iter().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(byte)) && plain.iter().any(|byte| b"eE".contains(byte));
        (exponent && number::float(text).is_some()).then_some(Self::Float)
    }

    fn of_time(text: &[u8]) -> Option<Self> {
        let date = number::date(text).map(|_| Self::Date);
        date.or_else(|| number::timestamp(text).map(|_| Self::Timestamp))
    }

    /// The narrowest kind that holds both: commutative, associative, idempotent.
    pub(crate) fn join(self, other: Self) -> Self {
        use Kind::*;
        match (self, other) {
            (Empty, kind) | (kind, Empty) => kind,
            (Int { digits: a }, Int { digits: b }) => Int { digits: a.max(b) },
            (Int { digits: a }, Decimal { digits: b, scale }) | (Decimal { digits: a, scale }, Int { digits: b }) => {
                Decimal { digits: a.max(b), scale }
            }
            (Decimal { digits: a, scale: s }, Decimal { digits: b, scale: t }) => Decimal { digits: a.max(b), scale: s.max(t) },
            (Float, Int { .. } | Decimal { .. }) | (Int { .. } | Decimal { .. }, Float) => Float,
            (Date, Timestamp) | (Timestamp, Date) => Timestamp,
            (a, b) if a == b => a,
            _ => Text,
        }
    }

    /// The kind of the least values of a column of this type.
    pub(crate) fn of_type(data_type: &DataType) -> Self {
        match *data_type {
            DataType::Boolean => Self::Bool,
            DataType::Int64 => Self::Int { digits: 1 },
            DataType::Decimal128(_, scale @ 0..) => Self::Decimal { digits: 1, scale: scale.unsigned_abs().into() },
            DataType::Float64 => Self::Float,
            DataType::Date32 => Self::Date,
            DataType::Timestamp(..) => Self::Timestamp,
            _ => Self::Text,
        }
    }

    /// The column type that holds this kind.
    pub(crate) fn data_type(self) -> DataType {
        match self {
            Self::Bool => DataType::Boolean,
            Self::Int { .. } => DataType::Int64,
            Self::Decimal { digits, scale } if digits + scale <= 38 => DataType::Decimal128(38, scale as i8),
            Self::Float => DataType::Float64,
            Self::Date => DataType::Date32,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            // More digits than any number type keeps: only text loses none of them.
            Self::Decimal { .. } | Self::Empty | Self::Text => DataType::Utf8,
        }
    }
}

/// The beginning of one file, for its column types.
#[derive(Clone, Copy, Debug)]
pub struct Prefix<'a> {
    /// CSV, TSV or JSON lines; others say nothing.
    pub format: Format,
    /// What the user says about delimited files.
    pub csv: CsvOptions,
    /// The columns of a delimited file, in its order.
    pub names: Option<&'a [String]>,
    /// Whole records, the header not among them.
    pub records: &'a [u8],
}

/// Decides the type of every column from the beginnings of some files.
///
/// A pure function of these bytes: the same prefixes give the same schema. Columns stand in the order in which they first appear,
/// every one may hold nulls, and one without a value is text.
///
/// ```
/// use shardmill_datasets::{CsvOptions, Format, table::{Prefix, infer, schema_text}};
/// let names = ["city", "price", "sold"].map(String::from);
/// let records = b"Gent,12.50,2024-02-29\nBergen,7,2024-03-01\n";
/// let schema = infer(&[Prefix { format: Format::Csv, csv: CsvOptions::default(), names: Some(&names), records }]);
/// assert_eq!(schema_text(&schema), "city: text, price: decimal(38,2), sold: date");
/// ```
pub fn infer(prefixes: &[Prefix<'_>]) -> Schema {
    let mut inference = Inference::default();
    for prefix in prefixes {
        match (prefix.format.delimiter(), prefix.names) {
            (Some(delimiter), Some(names)) => inference.delimited(names, prefix.records, Dialect { delimiter, quotes: prefix.csv.quotes }),
            _ if prefix.format == Format::JsonLines => inference.json(prefix.records),
            _ => {}
        }
    }
    inference.schema()
}

/// Collects what is known of all columns from one prefix after the other; they stand in the order in which they first appeared.
#[derive(Debug, Default)]
struct Inference {
    columns: Vec<Column>,
    /// Where each name stands among them.
    slots: HashMap<String, usize>,
}

#[derive(Debug)]
struct Column {
    name: String,
    /// From delimited files.
    kind: Kind,
    /// From JSON, where values may be nested.
    values: Vec<Value>,
    /// From the digits of numbers in JSON: what parses them has made doubles of them.
    number: Kind,
}

impl Column {
    fn data_type(&self) -> DataType {
        let json = self.json_type().map(|json| match (json, self.number.data_type()) {
            (DataType::Float64, exact @ DataType::Decimal128(..)) => exact,
            (json, _) => json,
        });
        match json {
            None => self.kind.data_type(),
            Some(json) if self.kind == Kind::Empty => json,
            Some(json) => Kind::of_type(&json).join(self.kind).data_type(),
        }
    }

    /// Scalars of two types are text; so is what has no type in common, but then most of its rows will be bad.
    fn json_type(&self) -> Option<DataType> {
        if self.values.iter().all(Value::is_null) {
            return None;
        }
        let rows = self.values.iter().map(|value| Ok(Value::Object([(self.name.clone(), value.clone())].into_iter().collect())));
        let schema = infer_json_schema_from_iterator(rows);
        Some(schema.map_or(DataType::Utf8, |schema| schema.field(0).data_type().clone()))
    }
}

impl Inference {
    /// Looks at whole records of a delimited file; `names` are the columns of that file, and a record that has not as many
    /// fields says nothing.
    fn delimited(&mut self, names: &[String], records: &[u8], dialect: Dialect) {
        let slots = names.iter().map(|name| self.slot(name)).collect::<Vec<_>>();
        let padded = [records, &[0; STRIDE]].concat();
        let mut index = FieldIndex::default();
        index.fill(&padded, records.len(), dialect);
        let mut scratch = Vec::new();
        // Bad records say nothing: those of another length, and a last one that opens a quote and never closes it.
        let is_open = |record| is_unclosed(&records[index.last_field(record)], dialect.quotes);
        let mut found: Vec<_> = index.records().collect();
        found.pop_if(|last| is_open(*last));
        for record in found.into_iter().filter(|record| record.fields as usize == names.len()) {
            for (column, &slot) in (0..).zip(&slots) {
                let raw = &records[index.bounds(record.first, column)];
                let kind = &mut self.columns[slot].kind;
                *kind = kind.join(Kind::of(unquote(raw, dialect.quotes, &mut scratch)));
            }
        }
    }

    /// Looks at lines of JSON objects; a line that is none says nothing.
    fn json(&mut self, lines: &[u8]) {
        let known: Vec<usize> = self.columns.iter().map(|column| column.values.len()).collect();
        let mut objects = Vec::new();
        for (_, line) in records(lines) {
            let Ok(Value::Object(object)) = serde_json::from_slice(line) else { continue };
            for (name, value) in object {
                let slot = self.slot(&name);
                self.columns[slot].values.push(value);
            }
            objects.extend_from_slice(line);
            objects.push(b'\n');
        }
        let known = known.into_iter().chain(std::iter::repeat(0));
        let has_numbers =
            |(column, known): &(&mut Column, usize)| column.values[*known..].iter().all(|value| value.is_number() || value.is_null());
        let mut numbers: Vec<&mut Column> = self.columns.iter_mut().zip(known).filter(has_numbers).map(|(column, _)| column).collect();
        let names: Vec<&str> = numbers.iter().map(|column| column.name.as_str()).collect();
        let texts = members_as_text(&names, &objects);
        for (column, texts) in numbers.iter_mut().zip(texts) {
            for digits in texts.iter().flatten() {
                column.number = column.number.join(Kind::of(digits.as_bytes()));
            }
        }
    }

    /// What was found; every column may hold nulls.
    fn schema(&self) -> Schema {
        Schema::new(self.columns.iter().map(|column| Field::new(&column.name, column.data_type(), true)).collect::<Vec<_>>())
    }

    fn slot(&mut self, name: &str) -> usize {
        if let Some(&slot) = self.slots.get(name) {
            return slot;
        }
        self.columns.push(Column { name: name.to_owned(), kind: Kind::Empty, values: Vec::new(), number: Kind::Empty });
        self.slots.insert(name.to_owned(), self.columns.len() - 1);
        self.columns.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::schema::{schema_text, type_name};
    use proptest::prelude::*;

    fn inferred(values: &[&str]) -> String {
        type_name(&values.iter().map(|value| Kind::of(value.as_bytes())).fold(Kind::Empty, Kind::join).data_type())
    }

    #[test]
    fn a_column_gets_the_narrowest_type_that_holds_its_values() {
        assert_eq!(inferred(&["1", "", "-20"]), "int");
        assert_eq!(inferred(&["1", "2.50", "0.125"]), "decimal(38,3)");
        assert_eq!(inferred(&["1.5", "1e3"]), "float");
        assert_eq!(inferred(&["9223372036854775808"]), "decimal(38,0)");
        assert_eq!(inferred(&["2024-02-29", "2024-03-01"]), "date");
        assert_eq!(inferred(&["2024-02-29", "2024-03-01 10:00:00"]), "timestamp");
        assert_eq!(inferred(&["true", "FALSE"]), "bool");
        for text in [
            &["007"][..],
            &["+1"],
            &["1", "x"],
            &["2023-02-29"],
            &["", ""],
            &["true", "1"],
            &["1.2.3"],
            &["-"],
            &["."],
            &["1e"],
            &["nan"],
            &["1,5"],
        ] {
            assert_eq!(inferred(text), "text", "{text:?}");
        }
    }

    #[test]
    fn numbers_with_more_digits_than_a_decimal_keeps_stay_text() {
        let long = "1".repeat(39);
        assert_eq!(inferred(&[&long]), "text");
        assert_eq!(inferred(&["0.00000000000000000001", "12345678901234567890"]), "text");
    }

    #[test]
    fn columns_are_found_by_name_in_each_file() {
        let comma = Dialect { delimiter: b',', quotes: true };
        let mut inference = Inference::default();
        inference.delimited(&["a".into(), "b".into()], b"1,x\n\"2\",\"\"\nragged\n", comma);
        inference.delimited(&["b".into(), "a".into()], b"y,2.5\n", comma);
        assert_eq!(schema_text(&inference.schema()), "a: decimal(38,1), b: text");
    }

    #[test]
    fn json_says_itself_what_is_a_number() {
        let mut inference = Inference::default();
        inference.json(b"{\"n\":1,\"x\":1.5,\"s\":\"1\",\"b\":true}\nnot json\n{\"n\":null,\"x\":2,\"z\":null}\n");
        assert_eq!(schema_text(&inference.schema()), "b: bool, n: int, s: text, x: decimal(38,1), z: text");
        let mut nested = Inference::default();
        nested.json(b"{\"a\":[1,2],\"o\":{\"x\":1},\"m\":1}\n{\"a\":[3.5],\"m\":{\"x\":1}}\n");
        let schema = nested.schema();
        assert!(matches!(schema.field_with_name("a").unwrap().data_type(), DataType::List(_)));
        assert!(matches!(schema.field_with_name("o").unwrap().data_type(), DataType::Struct(_)));
        assert_eq!(*schema.field_with_name("m").unwrap().data_type(), DataType::Utf8);
    }

    #[test]
    fn json_numbers_keep_all_their_digits() {
        let inferred = |lines: &[&str]| {
            let mut inference = Inference::default();
            lines.iter().for_each(|lines| inference.json(lines.as_bytes()));
            schema_text(&inference.schema())
        };
        assert_eq!(inferred(&["{\"x\":2.50}\n{\"x\":0.12345678901234567890}\n{}", "{\"x\":7}\n{\"x\":null}\n"]), "x: decimal(38,20)");
        assert_eq!(inferred(&["{\"x\":18446744073709551616}"]), "x: decimal(38,0)");
        assert_eq!(inferred(&["{\"x\":1.5}", "{\"x\":1e-7}"]), "x: float");
        assert_eq!(inferred(&["{\"x\":1.5}", "{\"x\":\"1.5\"}"]), "x: text");
        assert_eq!(inferred(&[&format!("{{\"x\":{}.5}}", "1".repeat(38))]), "x: float");
        assert_eq!(inferred(&["{\"x\":1}", "{\"y\":2}"]), "x: int, y: int");
    }

    fn value() -> impl Strategy<Value = String> {
        prop_oneof!["-?[0-9]{0,21}\\.?[0-9]{0,4}", "-?[0-9]{1,3}e[0-9]", "(true|x|)", "2024-0[0-9]-1[0-9]( 10:00:00)?"]
    }

    proptest! {
        #[test]
        fn the_order_of_the_values_does_not_matter(values in proptest::collection::vec(value(), 0..8), cut in 0usize..8) {
            let join = |values: &[String]| values.iter().map(|value| Kind::of(value.as_bytes())).fold(Kind::Empty, Kind::join);
            let (front, back) = values.split_at(cut.min(values.len()));
            prop_assert_eq!(join(front).join(join(back)), join(&values));
            prop_assert_eq!(join(back).join(join(front)), join(&values));
        }
    }
}
