//! Whole runs: what the bundled jobs give, and that it is the same bytes however they are run.
#![allow(clippy::unwrap_used)]

mod demo;
mod durable;
mod same_bytes;
mod samples;
mod shards;
mod summary;
mod terminal;
