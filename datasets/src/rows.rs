//! Rows: records as values of a job's own type, from every format that has columns.
//!
//! Owns the way from one record to one value: the columns that the type has are found by name in each file, and `serde` does the
//! rest. A record that does not make a value is given out as such, with the cause; it is the engine that counts and keeps it.
//! Decimals of Arrow and Parquet files come as text, since `serde` has no word for them; dates and times as well.
//! Batches of columns are `table`'s; so are the fields of a CSV record and the rows of a Parquet file, which are taken from there.

use crate::block::{Block, BlockReader, Framing};
use crate::error::ReadError;
use crate::format::Format;
use crate::format::csv::{CsvOptions, Dialect};
use crate::guard::guarded;
use crate::limits::{Limits, Room};
use crate::listing::InputFile;
use crate::shard::Piece;
use crate::table::csv::{UNCLOSED, is_unclosed, unquote};
use crate::table::split::{FieldIndex, Record};
use crate::table::{TableReader, TableSpec, footer, json};
use ::csv::{ByteRecord, ErrorKind};

use serde::de::{DeserializeOwned, Deserializer, Visitor};
use std::marker::PhantomData;
use std::ops::Range;

/// One record of a shard.
#[derive(Debug)]
pub struct RowItem<'a, T> {
    /// Its number within the shard, from 0; the header is no record.
    pub record: u64,
    /// Where in the (decompressed) file it begins; 0 for Parquet and Arrow.
    pub offset: u64,
    /// The value, or why there is none.
    pub row: Result<T, String>,
    /// The record's bytes without its terminator; none for Parquet and Arrow.
    pub raw: &'a [u8],
}

/// Reads shards, one after the other, as rows.
///
/// ```
/// use shardmill_datasets::rows::RowReader;
/// use shardmill_datasets::{CsvOptions, InputFile, Limits, Piece};
/// #[derive(serde::Deserialize)]
/// struct Sale { n: u32, city: String }
/// # let path = tempfile::Builder::new().suffix(".csv").tempfile()?.into_temp_path();
/// std::fs::write(&path, "city,vendor,n\nGent,6,1\nBergen,7,2\n")?;
/// let file = InputFile::at(&path, None)?;
/// let mut reader = RowReader::<Sale>::new(CsvOptions::default(), Limits::default());
/// reader.open(&file, Some(&["city", "vendor", "n"].map(String::from)), &Piece::Whole { start: 14 })?;
/// let mut sold = 0;
/// while let Some(item) = reader.next()? {
///     sold += item.row.map(|sale| sale.n * u32::from(sale.city != "Gent"))?;
/// }
/// assert_eq!(sold, 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct RowReader<T> {
    csv: CsvOptions,
    limits: Limits,
    room: Room,
    /// The columns that the type has, if it says so.
    wanted: Option<Vec<String>>,
    blocks: BlockReader,
    /// Where the current block begins in the file.
    block_offset: u64,
    /// The number of the next record.
    record: u64,
    source: Source<T>,
    row: PhantomData<fn() -> T>,
}

enum Source<T> {
    Nothing,
    Delimited(Box<Delimited>),
    /// The lines of the block that are left.
    JsonLines(std::vec::IntoIter<Range<usize>>),
    /// The rows of the batch that are left.
    Columns(Box<TableReader>, std::vec::IntoIter<Result<T, String>>),
}

/// The records of a block of CSV, and what is needed to make rows of them.
struct Delimited {
    dialect: Dialect,
    /// How many columns the file has.
    width: u32,
    /// Names and positions of those that are read.
    names: ByteRecord,
    positions: Vec<u32>,
    index: FieldIndex,
    records: std::vec::IntoIter<Record>,
    fields: ByteRecord,
    scratch: Vec<u8>,
}

const BLOCK_BYTES: usize = 256 << 10;

impl<T: DeserializeOwned> RowReader<T> {
    /// Makes a reader that has nothing open yet.
    pub fn new(csv: CsvOptions, limits: Limits) -> Self {
        Self {
            csv,
            limits,
            room: Room::ENDLESS,
            wanted: field_names::<T>(),
            blocks: BlockReader::with_limits(BLOCK_BYTES, limits),
            block_offset: 0,
            record: 0,
            source: Source::Nothing,
            row: PhantomData,
        }
    }

