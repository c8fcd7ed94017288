//! What the inner loops of this crate cost: merging runs, cutting files into lines and CSV records, making columns and rows of them.
//!
//! `make kernels` runs them all; `cargo bench --workspace --bench kernels -- csv` those with a name. Inputs are a few MiB in the
//! page cache, so that a figure holds the kernel and the copy from there, which is many times faster.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use arrow::datatypes::Schema;
use criterion::{Bencher, Criterion, SamplingMode, Throughput};
use shardmill_datasets::merge::{Merge, Source};
use shardmill_datasets::rows::RowReader;
use shardmill_datasets::run::{Layout, Run, RunError, RunWriter};
use shardmill_datasets::table::{TableReader, TableSpec, parse_schema};
use shardmill_datasets::{BlockReader, CsvOptions, Framing, InputFile, Limits, Piece, lines};

type Result<T = (), E = Box<dyn Error>> = std::result::Result<T, E>;

const RECORDS: u64 = 1 << 19;
const ROWS: u64 = 100_000;
const BLOCK_BYTES: usize = 256 << 10;

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % limit
    }
}

/// Writes sorted runs of `RECORDS` records in all, with keys that begin with `head`.
fn runs(path: &Path, count: u64, head: &str) -> Result<Vec<Run>> {
    let mut random = Random(7);
    let mut writer = RunWriter::create(path, Layout { sequenced: false, digested: false }, 64 << 10)?;
    let mut run = || {
        let mut keys: Vec<String> = (0..RECORDS / count).map(|_| format!("{head}{:08x}", random.below(1 << 31))).collect();
        keys.sort_unstable();
        keys.iter().try_for_each(|key| writer.push(key.as_bytes(), 0, &1u64.to_le_bytes()))?;
        writer.end_segment()?;
        writer.end_run()
    };
    Ok((0..count).map(|_| run()).collect::<Result<_, RunError>>()?)
}

fn merge(criterion: &mut Criterion, directory: &Path) -> Result {
    let mut group = criterion.benchmark_group("merge");
    group.throughput(Throughput::Elements(RECORDS)).sampling_mode(SamplingMode::Flat);
    for (name, count, head) in
        [("2 runs", 2, ""), ("16 runs", 16, ""), ("128 runs", 128, ""), ("16 runs, first 8 bytes alike", 16, "customer")]
    {
        let runs = runs(&directory.join(name), count, head)?;
        let pass = || {
            let mut merge = Merge::new(runs.iter().map(|run| run.read(0, BLOCK_BYTES)).collect())?;
            while let Some(head) = merge.head() {
                black_box((head.key(), head.value()));
                merge.advance()?;
            }
            Ok::<_, RunError>(())
        };
        group.bench_function(name, |bencher| bencher.iter(|| pass().expect("the runs are whole")));
    }
    group.finish();
    Ok(())
}

/// Lines of a hundred bytes, give or take.
fn text() -> String {
    let mut random = Random(3);
    (0..80_000).map(|_| "all work and no play makes a dull log; ".repeat(3).split_off(random.below(40) as usize) + "\n").collect()
}

fn blocks(bencher: &mut Bencher<'_>, file: &InputFile, start: u64, framing: Framing, each: impl Fn(&[u8])) {
    let mut blocks = BlockReader::new(BLOCK_BYTES, Limits::default().record_bytes);
    bencher.iter(|| {
        blocks.open(file, &Piece::Whole { start }, framing).expect("the file is there");
        while let Some(block) = blocks.next().expect("the file is whole") {
            each(block.bytes);
        }
    });
}

fn cut_lines(criterion: &mut Criterion, directory: &Path) -> Result {
    let path = directory.join("text");
    fs::write(&path, text())?;
    let file = InputFile::at(&path, None)?;
    let mut group = criterion.benchmark_group("lines");
    group.throughput(Throughput::Bytes(file.bytes));
    group.bench_function("blocks", |bencher| blocks(bencher, &file, 0, Framing::Lines, |block| _ = black_box(block)));
    group.bench_function("blocks and lines", |bencher| {
        blocks(bencher, &file, 0, Framing::Lines, |block| lines(block).for_each(|line| _ = black_box(line)));
    });
    group.finish();
    Ok(())
}

