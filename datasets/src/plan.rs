//! The plan: a pure function of listing, survey and flags that says which shards there are, in which order, and which
//! columns they have. It never depends on threads, memory or machines, so outputs do not either.
//!
//! ```text
//! files ─▶ Draft::new ─▶ surveys ─▶ (run anywhere) ─▶ results ─▶ Draft::finish ─▶ Plan
//! ```
//!
//! A file of lines, CSV or fixed records is cut every `shard_bytes`; which shard a record belongs to follows from its
//! first byte and is found when the shard is read. Only CSV needs to know the automaton's state at each cut, so CSV
//! files of more than one shard are surveyed. Parquet and Arrow are cut between row groups and batches. A compressed
//! file is one shard. What the columns are and whether files agree on them is decided in `plan/columns.rs`.

mod columns;

use std::path::PathBuf;

use arrow::datatypes::{DataType, SchemaRef};
use serde::{Deserialize, Serialize};

use crate::block::Framing;
use crate::error::ReadError;
use crate::format::csv::{CsvOptions, CsvState, Transition};
use crate::format::{Compression, Format, Shape};
use crate::limits::Limits;
use crate::listing::InputFile;
use crate::shard::{Piece, Shard};
use crate::survey::{Finding, Footer, Grid, Head, Question, Survey, SurveyResult, Task, schema_bytes};
use crate::table;

const MIN_SHARD_BYTES: u64 = 32 << 20;
const MAX_SHARDS: u64 = 1_000_000;
const PARTITION_BYTES: u64 = 64 << 20;
const MAX_PARTITIONS: u64 = 10_000;
/// `--shard-bytes` may ask for more shards than a plan has by itself, but not for more than memory holds.
const MAX_ASKED_SHARDS: u64 = 32 << 20;
/// Column types are inferred from about this much of the first files.
const PREFIX_BYTES: u64 = 1 << 20;
const PREFIX_FILES: usize = 64;
/// What decompressing bzip2 takes: blocks of up to 900 kB, four bytes for each.
const BZIP2_BYTES: u64 = 4 << 20;
/// A unit of surveying reads about this much, of at most so many files.
const SURVEY_BYTES: u64 = 32 << 20;
const SURVEY_TASKS: usize = 256;

/// What a plan depends on besides the files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanOptions {
    /// What the job wants to be given.
    pub shape: Shape,
    /// The size of a shard; by itself max(32 MiB, total / 10⁶).
    pub shard_bytes: Option<u64>,
    /// The number of partitions; by itself one for every 64 MiB of input, from 1 to 10⁴.
    pub partitions: Option<u32>,
    /// How CSV and TSV files are to be understood.
    pub csv: CsvOptions,
    /// Caps on records, fields, expansion.
    pub limits: Limits,
    /// Which columns the job asks for.
    pub columns: Projection,
    /// Which types they shall have.
    pub schema: SchemaRequest,
    /// Whether the job samples its input to cut ranges of keys; then places for it are found in quoted CSV.
    pub sampled: bool,
}

impl PlanOptions {
    /// Returns the usual options for a shape: all columns, their types inferred for batches.
    pub fn new(shape: Shape) -> Self {
        let schema = if matches!(shape, Shape::Batches | Shape::Any) { SchemaRequest::Infer } else { SchemaRequest::NotNeeded };
        Self {
            shape,
            shard_bytes: None,
            partitions: None,
            csv: CsvOptions::default(),
            limits: Limits::default(),
            columns: Projection::All,
            schema,
            sampled: false,
        }
    }
}

/// Which columns a job asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Projection {
    /// All that the first file has, in its order.
    All,
    /// Those with these names, in this order.
    Names(Vec<String>),
}

/// Which types the columns of text formats shall have; Parquet and Arrow files bring their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SchemaRequest {
    /// The plan needs no schema: rows are typed by the job.
    NotNeeded,
    /// Text, all of them.
    AllText,
    /// Inferred from a fixed prefix of the first files.
    Infer,
    /// These where they are given, the others inferred.
    Given(#[serde(with = "schema_bytes")] SchemaRef),
}

