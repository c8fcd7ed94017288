//! Tables: shards of CSV, TSV, JSON lines, Parquet and Arrow files as Arrow record batches of one schema.
//!
//! Owns the reader that a job's loop holds, and what it gives out. The plan decides the schema once, for all files; here each
//! file's columns are found by name and read in exactly those types. What becomes of bad rows is the engine's decision.
//!
//! ```text
//!   CSV, TSV     BlockReader ─ block ─▶ split (where fields end) ─▶ csv (projected columns, nulls, bad rows) ┐
//!   JSON lines   BlockReader ─ block ─▶ json                                                                 ├─▶ TableBatch
//!   Parquet      row groups ─▶ parquet ─▶ conform (order, types)                                             │
//!   Arrow IPC    batches    ─▶ ipc     ─▶ conform                                                            ┘
//! ```

mod conform;
pub(crate) mod csv;
mod infer;
mod ipc;
pub(crate) mod json;
mod masks;
mod number;
#[cfg(feature = "parquet")]
mod parquet;
mod schema;
pub(crate) mod split;
#[cfg(feature = "parquet")]
#[cfg(test)]
mod tests;

pub use infer::{Prefix, infer};
pub use json::row_as_json;
pub use schema::{SchemaError, override_types, parse_schema, schema_text, type_name};

use crate::block::{BlockReader, Framing};
use crate::error::ReadError;
use crate::format::csv::{CsvOptions, CsvState, Dialect};
use crate::format::{Compression, Format};
use crate::guard::reading;
use crate::limits::{Limits, Room};
use crate::listing::InputFile;
use crate::shard::Piece;
use std::ops::Range;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use csv::{CsvDecoder, Decoded};
use json::JsonDecoder;
use split::FieldIndex;

/// How tables are read: the same for all shards of a job.
#[derive(Clone, Debug)]
pub struct TableSpec {
    /// The columns to read and their types; other columns of a file are skipped.
    pub schema: SchemaRef,
    /// What the user says about delimited files.
    pub csv: CsvOptions,
    /// Caps on records and fields.
    pub limits: Limits,
    /// What memory there is for them.
    pub room: Room,
    /// The most rows of one batch. 8,192.
    pub batch_rows: usize,
    /// How much of a file is decoded at once, where it has no batches of its own. 512 KiB: block, index and columns stay in the cache.
    /// A thread needs at most about 8 times as much for block and index, and 16 times for each decimal column, when every field is
    /// empty or one byte; usually less than twice as much in all.
    pub block_bytes: usize,
    /// Leaves text columns as dictionaries where a Parquet row group or an Arrow file has them so throughout, and makes dictionaries
    /// of those of delimited files that have few values; a batch's schema then says so. Off: every column has the type that
    /// [`schema`](Self::schema) gives it.
    pub keep_dictionaries: bool,
}

/// The most rows of a batch, unless a specification says otherwise.
const BATCH_ROWS: usize = 8_192;

impl TableSpec {
    /// Makes a specification with the default sizes.
    pub fn new(schema: SchemaRef) -> Self {
        let (csv, limits) = Default::default();
        Self { schema, csv, limits, room: Room::ENDLESS, batch_rows: BATCH_ROWS, block_bytes: 512 << 10, keep_dictionaries: false }
    }
}

/// Rows of one shard, by columns.
#[derive(Clone, Debug)]
pub struct TableBatch {
    /// The rows that can be used.
    pub batch: RecordBatch,
    /// The number of the first of them within the shard. Bad rows count, so numbers within a batch may skip some.
    pub first_record: u64,
    /// Where in the file the block begins from which the rows come; 0 for Parquet and Arrow.
    pub offset: u64,
    /// The number of the record with which that block begins.
    pub block_record: u64,
    /// Rows that were set aside, in order. A batch may consist of nothing else.
    pub bad: Vec<BadRow>,
}

impl TableBatch {
    /// The number of the record that is in this row of the batch.
    pub fn record_of(&self, row: usize) -> u64 {
        self.bad.iter().fold(self.first_record + row as u64, |record, bad| {
            if (self.first_record..=record).contains(&bad.record) { record + 1 } else { record }
        })
    }
}

