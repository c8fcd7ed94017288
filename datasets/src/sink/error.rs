//! What can go wrong while a part is written.

use std::io;
use std::path::{Path, PathBuf};

use arrow::error::ArrowError;

use super::OutputFormat;

/// A part that could not be written, with the place and the cause.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The part's file could not be made.
    #[error("cannot create {}", path.display())]
    Create {
        /// The part.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Bytes could not be written: the disk is full, failing, or gone.
    #[error("cannot write {}", path.display())]
    Write {
        /// The part.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What was written could not be brought to the disk.
    #[error("cannot sync {}", path.display())]
    Sync {
        /// The part.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A row does not fit the format or the schema.
    #[error("cannot write row {record} of {}: {cause}", path.display())]
    Row {
        /// The part.
        path: PathBuf,
        /// The row's number in the part, from zero.
        record: u64,
        /// Which field, and why.
        cause: String,
    },
    /// A batch does not fit the format or the schema.
    #[error("cannot write a batch after row {record} of {}: {cause}", path.display())]
    Batch {
        /// The part.
        path: PathBuf,
        /// How many rows were written before.
        record: u64,
        /// Which column, and why.
        cause: String,
    },
    /// The format is not written in this way: rows to `bytes`, records to `parquet`.
    #[error("{} is {format}, which takes {takes}", path.display())]
    Shape {
        /// The part.
        path: PathBuf,
        /// The part's format.
        format: OutputFormat,
        /// What the format takes.
        takes: &'static str,
    },
    /// The output as asked for cannot be written at all. Known before any work is done.
    #[error("{format} output cannot be written: {cause}")]
    Unsupported {
        /// The format asked for.
        format: OutputFormat,
        /// What stands against it.
        cause: String,
    },
    /// An earlier call on this part failed, so that its content is not what was meant.
    #[error("{} is incomplete: an earlier write to it failed", path.display())]
    Broken {
        /// The part.
        path: PathBuf,
    },
}

impl WriteError {
    /// Returns the part that the error is about, where there is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Create { path, .. }
            | Self::Write { path, .. }
            | Self::Sync { path, .. }
            | Self::Row { path, .. }
            | Self::Batch { path, .. }
            | Self::Shape { path, .. }
            | Self::Broken { path } => Some(path),
            Self::Unsupported { .. } => None,
        }
    }

    /// Tells whether the disk, or the quota on it, is full.
    pub fn is_disk_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        match self {
            Self::Create { source, .. } | Self::Write { source, .. } | Self::Sync { source, .. } => {
                matches!(source.kind(), StorageFull | QuotaExceeded)
            }
            _ => false,
        }
    }
}

/// Why an encoder stopped, before the part's path and row are known.
#[derive(Debug)]
pub(super) enum Fault {
    /// The file.
    Io(io::Error),
    /// The data.
    Data(String),
    /// The format has no such call; it takes these.
    Shape(&'static str),
    /// It stopped before.
    Broken,
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<ArrowError> for Fault {
    fn from(error: ArrowError) -> Self {
        match error {
            ArrowError::IoError(_, source) => Self::Io(source),
            other => Self::Data(other.to_string()),
        }
    }
}

#[cfg(feature = "parquet")]
impl From<::parquet::errors::ParquetError> for Fault {
    fn from(error: ::parquet::errors::ParquetError) -> Self {
        match error {
            // The only errors from outside that its writer meets are those of the file beneath.
            ::parquet::errors::ParquetError::External(source) => match source.downcast::<io::Error>() {
                Ok(source) => Self::Io(*source),
                Err(other) => Self::Data(other.to_string()),
            },
            other => Self::Data(other.to_string()),
        }
    }
}
