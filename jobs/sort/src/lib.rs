//! Sort: a total order over all parts.
//!
//! Keys are either columns (`city,price:desc`) of any format with columns, or byte ranges (`0..10`) of records of fixed size or lines. Rows with
//! equal keys keep their order. Delimited text is read twice where it matters: every column as the text that it is, to be written
//! again, and the key columns as the types inferred for them, to be compared: so numbers sort as numbers and come out unchanged.

mod key;

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use shardmill::arrow;
use shardmill::output::Rows;
use shardmill::prelude::*;
use shardmill::table::parse_schema;

use key::{ByteKey, ColumnKey, KeySpec};

/// Sorts rows or records.
#[derive(Args, Serialize, Deserialize)]
pub struct Sort {
    /// What to sort by: columns, as 'city,price:desc', or bytes of each record, as '0..10'.
    #[arg(long, value_name = "KEY")]
    pub key: String,
    /// The types of key columns that are not to be inferred, as 'price: decimal(12,2), code: text'.
    #[arg(long, value_name = "COLUMNS")]
    pub schema: Option<String>,
    /// The key, bound to the input.
    #[arg(skip)]
    #[serde(skip)]
    bound: Option<Bound>,
}

/// A key that fits the input.
enum Bound {
    /// Records are bytes.
    Bytes(Vec<ByteKey>),
    /// Records are rows.
    Columns(ColumnSort),
}

/// How rows are compared and carried.
struct ColumnSort {
    /// Where the key's columns are in a batch, with their directions.
    keys: Vec<(usize, ColumnKey)>,
    /// The columns that are written: the first ones of a batch.
    schema: SchemaRef,
    key_rows: RowConverter,
    rows: RowConverter,
}

impl ColumnSort {
    /// `read` is the schema of batches, `written` the columns that are written.
    fn new(keys: Vec<(usize, ColumnKey)>, read: &Schema, written: SchemaRef) -> Result<Self> {
        let key_fields = keys.iter().map(|(index, key)| SortField::new_with_options(read.field(*index).data_type().clone(), key.options()));
        let fields = written.fields().iter().map(|field| SortField::new(field.data_type().clone()));
        Ok(Self { key_rows: RowConverter::new(key_fields.collect())?, rows: RowConverter::new(fields.collect())?, keys, schema: written })
    }
}

impl Sort {
    /// A job with this key.
    pub fn new(key: &str) -> Self {
        Self { key: key.to_owned(), schema: None, bound: None }
    }

    fn bound(&self) -> &Bound {
        self.bound.as_ref().expect("a job is bound before it runs")
    }

    fn map_batch(&self, columns: &ColumnSort, batch: &RecordBatch, out: &mut Emitter<'_, Self>) -> Result {
        let key_columns: Vec<ArrayRef> = columns.keys.iter().map(|(index, _)| batch.column(*index).clone()).collect();
        let keys = columns.key_rows.convert_columns(&key_columns)?;
        let rows = columns.rows.convert_columns(&batch.columns()[..columns.schema.fields().len()])?;
        for (key, row) in keys.iter().zip(rows.iter()) {
            out.emit(key.as_ref(), row.as_ref());
        }
        Ok(())
    }
}

impl MapReduce for Sort {
    type Input = Any;
    type Key = Vec<u8>;
    type Value = Blob;
    type Combine = NoCombine;
    type Output = Table<Sorted>;

    fn partitioning(&self) -> Partitioning {
        Partitioning::Range
    }

    fn column_types(&self) -> Result<ColumnTypes> {
        Ok(match &self.schema {
            Some(text) => ColumnTypes::Given(parse_schema(text)?.into()),
            None => ColumnTypes::Inferred,
        })
    }