/// A row that is not as the schema or the header demands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRow {
    /// Its number within the shard, from 0; the header is no record.
    pub record: u64,
    /// Where in the (decompressed) file it begins.
    pub offset: u64,
    /// Its bytes, without the terminator.
    pub bytes: Vec<u8>,
    /// What is wrong with it.
    pub cause: String,
}

/// A Parquet row group, or a batch of an Arrow file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// How many rows it has.
    pub rows: u64,
    /// What it weighs: its compressed size for Parquet, the uncompressed one for Arrow.
    pub bytes: u64,
}

/// What the footer of a file of columns says.
#[derive(Clone, Debug)]
pub struct Footer {
    /// The columns in the types in which jobs see them, all nullable.
    pub schema: SchemaRef,
    /// The pieces that the file can be cut into.
    pub groups: Vec<Group>,
}

/// Reads the footer of a Parquet or Arrow file.
///
/// # Panics
/// If the file is of another format: others have no footer.
pub fn footer(file: &InputFile) -> Result<Footer, ReadError> {
    let (stored, groups) = match file.format {
        #[cfg(feature = "parquet")]
        Format::Parquet => reading(file, || parquet::footer(file))?,
        #[cfg(not(feature = "parquet"))]
        Format::Parquet => return Err(without_parquet(file)),
        Format::Arrow => reading(file, || ipc::footer(file))?,
        format => panic!("{} is {format} and has no footer", file.path.display()),
    };
    Ok(Footer { schema: conform::visible_schema(&stored).into(), groups })
}

/// Refuses a file that would need more than `limit` bytes at once for one Parquet page or Arrow batch, before anything is read; returns
/// at most how many bytes a reader of the file must hold at once: for Parquet a page of each column and a batch, for Arrow a batch.
///
/// Only `columns` are looked at in a Parquet file, all of them where none are given. Files of other formats pass.
pub fn check_pages(file: &InputFile, columns: Option<&[String]>, limit: u64) -> Result<u64, ReadError> {
    match file.format {
        #[cfg(feature = "parquet")]
        Format::Parquet => reading(file, || parquet::check_pages(file, columns, limit)),
        #[cfg(not(feature = "parquet"))]
        Format::Parquet => {
            let _ = (columns, limit);
            Err(without_parquet(file))
        }
        Format::Arrow => reading(file, || ipc::check_batches(file, limit)),
        _ => Ok(0),
    }
}

/// Returns how many bytes a reader of a Parquet file must hold at once for its pages and a batch. Looks at each page's header.
pub(crate) fn held_bytes(file: &InputFile, columns: Option<&[String]>) -> Result<u64, ReadError> {
    #[cfg(feature = "parquet")]
    return reading(file, || parquet::held_bytes(file, columns));
    #[cfg(not(feature = "parquet"))]
    {
        let _ = columns;
        Err(without_parquet(file))
    }
}

#[cfg(not(feature = "parquet"))]
fn without_parquet(file: &InputFile) -> ReadError {
    ReadError::Unsupported { path: file.path.clone(), feature: "parquet" }
}

/// Reads shards, one after the other, as batches.
///
/// ```
/// use shardmill_datasets::table::{TableReader, TableSpec, parse_schema};
/// use shardmill_datasets::{InputFile, Piece};
/// # let path = tempfile::Builder::new().suffix(".csv").tempfile()?.into_temp_path();
/// std::fs::write(&path, "city,n\nGent,1\nBergen,x\n")?;
/// let file = InputFile::at(&path, None)?;
/// let mut reader = TableReader::new(TableSpec::new(parse_schema("n: int")?.into()));
/// // The plan has read the header: 7 bytes.
/// reader.open(&file, Some(&["city".to_owned(), "n".to_owned()]), &Piece::Whole { start: 7 })?;
/// let table = reader.next()?.expect("one batch");
/// assert_eq!(table.batch.num_rows(), 1);
/// assert_eq!(table.bad[0].cause, "column 'n': 'x' is not a value of type int; give --schema 'n: text'");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct TableReader {
    spec: TableSpec,
    blocks: BlockReader,
    csv: Option<CsvDecoder>,
    #[cfg(feature = "parquet")]
    parquet: parquet::ParquetTable,
    ipc: ipc::IpcTable,
    /// What is open.
    source: Source,
    /// The number of the next record.
    record: u64,
    /// What is left of a block that held more rows than a batch.
    rest: Option<(Decoded, Block)>,
    file: Option<InputFile>,
}

