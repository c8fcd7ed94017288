//! Testing a job in-process, on literal input.
//!
//! [`run`] runs a job many times over the same input, with shards of a few bytes and of any size, one and several threads, one and several
//! partitions, with memory for everything and for next to nothing, and against a naive reference that lists all pairs, sorts them and
//! reduces them one after the other. All must give the same bytes; what they give is returned.
//!
//! ```
//! # use shardmill::prelude::*;
//! # #[derive(Args, Serialize, Deserialize)] struct Longest {}
//! # #[derive(Serialize, Deserialize)] struct Row { length: u64 }
//! # impl MapReduce for Longest {
//! #     type Input = Lines; type Key = (); type Value = u64; type Combine = Max; type Output = Row;
//! #     fn map(&self, line: &str, out: &mut Emitter<'_, Self>) -> Result { out.emit((), line.len() as u64); Ok(()) }
//! #     fn reduce(&self, _: (), mut most: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result {
//! #         out.write(Row { length: most.next().unwrap_or(0) })
//! #     }
//! # }
//! let rows = shardmill::testing::run(Longest {}, "one\nthree\n")?;
//! assert_eq!(rows, "length\n5\n");
//! # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
//! ```

use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use shardmill_datasets::sink::OutputFormat;
use shardmill_datasets::{CsvOptions, Format, RunRequest, Shape as Kind};

use crate::card;
use crate::cli::{flag_names, parameter_names};
use crate::engine::{Progress, Tight};
use crate::job::{MapReduce, Partitioning, Result};
use crate::local::{Options, Planned, RunError, Summary};
use crate::shape::Shape;

/// Runs `job` on `input` in many ways and returns its rows, all parts one after the other under one header.
///
/// The input is text for jobs on [`Lines`](crate::Lines) and [`Bytes`](crate::Bytes), and CSV for jobs on rows and batches; see
/// [`Case`] for anything else.
///
/// An error is the failure card that `run` would show: a bad record with its place and cause, a key on which `reduce` failed.
///
/// ```
/// # use shardmill::prelude::*;
/// # #[derive(Args, Serialize, Deserialize)] struct Squares {}
/// # #[derive(Serialize, Deserialize)] struct Row { number: u64, square: u64 }
/// # impl MapReduce for Squares {
/// #     type Input = Lines; type Key = u64; type Value = (); type Combine = Max; type Output = Row;
/// #     fn map(&self, line: &str, out: &mut Emitter<'_, Self>) -> Result { out.emit(line.parse()?, ()); Ok(()) }
/// #     fn reduce(&self, number: u64, _: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result {
/// #         out.write(Row { number, square: number * number })
/// #     }
/// # }
/// assert_eq!(shardmill::testing::run(Squares {}, "3\n2\n")?, "number,square\n2,4\n3,9\n");
///
/// let card = shardmill::testing::run(Squares {}, "3\nmany\n").unwrap_err().to_string();
/// assert!(card.contains("line 2") && card.contains("invalid digit"), "{card}");
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
///
/// # Panics
/// If two ways give different output: the job is not deterministic, or its combiner not associative and commutative.
pub fn run<J: MapReduce + Serialize + DeserializeOwned>(job: J, input: &str) -> Result<String> {
    Case::new(input.as_bytes()).run(job)
}

/// A job's input, and how to read and write it.
///
/// ```
/// # use shardmill::prelude::*;
/// use shardmill::testing::Case;
/// # #[derive(Args, Serialize, Deserialize)] struct Squares {}
/// # #[derive(Serialize, Deserialize)] struct Row { number: u64, square: u64 }
/// # impl MapReduce for Squares {
/// #     type Input = Rows<Row>; type Key = u64; type Value = u64; type Combine = Max; type Output = Row;
/// #     fn map(&self, row: Row, out: &mut Emitter<'_, Self>) -> Result { out.emit(row.number, row.square); Ok(()) }
/// #     fn reduce(&self, number: u64, squares: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result {
/// #         for square in squares { out.write(Row { number, square })?; }
/// #         Ok(())
/// #     }
/// # }
/// let case = Case::new(b"number\tsquare\n2\t4\nmany\tmore\n");
/// let rows = case.input_format("tsv").output_format("jsonl").max_bad_records(1).run(Squares {})?;
/// assert_eq!(rows, "{\"number\":2,\"square\":4}\n");
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Case<'a> {
    input: &'a [u8],
    format: Option<Format>,
    output: Option<OutputFormat>,
    csv_header: bool,
    max_bad_records: u64,
}

