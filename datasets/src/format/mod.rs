//! Formats, compressions and shapes: their names, and which goes with which.
//!
//! Nothing is read here. The CSV automaton is in `csv.rs`, since planning and cutting blocks both need it.

pub mod csv;

use std::fmt;
use std::num::NonZeroU32;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Names a way in which records lie in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Format {
    /// Lines of text.
    Text,
    /// Comma-separated values.
    Csv,
    /// Tab-separated values, quoted like CSV.
    Tsv,
    /// One JSON value per line.
    JsonLines,
    /// Apache Parquet.
    Parquet,
    /// Arrow IPC file, also known as Feather 2.
    Arrow,
    /// Records of so many bytes each, nothing between them.
    Fixed(NonZeroU32),
}

impl Format {
    /// Returns the separator of fields for CSV and TSV.
    pub fn delimiter(self) -> Option<u8> {
        match self {
            Self::Csv => Some(b','),
            Self::Tsv => Some(b'\t'),
            _ => None,
        }
    }

    /// Returns the feature of the crate that reads this format, where it was left out of this build.
    pub fn missing_feature(self) -> Option<&'static str> {
        (self == Self::Parquet && cfg!(not(feature = "parquet"))).then_some("parquet")
    }

    /// Says whether the format keeps a table by columns, with a footer that says where what lies.
    pub fn is_columnar(self) -> bool {
        matches!(self, Self::Parquet | Self::Arrow)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text => f.write_str("text"),
            Self::Csv => f.write_str("csv"),
            Self::Tsv => f.write_str("tsv"),
            Self::JsonLines => f.write_str("jsonl"),
            Self::Parquet => f.write_str("parquet"),
            Self::Arrow => f.write_str("arrow"),
            Self::Fixed(bytes) => write!(f, "fixed:{bytes}"),
        }
    }
}

/// Says that a word names none of the formats or compressions.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} '{word}'; possible: {possible}")]
pub struct UnknownName {
    what: &'static str,
    word: String,
    possible: &'static str,
}

impl FromStr for Format {
    type Err = UnknownName;

    fn from_str(word: &str) -> Result<Self, UnknownName> {
        let format = match word {
            "text" => Some(Self::Text),
            "csv" => Some(Self::Csv),
            "tsv" => Some(Self::Tsv),
            "jsonl" => Some(Self::JsonLines),
            "parquet" => Some(Self::Parquet),
            "arrow" => Some(Self::Arrow),
            _ => word.strip_prefix("fixed:").and_then(|bytes| bytes.parse().ok()).map(Self::Fixed),
        };
        let possible = "text, csv, tsv, jsonl, parquet, arrow, fixed:N (records of N bytes)";
        format.ok_or_else(|| UnknownName { what: "format", word: word.to_owned(), possible })
    }
}

/// Names a way in which a whole file is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip, concatenated members included.
    Gzip,
    /// Zstandard, concatenated frames included.
    Zstd,
    /// bzip2, concatenated streams included.
    Bzip2,
}

impl Compression {
    /// Returns the feature of the crate that reads and writes this, where it was left out of this build.
    pub fn missing_feature(self) -> Option<&'static str> {
        match self {
            Self::Zstd if cfg!(not(feature = "zstd")) => Some("zstd"),
            Self::Bzip2 if cfg!(not(feature = "bzip2")) => Some("bzip2"),
            _ => None,
        }
    }

    /// Returns what a compressed file's name ends with, the dot included.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => ".gz",
            Self::Zstd => ".zst",
            Self::Bzip2 => ".bz2",
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
        })
    }
}

impl FromStr for Compression {
    type Err = UnknownName;

    fn from_str(word: &str) -> Result<Self, UnknownName> {
        match word {
            "none" => Ok(Self::None),
            "gzip" => Ok(Self::Gzip),
            "zstd" => Ok(Self::Zstd),
            "bzip2" => Ok(Self::Bzip2),
            _ => Err(UnknownName { what: "compression", word: word.to_owned(), possible: "none, gzip, zstd, bzip2" }),
        }
    }
}

