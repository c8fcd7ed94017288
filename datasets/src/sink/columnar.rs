//! Columnar parts: what is common to Parquet (`parquet.rs`) and Arrow IPC files.
//!
//! ```text
//! rows ─▶ array builder ─┐
//!                        ├─▶ pieces ─▶ canonical rows ─▶ chunks ─▶ row groups | record batches
//! batches ───────────────┘
//! ```
//! The bytes of a part depend on its rows alone, not on how they were fed. Two things see to that. All
//! rows pass through arrow's row format, in which equal rows are equal bytes: what lay beneath a null,
//! how a slice was aligned, how a dictionary was numbered is gone. And chunks are cut by what the rows
//! hold: at a fixed number of rows or a fixed sum of row bytes, whichever comes first. The detour costs
//! some tens of nanoseconds per row, less than encoding does; the alternative was a second copy of
//! every array type's layout. Row bytes never leave the process.

use std::mem;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::ipc::writer::{FileWriter, IpcWriteOptions};
use arrow::row::{RowConverter, Rows, SortField};
use serde::Serialize;
use serde_arrow::ArrayBuilder;

use super::error::Fault;
use super::file::{BUFFER_BYTES, PartFile, ZSTD_LEVEL};
use super::measure::bytes_of;
use super::table::{Kind, PIECE_BYTES, for_each_piece, plain_schema};
use crate::format::Compression;

/// Rows that are gathered before they become arrays: enough to make the cost per array vanish.
const BUILT_ROWS: usize = 1024;

/// Where a chunk ends: before the row that would go past either.
pub(super) struct Cut {
    pub(super) rows: usize,
    pub(super) bytes: usize,
}

/// A columnar file being written, chunk by chunk.
pub(super) trait ColumnFile: Sized {
    const CUT: Cut;

    fn create(file: PartFile, schema: &SchemaRef, compression: Compression) -> Result<Self, Fault>;

    /// Adds a chunk whose rows sum up to `bytes`.
    fn write(&mut self, chunk: &RecordBatch, bytes: usize) -> Result<(), Fault>;

    fn finish(self) -> Result<PartFile, Fault>;
}

/// Cuts rows into canonical chunks for a file.
pub(super) struct Columnar<F> {
    file: F,
    schema: SchemaRef,
    builder: ArrayBuilder,
    built_rows: usize,
    built_bytes: usize,
    converter: RowConverter,
    rows: Rows,
    /// How many of `rows` have been looked at; they all belong to the next chunk.
    scanned: usize,
    /// The sum of their bytes.
    scanned_bytes: usize,
}

impl<F: ColumnFile> Columnar<F> {
    pub(super) fn create(file: PartFile, asked: &SchemaRef, compression: Compression) -> Result<Self, Fault> {
        let schema = plain_schema(asked, Kind::Columnar);
        let converter = RowConverter::new(sort_fields(&schema))?;
        Ok(Self {
            file: F::create(file, &schema, compression)?,
            // The builder gets the schema as it was asked for: its metadata say how values map to it.
            builder: ArrayBuilder::from_arrow(asked.fields()).map_err(serde_fault)?,
            built_rows: 0,
            built_bytes: 0,
            rows: converter.empty_rows(0, 0),
            converter,
            scanned: 0,
            scanned_bytes: 0,
            schema,
        })
    }

    pub(super) fn write_row<T: Serialize>(&mut self, row: &T) -> Result<(), Fault> {
        self.builder.push(row).map_err(serde_fault)?;
        self.built_rows += 1;
        self.built_bytes += bytes_of(row);
        if self.built_rows == BUILT_ROWS || self.built_bytes >= PIECE_BYTES { self.take_built() } else { Ok(()) }
    }

    pub(super) fn write_batch(&mut self, batch: &RecordBatch) -> Result<(), Fault> {
        self.take_built()?;
        self.append(batch)
    }

    pub(super) fn finish(mut self) -> Result<PartFile, Fault> {
        self.take_built()?;
        self.write_chunk(0, self.scanned)?;
        self.file.finish()
    }

    fn take_built(&mut self) -> Result<(), Fault> {
        if self.built_rows == 0 {
            return Ok(());
        }
        self.built_rows = 0;
        self.built_bytes = 0;
        let batch = self.builder.to_record_batch().map_err(serde_fault)?;
        self.append(&batch)
    }

