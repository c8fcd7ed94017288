//! Job processes, driven as a worker drives them: `JOB task` with a socket as descriptor 3.
#![allow(clippy::unwrap_used)]

mod conversation;
mod same_bytes;
mod trouble;

use shardmill_datasets::RunRequest;
use shardmill_tests::{Cut, Place};

/// All at once, on one thread.
const WHOLE: Cut = Cut { threads: 1, memory_bytes: 256 << 20, surveys: 1000, shards: 100_000, partitions: 1000 };

/// A request for the file `input` of a place.
fn request(place: &Place, shard_bytes: u64, partitions: u32) -> RunRequest {
    RunRequest {
        shard_bytes: Some(shard_bytes),
        partitions: Some(partitions),
        ..RunRequest::new([place.path("input").display().to_string()], place.path("unused"))
    }
}
