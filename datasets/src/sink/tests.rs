//! Whole parts, read back with the readers of others.

use std::fs::{self, File};
use std::io::Read;
use std::sync::Arc;

use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, Int64Array, StringArray, StringViewArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Int32Type, Schema, TimeUnit};
use arrow::ipc::reader::FileReader;
use proptest::prelude::*;
use tempfile::TempDir;

use serde::Deserialize;

use super::*;
use crate::format::Compression;
use crate::small_disk::SmallDisk;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Sale {
    city: String,
    amount: Option<f64>,
    count: u64,
    tags: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct WordTotal {
    word: String,
    count: u64,
}

fn spec_of<T: Serialize + serde::de::DeserializeOwned>(format: OutputFormat) -> SinkSpec {
    let schema = Some(Arc::new(schema_of::<T>().unwrap()));
    SinkSpec { format, compression: Compression::None, schema }
}

/// A part of rows, in a directory that lives as long as the test needs it.
fn part_of<T: Serialize>(spec: &SinkSpec, rows: &[T]) -> (TempDir, PathBuf, PartSummary) {
    part(spec, |part| rows.iter().try_for_each(|row| part.write_row(row)))
}

fn part(spec: &SinkSpec, fill: impl FnOnce(&mut PartWriter) -> Result<(), WriteError>) -> (TempDir, PathBuf, PartSummary) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(spec.part_name(0));
    let mut writer = PartWriter::create(&path, spec).unwrap();
    fill(&mut writer).unwrap();
    let summary = writer.finish(false).unwrap();
    (dir, path, summary)
}

fn read_columns(path: &Path, format: OutputFormat) -> RecordBatch {
    let file = File::open(path).unwrap();
    let (schema, batches): (SchemaRef, Vec<RecordBatch>) = match format {
        OutputFormat::Arrow => {
            let reader = FileReader::try_new(file, None).unwrap();
            (reader.schema(), reader.collect::<Result<_, _>>().unwrap())
        }
        _ => {
            let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
            (arrow::array::RecordBatchReader::schema(&reader), reader.collect::<Result<_, _>>().unwrap())
        }
    };
    concat_batches(&schema, &batches).unwrap()
}

fn words(count: u64) -> Vec<WordTotal> {
    (0..count).map(|n| WordTotal { word: format!("word{}", n.wrapping_mul(0x9e37_79b9) % 10_007), count: n }).collect()
}