    /// Keeps to `room` as well: a record above it is an error, whatever the limits.
    pub fn within(mut self, room: Room) -> Self {
        self.blocks = self.blocks.within(room);
        self.room = room;
        self
    }

    /// Opens a shard, in place of the one before it. `names` are the columns of a delimited file, in its order; other formats
    /// say themselves what theirs are called.
    ///
    /// # Panics
    /// If the file's format has no columns, a delimited file comes without names, or the piece is not of its format.
    pub fn open(&mut self, file: &InputFile, names: Option<&[String]>, piece: &Piece) -> Result<(), ReadError> {
        (self.source, self.record) = (Source::Nothing, 0);
        self.source = match file.format {
            Format::Csv | Format::Tsv => {
                let names = names.expect("the plan knows the columns of a delimited file");
                let dialect = Dialect { delimiter: file.format.delimiter().unwrap_or(b','), quotes: self.csv.quotes };
                self.blocks.open(file, piece, Framing::Csv { delimiter: dialect.delimiter, quotes: dialect.quotes })?;
                Source::Delimited(Box::new(Delimited::new(dialect, names, self.wanted.as_deref())))
            }
            Format::JsonLines => {
                self.blocks.open(file, piece, Framing::Lines)?;
                Source::JsonLines(Vec::new().into_iter())
            }
            _ => {
                let schema = footer(file)?.schema;
                let wanted = |name: &String| self.wanted.as_ref().is_none_or(|wanted| wanted.contains(name));
                let columns = (0..schema.fields().len()).filter(|&column| wanted(schema.field(column).name())).collect::<Vec<_>>();
                let schema = schema.project(&columns).expect("columns of this schema");
                let mut table = TableReader::new(TableSpec { limits: self.limits, room: self.room, ..TableSpec::new(schema.into()) });
                table.open(file, None, piece)?;
                Source::Columns(Box::new(table), Vec::new().into_iter())
            }
        };
        Ok(())
    }

    /// Returns the next record; nothing at the end of the shard, once the file was checked again.
    #[allow(clippy::should_implement_trait, reason = "a record borrows from the reader")]
    pub fn next(&mut self) -> Result<Option<RowItem<'_, T>>, ReadError> {
        let (bounds, row) = loop {
            let found = match &mut self.source {
                Source::Nothing => return Ok(None),
                Source::Delimited(delimited) => delimited.next(self.blocks.lent()),
                Source::JsonLines(lines) => lines.next().map(|line| (line.clone(), json_row(&self.blocks.lent()[line]))),
                Source::Columns(_, rows) => rows.next().map(|row| (0..0, row)),
            };
            match found {
                Some(found) => break found,
                None if self.refill()? => {}
                None => return Ok(None),
            }
        };
        let record = self.record;
        self.record += 1;
        let offset = self.block_offset + bounds.start as u64;
        Ok(Some(RowItem { record, offset, row, raw: &self.blocks.lent()[bounds] }))
    }

    /// Returns how many bytes of the file, as it lies on disk, were read for the open shard, where the format tells before its end.
    pub fn read_bytes(&self) -> u64 {
        self.blocks.read_bytes()
    }

    /// Gets the next block or batch; false at the end of the shard.
    fn refill(&mut self) -> Result<bool, ReadError> {
        if let Source::Columns(table, rows) = &mut self.source {
            let Some(batch) = table.next()? else { return Ok(false) };
            *rows = column_rows(&batch.batch).into_iter();
            return Ok(true);
        }
        let Some(block) = self.blocks.next()? else { return Ok(false) };
        self.block_offset = block.offset;
        match &mut self.source {
            Source::Delimited(delimited) => delimited.index(&block),
            Source::JsonLines(lines) => {
                let found = json::records(block.bytes).map(|(start, line)| start..start + line.len());
                *lines = found.collect::<Vec<_>>().into_iter();
            }
            Source::Nothing | Source::Columns(..) => {}
        }
        Ok(true)
    }
}

