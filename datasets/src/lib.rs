//! Data at rest: inputs and their formats, shards, the plan, runs and their merge, parts and how they become visible.
//!
//! Everything here is synchronous and uses `std::io` alone; who calls it, on how many threads and on which machine, is decided elsewhere.

pub mod merge;
pub mod run;