fn sale() -> impl Strategy<Value = Sale> {
    ("[ -~äöü\"\n]{0,12}", any::<Option<f64>>(), any::<u64>(), prop::collection::vec("[a-z]{0,4}", 0..3))
        .prop_map(|(city, amount, count, tags)| Sale { city, amount, count, tags })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn rows_come_back_from_columnar_parts_and_json_lines(sales in prop::collection::vec(sale(), 0..50)) {
        for format in [OutputFormat::Arrow, OutputFormat::Parquet] {
            let (_dir, path, summary) = part_of(&spec_of::<Sale>(format), &sales);
            let batch = read_columns(&path, format);
            let back: Vec<Sale> = serde_arrow::from_record_batch(&batch).unwrap();
            prop_assert_eq!(format!("{back:?}"), format!("{sales:?}"), "{}", format);
            prop_assert_eq!(summary.records, sales.len() as u64);
        }
        // Numbers that the reader, as it is configured here, reads exactly; others have their own test.
        let quarters = |amount: f64| f64::from(amount as i32) / 4.0;
        let sales: Vec<Sale> = sales.into_iter().map(|sale| Sale { amount: sale.amount.map(quarters), ..sale }).collect();
        let (_dir, path, _) = part_of(&spec_of::<Sale>(OutputFormat::JsonLines), &sales);
        let back: Vec<Sale> =
            fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        prop_assert_eq!(back, sales);
    }

    #[test]
    fn floats_keep_every_bit_in_the_texts(floats in prop::collection::vec(any::<f64>(), 1..50)) {
        #[derive(Serialize, Deserialize)]
        struct Row {
            x: f64,
        }
        let rows: Vec<Row> = floats.iter().map(|&x| Row { x }).collect();
        let read = |format| {
            let (_dir, path, _) = part_of(&spec_of::<Row>(format), &rows);
            fs::read_to_string(path).unwrap()
        };
        let csv: Vec<u64> = read(OutputFormat::Csv).lines().skip(1).map(|x| x.parse::<f64>().unwrap().to_bits()).collect();
        let json = read(OutputFormat::JsonLines);
        let json = json.lines().map(|line| line.strip_prefix("{\"x\":").unwrap().strip_suffix('}').unwrap());
        for ((float, csv), json) in floats.iter().zip(csv).zip(json) {
            prop_assert_eq!(float.to_bits(), csv);
            // JSON has no NaN and no infinity.
            prop_assert_eq!(json.parse::<f64>().ok().map(f64::to_bits), float.is_finite().then_some(float.to_bits()));
        }
    }

    #[test]
    fn rows_come_back_from_delimited_parts(
        rows in prop::collection::vec(("[ -~\n\rä]{0,8}", any::<u64>()), 0..50), tabs: bool,
    ) {
        let rows: Vec<WordTotal> = rows.into_iter().map(|(word, count)| WordTotal { word, count }).collect();
        let (format, delimiter) = if tabs { (OutputFormat::Tsv, b'\t') } else { (OutputFormat::Csv, b',') };
        let (_dir, path, _) = part_of(&spec_of::<WordTotal>(format), &rows);
        let mut reader = ::csv::ReaderBuilder::new().delimiter(delimiter).from_path(path).unwrap();
        let back: Vec<WordTotal> = reader.deserialize().map(Result::unwrap).collect();
        prop_assert_eq!(back, rows);
    }

    #[test]
    fn a_part_is_the_same_bytes_however_its_rows_were_fed(
        sales in prop::collection::vec(sale(), 1..200), cuts in prop::collection::vec(0usize..200, 0..6),
    ) {
        let fields = schema_of::<Sale>().unwrap().fields().clone();
        let batch = serde_arrow::to_record_batch(&fields, &sales).unwrap();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(sales.len())).collect();
        cuts.extend([0, sales.len()]);
        cuts.sort_unstable();
        for format in [OutputFormat::Arrow, OutputFormat::Parquet] {
            let spec = spec_of::<Sale>(format);
            let singly = part_of(&spec, &sales).2;
            let whole = part(&spec, |part| part.write_batch(&batch)).2;
            let sliced = part(&spec, |part| {
                cuts.windows(2).try_for_each(|cut| part.write_batch(&batch.slice(cut[0], cut[1] - cut[0])))
            }).2;
            let mixed = part(&spec, |part| {
                let half = sales.len() / 2;
                sales[..half].iter().try_for_each(|sale| part.write_row(sale))?;
                part.write_batch(&batch.slice(half, sales.len() - half))
            }).2;
            prop_assert_eq!(&singly, &whole);
            prop_assert_eq!(&singly, &sliced);
            prop_assert_eq!(&singly, &mixed);
        }
    }
}

#[test]
fn chunks_and_row_groups_are_cut_by_content_over_many_rows() {
    let rows: Vec<WordTotal> = words(500_000);
    let fields = schema_of::<WordTotal>().unwrap().fields().clone();
    for format in [OutputFormat::Arrow, OutputFormat::Parquet] {
        let spec = spec_of::<WordTotal>(format);
        let (_dir, path, singly) = part_of(&spec, &rows);
        let batched = part(&spec, |part| {
            rows.chunks(77_777).try_for_each(|rows| part.write_batch(&serde_arrow::to_record_batch(&fields, &rows).unwrap()))
        });
        assert_eq!(singly, batched.2, "{format}");
        let back: Vec<WordTotal> = serde_arrow::from_record_batch(&read_columns(&path, format)).unwrap();
        assert!(back == rows, "{format}");
        match format {
            OutputFormat::Arrow => assert!(FileReader::try_new(File::open(path).unwrap(), None).unwrap().num_batches() > 1),
            _ => {
                let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
                let metadata = reader.metadata();
                assert!(metadata.num_row_groups() > 1);
                assert_eq!(metadata.file_metadata().created_by(), Some("shardmill"));
            }
        }
    }
}

