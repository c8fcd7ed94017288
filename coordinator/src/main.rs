//! The coordinator of a cluster, and the commands that people type.
mod artifacts;
mod fault_point;
mod journal;
mod logs;
mod publish;
mod state;
fn main() {}
