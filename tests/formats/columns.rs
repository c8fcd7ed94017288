//! Columns that nobody asks for are not decoded: whatever is in them, a run over the others does not notice.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::ipc::CompressionType;
use arrow::ipc::reader::read_footer_length;
use arrow::ipc::writer::{FileWriter, IpcWriteOptions};
use arrow::ipc::{root_as_footer, root_as_message};
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use serde::Deserialize;
use shardmill_datasets::rows::RowReader;
use shardmill_datasets::{CsvOptions, InputFile, Limits, Piece};
use shardmill_tests::{Ended, Job, Place};

use crate::write::parquet;

const ROWS: i64 = 1_000;

/// A city, a number, and a note. The note is the column that is damaged.
fn batch() -> RecordBatch {
    let column = |text: fn(i64) -> String| Arc::new((0..ROWS).map(|n| Some(text(n))).collect::<StringArray>()) as ArrayRef;
    let numbers: ArrayRef = Arc::new((0..ROWS).collect::<Int64Array>());
    let (city, note) = (column(|n| format!("city {}", n % 4)), column(|n| format!("note {n}")));
    RecordBatch::try_from_iter([("city", city), ("n", numbers), ("note", note)]).unwrap()
}

/// What grouping by city gives: of 0, 4, 8, … and so on.
fn groups() -> String {
    let group = |city: i64| format!("city {city},{}\n", (0..ROWS).filter(|n| n % 4 == city).sum::<i64>());
    "city,n\n".to_owned() + &(0..4).map(group).collect::<String>()
}

fn arrow(compression: Option<CompressionType>) -> Vec<u8> {
    let mut file = vec![];
    let options = IpcWriteOptions::default().try_with_compression(compression).unwrap();
    let mut writer = FileWriter::try_new_with_options(&mut file, &batch().schema(), options).unwrap();
    writer.write(&batch()).unwrap();
    writer.finish().unwrap();
    drop(writer);
    file
}

/// Changes every byte of the pages of the last column, in every row group.
fn damage_parquet(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    for group in SerializedFileReader::new(File::open(path).unwrap()).unwrap().metadata().row_groups() {
        let (start, length) = group.columns().last().unwrap().byte_range();
        bytes[start as usize..(start + length) as usize].iter_mut().for_each(|byte| *byte = !*byte);
    }
    fs::write(path, bytes).unwrap();
}

/// Changes every byte of the buffers of the last column, in every batch; of one that is compressed, but for the size in front, which
/// says how much memory a batch takes.
fn damage_arrow(path: &Path) {
    /// Each column has a buffer that says which rows are null; then come values, of text behind their offsets.
    const BUFFERS_BEFORE: usize = 3 + 2;
    let (mut bytes, mut damaged) = (fs::read(path).unwrap(), vec![]);
    let end = bytes.len() - 10;
    let length = read_footer_length(bytes[end..].try_into().unwrap()).unwrap();
    for block in root_as_footer(&bytes[end - length..end]).unwrap().recordBatches().unwrap() {
        let (start, metadata) = (block.offset() as usize, block.metaDataLength() as usize);
        let message = root_as_message(&bytes[start + 8..start + metadata]).unwrap();
        let batch = message.header_as_record_batch().unwrap();
        for buffer in batch.buffers().unwrap().iter().skip(BUFFERS_BEFORE) {
            let begin = start + metadata + buffer.offset() as usize;
            let kept = if batch.compression().is_some() { 8 } else { 0 };
            damaged.push(begin + kept.min(buffer.length() as usize)..begin + buffer.length() as usize);
        }
    }
    assert!(damaged.iter().map(|range| range.len()).sum::<usize>() > 1_000);
    damaged.into_iter().flatten().for_each(|at| bytes[at] = !bytes[at]);
    fs::write(path, bytes).unwrap();
}

/// The files of columns, each with its way to be damaged.
fn damaged_files(place: &Place) -> Vec<PathBuf> {
    let files = [
        (place.write("plain.parquet", parquet(&batch(), 300)), damage_parquet as fn(&Path)),
        (place.write("plain.arrow", arrow(None)), damage_arrow),
        (place.write("lz4.arrow", arrow(Some(CompressionType::LZ4_FRAME))), damage_arrow),
        (place.write("zstd.arrow", arrow(Some(CompressionType::ZSTD))), damage_arrow),
    ];
    files.into_iter().map(|(path, damage)| (damage(&path), path).1).collect()
}

