//! One schema for all files: which column types there are, and a file's columns in the types of the plan.
//!
//! Files of columns keep text in many ways (long offsets, views, dictionaries); a job sees one. Files of one input may also
//! differ in the order of their columns and in the width of their numbers; columns are found by name and cast, and a value that
//! does not survive the cast is an error, never a null.

use arrow::array::{Array, ArrayRef};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use std::sync::Arc;

/// The type in which a job sees a column that a file keeps in this one.
pub(crate) fn visible_type(stored: &DataType) -> DataType {
    match stored {
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, value) => visible_type(value),
        DataType::RunEndEncoded(_, value) => visible_type(value.data_type()),
        // The same moments, told in UTC: what a named zone's clocks have shown is not in the file.
        DataType::Timestamp(unit, Some(zone)) if !zone.starts_with(['+', '-']) => DataType::Timestamp(*unit, Some("+00:00".into())),
        other => other.clone(),
    }
}

/// The schema in which a job sees a file of columns; every column may hold nulls, as it may in the next file.
pub(crate) fn visible_schema(stored: &Schema) -> Schema {
    let visible = |field: &Arc<Field>| Field::new(field.name(), visible_type(field.data_type()), true);
    Schema::new(stored.fields().iter().map(visible).collect::<Vec<_>>())
}

/// Where the columns of `schema` stand among these; the error says which one is missing.
pub(crate) fn positions<'a>(schema: &Schema, names: impl Iterator<Item = &'a str> + Clone) -> Result<Vec<usize>, String> {
    let find = |name: &String| {
        names.clone().position(|known| known == name).ok_or_else(|| {
            let known = names.clone().collect::<Vec<_>>().join(", ");
            format!("there is no column '{name}'; the columns are {known}")
        })
    };
    schema.fields().iter().map(|field| find(field.name())).collect()
}

/// A batch of a file as one of `schema`: columns by name, in its order and types. Dictionaries of a column's type stay where
/// they are wanted.
pub(crate) fn conform(batch: &RecordBatch, schema: &SchemaRef, keep_dictionaries: bool) -> Result<RecordBatch, String> {
    let names = batch.schema_ref().fields().iter().map(|field| field.name().as_str());
    let positions = positions(schema, names)?;
    let columns = schema.fields().iter().zip(positions).map(|(field, position)| column(batch.column(position), field, keep_dictionaries));
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let schema = with_types_of(schema, &columns);
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema, columns, &options).map_err(|error| error.to_string())
}

fn column(stored: &ArrayRef, field: &Field, keep_dictionaries: bool) -> Result<ArrayRef, String> {
    let kept = keep_dictionaries && matches!(stored.data_type(), DataType::Dictionary(_, value) if **value == *field.data_type());
    if kept || stored.data_type() == field.data_type() {
        return Ok(stored.clone());
    }
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(stored, field.data_type(), &strict).map_err(|error| format!("column '{}': {error}", field.name()))
}

/// The schema with the types that these columns have.
pub(crate) fn with_types_of(schema: &SchemaRef, columns: &[ArrayRef]) -> SchemaRef {
    if columns.iter().zip(schema.fields()).all(|(column, field)| column.data_type() == field.data_type()) {
        return schema.clone();
    }
    let fields = schema.fields().iter().zip(columns).map(|(field, column)| Field::new(field.name(), column.data_type().clone(), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::TimestampSecondArray;
    use arrow::datatypes::TimeUnit;
    use arrow::util::display::array_value_to_string;

    #[test]
    fn timestamps_of_named_zones_are_the_same_moments_in_utc() {
        for zone in ["America/New_York", "UTC", "Etc/GMT+3"] {
            let moments: ArrayRef = Arc::new(TimestampSecondArray::from(vec![Some(1_700_000_000), None]).with_timezone(zone));
            let batch = RecordBatch::try_from_iter([("at", moments)]).unwrap();
            let schema = Arc::new(visible_schema(batch.schema_ref()));
            let seen = conform(&batch, &schema, false).unwrap();
            assert_eq!(*seen.schema().field(0).data_type(), DataType::Timestamp(TimeUnit::Second, Some("+00:00".into())));
            assert_eq!(array_value_to_string(seen.column(0), 0).unwrap(), "2023-11-14T22:13:20Z", "{zone}");
            assert!(seen.column(0).is_null(1));
        }
        let offset = DataType::Timestamp(TimeUnit::Second, Some("+02:00".into()));
        assert_eq!(visible_type(&offset), offset);
    }
}