/// One file of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedFile {
    /// The file.
    pub file: InputFile,
    /// Its columns in its order, where it says them beforehand (JSON lines do not). Without a CSV header: `column_1`, ….
    pub header: Option<Vec<String>>,
    /// Where the records begin, behind a CSV header; pieces begin there, so nobody needs to skip it.
    pub start: u64,
    /// What a reader of the file must hold at once besides its blocks: a page of each column that is read and a batch of what they hold,
    /// a batch, or a decompressor's window. For Parquet it is at most this; [`Plan::held_by`] looks at the pages.
    pub held_bytes: u64,
    /// The CSV automaton's state at the start of every chunk, if the file has more than one.
    states: Vec<CsvState>,
}

/// Which shards there are and what is in them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// All files, in listing order.
    pub files: Vec<PlannedFile>,
    /// All shards: by file, then by position. Together they hold every record once.
    pub shards: Vec<Shard>,
    /// How many partitions the key space has.
    pub partitions: u32,
    /// The columns that were asked for, in the order in which they were.
    #[serde(with = "schema_bytes::optional")]
    pub schema: Option<SchemaRef>,
    /// What the plan was made with.
    pub options: PlanOptions,
    /// The bytes of all files.
    pub input_bytes: u64,
    grid: Grid,
}

/// What columns there are.
fn those(columns: &[String]) -> String {
    match columns {
        [] => "no record at its beginning has any: is it of another format?".to_owned(),
        columns => format!("it has: {}", columns.join(", ")),
    }
}

/// Says why there can be no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The job's shape cannot be made from the file's format.
    #[error("{}: the job wants {shape}, which can be read from {}, but not from {format}", path.display(), shape.formats())]
    Shape {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: Format,
        /// What the job wants.
        shape: Shape,
    },
    /// The file's format or compression was left out of this build.
    #[error("{} cannot be read: this program was built without the feature '{feature}' of shardmill", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The feature that would do.
        feature: &'static str,
    },
    /// A Parquet or Arrow file is compressed as a whole.
    #[error("{} is compressed as a whole ({compression}), and {format} cannot be read from its beginning alone; decompress it first", path.display())]
    Compressed {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: Format,
        /// Its compression.
        compression: Compression,
    },
    /// A file of fixed records ends within one.
    #[error("{} has {bytes} bytes, which is not a multiple of {record_bytes}", path.display())]
    PartialRecord {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The size of a record.
        record_bytes: u32,
    },
    /// Shards or partitions of size or number 0.
    #[error("{what} must be at least 1")]
    Zero {
        /// Which of them.
        what: &'static str,
    },
    /// Shards were asked for that are too small for so much input.
    #[error("shards of {shard_bytes} bytes are too many for {input_bytes} bytes of input: at least {needed} bytes, please")]
    TooManyShards {
        /// What was asked for.
        shard_bytes: u64,
        /// How much input there is.
        input_bytes: u64,
        /// What would do.
        needed: u64,
    },
    /// A file lacks a column.
    #[error("{} has no column '{column}'; {}", path.display(), those(columns))]
    NoColumn {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// What there is.
        columns: Vec<String>,
    },
    /// All columns are asked for, and a file has one that the files before it lack.
    #[error("{} has a column '{column}' that files before it lack; they have: {}", path.display(), columns.join(", "))]
    ExtraColumn {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// What the others have.
        columns: Vec<String>,
    },
    /// A file has two columns of one name.
    #[error("{} has more than one column '{column}'", path.display())]
    AmbiguousColumn {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
    },
    /// A column's type is not the one that it has elsewhere or was given.
    #[error("column '{column}' of {} is {found}, but {expected} was expected", path.display())]
    ColumnType {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// Its type there.
        found: DataType,
        /// Its type in the files before, or as it was given.
        expected: DataType,
    },
    /// The results are not those of this draft's surveys.
    #[error("the survey results do not belong to this plan: {detail}")]
    Results {
        /// What does not fit.
        detail: &'static str,
    },
    /// A file cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// A plan that still needs its surveys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draft {
    files: Vec<InputFile>,
    options: PlanOptions,
    grid: Grid,
    surveys: Vec<Survey>,
}

