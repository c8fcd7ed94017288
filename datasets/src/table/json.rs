//! A block of JSON lines as Arrow columns.
//!
//! Owns the isolation of bad lines; the values themselves are `arrow-json`'s business. A whole block is decoded at once, and
//! only when that fails, or finds another number of values than of lines, is it decoded line by line: then each line that is
//! not exactly one object of the schema's types is set aside with its cause. Lines of white space are no records; members that
//! the schema does not name are skipped, missing ones are null.

use super::BadRow;
use super::csv::Decoded;
use crate::block::lines;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::json::ReaderBuilder;
use arrow::json::reader::Decoder;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

/// Decodes blocks of JSON lines.
pub(crate) struct JsonDecoder {
    schema: SchemaRef,
}

impl JsonDecoder {
    /// A decoder to columns of this schema.
    pub(crate) fn new(schema: SchemaRef) -> Self {
        Self { schema }
    }

    /// Decodes a block of whole lines, the first of which is number `first_record` and begins at `offset` of the file; the error
    /// says which type of the schema JSON cannot hold.
    pub(crate) fn decode(&self, block: &[u8], first_record: u64, offset: u64) -> Result<Decoded, String> {
        let records = records(block).count();
        let mut decoder = self.decoder(records)?;
        match decode(&mut decoder, block, &self.schema) {
            Ok(batch) if batch.num_rows() == records => Ok(Decoded { batch, records: records as u64, bad: Vec::new() }),
            _ => self.decode_lines(block, first_record, offset),
        }
    }

    fn decode_lines(&self, block: &[u8], first_record: u64, offset: u64) -> Result<Decoded, String> {
        let (mut good, mut bad, mut count) = (Vec::new(), Vec::new(), 0);
        for (start, line) in records(block) {
            // A decoder that has failed is of no further use.
            match decode(&mut self.decoder(1)?, line, &self.schema) {
                Ok(batch) if batch.num_rows() == 1 => good.push(batch),
                outcome => {
                    let cause = match outcome {
                        Ok(batch) => format!("{} values where a line has one", batch.num_rows()),
                        Err(error) => format!("{}; types can be given with --schema", message(error)),
                    };
                    bad.push(BadRow { record: first_record + count, offset: offset + start as u64, bytes: line.to_vec(), cause });
                }
            }
            count += 1;
        }
        let batch = concat_batches(&self.schema, &good).map_err(|error| error.to_string())?;
        Ok(Decoded { batch, records: count, bad })
    }

    fn decoder(&self, rows: usize) -> Result<Decoder, String> {
        let builder = ReaderBuilder::new(self.schema.clone()).with_batch_size(rows.max(1)).with_coerce_primitive(true);
        builder.build_decoder().map_err(message)
    }
}

/// The lines that hold anything, with where they begin.
pub(crate) fn records(block: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    lines(block).filter(|(_, line)| !line.trim_ascii().is_empty())
}

fn decode(decoder: &mut Decoder, json: &[u8], schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let used = decoder.decode(json)?;
    let whole = decoder.flush()?;
    if used < json.len() && !json[used..].trim_ascii().is_empty() {
        return Err(ArrowError::JsonError("more values than lines".to_owned()));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(0));
    whole.map_or_else(|| RecordBatch::try_new_with_options(schema.clone(), empty_columns(schema), &options), Ok)
}

fn empty_columns(schema: &SchemaRef) -> Vec<arrow::array::ArrayRef> {
    schema.fields().iter().map(|field| arrow::array::new_empty_array(field.data_type())).collect()
}

/// What arrow says, without the name of its error.
fn message(error: ArrowError) -> String {
    match error {
        ArrowError::JsonError(text) | ArrowError::ParseError(text) | ArrowError::InvalidArgumentError(text) => text,
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::schema::parse_schema;
    use arrow::array::Array;
    use arrow::util::display::array_value_to_string;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn decode(schema: &str, block: &str) -> Decoded {
        JsonDecoder::new(Arc::new(parse_schema(schema).unwrap())).decode(block.as_bytes(), 5, 100).unwrap()
    }

    /// Rows as lines, values separated by bars, nulls as nothing.
    fn text(decoded: &Decoded) -> String {
        let cell = |row, column: &arrow::array::ArrayRef| {
            if column.is_valid(row) { array_value_to_string(column, row).unwrap() } else { String::new() }
        };
        let row = |row| decoded.batch.columns().iter().map(|column| cell(row, column)).collect::<Vec<_>>().join("|");
        (0..decoded.batch.num_rows()).map(row).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn members_are_found_by_name_and_missing_ones_are_null() {
        let decoded = decode("n: int, s: text", "{\"s\":\"a\",\"n\":1,\"x\":[{}]}\n\n  \r\n{\"n\":2}");
        assert_eq!(text(&decoded), "1|a\n2|");
        assert_eq!(decoded.records, 2);
    }

    #[test]
    fn decimals_are_exact() {
        let decoded = decode("d: decimal(20,4)", "{\"d\":1234567890123456.7891}\n{\"d\":\"0.1\"}\n");
        assert_eq!(text(&decoded), "1234567890123456.7891\n0.1000");
    }

    #[test]
    fn bad_lines_are_set_aside_one_by_one() {
        let decoded = decode("n: int", "{\"n\":1}\n{\"n\":\"x\"}\n{\"n\":2\n{\"n\":3} {\"n\":4}\n[1]\n\n{\"n\":5}\n");
        assert_eq!(text(&decoded), "1\n5");
        let places = decoded.bad.iter().map(|bad| (bad.record, bad.offset, bad.bytes.len())).collect::<Vec<_>>();
        assert_eq!(places, [(6, 108, 9), (7, 118, 6), (8, 125, 15), (9, 141, 3)]);
        assert!(decoded.bad[0].cause.contains("--schema"), "{}", decoded.bad[0].cause);
        assert_eq!(decoded.records, 6);
    }

    proptest! {
        #[test]
        fn every_line_is_a_row_or_set_aside(lines in proptest::collection::vec("\\{\"n\":[0-9]{1,2}\\}|[{}\", 1n:]{0,6}", 0..12)) {
            let decoded = decode("n: int", &lines.join("\n"));
            let records = lines.iter().filter(|line| !line.trim().is_empty()).count();
            prop_assert_eq!(decoded.records as usize, records);
            prop_assert_eq!(decoded.batch.num_rows() + decoded.bad.len(), records);
            // A line decodes the same whatever stands around it.
            let alone = lines.iter().map(|line| decode("n: int", line).batch.num_rows()).sum::<usize>();
            prop_assert_eq!(decoded.batch.num_rows(), alone);
        }
    }
}
