//! The hand-written programs. Their own style is left to them: they were written to be measured, not to be read.
#![allow(clippy::all, unsafe_op_in_unsafe_fn, unused)]

pub mod emit;
pub mod groups;
pub mod groups_parquet;
mod memory;
pub mod sort;
mod split;
pub mod words;