/// What is known of one file after the surveys.
#[derive(Clone, Debug, Default)]
struct Facts {
    head: Option<Head>,
    footer: Option<Footer>,
    transitions: Vec<Transition>,
}

impl Draft {
    /// Checks what can be checked without reading, and finds out what must be read.
    pub fn new(files: Vec<InputFile>, options: PlanOptions) -> Result<Self, PlanError> {
        files.iter().try_for_each(|file| check_file(file, options.shape))?;
        if options.partitions == Some(0) {
            return Err(PlanError::Zero { what: "the number of partitions" });
        }
        let shard_bytes = shard_bytes(&files, options.shard_bytes)?;
        let partitions = partitions(&files, options.partitions);
        let chunk_bytes = match options.sampled && partitions > 1 {
            true => (input_bytes(&files) / (u64::from(partitions) * SAMPLE_POSITIONS)).clamp(1, shard_bytes),
            false => shard_bytes,
        };
        let mut draft = Self { files, options, grid: Grid { shard_bytes, chunk_bytes }, surveys: vec![] };
        draft.surveys = draft.group(draft.tasks());
        Ok(draft)
    }

    /// Returns what has to be surveyed; the results go to [`Draft::finish`] in the same order.
    pub fn surveys(&self) -> &[Survey] {
        &self.surveys
    }

    /// Makes the plan, given the results of the surveys in their order.
    pub fn finish(self, results: Vec<SurveyResult>) -> Result<Plan, PlanError> {
        let mut facts = self.facts(results)?;
        let input_bytes = input_bytes(&self.files);
        let partitions = partitions(&self.files, self.options.partitions);
        let (mut files, mut shards) = (vec![], vec![]);
        for (file, facts) in self.files.into_iter().zip(&mut facts) {
            let planned = planned_file(file, facts, &self.options)?;
            cut(&planned, files.len() as u32, facts, self.grid, &mut shards);
            files.push(planned);
        }
        let schema = columns::decide(&self.options, &files, &facts)?;
        Ok(Plan { files, shards, partitions, schema, options: self.options, input_bytes, grid: self.grid })
    }

    fn tasks(&self) -> Vec<Task> {
        let mut tasks = vec![];
        let mut prefix_left = match self.options.schema {
            SchemaRequest::Infer | SchemaRequest::Given(_) => PREFIX_BYTES,
            SchemaRequest::NotNeeded | SchemaRequest::AllText => 0,
        };
        let mut prefixes = 0;
        for (index, file) in self.files.iter().enumerate().filter(|(_, file)| file.bytes > 0) {
            let mut ask = |question| tasks.push(Task { index: index as u32, file: file.clone(), question });
            if file.format.is_columnar() {
                ask(Question::Footer);
                continue;
            }
            let tabular = self.options.shape.is_tabular(file.format);
            let mut prefix_bytes = 0;
            if tabular && prefixes < PREFIX_FILES {
                // How much comes out of a compressed file is not known: it may use up all that is left.
                let most = if file.compression == Compression::None { file.bytes } else { u64::MAX };
                prefix_bytes = prefix_left.min(most);
                prefix_left -= prefix_bytes;
                prefixes += 1;
            }
            let delimited = file.format.delimiter().is_some();
            // A zstd file is opened to see its window before work starts.
            if prefix_bytes > 0 || delimited && (tabular || self.options.csv.header) || file.compression == Compression::Zstd {
                ask(Question::Head { prefix_bytes });
            }
            let many = file.compression == Compression::None && file.bytes > self.grid.chunk_bytes;
            if delimited && many && self.options.csv.quotes {
                let step = SURVEY_BYTES.div_ceil(self.grid.shard_bytes).saturating_mul(self.grid.shard_bytes);
                let mut start = 0;
                while start < file.bytes {
                    let end = start.saturating_add(step).min(file.bytes);
                    ask(Question::States { start, end, grid: self.grid });
                    start = end;
                }
            }
        }
        tasks
    }

