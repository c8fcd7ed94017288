//! A block of CSV records as Arrow columns.
//!
//! Owns what a field *means*: unquoting, nulls, and values that do not fit their column. Where the fields are is found in
//! `split.rs`, how a number is read stands in `number.rs`; blocks are cut from files elsewhere. The second of two passes over a
//! block: column by column, projected columns only, straight into Arrow's buffers.
//!
//! **Nulls.** A field of no bytes is null. A quoted empty field (`""`) is the empty string in a text column, and null in a column
//! of any other type. So with every column read as text, a table loses nothing of a row but its way of quoting: a sink that
//! writes nulls as nothing and empty strings as `""` gives back each field, and each null, as it was.
//!
//! **Bad rows.** A record with too few or too many fields, one that ends with the file and within quotes, and one with a value that
//! its column cannot hold exactly, is set aside with its bytes and the cause; the batch goes on without it. Nothing is rounded, cut off
//! or replaced.

mod dictionary;

use super::conform::{positions, with_types_of};
use super::number;
use super::schema::{quoted, type_name};
use super::split::{Ends, FieldIndex, Record};
use super::{BadRow, infer::Kind};
use crate::format::csv::Dialect;
use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, BooleanArray, BooleanBufferBuilder, PrimitiveArray, StringArray};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::compute::{CastOptions, cast_with_options, filter_record_batch};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Float64Type, Int64Type, SchemaRef, TimeUnit, TimestampMicrosecondType,
};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use dictionary::Dictionary;
use std::ops::Range;
use std::sync::Arc;

/// The text of one field: quotes taken away as the `csv` crate takes them away. `scratch` is used where bytes have to move.
pub(crate) fn unquote<'a>(raw: &'a [u8], quotes: bool, scratch: &'a mut Vec<u8>) -> &'a [u8] {
    let (true, Some(inner)) = (quotes, raw.strip_prefix(b"\"")) else { return raw };
    match memchr::memchr(b'"', inner) {
        None => return inner, // never closed: see `is_unclosed`
        Some(at) if at + 1 == inner.len() => return &inner[..at],
        Some(_) => {}
    }
    scratch.clear();
    let mut rest = inner;
    while let Some(at) = memchr::memchr(b'"', rest) {
        scratch.extend_from_slice(&rest[..at]);
        rest = &rest[at + 1..];
        match rest.strip_prefix(b"\"") {
            Some(after) => {
                scratch.push(b'"');
                rest = after;
            }
            // Closed: whatever follows belongs to the field as it stands, further quotes included.
            None => break,
        }
    }
    scratch.extend_from_slice(rest);
    scratch
}

/// What is wrong with the last record of a file that ends within a quoted field: who knows what else was swallowed by it.
pub(crate) const UNCLOSED: &str = "a quote is opened in its last field and never closed; --csv-quotes none takes quotes as they are";

/// Whether a field opens a quote and never closes it.
pub(crate) fn is_unclosed(raw: &[u8], quotes: bool) -> bool {
    let (true, Some(mut rest)) = (quotes, raw.strip_prefix(b"\"")) else { return false };
    while let Some(at) = memchr::memchr(b'"', rest) {
        match rest[at + 1..].strip_prefix(b"\"") {
            Some(after) => rest = after,
            None => return false,
        }
    }
    true
}

/// What became of one block.
pub(crate) struct Decoded {
    pub(crate) batch: RecordBatch,
    /// How many records the block held, bad ones included.
    pub(crate) records: u64,
    pub(crate) bad: Vec<BadRow>,
}

impl Decoded {
    /// A batch in which every row is good.
    pub(crate) fn good(batch: RecordBatch) -> Self {
        Self { records: batch.num_rows() as u64, batch, bad: Vec::new() }
    }
}

/// Turns blocks into batches, one file after the other. Reuses its index and scratch space.
pub(crate) struct CsvDecoder {
    schema: SchemaRef,
    dialect: Dialect,
    /// Where in the current file's records each column of the schema stands.
    positions: Vec<u32>,
    /// How many fields a record of the current file has.
    width: u32,
    index: FieldIndex,
    /// The records of the block that have the right number of fields.
    firsts: Vec<u32>,
    scratch: Vec<u8>,
    /// For each column, the values seen of a text that may come as a dictionary.
    dictionaries: Vec<Option<Dictionary>>,
}

