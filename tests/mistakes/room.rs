//! Inputs that need more memory at once than a thread has: told with the place and with a figure that would do.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt8Array};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use shardmill_tests::{Job, Place};

/// The value that a message recommends for `--memory`.
fn figure(told: &str) -> &str {
    told.split_once("--memory ").unwrap_or_else(|| panic!("no figure in {told}")).1.split_whitespace().next().unwrap()
}

/// A file with one row group and one page for each of `columns` columns of text, of so many bytes.
fn parquet_of_pages(columns: usize, page_bytes: usize) -> Vec<u8> {
    let rows = 16;
    let text: ArrayRef = Arc::new((0..rows).map(|row| Some(format!("{row:02}{}", "x".repeat(page_bytes / rows)))).collect::<StringArray>());
    let key: ArrayRef = Arc::new(UInt8Array::from_iter_values(0..rows as u8));
    let texts = (0..columns).map(|column| (format!("c{column}"), Arc::clone(&text)));
    let batch = RecordBatch::try_from_iter([("key".to_owned(), key)].into_iter().chain(texts)).unwrap();
    let properties = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_data_page_size_limit(1 << 30)
        .set_statistics_enabled(parquet::file::properties::EnabledStatistics::None)
        .build();
    let mut file = vec![];
    let mut writer = ArrowWriter::try_new(&mut file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    file
}

fn zstd_with_window(log: u32, bytes: usize) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(vec![], 1).unwrap();
    encoder.window_log(log).unwrap();
    encoder.write_all(&b"some words\n".repeat(bytes / 11)).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_record_that_a_thread_has_no_room_for_is_named_with_the_memory_that_would_do() {
    let place = Place::new();
    // Within the limit of 16 MiB, and above an eighth of 32 MiB.
    let input = place.write("text.txt", ["short lines\n".repeat(10), "many words ".repeat(500_000) + "\n"].concat());
    let job = || Job::new("word-count", &place.path("out")).input(&input).with("--threads 8 --shard-bytes 1MiB");
    let told = job().with("--memory 256MiB").run().failure(1);
    assert!(told.contains("text.txt") && told.contains("record at byte 120 ") && told.contains("4194304"), "{told}");
    let (_, output) = job().with("--memory").arg(figure(&told)).run().success();
    assert_eq!(output.text(), "word,count\nlines,10\nmany,500000\nshort,10\nwords,500000\n");
}

#[test]
fn the_plan_and_its_limits_are_the_same_for_any_threads_and_memory() {
    let place = Place::new();
    let input = place.write("sales.csv", "city,n\nFaro,1\n".to_owned() + &"Essen,2\n".repeat(1_000));
    let plan = |flags: &str| {
        let job = Job::new("aggregate", &place.path("out")).input(&input).with("--group-by city --explain --shard-bytes 1000").with(flags);
        job.run().stdout
    };
    let known = plan("--threads 1 --memory 4GiB");
    assert!(known.contains("\"record_bytes\": 16777216"), "{known}");
    for flags in ["--threads 8 --memory 256MiB", "--threads 2 --memory 40MiB", "--threads 3 --memory 1GiB"] {
        assert_eq!(plan(flags), known, "{flags}");
    }
}

#[test]
fn records_as_long_as_asked_for_must_fit() {
    let place = Place::new();
    let input = place.write("text.txt.zst", zstd_with_window(20, 1 << 10));
    let job = || Job::new("word-count", &place.path("out")).input(&input).with("--threads 8 --max-record-bytes 40MiB");
    let told = job().with("--memory 256MiB").run().failure(2);
    assert!(told.contains("--max-record-bytes") && told.contains("40 MiB"), "{told}");
    job().with("--memory").arg(figure(&told)).run().success();
    // A plain file has no longer records than it has bytes.
    let small = place.write("text.txt", "some words\n");
    Job::new("word-count", &place.path("out"))
        .input(small)
        .with("--threads 8 --max-record-bytes 40MiB --memory 256MiB --overwrite")
        .run()
        .success();
}

#[test]
fn a_zstd_window_that_a_thread_has_no_room_for_is_refused_with_a_budget_that_would_do() {
    let place = Place::new();
    let input = place.write("text.txt.zst", zstd_with_window(26, 1 << 20));
    let job = || Job::new("word-count", &place.path("out")).input(&input).with("--threads 4");
    let told = job().with("--memory 256MiB").run().failure(2);
    assert!(told.contains("text.txt.zst") && told.contains("64 MiB"), "{told}");
    let (summary, _) = job().with("--memory").arg(figure(&told)).run().success();
    assert_eq!(summary.groups, 2);
    // Behind a small frame it is met when the head of the file is looked at, which is before any work, too.
    let both = [zstd::encode_all(&b"first\n"[..], 1).unwrap(), zstd_with_window(26, 1 << 20)].concat();
    let input = place.write("two.txt.zst", both);
    let told = Job::new("word-count", &place.path("two")).input(input).with("--threads 4 --memory 256MiB").run().failure(2);
    assert!(told.contains("two.txt.zst") && told.contains("zstd window at byte 6 ") && told.contains("--memory 2048MiB"), "{told}");
}

#[test]
fn pages_that_a_thread_has_no_room_for_are_refused_with_a_budget_that_would_do() {
    let place = Place::new();
    // One large page, and many small ones that are as much together.
    for (name, columns, page_bytes) in [("large.parquet", 1, 40 << 20), ("wide.parquet", 400, 100 << 10)] {
        let input = place.write(name, parquet_of_pages(columns, page_bytes));
        let job = || Job::new("sort", &place.path("out")).input(&input).with("--threads 2 --key key --overwrite");
        let told = job().with("--memory 64MiB").run().failure(2);
        // A page is a little more than its values.
        let needed = if columns == 1 { "41 MiB in each thread" } else { "MiB in each thread" };
        assert!(told.contains(name) && told.contains("a page of each column") && told.contains(needed), "{told}");
        let (summary, _) = job().with("--memory").arg(figure(&told)).run().success();
        assert_eq!(summary.output_records, 16);
        std::fs::remove_dir_all(place.path("out")).unwrap();
    }
}

#[test]
fn an_arrow_batch_that_a_thread_has_no_room_for_is_refused_with_a_budget_that_would_do() {
    let place = Place::new();
    let numbers: ArrayRef = Arc::new(UInt8Array::from(vec![7; 30 << 20]));
    let batch = RecordBatch::try_from_iter([("n", numbers)]).unwrap();
    let mut file = vec![];
    let mut writer = arrow::ipc::writer::FileWriter::try_new(&mut file, &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    drop(writer);
    let input = place.write("large.arrow", file);
    let job = || Job::new("aggregate", &place.path("out")).input(&input).with("--threads 2 --group-by n --aggregate count()");
    let told = job().with("--memory 64MiB").run().failure(2);
    assert!(told.contains("large.arrow") && told.contains("a batch of"), "{told}");
    let (summary, _) = job().with("--memory").arg(figure(&told)).run().success();
    assert_eq!(summary.input_records, 30 << 20);
}