    /// Puts small tasks together: 10⁵ tiny files are a few hundred surveys.
    fn group(&self, tasks: Vec<Task>) -> Vec<Survey> {
        let Self { options: PlanOptions { csv, limits, columns, .. }, .. } = self;
        let columns = match columns {
            Projection::All => None,
            Projection::Names(names) => Some(names),
        };
        let mut surveys: Vec<Survey> = vec![];
        let mut bytes = 0;
        for task in tasks {
            match surveys.last_mut() {
                Some(last) if last.tasks.len() < SURVEY_TASKS && bytes + task.bytes() <= SURVEY_BYTES => {
                    bytes += task.bytes();
                    last.tasks.push(task);
                }
                _ => {
                    bytes = task.bytes();
                    surveys.push(Survey { tasks: vec![task], csv: *csv, limits: *limits, columns: columns.cloned() });
                }
            }
        }
        surveys
    }

    fn facts(&self, results: Vec<SurveyResult>) -> Result<Vec<Facts>, PlanError> {
        let mut facts = vec![Facts::default(); self.files.len()];
        if results.len() != self.surveys.len() {
            return Err(PlanError::Results { detail: "another number of surveys" });
        }
        for (survey, result) in self.surveys.iter().zip(results) {
            if survey.tasks.len() != result.findings.len() {
                return Err(PlanError::Results { detail: "another number of findings" });
            }
            for (task, finding) in survey.tasks.iter().zip(result.findings) {
                let facts = &mut facts[task.index as usize];
                match (&task.question, finding) {
                    (Question::Head { .. }, Finding::Head(head)) => facts.head = Some(head),
                    (Question::Footer, Finding::Footer(footer)) => facts.footer = Some(footer),
                    (Question::States { start, end, grid }, Finding::States(transitions))
                        if transitions.len() == grid.chunk_at(end - 1) + 1 - grid.chunk_at(*start) =>
                    {
                        facts.transitions.extend(transitions);
                    }
                    _ => return Err(PlanError::Results { detail: "an answer to another question" }),
                }
            }
        }
        Ok(facts)
    }
}

fn check_file(file: &InputFile, shape: Shape) -> Result<(), PlanError> {
    let InputFile { path, format, compression, bytes, .. } = file;
    if !shape.reads(*format) {
        return Err(PlanError::Shape { path: path.clone(), format: *format, shape });
    }
    if let Some(feature) = format.missing_feature().or(compression.missing_feature()) {
        return Err(PlanError::Unsupported { path: path.clone(), feature });
    }
    match (format, compression) {
        (Format::Parquet | Format::Arrow, Compression::Gzip | Compression::Zstd | Compression::Bzip2) => {
            Err(PlanError::Compressed { path: path.clone(), format: *format, compression: *compression })
        }
        (Format::Fixed(size), Compression::None) if bytes % u64::from(size.get()) != 0 => {
            Err(PlanError::PartialRecord { path: path.clone(), bytes: *bytes, record_bytes: size.get() })
        }
        _ => Ok(()),
    }
}

fn input_bytes(files: &[InputFile]) -> u64 {
    files.iter().map(|file| file.bytes).sum()
}

fn partitions(files: &[InputFile], asked: Option<u32>) -> u32 {
    asked.unwrap_or((input_bytes(files) / PARTITION_BYTES).clamp(1, MAX_PARTITIONS) as u32)
}