#[test]
fn what_lies_beneath_a_null_or_how_a_dictionary_is_numbered_does_not_show() {
    let schema = Arc::new(Schema::new(vec![
        Field::new("city", DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)), true),
        Field::new("n", DataType::Int64, true),
    ]));
    let batch = |cities: ArrayRef, numbers: Int64Array| {
        RecordBatch::try_new(
            Arc::new(Schema::new(vec![Field::new("city", cities.data_type().clone(), true), Field::new("n", DataType::Int64, true)])),
            vec![cities, Arc::new(numbers)],
        )
        .unwrap()
    };
    let dictionary: arrow::array::DictionaryArray<Int32Type> = vec![Some("b"), None, Some("a")].into_iter().collect();
    let other = arrow::array::DictionaryArray::<Int32Type>::new(
        vec![Some(2), None, Some(0)].into(),
        Arc::new(StringArray::from(vec!["a", "unused", "b"])),
    );
    let views = StringViewArray::from(vec![Some("b"), None, Some("a")]);
    let clean = Int64Array::from(vec![Some(1), None, Some(3)]);
    let dirty = Int64Array::new(vec![1, 999, 3].into(), clean.nulls().cloned());
    for format in [OutputFormat::Arrow, OutputFormat::Parquet, OutputFormat::Csv, OutputFormat::JsonLines] {
        let spec = SinkSpec { format, compression: Compression::None, schema: Some(schema.clone()) };
        let digests = [
            batch(Arc::new(dictionary.clone()), clean.clone()),
            batch(Arc::new(other.clone()), dirty.clone()),
            batch(Arc::new(views.clone()), clean.clone()),
        ]
        .map(|batch| part(&spec, |part| part.write_batch(&batch)).2.digest);
        assert!(digests.iter().all(|digest| *digest == digests[0]), "{format}");
    }
}

#[test]
fn empty_parts_carry_header_and_schema() {
    let none: [WordTotal; 0] = [];
    for (format, expected) in [(OutputFormat::Csv, "word,count\n"), (OutputFormat::Tsv, "word\tcount\n"), (OutputFormat::JsonLines, "")] {
        let (_dir, path, summary) = part_of(&spec_of::<WordTotal>(format), &none);
        assert_eq!(fs::read_to_string(path).unwrap(), expected);
        assert_eq!((summary.records, summary.bytes), (0, expected.len() as u64));
    }
    for format in [OutputFormat::Arrow, OutputFormat::Parquet] {
        let (_dir, path, _) = part_of(&spec_of::<WordTotal>(format), &none);
        let batch = read_columns(&path, format);
        assert_eq!(batch.num_rows(), 0);
        assert_eq!(*batch.schema(), schema_of::<WordTotal>().unwrap());
    }
}

#[test]
fn a_summary_tells_length_and_digest_of_the_file() {
    let rows = words(20_000);
    for format in OutputFormat::ALL {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let spec = SinkSpec { compression, ..spec_of::<WordTotal>(format) };
            if spec.check().is_err() {
                continue;
            }
            let write = || {
                part(&spec, |part| {
                    rows.iter().try_for_each(|row| match format.is_tabular() {
                        true => part.write_row(row),
                        false => part.write_record(row.word.as_bytes()),
                    })
                })
            };
            let (_dir, path, summary) = write();
            let bytes = fs::read(path).unwrap();
            assert_eq!(summary.bytes, bytes.len() as u64, "{format} {compression:?}");
            assert_eq!(summary.digest, *blake3::hash(&bytes).as_bytes(), "{format} {compression:?}");
            assert_eq!(summary.records, 20_000);
            assert_eq!(summary, write().2, "written again: {format} {compression:?}");
        }
    }
}

#[test]
fn compressed_streams_hold_the_same_text() {
    let rows = words(50_000);
    let spec = |compression| SinkSpec { compression, ..spec_of::<WordTotal>(OutputFormat::Csv) };
    let (_plain, plain, _) = part_of(&spec(Compression::None), &rows);
    let (_gzip, gzip, _) = part_of(&spec(Compression::Gzip), &rows);
    let (_zstd, zstd, _) = part_of(&spec(Compression::Zstd), &rows);
    assert!(gzip.ends_with("part-00000.csv.gz") && zstd.ends_with("part-00000.csv.zst"));
    let plain = fs::read(plain).unwrap();
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(File::open(gzip).unwrap()).read_to_end(&mut text).unwrap();
    assert!(text == plain);
    assert!(zstd::decode_all(File::open(zstd).unwrap()).unwrap() == plain);
}

#[test]
fn text_and_bytes_take_records_of_any_bytes() {
    let records: [&[u8]; 3] = [b"one", b"\xff\x00", b""];
    let fill = |part: &mut PartWriter| records.iter().try_for_each(|record| part.write_record(record));
    let spec = |format| SinkSpec { format, compression: Compression::None, schema: None };
    let (_dir, path, summary) = part(&spec(OutputFormat::Text), fill);
    assert_eq!(fs::read(path).unwrap(), b"one\n\xff\x00\n\n");
    assert_eq!(summary.records, 3);
    let (_dir, path, _) = part(&spec(OutputFormat::Bytes), fill);
    assert_eq!(fs::read(path).unwrap(), b"one\xff\x00");
}

