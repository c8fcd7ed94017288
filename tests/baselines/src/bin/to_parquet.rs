//! Writes the generated sales as Parquet: `to_parquet IN.csv OUT.parquet`.
//!
//! The layout is the one that pyarrow gives such a file: snappy, row groups of 262,144 rows, pages of 1 MiB, dictionaries
//! for the four columns with few values.

use std::error::Error;
use std::fs::File;
use std::sync::Arc;

use arrow::array::{ArrayBuilder, ArrayRef, PrimitiveBuilder, RecordBatch, StringBuilder};
use arrow::compute::kernels::cast_utils::Parser;
use arrow::datatypes::{DataType, Field, Float64Type, Int32Type, Int64Type, Schema, TimeUnit, TimestampMicrosecondType};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;

const ROW_GROUP: usize = 262_144;
const BATCH: usize = 8_192;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, input, output] = arguments.as_slice() else {
        return Err("usage: to_parquet IN.csv OUT.parquet".into());
    };
    let schema = Arc::new(schema());
    let file = File::create(output)?;
    let mut writer = ArrowWriter::try_new(file, schema.clone(), Some(properties()))?;
    let mut reader = csv::ReaderBuilder::new().buffer_capacity(1 << 20).from_path(input)?;
    let mut columns: Vec<Column> = schema.fields().iter().map(|field| Column::of(field)).collect();
    let mut record = csv::StringRecord::new();
    let (mut rows, mut more) = (0, true);
    while more {
        let mut pending = 0;
        while pending < BATCH {
            more = reader.read_record(&mut record)?;
            if !more {
                break;
            }
            for (column, value) in columns.iter_mut().zip(&record) {
                column.append(value)?;
            }
            pending += 1;
        }
        let arrays = columns.iter_mut().map(Column::finish).collect();
        writer.write(&RecordBatch::try_new(schema.clone(), arrays)?)?;
        rows += pending;
    }
    writer.close()?;
    println!("{rows} rows");
    Ok(())
}

fn schema() -> Schema {
    let timestamp = DataType::Timestamp(TimeUnit::Microsecond, None);
    let columns = [
        ("id", DataType::Int64),
        ("ts", timestamp),
        ("vendor", DataType::Int32),
        ("city", DataType::Utf8),
        ("category", DataType::Utf8),
        ("quantity", DataType::Int32),
        ("price", DataType::Float64),
        ("discount", DataType::Float64),
        ("customer", DataType::Utf8),
        ("note", DataType::Utf8),
    ];
    Schema::new(columns.map(|(name, kind)| Field::new(name, kind, true)).to_vec())
}

fn properties() -> WriterProperties {
    let plain = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_max_row_group_row_count(Some(ROW_GROUP))
        .set_data_page_row_count_limit(usize::MAX)
        .set_dictionary_enabled(false);
    ["city", "category", "vendor", "quantity"]
        .into_iter()
        .fold(plain, |properties, name| properties.set_column_dictionary_enabled(ColumnPath::from(name), true))
        .build()
}

/// One column of the batch that is being filled.
enum Column {
    Int32(PrimitiveBuilder<Int32Type>),
    Int64(PrimitiveBuilder<Int64Type>),
    Float64(PrimitiveBuilder<Float64Type>),
    Timestamp(PrimitiveBuilder<TimestampMicrosecondType>),
    Text(StringBuilder),
}

impl Column {
    fn of(field: &Field) -> Self {
        match field.data_type() {
            DataType::Int32 => Column::Int32(PrimitiveBuilder::new()),
            DataType::Int64 => Column::Int64(PrimitiveBuilder::new()),
            DataType::Float64 => Column::Float64(PrimitiveBuilder::new()),
            DataType::Timestamp(..) => Column::Timestamp(PrimitiveBuilder::new()),
            _ => Column::Text(StringBuilder::new()),
        }
    }

    fn append(&mut self, value: &str) -> Result<(), String> {
        let bad = || format!("{value:?} does not fit its column");
        match self {
            Column::Int32(column) => column.append_value(Int32Type::parse(value).ok_or_else(bad)?),
            Column::Int64(column) => column.append_value(Int64Type::parse(value).ok_or_else(bad)?),
            Column::Float64(column) => {
                column.append_value(Float64Type::parse(value).ok_or_else(bad)?);
            }
            Column::Timestamp(column) => {
                column.append_value(TimestampMicrosecondType::parse(value).ok_or_else(bad)?);
            }
            Column::Text(column) => column.append_value(value),
        }
        Ok(())
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Column::Int32(column) => ArrayBuilder::finish(column),
            Column::Int64(column) => ArrayBuilder::finish(column),
            Column::Float64(column) => ArrayBuilder::finish(column),
            Column::Timestamp(column) => ArrayBuilder::finish(column),
            Column::Text(column) => ArrayBuilder::finish(column),
        }
    }
}