fn group(place: &Place, input: &Path, by: &str, flags: &str) -> Ended {
    let job = Job::new("aggregate", &place.path("out")).input(input).with("--overwrite --group-by").arg(by);
    job.arg("--aggregate=sum(n) as n").with(flags).run()
}

#[test]
fn batches_of_damaged_files_are_read_if_what_is_damaged_is_not_asked_for() {
    let place = Place::new();
    for input in damaged_files(&place) {
        let (summary, output) = group(&place, &input, "city", "").success();
        assert_eq!((summary.input_records, output.text()), (ROWS as u64, groups()), "{}", input.display());
        fs::remove_dir_all(&output.path).unwrap();
        let told = group(&place, &input, "note", "").failure(1);
        assert!(told.contains(input.to_str().unwrap()), "{told}");
    }
}

#[test]
fn rows_of_damaged_files_are_read_if_their_type_has_no_field_that_is_damaged() {
    #[derive(Deserialize)]
    struct Sold {
        city: String,
        n: i64,
    }
    #[derive(Deserialize)]
    struct Noted {
        #[allow(dead_code, reason = "it cannot be read")]
        note: String,
    }
    fn each<T: serde::de::DeserializeOwned>(input: &Path, mut each: impl FnMut(T)) -> Result<(), String> {
        let mut reader = RowReader::<T>::new(CsvOptions::default(), Limits::default());
        let file = InputFile::at(input, None).unwrap();
        reader.open(&file, None, &Piece::Groups { first: 0, count: 1 }).map_err(|error| error.to_string())?;
        while let Some(item) = reader.next().map_err(|error| error.to_string())? {
            each(item.row?);
        }
        Ok(())
    }
    let place = Place::new();
    for input in damaged_files(&place) {
        let mut next = 0;
        let read = each(&input, |Sold { city, n }| {
            assert_eq!((city, n), (format!("city {}", next % 4), next));
            next += 1;
        });
        assert_eq!(read, Ok(()), "{}", input.display());
        assert!(next >= 300, "{next} rows of {}", input.display());
        assert!(each(&input, |_: Noted| ()).is_err(), "{}", input.display());
    }
}

#[test]
fn of_text_a_field_that_is_not_asked_for_may_hold_anything_that_leaves_the_record_whole() {
    let place = Place::new();
    let rows = [&b"city 0,1,caf\xe9\n"[..], b"city 1,2,\"\xff\n\xfe\"\n", b"city 0,3,\0\n"];
    let input = place.write("in.csv", [&b"city,n,note\n"[..], &rows.concat()].concat());
    let (summary, output) = group(&place, &input, "city", "").success();
    assert_eq!((summary.input_records, output.text()), (3, "city,n\ncity 0,4\ncity 1,2\n".to_owned()));
    fs::remove_dir_all(&output.path).unwrap();
    let told = group(&place, &input, "note", "").failure(1);
    assert!(told.contains("in.csv") && told.contains("column 'note' is not utf-8"), "{told}");
    let (summary, output) = group(&place, &input, "note", "--max-bad-records 2").success();
    assert_eq!((summary.bad_records, output.text()), (2, "note,n\n\0,3\n".to_owned()));
    fs::remove_dir_all(&output.path).unwrap();

    let lines = "{\"city\":\"city 0\",\"n\":1,\"note\":[1,{}]}\n{\"note\":\"x\",\"n\":3,\"city\":\"city 0\"}\n";
    let (_, output) = group(&place, &place.write("in.jsonl", lines), "city", "").success();
    assert_eq!(output.text(), "city,n\ncity 0,4\n");
}

#[test]
fn the_limit_for_records_counts_fields_that_are_not_asked_for() {
    let place = Place::new();
    let input = place.write("in.csv", format!("city,n,note\nFaro,1,{}\n", "x".repeat(5_000)));
    let told = group(&place, &input, "city", "--max-record-bytes 4000").failure(2);
    assert!(told.contains("in.csv") && told.contains("4000"), "{told}");
    let (_, output) = group(&place, &input, "city", "--max-record-bytes 6000").success();
    assert_eq!(output.text(), "city,n\nFaro,1\n");
}
