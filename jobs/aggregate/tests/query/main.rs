//! Queries on batches, without the engine: one program, as most of building it is what they share.
#![allow(clippy::unwrap_used)]

mod arithmetic;
mod gathering;
mod sqlite;
mod states;