const COLUMNS: [&str; 10] = ["id", "ts", "vendor", "city", "category", "quantity", "price", "discount", "customer", "note"];

/// Sales with a header; some notes are quoted and hold separators, quotes and line ends.
fn sales() -> Result<String> {
    let mut random = Random(5);
    let mut csv = COLUMNS.join(",") + "\n";
    for id in 0..ROWS {
        let (day, second, price) = (random.below(28) + 1, random.below(60), random.below(1_000_000));
        write!(csv, "{id},2024-02-{day:02} 10:36:{second:02},{},Bergen{},", random.below(8), random.below(200))?;
        write!(csv, "shoes,{},{}.{:02},0.{:03},", random.below(20), price / 100, price % 100, random.below(300))?;
        write!(csv, "C{:08}-1c,", random.below(4_600_000))?;
        match random.below(100) {
            0..6 => csv.push_str("\"left at door, ring 3 times\"\n"),
            6..8 => csv.push_str("\"line one\nline two, \"\"quoted\"\"\"\n"),
            8..60 => csv.push('\n'),
            number => writeln!(csv, "note {number}")?,
        }
    }
    Ok(csv)
}

/// Five of the ten columns.
#[derive(serde::Deserialize)]
#[allow(dead_code, reason = "what is measured is how they are filled")]
struct Sale {
    city: String,
    category: String,
    quantity: i64,
    price: f64,
    discount: f64,
}

fn split_csv(criterion: &mut Criterion, directory: &Path) -> Result {
    let path = directory.join("sales.csv");
    fs::write(&path, sales()?)?;
    let file = InputFile::at(&path, None)?;
    let names = COLUMNS.map(str::to_owned);
    let start = COLUMNS.join(",").len() as u64 + 1;
    let mut group = criterion.benchmark_group("csv");
    group.throughput(Throughput::Bytes(file.bytes));
    let framing = Framing::Csv { delimiter: b',', quotes: true };
    group.bench_function("blocks", |bencher| blocks(bencher, &file, start, framing, |block| _ = black_box(block)));

    let mut table = |name, schema: Schema| {
        let mut reader = TableReader::new(TableSpec::new(schema.into()));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                reader.open(&file, Some(&names), &Piece::Whole { start }).expect("the file is there");
                let mut rows = 0;
                while let Some(table) = reader.next().expect("the file is whole") {
                    rows += black_box(table).batch.num_rows();
                }
                assert_eq!(rows as u64, ROWS);
            });
        });
    };
    // With no columns asked for, finding where the fields end is all there is to do.
    table("split", Schema::empty());
    table("1 of 10 columns", parse_schema("quantity: int")?);
    table("5 of 10 columns", parse_schema("city: text, category: text, quantity: int, price: decimal(10,2), discount: decimal(10,3)")?);

    let mut rows = RowReader::<Sale>::new(CsvOptions::default(), Limits::default());
    group.bench_function("5 of 10 columns, as rows", |bencher| {
        bencher.iter(|| {
            rows.open(&file, Some(&names), &Piece::Whole { start }).expect("the file is there");
            while let Some(item) = rows.next().expect("the file is whole") {
                _ = black_box(item.row);
            }
        });
    });
    group.finish();
    Ok(())
}

fn main() -> Result {
    let directory = tempfile::tempdir()?;
    let quick = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    let mut criterion = quick.configure_from_args();
    merge(&mut criterion, directory.path())?;
    cut_lines(&mut criterion, directory.path())?;
    split_csv(&mut criterion, directory.path())?;
    criterion.final_summary();
    Ok(())
}
