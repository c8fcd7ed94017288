//! Whole files of every format through [`TableReader`].

use super::*;
use crate::format::csv::CsvState;
use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, DictionaryArray, Int32Array, Int64Array, LargeStringArray, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Int32Type, Int64Type};
use arrow::util::display::array_value_to_string;
use proptest::prelude::*;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

type Row = Vec<Option<String>>;

fn rows(batch: &RecordBatch) -> Vec<Row> {
    let cell = |column: &ArrayRef, row| column.is_valid(row).then(|| array_value_to_string(column, row).unwrap());
    (0..batch.num_rows()).map(|row| batch.columns().iter().map(|column| cell(column, row)).collect()).collect()
}

fn row(values: &[&str]) -> Row {
    values.iter().map(|&value| (!value.is_empty()).then(|| value.to_owned())).collect()
}

fn spec(schema: &str) -> TableSpec {
    TableSpec::new(parse_schema(schema).unwrap().into())
}

fn read(spec: TableSpec, path: &Path, names: Option<&[&str]>, pieces: &[Piece]) -> Result<Vec<TableBatch>, ReadError> {
    let file = InputFile::at(path, None).unwrap();
    let names = names.map(|names| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
    let mut reader = TableReader::new(spec);
    let mut tables = Vec::new();
    for piece in pieces {
        reader.open(&file, names.as_deref(), piece)?;
        while let Some(table) = reader.next()? {
            tables.push(table);
        }
    }
    Ok(tables)
}

fn all_rows(tables: &[TableBatch]) -> Vec<Row> {
    tables.iter().flat_map(|table| rows(&table.batch)).collect()
}

struct Place {
    path: PathBuf,
    _dir: TempDir,
}

fn place(name: &str) -> Place {
    let dir = TempDir::new().unwrap();
    Place { path: dir.path().join(name), _dir: dir }
}

fn written(name: &str, content: impl AsRef<[u8]>) -> Place {
    let place = place(name);
    std::fs::write(&place.path, content).unwrap();
    place
}

const WHOLE: Piece = Piece::Whole { start: 0 };

#[test]
fn a_csv_file_in_pieces_gives_the_rows_of_the_whole() {
    let content = (0..1000).map(|n| format!("\"a\n{n}\",{n}.5\r\n")).collect::<String>();
    let file = written("x.csv", &content);
    let whole = read(spec("p: decimal(10,1), c: text"), &file.path, Some(&["c", "p"]), &[WHOLE]).unwrap();
    assert_eq!(all_rows(&whole).len(), 1000);
    // Every record begins where a piece may be cut in state `Record`.
    let third = content.match_indices("\r\n").nth(333).unwrap().0 as u64 + 2;
    let piece = |start, end| Piece::Bytes { start, end, csv: CsvState::Record };
    let pieces = [piece(0, third), piece(third, content.len() as u64)];
    let cut = read(spec("p: decimal(10,1), c: text"), &file.path, Some(&["c", "p"]), &pieces).unwrap();
    assert_eq!(all_rows(&cut), all_rows(&whole));
    assert_eq!(cut.last().unwrap().first_record, 0, "numbers begin anew in each shard");
}

#[test]
fn a_missing_column_is_an_error_that_names_file_and_columns() {
    let file = written("x.csv", "1,2\n");
    let error = read(spec("c: int"), &file.path, Some(&["a", "b"]), &[WHOLE]).unwrap_err();
    assert!(error.to_string().ends_with("x.csv at byte 0: there is no column 'c'; the columns are a, b"), "{error}");
}

#[test]
fn json_lines_are_numbered_across_blocks() {
    let content = (0..100).map(|n| if n == 70 { "bad\n".to_owned() } else { format!("{{\"n\":{n}}}\n") }).collect::<String>();
    let file = written("x.jsonl", content);
    let tables = read(TableSpec { block_bytes: 64, ..spec("n: int") }, &file.path, None, &[WHOLE]).unwrap();
    assert!(tables.len() > 5);
    for table in &tables {
        assert!(table.batch.num_rows() == 0 || rows(&table.batch)[0] == row(&[&table.first_record.to_string()]));
    }
    let bad = tables.iter().flat_map(|table| &table.bad).collect::<Vec<_>>();
    assert_eq!(bad.iter().map(|bad| bad.record).collect::<Vec<_>>(), [70]);
}

fn parquet_file(batch: &RecordBatch, group_rows: usize, dictionary: bool) -> Place {
    use ::parquet::file::properties::WriterProperties;
    let place = place("x.parquet");
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(group_rows))
        .set_dictionary_enabled(dictionary)
        .set_data_page_row_count_limit(1000)
        .build();
    let mut writer = ::parquet::arrow::ArrowWriter::try_new(File::create(&place.path).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    place
}

fn arrow_file(batches: &[RecordBatch], compression: Option<arrow::ipc::CompressionType>) -> Place {
    use arrow::ipc::writer::{FileWriter, IpcWriteOptions};
    let place = place("x.arrow");
    let options = IpcWriteOptions::default().try_with_compression(compression).unwrap();
    let mut writer = FileWriter::try_new_with_options(File::create(&place.path).unwrap(), &batches[0].schema(), options).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.finish().unwrap();
    place
}

fn sales(count: i64) -> RecordBatch {
    let cities = (0..count).map(|n| if n % 7 == 0 { None } else { Some(format!("city {}", n % 5)) });
    let city: ArrayRef = Arc::new(cities.collect::<LargeStringArray>());
    let n: ArrayRef = Arc::new((0..count).map(|n| n as i32).collect::<Int32Array>());
    let price: ArrayRef = Arc::new(Decimal128Array::from_iter_values((0..count).map(i128::from)).with_precision_and_scale(10, 2).unwrap());
    RecordBatch::try_from_iter_with_nullable([("city", city, true), ("n", n, false), ("price", price, true)]).unwrap()
}

#[test]
fn parquet_row_groups_are_read_by_name_type_and_piece() {
    let file = parquet_file(&sales(100), 30, true);
    let footer = footer(&InputFile::at(&file.path, None).unwrap()).unwrap();
    assert_eq!(schema_text(&footer.schema), "city: text, n: Int32, price: decimal(10,2)");
    assert_eq!(footer.groups.iter().map(|group| group.rows).collect::<Vec<_>>(), [30, 30, 30, 10]);
    let tables =
        read(TableSpec { batch_rows: 8, ..spec("n: int, city: text") }, &file.path, None, &[Piece::Groups { first: 1, count: 2 }]).unwrap();
    let expected = (30..90).map(|n| row(&[&n.to_string(), &if n % 7 == 0 { String::new() } else { format!("city {}", n % 5) }]));
    assert_eq!(all_rows(&tables), expected.collect::<Vec<_>>());
    assert!(tables.iter().all(|table| table.batch.num_rows() <= 8 && table.batch.schema() == spec("n: int, city: text").schema));
    assert_eq!(tables[1].first_record, 8);
}

#[test]
fn text_stays_a_dictionary_only_where_all_its_pages_are() {
    let strings: ArrayRef = Arc::new((0..50).map(|n| Some(["a", "b"][n % 2])).collect::<StringArray>());
    let batch = RecordBatch::try_from_iter([("s", strings)]).unwrap();
    let groups = [Piece::Groups { first: 0, count: 1 }];
    let types = |dictionary, keep_dictionaries| {
        let file = parquet_file(&batch, 100, dictionary);
        let tables = read(TableSpec { keep_dictionaries, ..spec("s: text") }, &file.path, None, &groups).unwrap();
        assert_eq!(all_rows(&tables), rows(&batch));
        tables[0].batch.column(0).data_type().clone()
    };
    let dictionary = DataType::Dictionary(DataType::Int32.into(), DataType::Utf8.into());
    assert_eq!([types(true, true), types(true, false), types(false, true)], [dictionary, DataType::Utf8, DataType::Utf8]);
}

#[test]
fn a_column_without_columns_still_has_rows() {
    for file in [parquet_file(&sales(20), 30, true), arrow_file(&[sales(20)], None)] {
        let tables = read(spec(""), &file.path, None, &[Piece::Groups { first: 0, count: 1 }]).unwrap();
        assert_eq!(tables.iter().map(|table| table.batch.num_rows()).sum::<usize>(), 20);
    }
    let file = written("x.csv", "1,2\n3,4\n");
    let tables = read(spec(""), &file.path, Some(&["a", "b"]), &[WHOLE]).unwrap();
    assert_eq!(tables[0].batch.num_rows(), 2);
}

#[test]
fn arrow_batches_are_read_by_name_type_and_piece_and_cut_to_size() {
    use arrow::ipc::CompressionType;
    for compression in [None, Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD)] {
        let file = arrow_file(&[sales(10), sales(50), sales(20)], compression);
        let input = InputFile::at(&file.path, None).unwrap();
        let footer = footer(&input).unwrap();
        assert_eq!(footer.groups.iter().map(|group| group.rows).collect::<Vec<_>>(), [10, 50, 20]);
        // 50 rows: 8 + 4 + 16 bytes each and the text; the same whether compressed or not.
        assert!((1600..2600).contains(&footer.groups[1].bytes), "{}", footer.groups[1].bytes);
        assert!(check_pages(&input, None, 4096).is_ok());
        let error = check_pages(&input, None, 1500).unwrap_err();
        assert!(error.to_string().contains("batch 1 of"), "{error}");
        let tables = read(
            TableSpec { batch_rows: 40, ..spec("price: decimal(12,2), n: int") },
            &file.path,
            None,
            &[Piece::Groups { first: 1, count: 2 }],
        )
        .unwrap();
        assert_eq!(tables.iter().map(|table| table.batch.num_rows()).collect::<Vec<_>>(), [40, 10, 20]);
        assert_eq!(tables.iter().map(|table| table.first_record).collect::<Vec<_>>(), [0, 40, 50]);
        assert_eq!(all_rows(&tables)[41], row(&["0.41", "41"]));
    }
}

