//! Every format and compression, in and out, through whole runs.
#![allow(clippy::unwrap_used)]

mod inputs;
mod outputs;
mod text;
mod write;