impl Delimited {
    fn new(dialect: Dialect, names: &[String], wanted: Option<&[String]>) -> Self {
        // Of columns with the same name the first counts, as it does for tables.
        let first = |position, name: &String| names.iter().position(|known| known == name) == Some(position);
        let read = |(position, name): &(usize, &String)| first(*position, name) && wanted.is_none_or(|wanted| wanted.contains(name));
        let (positions, names_read): (Vec<_>, Vec<_>) =
            names.iter().enumerate().filter(read).map(|(position, name)| (position as u32, name)).unzip();
        let (index, records, fields, scratch) = Default::default();
        Self { dialect, width: names.len() as u32, names: ByteRecord::from(names_read), positions, index, records, fields, scratch }
    }

    fn index(&mut self, block: &Block<'_>) {
        self.index.fill(block.padded(), block.bytes.len(), self.dialect);
        self.records = self.index.records().collect::<Vec<_>>().into_iter();
    }

    fn next<T: DeserializeOwned>(&mut self, block: &[u8]) -> Option<(Range<usize>, Result<T, String>)> {
        let record = self.records.next()?;
        Some((self.index.record_bounds(record), self.row(block, record)))
    }

    fn row<T: DeserializeOwned>(&mut self, block: &[u8], record: Record) -> Result<T, String> {
        // Quotes that are not closed before go on to the end of the file.
        if self.records.len() == 0 && is_unclosed(&block[self.index.last_field(record)], self.dialect.quotes) {
            return Err(UNCLOSED.to_owned());
        }
        if record.fields != self.width {
            return Err(format!("{} fields where the file has {} columns", record.fields, self.width));
        }
        self.fields.clear();
        for &position in &self.positions {
            let raw = &block[self.index.bounds(record.first, position)];
            self.fields.push_field(unquote(raw, self.dialect.quotes, &mut self.scratch));
        }
        made(|| self.fields.deserialize(Some(&self.names)).map_err(|error| self.cause(&error)))
    }

    /// What was wrong, with the column's name.
    fn cause(&self, error: &::csv::Error) -> String {
        let ErrorKind::Deserialize { err, .. } = error.kind() else { return error.to_string() };
        let column = err.field().and_then(|field| self.names.get(usize::try_from(field).ok()?));
        match column {
            Some(name) => format!("column '{}': {}", String::from_utf8_lossy(name), err.kind()),
            None => err.kind().to_string(),
        }
    }
}

/// Makes a value by the job's own `Deserialize`, which may panic.
fn made<T>(make: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    guarded(make).unwrap_or_else(|message| Err(format!("panicked while a row was made of it: {message}")))
}

fn json_row<T: DeserializeOwned>(line: &[u8]) -> Result<T, String> {
    made(|| serde_json::from_slice(line).map_err(|error| error.to_string()))
}

fn column_rows<T: DeserializeOwned>(batch: &arrow::record_batch::RecordBatch) -> Vec<Result<T, String>> {
    match serde_arrow::Deserializer::from_record_batch(batch) {
        Ok(rows) => rows.iter().map(|row| made(|| T::deserialize(row).map_err(|error| error.message().to_owned()))).collect(),
        // A column of a type that serde has no word for: no row of this batch can be made.
        Err(error) => (0..batch.num_rows()).map(|_| Err(error.message().to_owned())).collect(),
    }
}

/// Names the fields of a plain struct, renamed as `serde` renames them; nothing for types that may take any column.
///
/// Flattened fields and maps take columns that are known only when they are seen, so then all have to be read.
///
/// ```
/// # use shardmill_datasets::rows::field_names;
/// #[derive(serde::Deserialize)]
/// struct Sale { city: String, #[serde(rename = "unit price")] price: f64 }
/// assert_eq!(field_names::<Sale>(), Some(vec!["city".to_owned(), "unit price".to_owned()]));
/// assert_eq!(field_names::<std::collections::HashMap<String, String>>(), None);
/// ```
pub fn field_names<T: DeserializeOwned>() -> Option<Vec<String>> {
    let mut names = None;
    // It always fails: there is nothing to make a value of.
    let _ = T::deserialize(Recorder { names: &mut names });
    names
}

/// A deserializer that notes which fields are asked for, and gives none.
struct Recorder<'a> {
    names: &'a mut Option<Vec<String>>,
}