#[test]
fn dictionaries_of_arrow_files_are_text_unless_they_are_wanted() {
    let values: DictionaryArray<Int32Type> = ["x", "y", "x"].into_iter().collect();
    let batch = RecordBatch::try_from_iter([("s", Arc::new(values) as ArrayRef)]).unwrap();
    let file = arrow_file(std::slice::from_ref(&batch), None);
    let groups = [Piece::Groups { first: 0, count: 1 }];
    let plain = read(spec("s: text"), &file.path, None, &groups).unwrap();
    assert_eq!(*plain[0].batch.column(0).as_string::<i32>(), StringArray::from(vec!["x", "y", "x"]));
    let kept = read(TableSpec { keep_dictionaries: true, ..spec("s: text") }, &file.path, None, &groups).unwrap();
    assert_eq!(
        kept[0].batch.schema(),
        batch.schema().fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect::<Vec<_>>().into_schema()
    );
}

trait IntoSchema {
    fn into_schema(self) -> SchemaRef;
}

impl IntoSchema for Vec<arrow::datatypes::Field> {
    fn into_schema(self) -> SchemaRef {
        Arc::new(arrow::datatypes::Schema::new(self))
    }
}

#[test]
fn a_number_that_does_not_survive_the_cast_is_an_error() {
    let n: ArrayRef = Arc::new(Int64Array::from(vec![1, i64::MAX]));
    let batch = RecordBatch::try_from_iter([("n", n)]).unwrap();
    let file = parquet_file(&batch, 10, true);
    let error = read(spec("n: decimal(5,2)"), &file.path, None, &[Piece::Groups { first: 0, count: 1 }]).unwrap_err();
    assert!(error.to_string().contains("column 'n'"), "{error}");
}

