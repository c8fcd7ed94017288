//! What the inner loops of the engine cost: finding words, emitting and combining, sorting and grouping.
//!
//! `make kernels` runs them all; `cargo bench --workspace --bench kernels -- emit` those with a name. The engine's table and sort
//! buffer are its own business, so they are measured where they work: a job with next to no `map` and `reduce` is run on a file
//! in the page cache, with one thread, and notes the time in `start` and `finish`. Planning and publishing lie outside of that.
//! What the job takes that emits nothing is the share of reading and calling `map` in the others.

use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput};
use shardmill::prelude::*;

const RECORDS: u64 = 1 << 20;

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % limit
    }
}

/// When the phases of the job at hand began and ended.
static MARKS: Mutex<Vec<Instant>> = Mutex::new(Vec::new());

fn mark() -> Result {
    MARKS.lock().expect("no mark panics").push(Instant::now());
    Ok(())
}

/// What part of a run is measured.
#[derive(Clone, Copy)]
enum Phase {
    /// Reading, `map`, `emit` and what is behind it.
    Map,
    /// Everything between the last record and the last group.
    Reduce,
}

/// Runs a job on one thread and says how long the phase took.
fn run<J: MapReduce + Args + Serialize + serde::de::DeserializeOwned>(phase: Phase, input: &Path, arguments: &[&str]) -> Duration {
    MARKS.lock().expect("no mark panics").clear();
    let output = input.with_extension("output");
    let (input, output) = (input.to_string_lossy(), output.to_string_lossy());
    let fixed =
        ["kernels", "run", "-q", "--threads=1", "--memory=1GiB", "--partitions=4", "--overwrite", "--input", &input, "--output", &output];
    let arguments = fixed.into_iter().chain(arguments.iter().copied()).map(Into::into);
    shardmill::main_named::<J>("kernels", arguments.collect::<Vec<_>>());
    match (MARKS.lock().expect("no mark panics").as_slice(), phase) {
        (&[begin, end, _, _], Phase::Map) => end - begin,
        (&[_, begin, _, end], Phase::Reduce) => end - begin,
        _ => panic!("the run has failed"),
    }
}

/// Counts records.
#[derive(Args, Serialize, Deserialize)]
struct Count {
    /// Emit nothing.
    #[arg(long)]
    silent: bool,
}

impl MapReduce for Count {
    type Input = Bytes;
    type Key = Vec<u8>;
    type Value = u64;
    type Combine = Sum;
    type Output = Raw;

    fn map(&self, record: &[u8], out: &mut Emitter<'_, Self>) -> Result {
        if !self.silent {
            out.emit(record, 1);
        }
        Ok(())
    }

    fn reduce(&self, _: &[u8], counts: Values<'_, Self>, _: &mut Output<'_, Self>) -> Result {
        black_box(counts.sum::<u64>());
        Ok(())
    }

    fn start(&self) -> Result {
        mark()
    }

    fn finish(&self) -> Result {
        mark()
    }
}

/// Sorts records by their first ten bytes.
#[derive(Args, Serialize, Deserialize)]
struct Order {}

impl MapReduce for Order {
    type Input = Bytes;
    type Key = Vec<u8>;
    type Value = Blob;
    type Combine = NoCombine;
    type Output = Raw;

    fn map(&self, record: &[u8], out: &mut Emitter<'_, Self>) -> Result {
        out.emit(&record[..10], record);
        Ok(())
    }

    fn reduce(&self, _: &[u8], mut records: Values<'_, Self>, _: &mut Output<'_, Self>) -> Result {
        while let Some(record) = records.next_ref() {
            black_box(record);
        }
        Ok(())
    }

    fn start(&self) -> Result {
        mark()
    }

    fn finish(&self) -> Result {
        mark()
    }
}

/// Records of 16 bytes: `distinct` different ones, a power of two, equally often and in no order.
fn keys(distinct: u64) -> String {
    let mut keys = String::with_capacity(16 * RECORDS as usize);
    for record in 0..RECORDS {
        let key = (record * 0x9e37_79b9 % distinct).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        write!(keys, "{key:016x}").expect("a string takes everything");
    }
    keys
}

