//! Parts: the output of one partition, written to one file.
//!
//! Owns what a part looks like in each format. The bytes of a part depend on its rows, the format and
//! the schema, and on nothing else: not on time, machine, memory, or whether rows came singly or in
//! batches. Where parts lie, and how they become visible together, is left to `output.rs`.
//!
//! ```text
//! csv, tsv   header, then a record per row; LF; quotes where needed        row.rs, cells.rs, csv.rs
//! jsonl      an object per row and line                                    json.rs
//! text       a record and LF                                               here
//! bytes      a record, as it is                                            here
//! parquet    row groups of 1 Mi rows or 8 MiB of row bytes                 parquet.rs, columnar.rs
//! arrow      IPC file; batches of 65,536 rows or 2 MiB of row bytes        columnar.rs
//! ```
//! Header and schema come from the type ([`schema_of`]), so that empty parts have them too.

mod cells;
mod columnar;
mod csv;
mod error;
mod file;
mod json;
mod measure;
#[cfg(feature = "parquet")]
mod parquet;
mod row;
mod schema;
mod spec;
mod table;

use std::mem;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use serde::Serialize;

use self::columnar::{ArrowFile, Columnar};
use self::csv::Record;
use self::error::Fault;
pub use self::error::WriteError;
use self::file::{PartFile, Stream};
pub use self::schema::{SchemaUnknown, schema_of};
pub use self::spec::{OutputFormat, SinkSpec, UnknownOutputFormat};
use self::table::Kind;

/// A finished part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartSummary {
    /// How many rows or records it holds.
    pub records: u64,
    /// The file's length.
    pub bytes: u64,
    /// The BLAKE3 digest of the file's bytes.
    pub digest: [u8; 32],
}

/// Writes one part.
///
/// Works on one thread, buffers, and digests while it writes. After any error the part is worthless,
/// and every later call says so. A writer that is dropped leaves an incomplete file where it was told
/// to write: a staging directory, which is swept.
///
/// ```
/// use shardmill_datasets::{Compression, OutputFormat, PartWriter, SinkSpec, schema_of};
/// use std::sync::Arc;
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct WordTotal {
///     word: String,
///     count: u64,
/// }
///
/// let dir = tempfile::tempdir()?;
/// let schema = Some(Arc::new(schema_of::<WordTotal>()?));
/// let spec = SinkSpec { format: OutputFormat::Csv, compression: Compression::None, schema };
/// spec.check()?;
/// let path = dir.path().join(spec.part_name(0));
///
/// let mut part = PartWriter::create(&path, &spec)?;
/// part.write_row(&WordTotal { word: "mill".to_owned(), count: 2 })?;
/// let summary = part.finish(false)?;
///
/// assert_eq!(summary.records, 1);
/// assert_eq!(std::fs::read_to_string(&path)?, "word,count\nmill,2\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct PartWriter {
    path: PathBuf,
    format: OutputFormat,
    encoder: Encoder,
    records: u64,
}

enum Encoder {
    Delimited {
        stream: Stream,
        delimiter: u8,
        schema: Option<SchemaRef>,
        header: Option<Vec<String>>,
    },
    Json {
        stream: Stream,
        schema: Option<SchemaRef>,
    },
    /// Records, each followed by this.
    Raw {
        stream: Stream,
        terminator: &'static [u8],
    },
    Arrow(Box<Columnar<ArrowFile>>),
    #[cfg(feature = "parquet")]
    Parquet(Box<Columnar<parquet::ParquetFile>>),
    /// It failed; what the file holds is not what was meant.
    Broken,
}

impl PartWriter {
    /// Creates a part's file, and writes its header where it has one.
    ///
    /// A file that exists is an error.
    pub fn create(path: &Path, spec: &SinkSpec) -> Result<Self, WriteError> {
        spec.check()?;
        let failed = |source| WriteError::Create { path: path.to_owned(), source };
        let file = PartFile::create(path).map_err(failed)?;
        let encoder = Encoder::new(file, spec).map_err(|fault| match fault {
            Fault::Io(source) => failed(source),
            Fault::Data(cause) => WriteError::Unsupported { format: spec.format, cause },
            Fault::Shape(_) | Fault::Broken => unreachable!("nothing was written yet"),
        })?;
        Ok(Self { path: path.to_owned(), format: spec.format, encoder, records: 0 })
    }

    /// Writes a row, in the formats that have rows.
    #[inline]
    pub fn write_row<T: Serialize>(&mut self, row: &T) -> Result<(), WriteError> {
        self.encoder.write_row(row).map_err(|fault| self.fail(fault, Fed::Row))?;
        self.records += 1;
        Ok(())
    }

    /// Writes the rows of a batch, in the formats that have rows.
    ///
    /// The batch has the part's columns, by name and type; dictionaries and views stand for their
    /// values.
    pub fn write_batch(&mut self, batch: &RecordBatch) -> Result<(), WriteError> {
        self.encoder.write_batch(batch).map_err(|fault| self.fail(fault, Fed::Batch))?;
        self.records += batch.num_rows() as u64;
        Ok(())
    }

    /// Writes a record of bytes: followed by a newline in `text`, as it is in `bytes`.
    #[inline]
    pub fn write_record(&mut self, record: &[u8]) -> Result<(), WriteError> {
        self.encoder.write_record(record).map_err(|fault| self.fail(fault, Fed::Row))?;
        self.records += 1;
        Ok(())
    }

