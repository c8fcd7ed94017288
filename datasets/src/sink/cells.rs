//! Batches as records of delimited text: one writer per column, none of which allocates per cell.
//!
//! Numbers and texts are written directly, as `row.rs` writes them; decimals exactly, with all digits
//! of their scale; dates and times as ISO 8601, through arrow's own formatters. A null is empty.

use std::fmt::Write;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, Decimal128Array, GenericByteArray, PrimitiveArray, RecordBatch,
};
use arrow::datatypes::{
    ByteArrayType, DataType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::csv::Record;
use super::error::Fault;

/// Appends the rows of a batch of plain, flat columns.
pub(super) fn write(out: &mut Vec<u8>, delimiter: u8, batch: &RecordBatch) -> Result<(), Fault> {
    let options = FormatOptions::default();
    let mut columns: Vec<Box<dyn Column + '_>> =
        batch.columns().iter().map(|column| column_of(column, &options)).collect::<Result<_, _>>()?;
    for row in 0..batch.num_rows() {
        let mut record = Record::begin(out, delimiter);
        for column in &mut columns {
            column.write(row, &mut record)?;
        }
        record.end();
    }
    Ok(())
}

/// Writes the cells of one column.
trait Column {
    fn write(&mut self, row: usize, record: &mut Record<'_>) -> Result<(), Fault>;
}

/// A column whose cells, where they are not null, are written by a function.
struct Cells<'a, A: ?Sized, F> {
    array: &'a A,
    cell: F,
}

impl<A: Array + ?Sized, F: FnMut(&A, usize, &mut Record<'_>)> Column for Cells<'_, A, F> {
    #[inline]
    fn write(&mut self, row: usize, record: &mut Record<'_>) -> Result<(), Fault> {
        if self.array.is_null(row) {
            record.plain();
        } else {
            (self.cell)(self.array, row, record);
        }
        Ok(())
    }
}

/// A column of any type that arrow can format.
struct Formatted<'a> {
    formatter: ArrayFormatter<'a>,
    text: String,
}

impl Column for Formatted<'_> {
    fn write(&mut self, row: usize, record: &mut Record<'_>) -> Result<(), Fault> {
        self.text.clear();
        write!(self.text, "{}", self.formatter.value(row))
            .map_err(|_| Fault::Data(format!("a value in its row {row} has no text form")))?;
        record.field(self.text.as_bytes());
        Ok(())
    }
}

fn column_of<'a>(column: &'a ArrayRef, options: &'a FormatOptions<'a>) -> Result<Box<dyn Column + 'a>, Fault> {
    Ok(match column.data_type() {
        DataType::Int8 => integers::<Int8Type>(column),
        DataType::Int16 => integers::<Int16Type>(column),
        DataType::Int32 => integers::<Int32Type>(column),
        DataType::Int64 => integers::<Int64Type>(column),
        DataType::UInt8 => integers::<UInt8Type>(column),
        DataType::UInt16 => integers::<UInt16Type>(column),
        DataType::UInt32 => integers::<UInt32Type>(column),
        DataType::UInt64 => integers::<UInt64Type>(column),
        DataType::Float32 => floats::<Float32Type>(column),
        DataType::Float64 => floats::<Float64Type>(column),
        DataType::Boolean => Box::new(Cells {
            array: column.as_boolean(),
            cell: |array: &BooleanArray, row, record: &mut Record<'_>| {
                record.plain().extend_from_slice(if array.value(row) { b"true" } else { b"false" });
            },
        }),
        DataType::Utf8 => bytes(column.as_string::<i32>()),
        DataType::LargeUtf8 => bytes(column.as_string::<i64>()),
        DataType::Binary => bytes(column.as_binary::<i32>()),
        DataType::LargeBinary => bytes(column.as_binary::<i64>()),
        DataType::Decimal128(_, scale) => {
            let scale = *scale;
            Box::new(Cells {
                array: column.as_primitive(),
                cell: move |array: &Decimal128Array, row, record: &mut Record<'_>| {
                    push_decimal(record.plain(), array.value(row), scale);
                },
            })
        }
        _ => Box::new(Formatted { formatter: ArrayFormatter::try_new(column, options)?, text: String::new() }),
    })
}

fn integers<T: ArrowPrimitiveType<Native: itoa::Integer>>(column: &ArrayRef) -> Box<dyn Column + '_> {
    Box::new(Cells {
        array: column.as_primitive(),
        cell: |array: &PrimitiveArray<T>, row, record: &mut Record<'_>| {
            record.plain().extend_from_slice(itoa::Buffer::new().format(array.value(row)).as_bytes());
        },
    })
}

fn floats<T: ArrowPrimitiveType<Native: ryu::Float>>(column: &ArrayRef) -> Box<dyn Column + '_> {
    Box::new(Cells {
        array: column.as_primitive(),
        cell: |array: &PrimitiveArray<T>, row, record: &mut Record<'_>| {
            record.plain().extend_from_slice(ryu::Buffer::new().format(array.value(row)).as_bytes());
        },
    })
}

