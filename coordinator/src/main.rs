//! The coordinator of a cluster, and the commands that people type.
fn main() {}