    fn append(&mut self, batch: &RecordBatch) -> Result<(), Fault> {
        let schema = self.schema.clone();
        for_each_piece(batch, Some(&schema), Kind::Columnar, |piece| {
            self.converter.append(&mut self.rows, piece.columns())?;
            self.cut()
        })
    }

    /// Writes the chunks that the rows not yet looked at complete.
    fn cut(&mut self) -> Result<(), Fault> {
        let mut start = 0;
        while self.scanned < self.rows.num_rows() {
            let bytes = self.rows.row_len(self.scanned);
            let rows = self.scanned - start;
            if rows == F::CUT.rows || rows > 0 && self.scanned_bytes + bytes > F::CUT.bytes {
                self.write_chunk(start, self.scanned)?;
                start = self.scanned;
            }
            self.scanned_bytes += bytes;
            self.scanned += 1;
        }
        if start > 0 {
            self.drop_first(start);
        }
        Ok(())
    }

    fn write_chunk(&mut self, start: usize, end: usize) -> Result<(), Fault> {
        if start == end {
            return Ok(());
        }
        let columns = self.converter.convert_rows((start..end).map(|row| self.rows.row(row)))?;
        let chunk = RecordBatch::try_new(self.schema.clone(), columns)?;
        self.file.write(&chunk, mem::take(&mut self.scanned_bytes))
    }

    /// Drops rows that were written. At most a piece remains, so it is copied out and back, and the
    /// large buffer stays.
    fn drop_first(&mut self, count: usize) {
        let mut rest = self.converter.empty_rows(self.rows.num_rows() - count, self.scanned_bytes);
        (count..self.rows.num_rows()).for_each(|row| rest.push(self.rows.row(row)));
        if self.rows.size() > 4 * F::CUT.bytes {
            // One enormous row must not keep its memory for the rest of the part.
            self.rows = rest;
        } else {
            self.rows.clear();
            rest.iter().for_each(|row| self.rows.push(row));
        }
        self.scanned = self.rows.num_rows();
    }
}

fn serde_fault(error: serde_arrow::Error) -> Fault {
    Fault::Data(error.message().to_owned())
}

fn sort_fields(schema: &SchemaRef) -> Vec<SortField> {
    schema.fields().iter().map(|field| SortField::new(field.data_type().clone())).collect()
}

/// The first column that has no place in a columnar part, and why.
pub(super) fn unsupported(schema: &SchemaRef) -> Option<String> {
    if schema.fields().is_empty() {
        return Some("the schema has no columns".to_owned());
    }
    plain_schema(schema, Kind::Columnar).fields().iter().find_map(|field| {
        let sortable = RowConverter::supports_fields(&[SortField::new(field.data_type().clone())]);
        let refused = !sortable || matches!(field.data_type(), DataType::Union(..));
        refused.then(|| format!("column `{}` is {}", field.name(), field.data_type()))
    })
}

/// Rows, pieces and arrays on their way into chunks of at most `bytes`.
///
/// The row buffer grows by doubling and may hold one piece beyond a chunk; the arrays of a chunk exist
/// beside it; the builder, its batch and a piece made plain are about a piece each.
pub(super) fn chunk_memory_bytes(bytes: usize) -> usize {
    2 * (bytes + PIECE_BYTES) + 2 * bytes + 3 * PIECE_BYTES
}

/// An Arrow IPC file.
pub(super) struct ArrowFile(FileWriter<PartFile>);

impl ArrowFile {
    pub(super) fn memory_bytes() -> usize {
        // A body is put together, possibly compressed, before it is written.
        chunk_memory_bytes(Self::CUT.bytes) + 2 * Self::CUT.bytes + BUFFER_BYTES
    }
}

impl ColumnFile for ArrowFile {
    /// A record batch each.
    const CUT: Cut = Cut { rows: 65_536, bytes: 1 << 20 };

    fn create(file: PartFile, schema: &SchemaRef, compression: Compression) -> Result<Self, Fault> {
        let options = match compression {
            Compression::Zstd => IpcWriteOptions::default()
                .try_with_compression(Some(arrow::ipc::CompressionType::ZSTD))?
                .try_with_compression_level(Some(ZSTD_LEVEL))?,
            _ => IpcWriteOptions::default(),
        };
        Ok(Self(FileWriter::try_new_with_options(file, schema, options)?))
    }

    fn write(&mut self, chunk: &RecordBatch, _: usize) -> Result<(), Fault> {
        Ok(self.0.write(chunk)?)
    }

    fn finish(self) -> Result<PartFile, Fault> {
        Ok(self.0.into_inner()?)
    }
}