#[test]
fn large_parquet_pages_are_refused_by_name_and_small_ones_pass() {
    let text: ArrayRef = Arc::new((0..4000).map(|n| Some(format!("{n:0>100}"))).collect::<StringArray>());
    let n: ArrayRef = Arc::new((0..4000).map(i64::from).collect::<Int64Array>());
    let file = parquet_file(&RecordBatch::try_from_iter([("text", text), ("n", n)]).unwrap(), 10_000, false);
    let input = InputFile::at(&file.path, None).unwrap();
    // Pages end at 1,000 rows or so: about 100 KB of text each, 400 KB for the whole column.
    assert!(check_pages(&input, None, 200_000).is_ok());
    let error = check_pages(&input, None, 50_000).unwrap_err();
    assert!(error.to_string().starts_with("a page of column 'text' in row group 0 of"), "{error}");
    assert!(check_pages(&input, Some(&["n".to_owned()]), 50_000).is_ok());
}

#[test]
fn a_parquet_column_that_cannot_be_decompressed_is_refused_by_name_and_the_others_pass() {
    use ::parquet::basic::Compression;
    use ::parquet::file::metadata::{ParquetMetaDataReader, ParquetMetaDataWriter};
    let column = || Arc::new((0..40).map(i64::from).collect::<Int64Array>()) as ArrayRef;
    let file = parquet_file(&RecordBatch::try_from_iter([("n", column()), ("m", column())]).unwrap(), 10, false);
    let mut bytes = std::fs::read(&file.path).unwrap();
    let metadata = ParquetMetaDataReader::new().parse_and_finish(&File::open(&file.path).unwrap()).unwrap();
    let mut changed = metadata.clone().into_builder();
    for (number, group) in changed.take_row_groups().into_iter().enumerate() {
        let mut chunks = group.columns().to_vec();
        if number == 2 {
            let brotli = Compression::BROTLI(Default::default());
            chunks[1] = chunks[1].clone().into_builder().set_compression(brotli).build().unwrap();
        }
        changed = changed.add_row_group(group.into_builder().set_column_metadata(chunks).build().unwrap());
    }
    let length = u32::from_le_bytes(*bytes[..bytes.len() - 4].last_chunk().unwrap()) as usize;
    bytes.truncate(bytes.len() - 8 - length);
    ParquetMetaDataWriter::new(&mut bytes, &changed.build()).finish().unwrap();
    std::fs::write(&file.path, bytes).unwrap();
    let input = InputFile::at(&file.path, None).unwrap();
    let error = check_pages(&input, None, 1 << 20).unwrap_err().to_string();
    assert!(error.contains("column 'm' is compressed with Brotli: only snappy, gzip, zstd and lz4"), "{error}");
    assert!(check_pages(&input, Some(&["n".to_owned()]), 1 << 20).is_ok());
}

