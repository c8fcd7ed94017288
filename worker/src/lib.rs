//! A worker of a shardmill cluster: takes tasks from the coordinator, runs them in job processes, serves what they make.
//!
//! ```text
//! main ─▶ session ─▶ attempt ─▶ process ─▶ guard ─▶ job process
//!            │          ├─▶ artifact        executables by digest
//!            │          └─▶ shuffle         fetch segments, serve them
//!            └─▶ disk                       who may use how much of it, and what is left to sweep
//! ```
//! All of it waits and nothing computes: what takes time runs in job processes or on threads for blocking work.

mod artifact;
mod attempt;
mod backoff;
pub mod config;
mod death;
mod disk;
pub mod guard;
mod heartbeat;
mod held;
mod line;
mod log;
mod memory;
pub mod orphans;
pub mod process;
mod seat;
mod session;
mod shuffle;
mod tree;
mod worker;

pub use disk::DiskError;
pub use worker::{WorkerError, run};