/// A value that its column cannot hold.
struct BadCell {
    row: usize,
    column: usize,
}

impl CsvDecoder {
    /// A decoder to columns of this schema, text of few values as dictionaries where that is wanted; [`bind`](Self::bind) has to
    /// follow.
    pub(crate) fn new(schema: SchemaRef, dialect: Dialect, makes_dictionaries: bool) -> Self {
        let (index, firsts, scratch) = Default::default();
        let dictionary = |field: &Arc<Field>| (makes_dictionaries && *field.data_type() == DataType::Utf8).then(Dictionary::new);
        let dictionaries = schema.fields().iter().map(dictionary).collect();
        Self { schema, dialect, positions: Vec::new(), width: 0, index, firsts, scratch, dictionaries }
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Begins a shard of a file with these columns, and finds the schema's among them; the error says which one is missing.
    pub(crate) fn bind(&mut self, names: &[String]) -> Result<(), String> {
        let found = positions(&self.schema, names.iter().map(String::as_str))?;
        self.positions = found.into_iter().map(|position| position as u32).collect();
        self.width = names.len() as u32;
        self.dictionaries.iter_mut().flatten().for_each(Dictionary::begin_shard);
        Ok(())
    }

    /// Decodes the whole records `padded[..length]`, the first of which is number `first_record` and begins at `offset` of the file.
    pub(crate) fn decode(&mut self, padded: &[u8], length: usize, first_record: u64, offset: u64) -> Decoded {
        self.index.fill(padded, length, self.dialect);
        let mut records = 0;
        self.firsts.clear();
        let mut last = None;
        for record in self.index.records() {
            records += 1;
            last = Some(record);
            if record.fields == self.width {
                self.firsts.push(record.first);
            }
        }
        // Quotes that are not closed before go on to the end of the file.
        let unclosed = last.filter(|&record| is_unclosed(&padded[..length][self.index.last_field(record)], self.dialect.quotes));
        if unclosed.is_some_and(|record| record.fields == self.width) {
            self.firsts.pop();
        }
        let mut bad_cells = Vec::new();
        let fields = self.schema.fields().iter().zip(&self.positions).zip(&mut self.dictionaries).enumerate();
        let columns = fields.map(|(column, ((field, &position), dictionary))| {
            let places = Places { padded, ends: self.index.ends(), firsts: &self.firsts, position };
            let mut cells = Cells { places, quotes: self.dialect.quotes, scratch: &mut self.scratch, refused: Vec::new() };
            let coded = dictionary.as_mut().and_then(|dictionary| cells.coded(dictionary));
            let array = coded.unwrap_or_else(|| cells.column(field.data_type()));
            bad_cells.extend(cells.refused.into_iter().map(|row| BadCell { row, column }));
            array
        });
        let columns: Vec<ArrayRef> = columns.collect();
        let options = RecordBatchOptions::new().with_row_count(Some(self.firsts.len()));
        let batch = RecordBatch::try_new_with_options(with_types_of(&self.schema, &columns), columns, &options)
            .expect("columns of the schema's types, one value per row");
        if bad_cells.is_empty() && self.firsts.len() as u64 == records {
            return Decoded { batch, records, bad: Vec::new() };
        }
        let bad = self.set_aside(&padded[..length], &mut bad_cells, unclosed, first_record, offset);
        let mut kept = vec![true; batch.num_rows()];
        bad_cells.iter().for_each(|cell| kept[cell.row] = false);
        let batch = filter_record_batch(&batch, &BooleanArray::from(kept)).expect("one flag per row");
        Decoded { batch, records, bad }
    }

    /// The bad rows in order: those with the wrong number of fields, those with a value that was refused, and one that is not closed.
    fn set_aside(&self, block: &[u8], cells: &mut Vec<BadCell>, unclosed: Option<Record>, first_record: u64, offset: u64) -> Vec<BadRow> {
        cells.sort_unstable_by_key(|cell| (cell.row, cell.column));
        cells.dedup_by_key(|cell| cell.row); // the first cause is enough
        let mut cells = cells.iter().peekable();
        let mut row = 0;
        let mut bad = Vec::new();
        for (record, number) in self.index.records().zip(first_record..) {
            let cause = if unclosed == Some(record) {
                Some(UNCLOSED.to_owned())
            } else if record.fields == self.width {
                row += 1;
                cells.next_if(|cell| cell.row + 1 == row).map(|cell| self.refusal(block, record, cell.column))
            } else {
                Some(format!("{} fields where the file has {} columns", record.fields, self.width))
            };
            let bounds = self.index.record_bounds(record);
            bad.extend(cause.map(|cause| BadRow {
                record: number,
                offset: offset + bounds.start as u64,
                bytes: block[bounds].to_vec(),
                cause,
            }));
        }
        bad
    }

    /// Why a value was refused, and the type that would have taken it.
    fn refusal(&self, block: &[u8], record: Record, column: usize) -> String {
        let field = self.schema.field(column);
        let raw = &block[self.index.bounds(record.first, self.positions[column])];
        let mut scratch = Vec::new();
        let text = unquote(raw, self.dialect.quotes, &mut scratch);
        refusal(field, text)
    }
}

/// Why this text is no value of this column, and what `--schema` could say instead.
pub(crate) fn refusal(field: &Field, text: &[u8]) -> String {
    const SHOWN: usize = 60;
    let (name, wanted) = (field.name(), type_name(field.data_type()));
    let Ok(text) = std::str::from_utf8(text) else { return format!("column '{name}' is not utf-8") };
    let shown: String = text.chars().take(SHOWN).collect();
    let more = if shown.len() < text.len() { "…" } else { "" };
    let wider = type_name(&Kind::of_type(field.data_type()).join(Kind::of(text.as_bytes())).data_type());
    let wider = if wider == wanted { "text".to_owned() } else { wider };
    format!("column '{name}': '{shown}{more}' is not a value of type {wanted}; give --schema '{}: {wider}'", quoted(name))
}

/// Where the cells of one column of one block are.
#[derive(Clone, Copy)]
struct Places<'a> {
    padded: &'a [u8],
    ends: Ends<'a>,
    firsts: &'a [u32],
    position: u32,
}

