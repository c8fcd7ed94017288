//! Parquet parts.
//!
//! Row groups end at a fixed number of rows or sum of row bytes, in whole chunks. Written by one thread,
//! without anything in the file that depends on when or by which version of a library it was written.

use ::parquet::arrow::{ArrowSchemaConverter, ArrowWriter};
use ::parquet::basic::{Compression as Codec, GzipLevel, ZstdLevel};
use ::parquet::file::properties::WriterProperties;
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, FieldRef, SchemaRef};

use super::columnar::{ColumnFile, Cut, chunk_memory_bytes};
use super::error::Fault;
use super::file::{BUFFER_BYTES, PartFile, ZSTD_LEVEL};
use crate::format::Compression;

/// Row groups end at these, rounded down to whole chunks. Encoded pages wait in memory for the end
/// of their row group, so its size is the larger part of what a writer needs.
const GROUP_ROWS: usize = 1 << 20;
const GROUP_BYTES: usize = 4 << 20;

/// A column's dictionary is given up beyond this. Its hash table is several times as large, and
/// every column may have one.
const DICTIONARY_BYTES: usize = 128 << 10;

/// What zstd keeps to compress pages of up to a mebibyte.
const ZSTD_CONTEXT_BYTES: usize = 3 << 19;

/// A Parquet file.
pub(super) struct ParquetFile {
    writer: ArrowWriter<PartFile>,
    group_rows: usize,
    group_bytes: usize,
}

impl ParquetFile {
    /// An upper estimate for a schema.
    pub(super) fn memory_bytes(schema: &SchemaRef, compression: Compression) -> usize {
        let leaves: usize = schema.fields().iter().map(leaves).sum();
        // A context lives as long as its column's row group; the other codecs keep nothing.
        let codec = if compression == Compression::Zstd { ZSTD_CONTEXT_BYTES } else { 0 };
        // Dictionary with its table and indices, level and statistics buffers.
        let column = 5 * DICTIONARY_BYTES + codec;
        // A page is compressed beside itself.
        chunk_memory_bytes(Self::CUT.bytes) + 2 * Self::CUT.bytes + GROUP_BYTES + leaves * column + BUFFER_BYTES
    }

    /// Why Parquet has no place for a schema.
    pub(super) fn unsupported(schema: &SchemaRef) -> Option<String> {
        ArrowSchemaConverter::new().convert(schema).err().map(|error| error.to_string())
    }
}

fn leaves(field: &FieldRef) -> usize {
    match field.data_type() {
        DataType::Struct(fields) => fields.iter().map(leaves).sum(),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => leaves(item),
        DataType::Map(entries, _) => leaves(entries),
        _ => 1,
    }
}

impl ColumnFile for ParquetFile {
    /// Pages are filled from these.
    const CUT: Cut = Cut { rows: 8192, bytes: 1 << 20 };

    fn create(file: PartFile, schema: &SchemaRef, compression: Compression) -> Result<Self, Fault> {
        let codec = match compression {
            Compression::Gzip => Codec::GZIP(GzipLevel::default()),
            Compression::Zstd => Codec::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?),
            Compression::None | Compression::Bzip2 => Codec::UNCOMPRESSED,
        };
        let properties = WriterProperties::builder()
            // Not the default, which names a version of the library.
            .set_created_by("shardmill".to_owned())
            .set_compression(codec)
            .set_max_row_group_row_count(None)
            .set_dictionary_page_size_limit(DICTIONARY_BYTES)
            .build();
        let writer = ArrowWriter::try_new(file, schema.clone(), Some(properties))?;
        Ok(Self { writer, group_rows: 0, group_bytes: 0 })
    }

    fn write(&mut self, chunk: &RecordBatch, bytes: usize) -> Result<(), Fault> {
        let full = self.group_rows + chunk.num_rows() > GROUP_ROWS || self.group_bytes + bytes > GROUP_BYTES;
        if full && self.group_rows > 0 {
            self.writer.flush()?;
            (self.group_rows, self.group_bytes) = (0, 0);
        }
        self.group_rows += chunk.num_rows();
        self.group_bytes += bytes;
        Ok(self.writer.write(chunk)?)
    }

    fn finish(self) -> Result<PartFile, Fault> {
        Ok(self.writer.into_inner()?)
    }
}
