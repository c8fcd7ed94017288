//! Row groups of a Parquet file as batches.
//!
//! Owns projection, row groups and the cap on pages; decoding is the `parquet` crate's. One row group is read after the other,
//! so that no batch holds rows of two and dictionaries stay as they were written.
//!
//! **Pages.** What the reader needs at once is one page of each column and the column's dictionary, so these are capped
//! ([`check_pages`]) and counted ([`held_bytes`]). A chunk that is smaller than the cap as a whole needs no look; otherwise its page
//! headers are walked, without reading the pages. They are Thrift structures in the compact protocol, of which only this is needed:
//!
//! ```text
//!   struct   field…, 0            field   (id - last id) << 4 | type, value     id as a varint where the difference is above 15
//!   PageHeader 1: type   2: uncompressed bytes   3: compressed bytes   …        all i32: zigzag varints
//! ```

use super::conform::{conform, positions};
use super::{BATCH_ROWS, Group, TableSpec};
use crate::error::ReadError;
use crate::listing::InputFile;
use ::parquet::arrow::ProjectionMask;
use ::parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use ::parquet::basic::{Compression, Encoding, Type};
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// What a Parquet file says of itself: its columns, its row groups.
pub(crate) fn footer(file: &InputFile) -> Result<(SchemaRef, Vec<Group>), ReadError> {
    let handle = file.open()?;
    let mut magic = [0; 4];
    if handle.read_exact_at(&mut magic, 0).is_err() || magic != *b"PAR1" {
        return Err(malformed(file, 0, "it is not a Parquet file".to_owned()));
    }
    let metadata = load(file, &handle)?;
    let groups = metadata.metadata().row_groups().iter();
    let groups = groups.map(|group| Group { rows: group.num_rows().cast_unsigned(), bytes: group.compressed_size().cast_unsigned() });
    Ok((metadata.schema().clone(), groups.collect()))
}

/// Refuses a file that has a page of more than `limit` bytes, uncompressed, in one of `columns` (all, where none are given), or one that
/// cannot be decompressed. Returns at most how many bytes must be held at once to read them.
pub(crate) fn check_pages(file: &InputFile, columns: Option<&[String]>, limit: u64) -> Result<u64, ReadError> {
    let handle = file.open()?;
    let metadata = load(file, &handle)?;
    let mut most = 0;
    for (number, group) in metadata.metadata().row_groups().iter().enumerate() {
        let mut held = batch_bytes(group, columns);
        for chunk in chunks(group, columns) {
            let unknown = match chunk.compression() {
                Compression::BROTLI(_) => Some("Brotli"),
                Compression::LZO => Some("LZO"),
                _ => None,
            };
            if let Some(codec) = unknown {
                let column = root(chunk);
                let detail = format!("column '{column}' is compressed with {codec}: only snappy, gzip, zstd and lz4 can be read");
                return Err(malformed(file, chunk.byte_range().0, detail));
            }
            let whole = chunk.uncompressed_size().cast_unsigned();
            // As a page and as a dictionary it can be counted twice, but no more.
            held += 2 * whole;
            if whole > limit {
                let bytes = pages(file, &handle, chunk)?.largest;
                if bytes > limit {
                    let what = format!("a page of column '{}' in row group {number}", root(chunk));
                    return Err(ReadError::PageTooLarge { path: file.path.clone(), what, bytes, limit });
                }
            }
        }
        most = most.max(held);
    }
    Ok(most)
}

/// Returns how many bytes must be held at once to read `columns` (all, where none are given): a page of each, the dictionaries, and a batch.
pub(crate) fn held_bytes(file: &InputFile, columns: Option<&[String]>) -> Result<u64, ReadError> {
    let handle = file.open()?;
    let metadata = load(file, &handle)?;
    let mut most = 0;
    for group in metadata.metadata().row_groups() {
        let mut held = batch_bytes(group, columns);
        for chunk in chunks(group, columns) {
            let Pages { largest, dictionary } = pages(file, &handle, chunk)?;
            held += largest + dictionary;
        }
        most = most.max(held);
    }
    Ok(most)
}

/// The chunks of a row group that belong to `columns`.
fn chunks<'g>(group: &'g RowGroupMetaData, columns: Option<&'g [String]>) -> impl Iterator<Item = &'g ColumnChunkMetaData> {
    group.columns().iter().filter(move |chunk| columns.is_none_or(|columns| columns.contains(root(chunk))))
}

/// The name of the column of the table that a chunk belongs to.
fn root(chunk: &ColumnChunkMetaData) -> &String {
    &chunk.column_path().parts()[0]
}