#[test]
fn batches_with_decimals_and_utc_timestamps_become_exact_text() {
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let batch = RecordBatch::try_from_iter([
        ("price", Arc::new(Decimal128Array::from(vec![-5, 12_345]).with_precision_and_scale(12, 2).unwrap()) as ArrayRef),
        ("at", arrow::compute::cast(&Int64Array::from(vec![0, 1_500_000]), &utc).unwrap()),
    ])
    .unwrap();
    let text = |format| {
        let spec = SinkSpec { format, compression: Compression::None, schema: Some(batch.schema()) };
        let (_dir, path, _) = part(&spec, |part| part.write_batch(&batch));
        fs::read_to_string(path).unwrap()
    };
    assert_eq!(text(OutputFormat::Csv), "price,at\n-0.05,1970-01-01T00:00:00Z\n123.45,1970-01-01T00:00:01.500Z\n");
    let json = text(OutputFormat::JsonLines);
    assert_eq!(json.lines().next().unwrap(), r#"{"price":-0.05,"at":"1970-01-01T00:00:00Z"}"#);
}

#[test]
fn nulls_are_written_alike_from_rows_and_from_batches() {
    #[derive(Serialize, Deserialize)]
    struct Row {
        name: Option<String>,
        score: Option<f64>,
        n: Option<i64>,
    }
    let rows = [
        Row { name: None, score: None, n: Some(1) },
        Row { name: Some(String::new()), score: Some(0.1), n: None },
        Row { name: Some("a\"b".into()), score: Some(1e300), n: Some(i64::MIN) },
        Row { name: Some("ä".into()), score: Some(2.0), n: None },
    ];
    let batch = serde_arrow::to_record_batch(schema_of::<Row>().unwrap().fields(), &rows.as_slice()).unwrap();
    for format in [OutputFormat::Csv, OutputFormat::Tsv, OutputFormat::JsonLines] {
        let spec = spec_of::<Row>(format);
        let (_rows, from_rows, _) = part_of(&spec, &rows);
        let (_batch, from_batch, _) = part(&spec, |part| part.write_batch(&batch));
        let [from_rows, from_batch] = [from_rows, from_batch].map(|path| fs::read_to_string(path).unwrap());
        if format == OutputFormat::JsonLines {
            // The same numbers, though large ones are spelled differently: 1e300, 1.0e300.
            let parse = |text: &str| text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<serde_json::Value>>();
            assert_eq!(parse(&from_rows), parse(&from_batch));
        } else {
            assert_eq!(from_rows, from_batch);
        }
    }
}

#[test]
fn an_output_that_cannot_be_written_is_refused_before_any_work() {
    let nested = |format| spec_of::<Sale>(format).check().map_err(|error| error.to_string());
    assert_eq!(
        nested(OutputFormat::Csv).unwrap_err(),
        "csv output cannot be written: column `tags` is nested; jsonl, parquet and arrow take it"
    );
    assert!(nested(OutputFormat::JsonLines).is_ok() && nested(OutputFormat::Parquet).is_ok());
    let bare = |format, compression| SinkSpec { format, compression, schema: None }.check();
    assert!(bare(OutputFormat::Arrow, Compression::None).unwrap_err().to_string().contains("needs a schema"));
    assert!(bare(OutputFormat::Csv, Compression::Bzip2).unwrap_err().to_string().contains("bzip2"));
    let gzip = SinkSpec { compression: Compression::Gzip, ..spec_of::<Sale>(OutputFormat::Arrow) };
    assert!(gzip.check().unwrap_err().to_string().ends_with("choose from [none, zstd]"));
}

#[test]
fn what_does_not_fit_a_part_is_an_error_that_names_it_and_the_part_stays_broken() {
    let dir = tempfile::tempdir().unwrap();
    let new = |name: &str, spec: &SinkSpec| PartWriter::create(&dir.path().join(name), spec).unwrap();
    let csv = spec_of::<WordTotal>(OutputFormat::Csv);

    let mut part = new("a", &csv);
    part.write_row(&words(1)[0]).unwrap();
    let error = part.write_row(&("x", vec![1])).unwrap_err();
    assert!(matches!(&error, WriteError::Row { record: 1, path, .. } if path.ends_with("a")), "{error}");
    assert!(matches!(part.write_row(&words(1)[0]), Err(WriteError::Broken { .. })));
    assert!(matches!(part.finish(false), Err(WriteError::Broken { .. })));

    assert!(matches!(new("b", &csv).write_record(b"x"), Err(WriteError::Shape { takes: "rows and batches", .. })));
    let text = SinkSpec { format: OutputFormat::Text, ..csv.clone() };
    assert!(matches!(new("c", &text).write_row(&1), Err(WriteError::Shape { takes: "records", .. })));

    let batch = RecordBatch::try_from_iter([("word", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]).unwrap();
    for (name, format) in [("d", OutputFormat::Csv), ("e", OutputFormat::Arrow), ("f", OutputFormat::Parquet)] {
        let error = new(name, &spec_of::<WordTotal>(format)).write_batch(&batch).unwrap_err();
        assert!(error.to_string().ends_with("it has 1 columns, the schema has 2"), "{error}");
    }
    let wrong = RecordBatch::try_from_iter([
        ("word", Arc::new(Int64Array::from(vec![1])) as ArrayRef),
        ("count", Arc::new(Int64Array::from(vec![1])) as ArrayRef),
    ])
    .unwrap();
    let error = new("g", &csv).write_batch(&wrong).unwrap_err();
    assert!(error.to_string().contains("column `word` is Int64, the schema has Utf8"), "{error}");
}

#[test]
fn a_part_never_replaces_a_file_and_says_where_it_could_not_be_made() {
    let spec = spec_of::<WordTotal>(OutputFormat::Csv);
    let (dir, path, _) = part_of(&spec, &words(1));
    let error = PartWriter::create(&path, &spec).err().unwrap();
    assert!(matches!(&error, WriteError::Create { path: named, .. } if *named == path));
    let missing = dir.path().join("missing/part");
    assert_eq!(PartWriter::create(&missing, &spec).err().unwrap().path(), Some(missing.as_path()));
}

#[test]
fn a_full_disk_is_an_error_that_names_the_part_in_every_format() {
    let Some(disk) = SmallDisk::mount() else { return };
    // Text that does not compress to less than the disk.
    let rows: Vec<WordTotal> =
        (0..200_000u64).map(|n| WordTotal { word: blake3::hash(&n.to_le_bytes()).to_hex()[..32].to_owned(), count: n }).collect();
    for format in OutputFormat::ALL {
        for compression in [Compression::None, Compression::Zstd] {
            let spec = SinkSpec { compression, ..spec_of::<WordTotal>(format) };
            let path = disk.path().join("part");
            let mut part = PartWriter::create(&path, &spec).unwrap();
            let written = rows.iter().try_for_each(|row| match format.is_tabular() {
                true => part.write_row(row),
                false => part.write_record(row.word.as_bytes()),
            });
            let failed = written.is_err();
            let error = match written.and_then(|()| part.finish(true).map(drop)) {
                Err(error) => error,
                Ok(()) => panic!("{format} {compression:?} fits"),
            };
            assert!(error.is_disk_full(), "{format} {compression:?}: {error}");
            assert!(matches!(&error, WriteError::Write { path: named, .. } if *named == path));
            assert!(failed || format == OutputFormat::Parquet, "only row groups wait for the end");
            fs::remove_file(path).unwrap();
        }
    }
}

#[test]
fn one_enormous_row_passes_and_gets_a_batch_of_its_own() {
    let row = |length: usize| WordTotal { word: "x".repeat(length), count: 1 };
    let rows = [row(3), row(20 << 20), row(4)];
    for format in [OutputFormat::Arrow, OutputFormat::Parquet, OutputFormat::Csv] {
        let (_dir, path, summary) = part_of(&spec_of::<WordTotal>(format), &rows);
        assert_eq!(summary.records, 3);
        if format == OutputFormat::Arrow {
            let batch = read_columns(&path, format);
            let lengths: Vec<usize> = batch.column(0).as_string::<i32>().iter().map(|word| word.unwrap().len()).collect();
            assert_eq!(lengths, [3, 20 << 20, 4]);
        }
    }
}

#[test]
fn every_format_is_found_by_the_name_it_shows() {
    for format in OutputFormat::ALL {
        assert_eq!(format.to_string().parse::<OutputFormat>().unwrap(), format);
        assert_eq!(serde_json::to_string(&format).unwrap(), format!("\"{format}\""));
    }
    assert!("xlsx".parse::<OutputFormat>().unwrap_err().to_string().contains("`xlsx`"));
}
