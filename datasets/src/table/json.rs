//! A block of JSON lines as Arrow columns.
//!
//! Owns the isolation of bad lines, and decimals; the other values are `arrow-json`'s business. A whole block is decoded at once,
//! and only when that fails, or finds another number of values than of lines, is it decoded line by line: then each line that is
//! not exactly one object of the schema's types is set aside with its cause. Lines of white space are no records; members that
//! the schema does not name are skipped, missing ones are null.
//!
//! Decimals are read as the text that stands in the file and then taken exactly, as those of CSV are: `arrow-json` would round
//! one with more digits behind the point than its column has.

use super::BadRow;
use super::csv::Decoded;
use super::number;
use super::schema::type_name;
use crate::block::lines;
use arrow::array::{ArrayRef, AsArray, Decimal128Array};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::reader::Decoder;
use arrow::json::{LineDelimitedWriter, ReaderBuilder};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use std::borrow::Cow;
use std::sync::Arc;

/// Decodes blocks of JSON lines.
pub(crate) struct JsonDecoder {
    schema: SchemaRef,
    /// The same with decimals as text.
    read: SchemaRef,
}

impl JsonDecoder {
    /// A decoder to columns of this schema.
    pub(crate) fn new(schema: SchemaRef) -> Self {
        let as_text = |field: &Arc<Field>| match field.data_type() {
            DataType::Decimal128(_, 0..) => Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8)),
            _ => Arc::clone(field),
        };
        let read = Arc::new(Schema::new(schema.fields().iter().map(as_text).collect::<Vec<_>>()));
        Self { schema, read }
    }

    /// Decodes a block of whole lines, the first of which is number `first_record` and begins at `offset` of the file; the error
    /// says which type of the schema JSON cannot hold.
    pub(crate) fn decode(&self, block: &[u8], first_record: u64, offset: u64) -> Result<Decoded, String> {
        let records = records(block).count();
        match self.decode_all(&mut self.decoder(records)?, block) {
            Ok(batch) if batch.num_rows() == records => Ok(Decoded { batch, records: records as u64, bad: Vec::new() }),
            _ => self.decode_lines(block, first_record, offset),
        }
    }

    fn decode_lines(&self, block: &[u8], first_record: u64, offset: u64) -> Result<Decoded, String> {
        let (mut good, mut bad, mut count) = (Vec::new(), Vec::new(), 0);
        for (start, line) in records(block) {
            // A decoder that has failed is of no further use.
            match self.decode_all(&mut self.decoder(1)?, line) {
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
        let builder = ReaderBuilder::new(self.read.clone()).with_batch_size(rows.max(1)).with_coerce_primitive(true);
        builder.build_decoder().map_err(message)
    }

    fn decode_all(&self, decoder: &mut Decoder, json: &[u8]) -> Result<RecordBatch, ArrowError> {
        let batch = decode(decoder, json, &self.read)?;
        if self.read == self.schema {
            return Ok(batch);
        }
        let columns = batch.columns().iter().zip(self.schema.fields()).map(|(column, field)| match *field.data_type() {
            DataType::Decimal128(precision, scale @ 0..) => decimals(column, field, precision, scale),
            _ => Ok(Arc::clone(column)),
        });
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(self.schema.clone(), columns.collect::<Result<_, _>>()?, &options)
    }
}

/// Decimals from their text; an error names the first that does not fit its column.
fn decimals(text: &ArrayRef, field: &Field, precision: u8, scale: i8) -> Result<ArrayRef, ArrowError> {
    let value = |text: &str| {
        let value = number::decimal(without_exponent(text).as_bytes(), precision, scale.unsigned_abs().into());
        value.ok_or_else(|| ArrowError::JsonError(format!("column '{}': {text:?} is no {}", field.name(), type_name(field.data_type()))))
    };
    let values = text.as_string::<i32>().iter().map(|text| text.map(value).transpose());
    let values = values.collect::<Result<Decimal128Array, _>>()?;
    Ok(Arc::new(values.with_data_type(field.data_type().clone())))
}

/// The same number with all its zeros: JSON writers turn to `1e-7` where numbers become small.
fn without_exponent(text: &str) -> Cow<'_, str> {
    let Some((mantissa, exponent)) = text.split_once(['e', 'E']) else { return text.into() };
    // Beyond this no column has digits.
    let Some(exponent) = exponent.parse::<i32>().ok().filter(|exponent| exponent.abs() <= 100) else { return text.into() };
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |mantissa| ("-", mantissa));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let zeros = "0".repeat(exponent.unsigned_abs() as usize);
    let (front, back) = if exponent < 0 { (zeros.as_str(), "") } else { ("", zeros.as_str()) };
    let digits = [front, whole, fraction, back].concat();
    let point = (front.len() + whole.len()).saturating_add_signed(exponent as isize);
    format!("{sign}{}.{}", &digits[..point], &digits[point..]).into()
}

/// For each name the scalar that each of these lines, all of them objects, has under it, as the text that stands there; nothing if one is
/// no scalar.
pub(crate) fn members_as_text(names: &[&str], lines: &[u8]) -> Vec<Vec<Option<String>>> {
    let fields: Vec<Field> = names.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect();
    let decoder = JsonDecoder::new(Arc::new(Schema::new(fields)));
    let whole = decoder.decoder(records(lines).count()).and_then(|mut rows| decoder.decode_all(&mut rows, lines).map_err(message));
    let texts = |batch: RecordBatch| {
        let columns = batch.columns().iter();
        columns.map(|column| column.as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect()).collect()
    };
    whole.map_or_else(|_| Vec::new(), texts)
}

/// A row as JSON, to be shown; nothing of one that JSON cannot tell.
pub fn row_as_json(row: &RecordBatch) -> Vec<u8> {
    let mut writer = LineDelimitedWriter::new(Vec::new());
    let written = writer.write(row).and_then(|()| writer.finish());
    written.map_or_else(|_| Vec::new(), |()| writer.into_inner().trim_ascii_end().to_vec())
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
    fn decimals_are_never_rounded() {
        let decoded = decode("d: decimal(6,2)", "{\"d\":1.500}\n{\"d\":1.505}\n{\"d\":null}\n{\"d\":99999.5}\n{\"d\":true}\n{\"d\":-2}\n");
        assert_eq!(text(&decoded), "1.50\n\n-2.00");
        let causes = decoded.bad.iter().map(|bad| (bad.record, bad.cause.as_str())).collect::<Vec<_>>();
        let hint = "is no decimal(6,2); types can be given with --schema";
        let cause = |value: &str| format!("column 'd': {value:?} {hint}");
        assert_eq!(causes, [(6, cause("1.505").as_str()), (8, cause("99999.5").as_str()), (9, cause("true").as_str())]);
    }

    #[test]
    fn exponents_move_the_point() {
        let decoded =
            decode("d: decimal(12,4)", "{\"d\":1e2}\n{\"d\":-12.5E-3}\n{\"d\":1.25e+1}\n{\"d\":5e-5}\n{\"d\":1e999}\n{\"d\":0.00012e4}");
        assert_eq!(text(&decoded), "100.0000\n-0.0125\n12.5000\n1.2000");
        assert_eq!(decoded.bad.iter().map(|bad| bad.record).collect::<Vec<_>>(), [8, 9]);
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