#[test]
fn a_page_of_each_column_counts_as_what_is_held_at_once() {
    let text = |column: usize| Arc::new((0..4000).map(|n| Some(format!("{n:0>100} {column:0>2}"))).collect::<StringArray>()) as ArrayRef;
    let file = parquet_file(&RecordBatch::try_from_iter((0..30).map(|at| (format!("c{at}"), text(at)))).unwrap(), 10_000, false);
    let input = InputFile::at(&file.path, None).unwrap();
    let (one, all) = (held_bytes(&input, Some(&["c7".to_owned()])).unwrap(), held_bytes(&input, None).unwrap());
    assert!((100_000..500_000).contains(&one), "a page of about 100 KB, and a batch: {one}");
    assert_eq!(all, 30 * one);
    let bound = check_pages(&input, None, 1 << 30).unwrap();
    assert!(bound >= all && bound > 30 * 800_000, "without a look at the pages it may be all of a column: {bound}");
}

#[test]
fn a_file_of_columns_with_any_byte_changed_gives_rows_or_an_error_and_no_panic() {
    let files = [
        parquet_file(&sales(12), 5, true),
        parquet_file(&sales(7), 10, false),
        arrow_file(&[sales(6), sales(5)], None),
        arrow_file(&[sales(8)], Some(arrow::ipc::CompressionType::LZ4_FRAME)),
    ];
    for file in files {
        let whole = std::fs::read(&file.path).unwrap();
        // In place, as ext4 waits for the disk when a file is written anew.
        let damaged = File::options().write(true).open(&file.path).unwrap();
        for (at, flip) in (0..whole.len()).flat_map(|at| [(at, 0x01), (at, 0x80), (at, 0xff)]) {
            damaged.write_all_at(&whole, 0).unwrap();
            damaged.write_all_at(&[whole[at] ^ flip], at as u64).unwrap();
            let input = InputFile::at(&file.path, None).unwrap();
            let looked = footer(&input).and_then(|footer| check_pages(&input, None, 1 << 20).map(|_| footer));
            let Ok(Footer { schema, groups }) = looked else { continue };
            let groups = Piece::Groups { first: 0, count: groups.len() as u32 };
            if let Err(error) = read(TableSpec::new(schema), &file.path, None, &[groups]) {
                assert_eq!(error.path(), file.path, "{error}");
            }
        }
    }
}

