//! Shards: record-aligned pieces of input files, as the plan cuts them and tasks name them.
//!
//! How a piece becomes blocks of whole records is `block.rs`; where pieces are cut is `plan.rs`.

use serde::{Deserialize, Serialize};

use crate::format::csv::CsvState;

/// One piece of one input file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// The file's place in the plan's list.
    pub file: u32,
    /// Which piece of it.
    pub piece: Piece,
    /// Its weight: the bytes that reading it costs.
    pub bytes: u64,
}

impl Shard {
    /// Where in the file the shard begins, for formats whose records have a place in bytes; else zero.
    pub fn start(&self) -> u64 {
        match self.piece {
            Piece::Bytes { start, .. } | Piece::Whole { start } => start,
            Piece::Groups { .. } => 0,
        }
    }
}

/// Names a piece of a file in the way its format can be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Piece {
    /// The records whose first byte lies in `start..end`.
    Bytes {
        /// The first byte.
        start: u64,
        /// Behind the last byte.
        end: u64,
        /// The CSV automaton's state before byte `start`; of no meaning for other formats.
        csv: CsvState,
    },
    /// Parquet row groups or Arrow record batches.
    Groups {
        /// The first one.
        first: u32,
        /// How many.
        count: u32,
    },
    /// All records of a file that cannot be cut: those from byte `start` of the decompressed file on.
    Whole {
        /// The first byte behind a CSV header; 0 where there is none.
        start: u64,
    },
}
