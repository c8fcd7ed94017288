//! Rows and batches as JSON lines.
//!
//! A null is written as `null`, in rows and in batches alike, so that every line has every key; a
//! number that JSON does not have (NaN, an infinity) becomes `null` too. Decimals are numbers with all
//! their digits.

use arrow::array::RecordBatch;
use arrow::json::WriterBuilder;
use arrow::json::writer::LineDelimited;
use serde::Serialize;

use super::error::Fault;
use super::file::Stream;

/// Appends a row as one line. On an error nothing of it is left.
#[inline]
pub(super) fn write_row<T: Serialize>(stream: &mut Stream, row: &T) -> Result<(), Fault> {
    let buffer = stream.buffer();
    let start = buffer.len();
    if let Err(error) = serde_json::to_writer(&mut *buffer, row) {
        buffer.truncate(start);
        return Err(Fault::Data(error.to_string()));
    }
    buffer.push(b'\n');
    Ok(stream.settle()?)
}

/// Appends a batch, a line per row.
pub(super) fn write_batch(stream: &mut Stream, batch: &RecordBatch) -> Result<(), Fault> {
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(stream.buffer());
    writer.write(batch)?;
    writer.finish()?;
    drop(writer);
    Ok(stream.settle()?)
}
