//! Faults: why an attempt ended, decided once, where the cause is known.
//!
//! What follows from a fault (who is charged, whether trying again can help) hangs on its kind alone, so a fault stays typed on every
//! hop. Turning it into words for a person is left to `card.rs`.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shardmill_datasets::ReadError;
use shardmill_datasets::run::RunError;
use shardmill_datasets::sink::WriteError;
use shardmill_protocol::AttemptId;
pub use shardmill_protocol::Phase;

/// A record on which `map` failed, or that could not be read as what it should be.
///
/// ```
/// use shardmill::{BadRecord, Fault};
///
/// let (file, bytes) = ("sales.csv".into(), b"Faro,".to_vec());
/// let bad = BadRecord { shard: 0, record: 3, offset: 17, file, cause: "no price".to_owned(), bytes };
/// assert_eq!(Fault::BadRecord(Box::new(bad)).to_string(), "record 3 of shard 0 of sales.csv is bad: no price");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BadRecord {
    /// The shard's number in the plan.
    pub shard: u32,
    /// The record's number within the shard, from zero.
    pub record: u64,
    /// Where it begins in the file, in bytes of the decompressed content; for row groups and batches, the row within the file's piece.
    pub offset: u64,
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub cause: String,
    /// The record as it stands in the file, as far as its format has that.
    pub bytes: Vec<u8>,
}

/// Why an attempt ended without a result.
///
/// ```
/// let fault = shardmill::Fault::ReduceFailed { key: "\"Faro\"".to_owned(), cause: "no sales".to_owned() };
/// assert_eq!(fault.to_string(), "reduce failed on key \"Faro\": no sales");
/// ```
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// More bad records than the job allows; the first of them.
    #[error("record {} of shard {} of {} is bad: {}", .0.record, .0.shard, .0.file.display(), .0.cause)]
    BadRecord(Box<BadRecord>),
    /// `reduce` failed.
    #[error("reduce failed on key {key}: {cause}")]
    ReduceFailed {
        /// The key, shown as text where it is some.
        key: String,
        /// What it said.
        cause: String,
    },
    /// The job's code outside `map` and `reduce` failed.
    #[error("{phase} failed: {cause}")]
    Panicked {
        /// Where.
        phase: Phase,
        /// What it said.
        cause: String,
    },
    /// No space left where temporary files or parts are written.
    #[error("no space left to write {}", path.display())]
    DiskFull {
        /// The file that did not fit.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A temporary file or a part cannot be written or read back.
    #[error("cannot use {}: {detail}", path.display())]
    DiskFailed {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        detail: String,
    },
    /// The system gives less memory than the budget allows.
    #[error("the system refuses memory: {detail}; give a smaller --memory")]
    OutOfMemory {
        /// What the system said.
        detail: String,
    },
    /// The input cannot be read, has changed, or is not what it should be.
    #[error(transparent)]
    Input(ReadError),
    /// A row cannot be written in the output's format.
    #[error("a row cannot be written to {}: {detail}", path.display())]
    Unwritable {
        /// The part.
        path: PathBuf,
        /// What is wrong with the row.
        detail: String,
    },
    /// The output of a map attempt is gone, or is not what it was.
    #[error("the output of attempt {output} is lost: {detail}")]
    OutputLost {
        /// The attempt.
        output: AttemptId,
        /// It is there, and not what was sealed.
        damaged: bool,
        /// What was seen of it.
        detail: String,
    },
    /// The run was interrupted, or another thread has failed.
    #[error("interrupted")]
    Interrupted,
}

impl From<ReadError> for Fault {
    fn from(error: ReadError) -> Self {
        Self::Input(error)
    }
}

impl From<RunError> for Fault {
    fn from(error: RunError) -> Self {
        let detail = error.to_string();
        match error {
            RunError::Write { path, source } => Self::disk(&path, source),
            RunError::Read { path, source, .. } => Self::DiskFailed { path, detail: format!("{detail}: {source}") },
            RunError::Damaged { path, .. } => Self::DiskFailed { path, detail },
            RunError::GivenUp { .. } => Self::Interrupted,
        }
    }
}

impl From<WriteError> for Fault {
    fn from(error: WriteError) -> Self {
        let detail = error.to_string();
        match error {
            WriteError::Create { path, source } | WriteError::Write { path, source } | WriteError::Sync { path, source } => {
                Self::disk(&path, source)
            }
            other => Self::Unwritable { path: other.path().map(Path::to_path_buf).unwrap_or_default(), detail },
        }
    }
}

impl Fault {
    /// Of two faults of one attempt, the one to report: the first bad record in the order of the input, or else the first that came.
    /// An interruption only follows from others.
    pub(crate) fn worse(known: Option<Self>, found: Self) -> Self {
        match (known, found) {
            (None, found) => found,
            (Some(Self::BadRecord(a)), Self::BadRecord(b)) => Self::BadRecord(a.min(b)),
            (Some(Self::Interrupted), found) => found,
            (Some(known), _) => known,
        }
    }

    /// What a failed write means.
    pub(crate) fn disk(path: &Path, source: io::Error) -> Self {
        let is_full = matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge);
        if is_full {
            Self::DiskFull { path: path.into(), source }
        } else {
            Self::DiskFailed { path: path.into(), detail: source.to_string() }
        }
    }
}