/// Where a block begins.
#[derive(Clone, Copy)]
struct Block {
    offset: u64,
    record: u64,
}

enum Source {
    Nothing,
    Delimited,
    JsonLines(JsonDecoder),
    #[cfg(feature = "parquet")]
    Parquet,
    Arrow,
}

impl TableReader {
    /// Makes a reader that has nothing open yet.
    pub fn new(spec: TableSpec) -> Self {
        Self {
            blocks: BlockReader::with_limits(spec.block_bytes, spec.limits).within(spec.room),
            spec,
            csv: None,
            #[cfg(feature = "parquet")]
            parquet: parquet::ParquetTable::default(),
            ipc: ipc::IpcTable::default(),
            source: Source::Nothing,
            record: 0,
            rest: None,
            file: None,
        }
    }

    /// Opens a shard, in place of the one before it. `names` are the columns of a delimited file, in its order; other formats
    /// say themselves what theirs are called.
    ///
    /// # Panics
    /// If the file's format has no columns, a delimited file comes without names, or the piece is not of its format.
    pub fn open(&mut self, file: &InputFile, names: Option<&[String]>, piece: &Piece) -> Result<(), ReadError> {
        (self.source, self.record, self.rest) = (Source::Nothing, 0, None);
        self.file = Some(file.clone());
        self.source = match (file.format, *piece) {
            (Format::Csv | Format::Tsv, _) => {
                let names = names.expect("the plan knows the columns of a delimited file");
                let dialect = Dialect { delimiter: file.format.delimiter().unwrap_or(b','), quotes: self.spec.csv.quotes };
                let decoder = match &mut self.csv {
                    Some(decoder) if decoder.dialect() == dialect => decoder,
                    other => other.insert(CsvDecoder::new(self.spec.schema.clone(), dialect, self.spec.keep_dictionaries)),
                };
                decoder.bind(names).map_err(|detail| malformed(file, 0, detail))?;
                self.blocks.open(file, piece, Framing::Csv { delimiter: dialect.delimiter, quotes: dialect.quotes })?;
                Source::Delimited
            }
            (Format::JsonLines, _) => {
                self.blocks.open(file, piece, Framing::Lines)?;
                Source::JsonLines(JsonDecoder::new(self.spec.schema.clone()))
            }
            #[cfg(feature = "parquet")]
            (Format::Parquet, Piece::Groups { first, count }) => {
                reading(file, || self.parquet.open(file, first..first + count))?;
                Source::Parquet
            }
            #[cfg(not(feature = "parquet"))]
            (Format::Parquet, _) => return Err(without_parquet(file)),
            (Format::Arrow, Piece::Groups { first, count }) => {
                reading(file, || self.ipc.open(file, first..first + count, &self.spec))?;
                Source::Arrow
            }
            (format, piece) => panic!("{piece:?} of {} is no table: its format is {format}", file.path.display()),
        };
        Ok(())
    }

    /// Returns the next rows; nothing at the end of the shard, once the file was checked again.
    #[allow(clippy::should_implement_trait, reason = "every error has to be looked at")]
    pub fn next(&mut self) -> Result<Option<TableBatch>, ReadError> {
        if let Some((decoded, block)) = self.rest.take() {
            return Ok(Some(self.hand_out(decoded, block)));
        }
        let (decoded, offset) = match &self.source {
            Source::Nothing => return Ok(None),
            Source::Delimited => {
                let (Some(block), Some(decoder)) = (self.blocks.next()?, &mut self.csv) else { return Ok(None) };
                (decoder.decode(block.padded(), block.bytes.len(), self.record, block.offset), block.offset)
            }
            Source::JsonLines(decoder) => {
                let Some(block) = self.blocks.next()? else { return Ok(None) };
                let file = self.file.as_ref().expect("a file is open");
                let decode =
                    || decoder.decode(block.bytes, self.record, block.offset).map_err(|detail| malformed(file, block.offset, detail));
                (reading(file, decode)?, block.offset)
            }
            #[cfg(feature = "parquet")]
            Source::Parquet => {
                let file = self.file.as_ref().expect("a file is open");
                let Some(batch) = reading(file, || self.parquet.next(&self.spec))? else { return Ok(None) };
                (Decoded::good(batch), 0)
            }
            Source::Arrow => {
                let file = self.file.as_ref().expect("a file is open");
                let Some(batch) = reading(file, || self.ipc.next(&self.spec))? else { return Ok(None) };
                (Decoded::good(batch), 0)
            }
        };
        Ok(Some(self.hand_out(decoded, Block { offset, record: self.record })))
    }