/// Tells format and compression from a file's name: `sales.csv.gz` is compressed CSV.
///
/// A name that says nothing means text.
///
/// ```
/// use shardmill_datasets::{Compression, Format, of_name};
/// assert_eq!(of_name("sales.csv.gz".as_ref()), (Format::Csv, Compression::Gzip));
/// assert_eq!(of_name("README".as_ref()), (Format::Text, Compression::None));
/// ```
pub fn of_name(path: &Path) -> (Format, Compression) {
    let (compression, stem) = match extension(path).as_str() {
        "gz" => (Compression::Gzip, path.file_stem()),
        "zst" => (Compression::Zstd, path.file_stem()),
        "bz2" => (Compression::Bzip2, path.file_stem()),
        _ => (Compression::None, path.file_name()),
    };
    let format = match extension(stem.unwrap_or_default().as_ref()).as_str() {
        "csv" => Format::Csv,
        "tsv" => Format::Tsv,
        "jsonl" | "ndjson" => Format::JsonLines,
        "parquet" => Format::Parquet,
        "arrow" | "feather" | "ipc" => Format::Arrow,
        _ => Format::Text,
    };
    (format, compression)
}

fn extension(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase()
}

/// Names what a job wants to be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Shape {
    /// One line at a time, as text.
    Lines,
    /// One record at a time, as the bytes in the file.
    Bytes,
    /// One row at a time, as a typed value.
    Rows,
    /// Many rows at a time, by columns.
    Batches,
    /// Batches from what has columns, bytes from the rest.
    Any,
}

impl Shape {
    /// All shapes, in the order in which they are listed to people.
    pub const ALL: [Self; 5] = [Self::Lines, Self::Bytes, Self::Rows, Self::Batches, Self::Any];

    /// Says whether files of `format` can be read in this shape.
    pub fn reads(self, format: Format) -> bool {
        use Format::*;
        match self {
            Self::Lines => matches!(format, Text | JsonLines),
            Self::Bytes => matches!(format, Text | JsonLines | Csv | Tsv | Fixed(_)),
            Self::Rows | Self::Batches => matches!(format, Csv | Tsv | JsonLines | Arrow | Parquet),
            Self::Any => true,
        }
    }

    /// Says whether files of `format` are read by their columns when this shape is wanted.
    pub fn is_tabular(self, format: Format) -> bool {
        match self {
            Self::Lines | Self::Bytes => false,
            Self::Rows | Self::Batches => true,
            Self::Any => Self::Batches.reads(format),
        }
    }

    /// Lists the formats that can be read in this shape, for people.
    pub fn formats(self) -> &'static str {
        match self {
            Self::Lines => "text, jsonl",
            Self::Bytes => "text, jsonl, csv, tsv, fixed:N",
            Self::Rows | Self::Batches => "csv, tsv, jsonl, arrow, parquet",
            Self::Any => "text, csv, tsv, jsonl, parquet, arrow, fixed:N",
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lines => "lines",
            Self::Bytes => "bytes",
            Self::Rows => "rows",
            Self::Batches => "batches",
            Self::Any => "batches or bytes",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIXED: Format = Format::Fixed(NonZeroU32::new(100).unwrap());
    const FORMATS: [Format; 7] = [Format::Text, Format::Csv, Format::Tsv, Format::JsonLines, Format::Parquet, Format::Arrow, FIXED];

    #[test]
    fn every_format_is_read_back_from_what_it_prints() {
        for format in FORMATS {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd, Compression::Bzip2] {
            assert_eq!(compression.to_string().parse(), Ok(compression));
            assert_eq!(of_name(format!("x.csv{}", compression.suffix()).as_ref()), (Format::Csv, compression));
        }
    }

    #[test]
    fn an_unknown_format_is_refused_with_the_list_of_known_ones() {
        for word in ["", "CSV", "fixed:", "fixed:0", "fixed:-1", "excel"] {
            let message = word.parse::<Format>().unwrap_err().to_string();
            assert!(message.contains("jsonl") && message.contains(&format!("'{word}'")), "{message}");
        }
    }

    #[test]
    fn a_name_tells_format_and_compression() {
        for (name, expected) in [
            ("a/b.TSV", (Format::Tsv, Compression::None)),
            ("b.ndjson.zst", (Format::JsonLines, Compression::Zstd)),
            ("b.jsonl", (Format::JsonLines, Compression::None)),
            ("b.feather", (Format::Arrow, Compression::None)),
            ("b.parquet.gz", (Format::Parquet, Compression::Gzip)),
            ("b.csv.d/part", (Format::Text, Compression::None)),
            ("b.gz", (Format::Text, Compression::Gzip)),
            (".gz", (Format::Text, Compression::None)),
        ] {
            assert_eq!(of_name(name.as_ref()), expected, "{name}");
        }
    }

    #[test]
    fn the_list_of_formats_of_a_shape_is_what_it_reads() {
        for shape in Shape::ALL {
            let listed: Vec<_> = shape.formats().split(", ").map(|word| word.replace('N', "100")).collect();
            for format in FORMATS {
                assert_eq!(shape.reads(format), listed.contains(&format.to_string()), "{shape} {format}");
            }
        }
    }
}
