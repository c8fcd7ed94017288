//! A coordinator as a process: from submit to published, through restarts, and killed at every place where it could lose something.

#![allow(clippy::unwrap_used)]

mod deaths;
mod jobs;
mod starts;
mod world;