impl<'a> Case<'a> {
    /// A case with literal input.
    ///
    /// ```
    /// # use shardmill::prelude::*;
    /// # use shardmill::testing::Case;
    /// # #[derive(Args, Serialize, Deserialize)] struct Count {}
    /// # #[derive(Serialize, Deserialize)] struct Counted { records: u64 }
    /// # impl MapReduce for Count {
    /// #     type Input = Bytes; type Key = (); type Value = u64; type Combine = Sum; type Output = Counted;
    /// #     fn map(&self, _: &[u8], out: &mut Emitter<'_, Self>) -> Result { out.emit((), 1); Ok(()) }
    /// #     fn reduce(&self, _: (), counts: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result { out.write(Counted { records: counts.sum() }) }
    /// # }
    /// assert_eq!(Case::new(b"one\ntwo").run(Count {})?, "records\n2\n");
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    pub fn new(input: &'a [u8]) -> Self {
        Self { input, format: None, output: None, csv_header: true, max_bad_records: 0 }
    }

    /// Reads the input as this format, as `--input-format` does.
    ///
    /// ```
    /// # use shardmill::prelude::*;
    /// # use shardmill::testing::Case;
    /// # #[derive(Args, Serialize, Deserialize)] struct Count {}
    /// # #[derive(Serialize, Deserialize)] struct Counted { records: u64 }
    /// # impl MapReduce for Count {
    /// #     type Input = Bytes; type Key = (); type Value = u64; type Combine = Sum; type Output = Counted;
    /// #     fn map(&self, _: &[u8], out: &mut Emitter<'_, Self>) -> Result { out.emit((), 1); Ok(()) }
    /// #     fn reduce(&self, _: (), counts: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result { out.write(Counted { records: counts.sum() }) }
    /// # }
    /// assert_eq!(Case::new(b"aabbcc").input_format("fixed:2").output_format("csv").run(Count {})?, "records\n3\n");
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// # Panics
    /// If there is no such format.
    pub fn input_format(mut self, format: &str) -> Self {
        self.format = Some(format.parse().expect("an input format"));
        self
    }

    /// Writes this format, as `--output-format` does.
    ///
    /// ```
    /// # use shardmill::prelude::*;
    /// # use shardmill::testing::Case;
    /// # #[derive(Args, Serialize, Deserialize)] struct Count {}
    /// # #[derive(Serialize, Deserialize)] struct Counted { records: u64 }
    /// # impl MapReduce for Count {
    /// #     type Input = Bytes; type Key = (); type Value = u64; type Combine = Sum; type Output = Counted;
    /// #     fn map(&self, _: &[u8], out: &mut Emitter<'_, Self>) -> Result { out.emit((), 1); Ok(()) }
    /// #     fn reduce(&self, _: (), counts: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result { out.write(Counted { records: counts.sum() }) }
    /// # }
    /// assert_eq!(Case::new(b"one\n").output_format("jsonl").run(Count {})?, "{\"records\":1}\n");
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// # Panics
    /// If there is no such format.
    pub fn output_format(mut self, format: &str) -> Self {
        self.output = Some(format.parse().expect("an output format"));
        self
    }

