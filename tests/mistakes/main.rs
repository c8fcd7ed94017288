//! Mistakes and mishaps: what a person is told, the exit code, and that nothing is left behind.
#![allow(clippy::unwrap_used)]

mod disks;
mod records;
mod refused;
mod room;
