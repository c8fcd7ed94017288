//! What can be wrong with an input while it is read.
//!
//! A closed set: whoever decides whose fault a failed read is decides from these variants alone. What is wrong
//! with a *list* of inputs is in `listing.rs`, and with a plan in `plan.rs`; a record that a job cannot use is not
//! an error of reading.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Says why an input could not be read.
///
/// Every variant names its file, and an offset where there is one. Offsets count the bytes of the decompressed file.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system failed while the file was read.
    #[error("cannot read {} at byte {offset}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Where the failed read began.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not the one that was listed.
    #[error("{} changed since it was listed: {change}", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// What is different.
        change: Change,
    },
    /// A line or record is longer than `Limits::record_bytes`.
    #[error("the record at byte {offset} of {} is longer than {limit} bytes", path.display())]
    RecordTooLong {
        /// The file.
        path: PathBuf,
        /// Where the record begins.
        offset: u64,
        /// The limit, its terminator included.
        limit: u64,
    },
    /// The limits allow it, but there is no memory for it.
    #[error(
        "{what} at byte {offset} of {} takes more than {room} bytes, for which a thread has no room; give --memory {}MiB or fewer --threads",
        path.display(), enough.div_ceil(1 << 20)
    )]
    NoRoom {
        /// The file.
        path: PathBuf,
        /// A record, or a zstd window.
        what: &'static str,
        /// Where it begins.
        offset: u64,
        /// The most that there is room for.
        room: u64,
        /// How much memory would do for the most that the limits allow.
        enough: u64,
    },
    /// A field is longer than `Limits::field_bytes`.
    #[error("the field at byte {offset} of {} is longer than {limit} bytes", path.display())]
    FieldTooLong {
        /// The file.
        path: PathBuf,
        /// Where the field begins.
        offset: u64,
        /// The limit, quotes included.
        limit: u64,
    },
    /// The file ends in the middle of a record of fixed size, or of a compressed stream.
    #[error("{} is cut off: it ends too early, after byte {offset}", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// How much of it could be read.
        offset: u64,
    },
    /// A compressed file is damaged, or is not compressed in the way its name says.
    #[error("{} cannot be decompressed after byte {offset}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// How much of it could be decompressed.
        offset: u64,
        /// What the decoder said.
        source: io::Error,
    },
    /// A compressed file expands more than `Limits::expansion` allows.
    #[error("{} expands to more than {limit} times its size: if that is no bomb, allow it with --max-expansion", path.display())]
    Bomb {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit: u64,
    },
    /// A zstd file needs a larger window than `Limits::window_bytes`.
    #[error("{} needs a zstd window of {bytes} bytes, {limit} are allowed", path.display())]
    WindowTooLarge {
        /// The file.
        path: PathBuf,
        /// What it needs.
        bytes: u64,
        /// What it may have.
        limit: u64,
    },
    /// A Parquet page or an Arrow batch is larger than `Limits::page_bytes`.
    #[error("{what} of {} takes {bytes} bytes uncompressed, {limit} are allowed", path.display())]
    PageTooLarge {
        /// The file.
        path: PathBuf,
        /// Which page or batch.
        what: String,
        /// What it takes.
        bytes: u64,
        /// What it may take.
        limit: u64,
    },
    /// The file's content is not what its format demands.
    #[error("{} at byte {offset}: {detail}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What is wrong.
        detail: String,
    },
    /// The file's format was left out of this build.
    #[error("{} cannot be read: this program was built without the feature '{feature}' of shardmill", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The feature that would do.
        feature: &'static str,
    },
}

impl ReadError {
    /// Returns the file that could not be read.
    pub fn path(&self) -> &Path {
        match self {
            Self::Open { path, .. }
            | Self::Io { path, .. }
            | Self::Changed { path, .. }
            | Self::RecordTooLong { path, .. }
            | Self::NoRoom { path, .. }
            | Self::FieldTooLong { path, .. }
            | Self::Truncated { path, .. }
            | Self::Corrupt { path, .. }
            | Self::Bomb { path, .. }
            | Self::WindowTooLarge { path, .. }
            | Self::PageTooLarge { path, .. }
            | Self::Malformed { path, .. }
            | Self::Unsupported { path, .. } => path,
        }
    }
}

/// Says in what a file differs from the one that was listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Another size.
    Size {
        /// When it was listed.
        was: u64,
        /// Now.
        is: u64,
    },
    /// Another time of last modification.
    Modified,
    /// Another beginning.
    Head,
    /// Another file under the same name.
    Replaced,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size { was, is } => write!(f, "it had {was} bytes and has {is}"),
            Self::Modified => f.write_str("it was written to"),
            Self::Head => f.write_str("its first bytes are different"),
            Self::Replaced => f.write_str("another file has its name"),
        }
    }
}