    /// Completes the file, and brings it to the disk if it is to be durable.
    pub fn finish(mut self, durable: bool) -> Result<PartSummary, WriteError> {
        let encoder = mem::replace(&mut self.encoder, Encoder::Broken);
        let finished = encoder.finish().and_then(|file| Ok(file.finish()?));
        let (file, written) = finished.map_err(|fault| self.fail(fault, Fed::Batch))?;
        if durable {
            file.sync_all().map_err(|source| WriteError::Sync { path: self.path, source })?;
        }
        Ok(PartSummary { records: self.records, bytes: written.bytes, digest: written.digest })
    }

    #[cold]
    fn fail(&mut self, fault: Fault, fed: Fed) -> WriteError {
        self.encoder = Encoder::Broken;
        let (path, record) = (self.path.clone(), self.records);
        match (fault, fed) {
            (Fault::Io(source), _) => WriteError::Write { path, source },
            (Fault::Data(cause), Fed::Row) => WriteError::Row { path, record, cause },
            (Fault::Data(cause), Fed::Batch) => WriteError::Batch { path, record, cause },
            (Fault::Shape(takes), _) => WriteError::Shape { path, format: self.format, takes },
            (Fault::Broken, _) => WriteError::Broken { path },
        }
    }
}

/// What a writer was given when it failed.
enum Fed {
    Row,
    Batch,
}

impl Encoder {
    fn new(file: PartFile, spec: &SinkSpec) -> Result<Self, Fault> {
        let text_schema = || spec.schema.as_ref().map(|schema| table::plain_schema(schema, Kind::Text));
        let stream = |file| Stream::new(file, spec.compression);
        Ok(match (spec.format, &spec.schema) {
            (OutputFormat::Csv, _) => Self::delimited(stream(file)?, b',', text_schema()),
            (OutputFormat::Tsv, _) => Self::delimited(stream(file)?, b'\t', text_schema()),
            (OutputFormat::JsonLines, _) => Self::Json { stream: stream(file)?, schema: text_schema() },
            (OutputFormat::Text, _) => Self::Raw { stream: stream(file)?, terminator: b"\n" },
            (OutputFormat::Bytes, _) => Self::Raw { stream: stream(file)?, terminator: b"" },
            (OutputFormat::Arrow, Some(schema)) => Self::Arrow(Box::new(Columnar::create(file, schema, spec.compression)?)),
            #[cfg(feature = "parquet")]
            (OutputFormat::Parquet, Some(schema)) => Self::Parquet(Box::new(Columnar::create(file, schema, spec.compression)?)),
            (OutputFormat::Arrow | OutputFormat::Parquet, _) => return Err(Fault::Data("it needs a schema".to_owned())),
        })
    }

    fn delimited(mut stream: Stream, delimiter: u8, schema: Option<SchemaRef>) -> Self {
        let header: Option<Vec<String>> = schema.as_ref().map(|schema| schema.fields().iter().map(|field| field.name().clone()).collect());
        if let Some(names) = &header {
            let mut record = Record::begin(stream.buffer(), delimiter);
            names.iter().for_each(|name| record.field(name.as_bytes()));
            record.end();
        }
        Self::Delimited { stream, delimiter, schema, header }
    }

    #[inline]
    fn write_row<T: Serialize>(&mut self, row: &T) -> Result<(), Fault> {
        match self {
            Self::Delimited { stream, delimiter, header, .. } => row::write(stream.buffer(), *delimiter, header.as_deref(), row)
                .map_err(|fault| Fault::Data(fault.to_string()))
                .and_then(|()| Ok(stream.settle()?)),
            Self::Json { stream, .. } => json::write_row(stream, row),
            Self::Arrow(columnar) => columnar.write_row(row),
            #[cfg(feature = "parquet")]
            Self::Parquet(columnar) => columnar.write_row(row),
            Self::Raw { .. } => Err(Fault::Shape("records")),
            Self::Broken => Err(Fault::Broken),
        }
    }

    fn write_batch(&mut self, batch: &RecordBatch) -> Result<(), Fault> {
        match self {
            Self::Delimited { stream, delimiter, schema, .. } => table::for_each_piece(batch, schema.as_ref(), Kind::Text, |piece| {
                cells::write(stream.buffer(), *delimiter, piece)?;
                Ok(stream.settle()?)
            }),
            Self::Json { stream, schema } => {
                table::for_each_piece(batch, schema.as_ref(), Kind::Text, |piece| json::write_batch(stream, piece))
            }
            Self::Arrow(columnar) => columnar.write_batch(batch),
            #[cfg(feature = "parquet")]
            Self::Parquet(columnar) => columnar.write_batch(batch),
            Self::Raw { .. } => Err(Fault::Shape("records")),
            Self::Broken => Err(Fault::Broken),
        }
    }

    #[inline]
    fn write_record(&mut self, record: &[u8]) -> Result<(), Fault> {
        match self {
            Self::Raw { stream, terminator } => {
                let buffer = stream.buffer();
                buffer.extend_from_slice(record);
                if !terminator.is_empty() {
                    buffer.extend_from_slice(terminator);
                }
                Ok(stream.settle()?)
            }
            Self::Broken => Err(Fault::Broken),
            _ => Err(Fault::Shape("rows and batches")),
        }
    }

    fn finish(self) -> Result<PartFile, Fault> {
        match self {
            Self::Delimited { stream, .. } | Self::Json { stream, .. } | Self::Raw { stream, .. } => Ok(stream.finish()?),
            Self::Arrow(columnar) => columnar.finish(),
            #[cfg(feature = "parquet")]
            Self::Parquet(columnar) => columnar.finish(),
            Self::Broken => Err(Fault::Broken),
        }
    }
}

#[cfg(feature = "parquet")]
#[cfg(test)]
mod tests;