    /// Where in the open file records of a batch begin, and their bytes as they stand there; `records` are their numbers, ascending.
    /// Nothing for those that have no place of their own, in Parquet and Arrow, or none that can be gone to, in compressed files.
    pub fn places(&self, table: &TableBatch, records: &[u64]) -> Result<Vec<(u64, Vec<u8>)>, ReadError> {
        let Some(file) = self.file.as_ref().filter(|file| file.compression == Compression::None) else { return Ok(Vec::new()) };
        let dialect = Dialect { delimiter: file.format.delimiter().unwrap_or(b','), quotes: self.spec.csv.quotes };
        let framing = match &self.source {
            Source::Delimited => Framing::Csv { delimiter: dialect.delimiter, quotes: dialect.quotes },
            Source::JsonLines(_) => Framing::Lines,
            _ => return Ok(Vec::new()),
        };
        let mut blocks = BlockReader::with_limits(self.spec.block_bytes, self.spec.limits).within(self.spec.room);
        blocks.open(file, &Piece::Bytes { start: table.offset, end: file.bytes, csv: CsvState::Record }, framing)?;
        let (mut number, mut index, mut places) = (table.block_record, FieldIndex::default(), Vec::new());
        while places.len() < records.len()
            && let Some(block) = blocks.next()?
        {
            let bounds: Vec<Range<usize>> = match &self.source {
                Source::Delimited => {
                    index.fill(block.padded(), block.bytes.len(), dialect);
                    index.records().map(|record| index.record_bounds(record)).collect()
                }
                _ => json::records(block.bytes).map(|(start, line)| start..start + line.len()).collect(),
            };
            for bounds in bounds {
                if records.get(places.len()) == Some(&number) {
                    places.push((block.offset + bounds.start as u64, block.bytes[bounds].to_vec()));
                }
                number += 1;
            }
        }
        Ok(places)
    }

    /// Returns how many bytes of the file, as it lies on disk, were read for the open shard, where the format tells before its end.
    pub fn read_bytes(&self) -> u64 {
        self.blocks.read_bytes()
    }

    /// Hands out as many rows as a batch may have, with the bad rows before and among them; keeps the rest.
    fn hand_out(&mut self, mut decoded: Decoded, block: Block) -> TableBatch {
        let first_record = self.record;
        let rows = decoded.batch.num_rows();
        if rows <= self.spec.batch_rows {
            self.record += decoded.records;
            return in_block(block, decoded.batch, first_record, decoded.bad);
        }
        let batch = decoded.batch.slice(0, self.spec.batch_rows);
        // The batch ends before the good row that comes next, so the bad ones up to there belong to it.
        let mut end = first_record + self.spec.batch_rows as u64;
        let mut among = 0;
        while decoded.bad.get(among).is_some_and(|bad| bad.record <= end) {
            among += 1;
            end += 1;
        }
        let later = decoded.bad.split_off(among);
        let bad = std::mem::replace(&mut decoded.bad, later);
        decoded.batch = decoded.batch.slice(self.spec.batch_rows, rows - self.spec.batch_rows);
        decoded.records -= end - first_record;
        self.record = end;
        self.rest = Some((decoded, block));
        in_block(block, batch, first_record, bad)
    }
}

/// A batch whose first record, good or bad, has this number.
fn in_block(block: Block, batch: RecordBatch, first_record: u64, bad: Vec<BadRow>) -> TableBatch {
    TableBatch { batch, first_record: skip(first_record, &bad), offset: block.offset, block_record: block.record, bad }
}

/// The number of the first record from `record` on that is not a bad one.
fn skip(record: u64, bad: &[BadRow]) -> u64 {
    bad.iter().fold(record, |record, bad| if bad.record == record { record + 1 } else { record })
}

fn malformed(file: &InputFile, offset: u64, detail: String) -> ReadError {
    ReadError::Malformed { path: file.path.clone(), offset, detail }
}
