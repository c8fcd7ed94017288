//! The harness of the whole-system tests: the real executables, run as a person runs them, on real files.
//!
//! A test makes a [`Place`], puts input there, runs a [`Job`] and looks at what [`Ended`] with it and what lies in its [`Output`]. What
//! should lie there is computed by [`oracle`], which knows nothing of shardmill. No test sleeps until something should have happened,
//! and none reads a clock: one that needs a moment in the middle of a run waits for something that can be seen ([`look_for`]). Job
//! processes are driven by a [`Supervisor`], in place of a worker.
#![allow(clippy::unwrap_used, reason = "a harness that cannot go on has nobody to tell but the test's author")]

pub mod cluster;
mod disk;
mod find;
pub mod gate;
mod job;
pub mod line;
mod look;
pub mod oracle;
mod output;
mod place;
mod processes;
mod programs;
mod random;
pub mod sales;
mod supervisor;
pub mod text;

pub use disk::{BrokenDisk, Disk};
pub use find::contains;
pub use job::{Ended, Job, Running, Summary, limit_open_files};
pub use look::{look_for, wait_until};
pub use output::Output;
pub use place::{Place, names_in};
pub use processes::{descendants, is_alive};
pub use programs::{cargo, program, repository, target};
pub use random::Random;
pub use supervisor::{Cut, JobProcess, MapOutput, Supervisor};