#[test]
fn a_block_that_is_longer_than_its_file_is_refused_before_memory_is_set_aside_for_it() {
    let file = arrow_file(&[sales(6)], None);
    let mut bytes = std::fs::read(&file.path).unwrap();
    let end = bytes.len() - 10;
    let start = end - u32::from_le_bytes(bytes[end..end + 4].try_into().unwrap()) as usize;
    let block = *arrow::ipc::root_as_footer(&bytes[start..end]).unwrap().recordBatches().unwrap().get(0);
    let place = start + bytes[start..end].windows(24).position(|window| window == block.0).unwrap();
    bytes[place + 16..place + 24].copy_from_slice(&(1i64 << 40).to_le_bytes());
    std::fs::write(&file.path, &bytes).unwrap();
    let error = footer(&InputFile::at(&file.path, None).unwrap()).err().unwrap();
    assert!(error.to_string().contains("a block is longer than the file"), "{error}");
}

#[test]
fn what_is_no_file_of_its_format_is_refused() {
    for name in ["x.parquet", "x.arrow"] {
        let file = written(name, "this is text, whatever its name says\n");
        let input = InputFile::at(&file.path, None).unwrap();
        assert!(matches!(footer(&input), Err(ReadError::Malformed { .. })));
    }
}

proptest! {
    #[test]
    fn the_numbers_of_rows_and_bad_rows_make_the_whole(values in proptest::collection::vec(prop_oneof![4 => Just("7"), 1 => Just("x"), 1 => Just("1,1")], 1..80), batch_rows in 1usize..10, block_bytes in 1usize..60) {
        let file = written("x.csv", values.iter().map(|value| format!("{value}\n")).collect::<String>());
        let tables = read(TableSpec { batch_rows, block_bytes, ..spec("n: int") }, &file.path, Some(&["n"]), &[WHOLE]).unwrap();
        let bad = |table: &TableBatch| table.bad.iter().map(|bad| bad.record).collect::<Vec<_>>();
        let expected = (0..).zip(&values).filter(|(_, value)| **value != "7").map(|(number, _)| number).collect::<Vec<u64>>();
        prop_assert_eq!(tables.iter().flat_map(bad).collect::<Vec<_>>(), expected.clone());
        let mut good = (0..values.len() as u64).filter(|number| !expected.contains(number));
        for table in &tables {
            prop_assert!(table.batch.num_rows() <= batch_rows);
            if table.batch.num_rows() > 0 {
                prop_assert_eq!(Some(table.first_record), good.next());
                good.by_ref().take(table.batch.num_rows() - 1).for_each(drop);
            }
        }
        prop_assert_eq!(good.next(), None);
    }
}

#[test]
fn one_reader_reads_files_of_every_format() {
    let ipc = arrow_file(&[sales(3)], None);
    let parquet = parquet_file(&sales(3), 10, true);
    let csv = written("x.csv", "0,0.00\n1,0.01\n2,0.02\n");
    let tsv = written("x.tsv", "0\t0.00\n1\t0.01\n2\t0.02\n");
    let json = written("x.jsonl", "{\"n\":0,\"price\":0.00}\n{\"n\":1,\"price\":0.01}\n{\"price\":0.02,\"n\":2}\n");
    let names = ["n", "price"].map(str::to_owned);
    let mut reader = TableReader::new(spec("price: decimal(10,2), n: int"));
    let mut batches = Vec::new();
    for file in [&ipc, &parquet, &csv, &tsv, &json, &csv] {
        let input = InputFile::at(&file.path, None).unwrap();
        let piece = if input.format.is_columnar() { Piece::Groups { first: 0, count: 1 } } else { WHOLE };
        reader.open(&input, Some(&names), &piece).unwrap();
        let mut tables = Vec::new();
        while let Some(table) = reader.next().unwrap() {
            assert!(table.bad.is_empty());
            tables.push(table.batch);
        }
        batches.push(concat_batches(&tables[0].schema(), &tables).unwrap());
    }
    assert!(batches.iter().all(|batch| *batch == batches[0]));
    assert_eq!(batches[0].column(1).as_primitive::<Int64Type>().values(), &[0, 1, 2]);
}
