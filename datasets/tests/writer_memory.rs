//! A part's writer stays within the memory that it announces, whatever it is fed.
//!
//! Counts what the whole process allocates, so this is a program of one test. What zstd's C library
//! allocates for itself does not pass through here.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use shardmill_datasets::{Compression, OutputFormat, PartWriter, SinkSpec};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(now, Relaxed);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The bytes allocated at most while `work` ran, beyond those before.
fn peak_of(work: impl FnOnce()) -> usize {
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    work();
    PEAK.load(Relaxed) - before
}

#[derive(serde::Serialize)]
struct Row<'a> {
    text: &'a str,
    number: u64,
}

/// A number that looks random.
fn scatter(n: u64) -> u64 {
    let n = (n ^ (n >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    n ^ (n >> 29)
}

/// A writer of a new part, its announced memory, and the directory that it needs.
fn open(spec: &SinkSpec) -> (tempfile::TempDir, usize) {
    spec.check().expect("the test asks for what exists");
    (tempfile::tempdir().expect("a temporary directory"), spec.memory_bytes())
}

fn wide_schema(columns: usize) -> Schema {
    Schema::new((0..columns).map(|n| Field::new(format!("c{n}"), DataType::Int64, false)).collect::<Vec<_>>())
}

#[test]
fn a_writer_stays_within_the_memory_that_it_announces() {
    let narrow = Schema::new(vec![Field::new("text", DataType::Utf8, false), Field::new("number", DataType::UInt64, false)]);
    let mut report = String::new();
    let mut within = true;
    let mut judge = |what: String, peak: usize, announced: usize| {
        report += &format!("{what}: {} of {} KiB\n", peak >> 10, announced >> 10);
        within &= peak <= announced;
    };
    for format in [OutputFormat::Csv, OutputFormat::JsonLines, OutputFormat::Arrow, OutputFormat::Parquet] {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let spec = SinkSpec { format, compression, schema: Some(Arc::new(narrow.clone())) };
            if spec.check().is_err() {
                continue;
            }
            for (rows, length) in [(120_000, 8), (60, 200_000)] {
                let (dir, announced) = open(&spec);
                let mut text = String::with_capacity(length);
                let peak = peak_of(|| {
                    let mut part = PartWriter::create(&dir.path().join("part"), &spec).expect("a new part");
                    for number in 0..rows {
                        text.clear();
                        while text.len() < length {
                            text.push(char::from(b'a' + (scatter(number + text.len() as u64) % 26) as u8));
                        }
                        part.write_row(&Row { text: &text, number: scatter(number) }).expect("the row fits");
                    }
                    part.finish(false).expect("the part is whole");
                });
                judge(format!("{format} {compression:?}, rows of {length} bytes"), peak, announced);
            }
        }
    }
    for (format, columns) in
        [(OutputFormat::Arrow, 40), (OutputFormat::Parquet, 1), (OutputFormat::Parquet, 10), (OutputFormat::Parquet, 40)]
    {
        let spec = SinkSpec { format, compression: Compression::Zstd, schema: Some(Arc::new(wide_schema(columns))) };
        let (dir, announced) = open(&spec);
        let rows = 1_500_000 / columns;
        let batch = RecordBatch::try_from_iter((0..columns).map(|column| {
            let numbers = (0..rows).map(|row| scatter((row * columns + column) as u64) as i64);
            (format!("c{column}"), Arc::new(Int64Array::from_iter_values(numbers)) as ArrayRef)
        }))
        .expect("columns of one length");
        let peak = peak_of(|| {
            let mut part = PartWriter::create(&dir.path().join("part"), &spec).expect("a new part");
            part.write_batch(&batch).expect("the batch fits");
            part.finish(false).expect("the part is whole");
        });
        judge(format!("{format} of {columns} columns, in one batch"), peak, announced);
    }
    // A batch of 200 MB whose rows are a mebibyte each.
    for format in [OutputFormat::Csv, OutputFormat::Arrow, OutputFormat::Parquet] {
        let spec = SinkSpec { format, compression: Compression::None, schema: None };
        let long = "x".repeat(1 << 20);
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..200).map(|_| &long)));
        let batch = RecordBatch::try_from_iter([("text", texts)]).expect("one column");
        let spec = SinkSpec { schema: Some(batch.schema()), ..spec };
        let (dir, announced) = open(&spec);
        let peak = peak_of(|| {
            let mut part = PartWriter::create(&dir.path().join("part"), &spec).expect("a new part");
            part.write_batch(&batch).expect("the batch fits");
            part.finish(false).expect("the part is whole");
        });
        judge(format!("{format}, a batch of texts of a mebibyte"), peak, announced);
    }
    println!("{report}");
    assert!(within, "{report}");
}