fn shard_bytes(files: &[InputFile], asked: Option<u64>) -> Result<u64, PlanError> {
    let input_bytes = input_bytes(files);
    let Some(shard_bytes) = asked else { return Ok(MIN_SHARD_BYTES.max(input_bytes.div_ceil(MAX_SHARDS))) };
    if shard_bytes == 0 {
        return Err(PlanError::Zero { what: "the size of a shard" });
    }
    if input_bytes / shard_bytes > MAX_ASKED_SHARDS {
        return Err(PlanError::TooManyShards { shard_bytes, input_bytes, needed: input_bytes.div_ceil(MAX_ASKED_SHARDS) });
    }
    Ok(shard_bytes)
}

fn planned_file(file: InputFile, facts: &mut Facts, options: &PlanOptions) -> Result<PlannedFile, PlanError> {
    let mut states = vec![];
    let mut state = CsvState::Record;
    for transition in &facts.transitions {
        states.push(state);
        state = transition.apply(state).ok_or(PlanError::Results { detail: "a damaged transition" })?;
    }
    let start = facts.head.as_ref().map_or(0, |head| head.start);
    let header = match &facts.footer {
        Some(footer) => Some(footer.schema.fields().iter().map(|field| field.name().clone()).collect()),
        None => facts.head.as_mut().and_then(|head| head.columns.take()),
    };
    let header = header.filter(|_| options.shape.is_tabular(file.format) || options.csv.header);
    let held_bytes = match (&facts.footer, file.compression) {
        (Some(footer), _) => footer.held_bytes,
        (None, Compression::Zstd) => facts.head.as_ref().map_or(0, |head| head.window_bytes),
        (None, Compression::Bzip2) => BZIP2_BYTES,
        (None, Compression::None | Compression::Gzip) => 0,
    };
    Ok(PlannedFile { file, header, start, held_bytes, states })
}

/// Adds the shards of one file.
fn cut(planned: &PlannedFile, file: u32, facts: &Facts, grid: Grid, shards: &mut Vec<Shard>) {
    let InputFile { bytes, compression, .. } = planned.file;
    if let Some(footer) = &facts.footer {
        let mut first = 0;
        let mut weight = 0;
        for (group, group_bytes) in footer.weights.iter().enumerate() {
            weight += group_bytes;
            let next = group as u32 + 1;
            if weight >= grid.shard_bytes || next as usize == footer.weights.len() {
                shards.push(Shard { file, piece: Piece::Groups { first, count: next - first }, bytes: weight });
                (first, weight) = (next, 0);
            }
        }
        return;
    }
    if bytes == 0 {
        return;
    }
    if compression != Compression::None {
        return shards.push(Shard { file, piece: Piece::Whole { start: planned.start }, bytes });
    }
    let mut start = planned.start;
    while start < bytes {
        let end = (start / grid.shard_bytes).saturating_add(1).saturating_mul(grid.shard_bytes).min(bytes);
        shards.push(Shard { file, piece: planned.bytes(start, end, grid), bytes: end - start });
        start = end;
    }
}

impl PlannedFile {
    /// Names the piece `start..end`, of which `start` must be the records' first byte or a chunk's.
    fn bytes(&self, start: u64, end: u64, grid: Grid) -> Piece {
        let known = self.states.get(grid.chunk_at(start)).copied().unwrap_or_default();
        let csv = if start == self.start { CsvState::Record } else { known };
        Piece::Bytes { start, end, csv }
    }
}

impl Plan {
    /// Returns how the records of a file are told apart; nothing for Parquet and Arrow.
    pub fn framing(&self, file: u32) -> Option<Framing> {
        Some(match self.files[file as usize].file.format {
            Format::Text | Format::JsonLines => Framing::Lines,
            Format::Csv => Framing::Csv { delimiter: b',', quotes: self.options.csv.quotes },
            Format::Tsv => Framing::Csv { delimiter: b'\t', quotes: self.options.csv.quotes },
            Format::Fixed(size) => Framing::Fixed(size),
            Format::Parquet | Format::Arrow => return None,
        })
    }