    /// The first record of CSV input is no header.
    ///
    /// ```
    /// # use shardmill::prelude::*;
    /// # use shardmill::testing::Case;
    /// # #[derive(Args, Serialize, Deserialize)] struct Count {}
    /// # #[derive(Serialize, Deserialize)] struct Counted { records: u64 }
    /// # impl MapReduce for Count {
    /// #     type Input = Bytes; type Key = (); type Value = u64; type Combine = Sum; type Output = Counted;
    /// #     fn map(&self, _: &[u8], out: &mut Emitter<'_, Self>) -> Result { out.emit((), 1); Ok(()) }
    /// #     fn reduce(&self, _: (), counts: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result { out.write(Counted { records: counts.sum() }) }
    /// # }
    /// let case = Case::new(b"Faro,1\nGent,2\n").input_format("csv");
    /// assert_eq!(case.clone().run(Count {})?, "records\n1\n");
    /// assert_eq!(case.without_header().run(Count {})?, "records\n2\n");
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    pub fn without_header(mut self) -> Self {
        self.csv_header = false;
        self
    }

    /// Sets up to this many bad records aside.
    ///
    /// ```
    /// # use shardmill::prelude::*;
    /// # use shardmill::testing::Case;
    /// # #[derive(Args, Serialize, Deserialize)] struct Add {}
    /// # #[derive(Serialize, Deserialize)] struct Total { total: u64 }
    /// # impl MapReduce for Add {
    /// #     type Input = Lines; type Key = (); type Value = u64; type Combine = Sum; type Output = Total;
    /// #     fn map(&self, line: &str, out: &mut Emitter<'_, Self>) -> Result { out.emit((), line.parse()?); Ok(()) }
    /// #     fn reduce(&self, _: (), numbers: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result { out.write(Total { total: numbers.sum() }) }
    /// # }
    /// let case = Case::new(b"4\nfour\n5\n");
    /// assert!(case.run(Add {}).is_err());
    /// assert_eq!(case.max_bad_records(1).run(Add {})?, "total\n9\n");
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    pub fn max_bad_records(mut self, limit: u64) -> Self {
        self.max_bad_records = limit;
        self
    }

    /// Runs `job` in many ways and returns its output, all parts one after the other under one header.
    ///
    /// # Panics
    /// If two ways give different output: the job is not deterministic, or its combiner not associative and commutative.
    pub fn run<J: MapReduce + Serialize + DeserializeOwned>(&self, job: J) -> Result<String> {
        Ok(String::from_utf8(self.bytes(job)?)?)
    }

    /// The same for output that is not text.
    ///
    /// ```
    /// # use shardmill::prelude::*;
    /// # use shardmill::testing::Case;
    /// # #[derive(Args, Serialize, Deserialize)] struct Count {}
    /// # #[derive(Serialize, Deserialize)] struct Counted { records: u64 }
    /// # impl MapReduce for Count {
    /// #     type Input = Bytes; type Key = (); type Value = u64; type Combine = Sum; type Output = Counted;
    /// #     fn map(&self, _: &[u8], out: &mut Emitter<'_, Self>) -> Result { out.emit((), 1); Ok(()) }
    /// #     fn reduce(&self, _: (), counts: Values<'_, Self>, out: &mut Output<'_, Self>) -> Result { out.write(Counted { records: counts.sum() }) }
    /// # }
    /// let parts = Case::new(b"one\n").output_format("parquet").bytes(Count {})?;
    /// assert!(parts.starts_with(b"PAR1"));
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    pub fn bytes<J: MapReduce + Serialize + DeserializeOwned>(&self, job: J) -> Result<Vec<u8>> {
        let directory = Scratch::new()?;
        let default = match J::Input::KIND {
            Kind::Lines | Kind::Bytes => Format::Text,
            Kind::Rows | Kind::Batches | Kind::Any => Format::Csv,
        };
        let path = directory.0.join("input");
        fs::write(&path, self.input)?;
        // The parameters as they would travel to a worker.
        let parameters = serde_json::to_value(&job)?;
        let job = || serde_json::from_value::<J>(parameters.clone());
        let mut whole = None;
        for partitions in [1, 3] {
            let mut first: Option<(Parts, Way)> = None;
            for way in ways(self.input.len(), job()?.partitioning()) {
                let output = directory.0.join("output");
                let options = Options {
                    request: RunRequest {
                        input_format: Some(self.format.unwrap_or(default)),
                        csv: CsvOptions { header: self.csv_header, quotes: true },
                        output_format: self.output,
                        partitions: Some(partitions),
                        shard_bytes: Some(way.shard_bytes),
                        max_bad_records: self.max_bad_records,
                        overwrite: true,
                        ..RunRequest::new([path.display().to_string()], output.clone())
                    },
                    threads: way.threads,
                    memory_bytes: Some(way.threads * (64 << 20)),
                    temp_directory: None,
                    durable: false,
                    tight: way.tight,
                    is_reference: way.is_reference,
                };
                run_once(job()?, options).map_err(|error| card::card(&error))?;
                let parts = read_parts(&output)?;
                match &first {
                    None => first = Some((parts, way)),
                    Some((known, known_way)) => {
                        assert!(*known == parts, "the output differs between {known_way:?} and {way:?} with {partitions} partitions");
                    }
                }
            }
            if let (None, Some((parts, _))) = (&whole, first) {
                whole = Some(parts.into_iter().flat_map(|(_, bytes)| bytes).collect());
            }
        }
        Ok(whole.unwrap_or_default())
    }
}