/// About what the first batch takes in memory: values of a fixed size, and texts of a few bytes beside what their page holds.
fn batch_bytes(group: &RowGroupMetaData, columns: Option<&[String]>) -> u64 {
    let width = |chunk: &ColumnChunkMetaData| match chunk.column_type() {
        Type::BOOLEAN => 1,
        Type::INT32 | Type::FLOAT => 4,
        Type::INT64 | Type::DOUBLE => 8,
        Type::INT96 | Type::FIXED_LEN_BYTE_ARRAY => 16,
        Type::BYTE_ARRAY => 32,
    };
    // Once as it is read, once in the type that the job is given.
    2 * group.num_rows().cast_unsigned().min(BATCH_ROWS as u64) * chunks(group, columns).map(width).sum::<u64>()
}

/// Reads pieces of Parquet files; keeps the footer of the last file.
#[derive(Default)]
pub(crate) struct ParquetTable {
    known: Option<(InputFile, ArrowReaderMetadata)>,
    open: Option<Open>,
}

struct Open {
    file: InputFile,
    handle: File,
    /// The row groups that are left.
    groups: std::ops::Range<usize>,
    reader: Option<ParquetRecordBatchReader>,
}

impl ParquetTable {
    pub(crate) fn open(&mut self, file: &InputFile, groups: std::ops::Range<u32>) -> Result<(), ReadError> {
        self.open = None;
        let handle = file.open()?;
        if self.known.as_ref().is_none_or(|(known, _)| known != file) {
            self.known = Some((file.clone(), load(file, &handle)?));
        }
        let groups = groups.start as usize..groups.end as usize;
        self.open = Some(Open { file: file.clone(), handle, groups, reader: None });
        Ok(())
    }

    pub(crate) fn next(&mut self, spec: &TableSpec) -> Result<Option<RecordBatch>, ReadError> {
        let (Some(open), Some((_, metadata))) = (&mut self.open, &self.known) else { return Ok(None) };
        loop {
            if let Some(reader) = &mut open.reader {
                match reader.next() {
                    Some(Ok(batch)) => {
                        return conform(&batch, &spec.schema, spec.keep_dictionaries)
                            .map(Some)
                            .map_err(|detail| malformed(&open.file, 0, detail));
                    }
                    Some(Err(error)) => return Err(malformed(&open.file, 0, error.to_string())),
                    None => open.reader = None,
                }
            }
            let Some(group) = open.groups.next() else {
                open.file.check(&open.handle)?;
                self.open = None;
                return Ok(None);
            };
            open.reader = Some(group_reader(open, metadata, group, spec)?);
        }
    }
}

fn group_reader(
    open: &Open,
    metadata: &ArrowReaderMetadata,
    group: usize,
    spec: &TableSpec,
) -> Result<ParquetRecordBatchReader, ReadError> {
    let fail = |error: ParquetError| malformed(&open.file, 0, error.to_string());
    let stored = metadata.schema();
    let columns = positions(&spec.schema, stored.fields().iter().map(|field| field.name().as_str()))
        .map_err(|detail| malformed(&open.file, 0, detail))?;
    let Some(group_metadata) = metadata.metadata().row_groups().get(group) else {
        return Err(malformed(&open.file, 0, format!("there is no row group {group}")));
    };
    let metadata = if spec.keep_dictionaries {
        let schema = with_dictionaries(stored, &columns, metadata.metadata(), group_metadata);
        ArrowReaderMetadata::try_new(metadata.metadata().clone(), ArrowReaderOptions::new().with_schema(schema)).map_err(fail)?
    } else {
        metadata.clone()
    };
    let handle = open.handle.try_clone().map_err(|source| open.file.io_error(0, source))?;
    let projection = ProjectionMask::roots(metadata.parquet_schema(), columns);
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(handle, metadata);
    builder.with_projection(projection).with_row_groups(vec![group]).with_batch_size(spec.batch_rows).build().map_err(fail)
}

/// The schema to read a row group with when text columns that are written as dictionaries throughout are to stay such.
fn with_dictionaries(stored: &Schema, wanted: &[usize], file: &ParquetMetaData, group: &RowGroupMetaData) -> SchemaRef {
    let leaves = file.file_metadata().schema_descr();
    let field = |(position, field): (usize, &Arc<Field>)| {
        let leaf = (0..leaves.num_columns()).find(|&leaf| leaves.get_column_root_idx(leaf) == position);
        let plain = leaf.is_none_or(|leaf| !dictionary_throughout(group.column(leaf)));
        if plain || !wanted.contains(&position) || *field.data_type() != DataType::Utf8 {
            return field.clone();
        }
        let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
        Arc::new(field.as_ref().clone().with_data_type(dictionary))
    };
    Arc::new(Schema::new_with_metadata(stored.fields().iter().enumerate().map(field).collect::<Vec<_>>(), stored.metadata().clone()))
}

