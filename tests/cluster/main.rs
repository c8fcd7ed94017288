//! A cluster when nothing goes wrong: real coordinators, workers and job processes.
#![allow(clippy::unwrap_used)]

mod commands;
mod confined;
mod embedded;
mod parallel;
mod same_bytes;
mod scaling;
