//! What the parts of an output look like, as it is asked for, and whether that is possible.

use std::fmt;
use std::str::FromStr;

use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};

use super::columnar::{self, ArrowFile};
use super::error::WriteError;
use super::file::Stream;
#[cfg(feature = "parquet")]
use super::parquet::ParquetFile;
use super::table::{self, Kind};
use crate::format::{Compression, Format};
use crate::survey::schema_bytes;

/// The format of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputFormat {
    /// Comma-separated values with a header.
    Csv,
    /// Tab-separated values with a header, quoted like CSV.
    Tsv,
    /// A JSON object per line.
    #[serde(rename = "jsonl")]
    JsonLines,
    /// Parquet.
    Parquet,
    /// Arrow IPC file.
    Arrow,
    /// Records, each followed by a newline.
    Text,
    /// Records, one after the other.
    Bytes,
}

impl OutputFormat {
    /// All formats, in the order in which they are documented.
    pub const ALL: [Self; 7] = [Self::Csv, Self::Tsv, Self::JsonLines, Self::Parquet, Self::Arrow, Self::Text, Self::Bytes];

    /// Returns the name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Tsv => "tsv",
            Self::JsonLines => "jsonl",
            Self::Parquet => "parquet",
            Self::Arrow => "arrow",
            Self::Text => "text",
            Self::Bytes => "bytes",
        }
    }

    /// Returns the end of a part's name, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Text => "txt",
            Self::Bytes => "bin",
            other => other.name(),
        }
    }

    /// Tells whether parts consist of rows and batches, rather than of records of bytes.
    pub fn is_tabular(self) -> bool {
        !matches!(self, Self::Text | Self::Bytes)
    }

    fn is_columnar(self) -> bool {
        matches!(self, Self::Parquet | Self::Arrow)
    }
}

impl fmt::Display for OutputFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no output format.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no output format; there are csv, tsv, jsonl, parquet, arrow, text and bytes")]
pub struct UnknownOutputFormat(String);

impl FromStr for OutputFormat {
    type Err = UnknownOutputFormat;

    fn from_str(name: &str) -> Result<Self, UnknownOutputFormat> {
        let found = Self::ALL.into_iter().find(|format| format.name() == name);
        found.ok_or_else(|| UnknownOutputFormat(name.to_owned()))
    }
}

/// What every part of an output looks like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkSpec {
    /// The format.
    pub format: OutputFormat,
    /// Of the whole stream for the text formats and `bytes`; of pages in Parquet, of bodies in Arrow.
    pub compression: Compression,
    /// The columns. Parquet and Arrow need it; CSV and TSV have a header only with it; text and bytes
    /// have no use for it.
    #[serde(with = "schema_bytes::optional")]
    pub schema: Option<SchemaRef>,
}

impl SinkSpec {
    /// Tells whether such parts can be written at all. To be asked before any work is done.
    pub fn check(&self) -> Result<(), WriteError> {
        let unsupported = |cause| Err(WriteError::Unsupported { format: self.format, cause });
        let possible: &[Compression] = match self.format {
            OutputFormat::Arrow => &[Compression::None, Compression::Zstd],
            _ => &[Compression::None, Compression::Gzip, Compression::Zstd],
        };
        if !possible.contains(&self.compression) {
            return unsupported(format!("it is not compressed with {:?}; choose from {possible:?}", self.compression).to_lowercase());
        }
        let format_feature = (self.format == OutputFormat::Parquet).then_some(Format::Parquet).and_then(Format::missing_feature);
        if let Some(feature) = format_feature.or(self.compression.missing_feature()) {
            return unsupported(format!("this program was built without the feature '{feature}' of shardmill"));
        }
        match &self.schema {
            None if self.format.is_columnar() => unsupported("it needs a schema".to_owned()),
            None => Ok(()),
            Some(schema) => self.unsupported_column(schema).map_or(Ok(()), unsupported),
        }
    }

    fn unsupported_column(&self, schema: &SchemaRef) -> Option<String> {
        match self.format {
            OutputFormat::Csv | OutputFormat::Tsv => {
                let plain = table::plain_schema(schema, Kind::Text);
                let nested = plain.fields().iter().find(|field| field.data_type().is_nested())?;
                Some(format!("column `{}` is nested; jsonl, parquet and arrow take it", nested.name()))
            }
            OutputFormat::Arrow => columnar::unsupported(schema),
            #[cfg(feature = "parquet")]
            OutputFormat::Parquet => columnar::unsupported(schema).or_else(|| ParquetFile::unsupported(schema)),
            _ => None,
        }
    }

    /// Names a partition's part: `part-00007.csv.gz`.
    pub fn part_name(&self, partition: u32) -> String {
        // Columnar files are compressed inside, where their readers look for it.
        let suffix = if self.format.is_columnar() { "" } else { self.compression.suffix() };
        format!("part-{partition:05}.{}{suffix}", self.format.extension())
    }

    /// Estimates one open writer's memory from above, whatever is written to it.
    ///
    /// A record larger than a mebibyte comes on top, several times over in the columnar formats.
    pub fn memory_bytes(&self) -> usize {
        match (self.format, &self.schema) {
            (OutputFormat::Arrow, _) => ArrowFile::memory_bytes(),
            #[cfg(feature = "parquet")]
            (OutputFormat::Parquet, Some(schema)) => ParquetFile::memory_bytes(schema, self.compression),
            // A piece of a batch becomes text beside it.
            (format, _) if format.is_tabular() => Stream::memory_bytes(self.compression) + 4 * table::PIECE_BYTES,
            _ => Stream::memory_bytes(self.compression),
        }
    }
}
