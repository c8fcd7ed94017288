//! The formats and compressions that files come in.

use serde::{Deserialize, Serialize};

/// How the bytes of a file are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip, possibly of several members: `.gz`.
    Gzip,
    /// Zstandard: `.zst`.
    Zstd,
    /// bzip2, possibly of several streams: `.bz2`.
    Bzip2,
}

impl Compression {
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