    fn bind(&mut self, schema: Option<&SchemaRef>) -> Result {
        self.bound = Some(match (KeySpec::parse(&self.key)?, schema) {
            (KeySpec::Bytes(ranges), None) => Bound::Bytes(ranges),
            (KeySpec::Columns(keys), Some(schema)) => {
                let keys = keys.into_iter().map(|key| Ok((key.find_in(schema)?, key))).collect::<Result<Vec<_>>>()?;
                Bound::Columns(ColumnSort::new(keys, schema, schema.clone())?)
            }
            (KeySpec::Bytes(_), Some(_)) => {
                return Err(format!("--key {}: this input has columns; name some of them, as 'city,price:desc'", self.key).into());
            }
            (KeySpec::Columns(_), None) => {
                return Err(format!("--key {}: this input has no columns; give a range of bytes, as '0..10'", self.key).into());
            }
        });
        Ok(())
    }

    fn columns_read(&mut self, schema: &SchemaRef) -> SchemaRef {
        let Some(Bound::Columns(columns)) = &self.bound else { return schema.clone() };
        let text = schema.fields().iter().map(|field| Arc::new(Field::new(field.name(), DataType::Utf8, true)));
        let written: SchemaRef = Schema::new(text.collect::<Vec<_>>()).into();
        let count = written.fields().len();
        let typed = columns.keys.iter().map(|(index, _)| schema.fields()[*index].clone());
        let read = Schema::new(written.fields().iter().cloned().chain(typed).collect::<Vec<_>>());
        let keys = columns.keys.iter().enumerate().map(|(place, (_, key))| (count + place, key.clone())).collect();
        if let Ok(columns) = ColumnSort::new(keys, &read, written) {
            self.bound = Some(Bound::Columns(columns));
        }
        read.into()
    }

    fn output_schema(&self) -> Option<SchemaRef> {
        match self.bound() {
            Bound::Bytes(_) => None,
            Bound::Columns(columns) => Some(columns.schema.clone()),
        }
    }

    fn map(&self, record: AnyRecord<'_>, out: &mut Emitter<'_, Self>) -> Result {
        match (record, self.bound()) {
            (AnyRecord::Batch(batch), Bound::Columns(columns)) => self.map_batch(columns, batch, out)?,
            (AnyRecord::Bytes(record), Bound::Bytes(ranges)) => match &ranges[..] {
                [range] if !range.is_descending => out.emit(range.of(record), record),
                ranges => out.emit(&key::of_ranges(ranges, record), record),
            },
            _ => return Err("files with columns and files without cannot be sorted together".into()),
        }
        Ok(())
    }

    fn reduce(&self, _: &[u8], mut records: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result {
        match self.bound() {
            Bound::Bytes(_) => {
                while let Some(record) = records.next_ref() {
                    out.write_record(record)?;
                }
            }
            Bound::Columns(_) => {
                while let Some(row) = records.next_ref() {
                    out.add(|rows| {
                        rows.push(row);
                        Ok(())
                    })?;
                }
            }
        }
        Ok(())
    }
}

/// Rows in their encoded form, on the way to columns.
pub struct Sorted {
    schema: SchemaRef,
    converter: Option<RowConverter>,
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Sorted {
    fn push(&mut self, row: &[u8]) {
        self.bytes.extend_from_slice(row);
        self.ends.push(self.bytes.len());
    }
}

impl Rows<Sort> for Sorted {
    fn new(job: &Sort) -> Self {
        let schema = job.output_schema().unwrap_or_else(|| Schema::empty().into());
        let fields = schema.fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
        Self { converter: RowConverter::new(fields).ok(), schema, bytes: Vec::new(), ends: Vec::new() }
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    fn is_full(&self) -> bool {
        self.ends.len() >= 4096 || self.bytes.len() >= 1 << 20
    }

    fn take(&mut self) -> Result<RecordBatch> {
        let converter = self.converter.as_ref().ok_or("the columns cannot be carried as rows")?;
        let parser = converter.parser();
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let rows = starts.zip(&self.ends).map(|(start, end)| parser.parse(&self.bytes[start..*end]));
        let columns = converter.convert_rows(rows)?;
        self.bytes.clear();
        self.ends.clear();
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }
}
