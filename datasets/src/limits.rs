//! Caps on what one input may ask of memory. Past one of them comes a named error, never an exhausted machine.
//!
//! [`Limits`] belong to the plan and are the same everywhere. [`Room`] is what one machine has, and never changes what is read:
//! it can only make reading fail.

use serde::{Deserialize, Serialize};

/// Caps on sizes that are otherwise up to the input.
///
/// They are part of the plan: whether a record is too long never depends on where shards or blocks were cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The longest line or record in bytes, its terminator included. 16 MiB.
    pub record_bytes: usize,
    /// The longest CSV field in bytes as it stands in the file, quotes included. 16 MiB.
    pub field_bytes: usize,
    /// How many times its own size a compressed file may expand to, above the first 16 MiB. 200: logs seldom reach half of that, and a bomb
    /// of gzip is one of a thousand times.
    pub expansion: u64,
    /// The largest zstd window in bytes. 128 MiB, which is what the `zstd` command allows.
    pub window_bytes: u64,
    /// The largest Parquet page or Arrow batch in bytes, uncompressed. 256 MiB.
    pub page_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { record_bytes: 16 << 20, field_bytes: 16 << 20, expansion: 200, window_bytes: 128 << 20, page_bytes: 256 << 20 }
    }
}

/// How much memory there is for the threads that read.
///
/// What an input needs beyond it, the limits allowing it, is an error that says how much memory would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// The memory of all threads together.
    pub memory_bytes: u64,
    /// The threads that share it.
    pub threads: u64,
}

impl Room {
    /// Room for whatever the limits allow.
    pub const ENDLESS: Self = Self { memory_bytes: u64::MAX, threads: 1 };

    /// The least memory with which a thread can work: blocks to read, a table, and blocks to merge.
    pub const LEAST_SHARE: u64 = 12 << 20;

    /// The least memory with which a job process is of any use, however few threads it has.
    pub const LEAST_PROCESS: u64 = 64 << 20;

    /// Of a thread's share, one record may take an eighth.
    const RECORDS: u64 = 8;
    /// A zstd window may take a quarter.
    const WINDOWS: u64 = 4;

    /// Returns the longest record that a thread can hold.
    pub fn record_bytes(self) -> u64 {
        self.memory_bytes / self.threads / Self::RECORDS
    }

    /// Returns the largest zstd window that a thread can hold, where none was expected.
    pub fn window_bytes(self) -> u64 {
        self.memory_bytes / self.threads / Self::WINDOWS
    }

    /// Returns how much memory would do for records of so many bytes.
    pub fn enough_for_record(self, bytes: u64) -> u64 {
        bytes.saturating_mul(Self::RECORDS).saturating_mul(self.threads)
    }

    /// Returns how much memory would do for zstd windows of so many bytes.
    pub fn enough_for_window(self, bytes: u64) -> u64 {
        bytes.saturating_mul(Self::WINDOWS).saturating_mul(self.threads)
    }
}