/// A quarter as many records of 100 bytes that begin with ten random ones.
fn records_of_100_bytes() -> String {
    let mut random = Random(9);
    let mut records = String::with_capacity(25 * RECORDS as usize);
    for _ in 0..RECORDS / 4 {
        writeln!(records, "{:08x}{:02x}{:.>89}", random.below(1 << 31), random.below(256), "").expect("a string takes everything");
    }
    records
}

/// Measures one phase of a job, in which so many elements are handled.
fn engine<J: MapReduce + Args + Serialize + serde::de::DeserializeOwned>(
    criterion: &mut Criterion,
    (group, name): (&str, &str),
    elements: u64,
    phase: Phase,
    input: &Path,
    arguments: &[&str],
) {
    let mut group = criterion.benchmark_group(group);
    group.throughput(Throughput::Elements(elements)).sampling_mode(SamplingMode::Flat);
    group.bench_function(name, |bencher| bencher.iter_custom(|times| (0..times).map(|_| run::<J>(phase, input, arguments)).sum()));
    group.finish();
}

fn engines(criterion: &mut Criterion, directory: &Path) -> std::io::Result<()> {
    let (few, many, records) = (directory.join("few"), directory.join("many"), directory.join("records"));
    fs::write(&few, keys(1 << 12))?;
    fs::write(&many, keys(RECORDS / 2))?;
    fs::write(&records, records_of_100_bytes())?;
    let (keys, hundred) = ("--input-format=fixed:16", "--input-format=fixed:100");
    engine::<Count>(criterion, ("emit", "nothing"), RECORDS, Phase::Map, &few, &[keys, "--silent"]);
    engine::<Count>(criterion, ("emit", "and combine, 4,096 keys"), RECORDS, Phase::Map, &few, &[keys]);
    engine::<Count>(criterion, ("emit", "and combine, 524,288 keys"), RECORDS, Phase::Map, &many, &[keys]);
    engine::<Order>(criterion, ("emit", "and keep, 100 bytes"), RECORDS / 4, Phase::Map, &records, &[hundred]);
    engine::<Count>(criterion, ("sort", "524,288 combined keys"), RECORDS / 2, Phase::Reduce, &many, &[keys]);
    engine::<Order>(criterion, ("sort", "262,144 pairs of 100 bytes"), RECORDS / 4, Phase::Reduce, &records, &[hundred]);
    Ok(())
}

/// Lines of ten words with one to twelve letters, some of them not ASCII.
fn text() -> String {
    let mut random = Random(3);
    let mut word = |out: &mut String| {
        out.extend((0..=random.below(12)).map(|_| char::from(b'a' + random.below(26) as u8)));
        out.push_str(if random.below(50) == 0 { "é" } else { "" });
    };
    let mut text = String::new();
    for _ in 0..60_000 {
        for _ in 0..10 {
            word(&mut text);
            text.push(' ');
        }
        text.push('\n');
    }
    text
}

fn tokenize(criterion: &mut Criterion) {
    let text = text();
    let lines: Vec<&str> = text.lines().collect();
    let mut group = criterion.benchmark_group("words");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("of lines", |bencher| {
        bencher.iter(|| lines.iter().for_each(|line| words(line).for_each(|word| _ = black_box(word))));
    });
    group.bench_function("of one text", |bencher| bencher.iter(|| words(&text).for_each(|word| _ = black_box(word))));
    group.bench_function("of lines, by split_whitespace", |bencher| {
        bencher.iter(|| lines.iter().for_each(|line| line.split_whitespace().for_each(|word| _ = black_box(word))));
    });
    group.finish();
}

fn main() -> std::io::Result<()> {
    let directory = tempfile::tempdir()?;
    let quick = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    let mut criterion = quick.configure_from_args();
    tokenize(&mut criterion);
    engines(&mut criterion, directory.path())?;
    criterion.final_summary();
    Ok(())
}
