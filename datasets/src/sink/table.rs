//! Batches on their way into a part: checked against the part's schema, brought to plain types, and
//! handed on in small pieces.
//!
//! Plain types are those without a choice of representation: a dictionary becomes its values, a view
//! its bytes. How a dictionary was numbered depends on how rows were fed, and parts must not.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};

use super::error::Fault;

/// No piece of a batch has more rows than this,
const PIECE_ROWS: usize = 1024;
/// nor, unless it is a single row, clearly more bytes than this.
pub(super) const PIECE_BYTES: usize = 1 << 20;

/// Which types a part's columns have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Those of the schema, made plain.
    Columnar,
    /// The same for a text, in which named time zones stand as offsets.
    Text,
}

/// The schema that a part of this kind has for a schema asked for.
pub(super) fn plain_schema(schema: &Schema, kind: Kind) -> SchemaRef {
    let fields: Vec<FieldRef> = schema.fields().iter().map(|field| plain_field(field, kind)).collect();
    Arc::new(Schema::new(fields))
}

fn plain_field(field: &Field, kind: Kind) -> FieldRef {
    Arc::new(Field::new(field.name(), plain_type(field.data_type(), kind), field.is_nullable()))
}

fn plain_type(data_type: &DataType, kind: Kind) -> DataType {
    use DataType::*;
    match data_type {
        Dictionary(_, values) => plain_type(values, kind),
        RunEndEncoded(_, values) => plain_type(values.data_type(), kind),
        Utf8View => Utf8,
        BinaryView => Binary,
        List(item) => List(plain_field(item, kind)),
        LargeList(item) => LargeList(plain_field(item, kind)),
        FixedSizeList(item, size) => FixedSizeList(plain_field(item, kind), *size),
        Struct(fields) => Struct(fields.iter().map(|field| plain_field(field, kind)).collect()),
        Map(entries, sorted) => Map(plain_field(entries, kind), *sorted),
        // Formatting knows offsets only, and Parquet files name this zone.
        Timestamp(unit, Some(zone)) if kind == Kind::Text && matches!(&**zone, "UTC" | "Etc/UTC" | "GMT") => {
            Timestamp(*unit, Some("+00:00".into()))
        }
        other => other.clone(),
    }
}

/// Hands a batch to `each`, piece by piece, every piece with exactly the columns of `schema`.
///
/// Where there is no schema, the batch's own columns are made plain.
pub(super) fn for_each_piece(
    batch: &RecordBatch,
    schema: Option<&SchemaRef>,
    kind: Kind,
    mut each: impl FnMut(&RecordBatch) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let own;
    let schema = match schema {
        Some(schema) => schema,
        None => {
            own = plain_schema(batch.schema_ref(), kind);
            &own
        }
    };
    check_columns(batch.schema_ref(), schema, kind)?;
    let mut from = 0;
    while from < batch.num_rows() {
        let piece = piece_at(batch, from);
        from += piece.num_rows();
        each(&conform(&piece, schema)?)?;
    }
    Ok(())
}

fn check_columns(given: &SchemaRef, wanted: &SchemaRef, kind: Kind) -> Result<(), Fault> {
    if Arc::ptr_eq(given, wanted) {
        return Ok(());
    }
    if given.fields().len() != wanted.fields().len() {
        let (given, wanted) = (given.fields().len(), wanted.fields().len());
        return Err(Fault::Data(format!("it has {given} columns, the schema has {wanted}")));
    }
    for (position, (given, wanted)) in given.fields().iter().zip(wanted.fields()).enumerate() {
        if given.name() != wanted.name() {
            let (given, wanted) = (given.name(), wanted.name());
            return Err(Fault::Data(format!("column {position} is `{given}`, the schema has `{wanted}`")));
        }
        if !plain_type(given.data_type(), kind).equals_datatype(wanted.data_type()) {
            let (name, given, wanted) = (given.name(), given.data_type(), wanted.data_type());
            return Err(Fault::Data(format!("column `{name}` is {given}, the schema has {wanted}")));
        }
    }
    Ok(())
}

fn conform(piece: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, Fault> {
    let columns: Result<Vec<ArrayRef>, Fault> = piece
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| {
            if column.data_type() == field.data_type() {
                Ok(column.clone())
            } else {
                cast(column, field.data_type()).map_err(|error| Fault::Data(format!("column `{}`: {error}", field.name())))
            }
        })
        .collect();
    Ok(RecordBatch::try_new(schema.clone(), columns?)?)
}

/// The next piece of a batch from row `from` on.
fn piece_at(batch: &RecordBatch, from: usize) -> RecordBatch {
    let mut rows = PIECE_ROWS.min(batch.num_rows() - from);
    loop {
        let piece = batch.slice(from, rows);
        if rows == 1 || piece.columns().iter().map(weight).sum::<usize>() <= PIECE_BYTES {
            return piece;
        }
        rows /= 2;
    }
}

/// About how many bytes an array's values take once they are plain.
fn weight(array: &ArrayRef) -> usize {
    match array.data_type() {
        DataType::Dictionary(..) => {
            let values = array.as_any_dictionary().values();
            array.len() * (4 + weight(values) / values.len().max(1))
        }
        DataType::Utf8View => array.as_string_view().lengths().map(|length| length as usize + 8).sum(),
        DataType::BinaryView => array.as_binary_view().lengths().map(|length| length as usize + 8).sum(),
        // Fails only for types that are not laid out in buffers; those are refused beforehand.
        _ => array.to_data().get_slice_memory_size().unwrap_or(0),
    }
}