/// One way of running a job.
#[derive(Clone, Copy, Debug)]
struct Way {
    threads: usize,
    shard_bytes: u64,
    tight: Option<Tight>,
    is_reference: bool,
}

fn ways(input_bytes: usize, partitioning: Partitioning) -> Vec<Way> {
    let small = (input_bytes as u64 / 60).max(1);
    let (whole, some) = match partitioning {
        Partitioning::Hash => (32 << 20, small * 7),
        // Where keys are cut follows from the shards.
        Partitioning::Range => (small, small),
    };
    let plain = Way { threads: 1, shard_bytes: whole, tight: None, is_reference: false };
    let tight = |collect_bytes, fan_in| Some(Tight { collect_bytes, merge_bytes: 4096, fan_in });
    // As many runs as with the least memory, and enough to fold them without a merge where that can be.
    let folded = Some(Tight { collect_bytes: 12 << 10, merge_bytes: 8 << 20, fan_in: usize::MAX });
    vec![
        Way { is_reference: true, ..plain },
        plain,
        Way { threads: 3, shard_bytes: small, ..plain },
        Way { threads: 2, shard_bytes: some, tight: tight(12 << 10, 2), ..plain },
        Way { threads: 3, shard_bytes: small, tight: tight(40 << 10, 3), ..plain },
        Way { threads: 2, shard_bytes: small, tight: folded, ..plain },
    ]
}

/// Runs a job once.
pub(crate) fn run_once<J: MapReduce>(job: J, options: Options) -> std::result::Result<Summary, RunError> {
    Planned::new("test", job, options, Arc::new(Progress::default()))?.run(|_, _| {})
}

/// Parts with their names, in order.
type Parts = Vec<(String, Vec<u8>)>;

/// The parts of an output.
fn read_parts(output: &Path) -> Result<Parts> {
    let mut parts = Vec::new();
    for entry in fs::read_dir(output)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("part-") {
            parts.push((name, fs::read(entry.path())?));
        }
    }
    parts.sort();
    Ok(parts)
}

/// Checks that no parameter of the job has the name of a flag of `run`.
///
/// # Panics
/// If one has.
///
/// ```
/// # use shardmill::prelude::*;
/// #[derive(Args)]
/// struct Search {
///     /// Called `--input`, it would collide.
///     #[arg(long)]
///     pattern: String,
/// }
/// # impl MapReduce for Search {
/// #     type Input = Lines; type Key = (); type Value = (); type Combine = Max; type Output = Raw;
/// #     fn map(&self, _: &str, _: &mut Emitter<'_, Self>) -> Result { Ok(()) }
/// #     fn reduce(&self, _: (), _: Values<'_, Self>, _: &mut Output<'_, Self>) -> Result { Ok(()) }
/// # }
///
/// shardmill::testing::check_parameters::<Search>();
/// ```
pub fn check_parameters<J: MapReduce + clap::Args>() {
    let flags = flag_names();
    for name in parameter_names::<J>() {
        assert!(!flags.contains(&name), "the parameter --{name} is a flag of `run`; call it something else");
    }
}

/// A directory that is removed in the end.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new() -> std::io::Result<Self> {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("shardmill-testing-{}-{number}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