impl<'a> Places<'a> {
    /// Row by row, where its cell lies.
    #[inline(always)]
    fn bounds(self) -> impl ExactSizeIterator<Item = Range<usize>> + use<'a> {
        self.firsts.iter().map(move |&first| self.ends.bounds(first, self.position))
    }
}

/// Reads one column of one block.
struct Cells<'a> {
    places: Places<'a>,
    quotes: bool,
    scratch: &'a mut Vec<u8>,
    /// Rows whose value the column cannot hold.
    refused: Vec<usize>,
}

impl Cells<'_> {
    fn coded(&mut self, dictionary: &mut Dictionary) -> Option<ArrayRef> {
        let column = dictionary.column(self.places, self.quotes, self.scratch, &mut self.refused)?;
        Some(Arc::new(column))
    }

    fn column(&mut self, data_type: &DataType) -> ArrayRef {
        match *data_type {
            DataType::Utf8 => Arc::new(self.text()),
            DataType::Int64 => Arc::new(self.primitive::<Int64Type>(number::short_int, number::int)),
            DataType::Decimal128(precision, scale @ 0..) => {
                let scale = scale.unsigned_abs().into();
                // A short number has at most eight digits, so only small precisions can be exceeded.
                let limit = 10i64.pow(u32::from(precision.min(18)));
                let short =
                    move |word, length| number::short_decimal(word, length, scale).filter(|value| value.abs() < limit).map(i128::from);
                let array = self.primitive::<Decimal128Type>(short, |text| number::decimal(text, precision, scale));
                Arc::new(array.with_data_type(data_type.clone()))
            }
            DataType::Float64 => Arc::new(self.primitive::<Float64Type>(|_, _| None, number::float)),
            DataType::Date32 => Arc::new(self.primitive::<Date32Type>(|_, _| None, number::date)),
            DataType::Timestamp(TimeUnit::Microsecond, None) => {
                Arc::new(self.primitive::<TimestampMicrosecondType>(|_, _| None, number::timestamp))
            }
            DataType::Boolean => Arc::new(self.booleans()),
            _ => self.cast(data_type),
        }
    }

    /// A column of fixed-size values. `short` is tried first on fields of up to eight bytes; what it does not know, `text` decides.
    #[inline(always)]
    fn primitive<T: ArrowPrimitiveType>(
        &mut self,
        short: impl Fn(u64, usize) -> Option<T::Native>,
        text: impl Fn(&[u8]) -> Option<T::Native>,
    ) -> PrimitiveArray<T> {
        let places = self.places;
        let mut absent = Vec::new();
        let value = |(row, bounds): (usize, Range<usize>)| {
            if bounds.len().wrapping_sub(1) < 8 {
                let word = places.padded[bounds.start..].first_chunk().expect("padding behind the block");
                if let Some(value) = short(u64::from_le_bytes(*word), bounds.len()) {
                    return value;
                }
            }
            let value = self.value(row, bounds, &text);
            if value.is_none() {
                absent.push(row);
            }
            value.unwrap_or_default()
        };
        let values: Vec<T::Native> = places.bounds().enumerate().map(value).collect();
        PrimitiveArray::new(ScalarBuffer::from(values), valid_except(&absent, places.firsts.len()))
    }

    fn booleans(&mut self) -> BooleanArray {
        let places = self.places;
        places.bounds().enumerate().map(|(row, bounds)| self.value(row, bounds, &number::boolean)).collect()
    }

    /// The value of a field that is not text. `None` is null, or refused and noted as such.
    #[inline(never)]
    fn value<V>(&mut self, row: usize, bounds: Range<usize>, parse: &impl Fn(&[u8]) -> Option<V>) -> Option<V> {
        let text = unquote(&self.places.padded[bounds], self.quotes, self.scratch);
        if text.is_empty() {
            return None;
        }
        let value = parse(text);
        if value.is_none() {
            self.refused.push(row);
        }
        value
    }

    fn text(&mut self) -> StringArray {
        let places = self.places;
        let rows = places.firsts.len();
        let total: usize = places.bounds().map(|bounds| bounds.len()).sum();
        // A field is copied sixteen bytes at a time, so the last one may write past its end.
        let mut values = vec![0; total + SLACK];
        let mut offsets = Vec::with_capacity(rows + 1);
        let mut absent = Vec::new();
        let mut used = 0;
        offsets.push(0);
        for (row, bounds) in places.bounds().enumerate() {
            let raw = &places.padded[bounds.start..];
            if bounds.is_empty() {
                absent.push(row);
            } else if self.quotes && raw[0] == b'"' {
                let text = unquote(&raw[..bounds.len()], true, self.scratch);
                values[used..used + text.len()].copy_from_slice(text);
                used += text.len();
            } else if bounds.len() <= SLACK {
                values[used..used + SLACK].copy_from_slice(&raw[..SLACK]);
                used += bounds.len();
            } else {
                values[used..used + bounds.len()].copy_from_slice(&raw[..bounds.len()]);
                used += bounds.len();
            }
            offsets.push(used as i32);
        }
        values.truncate(used);
        self.utf8(offsets, values, valid_except(&absent, rows))
    }

    /// Strings from bytes; the rows that are not UTF-8 are refused.
    fn utf8(&mut self, offsets: Vec<i32>, values: Vec<u8>, nulls: Option<NullBuffer>) -> StringArray {
        let sound = match simdutf8::basic::from_utf8(&values) {
            Ok(text) => text.is_ascii() || offsets.iter().all(|&at| text.is_char_boundary(at as usize)),
            Err(_) => false,
        };
        if sound {
            let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
            // SAFETY: the values are UTF-8 as a whole and every offset stands between two characters, so each string is UTF-8;
            // offsets rise (`OffsetBuffer` has checked), the last one is the length, and there is one validity bit per row.
            return unsafe { StringArray::new_unchecked(offsets, values.into(), nulls) };
        }
        let strings = offsets.windows(2).enumerate().map(|(row, ends)| {
            let text = std::str::from_utf8(&values[ends[0] as usize..ends[1] as usize]);
            if text.is_err() {
                self.refused.push(row);
            }
            text.ok().filter(|_| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)))
        });
        strings.collect()
    }

    /// A type that text is never inferred to have, but a schema from another file may: read as text, then cast.
    fn cast(&mut self, data_type: &DataType) -> ArrayRef {
        let text = self.text();
        let cast = cast_with_options(&text, data_type, &CastOptions { safe: true, ..CastOptions::default() });
        let cast = cast.unwrap_or_else(|_| arrow::array::new_null_array(data_type, text.len()));
        let lost = |row: &usize| text.is_valid(*row) && cast.is_null(*row) && !text.value(*row).is_empty();
        self.refused.extend((0..text.len()).filter(lost));
        cast
    }
}