fn bytes<T: ByteArrayType>(array: &GenericByteArray<T>) -> Box<dyn Column + '_> {
    Box::new(Cells {
        array,
        cell: |array: &GenericByteArray<T>, row, record: &mut Record<'_>| {
            record.field(array.value(row).as_ref());
        },
    })
}

/// Appends `value` · 10^-`scale`, with exactly `scale` digits behind the point.
fn push_decimal(out: &mut Vec<u8>, value: i128, scale: i8) {
    if value < 0 {
        out.push(b'-');
    }
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(value.unsigned_abs()).as_bytes();
    match usize::try_from(scale) {
        Ok(0) => out.extend_from_slice(digits),
        Ok(scale) if digits.len() > scale => {
            let (whole, fraction) = digits.split_at(digits.len() - scale);
            out.extend_from_slice(whole);
            out.push(b'.');
            out.extend_from_slice(fraction);
        }
        Ok(scale) => {
            out.extend_from_slice(b"0.");
            out.resize(out.len() + scale - digits.len(), b'0');
            out.extend_from_slice(digits);
        }
        Err(_) => {
            out.extend_from_slice(digits);
            out.resize(out.len() + usize::from(scale.unsigned_abs()), b'0');
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        BinaryArray, Date32Array, Float32Array, Float64Array, Int64Array, StringArray, Time64MicrosecondArray, TimestampMicrosecondArray,
        UInt8Array,
    };
    use proptest::prelude::*;

    use super::*;

    fn text_of(batch: &RecordBatch) -> String {
        let mut out = Vec::new();
        write(&mut out, b',', batch).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn batch(columns: Vec<ArrayRef>) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().enumerate().map(|(at, column)| (format!("c{at}"), column, true)))
            .unwrap()
    }

    proptest! {
        #[test]
        fn batches_are_the_text_that_arrows_own_csv_writer_makes(
            rows in prop::collection::vec(
                (any::<Option<i64>>(), any::<Option<u8>>(), any::<Option<bool>>(), any::<Option<f64>>(), any::<Option<f32>>(),
                 prop::option::of("[a-z,\"\n\rä]{0,20}"),
                 prop::option::of(-99_999_999_999_999_999i128..=99_999_999_999_999_999)),
                1..20),
            days: [Option<i16>; 4],
            scale in -3i8..=20,
        ) {
            // A column that the other writer is slow and unlike at, and one more than it gets.
            let day = |row: usize| days[row % 4];
            let batch = batch(vec![
                Arc::new(rows.iter().map(|row| row.0).collect::<Int64Array>()),
                Arc::new(rows.iter().map(|row| row.1).collect::<UInt8Array>()),
                Arc::new(rows.iter().map(|row| row.2).collect::<BooleanArray>()),
                Arc::new(rows.iter().map(|row| row.3).collect::<Float64Array>()),
                Arc::new(rows.iter().map(|row| row.4).collect::<Float32Array>()),
                Arc::new(rows.iter().map(|row| row.5.clone()).collect::<StringArray>()),
                Arc::new(rows.iter().map(|row| row.6).collect::<Decimal128Array>()
                    .with_precision_and_scale(38, scale).unwrap()),
                Arc::new((0..rows.len()).map(|row| day(row).map(i32::from)).collect::<Date32Array>()),
                Arc::new((0..rows.len()).map(|row| day(row).map(|day| i64::from(day) * 1_000_003)).collect::<TimestampMicrosecondArray>()),
                Arc::new((0..rows.len()).map(|row| day(row).map(|day| i64::from(day.unsigned_abs()) * 1_000_003)).collect::<Time64MicrosecondArray>()),
            ]);
            let mut theirs = arrow::csv::WriterBuilder::new().with_header(false).build(Vec::new());
            theirs.write(&batch).unwrap();
            prop_assert_eq!(text_of(&batch), String::from_utf8(theirs.into_inner()).unwrap());
        }
    }

    #[test]
    fn decimals_keep_all_their_digits_at_the_edges() {
        let text = |value, scale| {
            let mut out = Vec::new();
            push_decimal(&mut out, value, scale);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text(0, 0), "0");
        assert_eq!(text(-5, 2), "-0.05");
        assert_eq!(text(100, 2), "1.00");
        assert_eq!(text(i128::MIN, 38), "-1.70141183460469231731687303715884105728");
        assert_eq!(text(7, -3), "7000");
    }

    #[test]
    fn dates_and_times_are_iso_and_binary_is_left_as_it_is() {
        let batch = batch(vec![
            Arc::new(Date32Array::from(vec![19_723])),
            Arc::new(TimestampMicrosecondArray::from(vec![1_704_067_199_500_000])),
            Arc::new(TimestampMicrosecondArray::from(vec![0]).with_timezone("+00:00")),
            Arc::new(BinaryArray::from_vec(vec![b"a,b"])),
        ]);
        assert_eq!(text_of(&batch), "2024-01-01,2023-12-31T23:59:59.500,1970-01-01T00:00:00Z,\"a,b\"\n");
    }
}
