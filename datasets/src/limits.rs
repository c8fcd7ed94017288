//! Caps on what one input may ask of memory. Past one of them comes a named error, never an exhausted machine.

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
    /// How many times its own size a compressed file may expand to; the first MiB is free. 1,100, since gzip reaches 1,032 on zeros.
    pub expansion: u64,
    /// The largest zstd window in bytes. 128 MiB, which is what the `zstd` command allows.
    pub window_bytes: u64,
    /// The largest Parquet page or Arrow batch in bytes, uncompressed. 256 MiB.
    pub page_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { record_bytes: 16 << 20, field_bytes: 16 << 20, expansion: 1_100, window_bytes: 128 << 20, page_bytes: 256 << 20 }
    }
}