const SLACK: usize = 16;

/// A bitmap that is false at `absent` only; none where nothing is absent.
fn valid_except(absent: &[usize], rows: usize) -> Option<NullBuffer> {
    if absent.is_empty() {
        return None;
    }
    let mut valid = BooleanBufferBuilder::new(rows);
    valid.append_n(rows, true);
    absent.iter().for_each(|&row| valid.set_bit(row, false));
    Some(NullBuffer::new(valid.finish()))
}

#[cfg(test)]
mod tests {
    use super::super::schema::parse_schema;
    use super::*;
    use arrow::array::AsArray;
    use arrow::util::display::array_value_to_string;
    use proptest::prelude::*;

    const COMMA: Dialect = Dialect { delimiter: b',', quotes: true };

    fn decode(schema: &str, header: &[&str], block: &[u8]) -> Decoded {
        decode_to(schema, header, block, false)
    }

    fn decode_to(schema: &str, header: &[&str], block: &[u8], makes_dictionaries: bool) -> Decoded {
        let mut decoder = CsvDecoder::new(Arc::new(parse_schema(schema).unwrap()), COMMA, makes_dictionaries);
        decoder.bind(&header.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
        let padded = [block, &[b'7'; 64]].concat();
        decoder.decode(&padded, block.len(), 10, 1000)
    }

    fn cells(decoded: &Decoded) -> Vec<Vec<Option<String>>> {
        let cell = |column: usize, row| {
            let array = decoded.batch.column(column);
            array.is_valid(row).then(|| array_value_to_string(array, row).unwrap())
        };
        (0..decoded.batch.num_rows()).map(|row| (0..decoded.batch.num_columns()).map(|column| cell(column, row)).collect()).collect()
    }

    fn some(values: &[&str]) -> Vec<Option<String>> {
        values.iter().map(|&value| Some(value.to_owned())).collect()
    }

    #[test]
    fn only_the_columns_of_the_schema_are_read_and_found_by_name() {
        let decoded = decode("price: decimal(10,2), city: text", &["id", "city", "price"], b"x,Gent,1.5\r\n\r\ny,\"a \"\"b\"\"\",-20\r\n");
        assert_eq!(cells(&decoded), [some(&["1.50", "Gent"]), some(&["-20.00", "a \"b\""])]);
        assert_eq!((decoded.records, decoded.bad.len()), (2, 0));
    }

    #[test]
    fn a_column_that_the_file_does_not_have_is_named() {
        let mut decoder = CsvDecoder::new(Arc::new(parse_schema("a: int, b: int").unwrap()), COMMA, false);
        assert_eq!(decoder.bind(&["a".to_owned()]), Err("there is no column 'b'; the columns are a".to_owned()));
    }

    #[test]
    fn nothing_is_null_and_quoted_nothing_is_empty_text() {
        let decoded = decode("a: text, n: int", &["a", "n"], b",\n\"\",\"\"\n");
        assert_eq!(cells(&decoded), [vec![None, None], vec![Some(String::new()), None]]);
    }

    #[test]
    fn every_type_is_read() {
        let schema = "i: int, d: decimal(38,3), f: float, b: bool, y: date, t: timestamp";
        let decoded = decode(
            schema,
            &["i", "d", "f", "b", "y", "t"],
            b"-123456789,123456.789,1e3,true,2024-02-29,2024-02-29 12:00:00.5\n\"7\",.5,-0,FALSE,0001-01-01,2024-02-29\n",
        );
        assert!(decoded.bad.is_empty(), "{:?}", decoded.bad);
        assert_eq!(
            cells(&decoded),
            [
                some(&["-123456789", "123456.789", "1000.0", "true", "2024-02-29", "2024-02-29T12:00:00.500"]),
                some(&["7", "0.500", "-0.0", "false", "0001-01-01", "2024-02-29T00:00:00"]),
            ]
        );
    }

    #[test]
    fn bad_rows_are_set_aside_with_number_place_bytes_and_cause() {
        let decoded = decode("n: int, p: decimal(5,2)", &["n", "p", "x"], b"1,2.5,\n2,3\n\n3,1.234,\"q\n\"\nx,x,\n4,1000,\n5,1.00,\n");
        assert_eq!(cells(&decoded), [some(&["1", "2.50"]), some(&["5", "1.00"])]);
        assert_eq!(decoded.records, 6);
        let bad = |record, offset, bytes: &str, cause: &str| BadRow { record, offset, bytes: bytes.into(), cause: cause.into() };
        assert_eq!(
            decoded.bad,
            [
                bad(11, 1007, "2,3", "2 fields where the file has 3 columns"),
                bad(
                    12,
                    1012,
                    "3,1.234,\"q\n\"",
                    "column 'p': '1.234' is not a value of type decimal(5,2); give --schema 'p: decimal(38,3)'"
                ),
                bad(13, 1025, "x,x,", "column 'n': 'x' is not a value of type int; give --schema 'n: text'"),
                bad(14, 1030, "4,1000,", "column 'p': '1000' is not a value of type decimal(5,2); give --schema 'p: decimal(38,2)'"),
            ]
        );
    }

    #[test]
    fn text_that_is_not_utf_8_is_a_bad_row_even_where_the_whole_block_is_valid() {
        let decoded = decode("a: text, b: text", &["a", "b"], b"\xc3,x\n\xa4,y\n\xc3\xa4,z\n");
        assert_eq!(cells(&decoded), [some(&["\u{e4}", "z"])]);
        assert_eq!(decoded.bad.iter().map(|bad| bad.cause.as_str()).collect::<Vec<_>>(), ["column 'a' is not utf-8"; 2]);
    }

    #[test]
    fn text_is_a_dictionary_as_long_as_it_has_few_values() {
        let decoded = decode_to("a: text", &["a"], b"Gent\n\"Faro\"\nGent\n\"\"\n\"Faro\"\n\"a text of more than sixteen bytes\"\n", true);
        let codes = decoded.batch.column(0).as_any_dictionary().normalized_keys();
        assert_eq!(codes, [0, 1, 0, 2, 1, 3]);
        assert_eq!(cells(&decoded).concat(), some(&["Gent", "Faro", "Gent", "", "Faro", "a text of more than sixteen bytes"]));

        let many: String = (0..5000).map(|n| format!("{n}\n")).collect();
        let decoded = decode_to("a: text", &["a"], many.as_bytes(), true);
        assert_eq!(decoded.batch, decode("a: text", &["a"], many.as_bytes()).batch);
    }

    #[test]
    fn text_that_is_not_utf_8_is_a_bad_row_in_a_dictionary_too() {
        let decoded = decode_to("a: text", &["a"], b"\xc3\nb\n\xa4a text of more than sixteen bytes\nb\n", true);
        assert_eq!(cells(&decoded).concat(), some(&["b", "b"]));
        assert_eq!(
            decoded.bad.iter().map(|bad| (bad.record, bad.cause.as_str())).collect::<Vec<_>>(),
            [(10, "column 'a' is not utf-8"), (12, "column 'a' is not utf-8")]
        );
    }

    #[test]
    fn a_type_that_only_other_formats_have_is_read_by_casting() {
        let mut decoder =
            CsvDecoder::new(Arc::new(arrow::datatypes::Schema::new(vec![Field::new("n", DataType::Int16, true)])), COMMA, false);
        decoder.bind(&["n".to_owned()]).unwrap();
        let block = [&b"1\n70000\n\"\"\n"[..], &[0; 64]].concat();
        let decoded = decoder.decode(&block, 11, 0, 0);
        assert_eq!(cells(&decoded), [some(&["1"]), vec![None]]);
        assert_eq!(decoded.bad[0].record, 1);
    }

    /// Whether what is put behind a block would still belong to its last record.
    fn ends_in_quotes(block: &[u8]) -> bool {
        let records =
            |block: &[u8]| ::csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(block).byte_records().count();
        records(&[block, b"\nx"].concat()) == records(block)
    }

    /// What the csv crate and plain parsing make of the same block.
    fn naive(block: &[u8]) -> (Vec<Vec<Option<String>>>, Vec<u64>) {
        let mut reader = ::csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(block);
        let (mut rows, mut bad) = (Vec::new(), Vec::new());
        let mut records = reader.byte_records().map(Result::unwrap).zip(10..).peekable();
        while let Some((record, number)) = records.next() {
            let text = record.get(0).and_then(|text| String::from_utf8(text.to_vec()).ok());
            let number_field = record.get(1).map(|text| std::str::from_utf8(text).unwrap_or("x"));
            let is_last = records.peek().is_none();
            match (record.len(), text, number_field.map(|text| (text, text.parse::<i64>().ok()))) {
                _ if is_last && ends_in_quotes(block) => bad.push(number),
                (2, Some(text), Some((_, Some(value)))) => rows.push(vec![Some(text), Some(value.to_string())]),
                (2, Some(text), Some(("", None))) => rows.push(vec![Some(text), None]),
                _ => bad.push(number),
            }
        }
        (rows, bad)
    }

    #[test]
    fn a_quote_that_is_never_closed_makes_the_last_record_bad_however_many_fields_it_has() {
        for block in ["a,1\n\"b\n,2\nc,3\n", "a,1\nb,\"2\nc,3", "a,1\nb,\"", "a,1\nb,\"2\"\"\n", "a,1\nb,2,\"\"\"\n"] {
            let decoded = decode("a: text, n: text", &["a", "n"], block.as_bytes());
            assert_eq!(cells(&decoded).concat(), some(&["a", "1"]), "{block}");
            let bad: Vec<_> = decoded.bad.iter().map(|bad| (bad.record, bad.offset, bad.cause.as_str())).collect();
            assert_eq!((bad, decoded.records), (vec![(11, 1004, UNCLOSED)], 2), "{block}");
        }
        for closed in ["a,1\nb,\"2\"", "a,1\nb,\"2\"\"\"\n", "a,1\nb,\"2\"x\"", "a,1\nb,2\"\n"] {
            assert_eq!(decode("a: text, n: text", &["a", "n"], closed.as_bytes()).bad, [], "{closed}");
        }
    }

    proptest! {
        #[test]
        fn tables_are_what_the_csv_crate_and_plain_parsing_make_of_them(
            fields in proptest::collection::vec(("\"[a-zé,\n\r\"]{0,9}\"|[a-zé\"]{0,20}|[0-9]{1,12}", prop_oneof![Just(","), Just(","), Just("\n"), Just("\r\n")]), 0..60),
        ) {
            let block = fields.iter().flat_map(|(field, end)| [field.as_str(), end]).collect::<String>();
            let decoded = decode("a: text, n: int", &["a", "n"], block.as_bytes());
            let coded = decode_to("a: text, n: int", &["a", "n"], block.as_bytes(), true);
            prop_assert_eq!(self::cells(&coded), self::cells(&decoded));
            prop_assert_eq!(&coded.bad, &decoded.bad);
            let (rows, bad) = naive(block.as_bytes());
            // The csv crate does not tell quoted from unquoted nothing.
            let mut cells = cells(&decoded);
            cells.iter_mut().for_each(|row| { row[0].get_or_insert_default(); });
            prop_assert_eq!(cells, rows);
            prop_assert_eq!(decoded.bad.iter().map(|bad| bad.record).collect::<Vec<_>>(), bad);
        }

        #[test]
        fn unquoting_any_field_is_what_the_csv_crate_does(field in "[\"ab]{0,12}") {
            let mut reader = ::csv::ReaderBuilder::new().has_headers(false).from_reader(field.as_bytes());
            let expected = reader.byte_records().next().map(|record| record.unwrap()[0].to_vec()).unwrap_or_default();
            let mut scratch = Vec::new();
            prop_assert_eq!(unquote(field.as_bytes(), true, &mut scratch), expected);
        }
    }
}