fn dictionary_throughout(chunk: &ColumnChunkMetaData) -> bool {
    let pages = chunk.page_encoding_stats_mask();
    pages.is_some_and(|mask| mask.is_only(Encoding::RLE_DICTIONARY) || mask.is_only(Encoding::PLAIN_DICTIONARY))
}

fn load(file: &InputFile, handle: &File) -> Result<ArrowReaderMetadata, ReadError> {
    ArrowReaderMetadata::load(handle, ArrowReaderOptions::new()).map_err(|error| malformed(file, 0, error.to_string()))
}

fn malformed(file: &InputFile, offset: u64, detail: String) -> ReadError {
    ReadError::Malformed { path: file.path.clone(), offset, detail }
}

/// The pages of a column chunk, uncompressed.
struct Pages {
    largest: u64,
    dictionary: u64,
}

fn pages(file: &InputFile, handle: &File, chunk: &ColumnChunkMetaData) -> Result<Pages, ReadError> {
    let (mut at, length) = chunk.byte_range();
    let end = at + length;
    let mut pages = Pages { largest: 0, dictionary: 0 };
    while at < end {
        let page = read_page_header(handle, at, end).map_err(|detail| malformed(file, at, detail))?;
        pages.largest = pages.largest.max(page.uncompressed);
        if page.kind == DICTIONARY_PAGE {
            pages.dictionary = page.uncompressed;
        }
        at += page.header + page.compressed;
    }
    Ok(pages)
}

/// `PageType.DICTIONARY_PAGE` of the format.
const DICTIONARY_PAGE: i64 = 2;

/// What is needed of a page header, and how long it is.
#[derive(Debug, PartialEq, Eq)]
struct PageHeader {
    header: u64,
    kind: i64,
    uncompressed: u64,
    compressed: u64,
}

/// Headers hold statistics, which may hold long values: the first few hundred bytes nearly always do.
fn read_page_header(handle: &File, at: u64, end: u64) -> Result<PageHeader, String> {
    let mut bytes = Vec::new();
    let mut wanted = 512;
    loop {
        let length = wanted.min((end - at) as usize);
        bytes.resize(length, 0);
        handle.read_exact_at(&mut bytes, at).map_err(|error| error.to_string())?;
        match page_header(&bytes) {
            Some(header) => return Ok(header),
            None if length < wanted => return Err("a page header is damaged".to_owned()),
            None => wanted *= 8,
        }
    }
}

fn page_header(bytes: &[u8]) -> Option<PageHeader> {
    let mut thrift = Thrift { rest: bytes };
    let (mut id, mut numbers) = (0, [None; 3]);
    while let Some((next, kind)) = thrift.field(id)? {
        id = next;
        match (id, kind) {
            (1..=3, Thrift::I32) => numbers[id as usize - 1] = Some(thrift.zigzag()?),
            _ => thrift.skip(kind, 0)?,
        }
    }
    let header = (bytes.len() - thrift.rest.len()) as u64;
    let [kind, uncompressed, compressed] = numbers;
    Some(PageHeader { header, kind: kind?, uncompressed: uncompressed?.try_into().ok()?, compressed: compressed?.try_into().ok()? })
}

/// A reader of Thrift's compact protocol. `None` is the end of the bytes, or nonsense.
struct Thrift<'a> {
    rest: &'a [u8],
}

impl Thrift<'_> {
    const I32: u8 = 5;

    /// The id and type of the next field; none at the end of the structure.
    fn field(&mut self, last: i64) -> Option<Option<(i64, u8)>> {
        let head = self.byte()?;
        Some(match (head >> 4, head & 15) {
            (_, 0) => None,
            (0, kind) => Some((self.zigzag()?, kind)),
            (step, kind) => Some((last + i64::from(step), kind)),
        })
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        if depth > 8 {
            return None;
        }
        match kind {
            1 | 2 => {} // a boolean field is its type
            3 => self.bytes(1)?,
            4..=6 => drop(self.varint()?),
            7 => self.bytes(8)?,
            8 => {
                let length = self.varint()?;
                self.bytes(length)?;
            }
            9 | 10 => {
                let head = self.byte()?;
                let count = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
                // In a list a boolean is a byte.
                let kind = if matches!(head & 15, 1 | 2) { 3 } else { head & 15 };
                for _ in 0..count {
                    self.skip(kind, depth + 1)?;
                }
            }
            12 => {
                let mut id = 0;
                while let Some((next, kind)) = self.field(id)? {
                    self.skip(kind, depth + 1)?;
                    id = next;
                }
            }
            _ => return None, // maps: no page header has one
        }
        Some(())
    }

    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(byte)
    }

    fn bytes(&mut self, count: u64) -> Option<()> {
        self.rest = self.rest.get(usize::try_from(count).ok()?..)?;
        Some(())
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 127) << shift;
            if byte < 128 {
                return Some(value);
            }
        }
        None
    }

    fn zigzag(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
    }
}
