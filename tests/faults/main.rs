//! A cluster when things go wrong: processes are killed, stopped and lied to, each at a moment that was seen.
//!
//! Every test has the words that a naive count gives as its oracle, and asserts from `job ID` that the attempt in question was live when it
//! was hit, and what was done again because of it.
#![allow(clippy::unwrap_used)]

mod cancelled;
mod coordinator;
mod crashes;
mod lies;
mod scarcity;
mod workers;
mod world;
