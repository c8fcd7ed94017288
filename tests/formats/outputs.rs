//! Every output format, compressed and not, holds the same rows.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use arrow::array::{Array, RecordBatch};
use arrow::ipc::reader::FileReader;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use flate2::read::MultiGzDecoder;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use shardmill_tests::oracle::{GROUP_FLAGS, group_by_city_and_category};
use shardmill_tests::sales::{delimited, sales};
use shardmill_tests::{Job, Output, Place};

const HEADER: [&str; 9] = ["city", "category", "sales", "units", "revenue", "average_discount", "lowest", "highest", "weight"];

/// Columns and rows of one part, whatever its format; a null is empty.
type Table = (Vec<String>, Vec<Vec<String>>);

fn read_part(path: &Path) -> Table {
    let name = path.to_str().unwrap();
    match name.trim_end_matches(".gz").trim_end_matches(".zst").rsplit('.').next().unwrap() {
        "csv" => read_delimited(&plain_bytes(path), b','),
        "tsv" => read_delimited(&plain_bytes(path), b'\t'),
        "jsonl" => read_json(&plain_bytes(path)),
        "arrow" => read_batches(FileReader::try_new(File::open(path).unwrap(), None).unwrap().map(Result::unwrap)),
        "parquet" => {
            let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
            read_batches(reader.build().unwrap().map(Result::unwrap))
        }
        other => panic!("no part ends in {other}"),
    }
}

fn plain_bytes(path: &Path) -> Vec<u8> {
    let (mut bytes, file) = (vec![], File::open(path).unwrap());
    match path.extension().unwrap().to_str() {
        Some("gz") => MultiGzDecoder::new(file).read_to_end(&mut bytes).unwrap(),
        Some("zst") => zstd::Decoder::new(file).unwrap().read_to_end(&mut bytes).unwrap(),
        _ => { file }.read_to_end(&mut bytes).unwrap(),
    };
    bytes
}

fn read_delimited(bytes: &[u8], delimiter: u8) -> Table {
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(bytes);
    let fields = |record: &csv::StringRecord| record.iter().map(str::to_owned).collect();
    let header = fields(reader.headers().unwrap());
    (header, reader.records().map(|record| fields(&record.unwrap())).collect())
}

fn read_json(bytes: &[u8]) -> Table {
    let text = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let row = |line: &str| {
        let row: Value = serde_json::from_str(line).unwrap();
        assert!(row.as_object().unwrap().keys().all(|name| HEADER.contains(&name.as_str())), "{line}");
        HEADER.map(|name| text(&row[name])).into()
    };
    (HEADER.map(str::to_owned).into(), std::str::from_utf8(bytes).unwrap().lines().map(row).collect())
}

fn read_batches(batches: impl Iterator<Item = RecordBatch>) -> Table {
    let (mut header, mut rows) = (vec![], vec![]);
    for batch in batches {
        header = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
        let options = FormatOptions::new().with_null("");
        let columns: Vec<_> = batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).unwrap()).collect();
        let text = |row: usize| columns.iter().map(|column| column.value(row).to_string()).collect();
        assert!(batch.columns().iter().all(|column| column.len() == batch.num_rows()));
        rows.extend((0..batch.num_rows()).map(text));
    }
    (header, rows)
}

/// JSON has no decimals that keep their zeros, and formats write floats in their own ways: numbers are compared as numbers.
fn comparable(rows: Vec<Vec<String>>) -> Vec<Vec<String>> {
    let plain = |field: String| field.parse::<f64>().map(|number| format!("{number:?}")).unwrap_or(field);
    let mut rows: Vec<Vec<String>> = rows.into_iter().map(|row| row.into_iter().map(plain).collect()).collect();
    rows.sort();
    rows
}

fn table_of(output: &Output) -> Table {
    let tables: Vec<Table> = output.paths().iter().map(|path| read_part(path)).collect();
    let header = tables.iter().map(|(header, _)| header).find(|header| !header.is_empty()).unwrap().clone();
    (header, tables.into_iter().flat_map(|(_, rows)| rows).collect())
}

#[test]
fn every_output_format_holds_the_groups_of_the_oracle() {
    let place = Place::new();
    let sales = sales(50, 4_000, 700);
    let input = place.write("sales.csv", delimited(&sales, ',', 51));
    let mut expected = group_by_city_and_category(&sales);
    let weight = |row: &mut Vec<String>| {
        if let Ok(bits) = row[8].parse() {
            row[8] = f64::from_bits(bits).to_string();
        }
    };
    expected.iter_mut().for_each(weight);
    let expected = comparable(expected);
    for format in ["csv", "tsv", "jsonl", "parquet", "arrow"] {
        for compression in ["none", "gzip", "zstd"] {
            if (format, compression) == ("arrow", "gzip") {
                continue;
            }
            let out = place.path(&format!("out-{format}-{compression}"));
            let job = Job::new("aggregate", &out).input(&input).with("--partitions 3 --threads 2");
            let job = job.with(&format!("--output-format {format} --output-compression {compression}"));
            let (summary, output) = job.args(GROUP_FLAGS).run().success();
            let (header, rows) = table_of(&output);
            assert_eq!(header, HEADER);
            assert_eq!(summary.output_records, rows.len() as u64);
            assert_eq!(comparable(rows), expected, "{format} {compression}");
        }
    }
}