impl<'de> Deserializer<'de> for Recorder<'_> {
    type Error = serde::de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(serde::de::Error::custom("only the fields are wanted"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        *self.names = Some(fields.iter().map(|&field| field.to_owned()).collect());
        self.deserialize_any(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int32Array, StringArray};
    use arrow::record_batch::RecordBatch;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::fs::File;
    use std::path::Path;
    use std::sync::Arc;
    use tempfile::TempDir;

    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Sale {
        city: String,
        n: Option<i32>,
    }

    fn sale(city: &str, n: Option<i32>) -> Result<Sale, String> {
        Ok(Sale { city: city.to_owned(), n })
    }

    type Item<T> = (u64, u64, Result<T, String>, String);

    fn read<T: DeserializeOwned>(path: &Path, names: Option<&[&str]>, pieces: &[Piece]) -> Vec<Item<T>> {
        let file = InputFile::at(path, None).unwrap();
        let names = names.map(|names| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
        let mut reader = RowReader::<T>::new(CsvOptions::default(), Limits::default());
        let mut items = Vec::new();
        for piece in pieces {
            reader.open(&file, names.as_deref(), piece).unwrap();
            while let Some(item) = reader.next().unwrap() {
                items.push((item.record, item.offset, item.row, String::from_utf8_lossy(item.raw).into_owned()));
            }
        }
        items
    }

    fn with<T: DeserializeOwned>(name: &str, content: &str, names: Option<&[&str]>) -> Vec<Item<T>> {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        read(&path, names, &[Piece::Whole { start: 0 }])
    }

    #[test]
    fn csv_columns_are_found_by_name_and_bad_records_say_why() {
        let items = with::<Sale>("x.csv", "1,\"a, \"\"b\"\"\",x\r\n\r\n,Gent,\nx,Gent,\n1,2\n", Some(&["n", "city", "other"]));
        let bad = |cause: &str| Err(cause.to_owned());
        assert_eq!(
            items,
            [
                (0, 0, sale("a, \"b\"", Some(1)), "1,\"a, \"\"b\"\"\",x".to_owned()),
                (1, 18, sale("Gent", None), ",Gent,".to_owned()),
                (2, 25, bad("column 'n': invalid digit found in string"), "x,Gent,".to_owned()),
                (3, 33, bad("2 fields where the file has 3 columns"), "1,2".to_owned()),
            ]
        );
    }

    #[test]
    fn a_map_gets_every_column() {
        let items = with::<BTreeMap<String, String>>("x.tsv", "1\t2\n", Some(&["a", "b"]));
        assert_eq!(items[0].2, Ok([("a", "1"), ("b", "2")].map(|(a, b)| (a.to_owned(), b.to_owned())).into()));
    }

    #[test]
    fn a_column_that_the_type_needs_and_the_file_has_not_is_named() {
        let items = with::<Sale>("x.csv", "1\n", Some(&["n"]));
        assert!(items[0].2.as_ref().unwrap_err().contains("missing field `city`"), "{items:?}");
    }

    #[test]
    fn json_lines_are_rows_and_bad_ones_say_why() {
        let items = with::<Sale>("x.jsonl", "{\"city\":\"Gent\",\"n\":1,\"x\":[]}\n\n{\"city\":\"Gent\"}\r\nnonsense", None);
        assert_eq!(items[0], (0, 0, sale("Gent", Some(1)), "{\"city\":\"Gent\",\"n\":1,\"x\":[]}".to_owned()));
        assert_eq!(items[1].2, sale("Gent", None));
        assert_eq!((items[2].0, items[2].1, items[2].3.as_str()), (2, 47, "nonsense"));
        assert!(items[2].2.is_err());
    }

    fn batch() -> RecordBatch {
        let n: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), None, Some(3)]));
        let city: ArrayRef = Arc::new(StringArray::from(vec![Some("Gent"), Some("Bergen"), None]));
        let other: ArrayRef = Arc::new(Int32Array::from(vec![7, 8, 9]));
        RecordBatch::try_from_iter_with_nullable([("n", n, true), ("other", other, false), ("city", city, true)]).unwrap()
    }

    #[test]
    fn arrow_files_are_rows() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("x.arrow");
        let mut writer = arrow::ipc::writer::FileWriter::try_new(File::create(&path).unwrap(), &batch().schema()).unwrap();
        writer.write(&batch()).unwrap();
        writer.finish().unwrap();
        let items = read::<Sale>(&path, None, &[Piece::Groups { first: 0, count: 1 }]);
        assert_eq!(items[0], (0, 0, sale("Gent", Some(1)), String::new()));
        assert_eq!(items[1].2, sale("Bergen", None));
        assert!(items[2].2.is_err(), "a null where the type has none: {:?}", items[2]);
    }

    #[test]
    fn decimals_and_dates_of_arrow_files_come_as_text() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("x.arrow");
        let price: ArrayRef = Arc::new(arrow::array::Decimal128Array::from(vec![1250]).with_precision_and_scale(10, 2).unwrap());
        let day: ArrayRef = Arc::new(arrow::array::Date32Array::from(vec![59]));
        let batch = RecordBatch::try_from_iter([("price", price), ("day", day)]).unwrap();
        let mut writer = arrow::ipc::writer::FileWriter::try_new(File::create(&path).unwrap(), &batch.schema()).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
        let items = read::<BTreeMap<String, String>>(&path, None, &[Piece::Groups { first: 0, count: 1 }]);
        let expected = [("price", "12.50"), ("day", "1970-03-01")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(items[0].2, Ok(expected.into()));
    }

    #[cfg(feature = "parquet")]
    #[test]
    fn parquet_files_are_rows() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("x.parquet");
        let mut writer = ::parquet::arrow::ArrowWriter::try_new(File::create(&path).unwrap(), batch().schema(), None).unwrap();
        writer.write(&batch()).unwrap();
        writer.close().unwrap();
        let items = read::<Sale>(&path, None, &[Piece::Groups { first: 0, count: 1 }]);
        assert_eq!(items[0], (0, 0, sale("Gent", Some(1)), String::new()));
        assert_eq!(items[1].2, sale("Bergen", None));
        assert!(items[2].2.is_err(), "{:?}", items[2]);
    }

    #[test]
    fn a_quote_that_is_never_closed_makes_the_last_row_bad() {
        type Any = std::collections::BTreeMap<String, String>;
        let names = Some(&["city", "n"][..]);
        for (name, content) in [("x.csv", "a,1\nb,\"2\n"), ("x.tsv", "a\t1\nb\t\"2\nc\t3"), ("x.csv", "a,1\n\"b,2\n")] {
            let items = with::<Any>(name, content, names);
            assert!(items[0].2.is_ok(), "{content}");
            assert_eq!((items.len(), items[1].2.as_ref().unwrap_err().as_str()), (2, UNCLOSED), "{content}");
        }
        let items = with::<Any>("x.csv", "a,1\nb,\"2\"\n\n", names);
        assert_eq!(items[1].2.as_ref().unwrap()["n"], "2");
    }

    #[test]
    fn newtypes_show_the_fields_of_what_they_wrap() {
        #[derive(serde::Deserialize)]
        #[allow(dead_code)]
        struct Outer(Sale);
        assert_eq!(field_names::<Outer>(), Some(vec!["city".to_owned(), "n".to_owned()]));
        assert_eq!(field_names::<(u8, u8)>(), None);
    }

    proptest! {
        #[test]
        fn rows_are_those_of_the_csv_crate(fields in proptest::collection::vec(("[0-9\"a,]{0,4}|\"[a\n,]{0,4}\"", "[0-9]{0,3}x?"), 1..40)) {
            let content = fields.iter().map(|(city, n)| format!("{city},{n}\n")).collect::<String>();
            let items = with::<Sale>("x.csv", &content, Some(&["city", "n"]));
            let mut reader = ::csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(content.as_bytes());
            let names = ByteRecord::from(vec!["city", "n"]);
            let oracle = reader.byte_records().map(|record| record.unwrap()).map(|record| match record.len() {
                2 => record.deserialize::<Sale>(Some(&names)).ok(),
                _ => None,
            });
            prop_assert_eq!(items.into_iter().map(|item| item.2.ok()).collect::<Vec<_>>(), oracle.collect::<Vec<_>>());
        }
    }
}