    /// Finds out what a reader of a file must hold at once, by looking at the headers of all pages of a Parquet file.
    ///
    /// [`PlannedFile::held_bytes`] costs nothing and may be far above it.
    pub fn held_by(&self, file: &PlannedFile) -> Result<u64, ReadError> {
        let columns = match &self.options.columns {
            Projection::All => None,
            Projection::Names(names) => Some(names.as_slice()),
        };
        if file.file.format == Format::Parquet { table::held_bytes(&file.file, columns) } else { Ok(file.held_bytes) }
    }

    /// Chooses at most `count` small pieces, evenly spread over the input, from which to read the first few records each.
    ///
    /// A function of the plan alone, in plan order; no piece comes twice. Pieces of quoted CSV begin where the survey has been: in a
    /// plan that is [sampled](PlanOptions::sampled) at [`SAMPLE_POSITIONS`] places for each partition, else at shards. A piece may turn
    /// out to hold no record's beginning.
    pub fn sample_pieces(&self, count: usize) -> Vec<Shard> {
        let total: u64 = self.shards.iter().map(|shard| shard.bytes).sum();
        let mut samples: Vec<Shard> = vec![];
        let mut shards = self.shards.iter();
        let (mut shard, mut before) = (shards.next(), 0);
        for number in 0..count {
            // The middle of each of `count` equal stretches of the input.
            let target = (u128::from(total) * (2 * number as u128 + 1) / (2 * count as u128)) as u64;
            while let Some(current) = shard.filter(|current| target >= before + current.bytes) {
                before += current.bytes;
                shard = shards.next();
            }
            let Some(shard) = shard else { break };
            // Half of a stretch, so that no two samples share a record.
            let sample = self.part_of(shard, target - before, total / (2 * count as u64));
            if samples.last() != Some(&sample) {
                samples.push(sample);
            }
        }
        samples
    }

    /// The smallest piece of a shard at the byte `inside` of its weight; of `most` bytes where that can be chosen.
    fn part_of(&self, shard: &Shard, inside: u64, most: u64) -> Shard {
        let file = &self.files[shard.file as usize];
        match shard.piece {
            Piece::Whole { .. } => *shard,
            Piece::Groups { first, count } => {
                let skipped = (u128::from(inside) * u128::from(count) / u128::from(shard.bytes.max(1))) as u32;
                let piece = Piece::Groups { first: first + skipped.min(count - 1), count: 1 };
                Shard { piece, bytes: (shard.bytes / u64::from(count)).max(1), ..*shard }
            }
            // Where any byte may be the first, so may the sample's.
            Piece::Bytes { start, end, .. } if !matches!(self.framing(shard.file), Some(Framing::Csv { quotes: true, .. })) => {
                let from = start + inside;
                let to = end.min(from + most.clamp(1, SAMPLE_BYTES));
                Shard { piece: Piece::Bytes { start: from, end: to, csv: CsvState::default() }, bytes: to - from, ..*shard }
            }
            Piece::Bytes { start, end, .. } => {
                let from = self.grid.chunk_start(start + inside).max(start);
                let to = self.grid.chunk_end(start + inside).min(end);
                // Only between chunks is it known what a byte of CSV means, unless its chunks were never surveyed.
                let part = if file.states.is_empty() { (start, end) } else { (from, to) };
                Shard { piece: file.bytes(part.0, part.1, self.grid), bytes: part.1 - part.0, ..*shard }
            }
        }
    }
}

/// At so many places the input is sampled, for each partition.
pub const SAMPLE_POSITIONS: u64 = 128;

/// How much of a file is looked at for a sample where that may begin anywhere.
const SAMPLE_BYTES: u64 = 64 << 10;

#[cfg(test)]
mod tests;
