//! Every format and compression, in and out, through whole runs.
#![allow(clippy::unwrap_used)]

mod columns;
mod inputs;
mod outputs;
mod text;
mod write;
